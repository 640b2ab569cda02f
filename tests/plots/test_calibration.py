"""Figures of long tails show the numbers of their tables, and can be drawn from little or nothing."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from labkit import calibration, plots
from labkit.studies import longtail
from labkit.studies.ufms import minority

TABLE = calibration.reliability(
    torch.randn(200, 4, generator=torch.Generator().manual_seed(0)), torch.arange(200) % 4, 10
)
HEADS = pd.DataFrame(
    [
        dict(head=head, seed=seed, tau=tau, few=0.1 * k + 0.05 * tau + 0.01 * seed, ece=0.1)
        for k, head in enumerate(("linear", "cosine"))
        for seed in range(3)
        for tau in (0.0, 1.0)
    ]
)
END = minority.End(
    "fixed", torch.eye(3).double(), torch.zeros(3).double(), torch.eye(3).double(), torch.tensor([9, 1, 1]), 2, 0.1
)
DEPTH = pd.DataFrame(
    [
        dict(head=h, seed=s, kind="activation", layer=k, kappa=1 + s, lam=0.5)
        for h in ("a", "b")
        for s in (0, 1, 2)
        for k in (1, 2)
    ]
)
PAPER = longtail.printed(8)
MAKE = {
    "reliability": lambda: plots.calibration.reliability({"one": TABLE, "two": TABLE}, "title"),
    "groups_dots": lambda: plots.calibration.groups_dots(HEADS, ["few", "ece"], ["linear", "cosine"], "title"),
    "staircase": lambda: plots.calibration.staircase(longtail.staircase({}, PAPER), ["step"] * 16, "title"),
    "fold_panels": lambda: plots.calibration.fold_panels(
        END, 0.5, {"as trained": END.accuracy(), "out": END.accuracy()}, "title"
    ),
    "by_depth": lambda: plots.calibration.by_depth(DEPTH),
    "cams": lambda: plots.calibration.cams({"a": (np.eye(4), None), "b": (np.eye(4), np.zeros((8, 8, 3), np.uint8))}),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_every_figure_is_plain_json(make):
    figure = make()
    assert json.loads(figure.to_json())["data"] and figure.layout.uirevision and figure.layout.height


def test_bars_are_the_accuracies_of_the_bins():
    figure = plots.calibration.reliability({"": TABLE})
    bars = next(trace for trace in figure.data if trace.type == "bar")
    there = TABLE[TABLE["samples"] > 0]
    np.testing.assert_allclose(np.array(bars.y, float), there["accuracy"])
    np.testing.assert_allclose(np.array(bars.x, float), (there["low"] + there["high"]) / 2)
    share = next(trace for trace in figure.data if trace.name == "share of samples")
    assert sum(share.y) == pytest.approx(1, abs=1e-6)


def test_medians_stand_among_their_dots():
    figure = MAKE["groups_dots"]()
    after = [trace for trace in figure.data if trace.name == "prior taken out, τ = 1" and trace.xaxis in (None, "x")]
    dots, bars = ([t for t in after if t.marker.symbol == symbol] for symbol in ("circle", "line-ns"))
    assert [len(t.x) for t in dots] == [3, 3]
    assert [t.x[0] for t in bars] == pytest.approx([0.06, 0.16])


def test_the_staircase_keeps_the_printed_order_and_says_what_is_missing():
    figure = MAKE["staircase"]()
    assert list(figure.data[0].x) == pytest.approx(PAPER["top1"].tolist()) and figure.data[0].y[0] == "1 step"
    assert "no stored run" in [a.text for a in figure.layout.annotations]


def test_depths_are_medians_over_seeds():
    figure = MAKE["by_depth"]()
    lines = [trace for trace in figure.data if trace.name == "a" and trace.line.width]
    assert [list(trace.y) for trace in lines] == [[2.0, 2.0], [0.5, 0.5]]
    assert [a.text for a in figure.layout.annotations].count("none") == 2  # no gates in this table


def test_a_map_covers_its_picture():
    figure = MAKE["cams"]()
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    assert list(heat[1].x) == [0.5, 2.5, 4.5, 6.5] and heat[1].opacity < 1 and heat[0].opacity == 1
