"""The papers' accuracy tables beside our runs: what is counted, gathered, and put next to each other; runs are made
up.
"""

import math
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from labkit.heads import HEADS
from labkit.history import History, sample_margins
from labkit.studies import tables
from labkit.vision import __main__, build, recipes

PAPER = Path(__file__).resolve().parents[2] / "data" / "paper"
TITLE = "CIFAR-10, JPEG re-encoded"


def accuracy(head, seed, epoch):
    """Of the made-up runs: known at every epoch, and a hundredth apart from seed to seed."""
    return 0.5 + epoch / 500 + {"standard": 0, "fixed": 0.02, "implicit": 0.04}[head] + seed / 100


def made_up(folder, head, seed, done=200, images=TITLE, samples=5000, **changes):
    """A run's folder, as labkit.vision leaves it."""
    settings = build.described(recipes.RECIPES["guiding/cifar10"] | changes, head, seed)
    epochs = np.arange(done + 1)
    frame = pd.DataFrame(
        {
            "head": head,
            "seed": seed,
            "iteration": epochs,
            "accuracy": accuracy(head, seed, epochs),
            "test_accuracy": accuracy(head, seed, epochs) - 0.1,
        }
    )
    margins = sample_margins(head, [seed], [np.random.default_rng(seed).permutation(samples) / samples])
    kept = {
        "head": head,
        "seed": seed,
        "epochs": settings["epochs"],
        "precision": "no",
        "device": "cuda",
        "run": settings,
        "images": images,
        "classes": 10,
    }
    History(frame, kept, margins).save(build.Runs(folder).path(settings))


@pytest.fixture
def runs(tmp_path):
    """Three seeds of two heads, and an implicit run that is not finished."""
    for head in ("standard", "fixed"):
        for seed in (0, 1, 4):
            made_up(tmp_path / "runs", head, seed)
    made_up(tmp_path / "runs", "implicit", 0, done=120)
    return tmp_path / "runs"


# What is printed


def test_compare_by_hand():
    rows = [
        (50, "standard", 80.0, 79.0, 81.5),
        (50, "fixed", 80.0, 79.9, 80.2),
        (50, "implicit", 82.5, 82.2, 82.5),
        (200, "standard", 90.0, 89.0, 91.0),
        (200, "fixed", None, None, None),
        (200, "implicit", 90.0, 88.0, 91.0),
    ]
    table = pd.DataFrame(rows, columns=["epoch", "head", "median", "low", "high"])
    found = tables.compare(table.assign(dataset="A", network="N"))
    assert found.values.tolist() == [
        ["A", "N", 50, "implicit", 2.5, "fixed = implicit", True, 3],
        ["A", "N", 200, "standard = implicit", 0.0, "standard", False, 2],
    ]


def test_counts_of_the_paper():
    """Counted by hand from the CSV files; tests/test_paper_tables.py has the narrower ranges as a list."""
    first, second = (tables.compare(tables.printed(n, PAPER)) for n in (1, 2))
    assert len(first) == len(second) == 14 and first["heads"].sum() == 41 and second["heads"].sum() == 42
    assert (first["highest"] == "implicit").sum() == 12 and (second["highest"] == "implicit").sum() == 9
    late = second[second["epoch"] == 200]
    assert late["highest"].tolist() == ["implicit", "implicit", "standard", "standard", "fixed", "standard", "implicit"]
    assert (first["narrowest"] == "implicit").sum() == 10 and (second["narrowest"] == "implicit").sum() == 11
    assert first.loc[first["apart"], "dataset"].tolist() == [
        "CIFAR10",
        "CIFAR100",
        "CIFAR100",
        "STL10",
        "ImageNet",
        "ImageNet",
    ]
    assert second["lead"].tolist() == [
        1.13,
        0.25,
        1.6,
        0.64,
        2.47,
        -0.77,
        1.57,
        -0.4,
        -0.55,
        -1.58,
        2.63,
        -1.67,
        4.55,
        3.89,
    ]


def test_commands_are_ones_that_the_loop_takes(tmp_path):
    lines = tables.commands(tables.printed(2, PAPER), tmp_path / "runs")
    assert len(lines) == 7
    for line in lines:
        python, flag, module, *rest = shlex.split(line)
        assert (python, flag, module) == ("python", "-m", "labkit.vision")
        rest = [word for word in rest if word != "--download"]
        name = rest[rest.index("--recipe") + 1].removeprefix("guiding/")
        with pytest.raises(FileNotFoundError, match=name):  # and not SystemExit
            __main__.main([*rest, "--root", str(tmp_path)])


# Our runs


def test_runs_beside_the_table(runs):
    histories = tables.load(runs)
    assert list(histories) == [("cifar10", "resnet18")]
    assert histories["cifar10", "resnet18"].settings["runs"] == 6  # the unfinished one is left out
    table = tables.beside(tables.printed(2, PAPER), histories, "test_accuracy")
    assert len(table) == 4  # two heads at two epochs; rows without runs are not there
    assert table.iloc[0].tolist() == [
        "CIFAR10", "ResNet18", 50, "standard", "80.47 (79.4–82.6)", "51.00 (50.0–54.0)", 3, TITLE
    ]  # fmt: skip
    assert table.iloc[3].tolist() == [
        "CIFAR10", "ResNet18", 200, "fixed", "84.53 (83.7–84.9)", "83.00 (82.0–86.0)", 3, TITLE
    ]  # fmt: skip
    train = tables.beside(tables.printed(1, PAPER), histories, "accuracy")
    assert train["ours"].tolist()[-1] == "93.00 (92.0–96.0)"
    assert tables.beside(tables.printed(2, PAPER), {}, "accuracy").empty and tables.load(runs / "none") == {}


def test_a_shorter_run_counts_up_to_its_end_and_other_settings_do_not(tmp_path):
    made_up(tmp_path / "short", "implicit", 0, done=50, epochs=50)
    table = tables.beside(tables.printed(2, PAPER), tables.load(tmp_path / "short"), "test_accuracy")
    assert table[["epoch", "head", "seeds"]].values.tolist() == [[50, "implicit", 1]]
    made_up(tmp_path / "other", "implicit", 0, lr=3.0)
    histories = tables.load(tmp_path / "other")
    assert len(histories) == 1 and tables.beside(tables.printed(2, PAPER), histories, "test_accuracy").empty


def test_mixtures_are_refused(runs):
    made_up(runs, "implicit", 1, images="CIFAR-10")
    with pytest.raises(ValueError, match="not of one experiment: images is 'CIFAR-10.* there, 'CIFAR-10.* here"):
        tables.load(runs)
    made_up(runs, "implicit", 1, lr=3.0)
    with pytest.raises(ValueError, match="not of one experiment"):
        tables.load(runs)


def test_one_seed_does_not_count_as_two(runs):
    made_up(runs, "fixed", 4, measure_at=1)  # how often it was measured makes no other experiment, nor another seed
    with pytest.raises(ValueError, match="both of the head 'fixed' and seed 4"):
        tables.load(runs)


def test_a_real_run_is_found(tmp_path):
    command = ["--recipe", "digits", "--epochs", "1", "--count", "200", "--seeds", "0", "--head", "implicit"]
    assert __main__.main([*command, "--folder", str(tmp_path / "runs")]) == 0
    history = tables.load(tmp_path / "runs")[("digits", "small")]
    assert history.settings["images"] == "scikit-learn's digits" and len(history.margins) == 200
    assert history.settings["classes"] == 10 and history.settings["run"]["count"] == 200


# What a head costs


def test_verdict_by_ranges():
    """By hand: seeds 0 and 1 of three heads; test accuracies overlap, NC3 is lower with the fixed head."""
    at = {
        "standard": dict(accuracy=[0.80, 0.90], nc1=[3.0, 5.0], nc3=[0.5, 0.6], test_accuracy=[0.7, 0.8]),
        "fixed": dict(accuracy=[0.70, 0.85], nc1=[4.0, 6.0], nc3=[0.1, 0.2], test_accuracy=[0.6, 0.7]),
        "implicit": dict(accuracy=[0.95, 0.91], nc1=[2.9, 1.0], nc3=[0.4, 0.3], test_accuracy=[0.9, 0.8]),
    }
    frame = pd.concat(pd.DataFrame(values).assign(head=head, seed=[0, 1], iteration=50) for head, values in at.items())
    history = History(pd.concat([frame, frame.assign(iteration=10, accuracy=0.1)]), {})
    found = tables.verdict(history, 50)
    assert found["verdict"].to_dict() == {
        "accuracy": "ahead",
        "nc1": "ahead",
        "nc3": "behind",
        "test_accuracy": "cannot be told",
    }
    assert found.loc["accuracy", "implicit"] == "0.93 (0.91–0.95)" and found.loc["nc1", "standard"] == "4 (3–5)"
    with pytest.raises(ValueError, match=r"at the same seeds; got \{'standard': \(0, 1\), 'fixed': \(0,\)"):
        tables.verdict(History(frame[(frame["head"] != "fixed") | (frame["seed"] == 0)], {}), 50)
    for head in ("implicit", "fixed"):  # a seed without its number leaves the whole range unknown
        some = frame.copy()
        some.loc[(some["head"] == head) & (some["seed"] == 0), list(tables.LARGER_IS_AHEAD)] = math.nan
        assert set(tables.verdict(History(some, {}), 50)["verdict"]) == {"cannot be told"}


def ends_of(runs, **settings):
    """Runs that ended at epoch 50 with these values of the four measures: {(head, seed): values}."""
    rows = [(head, seed, 50, *values) for (head, seed), values in runs.items()]
    columns = ["head", "seed", "iteration", *tables.LARGER_IS_AHEAD]
    return History(pd.DataFrame(rows, columns=columns), {"run": settings, "images": TITLE, "classes": 10})


def test_one_more_run_against_the_prediction_interval():
    """With three seeds, Student's t of two degrees of freedom has a closed form."""
    own = {("fixed", seed): (0.8 + seed / 100, math.exp(seed), 1.0 + seed / 10, 0.7) for seed in range(3)}
    t = 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))
    half = t * math.sqrt(4 / 3)  # in standard deviations: a hundredth of accuracy, 1 of the logarithm of NC1
    edge = math.exp(1 + half)
    changed = {("fixed_haar", 0): (0.81 - half / 100 - 1e-9, edge * (1 + 1e-9), math.nan, 0.7 + 1e-12)}
    found = tables.one_more(ends_of(own), ends_of(changed), 50).set_index("measure")
    assert found["found"].to_dict() == {
        "accuracy": "below",
        "nc1": "above",
        "nc3": "not known",
        "test_accuracy": "above",  # of seeds that are all alike, anything else is outside
    }
    assert found["high"]["nc1"] == pytest.approx(edge, rel=1e-12)
    assert set(found["own"]) == {"fixed"} and set(found["head"]) == {"fixed_haar"}
    changed = {("fixed_haar", 0): (0.81 - half / 100 + 1e-9, edge * (1 - 1e-9), 1.1, 0.7)}
    assert set(tables.one_more(ends_of(own), ends_of(changed), 50)["found"]) == {"within"}

    own[("fixed", 1)] = (0.81, 0.0, math.nan, 0.7)  # no logarithm, no number
    found = tables.one_more(ends_of(own), ends_of(changed), 50).set_index("measure")["found"]
    assert found["nc1"] == found["nc3"] == "not known" and found["accuracy"] == "within"

    with pytest.raises(ValueError, match="lr is 1 there, 2 here"):
        tables.one_more(ends_of(own, lr=1), ends_of(changed, lr=2), 50)
    with pytest.raises(ValueError, match="two values or more"):
        tables.one_more(ends_of({("fixed", 0): own["fixed", 0]}), ends_of(changed), 50)


class Clocked(torch.autograd.Function):
    """The identity, that moves a made-up clock on by 3 s at each forward pass and by 5 s at each backward pass."""

    @staticmethod
    def forward(ctx, x, clock):
        ctx.clock = clock
        clock[0] += 3
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.clock[0] += 5
        return gradient, None


def test_costs_tell_the_passes_apart_and_move_no_weight(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(tables.time, "perf_counter", lambda: clock[0])
    backbone = torch.nn.Linear(6, 8)
    backbone.forward = lambda x: Clocked.apply(torch.nn.functional.linear(x, backbone.weight), clock)
    heads = {name: kind(8, 4) for name, kind in HEADS.items()}
    before = backbone.weight.clone()
    found = tables.costs(backbone, heads, torch.randn(12, 6), torch.arange(12) % 4, repeats=2)
    assert list(found.index) == ["backbone", *HEADS]
    assert found.loc["backbone"].to_dict() == {"forward": 3000, "backward": 5000}  # milliseconds
    assert (found.drop("backbone") == 0).all(axis=None)  # the clock stands still in the heads
    assert torch.equal(backbone.weight, before)
