"""Tables 1 and 2 of Markou et al. 2024, and our own runs of `labkit.vision` beside them; never mixed.

ours = load("data/results/cifar10-resnet18")       finished runs, as `make evidence` or labkit.vision leave them
beside(printed(2), ours, "test_accuracy")          the rows of the table of which we have runs
"""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from labkit.heads import VARIANTS
from labkit.history import History, differences, plain
from labkit.studies import rates
from labkit.vision import fields, recipes

DATA = {
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "STL10": "stl10",
    "ImageNet": "imagenet",
}  # as printed, and in labkit
NETWORKS = {"ResNet18": "resnet18", "ResNet50": "resnet50", "VGG13": "vgg13"}
MEASURES = {1: "accuracy", 2: "test_accuracy"}  # of the two tables
ROW = ["dataset", "network", "epoch"]
SAME = ("images", "classes")  # beside the recipe, what all runs of one experiment share
LOST = "lost in our copy"
LARGER_IS_AHEAD = {"accuracy": True, "nc1": False, "nc3": False, "test_accuracy": True}  # what `verdict` asks of


# --- what is printed ---


def printed(number: int, folder: str | Path = "data/paper") -> pd.DataFrame:
    """Table 1 (training accuracy) or 2 (test accuracy), in percent: columns dataset, network, epoch, head, median, low,
    high.
    """
    return pd.read_csv(Path(folder) / f"guiding-table{number}.csv")


def compare(table: pd.DataFrame) -> pd.DataFrame:
    """What a printed table says about the implicit head: one row for each dataset, network and epoch.

    highest: the head or heads with the highest median, joined by " = "; lead: the implicit median minus the best other
    one, in points; narrowest: the head or heads with the smallest range; apart: whether the implicit range lies wholly
    above all others; heads: how many have numbers. Widths of ranges are compared as printed, to a tenth of a point.
    """
    rows = []
    for key, group in table.groupby(ROW, sort=False):
        group = group.dropna().set_index("head")
        width, others = (group["high"] - group["low"]).round(1), group.drop(index="implicit")
        rows.append(
            (
                *key,
                _where(group["median"], group["median"].max()),
                round(group.loc["implicit", "median"] - others["median"].max(), 2),
                _where(width, width.min()),
                bool(group.loc["implicit", "low"] > others["high"].max()),
                len(group),
            )
        )
    return pd.DataFrame(rows, columns=[*ROW, "highest", "lead", "narrowest", "apart", "heads"])


def _where(values, value):
    return " = ".join(values.index[values == value])


def commands(table: pd.DataFrame, folder: str | Path = "runs") -> list[str]:
    """The command lines whose runs fill a printed table: one for each dataset and network, with three heads and five
    seeds.
    """
    lines = []
    for dataset, network in table[ROW[:2]].drop_duplicates().itertuples(index=False):
        fetch = "" if dataset == "ImageNet" else " --download"  # which torchvision cannot fetch
        lines.append(
            f"python -m labkit.vision --recipe guiding/{DATA[dataset]} --backbone {NETWORKS[network]} "
            f"--folder {folder}{fetch}"
        )
    return lines


# --- our runs ---


def load(folder: str | Path) -> dict[tuple[str, str], History]:
    """The finished runs in a folder and the folders under it, joined by set and backbone: {(data, backbone): History}.

    Runs that are not finished are left out; no folder, or an empty one, gives {}. The settings of a joined History are
    those that its runs share, without head and seed, and "runs", how many there are.
    Raises ValueError, naming the files, for a damaged or foreign one, where runs of one set and backbone differ in more
    than head, seed and how fast and how often they were measured (fields.HOW), and where two have head and seed in
    common: one seed would count as two.
    """
    groups = {}
    for path in sorted(Path(folder).rglob("*.parquet")):
        history = History.load(path)
        if "run" not in history.settings:
            raise ValueError(f"{path} is not of a run of labkit.vision: its settings have no 'run'")
        run = history.settings["run"]
        if history.frame["iteration"].max() == run["epochs"]:
            groups.setdefault((run["data"], run["backbone"]), []).append((path, history))
    return {key: _together(found) for key, found in groups.items()}


def _together(found):
    first_path, shared, paths = found[0][0], _shared(found[0][1]), {}
    for path, run in found:
        if (other := _shared(run)) != shared:
            raise ValueError(
                f"{path} and {first_path} are of one set and backbone, but not of one experiment: "
                f"{differences(shared, other)}"
            )
        head, seed = run.settings["run"]["head"], run.settings["run"]["seed"]
        if (twice := paths.setdefault((head, seed), path)) != path:
            raise ValueError(f"{path} and {twice} are both of the head {head!r} and seed {seed}; keep one of them")
    joined = History.concat(run for _, run in found)
    return History(joined.frame, shared | {"runs": len(found)}, joined.margins)


def _shared(history):
    """What all runs of one experiment have in common."""
    own = {"head", "seed", *fields.HOW}
    run = {key: value for key, value in history.settings["run"].items() if key not in own}
    return {"run": run, **{key: history.settings[key] for key in SAME}}


def beside(table: pd.DataFrame, histories: Mapping[tuple[str, str], History], measure: str) -> pd.DataFrame:
    """The rows of a printed table of which we have runs, and what ours had at that epoch: a table of text.

    histories: as from `load`. measure: "accuracy" (for Table 1) or "test_accuracy" (for Table 2).
    Columns dataset, network, epoch, head, paper and ours as "median (low–high)" in percent, seeds (of ours), images
    (what ours were trained on). Runs count only if they had the settings of the paper's recipe, but for fields.HOW,
    and for fewer epochs: without a schedule, epoch 50 of a run does not know how many follow.
    """
    ours = our_rows(table, histories, measure)
    ours = ours[ours["seeds"] > 0]
    table = table.loc[ours.index]
    paper = [LOST if np.isnan(r.median) else _text(r.median, r.low, r.high) for r in table.itertuples()]
    mine = [_text(r.median, r.low, r.high) for r in ours.itertuples()]
    return table[[*ROW, "head"]].assign(paper=paper, ours=mine, seeds=ours["seeds"], images=ours["images"])


def our_rows(table: pd.DataFrame, histories: Mapping[tuple[str, str], History], measure: str) -> pd.DataFrame:
    """Our runs in the form of a printed table, in percent, with seeds and images; NaN where there are none."""
    rows = []
    for dataset, network, epoch, head in table[[*ROW, "head"]].itertuples(index=False):
        key = (DATA[dataset], NETWORKS[network])
        values, images, history = pd.Series(dtype=float), "", histories.get(key)
        if history is not None and _of_the_paper(history, *key):
            frame, images = history.frame, history.settings["images"]
            values = 100 * frame.loc[(frame["head"] == head) & (frame["iteration"] == epoch), measure]
        rows.append((dataset, network, epoch, head, values.median(), values.min(), values.max(), len(values), images))
    return pd.DataFrame(rows, columns=[*ROW, "head", "median", "low", "high", "seeds", "images"], index=table.index)


def verdict(history: History, epoch: int) -> pd.DataFrame:
    """Whether the implicit head is ahead of all others at an epoch, by the ranges over seeds: a row for each measure,
    with the median and range of each head, as text, and a verdict.

    "ahead" where its whole range lies beyond all others', on the side that is good; "behind" where another head's lies
    beyond its own; else, and where a number is missing, "cannot be told". Columns: the heads in the order of the
    History, and verdict. Raises ValueError where the heads were not run at the same seeds, or only one, at that epoch.
    """
    at = history.frame[history.frame["iteration"] == epoch]
    seeds = at.groupby("head", sort=False)["seed"].agg(lambda found: tuple(sorted(found)))
    if len(seeds) < 2 or "implicit" not in seeds or seeds.nunique() > 1:
        raise ValueError(f"the implicit head and another one are needed, at the same seeds; got {seeds.to_dict()}")
    rows = {}
    for measure, larger in LARGER_IS_AHEAD.items():
        wide = at.pivot(index="seed", columns="head", values=measure)[list(seeds.index)]
        found = pd.DataFrame({name: getattr(wide, name)(skipna=False) for name in ("median", "min", "max")})
        rows[measure] = {head: f"{median:.4g} ({low:.4g}–{high:.4g})" for head, median, low, high in found.itertuples()}
        worst, best = (found["min"], found["max"]) if larger else (-found["max"], -found["min"])
        own, others = "implicit", seeds.index.drop("implicit")
        ahead, behind = worst[own] > best[others].max(skipna=False), best[own] < worst[others].max(skipna=False)
        rows[measure]["verdict"] = "ahead" if ahead else "behind" if behind else "cannot be told"
    return pd.DataFrame(rows).T


def one_more(own: History, changed: History, epoch: int) -> pd.DataFrame:
    """Whether runs with a changed head end where one more run of their own head would, at an epoch.

    own: the main heads, over seeds; changed: heads of `heads.VARIANTS` that are one of these with an option changed, a
    run each. A run is within the seeds where it lies in the 95 % prediction interval of one more, by Student's t; that
    of NC1 and NC3 is taken in logarithms. A row for each changed head and measure: head, its own head, measure, value,
    low and high (of the interval), and found: "within", "below", "above", or "not known" where one of these is NaN. Of
    20 runs that differ in nothing one is outside. Raises ValueError where the runs are not of one experiment, or a
    head has fewer than two seeds of its own.
    """
    if (there := _shared(own)) != (here := _shared(changed)):
        raise ValueError(f"the runs are not of one experiment: {differences(there, here)}")
    rows = []
    for run in changed.frame[changed.frame["iteration"] == epoch].itertuples():
        head = VARIANTS[run.head].head
        seeds = own.where(head=head).frame.query("iteration == @epoch")
        for measure in LARGER_IS_AHEAD:
            there, back = (np.log, np.exp) if measure.startswith("nc") else (np.asarray, float)
            low, high = (back(end) for end in rates.prediction(there(seeds[measure])))
            value = getattr(run, measure)
            known = np.isfinite([low, value, high]).all()
            found = "below" if value < low else "above" if value > high else "within" if known else "not known"
            rows.append((run.head, head, measure, value, low, high, found))
    return pd.DataFrame(rows, columns=["head", "own", "measure", "value", "low", "high", "found"])


def _of_the_paper(history, data, backbone):
    """Whether runs had the settings of the paper's recipe, but for the backbone and for how long they went on."""
    recipe = plain(recipes.RECIPES[f"guiding/{data}"]) | {"backbone": backbone}
    run = history.settings["run"]
    return all(run[key] == recipe[key] for key in run if key != "epochs") and run["epochs"] <= recipe["epochs"]


def _text(median, low, high):
    return f"{median:.2f} ({low:.1f}–{high:.1f})"


# --- what a head costs ---


def costs(
    backbone: nn.Module, heads: Mapping[str, nn.Module], images: torch.Tensor, labels: torch.Tensor, repeats: int = 5
) -> pd.DataFrame:
    """Milliseconds of the forward and of the backward pass of the backbone and of each head, each part by itself.

    heads: {name: head} for the features of the backbone, with cross entropy. The parts take turns, so that a slow
    moment of the machine meets all of them; the first turn is not counted. Of the others counts the one that took the
    least, which other programs disturbed least. Training mode, on the device of the images. Columns forward and
    backward, a row for each part, "backbone" first.
    """
    features = backbone.train()(images).detach()
    made_up = torch.randn_like(features)  # any gradient will do to go through the backbone

    def loss(head):
        return F.cross_entropy(head.train()(features.clone().requires_grad_(), labels), labels)

    forward = {"backbone": lambda: backbone(images)} | {name: partial(loss, head) for name, head in heads.items()}
    taken = {part: [] for part in forward}
    for turn in range(repeats + 1):
        for part, passes in forward.items():
            times = [_now(images.device)]
            found = passes()
            times.append(_now(images.device))
            found.backward(made_up if part == "backbone" else None)
            times.append(_now(images.device))
            if turn:
                taken[part].append(1000 * np.diff(times))
    return pd.DataFrame({part: min(times, key=sum) for part, times in taken.items()}, index=["forward", "backward"]).T


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize()  # a GPU's work goes on after the call
    return time.perf_counter()
