"""Classifier heads that can change places: a learnt one, a fixed simplex ETF, the simplex ETF nearest to the class means.

A head takes features z (…, N, d) to logits (…, N, C), ⟨w_c, h⟩ + b_c of h = τ·z/‖z‖ and class vectors w_c of unit
length. Same constructor, same call, same attributes: a training loop never asks which head it has.

This file has them in their plain form, as the papers write them. `labkit._fused` has the same in fewer passes, and is
used by itself where it serves; `fused=False` keeps to what can be read here, and tests hold the two equal.
"""

import contextlib
import inspect
import math
from dataclasses import dataclass, field

import torch
from torch import nn

from labkit import _fused, _polar, checks, etf, nearest


@dataclass(frozen=True)
class Variant:
    """A head of HEADS with some of its options, and how figures draw it."""

    head: str
    label: str
    colour: str
    dash: str
    options: dict = field(default_factory=dict)


HEADS = {}  # name: class; a class adds itself when it is defined
VARIANTS = {}  # name: Variant; every head as it is, and the heads of the comparisons with their options


class Head(nn.Module):
    """What all heads share. A new head is one class:

        class Mine(Head, name="mine", label="my head", colour="#555555", dash="dot"):
            def __init__(self, dim, num_classes, temperature=5.0, *, its_option=1, **common): ...

    that sets `weight` (…, C, d) and `bias` (…, C) or None, or writes its own `classify`. Trainers, the command line and
    figures find it by its name.

    dim: d. num_classes: C. temperature: τ, the norm of the features a head sees. learn_temperature: whether τ is a
    parameter. ignore_index: the label of samples that are to play no part. fused: True and False say which form to
    take; None takes the fast one where it serves: not in torch.compile or torch.func, nor with a learnt τ.
    generators: one torch.Generator for each of several independent heads, in a leading batch dimension, for training
    seeds side by side.
    """

    def __init_subclass__(cls, name=None, label=None, colour="#555555", dash="solid", **more):
        super().__init_subclass__(**more)
        cls.options = {}  # what the constructors of this class and its bases take beside size and temperature
        for base in cls.__mro__:
            if "__init__" in vars(base):
                found = inspect.signature(base.__init__).parameters.values()
                skip = ("self", "dim", "num_classes", "temperature", "generators")
                named = [p for p in found if p.name not in skip and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
                cls.options = {p.name: p.default for p in named} | cls.options
                if base is Head or all(p.kind != p.VAR_KEYWORD for p in found):
                    break
        if name is not None:
            cls.name = name
            HEADS[name], VARIANTS[name] = cls, Variant(name, label or name, colour, dash)

    def __init__(
        self, dim, num_classes, temperature=5.0, *, learn_temperature=False, ignore_index=-100, fused=None, generators=None
    ):
        super().__init__()
        checks.classes(num_classes, dim, smallest_dim=1)
        checks.positive("temperature", temperature)
        self.dim, self.num_classes, self.temperature = int(dim), int(num_classes), float(temperature)
        self.ignore_index, self.fused = ignore_index, fused
        self.batch_shape = () if generators is None else (len(generators),)
        if learn_temperature:
            del self.temperature
            self.temperature = nn.Parameter(torch.full(self.batch_shape, float(temperature)))

    def normalize(self, features: torch.Tensor) -> torch.Tensor:
        """h = τ·z/‖z‖, shape (…, N, d). A feature shorter than 1e-12 counts as zero and becomes zero."""
        return on_sphere(features, self._tau(features))

    def forward(self, features: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (…, N, C) of features z (…, N, d); in float32 for half-precision features.

        Without `generators`, features may have more dimensions, such as (B, T, d) of tokens.
        targets: labels (…, N), or (N,) where all runs share them, or probabilities (…, N, C) as mixing images makes
            them. Rows with the label `ignore_index` have logits, but play no part in class means.
        """
        z, targets, shape = self._take(features, targets)
        return self._classify(z, targets).reshape(*shape, self.num_classes)

    @nearest.full_precision
    def _classify(self, z, targets):
        return self.classify(z, targets)

    def classify(self, z, targets):
        """`forward` of features (…, N, d) and targets, whose shapes are known to be right; ignored labels are C."""
        return self.logits(z, self.weight, self.bias)

    def logits(self, z, weight, bias):
        """⟨w_c, h⟩ + b_c."""
        weight, bias = weight.to(z.dtype), None if bias is None else bias.to(z.dtype)
        if (radius := self._radius(z)) is not None:
            return _fused.SphereLogits.apply(z, radius, weight, bias, self.temperature)
        logits = self.normalize(z) @ weight.mT
        return logits if bias is None else logits + bias.unsqueeze(-2)

    def _radius(self, z):
        """τ/‖z‖ (…, N, 1) where the fast form is to be taken, None where the plain one is."""
        learnt = isinstance(self.temperature, nn.Parameter)
        if self.fused is False or learnt or _polar.transformed():
            if self.fused:
                raise RuntimeError("fused=True: this head has no fast form under torch.compile, torch.func or a learnt τ")
            return None
        radius = _fused.radius_of(z.detach(), self.temperature)
        return radius if bool(radius.all()) and math.isfinite(radius.sum()) else self._radius_of_odd(z, radius)

    def _radius_of_odd(self, z, radius):
        """The same where some features are zero, not finite, or so long that the sum of their squares overflows."""
        long = (radius == 0) & (z.abs().amax(-1, keepdim=True) > 1)
        return None if bool(long.any()) else radius

    def _tau(self, z):
        tau = self.temperature
        return tau[..., None, None].to(z.dtype) if isinstance(tau, torch.Tensor) else tau

    def _take(self, features, targets):
        """Features (…, N, d) in float32 at least, targets that belong to them, and the shape of the samples."""
        checks.floating("features", features)
        shape, runs = features.shape[:-1], len(self.batch_shape)
        if len(shape) <= runs or features.shape[-1] != self.dim or shape[:runs] != self.batch_shape:
            raise ValueError(
                f"features must have shape {(*self.batch_shape, 'N', self.dim)}, got {tuple(features.shape)}"
            )
        z = features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
        if targets is not None:
            targets = self._labels(targets, shape)
        if len(shape) > runs + 1:
            z = z.flatten(runs, -2)
            targets = None if targets is None else targets.flatten(runs, len(shape) - 1)
        return z, targets, shape

    def _labels(self, targets, shape):
        """Probabilities as they are; labels as int64, with C in the place of `ignore_index`."""
        C, look = self.num_classes, not _polar.transformed()
        if isinstance(targets, torch.Tensor) and targets.is_floating_point() and targets.ndim > len(shape):
            if targets.shape != (*shape, C):
                raise ValueError(f"targets as probabilities must have shape {(*shape, C)}, got {tuple(targets.shape)}")
            if look and not bool((targets >= 0).all() & ((targets.sum(-1) - 1).abs() < 1e-2).all()):
                raise ValueError("targets as probabilities must be at least 0 and add up to 1 over classes")
            return targets
        ignored = targets == self.ignore_index if isinstance(targets, torch.Tensor) else None
        if look:
            some = ignored is not None and targets.numel() > 0 and bool(ignored.any())
            if some and bool(ignored.all()):
                raise ValueError(f"targets must hold at least one label, got only ignore_index={self.ignore_index}")
            checks.labels(targets.masked_fill(ignored, 0) if some else targets, C, shape)
            if len(shape) > len(self.batch_shape) + 1 and targets.shape != shape:
                raise ValueError(f"targets must have shape {tuple(shape)}, got {tuple(targets.shape)}")
            if not some:
                return targets.long()
        return targets.long().masked_fill(ignored, C)

    def _draw(self, generators, draw):
        """draw(generator) once for each run, stacked; or once with the global generator."""
        return draw(None) if generators is None else torch.stack([draw(g) for g in generators])

    def extra_repr(self):
        return f"dim={self.dim}, num_classes={self.num_classes}, temperature={float(torch.as_tensor(self.temperature).mean())}"


class LinearHead(Head, name="standard", label="standard", colour="#D55E00", dash="dot"):
    """The standard head: weights (…, C, d) learnt by gradient, for any d ≥ 1; no bias.

    After every step of the optimiser the rows go back to unit length, as soon as `weight` is read: by a forward pass,
    by `state_dict`, by anyone.

    normalized: False leaves features and weights at the lengths they have, h = z (Figure 17 of the guiding paper); the
        temperature then plays no role, and the cross entropy has no lower bound but 0.
    start: "unit" for rows of unit length; "released" for rows √(C/d) times as long until the first step, as the guiding
        paper's code has them with AGD.

    >>> LinearHead(64, 10).weight.norm(dim=-1).mean().round(decimals=4).item()
    1.0
    """

    def __init__(self, dim, num_classes, temperature=5.0, *, normalized=True, start="unit", generators=None, **common):
        super().__init__(dim, num_classes, temperature, generators=generators, **common)
        checks.one_of("start", start, ("unit", "released"))
        self.normalized, self.bias = normalized, None
        draw = self._draw(generators, lambda g: nn.init.orthogonal_(torch.empty(self.num_classes, self.dim), generator=g))
        if start == "released":
            draw = draw * math.sqrt(num_classes / dim)
            self.register_buffer("start", draw.clone())  # as long as the weights equal it, they have not been moved
        elif normalized:
            draw = draw / torch.linalg.vector_norm(draw, dim=-1, keepdim=True)
        self.weight = nn.Parameter(draw)

    @property
    def weight(self):
        weight = self._parameters.get("weight")
        if weight is None:
            raise AttributeError("weight")
        if self.normalized and isinstance(weight, nn.Parameter) and not torch._C._are_functorch_transforms_active():
            with torch.no_grad():
                length = torch.linalg.vector_norm(weight, dim=-1, keepdim=True)
                # Rows that have their length already keep every bit: to read twice is to read once.
                there = ((length - 1).abs() < 8 * torch.finfo(weight.dtype).eps) | (length == 0)
                if hasattr(self, "start"):
                    there = there | (weight == self.start).all()
                weight.data.div_(length.masked_fill(there, 1.0))
        return weight

    def state_dict(self, *args, **more):
        self.weight  # goes back to unit length
        return super().state_dict(*args, **more)

    def normalize(self, features):
        return super().normalize(features) if self.normalized else features

    def classify(self, z, targets):
        return super().classify(z, targets) if self.normalized else z @ self.weight.to(z.dtype).mT


class FixedETFHead(Head, name="fixed", label="fixed ETF", colour="#0072B2", dash="dash"):
    """Weights are a simplex ETF chosen beforehand and never trained (Zhu et al. 2021), for d ≥ C−1.

    frame: "canonical", or "haar" for a uniformly random orientation (Figure 18 of the guiding paper).
    bias: None; or "batch_mean" for −W·mean(h) of the batch at hand, a constant for the gradient, in evaluation too, as
        the guiding paper's code has it. `bias` is then that of the last batch.

    >>> FixedETFHead(3, 4).weight @ FixedETFHead(3, 4).weight[0]
    tensor([ 1.0000, -0.3333, -0.3333, -0.3333])
    """

    def __init__(self, dim, num_classes, temperature=5.0, *, frame="canonical", bias=None, generators=None, **common):
        super().__init__(dim, num_classes, temperature, generators=generators, **common)
        checks.one_of("bias", bias, (None, "batch_mean"))
        self.register_buffer("weight", etf.of_frame(_frames(self, frame, generators)).mT.contiguous())
        self.follows = bias == "batch_mean"
        self.bias = torch.zeros(*self.batch_shape, self.num_classes) if self.follows else None

    def classify(self, z, targets):
        logits = self.logits(z, self.weight, None)
        if self.follows:
            bias = -logits.detach().mean(-2)  # the mean of ⟨w_c, h⟩ is ⟨w_c, mean of h⟩
            logits = logits + bias.unsqueeze(-2)
            if not _polar.transformed():
                self.bias = bias
        return logits


class ImplicitETFHead(Head, name="implicit", label="implicit ETF", colour="#009E73", dash="solid"):
    """Weights are, at every training step, the simplex ETF nearest to the class means of the features (Eq. 8, Markou et
    al. 2024), for d ≥ C−1.

        W = √(C/(C−1)) (U* P)ᵀ,   b = −W μ_G,   U* = nearest_etf(H̃_t, prox = the last U*, δ)

    delta: proximal coefficient δ > 0. frame: orientation to start from, "canonical" or "haar".
    alpha: weight of a batch in the running means, in (0, 1]; the paper's schedule when None (see `ClassMeans`).
    backprop_through_etf: whether the gradient also flows through U* (the indirect path of Figure 1), or U* counts as a
        constant.
    eval_bias: μ_G in evaluation: "running" for its running mean; "last" for that of the last batch, as the guiding
        paper's code has it.

    With torch.distributed at work, means and gradient are those of the batches of all processes together, and every
    process has to take part in every training step.

    In training mode a call needs targets. It moves the running means, the frame U and the step count, which are all in
    the state_dict; once for a call, also where torch.utils.checkpoint computes it again. Calls inside `gather` are one
    step. In eval mode nothing moves, targets are not needed, and weight and bias are those of the running state.

    >>> head = ImplicitETFHead(dim=8, num_classes=4)
    >>> head(torch.randn(20, 8), torch.arange(20) % 4).shape
    torch.Size([20, 4])
    >>> int(head.class_means.step)
    1
    """

    def __init__(
        self,
        dim,
        num_classes,
        temperature=5.0,
        *,
        delta=1e-3,
        frame="canonical",
        backprop_through_etf=True,
        alpha=None,
        eval_bias="running",
        generators=None,
        **common,
    ):
        super().__init__(dim, num_classes, temperature, generators=generators, **common)
        checks.positive("delta", delta)
        checks.one_of("eval_bias", eval_bias, ("running", "last"))
        self.delta, self.backprop_through_etf = float(delta), backprop_through_etf
        self.class_means = ClassMeans(self.dim, self.num_classes, self.batch_shape, alpha, eval_bias == "last")
        u = _frames(self, frame, generators)
        self.register_buffer("frame", u.expand(*self.batch_shape, *u.shape[-2:]).clone())
        self._begun, self._gathering = None, False

    @property
    def weight(self):
        """(…, C, d), the weights of the last training step; not a parameter and not part of a graph."""
        return etf.of_frame(self.frame).mT

    @property
    def bias(self):
        """−W μ_G with the running global mean, shape (…, C)."""
        return -(self.weight @ self.class_means.global_mean.unsqueeze(-1)).squeeze(-1)

    def classify(self, z, targets):
        if not self.training:
            return super().classify(z, targets)
        if targets is None:
            raise ValueError("ImplicitETFHead needs targets in training mode (call .eval() to classify without them)")
        C, soft = self.num_classes, targets.is_floating_point()
        if not soft and (radius := self._radius(z)) is not None:
            labels = targets.expand(z.shape[:-1])
            h, sums, counts = _fused.SphereSums.apply(z, radius, labels, C, self.temperature)
            weight, bias = self.step(over_processes(sums), over_processes(counts))
            return _fused.Logits.apply(h, weight.to(z.dtype), bias.to(z.dtype))
        share = targets if soft else targets.unsqueeze(-1) == torch.arange(C, device=z.device)  # of samples in classes
        share = share.to(z.dtype).expand(*z.shape[:-1], C)
        h = self.normalize(z)
        weight, bias = self.step(over_processes(share.mT @ h), over_processes(share.sum(-2)))
        return h @ weight.to(z.dtype).mT + bias.to(z.dtype).unsqueeze(-2)

    def step(self, sums, counts):
        """Class sums (…, C, d) and counts (…, C) of a batch → running means → nearest ETF → W (…, C, d), b (…, C).

        Differentiable in the sums. Raises ValueError for sums that are not finite; nothing moves then.
        """
        if not _polar.transformed():
            checks.finite("features", sums)  # before anything moves
            sums, counts = self._begin(sums, counts)
        wide = torch.float64 if self.num_classes < _polar.MANY_CLASSES else sums.dtype
        means, global_mean = self.class_means(sums.to(wide), counts.to(wide))
        norm = torch.linalg.vector_norm(means, dim=(-2, -1), keepdim=True)
        # Means that are equal, but for rounding, count as zero: then U* = U_prox, and no gradient comes through U*.
        tau = self.temperature.detach()[..., None, None] if isinstance(self.temperature, nn.Parameter) else self.temperature
        nothing = norm <= 100 * torch.finfo(self.frame.dtype).eps * math.sqrt(self.num_classes) * tau
        means = means / norm.masked_fill(nothing, math.inf)
        self._start(means.detach().to(self.frame.dtype))
        u = nearest.nearest_etf(means, self.frame.clone(), self.delta, check=False)
        _move(self, frame=u.detach())
        weight = etf.of_frame(u if self.backprop_through_etf else u.detach()).mT
        return weight, -(weight * global_mean.unsqueeze(-2)).sum(-1)

    def _start(self, means):
        """In the first step the frame is the solution without proximal term (Section 3.3, Markou et al. 2024)."""
        first = self.class_means.step == 1
        if _polar.transformed():
            _move(self, frame=torch.where(first, nearest.start_frame(means, self.frame), self.frame))
        elif first:
            _move(self, frame=nearest.start_frame(means, self.frame))

    def _begin(self, sums, counts):
        """Puts the state back to where the present step began, if it has begun, and adds what was gathered in it.

        A step begins with a call outside `gather`, or the first one inside; a call during a backward pass is one that
        torch.utils.checkpoint makes again.
        """
        state = [*self.class_means.buffers(), self.frame]
        again = torch._C._current_graph_task_id() != -1
        if self._begun and (again or self._gathering):
            before, earlier, last = self._begun
            if not again:
                earlier = last if earlier is None else tuple(a + b for a, b in zip(earlier, last))
            elif not torch.allclose(sums, last[0], rtol=1e-3, atol=1e-3 * self.num_classes):
                raise RuntimeError("only the last call of an implicit head can be computed again by a checkpoint")
            for tensor, value in zip(state, before):
                tensor.copy_(value)
        else:
            before, earlier = [tensor.clone() for tensor in state], None
        self._begun = before, earlier, (sums.detach(), counts)
        return (sums, counts) if earlier is None else (sums + earlier[0], counts + earlier[1])

    @contextlib.contextmanager
    def gather(self):
        """Calls inside count as one step, with the samples of all of them: micro-batches of one step of the optimiser.

        The k-th call uses the class means of the first k micro-batches, with the gradient through its own samples; the
        state at the end is that of one call with all.

        >>> head, z, labels = ImplicitETFHead(8, 4), torch.randn(20, 8), torch.arange(20) % 4
        >>> with head.gather():
        ...     for part in range(2):
        ...         logits = head(z[10 * part :][:10], labels[10 * part :][:10])
        >>> int(head.class_means.step)
        1
        """
        self._begun, self._gathering = None, True
        try:
            yield self
        finally:
            self._gathering = False


class ClassMeans(nn.Module):
    """Running average of the centred class means (Eq. 9), kept before normalisation as the released code does.

        H̄_t = α_t H̄_batch + (1 − α_t) H̄_{t−1},   α_t = max(2/(t+1), 1e-4), or a constant alpha in (0, 1]

    Gradient flows through the current batch only. A class not in the batch keeps its average; one never seen has a
    centred mean of zero, and takes the batch's mean as it is when it first appears. Buffers: means (…, d, C),
    global_mean (…, d), of the last batch alone where `last` is set, seen (…, C), step.
    """

    def __init__(self, dim, num_classes, batch_shape=(), alpha=None, last=False):
        super().__init__()
        if alpha is not None:
            checks.positive("alpha", alpha)
            if alpha > 1:
                raise ValueError(f"alpha must be at most 1, got {alpha!r}")
        self.alpha, self.last = alpha, last
        self.register_buffer("means", torch.zeros(*batch_shape, dim, num_classes))
        self.register_buffer("global_mean", torch.zeros(*batch_shape, dim))
        self.register_buffer("seen", torch.zeros(*batch_shape, num_classes, dtype=torch.bool))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, sums, counts):
        """Take in class sums (…, C, d) and counts (…, C): the new average (…, d, C), the batch's global mean (…, d)."""
        step = self.step + 1
        alpha = float(self.alpha) if self.alpha else (2 / (step + 1).double()).clamp(min=1e-4)
        present = counts > 0
        global_mean = sums.sum(-2) / counts.sum(-1, keepdim=True)
        batch = sums / counts.masked_fill(~present, 1).unsqueeze(-1) - global_mean.unsqueeze(-2)
        # α_t; 1 for a class that is new, 0 for one that is not in the batch
        weight = present * (1 - (1 - alpha) * self.seen.to(sums.dtype))
        means = torch.lerp(self.means.to(sums.dtype), batch.mT, weight.unsqueeze(-2))
        average = self.global_mean.to(sums.dtype)
        average = average + (1.0 if self.last else alpha) * (global_mean.detach() - average)
        _move(self, means=means.detach(), global_mean=average, seen=self.seen | present, step=step)
        return means, global_mean


class CosineHead(Head, name="cosine", label="cosine classifier", colour="#000000", dash="longdashdot"):
    """A cosine classifier for any d ≥ 1: logits τ·⟨x/(1+‖x‖), w_c/‖w_c‖⟩, with the gradient through both lengths (the
    classifier of the APA paper's code; its Table 2 has τ = 16 or a learnt one).

    squashed: False for the plain cosine, x/‖x‖ in the place of x/(1+‖x‖).

    >>> CosineHead(8, 4)(torch.zeros(1, 8))
    tensor([[0., 0., 0., 0.]], grad_fn=<ViewBackward0>)
    """

    def __init__(self, dim, num_classes, temperature=16.0, *, squashed=True, generators=None, **common):
        super().__init__(dim, num_classes, temperature, generators=generators, **common)
        size = 1 / math.sqrt(self.dim)
        start = lambda g: torch.empty(self.num_classes, self.dim).uniform_(-size, size, generator=g)
        self.directions, self.squashed, self.bias = nn.Parameter(self._draw(generators, start)), squashed, None

    @property
    def weight(self):
        return on_sphere(self.directions, 1.0)

    def normalize(self, features):
        if not self.squashed:
            return super().normalize(features)
        return features * (self._tau(features) / (1 + torch.linalg.vector_norm(features, dim=-1, keepdim=True)))

    def _radius(self, z):
        return None if self.squashed else super()._radius(z)


def on_sphere(z, temperature):
    """τ·z/‖z‖; zero for rows shorter than 1e-12."""
    z = z / z.detach().abs().amax(-1, keepdim=True).clamp(min=1)  # the squares of very large numbers overflow
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return z * (temperature / norm.masked_fill(norm < 1e-12, math.inf))


def over_processes(tensor):
    """The tensor, added up over all processes where there are several; so is its gradient."""
    spread = torch.distributed.is_available() and torch.distributed.is_initialized()
    if spread and torch.distributed.get_world_size() > 1:
        return torch.distributed.nn.functional.all_reduce(tensor)
    return tensor


def _move(module, **buffers):
    """Give buffers new values. In place; but in a compiled graph, whose backward may read the old ones again, not so."""
    for name, value in buffers.items():
        if torch.compiler.is_compiling():
            setattr(module, name, value.to(getattr(module, name).dtype))
        else:
            getattr(module, name).copy_(value)


def _frames(head, frame, generators):
    checks.classes(head.num_classes, head.dim, smallest_dim=head.num_classes - 1)
    checks.one_of("frame", frame, ("canonical", "haar"))
    if frame == "canonical":
        return etf.frame_of(head.dim, head.num_classes)
    return head._draw(generators, lambda g: etf.frame_of(head.dim, head.num_classes, frame, g))


# The heads that the guiding paper compares, and its further comparisons.
MAIN = ("standard", "fixed", "implicit")
VARIANTS |= {
    "implicit_without_ddn": Variant(  # Table 3's and Figure 15's other column
        "implicit", "implicit, without DDN gradient", "#CC79A7", "dashdot", {"backprop_through_etf": False}
    ),
    "fixed_haar": Variant("fixed", "fixed ETF, Haar frame", "#56B4E9", "longdash", {"frame": "haar"}),  # Figure 18
    "standard_no_norm": Variant(  # Figure 17
        "standard", "standard, not normalised", "#E69F00", "longdashdot", {"normalized": False}
    ),
}
PAPER = (*MAIN, "implicit_without_ddn", "fixed_haar", "standard_no_norm")


def options_of(name: str, **options) -> dict:
    """The options of a head that VARIANTS calls `name`, defaults and given ones. Raises ValueError for unknown ones.

    >>> options_of("fixed_haar")["frame"]
    'haar'
    """
    checks.one_of("head", name, tuple(VARIANTS))
    known = HEADS[VARIANTS[name].head].options
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"the head {name!r} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return known | VARIANTS[name].options | options


def make(name: str, dim: int, num_classes: int, temperature: float = 5.0, generators=None, **options) -> Head:
    """The head that VARIANTS calls `name`; options: more of its constructor's, of which unknown ones are refused.

    >>> make("fixed_haar", 16, 4).weight.shape
    torch.Size([4, 16])
    """
    options = options_of(name, **options)
    return HEADS[VARIANTS[name].head](dim, num_classes, temperature, generators=generators, **options)
