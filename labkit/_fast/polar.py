"""The polar factor U of a matrix B = U S, and the gradient through it.

Differentiating B = U S (Proposition 1 of Markou et al. 2024, reduced) gives, for a cotangent Y of U:

    (I − UUᵀ) Y S⁻¹ + U X,      S X + X S = UᵀY − YᵀU       (a C×C Sylvester equation)

There are two ways to do this: one eigendecomposition, or iterations made of matrix products. The second is for GPUs,
where an eigendecomposition of a large matrix costs far more than a few products.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch

# From this many classes on float32 saves much time, and elsewhere than on a CPU products are preferred.
MANY_CLASSES = 64
# Worst condition number for an eigendecomposition of BᵀB: five digits of U in float32, nine of the gradient in float64.
WORST_CONDITION = {torch.float32: 20.0, torch.float64: 3e3}


def full_precision(function: Callable):
    """function(…) as it is without autocast, whose half precision is not enough for the arithmetic here. The device is
    that of the first tensor among the arguments.
    """

    @functools.wraps(function)
    def inner(*arguments, **more):
        device = next(a for a in arguments if isinstance(a, torch.Tensor)).device.type
        if not torch.is_autocast_enabled(device):
            return function(*arguments, **more)
        with torch.autocast(device, enabled=False):
            return function(*arguments, **more)

    return inner


def transformed():
    """Whether torch.compile or torch.func is at work: values cannot be looked at, and nothing can depend on them."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def scaled(b):
    """B over its largest entry in size: of the same polar factor, and its squares neither overflow nor underflow.

    The divisor is a constant for the gradient, which is that of B all the same, since the factor ignores it.
    """
    largest = torch.linalg.vector_norm(b.detach(), math.inf, dim=(-2, -1), keepdim=True)
    return b / largest.masked_fill(largest == 0, 1)


class Polar(torch.autograd.Function):
    """U (…, d, C) of B (…, d, C) in float64, then what its gradient needs; differentiable any number of times.

    single: whether float32 will do for the work, where B is conditioned well enough for it.
    A singular B is no error: U is then one of its polar factors, and the gradient finite.
    """

    @staticmethod
    def forward(b, single):
        return factor(b, single)

    @staticmethod
    def setup_context(ctx, inputs, output):
        u, v, singular = output
        ctx.mark_non_differentiable(*[t for t in (v, singular) if t is not None])
        ctx.save_for_backward(inputs[0], u, v, singular)

    @staticmethod
    @full_precision
    def backward(ctx, grad, *_):
        b, u, v, singular = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _vjp(b, u.to(b.dtype), grad.to(b.dtype)), None
        if v is None:
            return _vjp_by_products(b, u, grad).to(b.dtype), None
        return _vjp_by_eigenvectors(u, v, singular, grad).to(b.dtype), None

    @staticmethod
    def vmap(info, in_dims, b, single):
        return Polar.apply(b.movedim(in_dims[0], 0), single), (0, 0, 0)


def factor(b, single=False):
    """U of B, and the eigenvectors V (…, C, C) and singular values (…, C) of B; these None where products did it."""
    if transformed():
        left, singular, right = torch.linalg.svd(b, full_matrices=False)
        return left @ right, right.mT.contiguous(), singular.clamp(min=torch.finfo(b.dtype).eps * singular[..., :1])
    for dtype in (torch.float32, torch.float64)[not single :]:
        if prefers_products(b):
            if found := polar_factor(b.to(dtype)):
                return found[0], None, None
        elif found := by_eigenvectors(b.to(dtype)):
            return found
    return by_eigenvectors(b)


def prefers_products(b):
    return b.device.type != "cpu" and b.shape[-1] >= MANY_CLASSES


def by_eigenvectors(b):
    """U, V and the singular values from one eigendecomposition BᵀB = V Λ² Vᵀ; None where float32 has too few digits.

    In the basis V the symmetric factor S = UᵀB is diagonal, and the Sylvester equation an elementwise division by λ_i +
    λ_j, which has no pole where singular values repeat (the gradient of an SVD has). In float64 an SVD takes over where
    B is too badly conditioned.
    """
    if b.ndim == 3 and len(b) == 1:  # one matrix is multiplied twice as fast as a batch of one
        found = by_eigenvectors(b[0])
        return found and tuple(t.unsqueeze(0) for t in found)
    squared, v = torch.linalg.eigh(b.mT @ b)
    if (squared[..., 0] * WORST_CONDITION[b.dtype] ** 2 < squared[..., -1]).any():
        if b.dtype == torch.float32:
            return None
        left, singular, right = torch.linalg.svd(b, full_matrices=False)
        floor = torch.finfo(b.dtype).eps * singular[..., :1]  # an exactly singular B has no gradient: keep it finite
        return left @ right, right.mT, torch.maximum(singular, floor)
    # As lengths of B's columns in the basis V singular values err by eps, as roots of the eigenvalues by cond²·eps.
    left = b @ v
    singular = torch.linalg.vector_norm(left, dim=-2)
    u = left @ (v / singular.unsqueeze(-2)).mT
    # One Newton–Schulz step, U (3 I − UᵀU)/2, squares what is left of the orthonormality error.
    gram = u.mT @ u
    return u @ polynomial(gram, gram, 1.5, -0.5), v, singular


def _vjp_by_eigenvectors(u, v, singular, grad):
    if u.ndim == 3 and len(u) == 1:
        return _vjp_by_eigenvectors(u[0], v[0], singular[0], grad[0]).unsqueeze(0)
    row, u, grad = singular.unsqueeze(-2), u @ v, grad.to(u.dtype) @ v  # all in the basis V, where S is diagonal
    k = u.mT @ grad
    x = (k - k.mT) / (row + row.mT) - k / row  # X − UᵀY S⁻¹
    return (grad / row + u @ x) @ v.mT


def _vjp_by_products(b, u, grad):
    grad = grad.to(u.dtype)
    s, along = _symmetric(u.mT @ b.to(u.dtype)), u.mT @ grad
    # Near collapse UᵀY is almost symmetric: its skew part is wanted to the digits of the whole.
    tolerance = torch.finfo(s.dtype).eps ** 0.75 * torch.linalg.matrix_norm(along, keepdim=True)
    x = sylvester(s, along - along.mT, tolerance)
    if x is None:
        return _vjp_by_eigenvectors(*by_eigenvectors(b.double()), grad)
    across = torch.cholesky_solve((grad - u @ along).mT, torch.linalg.cholesky(s)).mT
    return across + u @ x


def _vjp(b, u, grad):
    """The formula in operations that are differentiable themselves."""
    s, along = _symmetric(u.mT @ b), u.mT @ grad
    across = torch.linalg.solve(s, grad - u @ along, left=False)
    return across + u @ Sylvester.apply(s, along - along.mT)


def _symmetric(s):
    return (s + s.mT) / 2


class Sylvester(torch.autograd.Function):
    """X with S X + X S = R, for S (…, C, C) symmetric positive definite; differentiable any number of times."""

    @staticmethod
    def forward(s, right):
        values, v = torch.linalg.eigh(s)
        return v @ ((v.mT @ right @ v) / (values.unsqueeze(-1) + values.unsqueeze(-2))) @ v.mT

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    @full_precision
    def backward(ctx, grad):
        s, x = ctx.saved_tensors
        w = Sylvester.apply(s, grad)  # the map from X to S X + X S is its own adjoint
        return -(w @ x.mT + x.mT @ w), w

    @staticmethod
    def vmap(info, in_dims, s, right):
        s, right = (t if dim is None else t.movedim(dim, 0) for t, dim in zip((s, right), in_dims))
        return Sylvester.apply(*torch.broadcast_tensors(s, right)), 0


LANCZOS_STEPS = 16
MOST_STEPS = 20
# Worst condition number that leaves U with errors of about 1e-5, or of what BᵀB can resolve.
WORST_FOR_PRODUCTS = {torch.float32: 200.0, torch.float64: 1e6}


def polar_factor(b):
    """U = B (BᵀB)^{−1/2} of B (…, d, C), and a lower estimate of B's condition number; None where it did not converge.

    X ← X·p(XᵀX) with p quadratic moves the singular values σ of X to σ·p(σ²), and its polar factor stays as long as
    p > 0. Here p brings at each step the whole interval of singular values nearest to 1 (minimax, as in Nakatsukasa &
    Freund 2016 and Amsel et al. 2025), in a third as many steps as Newton–Schulz. The interval comes from a few Lanczos
    steps. They may err: whether X has arrived is seen from ‖XᵀX − I‖_F.
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
    # Newton–Schulz, p(G) = (3 − G)/2, takes ‖XᵀX − I‖ to at most its square: from `near` to about XᵀX's rounding error.
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


def of_many(b):
    """`polar_factor` of a matrix of many columns, where values can be looked at; None otherwise."""
    return polar_factor(b) if b.shape[-1] >= MANY_CLASSES and not transformed() else None


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

    Remez: the error is largest, with alternating signs, at low, at high and at the two extrema between.
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
    """Estimates from within, by Lanczos, of the extreme eigenvalues of G (…, C, C), symmetric, each (…, 1, 1).

    From a fixed start, with full reorthogonalisation. A speck of noise goes on where the space so far is invariant.
    """
    *batch, n, _ = gram.shape
    generator, info = torch.Generator().manual_seed(0), torch.finfo(gram.dtype)
    noise = torch.randn(n, min(LANCZOS_STEPS, n), generator=generator, dtype=torch.float64, device="cpu").to(gram)
    noise = noise / torch.linalg.vector_norm(noise, dim=0)
    speck = info.eps * torch.linalg.matrix_norm(gram, keepdim=True).clamp(min=info.tiny)
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
    """X with S X + X S = R, S (…, C, C) positive definite, R skew, by conjugate gradients; None where they fail.

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
