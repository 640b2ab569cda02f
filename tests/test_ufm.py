"""Unconstrained feature models: the training loop, and the paper's claims on UFM-10 at full size (a few minutes)."""

import copy
import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit import etf, ufm
from labkit.heads import HEADS, MAIN
from labkit.history import History
from labkit.ufm import UFM, UFM_10, Trainer, log_points, train_ufm

pytestmark = pytest.mark.timeout(400)  # UFM-10 at full size
SMALL = UFM(4, 40, 16)
RESULTS = Path(__file__).resolve().parent.parent / "data/results"
COLUMNS = [
    "head",
    "seed",
    "iteration",
    "loss",
    "accuracy",
    "nc1",
    "nc2",
    "nc3",
    "nc4",
    "equinorm_means",
    "equinorm_weights",
    "cosine_margin",
]


# UFM-10, five seeds, 2000 iterations


@pytest.fixture(scope="module")
def ufm_10():
    """One table for all three heads: trained once, read by the tests below. Every early iteration is measured. Notebook 04
    has five seeds, which take two minutes and a half.
    """
    log_at = sorted({*range(31), *log_points(2000)})
    return History.concat(train_ufm(UFM_10, head, 2000, range(2), log_at=log_at) for head in MAIN)


@pytest.mark.parametrize("head, above", [("standard", 1e-3), ("fixed", 1e-6), ("implicit", 1e-6)])
def test_ufm_10_ends_at_the_bound(ufm_10, head, above):
    final = ufm_10.final()
    excess = final.loc[final["head"] == head, "loss"] - etf.cross_entropy_bound(10, 5.0)
    assert len(excess) == 2
    assert excess.max() < above


def test_ufm_10_is_never_below_the_bound(ufm_10):
    assert ufm_10.frame["loss"].min() >= etf.cross_entropy_bound(10, 5.0) - 1e-6


def test_ufm_10_order_of_full_accuracy(ufm_10):
    perfect = ufm_10.frame[ufm_10.frame["accuracy"] == 1]
    first = perfect.groupby(["head", "seed"])["iteration"].min().unstack("head")
    assert len(first) == 2 and first.notna().all(axis=None)
    assert (first["implicit"] <= 3).all()
    assert (first["implicit"] <= first["fixed"]).all()
    assert (first["fixed"] <= first["standard"]).all()


@pytest.mark.parametrize("head", ["fixed", "implicit"])
@pytest.mark.parametrize("measure, limit", [("nc1", 1e-4), ("nc3", 1e-2)])
def test_ufm_10_collapses(ufm_10, head, measure, limit):
    final = ufm_10.final()
    assert final.loc[final["head"] == head, measure].max() < limit


def test_ufm_10_margins_are_those_of_an_etf(ufm_10):
    margins = ufm_10.margins
    assert len(margins) == 3 * 2 * 1000
    collapsed = margins.loc[margins["head"] != "standard", "margin"]
    assert abs(collapsed - 10 / 9).max() < 0.02
    assert margins["margin"].max() < 10 / 9 + 0.02


def test_ufm_10_all_heads_start_from_the_same_features(ufm_10):
    # The equinorm of the means at iteration 0 depends on the features alone.
    start = ufm_10.frame[ufm_10.frame["iteration"] == 0].pivot(index="seed", columns="head", values="equinorm_means")
    assert (start.nunique(axis=1) == 1).all() and start["fixed"].nunique() == 2


# The model


@pytest.mark.parametrize("spec", [UFM_10, ufm.UFM_100, ufm.UFM_200, ufm.UFM_1000, UFM(3, 10, 5), UFM(4, 4, 4)])
def test_targets_are_balanced_and_sorted(spec):
    targets = spec.targets()
    counts = torch.bincount(targets, minlength=spec.num_classes)
    assert len(targets) == spec.num_samples and torch.equal(targets, targets.sort().values)
    assert counts.max() - counts.min() <= (1 if spec.num_samples % spec.num_classes else 0)


def test_sizes_are_those_of_the_paper():
    sizes = [dataclasses.astuple(s) for s in (UFM_10, ufm.UFM_100, ufm.UFM_200, ufm.UFM_1000)]
    assert sizes == [(10, 1000, 512, 1.0), (100, 5000, 1024, 1.0), (200, 5000, 1024, 1.0), (1000, 10000, 1024, 1.0)]


def test_features_are_orthogonal_at_agd_scale():
    singular = torch.linalg.svdvals(SMALL.features(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(singular, torch.full((16,), math.sqrt(40 / 16)), rtol=1e-5, atol=0)


# Training


def test_all_heads_start_a_seed_from_the_same_features():
    standard, fixed, implicit = (Trainer(SMALL, head, [3, 8]).features for head in MAIN)
    assert torch.equal(standard, fixed) and torch.equal(fixed, implicit)
    assert not torch.equal(standard[0], standard[1])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("frame", ["canonical", "haar"])
def test_a_seed_does_not_depend_on_those_beside_it(head, frame):
    settings = dict(iterations=50, log_at=[0, 1, 5, 20, 50])
    if head in ("fixed", "implicit"):
        settings["frame"] = frame
    alone = train_ufm(SMALL, head, seeds=[3], **settings)
    among = train_ufm(SMALL, head, seeds=[0, 3, 7], **settings)
    rows = among.frame[among.frame["seed"] == 3].reset_index(drop=True)
    for name in ("loss", "accuracy", "cosine_margin", "nc1", "nc3"):  # the others may be all rounding
        np.testing.assert_allclose(rows[name], alone.frame[name], rtol=2e-3, atol=1e-5)
    margins = among.margins.loc[among.margins["seed"] == 3, "margin"]
    np.testing.assert_allclose(margins, alone.margins["margin"], atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_seeds_differ(head):
    frame = train_ufm(SMALL, head, 0, seeds=[0, 1]).frame
    assert frame["loss"].nunique() == 2


@pytest.mark.parametrize("head", HEADS)
def test_a_run_is_repeatable_and_leaves_the_global_generator_alone(head):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first, second = (train_ufm(SMALL, head, 5, seeds=[2]).frame for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_allclose(first.drop(columns="head"), second.drop(columns="head"), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_goes_down(head):
    frame = train_ufm(SMALL, head, 50, seeds=[0, 1], log_at=[0, 50]).frame
    loss = frame.pivot(index="seed", columns="iteration", values="loss")
    assert (loss[50] < 0.5 * loss[0]).all()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("steps", [0, 3])
def test_measure_moves_nothing(head, steps):
    trainer = Trainer(SMALL, head, [0, 1])
    for _ in range(steps):
        trainer.step()
    before, features = copy.deepcopy(trainer.head.state_dict()), trainer.features.detach().clone()
    first, second = trainer.measure(), trainer.measure()
    assert all(torch.equal(before[name], value) for name, value in trainer.head.state_dict().items())
    assert torch.equal(features, trainer.features) and trainer.iteration == steps and trainer.head.training
    assert all(np.array_equal(first[0][name], second[0][name]) for name in first[0])


@pytest.mark.parametrize("head", HEADS)
def test_measuring_more_often_changes_no_number(head):
    often, seldom = (train_ufm(SMALL, head, 20, log_at=at).final() for at in (range(21), [20]))
    np.testing.assert_allclose(often.drop(columns="head"), seldom.drop(columns="head"), rtol=1e-4, atol=1e-7)


def test_iteration_t_is_the_state_after_t_steps():
    # The first row is the loss of the start features; naive cross entropy says what that is.
    trainer = Trainer(SMALL, "fixed", [0])
    h = 5 * torch.nn.functional.normalize(trainer.features[0].detach().double(), dim=-1)
    expected = torch.nn.functional.cross_entropy(h @ etf.simplex_etf(4, 16, dtype=torch.float64), SMALL.targets())
    frame = train_ufm(SMALL, "fixed", 1).frame
    assert frame["iteration"].tolist() == [0, 1]
    assert frame["loss"][0] == pytest.approx(expected.item(), rel=1e-5)


def test_table_is_tidy():
    history = train_ufm(SMALL, "implicit", 10, seeds=[5, 1], log_at=[0, 3, 10])
    assert list(history.frame.columns) == COLUMNS
    assert history.frame[["seed", "iteration"]].values.tolist() == [[1, 0], [1, 3], [1, 10], [5, 0], [5, 3], [5, 10]]
    assert history.frame.notna().all(axis=None)
    assert history.margins.groupby("seed")["sample"].nunique().to_dict() == {1: 40, 5: 40}


def test_the_last_iteration_is_always_measured():
    assert train_ufm(SMALL, iterations=7, log_at=[2]).frame["iteration"].tolist() == [2, 7]


def test_settings_say_what_was_run():
    settings = train_ufm(SMALL, "implicit", 2, seeds=[4], temperature=3.0, delta=0.1, frame="haar").settings
    wanted = dict(
        head="implicit",
        seeds=[4],
        temperature=3.0,
        delta=0.1,
        frame="haar",
        iterations=2,
        gain=10.0,
        batch_size=None,
        spec=dict(num_classes=4, num_samples=40, dim=16, imbalance=1.0),
        backprop_through_etf=True,
    )
    assert {name: settings[name] for name in wanted} == wanted
    assert {"versions", "device", "date"} <= set(settings)


@pytest.mark.parametrize("iterations", [0, 1, 2, 5, 100, 2000])
def test_log_points(iterations):
    points = log_points(iterations)
    assert points[0] == 0 and points[-1] == iterations
    assert points == sorted(set(points))
    assert set(range(min(iterations, 6))) <= set(points)  # all of the first ones
    ratios = np.divide(points[2:], points[1:-1])
    assert all(
        r < 1.35 or b - a == 1 for r, a, b in zip(ratios, points[1:], points[2:])
    )  # then even on a logarithmic axis


def test_log_points_are_plain_integers():
    assert all(type(t) is int for t in log_points(1000))


def test_progress_bar(capsys):
    train_ufm(SMALL, iterations=2)
    assert capsys.readouterr().err == ""
    train_ufm(SMALL, iterations=2, progress=True)
    assert "standard head" in capsys.readouterr().err


# Bad input


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(head="linear"), "head must be one of 'standard', 'fixed', 'implicit', .*got 'linear'"),
        (dict(head="standard", delta=0.1), "'standard' has no option delta; it has .*normalized"),
        (dict(head="implicit", dim=3), "no option dim; it has .*delta, frame"),
        (dict(head="implicit", spec=UFM(6, 40, 4)), "dim .* at least 5 .* got 4"),
        (dict(head=None), "head must be one of .* got None"),
        (dict(seeds=[]), r"seeds .* got \[\]"),
        (dict(seeds=[1, 1]), r"seeds .* got \[1, 1\]"),
        (dict(seeds=[0.5]), r"seeds .*0\.5"),
        (dict(seeds=["a"]), "seeds .*a"),
        (dict(seeds=3), "seeds .*3"),
        (dict(temperature=0.0), "temperature .* got 0.0"),
        (dict(temperature=-5.0), "temperature .* got -5.0"),
        (dict(head="implicit", delta=0.0), "delta .* got 0.0"),
        (dict(head="implicit", frame="random"), "frame .* got 'random'"),
        (dict(head="fixed", frame="random"), "frame .* got 'random'"),
        (dict(gain=0.0), "gain .* got 0.0"),
        (dict(iterations=-1), "iterations .* got -1"),
        (dict(iterations=2.5), "iterations .* got 2.5"),
        (dict(log_at=[-1]), r"log_at .*0 to 3.*\[-1\]"),
        (dict(log_at=[1, 4]), r"log_at .*0 to 3.*\[4\]"),
        (dict(log_at=[0.5]), r"log_at .*\[0.5\]"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        train_ufm(**{"spec": SMALL, "iterations": 3, **arguments})


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((1, 10, 5), "num_classes .* got 1"),
        ((2.0, 10, 5), "num_classes .* got 2.0"),
        ((4, 10, 0), "dim .* got 0"),
        ((4, 3, 8), "num_samples .* num_classes=4, got 3"),
        ((4, 10.0, 8), "num_samples .* got 10.0"),
    ],
)
def test_bad_sizes(arguments, message):
    with pytest.raises(ValueError, match=message):
        UFM(*arguments)


def test_a_loss_that_is_not_finite_stops_the_run():
    trainer = Trainer(SMALL, "standard")
    trainer.features.data[0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match="standard head .* iteration 0"):
        trainer.log()


# What was stored stays true


@pytest.mark.parametrize("head", MAIN)
def test_ufm_10_is_the_stored_run(head):
    # Also with the plain form of the heads this would hold; the library's own choice is what made the stored runs.
    stored = History.load(RESULTS / f"ufm/UFM-10-{head}-seed-0.parquet").frame
    stored = stored[stored["iteration"] <= 317].reset_index(drop=True)
    frame = train_ufm(UFM_10, head, 317, log_at=stored["iteration"]).frame
    assert (frame["iteration"] == stored["iteration"]).all()
    # The runs were stored with η from log((1 + √(1 + 4G))/2), which is rounded elsewhere than log1p: up to 1.5e-7 away.
    np.testing.assert_allclose(frame["loss"], stored["loss"], rtol=0, atol=3e-7)
    assert ((frame["accuracy"] == 1) == (stored["accuracy"] == 1)).all()
