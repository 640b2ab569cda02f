"""Figures of trainings on images: what is drawn where."""

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from labkit.etf import cosine_margin_bound, cross_entropy_bound
from labkit.history import History
from labkit.plots.images import PANELS, accuracies, best_probabilities, head_costs, image_panels, picture, pictures
from labkit.plots.style import LABELS
from labkit.studies import tables
from labkit.vision import build, recipes
from labkit.widgets.images import TablesExplorer, TemperatureExplorer, watch

PAPER = Path(__file__).resolve().parents[2] / "data" / "paper"


@pytest.fixture(scope="module")
def history():
    settings = recipes.RECIPES["digits"] | {"epochs": 2, "count": 300}
    return History.concat(build.run(settings, head, seed) for head in ("fixed", "implicit") for seed in (0, 1))


def traces(figure, axis, width=2):
    return [t for t in figure.data if t.xaxis == axis and t.line.width == width]


def test_panels(history):
    figure = image_panels(history, 10)
    assert [a.text for a in figure.layout.annotations] == [
        f"({'abcdefghi'[k]}) {LABELS[m]}" for k, m in enumerate(PANELS)
    ]
    for k, measure in enumerate(PANELS):
        drawn = traces(figure, f"x{k + 1}" if k else "x")
        assert [t.name for t in drawn] == ["fixed ETF", "implicit ETF"]
        if measure in history.frame:
            for head, trace in zip(("fixed", "implicit"), drawn):
                median = history.frame[history.frame["head"] == head].groupby("iteration")[measure].median()
                np.testing.assert_allclose(trace.y, median, rtol=1e-6)
                assert list(trace.x) == [0, 1, 2]
    margins = traces(figure, "x3")[1]
    mine = history.margins[history.margins["head"] == "implicit"].groupby("seed")["margin"]
    assert margins.y[0] == pytest.approx(mine.min().median()) and margins.y[-1] == pytest.approx(mine.max().median())
    assert np.all(np.diff(margins.y) >= 0) and (margins.x[0], margins.x[-1]) == (0, 1)
    bounds = [cross_entropy_bound(10, 5.0), cosine_margin_bound(10), cosine_margin_bound(10)]
    assert [s.y0 for s in figure.layout.shapes] == bounds


def test_tables_explorer_draws_the_printed_numbers():
    explorer = TablesExplorer({}, PAPER)
    explorer.set(table=1, epoch=50)
    figure = explorer.figure(**explorer.state)
    paper = tables.printed(1, PAPER).query("epoch == 50")
    for head, label in (("standard", "standard"), ("fixed", "fixed ETF"), ("implicit", "implicit ETF")):
        (marks,) = (t for t in figure.data if t.mode == "markers" and t.name == label and t.xaxis == "x")
        wanted = paper[paper["head"] == head].dropna()
        assert marks.x.tolist() == pytest.approx(wanted["median"].tolist()) and len(wanted) == (
            6 if head == "standard" else 7
        )
    assert [a.text for a in figure.layout.annotations] == ["paper"]  # nothing stands for runs that are not there


@pytest.mark.parametrize("last, first", [(50, 50), (199, 50), (200, 200)])
def test_tables_explorer_starts_where_our_runs_are(last, first):
    frame = pd.DataFrame({"head": "fixed", "seed": 0, "iteration": [0, last], "accuracy": 0.5, "test_accuracy": 0.25})
    recipe = recipes.RECIPES["guiding/cifar10"] | {"epochs": last}
    made = History(frame, {"images": "CIFAR-10", "run": {k: v for k, v in recipe.items() if k != "head"}})
    explorer = TablesExplorer({("cifar10", "resnet18"): made}, PAPER)
    assert explorer.state["epoch"] == first
    shown = [a.text for a in explorer.figure(**explorer.state).layout.annotations]
    assert shown == (["paper", "ours"] if last in (50, 200) else ["paper"])
    assert TablesExplorer({}, PAPER).state["epoch"] == 200


def test_watch_trains_as_the_loop_does():
    settings = recipes.RECIPES["digits"] | {"epochs": 2, "count": 200}
    seen = watch(settings, ("standard", "implicit"), seed=1)
    for head in ("standard", "implicit"):
        alone = build.run(settings, head, 1).frame
        mine = seen.frame[seen.frame["head"] == head]
        assert mine["loss"].tolist() == alone["loss"].tolist() and mine["nc1"].tolist() == alone["nc1"].tolist()
    assert len(seen.margins) == 2 * 200


def test_costs_and_pictures():
    rows = [
        ("net", part, value)
        for part, value in (("backbone", 100.0), ("standard", 1.0), ("fixed", 0.5), ("implicit", 3.0))
    ]
    figure = head_costs(pd.DataFrame(rows, columns=["network", "part", "milliseconds"]))
    assert {t.name: t.x[0] for t in figure.data} == {
        "backbone": 100,
        "standard": 1,
        "fixed ETF": 0.5,
        "implicit ETF": 3,
    }
    assert figure.layout.xaxis.type == "log"
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert np.array_equal(pictures({"a": pixels, "b": pixels}).data[1].z, pixels)


def test_a_picture_is_kept_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    figure = picture(Image.fromarray(pixels), "title")
    (trace,) = figure.data
    kept = Image.open(io.BytesIO(base64.b64decode(trace.source.removeprefix("data:image/png;base64,"))))
    assert (np.asarray(kept) == pixels).all()
    assert figure.layout.xaxis.range == (-0.5, 8.5) and figure.layout.yaxis.range == (4.5, -0.5)
    assert picture(Image.fromarray(pixels), kind="jpeg").data[0].source.startswith("data:image/jpeg;base64,")


def test_ours_are_drawn_apart_and_say_what_they_are_of():
    paper = tables.printed(2, PAPER).query("epoch == 200")
    ours = tables.our_rows(paper, {}, "test_accuracy")
    ours.loc[ours.index[2], ["median", "low", "high", "seeds", "images"]] = [
        80.0,
        79.0,
        82.0,
        5,
        "CIFAR-10, JPEG re-encoded",
    ]
    figure = accuracies(paper, ours)
    marks = {t.name: t for t in figure.data if t.mode == "markers" and t.xaxis == "x2"}
    assert list(marks["implicit ETF"].x) == [80.0] and marks["implicit ETF"].customdata.tolist() == [[79.0, 82.0]]
    assert len(marks["standard"].x) == len(marks["fixed ETF"].x) == 0
    assert [a.text for a in figure.layout.annotations] == ["paper", "ours (CIFAR-10, JPEG re-encoded)"]


def test_chosen_panels_without_test_images(history):
    without = History(history.frame.drop(columns=["test_accuracy", "test_loss"]), history.settings, history.margins)
    figure = image_panels(without, 10, panels=("accuracy", "nc1", "nc3", "equinorm_gap"))
    titles = [a.text[4:] for a in figure.layout.annotations]
    assert titles == [LABELS[measure] for measure in ("accuracy", "nc1", "nc3", "equinorm_gap")]
    assert len(image_panels(without, 10).layout.annotations) == len(PANELS) - 1
    assert figure.layout.xaxis4.title.text == "epoch" and figure.layout.yaxis.range[1] <= 1.06
    assert len(figure.layout.shapes) == 0


@pytest.mark.parametrize("num_classes, temperature", [(2, 0.5), (10, 5.0), (1000, 5.0), (20000, 30.0)])
def test_best_probabilities(num_classes, temperature):
    figure = best_probabilities([3, num_classes], temperature)
    marks = [t for t in figure.data if t.mode == "markers"]
    logits = np.full(
        num_classes, -temperature / (num_classes - 1)
    )  # of a feature that is τ times its class vector of an ETF
    logits[0] = temperature
    wanted = np.exp(logits[0]) / np.exp(logits).sum()
    assert marks[0].y[0] == pytest.approx(wanted, rel=1e-9) and marks[1].y[0] == pytest.approx(
        -np.log(wanted), rel=1e-6, abs=1e-12
    )
    lines = [t for t in figure.data if t.mode == "lines"]
    assert [t.name for t in lines] == ["C = 3", f"C = {num_classes}"] * 2
    assert np.all(np.diff(lines[1].y) >= 0) and np.all(np.diff(lines[3].y) <= 0)


def test_best_probabilities_draws_the_last_once():
    lines = [t for t in best_probabilities([10, 100, 10], 5.0).data if t.mode == "lines"]
    assert [(t.name, t.line.width) for t in lines] == [("C = 100", 1), ("C = 10", 3)] * 2


def test_temperature_explorer_over_its_whole_range():
    explorer = TemperatureExplorer()
    for name, widget in explorer.widgets.items():
        for value in (10**widget.min, 10**widget.max) if name == "num_classes" else (widget.min, widget.max):
            explorer.set(**{name: value})
            mark = next(t for t in explorer.present().data if t.mode == "markers")
            assert 1 / round(explorer.state["num_classes"]) < mark.y[0] < 1 + 1e-12
    explorer.reset()
    assert (
        "C = 1000, τ = 5: cross entropy at least 2.041, so the right class gets 13.0% at most"
        in explorer.present().layout.title.text
    )
