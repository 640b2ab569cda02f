"""What the guiding paper says of UFMs, beside what our runs of them show, with a verdict for each claim.

    python -m labkit.studies.claims          the table in Markdown, from data/results/ufm

Rules are stated with each claim, and applied to whatever sizes and seeds the runs have: medians over seeds with their
    range.
"""

import argparse

import numpy as np
import pandas as pd

from labkit import etf
from labkit.heads import MAIN
from labkit.studies import stored, sweep
from labkit.ufm import classes_of

HOLDS, IN_PART, NOT = "holds", "holds in part", "does not hold"
MAIN = list(MAIN)


def steps_to(frame, accuracy=1.0):
    """The first logged iteration at which a run's accuracy is at least so high: one row for each size, head and seed.

    Columns size, num_classes, head, seed, steps; infinite where it never is. Iterations are logged all up to 5, and
    then in steps of a quarter, so that the number may be a quarter too large.
    """
    rows = []
    for (size, head, seed), run in frame.groupby(["size", "head", "seed"], sort=False):
        there = run.loc[run["accuracy"] >= accuracy, "iteration"]
        rows.append((size, classes_of(size), head, seed, there.min() if len(there) else np.inf))
    return pd.DataFrame(rows, columns=["size", "num_classes", "head", "seed", "steps"])


def spread(values, form="{:.3g}"):
    """A median and its range as text: "12 (10–15)"; without the range where it is one number."""
    low, median, high = (form.format(v) for v in (values.min(), values.median(), values.max()))
    return median if low == high else f"{median} ({low}–{high})"


def claims(frame):
    """The table of claims: columns claim, where (in the paper), measured, verdict.

    frame: of `labkit.studies.sweep.load`, with the heads standard, fixed and implicit in every size, and the variants
    where they were run. Raises ValueError without those.
    """
    frame = frame.reset_index(drop=True)
    sizes = sorted(frame["size"].unique(), key=classes_of)
    there = set(zip(frame["size"], frame["head"]))
    if missing := [(s, h) for s in sizes for h in MAIN if (s, h) not in there]:
        raise ValueError(f"claims are about three heads in every size; there are no runs of {missing}")
    table = [
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
            table.append(claim(frame, with_it))
    return pd.DataFrame(table, columns=["claim", "where", "measured", "verdict"])


def _verdict(good, some):
    return HOLDS if good else IN_PART if some else NOT


def _by(table, sizes, head, column="steps"):
    """{size: values of a column over seeds}."""
    return {s: table.loc[(table["size"] == s) & (table["head"] == head), column] for s in sizes}


def _steps(frame, sizes, heads):
    """{head: {size: steps to 100 %, over seeds}}."""
    table = steps_to(frame)
    return {head: _by(table, sizes, head) for head in heads}


def _at(frame, iteration):
    """The last row of each run that is not after an iteration."""
    early = frame[frame["iteration"] <= iteration]
    return early.loc[early.groupby(["size", "head", "seed"])["iteration"].idxmax()]


def _end(frame, sizes):
    """The last iteration that all runs of a size reach, {size: iteration}, and the rows there."""
    last = {s: frame[frame["size"] == s].groupby(["head", "seed"])["iteration"].max().min() for s in sizes}
    return last, pd.concat([_at(frame[frame["size"] == s], last[s]) for s in sizes])


def _list(found):
    return ", ".join(spread(values) for values in found.values())


def _percent(share):
    return f"{100 * share:.2g} %" if share >= 1e-5 else "< 0.001 %"  # below that it is rounding, of either sign


def _same_rate(frame, sizes):
    steps = _steps(frame, sizes, MAIN)
    growth = {h: steps[h][sizes[-1]].median() / steps[h][sizes[0]].median() for h in MAIN}
    measured = f"steps to 100 % accuracy, {' / '.join(sizes)}: {_list(steps['implicit'])}"
    verdict = _verdict(growth["implicit"] <= 1.5, growth["implicit"] < min(growth["standard"], growth["fixed"]))
    return (
        "the implicit ETF converges at the same rate as C grows (rule: at most 1.5 × the steps)",
        "Section 4, Figure 3",
        measured,
        verdict,
    )


def _others_slower(frame, sizes):
    steps = _steps(frame, sizes, ("standard", "fixed"))
    slower = [steps[h][sizes[-1]].median() > steps[h][sizes[0]].median() for h in steps]
    measured = f"steps to 100 %: standard {_list(steps['standard'])}; fixed {_list(steps['fixed'])}"
    return (
        "the standard and the fixed head need more time the larger C (rule: more steps at the "
        "largest than at the smallest)",
        "Section 4, Figure 3",
        measured,
        _verdict(all(slower), any(slower)),
    )


def _identical(frame, sizes):
    rows = _at(frame[frame["head"].isin(MAIN)], 800)
    done = [(rows.loc[rows["size"] == s, "accuracy"] == 1).all() for s in sizes]
    nc1 = rows.groupby(["size", "head"])["nc1"].median().unstack()[MAIN]
    gap = (nc1.max(axis=1) / nc1.min(axis=1)).max()
    places = ", ".join(s for s, d in zip(sizes, done) if d) or "nowhere"
    measured = f"accuracy 100 % in every run: {places}; but NC1 differs by up to {gap:.2g} ×"
    return (
        "after 800 iterations all have converged to identical results (rule: accuracy)",
        "Figure 3",
        measured,
        _verdict(all(done), any(done)),
    )


def _bound(frame, sizes):
    last, rows = _end(frame[frame["head"].isin(MAIN)], sizes)
    bounds = {s: etf.cross_entropy_bound(classes_of(s), 5.0) for s in sizes}
    above = {h: {s: v / bounds[s] - 1 for s, v in _by(rows, sizes, h, "loss").items()} for h in MAIN}
    text = "; ".join(f"{h} " + ", ".join(_percent(v.median()) for v in above[h].values()) for h in MAIN)
    measured = f"cross entropy above the bound after {' / '.join(str(n) for n in last.values())} iterations: {text}"
    reached = [v.max() <= 0.01 for v in above["fixed"].values()]
    return (
        "the fixed ETF reaches the lower bound of the cross entropy (rule: within 1 %)",
        "Section 4, Figure 2",
        measured,
        _verdict(all(reached), any(reached)),
    )


def _collapse(frame, sizes):
    best = {10: [], 100: [], 800: []}  # at each iteration, whether it is the smallest: by size and measure
    for iteration in best:
        rows = _at(frame[frame["head"].isin(MAIN)], iteration)
        for size in sizes:
            for measure in ("nc1", "nc3"):
                medians = rows[rows["size"] == size].groupby("head")[measure].median()
                best[iteration].append(medians.idxmin() == "implicit")
    whole = best[10] + best[100] + best[800]
    measured = (
        f"of the three heads it has the smallest NC1 and NC3 in {sum(whole)} of {len(whole)} comparisons "
        f"({sum(best[10])} of {len(best[10])} after 10 iterations, {sum(best[800])} of {len(best[800])} after 800)"
    )
    return (
        "the implicit ETF is best at reaching collapse (rule: NC1 and NC3 after 10, 100, 800)",
        "Section 4, Figure 2",
        measured,
        _verdict(all(whole), sum(whole) > len(whole) / 2),
    )


def _variability(frame, sizes):
    seeds = frame.groupby(["size", "head"])["seed"].nunique()
    several = [s for s in sizes if min(seeds[s, h] for h in MAIN) > 1]  # one seed has no range
    smallest = []
    for iteration in (10, 100, 800):
        rows = _at(frame[frame["head"].isin(MAIN)], iteration)
        for size in several:
            by = rows[rows["size"] == size].groupby("head")["loss"]
            ranges = (by.max() - by.min()) / by.median()
            smallest.append(ranges.idxmin() == "implicit")
    measured = (
        f"of the three heads it has the smallest range of the loss over seeds in {sum(smallest)} of {len(smallest)} "
        f"comparisons ({', '.join(several)}; after 10, 100 and 800 iterations)"
    )
    return (
        "the implicit ETF varies least between runs (rule: range over median of the loss)",
        "Section 4",
        measured,
        _verdict(all(smallest), sum(smallest) > len(smallest) / 2),
    )


def _normalisation(frame, sizes):
    steps = _steps(frame, sizes, ("standard", "standard_no_norm"))
    faster = [steps["standard"][s].median() < steps["standard_no_norm"][s].median() for s in sizes]
    measured = (
        f"standard head, steps to 100 %, {' / '.join(sizes)}: normalised {_list(steps['standard'])}; "
        f"not {_list(steps['standard_no_norm'])}"
    )
    return (
        "normalising features and weights accelerates convergence (rule: fewer steps)",
        "Section 4, Figure 17",
        measured,
        _verdict(all(faster), any(faster)),
    )


def _ddn(frame, sizes):
    pair = ["implicit", "implicit_without_ddn"]
    gaps = []
    for iteration in (10, 100, 800):
        rows = _at(frame[frame["head"].isin(pair)], iteration)
        loss = rows.pivot(index=["size", "seed"], columns="head", values="loss").dropna()
        gaps.append((loss[pair[1]] / loss[pair[0]] - 1).abs().max())
    measured = "largest difference of the loss at one seed after 10, 100, 800 iterations: " + ", ".join(
        _percent(g) for g in gaps
    )
    return (
        "without the gradient through the ETF the result is comparable (rule: within 1 %)",
        "Section 5, Figure 15",
        measured,
        _verdict(max(gaps) <= 0.01, min(gaps) <= 0.01),
    )


def markdown(table):
    """A table as Markdown lines."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", help="of the runs; by default those that came with labkit")
    print(markdown(claims(sweep.load(parser.parse_args().folder or stored() / "results" / "ufm").frame)))


if __name__ == "__main__":
    main()
