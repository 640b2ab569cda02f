"""Polar factors and Sylvester equations by matrix products, against decompositions in float64 and closed forms."""

import math

import numpy as np
import pytest
import torch

from labkit import etf, nearest
from labkit._fast import polar as _polar


def matrix_with(singular, d, seed=0, dtype=torch.float64):
    """A matrix (d, C) with these singular values, and its polar factor, both known by construction."""
    g = torch.Generator().manual_seed(seed)
    C = len(singular)
    left = etf.haar_frame(d, C, g, dtype=torch.float64)
    right = etf.haar_frame(C, C, g, dtype=torch.float64)
    values = torch.as_tensor(singular, dtype=torch.float64)
    return ((left * values) @ right.mT).to(dtype), left @ right.mT


SPECTRA = {
    "equal": [3.0] * 40,
    "two": [1.0] * 20 + [0.9] * 20,
    "even": np.linspace(0.2, 1, 40),
    "one small": [1.0] * 39 + [1e-2],
    "one large": [100.0] + [1.0] * 39,
    "log-spaced": np.geomspace(1e-3, 1, 40),
    "tiny": np.linspace(0.2, 1, 40) * 1e-9,
}


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_polar_factor(spectrum, dtype):
    singular = SPECTRA[spectrum]
    b, u = matrix_with(singular, 60, dtype=dtype)
    found, condition = _polar.polar_factor(b)
    eps, true = torch.finfo(dtype).eps, max(singular) / min(singular)
    assert torch.linalg.matrix_norm(found.double() - u) < 20 * eps * true * math.sqrt(40)
    assert torch.linalg.matrix_norm(found.mT @ found - torch.eye(40, dtype=dtype)) < 20 * eps * math.sqrt(40)
    least = 0.1 if spectrum == "log-spaced" else 0.95  # Lanczos estimates lie inside the spectrum
    assert least * true < condition < 1.01 * true


@pytest.mark.parametrize("singular", [[1.0] * 5 + [0.0], [1.0] * 5 + [1e-9], [0.0] * 6])
def test_a_singular_matrix_is_refused(singular):
    assert _polar.polar_factor(matrix_with(singular, 8)[0]) is None


def test_polar_factors_of_a_batch():
    pairs = [matrix_with(SPECTRA[name], 60, seed) for seed, name in enumerate(["even", "one small", "equal"])]
    found, _ = _polar.polar_factor(torch.stack([b for b, _ in pairs]))
    torch.testing.assert_close(found, torch.stack([u for _, u in pairs]), rtol=0, atol=1e-11)


def test_an_overlooked_singular_value_costs_steps_only(monkeypatch):
    # Eigenvalue estimates that miss the smallest one by far: the answer must not suffer.
    first = [True]

    def wrong(gram):
        low, high = true_estimate(gram)
        return (0.9 * high, high) if first.pop() else (low, high)

    true_estimate = _polar.extreme_eigenvalues
    monkeypatch.setattr(_polar, "extreme_eigenvalues", lambda gram: wrong(gram) if first else true_estimate(gram))
    b, u = matrix_with(SPECTRA["log-spaced"], 60)
    found, _ = _polar.polar_factor(b)
    assert torch.linalg.matrix_norm(found - u) < 1e-11


@pytest.mark.parametrize("low, high", [(0.5, 1.0), (0.1, 1.0), (1e-3, 1.0), (0.05, 1.3)])
def test_minimax_quintic(low, high):
    a, c, e, error = _polar.minimax(low, high)
    x = np.linspace(low, high, 20001)
    deviation = 1 - (a * x + c * x**3 + e * x**5)
    assert np.abs(deviation).max() == pytest.approx(error, rel=1e-6)
    # Chebyshev: an error that alternates between its extremes four times is the smallest there can be (three
    # coefficients).
    extremes = np.flatnonzero(np.abs(deviation) > error * (1 - 1e-6))
    signs = np.sign(deviation[extremes])
    assert np.count_nonzero(np.diff(signs)) == 3
    assert (a + c * x**2 + e * x**4 > 0).all()  # the polar factor stays


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spectrum", ["equal", "even", "one small", "one large"])
def test_sylvester(spectrum, dtype):
    values = torch.as_tensor(SPECTRA[spectrum], dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    v = etf.haar_frame(40, 40, g, dtype=torch.float64)
    s = (v * values) @ v.mT
    right = torch.randn(40, 40, generator=g, dtype=torch.float64)
    right = right - right.mT
    tolerance = 30 * torch.finfo(dtype).eps
    x = _polar.sylvester(s.to(dtype), right.to(dtype), tolerance * torch.linalg.matrix_norm(right).to(dtype)).double()
    exact = v @ ((v.mT @ right @ v) / (values[:, None] + values)) @ v.mT
    assert torch.linalg.matrix_norm(s @ x + x @ s - right) < 3 * tolerance * torch.linalg.matrix_norm(right)
    assert torch.linalg.matrix_norm(x - exact) < 3 * tolerance * values.max() / values.min() * torch.linalg.matrix_norm(
        exact
    )


def test_sylvester_says_when_it_has_not_arrived():
    s = torch.diag(torch.logspace(-8, 0, 40, dtype=torch.float64))
    right = torch.randn(40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert _polar.sylvester(s, right - right.mT, 1e-12) is None


def test_sylvester_of_zero_is_zero():
    assert torch.equal(_polar.sylvester(torch.eye(5), torch.zeros(5, 5), 1e-6), torch.zeros(5, 5))


# Both ways of `polar.factor` must give the same answers

PROBLEMS = {
    "near an ETF": (1e-3, 0.3),
    "noise": (1e-3, 100.0),
    "weak prox": (1e-5, 0.3),
    "strong prox": (10.0, 0.3),
    "no noise": (1e-3, 0.0),
}


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-3), (torch.float64, 1e-9)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_products_and_eigendecomposition_agree(name, dtype, tolerance, monkeypatch):
    delta, noise = PROBLEMS[name]
    g = torch.Generator().manual_seed(0)
    C, d = 70, 80
    means = (
        etf.simplex_etf(C, frame=etf.haar_frame(d, C, g, dtype=torch.float64))
        + noise * torch.randn(d, C, generator=g, dtype=torch.float64) / d**0.5
    )
    means = means - means.mean(-1, keepdim=True)
    means, cotangent = means / means.norm(), torch.randn(d, C, generator=g, dtype=torch.float64)
    prox = nearest.start_frame(means)

    def solve(dtype):
        x = means.to(dtype).requires_grad_()
        u = nearest.nearest_etf(x, prox.to(dtype), delta)
        return u.detach().double(), torch.autograd.grad(u, x, cotangent.to(dtype))[0].double()

    u, grad = solve(torch.float64)
    monkeypatch.setattr(_polar, "prefers_products", lambda b: True)
    monkeypatch.setattr(_polar, "by_eigenvectors", None)  # from here on, nothing may decompose
    other_u, other_grad = solve(dtype)
    assert torch.linalg.matrix_norm(other_u - u) < (1e-4 if dtype == torch.float32 else 1e-9)
    assert torch.linalg.matrix_norm(other_grad - grad) < tolerance * torch.linalg.matrix_norm(grad)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_decomposition_in_float32_is_as_good(name):
    # Where float32 has too few digits, float64 must take over.
    delta, noise = PROBLEMS[name]
    g = torch.Generator().manual_seed(0)
    C, d = 200, 220
    means = (
        etf.simplex_etf(C, frame=etf.haar_frame(d, C, g, dtype=torch.float64))
        + noise * torch.randn(d, C, generator=g, dtype=torch.float64) / d**0.5
    )
    means = (means / means.norm()).float()
    prox, y = etf.haar_frame(d, C, g), torch.randn(d, C, generator=g)

    def solve(*tensors):
        x = tensors[0].clone().requires_grad_()
        u = nearest.nearest_etf(x, tensors[1], delta)
        return u.detach().double(), torch.autograd.grad(u, x, tensors[2])[0].double()

    (u, grad), (wide_u, wide_grad) = solve(means, prox, y), solve(means.double(), prox.double(), y.double())
    assert torch.linalg.matrix_norm(u - wide_u) < 1e-4
    assert torch.linalg.matrix_norm(grad - wide_grad) < 1e-4 * torch.linalg.matrix_norm(wide_grad)


def test_which_way_is_taken(monkeypatch):
    """Products where they are preferred and converge; eigenvectors otherwise; float32 only where it is enough."""
    taken = []
    for name in ("polar_factor", "by_eigenvectors"):
        true = getattr(_polar, name)
        monkeypatch.setattr(_polar, name, lambda b, name=name, true=true: taken.append((name, b.dtype)) or true(b))
    good, bad, singular = (matrix_with(s, 80)[0] for s in ([1.0] * 70, np.geomspace(0.02, 1, 70), [1.0] * 69 + [0.0]))

    def way(b, single):
        taken.clear()
        u, v, _ = _polar.factor(b, single)
        assert torch.linalg.matrix_norm(u.double().mT @ u.double() - torch.eye(70)) < (1e-4 if single else 1e-10)
        assert u.dtype == taken[-1][1] and (v is None) == (taken[-1][0] == "polar_factor")
        return taken[:]

    eigen, products = ("by_eigenvectors", torch.float64), ("polar_factor", torch.float64)
    assert way(good, True) == [("by_eigenvectors", torch.float32)] and way(good, False) == [eigen]
    assert way(bad, True) == [("by_eigenvectors", torch.float32), eigen]
    monkeypatch.setattr(_polar, "prefers_products", lambda b: True)
    assert way(good, True) == [("polar_factor", torch.float32)] and way(good, False) == [products]
    assert way(singular, True) == [("polar_factor", torch.float32), products, eigen]


def test_products_are_for_many_classes_on_other_devices():
    assert not _polar.prefers_products(torch.empty(80, 70)) and not _polar.prefers_products(torch.empty(80, 10))
    assert _polar.prefers_products(torch.empty(80, 70, device="meta"))
    assert not _polar.prefers_products(torch.empty(80, 10, device="meta"))


def test_a_weak_prox_keeps_its_digits_in_float32():
    # B is the sum of a large term and a small one: formed in float32, the small one would be lost in the first.
    C, d = 70, 80
    g = torch.Generator().manual_seed(0)
    means = etf.simplex_etf(C, d) / math.sqrt(C) + 1e-3 * torch.randn(d, C, generator=g)
    prox = etf.haar_frame(d, C, g)
    u = nearest.nearest_etf(means, prox, 1e-5).double()
    wide = nearest.nearest_etf(means.double(), prox.double(), 1e-5)
    assert torch.linalg.matrix_norm(u - wide) < 2e-5
