"""What the guiding paper says of UFMs, beside what our runs of them show, with a verdict for each claim.

    python -m labkit.studies.claims                        the tables in Markdown, from data/results/ufm and ufm-control
    python -m labkit.studies.claims --docs docs/claims.md  the same, into the document

A claim has a rule, which asks the same question of every seed, of every size or pair of sizes, and, where it compares
runs, of every logged iteration. Each answer is yes, no, or open: differences that the rounding of float32 or the
spacing of the log could have made are open, not won. The verdict follows from the answers alone (see `verdict`), and
every row says how many there were, from how many runs, and when its rule was written down. The rules of RULES_OF were
written after most of the runs had been seen, to mend the first ones, which looked at end points only.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from labkit import etf
from labkit.heads import MAIN
from labkit.studies import ROUNDING, stored, sweep
from labkit.ufm import classes_of

HOLDS, IN_PART, NOT, UNKNOWN = "holds", "holds in part", "does not hold", "cannot be told"
VERDICTS = (HOLDS, IN_PART, NOT, UNKNOWN)
RULES_OF = "2026-11-26"  # change it with a rule
MAIN = list(MAIN)

CONFOUNDED = "C, d and N/C change together"
NOT_SWEPT = "AGD's gain is 10 throughout"
CONTROL_SIZES = ("UFM-10-250x1024", "UFM-100-2500x1024", "UFM-200")  # d = 1024 and N/C = 25 in all three


@dataclass(frozen=True)
class Row:
    """A claim, where the paper makes it, the rule, what was asked of how much, and what came out."""

    claim: str
    where: str
    rule: str
    runs: str
    measured: str
    beside: str  # what else could make the difference
    verdict: str
    rule_of: str = RULES_OF


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


def steps_to(frame: pd.DataFrame, accuracy: float = 1.0):
    """The first logged iteration at which a run's accuracy is at least so high: one row for each size, head and seed.

    Columns size, num_classes, head, seed, steps; infinite where it never is. Iterations are logged all up to 5, and
    then in steps of a quarter, so that the number may be a quarter too large.
    """
    return first(frame, frame["accuracy"] >= accuracy)


def first(frame: pd.DataFrame, there: pd.Series):
    """The first logged iteration of each run at which a condition holds, a Series of booleans: as `steps_to`."""
    keys = ["size", "head", "seed"]
    runs = frame[keys].drop_duplicates()
    found = frame[there].groupby(keys, sort=False)["iteration"].min().rename("steps").reset_index()
    table = runs.merge(found, on=keys, how="left").fillna({"steps": np.inf})
    return table.assign(num_classes=table["size"].map(classes_of))[["size", "num_classes", "head", "seed", "steps"]]


def spread(values: pd.Series, form: str = "{:.3g}"):
    """A median and its range as text: "12 (10–15)"; without the range where it is one number."""
    low, median, high = (form.format(v) for v in (values.min(), values.median(), values.max()))
    return median if low == high else f"{median} ({low}–{high})"


def claims(frame: pd.DataFrame):
    """The table of claims, a DataFrame with the columns of `Row`.

    frame: of `labkit.studies.sweep.load`, with the heads standard, fixed and implicit in every size, and the variants
    where they were run. Raises ValueError without those.
    """
    frame, sizes = _checked(frame)
    there = set(zip(frame["size"], frame["head"]))
    rows = [
        _same_rate(frame, sizes),
        _others_slower(frame, sizes),
        _identical(frame, sizes),
        _bound(frame, sizes),
        _collapse(frame, sizes),
        _variability(frame, sizes),
    ]
    for variant, claim in (("standard_no_norm", _normalisation), ("implicit_without_ddn", _ddn)):
        with_it = [s for s in sizes if (s, variant) in there]
        if with_it:
            rows.append(claim(frame, with_it))
    return pd.DataFrame(rows)


def control(frame: pd.DataFrame):
    """The two claims about the number of classes once more, on sizes that differ in C alone: as `claims`.

    frame: runs of CONTROL_SIZES with the three heads (`controlled` has those that came with labkit).
    """
    frame, sizes = _checked(frame)
    rows = [_same_rate(frame, sizes), _others_slower(frame, sizes)]
    return pd.DataFrame(rows).assign(beside=f"C alone changes; d = 1024, N/C = 25; {NOT_SWEPT}")


def controlled(folder: Path | None = None):
    """The runs of the control: those of data/results/ufm-control, and UFM-200 of data/results/ufm."""
    folder = stored() / "results" if folder is None else folder
    return pd.concat([sweep.load(folder / "ufm-control").frame, sweep.load(folder / "ufm", "UFM-200-*").frame])


def _checked(frame):
    frame = frame.reset_index(drop=True)
    sizes = sorted(frame["size"].unique(), key=classes_of)
    there = set(zip(frame["size"], frame["head"]))
    if missing := [(s, h) for s in sizes for h in MAIN if (s, h) not in there]:
        raise ValueError(f"claims are about three heads in every size; there are no runs of {missing}")
    return frame, sizes


def _counted(answers):
    """How many answers of each kind, in words."""
    count = Counter(answers)
    return f"{count[True]} yes, {count[False]} no, {count[None]} open"


def _runs(frame, sizes, heads):
    """How many seeds of each size, in words."""
    mine = frame[frame["head"].isin(heads)]
    seeds = {s: int(mine[mine["size"] == s].groupby("head")["seed"].nunique().min()) for s in sizes}
    whole = sum(mine[mine["size"] == s].groupby(["head", "seed"]).ngroups for s in sizes)
    return f"{whole} runs; seeds: " + ", ".join(f"{n} of {s}" for s, n in seeds.items())


def _steps(table, head):
    """{size: Series of steps, by seed} of one head, in the order of C."""
    mine = table[table["head"] == head].sort_values("num_classes", kind="stable")
    return {s: rows.set_index("seed")["steps"] for s, rows in mine.groupby("size", sort=False)}


def _list(found):
    return ", ".join(spread(values) for values in found.values())


def _pairs(found, both):
    """(steps at the smaller size, at the larger) of two sizes, next to each other unless `both`, for each seed."""
    sizes = list(found)
    for k, small in enumerate(sizes):
        for large in sizes[k + 1 :] if both else sizes[k + 1 : k + 2]:
            for seed in found[small].index.intersection(found[large].index):
                yield found[small][seed], found[large][seed]


def _points_apart(points, few, many):
    """How many logged iterations lie between two of them."""
    return int(np.searchsorted(points, many) - np.searchsorted(points, few))


def _percent(share):
    return f"{100 * share:.2g} %" if abs(share) >= ROUNDING["loss"] else "rounding"


def _excess(frame):
    """Cross entropy over its bound, less one."""
    bounds = {s: etf.cross_entropy_bound(classes_of(s), 5.0) for s in frame["size"].unique()}
    return frame["loss"] / frame["size"].map(bounds) - 1


def _same_rate(frame, sizes):
    found = _steps(steps_to(frame), "implicit")
    # One step more or less is more than a factor of 1.5 as long as both counts are below 3: nothing to be read there.
    answers = [None if max(a, b) < 3 else 1 / 1.5 <= b / max(a, 1e-9) <= 1.5 for a, b in _pairs(found, both=True)]
    near = first(frame, _excess(frame) <= 0.1)
    to_bound = "; ".join(f"{h} {_list(_steps(near, h))}" for h in ("implicit", "fixed"))
    return Row(
        "the implicit ETF converges at the same rate as C grows",
        "Section 4, Figure 3",
        "steps to 100 % accuracy, any two sizes at every seed: within a factor of 1.5; open where both counts are "
        "below 3",
        _runs(frame, sizes, ["implicit"]),
        f"steps at {' / '.join(sizes)}: {_list(found)} ({_counted(answers)}). By the loss there is a rate, not "
        f"the same one: steps to within 10 % of the bound {to_bound}",
        CONFOUNDED,
        verdict(answers),
    )


def _others_slower(frame, sizes):
    table, points, answers = steps_to(frame), np.sort(frame["iteration"].unique()), []
    by_head = {head: _steps(table, head) for head in ("standard", "fixed")}
    for found in by_head.values():
        for a, b in _pairs(found, both=False):
            apart = _points_apart(points, a, b)
            answers.append(True if apart > 1 else False if apart < -1 else None)
    return Row(
        "the standard and the fixed head need more time the larger C",
        "Section 4, Figure 3",
        "steps to 100 % accuracy, from each size to the next at every seed: more, by more than one logged iteration; "
        "as many counts against it",
        _runs(frame, sizes, list(by_head)),
        "; ".join(f"{h} {_list(found)}" for h, found in by_head.items()) + f" ({_counted(answers)})",
        f"{CONFOUNDED}; {NOT_SWEPT}",
        verdict(answers, open_counts=True),
    )


def _identical(frame, sizes):
    rows = _at(frame[frame["head"].isin(MAIN)], 800)
    answers, largest = [], 0.0
    for _, group in rows.groupby(["size", "seed"], sort=False):
        group = group.set_index("head").reindex(MAIN)
        gap = group["loss"].max() / group["loss"].min() - 1
        largest = max(largest, gap)
        answers.append(bool((group["accuracy"] == 1).all() and gap <= 0.01))
    nc1 = rows.groupby(["size", "head"])["nc1"].median().unstack()[MAIN]
    ratio = (nc1["standard"] / nc1[["fixed", "implicit"]].max(axis=1).clip(lower=ROUNDING["nc1"])).max()
    return Row(
        "after 800 iterations all have converged to identical results",
        "Figure 3",
        "accuracy 100 % with every head, and cross entropies within 1 % of one another, at every size and seed",
        _runs(frame, sizes, MAIN),
        f"{_counted(answers)}; largest difference of the cross entropy {_percent(largest)}. Collapse is not identical: "
        f"NC1 of the standard head is up to {ratio:.1g} × that of the ETF heads",
        NOT_SWEPT,
        verdict(answers),
    )


def _bound(frame, sizes):
    mine = frame[frame["head"].isin(MAIN)].assign(excess=_excess(frame))
    last = {s: mine[mine["size"] == s].groupby(["head", "seed"])["iteration"].max().min() for s in sizes}
    rows = pd.concat([_at(mine[mine["size"] == s], last[s]) for s in sizes])
    answers = [bool(v <= 0.01) for v in rows.loc[rows["head"] == "fixed", "excess"]]
    text = "; ".join(
        f"{h} " + ", ".join(_percent(rows[(rows["head"] == h) & (rows["size"] == s)]["excess"].max()) for s in sizes)
        for h in MAIN
    )
    return Row(
        "the fixed ETF reaches the lower bound of the cross entropy",
        "Section 4, Figure 2",
        "within 1 % of it at the end, at every size and seed",
        _runs(frame, sizes, ["fixed"]),
        f"{_counted(answers)}; above the bound, largest of the seeds, after "
        f"{' / '.join(str(n) for n in last.values())} iterations: {text}",
        NOT_SWEPT,
        verdict(answers),
    )


def compared(frame: pd.DataFrame, measure: str, head: str = "implicit"):
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


def _collapse(frame, sizes):
    found = pd.concat([compared(frame, m).assign(measure=m) for m in ("nc1", "nc3")])
    no = found[found["answer"].eq(False)]
    nc1 = no[(no["measure"] == "nc1") & (no["other"] == "standard")]
    dips = [
        f"{s} from step {rows['iteration'].min()} to {rows['iteration'].max()}"
        for s, rows in sorted(nc1.groupby("size"), key=lambda pair: classes_of(pair[0]))
    ]
    against = "; ".join(f"against the {other} head {_counted(a)}" for other, a in found.groupby("other")["answer"])
    below = f". The standard head's NC1 is the smaller one in {', '.join(dips)}" if dips else ""
    return Row(
        "the implicit ETF is best at reaching collapse",
        "Section 4, Figure 2",
        "smaller NC1 and NC3 than each of the other two, at every logged iteration, size and seed; open where both are "
        "rounding",
        _runs(frame, sizes, MAIN),
        f"{against}{below}",
        NOT_SWEPT,
        verdict(found["answer"]),
    )


def _variability(frame, sizes):
    seeds = frame.groupby(["size", "head"])["seed"].nunique()
    several = [s for s in sizes if min(seeds[s, h] for h in MAIN) > 2]  # a range of one or two seeds says little
    answers = []
    for size in several:
        mine = frame[(frame["size"] == size) & frame["head"].isin(MAIN) & (frame["iteration"] >= 1)]
        by = mine.groupby(["iteration", "head"])["loss"]
        ranges = ((by.max() - by.min()) / by.median()).unstack()[MAIN].dropna()
        for other in ("standard", "fixed"):
            decided = (ranges["implicit"] - ranges[other]).abs() > ROUNDING["loss"]
            smaller = ranges["implicit"] < ranges[other]
            answers += [bool(s) if d else None for s, d in zip(smaller, decided)]
    return Row(
        "the implicit ETF varies least between runs",
        "Section 4",
        "smaller range of the loss over seeds, relative to its median, than each of the other two, at every logged "
        "iteration and size with more than two seeds; open where they differ by rounding",
        _runs(frame, several, MAIN) if several else "no size has more than two seeds",
        f"{_counted(answers)}; {', '.join(several) or 'no size'}",
        f"a range over few seeds is itself uncertain; {NOT_SWEPT}",
        verdict(answers),
    )


def _normalisation(frame, sizes):
    table = steps_to(frame)
    with_it, without = _steps(table, "standard"), _steps(table, "standard_no_norm")
    answers = [
        bool(with_it[s][seed] < without[s][seed])
        for s in sizes
        for seed in with_it[s].index.intersection(without[s].index)
    ]
    return Row(
        "normalising features and weights accelerates convergence",
        "Section 4, Figure 17",
        "fewer steps to 100 % accuracy at every size and seed",
        _runs(frame, sizes, ["standard", "standard_no_norm"]),
        f"{_counted(answers)}; standard head at {' / '.join(sizes)}: normalised "
        f"{_list({s: with_it[s] for s in sizes})}; not {_list({s: without[s] for s in sizes})}",
        f"{NOT_SWEPT}, with and without",
        verdict(answers),
    )


def _ddn(frame, sizes):
    pair = ["implicit", "implicit_without_ddn"]
    mine = frame[frame["head"].isin(pair) & frame["size"].isin(sizes) & (frame["iteration"] >= 1)]
    loss = mine.pivot(index=["size", "seed", "iteration"], columns="head", values="loss").dropna()
    gaps = (loss[pair[1]] / loss[pair[0]] - 1).abs()
    answers = [bool(gap <= 0.01) for gap in gaps]
    ends = gaps.groupby(["size", "seed"]).tail(1)
    return Row(
        "without the gradient through the ETF the result is comparable",
        "Section 5, Figure 15",
        "the loss within 1 % at every logged iteration, size and seed",
        _runs(frame, sizes, pair),
        f"{_counted(answers)}; largest difference {_percent(gaps.max())}, at the end {_percent(ends.max())}",
        "balanced classes and full batches; see the table of notebook 05 for others",
        verdict(answers),
    )


def _at(frame, iteration):
    """The last row of each run that is not after an iteration."""
    early = frame[frame["iteration"] <= iteration]
    return early.loc[early.groupby(["size", "head", "seed"])["iteration"].idxmax()]


def markdown(table: pd.DataFrame):
    """A table as Markdown lines."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def shown(table: pd.DataFrame):
    """The table of claims as documents show it: rule and its date in one column, runs beside the measurement."""
    return pd.DataFrame(
        {
            "claim": table["claim"] + " (" + table["where"] + ")",
            "rule": table["rule"] + " (" + table["rule_of"] + ")",
            "measured": table["measured"],
            "from": table["runs"],
            "what else differs": table["beside"],
            "verdict": table["verdict"],
        }
    )


def documented():
    """The tables that docs/claims.md shows, {name: Markdown}, from the runs that came with labkit."""
    from labkit.studies import ddn  # only here: it needs the heads

    results = stored() / "results"
    return {
        "claims": markdown(shown(claims(sweep.load(results / "ufm").frame))),
        "control": markdown(shown(control(controlled(results)))),
        "ddn": markdown(ddn.shown(ddn.ends(ddn.load_study(results / "ddn")))),
    }


def renew(text: str, tables: dict[str, pd.DataFrame]):
    """A document with its tables replaced: each stands between "<!-- table: NAME -->" and "<!-- end -->"."""
    for name, table in tables.items():
        place = re.compile(rf"(<!-- table: {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        text, count = place.subn(lambda found, table=table: found[1] + table + found[2], text)
        if count != 1:
            raise ValueError(f"the document has {count} places for the table {name!r}, and should have one")
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", help="of the runs; by default those that came with labkit, and their control")
    parser.add_argument("--docs", type=Path, help="renew the tables in this document, docs/claims.md, instead")
    chosen = parser.parse_args()
    if chosen.docs:
        chosen.docs.write_text(renew(chosen.docs.read_text(), documented()))
    elif chosen.folder:
        print(markdown(shown(claims(sweep.load(chosen.folder).frame))))
    else:
        print("\n\n".join(list(documented().values())[:2]))


if __name__ == "__main__":
    main()
