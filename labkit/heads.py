"""Classifier heads that can change places: learnt, a fixed simplex ETF, or the simplex ETF nearest to the class means.

A head takes features z (…, N, d) to logits (…, N, C), ⟨w_c, h⟩ + b_c of h = τ·z/‖z‖ and class vectors w_c of unit
length. Same constructor, same call, same attributes: a training loop never asks which head it has.

This file has them in their plain form, as the papers write them. `labkit._fast.fused` has the same in fewer passes,
and is used by itself where it serves; `fused=False` keeps to what can be read here, and tests hold the two equal. What
all heads share is in `labkit._head`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from labkit import checks, etf, nearest
from labkit._fast import fused as _fused
from labkit._fast import polar as _polar
from labkit._head import HEADS, VARIANTS, Head, Variant, make, move, on_sphere, options_of, over_processes
from labkit._head.rows import exporting, lengths, mean_over_batch, orthonormal, sums_of, wide
from labkit._head.steps import ClassMeans, Steps

__all__ = ["HEADS", "MAIN", "PAPER", "VARIANTS", "ClassMeans", "CosineHead", "FixedETFHead", "Head", "ImplicitETFHead"]
__all__ += ["LinearHead", "Variant", "make", "on_sphere", "options_of"]


class LinearHead(Head, name="standard", label="standard", colour="#D55E00", dash="dot"):
    """The standard head: weights (…, C, d) learnt by gradient, for any d ≥ 1; no bias. After an optimiser's step rows
    go back to unit length as soon as `weight` is read: by `state_dict`, by anyone, by a forward pass in training.

    normalized: False leaves features and weights at the lengths they have, h = z (Figure 17 of the guiding paper); the
        temperature then plays no role, and the cross entropy has no lower bound but 0.
    start: "unit" for rows of unit length; "released" for √(C/d) times an orthogonal matrix until the first step, as the
        guiding paper's code has with AGD: rows of length √(C/d); for C > d of unequal ones, their mean square 1.

    >>> LinearHead(64, 10).weight.norm(dim=-1).mean().round(decimals=4).item()
    1.0
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        temperature: float = 5.0,
        *,
        normalized: bool = True,
        start: str = "unit",
        generators: Sequence[torch.Generator] | None = None,
        **common: Any,
    ):
        super().__init__(dim, num_classes, temperature, generators=generators, **common)
        checks.one_of("start", start, ("unit", "released"))
        self.normalized, self.bias = normalized, None
        start_of = lambda g: nn.init.orthogonal_(torch.empty(num_classes, dim, dtype=wide()), generator=g)
        draw = self._draw(generators, start_of)
        if start == "released":
            draw = draw * math.sqrt(num_classes / dim)
            self.register_buffer("start", draw.clone())  # as long as the weights equal it, they have not been moved
        elif normalized:
            draw = draw / torch.linalg.vector_norm(draw, dim=-1, keepdim=True)
        self.weight = nn.Parameter(draw)

    @property
    def weight(self):
        """(…, C, d), rows at unit length where the head normalises."""
        if (weight := self._parameters.get("weight")) is None:
            raise AttributeError("weight")
        if not self.normalized:
            return weight
        start = getattr(self, "start", None)
        if not isinstance(weight, nn.Parameter) or torch._C._are_functorch_transforms_active() or exporting():
            return weight / lengths(weight.detach(), start)  # constants for the gradient, as below
        weight.data.div_(lengths(weight.detach(), start, rounding=True))
        return weight

    def state_dict(self, *args: Any, **more: Any):
        """As of any module; the weights in it are at the length that `weight` has."""
        _ = self.weight  # read, it goes back to unit length
        return super().state_dict(*args, **more)

    def normalize(self, features: torch.Tensor):
        return super().normalize(features) if self.normalized else features

    def classify(self, z: torch.Tensor, targets: torch.Tensor | None):
        if self.training or torch.is_grad_enabled() or not self.normalized:
            return super().classify(z, targets) if self.normalized else z @ self.weight.to(z.dtype).mT
        rows = self._parameters["weight"]  # stay as they are: a look at an average of weights must not move it
        return self.logits(z, rows / lengths(rows, getattr(self, "start", None), rounding=True), None)


class FixedETFHead(Head, name="fixed", label="fixed ETF", colour="#0072B2", dash="dash"):
    """Weights are a simplex ETF chosen beforehand and never trained (Zhu et al. 2021), for d ≥ C−1.

    frame: "canonical", or "haar" for a uniformly random orientation (Figure 18 of the guiding paper).
    bias: None; or "batch_mean" for −W·mean(h) of the batch at hand, a constant for the gradient, in evaluation too, as
        the guiding paper's code has it; in training, of the batches of all processes. `bias` is then the last one.

    >>> FixedETFHead(3, 4).weight @ FixedETFHead(3, 4).weight[0]
    tensor([ 1.0000, -0.3333, -0.3333, -0.3333])
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        temperature: float = 5.0,
        *,
        frame: str = "canonical",
        bias: str | None = None,
        generators: Sequence[torch.Generator] | None = None,
        **common: Any,
    ):
        super().__init__(dim, num_classes, temperature, generators=generators, **common)
        checks.one_of("bias", bias, (None, "batch_mean"))
        self.register_buffer("weight", etf.of_frame(self._frames(frame, generators)).mT.contiguous())
        self.follows = bias == "batch_mean"
        self.bias = self.weight.new_zeros(*self.batch_shape, num_classes) if self.follows else None

    def classify(self, z: torch.Tensor, targets: torch.Tensor | None):
        logits = self.logits(z, self.weight, None)
        if self.follows:  # the mean of ⟨w_c, h⟩ is ⟨w_c, mean of h⟩
            bias = -mean_over_batch(logits.detach(), targets, everywhere=self.training)
            logits = logits + bias.unsqueeze(-2)
            if not _polar.transformed():
                self.bias = bias
        return logits


class ImplicitETFHead(Steps, Head, name="implicit", label="implicit ETF", colour="#009E73", dash="solid"):
    """Weights are, at every training step, the simplex ETF nearest to the class means of the features (Eq. 8, Markou et
    al. 2024), for d ≥ C−1.

        W = √(C/(C−1)) (U* P)ᵀ,   b = −W μ_G,   U* = nearest_etf(H̃_t, prox = the last U*, δ)

    delta: proximal coefficient δ > 0. frame: orientation to start from, "canonical" or "haar".
    alpha: weight of a batch in the running means, in (0, 1]; the paper's schedule when None (see `ClassMeans`).
    backprop_through_etf: False makes U* a constant for the gradient (no indirect path in Figure 1).
    bias: "global_mean" for b = −W μ_G; None for no bias, which neither paper has, to see what the bias does.
    eval_bias: μ_G in evaluation: its "running" mean, or that of the "last" batch, as in the guiding paper's code.

    In training mode a call needs targets. It moves the running means, the frame U and the step count, once also where
    torch.utils.checkpoint computes it again (compile what has the checkpoint inside, not the head by itself); calls
    inside `gather` are one step. In eval mode nothing moves, and targets are not needed. With torch.distributed means
    and gradient are those of the batches of all processes, each of which has to take part in every training step.

    >>> head = ImplicitETFHead(dim=8, num_classes=4)
    >>> head(torch.randn(20, 8), torch.arange(20) % 4).shape, int(head.class_means.step)
    (torch.Size([20, 4]), 1)
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        temperature: float = 5.0,
        *,
        delta: float = 1e-3,
        frame: str = "canonical",
        backprop_through_etf: bool = True,
        alpha: float | None = None,
        bias: str | None = "global_mean",
        eval_bias: str = "running",
        generators: Sequence[torch.Generator] | None = None,
        **common: Any,
    ):
        super().__init__(dim, num_classes, temperature, generators=generators, **common)
        checks.positive("delta", delta)
        checks.one_of("bias", bias, ("global_mean", None))
        checks.one_of("eval_bias", eval_bias, ("running", "last"))
        self.follows = bias is not None
        self.delta, self.backprop_through_etf = float(delta), backprop_through_etf
        self.class_means = ClassMeans(self.dim, self.num_classes, self.batch_shape, alpha, eval_bias == "last")
        u = self._frames(frame, generators)
        self.register_buffer("frame", u.expand(*self.batch_shape, *u.shape[-2:]).clone())

    @property
    def weight(self):
        """(…, C, d), the weights of the last training step; not a parameter and not part of a graph."""
        return etf.of_frame(orthonormal(self.frame)).mT

    @property
    def bias(self):
        """−W μ_G with the running global mean, shape (…, C); None for a head without bias."""
        if not self.follows:
            return None
        return -(self.weight * self.class_means.global_mean.unsqueeze(-2)).sum(-1)

    def classify(self, z: torch.Tensor, targets: torch.Tensor | None):
        if not self.training:
            return super().classify(z, targets)
        if targets is None:
            raise ValueError("ImplicitETFHead needs targets in training mode (call .eval() to classify without them)")
        C, soft = self.num_classes, targets.is_floating_point()
        if not soft and (radius := self._radius(z)) is not None:
            labels = targets.expand(z.shape[:-1])
            z, sums, counts = _fused.SphereSums.apply(z, radius, labels, C, self.temperature)
            weight, bias = self.step(over_processes(sums), over_processes(counts))
            return _fused.Logits.apply(z, radius, weight.to(z.dtype), bias.to(z.dtype))
        share = targets if soft else targets.unsqueeze(-1) == torch.arange(C, device=z.device)  # of samples in classes
        share = share.to(z.dtype).expand(*z.shape[:-1], C)
        h = self.normalize(z)
        weight, bias = self.step(over_processes(sums_of(share, h)), over_processes(share.sum(-2)))
        return h @ weight.to(z.dtype).mT + bias.to(z.dtype).unsqueeze(-2)

    def step(self, sums: torch.Tensor, counts: torch.Tensor):
        """Class sums (…, C, d) and counts (…, C) of a batch → running means → nearest ETF → W (…, C, d), b (…, C).

        Differentiable in the sums. Raises ValueError for sums that are not finite, and for a run without a label;
        nothing moves then.
        """
        sums, counts = self._begin(sums, counts, [*self.class_means.buffers(), self.frame])
        wide = torch.float64 if self.num_classes < _polar.MANY_CLASSES else sums.dtype
        means, global_mean = self.class_means(sums.to(wide), counts.to(wide))
        norm = torch.linalg.vector_norm(means, dim=(-2, -1), keepdim=True)
        # Means that are equal, but for rounding, count as zero: then U* = U_prox, and no gradient comes through U*.
        nothing = norm <= 100 * torch.finfo(self.frame.dtype).eps * math.sqrt(self.num_classes) * self._tau(norm)
        means = means / norm.masked_fill(nothing, math.inf)
        self._start(means.detach().to(self.frame.dtype))
        u = nearest.nearest_etf(means, self.frame.clone(), self.delta, check=False)
        move(self, frame=u.detach())
        weight = etf.of_frame(u if self.backprop_through_etf else u.detach()).mT
        bias = -(weight * global_mean.unsqueeze(-2)).sum(-1)
        return weight, bias if self.follows else torch.zeros_like(bias)

    def _start(self, means):
        """In the first step the frame is the solution without proximal term (Section 3.3, Markou et al. 2024)."""
        first = self.class_means.step == 1
        if _polar.transformed() or first:
            move(self, frame=torch.where(first, nearest.start_frame(means, self.frame), self.frame))


class CosineHead(Head, name="cosine", label="cosine classifier", colour="#000000", dash="longdashdot"):
    """A cosine classifier for any d ≥ 1: logits τ·⟨x/(1+‖x‖), w_c/‖w_c‖⟩, with the gradient through both lengths (the
    classifier of the APA paper's code; its Table 2 has τ = 16 or a learnt one).

    squashed: False for the plain cosine, x/‖x‖ in the place of x/(1+‖x‖).

    >>> CosineHead(8, 4)(torch.zeros(1, 8))
    tensor([[0., 0., 0., 0.]], grad_fn=<ViewBackward0>)
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        temperature: float = 16.0,
        *,
        squashed: bool = True,
        generators: Sequence[torch.Generator] | None = None,
        **common: Any,
    ):
        super().__init__(dim, num_classes, temperature, generators=generators, **common)
        size = 1 / math.sqrt(self.dim)
        start = lambda g: torch.empty(num_classes, dim, dtype=wide()).uniform_(-size, size, generator=g)
        self.directions, self.squashed, self.bias = nn.Parameter(self._draw(generators, start)), squashed, None

    @property
    def weight(self):
        """(…, C, d), rows at unit length."""
        return on_sphere(self.directions, 1.0)

    def normalize(self, features: torch.Tensor):
        if not self.squashed:
            return super().normalize(features)
        largest = features.detach().abs().amax(-1, keepdim=True).clamp(min=1)  # see `on_sphere`
        x = features / largest
        return x * (self._tau(x) / (1 / largest + torch.linalg.vector_norm(x, dim=-1, keepdim=True)))

    def _radius(self, z):
        return None if self.squashed else super()._radius(z)


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
