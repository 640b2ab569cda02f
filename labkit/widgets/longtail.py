"""The interactive figures of long tails: a reliability diagram under a temperature, a prior that is taken out,
and classes that fold together in a UFM.
"""

from collections.abc import Mapping
from functools import lru_cache

import ipywidgets as widgets
import numpy as np
import torch

from labkit import calibration, plots
from labkit.studies import longtail
from labkit.studies.ufms import minority
from labkit.vision.outputs import Outputs
from labkit.widgets.base import Explorer, box, log_slider, menu, slider

BINS = (5, 10, 15, 20)


class ReliabilityExplorer(Explorer):
    """Divide the logits by a temperature and watch confidence meet accuracy, or not. Accuracy does not move.

    runs: {name: labkit.vision.outputs.Outputs}, one of which is shown.
    """

    def __init__(self, runs: Mapping[str, Outputs]):
        self.runs = dict(runs)
        super().__init__()

    def controls(self):
        names = list(self.runs)
        return {
            "run": menu("network", names, names[0], "whose test images"),
            "temperature": log_slider(
                "temperature T", 1.0, -1, 1, "logits are divided by it", 0.02, readout_format=".2f"
            ),
            "tau": slider("prior taken out, τ", 0.0, 0.0, 2.0, 0.1, "0: as trained; 1: for classes of equal size"),
            "bins": menu("bins", list(BINS), 15, "of confidence"),
            "equal_mass": box("bins of equal mass", False, "as many samples in each, instead of equal width"),
        }

    def logits(self, run: str, temperature: float, tau: float) -> torch.Tensor:
        """(N, C) of a run: the prior is taken out first, then comes the temperature."""
        kept = self.runs[run]
        return calibration.correct_prior(kept.logits.double(), kept.train_counts, tau, "odds") / temperature

    def figure(self, run: str, temperature: float, tau: float, bins: int, equal_mass: bool):
        logits, labels = self.logits(run, temperature, tau), self.runs[run].labels
        table = calibration.reliability(logits, labels, bins, equal_mass)
        found = calibration.errors(table)
        accuracy = (logits.argmax(-1) == labels).double().mean().item()
        confidence = (table["confidence"] * table["samples"]).sum() / len(labels)
        title = (
            f"{run}, T = {temperature:.2f}, τ = {tau:.1f}: ECE {found['ece']:.1%}, MCE {found['mce']:.1%}<br>"
            f"accuracy {accuracy:.1%}, mean confidence {confidence:.1%}"
        )
        return plots.calibration.reliability({"": table}, title, height=430)


class PriorExplorer(Explorer):
    """Take the training prior out, a little or too much, and see who gains and who pays: groups and single classes.

    runs: {name: labkit.vision.outputs.Outputs}.
    """

    def __init__(self, runs: Mapping[str, Outputs]):
        self.runs, self.taus = dict(runs), np.round(np.arange(0, 2.01, 0.05), 2)
        super().__init__()
        self._curves = lru_cache(maxsize=None)(lambda run, kind: longtail.by_tau(self.runs[run], self.taus, kind))

    def controls(self):
        names = list(self.runs)
        kinds = [("odds, ln (N − n)/n", "odds"), ("prior, ln N/n", "prior")]
        return {
            "run": menu("network", names, names[0], "whose test images"),
            "tau": slider("τ", 0.0, 0.0, 2.0, 0.05, "how often the prior is taken out"),
            "kind": menu("constant", kinds, "odds", "what is added to each class's logit at τ = 1"),
        }

    def recalls(self, run: str, tau: float, kind: str) -> np.ndarray:
        """(C,): the share of each class that is found."""
        kept = self.runs[run]
        guesses = calibration.correct_prior(kept.logits, kept.train_counts, tau, kind).argmax(-1)
        return calibration.recall(guesses, kept.labels, len(kept.train_counts)).cpu().numpy()

    def figure(self, run: str, tau: float, kind: str):
        curves = self._curves(run, kind)
        at = longtail.by_tau(self.runs[run], [tau], kind).iloc[0]  # which need not be one of the curves' points
        said = ", ".join(f"{name} {at[name]:.1%}" for name in longtail.MEASURES if at[name] == at[name])
        top = curves.loc[curves["overall"].idxmax(), "tau"]
        title = f"{run}, τ = {tau:.2f}: {said}<br>best overall on these test images at τ = {top:.2f}"
        counts = self.runs[run].train_counts.tolist()
        return plots.calibration.tau_panels(
            curves, self.recalls(run, tau, kind), self.recalls(run, 0.0, kind), tau, counts, title
        )


HEADS = {
    "standard": ("standard", {}),
    "fixed ETF, no bias": ("fixed", {}),
    "fixed ETF, released bias": ("fixed", {"bias": "batch_mean"}),
    "implicit ETF": ("implicit", {}),
}


class ImbalanceExplorer(Explorer):
    """A UFM with large and small classes, trained anew at every setting: class vectors that fold together, margins, and
    what taking the prior out does to both kinds of classes. A training takes a second or so.
    """

    def __init__(self, num_classes: int = 10, iterations: int = 300):
        self.num_classes, self.iterations = num_classes, iterations
        self._ends = lru_cache(maxsize=64)(self._train)
        super().__init__()

    def controls(self):
        late, ratios = dict(continuous_update=False), [1, 2, 5, 10, 20, 50, 100, 200]
        tip = "samples of a large class for each of a small one"
        ratio = menu("large / small", ratios, 50, tip, widgets.SelectionSlider)
        ratio.continuous_update = False
        return {
            "head": menu("head", list(HEADS), "standard", "how the classifier is made"),
            "imbalance": ratio,
            "num_small": slider(
                "small classes",
                self.num_classes // 2,
                0,
                self.num_classes - 1,
                1,
                "how many of the classes are small",
                **late,
            ),
            "temperature": slider("temperature", 5.0, 2.0, 20.0, 1.0, "norm of the features", **late),
            "noise": slider(
                "noise", 1.5, 0.0, 3.0, 0.1, "of the test samples, as a share of the features' length", **late
            ),
            "tau": slider("prior taken out, τ", 0.2, 0.0, 1.0, 0.05, "after training"),
        }

    def _train(self, head, imbalance, num_small, temperature):
        name, options = HEADS[head]
        spec = minority.stepped(self.num_classes, num_small, imbalance)
        return minority.train(spec, name, self.iterations, temperature=temperature, **options)

    def end(self, head: str, imbalance: float, num_small: int, temperature: float) -> minority.End:
        """Where the training with these settings ends: a `minority.End`, kept for the next time."""
        return self._ends(head, imbalance, num_small, temperature)

    def figure(self, head: str, imbalance: float, num_small: int, temperature: float, noise: float, tau: float):
        end = self.end(head, imbalance, num_small, temperature)
        scores = {"as trained": end.accuracy(noise), "prior taken out": end.accuracy(noise, tau)}
        found = [score["overall"] for score in scores.values()]
        small = "" if num_small < 2 else f"cosine between small classes {end.small_cosine():.2f}, "
        title = (
            f"{head}, {num_small} of {self.num_classes} classes {imbalance} times smaller: {small}"
            f"simplex {-1 / (self.num_classes - 1):.2f}<br>noisy samples found: {found[0]:.1%} as trained, "
            f"{found[1]:.1%} at τ = {tau:.2f}"
        )
        return plots.calibration.fold_panels(end, tau, scores, title)
