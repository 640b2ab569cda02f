"""The simplex equiangular tight frame (ETF): construction, frames, and the two bounds it attains.

Vectors are columns, as in the papers: a simplex ETF of C classes in d dimensions is a d×C matrix. Classifier weights
are its transpose, a C×d matrix in `torch.nn.Linear` layout.
"""

import math

import torch

from labkit import checks


def simplex_basis(num_classes, dtype=None, device=None):
    """Orthonormal basis Q of the vectors that sum to zero (Helmert's), shape (C, C-1).

    QᵀQ = I and QQᵀ = P = I − 11ᵀ/C, so √(C/(C−1))·Qᵀ is a simplex ETF in the fewest dimensions there are.
    """
    checks.classes(num_classes)
    n = torch.arange(1, num_classes, dtype=torch.float64)
    column = torch.triu(torch.ones(num_classes, num_classes - 1, dtype=torch.float64))
    column[torch.arange(1, num_classes), torch.arange(num_classes - 1)] = -n
    return (column / torch.sqrt(n * (n + 1))).to(dtype=dtype or torch.get_default_dtype(), device=device)


def ring(num_classes):
    """A simplex ETF in the fewest dimensions of which the first three coordinates make a good picture, float64, shape
    (C-1, C).

    Its rows are waves around a circle, slow ones first: the first two coordinates put the classes evenly on a circle.
    """
    checks.classes(num_classes)
    place = 2 * math.pi * torch.arange(num_classes, dtype=torch.float64) / num_classes
    waves = [wave(k * place) for k in range(1, num_classes // 2 + 1) for wave in (torch.cos, torch.sin)][
        : num_classes - 1
    ]
    return math.sqrt(num_classes / (num_classes - 1)) * torch.nn.functional.normalize(torch.stack(waves), dim=-1)


def canonical_frame(dim, num_classes, dtype=None, device=None):
    """The canonical orthonormal frame: the first C columns of the d×d identity, shape (d, C).

    Raises ValueError for C < 2 or d < C.
    """
    checks.classes(num_classes, dim)
    return torch.eye(dim, num_classes, dtype=dtype, device=device)


def haar_frame(dim, num_classes, generator=None, dtype=None, device=None):
    """A uniformly random orthonormal frame (Haar measure on the Stiefel manifold), shape (d, C).

    QR of a Gaussian matrix with the signs of R's diagonal moved into Q (Mezzadri, 2007); without that step LAPACK's
    sign convention makes the distribution non-uniform. Drawn on the CPU in float64, so that a seed gives the same
    frame on every device. Raises ValueError for C < 2 or d < C.
    """
    checks.classes(num_classes, dim)
    q, r = torch.linalg.qr(torch.randn(dim, num_classes, dtype=torch.float64, generator=generator))
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return q.to(dtype=dtype or torch.get_default_dtype(), device=device)


def simplex_etf(num_classes, dim=None, frame=None, dtype=None, device=None):
    """Simplex ETF with unit columns, shape (…, d, C):  √(C/(C−1)) · U (I − 11ᵀ/C)   (Eq. 1, Markou et al. 2024).

    num_classes: C ≥ 2.
    dim: d ≥ C−1; C when omitted. In exactly C−1 dimensions no full frame U exists, and Qᵀ of `simplex_basis` takes
        the place of U P.
    frame: U with orthonormal columns, shape (…, d, C), with any leading batch dimensions; canonical when omitted.
    Raises ValueError for C < 2, too few dimensions, or a frame of another shape.
    """
    checks.classes(num_classes, dim, smallest_dim=num_classes - 1)
    scale = math.sqrt(num_classes / (num_classes - 1))
    if frame is None:
        if dim == num_classes - 1:
            return scale * simplex_basis(num_classes, dtype, device).mT.contiguous()
        frame = canonical_frame(dim or num_classes, num_classes, dtype, device)
    else:
        checks.floating("frame", frame)
        expected = (frame.shape[-2] if dim is None and frame.ndim > 1 else dim, num_classes)
        if tuple(frame.shape[-2:]) != expected or frame.shape[-2] < num_classes - 1:
            raise ValueError(
                f"frame must have shape (…, d, {num_classes}) with d ≥ {num_classes - 1}"
                f"{'' if dim is None else f' and d = {dim}'}, got {tuple(frame.shape)}"
            )
        frame = frame.to(dtype=dtype or frame.dtype, device=device or frame.device)
    return scale * (frame - frame.mean(-1, keepdim=True))


def cosine_margin_bound(num_classes):
    """Largest cosine margin all classes can have at once, that of a simplex ETF: C/(C−1)   (after Eq. 17)."""
    checks.classes(num_classes)
    return num_classes / (num_classes - 1)


def cross_entropy_bound(num_classes, temperature):
    """Smallest mean cross entropy with unit class vectors and features of norm τ   (Yaras et al. 2022, Theorem 1).

    log(1 + (C−1)·exp(−τ·C/(C−1))), attained exactly when features and weights are the same simplex ETF.
    0.034202 for C = 10, τ = 5. Raises ValueError for C < 2 or τ ≤ 0.
    """
    checks.positive("temperature", temperature)
    return math.log1p((num_classes - 1) * math.exp(-temperature * cosine_margin_bound(num_classes)))
