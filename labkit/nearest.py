"""The simplex ETF nearest to a set of class means, in closed form, and its gradient.

The problem (Eq. 7, Markou et al. 2024), over orthonormal frames U, with H̃ the d×C class means and M̃ = P/√(C−1):

    minimise  ‖H̃ − U M̃‖²_F + (δ/2)‖U − U_prox‖²_F

Both ‖U M̃‖_F and ‖U‖_F are constant on orthonormal frames, so this is orthogonal Procrustes: maximise ⟨U, B⟩ with
B = (2/√(C−1)) H̃ P + δ U_prox. Its solution is the polar factor of B.
"""

import functools
import math

import torch

from labkit import _polar, checks, etf


def nearest_etf(means, prox=None, delta=1e-3):
    """Orthonormal frame U* whose simplex ETF is nearest to the class means, shape (…, d, C); differentiable in means.

    means: class means H̃ as columns, shape (…, d, C) with d ≥ C ≥ 2 and any leading batch dimensions. Centring is
        part of the problem (P above); scaling is not: the paper divides by the Frobenius norm first, and δ is weighed
        against that unit.
    prox: orthonormal frame U_prox, shape (…, d, C); a constant of the problem. When omitted it is the solution without
        the proximal term, `start_frame(means)`, which is what the paper does in the first step.
    delta: proximal coefficient δ > 0. With δ = 0 only the ETF is determined, not its frame: the result is then U*P,
        which gives the same ETF, takes no prox, needs d ≥ C−1 only, and class means that span C−1 dimensions.

    The classifier weights are `etf.simplex_etf(C, frame=U).mT`. Means that are all equal give `prox` back. The inner
    work is in float64, in float32 for large matrices that are not float64; the result has the dtype of `means`. The
    gradient is the exact implicit one (Proposition 1, reduced to the C×C equation S X + X S = UᵀY − YᵀU); it can be
    taken once: a second derivative raises RuntimeError. Raises TypeError for means that are not floating point,
        ValueError for other bad input.
    """
    _check_means(means, spare=delta == 0)
    if delta == 0 and not isinstance(delta, bool):
        if prox is not None:
            raise ValueError("prox has no part in the problem with delta=0; leave it out, or give delta > 0")
        checks.finite("means", means)
        return _Determined.apply(means)
    checks.positive("delta", delta)
    if prox is None:
        prox = start_frame(means.detach())
    else:
        checks.floating("prox", prox)
        if (
            prox.ndim > means.ndim
            or any(a not in (1, b) for a, b in zip(prox.shape[:-2][::-1], means.shape[:-2][::-1]))
            or (prox.shape[-2:] != means.shape[-2:])
        ):
            raise ValueError(
                f"prox must have the shape of means, {tuple(means.shape)}, or broadcast to it, got {tuple(prox.shape)}"
            )
        checks.finite("prox", prox)
    checks.finite("means", means)
    return _Nearest.apply(means, prox, delta)


def start_frame(means, start=None):
    """A solution of the problem without proximal term (Eq. 6): of all of them, the one nearest to `start`.

    means: (…, d, C) as above. start: orthonormal frame (…, d, C), canonical when omitted. Returns (…, d, C), detached.

    Without δ only V = UQ is determined, V = polar(H̃Q) with Q the basis of the zero-sum vectors; the last direction
    of U, along 1/√C, is free. The limit δ → 0 of the proximal problem picks the part of start·1/√C orthogonal to V.
    """
    _check_means(means)
    checks.finite("means", means)
    d, C = means.shape[-2:]
    if start is None:
        start = etf.canonical_frame(d, C)
    with torch.no_grad():
        wide, start = means.double(), start.to(means.device, torch.float64)
        basis = etf.simplex_basis(C, torch.float64, means.device)
        rounding = 50 * torch.finfo(means.dtype).eps * torch.linalg.matrix_norm(wide)
        v = _completed_polar(wide @ basis, start @ basis, rounding.unsqueeze(-1))
        last = start.sum(-1, keepdim=True) / math.sqrt(C)
        last = last - v @ (v.mT @ last)
        # Along 1/√C the start frame is free to follow `start`, unless that lies in the span of V.
        return _completed_polar(v @ basis.mT + last / math.sqrt(C), start, 1e-10).to(means.dtype)


def _completed_polar(matrix, aim, rounding):
    """Polar factor of a matrix (…, d, k), on those directions where it is more than `rounding` (…, 1); that of `aim` on
    the rest.
    """
    if matrix.shape[-1] >= _polar.MANY_CLASSES and (found := _polar.polar_factor(matrix)):
        return found[0]
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    known = (singular > rounding).to(matrix.dtype)
    left, right = left * known.unsqueeze(-2), right * known.unsqueeze(-1)
    rest = aim - (aim @ right.mT) @ right
    left, _, right = torch.linalg.svd(left @ right + rest - left @ (left.mT @ rest), full_matrices=False)
    return left @ right


def plain(function):
    """function(ctx, tensor, …) as it is without autocast, whose half precision is not enough for the arithmetic
    here.
    """

    @functools.wraps(function)
    def inner(ctx, tensor, *rest):
        if not torch.is_autocast_enabled(tensor.device.type):
            return function(ctx, tensor, *rest)
        with torch.autocast(tensor.device.type, enabled=False):
            return function(ctx, tensor, *rest)

    return inner


class _Nearest(torch.autograd.Function):
    @staticmethod
    @plain
    def forward(ctx, means, prox, delta):
        _, take = _polar.backend(means)
        ctx.solution = Solution(take(means), take(prox), delta)
        ctx.save_for_backward(means)
        return torch.as_tensor(ctx.solution.u).to(means.dtype)

    @staticmethod
    @plain
    def backward(ctx, grad):
        def vjp(grad):
            return torch.as_tensor(ctx.solution.vjp(take(grad))).to(grad.dtype)

        (means,) = ctx.saved_tensors
        _, take = _polar.backend(means)
        return Once.apply("nearest_etf", vjp, grad, means), None, None


class _Determined(torch.autograd.Function):
    """U* P of the problem without δ: V Qᵀ with V = polar(H̃ Q) and Q the basis of the zero-sum vectors."""

    @staticmethod
    @plain
    def forward(ctx, means):
        _, take = _polar.backend(means)
        basis = take(etf.simplex_basis(means.shape[-1], torch.float64, means.device))
        ctx.factor, ctx.basis = _polar.factor(take(means) @ basis), basis
        limit = 0.1 / torch.finfo(means.dtype).eps
        if not ctx.factor.condition < limit:
            raise ValueError(
                f"with delta=0 the class means must span C−1 = {means.shape[-1] - 1} dimensions after centring, or the "
                f"nearest ETF is not unique; their condition number is {ctx.factor.condition:.1e}. Use delta > 0"
            )
        ctx.save_for_backward(means)
        return torch.as_tensor(ctx.factor.u @ basis.mT).to(means.dtype)

    @staticmethod
    @plain
    def backward(ctx, grad):
        def vjp(grad):
            return torch.as_tensor(ctx.factor.vjp(take(grad) @ ctx.basis) @ ctx.basis.mT).to(grad.dtype)

        (means,) = ctx.saved_tensors
        _, take = _polar.backend(means)
        return Once.apply("nearest_etf", vjp, grad, means)


class Once(torch.autograd.Function):
    """compute(grad), tied to inputs so that a further derivative raises.

    torch's `once_differentiable` is silent, and so wrong, where grad is a constant or another path leads to the input.
    """

    @staticmethod
    def forward(ctx, name, compute, grad, *inputs):
        ctx.name = name
        return compute(grad)

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(f"{ctx.name} can be differentiated once only; its second derivative is not implemented")


class Solution:
    """U* = polar(B) and its vector-Jacobian product; means, prox: arrays (…, d, C) of one `polar.backend`."""

    def __init__(self, means, prox, delta):
        self.scale = 2 / math.sqrt(means.shape[-1] - 1)

        def b(means, prox):
            return self.scale * centred(means) + delta * prox

        self.factor = _polar.factor(b(means, prox), lambda: b(means.double(), prox.double()))
        self.u = self.factor.u

    def vjp(self, grad):
        """Gradient with respect to means from that with respect to U, both (…, d, C)."""
        return self.scale * centred(self.factor.vjp(grad))


def centred(columns):
    """columns · P, (…, d, C)."""
    return columns - columns.sum(axis=-1, keepdims=True) / columns.shape[-1]  # mean() of NumPy costs three times sum()


def _check_means(means, spare=False):
    """spare: whether d = C−1 will do."""
    checks.floating("means", means)
    if means.ndim < 2:
        raise ValueError(f"means must have shape (…, d, C), got {tuple(means.shape)}")
    checks.classes(means.shape[-1], means.shape[-2], smallest_dim=means.shape[-1] - spare)
