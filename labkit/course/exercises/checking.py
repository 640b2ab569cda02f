"""`check`, `use` and `records`: an attempt is tried on several inputs, and what is wrong with it is said.

An exercise is data (`Exercise`); all of them stand in the modules of `bank` that PARTS names, so that no answer can be
read in a cell. `check` never raises, and keeps what came out, for `use` and for the grading of handed-in notebooks.
"""

import contextlib
import copy
import functools
import importlib
import inspect

import numpy as np
import torch

from labkit.course.exercises import reasons
from labkit.course.exercises.calls import TimeUp, answers_of, is_stub, of_error
from labkit.course.exercises.exercise import Exercise

PARTS = ("collapse", "simplex", "nearest", "ufm", "argmin", "activations", "networks", "longtail", "runs", "language")
RECORDS = {}  # name of an exercise -> dict of notebook, attempted, passed, reason; what `records()` returns
_PASSED = {}  # name -> the attempt that passed
SECONDS = 20  # that all inputs of an exercise may take together
EMPTY, RIGHT, WRONG = "not attempted yet", "right", "not right yet"


@functools.cache
def exercises() -> dict[str, Exercise]:
    """All exercises by name, in the order of the modules."""
    found = {}
    for part in PARTS:
        for exercise in importlib.import_module(f"labkit.course.exercises.bank.{part}").EXERCISES:
            if exercise.name in found:
                raise ValueError(f"two exercises are called {exercise.name!r}")
            found[exercise.name] = exercise
    return found


def find(name: str | Exercise) -> Exercise:
    """The exercise of that name. Raises KeyError, with all names, for an unknown one."""
    if isinstance(name, Exercise):
        return name
    if not isinstance(name, str) or name not in exercises():
        raise KeyError(f"no exercise called {name!r}; there are {', '.join(exercises())}")
    return exercises()[name]


def check(attempt: object, exercise: str | Exercise, *, seconds: float = SECONDS) -> None:
    """Try an attempt on several inputs, and print whether it is right; where it is wrong, why, and for one small input
    what was expected and what came out.

    attempt: the student's function, not called, or value. exercise: its name. Never raises; a loop that does not end is
    stopped after so many seconds (where the system has alarms, and in the main thread).

    >>> check(lambda t: t / 2, "mean-age")
    mean-age: not right yet.
      for t = 1
      expected: 0
      yours:    0.5
    >>> check(lambda t: 3 * (t - 1), "mean-age")
    mean-age: not right yet. Always 9 times the right answer: a constant factor is wrong.
      for t = 2
      expected: 0.33333
      yours:    3
    >>> check(lambda t: (t - 1) / 3, "mean-age")
    mean-age: right. Tried on 6 inputs.
    """
    try:
        exercise = find(exercise)
    except KeyError as error:
        print(f"nothing is checked: {error.args[0]}; first comes your answer, then the name of its exercise")
        return
    try:
        status, why, example = _verdict(attempt, exercise, seconds)
    except TimeUp:
        status, why, example = (
            WRONG,
            f"it has not ended after {seconds:g} seconds: is there a loop that never ends?",
            "",
        )
    except Exception as error:
        status, why, example = WRONG, f"it could not be checked: {type(error).__name__}: {error}", ""
    name = exercise.name
    RECORDS[name] = {
        "notebook": exercise.notebook,
        "attempted": status != EMPTY,
        "passed": status == RIGHT,
        "reason": why,
    }
    _PASSED.pop(name, None)
    if status == RIGHT:
        _PASSED[name] = attempt
    print(
        f"{name}: {status}"
        + (f". {why[0].upper()}{why[1:]}" if why else "")
        + ("" if why.endswith(("?", ".")) else ".")
    )
    if example:
        print(example)


def use(name: str) -> object:
    """The student's function where it passed `check`, else labkit's solution; prints which of them goes on."""
    exercise = find(name)
    if name in _PASSED:
        print(f"{name}: going on with your {exercise.attempt}.")
        return _PASSED[name]
    tried = RECORDS.get(name, {}).get("attempted", False)
    why = "is not right yet" if tried else "was not attempted yet"
    print(f"{name}: going on with labkit's {exercise.attempt}, as yours {why}.")
    return exercise.solution


def records() -> dict[str, dict]:
    """What `check` found in this kernel: a dict of plain values for each exercise, which JSON can hold."""
    return copy.deepcopy(RECORDS)


# --------------------------------------------------------------------------------------------------- one verdict


def _verdict(attempt, exercise, seconds):
    """(status, reason, example) of an attempt."""
    if _is_empty(attempt) or is_stub(attempt, exercise):
        return EMPTY, "", ""
    if exercise.inputs is None:
        return _value_verdict(attempt, exercise)
    if not callable(attempt):
        return (
            WRONG,
            f"{reasons.kind(attempt)} is given: hand over the function itself, {exercise.attempt}, not called",
            "",
        )
    cases = exercise.inputs(_generator())
    if not _takes(attempt, cases[0]):
        line = next(line for line in exercise.stub.splitlines() if line.startswith("def "))
        return WRONG, f"the function takes other arguments than asked for; it begins with {line}", ""
    solutions = [e.solution for e in exercises().values()]
    answers, used, error = answers_of(attempt, cases, exercise, solutions, seconds)
    if isinstance(error, NotImplementedError):
        return EMPTY, "", ""
    if used:
        return WRONG, exercise.forbidden.format(", ".join(sorted(used))), ""
    if error is not None:
        return WRONG, of_error(error), _shown(cases[len(answers)], exercise)
    if all(a is None for a in answers):
        return (
            WRONG,
            "nothing is returned: end the function with `return` and your result (printing it is not enough)",
            "",
        )
    if any(a is None for a in answers):
        return WRONG, "for some inputs nothing is returned", ""
    verdict = _compare(answers, cases, exercise)
    if verdict[0] != RIGHT and any(isinstance(x, torch.Tensor) for x in cases[0]):
        # A buffer made by torch.zeros is in float32, as a notebook's features are, and rounds what these inputs are.
        answers, used, error = answers_of(attempt, cases, exercise, solutions, seconds, single=True)
        if not used and error is None and all(a is not None for a in answers):
            again = _compare(answers, cases, exercise)
            verdict = again if again[0] == RIGHT else verdict
    return verdict


def _takes(function, case):
    """Whether a function can be called with so many arguments; yes where its signature cannot be read."""
    try:
        inspect.signature(function).bind(*case)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def _generator():
    """Always the same inputs, so that what a check prints does not change from run to run."""
    return torch.Generator().manual_seed(20241)


def _is_empty(attempt):
    """None, or a tuple or dict of nothing but None: "my_width, my_gigabytes = None, None"."""
    parts = (
        attempt.values() if isinstance(attempt, dict) else attempt if isinstance(attempt, (tuple, list)) else [attempt]
    )
    return attempt is None or (bool(parts) and all(part is None for part in parts))


def _compare(answers, cases, exercise):
    if exercise.judge:
        for answer, case in zip(answers, cases):
            if why := exercise.judge(answer, *copy.deepcopy(case)):
                return WRONG, why, _shown(case, exercise, answer)
        if exercise.solution is None:
            return RIGHT, "", ""
    view = exercise.view or (lambda answer, *case: answer)
    try:
        read = [reasons.numbers(view(a, *copy.deepcopy(c))) for a, c in zip(answers, cases)]
    except Exception as error:
        return WRONG, f"{reasons.kind(answers[0])} is returned that cannot be read: {error}", _shown(cases[0], exercise)
    actual = [numbers for numbers, _ in read]
    tolerance = max([exercise.tolerance, *(reasons.LOOSE.get(dtype, 0) for _, dtype in read)])
    expected = [_run(exercise.solution, view, case) for case in cases]
    if reasons.all_agree(actual, expected, tolerance):
        return RIGHT, f"tried on {len(cases)} inputs", ""
    wrong = next(k for k in range(len(cases)) if not reasons.agree(actual[k], expected[k], tolerance))
    example = _shown(cases[wrong], exercise, answers[wrong])
    for mistake, text in exercise.mistakes:
        if _is_mistake(mistake, actual, cases, view, tolerance):
            return WRONG, text, example
    if exercise.explain and (why := exercise.explain(answers[wrong], *copy.deepcopy(cases[wrong]))):
        return WRONG, why, example
    sizes = [exercise.sizes(*case) if exercise.sizes else {} for case in cases]
    return WRONG, reasons.reason(actual, expected, sizes, tolerance) or "", example


def _run(function, view, case):
    with torch.random.fork_rng(devices=[]):
        case = copy.deepcopy(case)
        return reasons.numbers(view(function(*case), *copy.deepcopy(case)))[0]


def _is_mistake(mistake, actual, cases, view, tolerance):
    """Whether a wrong function gives these answers, on all inputs."""
    for answer, case in zip(actual, cases):
        try:
            if not reasons.agree(answer, _run(mistake, view, case), max(tolerance, 1e-4)):
                return False
        except Exception:
            return False
    return True


def _value_verdict(value, exercise):
    if exercise.judge:
        why = exercise.judge(value)
        if why or exercise.solution is None:
            return (WRONG, why, "") if why else (RIGHT, "", "")
    try:
        value = float(value) if isinstance(value, str) else value  # "-0.25" is read as the number it is
        actual = reasons.numbers(value)[0]
    except (TypeError, ValueError) as error:
        return WRONG, f"a number is asked for: {error}", ""
    expected = reasons.numbers(exercise.solution)[0]
    if reasons.agree(actual, expected, exercise.tolerance):
        return RIGHT, "", ""
    example = f"  yours: {_text(value)}"
    for tolerance in (1e-5, 3e-4, 3e-3):  # two mistakes may lie close together: the nearest is meant
        for mistake, text in exercise.mistakes:
            if reasons.agree(actual, reasons.numbers(mistake)[0], tolerance):
                return WRONG, text, example
    sizes = [exercise.sizes()] if exercise.sizes else []
    return WRONG, reasons.reason([actual], [expected], sizes, max(exercise.tolerance, 1e-4)) or "", example


# --------------------------------------------------------------------------------------------------- printing


def _shown(case, exercise, answer=None):
    """One input, the right answer and the student's, as text."""
    names = list(inspect.signature(exercise.solution).parameters) if callable(exercise.solution) else []
    given = ", ".join(f"{n} = {_text(x)}" for n, x in zip(names or ["input"] * len(case), case))
    lines = [f"  for {given}"]
    if callable(exercise.solution) and answer is not None:
        with contextlib.suppress(Exception):
            lines += [f"  expected: {_text(exercise.solution(*copy.deepcopy(case)))}"]
    return "\n".join([*lines, *([f"  yours:    {_text(answer)}"] if answer is not None else [])])


def _text(x):
    """A short text of a value: numbers to five digits, small arrays in full, large ones by their shape."""
    if isinstance(x, float):
        return f"{x:.5g}"
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu().numpy()
    if isinstance(x, np.ndarray):
        if x.ndim == 0:
            return f"{x.item():.5g}"
        if x.size <= 12:
            return str(np.round(x, 4).tolist())
        return f"array of shape {x.shape}, which begins {np.round(x.flatten()[:4], 4).tolist()}"
    text = " ".join(str(x).split())
    return text if len(text) <= 120 else text[:117] + "…"
