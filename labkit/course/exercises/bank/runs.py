"""Runs of UFMs, fresh and stored (04, 06), and a thousand classes and more (11)."""

import math
from collections.abc import Callable
from functools import partial

import pandas as pd
import torch

from labkit.course.exercises.bank.simplex import slips_of, temperature_of
from labkit.course.exercises.bank.ufm import bound
from labkit.course.exercises.exercise import Exercise


def my_steps(
    frame: pd.DataFrame,
    accuracy: float = 0.9,
    how: str = "median",
    strictly: bool = False,
    by: str | list[str] = "num_classes",
) -> pd.Series:
    rows = []
    for (size, _, seed), run in frame.groupby(["size", "head", "seed"]):
        there = run["accuracy"] > accuracy if strictly else run["accuracy"] >= accuracy
        rows.append(
            (size, int(size.split("-")[1]), seed, run.loc[there, "iteration"].min() if there.any() else math.inf)
        )
    table = pd.DataFrame(rows, columns=["size", "num_classes", "seed", "steps"])
    return table.groupby(by)["steps"].agg(how)


def _of_the_median_run(frame):
    at = frame.groupby(["size", "head", "iteration"])["accuracy"].median().reset_index()
    return my_steps(at.assign(seed=0))


def _for_good(frame):
    """From where the accuracy stays: a run counts as right at a step if it is at all later ones too."""
    runs = frame.sort_values("iteration", ascending=False).groupby(["size", "head", "seed"])
    return my_steps(frame.assign(accuracy=runs["accuracy"].cummin()))


def _steps_of(answer, frame):
    if isinstance(answer, pd.DataFrame):
        answer = answer["steps"] if "steps" in answer else answer.squeeze(axis="columns")
    classes = sorted({int(size.split("-")[1]) for size in frame["size"]})
    if isinstance(answer, pd.Series) and set(answer.index) == set(frame["size"]):
        answer = answer.rename(lambda size: int(size.split("-")[1]))
    if isinstance(answer, (pd.Series, dict)) and set(dict(answer)) == set(classes):
        return [float(dict(answer)[c]) for c in classes]
    return answer


def _tables(g):
    cases = []
    for seeds in (3, 5):
        rows = []
        for size in ("UFM-10", "UFM-100", "UFM-1000"):
            for seed in range(seeds):
                reach = sorted(
                    torch.randint(2, 48, (4,), generator=g).tolist()
                )  # where 0.5, 0.9, 0.95 and 1 are reached
                for t in range(50):  # 0.9 is lost after its first step, and comes back half-way to 0.95
                    kept = t == reach[1] or 2 * t > reach[1] + reach[2]
                    level = [0.1, 0.5, 0.9 if kept else 0.5, 0.95, 1.0][sum(t >= r for r in reach)]
                    rows.append((size, "standard", seed, t, level))
        cases.append((pd.DataFrame(rows, columns=["size", "head", "seed", "iteration", "accuracy"]),))
    return cases


def _setting(history, name):
    """A setting of a run, wherever a History keeps it; None where there is none such."""
    settings = history.settings
    settings = settings["runs"][0] if "runs" in settings else settings
    found = [s[name] for s in (settings, *[v for v in settings.values() if isinstance(v, dict)]) if name in s]
    return found[0] if found else None


def _not_a_run(history):
    if not hasattr(history, "settings") or not hasattr(history, "final"):
        return "asked for is the History that ufm.train_ufm returns"
    if len(history.frame) == 0 or "loss" not in history.frame:
        return "the History has no rows with a loss"
    return None


def _haar(history):
    if why := _not_a_run(history):
        return why
    head, frame, steps = str(_setting(history, "head")), _setting(history, "frame"), history.frame["iteration"].max()
    if not head.startswith("fixed"):
        return f"the head is {head!r}; the exercise is about the fixed one"
    if frame != "haar" and head != "fixed_haar":
        return f'the frame is {frame!r}: that is where it always stands; give frame="haar"'
    if steps != 500:
        return f"the run has {steps} steps; 500 are asked for"
    if not math.isfinite(history.final()["loss"].max()):
        return "its loss is not finite: were other settings changed too?"
    return None


def _few(history):
    if why := _not_a_run(history):
        return why
    head, spec = str(_setting(history, "head")), _setting(history, "spec") or {}
    if not head.startswith("implicit"):
        return f"the head is {head!r}; the exercise is about the implicit one"
    for name, wanted, what in (
        ("num_classes", (20,), "classes"),
        ("num_samples", (400,), "samples"),
        ("dim", (19, 20), "dimensions"),
    ):
        if spec.get(name) not in wanted:
            return f"the model has {spec.get(name)} {what}; {wanted[-1]} are asked for"
    if (steps := history.frame["iteration"].max()) != 300:
        return f"the run has {steps} steps; 300 are asked for"
    tau = _setting(history, "temperature") or 5.0
    if not history.final()["loss"].max() < 1.01 * bound(20, tau):
        return "its loss is not within 1 % of the floor: were other settings changed too?"
    return None


def _p_right(C, tau):
    return math.exp(-bound(C, tau))


def my_temperature(C: int, p: float, **slip: Callable | int) -> float:
    return temperature_of(C, p / (1 - p), **slip)


def _wide(answer):
    try:
        width, gigabytes = (float(x) for x in answer)
    except (TypeError, ValueError):
        return "two numbers are asked for: the width, and the gigabytes"
    right = 4 * 21840 * 21841 / 1e9
    widths = {
        21841: "one less is enough: C points need C − 1 dimensions",
        2048: "that is what a ResNet-50 has, and too few",
        21842: "C points need C − 1 dimensions",
    }
    if width != 21840:
        return "the width: " + widths.get(width, "the smallest d with d ≥ C − 1 is asked for")
    slips = {
        2: "8 bytes a number, which is float64",
        1000: "that is in megabytes",
        1e9: "that is in bytes",
        1e9 / 2**30: "that is in units of 2^30 bytes; a gigabyte is 10^9",
        0.25: "a number in float32 has 4 bytes",
        1e6: "that is in kilobytes",
        8: "those are bits: 8 make a byte",
        0.5: "2 bytes a number, which is half precision",
    }
    for factor, text in slips.items():
        if math.isclose(gigabytes, factor * right, rel_tol=0.02):
            return f"the size: {text}"
    if math.isclose(gigabytes, 4 * 21841 * 2048 / 1e9, rel_tol=0.02):
        return "the size: that is an array of 2048 × C numbers"
    if not math.isclose(gigabytes, right, rel_tol=0.02):
        return "the size: d × C numbers of 4 bytes each, in units of 10⁹ bytes"
    return None


EXERCISES = (
    Exercise(name="fair-direction", notebook="04", stub="my_history = None  # your History here", judge=_haar),
    Exercise(
        name="probability-1000",
        notebook="06",
        stub="my_probability = None  # your number here",
        solution=_p_right(1000, 5.0),
        tolerance=1e-2,
        mistakes=(
            (bound(1000, 5.0), "the floor itself; a cross entropy is −log p"),
            (math.exp(bound(1000, 5.0)), "the sign in the exponent: p = e^(−loss)"),
            (1 - _p_right(1000, 5.0), "the probability of all the wrong classes together"),
            (1e-3, "one in a thousand is the chance of guessing; the right logit is larger than the others"),
            (math.exp(5) / (math.exp(5) + 999 * math.exp(-5)), "the other logits are −5/999, not −5"),
            (math.exp(5) / (math.exp(5) + 9), "there are 999 other classes, not 9"),
            (_p_right(10, 5.0), "that is for ten classes"),
            (10 ** -bound(1000, 5.0), "e^(−loss), not 10^(−loss)"),
            (100 * _p_right(1000, 5.0), "in per cent; asked for is a number between 0 and 1"),
            (1.0, "training accuracy is 100 %, but the model is not sure"),
        ),
    ),
    Exercise(
        name="steps-to-90",
        notebook="06",
        stub=(
            "def my_steps(frame):\n"
            "    return None  # your code: a Series, indexed by num_classes; `frame` is of one head"
        ),
        solution=my_steps,
        inputs=_tables,
        view=_steps_of,
        mistakes=(
            (partial(my_steps, accuracy=1.0), "steps to 100 %; asked for is 90 %"),
            (partial(my_steps, how="mean"), "the mean over seeds; asked for is the median"),
            (partial(my_steps, how="min"), "the fastest seed; asked for is the median"),
            (partial(my_steps, how="max"), "the slowest seed; asked for is the median"),
            (partial(my_steps, strictly=True), "90 % itself counts: >= and not >"),
            (partial(my_steps, by="seed"), "grouped by seed; group by num_classes"),
            (partial(my_steps, accuracy=0.5), "steps to 50 %; asked for is 90 %"),
            (partial(my_steps, by=["num_classes", "seed"]), "one number for each seed; take their median"),
            (partial(my_steps, how="count"), "the number of seeds; asked for is their median number of steps"),
            (_of_the_median_run, "the median accuracy first; asked for is the median over the runs of their steps"),
            (_for_good, "the step from which on it stays at 90 %; asked for is the first with 90 %"),
        ),
    ),
    Exercise(name="few-dimensions", notebook="06", stub="my_history = None  # your History here", judge=_few),
    Exercise(
        name="sure-enough",
        notebook="11",
        stub="def my_temperature(C, p):\n    return None  # your code here",
        solution=my_temperature,
        inputs=lambda g: [(2, 0.8), (10, 0.5), (3, 0.6), (100, 0.05), (1000, 0.9), (21841, 0.99)],
        mistakes=(
            *slips_of(my_temperature),
            (temperature_of, "1 − p is missing"),
            (lambda C, p: my_temperature(C, 1 - p), "p and 1 − p are exchanged"),
            (lambda C, p: temperature_of(C, 1 / (1 - p)), "the numerator's p is missing"),
            (lambda C, p: temperature_of(C, 1 / math.expm1(p)), "p is taken for the loss: the loss is −log p"),
            (
                lambda C, p: 1 / (1 + (C - 1) * math.exp(-p * C / (C - 1))),
                "the probability of a temperature; its inverse is asked for",
            ),
        ),
        sizes=lambda C, p: {"C": C},
    ),
    Exercise(
        name="widest-frame", notebook="11", stub="my_width, my_gigabytes = None, None  # your numbers here", judge=_wide
    ),
    Exercise(
        name="mean-age",
        notebook="11",
        stub="def my_age(t):\n    return None  # your code here",
        solution=lambda t: (t - 1) / 3,
        inputs=lambda g: [(t,) for t in (1, 2, 4, 10, 100, 5005)],
        mistakes=(
            (lambda t: t / 3, "nearly: (t − 1)/3; after one step the mean is of age 0"),
            (lambda t: (t + 1) / 3, "nearly: a sample of this step has age 0, not 1"),
            (lambda t: (t + 2) / 3, "1 too large: a sample of this step has age 0, not 1"),
            (lambda t: (2 * t + 1) / 3, "that is the mean step Σ s·weight; its age is t minus that"),
            (lambda t: (t - 1) / 2, "as if all steps had the same weight; step s has 2s/(t(t + 1))"),
            (lambda t: (t + 1) / 2, "the mean step if all had the same weight"),
            (lambda t: 2 / (t + 1), "that is α_t"),
            (lambda t: (1 - t) / 3, "the sign is wrong"),
            (lambda t: float(t - 1), "the age of the first step, which has the least weight"),
            (lambda t: 2 * (t - 1) / 3, "twice the right answer: recent steps weigh more, not less"),
        ),
        sizes=lambda t: {"t": t},
    ),
)
