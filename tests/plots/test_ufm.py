"""Figures of UFMs by size show the numbers they are given: medians, ranges, and where each belongs."""

import math

import numpy as np
import pandas as pd
import pytest

from labkit import etf, plots
from labkit.heads import VARIANTS
from labkit.history import History
from labkit.plots.ufm import against, by_size, class_margins, memory, ranked, with_excess
from labkit.studies.ufms.answers import excess
from labkit.ufm import UFM, classes_of
from labkit.widgets.ufm import RunsExplorer

HEADS, TIMES, SEEDS = ["standard", "fixed", "implicit", "standard_no_norm"], [0, 1, 9, 99], (0, 1, 2)


def frame(sizes=("UFM-100", "UFM-10")):
    generator = np.random.default_rng(0)
    rows = [
        dict(size=size, head=head, seed=seed, iteration=t)
        for size in sizes
        for head in HEADS
        for seed in SEEDS
        for t in TIMES
    ]
    table = pd.DataFrame(rows)
    for measure in ("accuracy", "nc1", "nc3", "nc2", "nc4", "cosine_margin", "equinorm_means", "equinorm_weights"):
        table[measure] = generator.uniform(0.1, 1, len(table))
    return table.assign(loss=5 + generator.uniform(0.1, 1, len(table)))


def history(**kw):
    table = frame(**kw)
    ends = table[table["iteration"] == TIMES[-1]][["size", "head", "seed"]]
    margins = pd.concat([ends.assign(sample=k, margin=0.5 + 0.1 * k) for k in range(4)])
    return History(table, {}, margins)


def test_names_have_their_number_of_classes():
    assert [classes_of(n) for n in ("UFM-10", "UFM-1000", "UFM-20-2000x80-imbalance-10")] == [10, 1000, 20]


def test_excess_is_the_distance_to_the_bound():
    bound = etf.cross_entropy_bound(10, 5.0)
    table = pd.DataFrame(
        {"size": "UFM-10", "head": ["fixed", "fixed", "standard_no_norm"], "loss": [bound + 0.25, bound - 1e-8, 0.01]}
    )
    excess = with_excess(table)["excess"]
    assert np.isclose(excess[0], 0.25) and np.isnan(excess[1]) and excess[2] == 0.01


def test_the_bound_is_that_of_the_temperature_of_the_runs():
    table = pd.DataFrame({"size": ["UFM-10", "UFM-100"], "head": "fixed", "temperature": [2.0, 5.0]})
    table["loss"] = [0.75, 0.75]
    # by hand: log(1 + 9 exp(-2 · 10/9)) = 0.68 at τ = 2, and log(1 + 99 exp(-5 · 100/99)) = 0.49 at τ = 5
    bounds = np.array([math.log(1 + 9 * math.exp(-20 / 9)), math.log(1 + 99 * math.exp(-500 / 99))])
    np.testing.assert_allclose(with_excess(table)["excess"], 0.75 - bounds, rtol=1e-12)
    np.testing.assert_allclose(excess(table), 0.75 / bounds - 1, rtol=1e-12)
    alone = table.iloc[1:].drop(columns="temperature")  # of a table that does not say it: the paper's 5
    np.testing.assert_allclose(with_excess(alone)["excess"], 0.75 - bounds[1:], rtol=1e-12)
    np.testing.assert_allclose(excess(alone), 0.75 / bounds[1:] - 1, rtol=1e-12)


def test_a_column_for_each_size_and_a_row_for_each_measure():
    table = frame()
    figure = by_size(table, ["accuracy", "nc1"], ["standard", "implicit"], last=9)
    assert [a.text for a in figure.layout.annotations] == ["UFM-10", "UFM-100"]  # by C, not by the alphabet
    lines = {(t.xaxis, t.name): t for t in figure.data if not t.fill}
    assert len(lines) == 8 and sum(t.showlegend is not False for t in lines.values()) == 2
    mine = table.query("size == 'UFM-100' and head == 'implicit' and iteration <= 9").groupby("iteration")["nc1"]
    line = lines["x4", "implicit ETF"]
    np.testing.assert_array_equal(line.x, [1, 2, 10])
    np.testing.assert_allclose(line.y, mine.median(), rtol=1e-6)
    band = next(t for t in figure.data if t.xaxis == "x4" and t.fill and t.name == "implicit ETF")
    np.testing.assert_allclose(band.y, [*mine.min(), *mine.max()[::-1]], rtol=1e-6)
    axes = figure.layout
    assert [axes[f"yaxis{k}"].type for k in ("", "2", "3", "4")] == [None, None, "log", "log"]
    assert {axes[f"xaxis{k}"].type for k in ("", "2", "3", "4")} == {"log"}


def test_a_table_without_rows_is_refused():
    for table, heads in ((frame(), ["nobody"]), (frame()[:0], None)):  # failed before with an error from within pandas
        with pytest.raises(ValueError, match=r"no rows to draw of (nobody|any head); the table has \d+ rows"):
            by_size(table, ["nc1"], heads)


def test_against_a_setting():
    table = pd.DataFrame({"head": "fixed", "C": [10] * 3 + [100] * 3, "steps": [2, 3, 7, 5, 6, 6]})
    (trace,) = against(table, "C", "steps").data
    assert (list(trace.x), list(trace.y)) == ([10, 100], [3, 6])
    assert (list(trace.error_y.array), list(trace.error_y.arrayminus)) == ([4, 0], [1, 1])
    assert (trace.line.color, trace.line.dash) == plots.colours.looks(["fixed"])["fixed"][1:]


def test_runs_that_never_arrive_are_counted_where_they_cannot_be_drawn():
    table = pd.DataFrame({"head": "fixed", "C": [10] * 3 + [100] * 3, "steps": [2, 3, math.inf, 5, math.inf, math.inf]})
    (trace,) = against(table, "C", "steps").data
    assert trace.name == "fixed ETF (3 of 6 runs never)" and trace.y[0] == 3 and math.isnan(trace.y[1])
    assert not np.isinf(np.asarray(trace.error_y.array, float)).any()


def test_margins_of_classes():
    spec = UFM(3, 12, 4, 4.0)
    sizes = spec.class_sizes().tolist()
    assert sum(sizes) == 12 and sizes[0] > sizes[-1]
    margins = pd.DataFrame(
        {"head": "fixed", "seed": 0, "imbalance": 4.0, "sample": range(12), "margin": np.arange(12.0)}
    )
    line = next(t for t in class_margins(margins, {4.0: sizes}, "imbalance").data if t.name)
    ends = np.cumsum(sizes)
    np.testing.assert_allclose(line.y, [np.arange(end - n, end).mean() for n, end in zip(sizes, ends)])


def test_margins_of_several_settings_are_not_pooled_into_one_line():
    one = pd.DataFrame({"head": "fixed", "seed": 0, "sample": range(4), "margin": [0.0, 1.0, 2.0, 3.0]})
    (trace,) = ranked(pd.concat([one, one]))  # a run that is there twice is one run
    assert list(trace["y"]) == [0, 1, 2, 3]
    both = pd.concat([one.assign(delta=0.1), one.assign(delta=1.0, margin=9.0)]).assign(imbalance=1.0)
    for draw in (ranked, lambda table: class_margins(table, {1.0: [2, 2]}, "imbalance")):
        with pytest.raises(ValueError, match="samples of fixed, seed 0, have several margins"):
            draw(both)


def test_memory_is_side_by_side():
    heads = ["standard", "fixed", "implicit_without_ddn", "implicit_with_ddn"]
    paper = pd.DataFrame(
        [("UFM-1000", h, g) for h, g in zip(heads, [1.9, 1.9, 2.9, np.nan])] + [("UFM-10", h, 1.5) for h in heads],
        columns=["size", "head", "gigabytes"],
    )
    figure = memory(paper, paper.assign(gigabytes=0.5))
    assert list(figure.layout.xaxis.ticktext) == ["UFM-10", "UFM-1000"]
    drawn = {(t.name, t.xaxis): t for t in figure.data}
    with_ddn, without = "implicit, with DDN gradient", "implicit, without DDN gradient"
    assert drawn[without, "x"].y.tolist() == pytest.approx([1.5, 2.9]) and drawn[without, "x2"].y.tolist() == [0.5, 0.5]
    assert drawn[with_ddn, "x"].y[0] == 1.5 and np.isnan(drawn[with_ddn, "x"].y[1])
    missing = [t for t in figure.data if t.mode == "text"]
    assert [(t.text, t.xaxis, len(t.x)) for t in missing] == [("N/A", "x", 1)] and 0.5 < missing[0].x[0] < 1.5


# The explorer


@pytest.fixture
def explorer():
    return RunsExplorer(history())


def test_the_explorer_shows_what_was_chosen(explorer):
    assert explorer.state == {"size": "UFM-10", "heads": ("standard", "fixed", "implicit"), "seed": -1}
    for size in explorer.widgets["size"].options:
        for seed in (-1, *SEEDS):
            figure = explorer.figure(size, ("fixed", "standard_no_norm"), seed)
            assert {t.name for t in figure.data} == {"fixed ETF", "standard, not normalised"}
            mine = explorer.history.where(size=size, head="fixed", seed=SEEDS if seed == -1 else seed).frame
            line = next(t for t in figure.data if t.name == "fixed ETF" and t.yaxis == "y4" and not t.fill)
            np.testing.assert_allclose(line.y, mine.groupby("iteration")["nc1"].median(), rtol=1e-6)
            assert ("3 seeds" if seed == -1 else f"seed {seed}") in figure.layout.title.text


def test_the_explorer_says_when_there_is_nothing(explorer):
    assert "choose a head" in explorer.figure("UFM-10", (), -1).layout.title.text
    few = RunsExplorer(History.concat([history(sizes=("UFM-10",)), history(sizes=("UFM-100",)).where(seed=0)]))
    assert "not run" in few.figure("UFM-100", ("fixed",), 2).layout.title.text


def test_the_explorer_draws_the_bound_of_its_runs():
    told = [(history().settings, 5.0), ({"temperature": 2.0}, 2.0), ({"runs": [{"runs": [{"temperature": 2.0}]}]}, 2.0)]
    for settings, tau in told:
        run = history()
        figure = RunsExplorer(History(run.frame, settings, run.margins)).figure("UFM-10", ("fixed",), -1)
        assert figure.layout.shapes[0].y0 == pytest.approx(math.log(1 + 9 * math.exp(-tau * 10 / 9)))
    mixed = RunsExplorer(History(run.frame, {"runs": [{"temperature": 2.0}, {"temperature": 5.0}]}, run.margins))
    with pytest.raises(ValueError, match=r"must have one temperature, got \[2.0, 5.0\]"):
        mixed.figure("UFM-10", ("fixed",), -1)


def test_every_variant_has_a_style_of_its_own():
    styles = plots.colours.looks(VARIANTS)
    assert len(styles) == len({look.colour for look in styles.values()}) == len(VARIANTS)
    assert not {look.colour for look in styles.values()} & set(plots.colours.CLASS_COLOURS)


def test_biases_are_drawn_with_their_bounds():
    ways = ["standard", "fixed, no bias", "fixed, b = −W·mean(h)", "implicit, no bias", "implicit, b = −Wμ"]
    rows = [
        dict(imbalance=r, way=way, loss=k + r, lowest=k + r - 0.1, highest=k + r + 0.3, bound=k, rest=10 * k)
        for r in (1.0, 10.0)
        for k, way in enumerate(ways, 1)
    ]
    figure = plots.ufm.biases(pd.DataFrame(rows))
    shown = {trace.name: trace for trace in figure.data}
    for k, way in enumerate(ways, 1):
        assert list(shown[way].y) == [k + 1, k + 10]
        np.testing.assert_allclose(shown[way].error_y.array, [0.3, 0.3])
        np.testing.assert_allclose(shown[way].error_y.arrayminus, [0.1, 0.1])
    assert list(shown["bound: standard"].y) == [1, 1] and list(shown["bound: an ETF without bias"].y) == [2, 2]
    assert list(shown["bound: an ETF with b = −W·mean(h)"].y) == [5, 5]
    assert list(shown["at rest, the bias held constant"].y) == [30, 30]
