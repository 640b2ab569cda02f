"""Three interchangeable classifier heads: a learnt one, a fixed simplex ETF, and the simplex ETF nearest to the class means.

A head takes features z (…, N, d) to logits (…, N, C). Features are put on a sphere, h = τ·z/‖z‖, class vectors have unit
length, and logits are ⟨w_c, h⟩ + b_c. Same constructor, same call, same attributes: a training loop never asks which it has.
`generators` (one torch.Generator a seed) makes one leading batch dimension of independent heads, for training seeds side by side.
"""

import math

import torch
from torch import nn

from . import checks, etf, nearest


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
        norm = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
        return features * (self.temperature / norm.clamp(min=1e-12))

    def after_step(self):
        """To be called after every optimiser step: restores what the head promises about its weights."""

    def _check(self, features, targets):
        checks.floating("features", features)
        if features.ndim < 2 or features.shape[-1] != self.dim or features.shape[:-2] != self.batch_shape:
            raise ValueError(f"features must have shape {(*self.batch_shape, 'N', self.dim)}, got {tuple(features.shape)}")
        if targets is not None:
            checks.labels(targets, self.num_classes, features.shape[:-1])

    def extra_repr(self):
        return f"dim={self.dim}, num_classes={self.num_classes}, temperature={self.temperature}"


class LinearHead(Head):
    """The standard head: weights (…, C, d) trained by gradient, rows kept at unit length after every step; no bias."""

    def __init__(self, dim, num_classes, temperature=5.0, *, generators=None):
        super().__init__(dim, num_classes, temperature, generators=generators)
        self.weight = nn.Parameter(
            self._draw(generators, lambda g: nn.init.orthogonal_(torch.empty(num_classes, dim), generator=g))
        )
        self.bias = None
        self.after_step()

    @torch.no_grad()
    def after_step(self):
        self.weight /= torch.linalg.vector_norm(self.weight, dim=-1, keepdim=True)

    def forward(self, features, targets=None):
        self._check(features, targets)
        return self.normalize(features) @ self.weight.mT


class FixedETFHead(Head):
    """Weights are a simplex ETF chosen beforehand and never trained (Zhu et al. 2021); no bias.

    frame: "canonical", or "haar" for a uniformly random orientation (Figure 18 of the guiding paper).
    """

    def __init__(self, dim, num_classes, temperature=5.0, frame="canonical", *, generators=None):
        super().__init__(dim, num_classes, temperature, generators=generators)
        u = _frames(self, frame, generators)
        self.register_buffer("weight", etf.simplex_etf(num_classes, frame=u).mT.contiguous())
        self.bias = None

    def forward(self, features, targets=None):
        self._check(features, targets)
        return self.normalize(features) @ self.weight.mT


class ImplicitETFHead(Head):
    """Weights are, at every training step, the simplex ETF nearest to the class means of the features (Eq. 8, Markou et al. 2024).

        W = √(C/(C−1)) (U* P)ᵀ,   b = −W μ_G,   U* = nearest_etf(H̃_t, prox = the last U*, δ)

    delta: proximal coefficient δ > 0. frame: orientation to start from, "canonical" or "haar".
    backprop_through_etf: whether the gradient also flows through U* (the indirect path of Figure 1), or U* counts as a constant.

    In training mode a call needs targets; it moves the running means, the frame U and the step count, which are all in the
    state_dict. In eval mode nothing moves, targets are not needed, and weight and bias are those of the running state.
    """

    def __init__(self, dim, num_classes, temperature=5.0, delta=1e-3, frame="canonical", backprop_through_etf=True,
                 *, generators=None):
        super().__init__(dim, num_classes, temperature, generators=generators)
        checks.positive("delta", delta)
        self.delta, self.backprop_through_etf = delta, backprop_through_etf
        self.class_means = ClassMeans(dim, num_classes, self.batch_shape)
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
        self._check(features, targets)
        h = self.normalize(features)
        if not self.training:
            return h @ self.weight.mT + self.bias.unsqueeze(-2)
        if targets is None:
            raise ValueError("ImplicitETFHead needs targets in training mode (call .eval() to classify without them)")
        first = self.class_means.step == 0
        means, global_mean = self.class_means(h, targets)
        means = means if self.backprop_through_etf else means.detach()
        norm = torch.linalg.matrix_norm(means, keepdim=True)
        means = means / norm.clamp(min=1e-12)  # means that are all equal stay zero: the nearest ETF is then the last one
        if first:
            self.frame.copy_(nearest.start_frame(means.detach(), self.frame))
        u = nearest.nearest_etf(means, self.frame, self.delta)
        self.frame.copy_(u.detach())
        vectors = etf.simplex_etf(self.num_classes, frame=u)
        return h @ vectors - global_mean.unsqueeze(-2) @ vectors


class ClassMeans(nn.Module):
    """Running average of the centred class means (Eq. 9), kept before normalisation as the released code does.

        H̄_t = α_t H̄_batch + (1 − α_t) H̄_{t−1},   α_t = max(2/(t+1), 1e-4)

    Gradient flows through the current batch only. A class not in the batch keeps its average; one never seen has a centred
    mean of zero, and takes the batch's mean as it is when it first appears. Buffers: means (…, d, C), global_mean (…, d),
    seen (…, C), step.
    """

    def __init__(self, dim, num_classes, batch_shape=()):
        super().__init__()
        self.register_buffer("means", torch.zeros(*batch_shape, dim, num_classes))
        self.register_buffer("global_mean", torch.zeros(*batch_shape, dim))
        self.register_buffer("seen", torch.zeros(*batch_shape, num_classes, dtype=torch.bool))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, h, targets):
        """h (…, N, d), targets (…, N) or (N,) -> averaged centred means (…, d, C), global mean of the batch (…, d)."""
        sums, counts = class_sums(h, targets, self.means.shape[-1])
        global_mean = sums.sum(-2) / h.shape[-2]
        batch = (sums / counts.clamp(min=1).unsqueeze(-1) - global_mean.unsqueeze(-2)).mT
        with torch.no_grad():
            self.step += 1
            alpha = max(2 / (int(self.step) + 1), 1e-4)
            weight = torch.where(self.seen, alpha, 1.0) * (counts > 0)
            self.seen |= counts > 0
            self.global_mean.lerp_(global_mean.to(self.global_mean.dtype), alpha)
        means = torch.lerp(self.means, batch.to(self.means.dtype), weight.to(self.means.dtype).unsqueeze(-2))
        self.means.copy_(means.detach())
        return means, global_mean


def class_sums(features, targets, num_classes):
    """Sum of the features of each class and their number: (…, C, d) and (…, C), differentiable in features (…, N, d).

    By index-add: O(N d), where a product with one-hot labels costs O(N C d).
    """
    *batch, n, d = features.shape
    runs = math.prod(batch)
    index = targets.expand(*batch, n).reshape(runs, n)
    if runs > 1:
        index = index + num_classes * torch.arange(runs, device=index.device).unsqueeze(-1)
    index = index.reshape(-1)
    sums = features.new_zeros(runs * num_classes, d).index_add(0, index, features.reshape(-1, d))
    counts = torch.bincount(index, minlength=runs * num_classes)
    return sums.reshape(*batch, num_classes, d), counts.reshape(*batch, num_classes)


def _frames(head, frame, generators):
    checks.one_of("frame", frame, ("canonical", "haar"))
    if frame == "canonical":
        return etf.canonical_frame(head.dim, head.num_classes)
    return head._draw(generators, lambda g: etf.haar_frame(head.dim, head.num_classes, generator=g))


HEADS = {"standard": LinearHead, "fixed": FixedETFHead, "implicit": ImplicitETFHead}
