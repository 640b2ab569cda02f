"""Prior corrections against Bayes' rule and the released code, groups against hand counts, calibration errors against
torchmetrics and sums written out.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from labkit import calibration

OUTSIDE = np.load(Path(__file__).parent / "outside" / "pc-softmax.npz")


@pytest.mark.parametrize("case", ["case0", "case1", "case2"])
@pytest.mark.parametrize("kind, theirs", [("prior", "raw"), ("odds", "rel")])
def test_corrections_equal_the_released_code(case, kind, theirs):
    logits, counts = torch.from_numpy(OUTSIDE[f"{case}_logits"]).double(), OUTSIDE[f"{case}_counts"]
    offset, found = calibration.prior_offset(counts, kind), calibration.correct_prior(logits, counts, kind=kind)
    np.testing.assert_allclose(offset, OUTSIDE[f"{case}_{theirs}_offset"].ravel(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found, torch.from_numpy(OUTSIDE[f"{case}_{theirs}_calibrated"]), rtol=1e-12, atol=1e-12)


def test_a_corrected_posterior_is_the_bayes_classifier_of_equal_classes():
    """Three Gaussians on a line with priors 0.9, 0.09, 0.01. The posterior under the training prior, corrected, decides
    as Bayes does for equal classes: half-way between neighbours; its error is the integral of the tails.
    """
    means, counts = torch.tensor([0.0, 2.0, 5.0], dtype=torch.float64), torch.tensor([900, 90, 10])
    prior = counts / counts.sum()
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(100_000)
    x = means[labels] + torch.randn(len(labels), generator=generator, dtype=torch.float64)
    logits = -(x[:, None] - means).square() / 2 + prior.double().log()
    found = calibration.correct_prior(logits, counts)
    expected = torch.bucketize(x, torch.tensor([1.0, 3.5], dtype=torch.float64))
    assert (found.argmax(-1) != expected).sum() == 0
    exact = 1 - (norm.sf(1) + norm.sf(1) + norm.sf(1.5) + norm.sf(1.5)) / 3
    accuracy = calibration.group_accuracy(found, labels, counts)
    assert accuracy["overall"] == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / len(labels)))
    plain = calibration.group_accuracy(logits, labels, counts)
    assert plain["few"] < accuracy["few"] - 0.05 and plain["many"] > accuracy["many"] + 0.05
    # and the corrected posterior is calibrated on balanced samples, the plain one is not
    assert (
        calibration.calibration_error(found, labels)["ece"]
        < 0.003
        < 0.03
        < calibration.calibration_error(logits, labels)["ece"]
    )


def test_tau_scales_the_correction():
    logits, counts = torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), [70, 20, 10]
    assert torch.equal(calibration.correct_prior(logits, counts, 0), logits)
    twice = calibration.correct_prior(calibration.correct_prior(logits, counts), counts)
    torch.testing.assert_close(calibration.correct_prior(logits, counts, 2), twice)
    expected = [math.log(100 / 70), math.log(5), math.log(10)]
    assert calibration.prior_offset(counts).tolist() == pytest.approx(expected, rel=1e-14)


def test_groups_by_hand():
    # 100 and 20 belong to the middle; the released code: > 100, 20 … 100, < 20
    assert calibration.groups([101, 100, 20, 19, 0]) == ["many", "medium", "medium", "few", "few"]
    assert calibration.groups([5, 3, 1], (4, 2)) == ["many", "medium", "few"]
    assert [calibration.MARKS[g] for g in calibration.GROUPS] == ["F", "C", "R"]


def test_cifar100_lt_has_the_released_split():
    from labkit.vision import longtail

    named = calibration.groups(longtail.exponential(500, 100, 100))
    assert [named.count(g) for g in calibration.GROUPS] == [35, 35, 30]


def test_recall_and_groups_equal_a_count_by_hand():
    generator = torch.Generator().manual_seed(2)
    labels, logits = torch.arange(60) % 6, torch.randn(60, 6, generator=generator)
    counts = [300, 101, 100, 50, 19, 3]
    guesses = logits.argmax(-1)
    shares = [sum(int(guesses[i] == c) for i in range(60) if labels[i] == c) / 10 for c in range(6)]
    assert calibration.recall(guesses, labels, 6).tolist() == pytest.approx(shares)
    found = calibration.group_accuracy(logits, labels, counts)
    assert found == pytest.approx(
        {
            "overall": sum(shares) / 6,
            "many": sum(shares[:2]) / 2,
            "medium": sum(shares[2:4]) / 2,
            "few": sum(shares[4:]) / 2,
        }
    )
    assert math.isnan(calibration.group_accuracy(logits, labels, [300] * 6)["few"])


def test_groups_are_means_of_recalls_when_test_classes_differ_in_size():
    labels = torch.tensor([0] * 9 + [1])
    logits = torch.nn.functional.one_hot(torch.tensor([0] * 10), 2).float()
    assert calibration.group_accuracy(logits, labels, [500, 400]) == pytest.approx(
        {"overall": 0.9, "many": 0.5, "medium": float("nan"), "few": float("nan")}, nan_ok=True
    )


def samples(n=500, classes=7, seed=3, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.distributions.Categorical(logits=0.6 * logits).probs.multinomial(1, generator=generator)[:, 0]


@pytest.mark.parametrize("bins", [1, 10, 15, 40])
def test_errors_equal_torchmetrics(bins):
    import labkit.vision  # noqa: F401  torchmetrics imports torchvision

    classification = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels = samples()
    found = calibration.calibration_error(logits, labels, bins)
    for key, norm_of in (("ece", "l1"), ("mce", "max")):
        theirs = classification.multiclass_calibration_error(logits.softmax(-1), labels, 7, bins, norm_of)
        assert found[key] == pytest.approx(theirs.item(), rel=1e-5)  # float32 inside


@pytest.mark.parametrize("equal_mass", [False, True])
def test_errors_equal_a_sum_written_out(equal_mass):
    logits, labels = samples(n=203)
    p = (logits - logits.max(-1, keepdim=True).values).exp()
    p = (p / p.sum(-1, keepdim=True)).numpy()
    confidence, right = p.max(1), p.argmax(1) == labels.numpy()
    if equal_mass:
        order = np.argsort(confidence)
        parts = [[i for k, i in enumerate(order) if k * 10 // 203 == b] for b in range(10)]
    else:
        parts = [[i for i in range(203) if b <= confidence[i] * 10 < b + 1] for b in range(10)]
    gaps = [(len(part), abs(right[part].mean() - confidence[part].mean())) for part in parts if part]
    found = calibration.calibration_error(logits, labels, 10, equal_mass)
    assert found["ece"] == pytest.approx(sum(n * gap for n, gap in gaps) / 203, rel=1e-9)
    assert found["mce"] == pytest.approx(max(gap for _, gap in gaps), rel=1e-9)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "uint64"])
def test_labels_of_any_integer_dtype(kind):
    logits, labels = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 4
    other, guesses = labels.to(getattr(torch, kind)), logits.argmax(-1)
    learnt = logits + torch.nn.functional.one_hot(labels, 4)
    for call in (
        lambda y: calibration.recall(guesses, y, 4).tolist(),
        lambda y: calibration.recall(y, guesses, 4).tolist(),
        lambda y: calibration.group_accuracy(logits, y, [200, 150, 15, 10]),
        lambda y: calibration.reliability(logits, y).to_csv(),
        lambda y: calibration.best_temperature(learnt, y),
    ):
        assert str(call(other)) == str(call(labels))


def test_bins_of_equal_mass():
    logits, labels = samples(n=200)
    table = calibration.reliability(logits, labels, 8, equal_mass=True)
    assert table["samples"].tolist() == [25] * 8
    assert (table["low"] <= table["confidence"]).all() and (table["confidence"] <= table["high"]).all()
    assert table["high"].tolist()[:-1] == table["low"].tolist()[1:]
    same = calibration.reliability(torch.zeros(30, 3), labels[:30] % 3, 5, equal_mass=True)  # equal ones stay together
    assert sorted(same["samples"]) == [0, 0, 0, 0, 30]
    few = calibration.reliability(logits[:10], labels[:10], 15, equal_mass=True)  # fewer samples than bins
    assert few["samples"].sum() == 10 and few["samples"].max() == 1 and few["high"].is_monotonic_increasing
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    again = calibration.reliability(logits[order], labels[order], 8, equal_mass=True)
    np.testing.assert_allclose(again, table, rtol=1e-12)


def test_a_sure_sample_is_in_the_last_bin():
    table = calibration.reliability(torch.tensor([[1000.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1]), 4)
    assert table["samples"].tolist() == [0, 0, 1, 1] and table["accuracy"].tolist()[2:] == [0.0, 1.0]


def test_temperature_is_the_minimum_over_a_grid():
    logits, labels = samples(n=4000)
    best = calibration.best_temperature(logits, labels)
    assert best == pytest.approx(1 / 0.6, rel=0.1)  # labels were drawn from softmax(0.6·logits)
    loss = lambda t: torch.nn.functional.cross_entropy(logits / t, labels).item()
    assert all(loss(best) < loss(best * factor) for factor in (0.99, 1.01, 0.5, 2))
    assert (
        calibration.calibration_error(logits / best, labels)["ece"]
        < calibration.calibration_error(logits, labels)["ece"] / 3
    )


def test_bad_arguments():
    logits, labels = samples(20)
    for call, message in [
        (
            lambda: calibration.prior_offset([5, 0]),
            r"every class needs at least one training image, got counts \[5.0, 0.0\]",
        ),
        (lambda: calibration.prior_offset([5, 1], "ln"), "kind must be one of 'prior', 'odds'; got 'ln'"),
        (lambda: calibration.correct_prior(logits, [5, 1]), r"one number for each of the 2 classes, got \(20, 7\)"),
        (
            lambda: calibration.correct_prior(logits, range(1, 8), -1),
            "tau must be a finite number of at least 0, got -1",
        ),
        (lambda: calibration.groups([1], (20, 100)), "the larger first"),
        (lambda: calibration.group_accuracy(logits, labels, [5, 1]), "one number for each of the 7 classes, got 2"),
        (lambda: calibration.reliability(logits, labels, 0), "bins must be an integer of at least 1, got 0"),
        (lambda: calibration.reliability(logits * math.nan, labels), "logits must be finite"),
        (lambda: calibration.best_temperature(logits, logits.argmax(-1)), "no temperature between 0.001 and 1000"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
