"""Claims: on made-up runs whose verdicts follow from how they were made."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from labkit import etf
from labkit.studies import claims, sweep
from labkit.studies.claims import HOLDS, IN_PART, NOT, steps_to

ROOT = Path(__file__).resolve().parents[2]
TIMES = [0, 1, 2, 5, 10, 50, 100, 800, 2000]


def runs(head, size, steps, excess=0.001, nc=1.0, jitter=0.0):
    """Runs of three seeds that are right from `steps` on, at `excess` (relative) above the bound, with NC1 and NC3 of
    size nc.
    """
    C = int(size.split("-")[1])
    rows = []
    for seed in range(3):
        for t in TIMES:
            rows.append(
                dict(
                    size=size,
                    head=head,
                    seed=seed,
                    iteration=t,
                    accuracy=float(t >= steps),
                    nc1=nc / (t + 1),
                    nc3=nc / (t + 1),
                    loss=etf.cross_entropy_bound(C, 5.0) * (1 + excess) * (1 + jitter * seed),
                )
            )
    return pd.DataFrame(rows)


def table(**changes):
    """All claims on two sizes in which every one holds, but for changes: {head: {size: settings}}."""
    made = {
        "standard": {"UFM-10": dict(steps=5, nc=9, jitter=0.1), "UFM-100": dict(steps=10, nc=9, jitter=0.1)},
        "fixed": {"UFM-10": dict(steps=2, nc=5, jitter=0.004), "UFM-100": dict(steps=5, nc=5, jitter=0.004)},
        "implicit": {"UFM-10": dict(steps=1), "UFM-100": dict(steps=1)},
        "implicit_without_ddn": {"UFM-10": dict(steps=1, excess=0.002), "UFM-100": dict(steps=1)},
        "standard_no_norm": {"UFM-10": dict(steps=50, excess=-0.9), "UFM-100": dict(steps=100, excess=-0.9)},
    }
    for head, sizes in changes.items():
        for size, settings in sizes.items():
            made[head][size] = made[head][size] | settings
    return claims.claims(pd.concat(runs(h, s, **kw) for h, sizes in made.items() for s, kw in sizes.items()))


def verdicts(found):
    return found["verdict"].tolist()


def test_where_all_hold():
    found = table()
    assert verdicts(found) == [HOLDS] * 8
    text = found["measured"].tolist()
    assert "UFM-10 / UFM-100: 1, 1" in text[0] and "standard 5, 10; fixed 2, 5" in text[1]
    assert "UFM-10, UFM-100; but NC1 differs by up to 9 ×" in text[2]
    assert (
        "after 2000 / 2000 iterations: standard 10 %, 10 %; fixed 0.5 %, 0.5 %; implicit 0.1 %, 0.1 %" in text[3]
    )  # the median seed
    assert "12 of 12" in text[4] and "6 of 6" in text[5]
    assert "normalised 5, 10; not 50, 100" in text[6] and text[7].endswith(": 0.1 %, 0.1 %, 0.1 %")


@pytest.mark.parametrize(
    "place, changes, verdict",
    [
        (
            0,
            {
                "implicit": {"UFM-100": dict(steps=2)},
                "standard": {"UFM-100": dict(steps=50)},
                "fixed": {"UFM-100": dict(steps=10)},
            },
            IN_PART,
        ),
        (0, {"implicit": {"UFM-100": dict(steps=10)}}, NOT),
        (1, {"fixed": {"UFM-100": dict(steps=2)}}, IN_PART),
        (1, {"fixed": {"UFM-100": dict(steps=2)}, "standard": {"UFM-100": dict(steps=5)}}, NOT),
        (2, {"standard": {"UFM-100": dict(steps=2000)}}, IN_PART),
        (3, {"fixed": {"UFM-100": dict(excess=0.5)}}, IN_PART),
        (4, {"implicit": {"UFM-100": dict(nc=20)}, "fixed": {"UFM-100": dict(nc=5)}}, NOT),
        (5, {"implicit": {"UFM-10": dict(jitter=0.5)}, "standard": {}}, NOT),
        (6, {"standard_no_norm": {"UFM-10": dict(steps=2)}}, IN_PART),
        (7, {"implicit_without_ddn": {"UFM-100": dict(excess=0.2)}}, NOT),
    ],
)
def test_where_one_fails(place, changes, verdict):
    assert verdicts(table(**changes))[place] == verdict


def test_steps_to_an_accuracy():
    found = steps_to(pd.concat([runs("fixed", "UFM-100", 10), runs("standard", "UFM-100", 10_000)]))
    assert found[["num_classes", "head", "seed"]].values.tolist() == [
        [100, h, s] for h in ("fixed", "standard") for s in range(3)
    ]
    assert found["steps"].tolist() == [10] * 3 + [np.inf] * 3


def test_a_head_with_one_seed_does_not_win_the_smallest_range():
    one = {
        "standard": dict(steps=5, jitter=0.1),
        "fixed": dict(steps=2, jitter=0.2),
        "implicit": dict(steps=1, jitter=0.01),
    }
    made = pd.concat(runs(h, s, **kw) for s in ("UFM-10", "UFM-100") for h, kw in one.items())
    single = (made["size"] == "UFM-100") & (made["head"] == "fixed") & (made["seed"] > 0)
    row = claims.claims(made[~single]).iloc[5]
    assert "3 of 3 comparisons (UFM-10;" in row["measured"] and row["verdict"] == HOLDS


def test_a_head_that_is_missing_is_named():
    with pytest.raises(ValueError, match=r"no runs of \[\('UFM-10', 'standard'\), \('UFM-10', 'implicit'\)\]"):
        claims.claims(runs("fixed", "UFM-10", 2))


def test_the_documentation_shows_the_table_of_the_stored_runs():
    table = claims.markdown(claims.claims(sweep.load(ROOT / "data" / "results" / "ufm").frame))
    assert table in (ROOT / "docs/claims.md").read_text()
    assert re.fullmatch(r"(\|.*\|\n?)+", table)
