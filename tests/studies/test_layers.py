"""Measures of every layer while a network learns, and the figure and explorer of them."""

import numpy as np
import pytest
import torch
from torch import nn

from labkit import metrics
from labkit.plots.report import through_training
from labkit.report import collapse
from labkit.studies import layers
from labkit.vision import data
from labkit.widgets.images import LayersExplorer


@pytest.fixture(scope="module")
def table():
    return layers.on_digits(depth=2, seed=3, epochs=(0, 1, 3))


def test_a_row_for_every_layer_epoch_and_measure(table):
    nc1 = table[table["measure"] == "nc1"].pivot(index="epoch", columns="layer", values="value")
    assert list(nc1.index) == [0, 1, 3] and set(nc1) == {"pixels", "layer 1", "layer 2"} and (table["seed"] == 3).all()
    train = data.load("digits", "train")
    pixels = train.normalise()(train.images).flatten(1)
    np.testing.assert_allclose(nc1["pixels"], metrics.nc1(pixels, train.labels).item(), rtol=1e-9)  # they do not learn
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = layers.deep_network(2).eval()
    before = network[:3](train.normalise()(train.images)).detach()  # batch norms at their start change nothing but ε
    assert nc1.loc[0, "layer 2"] == pytest.approx(metrics.nc1(before, train.labels).item(), rel=1e-6)
    accuracy = table[table["measure"] == "accuracy"].set_index("epoch")["value"]
    assert accuracy[0] < 0.3 and accuracy[3] > 0.85 and nc1.loc[3, "layer 2"] < nc1.loc[0, "layer 2"] / 3


def test_any_trainer():
    """The layers are those of the network that is trained, at the moment of each row."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    train = data.load("digits", "train")[:200]
    norm = train.normalise()
    loader = [(norm(train.images), train.labels)]
    batches = layers.batches.Batches(train, 50, transforms=[norm])
    optimizer = torch.optim.SGD(network.parameters(), 1e-3)
    run = layers.trainer.Trainer(network, None, optimizer, batches, measure=lambda _: {}, name="mine", epochs=2)
    found = layers.through_training(run, loader, ["0"])
    again = collapse(network, loader, ["0"]).table
    last = found[found["epoch"] == 2].drop(columns="epoch").reset_index(drop=True)
    assert last.equals(again) and found["epoch"].nunique() == 3


def test_the_figure_shows_the_epoch_that_is_chosen(table):
    explorer = LayersExplorer(table)
    explorer.set(measure="nc1", epoch=1)
    figure = explorer.figure(**explorer.state)
    nc1 = table[table["measure"] == "nc1"].pivot(index="layer", columns="epoch", values="value")
    (chosen,) = (t for t in figure.data if t.name == "at this epoch")
    np.testing.assert_allclose(chosen.y, nc1[1].reindex(list(chosen.x)), rtol=1e-6)
    (place,) = (t for t in figure.data if t.type == "heatmap")
    np.testing.assert_allclose(place.z, np.log10(nc1.reindex(list(place.y))), rtol=1e-5)
    assert (figure.layout.shapes[0].x0, figure.layout.shapes[0].x1) == (0.5, 1.5)
    assert len(explorer.player("epoch", [0, 1, 3]).frames) == 3
    with pytest.raises(ValueError, match="epoch"):
        through_training(table, "nc1", 2)
