"""The polar factor U of a matrix B = U S, and the gradient through it.

Differentiating B = U S (Proposition 1 of Markou et al. 2024, reduced) gives, for a cotangent Y of U, all of size d·C or
C²:

    (I − UUᵀ) Y S⁻¹ + U X,      S X + X S = UᵀY − YᵀU       (a C×C Sylvester equation)

`factor` chooses between two ways to do this: one eigendecomposition, or iterations made of matrix products.
"""

import math

import numpy as np
import torch

# Up to this many multiplications NumPy's matrix products stay on one thread, out of the way of torch's.
NUMPY_SIZE = 1 << 18
# From this many classes on matrix products alone take less time than an eigendecomposition, on a device that is not a
# CPU.
MANY_CLASSES = 64
# Worst condition number for an eigendecomposition of BᵀB: it leaves five digits of U in float32, and nine of the
# gradient in float64.
WORST_CONDITION = {"float32": 20.0, "float64": 3e3}


def factor(b, wider=None):
    """An object with `u`, the polar factor of B (…, d, C), and `vjp`, from a cotangent of U to one of B, both (…, d,
    C).

    b: an array of `backend`. wider(): B anew in float64, for where it is so badly conditioned that float32 has too few
        digits.
    A singular B is no error: U is then one of its polar factors, and vjp finite. The object's `condition` is the
    condition number of B, or an estimate of it from below.
    """
    if isinstance(b, np.ndarray):
        return Spectral(b)
    like, by_products = b.dtype, prefers_products(b)
    if like == torch.float32:
        found = _by_products(b, like) if by_products else Spectral(b)
        if found and found.precise:
            return found
        b = wider() if wider else b.double()
    return (by_products and _by_products(b, like)) or Spectral(b, like)


def _by_products(b, like):
    """None where the iteration does not converge."""
    found = polar_factor(b)
    return found and Products(b, *found, like)


def prefers_products(b):
    return b.device.type != "cpu" and b.shape[-1] >= MANY_CLASSES


class Spectral:
    """From one eigendecomposition of BᵀB = V Λ² Vᵀ, in the dtype of B. like: dtype of the results, that of B when
    omitted.

    In the basis V the symmetric factor S = UᵀB is diagonal, and the Sylvester equation an elementwise division by λ_i +
    λ_j, which has no pole where singular values repeat (the gradient of an SVD has). Everything that can be done on C×C
    matrices is, which leaves five products of size d·C² forward and three backward.

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
                floor = (
                    xp.finfo(b.dtype).eps * singular[..., :1]
                )  # an exactly singular B has no gradient: keep it finite
                self.wide, self.v, self.singular = left @ right, right.mT, xp.maximum(singular, floor)
            return
        self.precise = True
        # Singular values as the lengths of B's columns in the basis V err by eps, where the roots of the eigenvalues
        # err by cond²·eps.
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
        # Near collapse UᵀY is almost symmetric (nothing pulls the frame round): its skew part is wanted to the digits
        # of the whole.
        tolerance = torch.finfo(s.dtype).eps ** 0.75 * torch.linalg.matrix_norm(along, keepdim=True)
        x = sylvester(s, along - along.mT, tolerance)
        if x is None:
            return Spectral(self.b.double(), self.like).vjp(grad)
        across = torch.cholesky_solve((grad - u @ along).mT, torch.linalg.cholesky(s)).mT
        return (across + u @ x).to(self.like)


def backend(matrix):
    """The module to compute with, NumPy or torch, and the function that takes a tensor into its arrays.

    NumPy where `matrix` is small and on a CPU: there a call of torch costs several times one of NumPy (the polar factor
    took 0.5 ms of a UFM-10 step in torch, 0.07 in NumPy). The code between is written in names and arguments that the
    two share.
    The arrays are float64, but for large float32 matrices, where that would double the time.
    """
    *_, rows, columns = matrix.shape
    if matrix.device.type == "cpu" and rows * columns * min(rows, columns) <= NUMPY_SIZE:
        return np, lambda tensor: tensor.detach().double().numpy()
    wide = torch.float64
    if matrix.dtype != torch.float64 and min(rows, columns) >= MANY_CLASSES:
        wide = torch.float32
    return torch, lambda tensor: tensor.detach().to(wide)


# --- by matrix products alone, for GPUs: an eigendecomposition of a large matrix costs far more there than a few
# products ---

LANCZOS_STEPS = 16
MOST_STEPS = 20
# Worst condition number that leaves U with errors of about 1e-5, or of what BᵀB can resolve.
WORST_FOR_PRODUCTS = {torch.float32: 200.0, torch.float64: 1e6}


def polar_factor(b):
    """U = B (BᵀB)^{−1/2} of B (…, d, C), and an estimate from below of B's condition number; None where it did not
    converge.

    X ← X·p(XᵀX) with p quadratic: the singular values σ of X move to σ·p(σ²), while U, the polar factor of X, stays as
    long as p > 0. Newton–Schulz takes one p for ever; here p is at each step the one that brings the whole interval of
    singular values nearest to 1 (minimax, as in Nakatsukasa & Freund 2016 and Amsel et al. 2025), which needs a third
    as many steps. The interval comes from a few Lanczos steps. They may err: U is the polar factor whatever p was, and
    whether X has arrived is seen from ‖XᵀX − I‖_F.
    """
    gram = b.mT @ b
    if not (torch.linalg.matrix_norm(gram) > 0).all():
        return None
    low, high = extreme_eigenvalues(gram)
    condition = float((high / low.clamp(min=0)).max().sqrt())
    if not condition < WORST_FOR_PRODUCTS[b.dtype]:
        return None
    norm = 1.02 * high.sqrt()  # estimates from inside the spectrum: a margin on both ends
    x, gram = b / norm, gram / norm.square()
    other, square = torch.empty_like(x), torch.empty_like(gram)  # fresh memory for each product would cost time
    interval = 0.9 / condition, 1.0
    # Newton–Schulz, p(G) = (3 − G)/2, takes a singular value 1 + ε to 1 − 3/2 ε² − …, so ‖XᵀX − I‖ to at most its
    # square: from `near` to about the rounding error of XᵀX.
    near = math.sqrt(8 * torch.finfo(b.dtype).eps) * b.shape[-1] ** 0.25
    for _ in range(MOST_STEPS):
        distance = float(torch.linalg.matrix_norm(polynomial(gram, square, 1.0, -1.0)).max())
        coefficients = 1.5, -0.5
        if distance >= 0.5:
            if interval[0] > 0.98:  # it should be near by now: a singular value was overlooked
                low, high = extreme_eigenvalues(gram)
                interval = float(0.9 * low.clamp(min=1e-8).min().sqrt()), float(1.02 * high.max().sqrt())
            *coefficients, error = minimax(*interval)
            interval = 1 - error, 1 + error
        x, other = torch.matmul(x, polynomial(gram, square, *coefficients), out=other), x
        if distance < near:
            return x, condition
        torch.matmul(x.mT, x, out=gram)
    return None


def polynomial(gram, out, a, c, e=0.0):
    """a·I + c·G + e·G² of G (…, C, C), in `out`."""
    if e:
        torch.matmul(gram, gram, out=out).mul_(e).add_(gram, alpha=c)
    else:
        torch.mul(gram, c, out=out)
    out.diagonal(dim1=-2, dim2=-1).add_(a)
    return out


def minimax(low, high):
    """The odd quintic a·x + c·x³ + e·x⁵ nearest to 1 on [low, high], as (a, c, e, largest error); 0 < low < high.

    Remez: the error takes its largest size at low, at high and at the two extrema between, with alternating signs.
    """
    middle = (3 * low + high) / 4, (low + 3 * high) / 4
    for _ in range(30):
        points = np.array([low, *middle, high])
        system = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        a, c, e, error = np.linalg.solve(system, np.ones(4))
        root = math.sqrt(9 * c * c - 20 * a * e)  # extrema: a + 3c x² + 5e x⁴ = 0
        found = math.sqrt((-3 * c - root) / (10 * e)), math.sqrt((-3 * c + root) / (10 * e))
        moved, middle = max(abs(x - y) for x, y in zip(found, middle)), found
        if moved < 1e-9 * high:
            break
    return float(a), float(c), float(e), abs(float(error))


def extreme_eigenvalues(gram):
    """Estimates of the smallest and largest eigenvalue of G (…, C, C), symmetric, each (…, 1, 1): from within, by
    Lanczos.

    A fixed start, so that a result is the same each time; full reorthogonalisation. A speck of noise goes on where the
    space of the vectors so far is invariant.
    """
    *batch, n, _ = gram.shape
    noise = torch.randn(n, min(LANCZOS_STEPS, n), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(
        gram
    )
    noise = noise / torch.linalg.vector_norm(noise, dim=0)
    speck = torch.finfo(gram.dtype).eps * torch.linalg.matrix_norm(gram, keepdim=True).clamp(
        min=torch.finfo(gram.dtype).tiny
    )
    basis = noise[:, :1].expand(*batch, n, 1)
    for step in range(1, noise.shape[-1]):
        q = gram @ basis[..., -1:] + speck * noise[:, step : step + 1]
        for _ in range(2):
            q = q - basis @ (basis.mT @ q)
            q = q / torch.linalg.vector_norm(q, dim=(-2, -1), keepdim=True)
        basis = torch.cat([basis, q], -1)
    ritz = torch.linalg.eigvalsh((basis.mT @ (gram @ basis)).double().cpu())
    return ritz[..., :1, None].to(gram), ritz[..., -1:, None].to(gram)


def sylvester(s, right, tolerance, steps=100):
    """X with S X + X S = R for S (…, C, C) symmetric positive definite and R skew, by conjugate gradients; None if not
    converged.

    X is skew like R and so X S = −(S X)ᵀ: one product a step. As many steps are needed as the spectrum of S is wide;
    near collapse it is narrow. tolerance: on ‖residual‖_F, (…, 1, 1) or a number.
    """
    x, residual, direction = torch.zeros_like(right), right.clone(), right.clone()
    product, image = torch.empty_like(right), torch.empty_like(right)  # fresh memory would cost a fifth of the time

    def inner(a, b):
        return torch.mul(a, b, out=product).sum((-2, -1), keepdim=True)

    squared = inner(right, right)
    tiny = torch.finfo(s.dtype).tiny
    cheap = s.device.type == "cpu"  # elsewhere, to look at a number is to wait for it
    for step in range(steps):
        torch.matmul(s, direction, out=product)
        torch.sub(product, product.mT, out=image)
        rate = squared / inner(direction, image).clamp(min=tiny)
        x.addcmul_(rate, direction)
        residual.addcmul_(-rate, image)
        squared, before = inner(residual, residual), squared
        if (cheap or step % 4 == 3) and bool((squared <= tolerance**2).all()):
            return x
        direction.mul_(squared / before.clamp(min=tiny)).add_(residual)
    return None
