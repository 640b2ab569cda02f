"""Every figure carries the numbers it claims to show, in colours and dashes that tell the heads apart."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from labkit import etf, plots
from labkit.heads import VARIANTS, Variant
from labkit.history import History, sample_margins

HEADS = ["standard", "fixed", "implicit"]
LABEL = dict(zip(HEADS, ["standard", "fixed ETF", "implicit ETF"]))


def history(seeds=(0, 1, 2), heads=HEADS, samples=7):
    """A made-up run: random measures, so that a mean in place of a median would show."""
    g = np.random.default_rng(0)
    measures = ["loss", "accuracy", "nc1", "nc2", "nc3", "nc4", "equinorm_means", "equinorm_weights", "cosine_margin"]
    frame = pd.DataFrame(
        [(h, s, t) for h in heads for s in seeds for t in (0, 1, 4, 9)], columns=["head", "seed", "iteration"]
    )
    frame[measures] = g.lognormal(size=(len(frame), len(measures)))
    margins = [sample_margins(h, seeds, g.normal(size=(len(seeds), samples))) for h in heads]
    return History(frame, {}, pd.concat(margins, ignore_index=True))


def lines_of(figure, axis=None):
    """The drawn curves (not the bands) as {name: trace}, of one subplot where its x axis is given."""
    return {t.name: t for t in figure.data if t.fill is None and (axis is None or t.xaxis == axis)}


def bands_of(figure):
    return [t for t in figure.data if t.fill == "toself"]


def statistic(run, head, measure, how):
    table = run.frame.assign(equinorm_gap=(run.frame["equinorm_means"] - run.frame["equinorm_weights"]).abs())
    return table[table["head"] == head].groupby("iteration")[measure].agg(how).to_numpy()


def etf_3d(C=4):
    return etf.simplex_etf(C, dim=3, dtype=torch.float64).numpy()


RUN = history()
COSTS = [
    (m, C, d, q, C * (1 + len(q)), d * C)
    for m in ("closed form", "SVD with autograd")
    for C, d in ((10, 16), (10, 32), (50, 64))
    for q in ("forward", "forward + backward")
]
COSTS = pd.DataFrame(
    [*COSTS, ("Proposition 1, dense", 10, 16, "forward + backward", 7.0, None)],
    columns=["method", "num_classes", "dim", "quantity", "milliseconds", "peak_mib"],
)
FIGURES = {
    "curves": lambda: plots.ufm.curves(RUN, "loss"),
    "curves with a bound": lambda: plots.ufm.curves(RUN, "nc1", bound=0.1, log_y=False, title="title"),
    "ufm_panels": lambda: plots.ufm.ufm_panels(RUN, 10),
    "bound_curve": lambda: plots.ufm.bound_curve(),
    "vectors_3d": lambda: plots.vectors.vectors_3d({"a": etf_3d(), "b": -etf_3d()}, title="title"),
    "features_3d": lambda: plots.vectors.features_3d(etf_3d().T, np.arange(4), etf_3d()),
    "plane": lambda: plots.vectors.plane({"a": etf_3d()[:2], "b": -etf_3d()[:2]}, "title"),
    "gram": lambda: plots.vectors.gram(torch.from_numpy(etf_3d())),
    "gallery_3d": lambda: plots.vectors.gallery_3d({"a": etf_3d(), "b": -etf_3d()}),
    "lines": lambda: plots.style.lines([1, 2, 3], {"a": [1, 2, 3]}, "x", "y", marks={"here": 2}),
    "histograms": lambda: plots.style.histograms({"a": [1.0, 2.0, 2.0]}, "x", marks={"here": 2}),
    "costs": lambda: plots.ddn.costs(COSTS),
    "costs in memory": lambda: plots.ddn.costs(COSTS, "peak_mib"),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_every_figure_is_plain_json(make):
    figure = make()
    assert isinstance(figure, go.Figure) and len(figure.data) > 0
    assert json.loads(figure.to_json())["data"]
    assert figure.layout.uirevision  # a redrawn figure keeps the reader's camera


# Curves over iterations


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2), (4, 9)])
def test_curves_are_medians(seeds):
    run = history(seeds)
    drawn = lines_of(plots.ufm.curves(run, "loss"))
    assert set(drawn) == {"standard", "fixed ETF", "implicit ETF"}
    for head in HEADS:
        trace = drawn[LABEL[head]]
        np.testing.assert_array_equal(trace.x, [1, 2, 5, 10])  # iteration + 1, for a logarithmic axis
        np.testing.assert_allclose(trace.y, statistic(run, head, "loss", "median"), rtol=1e-6)


def test_several_seeds_have_a_band_over_their_range():
    figure = plots.ufm.curves(RUN, "loss")
    bands = bands_of(figure)
    assert len(bands) == 3
    for band, head in zip(bands, HEADS):
        low, high = (statistic(RUN, head, "loss", how) for how in ("min", "max"))
        np.testing.assert_allclose(band.y, [*low, *high[::-1]], rtol=1e-6)
        np.testing.assert_allclose(band.x, [1, 2, 5, 10, 10, 5, 2, 1])


def test_one_seed_has_no_band():
    assert bands_of(plots.ufm.curves(history((0,)), "loss")) == []


def test_only_heads_in_the_table_are_drawn():
    assert set(lines_of(plots.ufm.curves(history(heads=["implicit"]), "loss"))) == {"implicit ETF"}


def test_bound_is_drawn():
    assert [s.y0 for s in plots.ufm.curves(RUN, "loss", bound=0.034).layout.shapes] == [0.034]


@pytest.mark.parametrize("log_y, kind", [(True, "log"), (False, None)])
def test_scales(log_y, kind):
    figure = plots.ufm.curves(RUN, "loss", log_y=log_y)
    assert figure.layout.yaxis.type == kind and figure.layout.xaxis.type == "log"


def test_heads_differ_in_colour_and_in_dash():
    drawn = lines_of(plots.ufm.curves(RUN, "loss")).values()
    assert len({t.line.color for t in drawn}) == len({t.line.dash for t in drawn}) == 3
    assert {(t.name, t.line.color, t.line.dash) for t in drawn} == set(plots.colours.looks(HEADS).values())


def test_a_head_that_nobody_declared_is_drawn_under_its_own_name():
    # Failed before: such a head was left out of every figure without a word
    run = history((0, 1), ["standard", "mine", "yours"])
    for figure in (plots.ufm.curves(run, "loss"), plots.ufm.ufm_panels(run, 10)):
        drawn = lines_of(figure)
        assert {"mine", "yours", "standard"} == set(drawn)
        colours = {t.line.color for t in drawn.values()}
        assert len(colours) == 3 and not colours - {drawn["standard"].line.color} & {
            look.colour for look in plots.colours.looks(HEADS).values()
        }


def test_a_head_is_drawn_as_it_is_declared(monkeypatch):
    declared = {
        "mine": Variant("mine", "my head", "#123456", "longdash"),
        "plain": Variant("plain", "plain", "#555555", "dot"),
    }
    for name, variant in declared.items():
        monkeypatch.setitem(VARIANTS, name, variant)
    drawn = lines_of(plots.ufm.curves(history((0,), ["implicit", "plain", "mine"]), "loss"))
    assert list(drawn) == ["implicit ETF", "my head", "plain"]
    assert (drawn["my head"].line.color, drawn["my head"].line.dash) == ("#123456", "longdash")
    assert drawn["plain"].line.color in plots.colours.SPARE  # no colour of its own


def sweep_of_two(column):
    """Two settings with two seeds each, as a sweep has them: the measures of the second are ten times as large."""
    one = history((0, 1), ["standard", "implicit"])
    two = one.frame.assign(loss=one.frame["loss"].where(one.frame["head"] == "standard", 10 * one.frame["loss"]))
    return History(pd.concat([one.frame.assign(**{column: 1e-3}), two.assign(**{column: 1.0})]))


def test_a_run_that_is_there_twice_counts_once():
    table = pd.DataFrame({"head": "fixed", "seed": [0, 1, 2], "iteration": 0, "loss": [1.0, 2.0, 7.0]})
    twice = pd.concat([table, table.iloc[[0, 0]]])  # with these the middle of five numbers would be 1
    assert plots.style.summary(twice, "iteration", "loss").loc[0].tolist() == [1.0, 2.0, 7.0]


def test_several_settings_are_not_pooled_into_one_line():
    # Failed before: two δ with two seeds each were drawn as one line, whose band mixed the two
    run = sweep_of_two("delta")
    with pytest.raises(
        ValueError, match=r"2 values of loss .* would be drawn as one line.* Columns that differ: delta"
    ):
        plots.ufm.curves(run, "loss")
    with pytest.raises(ValueError, match="Columns that differ: delta"):
        plots.ufm.against(run.frame[run.frame["iteration"] == 9], "iteration", "loss")
    run = History(run.frame[run.frame["delta"] == 1e-3])
    drawn = lines_of(plots.ufm.curves(run, "loss"))
    np.testing.assert_allclose(drawn["implicit ETF"].y, statistic(run, "implicit", "loss", "median"), rtol=1e-6)


def test_settings_that_gave_the_same_are_one_line():
    # a sweep over δ trains the standard head once for each, with identical results
    run = sweep_of_two("delta").where(head="standard")
    np.testing.assert_allclose(
        lines_of(plots.ufm.curves(run, "loss"))["standard"].y, statistic(run, "standard", "loss", "median"), rtol=1e-6
    )


@pytest.mark.parametrize("values", [[0.3, 0.5], [2, 9], [0.02, 3e5], [1e-12, 1e2], [5], [1, 10]])
def test_a_logarithmic_axis_has_two_to_eight_labels_and_all_are_powers_of_ten(values):
    axis = plots.style.log_axis(values)
    low, high = axis.get("range", np.log10([min(values), max(values)]))
    labels = [p for p in range(-20, 20) if p % axis["dtick"] == 0 and low - 0.021 <= p <= high + 0.021]
    assert 2 <= len(labels) <= 8 and axis["exponentformat"] == "power"
    assert low <= np.log10(min(values)) and np.log10(max(values)) <= high  # nothing is cut off


# Figure 2

PANELS = {"x": "loss", "x2": "cosine_margin", "x4": "nc1", "x5": "nc3", "x6": "equinorm_gap"}


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
@pytest.mark.parametrize("axis, measure", PANELS.items())
def test_panels_are_medians(axis, measure, seeds):
    run = history(seeds)
    drawn = lines_of(plots.ufm.ufm_panels(run, 10), axis)
    for head in HEADS:
        np.testing.assert_allclose(drawn[LABEL[head]].y, statistic(run, head, measure, "median"), rtol=1e-6)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_panel_of_margins(seeds):
    run = history(seeds)
    drawn = lines_of(plots.ufm.ufm_panels(run, 10), "x3")
    for head in HEADS:
        mine = run.margins[run.margins["head"] == head]
        ranked = [sorted(mine.loc[mine["seed"] == s, "margin"]) for s in seeds]
        np.testing.assert_allclose(drawn[LABEL[head]].y, np.median(ranked, axis=0), rtol=1e-6)


def test_panel_of_many_margins_keeps_both_ends():
    run = history((0,), ["fixed"], samples=5000)
    trace = lines_of(plots.ufm.ufm_panels(run, 10), "x3")["fixed ETF"]
    assert len(trace.y) <= 400
    margins = run.margins["margin"]
    assert (trace.y[0], trace.y[-1]) == pytest.approx((margins.min(), margins.max()))
    assert (trace.x[0], trace.x[-1]) == (0, 1)


@pytest.mark.parametrize("C, temperature", [(10, 5.0), (100, 5.0), (10, 2.0)])
def test_bounds_in_the_panels(C, temperature):
    shapes = plots.ufm.ufm_panels(RUN, C, temperature).layout.shapes
    loss = math.log(1 + (C - 1) * math.exp(-temperature * C / (C - 1)))
    drawn = {shape.yref.removesuffix(" domain"): shape.y0 for shape in shapes}
    assert drawn == {"y": pytest.approx(loss), "y2": pytest.approx(C / (C - 1)), "y3": pytest.approx(C / (C - 1))}


def test_each_head_is_once_in_the_legend_of_the_panels():
    names = [t.name for t in plots.ufm.ufm_panels(RUN, 10).data if t.showlegend]
    assert sorted(names) == ["fixed ETF", "implicit ETF", "standard"]


def test_panels_without_margins():
    run = History(RUN.frame)
    assert lines_of(plots.ufm.ufm_panels(run, 10), "x3") == {}


def test_drawing_leaves_the_history_alone():
    before = RUN.frame.copy()
    plots.ufm.ufm_panels(RUN, 10)
    pd.testing.assert_frame_equal(RUN.frame, before)


# Others


def test_bound_curve():
    figure = plots.ufm.bound_curve((10, 100), temperatures=[1.0, 5.0])
    assert [t.name for t in figure.data] == ["C = 10", "C = 100"]
    assert [t.y[1] for t in figure.data] == pytest.approx([0.034202, 0.491156], abs=5e-7)


def arrows(figure, name, scene=None):
    """Tips (3, C) of the arrows of one group: lines from the origin to a tip, and a gap."""
    (trace,) = (
        t for t in figure.data if t.type == "scatter3d" and t.name == name and t.x[0] is not None and t.scene == scene
    )
    starts, tips, gaps = np.array([trace.x, trace.y, trace.z], float).reshape(3, -1, 3).transpose(2, 0, 1)
    assert (starts == 0).all() and np.isnan(gaps).all()
    return tips


def test_vectors_3d():
    figure = plots.vectors.vectors_3d({"one": etf_3d(), "two": 2 * etf_3d()})
    np.testing.assert_allclose(arrows(figure, "one"), etf_3d(), atol=1e-6)
    np.testing.assert_allclose(arrows(figure, "two"), 2 * etf_3d(), atol=1e-6)
    assert figure.layout.scene.xaxis.range[1] >= 2 * np.abs(etf_3d()).max()  # nothing is cut off


def test_groups_of_vectors_differ_in_dash_and_marker():
    figure = plots.vectors.vectors_3d({"one": etf_3d(), "two": etf_3d(), "three": etf_3d()})
    styles = {
        (t.line.dash, t.marker.symbol) for t in figure.data if t.type == "scatter3d" and t.showlegend is not False
    }
    assert len(styles) == 3


def test_features_3d():
    g = np.random.default_rng(0)
    features, targets = g.normal(size=(20, 3)), np.arange(20) % 3
    figure = plots.vectors.features_3d(features, targets, etf_3d(3), limit=2)
    points = [t for t in figure.data if t.mode == "markers"]
    for c, trace in enumerate(points):
        np.testing.assert_allclose(np.array([trace.x, trace.y, trace.z]).T, features[targets == c], rtol=1e-6)
    assert len({t.marker.color for t in points}) == 3
    assert tuple(figure.layout.scene.zaxis.range) == (-2, 2)


@pytest.mark.parametrize("C", [2, 4, 12])
def test_gram(C):
    figure = plots.vectors.gram(3 * etf.simplex_etf(C))
    expected = np.eye(C) * C / (C - 1) - 1 / (C - 1)
    np.testing.assert_allclose(figure.data[0].z, expected, atol=1e-6)
    assert (figure.data[0].zmin, figure.data[0].zmax) == (-1, 1)


@pytest.mark.parametrize("d, C", [(10, 4), (3, 3), (2, 2), (20, 3)])
def test_projection_keeps_all_angles_of_up_to_four_vectors(d, C):
    vectors = etf.simplex_etf(C, frame=etf.haar_frame(d, C, torch.Generator().manual_seed(0), dtype=torch.float64))
    (shown,) = plots.vectors.project_3d(vectors)
    assert shown.shape == (3, C)
    np.testing.assert_allclose(shown.T @ shown, vectors.mT @ vectors, atol=1e-12)


def test_projection_of_a_second_group_uses_the_axes_of_the_first():
    g = torch.Generator().manual_seed(0)
    first, second = (torch.randn(6, 5, generator=g, dtype=torch.float64) for _ in range(2))
    _, shown = plots.vectors.project_3d(first, second)
    _, again = plots.vectors.project_3d(first, 2 * second)
    np.testing.assert_allclose(again, 2 * shown)
    assert np.linalg.norm(shown) <= second.norm()


def test_gallery_3d():
    figure = plots.vectors.gallery_3d({"C = 2": etf_3d(2), "C = 4": etf_3d(4)})
    for scene, C in (("scene", 2), ("scene2", 4)):
        np.testing.assert_allclose(arrows(figure, "", scene), etf_3d(C), atol=1e-6)
    assert [a.text for a in figure.layout.annotations] == ["C = 2", "C = 4"]


def test_nothing_in_a_gallery_can_be_seen_through():
    # Failed before: a translucent sphere wiped out arrows in the places of those of the first scene (plotly.js)
    for trace in plots.vectors.gallery_3d({"a": etf_3d(), "b": -etf_3d()}).data:
        assert trace.type == "scatter3d" and trace.opacity in (None, 1)


def test_lines():
    figure = plots.style.lines([1, 10], {"a": [3, 4], "b": [5, 6]}, "δ", "distance", log_y=False, marks={"paper": 2})
    assert {t.name: list(t.y) for t in figure.data} == {"a": [3, 4], "b": [5, 6]}
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", None)
    assert figure.layout.xaxis.title.text == "δ" and figure.layout.shapes[0].x0 == 2


def test_histograms_are_shares_on_common_bins():
    figure = plots.style.histograms({"a": [0.0, 0.0, 1.0, 4.0], "b": [2.0, 2.1]}, "x", bins=4)
    np.testing.assert_allclose(figure.data[0].y, [2 / 4, 1 / 4, 0, 1 / 4])
    np.testing.assert_allclose(figure.data[1].y, [0, 0, 1, 0])
    np.testing.assert_allclose(figure.data[0].x, [0.5, 1.5, 2.5, 3.5])


# Costs


def test_costs_draws_each_method_once_per_quantity():
    figure = plots.ddn.costs(COSTS)
    assert [t.text for t in figure.layout.annotations] == ["forward", "forward + backward"]
    drawn = {(t.name, t.xaxis): t for t in figure.data}
    assert len(drawn) == len(figure.data) == 5
    trace = drawn["closed form", "x2"]
    np.testing.assert_array_equal(trace.x, [10, 50])
    np.testing.assert_array_equal(trace.y, [10 * 19, 50 * 19])
    np.testing.assert_array_equal(trace.customdata, [32, 64])  # of two dimensions at C = 10 the larger
    shown = [t.name for t in figure.data if t.showlegend]
    assert sorted(shown) == [
        "Proposition 1, dense",
        "SVD with autograd",
        "closed form",
    ]  # once each, though one has no forward
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == figure.layout.yaxis2.type == "log"


def test_costs_of_memory_leave_out_what_was_not_measured():
    assert {t.name for t in plots.ddn.costs(COSTS, "peak_mib").data} == {"closed form", "SVD with autograd"}


def test_methods_have_a_colour_each():
    assert len({colour for colour, _ in plots.ddn.METHODS.values()}) == len(plots.ddn.METHODS) == 7


def test_every_stored_method_is_drawn():
    stored = pd.read_parquet(Path(__file__).parents[2] / "data/results/nearest-etf.parquet")
    assert {t.name for t in plots.ddn.costs(stored).data} == set(stored["method"])


def test_vectors_of_the_plane_are_drawn_where_they_are():
    means, near = np.array([[1.0, -0.5], [0.0, 2.0]]), np.array([[0.0, 3.0], [1.0, 0.0]])
    figure = plots.vectors.plane({"means": means, "near": near})
    drawn = [trace for trace in figure.data if len(trace.x) == 2]
    ends = np.array([[trace.x[1], trace.y[1]] for trace in drawn]).T
    np.testing.assert_allclose(ends, np.hstack([means, near]))
    assert all(trace.x[0] == trace.y[0] == 0 for trace in drawn)
    first, second, third, fourth = (trace.line for trace in drawn)
    assert first.color == third.color != second.color == fourth.color and first.dash == second.dash != third.dash
    assert [trace.name for trace in figure.data if trace.showlegend is not False] == ["means", "near"]
    assert figure.layout.xaxis.range == figure.layout.yaxis.range == pytest.approx((-3.15, 3.15))
    assert figure.layout.yaxis.scaleanchor == "x"
