"""Three interchangeable classifier heads: a learnt one, a fixed simplex ETF, and the simplex ETF nearest to the class
means.

A head takes features z (…, N, d) to logits (…, N, C). Features are put on a sphere, h = τ·z/‖z‖, class vectors have
unit length, and logits are ⟨w_c, h⟩ + b_c. Same constructor, same call, same attributes: a training loop never asks
which it has.
`generators` (one torch.Generator a seed) makes one leading batch dimension of independent heads, for training seeds
side by side.
"""

import math

import torch
from torch import nn

from labkit import _polar, checks, etf, nearest
from labkit._fused import ImplicitLogits, SphereLogits, radius_of


class Head(nn.Module):
    """What the three share. dim: d; num_classes: C; temperature: τ, the norm of the features a head sees."""

    def __init__(self, dim, num_classes, temperature=5.0, *, generators=None):
        super().__init__()
        checks.classes(num_classes, dim)
        checks.positive("temperature", temperature)
        self.dim, self.num_classes, self.temperature = dim, num_classes, temperature
        self.batch_shape = () if generators is None else (len(generators),)

    def _draw(self, generators, draw):
        """draw(generator) once for each run, stacked; or once with the global generator."""
        return draw(None) if generators is None else torch.stack([draw(g) for g in generators])

    def normalize(self, features):
        """h = τ·z/‖z‖, shape (…, N, d). A zero feature stays zero."""
        return features * radius_of(features, self.temperature)

    def forward(self, features, targets=None):
        """Logits ⟨w_c, h⟩ + b_c (…, N, C) of features z (…, N, d), with h = τ·z/‖z‖; in float32 for half-precision
        features.
        """
        features = self._checked(features, targets)
        weight, bias = self.weight, self.bias
        bias = None if bias is None else bias.to(features.dtype)
        return SphereLogits.apply(features, weight.to(features.dtype), bias, self.temperature)

    def after_step(self):
        """To be called after every optimiser step: restores what the head promises about its weights."""

    def _checked(self, features, targets):
        checks.floating("features", features)
        if features.ndim < 2 or features.shape[-1] != self.dim or features.shape[:-2] != self.batch_shape:
            raise ValueError(
                f"features must have shape {(*self.batch_shape, 'N', self.dim)}, got {tuple(features.shape)}"
            )
        if targets is not None:
            checks.labels(targets, self.num_classes, features.shape[:-1])
        return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features

    def extra_repr(self):
        return f"dim={self.dim}, num_classes={self.num_classes}, temperature={self.temperature}"


class LinearHead(Head):
    """The standard head: weights (…, C, d) trained by gradient, rows kept at unit length after every step; no bias.

    normalized: False leaves features and weights at the lengths they have, h = z (Figure 17 of the guiding paper); the
        temperature then plays no role, and the cross entropy has no lower bound but 0.
    """

    def __init__(self, dim, num_classes, temperature=5.0, *, normalized=True, generators=None):
        super().__init__(dim, num_classes, temperature, generators=generators)
        self.normalized = normalized
        self.weight = nn.Parameter(
            self._draw(generators, lambda g: nn.init.orthogonal_(torch.empty(num_classes, dim), generator=g))
        )
        self.bias = None
        self.after_step()

    def normalize(self, features):
        return super().normalize(features) if self.normalized else features

    def forward(self, features, targets=None):
        if self.normalized:
            return super().forward(features, targets)
        features = self._checked(features, targets)
        return features @ self.weight.to(features.dtype).mT

    @torch.no_grad()
    def after_step(self):
        if self.normalized:
            self.weight /= torch.linalg.vector_norm(self.weight, dim=-1, keepdim=True)


class FixedETFHead(Head):
    """Weights are a simplex ETF chosen beforehand and never trained (Zhu et al. 2021); no bias.

    frame: "canonical", or "haar" for a uniformly random orientation (Figure 18 of the guiding paper).
    """

    def __init__(self, dim, num_classes, temperature=5.0, frame="canonical", *, generators=None):
        super().__init__(dim, num_classes, temperature, generators=generators)
        u = _frames(self, frame, generators)
        self.register_buffer("weight", etf.simplex_etf(num_classes, frame=u).mT.contiguous())
        self.bias = None


class ImplicitETFHead(Head):
    """Weights are, at every training step, the simplex ETF nearest to the class means of the features (Eq. 8, Markou et
    al. 2024).

        W = √(C/(C−1)) (U* P)ᵀ,   b = −W μ_G,   U* = nearest_etf(H̃_t, prox = the last U*, δ)

    delta: proximal coefficient δ > 0. frame: orientation to start from, "canonical" or "haar".
    alpha: weight of a batch in the running means, in (0, 1]; the paper's schedule when None (see `ClassMeans`).
    backprop_through_etf: whether the gradient also flows through U* (the indirect path of Figure 1), or U* counts as a
        constant.

    With torch.distributed at work, means and gradient are those of the batches of all processes together, and every
    process has to take part in every training step.

    In training mode a call needs targets; it moves the running means, the frame U and the step count, which are all in
    the state_dict. In eval mode nothing moves, targets are not needed, and weight and bias are those of the running
    state.
    """

    def __init__(
        self,
        dim,
        num_classes,
        temperature=5.0,
        delta=1e-3,
        frame="canonical",
        backprop_through_etf=True,
        *,
        alpha=None,
        generators=None,
    ):
        super().__init__(dim, num_classes, temperature, generators=generators)
        checks.positive("delta", delta)
        self.delta, self.backprop_through_etf = delta, backprop_through_etf
        self.class_means = ClassMeans(dim, num_classes, self.batch_shape, alpha)
        u = _frames(self, frame, generators)
        self.register_buffer("frame", u.expand(*self.batch_shape, dim, num_classes).clone())

    @property
    def weight(self):
        """(…, C, d), the weights of the last training step; not a parameter and not part of a graph."""
        return etf.simplex_etf(self.num_classes, frame=self.frame).mT

    @property
    def bias(self):
        """−W μ_G with the running global mean, shape (…, C)."""
        return -(self.weight @ self.class_means.global_mean.unsqueeze(-1)).squeeze(-1)

    def forward(self, features, targets=None):
        if not self.training:
            return super().forward(features, targets)
        features = self._checked(features, targets)
        if targets is None:
            raise ValueError("ImplicitETFHead needs targets in training mode (call .eval() to classify without them)")
        return ImplicitLogits.apply(features, targets, self)

    @torch.no_grad()
    def solve(self, sums, counts):
        """Take in the class sums (…, C, d) and counts (…, C) of a batch, and move to the nearest ETF of the running
        means.

        Returns (W, b, chain) in the dtype of the sums; chain(grad_W, grad_b) is the gradient with respect to the sums,
        by the chain rule backwards through every line of this function, or through b's μ_G alone where grad_W is None.
        Raises ValueError for sums that are not finite; nothing moves then.
        """
        checks.finite("features", sums)  # before anything moves
        C, state = self.num_classes, self.class_means
        xp, take = _polar.backend(self.frame)
        sums, counts, prox = take(sums), take(counts), take(self.frame)
        means, alpha, global_mean = state.update(sums, counts)
        norm = xp.sqrt((means * means).sum(axis=(-2, -1), keepdims=True))
        # Means that are equal, but for rounding, count as zero: then U* = U_prox, and no gradient comes through U*.
        norm[norm <= 100 * torch.finfo(self.frame.dtype).eps * self.temperature * math.sqrt(C)] = math.inf
        means = means / norm
        if state.step == 1:
            self.frame.copy_(nearest.start_frame(torch.as_tensor(means).to(self.frame.dtype), self.frame))
            prox = take(self.frame)
        solution = nearest.Solution(means, prox, self.delta)
        self.frame.copy_(torch.as_tensor(solution.u))
        weight = math.sqrt(C / (C - 1)) * nearest.centred(solution.u).mT
        bias = -(weight @ global_mean[..., None])[..., 0]

        def chain(grad_weight, grad_bias):
            grad_bias = take(grad_bias)
            total = counts.sum(axis=-1)[..., None]
            grad_mean = -(grad_bias[..., None, :] @ weight)[..., 0, :]  # b = −W μ_G
            if grad_weight is None:
                return torch.as_tensor(xp.zeros_like(sums) + (grad_mean / total)[..., None, :])
            # W = √(C/(C−1)) (U P)ᵀ; then U*(H̃); then H̃ = H̄/‖H̄‖; then the running average, and the centring
            grad_weight = take(grad_weight) - grad_bias[..., None] * global_mean[..., None, :]
            grad_frame = math.sqrt(C / (C - 1)) * nearest.centred(grad_weight.mT)
            grad_means = solution.vjp(grad_frame)
            inner = (grad_means * means).sum(axis=(-2, -1), keepdims=True)
            grad_means = ((grad_means - inner * means) * (alpha[..., None, :] / norm)).mT
            grad_mean = grad_mean - grad_means.sum(axis=-2)
            return torch.as_tensor(grad_means / xp.clip(counts, 1, None)[..., None] + (grad_mean / total)[..., None, :])

        return torch.as_tensor(weight), torch.as_tensor(bias), chain


class ClassMeans(nn.Module):
    """Running average of the centred class means (Eq. 9), kept before normalisation as the released code does.

        H̄_t = α_t H̄_batch + (1 − α_t) H̄_{t−1},   α_t = max(2/(t+1), 1e-4), or a constant alpha in (0, 1]

    Gradient flows through the current batch only. A class not in the batch keeps its average; one never seen has a
    centred mean of zero, and takes the batch's mean as it is when it first appears. Buffers: means (…, d, C),
    global_mean (…, d), seen (…, C), step.
    """

    def __init__(self, dim, num_classes, batch_shape=(), alpha=None):
        super().__init__()
        if alpha is not None:
            checks.positive("alpha", alpha)
            if alpha > 1:
                raise ValueError(f"alpha must be at most 1, got {alpha!r}")
        self.alpha = alpha
        self.register_buffer("means", torch.zeros(*batch_shape, dim, num_classes))
        self.register_buffer("global_mean", torch.zeros(*batch_shape, dim))
        self.register_buffer("seen", torch.zeros(*batch_shape, num_classes, dtype=torch.bool))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, sums, counts):
        """Take in a batch: sums (…, C, d) and counts (…, C) of each class, arrays of `polar.backend`.

        Returns the new average (…, d, C), the weight (…, C) of the batch's class means in it, and the global mean of
        the batch (…, d).
        """
        xp, take = _polar.backend(self.means)
        means, average, seen = take(self.means), take(self.global_mean), take(self.seen)
        global_mean = sums.sum(axis=-2) / counts.sum(axis=-1)[..., None]
        batch = sums / xp.clip(counts, 1, None)[..., None] - global_mean[..., None, :]
        step = int(self.step.add_(1))
        alpha = self.alpha or max(2 / (step + 1), 1e-4)
        # α_t; 1 for a class that is new, 0 for one that is not in the batch
        present = xp.clip(counts, 0, 1)
        weight = present * (1 - (1 - alpha) * seen)
        means = means + weight[..., None, :] * (batch.mT - means)
        self.means.copy_(torch.as_tensor(means))
        self.global_mean.copy_(torch.as_tensor(average + alpha * (global_mean - average)))
        self.seen.copy_(torch.as_tensor(seen + present))
        return means, weight, global_mean


def _frames(head, frame, generators):
    checks.one_of("frame", frame, ("canonical", "haar"))
    if frame == "canonical":
        return etf.canonical_frame(head.dim, head.num_classes)
    return head._draw(generators, lambda g: etf.haar_frame(head.dim, head.num_classes, generator=g))


HEADS = {"standard": LinearHead, "fixed": FixedETFHead, "implicit": ImplicitETFHead}

# The heads of the guiding paper's comparisons, as they are called in results: a kind of HEADS and its options.
VARIANTS = {
    "standard": dict(head="standard"),
    "fixed": dict(head="fixed"),
    "implicit": dict(head="implicit"),
    "implicit_without_ddn": dict(head="implicit", backprop_through_etf=False),  # Table 3's and Figure 15's other column
    "fixed_haar": dict(head="fixed", frame="haar"),  # Figure 18
    "standard_no_norm": dict(head="standard", normalized=False),  # Figure 17
}


def make(name, dim, num_classes, temperature=5.0, **options):
    """The head that VARIANTS calls `name`; options: more of its constructor's."""
    checks.one_of("head", name, tuple(VARIANTS))
    options = VARIANTS[name] | options
    return HEADS[options.pop("head")](dim, num_classes, temperature, **options)
