"""Twenty made-up hand-ins, honest and not, each with the marks it deserves."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from labkit.course import grade

STUBS = {
    "bound": "def my_bound(num_classes, temperature):\n    return None",
    "mean-age": "def my_age(t):\n    return None",
    "coin-toss": "my_probability = None",
}
CHECKS = {
    "bound": 'check(my_bound, "bound")',
    "mean-age": 'check(my_age, "mean-age")',
    "coin-toss": 'check(my_probability, "coin-toss")',
}
BOUND = "def my_bound(C, tau):\n    return math.log1p((C - 1) * math.exp(-tau * C / (C - 1)))"
AGE = "def my_age(t):\n    return (t - 1) / 3"
TOSS = "my_probability = 0.0625"
IMPORTS = "import math\nfrom labkit.course import check, use"
HOUR = "import time\ntime.sleep(3600)"


def code(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)})


def source_notebook():
    cells = [new_markdown_cell("# A lab"), code('PRESET = "quick"', "parameters"), code(IMPORTS)]
    for name in STUBS:
        cells += [code(STUBS[name], "exercise"), code(CHECKS[name], "check")]
    return new_notebook(cells=cells)


def lab(
    bound=None, age=None, toss=None, *, first=(), last=(), checks=CHECKS, parameters='PRESET = "quick"', imports=IMPORTS
):
    """A hand-in with some answers, and cells before and after them."""
    cells = [code(parameters, "parameters"), code(imports), *map(code, first)]
    for name, answer in zip(STUBS, (bound, age, toss)):
        cells.append(code(STUBS[name] if answer is None else answer))
        if name in checks:
            cells.append(code(checks[name]))
    return new_notebook(cells=[*cells, *map(code, last)])


P, W, E, M, T, U = grade.PASSED, grade.WRONG, grade.EMPTY, grade.MISSING, grade.TIME, grade.UNREADABLE
DEAF = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"

# student: (notebook, statuses of bound, mean-age and coin-toss)
HAND_INS = {
    "all-right": (lab(BOUND, AGE, TOSS), (P, P, P)),
    "nothing-done": (lab(), (E, E, E)),
    "one-right": (lab(BOUND), (P, E, E)),
    "all-wrong": (lab(BOUND.replace("log1p", "log"), AGE.replace("- 1", "+ 1"), "my_probability = 0.5"), (W, W, W)),
    "loops-for-ever": (lab(BOUND, AGE, TOSS, first=["while True:\n    pass"]), (P, P, P)),
    "attempt-loops": (lab(BOUND, "def my_age(t):\n    while True:\n        pass", TOSS), (P, T, P)),
    "deaf-loop": (lab(BOUND, AGE, DEAF), (P, P, M)),
    "raises": (lab(BOUND, AGE, TOSS, first=["1 / 0", "raise SystemExit"]), (P, P, P)),
    "attempt-raises": (lab("def my_bound(C, tau):\n    raise ValueError", AGE, TOSS), (W, P, P)),
    "checks-deleted": (lab(BOUND, AGE, "my_probability = 0.5", checks={}), (P, P, W)),
    "answers-deleted": (lab("", AGE, ""), (M, P, M)),
    "prints-passed": (lab('print("bound: right.")', 'print("passed")', 'print("coin-toss: right.")'), (M, M, M)),
    "own-check": (lab(None, AGE, "my_probability = 1.0", first=["def check(*_):\n    print('right')"]), (E, P, W)),
    "forged-record": (
        lab(
            None,
            None,
            TOSS,
            last=["from labkit.course.exercises import checking\nchecking.RECORDS['bound'] = dict(passed=True)"],
        ),
        (E, E, P),
    ),
    "replaced-check": (
        lab(
            None,
            None,
            None,
            first=["from labkit.course.exercises import checking\nchecking._verdict = lambda *a: ('right', '', '')"],
        ),
        (E, E, E),
    ),
    "takes-ours": (lab('my_bound = use("bound")', 'my_age = use("mean-age")'), (W, W, E)),
    "library": (lab("from labkit.etf import cross_entropy_bound as my_bound", AGE, None), (W, P, E)),
    "too-much-memory": (lab(BOUND, AGE, TOSS, first=["hoard = bytearray(60 << 30)"]), (P, P, P)),
    "kernel-killed": (lab(BOUND, AGE, TOSS, first=["import os\nos._exit(1)"], parameters=HOUR), (P, P, P)),
    "damaged-file": ("{ this is not a notebook", (U, U, U)),
}


@pytest.mark.timeout(600)
def test_twenty_hand_ins_get_the_marks_they_deserve(tmp_path):
    assert len(HAND_INS) == 20
    source = tmp_path / "07-lab.ipynb"
    nbformat.write(source_notebook(), source)
    folder = tmp_path / "handed-in"
    for number, (student, (notebook, _)) in enumerate(HAND_INS.items()):
        path = folder / f"{student}.ipynb" if number % 2 else folder / student / "07-lab.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(notebook) if isinstance(notebook, str) else nbformat.write(notebook, path)
    table = grade.grade(folder, [source], limits=grade.Limits(cell=5, notebook=120, memory=8 << 30), workers=2)
    found = {s: tuple(rows.set_index("exercise").loc[list(STUBS), "status"]) for s, rows in table.groupby("student")}
    assert found == {student: statuses for student, (_, statuses) in HAND_INS.items()}
    marks, reasons = grade.write(table, folder)
    assert marks.read_text().splitlines()[:2] == ["student,07 bound,07 mean-age,07 coin-toss,sum", "all-right,1,1,1,3"]
    assert len(marks.read_text().splitlines()) == 21
    assert "own solution" in reasons.read_text() and "own answer" in reasons.read_text()


def test_an_empty_folder_is_said_to_be_empty(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"STUDENT\.ipynb"):
        grade.grade(tmp_path, [])
