"""Tables 1 and 2 of Markou et al. 2024, and our own runs of `labkit.vision` beside them; never mixed.

python -m labkit.studies.tables runs        finished runs, wherever they were made, to
data/results/images/<data>-<backbone>.parquet
beside(printed(2), load("data/results/images"), "test_accuracy")        the table, with "not run yet" where there is no
file
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from labkit.history import MARGIN_COLUMNS, History
from labkit.vision import recipes, trainer

DATA = {
    "CIFAR10": "cifar10",
    "CIFAR100": "cifar100",
    "STL10": "stl10",
    "ImageNet": "imagenet",
}  # as printed, and in labkit
NETWORKS = {"ResNet18": "resnet18", "ResNet50": "resnet50", "VGG13": "vgg13"}
MEASURES = {1: "accuracy", 2: "test_accuracy"}  # of the two tables
ROW = ["dataset", "network", "epoch"]
SAME = ("run", "images", "classes")  # settings that all runs of a file share
RANKS = 1001  # margins kept of a run: the sorted ones, from the smallest to the largest, at evenly spaced ranks
NOT_RUN, OTHER, LOST = "not run yet", "other settings", "lost in our copy"


# --- what is printed ---


def printed(number, folder="data/paper"):
    """Table 1 (training accuracy) or 2 (test accuracy), in percent: columns dataset, network, epoch, head, median, low,
    high.
    """
    return pd.read_csv(Path(folder) / f"guiding-table{number}.csv")


def compare(table):
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


def commands(table, folder="runs"):
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


def collect(folder, out):
    """Gather the finished runs of `labkit.vision` under `folder` into one History for each set and backbone, in
    out/<data>-<backbone>.parquet.

    Runs that such a file has already, of other heads or seeds, stay in it. Of the margins, RANKS are kept of each run,
    sorted, so that a file stays small. Its settings hold "run" (those of the loop), "images" (their title), "classes"
    (their number) and "runs" (the rest, of each run).

    Returns the paths written, and {folder of a run: why it was left out}. Raises ValueError where runs that belong into
    one file had other settings or images.
    """
    groups, left_out = {}, {}
    for path in sorted(Path(folder).glob(f"*/{trainer.HISTORY}")):
        try:
            history = History.load(path)
        except ValueError as error:  # damaged, or foreign
            left_out[path.parent.name] = str(error)
            continue
        if "run" not in history.settings:
            raise ValueError(f"{path} is not of a run of labkit.vision: its settings have no 'run'")
        done, wanted = history.frame["iteration"].max(), history.settings["epochs"]
        if done < wanted:
            left_out[path.parent.name] = f"{done} of {wanted} epochs"
            continue
        settings = history.settings["run"]
        groups.setdefault((settings["data"], settings["backbone"]), []).append((path, history))
    written = []
    for key, found in groups.items():
        path = Path(out) / ("-".join(key) + ".parquet")
        old = [(path, run) for run in _apart(History.load(path))] if path.is_file() else []
        new = {_name(run) for _, run in found}
        written.append(_together([*(pair for pair in old if _name(pair[1]) not in new), *found]).save(path))
    return written, left_out


def load(folder):
    """What `collect` wrote: {(data, backbone): History}; empty where nothing has been run yet."""
    histories = [History.load(path) for path in sorted(Path(folder).glob("*.parquet"))]
    return {(h.settings["run"]["data"], h.settings["run"]["backbone"]): h for h in histories}


def beside(table, histories, measure):
    """A printed table, and next to each of its rows what our runs had at that epoch: a table of text.

    histories: as from `load`. measure: "accuracy" (for Table 1) or "test_accuracy" (for Table 2).
    Columns dataset, network, epoch, head, paper and ours as "median (low–high)" in percent, seeds (of ours), images
    (what ours were trained on). Runs count only if they had the settings of the paper's recipe, but for
    recipes.HOW; what had others is "other settings".
    """
    ours = our_rows(table, histories, measure)
    paper = [LOST if np.isnan(r.median) else _text(r.median, r.low, r.high) for r in table.itertuples()]
    mine = [r.images if r.images in (NOT_RUN, OTHER) else _text(r.median, r.low, r.high) for r in ours.itertuples()]
    images = ours["images"].where(ours["seeds"] > 0, "")
    return table[[*ROW, "head"]].assign(paper=paper, ours=mine, seeds=ours["seeds"], images=images)


def our_rows(table, histories, measure):
    """Our runs in the form of a printed table, in percent, with seeds and images; NaN, and why, where there are
    none.
    """
    rows = []
    for dataset, network, epoch, head in table[[*ROW, "head"]].itertuples(index=False):
        key, why = (DATA[dataset], NETWORKS[network]), NOT_RUN
        values, history = pd.Series(dtype=float), histories.get(key)
        if history is not None:
            paper = recipes.RECIPES[f"guiding/{key[0]}"] | {"backbone": key[1]}
            how = {"head": 0, **dict.fromkeys(recipes.HOW)}  # which run it is, how fast and how often measured
            if history.settings["run"] | how != json.loads(json.dumps(paper)) | how:
                why = OTHER
            else:
                frame = history.frame
                values = 100 * frame.loc[(frame["head"] == head) & (frame["iteration"] == epoch), measure]
        if len(values):
            why = history.settings["images"]
        rows.append((dataset, network, epoch, head, values.median(), values.min(), values.max(), len(values), why))
    return pd.DataFrame(rows, columns=[*ROW, "head", "median", "low", "high", "seeds", "images"], index=table.index)


def _text(median, low, high):
    return f"{median:.2f} ({low:.1f}–{high:.1f})"


def _shared(run):
    """The settings that all runs of a file have: without the head and the seed of this one."""
    same = {key: run.settings[key] for key in SAME}
    return same | {"run": {key: value for key, value in same["run"].items() if key not in ("head", "seed")}}


def _name(run):
    return run.settings["head"], run.settings["seed"]


def _together(found):
    """Runs [(path, History)] of one set and backbone as one History."""
    path, first = found[0]
    for other, run in found[1:]:
        for key in SAME:
            if (theirs := _shared(run)[key]) != (ours := _shared(first)[key]):
                raise ValueError(
                    f"{other} and {path} are of one set and backbone, but differ in {key!r}: "
                    f"{theirs!r} and {ours!r}; collect them apart"
                )
    runs = sorted((run for _, run in found), key=_name)
    settings = _shared(first)
    rest = [{key: value for key, value in run.settings.items() if key not in SAME} for run in runs]
    joined = History.concat(History(run.frame, margins=_thin(run.margins)) for run in runs)
    return History(joined.frame, {**settings, "runs": rest}, joined.margins)


def _apart(history):
    """The other way: a History of several runs as one for each."""
    shared = {key: history.settings[key] for key in SAME}
    for rest in history.settings["runs"]:
        part = history.where(head=rest["head"], seed=rest["seed"])
        yield History(part.frame, {**shared, **rest}, part.margins)


def _thin(margins):
    """The sorted margins of one run, at RANKS evenly spaced ranks or fewer."""
    if margins.empty:
        return margins
    ranked = np.sort(margins["margin"].to_numpy())
    ranked = ranked[np.unique(np.linspace(0, len(ranked) - 1, RANKS).round().astype(int))]
    head, seed = margins.iloc[0][MARGIN_COLUMNS[:2]]
    return pd.DataFrame(dict(zip(MARGIN_COLUMNS, (head, seed, np.arange(len(ranked)), ranked))))


# --- what a head costs ---


def costs(backbone, heads, images, labels, repeats=5):
    """Milliseconds of a forward and backward pass of the backbone and of each head, each by itself: {name: least}.

    heads: {name: head} for the features of the backbone, with cross entropy. The parts take turns, so that a slow
    moment of the machine meets all of them; the first turn is not counted. Of the others the least counts, which other
    programs disturb least. Training mode, on the device of the images.
    """
    finish = (
        torch.cuda.synchronize if images.device.type == "cuda" else lambda: None
    )  # a GPU's work goes on after the call
    features = backbone.train()(images).detach()
    back = torch.randn_like(features)  # any gradient will do to go through the backbone

    def head_pass(head):
        z = features.clone().requires_grad_()
        F.cross_entropy(head.train()(z, labels), labels).backward()

    parts = {"backbone": lambda: backbone(images).backward(back)} | {
        name: partial(head_pass, h) for name, h in heads.items()
    }
    taken = {name: [] for name in parts}
    for turn in range(repeats + 1):
        for name, part in parts.items():
            finish()
            begin = time.perf_counter()
            part()
            finish()
            if turn:
                taken[name].append(1000 * (time.perf_counter() - begin))
    return {name: min(times) for name, times in taken.items()}


def main(arguments=None):
    """The command line: what was gathered, and what was left out."""
    parser = argparse.ArgumentParser(
        prog="python -m labkit.studies.tables", description="Gather finished runs of labkit.vision."
    )
    parser.add_argument("folder", help="the --folder of the runs")
    parser.add_argument("--out", default="data/results/images", help="where the files go (%(default)s)")
    chosen = parser.parse_args(arguments)
    written, left_out = collect(chosen.folder, chosen.out)
    for path in written:
        runs = History.load(path).settings["runs"]
        print(f"{path}: {len(runs)} runs; " + ", ".join(f"{run['head']} {run['seed']}" for run in runs))
    for name, why in left_out.items():
        print(f"left out: {name}, {why}")
    if not written:
        print(f"no finished run in {chosen.folder}")


if __name__ == "__main__":
    main()
