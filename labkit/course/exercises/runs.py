"""The notebooks on UFMs: questions to runs, fresh and stored."""

import math

import pandas as pd
import torch

from labkit.course.exercises.exercise import Exercise
from labkit.course.exercises.ufm import bound


def my_steps(frame, accuracy=0.9, how="median", strictly=False, by="num_classes"):
    rows = []
    for (size, _, seed), run in frame.groupby(["size", "head", "seed"]):
        there = run["accuracy"] > accuracy if strictly else run["accuracy"] >= accuracy
        rows.append(
            (size, int(size.split("-")[1]), seed, run.loc[there, "iteration"].min() if there.any() else math.inf)
        )
    table = pd.DataFrame(rows, columns=["size", "num_classes", "seed", "steps"])
    return table.groupby(by)["steps"].agg(how)


def _steps_of(answer, frame):
    if isinstance(answer, pd.DataFrame):
        answer = answer["steps"]
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
                for t in range(50):
                    level = [0.1, 0.5, 0.9, 0.95, 1.0][sum(t >= r for r in reach)]
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


EXERCISES = (
    Exercise(name="fair-direction", notebook="05", stub="my_history = None  # your History here", judge=_haar),
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
            (lambda f: my_steps(f, accuracy=1.0), "steps to 100 %; asked for is 90 %"),
            (lambda f: my_steps(f, how="mean"), "the mean over seeds; asked for is the median"),
            (lambda f: my_steps(f, how="min"), "the fastest seed; asked for is the median"),
            (lambda f: my_steps(f, how="max"), "the slowest seed; asked for is the median"),
            (lambda f: my_steps(f, strictly=True), "90 % itself counts: >= and not >"),
            (lambda f: my_steps(f, by="seed"), "grouped by seed; group by num_classes"),
            (lambda f: my_steps(f, accuracy=0.5), "steps to 50 %; asked for is 90 %"),
            (lambda f: my_steps(f, by=["num_classes", "seed"]), "one number for each seed; take their median"),
            (lambda f: my_steps(f, how="count"), "the number of seeds; asked for is their median number of steps"),
        ),
    ),
    Exercise(name="few-dimensions", notebook="06", stub="my_history = None  # your History here", judge=_few),
)
