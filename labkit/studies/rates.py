"""Each side at its own best learning rate: one seed chooses the rate, other seeds are reported, side by side.

    ends = rates.read("data/results/omniglot-rates")         the last row of every run, with its rate
    rates.best(ends, "test_accuracy")                        implicit 0.2, standard 0.6, …
    rates.interval(differences)                              of one side and another at equal seeds

A best rate at the edge of the list may lie beyond it; `best` says so in a warning, and nobody should report it.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from labkit.history import History


def runs(folder: str | Path, *settings: str) -> list[History]:
    """The runs in a folder of `labkit.studies.evidence`, with a column `rate`, the learning rate they were made with
    (a schedule changes `lr`), `run`, their file, and one for each of the `settings` that are named, such as "backbone";
    [] without any.

    Raises ValueError, naming the file, for a damaged or foreign one.
    """
    found = []
    for path in sorted(Path(folder).glob("*.parquet")):
        history = History.load(path)
        made = history.settings.get("run", {})
        if "lr" not in made:
            raise ValueError(f"{path} is not of a run with a learning rate")
        named = {key: made[key] for key in settings}
        history.frame = history.frame.assign(rate=made["lr"], run=path.stem, **named)
        found.append(history)
    return found


def read(folder: str | Path, *settings: str) -> pd.DataFrame:
    """The last row of each of the `runs` in a folder. Raises FileNotFoundError where there is none."""
    if not (found := runs(folder, *settings)):
        raise FileNotFoundError(f"no runs in {Path(folder).absolute()}")
    return pd.concat([run.final() for run in found], ignore_index=True)


def best(ends: pd.DataFrame, by: str, largest: bool = True) -> pd.Series:
    """The rate of each head with the largest (or smallest) median of a measure over the seeds: a Series by head.

    ends: columns head, rate, seed and the measure. Of equal rates the smaller counts; a run without the number (it did
    not train) counts as the worst. Warns where a best rate is the first or last that was tried.

    >>> ends = pd.DataFrame({"head": "fixed", "seed": 0, "rate": [0.1, 0.2, 0.4], "accuracy": [0.5, 0.7, 0.6]})
    >>> best(ends, "accuracy").to_dict()
    {'fixed': 0.2}
    """
    worst = ends.assign(**{by: ends[by].fillna(-math.inf if largest else math.inf)})
    medians = worst.groupby(["head", "rate"])[by].median().unstack()
    if never := list(medians.index[~np.isfinite(medians).any(axis=1)]):
        raise ValueError(f"no run of {', '.join(never)} has {by}, at no rate: there is no best one")
    found = medians.idxmax(axis=1) if largest else medians.idxmin(axis=1)
    for head, rate in found.items():
        tried = ends.loc[ends["head"] == head, "rate"]
        if rate in (tried.min(), tried.max()):
            warnings.warn(
                f"{head} is best at {rate:g}, the edge of the rates that were tried: {sorted(set(tried))}", stacklevel=2
            )
    return found.rename("rate")


def interval(differences: pd.Series) -> tuple[float, float, float]:
    """The mean of differences at equal seeds, and its 95 % interval by Student's t: (mean, low, high).

    A missing difference (NaN, one side has not been run) does not count. NaN for no difference; the interval is NaN
    with fewer than two.

    >>> [round(float(value), 3) for value in interval(pd.Series([-1.0, -2.0, -3.0]))]
    [-2.0, -4.484, 0.484]
    """
    differences = differences.dropna()
    n, mean = len(differences), differences.mean() if len(differences) else math.nan
    half = _reach(n, differences.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return mean, mean - half, mean + half


def prediction(values: ArrayLike) -> tuple[float, float]:
    """The interval that holds one more value of the same kind in 95 % of cases, by Student's t: (low, high).

    >>> [round(float(end), 3) for end in prediction([1.0, 2.0, 3.0])]
    [-2.968, 6.968]
    """
    values = np.asarray(values, dtype=float)
    if values.size < 2:
        raise ValueError(f"two values or more are needed to know how far they scatter; got {values.tolist()}")
    half = _reach(values.size, values.std(ddof=1)) * np.sqrt(1 + 1 / values.size)
    return values.mean() - half, values.mean() + half


def contrast(groups: Mapping[Any, Sequence[float]], one: Any, other: Any) -> tuple[float, float, float]:
    """The mean of group `one` less that of `other`, and its 95 % interval: (mean, low, high), where groups may have one
    value each. How far values scatter is pooled over all groups, and taken to be the same in each: Fisher's least
    significant difference. NaN where one of the two is empty; the interval is NaN where no group has two values.

    >>> runs = {"a": [1.0, 2.0, 3.0], "b": [4.0], "c": [7.0, 9.0]}
    >>> [round(value, 3) for value in contrast(runs, "b", "a")]
    [2.0, -2.243, 6.243]
    """
    groups = {name: np.asarray(values, dtype=float) for name, values in groups.items()}
    if not (groups[one].size and groups[other].size):
        return math.nan, math.nan, math.nan
    free = sum(values.size - 1 for values in groups.values() if values.size)
    squares = sum(((values - values.mean()) ** 2).sum() for values in groups.values() if values.size)
    mean = float(groups[one].mean() - groups[other].mean())
    if not free:
        return mean, math.nan, math.nan
    half = _reach(free + 1, np.sqrt(squares / free * (1 / groups[one].size + 1 / groups[other].size)))
    return mean, mean - half, mean + half


def _reach(n, deviation):
    """The 97.5 % quantile of Student's t for n values, times their standard deviation."""
    from scipy import stats  # takes a while

    return float(stats.t.ppf(0.975, n - 1) * deviation)
