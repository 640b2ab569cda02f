"""Collapse layer by layer while a network learns: the measures of `labkit.report` at every measured epoch.

on_digits(seed=0) -> a table of a small deep network; through_training(run, …) does the same for any Trainer.
"""

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from torch import nn

from labkit.report import collapse
from labkit.vision import batches, data
from labkit.vision.training import trainer

EPOCHS = (0, 1, 2, 3, 5, 8, 12, 20, 30)  # those that on_digits measures


def deep_network(depth: int = 6, width: int = 64, pixels: int = 64, num_classes: int = 10) -> nn.Sequential:
    """Layers of equal width, each a linear map, a batch norm and a ReLU, and a linear classifier on top.

    They are named "pixels", "layer 1" …, "classifier". Maps images of so many pixels to logits (n, num_classes).

    >>> [name for name, _ in deep_network(2).named_children()]
    ['pixels', 'layer 1', 'layer 2', 'classifier']
    """
    network = nn.Sequential()
    network.add_module("pixels", nn.Flatten())
    for k in range(depth):
        linear = nn.Linear(width if k else pixels, width)
        network.add_module(f"layer {k + 1}", nn.Sequential(linear, nn.BatchNorm1d(width), nn.ReLU()))
    network.add_module("classifier", nn.Linear(width, num_classes))
    return network


def through_training(run: trainer.Trainer, loader: Iterable, layers: Sequence[str]) -> pd.DataFrame:
    """Train to the end, and measure these layers before training and after every epoch that `run` measures.

    run: a Trainer whose network gives logits by itself (head None). loader, layers: as in `report.collapse`; the inputs
    of the classifier come last, under "before …". Returns the tables of `collapse` one under the other, with the column
    epoch.
    """
    found = [collapse(run.backbone, loader, layers).table.assign(epoch=run.epoch) for _ in run.each_epoch()]
    return pd.concat(found, ignore_index=True)


def on_digits(depth: int = 6, seed: int = 0, epochs: Sequence[int] = EPOCHS) -> pd.DataFrame:
    """`through_training` of a `deep_network` on scikit-learn's digits, with SGD and a cosine schedule; some seconds.

    epochs: those to measure; the last one is the last of training. Columns: layer, measure, value, convention, epoch,
    seed. The last layer stands there once, as what the classifier sees.
    """
    train = data.load("digits", "train")
    normalise = train.normalise()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = deep_network(depth)
    shuffled = batches.Batches(train, 64, transforms=[normalise], seed=seed)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    settings = dict(name="deep", epochs=max(epochs), seed=seed, schedule="cosine", measure_at=epochs)
    run = trainer.Trainer(network, None, optimizer, shuffled, measure=lambda _: {}, **settings)
    names = ["pixels", *(f"layer {k + 1}" for k in range(depth - 1))]
    table = through_training(run, [(normalise(train.images), train.labels)], names)
    return table.assign(layer=table["layer"].replace("before classifier", f"layer {depth}"), seed=seed)
