"""The interactive figures of UFMs, in training and saved; `labkit.widgets.base` has what all explorers share."""

import math
import time
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch

from labkit import etf, plots, ufm
from labkit.heads import HEADS, MAIN
from labkit.history import History
from labkit.widgets.base import Explorer, log_slider, menu, slider
from labkit.widgets.live import LiveFigure
from labkit.widgets.training import TrainingExplorer

ITERATIONS = 3000  # the longest training of UFMExplorer
LOG = ufm.log_points(ITERATIONS)
SCHEDULE = "2/(t+1)"


class Run:
    """One UFM in training: what was measured at `LOG` on the way to the present iteration, and what a figure of it
    shows.

    The state after t steps does not depend on how `advance` was called to get there.
    """

    def __init__(
        self,
        spec: ufm.UFM,
        head: str,
        num_classes: int,
        temperature: float,
        delta: float,
        alpha: float | str,
        gain: float,
        seed: int,
    ):
        self.settings = dict(
            head=head, num_classes=num_classes, temperature=temperature, delta=delta, alpha=alpha, gain=gain, seed=seed
        )
        # As many samples of each class: the bound on the loss is for balanced classes.
        self.spec = ufm.UFM(num_classes, spec.num_samples // num_classes * num_classes, max(spec.dim, num_classes, 3))
        alpha = None if alpha == SCHEDULE else alpha
        options = {"delta": delta, "alpha": alpha} if head == "implicit" else {}
        self.trainer = ufm.Trainer(self.spec, head, [seed], temperature, gain, **options)
        self._rows = {0: self._row()}

    @property
    def iteration(self):
        return self.trainer.iteration

    def advance(self, iteration: int, seconds: float = math.inf):
        """Train up to that iteration, or for about that many seconds if this comes first."""
        end = time.monotonic() + seconds
        while self.iteration < iteration and time.monotonic() < end:
            self.trainer.step()
            if self.iteration in LOG:
                self._rows[self.iteration] = self._row()

    def _row(self):
        values, self._margins = self.trainer.measure()
        self._measured = self.iteration
        return {"iteration": self.iteration, **{name: value[0] for name, value in values.items()}}

    def history(self):
        """(table, margins): a row of measures for each iteration of `LOG` and for the present one; margins (N,) at
        present.
        """
        if self._measured != self.iteration:
            self._last = self._row()
        rows = [*self._rows.values(), *([] if self.iteration in self._rows else [self._last])]
        return pd.DataFrame(rows), self._margins[0]

    @torch.no_grad()
    def picture(self, each: int = 20):
        """Up to `each` features of every class, on the unit sphere, and the class vectors, in three dimensions.

        Returns (points (3, n), targets (n,), vectors (3, C)). The three axes are made of the class vectors, which so
        stand still in the picture (as good as still where the head learns them), and the features come to them.
        """
        head, _ = self.trainer.present()
        C, d = self.spec.num_classes, self.spec.dim
        weight = head.weight.expand(1, C, d)[0].double()
        ring = etf.ring(C)
        other = torch.randn(d, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # needed where C < 4
        axes, triangle = torch.linalg.qr(torch.cat([weight.mT @ ring.mT, other], -1)[:, :3])
        axes = axes * torch.where(triangle.diagonal() < 0, -1.0, 1.0)
        rows = torch.cat([torch.nonzero(self.trainer.targets == c)[:each, 0] for c in range(C)])
        features = head.normalize(self.trainer.features)[0, rows].double() / head.temperature
        return (features @ axes).mT.numpy(), self.trainer.targets[rows].tolist(), (weight @ axes).mT.numpy()


class UFMExplorer(TrainingExplorer):
    """Train a small UFM at the present settings, watch it collapse, and stop it where you like.

    `train()` and `pause()` are the buttons; `run()` trains to the end before it returns. A change of a setting begins
    anew, and goes on training if it was. figure(**state) is trained to the end; figure(**state, iteration=t) for t
    steps.
    """

    def __init__(self, spec: ufm.UFM = ufm.UFM_10, iterations: int = 1000):
        self.spec, self.iterations = spec, iterations
        super().__init__()

    def controls(self):
        late = dict(continuous_update=False)
        most = max(min(10, self.spec.num_samples), self.spec.num_classes)  # a sample of each class at least
        alphas, slide = [SCHEDULE, 0.01, 0.03, 0.1, 0.3, 1.0], widgets.SelectionSlider
        return {
            "head": _heads(),
            "num_classes": slider("classes C", self.spec.num_classes, 2, most, 1, "how many classes", **late),
            "temperature": slider("temperature τ", 5.0, 1.0, 20.0, 0.5, "norm of the features", **late),
            "gain": log_slider("gain of AGD", 10.0, -1, 2, "factor on the steps", readout_format=".3g", **late),
            "delta": log_slider("δ (implicit head)", 1e-3, -6, 3, "how strongly an ETF is held to the last", **late),
            "alpha": menu("α (implicit head)", alphas, SCHEDULE, "of the present class means in their average", slide),
            "seed": slider("seed", 0, 0, 20, 1, "of the features to start from", **late),
            "iterations": slider(
                "iterations", self.iterations, min(10, self.iterations), ITERATIONS, 10, "where training ends", **late
            ),
        }

    def new_run(self, **settings: Any):
        return Run(self.spec, **settings)

    def split(self, iterations: int, **settings: Any):
        return settings, iterations

    def looks(self, iteration: int, end: int):
        return min([end, *(t for t in LOG if t > iteration)])

    @staticmethod
    def drawn(run: Run):
        s, C, (table, margins), end = run.settings, run.spec.num_classes, run.history(), run.iteration
        last = table.iloc[-1]
        points, targets, vectors = run.picture()
        bounds, look = plots.ufm.bounds_of(C, s["temperature"]), plots.colours.looks([s["head"]])[s["head"]]
        title = (
            f"{look.label}, step {end}: cross entropy {last['loss']:.4g}, bound {bounds['loss']:.4g}<br>"
            f"NC1 {last['nc1']:.1e}, NC3 {last['nc3']:.1e}; "
            f"C = {C}, τ = {s['temperature']:g}, gain {s['gain']:.3g}, seed {s['seed']}"
        )
        if s["head"] == "implicit":
            title += f", δ = {s['delta']:.1e}, α = {s['alpha']}"
        limit = max(1.2 * etf.ring(C)[:3].abs().max().item(), 1.05 * np.abs(vectors).max())
        return plots.ufm.training_panels(look, table, margins, points, targets, vectors, limit, bounds, title)


def _heads():
    options = [(look.label, name) for name, look in plots.colours.looks(HEADS).items()]
    return menu("head", options, "implicit", "where the class vectors come from")


def watch_ufm(
    spec: ufm.UFM = ufm.UFM_10,
    heads: Sequence[str] = MAIN,
    iterations: int = 100,
    seed: int = 0,
    every: float = 0.3,
    measures: Sequence[str] | None = None,
) -> History:
    """Train the heads side by side and redraw Figure 2's panels as they go, about each `every` seconds. Returns the
    History.

    measures: names of the panels, as in `plots.ufm.run_panels`; those of Figure 2 when None.
    """
    measures, bounds = measures or plots.ufm.FIGURE_2, plots.ufm.bounds_of(spec.num_classes, 5.0)
    trainers = [ufm.Trainer(spec, head, [seed]) for head in heads]
    live, drawn = LiveFigure(), -math.inf
    for t in (points := ufm.log_points(iterations)):
        for trainer in trainers:
            while trainer.iteration < t:
                trainer.step()
            trainer.log()
        if time.monotonic() - drawn > every or t == points[-1]:
            history = History.concat(trainer.history() for trainer in trainers)
            live.draw(plots.ufm.run_panels(history, measures, bounds))
            drawn = time.monotonic()
    return history


class RunsExplorer(Explorer):
    """The six panels of Figure 2 for one size, some heads, and one seed or the median and range of all.

    history: of `labkit.studies.ufms.sweep.load`; its frame has a column size.
    """

    def __init__(self, history: History):
        self.history = history
        super().__init__()

    def controls(self):
        frame = self.history.frame
        heads = [(look.label, head) for head, look in plots.colours.looks(frame["head"]).items()]
        seeds = sorted(frame["seed"].unique().tolist())
        main = tuple(h for _, h in heads if h in MAIN)
        chosen = menu("heads", heads, main or (heads[0][1],), "several with shift or ctrl", kind=widgets.SelectMultiple)
        chosen.rows = len(heads)
        sizes = sorted(frame["size"].unique(), key=ufm.classes_of)
        return {
            "size": menu("model", sizes, sizes[0], "number of classes"),
            "seed": menu("seed", [("all: median and range", -1), *((str(s), s) for s in seeds)], -1),
            "heads": chosen,
        }

    def figure(self, size: str, heads: Sequence[str], seed: int):
        shown = self.history.where(size=size, head=heads)
        if seed != -1:
            shown = shown.where(seed=seed)
        C = ufm.classes_of(size)
        counts = shown.frame.groupby("head")["seed"].nunique()
        title = f"{size}: " + (f"seed {seed}" if seed != -1 else f"{counts.min()} seeds" if len(counts) else "")
        if shown.frame.empty:
            title = f"{size}: not run for this choice" if heads else f"{size}: choose a head"
        return plots.ufm.ufm_panels(shown, C, self._temperature(shown), title)

    def _temperature(self, shown):
        told = _temperatures(self.history.settings)
        if "temperature" in shown.frame and len(shown.frame):
            told = set(shown.frame["temperature"])
        if len(told) > 1:
            raise ValueError(f"runs of one figure must have one temperature, got {sorted(told)}: choose one")
        return told.pop()


def _temperatures(settings):
    """Those of the runs that a History is of; 5 for one that does not say it."""
    runs = settings.get("runs")
    return (
        set().union(*map(_temperatures, runs))
        if isinstance(runs, list) and runs
        else {settings.get("temperature", 5.0)}
    )
