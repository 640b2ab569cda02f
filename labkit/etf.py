"""The simplex equiangular tight frame (ETF): construction, frames, and the two bounds it attains.

Vectors are columns, as in the papers: a simplex ETF of C classes in d dimensions is a d×C matrix. Classifier weights
are its transpose, a C×d matrix in `torch.nn.Linear` layout.
"""

import math

import torch

from labkit import checks
from labkit._fast import polar as _polar


def simplex_basis(
    num_classes: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> torch.Tensor:
    """Orthonormal basis Q of the vectors that sum to zero (Helmert's), shape (C, C-1).

    QᵀQ = I and QQᵀ = P = I − 11ᵀ/C, so √(C/(C−1))·Qᵀ is a simplex ETF in the fewest dimensions there are.

    >>> simplex_basis(3)
    tensor([[ 0.7071,  0.4082],
            [-0.7071,  0.4082],
            [ 0.0000, -0.8165]])
    """
    checks.classes(num_classes)
    n = torch.arange(1, num_classes, dtype=torch.float64)
    column = torch.triu(torch.ones(num_classes, num_classes - 1, dtype=torch.float64))
    column[torch.arange(1, num_classes), torch.arange(num_classes - 1)] = -n
    return (column / torch.sqrt(n * (n + 1))).to(dtype=dtype or torch.get_default_dtype(), device=device)


def ring(num_classes: int) -> torch.Tensor:
    """A simplex ETF in the fewest dimensions of which the first three coordinates make a good picture, float64, shape
    (C-1, C).

    Its rows are waves around a circle, slow ones first: the first two coordinates put the classes evenly on a circle.

    >>> ring(3).round(decimals=3) + 0
    tensor([[ 1.0000, -0.5000, -0.5000],
            [ 0.0000,  0.8660, -0.8660]], dtype=torch.float64)
    """
    checks.classes(num_classes)
    place = 2 * math.pi * torch.arange(num_classes, dtype=torch.float64) / num_classes
    waves = [wave(k * place) for k in range(1, num_classes // 2 + 1) for wave in (torch.cos, torch.sin)]
    waves = torch.nn.functional.normalize(torch.stack(waves[: num_classes - 1]), dim=-1)
    return math.sqrt(num_classes / (num_classes - 1)) * waves


def canonical_frame(
    dim: int, num_classes: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> torch.Tensor:
    """The canonical orthonormal frame: the first C columns of the d×d identity, shape (d, C).

    Raises ValueError for C < 2 or d < C.

    >>> canonical_frame(3, 2)
    tensor([[1., 0.],
            [0., 1.],
            [0., 0.]])
    """
    checks.classes(num_classes, dim)
    return torch.eye(dim, num_classes, dtype=dtype, device=device)


def haar_frame(
    dim: int,
    num_classes: int,
    generator: torch.Generator | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """A uniformly random orthonormal frame (Haar measure on the Stiefel manifold), shape (d, C).

    QR of a Gaussian matrix with the signs of R's diagonal moved into Q (Mezzadri, 2007); without that step LAPACK's
    sign convention makes the distribution non-uniform. Drawn on the CPU in float64, so that a seed gives the same
    frame on every device. Raises ValueError for C < 2 or d < C.

    >>> u = haar_frame(5, 2, torch.Generator().manual_seed(0))
    >>> torch.allclose(u.T @ u, torch.eye(2), atol=1e-6)
    True
    """
    checks.classes(num_classes, dim)
    q, r = torch.linalg.qr(torch.randn(dim, num_classes, dtype=torch.float64, device="cpu", generator=generator))
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return q.to(dtype=dtype or torch.get_default_dtype(), device=device or torch.get_default_device())


def simplex_etf(
    num_classes: int,
    dim: int | None = None,
    frame: torch.Tensor | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> torch.Tensor:
    """Simplex ETF with unit columns, shape (…, d, C):  √(C/(C−1)) · U (I − 11ᵀ/C)   (Eq. 1, Markou et al. 2024).

    num_classes: C ≥ 2.
    dim: d ≥ C−1; C when omitted. In exactly C−1 dimensions no full frame U exists, and Qᵀ of `simplex_basis` takes
        the place of U P.
    frame: U with orthonormal columns, shape (…, d, C), with any leading batch dimensions; canonical when omitted.
    Raises ValueError for C < 2, too few dimensions, or a frame of another shape or without orthonormal columns.

    >>> simplex_etf(3, dim=2)
    tensor([[ 0.8660, -0.8660,  0.0000],
            [ 0.5000,  0.5000, -1.0000]])
    """
    checks.classes(num_classes, dim, smallest_dim=num_classes - 1)
    if frame is None:
        if dim == num_classes - 1:
            basis = simplex_basis(num_classes, dtype, device)
            return math.sqrt(num_classes / dim) * basis.mT.contiguous()
        frame = canonical_frame(dim or num_classes, num_classes, dtype, device)
    else:
        checks.floating("frame", frame)
        expected = (frame.shape[-2] if dim is None and frame.ndim > 1 else dim, num_classes)
        if tuple(frame.shape[-2:]) != expected or frame.shape[-2] < num_classes - 1:
            wanted = f"(…, d, {num_classes}) with d ≥ {num_classes - 1}" + ("" if dim is None else f" and d = {dim}")
            raise ValueError(f"frame must have shape {wanted}, got {tuple(frame.shape)}")
        check_frame("frame", frame, only_etf=True)
        frame = frame.to(dtype=dtype or frame.dtype, device=device or frame.device)
    return of_frame(frame)


def of_frame(frame: torch.Tensor) -> torch.Tensor:
    """The simplex ETF of a frame U that is known to be one, √(C/(C−1)) · U (I − 11ᵀ/C), shape (…, d, C).

    >>> of_frame(torch.eye(2))
    tensor([[ 0.7071, -0.7071],
            [-0.7071,  0.7071]])
    """
    C = frame.shape[-1]
    return math.sqrt(C / (C - 1)) * (frame - frame.mean(-1, keepdim=True))


def frame_of(
    dim: int, num_classes: int, kind: str = "canonical", generator: torch.Generator | None = None
) -> torch.Tensor:
    """A frame to start from, shape (d, C): `canonical_frame` or `haar_frame`; in d = C−1 dimensions V Qᵀ, where V is
    such a frame of d columns and Q is `simplex_basis`. In float32 where the default is half precision.

    >>> frame_of(2, 3).T @ frame_of(2, 3)  # I − 11ᵀ/C
    tensor([[ 0.6667, -0.3333, -0.3333],
            [-0.3333,  0.6667, -0.3333],
            [-0.3333, -0.3333,  0.6667]])
    """
    checks.one_of("frame", kind, ("canonical", "haar"))
    small = dim == num_classes - 1
    columns, wide = dim if small else num_classes, torch.promote_types(torch.get_default_dtype(), torch.float32)
    v = torch.eye(dim, columns, dtype=wide)
    if kind == "haar":
        v = haar_frame(dim, columns, generator, wide) if columns > 1 else torch.randn(1, 1, generator=generator).sign()
    return v.to(wide) @ simplex_basis(num_classes, wide).mT if small else v


def check_frame(name: str, frame: torch.Tensor, only_etf: bool = False):
    """Refuse a frame (…, d, C) whose columns are not orthonormal; in d = C−1 dimensions, or where `only_etf` matters,
    one whose columns are not after centring.

    >>> check_frame("prox", torch.eye(3, 2)), check_frame("prox", 2 * torch.eye(3, 2))
    Traceback (most recent call last):
    ValueError: prox must have orthonormal columns, but ‖UᵀU − I‖ is 4.2
    """
    if _polar.transformed():
        return
    d, C = frame.shape[-2:]
    u = frame.detach().to(torch.promote_types(frame.dtype, torch.float32))
    goal = torch.eye(C, dtype=u.dtype, device=u.device)
    if only_etf or d == C - 1:
        u, goal = u - u.mean(-1, keepdim=True), goal - 1 / C
    error = float(torch.linalg.matrix_norm(u.mT @ u - goal).max())
    if not error <= math.sqrt(C) * (1e-4 if frame.dtype in (torch.float32, torch.float64) else 0.05):
        what = "‖UᵀU − I‖" if goal[0, 0] == 1 else "‖P(UᵀU − I)P‖, with P = I − 11ᵀ/C,"
        raise ValueError(f"{name} must have orthonormal columns, but {what} is {error:.2g}")


def cosine_margin_bound(num_classes: int) -> float:
    """Largest cosine margin all classes can have at once, that of a simplex ETF: C/(C−1)   (after Eq. 17).

    >>> cosine_margin_bound(2)
    2.0
    """
    checks.classes(num_classes)
    return num_classes / (num_classes - 1)


def minimal_margin_bound(num_classes: int, dim: int) -> float:
    """The largest possible 1 − cos of the two nearest of C vectors in d dimensions   (Rankin 1955).

    C/(C−1) for C ≤ d+1, by the simplex ETF alone; 1 for more. Up to C = 2d some have it, for C = 2d the orthoplex: the
    axes and their opposites. Beyond, all have less, and the best arrangement is known in a few cases only.

    >>> minimal_margin_bound(4, 3), minimal_margin_bound(6, 3)
    (1.3333333333333333, 1.0)
    """
    checks.classes(num_classes, dim, smallest_dim=1)
    return cosine_margin_bound(num_classes) if num_classes <= dim + 1 else 1.0


def cross_entropy_bound(num_classes: int, temperature: float) -> float:
    """Smallest mean cross entropy with unit class vectors and features of norm τ   (Yaras et al. 2022, Theorem 1).

    log(1 + (C−1)·exp(−τ·C/(C−1))), attained exactly when features and weights are the same simplex ETF.
    Raises ValueError for C < 2 or τ ≤ 0.

    >>> round(cross_entropy_bound(10, 5.0), 6)
    0.034202
    """
    checks.positive("temperature", temperature)
    return math.log1p((num_classes - 1) * math.exp(-temperature * cosine_margin_bound(num_classes)))
