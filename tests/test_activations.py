"""APA and AGLU against mpmath at 50 digits, closed forms and plain autograd; and everything torch may do with them."""

import functools
import itertools
import math
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from mpmath import mp, mpf

from labkit._fast import adaptive as _adaptive
from labkit.activations import AGLU, aglu, apa

FUNCTIONS = pytest.mark.parametrize("function", [apa, aglu])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def composite(z, kappa, lam, gated=True):
    """The plain formula, for autograd to differentiate."""
    eta = (lam * torch.exp(-kappa * z) + 1) ** (-1 / lam)
    return z * eta if gated else eta


def inputs(*shape, seed=0, dtype=torch.float64, channels=None):
    """z, κ, λ that need gradients, with λ in 0.1 … 2.1; one pair for each of the channels where there are some."""
    g = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(shape, generator=g, dtype=torch.float64)
    pair = () if channels is None else (channels,)
    kappa, lam = (torch.rand(pair, generator=g, dtype=torch.float64) * 2 + 0.1 for _ in range(2))
    return [t.to(dtype).requires_grad_() for t in (z, kappa, lam)]


def gradients(function, z, kappa, lam, **options):
    """Value and gradients of each number of z, (numbers,) each, with κ and λ of its own: every number is a channel."""
    z, kappa, lam = z.reshape(1, -1).requires_grad_(), kappa.clone().requires_grad_(), lam.clone().requires_grad_()
    out = function(z, kappa, lam, **options)
    return [t.detach().flatten() for t in (out, *torch.autograd.grad(out.sum(), (z, kappa, lam)))]


# --- 50 digits ----------------------------------------------------------------------------------------------------


@functools.cache
def exact(z, kappa, lam, gated):
    """ln η, and the terms whose sums are the value and its derivatives in z, κ and λ."""
    with mp.workdps(50):
        z, kappa, lam = mpf(z), mpf(kappa), mpf(lam)
        e = mp.exp(-kappa * z)
        with mp.workdps(170):  # so that the bracket has 50 digits left where it cancels
            log = mp.log1p(lam * e)
            bracket = (log - lam * e / (1 + lam * e)) / lam**2
        eta, q, outer = mp.exp(-log / lam), e / (1 + lam * e), z if gated else mpf(1)
        in_z = [eta, z * kappa * eta * q] if gated else [kappa * eta * q]
        return -log / lam, [[outer * eta], in_z, [outer * z * eta * q], [outer * eta * bracket]]


def points(dtype):
    """A grid and random points of the box |z| ≤ 30, |κ| ≤ 2, 1e-8 ≤ λ ≤ 10, rounded to dtype: z, κ, λ."""
    r = random.Random(0)
    grid = (-30, -3, -1, 0, 0.1, 1, 10, 30), (-2, -0.1, 0, 1, 2), (1e-8, 1e-5, 1e-3, 0.1, 0.5, 1, 10)
    rows = list(itertools.product(*grid))
    for spread in (
        lambda: r.uniform(-30, 30),
        lambda: r.gauss(0, 2),
        lambda: r.choice((-1, 1)) * 10 ** r.uniform(-3, 1.47),
    ):
        rows += [(spread(), r.uniform(-2, 2), 10 ** r.uniform(-8, 1)) for _ in range(300)]
    # Where η is too small for a normal number and z²q²·η is not: its digits must not be lost with those of η.
    smallest = math.log(-math.log(torch.finfo(dtype).tiny))
    for _ in range(200):
        z = r.choice((-1, 1)) * r.uniform(15, 30)
        rows.append((z, -r.uniform(smallest, smallest + 0.15) / z, 10 ** r.uniform(-8, -5)))
    return torch.tensor(rows, dtype=torch.float64).to(dtype).unbind(1)


def by_vmap(function, z, kappa, lam):
    """The same as `gradients` by torch.func, which takes the way of gradients that are differentiated again."""
    slopes = torch.func.vmap(torch.func.grad(function, argnums=(0, 1, 2)))(z, kappa, lam)
    return [torch.func.vmap(function)(z, kappa, lam), *slopes]


def one_by_one(function, z, kappa, lam):
    """The same with one κ and one λ for all numbers of a call, here a single number."""
    return [torch.stack(t) for t in zip(*(map(torch.squeeze, _single(function, *p)) for p in zip(z, kappa, lam)))]


def _single(function, *point):
    point = [t.clone().requires_grad_() for t in point]
    out = function(*point)
    return [out.detach(), *torch.autograd.grad(out, point)]


@FUNCTIONS
@DTYPES
@pytest.mark.parametrize("how", [gradients, by_vmap, one_by_one])
def test_values_and_gradients_have_their_digits(function, dtype, how):
    # Relative to the sum of the absolute values of the terms: ∂AGLU/∂z = η + κzηq has a root near κz = −1.28, around
    # which the error of a sum of two rounded terms, relative to that sum, has no bound. The others have one term.
    near, far = (1e-5, 1e-3) if dtype == torch.float32 else (1e-12, 1e-9)
    z, kappa, lam = points(dtype)
    worst = {}
    columns = [t.tolist() for t in (z, kappa, lam, *how(function, z, kappa, lam))]
    for row in zip(*columns):
        log_eta, wanted = exact(*row[:3], gated=function is aglu)
        for name, value, terms in zip(("value", "z", "kappa", "lam"), row[3:], wanted):
            true, scale = sum(terms), sum(map(abs, terms))
            assert math.isfinite(value) or abs(true) > torch.finfo(dtype).max, (name, row, value)
            if torch.finfo(dtype).tiny <= abs(true) <= torch.finfo(dtype).max:
                key = name, abs(log_eta) <= 5
                worst[key] = max(worst.get(key, (0, ())), (float(abs(mpf(value) - true) / scale), row))
            elif true == 0:
                assert value == 0
    assert len(worst) == 8
    assert {key: error for key, error in worst.items() if not error[0] <= (near if key[1] else far)} == {}


@FUNCTIONS
@DTYPES
def test_nothing_overflows_far_outside(function, dtype):
    products = [sign * 10.0**power for sign in (-1, 1) for power in (-30, -3, 0, 1, 1.5, 1.8, 2, 2.5, 3, 4)] + [0.0]
    lambdas = [10.0**power for power in (-30, -20, -10, -4, -2, 0, 1, 2, 3)]
    rows = [(x / kappa, kappa, lam) for x in products for kappa in (-1e3, -1, -1e-3, 1e-3, 1, 1e3) for lam in lambdas]
    z, kappa, lam = torch.tensor(rows, dtype=dtype).unbind(1)
    for t in gradients(function, z, kappa, lam):
        assert t.isfinite().all()
    arguments = [t.requires_grad_() for t in (z, kappa, lam)]
    first = torch.autograd.grad(function(z.unsqueeze(0), kappa, lam).sum(), arguments, create_graph=True)
    for t in torch.autograd.grad(sum(t.sum() for t in first), arguments):
        assert t.isfinite().all()


@DTYPES
def test_e_to_the_minus_kappa_z_may_overflow(dtype):
    # e^{10000}, of which λ = 1000 leaves η = e^{−(10000 + ln 1000)/1000}
    z, true = torch.tensor(-1e4, dtype=dtype, requires_grad=True), math.exp(-(1e4 + math.log(1e3)) / 1e3)
    out = apa(z, 1.0, 1e3)
    out.backward()
    assert out.item() == pytest.approx(true, rel=1e-5)
    assert z.grad.item() == pytest.approx(true / 1e3, rel=1e-5)


@FUNCTIONS
@DTYPES
@pytest.mark.parametrize("how", [gradients, by_vmap, one_by_one])
def test_gradients_where_e_to_the_minus_kappa_z_is_next_to_nothing(function, dtype, how):
    """It was held at 2^−96 in float32, which a large z² made 50."""
    z = [1e4, 1e8, 1e12, 1e15, 1e18]
    rows = [(x, kz / x, lam) for x in z for kz in (60, 66, 67, 70, 80, 630) for lam in (1e-8, 0.5, 1.0, 10.0)]
    rows += [(1e15, 1.0, 1.0), (3e18, 1.0, 0.1)]
    point = torch.tensor(rows, dtype=torch.float64).to(dtype).unbind(1)
    for row, *found in zip(zip(*(t.tolist() for t in point)), *(t.tolist() for t in how(function, *point))):
        _, wanted = exact(*row, gated=function is aglu)
        for name, value, terms in zip(("value", "z", "kappa", "lam"), found, wanted):
            # κz is rounded before the power is taken, and powers below the smallest normal number are lost.
            near = torch.finfo(dtype).eps * (row[0] * row[1] + 500)
            assert value == pytest.approx(float(sum(terms)), rel=near, abs=row[0] ** 2 * torch.finfo(dtype).tiny), (
                row,
                name,
            )


@FUNCTIONS
@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("numbers", [30, 300_000])
def test_large_numbers_among_others_do_not_enter_the_sums(function, channels, half, numbers):
    z = torch.randn(numbers // 3, 3, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16 if half else None)
    pair = [torch.full(() if channels is None else (channels,), x, requires_grad=True) for x in (1.0, 0.5)]
    large = torch.cat([z, torch.full((1, 3), 1e15, dtype=z.dtype)])
    # Of κ and λ they add nothing at all.
    found, wanted = (torch.autograd.grad(function(x, *pair).float().sum(), pair) for x in (large, z))
    for ours, theirs in zip(found, wanted):
        torch.testing.assert_close(ours, theirs, rtol=1e-3 if half else 1e-4, atol=1e-4)


@DTYPES
def test_infinite_z(dtype):
    assert apa(torch.tensor([-math.inf, math.inf], dtype=dtype), 1.0, 0.5).tolist() == [0, 1]
    assert aglu(torch.tensor(math.inf, dtype=dtype), 1.0, 0.5).item() == math.inf


# --- closed forms and autograd ------------------------------------------------------------------------------------


def test_lambda_one_is_sigmoid_and_silu():
    z, kappa, _ = inputs(50)
    assert_same(lambda: apa(z, kappa, 1.0), lambda: torch.sigmoid(kappa * z), z, kappa)
    assert_same(lambda: aglu(z, 1.0, 1), lambda: torch.nn.functional.silu(z), z)


def assert_same(ours, other, *arguments, **tolerance):
    """The same values, and gradients of the arguments."""
    a, b = ours(), other()
    torch.testing.assert_close(a, b, **tolerance)
    weights = torch.randn(a.shape, generator=torch.Generator().manual_seed(1), dtype=a.dtype)
    found, wanted = (torch.autograd.grad(out, arguments, weights) for out in (a, b))
    torch.testing.assert_close(found, wanted, **tolerance)


def test_small_lambda_is_gumbel():
    z, kappa, _ = inputs(50, channels=50)
    gumbel = lambda: torch.exp(-torch.exp(-kappa * z))
    assert_same(lambda: apa(z[None], kappa, 1e-8)[0], gumbel, z, kappa, rtol=1e-5, atol=1e-9)
    z, kappa = z.detach(), kappa.detach()
    slope = gradients(apa, z, kappa, torch.full_like(z, 1e-8))[3]
    torch.testing.assert_close(slope, gumbel() * torch.exp(-2 * kappa * z) / 2, rtol=1e-5, atol=1e-9)


@FUNCTIONS
def test_against_autograd_of_the_plain_formula(function):
    z, kappa, lam = inputs(4, 5, 2, 3, channels=5)
    plain = lambda: composite(z, kappa.view(5, 1, 1), lam.view(5, 1, 1), function is aglu)
    assert_same(lambda: function(z, kappa, lam), plain, z, kappa, lam, rtol=1e-10, atol=1e-12)


@FUNCTIONS
@pytest.mark.parametrize("kappa_shape, lam_shape", [((), ()), ((3,), (3,)), ((), (3,)), ((3,), ())])
def test_first_and_second_derivatives(function, kappa_shape, lam_shape):
    z, kappa, lam = inputs(2, 3, 2, channels=3)
    kappa = kappa.detach()[: math.prod(kappa_shape)].reshape(kappa_shape).requires_grad_()
    lam = lam.detach()[: math.prod(lam_shape)].reshape(lam_shape).requires_grad_()
    assert torch.autograd.gradcheck(function, (z, kappa, lam), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, (z, kappa, lam), check_batched_grad=True)


def test_second_derivatives_at_a_small_lambda():
    # Autograd of 1/λ² times a difference would have no digit left here.
    z, kappa, lam = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.7, 1.3, 1e-6))
    slopes = torch.autograd.grad(apa(z, kappa, lam), (z, kappa, lam), create_graph=True)
    with mp.workdps(80):
        eta = lambda z, kappa, lam: mp.exp(-mp.log1p(lam * mp.exp(-kappa * z)) / lam)
        for slope, order in zip(slopes, ((1, 0, 1), (0, 1, 1), (0, 0, 2))):
            true = mp.diff(eta, (mpf(0.7), mpf(1.3), mpf(1e-6)), order, h=mpf(10) ** -30)
            (found,) = torch.autograd.grad(slope, lam, retain_graph=True)
            assert found.item() == pytest.approx(float(true), rel=1e-9)


def test_the_supplements_equation_6():
    z, kappa, lam = (t.detach() for t in inputs(200, channels=200))
    z[0] = 0
    for function, outer in ((aglu, z), (apa, torch.ones_like(z))):
        value, *slopes, of_lam = gradients(function, z, kappa, lam)
        paper_value, *paper_slopes, paper_of_lam = gradients(function, z, kappa, lam, lambda_gradient="paper")
        assert torch.equal(paper_value, value) and all(map(torch.equal, paper_slopes, slopes))
        eta = composite(z, kappa, lam, gated=False)
        torch.testing.assert_close(paper_of_lam, -outer / lam * eta / (lam + torch.exp(kappa * z)))
        # The sign of the true derivative is reversed everywhere, for AGLU but at z = 0, where both are 0.
        assert torch.equal(torch.sign(paper_of_lam), -torch.sign(of_lam))
        assert torch.equal(of_lam != 0, outer != 0)


# --- shapes and dtypes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3), (2, 3, 4, 5), (2, 3, 0)])
def test_shape_is_that_of_z(shape):
    z = torch.randn(shape, requires_grad=True)
    out = aglu(z, 1.1, 0.3)
    out.sum().backward()
    assert out.shape == z.grad.shape == shape


@FUNCTIONS
@pytest.mark.parametrize("channels", [None, 6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last, "sliced"])
def test_blocks_change_nothing(function, channels, layout, monkeypatch):
    torch.manual_seed(0)  # sums of terms of both signs, which may all but cancel
    z, kappa, lam = inputs(5, 6, 7, 8, channels=channels)
    z = z.detach()[..., ::2] if layout == "sliced" else z.detach().contiguous(memory_format=layout)
    z.requires_grad_()
    wanted = function(z, kappa, lam)
    weights = torch.randn(z.shape, dtype=z.dtype)
    slopes = torch.autograd.grad(wanted, (z, kappa, lam), weights)
    for block in (1, 50, 700):
        monkeypatch.setattr(_adaptive, "BLOCK", block)
        out = function(z, kappa, lam)
        torch.testing.assert_close(out, wanted, rtol=1e-14, atol=0)
        torch.testing.assert_close(torch.autograd.grad(out, (z, kappa, lam), weights), slopes, rtol=1e-12, atol=1e-14)
        assert layout == "sliced" or out.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("shape", [(10**6,), (100, 16, 625), (64, 16, 2500), (3, 3, 90_000), (1, 7, 200_000)])
def test_blocks_are_few_and_hold_every_number_once(shape):
    pieces = [piece for piece, _ in _adaptive._cut(torch.arange(math.prod(shape)).view(shape), None)]
    sizes = [piece.numel() for piece in pieces]
    assert max(sizes) <= _adaptive.BLOCK and len(sizes) < 1.5 * math.prod(shape) / _adaptive.BLOCK + 1
    assert torch.cat([piece.flatten() for piece in pieces]).sort().values.equal(torch.arange(math.prod(shape)))


@FUNCTIONS
@pytest.mark.parametrize("channels", [None, 4])
@pytest.mark.parametrize("wanted", ["z", "kappa", "lam"])
@pytest.mark.parametrize("numbers", [400, _adaptive.BLOCK + 400], ids=["at once", "blocks"])
def test_the_gradient_of_one_argument_where_the_others_have_none(function, channels, wanted, numbers):
    arguments = dict(zip(("z", "kappa", "lam"), (t.detach() for t in inputs(numbers // 4, 4, channels=channels))))
    arguments[wanted].requires_grad_()
    z, kappa, lam = arguments.values()
    assert_same(
        lambda: function(z, kappa, lam),
        lambda: composite(z, kappa, lam, function is aglu),
        arguments[wanted],
        rtol=1e-9,
        atol=1e-12,
    )


@FUNCTIONS
@pytest.mark.parametrize("channels", [None, 4])
@pytest.mark.parametrize("numbers", [412, _adaptive.BLOCK + 412], ids=["at once", "blocks"])
def test_the_default_device_changes_nothing(function, channels, numbers):
    arguments = inputs(numbers // 4, 4, channels=channels)
    wanted = function(*arguments)
    slopes = torch.autograd.grad(wanted.square().sum(), arguments)
    _adaptive._number.cache_clear()
    with torch.device("meta"):
        found = function(*arguments)
        assert found.equal(wanted)
        assert all(map(torch.equal, torch.autograd.grad(found.square().sum(), arguments), slopes))


@FUNCTIONS
def test_many_gradients_at_once(function):
    z, kappa, lam = inputs(_adaptive.BLOCK + 1)
    out, weights = function(z, kappa, lam), torch.randn(2, len(z), dtype=z.dtype)
    found = torch.autograd.grad(out, (z, kappa, lam), weights, is_grads_batched=True, retain_graph=True)
    for i, w in enumerate(weights):
        wanted = torch.autograd.grad(out, (z, kappa, lam), w, retain_graph=True)
        torch.testing.assert_close([t[i] for t in found], list(wanted))


def test_calls_from_several_threads_do_not_disturb_each_other():
    act = AGLU().double()

    def slopes(seed):
        z = torch.randn(150_000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
        return torch.autograd.grad(act(z).square().sum(), (z, act.kappa, act.lam))

    wanted = [slopes(seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        for a, b in zip(pool.map(slopes, range(12)), wanted):
            assert all(map(torch.equal, a, b))


@FUNCTIONS
@pytest.mark.parametrize("dtype, digits", [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
def test_half_types_are_computed_in_float32(function, dtype, digits):
    z, kappa, lam = inputs(3, 4, 500, dtype=torch.float32, channels=4)
    half = z.detach().to(dtype).requires_grad_()
    wide = half.detach().float().requires_grad_()
    out, wanted = function(half, kappa, lam), function(wide, kappa, lam)
    weights = torch.randn(out.shape).to(dtype)
    found = torch.autograd.grad(out, (half, kappa, lam), weights)
    slopes = torch.autograd.grad(wanted, (wide, kappa, lam), weights.float())
    assert [t.dtype for t in (out, *found)] == [dtype, dtype, torch.float32, torch.float32]
    for a, b in ((out, wanted), (found[0], slopes[0])):
        torch.testing.assert_close(a.float(), b, rtol=digits, atol=1e-7)
    torch.testing.assert_close(found[1:], slopes[1:], rtol=1e-6, atol=1e-6)  # rounded nowhere, the sums least of all


def test_parameters_of_another_dtype_than_z():
    z, kappa, lam = inputs(4, 3, channels=3)
    out = aglu(z.float(), kappa, lam)
    out.sum().backward()
    assert out.dtype == torch.float32 and z.grad.dtype == kappa.grad.dtype == lam.grad.dtype == torch.float64
    assert aglu(z, kappa.float(), 0.5).dtype == torch.float64


# --- torch.compile and torch.func ---------------------------------------------------------------------------------


@FUNCTIONS
def test_compiled_functions(function):
    z, kappa, lam = inputs(3, 4, dtype=torch.float32)
    options = dict(fullgraph=True, backend="aot_eager", dynamic=True)
    for arguments in ((1.1, 0.3), (torch.tensor(1.1), lam), (kappa, lam)):
        torch._dynamo.reset()
        compiled = torch.compile(lambda z, kappa, lam: function(z, kappa, lam), **options)
        assert_same(lambda: compiled(z, *arguments), lambda: function(z, *arguments), z)
    bf16 = z.detach().bfloat16()
    torch.testing.assert_close(compiled(bf16, kappa, lam), function(bf16, kappa, lam))


@FUNCTIONS
def test_func_transforms(function):
    z, kappa, lam = (t.detach() for t in inputs(4, 3, 2, channels=3))
    total = lambda z, kappa, lam: function(z, kappa, lam).sum()
    single = torch.func.grad(total, argnums=(0, 1, 2))
    each = torch.func.vmap(single, in_dims=(0, None, None))(z.unsqueeze(1), kappa, lam)  # gradients of each sample
    for i, found in enumerate(zip(*each)):
        torch.testing.assert_close(found, single(z[i : i + 1], kappa, lam))
    several = torch.func.vmap(function, in_dims=(None, 0, 0))(z, kappa, lam)  # three scalars, not three channels
    torch.testing.assert_close(several, torch.stack([function(z, k, l) for k, l in zip(kappa, lam)]))
    both = torch.func.vmap(torch.func.vmap(total, in_dims=(None, 0, None)), in_dims=(None, None, 0))(z, kappa, lam)
    torch.testing.assert_close(both, torch.stack([torch.stack([total(z, k, l) for k in kappa]) for l in lam]))
    jacobian = torch.autograd.functional.jacobian(lambda lam: function(z, kappa, lam), lam)
    torch.testing.assert_close(torch.func.jacrev(function, argnums=2)(z, kappa, lam), jacobian)
    hessian = torch.autograd.functional.hessian(lambda lam: total(z, kappa, lam), lam)
    torch.testing.assert_close(
        torch.func.jacrev(torch.func.jacrev(total, argnums=2), argnums=2)(z, kappa, lam), hessian
    )


# --- errors -------------------------------------------------------------------------------------------------------


@FUNCTIONS
@pytest.mark.parametrize("lam", [0, 0.0, -0.5, math.nan, math.inf, -math.inf])
def test_bad_lambda(function, lam):
    z = torch.randn(2, 3)
    for given in (lam, torch.tensor(float(lam)), torch.tensor([1.0, float(lam), 2.0])):
        with pytest.raises(ValueError, match=rf"lam must be positive and finite .* got {lam}(\.0)?$"):
            function(z, 1.0, given)
    torch.func.vmap(lambda lam: function(z, 1.0, lam))(torch.tensor([0.5, float(lam)]))  # not looked at


def test_lambda_that_vanishes_in_the_dtype():
    aglu(torch.randn(2, dtype=torch.float64), 1.0, 1e-60)
    with pytest.raises(ValueError, match="float32, got 1e-60"):
        aglu(torch.randn(2), 1.0, 1e-60)


@FUNCTIONS
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64, np.uint8])
def test_numbers_of_numpy_are_as_good_as_pythons(function, kind):
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(function(z, kind(2), kind(1)), function(z, 2.0, 1.0))
    with pytest.raises(ValueError, match="lam must be positive"):
        function(z, 1.0, kind(0))


@FUNCTIONS
def test_bad_arguments(function):
    for z, kind in ((torch.arange(3), "int64"), (torch.ones(2, dtype=torch.bool), "bool"), ([1.0], "list")):
        with pytest.raises(TypeError, match=f"z must be a floating-point tensor, got .*{kind}"):
            function(z, 1.0, 1.0)
    z = torch.randn(2, 3, 4)
    for name, pair in (("kappa", (torch.ones(4), 1.0)), ("lam", (1.0, torch.ones(4)))):
        with pytest.raises(ValueError, match=rf"{name} has 4 channels, but z of shape \(2, 3, 4\) has 3"):
            function(z, *pair)
    with pytest.raises(ValueError, match=r"kappa has 5 channels, but z of shape \(2, 3, 4\) has 4"):
        function(z, torch.ones(5), 1.0, channel_dim=-1)
    with pytest.raises(ValueError, match=r"\(N, …, C\), \(C,\); got kappa of shape \(3, 1\), z of shape \(2, 3, 4\)"):
        function(z, torch.ones(3, 1), 1.0, channel_dim=-1)
    with pytest.raises(ValueError, match=r"kappa of shape \(3, 1\)"):
        function(z, torch.ones(3, 1), 1.0)
    with pytest.raises(ValueError, match=r"z of shape \(3,\)"):
        function(torch.randn(3), 1.0, torch.ones(3))
    with pytest.raises(ValueError, match="lambda_gradient must be one of 'exact', 'paper'; got 'true'"):
        function(z, 1.0, 1.0, lambda_gradient="true")
    for pair, name in ((("1", 1.0), "kappa"), ((1.0, [1.0]), "lam"), ((1.0, True), "lam"), ((np.True_, 1.0), "kappa")):
        with pytest.raises(TypeError, match=f"{name} must be a number or a tensor, got"):
            function(z, *pair)
