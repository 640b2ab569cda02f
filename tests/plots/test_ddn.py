"""The figures of the study show medians, ranges and paired differences of its table."""

import itertools

import numpy as np
import pandas as pd
import pytest

from labkit.plots import player
from labkit.plots.ddn import LIT, alphas, relative_difference, study_panels, two_paths
from labkit.plots.ufm import ufm_panels
from labkit.studies.ufms.ddn import WITH, WITHOUT, train_both
from labkit.ufm import UFM


@pytest.fixture
def table():
    g = np.random.default_rng(0)
    keys = ["imbalance", "batch_size", "alpha", "head", "seed", "iteration"]
    rows = itertools.product((1.0, 100.0), (50, 1000), (1.0, 0.0), (WITH, WITHOUT), range(3), (0, 1, 9))
    frame = pd.DataFrame(rows, columns=keys).assign(num_samples=1000, dim=512)
    frame["loss"] = g.lognormal(size=len(frame))
    return frame.sample(frac=1, random_state=0)


def test_a_seed_is_compared_with_itself(table):
    found = relative_difference(table)
    assert len(found) == len(table) / 2
    one = table.query("imbalance == 100 and batch_size == 50 and alpha == 0 and seed == 2 and iteration == 9")
    one = one.set_index("head")["loss"]
    assert found.loc[1000, 512, 100.0, 50, 0.0, 2, 9] == pytest.approx(one[WITH] / one[WITHOUT] - 1)


def test_panels(table):
    table = table[table["head"] == WITH]
    figure = study_panels(table, "loss", "loss", log_y=True)
    titles = [a.text for a in figure.layout.annotations]
    assert titles == [f"imbalance {r}, {b}" for b in ("all samples", "batches of 50") for r in (1, 100)]
    lines = [t for t in figure.data if t.fill is None]
    assert len(lines) == 8 and [t.name for t in lines if t.showlegend] == ["α: the paper's schedule", "α = 1"]
    fourth = next(t for t in lines if t.xaxis == "x4" and t.name == "α = 1")
    mine = table.query("imbalance == 100 and batch_size == 50 and alpha == 1").groupby("iteration")["loss"]
    np.testing.assert_array_equal(fourth.x, [1, 2, 10])
    np.testing.assert_allclose(fourth.y, mine.median(), rtol=1e-6)
    band = next(t for t in figure.data if t.fill == "toself" and t.xaxis == "x4" and t.legendgroup == "α = 1")
    np.testing.assert_allclose(band.y[:3], mine.min(), rtol=1e-6)
    np.testing.assert_allclose(band.y[:2:-1], mine.max(), rtol=1e-6)


def test_an_alpha_that_was_not_foreseen_is_drawn(table):
    # Failed before: only three values of α were drawn, and others were left out without a word
    unusual = table[table["head"] == WITH].assign(alpha=lambda t: t["alpha"] + 0.25)
    drawn = {t.name for t in study_panels(unusual, "loss", "loss").data}
    assert drawn == {"α = 0.25", "α = 1.25"} == {look.label for look in alphas(unusual).values()}


def test_several_settings_in_one_panel_are_refused(table):
    with pytest.raises(ValueError, match=r"Columns that differ: head"):  # failed before: both heads made one band
        study_panels(table, "loss", "loss")


def test_figure_15_has_both_trainings():
    figure = ufm_panels(train_both(UFM(4, 40, 8), 8, [0, 1]), 4)
    shown = {t.name: t for t in figure.data if t.showlegend}
    assert set(shown) == {"implicit, with DDN gradient", "implicit, without DDN gradient"}
    assert len({(t.line.color, t.line.dash) for t in shown.values()}) == 2


def test_one_path_lights_up_at_a_time():
    strong = lambda lit: {t.line.color for t in two_paths(lit).data if t.mode == "lines+markers" and t.line.width > 1}
    assert [len(strong(lit)) for lit in LIT] == [1, 1, 1, 2]
    assert strong("both") == strong("direct") | strong("indirect") and not strong("direct") & strong("indirect")
    moving = player.play([two_paths(lit) for lit in LIT], list(LIT), "path")
    assert [frame.name for frame in moving.frames] == list(LIT)
    with pytest.raises(ValueError, match="one of forward, direct, indirect, both, got 'top'"):
        two_paths("top")
