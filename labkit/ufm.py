"""Unconstrained feature models (UFMs): the features of a network's last layer as free parameters, and their training.

The four sizes are those of the guiding paper (Section 4, "Unconstrained Feature Models").
"""

import copy
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from labkit import checks, heads, metrics
from labkit.history import History, provenance, sample_margins
from labkit.optim import AGD, agd_init_


@dataclass(frozen=True)
class UFM:
    """N free features of dimension d, in C classes of equal size (to one sample where C does not divide N).

    imbalance: r ≥ 1 makes class sizes fall exponentially, n_c ∝ r^(−c/(C−1)), so that the first class is r times as
        large as the last. Each size is a whole number within one of that rule, and they add up to N.

    Raises ValueError for C < 2, N < C, r < 1, or so few samples that the last class would have less than one. Whether d
    dimensions are enough is for the head to say: those of a simplex ETF need C−1.

    >>> UFM(4, 40, 16, imbalance=8).class_sizes()
    tensor([21, 11,  5,  3])
    """

    num_classes: int
    num_samples: int
    dim: int
    imbalance: float = 1.0

    def __post_init__(self):
        checks.classes(self.num_classes, self.dim, smallest_dim=1)
        if not isinstance(self.num_samples, Integral) or self.num_samples < self.num_classes:
            raise ValueError(f"num_samples must be at least num_classes={self.num_classes}, got {self.num_samples!r}")
        checks.positive("imbalance", self.imbalance)
        if self.imbalance < 1:
            raise ValueError(f"imbalance is largest class over smallest, at least 1, got {self.imbalance!r}")
        if self.num_samples < (needed := self._shape().sum() - 1e-9):
            raise ValueError(
                f"imbalance={self.imbalance!r} with num_classes={self.num_classes} needs num_samples of at least "
                f"{math.ceil(needed)}, got {self.num_samples!r}"
            )

    def _shape(self):
        """What class sizes are proportional to, (C,); the last is 1."""
        return self.imbalance ** torch.linspace(1, 0, self.num_classes, dtype=torch.float64)

    def class_sizes(self):
        """Number of samples in each class, shape (C,)."""
        return torch.bincount(self.targets(), minlength=self.num_classes)

    def targets(self):
        """Class labels, shape (N,), sorted."""
        if self.imbalance == 1:
            return (torch.arange(self.num_samples) * self.num_classes) // self.num_samples
        exact = self._shape() * self.num_samples / self._shape().sum()
        sizes = (exact + 1e-9).floor().long()
        left = self.num_samples - int(sizes.sum())
        sizes[(sizes - exact).argsort(stable=True)[:left]] += 1  # the largest remainders round up
        return torch.arange(self.num_classes).repeat_interleave(sizes)

    def features(self, generator: torch.Generator | None = None):
        """Features to start from, shape (N, d): orthogonal, at AGD's scale for an N×d layer (`optim.agd_init_`)."""
        return agd_init_(torch.empty(self.num_samples, self.dim), generator)


UFM_10 = UFM(10, 1000, 512)
UFM_100 = UFM(100, 5000, 1024)
UFM_200 = UFM(200, 5000, 1024)
UFM_1000 = UFM(1000, 10000, 1024)


def classes_of(size: str):
    """C from a model's name, "UFM-100" or "UFM-20-1000x80": 100, 20.

    >>> classes_of("UFM-100")
    100
    """
    return int(size.split("-")[1])


def log_points(iterations: int, per_decade: int = 10):
    """Iterations to log at: all of the first ones, then evenly on a logarithmic axis, and the last.

    >>> log_points(5)
    [0, 1, 2, 3, 4, 5]
    """
    count = max(2, round(per_decade * math.log10(max(iterations, 1))) + 1)
    points = np.unique(np.round(np.geomspace(1, max(iterations, 1), count)).astype(int))
    return [0, *points[points <= iterations].tolist()]


class Trainer:
    """A UFM and a head in training, one run for each seed, all in one batch. `train_ufm` drives it; so can a widget.

    Arguments and errors as in `train_ufm`. Attributes: iteration (steps taken so far), head, features (S, N, d),
    targets (N,). AGD takes the N×d features for one layer whatever the batch. A sample outside the batch has a gradient
    of zero, and as AGD keeps no momentum it stands still; the step, as long as for the whole matrix, falls to the rest.

    >>> trainer = Trainer(UFM(3, 12, 4), "fixed")
    >>> trainer.step()
    >>> trainer.iteration, tuple(trainer.features.shape)
    (1, (1, 12, 4))
    """

    def __init__(
        self,
        spec: "UFM",
        head: str = "standard",
        seeds: Iterable[int] = (0,),
        temperature: float = 5.0,
        gain: float = 10.0,
        device: torch.device | str = "cpu",
        batch_size: int | None = None,
        **options: Any,
    ):
        options = heads.options_of(head, **options)
        if (
            not isinstance(seeds, Iterable)
            or not (seeds := list(seeds))
            or len(set(seeds)) < len(seeds)
            or any(not isinstance(s, Integral) for s in seeds)
        ):
            raise ValueError(f"seeds must be one or more different integers, got {seeds!r}")
        n = spec.num_samples
        if batch_size is not None and batch_size not in range(1, n + 1):
            raise ValueError(f"batch_size must be None or an integer from 1 to num_samples={n}, got {batch_size!r}")
        self.spec, self.head_name, self.seeds, self.device = spec, head, [int(s) for s in seeds], device
        self.settings = {
            "spec": asdict(spec),
            "head": head,
            "seeds": self.seeds,
            "temperature": temperature,
            "gain": gain,
            "batch_size": batch_size,
            **{key: value.item() if isinstance(value, np.generic) else value for key, value in options.items()},
        }
        # Features first, then the head, then batches, from one generator a seed: heads start from the same features.
        generators = [torch.Generator().manual_seed(s) for s in self.seeds]
        features = torch.stack([spec.features(g) for g in generators])
        made = heads.make(head, spec.dim, spec.num_classes, temperature, generators=generators, **options)
        self.head = made.to(device)
        self.features = torch.nn.Parameter(features.to(device))
        self.targets = spec.targets().to(device)
        self.batch_size, self._generators, self._rows_of_batch = batch_size, generators, None
        self.optimizer = AGD([self.features, *self.head.parameters()], gain=gain, batch_dims=1)
        self.iteration, self._rows, self._margins = 0, [], None

    def batch(self):
        """What the next step will see: features (S, B, d), a part of the parameter, and targets (S, B)."""
        n, S = self.spec.num_samples, len(self.seeds)
        if self.batch_size is None:
            return self.features, self.targets.expand(S, n)
        if self._rows_of_batch is None:  # (S, B), without repeats; each seed's from its own generator
            drawn = [torch.randperm(n, generator=g)[: self.batch_size] for g in self._generators]
            self._rows_of_batch = torch.stack(drawn)
        rows = self._rows_of_batch.to(self.device)
        numbered = rows + n * torch.arange(S, device=self.device).unsqueeze(-1)
        features = self.features.flatten(0, 1).index_select(0, numbered.flatten())
        return features.unflatten(0, (S, -1)), self.targets[rows]

    def step(self):
        """One step of AGD on the cross entropy of all samples, or of a random batch of them."""
        features, targets = self.batch()
        self.optimizer.zero_grad()  # before the head takes memory
        logits = self.head(features, targets)
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
        (loss / targets.shape[-1]).backward()  # a sum over seeds: no run sees another
        self.optimizer.step()
        self._rows_of_batch = None
        self.iteration += 1

    @torch.no_grad()
    def present(self):
        """A copy of the head that has taken in the present features, and its logits (S, N, C); always of all samples.

        The next full-batch step will use these weights. A copy, because a forward pass moves an implicit head's state.
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
            where = f"at iteration {self.iteration}, seeds {self.seeds}"
            raise FloatingPointError(f"the loss of the {self.head_name} head is {loss.tolist()} {where}")
        h, weight = head.normalize(self.features).double(), head.weight
        means, global_mean = both = metrics.class_means(h, targets, self.spec.num_classes)
        margins = metrics.cosine_margins(weight, h, targets, both)
        values = {
            "loss": loss,
            "accuracy": (logits.argmax(-1) == targets).double().mean(-1),
            "nc1": metrics.nc1(h, targets, means=both),
            "nc2": metrics.nc2(weight),
            "nc3": metrics.nc3(weight, h, targets, both),
            "nc4": metrics.nc4(logits, h, targets, both),
            "equinorm_means": metrics.equinorm(means - global_mean.unsqueeze(-2)),
            "equinorm_weights": metrics.equinorm(weight),
            "cosine_margin": margins.mean(-1),
        }
        values = {name: value.expand(len(self.seeds)).cpu().numpy() for name, value in values.items()}
        return values, margins.cpu().numpy()

    def log(self):
        """Measure the present state and keep it as one row for each seed."""
        values, self._margins = self.measure()
        names = {"head": self.head_name, "seed": self.seeds, "iteration": self.iteration}
        self._rows.append(pd.DataFrame(names | values))

    def history(self):
        """What was logged so far, as a History; the margins are those of the last log."""
        table = pd.concat(self._rows).sort_values(["seed", "iteration"], kind="stable")
        settings = {**self.settings, "iterations": self.iteration, **provenance(self.device)}
        return History(table, settings, sample_margins(self.head_name, self.seeds, self._margins))


def train_ufm(
    spec: "UFM",
    head: str = "standard",
    iterations: int = 2000,
    seeds: Iterable[int] = (0,),
    temperature: float = 5.0,
    gain: float = 10.0,
    log_at: Iterable[int] | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
    batch_size: int | None = None,
    **options: Any,
):
    """Train a UFM with cross entropy and AGD, all seeds in one batch, as in Section 4 of Markou et al. 2024.

    spec: a `UFM`. head: a name in `heads.VARIANTS`; options: of that head, such as delta=1e-2 for "implicit".
    temperature: τ. gain: of AGD. progress: a tqdm bar on stderr.
    log_at: iterations to measure at, iteration t being the state after t steps; `log_points(iterations)` when omitted.
    batch_size: samples in a step, drawn without repeats and anew each time from the seed's own generator; all when
        None. With batches too, measures are of all samples, with the classifier that a step on all samples would use.

    Returns a `History` with columns head, seed, iteration, loss (mean cross entropy), accuracy (share of samples), nc1,
    nc2 (of the weights), nc3, nc4, equinorm_means, equinorm_weights, cosine_margin (mean over samples), and every
    sample's margin at the end. Features are measured as the head sees them, h = τ·z/‖z‖, and the global mean is that of
    the samples, which with imbalanced classes is not the mean of the class means. A seed's rows do not depend on the
    seeds beside it, beyond rounding. The settings hold seconds_per_step, without the measuring. Raises ValueError for
    bad settings, an option that the head does not have among them, and FloatingPointError when the loss is not finite.

    >>> train_ufm(UFM(4, 40, 16), "implicit", iterations=20, delta=1e-2).final()["accuracy"].item()
    1.0
    """
    iterations = checks.integer("iterations", iterations, 0)
    wanted = set(log_points(iterations) if log_at is None else log_at) | {iterations}
    if bad := [t for t in wanted if t not in range(iterations + 1)]:
        raise ValueError(f"log_at must hold iterations from 0 to {iterations}, got {sorted(bad)}")
    trainer = Trainer(spec, head, seeds, temperature, gain, device, batch_size, **options)
    stepping, start = 0.0, time.perf_counter()
    for t in tqdm(range(iterations + 1), desc=f"{head} head", disable=not progress, mininterval=0.5):
        if t in wanted:
            if trainer.features.device.type != "cpu":
                torch.accelerator.synchronize()
            stepping += time.perf_counter() - start
            trainer.log()
            start = time.perf_counter()
        if t < iterations:
            trainer.step()
    history = trainer.history()
    history.settings["seconds_per_step"] = round(stepping / max(iterations, 1), 6)
    return history
