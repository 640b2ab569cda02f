"""The modules APA and AGLU: parameters, the floor of λ, dtypes, memory, torch.compile and torch.func."""

import copy
import math
import shutil

import pytest
import torch

from labkit.activations import AGLU, APA, FLOOR, aglu, apa

MODULES = pytest.mark.parametrize("module", [APA, AGLU])


@pytest.mark.parametrize("module, kappa", [(APA, (0, 1)), (AGLU, (1, 1.3))])
def test_initial_values(module, kappa):
    act = module(num_channels=2000)
    for values, (low, high) in ((act.kappa, kappa), (act.lam, (0, 1))):
        assert low <= values.min() < low + 0.01 * (high - low) and high - 0.01 * (high - low) < values.max() <= high
    assert module().kappa.shape == module().lam.shape == ()
    act = module(kappa_init=(-1, 0), lambda_init=(0.5, 0.5))
    assert -1 <= act.kappa <= 0 and act.lam == 0.5


@MODULES
def test_initial_values_follow_the_generator(module):
    one, same = (module(num_channels=5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.kappa, same.kappa) and torch.equal(one.lam, same.lam)
    torch.manual_seed(3)
    assert torch.equal(module(num_channels=5).kappa, one.kappa)
    one.reset_parameters()
    assert not torch.equal(one.kappa, same.kappa) and not torch.equal(one.lam, same.lam)


@MODULES
def test_state_and_arguments(module):
    act, other = module(num_channels=4), module(num_channels=4)
    assert list(act.state_dict()) == ["kappa", "lam"]
    other.load_state_dict(act.state_dict())
    z = torch.randn(2, 4)
    assert torch.equal(act(z), other(z)) and torch.equal(copy.deepcopy(act)(z), act(z))
    assert torch.equal(act(z), (aglu if module is AGLU else apa)(z, act.kappa, act.lam))
    for part in ("num_channels=4", "lambda_init=(0.0, 1.0)", "lambda_gradient='exact'"):
        assert part in repr(act)
    start = z.clone()
    module(inplace=True)(z)  # as timm builds them; still not in place
    assert torch.equal(z, start)


@MODULES
def test_lambda_at_the_floor(module):
    act, z = module(num_channels=3), torch.randn(4, 3)
    act.lam.data = torch.tensor([-1.0, 0.0, 0.7])
    floored = torch.tensor([FLOOR, FLOOR, 0.7], requires_grad=True)
    function = aglu if module is AGLU else apa
    for sign in (1, -1):
        # Channel by channel: whether descent would raise λ or lower it.
        weights = sign * torch.sign(torch.autograd.grad(function(z, act.kappa, floored).sum(), floored)[0])
        (found,) = torch.autograd.grad((act(z) * weights).sum(), act.lam)
        (wanted,) = torch.autograd.grad((function(z, act.kappa, floored) * weights).sum(), floored)
        assert (wanted * sign > 0).all()
        torch.testing.assert_close(found, wanted if sign < 0 else wanted * torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(act(z), function(z, act.kappa, floored))


@MODULES
def test_lambda_leaves_the_floor_and_does_not_drift_below(module):
    act, z = module(kappa_init=(1, 1), lambda_init=(0.05, 0.05)), torch.full((10,), -1.0)
    act.kappa.requires_grad_(False)
    optimizer = torch.optim.SGD(act.parameters(), lr=0.1)
    sign = 1.0 if module is APA else -1.0  # of ∂/∂λ where z < 0, η grows with λ and zη falls

    def train(direction, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (direction * act(z).mean()).backward()
            optimizer.step()
        return act.lam.item()

    low = train(sign, 20)
    assert low < FLOOR and train(sign, 200) == low  # one step too far at most, then it stands
    assert train(-sign, 20) > low and train(-sign, 200) > 0.05


def test_second_derivative_through_the_floor():
    act, z = AGLU().double(), torch.tensor([0.5, 2.0], dtype=torch.float64)
    for value in (-0.5, 0.3):
        lam, plain = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (value, max(value, FLOOR)))
        (found,) = torch.autograd.grad(
            -torch.func.functional_call(act, {"lam": lam}, (z,)).sum(), lam, create_graph=True
        )
        (wanted,) = torch.autograd.grad(-aglu(z, act.kappa, plain).sum(), plain, create_graph=True)
        assert wanted < 0 and found.item() == pytest.approx(wanted.item())  # descent raises λ: it passes
        second, wanted = torch.autograd.grad(found, lam)[0], torch.autograd.grad(wanted, plain)[0]
        assert second.item() == pytest.approx(wanted.item() if value > 0 or wanted < 0 else 0)


# --- dtypes and memory --------------------------------------------------------------------------------------------


@MODULES
def test_half_modules(module):
    for dtype in (torch.float16, torch.bfloat16):
        act = module().to(dtype)
        act.lam.data.zero_()  # held at the floor, which in float16 would be 0
        act(torch.randn(10, dtype=dtype)).sum().backward()
        assert act.kappa.grad.dtype == act.lam.grad.dtype == dtype
        assert act.kappa.grad.isfinite() and act.lam.grad.isfinite()


@MODULES
def test_autocast(module):
    linear, act = torch.nn.Linear(6, 5), module()
    with torch.autocast("cpu", torch.bfloat16):
        z = linear(torch.randn(4, 6))
        out = act(z)
        assert act(z.float()).dtype == torch.float32
    assert z.dtype == out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), act(z.float()), rtol=2**-8, atol=0)
    out.sum().backward()
    assert act.kappa.grad.dtype == linear.weight.grad.dtype == torch.float32


def kept(function, z):
    """Bytes that autograd keeps, as a multiple of those of z; z itself counts."""
    storages = {}

    def note(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        function(z)
    return sum(storages.values()) / z.untyped_storage().nbytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_memory_kept(dtype):
    z = torch.randn(8, 16, 50, 50).to(dtype).requires_grad_()
    for function in (AGLU(), APA(num_channels=16), lambda z: aglu(z, torch.tensor(1.0, requires_grad=True), 0.5)):
        assert kept(function, z) == pytest.approx(1 if dtype == torch.bfloat16 else 2, abs=0.01)  # z, and s
    assert kept(lambda z: z * torch.exp(torch.exp(z)), z) > 2.9  # the measure sees what is kept


# --- torch.compile and torch.func ---------------------------------------------------------------------------------

INDUCTOR = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")


@pytest.mark.parametrize(
    "make, backend",
    [
        (AGLU, "aot_eager"),
        (lambda: APA(num_channels=3), "aot_eager"),
        (lambda: AGLU(lambda_gradient="paper"), "aot_eager"),
        (lambda: torch.nn.Sequential(AGLU(), APA()), "aot_eager"),
        pytest.param(AGLU, "inductor", marks=INDUCTOR),
    ],
    ids=["AGLU", "channels", "paper", "two", "inductor"],
)
def test_compiled_modules(make, backend):
    torch._dynamo.reset()
    act = make()
    compiled = torch.compile(act, fullgraph=True, backend=backend)
    z = torch.randn(2, 3, 4, requires_grad=True)
    weights = torch.randn(2, 3, 4)
    found, wanted = (torch.autograd.grad(f(z), (z, *act.parameters()), weights) for f in (compiled, act))
    torch.testing.assert_close(found, wanted)
    for parameter in act.parameters():
        parameter.data.fill_(1e-5)  # for λ one at which rounding 1 + λe^{−κz} would leave three digits
    torch.testing.assert_close(compiled(5e5 * z), act(5e5 * z))
    with torch.no_grad():
        torch.testing.assert_close(compiled(z), act(z))


def test_an_ensemble_of_modules():
    acts, z = [AGLU(num_channels=3) for _ in range(4)], torch.randn(5, 3)
    parameters, buffers = torch.func.stack_module_state(acts)
    loss = lambda p: torch.func.functional_call(acts[0], p, (z,)).square().sum()
    found = torch.func.vmap(torch.func.grad(loss))({name: p.detach() for name, p in parameters.items()})
    for i, act in enumerate(acts):
        act(z).square().sum().backward()
        torch.testing.assert_close(found["lam"][i], act.lam.grad)
        torch.testing.assert_close(found["kappa"][i], act.kappa.grad)


# --- errors -------------------------------------------------------------------------------------------------------


@MODULES
@pytest.mark.parametrize(
    "options, message",
    [
        (dict(kappa_init=(1.3, 1.0)), r"kappa_init .* got \(1.3, 1.0\)"),
        (dict(kappa_init=(0, math.inf)), r"kappa_init .* got \(0, inf\)"),
        (dict(kappa_init=()), r"kappa_init .* got \(\)"),
        (dict(kappa_init=1.0), r"kappa_init .* got 1.0"),
        (dict(lambda_init=(1, 0.5)), r"lambda_init .* got \(1, 0.5\)"),
        (dict(lambda_init=(0, 0)), r"lambda_init .* got \(0, 0\)"),
        (dict(lambda_init=(-1, 1)), r"lambda_init .* got \(-1, 1\)"),
        (dict(num_channels=0), "num_channels .* got 0"),
        (dict(num_channels=2.0), "num_channels .* got 2.0"),
        (dict(lambda_gradient="Paper"), "lambda_gradient .* got 'Paper'"),
    ],
)
def test_bad_module_arguments(module, options, message):
    with pytest.raises(ValueError, match=message):
        module(**options)


@MODULES
def test_modules_check_their_input(module):
    with pytest.raises(TypeError, match="int64"):
        module()(torch.arange(3))
    with pytest.raises(ValueError, match="has 4 channels"):
        module(num_channels=4)(torch.randn(2, 3))


def test_used_lam_is_the_one_in_the_formula():
    z = torch.tensor([-1.0, 2.0])
    for floor, p, lam in (
        ("one-sided", -0.3, 1e-8),
        ("released", -0.3, 1e-8),
        ("released", 0.5, 0.5 + 1e-8),
        ("one-sided", 0.5, 0.5),
    ):
        act = AGLU(kappa_init=(0.7, 0.7), floor=floor)
        act.lam.data.fill_(p)
        assert act.used_lam.item() == pytest.approx(lam, rel=1e-6) and act.lam.item() == pytest.approx(p)
        torch.testing.assert_close(act(z), aglu(z, 0.7, lam))
