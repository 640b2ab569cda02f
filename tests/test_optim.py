"""AGD against its formula, written layer by layer and kernel position by kernel position."""

import copy
import math
import pickle
from decimal import Decimal

import pytest
import torch

from labkit.optim import AGD, agd_init_, layer_scale


def layers(*shapes, seed=0):
    """Parameters of these shapes, with gradients."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for shape in shapes:
        p = torch.nn.Parameter(torch.randn(shape, generator=g, dtype=torch.float64))
        p.grad = torch.randn(shape, generator=g, dtype=torch.float64)
        found.append(p)
    return found


def positions(tensor):
    """The (out, in) matrices of a weight, one for each kernel position."""
    return (
        [tensor]
        if tensor.ndim == 2
        else [tensor[:, :, i, j] for i in range(tensor.shape[2]) for j in range(tensor.shape[3])]
    )


def naive_step(parameters, gain):
    """What one step should leave: a list of tensors."""
    scales = [math.sqrt(p.shape[0] / p.shape[1]) / math.sqrt(math.prod(p.shape[2:])) for p in parameters]
    G = sum(s * torch.linalg.norm(g).item() for s, p in zip(scales, parameters) for g in positions(p.grad)) / len(
        parameters
    )
    eta = math.log((1 + math.sqrt(1 + 4 * G)) / 2)
    after = [p.detach().clone() for p in parameters]
    for s, p, new in zip(scales, parameters, after):
        for w, g in zip(positions(new), positions(p.grad)):
            w -= gain * eta / len(parameters) * s * g / torch.linalg.norm(g)
    return after


SHAPES = {
    "one": [(5, 3)],
    "linear": [(5, 3), (2, 5)],
    "conv": [(4, 3, 3, 3)],
    "mixed": [(4, 3, 3, 2), (7, 4, 1, 1), (2, 7)],
}


@pytest.mark.parametrize("gain", [1.0, 10.0])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_one_step(shapes, gain):
    parameters = layers(*shapes)
    expected = naive_step(parameters, gain)
    AGD(parameters, gain=gain).step()
    for p, wanted in zip(parameters, expected):
        torch.testing.assert_close(p.detach(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shapes", [[(3, 5, 4), (3, 2, 5)], [(3, 4, 3, 2, 2), (3, 2, 4)]], ids=["linear", "conv"])
def test_runs_beside_each_other_are_separate_optimisers(shapes):
    together = layers(*shapes)
    together[0].grad[1] = 0  # a run that stands still in one layer must not disturb the others
    alone = [[torch.nn.Parameter(p[i].detach().clone()) for p in together] for i in range(3)]
    for i, parameters in enumerate(alone):
        for p, q in zip(parameters, together):
            p.grad = q.grad[i].clone()
        AGD(parameters).step()
    AGD(together, batch_dims=1).step()
    for i, parameters in enumerate(alone):
        for p, q in zip(parameters, together):
            torch.testing.assert_close(q[i], p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype, rel", [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 0.01)])
@pytest.mark.parametrize("G", [1e-14, 1e-10, 1e-7, 1e-6, 1e-4, 1.0, 1e4])
def test_the_step_has_its_digits_where_the_gradient_is_small(dtype, rel, G):
    """η is near G there, and log((1 + √(1 + 4G))/2) in float32 is 0."""
    p = torch.nn.Parameter(torch.zeros(2, 2, dtype=dtype))
    p.grad = torch.diag(torch.tensor([G, 0.0])).to(dtype)
    AGD([p], gain=1.0).step()
    root = Decimal(1 + 4 * Decimal(p.grad[0, 0].item())).sqrt()
    assert -p[0, 0].item() == pytest.approx(float(((1 + root) / 2).ln()), rel=rel, abs=0)


def test_zero_gradient_moves_nothing():
    parameters = layers((5, 3), (4, 3, 2, 2))
    before = [p.detach().clone() for p in parameters]
    for p in parameters:
        p.grad.zero_()
    AGD(parameters).step()
    assert all(torch.equal(p, b) for p, b in zip(parameters, before))
    half = torch.nn.Parameter(torch.ones(3, 2, dtype=torch.float16))
    half.grad = torch.zeros_like(half)
    AGD([half]).step()
    assert torch.equal(half, torch.ones_like(half))


@pytest.mark.parametrize("scale", [1e-14, 1e-16, 1e-20, 1e-22, 1e-24, 1e-40])
def test_a_tiny_gradient_moves_a_layer_by_a_unit_step_or_not_at_all(scale):
    """Below 1e-19 squares underflow in float32, and a length from them can be anything."""
    one, two = (torch.nn.Parameter(torch.zeros(64, 64)) for _ in range(2))
    direction = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    direction /= direction.norm()
    one.grad, two.grad = direction.clone(), scale * direction
    AGD([one, two]).step()
    assert two.norm().item() == pytest.approx(one.norm().item() if scale > 1e-15 else 0.0, rel=1e-5)


def test_zero_gradient_at_one_kernel_position():
    (p,) = layers((4, 3, 2, 2))
    p.grad[:, :, 0, 1] = 0
    before = p.detach().clone()
    AGD([p]).step()
    assert p.isfinite().all()
    assert torch.equal(p[:, :, 0, 1], before[:, :, 0, 1]) and not torch.equal(p[:, :, 0, 0], before[:, :, 0, 0])


def test_parameters_without_gradient_stand_still_and_are_not_counted():
    parameters = layers((5, 3), (2, 5))
    expected = naive_step(parameters[:1], 10.0)
    parameters[1].grad = None
    before = parameters[1].detach().clone()
    AGD(parameters).step()
    torch.testing.assert_close(parameters[0].detach(), expected[0])
    assert torch.equal(parameters[1], before)


def test_closure():
    (p,) = layers((5, 3))
    start = p.detach().clone()

    def closure():
        p.grad = None
        loss = p.square().sum()
        loss.backward()
        return loss

    assert AGD([p]).step(closure).item() == pytest.approx(start.square().sum().item())
    assert not torch.equal(p, start)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_steps_as_the_original_does(again):
    layer = torch.nn.Linear(4, 3, bias=False)
    layer.weight = torch.nn.Parameter(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)))
    pair = layer, AGD([layer.weight], batch_dims=1)
    for one, optimizer in (twin := again(pair), pair):
        one.weight.grad = torch.ones(2, 3, 4)
        optimizer.step()
    assert torch.equal(twin[0].weight, layer.weight)


def test_it_minimises():
    # A linear least-squares problem with a solution: the loss goes down without a learning rate.
    g = torch.Generator().manual_seed(0)
    x, target = torch.randn(30, 6, generator=g), torch.randn(3, 6, generator=g)
    w = torch.nn.Parameter(agd_init_(torch.empty(3, 6), g))
    optimizer = AGD([w], gain=1.0)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = (x @ (w - target).mT).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize("shape, scale", [((8, 2), 2.0), ((2, 8), 0.5), ((8, 2, 3, 3), 2 / 3), ((8, 2, 4, 1), 1.0)])
def test_initial_weights_are_scaled_orthogonal_matrices(shape, scale):
    weight = agd_init_(torch.empty(shape), torch.Generator().manual_seed(0))
    assert layer_scale(shape) == pytest.approx(scale)
    for matrix in positions(weight):
        torch.testing.assert_close(torch.linalg.svdvals(matrix), torch.full((2,), scale), rtol=1e-5, atol=0)


def test_initial_weights_follow_the_generator():
    one, same, other = (agd_init_(torch.empty(4, 3, 2, 2), torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert not torch.allclose(one[:, :, 0, 0], one[:, :, 1, 1])  # positions are drawn one by one


def test_initial_weights_keep_the_tensor_and_its_dtype():
    weight = torch.empty(3, 5, dtype=torch.float64)
    assert agd_init_(weight) is weight
    scale = torch.full((3,), math.sqrt(3 / 5), dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.svdvals(weight), scale, rtol=2e-6, atol=0)  # drawn in float32


def test_initial_weights_of_a_parameter():
    # A layer's weight needs a gradient; filling it is not part of one.
    layer = torch.nn.Linear(4, 2, bias=False)
    agd_init_(layer.weight)
    assert layer.weight.requires_grad and layer.weight.grad_fn is None


@pytest.mark.parametrize("gain", [0, -1.0, math.nan, math.inf, "10"])
def test_bad_gain(gain):
    with pytest.raises(ValueError, match=f"gain .* got {gain!r}"):
        AGD(layers((5, 3)), gain=gain)


@pytest.mark.parametrize("shape, batch_dims", [((5,), 0), ((5, 3, 2), 0), ((3, 5), 1), ((5, 3, 2, 2, 2), 0)])
def test_bad_shapes(shape, batch_dims):
    with pytest.raises(ValueError, match=rf"\(out, in\) .*got \({', '.join(map(str, shape))},?\)"):
        AGD(layers(shape), batch_dims=batch_dims)


def test_biases_are_refused():
    with pytest.raises(ValueError, match=r"got \(2,\)"):
        AGD(torch.nn.Linear(4, 2).parameters())


@pytest.mark.parametrize("late", [True, False])
def test_a_second_group_moves_as_if_it_were_in_the_first(late):
    # It was accepted by add_param_group, and never moved.
    shapes, moved = ((5, 3), (4, 2, 3, 3)), []
    for split in (True, False):
        first, second = layers(*shapes)
        if split and late:
            optimizer = AGD([first], gain=2.0)
            optimizer.add_param_group({"params": [second]})
        else:
            optimizer = AGD([{"params": [first]}, {"params": [second]}] if split else [first, second], gain=2.0)
        for k, p in enumerate((first, second)):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(k), dtype=p.dtype)
        optimizer.step()
        moved.append((first, second))
    assert all(map(torch.equal, *moved)) and not torch.equal(moved[0][1], layers(*shapes)[1])


def test_groups_have_their_own_gain_and_their_shapes_are_checked():
    first, second = layers((5, 3), (5, 3))
    before = [p.detach().clone() for p in (first, second)]
    optimizer = AGD([first], gain=1.0)
    optimizer.add_param_group({"params": [second], "gain": 3.0})
    first.grad = second.grad = torch.ones(5, 3, dtype=first.dtype)
    optimizer.step()
    torch.testing.assert_close(second - before[1], 3 * (first - before[0]))
    with pytest.raises(ValueError, match=r"got \(2,\)"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))]})
    with pytest.raises(ValueError, match="gain .* got 0"):
        optimizer.add_param_group({"params": layers((5, 3)), "gain": 0})


@pytest.mark.parametrize("shape", [(5,), (5, 3, 2)])
def test_initial_weights_of_bad_shapes(shape):
    with pytest.raises(ValueError, match=r"\(out, in\)"):
        agd_init_(torch.empty(shape))
