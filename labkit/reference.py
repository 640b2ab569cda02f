"""The papers' own algorithms, slow and literal: oracles, which tests and notebooks hold the closed form against."""

import math

import numpy as np
import torch

from labkit import checks, etf


def objective(means: torch.Tensor, prox: torch.Tensor | None, delta: float, frame: torch.Tensor):
    """Value of Eq. 7 (Markou et al. 2024): ‖H̃ − U M̃‖²_F + (δ/2)‖U − U_prox‖²_F, shape (…), for (…, d, C) all.
    prox may be None where δ = 0, and so in `trust_region`; ValueError for None with another δ.

    >>> eye = torch.eye(3)
    >>> objective((eye - 1 / 3) / 2**0.5, eye, 1.0, eye).item()  # a simplex ETF as class means, with its own frame
    0.0
    """
    target = (frame - frame.mean(-1, keepdim=True)) / math.sqrt(means.shape[-1] - 1)
    away = frame - _prox(means, prox, delta)
    return (means - target).square().sum((-2, -1)) + delta / 2 * away.square().sum((-2, -1))


def _prox(means, prox, delta):
    if prox is None and delta != 0:
        raise ValueError(f"with delta={delta!r} there must be a prox, got None; only delta=0 does without")
    return torch.zeros_like(means) if prox is None else prox


def trust_region(
    means: torch.Tensor,
    prox: torch.Tensor | None,
    delta: float,
    start: torch.Tensor | None = None,
    min_gradient_norm: float = 1e-10,
    max_iterations: int = 500,
):
    """Solve Eq. 7 by the Riemannian trust-region method of pymanopt, as the paper does.

    means, prox: (d, C), no batch dimensions. start: frame to start from; when omitted prox, or the canonical one where
    that is None. Returns U (d, C), in the dtype of means; the work is in float64. δ = 0 is allowed here (Eq. 6; the
    answer then depends on start). Needs pymanopt, of the extra `notebooks`.

    >>> means = torch.tensor([[2.0, -2.0], [0.0, 0.0]], dtype=torch.float64)
    >>> prox = torch.eye(2, dtype=torch.float64)
    >>> u = trust_region(means / means.norm(), prox, 1e-3)
    >>> (u.mT @ u).round(decimals=6).abs().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    import pymanopt  # here, so that the library does without it

    d, C = means.shape
    checks.classes(C, d)
    h, u_prox = (t.detach().cpu().double().numpy() for t in (means, _prox(means, prox, delta)))
    m = (np.eye(C) - 1 / C) / math.sqrt(C - 1)
    manifold = pymanopt.manifolds.Stiefel(d, C)

    @pymanopt.function.numpy(manifold)
    def cost(u):
        return np.sum((h - u @ m) ** 2) + delta / 2 * np.sum((u - u_prox) ** 2)

    @pymanopt.function.numpy(manifold)
    def gradient(u):
        return -2 * (h - u @ m) @ m + delta * (u - u_prox)

    @pymanopt.function.numpy(manifold)
    def hessian(u, direction):
        return 2 * direction @ m @ m + delta * direction

    problem = pymanopt.Problem(manifold, cost, euclidean_gradient=gradient, euclidean_hessian=hessian)
    solver = pymanopt.optimizers.TrustRegions(
        min_gradient_norm=min_gradient_norm, max_iterations=max_iterations, max_time=float("inf"), verbosity=0
    )
    start = (etf.canonical_frame(d, C) if prox is None else prox) if start is None else start
    first = start.detach().cpu().double().numpy()
    return torch.from_numpy(solver.run(problem, initial_point=first).point).to(means.device, means.dtype)


def proposition1_vjp(means: torch.Tensor, prox: torch.Tensor, delta: float, U: torch.Tensor, grad_U: torch.Tensor):
    """Gradient with respect to means by the paper's Proposition 1, with its dense matrices, shape (d, C).

    Row-major vectorisation throughout; f is Eq. 7, J(U) = UᵀU − I, and U must solve Eq. 7:

        Dy = G⁻¹Aᵀ(A G⁻¹ Aᵀ)⁻¹(A G⁻¹ B) − G⁻¹B
        A = rvech(D_U J)  (C(C+1)/2 × dC),   B = D²_{H̃U} f  (dC × dC, Eq. 23),   G = D²_{UU} f − I_d ⊗ Σ(U)  (Eq. 49)

    Memory O(d²C²): for small problems only. Computed in float64, returned in the dtype of means; ValueError for δ = 0,
    where G has no inverse. The first term of D_U f has the sign of Eq. 32; Eq. 20 prints the other one. An error in U
    enters Σ times λ_max/λ_min of S, so at δ = 1e-4 this formula is good to about 1e-9 (measured with mpmath) while the
    closed form's gradient is good to 1e-11.

    >>> from labkit.nearest import nearest_etf
    >>> means, prox = torch.tensor([[0.8, -0.5], [0.1, 0.3]], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    >>> U = nearest_etf(means.requires_grad_(), prox, 0.1)
    >>> proposition1_vjp(means, prox, 0.1, U, prox).round(decimals=4).tolist()
    [[-0.159, 0.159], [-0.742, 0.742]]
    >>> torch.autograd.grad(U, means, prox)[0].round(decimals=4).tolist()  # by the closed form
    [[-0.159, 0.159], [-0.742, 0.742]]
    """
    checks.positive("delta", delta)
    d, C = means.shape
    h, u_prox, u, y = (t.detach().double() for t in (means, _prox(means, prox, delta), U, grad_U))
    eye, row_identity = (torch.eye(n, dtype=torch.float64, device=means.device) for n in (C, d))
    p = eye - 1 / C

    gradient = 2 / (C - 1) * u @ p - 2 / math.sqrt(C - 1) * h @ p + delta * (u - u_prox)
    sigma = (gradient.mT @ u + u.mT @ gradient) / 2
    g = torch.kron(row_identity, 2 / (C - 1) * p + delta * eye - sigma)
    b = torch.kron(row_identity, -2 / math.sqrt(C - 1) * p)
    # Row (i ≥ j) of A is the derivative of (UᵀU)_ij: rvec of U (E_ij + E_ji).
    i, j = torch.tril_indices(C, C)
    a = torch.zeros(len(i), d, C, dtype=torch.float64, device=means.device)
    row = torch.arange(len(i))
    a[row, :, i] += u.mT[j]
    a[row, :, j] += u.mT[i]
    a = a.reshape(len(i), d * C)

    g_inverse_at = torch.linalg.solve(g, a.mT)
    g_inverse_b = torch.linalg.solve(g, b)
    dy = g_inverse_at @ torch.linalg.solve(a @ g_inverse_at, a @ g_inverse_b) - g_inverse_b
    return (y.reshape(-1) @ dy).reshape(d, C).to(means.dtype)
