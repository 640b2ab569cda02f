"""What must hold of the nearest ETF whatever the problem: shapes, scales, dtypes, ranks; δ = 0; both ways to compute
it.
"""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from labkit import etf
from labkit._fast import polar as _polar
from labkit.nearest import nearest_etf, start_frame

# A dtype's rounding, and how far from orthonormal a frame may be, for each column.
ROUNDING = {torch.bfloat16: 2**-8, torch.float32: 2**-23, torch.float64: 2**-52}


def draw_means(C, d, rank, scale, seed, dtype):
    """Class means of this rank (0: all equal), Frobenius norm `scale`, plus a common offset."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(d, rank, generator=g, dtype=torch.float64) @ torch.randn(
        rank, C, generator=g, dtype=torch.float64
    )
    if rank:
        means = means / means.norm()
    return (scale * (means + torch.randn(d, 1, generator=g, dtype=torch.float64) / math.sqrt(d * C))).to(dtype)


@pytest.fixture(params=["eigendecomposition", "products"])
def way(request, monkeypatch):
    """Every problem is solved both ways: as here, and as on a device where products are preferred."""
    if request.param == "products":
        monkeypatch.setattr(_polar, "prefers_products", lambda b: True)


problems = dict(
    C=st.integers(2, 12),
    extra=st.integers(0, 20),
    rank=st.integers(0, 12),
    scale=st.floats(-6, 6).map(lambda x: 10**x),
    delta=st.floats(-6, 3).map(lambda x: 10**x),
    dtype=st.sampled_from(list(ROUNDING)),
    seed=st.integers(0, 10**6),
)
# Fixtures of function scope are fine here: `way` holds the same for all examples.
relaxed = settings(
    max_examples=60, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@relaxed
@given(**problems)
def test_orthonormal_optimal_and_finite(way, C, extra, rank, scale, delta, dtype, seed):
    d = C + extra
    means = draw_means(C, d, min(rank, C), scale, seed, dtype).requires_grad_()
    prox = etf.haar_frame(d, C, torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    u = nearest_etf(means, prox, delta)
    assert u.dtype == dtype and u.shape == (d, C)
    error = torch.linalg.matrix_norm(u.detach().double().mT @ u.detach().double() - torch.eye(C, dtype=torch.float64))
    assert error <= 30 * ROUNDING[dtype] * math.sqrt(C)

    # U* maximises ⟨U, B⟩ with B in float64 from the inputs as they are; the maximum is the sum of B's singular values.
    wide = means.detach().double()
    b = 2 / math.sqrt(C - 1) * (wide - wide.mean(-1, keepdim=True)) + delta * prox.double()
    best = torch.linalg.svdvals(b).sum()
    assert (u.detach().double() * b).sum() >= best * (1 - 30 * ROUNDING[dtype] * math.sqrt(C))

    (grad,) = torch.autograd.grad(u, means, torch.randn(d, C, generator=torch.Generator().manual_seed(1)).to(dtype))
    assert grad.isfinite().all()


@relaxed
@given(**{**problems, "dtype": st.just(torch.float64), "scale": st.floats(-3, 3).map(lambda x: 10**x)})
def test_no_step_along_the_frames_improves(way, C, extra, rank, scale, delta, dtype, seed):
    d = C + extra
    means = draw_means(C, d, min(rank, C), scale, seed, dtype)
    g = torch.Generator().manual_seed(seed)
    prox = etf.haar_frame(d, C, g, dtype=torch.float64)
    u = nearest_etf(means, prox, delta)
    b = 2 / math.sqrt(C - 1) * (means - means.mean(-1, keepdim=True)) + delta * prox
    for size in (1e-1, 1e-3):
        near, _ = torch.linalg.qr(u + size * torch.randn(d, C, generator=g, dtype=torch.float64))
        near = near * torch.where((near * u).sum(0) < 0, -1.0, 1.0)
        assert (near * b).sum() <= (u * b).sum() + 1e-12 * b.norm()


@relaxed
@given(
    **{
        **problems,
        "dtype": st.just(torch.float64),
        "scale": st.just(1.0),
        "delta": st.floats(-3, 1).map(lambda x: 10**x),
    }
)
def test_equivariance(way, C, extra, rank, scale, delta, dtype, seed):
    # Rotate the features, and the frame rotates; permute the classes (with the columns of prox), and its columns do.
    d = C + extra
    means = draw_means(C, d, C, scale, seed, dtype)
    g = torch.Generator().manual_seed(seed + 1)
    prox, rotation = etf.haar_frame(d, C, g, dtype=torch.float64), etf.haar_frame(d, d, g, dtype=torch.float64)
    order = torch.randperm(C, generator=g)
    y = torch.randn(d, C, generator=g, dtype=torch.float64)

    def solve(means, prox, y):
        means = means.clone().requires_grad_()
        u = nearest_etf(means, prox, delta)
        return u.detach(), torch.autograd.grad(u, means, y)[0]

    b = 2 / math.sqrt(C - 1) * (means - means.mean(-1, keepdim=True)) + delta * prox
    values = torch.linalg.svdvals(b)
    condition = (values[0] / values[-1]).item()
    u, grad = solve(means, prox, y)
    for (other_u, other_grad), move in [
        (solve(rotation @ means, rotation @ prox, rotation @ y), lambda x: rotation @ x),
        (solve(means[:, order], prox[:, order], y[:, order]), lambda x: x[:, order]),
    ]:
        assert torch.linalg.matrix_norm(other_u - move(u)) < 1e-13 * condition * C
        assert (
            torch.linalg.matrix_norm(other_grad - move(grad))
            < 1e-9 * max(1, condition / 100) * torch.linalg.matrix_norm(grad) + 1e-12
        )


# δ = 0


@pytest.mark.parametrize("C, d", [(2, 1), (2, 5), (5, 4), (5, 5), (10, 30)])
def test_without_delta_the_etf_is_the_limit_of_small_delta(way, C, d):
    means = draw_means(C, d, min(C, d), 1.0, 3, torch.float64)
    u = nearest_etf(means, delta=0)
    p = torch.eye(C, dtype=torch.float64) - 1 / C
    torch.testing.assert_close(u.mT @ u, p, rtol=0, atol=1e-12)
    # U*P maximises ⟨U P, H̃⟩: the maximum is the sum of singular values of H̃P.
    assert (u * means).sum().item() == pytest.approx(torch.linalg.svdvals(means @ p).sum().item(), rel=1e-12)
    if d >= C:
        limit = nearest_etf(means, start_frame(means), 1e-7)
        torch.testing.assert_close(etf.simplex_etf(C, frame=u), etf.simplex_etf(C, frame=limit), rtol=0, atol=1e-5)


@pytest.mark.parametrize("C, d", [(2, 1), (5, 4), (6, 9)])
def test_gradient_without_delta(way, C, d):
    means = draw_means(C, d, min(C, d), 1.0, 5, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: nearest_etf(m, delta=0), means, atol=1e-6)


def test_without_delta_at_an_exact_etf(way):
    means = etf.simplex_etf(6, 8, dtype=torch.float64).requires_grad_()
    u = nearest_etf(means, delta=0)
    torch.testing.assert_close(etf.simplex_etf(6, frame=u), means, rtol=0, atol=1e-12)
    u.square().mul(torch.arange(6)).sum().backward()
    assert means.grad.isfinite().all()


@pytest.mark.parametrize("delta", [0, 1e-3])
def test_autocast_changes_nothing(way, delta):
    means = draw_means(70, 80, 70, 1.0, 0, torch.float32).requires_grad_()
    y = torch.randn(80, 70)

    def solve():
        u = nearest_etf(means, delta=delta)
        return u, *torch.autograd.grad(u, means, y)

    with torch.autocast("cpu", torch.bfloat16):
        cast = solve()
    assert all(map(torch.equal, cast, solve()))


# Large problems


@pytest.mark.parametrize("C, d", [(1000, 4096), (2000, 2048)])
def test_large(C, d):
    g = torch.Generator().manual_seed(0)
    means = etf.simplex_etf(C, d) + 0.3 * torch.randn(d, C, generator=g) / d**0.5
    means = (means / means.norm()).requires_grad_()
    prox = etf.canonical_frame(d, C)
    u = nearest_etf(means, prox)
    gram = (u.mT @ u).detach()
    gram.diagonal().sub_(1)
    assert torch.linalg.matrix_norm(gram) <= 1e-5 * math.sqrt(C)
    # Stationary: UᵀB is symmetric and positive definite exactly at the polar factor.
    b = (2 / math.sqrt(C - 1) * (means - means.mean(-1, keepdim=True)) + 1e-3 * prox).detach()
    s = u.detach().mT @ b
    assert torch.linalg.matrix_norm(s - s.mT) < 1e-5 * torch.linalg.matrix_norm(s)
    assert torch.linalg.cholesky_ex(s).info == 0
    (grad,) = torch.autograd.grad(u, means, torch.randn(d, C, generator=g))
    assert grad.isfinite().all()
