"""The three heads against a naive composition with plain autograd, and the promises about their state."""

import copy
import io
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from labkit import etf
from labkit.heads import HEADS, ClassMeans, FixedETFHead, ImplicitETFHead, LinearHead
from labkit.metrics import class_sums
from labkit.nearest import nearest_etf, start_frame

D, C, N, TAU = 8, 4, 24, 5.0


def generators(runs):
    return None if runs is None else [torch.Generator().manual_seed(s) for s in range(runs)]


def make(name, runs=None, dtype=torch.float64, **options):
    torch.manual_seed(0)  # for heads drawn without generators of their own
    return HEADS[name](D, C, TAU, generators=generators(runs), **options).to(dtype)


def batch_of(seed, runs=None, dtype=torch.float64, classes=range(C), n=N):
    """Random features (…, N, d) and labels (…, N), with every one of `classes` present."""
    g = torch.Generator().manual_seed(seed)
    shape = (n,) if runs is None else (runs, n)
    pick = torch.cat([torch.arange(len(classes)), torch.randint(len(classes), (n - len(classes),), generator=g)])
    targets = torch.tensor(list(classes))[pick.expand(shape)]
    return torch.randn(*shape, D, generator=g, dtype=torch.float64).to(dtype), targets


class Naive:
    """The head written out: one-hot class means, running average, normalise, nearest ETF; plain autograd does the
    rest.
    """

    def __init__(self, head):
        self.head, self.frame, self.step = head, head.frame.clone(), 0
        self.average, self.seen, self.global_mean = 0.0, False, 0.0

    def __call__(self, z, targets):
        h = TAU * z / z.norm(dim=-1, keepdim=True)
        one_hot = F.one_hot(targets, C).to(z.dtype)
        counts = one_hot.sum(-2)
        mu = h.mean(-2)
        present = (counts > 0).unsqueeze(-2)
        centred = torch.where(present, h.mT @ one_hot / counts.clamp(min=1).unsqueeze(-2) - mu.unsqueeze(-1), 0.0)
        self.step += 1
        alpha = self.head.class_means.alpha or max(2 / (self.step + 1), 1e-4)
        moved = torch.where(torch.as_tensor(self.seen), alpha * centred + (1 - alpha) * self.average, centred)
        average = torch.where(present, moved, self.average)
        means = average / torch.linalg.matrix_norm(average, keepdim=True)
        if self.step == 1:
            self.frame = start_frame(means.detach(), self.frame)
        u = nearest_etf(means, self.frame, self.head.delta)
        self.frame, self.average, self.seen = u.detach(), average.detach(), present | self.seen
        self.global_mean = alpha * mu.detach() + (1 - alpha) * self.global_mean
        if not self.head.backprop_through_etf:
            u = u.detach()
        w = etf.simplex_etf(C, frame=u).mT
        return h @ w.mT - (w @ mu.unsqueeze(-1)).mT


def compare(ours, naive, z, targets, seed=9, tolerance=1e-9):
    """Logits and the gradient of a random function of them, from both sides."""
    x, y = z.clone().requires_grad_(), z.clone().requires_grad_()
    logits, expected = ours(x, targets), naive(y, targets)
    torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)
    cotangent = torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed), dtype=z.dtype)
    (grad,), (wanted,) = torch.autograd.grad(logits, x, cotangent), torch.autograd.grad(expected, y, cotangent)
    assert (grad - wanted).norm() < tolerance * wanted.norm()


# The same call for every head


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("runs", [None, 3])
def test_heads_are_interchangeable(name, runs):
    head, (z, targets) = make(name, runs, torch.float32), batch_of(0, runs, torch.float32)
    lead = () if runs is None else (runs,)
    for training in (True, False):
        assert head.train(training)(z, targets).shape == (*lead, N, C)
        assert head.weight.shape == (*lead, C, D) or (name == "fixed" and head.weight.shape == (C, D))
        assert head.bias is None or head.bias.shape == (*lead, C)
        # Logits are those of weight and bias; in training the implicit head's bias is the batch's own.
        if not training:
            expected = head.normalize(z) @ head.weight.mT + (0 if head.bias is None else head.bias.unsqueeze(-2))
            torch.testing.assert_close(head(z), expected)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("runs", [None, 2])
def test_class_vectors_have_unit_length(name, runs):
    head = make(name, runs)
    head(*batch_of(0, runs))
    torch.testing.assert_close(head.weight.norm(dim=-1), torch.ones_like(head.weight[..., 0]))


@pytest.mark.parametrize("frame", ["canonical", "haar"])
@pytest.mark.parametrize("name", ["fixed", "implicit"])
def test_weights_are_a_simplex_etf(name, frame):
    head = make(name, 2, frame=frame)
    head(*batch_of(0, 2))
    gram = torch.eye(C, dtype=torch.float64) * C / (C - 1) - 1 / (C - 1)
    torch.testing.assert_close(
        head.weight @ head.weight.mT, gram.expand_as(head.weight @ head.weight.mT), rtol=0, atol=1e-6
    )


def test_haar_frames_differ_between_runs_and_canonical_ones_do_not():
    assert not torch.allclose(*make("fixed", 2, frame="haar").weight)
    torch.testing.assert_close(
        make("fixed", frame="canonical").weight, etf.simplex_etf(C, D, dtype=torch.float64).mT, rtol=0, atol=1e-6
    )


def test_linear_head_keeps_unit_rows():
    head = make("standard")
    optimizer = torch.optim.SGD(head.parameters(), lr=3.0)
    z, targets = batch_of(0)
    F.cross_entropy(head(z, targets), targets).backward()
    optimizer.step()
    stepped = head._parameters["weight"].detach().clone()  # as the optimiser left it
    assert (stepped.norm(dim=-1) - 1).abs().max() > 0.1
    torch.testing.assert_close(head.weight.detach(), F.normalize(stepped, dim=-1))


def test_only_learnt_heads_have_parameters():
    found = {name: len(list(make(name).parameters())) for name in HEADS}
    assert found == {"standard": 1, "fixed": 0, "implicit": 0, "cosine": 1}
    assert len(list(make("implicit", learn_temperature=True).parameters())) == 1


# Against the naive composition


@pytest.mark.parametrize("name", ["standard", "fixed"])
@pytest.mark.parametrize("runs", [None, 3])
def test_linear_and_fixed_head(name, runs):
    head = make(name, runs)
    compare(head, lambda z, _: (TAU * z / z.norm(dim=-1, keepdim=True)) @ head.weight.detach().mT, *batch_of(0, runs))


def test_gradient_of_the_learnt_weights():
    head, (z, targets) = make("standard", 2), batch_of(0, 2)
    head(z, targets).cos().sum().backward()
    weight = head.weight.detach().clone().requires_grad_()
    ((TAU * z / z.norm(dim=-1, keepdim=True)) @ weight.mT).cos().sum().backward()
    torch.testing.assert_close(head.weight.grad, weight.grad, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backprop", [True, False])
@pytest.mark.parametrize("runs", [None, 3])
def test_implicit_head_over_several_steps(runs, backprop):
    head = make("implicit", runs, backprop_through_etf=backprop)
    naive = Naive(head)
    for step in range(4):
        compare(head, naive, *batch_of(step, runs))
    torch.testing.assert_close(head.frame, naive.frame, rtol=0, atol=1e-10)


@pytest.mark.parametrize("delta", [1e-3, 1.0])
@pytest.mark.parametrize("frame", ["canonical", "haar"])
def test_implicit_head_with_other_settings(frame, delta):
    head = make("implicit", 2, frame=frame, delta=delta)
    naive = Naive(head)
    for step in range(2):
        compare(head, naive, *batch_of(step, 2))


# With a class not seen yet the means leave a direction of the start frame open; a rounding error there grows to about
# 1e-6.
UNSEEN = 1e-4


@pytest.mark.parametrize("runs", [None, 2])
def test_implicit_head_with_missing_classes(runs):
    # 3 unseen for two steps, 0 and 1 seen and then away, all of them at the end
    head = make("implicit", runs)
    naive = Naive(head)
    for step, classes in enumerate([(0, 1, 2), (1, 2), (2, 3), (0, 1, 2, 3), (3,)]):
        compare(head, naive, *batch_of(step, runs, classes=classes), tolerance=UNSEEN)
        assert head.class_means.seen.all() == (step >= 2)


def test_implicit_head_where_runs_miss_different_classes():
    head = make("implicit", 2)
    naive = Naive(head)
    for step in range(3):
        (za, ta), (zb, tb) = batch_of(step, classes=(0, 1, 2)), batch_of(step + 10, classes=(1, 2, 3))
        compare(head, naive, torch.stack([za, zb]), torch.stack([ta, tb]), tolerance=UNSEEN)


def test_more_samples_than_a_block():
    # The passes go over the samples in blocks; this takes several, the last one short.
    from labkit._fast.fused import BLOCK

    n = 2 * BLOCK // D + 3
    head = make("implicit")
    compare(head, Naive(head), *batch_of(0, n=n))


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_constant_weight_of_a_batch_in_training(alpha):
    head = make("implicit", alpha=alpha)
    naive = Naive(head)
    for step in range(4):
        compare(head, naive, *batch_of(step), seed=step)
    assert head.class_means.step == 4


def test_back_twice_through_the_same_graph():
    # The array that held h becomes the gradient: the second pass must not write into the first's.
    z, targets = batch_of(0)
    z.requires_grad_()
    loss = F.cross_entropy(make("implicit").train()(z, targets), targets)
    (first,) = torch.autograd.grad(loss, z, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, z)
    assert torch.equal(first, kept) and torch.equal(second, kept) and first.data_ptr() != second.data_ptr()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("runs", [None, 2])
def test_a_jacobian_in_one_batched_pass_is_that_of_many(name, fused, create_graph, runs):
    generator = torch.Generator().manual_seed(0)
    shape = (8, 5) if runs is None else (runs, 8, 5)
    z = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        z[..., 0, :] = 0  # which has no direction
    targets = torch.tensor([0, 1, 2, 0, 1, 2, -100, 1])
    generators = None if runs is None else [torch.Generator().manual_seed(k) for k in range(runs)]
    head = HEADS[name](5, 3, fused=fused, generators=generators).double()
    logits = head(z, targets)
    weights = torch.randn(6, *logits.shape, generator=generator, dtype=torch.float64)
    one_by_one = [torch.autograd.grad(logits, z, w, retain_graph=True)[0] for w in weights]
    (found,) = torch.autograd.grad(
        logits, z, weights, is_grads_batched=True, create_graph=create_graph, retain_graph=True
    )
    torch.testing.assert_close(found, torch.stack(one_by_one), rtol=1e-12, atol=1e-12)


def test_labels_shared_by_all_runs():
    (z, targets), one, two = batch_of(0, 3), make("implicit", 3), make("implicit", 3)
    torch.testing.assert_close(one(z, targets[0]), two(z, targets[:1].expand(3, N)), rtol=0, atol=0)


@pytest.mark.parametrize("name", HEADS)
def test_a_run_does_not_depend_on_those_beside_it(name):
    z, targets = batch_of(0, 3)
    together = make(name, 3)(z, targets)
    head = HEADS[name](D, C, TAU, generators=[torch.Generator().manual_seed(2)]).double()
    torch.testing.assert_close(head(z[2:], targets[2:])[0], together[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backprop", [True, False])
def test_implicit_head_in_float32(backprop):
    grads = []
    for dtype in (torch.float32, torch.float64):
        head, (z, targets) = make("implicit", dtype=dtype, backprop_through_etf=backprop), batch_of(0, dtype=dtype)
        z.requires_grad_()
        F.cross_entropy(head(z, targets), targets).backward()
        grads.append(z.grad)
    assert grads[0].dtype == torch.float32
    assert (grads[0].double() - grads[1]).norm() < 1e-3 * grads[1].norm()


@pytest.mark.parametrize("backprop", [True, False])
def test_gradcheck_of_a_later_step(backprop):
    # The running average and prox are constants of a later step, so finite differences see all there is. (At the first
    # step prox comes from the means, and counts as a constant nevertheless.) Without the indirect path it is not the
    # gradient.
    head = make("implicit", delta=0.1, backprop_through_etf=backprop)
    head(*batch_of(0))
    z, targets = batch_of(1, n=6)
    check = torch.autograd.gradcheck(
        lambda x: copy.deepcopy(head)(x, targets), z.requires_grad_(), raise_exception=backprop
    )
    assert check == backprop


@pytest.mark.parametrize("name", ["standard", "fixed"])
def test_second_derivative_of_linear_and_fixed_head(name):
    z, _ = batch_of(0, n=5)
    head = make(name)
    assert torch.autograd.gradgradcheck(lambda x: head(x), z.requires_grad_())


def test_derivatives_by_the_learnt_weights_are_the_same_in_every_way_to_call_the_head():
    """First and second ones: rows are held at unit length after a step, and so their lengths are constants in it."""
    head, (z, targets) = make("standard"), batch_of(0, n=5)
    weight, z = head.weight, z.requires_grad_()
    written_out = lambda x, w: head.temperature * (x / x.norm(dim=-1, keepdim=True)) @ w.mT
    ways = {
        "eager": lambda x, w: head(x),
        "functional": lambda x, w: torch.func.functional_call(head, {"weight": w}, (x,)),
        "written out": written_out,
    }
    found = {}
    for name, call in ways.items():
        loss = torch.nn.functional.cross_entropy(call(z, weight), targets)
        slopes = torch.autograd.grad(loss, (z, weight), create_graph=True)
        found[name] = [*slopes, *torch.autograd.grad(sum(s.cos().sum() for s in slopes), (z, weight))]
    by_func = torch.func.grad(lambda w: torch.nn.functional.cross_entropy(ways["functional"](z, w), targets))
    torch.testing.assert_close(by_func(weight.detach()), found["written out"][1])
    for name in ("eager", "functional"):
        torch.testing.assert_close(found[name], found["written out"])
    assert torch.autograd.gradgradcheck(written_out, (z, weight.detach().requires_grad_()))


@pytest.mark.parametrize("fused", [True, False])
def test_second_derivative_of_the_implicit_head(fused):
    # A gradient penalty must neither drop out silently nor be refused.
    head = make("implicit", delta=0.1, fused=fused)
    head(*batch_of(0))
    z, targets = batch_of(1, n=6)

    def penalty(x):
        x = x if x.requires_grad else x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(copy.deepcopy(head)(x, targets).cos().sum(), x, create_graph=True)
        return grad

    (ours,) = torch.autograd.grad(penalty(z.requires_grad_()).square().sum(), z)
    step, direction = 1e-5, torch.randn(z.shape, dtype=z.dtype, generator=torch.Generator().manual_seed(2))
    up, down = (penalty(z.detach() + sign * step * direction).square().sum().detach() for sign in (1, -1))
    assert ((up - down) / (2 * step)).item() == pytest.approx((ours * direction).sum().item(), rel=1e-6)


# State


def train(head, features, steps, start=0):
    """A few steps of SGD on the features, another part of the batch (and of the classes) each time."""
    z = torch.nn.Parameter(features.clone())
    _, targets = batch_of(0)
    optimizer = torch.optim.SGD([z, *head.parameters()], lr=0.5)
    for step in range(start, start + steps):
        part = torch.arange(step % 3, N, 3)
        optimizer.zero_grad()
        F.cross_entropy(head(z[part], targets[part]), targets[part]).backward()
        optimizer.step()
    return z.detach()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_dict_continues_bit_for_bit(name, dtype):
    options = {"frame": "haar"} if name in ("fixed", "implicit") else {}
    head, (z, _) = make(name, dtype=dtype, **options), batch_of(1, dtype=dtype)
    z = train(head, z, 5)
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)

    torch.manual_seed(1)
    other = HEADS[name](D, C, TAU, **options).to(dtype)  # another frame, other weights
    other.load_state_dict(torch.load(file, weights_only=True))
    first, second = train(head, z, 6, start=5), train(other, z, 6, start=5)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(head.state_dict().values(), other.state_dict().values(), strict=True))


def test_state_dict_holds_everything_the_implicit_head_needs():
    assert set(make("implicit").state_dict()) == {
        "frame",
        "class_means.means",
        "class_means.global_mean",
        "class_means.seen",
        "class_means.step",
    }


def state(head):
    return {name: value.clone() for name, value in head.state_dict().items()}


def same(before, head):
    return all(torch.equal(before[name], value) for name, value in head.state_dict().items())


def test_eval_mode_needs_no_targets_and_moves_nothing():
    head = make("implicit")
    naive = Naive(head)
    for step in range(3):
        naive(*batch_of(step)), head(*batch_of(step))
    before = state(head.eval())
    z, targets = batch_of(7)
    logits = head(z)
    assert torch.equal(logits, head(z, targets)) and same(before, head)
    w = etf.simplex_etf(C, frame=naive.frame).mT
    torch.testing.assert_close(
        logits, TAU * F.normalize(z, dim=-1) @ w.mT - w @ naive.global_mean, rtol=1e-9, atol=1e-9
    )


def test_gradient_in_eval_mode():
    head = make("implicit")
    head(*batch_of(0))
    z, _ = batch_of(1, n=5)
    assert torch.autograd.gradcheck(head.eval(), z.requires_grad_())


def test_training_without_targets_is_refused():
    head = make("implicit")
    before = state(head)
    with pytest.raises(ValueError, match="targets in training mode"):
        head(batch_of(0)[0])
    assert same(before, head)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_leave_the_state_alone(value, steps):
    head = make("implicit")
    for step in range(steps):
        head(*batch_of(step))
    before = state(head)
    z, targets = batch_of(5)
    z[3, 2] = value
    with pytest.raises(ValueError, match="^features must be finite, but some are NaN or infinite$"):
        head(z, targets)
    assert same(before, head)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("frame", ["canonical", "haar"])
def test_equal_features_keep_the_frame(frame, dtype):
    # Their class means differ by rounding only, which is no direction to turn to.
    head = make("implicit", dtype=dtype, frame=frame)
    first = head.frame.clone()
    z = torch.linspace(-1, 2, D, dtype=dtype).expand(N, D).clone().requires_grad_()
    _, targets = batch_of(0)
    F.cross_entropy(head(z, targets), targets).backward()
    assert z.grad.isfinite().all()
    torch.testing.assert_close(head.frame, first, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("zeros", [1, N])
def test_zero_features_do_not_give_nan(name, zeros):
    head, (z, targets) = make(name, dtype=torch.float32), batch_of(0, dtype=torch.float32)
    z[:zeros] = 0
    z.requires_grad_()
    logits = head(z, targets)
    F.cross_entropy(logits, targets).backward()
    assert logits.isfinite().all() and z.grad.isfinite().all() and head.weight.isfinite().all()


# Class sums and means


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("shared", [True, False])
def test_class_sums_against_one_hot(batch, shared):
    g = torch.Generator().manual_seed(0)
    z = torch.randn(*batch, 11, D, generator=g, dtype=torch.float64)
    targets = torch.randint(C - 1, (11,) if shared else (*batch, 11), generator=g)  # the last class has no sample
    one_hot = F.one_hot(targets, C).double()
    sums, counts = class_sums(z, targets, C)
    torch.testing.assert_close(sums, one_hot.mT @ z)
    assert torch.equal(counts, one_hot.sum(-2).long().expand(*batch, C))


def test_class_sums_of_strided_features():
    z = torch.randn(D, 11, dtype=torch.float64).mT
    targets = torch.arange(22)[::2] % C
    torch.testing.assert_close(class_sums(z, targets, C)[0], F.one_hot(targets, C).double().mT @ z)


def test_class_sums_are_differentiable():
    z, targets = batch_of(0, 2, n=5)
    assert torch.autograd.gradcheck(lambda x: class_sums(x, targets, C)[0], z.requires_grad_())


def test_weight_of_a_batch_in_the_running_average():
    means = ClassMeans(D, C)
    sums, counts = torch.randn(C, D, dtype=torch.float64, requires_grad=True), torch.ones(C, dtype=torch.float64)

    def weight():
        """From the gradient, which flows through the batch alone: of a sum over classes of h̄_c − μ_G."""
        average, _ = means(sums, counts)
        (grad,) = torch.autograd.grad(average[0, 0], sums)
        return grad[0, 0].item() / (1 - 1 / C)

    assert [weight() for _ in range(4)] == pytest.approx([1, 2 / 3, 2 / 4, 2 / 5])
    means.step.fill_(10**6)
    assert weight() == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_constant_weight_of_a_batch(alpha):
    means = ClassMeans(D, C, alpha=alpha)
    rng = np.random.default_rng(0)
    sums = [rng.standard_normal((C, D)) for _ in range(3)]
    average = None
    for batch in sums:
        means(torch.from_numpy(batch), torch.ones(C))
        centred = batch - batch.mean(0)
        average = (
            centred if average is None else alpha * centred + (1 - alpha) * average
        )  # the first one counts in full
    assert np.allclose(means.means.T, average, atol=1e-5)


# Bad input


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda head: head(1, 1), "num_classes .* got 1"),
        (lambda head: head(0, 4), "dim .* got 0"),
        (lambda head: head(True, 4), "dim .* got True"),
        (lambda head: head(2.0, 2), "dim .* got 2.0"),
        (lambda head: head(8, 4, 0.0), "temperature .* got 0.0"),
        (lambda head: head(8, 4, -1), "temperature .* got -1"),
        (lambda head: head(8, 4, math.nan), "temperature .* got nan"),
    ],
)
@pytest.mark.parametrize("head", HEADS.values())
def test_bad_constructor_arguments(head, call, message):
    with pytest.raises(ValueError, match=message):
        call(head)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: FixedETFHead(3, 5), "dim .* at least 4 .* got 3: no simplex ETF"),
        (lambda: ImplicitETFHead(3, 5), "dim .* at least 4 .* got 3: no simplex ETF"),
        (lambda: FixedETFHead(8, 4, bias="mean"), "bias must be one of None, 'batch_mean'; got 'mean'"),
        (lambda: ImplicitETFHead(8, 4, eval_bias="mean"), "eval_bias must be one of .* got 'mean'"),
        (lambda: LinearHead(8, 4, start="random"), "start must be one of .* got 'random'"),
        (lambda: FixedETFHead(8, 4, frame="random"), "frame must be one of 'canonical', 'haar'; got 'random'"),
        (lambda: ImplicitETFHead(8, 4, frame=None), "frame .* got None"),
        (lambda: ImplicitETFHead(8, 4, delta=0.0), "delta .* got 0.0"),
        (lambda: ImplicitETFHead(8, 4, delta=-1.0), "delta .* got -1.0"),
        (lambda: ImplicitETFHead(8, 4, alpha=0.0), "alpha .* got 0.0"),
        (lambda: ImplicitETFHead(8, 4, alpha=1.5), "alpha must be at most 1, got 1.5"),
    ],
)
def test_bad_frames_and_deltas(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "features, targets, error, message",
    [
        (torch.ones(N, D + 1), torch.zeros(N).long(), ValueError, rf"features .*\('N'|features .*N.*\({N}, {D + 1}\)"),
        (torch.ones(D), torch.zeros(1).long(), ValueError, rf"features .*\({D},\)"),
        (torch.ones(2, N, D), torch.zeros(N).long(), ValueError, rf"targets .*\(2, {N}\).*\({N},\)"),
        (torch.ones(N, D), torch.full((N,), -100), ValueError, "at least one label, got only ignore_index=-100"),
        (torch.ones(N, D), torch.ones(N, C + 1) / (C + 1), ValueError, rf"probabilities .*\({N}, {C}\)"),
        (torch.ones(N, D), torch.ones(N, C), ValueError, "probabilities must .* add up to 1"),
        (torch.ones(N, D), torch.full((N, C), math.nan), ValueError, "probabilities must"),
        (torch.ones(N, D).long(), torch.zeros(N).long(), TypeError, "features .*int64"),
        (torch.ones(N, D), torch.zeros(N - 1).long(), ValueError, rf"targets .*\({N},\).*\({N - 1},\)"),
        (torch.ones(N, D), torch.zeros(N), TypeError, "targets .*float32"),
        (torch.ones(N, D), [0] * N, TypeError, "targets .*list"),
        (torch.ones(N, D), torch.full((N,), C), ValueError, f"labels .*0 … {C - 1}.* {C} to {C}"),
        (torch.ones(N, D), torch.full((N,), -1), ValueError, "labels .* -1 to -1"),
        (torch.ones(0, D), torch.zeros(0).long(), ValueError, "at least one label"),
    ],
)
@pytest.mark.parametrize("name", HEADS)
def test_bad_features_and_targets(name, features, targets, error, message):
    head = make(name, dtype=torch.float32)
    before = state(head)
    with pytest.raises(error, match=message):
        head(features, targets)
    assert same(before, head)


def test_features_without_the_dimension_of_the_runs():
    with pytest.raises(ValueError, match=rf"features .*\(2, 'N', {D}\).*\({N}, {D}\)"):
        make("standard", 2)(batch_of(0)[0])


# Without normalisation


def test_a_standard_head_without_normalisation_is_a_linear_layer():
    z, targets = (
        torch.randn(9, D, generator=torch.Generator().manual_seed(1)).double().requires_grad_(),
        torch.arange(9) % C,
    )
    head = LinearHead(D, C, normalized=False).double()
    with torch.no_grad():
        head.weight.mul_(3)
    assert torch.equal(head.normalize(z), z)
    ours = torch.autograd.grad(F.cross_entropy(head(z, targets), targets), [z, head.weight])
    theirs = torch.autograd.grad(F.cross_entropy(F.linear(z, head.weight), targets), [z, head.weight])
    torch.testing.assert_close(ours, theirs)
    assert math.isclose(float(torch.linalg.matrix_norm(head.weight.detach())), 3 * math.sqrt(C), rel_tol=1e-6)
    assert head(z.detach().bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="features must have shape"):
        head(z[:, :-1])
