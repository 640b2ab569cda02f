"""The simplex ETF nearest to a set of class means, in closed form, and its gradient.

The problem (Eq. 7, Markou et al. 2024), over orthonormal frames U, with H̃ the d×C class means and M̃ = P/√(C−1):

    minimise  ‖H̃ − U M̃‖²_F + (δ/2)‖U − U_prox‖²_F

Both ‖U M̃‖_F and ‖U‖_F are constant on orthonormal frames, so this is orthogonal Procrustes: maximise ⟨U, B⟩ with
B = (2/√(C−1)) H̃ P + δ U_prox. Its solution is the polar factor of B.
"""

import math

import numpy as np
import torch

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
    one (Proposition 1, reduced to the C×C equation S X + X S = UᵀY − YᵀU); it can be taken once: a second derivative
    raises RuntimeError. Raises TypeError for means that are not floating point, ValueError for other bad input.
    """
    _check_means(means)
    checks.positive("delta", delta)
    if prox is None:
        prox = start_frame(means.detach())
    else:
        checks.floating("prox", prox)
        if prox.ndim > means.ndim or any(a not in (1, b) for a, b in zip(prox.shape[:-2][::-1], means.shape[:-2][::-1])) or (
            prox.shape[-2:] != means.shape[-2:]
        ):
            raise ValueError(f"prox must have the shape of means, {tuple(means.shape)}, or broadcast to it, got {tuple(prox.shape)}")
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
        # Polar factors by SVD, not by a Gram matrix: this runs once in a training, and means may be rank deficient (a class
        # not seen yet). A speck of the start frame settles the directions on which the means are silent.
        reduced = wide @ basis
        norm = torch.linalg.matrix_norm(reduced, keepdim=True)
        rounding = 10 * torch.finfo(means.dtype).eps * torch.linalg.matrix_norm(wide, keepdim=True)
        norm = torch.where(norm > rounding, norm, math.inf)  # means equal to rounding say nothing
        v = _polar_svd(reduced / norm + 1e-10 * (start @ basis))
        last = start.sum(-1, keepdim=True) / math.sqrt(C)
        last = last - v @ (v.mT @ last)
        return _polar_svd(v @ basis.mT + last / math.sqrt(C)).to(means.dtype)


def _polar_svd(matrix):
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


class _Nearest(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, prox, delta):
        _, take = backend(means)
        ctx.solution = Solution(take(means), take(prox), delta)
        ctx.save_for_backward(means)
        return torch.as_tensor(ctx.solution.u).to(means.dtype)

    @staticmethod
    def backward(ctx, grad):
        def vjp(grad):
            return torch.as_tensor(ctx.solution.vjp(take(grad))).to(grad.dtype)

        means, = ctx.saved_tensors
        _, take = backend(means)
        return Once.apply("nearest_etf", vjp, grad, means), None, None


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


def backend(matrix):
    """The module to compute with, NumPy or torch, and the function that takes a tensor into its float64 arrays.

    NumPy where `matrix` is small and on a CPU: there a call of torch costs several times one of NumPy (`Solution` took 0.5 ms
    of a UFM-10 step in torch, 0.07 in NumPy). The code between is written in names and arguments that the two share.
    """
    *_, rows, columns = matrix.shape
    # Up to this size NumPy's matrix products stay on one thread, out of the way of torch's.
    if matrix.device.type == "cpu" and rows * columns * min(rows, columns) <= 1 << 18:
        return np, lambda tensor: tensor.detach().double().numpy()
    return torch, lambda tensor: tensor.detach().double()


class Solution:
    """U* = polar(B) and its vector-Jacobian product, both from one eigendecomposition of BᵀB = V Λ² Vᵀ.

    means, prox: arrays (…, d, C) of one `backend`. In the basis V the symmetric factor S = UᵀB is diagonal, and the Sylvester
    equation of the gradient is an elementwise division by λ_i + λ_j, which has no pole where singular values repeat (the
    gradient of an SVD has). Everything that can be done on C×C matrices is, which leaves four products of size d·C²
    forward and three backward.
    """

    def __init__(self, means, prox, delta):
        xp = np if isinstance(means, np.ndarray) else torch
        self.scale = 2 / math.sqrt(means.shape[-1] - 1)
        b = self.scale * (means - means.mean(axis=-1, keepdims=True)) + delta * prox
        squared, self.v = xp.linalg.eigh(b.mT @ b)
        extremes = squared[..., :: squared.shape[-1] - 1].reshape(-1, 2).tolist()
        if any(low < 1e-7 * high for low, high in extremes):
            # A Gram matrix squares the condition number; beyond 3e3 the gradient would lose its ninth digit.
            left, singular, right = xp.linalg.svd(b, full_matrices=False)
            floor = xp.finfo(b.dtype).eps * singular[..., :1]  # an exactly singular B has no gradient: keep it finite
            self.u, self.v, self.singular = left @ right, right.mT, xp.maximum(singular, floor)
            return
        singular = xp.sqrt(squared)
        u = b @ ((self.v / singular[..., None, :]) @ self.v.mT)
        gram = u.mT @ u
        # The root of an eigenvalue errs by cond²·eps; the length of U's column in the basis V puts that right to cond·eps.
        self.singular = singular * xp.sqrt(((gram @ self.v) * self.v).sum(axis=-2))
        # One Newton–Schulz step, U (3 I − UᵀU)/2, squares what is left of the orthonormality error.
        self.u = 1.5 * u - 0.5 * (u @ gram)

    def vjp(self, grad):
        """Gradient with respect to means from that with respect to U, both (…, d, C):  2/√(C−1)·((I − UUᵀ) Y S⁻¹ + U X) P."""
        v, row = self.v, self.singular[..., None, :]
        k = v.mT @ (self.u.mT @ grad @ v)
        x = (k - k.mT) / (row + row.mT) - k / row  # X − UᵀY S⁻¹, in the basis V
        right = (v.mT - v.mT.mean(axis=-1, keepdims=True)) * self.scale  # 2/√(C−1) Vᵀ P
        return grad @ ((v / row) @ right) + self.u @ (v @ x @ right)


def _check_means(means):
    checks.floating("means", means)
    if means.ndim < 2:
        raise ValueError(f"means must have shape (…, d, C), got {tuple(means.shape)}")
    checks.classes(means.shape[-1], means.shape[-2])
