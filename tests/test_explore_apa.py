"""The APA explorer without a browser: every slider over its range, the limits of the family, and that values set redraw."""

import itertools
import math
import time

import ipywidgets
import numpy as np
import pytest
import torch

from labkit import explore_apa
from labkit.live import bundle

Z = np.linspace(-6, 6, 201)


def positions(widget, count=7):
    """Values over a control's range, or all of its options."""
    if isinstance(widget, ipywidgets.Checkbox):
        return [False, True]
    if isinstance(widget, ipywidgets.Dropdown):
        return list(widget.options)
    values = np.linspace(widget.min, widget.max, count).tolist()
    return [widget.base**v for v in values] if isinstance(widget, ipywidgets.FloatLogSlider) else values


def panels(figure):
    """The bold curve of the function and those of ∂/∂z, ∂/∂κ, ∂/∂λ as arrays."""
    bold = [t for t in figure.data if t.mode == "lines" and t.line.color == "#0072B2"]
    return [np.asarray(t.y, float) for t in bold]


def panel_values(**settings):
    explorer = explore_apa.APAExplorer()
    return panels(explorer.figure(**{**explorer.state, **settings}))


def test_every_control_over_its_range():
    explorer = explore_apa.APAExplorer()
    for function in ("APA", "AGLU"):
        for name, widget in explorer.widgets.items():
            for value in positions(widget):
                figure = explorer.figure(**{**explorer.state, "function": function, name: value})
                drawn = panels(figure)
                assert len(drawn) == 4, (name, value)
                assert all(np.isfinite(y).all() for y in drawn), (name, value)


def test_all_corners_of_the_controls():
    explorer = explore_apa.APAExplorer()
    ends = [(p[0], p[-1]) for p in map(positions, explorer.widgets.values())]
    for values in itertools.product(*ends):
        assert all(np.isfinite(y).all() for y in panels(explorer.figure(**dict(zip(explorer.widgets, values)))))


@pytest.mark.parametrize("kappa", [-3.0, -0.5, 0.0, 1.0, 10.0])
def test_lambda_one_is_the_sigmoid(kappa):
    eta = panel_values(function="APA", kappa=kappa, lam=1.0)[0]
    np.testing.assert_allclose(eta, 1 / (1 + np.exp(-kappa * Z)), rtol=1e-6)


@pytest.mark.parametrize("kappa", [-3.0, 0.0, 1.0])
def test_small_lambda_is_gumbel(kappa):
    lam = explore_apa.APAExplorer().widgets["lam"]
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
    explorer = explore_apa.APAExplorer()
    figure = explorer.figure(**{**explorer.state, "wrong": True})
    wrong, = (np.asarray(t.y) for t in figure.data if t.name == "Eq. 6 of the supplement")
    right = panels(figure)[-1]
    assert (wrong.astype(float) * right <= 0).all() and np.abs(wrong).max() > 0.1
    assert "Eq. 6" not in {t.name for t in explorer.figure(**explorer.state).data}


@pytest.mark.parametrize("initial", explore_apa.RANGES)
def test_draws_lie_in_their_range(initial):
    drawn = explore_apa.APAExplorer.draws(initial)
    if initial == "none":
        assert drawn is None
        return
    low, high = explore_apa.RANGES[initial]
    kappa, lam = drawn
    assert kappa.shape == lam.shape == (20,) and (low <= kappa).all() and (kappa <= high).all()
    assert (0 < lam).all() and (lam <= 1).all()
    assert torch.equal(kappa, explore_apa.APAExplorer.draws(initial)[0])  # the same at each redraw


def test_pure_and_small():
    explorer = explore_apa.APAExplorer()
    state = {**explorer.state, "initial": "κ ~ U(−2, 2)", "wrong": True}
    first, second = explorer.figure(**state).to_json(), explorer.figure(**state).to_json()
    assert first == second and len(first) < 80_000


def test_fast():
    explorer, start = explore_apa.APAExplorer(), time.perf_counter()
    for kappa in range(5):
        explorer.figure(**{**explorer.state, "kappa": float(kappa)})
    assert (time.perf_counter() - start) / 5 < 2  # seconds; far less on an idle machine


def test_setting_values_redraws_once(page):
    explorer = explore_apa.APAExplorer()
    first = explorer.state
    explorer.set(function="APA", kappa=3.0, lam=0.01, initial="κ ~ U(0, 1)", wrong=True)
    assert len(page) == 1 and page[0] == bundle(explorer.figure(**explorer.state))
    explorer.widgets["kappa"].value = -2.0
    assert len(page) == 2
    explorer.reset()
    assert explorer.state == first and len(page) == 3
    assert math.isclose(explorer.state["lam"], 1.0)
