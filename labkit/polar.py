"""The polar factor U of a matrix B = U S, and the gradient through it.

Differentiating B = U S (Proposition 1 of Markou et al. 2024, reduced) gives, for a cotangent Y of U, all of size d·C or C²:

    (I − UUᵀ) Y S⁻¹ + U X,      S X + X S = UᵀY − YᵀU       (a C×C Sylvester equation)

`factor` chooses between two ways to do this: one eigendecomposition, or iterations made of matrix products.
"""

import numpy as np
import torch

from . import products

# Up to this many multiplications NumPy's matrix products stay on one thread, out of the way of torch's.
NUMPY_SIZE = 1 << 18
# From this many classes on the products take less time; on a CPU in float64 never.
MANY_CLASSES = {torch.float32: 400, torch.float64: float("inf"), "other devices": 64}


def factor(b):
    """An object with `u`, the polar factor of B (…, d, C), and `vjp`, from a cotangent of U to one of B, both (…, d, C).

    b: an array of `backend`. A singular B is no error: U is then one of its polar factors, and vjp finite. The object's
    `condition` is the condition number of B, or an estimate of it from below.
    """
    if not isinstance(b, np.ndarray):
        for dtype in dict.fromkeys([b.dtype, torch.float64]):  # again in float64 where float32 has too few digits
            many = MANY_CLASSES[dtype if b.device.type == "cpu" else "other devices"]
            if b.shape[-1] >= many and (found := products.polar_factor(b.to(dtype))):
                return Products(b.to(dtype), *found, like=b.dtype)
    return Spectral(b)


class Spectral:
    """From one eigendecomposition of BᵀB = V Λ² Vᵀ, in float64 whatever the dtype of B.

    In the basis V the symmetric factor S = UᵀB is diagonal, and the Sylvester equation an elementwise division by λ_i + λ_j,
    which has no pole where singular values repeat (the gradient of an SVD has). Everything that can be done on C×C matrices
    is, which leaves four products of size d·C² forward and three backward.
    """

    def __init__(self, b):
        xp, self.like = (np, None) if isinstance(b, np.ndarray) else (torch, b.dtype)
        if self.like:
            b = b.double()
        squared, self.v = xp.linalg.eigh(b.mT @ b)
        extremes = squared[..., [0, -1]].reshape(-1, 2).tolist()
        if any(low < 1e-7 * high for low, high in extremes):
            # A Gram matrix squares the condition number; beyond 3e3 the gradient would lose its ninth digit.
            left, singular, right = xp.linalg.svd(b, full_matrices=False)
            floor = xp.finfo(b.dtype).eps * singular[..., :1]  # an exactly singular B has no gradient: keep it finite
            self.wide, self.v, self.singular = left @ right, right.mT, xp.maximum(singular, floor)
            return
        singular = xp.sqrt(squared)
        u = b @ ((self.v / singular[..., None, :]) @ self.v.mT)
        gram = u.mT @ u
        # The root of an eigenvalue errs by cond²·eps; the length of U's column in the basis V puts that right to cond·eps.
        self.singular = singular * xp.sqrt(((gram @ self.v) * self.v).sum(axis=-2))
        # One Newton–Schulz step, U (3 I − UᵀU)/2, squares what is left of the orthonormality error.
        self.wide = 1.5 * u - 0.5 * (u @ gram)

    @property
    def u(self):
        return self.wide.to(self.like) if self.like else self.wide

    @property
    def condition(self):
        singular = torch.as_tensor(self.singular)
        return float((singular.amax(-1) / singular.amin(-1)).max())

    def vjp(self, grad):
        u, v, row = self.wide, self.v, self.singular[..., None, :]
        if self.like:
            grad = grad.double()
        k = v.mT @ (u.mT @ grad @ v)
        x = (k - k.mT) / (row + row.mT) - k / row  # X − UᵀY S⁻¹, in the basis V
        result = grad @ ((v / row) @ v.mT) + u @ (v @ x @ v.mT)
        return result.to(self.like) if self.like else result


class Products:
    """From matrix products, in the dtype of B; torch only. u: the polar factor. like: dtype of the results."""

    def __init__(self, b, u, condition, like):
        self.b, self.wide, self.condition, self.like = b, u, condition, like

    @property
    def u(self):
        return self.wide.to(self.like)

    def vjp(self, grad):
        u, s, grad = self.wide, self.wide.mT @ self.b, grad.to(self.b.dtype)
        s = (s + s.mT) / 2
        along = u.mT @ grad
        # Near collapse UᵀY is almost symmetric (nothing pulls the frame round): its skew part is wanted to the digits of the whole.
        tolerance = torch.finfo(s.dtype).eps ** 0.75 * torch.linalg.matrix_norm(along, keepdim=True)
        x = products.sylvester(s, along - along.mT, tolerance)
        if x is None:
            return Spectral(self.b).vjp(grad).to(self.like)
        across = torch.cholesky_solve((grad - u @ along).mT, torch.linalg.cholesky(s)).mT
        return (across + u @ x).to(self.like)


def backend(matrix):
    """The module to compute with, NumPy or torch, and the function that takes a tensor into its arrays.

    NumPy where `matrix` is small and on a CPU: there a call of torch costs several times one of NumPy (the polar factor took
    0.5 ms of a UFM-10 step in torch, 0.07 in NumPy). The code between is written in names and arguments that the two share.
    The arrays are float64, but for large float32 matrices, where that would double the time.
    """
    *_, rows, columns = matrix.shape
    if matrix.device.type == "cpu" and rows * columns * min(rows, columns) <= NUMPY_SIZE:
        return np, lambda tensor: tensor.detach().double().numpy()
    wide = torch.float64
    if matrix.dtype != torch.float64 and min(rows, columns) >= MANY_CLASSES["other devices"]:
        wide = torch.float32
    return torch, lambda tensor: tensor.detach().to(wide)
