"""Each side at its own best learning rate: one seed chooses the rate, other seeds are reported.

    ends = rates.read("data/results/omniglot-rates")         the last row of every run, with its rate
    rates.best(ends, "test_accuracy")                        implicit 0.2, standard 0.6, …

A best rate at the edge of the list may lie beyond it; `best` says so in a warning, and nobody should report it.
"""

import warnings
from pathlib import Path

import pandas as pd

from labkit.history import History


def read(folder: str | Path) -> pd.DataFrame:
    """The last row of every run in a folder of `labkit.studies.evidence`, with a column `rate`, the learning rate that
    it was made with (a schedule changes `lr`), and `run`, its file.

    Raises FileNotFoundError where there is no run, ValueError, naming the file, for a damaged or foreign one.
    """
    paths = sorted(Path(folder).glob("*.parquet"))
    if not paths:
        raise FileNotFoundError(f"no runs in {Path(folder).absolute()}")
    ends = []
    for path in paths:
        history = History.load(path)
        if "lr" not in history.settings.get("run", {}):
            raise ValueError(f"{path} is not of a run with a learning rate")
        ends.append(history.final().assign(rate=history.settings["run"]["lr"], run=path.stem))
    return pd.concat(ends, ignore_index=True)


def best(ends: pd.DataFrame, by: str, largest: bool = True) -> pd.Series:
    """The rate of each head with the largest (or smallest) median of a measure over the seeds: a Series by head.

    ends: columns head, rate, seed and the measure. Of equal rates the smaller counts; a run without the number (it did
    not train) never does. Warns where a best rate is the first or last that was tried.

    >>> ends = pd.DataFrame({"head": "fixed", "seed": 0, "rate": [0.1, 0.2, 0.4], "accuracy": [0.5, 0.7, 0.6]})
    >>> best(ends, "accuracy").to_dict()
    {'fixed': 0.2}
    """
    medians = ends.groupby(["head", "rate"])[by].median().unstack()
    found = medians.idxmax(axis=1) if largest else medians.idxmin(axis=1)
    for head, rate in found.items():
        tried = ends.loc[ends["head"] == head, "rate"]
        if rate in (tried.min(), tried.max()):
            warnings.warn(
                f"{head} is best at {rate:g}, the edge of the rates that were tried: {sorted(set(tried))}", stacklevel=2
            )
    return found.rename("rate")
