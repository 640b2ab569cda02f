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
# From this many classes on matrix products alone take less time than an eigendecomposition, on a device that is not a CPU.
MANY_CLASSES = 64
# Worst condition number for an eigendecomposition of BᵀB: it leaves five digits of U in float32, and nine of the gradient in float64.
WORST_CONDITION = {"float32": 20.0, "float64": 3e3}


def factor(b, wider=None):
    """An object with `u`, the polar factor of B (…, d, C), and `vjp`, from a cotangent of U to one of B, both (…, d, C).

    b: an array of `backend`. wider(): B anew in float64, for where it is so badly conditioned that float32 has too few digits.
    A singular B is no error: U is then one of its polar factors, and vjp finite. The object's `condition` is the condition
    number of B, or an estimate of it from below.
    """
    if isinstance(b, np.ndarray):
        return Spectral(b)
    like, by_products = b.dtype, prefers_products(b)
    if like == torch.float32:
        found = _products(b, like) if by_products else Spectral(b)
        if found and found.precise:
            return found
        b = wider() if wider else b.double()
    return by_products and _products(b, like) or Spectral(b, like)


def _products(b, like):
    """None where the iteration does not converge."""
    found = products.polar_factor(b)
    return found and Products(b, *found, like)


def prefers_products(b):
    return b.device.type != "cpu" and b.shape[-1] >= MANY_CLASSES


class Spectral:
    """From one eigendecomposition of BᵀB = V Λ² Vᵀ, in the dtype of B. like: dtype of the results, that of B when omitted.

    In the basis V the symmetric factor S = UᵀB is diagonal, and the Sylvester equation an elementwise division by λ_i + λ_j,
    which has no pole where singular values repeat (the gradient of an SVD has). Everything that can be done on C×C matrices
    is, which leaves five products of size d·C² forward and three backward.

    precise: False where B in float32 is too badly conditioned; there is no result then. In float64 an SVD takes over.
    """

    def __init__(self, b, like=None):
        xp = np if isinstance(b, np.ndarray) else torch
        self.like = like or b.dtype
        squared, self.v = xp.linalg.eigh(b.mT @ b)
        self.precise = b.dtype != torch.float32
        worst = WORST_CONDITION["float64" if self.precise else "float32"]
        if (squared[..., 0] * worst**2 < squared[..., -1]).any():
            if self.precise:
                left, singular, right = xp.linalg.svd(b, full_matrices=False)
                floor = xp.finfo(b.dtype).eps * singular[..., :1]  # an exactly singular B has no gradient: keep it finite
                self.wide, self.v, self.singular = left @ right, right.mT, xp.maximum(singular, floor)
            return
        self.precise = True
        # Singular values as the lengths of B's columns in the basis V err by eps, where the roots of the eigenvalues err by
        # cond²·eps.
        left = b @ self.v
        self.singular = xp.sqrt((left * left).sum(axis=-2))
        u = (left / self.singular[..., None, :]) @ self.v.mT
        gram = u.mT @ u
        # One Newton–Schulz step, U (3 I − UᵀU)/2, squares what is left of the orthonormality error.
        gram *= -0.5
        gram.reshape(*gram.shape[:-2], -1)[..., :: gram.shape[-1] + 1] += 1.5
        self.wide = u @ gram

    @property
    def u(self):
        return _as(self.wide, self.like)

    @property
    def condition(self):
        singular = torch.as_tensor(self.singular)
        return float((singular.amax(-1) / singular.amin(-1)).max())

    def vjp(self, grad):
        u, v, row = self.wide, self.v, self.singular[..., None, :]
        grad = _as(grad, u.dtype)
        k = v.mT @ (u.mT @ grad @ v)
        x = (k - k.mT) / (row + row.mT) - k / row  # X − UᵀY S⁻¹, in the basis V
        return _as(grad @ ((v / row) @ v.mT) + u @ (v @ x @ v.mT), self.like)


def _as(array, dtype):
    return array if array.dtype == dtype else array.to(dtype)


class Products:
    """From matrix products, in the dtype of B; torch only. u: the polar factor. like: dtype of the results."""

    precise = True

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
            return Spectral(self.b.double(), self.like).vjp(grad)
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
    if matrix.dtype != torch.float64 and min(rows, columns) >= MANY_CLASSES:
        wide = torch.float32
    return torch, lambda tensor: tensor.detach().to(wide)
