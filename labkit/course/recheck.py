"""What the grader calls in the kernel of a hand-in: a check of its own. A module by itself, as it has to load fast."""

import contextlib
import io
import json
import sys

PASSED, WRONG, EMPTY, MISSING = "passed", "wrong", "empty", "missing"


def recheck(expression: str, name: str, namespace: dict, seconds: float, used: bool = False) -> str:
    """The mark of an attempt, dict of status and reason, as JSON.

    expression: of the attempt, read in `namespace`. name: of the exercise. The check is imported afresh, so that what
    a notebook did to it does not count. used: whether labkit's answer was taken before, from which a value that is
    right cannot be told.

    >>> recheck("f", "mean-age", {"f": lambda t: (t - 1) / 3}, 5)
    '{"status": "passed", "reason": "tried on 6 inputs"}'
    """
    for module in [m for m in sys.modules if m.startswith("labkit.course.exercises")]:
        del sys.modules[module]
    from labkit.course.exercises import checking

    try:
        attempt = eval(expression, namespace)
    except Exception as error:
        return json.dumps({"status": MISSING, "reason": f"{type(error).__name__}: {error}"})
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        checking.check(attempt, name, seconds=seconds)
    record = checking.records()[name]
    status = PASSED if record["passed"] else WRONG if record["attempted"] else EMPTY
    if used and status == PASSED and not callable(attempt):
        status, record["reason"] = WRONG, "it comes after `use`, which gives the course's own solution"
    return json.dumps({"status": status, "reason": record["reason"]})
