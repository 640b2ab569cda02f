"""Unconstrained feature models (UFMs): the features of a network's last layer as free parameters, and their training.

The four sizes are those of the guiding paper (Section 4, "Unconstrained Feature Models").
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from numbers import Integral

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from . import checks, metrics
from .heads import HEADS
from .optim import AGD, agd_init_
from .training import History, provenance, sample_margins


@dataclass(frozen=True)
class UFM:
    """N free features of dimension d, in C classes of equal size (to one sample where C does not divide N).

    Raises ValueError for C < 2, d < C or N < C.
    """

    num_classes: int
    num_samples: int
    dim: int

    def __post_init__(self):
        checks.classes(self.num_classes, self.dim)
        if not isinstance(self.num_samples, int) or self.num_samples < self.num_classes:
            raise ValueError(f"num_samples must be at least num_classes={self.num_classes}, got {self.num_samples!r}")

    def targets(self):
        """Class labels, shape (N,), sorted."""
        return (torch.arange(self.num_samples) * self.num_classes) // self.num_samples

    def features(self, generator=None):
        """Features to start from, shape (N, d): orthogonal, at AGD's scale for an N×d layer (`optim.agd_init_`)."""
        return agd_init_(torch.empty(self.num_samples, self.dim), generator)


UFM_10 = UFM(10, 1000, 512)
UFM_100 = UFM(100, 5000, 1024)
UFM_200 = UFM(200, 5000, 1024)
UFM_1000 = UFM(1000, 10000, 1024)


def log_points(iterations, per_decade=16):
    """Iterations to log at: all of the first ones, then evenly on a logarithmic axis, and the last."""
    count = max(2, round(per_decade * math.log10(max(iterations, 1))) + 1)
    points = np.unique(np.round(np.geomspace(1, max(iterations, 1), count)).astype(int))
    return [0, *points[points <= iterations].tolist()]


class Trainer:
    """A UFM and a head in training, one run for each seed, all in one batch. `train_ufm` drives it; so can a widget.

    Arguments and errors as in `train_ufm`. Attributes: iteration (steps taken so far), head, features (S, N, d), targets (N,).
    """

    def __init__(self, spec, head="standard", seeds=(0,), temperature=5.0, delta=1e-3, gain=10.0, frame="canonical",
                 backprop_through_etf=True, device="cpu", alpha=None):
        checks.one_of("head", head, tuple(HEADS))
        if not isinstance(seeds, Iterable) or not (seeds := list(seeds)) or len(set(seeds)) < len(seeds) or any(
            not isinstance(s, Integral) for s in seeds
        ):
            raise ValueError(f"seeds must be one or more different integers, got {seeds!r}")
        self.spec, self.head_name, self.seeds, self.device = spec, head, [int(s) for s in seeds], device
        options = {"standard": {}, "fixed": {"frame": frame},
                   "implicit": {"frame": frame, "delta": delta, "alpha": alpha, "backprop_through_etf": backprop_through_etf}}[head]
        self.settings = {"spec": asdict(spec), "head": head, "seeds": self.seeds, "temperature": temperature, "gain": gain, **options}
        # Features first, then the head, from one generator a seed: all heads start a seed from the same features.
        generators = [torch.Generator().manual_seed(s) for s in self.seeds]
        features = torch.stack([spec.features(g) for g in generators])
        self.head = HEADS[head](spec.dim, spec.num_classes, temperature, generators=generators, **options).to(device)
        self.features = torch.nn.Parameter(features.to(device))
        self.targets = spec.targets().to(device)
        self._all_targets = self.targets.repeat(len(self.seeds))
        self.optimizer = AGD([self.features, *self.head.parameters()], gain=gain, batch_dims=1)
        self.iteration = 0
        self._rows, self._margins = [], None

    def step(self):
        """One step of AGD on the cross entropy of all samples."""
        logits = self.head(self.features, self.targets)
        loss = F.cross_entropy(logits.flatten(0, 1), self._all_targets, reduction="sum")
        self.optimizer.zero_grad()
        (loss / self.spec.num_samples).backward()  # a sum over seeds: no run sees another
        self.optimizer.step()
        self.head.after_step()
        self.iteration += 1

    @torch.no_grad()
    def present(self):
        """A copy of the head that has taken in the present features, and its logits (S, N, C).

        The next step will use these weights. A copy, because a forward pass moves an implicit head's state.
        """
        head = copy.deepcopy(self.head)
        return head, head(self.features, self.targets)

    @torch.no_grad()
    def measure(self):
        """Every measure of the present state as {name: (S,) array}, and the margin of every sample (S, N).

        Nothing moves (see `present`). Raises FloatingPointError when the loss is not finite.
        """
        targets, (head, logits) = self.targets, self.present()
        logits = logits.double()
        loss = F.cross_entropy(logits.mT, targets.expand(logits.shape[:-1]), reduction="none").mean(-1)
        if not torch.isfinite(loss).all():
            raise FloatingPointError(f"the loss of the {self.head_name} head is {loss.tolist()} at iteration "
                                     f"{self.iteration}, seeds {self.seeds}")
        h, weight = head.normalize(self.features).double(), head.weight
        means, global_mean = metrics.class_means(h, targets, self.spec.num_classes)
        margins = metrics.cosine_margins(weight, h, targets)
        values = {
            "loss": loss,
            "accuracy": (logits.argmax(-1) == targets).double().mean(-1),
            "nc1": metrics.nc1(h, targets),
            "nc2": metrics.nc2(weight),
            "nc3": metrics.nc3(weight, h, targets),
            "nc4": metrics.nc4(logits, h, targets),
            "equinorm_means": metrics.equinorm(means - global_mean.unsqueeze(-2)),
            "equinorm_weights": metrics.equinorm(weight),
            "cosine_margin": margins.mean(-1),
        }
        values = {name: value.expand(len(self.seeds)).cpu().numpy() for name, value in values.items()}
        return values, margins.cpu().numpy()

    def log(self):
        """Measure the present state and keep it as one row for each seed."""
        values, self._margins = self.measure()
        self._rows.append(pd.DataFrame({"head": self.head_name, "seed": self.seeds, "iteration": self.iteration, **values}))

    def history(self):
        """What was logged so far, as a History; the margins are those of the last log."""
        table = pd.concat(self._rows).sort_values(["seed", "iteration"], kind="stable")
        settings = {**self.settings, "iterations": self.iteration, **provenance(self.device)}
        return History(table, settings, sample_margins(self.head_name, self.seeds, self._margins))


def train_ufm(spec, head="standard", iterations=2000, seeds=(0,), temperature=5.0, delta=1e-3, gain=10.0,
              frame="canonical", backprop_through_etf=True, log_at=None, device="cpu", progress=False, alpha=None):
    """Train a UFM with cross entropy and AGD, all seeds in one batch, as in Section 4 of Markou et al. 2024.

    spec: a `UFM`. head: "standard", "fixed" or "implicit". delta, alpha and backprop_through_etf concern the implicit head,
        frame ("canonical" or "haar") the fixed and the implicit one. temperature: τ. gain: of AGD.
    log_at: iterations to measure at, iteration t being the state after t steps; `log_points(iterations)` when omitted.
    progress: a tqdm bar on stderr.

    Returns a `History` with columns head, seed, iteration, loss (mean cross entropy), accuracy (share of samples), nc1,
    nc2 (of the weights), nc3, nc4, equinorm_means, equinorm_weights, cosine_margin (mean over samples), and every
    sample's margin at the end. Features are measured as the head sees them, h = τ·z/‖z‖. A seed's rows do not depend on the
    seeds beside it, beyond rounding. Raises ValueError for bad settings, FloatingPointError when the loss is not finite.
    """
    if not isinstance(iterations, int) or iterations < 0:
        raise ValueError(f"iterations must be an integer of at least 0, got {iterations!r}")
    wanted = set(log_points(iterations) if log_at is None else log_at) | {iterations}
    if bad := [t for t in wanted if t not in range(iterations + 1)]:
        raise ValueError(f"log_at must hold iterations from 0 to {iterations}, got {sorted(bad)}")
    trainer = Trainer(spec, head, seeds, temperature, delta, gain, frame, backprop_through_etf, device, alpha)
    for t in tqdm(range(iterations + 1), desc=f"{head} head", disable=not progress, mininterval=0.5):
        if t in wanted:
            trainer.log()
        if t < iterations:
            trainer.step()
    return trainer.history()
