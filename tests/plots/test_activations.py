"""The figures of APA and AGLU: what is drawn is what was given."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from labkit import plots
from labkit.activations import derivatives
from labkit.history import History
from labkit.studies import activation_fits


def fits():
    return History.concat(
        activation_fits.fit_curve(lambda_gradient=g, seeds=(0, 1), steps=20) for g in ("exact", "paper")
    )


def depths():
    return pd.concat(
        activation_fits.signal(name, r, "plain", depth=3, width=4, samples=4, seeds=(0, 1))
        for name, r in (("κ ~ U(0, 1)", (0, 1)), ("κ ~ U(−2, 2)", (-2, 2)))
    )


def network():
    frame = pd.DataFrame(
        [
            {"head": h, "seed": s, "iteration": t, "lam_0": 0.1 + t, "lam_1": 1.0 + s}
            for h in ("exact", "paper", "other")
            for s in (0, 1)
            for t in range(3)
        ]
    )
    return History(frame)


FIGURES = {
    "derivatives": lambda: plots.activations.derivative_panels(True),
    "derivatives of APA": lambda: plots.activations.derivative_panels(False),
    "errors": lambda: plots.activations.error_panels(
        [0.1, 1], {("a", "value", "float32"): [1e-7, np.nan], ("a", "value", "float64"): [0, 1]}
    ),
    "fit": lambda: plots.activations.fit_panels(fits(), 0.8, 0.5),
    "paths": lambda: plots.activations.lambda_paths(network()),
    "depth": lambda: plots.activations.depth_panels({"plain": depths()}, "scale", "scale"),
    "dots": lambda: plots.activations.accuracy_dots(
        {"a": 57.9, "b": None}, {"a": [97.0, 98.0], "b": [96.0]}, "printed", "ours"
    ),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_every_figure_is_plain_json(make):
    figure = make()
    assert len(figure.data) > 0 and json.loads(figure.to_json())["data"]
    assert figure.layout.uirevision


def test_derivative_panels_hold_the_derivatives():
    figure = plots.activations.derivative_panels(True, kappas=(1.0,), lams=(0.3,))
    z = torch.linspace(-6, 6, 121, dtype=torch.float64)
    for traces, setting in ((figure.data[:3], (1.0, 1.0)), (figure.data[3:], (1.0, 0.3))):
        found = derivatives(z, *setting, True)
        for trace, part in zip(traces, ("z", "kappa", "lam")):
            np.testing.assert_allclose(trace.y, found[part], rtol=1e-6)


def test_errors_that_are_not_numbers_are_drawn_at_the_top():
    figure = FIGURES["errors"]()
    np.testing.assert_allclose(figure.data[0].y, [1e-7, 100], rtol=1e-6)
    np.testing.assert_allclose(figure.data[1].y, [1e-17, 1], rtol=1e-6)


def test_every_seed_of_a_fit_is_drawn():
    figure = FIGURES["fit"]()
    assert len(figure.data) == 2 * 2 * 3
    assert sum(t.showlegend for t in figure.data) == 2
    assert {t.line.dash for t in figure.data} == {"solid", "dash"}


def test_paths_have_a_panel_for_each_variant_and_a_gap_between_curves():
    figure = FIGURES["paths"]()
    assert [a.text for a in figure.layout.annotations] == ["exact gradient", "Eq. 6", "other"]
    assert np.isnan(figure.data[0].y).sum() == 4  # two seeds, two layers
    np.testing.assert_allclose(figure.data[0].y[:3], [0.1, 1.1, 2.1], rtol=1e-6)


def test_paths_do_not_depend_on_the_order_of_the_rows():
    frame = network().frame
    backwards = plots.activations.lambda_paths(History(frame[::-1])).data
    for trace, mixed in zip(plots.activations.lambda_paths(network()).data, backwards[::-1]):
        np.testing.assert_array_equal(trace.x, mixed.x)
        np.testing.assert_array_equal(trace.y, mixed.y)


def test_bands_hold_the_range_over_seeds():
    table, figure = depths(), FIGURES["depth"]()
    band, median = figure.data[:2]
    group = table[table["head"] == "κ ~ U(0, 1)"].groupby("layer")["scale"]
    np.testing.assert_allclose(band.y[:4], group.min(), rtol=1e-6)
    np.testing.assert_allclose(median.y, group.median(), rtol=1e-6)


def test_a_failure_has_a_word_and_no_dot():
    figure = FIGURES["dots"]()
    assert [a.text for a in figure.layout.annotations][-1] == "“Failed”"
    assert figure.data[1].x == (None,)
