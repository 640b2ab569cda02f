"""What the guiding paper says of UFMs, beside what our runs of them show, with a verdict for each claim.

    python -m labkit.studies.ufms.claims                        the tables in Markdown, from data/results
    python -m labkit.studies.ufms.claims --docs docs/claims.md  the same, into the document

A claim has a rule, which asks the same question of every seed, of every size or pair of sizes, and, where it compares
runs, of every logged iteration. Each answer is yes, no, or open: differences that the rounding of float32 or the
spacing of the log could have made are open, not won. The verdict follows from the answers alone (`answers.verdict`),
and every row says how many there were, from how many runs, and when its rule was written down. The rules of RULES_OF
were written after most of the runs had been seen, to mend the first ones, which looked at end points only.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from labkit.studies import ROUNDING, stored
from labkit.studies.ufms import sweep
from labkit.studies.ufms.answers import (
    MAIN,
    by_seed,
    compared,
    counted,
    excess,
    first,
    not_after,
    pairs,
    percent,
    points_apart,
    ranges_compared,
    runs_of,
    seeds_of_all,
    spreads,
    steps_to,
    three_alone,
    verdict,
    where_not,
)
from labkit.studies.ufms.documents import markdown, renew
from labkit.ufm import classes_of

RULES_OF = "2026-11-26"  # change it with a rule

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


def claims(frame: pd.DataFrame):
    """The table of claims, a DataFrame with the columns of `Row`.

    frame: of `sweep.load`, with the heads standard, fixed and implicit in every size, and the variants where they were
    run. Raises ValueError without those.
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
    return pd.DataFrame([_same_rate(frame, sizes), _others_slower(frame, sizes)])


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


def _confounders(sizes, *more):
    alone = f"C alone changes; d = 1024, N/C = 25; {NOT_SWEPT}"
    return alone if set(sizes) <= set(CONTROL_SIZES) else "; ".join(("C, d and N/C change together", *more))


def _same_rate(frame, sizes):
    found = by_seed(steps_to(frame), "implicit")
    # One step more or less is more than a factor of 1.5 as long as both counts are below 3: nothing to be read there.
    unread = lambda a, b: max(a, b) < 3 or min(a, b) == math.inf  # neither got there
    answers = [None if unread(a, b) else 1 / 1.5 <= b / max(a, 1e-9) <= 1.5 for a, b in pairs(found, both=True)]
    near = first(frame, excess(frame) <= 0.1)
    to_bound = "; ".join(f"{h} {spreads(by_seed(near, h))}" for h in ("implicit", "fixed"))
    return Row(
        "the implicit ETF converges at the same rate as C grows",
        "Section 4, Figure 3",
        "steps to 100 % accuracy, any two sizes at every seed: within a factor of 1.5; open where both counts are "
        "below 3",
        runs_of(frame, sizes, ["implicit"]),
        f"steps at {' / '.join(sizes)}: {spreads(found)} ({counted(answers)}). By the loss there is a rate, not "
        f"the same one: steps to within 10 % of the bound {to_bound}",
        _confounders(sizes),
        verdict(answers),
    )


def _others_slower(frame, sizes):
    table, points, answers = steps_to(frame), np.sort(frame["iteration"].unique()), []
    by_head = {head: by_seed(table, head) for head in ("standard", "fixed")}
    for found in by_head.values():
        for a, b in pairs(found, both=False):
            apart = points_apart(points, a, b)
            answers.append(True if apart > 1 else False if apart < -1 else None)
    return Row(
        "the standard and the fixed head need more time the larger C",
        "Section 4, Figure 3",
        "steps to 100 % accuracy, from each size to the next at every seed: more, by more than one logged iteration; "
        "as many counts against it",
        runs_of(frame, sizes, list(by_head)),
        "; ".join(f"{h} {spreads(found)}" for h, found in by_head.items()) + f" ({counted(answers)})",
        _confounders(sizes, NOT_SWEPT),
        verdict(answers, open_counts=True),
    )


def _identical(frame, sizes):
    rows = not_after(frame[frame["head"].isin(MAIN)], 800)
    answers, largest = [], 0.0
    for _, group in rows.groupby(["size", "seed"], sort=False):
        group = group.set_index("head").reindex(MAIN)
        gap = group["loss"].max() / group["loss"].min() - 1
        largest = max(largest, gap)
        there = group["iteration"].notna().all()  # else a head was not run at this seed, and nobody knows
        answers.append(bool((group["accuracy"] == 1).all() and gap <= 0.01) if there else None)
    nc1 = rows.groupby(["size", "head"])["nc1"].median().unstack()[MAIN]
    ratio = (nc1["standard"] / nc1[["fixed", "implicit"]].max(axis=1).clip(lower=ROUNDING["nc1"])).max()
    return Row(
        "after 800 iterations all have converged to identical results",
        "Figure 3",
        "accuracy 100 % with every head, and cross entropies within 1 % of one another, at every size and seed",
        runs_of(frame, sizes, MAIN),
        f"{counted(answers)}; largest difference of the cross entropy {percent(largest)}. Collapse is not identical: "
        f"NC1 of the standard head is up to {ratio:.1g} × that of the ETF heads",
        NOT_SWEPT,
        verdict(answers),
    )


def _bound(frame, sizes):
    mine = frame[frame["head"].isin(MAIN)].assign(excess=excess(frame))
    last = {s: mine[mine["size"] == s].groupby(["head", "seed"])["iteration"].max().min() for s in sizes}
    rows = pd.concat([not_after(mine[mine["size"] == s], last[s]) for s in sizes])
    answers = [bool(v <= 0.01) for v in rows.loc[rows["head"] == "fixed", "excess"]]
    text = "; ".join(
        f"{h} " + ", ".join(percent(rows[(rows["head"] == h) & (rows["size"] == s)]["excess"].max()) for s in sizes)
        for h in MAIN
    )
    return Row(
        "the fixed ETF reaches the lower bound of the cross entropy",
        "Section 4, Figure 2",
        "within 1 % of it at the end, at every size and seed",
        runs_of(frame, sizes, ["fixed"]),
        f"{counted(answers)}; above the bound, largest of the seeds, after "
        f"{' / '.join(str(n) for n in last.values())} iterations: {text}",
        NOT_SWEPT,
        verdict(answers),
    )


def _collapse(frame, sizes):
    found = pd.concat([compared(frame, m).assign(measure=m) for m in ("nc1", "nc3")])
    dips = where_not(found[(found["measure"] == "nc1") & (found["other"] == "standard")])
    against = "; ".join(f"against the {other} head {counted(a)}" for other, a in found.groupby("other")["answer"])
    below = f". The standard head's NC1 is the smaller one in {dips}" if dips else ""
    return Row(
        "the implicit ETF is best at reaching collapse",
        "Section 4, Figure 2",
        "smaller NC1 and NC3 than each of the other two, at every logged iteration, size and seed; open where both are "
        "rounding",
        runs_of(frame, sizes, MAIN),
        f"{against}{below}",
        NOT_SWEPT,
        verdict(found["answer"]),
    )


def _variability(frame, sizes):
    several = [s for s in sizes if len(seeds_of_all(frame, s)) > 2]  # a range of one or two seeds says little
    found = ranges_compared(frame, several)
    wider = where_not(found)
    alone = ", ".join(three_alone(frame, s) for s in several)
    return Row(
        "the implicit ETF varies least between runs",
        "Section 4",
        "smaller range of the loss over seeds, relative to its median, than each of the other two, at every logged "
        "iteration and size with more than two seeds; open where they differ by rounding",
        runs_of(frame, several, MAIN) if several else "no size has more than two seeds",
        counted(found["answer"])
        + (f". Not the smallest one in {wider}" if wider else "")
        + (f". Of the choices of three seeds at {' / '.join(several)}, {alone} have a no" if several else ""),
        f"a range over few seeds is itself uncertain; {NOT_SWEPT}",
        verdict(found["answer"]),
    )


def _normalisation(frame, sizes):
    table = steps_to(frame)
    with_it, without = by_seed(table, "standard"), by_seed(table, "standard_no_norm")
    answers = [
        None if min(with_it[s][seed], without[s][seed]) == math.inf else bool(with_it[s][seed] < without[s][seed])
        for s in sizes
        for seed in with_it[s].index.intersection(without[s].index)
    ]
    return Row(
        "normalising features and weights accelerates convergence",
        "Section 4, Figure 17",
        "fewer steps to 100 % accuracy at every size and seed",
        runs_of(frame, sizes, ["standard", "standard_no_norm"]),
        f"{counted(answers)}; standard head at {' / '.join(sizes)}: normalised "
        f"{spreads({s: with_it[s] for s in sizes})}; not {spreads({s: without[s] for s in sizes})}",
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
        runs_of(frame, sizes, pair),
        f"{counted(answers)}; largest difference {percent(gaps.max())}, at the end {percent(ends.max())}",
        "balanced classes and full batches; see the table of notebook 05 for others",
        verdict(answers),
    )


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
    from labkit.studies.ufms import ddn  # only here: it needs the heads

    results = stored() / "results"
    return {
        "claims": markdown(shown(claims(sweep.load(results / "ufm").frame))),
        "control": markdown(shown(control(controlled(results)))),
        "ddn": markdown(ddn.shown(ddn.ends(ddn.load_study(results / "ddn")))),
    }


def main():
    parser = argparse.ArgumentParser(prog="python -m labkit.studies.ufms.claims", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", help="of the runs; by default those that came with labkit, and their control")
    parser.add_argument("--docs", type=Path, help="renew the tables in this document, docs/claims.md, instead")
    chosen = parser.parse_args()
    if chosen.docs and not chosen.docs.is_file():
        parser.error(f"there is no document at {chosen.docs.absolute()}")
    if chosen.docs:
        chosen.docs.write_text(renew(chosen.docs.read_text(), documented()))
    elif chosen.folder:
        print(markdown(shown(claims(sweep.load(chosen.folder).frame))))
    else:
        print("\n\n".join(list(documented().values())[:2]))


if __name__ == "__main__":
    main()
