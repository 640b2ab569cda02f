"""Polar factors and Sylvester equations by matrix products alone, for large matrices and for GPUs.

An eigendecomposition of a 1000×1000 matrix costs as much as ten or more products of that size on a CPU, and far more on a GPU.
The iterations here are made of products. Each knows when it has arrived, by a bound that its last step proves, and says so
when it has not; `polar` then decomposes after all.
"""

import math

import numpy as np
import torch

LANCZOS_STEPS = 16
MOST_STEPS = 20
# Worst condition number that leaves U with errors of about 1e-5, or of what BᵀB can resolve.
WORST_CONDITION = {torch.float32: 200.0, torch.float64: 1e6}


def polar_factor(b):
    """U = B (BᵀB)^{−1/2} of B (…, d, C), and an estimate from below of B's condition number; None where it did not converge.

    X ← X·p(XᵀX) with p quadratic: the singular values σ of X move to σ·p(σ²), while U, the polar factor of X, stays as long as
    p > 0. Newton–Schulz takes one p for ever; here p is at each step the one that brings the whole interval of singular values
    nearest to 1 (minimax, as in Nakatsukasa & Freund 2016 and Amsel et al. 2025), which needs a third as many steps. The
    interval comes from a few Lanczos steps. They may err: U is the polar factor whatever p was, and whether X has arrived is seen
    from ‖XᵀX − I‖_F.
    """
    gram = b.mT @ b
    if not (torch.linalg.matrix_norm(gram) > 0).all():
        return None
    low, high = extreme_eigenvalues(gram)
    condition = float((high / low.clamp(min=0)).max().sqrt())
    if not condition < WORST_CONDITION[b.dtype]:
        return None
    norm = 1.02 * high.sqrt()  # estimates from inside the spectrum: a margin on both ends
    x, gram = b / norm, gram / norm.square()
    other, square = torch.empty_like(x), torch.empty_like(gram)  # fresh memory for each product would cost time
    interval = 0.9 / condition, 1.0
    # Newton–Schulz, p(G) = (3 − G)/2, takes a singular value 1 + ε to 1 − 3/2 ε² − …, so ‖XᵀX − I‖ to at most its square: from
    # `near` to about the rounding error of XᵀX.
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
    """Estimates of the smallest and largest eigenvalue of G (…, C, C), symmetric, each (…, 1, 1): from within, by Lanczos.

    A fixed start, so that a result is the same each time; full reorthogonalisation. A speck of noise goes on where the
    space of the vectors so far is invariant.
    """
    *batch, n, _ = gram.shape
    noise = torch.randn(n, min(LANCZOS_STEPS, n), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(gram)
    noise = noise / torch.linalg.vector_norm(noise, dim=0)
    speck = torch.finfo(gram.dtype).eps * torch.linalg.matrix_norm(gram, keepdim=True).clamp(min=torch.finfo(gram.dtype).tiny)
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
    """X with S X + X S = R for S (…, C, C) symmetric positive definite and R skew, by conjugate gradients; None if not converged.

    X is skew like R and so X S = −(S X)ᵀ: one product a step. As many steps are needed as the spectrum of S is wide; near
    collapse it is narrow. tolerance: on ‖residual‖_F, (…, 1, 1) or a number.
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
