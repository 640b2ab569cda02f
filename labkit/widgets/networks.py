"""Explorers of κ and λ in networks: where they start, with a training from there, and what saved runs learnt."""

import math
import time
from typing import Any

import ipywidgets as widgets
import pandas as pd

from labkit import plots
from labkit.history import History
from labkit.studies import activation_fits
from labkit.widgets.base import Explorer, menu, range_slider, slider
from labkit.widgets.training import TrainingExplorer

EPOCHS = 20  # of a training; the learning rate falls along half a cosine until then
WORDS = "scikit-learn's digits, 1201 images to train on and 596 to test"


class DigitRun:
    """A DigitNet in training on handwritten digits; a row of measures for each epoch from 0 on.

    Settings: kappa and lam, the ranges that they are drawn from; blocks, lr, seed. A run that diverges has ended.
    """

    def __init__(self, kappa: tuple[float, float], lam: tuple[float, float], blocks: int, lr: float, seed: int):
        self.settings = dict(kappa=kappa, lam=lam, blocks=blocks, lr=lr, seed=seed)
        starts = dict(kappa_init=kappa, lambda_init=(lam[0], max(lam[1], 1e-3)))  # a λ of 0 only is none
        self._coming = activation_fits.epochs_of(seed, epochs=EPOCHS, lr=lr, blocks=blocks, **starts)
        self.rows = [next(self._coming)]
        self.diverged = False

    @property
    def iteration(self):
        return EPOCHS if self.diverged else self.rows[-1]["iteration"]

    def advance(self, iteration: int, seconds: float = math.inf):
        """Train up to that epoch, or for about that many seconds, but whole epochs, if this comes first."""
        end = time.monotonic() + seconds
        while self.iteration < iteration and time.monotonic() < end:
            self.rows.append(next(self._coming))
            self.diverged = not math.isfinite(self.rows[-1]["loss"])

    def table(self):
        return pd.DataFrame(self.rows)


class StartsExplorer(TrainingExplorer):
    """Ranges of κ and λ by sliders with two handles, starts drawn from them, and a network that trains from
    there while one looks: its accuracy, and κ and λ of every layer. See TrainingExplorer.
    """

    unit = "epoch"

    def controls(self):
        late, slide = dict(continuous_update=False), widgets.SelectionSlider
        return {
            "kappa": range_slider("κ from … to", (1.0, 1.3), -3.0, 3.0, 0.1, "of the uniform draw", **late),
            "lam": range_slider("λ from … to", (0.0, 1.0), 0.0, 3.0, 0.05, "of the uniform draw", **late),
            "blocks": slider("blocks", 4, 1, 24, 1, "two activations in each, one of them on the shortcut", **late),
            "lr": menu("learning rate", [0.005, 0.02, 0.1], 0.1, "at the start", slide),
            "seed": slider("seed", 0, 0, 20, 1, "of the weights, κ and λ", **late),
        }

    def new_run(self, **settings: Any):
        return DigitRun(**settings)

    def split(self, **settings: Any):
        return settings, EPOCHS

    def looks(self, iteration: int, end: int):
        return iteration + 1

    @staticmethod
    def drawn(run: DigitRun):
        s, last = run.settings, run.rows[-1]
        ends = lambda pair, digits: " to ".join(f"{v:.{digits}f}" for v in pair).replace("-", "−")
        state = "the loss is no longer finite" if run.diverged else f"{100 * last['test_accuracy']:.1f} % right"
        title = (
            f"κ from {ends(s['kappa'], 1)}, λ from {ends(s['lam'], 2)}; {s['blocks']} blocks, rate {s['lr']:g}, "
            f"seed {s['seed']}<br>epoch {run.iteration} of {EPOCHS}: {state} ({WORDS})"
        )
        return plots.activations.start_panels(run.table(), (s["kappa"], s["lam"]), EPOCHS, title)


class NetworksExplorer(Explorer):
    """Flip through networks, seeds and epochs of a study and see the layers' κ, λ and curves.

    curves, parameters: the two Histories of `study.run`, or what was saved of them.
    """

    def __init__(self, curves: History, parameters: History):
        self.curves, self.parameters = curves, parameters
        super().__init__()

    def controls(self):
        frame = self.curves.frame
        networks = [n for n in plots.networks.LABELS if n in set(frame["head"])]
        if not networks:
            known = ", ".join(plots.networks.LABELS)
            raise ValueError(f"none of the networks is known: {sorted(set(frame['head']))}; known are {known}")
        learnt = [n for n in networks if n in set(self.parameters.frame["head"])]
        names = [(plots.networks.LABELS[n], n) for n in networks]
        kinds = [("activations", "activation"), ("gates of the attention", "gate")]
        epochs, seeds = (sorted(frame[column].unique().tolist()) for column in ("iteration", "seed"))
        return {
            "network": menu("network", names, (learnt or networks)[-1], "which activation, and which gate"),
            "kind": menu("which layers", kinds, "activation", "whose κ, λ and curves"),
            "seed": menu("seed", seeds, seeds[0], "of weights and batches", widgets.SelectionSlider),
            "epoch": menu("epoch", epochs, epochs[-1], "how long trained", widgets.SelectionSlider),
        }

    def numbers(self, network: str, seed: int, epoch: int) -> dict:
        """The row of the curves for one network, seed and epoch as a dict; empty where that was not run."""
        rows = self.curves.frame.query("head == @network and seed == @seed and iteration == @epoch")
        return rows.iloc[0].to_dict() if len(rows) else {}

    def figure(self, network: str, kind: str, seed: int, epoch: int):
        row = self.numbers(network, seed, epoch)
        title = f"{plots.networks.LABELS[network]}, seed {seed}, epoch {epoch}: "
        if row:
            title += f"test accuracy {100 * row['test_accuracy']:.1f} %, NC1 {row['test_nc1']:.3f}"
            if row["gate_entropy"] == row["gate_entropy"]:  # not NaN
                title += f", gate entropy {row['gate_entropy']:.3f}"
        else:
            title += "not run"
        return plots.networks.network_panels(self.parameters.frame, network, kind, seed, epoch, title)
