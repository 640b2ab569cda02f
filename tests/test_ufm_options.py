"""UFMs with imbalanced classes, and training on small batches."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from labkit import etf, metrics
from labkit.heads import HEADS
from labkit.ufm import UFM, Trainer, train_ufm

SMALL = UFM(4, 40, 16)
TAILED = UFM(4, 40, 16, 5.0)


# Class sizes


@pytest.mark.parametrize(
    "C, N, r",
    [(10, 1000, 100.0), (10, 1000, 10), (10, 249, 100), (10, 60, 10.0), (2, 3, 2.0), (3, 1000, 1.01), (100, 5000, 100)],
)
def test_sizes_fall_exponentially(C, N, r):
    spec = UFM(C, N, C, r)
    sizes = spec.class_sizes().numpy()
    rule = np.array([r ** (-c / (C - 1)) for c in range(C)])
    rule *= N / rule.sum()
    assert sizes.sum() == N and sizes.min() >= 1
    assert (np.diff(sizes) <= 0).all()
    assert np.abs(sizes - rule).max() < 1
    low, high = (rule[0] - 1) / (rule[-1] + 1), (rule[0] + 1) / max(rule[-1] - 1, 1)
    assert low < sizes[0] / sizes[-1] < high
    targets = spec.targets()
    assert torch.equal(targets, targets.sort().values) and np.array_equal(np.bincount(targets), sizes)


def test_sizes_that_are_whole_are_exact():
    assert UFM(3, 70, 3, 4.0).class_sizes().tolist() == [40, 20, 10]
    assert UFM(5, 31, 5, 16).class_sizes().tolist() == [16, 8, 4, 2, 1]


@pytest.mark.parametrize("C, N", [(10, 1000), (3, 10), (7, 7)])
def test_no_imbalance_is_the_balanced_model(C, N):
    assert torch.equal(UFM(C, N, C, 1.0).targets(), torch.arange(N) * C // N)
    assert UFM(C, N, C) == UFM(C, N, C, 1.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((4, 40, 8, 0.5), "imbalance .* at least 1, got 0.5"),
        ((4, 40, 8, math.nan), "imbalance .* got nan"),
        ((4, 40, 8, "10"), "imbalance .* got '10'"),
        ((10, 60, 16, 100.0), "imbalance=100.0 with num_classes=10 needs num_samples of at least 249, got 60"),
    ],
)
def test_impossible_imbalance(arguments, message):
    with pytest.raises(ValueError, match=message):
        UFM(*arguments)


def test_as_few_samples_as_the_message_says():
    assert UFM(10, 249, 16, 100.0).class_sizes()[-1] == 1
    with pytest.raises(ValueError, match="at least 249, got 248"):
        UFM(10, 248, 16, 100.0)


# Metrics of imbalanced classes: the paper's covariances as d×d matrices, with the mean over samples as the global mean


def test_metrics_of_imbalanced_classes():
    generator = torch.Generator().manual_seed(0)
    y, C = TAILED.targets(), 4
    noise, centres, weight = (torch.randn(n, 16, generator=generator, dtype=torch.float64) for n in (40, C, C))
    h = noise + 3 * centres[y]
    means = torch.stack([h[y == c].mean(0) for c in range(C)])
    centred = means - h.mean(0)
    assert centred.mean(0).norm() > 0.1  # else the example would not tell the two global means apart
    within = sum(torch.outer(x - means[c], x - means[c]) for x, c in zip(h, y)) / 40
    between = sum(torch.outer(m, m) for m in centred) / C
    expected = torch.trace(within @ torch.linalg.pinv(between, rtol=1e-9)) / C
    assert metrics.nc1(h, y).item() == pytest.approx(expected.item(), rel=1e-9)
    simplex = (torch.eye(C, dtype=torch.float64) - 1 / C) / math.sqrt(C - 1)
    product = weight @ centred.T
    assert metrics.nc3(weight, h, y).item() == pytest.approx(
        (product / product.norm() - simplex).norm().item(), rel=1e-9
    )


@pytest.mark.parametrize("head", HEADS)
def test_imbalanced_training_fits_every_sample(head):
    history = train_ufm(TAILED, head, 100, seeds=[0, 1])
    assert history.settings["spec"]["imbalance"] == 5.0
    assert (history.final()["accuracy"] == 1).all()


# Batches


def test_batches_are_random_and_without_repeats():
    trainer, seen = Trainer(TAILED, "fixed", [0, 1], batch_size=8), []
    for _ in range(20):
        features, targets = trainer.batch()
        rows = [[(trainer.features[s] == f).all(-1).nonzero().item() for f in features[s]] for s in range(2)]
        assert all(len(set(r)) == 8 for r in rows)
        assert torch.equal(targets, TAILED.targets()[torch.tensor(rows)])
        seen.append(rows)
        trainer.step()
    assert all(a != b for a, b in pairwise(seen)) and all(first != second for first, second in seen)
    assert len({r for rows in seen for r in rows[0]}) == 40  # in twenty batches of a fifth, all turn up


@pytest.mark.parametrize("head", HEADS)
def test_one_step_by_hand(head):
    # Naive features, loss, and AGD's formula, for one seed.
    trainer = Trainer(TAILED, head, [3], batch_size=8)
    before = trainer.features.detach().clone()[0]
    _, targets = trainer.batch()
    rows = trainer._rows_of_batch[0]
    assert torch.equal(targets[0], TAILED.targets()[rows])
    z = before[rows].clone().requires_grad_()
    moved = copy.deepcopy(trainer.head)
    logits = moved(z.unsqueeze(0), targets)[0]
    layers = [z, *moved.parameters()]
    gradients = torch.autograd.grad(-logits.log_softmax(-1)[range(8), targets[0]].mean(), layers)
    scales = [math.sqrt(40 / 16), math.sqrt(4 / 16)][: len(layers)]
    total = sum(s * g.norm() for s, g in zip(scales, gradients)) / len(layers)
    eta = math.log((1 + math.sqrt(1 + 4 * total.item())) / 2)
    expected = before.clone()
    expected[rows] -= 10 * eta / len(layers) * scales[0] * gradients[0] / gradients[0].norm()
    trainer.step()
    torch.testing.assert_close(trainer.features[0].detach(), expected, rtol=1e-4, atol=1e-5)
    absent = [i for i in range(40) if i not in rows]
    assert torch.equal(trainer.features[0, absent], before[absent])


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_of_all_samples_is_a_full_batch(head):
    batch, full = (train_ufm(TAILED, head, 30, seeds=[0, 4], batch_size=b).final() for b in (40, None))
    np.testing.assert_allclose(batch.drop(columns="head"), full.drop(columns="head"), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("head", HEADS)
def test_a_seed_does_not_depend_on_those_beside_it(head):
    alone = train_ufm(SMALL, head, 20, seeds=[3], batch_size=8)
    among = train_ufm(SMALL, head, 20, seeds=[0, 3, 7], batch_size=8)
    rows = among.frame[among.frame["seed"] == 3].reset_index(drop=True)
    for name in ("loss", "accuracy", "cosine_margin", "nc1", "nc3"):
        np.testing.assert_allclose(rows[name], alone.frame[name], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_looking_changes_no_batch(head):
    often, seldom = (train_ufm(SMALL, head, 20, log_at=at, batch_size=8).final() for at in (range(21), [20]))
    np.testing.assert_allclose(often.drop(columns="head"), seldom.drop(columns="head"), rtol=1e-4, atol=1e-7)


def test_with_and_without_the_gradient_through_the_etf_see_the_same_batches():
    trainers = [
        Trainer(TAILED, "implicit", [5], backprop_through_etf=through, batch_size=8) for through in (True, False)
    ]
    for _ in range(5):
        targets = [trainer.batch()[1] for trainer in trainers]
        assert torch.equal(*targets)
        for trainer in trainers:
            trainer.step()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("batch_size", [2, 8])
def test_batches_that_miss_classes_train_too(head, batch_size):
    frame = train_ufm(TAILED, head, 400, seeds=[0, 1], batch_size=batch_size, log_at=[0, 400]).frame
    loss = frame.pivot(index="seed", columns="iteration", values="loss")
    assert (loss[400] < 0.2 * loss[0]).all()


def test_measures_are_of_all_samples():
    trainer = Trainer(SMALL, "fixed", [0], batch_size=8)
    trainer.step()
    values, margins = trainer.measure()
    h = 5 * torch.nn.functional.normalize(trainer.features[0].detach().double(), dim=-1)
    expected = torch.nn.functional.cross_entropy(h @ etf.simplex_etf(4, 16, dtype=torch.float64), SMALL.targets())
    assert margins.shape == (1, 40) and values["loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("batch_size", [0, 41, -1, 2.5, "8"])
def test_bad_batch_size(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be None or .* 1 to num_samples=40, got {batch_size!r}"):
        train_ufm(SMALL, iterations=1, batch_size=batch_size)
