"""Figures of networks show the numbers of the tables: every seed, medians over seeds, and the curves of κ and λ."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from networks_made_up import results

from labkit import activations, plots
from labkit.studies import networks

CURVES, PARAMETERS = (history.frame for history in results())
MAKE = {
    "dots": lambda: plots.networks.dots(CURVES, "test_accuracy", list(networks.NETWORKS), title="title"),
    "over_epochs": lambda: plots.networks.over_epochs(CURVES, "test_nc1", ["se", "apa-star"], log_y=True),
    "depth_panels": lambda: plots.networks.depth_panels(PARAMETERS, ["aglu", "apa-star"]),
    "network_panels": lambda: plots.networks.network_panels(PARAMETERS, "apa-star", "gate", 1, 5, title="title"),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_every_figure_is_plain_json(make):
    figure = make()
    assert json.loads(figure.to_json())["data"] and figure.layout.uirevision and figure.layout.height


def test_every_network_has_a_label_and_a_colour():
    assert set(plots.networks.LABELS) == set(networks.NETWORKS)
    assert len(set(plots.networks.LABELS.values())) == len(plots.networks.LABELS)
    assert (
        plots.networks.colour("relu")
        != plots.networks.colour("aglu")
        != plots.networks.colour("apa-star")
        != plots.networks.colour("se")
    )


def test_at_takes_the_last_epoch_of_each_run():
    table = pd.DataFrame(dict(head=["a", "a", "b"], seed=[0, 0, 0], iteration=[0, 5, 2]))
    assert plots.networks.at(table)["iteration"].tolist() == [5, 2] and plots.networks.at(table, 0)[
        "head"
    ].tolist() == ["a"]


def test_dots_are_seeds_and_bars_medians():
    drawn = {t.name: t for t in plots.networks.dots(CURVES, "test_nc1", ["se", "apa-star"]).data}
    for network in ("se", "apa-star"):
        values = CURVES.query("head == @network and iteration == 5")["test_nc1"]
        label = plots.networks.LABELS[network]
        np.testing.assert_allclose(np.sort(drawn[label].x), np.sort(values), rtol=1e-6)
        assert drawn[f"{label}, median"].x[0] == pytest.approx(values.median())


def test_dots_leave_out_what_was_not_measured():
    figure = plots.networks.dots(CURVES, "gate_entropy", ["relu", "se"])
    assert [len(t.x) for t in figure.data] == [0, 3, 1]


def test_curves_over_epochs_are_medians():
    drawn = [t for t in plots.networks.over_epochs(CURVES, "loss", ["relu"]).data if t.fill is None]
    expected = CURVES[CURVES["head"] == "relu"].groupby("iteration")["loss"].median()
    assert list(drawn[0].x) == [0, 1, 5]
    np.testing.assert_allclose(drawn[0].y, expected, rtol=1e-6)


def test_every_network_over_epochs_looks_different():
    drawn = [t for t in plots.networks.over_epochs(CURVES, "loss", list(networks.NETWORKS)).data if t.fill is None]
    assert [t.name for t in drawn] == [plots.networks.LABELS[n] for n in networks.NETWORKS]
    assert len({(t.line.color, t.line.dash) for t in drawn}) == len(networks.NETWORKS) == 12


def test_depth_panels_draw_every_network_or_say_that_they_cannot():
    learn = ["aglu", "aglu-frozen", "aglu-paper-gradient", "aglu-paper-released", "aglu-channel"]
    drawn = {t.name for t in plots.networks.depth_panels(PARAMETERS, learn[:4]).data}
    assert {f"after: {plots.networks.LABELS[n]}" for n in learn[:4]} <= drawn
    with pytest.raises(ValueError, match="4 networks, got 5: aglu, "):
        plots.networks.depth_panels(PARAMETERS, learn)


def test_depth_panels_hold_start_and_end():
    figure = plots.networks.depth_panels(PARAMETERS, ["apa-star"])
    lines = [t for t in figure.data if t.mode == "lines"]
    assert [t.name for t in lines] == ["before training", "after: APA*"] * 4  # λ and κ of activations and of gates
    mine = (
        PARAMETERS.query("head == 'apa-star' and kind == 'gate' and iteration == 5").groupby("layer")["kappa"].median()
    )
    np.testing.assert_allclose(lines[-1].y, mine, rtol=1e-6)
    assert len(lines[0].x) == 13 and len(lines[-1].x) == 6


def test_depth_panels_of_a_network_without_gates():
    assert {t.name for t in plots.networks.depth_panels(PARAMETERS, ["aglu"]).data} == {
        "before training",
        "after: AGLU",
    }


@pytest.mark.parametrize("kind, function", [("activation", activations.aglu), ("gate", activations.apa)])
def test_the_curves_are_those_of_the_parameters(kind, function):
    figure = plots.networks.network_panels(PARAMETERS, "apa-star", kind, 2, 5)
    mine = PARAMETERS.query("head == 'apa-star' and kind == @kind and seed == 2 and iteration == 5")
    drawn = [t for t in figure.data if t.name and t.name.startswith("layer")]
    assert len(drawn) == len(mine)
    for trace, row in zip(drawn, mine.itertuples()):
        expected = function(torch.linspace(-5, 5, 81, dtype=torch.float64), row.kappa, row.lam)
        np.testing.assert_allclose(trace.y, expected, rtol=1e-6, atol=1e-30)


def test_the_order_of_the_rows_does_not_matter():
    figures = [
        plots.networks.network_panels(table, "apa-star", "gate", 1, 5)
        for table in (PARAMETERS, PARAMETERS.sample(frac=1, random_state=0))
    ]
    for one, other in zip(*(figure.data for figure in figures)):  # lines lead from the start of a layer to its end
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.y, other.y)


def test_a_lambda_below_the_floor_is_drawn_at_the_floor():
    z = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    expected = activations.apa(z, 1.0, activations.FLOOR)
    torch.testing.assert_close(plots.networks._values(z, "gate", 1.0, -0.3), expected)


@pytest.mark.parametrize(
    "network, kind, name",
    [
        ("relu", "activation", "ReLU"),
        ("silu", "activation", "SiLU"),
        ("se-apa", "activation", "ReLU"),
        ("se", "gate", "sigmoid"),
    ],
)
def test_a_fixed_curve_where_nothing_is_learnt(network, kind, name):
    figure = plots.networks.network_panels(PARAMETERS, network, kind, 0, 5)
    assert [t.name for t in figure.data] == [name]
    assert [a.text for a in figure.layout.annotations].count("nothing learnt here") == 2


def test_a_network_without_gates_says_so():
    figure = plots.networks.network_panels(PARAMETERS, "aglu", "gate", 0, 5)
    assert "no gate in this network" in [a.text for a in figure.layout.annotations] and not figure.data


def test_huge_lambda_gets_a_logarithmic_axis():
    table = PARAMETERS[PARAMETERS["head"] == "aglu"].copy()
    table.loc[table["iteration"] == 5, "lam"] *= 1e6
    table.loc[table["iteration"] == 1, "lam"] = -0.5  # on the way, which is not drawn
    assert plots.networks.depth_panels(table, ["aglu"]).layout.yaxis.type == "log"
    assert plots.networks.network_panels(table, "aglu", "activation", 0, 5).layout.yaxis.type == "log"
