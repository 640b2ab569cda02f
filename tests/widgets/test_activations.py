"""The APA explorer without a browser: every slider over its range, the limits of the family, and that values set
redraw.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sweeps import check_numbers, corners, sweeps

from labkit import widgets
from labkit.history import History
from labkit.widgets.live import bundle

pytestmark = [pytest.mark.usefixtures("page"), pytest.mark.filterwarnings("error")]
Z = np.linspace(-6, 6, 201)


@pytest.fixture(scope="module")
def effect():
    return History.load(Path(__file__).parents[2] / "data/results/activations-held.parquet")


def panels(figure):
    """The bold curve of the function and those of ∂/∂z, ∂/∂κ, ∂/∂λ as arrays."""
    bold = [t for t in figure.data if t.type == "scatter" and t.mode == "lines" and t.line.color == "#0072B2"]
    return [np.asarray(t.y, float) for t in bold]


def panel_values(**settings):
    explorer = widgets.activations.APAExplorer()
    return panels(explorer.figure(**{**explorer.state, **settings}))


def all_drawn(figure, state):
    check_numbers(figure)
    drawn = panels(figure)
    assert len(drawn) == 4 and all(np.isfinite(y).all() for y in drawn), state
    value, of_z = drawn[:2]
    if state["function"] == "APA":
        assert (value >= 0).all() and (value <= 1).all(), state
        assert (of_z * np.sign(state["kappa"]) >= 0).all(), state
    else:
        assert (value * Z >= 0).all() and (np.abs(value) <= np.abs(Z) + 1e-6).all(), state
    (here,) = (t for t in figure.data if t.name == "here")
    assert (here.x[0], 10 ** here.y[0]) == pytest.approx((state["kappa"], state["lam"]))


@pytest.mark.parametrize("function", ["APA", "AGLU"])
def test_every_control_over_its_range(function, effect):
    explorer = widgets.activations.APAExplorer(effect)
    explorer.set(function=function)
    for state in sweeps(explorer, 41):
        all_drawn(explorer.figure(**state), state)


def test_all_corners_of_the_controls(effect):
    explorer = widgets.activations.APAExplorer(effect)
    for state in corners(explorer, kappa=[-3.0, 0.0, 10.0], initial=["none", "κ ~ U(−2, 2)"]):
        all_drawn(explorer.figure(**state), state)


@pytest.mark.parametrize("kappa", [-3.0, -0.5, 0.0, 1.0, 10.0])
def test_lambda_one_is_the_sigmoid(kappa):
    eta = panel_values(function="APA", kappa=kappa, lam=1.0)[0]
    np.testing.assert_allclose(eta, 1 / (1 + np.exp(-kappa * Z)), rtol=1e-6)


@pytest.mark.parametrize("kappa", [-3.0, 0.0, 1.0])
def test_small_lambda_is_gumbel(kappa):
    lam = widgets.activations.APAExplorer().widgets["lam"]
    eta = panel_values(function="APA", kappa=kappa, lam=lam.base**lam.min)[0]
    # η = Gumbel · e^{λ E²/2 + …}: close where E = e^{−κz} is not large, and both are 0 where it is
    np.testing.assert_allclose(eta, np.exp(-np.exp(-kappa * Z)), atol=2e-4)


def test_aglu_at_one_and_one_is_silu_and_large_kappa_is_relu():
    one, ten = (panel_values(function="AGLU", kappa=kappa, lam=1.0)[0] for kappa in (1.0, 10.0))
    np.testing.assert_allclose(one, Z / (1 + np.exp(-Z)), rtol=1e-6, atol=1e-7)
    assert np.abs(ten - np.maximum(Z, 0)).max() < 0.03


@pytest.mark.parametrize("function", ["APA", "AGLU"])
def test_the_derivatives_are_those_of_the_function(function):
    state, h = dict(function=function, kappa=0.7, lam=0.3), 1e-3
    value, of_z, of_kappa, of_lam = panel_values(**state)
    np.testing.assert_allclose(of_z[1:-1], (value[2:] - value[:-2]) / (2 * (Z[1] - Z[0])), atol=2e-3)
    for part, found in (("kappa", of_kappa), ("lam", of_lam)):
        up, down = (panel_values(**{**state, part: state[part] + s * h})[0] for s in (1, -1))
        np.testing.assert_allclose(found, (up - down) / (2 * h), atol=2e-3)


def test_eq_6_is_drawn_when_asked_for_and_has_the_other_sign():
    explorer = widgets.activations.APAExplorer()
    figure = explorer.figure(**{**explorer.state, "wrong": True})
    (wrong,) = (np.asarray(t.y) for t in figure.data if t.name == "Eq. 6 of the supplement")
    right = panels(figure)[-1]
    assert (wrong.astype(float) * right <= 0).all() and np.abs(wrong).max() > 0.1
    assert "Eq. 6" not in {t.name for t in explorer.figure(**explorer.state).data}


@pytest.mark.parametrize("initial", widgets.activations.RANGES)
def test_draws_lie_in_their_range(initial):
    drawn = widgets.activations.APAExplorer.draws(initial)
    if initial == "none":
        assert drawn is None
        return
    low, high = widgets.activations.RANGES[initial]
    kappa, lam = drawn
    assert kappa.shape == lam.shape == (20,) and (low <= kappa).all() and (kappa <= high).all()
    assert (0 < lam).all() and (lam <= 1).all()
    assert torch.equal(kappa, widgets.activations.APAExplorer.draws(initial)[0])  # the same at each redraw


def test_pure_and_small():
    explorer = widgets.activations.APAExplorer()
    state = {**explorer.state, "initial": "κ ~ U(−2, 2)", "wrong": True}
    first, second = explorer.figure(**state).to_json(), explorer.figure(**state).to_json()
    assert first == second and len(first) < 80_000


def test_the_map_has_the_median_accuracy_of_each_pair(effect):
    explorer = widgets.activations.APAExplorer(effect)
    for function, epochs in (("AGLU", 1), ("APA", 4)):
        figure = explorer.figure(**{**explorer.state, "function": function, "kappa": 0.52, "lam": 0.11})
        (shown,) = (t for t in figure.data if t.type == "heatmap")
        rows = effect.frame.query("head == @function and iteration == @epochs")
        near = rows[(rows["kappa"] == 0.5) & np.isclose(rows["lam"], 0.1)]
        median = 100 * np.median(near["test_accuracy"])
        assert len(near) == 3 and explorer.accuracy(function, 0.52, 0.11) == pytest.approx(median)
        assert f"{median:.0f} % right after {epochs} epoch" in figure.layout.title.text
        place = (list(shown.y).index(-1.0), list(shown.x).index(0.5))
        assert np.asarray(shown.z)[place] == pytest.approx(median)


def test_the_map_covers_the_sliders(effect):
    explorer = widgets.activations.APAExplorer(effect)
    kappas, exponents, percent, _ = explorer._maps["APA"]
    for name, values in (("kappa", kappas), ("lam", exponents)):
        widget = explorer.widgets[name]
        assert (values.min(), values.max()) == pytest.approx((widget.min, widget.max))
    assert percent.shape == (len(exponents), len(kappas)) and 0 <= percent.min() < percent.max() <= 100


def test_without_results_there_is_no_map():
    explorer = widgets.activations.APAExplorer()
    figure = explorer.figure(**explorer.state)
    assert "heatmap" not in {t.type for t in figure.data} and "digits" not in figure.layout.title.text


def test_setting_values_redraws_once(page):
    explorer = widgets.activations.APAExplorer()
    first = explorer.state
    explorer.set(function="APA", kappa=3.0, lam=0.01, initial="κ ~ U(0, 1)", wrong=True)
    assert len(page) == 1 and page[0] == bundle(explorer.figure(**explorer.state))
    explorer.widgets["kappa"].value = -2.0
    assert len(page) == 2
    explorer.reset()
    assert explorer.state == first and len(page) == 3
    assert math.isclose(explorer.state["lam"], 1.0)
