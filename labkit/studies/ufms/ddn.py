"""How much of the gradient goes through the ETF, and whether training without that part differs.

The features reach the loss of the implicit head on two paths (Figure 1, Markou et al. 2024): directly, and through U*,
the frame of the nearest simplex ETF. The paper calls the second the gradient of the DDN layer (deep declarative node).
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from labkit import etf
from labkit.heads import ImplicitETFHead
from labkit.history import History, Store, plain
from labkit.studies import ROUNDING, in_name
from labkit.ufm import UFM, Trainer, log_points

WITH, WITHOUT = "implicit_with_ddn", "implicit_without_ddn"  # as in data/paper/guiding-table3.csv


@dataclass
class Influence:
    """The gradient of the mean cross entropy with respect to the features, in its two parts, and the sizes of these.

    direct, indirect: (…, N, d); the first takes U* as a constant, the two add up to the whole. through_frame: ∂L/∂U at
        U*,
    (…, d, C). Shape (…): ratio, ‖indirect‖/‖direct‖; cosine between the two; tangent_share, the norm of the part of
    ∂L/∂U tangent to the orthonormal frames over that of all of it. Where there is no gradient at all they are NaN.
    """

    direct: torch.Tensor
    indirect: torch.Tensor
    through_frame: torch.Tensor
    ratio: torch.Tensor
    cosine: torch.Tensor
    tangent_share: torch.Tensor


def influence(head: ImplicitETFHead, features: torch.Tensor, targets: torch.Tensor) -> Influence:
    """What a training step of an `ImplicitETFHead` would send back to features (…, N, d) on each path, as an
    `Influence`.

    targets: (…, N) or (N,). Works in float64 on copies: the head does not move, and its `backprop_through_etf` plays no
        role.
    The weight α_t of the batch in the running means is part of the indirect path; a fresh head has α = 1. Raises
    TypeError for another kind of head.
    """
    if not isinstance(head, ImplicitETFHead):
        raise TypeError(f"only an ImplicitETFHead has a gradient through its ETF, got {type(head).__name__}")
    features = features.detach().double()
    gradients = {}
    for through in (True, False):
        moved = copy.deepcopy(head).double().train()
        moved.backprop_through_etf = through
        z = features.clone().requires_grad_()
        (gradients[through],) = torch.autograd.grad(_loss(moved(z, targets), targets), z)
    direct, indirect = gradients[False], gradients[True] - gradients[False]

    # ∂L/∂U, features and their mean held constant; `moved` has taken them in
    u = moved.frame.clone().requires_grad_()
    h = moved.normalize(features)
    weight = etf.simplex_etf(head.num_classes, frame=u)
    centred = h if head.bias is None else h - h.mean(-2, keepdim=True)
    (y,) = torch.autograd.grad(_loss(centred @ weight, targets), u)
    u = u.detach()
    tangent = y - u @ (u.mT @ y + y.mT @ u) / 2

    size = torch.linalg.matrix_norm
    inner = (direct * indirect).sum((-2, -1))
    cosine = inner / (size(direct) * size(indirect))
    return Influence(direct, indirect, y, size(indirect) / size(direct), cosine, size(tangent) / size(y))


def _loss(logits, targets):
    """Mean cross entropy of each run, summed over runs: no run sees another."""
    targets = targets.expand(logits.shape[:-1])
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum") / targets.shape[-1]


def train_both(
    spec: UFM,
    iterations: int,
    seeds: Sequence[int] = (0,),
    batch_size: int | None = None,
    alpha: float | None = None,
    log_at: Iterable[int] | None = None,
    progress: bool = False,
) -> History:
    """Train a UFM with the implicit head twice, with the gradient through the ETF and without: a `History` of both.

    Both start a seed from the same features and see the same batches. Column head says which is which (`WITH`,
    `WITHOUT`).
    Beside the measures of `train_ufm`, of all samples, there are ratio, cosine and tangent_share of what the next step
    sees
    (its batch, its α_t), and tail_accuracy, that of the last class, which with imbalance is the smallest.
    """
    log_at = set(log_points(iterations, per_decade=8) if log_at is None else log_at) | {iterations}
    histories = []
    for name in (WITH, WITHOUT):
        trainer = Trainer(
            spec, "implicit", seeds, backprop_through_etf=name == WITH, batch_size=batch_size, alpha=alpha
        )
        rows = []
        for t in tqdm(range(iterations + 1), desc=name, disable=not progress, mininterval=1, leave=False):
            if t in log_at:
                trainer.log()
                found = influence(trainer.head, *trainer.batch())
                _, logits = trainer.present()
                tail = trainer.targets == spec.num_classes - 1
                right = (logits[:, tail].argmax(-1) == spec.num_classes - 1).double().mean(-1)
                rows.append(
                    pd.DataFrame(
                        {
                            "seed": trainer.seeds,
                            "iteration": t,
                            "ratio": found.ratio,
                            "cosine": found.cosine,
                            "tangent_share": found.tangent_share,
                            "tail_accuracy": right,
                        }
                    )
                )
            if t < iterations:
                trainer.step()
        history = trainer.history()
        history.frame = history.frame.merge(pd.concat(rows), on=["seed", "iteration"]).assign(head=name)
        history.margins["head"] = name
        histories.append(history)
    return History.concat(histories)


# The study: (spec, batch size, α). UFM-10, from balanced to long-tailed, with full and small batches; and few samples
# in few dimensions.
STUDY = [(UFM(10, 1000, 512, r), b, a) for b in (50, None) for r in (1.0, 10.0, 100.0) for a in (1.0, 0.1, None)]
STUDY += [(UFM(10, 60, 16, r), b, a) for b in (12, None) for r in (1.0, 10.0) for a in (1.0, None)]


class Runs(Store):
    """The store of the study. Settings of a run: spec, batch_size, alpha, iterations, seeds."""

    always = ("num_samples", "dim", "imbalance", "batch_size", "alpha")

    def name(self, settings: dict) -> str:
        """As short as it can be: what is the same in all of STUDY is left out."""
        spec, usual = settings["spec"], {"num_classes": 10, "iterations": 2000, "seeds": [0, 1, 2, 3, 4]}
        parts = {
            "imbalance": in_name(spec["imbalance"]),
            "batch": settings["batch_size"] or "all",
            "alpha": settings["alpha"] or "schedule",
        }
        for key, value in {**settings, "num_classes": spec["num_classes"]}.items():
            if key in usual and value != usual[key]:
                parts[key] = "-".join(map(str, value)) if key == "seeds" else value
        return "-".join([f"{spec['num_samples']}x{spec['dim']}", *(f"{key}-{value}" for key, value in parts.items())])

    def settings_of(self, history: History) -> dict:
        """Taken from the two trainings, so that runs of any age have them."""
        first = history.settings["runs"][0]
        return {key: first[key] for key in ("spec", "batch_size", "alpha", "iterations", "seeds")}

    def columns(self, settings: dict) -> dict:
        """A full batch has batch_size = num_samples; alpha is 0 where it follows the paper's schedule."""
        spec = settings["spec"]
        return {key: spec[key] for key in ("num_classes", "num_samples", "dim", "imbalance")} | {
            "batch_size": settings["batch_size"] or spec["num_samples"],
            "alpha": settings["alpha"] or 0.0,
            "iterations": settings["iterations"],
        }


def study(
    folder: str | Path,
    settings: Iterable[tuple] = STUDY,
    iterations: int = 2000,
    seeds: Iterable[int] = range(5),
    progress: bool = False,
) -> None:
    """`train_both` for each setting (spec, batch size, α), one small file each in `folder`.

    A run whose file was made with the same settings, iterations and seeds among them, is not made again.
    """
    store, settings = Runs(folder), list(settings)
    for k, (spec, batch_size, alpha) in enumerate(settings):
        run = plain(dict(spec=spec, batch_size=batch_size, alpha=alpha, iterations=iterations, seeds=list(seeds)))
        if store.get(run):
            continue
        if progress:
            print(f"{k + 1} of {len(settings)}: {store.name(run)}", flush=True)
        history = train_both(spec, iterations, run["seeds"], batch_size, alpha, progress=progress)
        history.margins["margin"] = history.margins["margin"].astype(float).round(5)  # compresses to a third
        store.put(run, history)


def load_study(folder: str | Path) -> pd.DataFrame:
    """All runs of a study as one table: the columns of `train_both`, and num_samples, dim, imbalance, batch_size,
    alpha (see `Runs.columns`).

    Raises FileNotFoundError for a folder without results.
    """
    return Runs(folder).load().frame


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Does training end better with the gradient through the ETF? One row for each setting of a study.

    table: of `load_study`. At the last iteration, paired by seed: percent is the loss with it over that without it,
    less one, in percent (median, low and high); better, worse and tie count the seeds in which the loss is lower with
    it, higher, or different by rounding (`labkit.studies.ROUNDING`); nc1 is the median of NC1 with it over NC1 without
    it, tail the median difference of the accuracy of the last class. verdict: "better" or "worse" where every seed
    says so, "tie" where all are ties, "cannot be told" where a loss is missing, else "either way".
    """
    keys = ["num_samples", "dim", "imbalance", "batch_size", "alpha"]
    last = table[table["iteration"] == table.groupby(keys)["iteration"].transform("max")]
    rows = []
    for key, runs in last.groupby(keys, sort=False):
        wide = runs.pivot(index="seed", columns="head", values=["loss", "nc1", "tail_accuracy"])
        loss, nc1, tail = wide["loss"], wide["nc1"], wide["tail_accuracy"]
        gap = loss[WITH] / loss[WITHOUT] - 1
        tie = gap.abs() <= ROUNDING["loss"]
        better, worse = int(((gap < 0) & ~tie).sum()), int(((gap > 0) & ~tie).sum())
        words = {(len(gap), 0): "better", (0, len(gap)): "worse", (0, 0): "tie"}
        word = "cannot be told" if gap.isna().any() else words.get((better, worse), "either way")
        rows.append(
            dict(zip(keys, key))
            | dict(seeds=len(gap), percent=100 * gap.median(), low=100 * gap.min(), high=100 * gap.max())
            | dict(better=better, worse=worse, tie=int(tie.sum()), nc1=(nc1[WITH] / nc1[WITHOUT]).median())
            | dict(tail=(tail[WITH] - tail[WITHOUT]).median(), verdict=word)
        )
    found = pd.DataFrame(rows)
    return found.sort_values([*keys[:2], "batch_size", "imbalance", "alpha"], ignore_index=True)


def shown(found: pd.DataFrame) -> pd.DataFrame:
    """The table of `ends` as documents show it, in words."""
    number = lambda x, digits: f"{x:.{digits}f}".replace("-0." + "0" * digits, "0." + "0" * digits).replace("-", "−")
    return pd.DataFrame(
        {
            "model": [f"10 classes, N = {n}, d = {d}" for n, d in zip(found["num_samples"], found["dim"])],
            "batch": ["all" if b == n else str(b) for b, n in zip(found["batch_size"], found["num_samples"])],
            "imbalance": found["imbalance"].map("{:g}".format),
            "α": found["alpha"].map(lambda a: f"{a:g}" if a else "schedule"),
            "loss with it over without it, %": [
                f"{number(m, 3)} ({number(a, 3)} to {number(b, 3)})"
                for m, a, b in zip(found["percent"], found["low"], found["high"])
            ],
            "seeds better / worse / tie": [
                f"{b} / {w} / {t}" for b, w, t in zip(found["better"], found["worse"], found["tie"])
            ],
            "NC1 ratio": found["nc1"].map("{:.2g}".format),
            "ends": found["verdict"],
        }
    )
