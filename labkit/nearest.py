"""The simplex ETF nearest to a set of class means, in closed form, and its gradient.

The problem (Eq. 7, Markou et al. 2024), over orthonormal frames U, with H̃ the d×C class means and M̃ = P/√(C−1):

    minimise  ‖H̃ − U M̃‖²_F + (δ/2)‖U − U_prox‖²_F

Both ‖U M̃‖_F and ‖U‖_F are constant on orthonormal frames, so this is orthogonal Procrustes: maximise ⟨U, B⟩ with
B = (2/√(C−1)) H̃ P + δ U_prox. Its solution is the polar factor of B.
"""

import math

import torch
from torch.autograd.function import once_differentiable

from . import checks, etf


def nearest_etf(means, prox=None, delta=1e-3):
    """Orthonormal frame U* whose simplex ETF is nearest to the class means, shape (…, d, C); differentiable in means.

    means: class means H̃ as columns, shape (…, d, C) with d ≥ C ≥ 2 and any leading batch dimensions. Centring is
        part of the problem (P above); scaling is not: the paper divides by the Frobenius norm first, and δ is weighed
        against that unit.
    prox: orthonormal frame U_prox, shape (…, d, C); a constant of the problem. When omitted it is the solution without
        the proximal term, `start_frame(means)`, which is what the paper does in the first step.
    delta: proximal coefficient δ > 0.

    The classifier weights are `etf.simplex_etf(C, frame=U).mT`. Means that are all equal give `prox` back. The inner
    work is in float64 whatever the dtype of `means`, which is also that of the result. The gradient is the exact implicit
    one (Proposition 1, in the C×C form of MATH: S X + X S = UᵀY − YᵀU); it can be taken once: a second derivative
    raises RuntimeError. Raises TypeError for means that are not floating point, ValueError for other bad input.
    """
    _check_means(means)
    checks.positive("delta", delta)
    if prox is None:
        prox = start_frame(means.detach())
    else:
        checks.floating("prox", prox)
        if prox.shape[-2:] != means.shape[-2:]:
            raise ValueError(f"prox must have the shape of means, (…, {means.shape[-2]}, {means.shape[-1]}), "
                             f"got {tuple(prox.shape)}")
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
        # Polar factors by SVD, not by a Gram matrix: this runs once in a training, and means may be rank deficient (a class
        # not seen yet). A speck of the start frame settles the directions on which the means are silent.
        reduced = wide @ basis
        norm = torch.linalg.matrix_norm(reduced, keepdim=True)
        v = _polar_svd(reduced / torch.where(norm > 0, norm, 1.0) + 1e-10 * (start @ basis))
        last = start.sum(-1, keepdim=True) / math.sqrt(C)
        last = last - v @ (v.mT @ last)
        return _polar_svd(v @ basis.mT + last / math.sqrt(C)).to(means.dtype)


def _polar_svd(matrix):
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


class _Nearest(torch.autograd.Function):
    """U* = polar(B) and its vector-Jacobian product, both from one eigendecomposition of BᵀB = V Λ² Vᵀ.

    In the basis V the symmetric factor S = UᵀB is diagonal, and the Sylvester equation of the gradient is an elementwise
    division by λ_i + λ_j, which has no pole where singular values repeat (every SVD gradient has).
    """

    @staticmethod
    def forward(ctx, means, prox, delta):
        ctx.scale = 2 / math.sqrt(means.shape[-1] - 1)
        wide = means.double()
        b = ctx.scale * (wide - wide.mean(-1, keepdim=True)) + delta * prox
        rotated, singular, v = _polar_factors(b)
        ctx.save_for_backward(rotated, singular, v)
        return (rotated @ v.mT).to(means.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rotated, singular, v = ctx.saved_tensors  # U V, λ, V
        y = grad.double() @ v
        k = rotated.mT @ y
        x = (k - k.mT) / (singular.unsqueeze(-1) + singular.unsqueeze(-2))
        row = singular.unsqueeze(-2)
        g = (y / row + rotated @ (x - k / row)) @ v.mT  # (I − UUᵀ) Y S⁻¹ + U X
        return (ctx.scale * (g - g.mean(-1, keepdim=True))).to(grad.dtype), None, None


def _polar_factors(b):
    """U V, λ and V of the polar decomposition B = U S, S = V diag(λ) Vᵀ, in float64; U V has orthonormal columns."""
    squared, v = torch.linalg.eigh(b.mT @ b)
    if bool((squared[..., 0] < 1e-10 * squared[..., -1]).any()):
        # A Gram matrix squares the condition number; beyond 1e5 too little would be left.
        left, singular, right = torch.linalg.svd(b, full_matrices=False)
        floor = torch.finfo(b.dtype).eps * singular[..., :1]  # an exactly singular B has no gradient: keep it finite
        return left, singular.clamp(min=floor), right.mT
    rotated = b @ v
    singular = torch.linalg.vector_norm(rotated, dim=-2)  # errs by cond·eps; the root of the eigenvalue by cond²·eps
    rotated = rotated / singular.unsqueeze(-2)
    # One Newton–Schulz step squares what is left of the orthonormality error.
    return 1.5 * rotated - 0.5 * rotated @ (rotated.mT @ rotated), singular, v


def _check_means(means):
    checks.floating("means", means)
    if means.ndim < 2:
        raise ValueError(f"means must have shape (…, d, C), got {tuple(means.shape)}")
    checks.classes(means.shape[-1], means.shape[-2])
