"""What heads can be used for: the plain form against the fast one, transforms, checkpoints, micro-batches, soft targets,
few dimensions, large features, learnt temperatures.
"""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from labkit import etf, heads
from labkit._fast import fused as _fused
from labkit.heads import HEADS, MAIN, CosineHead, FixedETFHead, ImplicitETFHead, LinearHead, make

D, C, N, TAU = 8, 4, 24, 5.0


def batch_of(seed, n=N, lead=(), dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    targets = (torch.arange(n) % C).expand(*lead, n).clone()
    return torch.randn(*lead, n, D, generator=g, dtype=torch.float64).to(dtype), targets


def state(head):
    return {name: value.clone() for name, value in head.state_dict().items()}


def same(first, second, tolerance=0.0):
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=tolerance, atol=tolerance)


def step(head, z, targets, loss_targets=None):
    """Logits and the gradient of the cross entropy with respect to the features."""
    x = z.clone().requires_grad_()
    logits = head(x, targets)
    F.cross_entropy(logits.flatten(0, -2), targets.flatten() if loss_targets is None else loss_targets).backward()
    return logits.detach(), x.grad


# The plain form and the fast one


@pytest.mark.parametrize("runs", [None, 3])
@pytest.mark.parametrize("name", MAIN)
def test_fused_is_plain(name, runs):
    made = []
    for fused in (True, False):
        torch.manual_seed(0)
        generators = runs and [torch.Generator().manual_seed(s) for s in range(runs)]
        made.append(make(name, D, C, TAU, generators=generators, fused=fused).double())
    lead = () if runs is None else (runs,)
    for seed in range(3):
        z, targets = batch_of(seed, lead=lead)
        z[..., 2, :] = 0  # no direction, no gradient
        targets[..., 5] = -100
        results = [step(head, z, targets) for head in made]
        same(*[dict(zip("lg", result)) for result in results], tolerance=1e-10)
        assert not results[0][1][..., 2, :].any()
        if name == "standard":
            torch.testing.assert_close(made[0].weight.grad, made[1].weight.grad, rtol=1e-10, atol=1e-10)
        same(*map(state, made), tolerance=1e-10)


def test_the_fast_form_is_the_one_that_is_taken(monkeypatch):
    def never(*_):
        raise AssertionError("fused")

    z, targets = batch_of(0)
    for name in ("SphereLogits", "SphereSums"):
        monkeypatch.setattr(getattr(_fused, name), "apply", never)
    for name in MAIN:
        for fused in (None, True):
            with pytest.raises(AssertionError, match="fused"):
                make(name, D, C, fused=fused).double()(z, targets)
        make(name, D, C, fused=False).double()(z, targets)
        make(name, D, C, learn_temperature=True).double()(z, targets)
        with pytest.raises(RuntimeError, match="fused=True.*learnt"):
            make(name, D, C, fused=True, learn_temperature=True).double()(z, targets)


def test_the_part_that_other_devices_take(monkeypatch):
    # On a CPU rows are multiplied without an array, and taken in blocks; elsewhere neither.
    a, b = torch.randn(2, 7, 5, dtype=torch.float64)

    class Elsewhere:
        device, shape = torch.device("meta"), (2, 7, 5)

    assert _fused._blocks(Elsewhere()) == [(0, slice(0, 7)), (1, slice(0, 7))]
    expected = (a * b).sum(-1, keepdim=True)
    torch.testing.assert_close(_fused._inner(a, b), expected)
    assert _fused._inner(a.to("meta"), b.to("meta")).shape == expected.shape


# Transforms


@pytest.mark.parametrize("name", HEADS)
def test_func_transforms_in_evaluation(name):
    head, (z, targets) = make(name, D, C, fused=None).double(), batch_of(0)
    head(z, targets)
    head.eval()
    loss = lambda x, y: F.cross_entropy(head(x.unsqueeze(0)).squeeze(0), y)
    each = torch.func.vmap(torch.func.grad(loss))(z, targets)
    x = z.clone().requires_grad_()
    F.cross_entropy(head(x), targets, reduction="sum").backward()
    torch.testing.assert_close(each, x.grad, rtol=1e-9, atol=1e-10)


def test_linear_rows_are_of_unit_length_under_transforms():
    head, (z, _) = make("standard", D, C).double(), batch_of(0)
    with torch.no_grad():
        head._parameters["weight"].mul_(torch.linspace(0.3, 1.3, C, dtype=torch.float64).unsqueeze(-1))
    longer = {"weight": head._parameters["weight"].detach().clone()}
    expected = head.normalize(z) @ (longer["weight"] / longer["weight"].norm(dim=-1, keepdim=True)).mT
    given = torch.func.functional_call(head, longer, (z,))
    mapped = torch.func.vmap(lambda x: head(x.unsqueeze(0)).squeeze(0))(z)
    for logits in (given, mapped, head(z)):
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-12)


def test_func_transforms_of_a_training_step():
    # The state must be an argument: a transform does not let a function change anything else.
    head, (z, targets) = make("implicit", D, C, delta=0.1).double(), batch_of(0)
    head(*batch_of(1))
    buffers = {name: value.clone() for name, value in head.named_buffers()}

    def loss(x, buffers):
        return F.cross_entropy(torch.func.functional_call(head, buffers, (x, targets)), targets)

    clones = {name: value.clone() for name, value in buffers.items()}
    grad = torch.func.grad(lambda x, b: loss(x, {k: v.clone() for k, v in b.items()}))(z, clones)
    _, expected = step(copy.deepcopy(head), z, targets)
    torch.testing.assert_close(grad, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", HEADS)
def test_compiled_in_one_graph(name):
    torch.manual_seed(0)
    head, (z, targets) = make(name, D, C).double(), batch_of(0)
    torch.manual_seed(0)
    other = make(name, D, C).double()
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    for seed in range(2):
        z, targets = batch_of(seed)
        first, second = step(compiled, z, targets), step(other, z, targets)
        same(dict(zip("lg", first)), dict(zip("lg", second)), tolerance=1e-8)
        same(state(head), state(other), tolerance=1e-8)


# One step a call, or a step of several calls


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_takes_one_step(reentrant, fused):
    # With use_reentrant=True the means took two steps for each; with False it ended in CheckpointError.
    one, two = (make("implicit", D, C, fused=fused).double() for _ in range(2))
    for seed in range(3):
        z, targets = batch_of(seed)
        x = z.clone().requires_grad_()
        F.cross_entropy(checkpoint(one, x, targets, use_reentrant=reentrant), targets).backward()
        _, expected = step(two, z, targets)
        torch.testing.assert_close(x.grad, expected, rtol=1e-10, atol=1e-12)
        same(state(one), state(two), tolerance=1e-12)
        assert one.class_means.step == seed + 1


def test_a_checkpoint_of_an_earlier_call_is_refused():
    head, parts = make("implicit", D, C).double(), [batch_of(0), batch_of(1)]
    total = 0
    for z, targets in parts:
        total = total + checkpoint(head, z.requires_grad_(), targets, use_reentrant=True).sum()
    with pytest.raises(RuntimeError, match="only the last call"):
        total.backward()


@pytest.mark.parametrize("check", [True, False])
def test_gathered_micro_batches_are_one_step(check):
    one, two = (make("implicit", D, C).double() for _ in range(2))
    for seed in range(3):
        z, targets = batch_of(seed)
        targets = targets.sort().values  # each micro-batch has classes of its own
        with one.gather():
            for rows in (slice(0, 12), slice(12, 18), slice(18, N)):
                x = z[rows].clone().requires_grad_()
                call = lambda x, y: checkpoint(one, x, y, use_reentrant=False) if check else one(x, y)
                logits = call(x, targets[rows])
                logits.square().sum().backward()
        whole = z.clone().requires_grad_()
        last = two(whole, targets)[18:]
        last.square().sum().backward()
        same(state(one), state(two), tolerance=1e-10)
        torch.testing.assert_close(logits, last, rtol=1e-10, atol=1e-10)  # the last one has seen the W of all
        torch.testing.assert_close(x.grad, whole.grad[18:], rtol=1e-9, atol=1e-10)
    assert one.class_means.step == 3


def test_a_compiled_head_cannot_be_gathered():
    head = make("implicit", D, C)
    compiled = torch.compile(head, backend="eager")
    with head.gather(), pytest.raises(RuntimeError, match="compile the network before the head"):
        compiled(*batch_of(0, dtype=torch.float32))


def test_soft_targets_with_a_gradient_leave_no_graph_behind():
    head, (z, targets) = make("implicit", D, C), batch_of(0, dtype=torch.float32)
    soft = F.one_hot(targets, C).float().requires_grad_()
    with head.gather():
        for _ in range(2):
            head(z, soft).square().sum().backward()
    copy.deepcopy(head)


def test_a_run_whose_labels_are_all_ignored_moves_nothing():
    head = make("implicit", D, C, generators=[torch.Generator().manual_seed(s) for s in range(2)])
    (z, targets), before = batch_of(0, dtype=torch.float32), state(head)
    with pytest.raises(ValueError, match="a label of every run, got a run whose labels are all ignored"):
        head(torch.stack([z, z]), torch.stack([targets, torch.full_like(targets, -100)]))
    same(before, state(head), tolerance=0)
    assert head(torch.stack([z, z], 1).transpose(0, 1), targets).isfinite().all()  # nor need runs be contiguous


@pytest.mark.parametrize("dim", [D, C - 1])
def test_an_average_of_heads_classifies_with_a_simplex_etf(dim):
    """As of weights averaged over training: the average of two frames is none."""
    heads, (z, targets) = [make("implicit", dim, C).double() for _ in range(2)], batch_of(0)
    z = z[:, :dim]
    for seed, head in enumerate(heads):
        head(z.roll(seed, -1), targets)
    head = copy.deepcopy(heads[0]).eval()
    head.frame.copy_((heads[0].frame + heads[1].frame) / 2)
    assert (
        (head.frame - (heads[0].frame + heads[1].frame) / 2).abs().max() < 1e-12 < (head.frame - heads[0].frame).norm()
    )
    wanted = (C * torch.eye(C) - 1).double() / (C - 1)
    torch.testing.assert_close(head.weight @ head.weight.mT, wanted, rtol=0, atol=1e-10)
    assert (head.weight * heads[0].weight).sum() > (heads[1].weight * heads[0].weight).sum()  # between the two
    assert torch.equal(heads[0].weight, etf.of_frame(heads[0].frame).mT)  # one that is a frame keeps every bit


# Targets


def test_one_hot_targets_are_labels():
    one, two = (make("implicit", D, C).double() for _ in range(2))
    for seed in range(2):
        z, targets = batch_of(seed)
        hard, soft = step(one, z, targets), step(two, z, F.one_hot(targets, C).double(), targets)
        same(dict(zip("lg", hard)), dict(zip("lg", soft)), tolerance=1e-10)
        same(state(one), state(two), tolerance=1e-10)


def test_soft_targets_are_weights_of_the_class_means():
    # 0.75 of one class and 0.25 of another count as three samples and one.
    z, _ = batch_of(0, n=8)
    soft = torch.zeros(8, C, dtype=torch.float64)
    soft[torch.arange(8), torch.arange(8) % C] = 0.75
    soft[torch.arange(8), (torch.arange(8) + 1) % C] = 0.25
    one, two = (make("implicit", D, C).double() for _ in range(2))
    one(z, soft)
    two(z.repeat(4, 1), torch.cat([*[torch.arange(8) % C] * 3, (torch.arange(8) + 1) % C]))
    same(state(one), state(two), tolerance=1e-10)


@pytest.mark.parametrize("fused", [True, False])
def test_ignored_rows_have_logits_but_no_part_in_the_means(fused):
    one, two = (make("implicit", D, C, fused=fused, ignore_index=7).double() for _ in range(2))
    z, targets = batch_of(0)
    targets[3:6] = 7
    kept = targets != 7
    logits = one(z, targets)
    torch.testing.assert_close(logits[kept], two(z[kept], targets[kept]), rtol=1e-10, atol=1e-10)
    assert logits.shape == (N, C) and logits[3:6].isfinite().all()
    same(state(one), state(two), tolerance=1e-10)


@pytest.mark.parametrize("dtype", [getattr(torch, f"{u}int{n}") for u in ("", "u") for n in (8, 16, 32, 64)])
def test_labels_of_any_integer_dtype(dtype):
    one, two = (make("implicit", D, C) for _ in range(2))
    z, targets = batch_of(0, dtype=torch.float32)
    assert torch.equal(one(z, targets), two(z, targets.to(dtype)))
    targets[0], one.ignore_index, two.ignore_index = 100, 100, 100
    assert torch.equal(one(z, targets), two(z, targets.to(dtype)))


@pytest.mark.parametrize("alpha", [None, 0.01, 1.0])
def test_the_first_batch_counts_in_full_also_in_the_bias(alpha):
    """Whatever the weight of later ones: in evaluation the same batch then has the logits that it had in training."""
    head, (z, targets) = make("implicit", D, C, TAU, alpha=alpha).double(), batch_of(0)
    logits = head(z + 2, targets)
    torch.testing.assert_close(head.eval()(z + 2), logits)
    assert torch.equal(head.class_means.seen, torch.ones(C))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name, options", [("implicit", {}), ("fixed", {"bias": "batch_mean"})])
def test_ignored_rows_play_no_part_even_where_they_are_not_numbers(name, options, fused):
    """As padding is after attention that is masked everywhere."""
    one, two = (make(name, D, C, TAU, fused=fused or None, **options).double() for _ in range(2))
    if not fused:
        one.fused = two.fused = False
    z, targets = batch_of(0)
    with_padding = torch.cat([z, torch.full((2, D), math.nan, dtype=z.dtype)])
    logits = two(with_padding, torch.cat([targets, torch.tensor([-100, -100])]))
    torch.testing.assert_close(logits[:-2], one(z, targets))
    same(state(one), state(two), 1e-12)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_head_that_is_made_where_half_precision_is_the_default_is_wide_all_the_same(name, dtype):
    """As inside a model that transformers loads in bf16."""
    torch.manual_seed(0)
    wanted = make(name, D, C)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(0)
        head = make(name, D, C, learn_temperature=True)
    finally:
        torch.set_default_dtype(before)
    assert {value.dtype for value in head.state_dict().values() if value.is_floating_point()} == {torch.float32}
    torch.testing.assert_close(head.weight, wanted.weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dim", [C - 1, D])
@pytest.mark.parametrize("frame", ["canonical", "haar"])
@pytest.mark.parametrize("name", ["fixed", "implicit"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_etf_that_is_made_where_half_precision_is_the_default_has_the_angles_of_one(name, frame, dim, dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        weight = make(name, dim, C, frame=frame).weight.double()
    finally:
        torch.set_default_dtype(before)
    simplex = (C * torch.eye(C, dtype=torch.float64) - 1) / (C - 1)
    torch.testing.assert_close(weight @ weight.mT, simplex, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_loops_need_not_know_the_head(name):
    """To gather micro-batches, to average a model's weights, and to export it."""
    head, (z, targets) = make(name, D, C), batch_of(0, dtype=torch.float32)
    averaged = torch.optim.swa_utils.AveragedModel(head, use_buffers=True)
    for start in range(3):
        with head.gather():
            for part in range(2):
                head(z[start + part :: 2], targets[start + part :: 2])
        averaged.update_parameters(head)
    assert averaged(z, targets).shape == (N, C)
    if name == "implicit":
        assert head.class_means.step == 3 and averaged.module.class_means.seen.all()
    if hasattr(torch.compiler, "is_exporting"):
        program = torch.export.export(head.eval(), (z,))
        torch.testing.assert_close(program.module()(z), head(z), rtol=1e-5, atol=1e-5)


def test_an_average_of_weights_does_not_depend_on_how_often_it_is_looked_at():
    """By hand: the mean of the weights as they are after each step, whose rows are put to unit length at the end."""
    head, (z, targets) = make("standard", D, C), batch_of(0, dtype=torch.float32)
    averaged, seen = torch.optim.swa_utils.AveragedModel(head).eval(), []
    optimizer = torch.optim.SGD(head.parameters(), lr=3.0)  # far, so that the mean of unit rows is clearly shorter
    for _ in range(5):
        F.cross_entropy(head(z, targets), targets).backward()
        optimizer.step(), optimizer.zero_grad()
        seen.append(next(head.parameters()).detach().double().clone())
        averaged.update_parameters(head)
        with torch.no_grad():
            logits = averaged(z)
    wanted = F.normalize(torch.stack(seen).mean(0), dim=-1)
    expected = head.normalize(z).double() @ wanted.mT
    torch.testing.assert_close(logits.double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(averaged.module.weight.double(), wanted, rtol=0, atol=1e-6)


def test_class_156_in_uint8_is_not_ignored():
    """torch takes −100 for 156 there."""
    head, targets = make("implicit", 200, 200), torch.arange(200)
    head(torch.randn(200, 200), targets.to(torch.uint8))
    assert head.class_means.seen.all()


@pytest.mark.parametrize("name", HEADS)
def test_tokens(name):
    torch.manual_seed(0)
    one = make(name, D, C).double()
    two = copy.deepcopy(one)
    z, targets = batch_of(0)
    logits = one(z.reshape(4, 6, D), targets.reshape(4, 6))
    assert torch.equal(logits, two(z, targets).reshape(4, 6, C))


# Dimensions, frames


@pytest.mark.parametrize("frame", ["canonical", "haar"])
@pytest.mark.parametrize("classes", [2, 5])
def test_etf_heads_in_the_fewest_dimensions(classes, frame):
    d = classes - 1
    g = torch.Generator().manual_seed(0)
    gram = torch.eye(classes) * classes / d - 1 / d
    head = FixedETFHead(d, classes, frame=frame)
    torch.testing.assert_close(head.weight @ head.weight.mT, gram, rtol=0, atol=1e-5)
    head = ImplicitETFHead(d, classes, frame=frame, delta=0.1).double()
    targets = torch.arange(20) % classes
    z = torch.nn.Parameter(torch.randn(20, d, generator=g, dtype=torch.float64))
    if classes > 2:  # with d = 1 a feature on the sphere has no way to move
        head(z.detach(), targets)
        first = copy.deepcopy(head)
        assert torch.autograd.gradcheck(lambda x: copy.deepcopy(first)(x, targets), z)
    optimizer = torch.optim.SGD([z], lr=1.0)
    for _ in range(100):
        loss = F.cross_entropy(head(z, targets), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(head.weight @ head.weight.mT, gram.double(), rtol=0, atol=1e-6)
    if classes > 2:
        assert loss.item() < etf.cross_entropy_bound(classes, TAU) + 0.05


@pytest.mark.parametrize("d", [1, 3, 64])
@pytest.mark.parametrize("name", ["standard", "cosine"])
def test_learnt_classifiers_in_any_dimension(name, d):
    # 100 classes in 64 dimensions, as CIFAR-100 on a ResNet-32, were refused.
    head = make(name, d, 100)
    logits = head(torch.randn(7, d), torch.arange(7))
    assert logits.shape == (7, 100)
    torch.testing.assert_close(head.weight.norm(dim=-1), torch.ones(100))


@pytest.mark.parametrize("head", HEADS.values())
def test_numpy_numbers(head):
    labels = np.array([0, 1, 3])
    made = head(np.int64(D), labels.max() + 1, np.float32(5.0))
    assert made.dim == D and made.num_classes == 4 and type(made.num_classes) is int
    ImplicitETFHead(D, C, delta=np.float32(1e-3))(*batch_of(0, dtype=torch.float32))


# Large and small features


@pytest.mark.parametrize("length", [1e19, 1e25, 1e37])
@pytest.mark.parametrize("fused", [None, True, False])
@pytest.mark.parametrize("name", MAIN)
def test_features_whose_squares_overflow(name, fused, length):
    # They became zero: loss log C, no gradient, and class means of zero.
    torch.manual_seed(0)
    one = make(name, D, C, fused=fused)
    two = copy.deepcopy(one)
    z, targets = batch_of(0, dtype=torch.float32)
    z[1] = F.normalize(z[1], dim=-1)
    large = z.clone()
    large[1] *= length
    (logits, grad), (expected, wanted) = step(one, large, targets), step(two, z, targets)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(grad[1] * length, wanted[1], rtol=1e-2, atol=1e-5)
    assert grad.isfinite().all()


def test_norms_on_the_sphere_for_metrics():
    z = torch.tensor([[3e38, 3e38, 0, 0], [1e-11, 0, 0, 0], [1e-13, 0, 0, 0], [0, 0, 0, 0]])
    norms = LinearHead(4, 3, TAU).normalize(z).norm(dim=-1)
    torch.testing.assert_close(norms, torch.tensor([TAU, TAU, 0, 0]))
    torch.testing.assert_close(CosineHead(4, 3, TAU).normalize(z).norm(dim=-1), torch.tensor([TAU, 5e-11, 5e-13, 0]))


# Options


@pytest.mark.parametrize("name", HEADS)
def test_learnt_temperature(name):
    head, (z, targets) = make(name, D, C, 3.0, learn_temperature=True).double(), batch_of(0)
    plain = make(name, D, C, 3.0).double()
    plain.load_state_dict({k: v for k, v in head.state_dict().items() if k != "temperature"})
    torch.testing.assert_close(head(z, targets), plain(z, targets))
    head, again = head.eval(), lambda tau: torch.func.functional_call(head, {"temperature": tau}, (z,))
    assert torch.autograd.gradcheck(again, head.temperature)


def test_a_learnt_temperature_of_each_run():
    head = LinearHead(D, C, 2.0, learn_temperature=True, generators=[torch.Generator().manual_seed(s) for s in (0, 1)])
    with torch.no_grad():
        head.temperature[1] = 4.0
    z, _ = batch_of(0, lead=(2,), dtype=torch.float32)
    torch.testing.assert_close(head.normalize(z).norm(dim=-1), torch.tensor([[2.0], [4.0]]).expand(2, N))


@pytest.mark.parametrize("fused", [True, False])
def test_fixed_head_with_the_bias_of_the_batch(fused):
    head, (z, targets) = FixedETFHead(D, C, TAU, bias="batch_mean", fused=fused).double(), batch_of(0)
    for _ in (head.train(), head.eval()):
        logits, grad = step(head, z, targets)
        torch.testing.assert_close(logits.mean(-2), torch.zeros(C, dtype=torch.float64))
        h = head.normalize(z)
        torch.testing.assert_close(logits, h @ head.weight.mT + head.bias)
        x = z.clone().requires_grad_()
        F.cross_entropy(head.normalize(x) @ head.weight.mT + head.bias, targets).backward()
        torch.testing.assert_close(grad, x.grad)  # no gradient through b
    targets[:5] = -100
    torch.testing.assert_close(head(z, targets)[5:], head(z[5:]))  # ignored samples have no part in the mean


def test_bias_of_the_implicit_head_in_evaluation():
    heads_ = {kind: ImplicitETFHead(D, C, TAU, eval_bias=kind).double() for kind in ("running", "last")}
    for seed in range(3):
        z, targets = batch_of(seed)
        for head in heads_.values():
            head(z, targets)
    head = heads_["last"].eval()
    torch.testing.assert_close(head.bias, -(head.weight @ head.normalize(z).mean(0)))
    assert (heads_["running"].bias - head.bias).abs().max() > 1e-3


# The learnt head keeps its promise by itself


@pytest.mark.parametrize("read", ["forward", "weight", "state_dict"])
def test_rows_are_back_at_unit_length_when_they_are_read(read):
    # Without a call of after_step the weights drifted.
    head, (z, targets) = LinearHead(D, C), batch_of(0, dtype=torch.float32)
    optimizer = torch.optim.SGD(head.parameters(), lr=3.0)
    F.cross_entropy(head(z, targets), targets).backward()
    optimizer.step()
    found = {
        "forward": lambda: torch.linalg.lstsq(head.normalize(z), head(z).detach()).solution.mT,
        "weight": lambda: head.weight.detach(),
        "state_dict": lambda: torch.nn.Sequential(head).state_dict()["0.weight"],
    }[read]()
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(C), rtol=1e-4, atol=1e-4)
    kept = head.weight.detach().clone()
    assert torch.equal(kept, head.weight)  # to read twice is to read once


@pytest.mark.parametrize("dim, num_classes", [(12, 5), (5, 5), (5, 12)])
def test_the_rows_of_the_released_start(dim, num_classes):
    lengths = LinearHead(dim, num_classes, start="released").weight.detach().double().norm(dim=-1)
    if dim >= num_classes:
        torch.testing.assert_close(lengths, torch.full_like(lengths, (num_classes / dim) ** 0.5), rtol=1e-5, atol=0)
    else:
        assert lengths.square().mean().item() == pytest.approx(1, rel=1e-5) and lengths.std() > 0.01


def test_the_released_start_lasts_one_step():
    head, (z, targets) = LinearHead(D, C, start="released"), batch_of(0, dtype=torch.float32)
    lengths = lambda: head.weight.detach().norm(dim=-1)
    torch.testing.assert_close(lengths(), torch.full((C,), math.sqrt(C / D)))
    other = LinearHead(D, C, start="released")
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other.weight.detach(), head.weight.detach(), rtol=0, atol=0)
    F.cross_entropy(head(z, targets), targets).backward()
    torch.optim.SGD(head.parameters(), lr=0.1).step()
    torch.testing.assert_close(lengths(), torch.ones(C))


def test_a_cosine_head_is_squashed_or_not():
    z = torch.randn(5, D)
    for squashed, length in ((True, 16 * z.norm(dim=-1) / (1 + z.norm(dim=-1))), (False, torch.full((5,), 16.0))):
        torch.testing.assert_close(CosineHead(D, C, squashed=squashed).normalize(z).norm(dim=-1), length)


# The register


def test_variants_are_heads_with_options():
    for name, variant in heads.VARIANTS.items():
        assert set(variant.options) <= set(HEADS[variant.head].options)
        assert isinstance(make(name, D, C), HEADS[variant.head])
    assert set(HEADS) < set(heads.VARIANTS) and set(heads.PAPER) < set(heads.VARIANTS)
    drawn = [(v.colour, v.dash) for v in heads.VARIANTS.values()]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("standard", {"delta": 0.1}, "'standard' has no option delta; it has .*normalized"),
        ("fixed", {"alpha": 1, "delta": 1}, "'fixed' has no option alpha, delta; it has .*frame"),
        ("other", {}, "head must be one of 'standard', .*got 'other'"),
    ],
)
def test_unknown_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, D, C, **options)


def test_a_shape_that_is_expected_is_named_once():
    head = heads.ImplicitETFHead(dim=16, num_classes=4)
    with pytest.raises(ValueError, match=r"^targets must have shape \(8,\), got \(7,\)$"):
        head(torch.randn(8, 16), torch.arange(7) % 4)
