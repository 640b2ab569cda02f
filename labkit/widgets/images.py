"""Trainings on images to watch, live or recorded, and the guiding paper's accuracy tables to look through."""

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from labkit import plots
from labkit.heads import MAIN
from labkit.history import History
from labkit.plots.images import accuracies, best_probabilities, image_panels
from labkit.plots.report import through_training
from labkit.report.measures import MEASURES
from labkit.studies import tables
from labkit.studies.recording import Recording
from labkit.vision import build
from labkit.widgets.base import Explorer, log_slider, menu, slider
from labkit.widgets.live import LiveFigure


def watch(
    settings: dict, heads: Sequence[str] = MAIN, seed: int = 0, *, root: str | Path | None = None, every: float = 2.0
) -> History:
    """Train the heads side by side as `labkit.vision.build` does, and redraw the panels after about each `every`
    seconds.

    settings, root: as in `build.run`. Returns the History of all heads.
    """
    runs = [build.make(settings, head, seed, root=root) for head in heads]
    live, drawn = LiveFigure(), -math.inf
    for _ in zip(*(run.each_epoch() for run in runs)):
        if time.monotonic() - drawn > every or runs[0].epoch == settings["epochs"]:
            history = History.concat(run.history() for run in runs)
            live.draw(image_panels(history, len(runs[0].head.weight), settings["temperature"]))
            drawn = time.monotonic()
    return history


class TablesExplorer(Explorer):
    """Tables 1 and 2 as marks and ranges, at either epoch, beside what our runs had; at first, where these are."""

    def __init__(self, histories: Mapping[tuple[str, str], History], folder: str | Path = "data/paper"):
        self.histories, self.folder = histories, folder
        super().__init__()

    def controls(self):
        options = [("training accuracy (Table 1)", 1), ("test accuracy (Table 2)", 2)]
        reached = max((run.frame["iteration"].max() for run in self.histories.values()), default=200)
        return {"table": menu("table", options, 2), "epoch": menu("epoch", [50, 200], 200 if reached >= 200 else 50)}

    def figure(self, table: int, epoch: int):
        paper = tables.printed(table, self.folder).query("epoch == @epoch")
        ours = tables.our_rows(paper, self.histories, tables.MEASURES[table])
        kind = {1: "training", 2: "test"}[table]
        return accuracies(paper, ours, title=f"{kind} accuracy after {epoch} epochs: median and range over seeds")


class TemperatureExplorer(Explorer):
    """How sure a collapsed network can be: the probability of the right class and the loss for any τ and number of
    classes.
    """

    def controls(self):
        return {
            "num_classes": log_slider("classes C", 1000.0, 0.5, 4, "how many", step=0.05, readout_format=".0f"),
            "temperature": slider("temperature τ", 5.0, 0.5, 30.0, 0.5, "norm of the features a head sees"),
        }

    def figure(self, num_classes: float, temperature: float):
        return best_probabilities([10, 100, 1000, round(num_classes)], temperature)


class LayersExplorer(Explorer):
    """How far each layer of a network has collapsed, epoch by epoch.

    table: of one run, with the columns layer, measure, value and epoch, as `labkit.studies.layers` makes it.
    """

    MEASURES = ("nc1", "cdnv", "nc2_means", "nearest_mean_accuracy", "numerical_rank")

    def __init__(self, table: pd.DataFrame):
        self.table = table
        super().__init__()

    def controls(self):
        epochs = sorted(int(epoch) for epoch in self.table["epoch"].unique())
        there = set(self.table["measure"])
        options = [(MEASURES[name][0], name) for name in self.MEASURES if name in there]
        return {
            "measure": menu("measure", options, options[0][1]),
            "epoch": menu("epoch", epochs, epochs[-1], "of training", widgets.SelectionSlider),
        }

    def figure(self, measure: str, epoch: int):
        return through_training(self.table, measure, epoch, title=f"epoch {epoch}: {MEASURES[measure][1]}")


class DigitsExplorer(Explorer):
    """Any three classes of recorded trainings, at any epoch, with NC1 to NC4.

    recordings: {head: Recording}.
    """

    def __init__(self, recordings: Mapping[str, Recording]):
        self.recordings = recordings
        self._shadows = {}
        super().__init__()

    def controls(self):
        last = min(r.history.frame["iteration"].max() for r in self.recordings.values())
        digits = list(range(next(iter(self.recordings.values())).weights.shape[-2]))
        heads = [(look.label, head) for head, look in plots.colours.looks(self.recordings).items()]
        return {
            "head": menu("head", heads, heads[0][1]),
            "epoch": slider("epoch", 0, 0, int(last), 1),
            "first": menu("first digit", digits, 0),
            "second": menu("second digit", digits, 1),
            "third": menu("third digit", digits, 2),
        }

    def figure(self, head: str, first: int, second: int, third: int, epoch: int):
        classes = [first, second, third]
        for k in (1, 2):  # a digit chosen twice gives way to the next that is free
            while classes[k] in classes[:k]:
                classes[k] = (classes[k] + 1) % self.recordings[head].weights.shape[-2]
        key = (head, *classes)
        if key not in self._shadows:
            self._shadows[key] = plots.digits.Shadow(self.recordings[head], tuple(classes))
        return plots.digits.state(self.recordings[head], tuple(classes), epoch, self._shadows[key])
