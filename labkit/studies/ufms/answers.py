"""What a claim asks of runs: steps until something holds, pairs of sizes, heads against each other; and the verdict."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from labkit import etf
from labkit.heads import MAIN
from labkit.studies import ROUNDING
from labkit.ufm import classes_of

HOLDS, IN_PART, NOT, UNKNOWN = "holds", "holds in part", "does not hold", "cannot be told"
VERDICTS = (HOLDS, IN_PART, NOT, UNKNOWN)
MAIN = list(MAIN)


def verdict(answers: Iterable[bool | None], open_counts: bool = False) -> str:
    """The verdict of a list of answers, True, False or None (open).

    All yes: holds. Some yes and some no: holds in part. No yes, but some no: does not hold. Nothing but open ones, or
    none at all: cannot be told. Yes and open ones without a no: holds, if at least half are decided, else cannot be
    told; where an open answer counts against the claim (open_counts), as a tie does against "larger", it is a no.

    >>> verdict([True, True]), verdict([True, False]), verdict([False, None]), verdict([None, None, True])
    ('holds', 'holds in part', 'does not hold', 'cannot be told')
    """
    count = Counter(answers)
    yes, no, unknown = count[True], count[False], count[None]
    if open_counts and yes:
        no, unknown = no + unknown, 0
    if yes and no:
        return IN_PART
    if no:
        return NOT
    return HOLDS if yes and yes >= unknown else UNKNOWN


def steps_to(frame: pd.DataFrame, accuracy: float = 1.0) -> pd.DataFrame:
    """The first logged iteration at which a run's accuracy is at least so high: one row for each size, head and seed.

    Columns size, num_classes, head, seed, steps; infinite where it never is. Iterations are logged all up to 5, and
    then in steps of a quarter, so that the number may be a quarter too large.
    """
    return first(frame, frame["accuracy"] >= accuracy)


def first(frame: pd.DataFrame, there: pd.Series) -> pd.DataFrame:
    """The first logged iteration of each run at which a condition holds, a Series of booleans: as `steps_to`."""
    keys = ["size", "head", "seed"]
    runs = frame[keys].drop_duplicates()
    found = frame[there].groupby(keys, sort=False)["iteration"].min().rename("steps").reset_index()
    table = runs.merge(found, on=keys, how="left").fillna({"steps": np.inf})
    return table.assign(num_classes=table["size"].map(classes_of))[["size", "num_classes", "head", "seed", "steps"]]


def spread(values: pd.Series, form: str = "{:.3g}") -> str:
    """A median and its range as text: "12 (10–15)"; without the range where it is one number."""
    low, median, high = (form.format(v) for v in (values.min(), values.median(), values.max()))
    return median if low == high else f"{median} ({low}–{high})"


def counted(answers: Iterable[bool | None]) -> str:
    """How many answers of each kind, in words."""
    count = Counter(answers)
    return f"{count[True]} yes, {count[False]} no, {count[None]} open"


def runs_of(frame: pd.DataFrame, sizes: Sequence[str], heads: Sequence[str]) -> str:
    """How many seeds of each size, in words."""
    mine = frame[frame["head"].isin(heads)]
    seeds = {s: int(mine[mine["size"] == s].groupby("head")["seed"].nunique().min()) for s in sizes}
    whole = sum(mine[mine["size"] == s].groupby(["head", "seed"]).ngroups for s in sizes)
    return f"{whole} runs; seeds: " + ", ".join(f"{n} of {s}" for s, n in seeds.items())


def by_seed(table: pd.DataFrame, head: str) -> dict[str, pd.Series]:
    """{size: Series of steps, by seed} of one head, in the order of C."""
    mine = table[table["head"] == head].sort_values("num_classes", kind="stable")
    return {s: rows.set_index("seed")["steps"] for s, rows in mine.groupby("size", sort=False)}


def spreads(found: Mapping[str, pd.Series]) -> str:
    return ", ".join(spread(values) for values in found.values())


def pairs(found: Mapping[str, pd.Series], both: bool) -> Iterator[tuple[float, float]]:
    """(steps at the smaller size, at the larger) of two sizes, next to each other unless `both`, for each seed."""
    sizes = list(found)
    for k, small in enumerate(sizes):
        for large in sizes[k + 1 :] if both else sizes[k + 1 : k + 2]:
            for seed in found[small].index.intersection(found[large].index):
                yield found[small][seed], found[large][seed]


def points_apart(points: np.ndarray, few: float, many: float) -> int:
    """How many logged iterations lie between two of them."""
    return int(np.searchsorted(points, many) - np.searchsorted(points, few))


def percent(share: float) -> str:
    return f"{100 * share:.2g} %" if abs(share) >= ROUNDING["loss"] else "rounding"


def excess(frame: pd.DataFrame) -> pd.Series:
    """Cross entropy over its bound, less one. The temperature is 5 where the table has no such column."""
    pairs = list(zip(frame["size"], frame.get("temperature", itertools.repeat(5.0))))
    bounds = {(size, tau): etf.cross_entropy_bound(classes_of(size), tau) for size, tau in set(pairs)}
    return frame["loss"] / [bounds[pair] for pair in pairs] - 1


def compared(frame: pd.DataFrame, measure: str, head: str = "implicit") -> pd.DataFrame:
    """At every logged iteration from 1 on, size and seed: whether `head` has the smaller value than another of MAIN.

    A table with size, seed, iteration, other and answer: True, False, or None where both are rounding (ROUNDING), for
    the loss where they differ by less than that, relatively.
    """
    mine = frame[frame["head"].isin(MAIN) & (frame["iteration"] >= 1)]
    wide = mine.pivot(index=["size", "seed", "iteration"], columns="head", values=measure).dropna()
    tables = []
    for other in (h for h in MAIN if h != head):
        ours, theirs = wide[head], wide[other]
        if measure == "loss":
            tie = (ours - theirs).abs() <= ROUNDING["loss"] * theirs
        else:
            tie = np.maximum(ours, theirs) <= ROUNDING[measure]
        answers = (ours < theirs).astype(object).where(~tie, None)
        tables.append(answers.rename("answer").reset_index().assign(other=other))
    return pd.concat(tables, ignore_index=True)


def ranges_compared(frame: pd.DataFrame, sizes: Sequence[str], head: str = "implicit") -> pd.DataFrame:
    """At every logged iteration from 1 on and size: whether the loss of `head` has the smaller range over seeds,
    relative to its median, than that of another of MAIN; of the seeds that all of MAIN have, as more have more range.

    A table with size, iteration, other and answer: True, False, or None where they differ by less than ROUNDING.
    """
    mine = frame[frame["size"].isin(sizes) & frame["head"].isin(MAIN) & (frame["iteration"] >= 1)]
    wide = mine.pivot(index=["size", "seed", "iteration"], columns="head", values="loss").reindex(columns=MAIN).dropna()
    by = wide.groupby(["size", "iteration"])
    ranges = (by.max() - by.min()) / by.median()
    tables = []
    for other in (h for h in MAIN if h != head):
        tie = (ranges[head] - ranges[other]).abs() <= ROUNDING["loss"]
        answers = (ranges[head] < ranges[other]).astype(object).where(~tie, None)
        tables.append(answers.rename("answer").reset_index().assign(other=other))
    return pd.concat(tables, ignore_index=True)


def where_not(found: pd.DataFrame) -> str:
    """Where answers are no, in words: of each size the first and the last iteration. Empty where there are none."""
    no = sorted(found[found["answer"].eq(False)].groupby("size")["iteration"], key=lambda pair: classes_of(pair[0]))
    span = lambda low, high: f"at step {low}" if low == high else f"from step {low} to {high}"
    return ", ".join(f"{size} {span(steps.min(), steps.max())}" for size, steps in no)


def seeds_of_all(frame: pd.DataFrame, size: str) -> list[int]:
    """The seeds of a size that all of MAIN have, in order."""
    heads_there = frame[(frame["size"] == size) & frame["head"].isin(MAIN)].groupby("seed")["head"].nunique()
    return heads_there.index[heads_there == len(MAIN)].tolist()


def three_alone(frame: pd.DataFrame, size: str) -> str:
    """In how many choices of three of `seeds_of_all` has `ranges_compared` a no, in words: "4 of 10"."""
    choices = list(itertools.combinations(seeds_of_all(frame, size), 3))
    broken = [ranges_compared(frame[frame["seed"].isin(three)], [size])["answer"].eq(False).any() for three in choices]
    return f"{sum(broken)} of {len(choices)}"


def not_after(frame: pd.DataFrame, iteration: int) -> pd.DataFrame:
    """The last row of each run that is not after an iteration."""
    early = frame[frame["iteration"] <= iteration]
    return early.loc[early.groupby(["size", "head", "seed"])["iteration"].idxmax()]
