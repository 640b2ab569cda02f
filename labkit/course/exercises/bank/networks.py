"""Notebooks 08 and 09: what counts as evidence, gates, and shapes inside networks."""

import math
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from labkit.course.exercises.exercise import DOUBLE, Exercise


def _entropy(gates):
    share = gates / gates.sum(-1, keepdim=True)
    return torch.special.entr(share).sum(-1)


def my_channels(gates: Tensor) -> Tensor:
    return torch.exp(_entropy(gates))


def _gates(g):
    few = torch.tensor([0.3, 0.3, 0.3, 1e-12], dtype=DOUBLE)
    rest = [
        scale * torch.rand(*shape, generator=g, dtype=DOUBLE) ** 2 + 1e-6
        for shape, scale in (((6,), 1), ((5, 64), 1), ((2, 3, 10), 7))
    ]
    return [(few,), *[(gates,) for gates in rest]]


def _failing(run):
    if not hasattr(run, "parameters") or not hasattr(run, "curves"):
        return "asked for is the run that networks.train_classifier returns"
    start = run.parameters
    if "kappa" not in start or start["kappa"].isna().all():
        return 'this network has no κ: is the activation "aglu"?'
    start = start.loc[start["iteration"] == start["iteration"].min(), "kappa"].dropna()
    if len(start) != 31:
        return f"this network has {len(start)} layers with a κ; ResNet-32 has 31"
    low, high = start.min(), start.max()
    if not (-2.001 <= low < -1 and 1 < high <= 2.001):
        return f"κ starts between {low:.2g} and {high:.2g}; U(−2, 2) is asked for"
    if len(run.curves) < 2:
        return "the network has not been trained"
    return None


def _binomial(least, most=14, chance=1 / 3, n=14):
    return sum(math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(least, most + 1))


def my_sides(
    n: int, up: bool = False, pool: bool = True, stages: int = 3, stem: tuple[int, int, int] = (7, 2, 3)
) -> list[int]:
    step = lambda n, k, s, q: (-(-(n + 2 * q - k) // s) if up else (n + 2 * q - k) // s) + 1
    side = step(n, *stem)
    found = [step(side, 3, 2, 1) if pool else side]
    found.append(found[-1])
    for _ in range(stages):
        found.append(step(found[-1], 3, 2, 1))
    return found


def _halves(n):
    return [n // 4, n // 4, n // 8, n // 16, n // 32]


def clearly_first(low: pd.DataFrame, high: pd.DataFrame, against: str = "max", equal: bool = False) -> dict[str, int]:
    counts = {}
    for head in low:
        others = high.drop(columns=head)
        best = getattr(others, against)(axis=1)
        counts[head] = int((low[head] >= best).sum() if equal else (low[head] > best).sum())
    return counts


def _ranges(g):
    cases = []
    for rows in (3, 14, 40):
        middle = 80 + 2 * torch.randn(rows, 3, generator=g)
        middle[0, 1] = middle[0].max() + 4
        half = torch.rand(rows, 3, generator=g) + 0.2
        frames = [
            pd.DataFrame(
                (middle + s * half).round(decimals=1).double().numpy(), columns=["standard", "fixed", "implicit"]
            )
            for s in (-1, 1)
        ]
        frames[0].loc[rows - 1] = [70.0, 80.0, 75.0]
        frames[1].loc[rows - 1] = [72.0, 81.0, 80.0]  # ranges that touch are not apart
        cases.append(tuple(frames))
    return cases


EXERCISES = (
    Exercise(
        name="coin-toss",
        notebook="08",
        stub="my_probability = None  # your number here",
        solution=2 * 0.5**5,
        mistakes=(
            (0.5**5, "that is one network's sweep; you would have been as impressed by the other's"),
            (1 - 2 * 0.5**5, "1 minus the right answer"),
            (0.5, "that is for one seed"),
            (5 * 0.5**5, "five seeds, but only one way to win them all"),
            (0.5**4 * 2, "that is for four seeds"),
            (0.05, "the usual threshold is not the probability"),
            (6.25, "in per cent; asked for is a number between 0 and 1"),
            (0.5**10, "both cannot win all five: add the two probabilities, do not multiply them"),
            (0.04, "the five seeds are not the alternatives; each is a coin toss"),
            (16.0, "one over the right answer"),
        ),
    ),
    Exercise(
        name="channels",
        notebook="08",
        stub="def my_channels(gates):\n    return None  # your code here: gates (…, K) to (…)",
        solution=my_channels,
        inputs=_gates,
        mistakes=(
            (lambda t: 3.0 + 0 * t.sum(-1), "the same answer whatever the gates: 3 is right for the example only"),
            (lambda t: (t > 1e-6).sum(-1), "gates that are open are counted; how wide they are counts too"),
            (lambda t: (t > 0).sum(-1), "gates above 0 are counted; how wide they are counts too"),
            (
                lambda t: t.sum(-1) ** 2 / t.square().sum(-1),
                "the inverse Simpson index; exp of the entropy is asked for",
            ),
            (_entropy, "the entropy itself: take its exponential"),
            (
                lambda t: _entropy(t) / math.log(t.shape[-1]),
                "the entropy as a share; K to the power of it is asked for",
            ),
            (
                lambda t: torch.exp(_entropy(t) / math.log(t.shape[-1])),
                "exp of E, which is already divided by ln K: H = E ln K",
            ),
            (
                lambda t: t.shape[-1] * _entropy(t) / math.log(t.shape[-1]),
                "K times E; K to the power of E is asked for",
            ),
            (lambda t: 2 ** _entropy(t), "2 to the power of an entropy in natural logarithms: take exp"),
            (
                lambda t: torch.exp(torch.special.entr(t).sum(-1)),
                "the gates do not sum to one: divide by their sum first",
            ),
            (
                lambda t: torch.exp(_entropy(t.mT if t.ndim > 1 else t)),
                "the sum runs over the wrong dimension: channels come last",
            ),
            (
                lambda t: torch.exp(_entropy(t.flatten())),
                "all gates are taken together; one answer for each row is asked for",
            ),
            (lambda t: torch.exp(-_entropy(t)), "the sign of the entropy: H = −Σ p ln p"),
            (lambda t: t.sum(-1) / t.max(-1).values, "the sum over the largest; exp of the entropy is asked for"),
            (lambda t: t.sum(-1), "the sum of the gates; exp of the entropy is asked for"),
            (
                lambda t: torch.exp(_entropy(torch.softmax(t, -1))),
                "a softmax is not what makes gates a distribution: divide by their sum",
            ),
        ),
        sizes=lambda t: {"K": t.shape[-1]},
    ),
    Exercise(
        name="failing-start",
        notebook="08",
        stub="my_run = None  # your run here, from networks.train_classifier",
        judge=_failing,
    ),
    Exercise(
        name="by-chance",
        notebook="09",
        stub="my_probability = None  # your number here",
        solution=_binomial(11),
        tolerance=2e-2,  # one digit, 0.0007, is an answer
        mistakes=(
            (_binomial(11, 11), "exactly 11 rows; at least 11 are asked for"),
            (_binomial(12), "more than 11 rows; at least 11 are asked for"),
            (_binomial(10), "at least 10 rows; at least 11 are asked for"),
            (_binomial(0, 10), "fewer than 11 rows: the opposite"),
            (_binomial(0, 11), "at most 11 rows; at least 11 are asked for"),
            (_binomial(11, chance=0.5), "three heads: the chance is 1/3, not 1/2"),
            (_binomial(11, chance=2 / 3), "the chances are exchanged: 1/3 to be narrowest, 2/3 not to be"),
            (3.0**-11, "that is 11 given rows: binomial coefficients and the other rows are missing"),
            (sum(3.0**-k * (2 / 3) ** (14 - k) for k in range(11, 15)), "the binomial coefficients are missing"),
            (
                sum(math.comb(14, k) * 3.0**-k for k in range(11, 15)),
                "the rows that are not narrowest are missing, (2/3)^(14 − k)",
            ),
            (3 * _binomial(11), "for any of the three heads; the implicit one is asked for"),
            (11 / 14, "that is the share that was seen"),
            (100 * _binomial(11), "in per cent; asked for is a number between 0 and 1"),
        ),
    ),
    Exercise(
        name="sides",
        notebook="09",
        stub="def my_sides(n):\n    return None  # your code here: five sides",
        solution=my_sides,
        inputs=lambda g: [(n,) for n in (224, 96, 32, 33, 65, 161, 299, 7, 230)],
        tolerance=1e-3,
        mistakes=(
            (_halves, "right where 32 divides n only: use ⌊(n + 2p − k)/s⌋ + 1"),
            (lambda n: _halves(224), "the sides of 224 pixels, whatever n"),
            (partial(my_sides, up=True), "rounded up; the formula rounds down"),
            (partial(my_sides, pool=False), "the pool of the stem is missing"),
            (lambda n: my_sides(n)[1:], "four sides: that of the stem is missing"),
            (lambda n: [n, *my_sides(n)[1:]], "the first is the image's side; asked for is that after the stem"),
            (
                lambda n: my_sides(n, stages=4)[:1] + my_sides(n, stages=4)[2:],
                "the first stage halves too; it changes nothing",
            ),
            (
                lambda n: [(n + 6 - 7) // 2 + 1, *my_sides(n)[1:]],
                "the first is before the pool; the pool belongs to the stem",
            ),
            (partial(my_sides, stem=(7, 2, 0)), "the padding 3 of the stem is missing"),
            (lambda n: my_sides(n)[-1], "only the last side; five are asked for"),
            (lambda n: [(a - 1) for a in my_sides(n)], "the + 1 of the formula is missing"),
        ),
        sizes=lambda n: {"n": n},
    ),
    Exercise(
        name="clearly-first",
        notebook="09",
        stub=(
            "def clearly_first(low, high):\n"
            "    return None  # your code: {head: rows}; low and high are tables with a column for each head"
        ),
        solution=clearly_first,
        inputs=_ranges,
        view=lambda answer, low, high: [float(dict(answer)[h]) for h in low],
        mistakes=(
            (partial(clearly_first, equal=True), "ranges that touch are counted: wholly above is >, not >="),
            (partial(clearly_first, against="min"), "above one of the others; above both is asked for"),
            (partial(clearly_first, against="mean"), "above the others' mean; above both is asked for"),
            (
                lambda low, high: clearly_first(low, low),
                "the low end is held against the others' low end; take their high end",
            ),
            (
                lambda low, high: clearly_first(high, high),
                "the high ends are compared; its low end against their high ends",
            ),
            (lambda low, high: clearly_first(high, low), "low and high are exchanged"),
            (
                lambda low, high: {h: int((high[h] < low.drop(columns=h).min(axis=1)).sum()) for h in low},
                "the head is clearly *last* in these rows",
            ),
            (
                lambda low, high: {h: len(low) - n for h, n in clearly_first(low, high).items()},
                "the rows in which it is not clearly first",
            ),
            (
                lambda low, high: {h: n / len(low) for h, n in clearly_first(low, high).items()},
                "a share; asked for is the number of rows",
            ),
            (
                lambda low, high: dict(
                    ((low + high) / 2).idxmax(axis=1).value_counts().reindex(low.columns, fill_value=0)
                ),
                "the head with the highest middle; ranges have to be apart",
            ),
            (
                lambda low, high: dict.fromkeys(low, sum(clearly_first(low, high).values())),
                "all heads together; one number for each",
            ),
        ),
        sizes=lambda low, high: {"rows": len(low)},
    ),
)
