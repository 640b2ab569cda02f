"""The simplex ETF nearest to a set of class means, in closed form, and its gradient.

The problem (Eq. 7, Markou et al. 2024), over orthonormal frames U, with H̃ the d×C class means and M̃ = P/√(C−1):

    minimise  ‖H̃ − U M̃‖²_F + (δ/2)‖U − U_prox‖²_F

Both ‖U M̃‖_F and ‖U‖_F are constant on orthonormal frames, so this is orthogonal Procrustes: maximise ⟨U, B⟩ with
B = (2/√(C−1)) H̃ P + δ U_prox. Its solution is the polar factor of B.
"""

import math
import numbers

import torch

from labkit import checks, etf
from labkit._fast import polar as _polar


def nearest_etf(
    means: torch.Tensor, prox: torch.Tensor | None = None, delta: float = 1e-3, *, check: bool = True
) -> torch.Tensor:
    """Orthonormal frame U* whose simplex ETF is nearest to the class means, shape (…, d, C); differentiable in means.

    means: class means H̃ as columns, shape (…, d, C) with d ≥ C−1 and any leading batch dimensions. Centring is part of
        the problem (P above); scaling is not: the paper divides by the Frobenius norm first, and δ is weighed against
        that unit.
    prox: orthonormal frame U_prox, shape (…, d, C); a constant of the problem. When omitted it is the solution without
        the proximal term, `start_frame(means)`, which is what the paper does in the first step.
    delta: proximal coefficient δ > 0. With δ = 0 only the ETF is determined, not its frame: the result is then U*P,
        which gives the same ETF, takes no prox, and needs class means that span C−1 dimensions.
    check: False leaves out the checks of values, for a caller that has made them.

    In d = C−1 dimensions there are no C orthonormal columns. The problem is then that of V = UQ, orthonormal, with Q
    the basis of the zero-sum vectors (`etf.simplex_basis`); frames, given and returned, are VQᵀ, that is U P.

    The classifier weights are `etf.simplex_etf(C, frame=U).mT`. Means that are all equal give `prox` back. The inner
    work is in float64, in float32 for large matrices that are not float64; the result has the dtype of `means`. The
    gradient is the exact implicit one (Proposition 1, reduced to the C×C equation S X + X S = UᵀY − YᵀU), and can be
    differentiated in its turn. Raises TypeError for means that are not floating point, ValueError for other bad input,
    such as a prox that is not orthonormal.

    >>> means = torch.tensor([[1.0, -0.4, -0.6], [0.1, 0.8, -0.9], [0.0, 0.1, -0.1]])
    >>> weight = etf.simplex_etf(3, frame=nearest_etf(means)).mT
    >>> weight @ weight.mT  # a simplex ETF: cosines of −1/2
    tensor([[ 1.0000, -0.5000, -0.5000],
            [-0.5000,  1.0000, -0.5000],
            [-0.5000, -0.5000,  1.0000]])
    """
    determined = not isinstance(delta, bool) and isinstance(delta, numbers.Real) and delta == 0
    if check and not _polar.transformed():
        _check_means(means)
        if determined:
            if prox is not None:
                raise ValueError("prox has no part in the problem with delta=0; leave it out, or give delta > 0")
        else:
            checks.positive("delta", delta)
        if prox is not None:
            _check_prox(prox, means)
    if prox is None and not determined:
        prox = start_frame(means.detach())
    return _solve(means, prox, delta, determined)


@_polar.full_precision
def _solve(means, prox, delta, determined):
    d, C = means.shape[-2:]
    single = means.dtype != torch.float64 and C >= _polar.MANY_CLASSES
    # B is formed in float64 whatever follows: the small second term must not lose its digits in the first.
    b = centred(means.double()) * (2 / math.sqrt(C - 1))
    if prox is not None:
        b = b + prox.detach().double() * float(delta)
    b = _polar.scaled(b)
    if d >= C and not determined:
        return _polar.Polar.apply(b, single)[0].to(means.dtype)
    basis = etf.simplex_basis(C, torch.float64, means.device)
    u, _, singular = _polar.Polar.apply(b @ basis, single)
    if determined and not _polar.transformed() and singular is not None:  # products refuse what is nearly singular
        condition = float((singular.amax(-1) / singular.amin(-1)).max())
        if not condition < 0.1 / torch.finfo(means.dtype).eps:
            raise ValueError(
                f"with delta=0 the class means must span C−1 = {C - 1} dimensions after centring, or the nearest ETF "
                f"is not unique; their condition number is {condition:.1e}. Use delta > 0"
            )
    return (u.double() @ basis.mT).to(means.dtype)


def start_frame(means: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    """A solution of the problem without proximal term (Eq. 6): of all of them, the one nearest to `start`.

    means: (…, d, C) as above. start: orthonormal frame (…, d, C), canonical when omitted. Returns (…, d, C), detached.

    With the singular value decomposition H̃P = K Σ Rᵀ only U R = K is determined. Orthogonal to R, the direction 1/√C
    among others, the limit δ → 0 of the proximal problem takes the polar factor of (I − KKᵀ)·start. With d = C−1 the
    direction 1/√C plays no part, and the result is VQᵀ, with V orthonormal and Q the basis of the zero-sum vectors.

    >>> start_frame(torch.tensor([[2.0, -2.0], [0.0, 0.0]])).abs()  # V = (1, 0)ᵀ; the free direction is (0, 1)ᵀ
    tensor([[0.7071, 0.7071],
            [0.7071, 0.7071]])
    """
    if not _polar.transformed():
        _check_means(means)
    d, C = means.shape[-2:]
    if start is None:
        start = etf.frame_of(d, C)
    with torch.no_grad():
        wide, start = _polar.scaled(means.double()), start.to(means.device, torch.float64)
        basis = etf.simplex_basis(C, torch.float64, means.device)
        rounding = min(50 * torch.finfo(means.dtype).eps, 0.01) * torch.linalg.matrix_norm(wide)
        left, right = _known(wide @ basis, rounding.unsqueeze(-1))
        if d == C - 1:
            return (_completed(left, right, start @ basis) @ basis.mT).to(means.dtype)
        return _completed(left, right @ basis.mT, start).to(means.dtype)


def _known(matrix, rounding):
    """K (…, d, k) and Rᵀ (…, k, k) of K Σ Rᵀ, zero where Σ is at most `rounding` (…, 1); or K Rᵀ and I, as quickly."""
    if found := _polar.of_many(matrix):
        return found[0], torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    known = (singular > rounding).to(matrix.dtype)
    return left * known.unsqueeze(-2), right * known.unsqueeze(-1)


def _completed(left, right, aim):
    """K Rᵀ + the polar factor of (I − KKᵀ)·aim·(I − RRᵀ)."""
    rest = aim - (aim @ right.mT) @ right
    matrix = left @ right + rest - left @ (left.mT @ rest)
    if found := _polar.of_many(matrix):
        return found[0]
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


def centred(columns: torch.Tensor):
    """columns · P, (…, d, C).

    >>> centred(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    tensor([[-1.,  1.],
            [ 0.,  0.]])
    """
    return columns - columns.mean(-1, keepdim=True)


def _check_means(means):
    checks.floating("means", means)
    if means.ndim < 2:
        raise ValueError(f"means must have shape (…, d, C), got {tuple(means.shape)}")
    checks.classes(means.shape[-1], means.shape[-2], smallest_dim=means.shape[-1] - 1)
    checks.finite("means", means)


def _check_prox(prox, means):
    checks.floating("prox", prox)
    fits = prox.ndim <= means.ndim and prox.shape[-2:] == means.shape[-2:]
    if not fits or any(a not in (1, b) for a, b in zip(prox.shape[:-2][::-1], means.shape[:-2][::-1])):
        shape = tuple(means.shape)
        raise ValueError(f"prox must have the shape of means, {shape}, or broadcast to it, got {tuple(prox.shape)}")
    checks.finite("prox", prox)
    etf.check_frame("prox", prox)
