"""Twenty made-up hand-ins, honest and not, each with the marks it deserves; and what befalls whole notebooks."""

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from labkit.course import editions, grade
from labkit.course.__main__ import main as course_main

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
OURS = 'my_bound = use("bound")\nmy_age = use("mean-age")\nmy_probability = use("coin-toss")'
DEAF = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"

# student: (notebook, statuses of bound, mean-age and coin-toss)
HAND_INS = {
    "all-right": (lab(BOUND, AGE, "import torch\nmy_probability = 0.0625 / torch.get_num_threads()"), (P, P, P)),
    "nothing-done": (lab(last=[OURS]), (E, E, E)),
    "one-right": (lab(last=[OURS, BOUND]), (P, E, E)),
    "all-wrong": (
        lab(BOUND.replace("log1p", "log"), AGE.replace("- 1", "+ 1"), "my_probability = 0.5", last=[OURS]),
        (W, W, W),
    ),
    "loops-for-ever": (lab(BOUND, AGE, TOSS, first=["while True:\n    pass"]), (P, P, P)),
    "attempt-loops": (lab(BOUND, "def my_age(t):\n    while True:\n        pass", TOSS), (P, T, P)),
    "deaf-loop": (lab(BOUND, AGE, f"{DEAF}\n{TOSS}"), (P, P, T)),
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
    "takes-ours": (lab(*OURS.splitlines()), (W, W, W)),
    "library": (lab("from labkit.etf import cross_entropy_bound as my_bound", AGE, None), (W, P, E)),
    "too-much-memory": (lab(BOUND, AGE, TOSS, first=["hoard = bytearray(60 << 30)"]), (P, P, P)),
    "kernel-killed": (lab(BOUND, AGE, TOSS, first=["import os\nos._exit(1)"], parameters=HOUR), (P, P, P)),
    "damaged-file": ("{ this is not a notebook", (U, U, U)),
}


@pytest.mark.timeout(600)
def test_twenty_hand_ins_get_the_marks_they_deserve(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
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
    said = table.set_index("student")["reason"]
    assert said["takes-ours"].str.contains("own solution").all() and "own answer" in said["library"].iloc[0]
    assert not said[["all-wrong", "nothing-done", "one-right"]].str.contains("own").any()


@pytest.mark.parametrize(
    "limits, statuses, reasons",
    [
        # Its kernel alone takes longer than a hundredth of a second.
        (grade.Limits(notebook=0.01), (T, T, M), ("0.01 seconds were used up", "0.01 seconds", "nothing is called")),
        (grade.Limits(cell=3), (P, T, M), ("tried on", "more than 3 seconds", "nothing is called")),
    ],
    ids=["of the notebook", "of a cell"],
)
def test_what_time_cuts_off_is_told_from_what_was_not_written(limits, statuses, reasons):
    source = source_notebook()
    cells = [IMPORTS, BOUND, CHECKS["bound"], f"{HOUR}\n{AGE}", CHECKS["mean-age"]]
    marks = grade.mark(new_notebook(cells=[code(cell) for cell in cells]), source, limits)
    assert tuple(marks[name]["status"] for name in STUBS) == statuses
    assert all(said in marks[name]["reason"] for name, said in zip(STUBS, reasons))


def test_the_first_notebook_handed_in_blank_gets_no_point():
    """Its own cells go on with labkit's number; those that name the attempt are run."""
    source = nbformat.read(Path(__file__).parents[2] / "notebooks" / "00-start-here.ipynb", as_version=4)
    edition = editions.student(source)
    edition.cells = [code(IMPORTS), *(cell for cell in edition.cells if "my_cosine" in cell.source)]
    assert any('my_cosine = use("five-classes")' in cell.source for cell in edition.cells)
    assert grade.mark(edition, source) == {"five-classes": {"status": E, "reason": ""}}


def test_a_damaged_file_is_called_so_and_what_jupyter_keeps_is_no_student(tmp_path):
    for name in ("07-lab", "08-lab"):
        nbformat.write(source_notebook(), tmp_path / f"{name}.ipynb")
    folder = tmp_path / "handed-in"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    (folder / ".ipynb_checkpoints" / "alice-checkpoint.ipynb").write_text("{}")
    (folder / "alice.ipynb").write_text("{ this is not a notebook")
    (folder / "bob").mkdir()
    (folder / "bob" / "08-lab.ipynb").write_text("{ nor is this")
    table = grade.grade(folder, tmp_path.glob("*.ipynb"))
    assert table[["student", "exercise", "status"]].values.tolist() == [
        ["alice", "", U],
        *(["bob", name, U] for name in STUBS),
    ]
    assert table["reason"].str.contains("does not appear to be JSON").all()
    marks, _ = grade.write(table, folder)
    assert marks.read_text().splitlines() == [
        "student,08 bound,08 mean-age,08 coin-toss,sum",
        "alice,,,,0",
        "bob,0,0,0,0",
    ]
    marks, _ = grade.write(table[table["student"] == "alice"], folder)
    assert pd.read_csv(marks).values.tolist() == [["alice", 0]]


def test_a_notebook_that_nobody_can_run_costs_the_others_nothing(tmp_path, monkeypatch):
    """nbformat reads all of these, with a warning at most."""
    nbformat.write(source_notebook(), tmp_path / "08-lab.ipynb")
    folder = tmp_path / "handed-in"
    folder.mkdir()
    monkeypatch.setattr(grade, "_run", lambda *a, **k: None)
    for student, damage in {
        "anna": lambda nb: None,
        "bob": lambda nb: [cell["metadata"].update(tags=None) for cell in nb["cells"]],
        "carl": lambda nb: nb["metadata"].update(labkit={"notebook": ["x"]}),
        "dora": lambda nb: [cell.update(source=None) for cell in nb["cells"]],
    }.items():
        nb = json.loads((tmp_path / "08-lab.ipynb").read_text())
        damage(nb)
        (folder / f"{student}.ipynb").write_text(json.dumps(nb))
    table = grade.grade(folder, [tmp_path / "08-lab.ipynb"])
    statuses = table.groupby("student")["status"].agg(set)
    assert (
        set(statuses.index) == {"anna", "bob", "carl", "dora"} and (table.groupby("student").size() == len(STUBS)).all()
    )
    assert statuses["bob"] == {U} and not any(U in statuses[student] for student in ("anna", "carl", "dora"))


def test_a_name_or_a_reason_that_is_no_text_costs_nobody_a_mark(tmp_path, monkeypatch):
    """As of an archive from a Windows machine, unpacked elsewhere; an error's words can hold anything too."""
    nbformat.write(source_notebook(), tmp_path / "08-lab.ipynb")
    folder = tmp_path / "handed-in"
    folder.mkdir()
    found = {name: {"status": W, "reason": "it raises ValueError: \udcff"} for name in STUBS}
    monkeypatch.setattr(grade, "mark", lambda *a, **k: found)
    monkeypatch.setattr(grade, "hand_ins", lambda _: [("J\udcf6rg", tmp_path / "08-lab.ipynb")])
    for path in grade.write(grade.grade(folder, [tmp_path / "08-lab.ipynb"]), folder):
        assert "J\\udcf6rg" in path.read_text(encoding="utf-8")


def test_a_number_after_use_counts_for_nothing_however_use_is_called():
    notebook = new_notebook(cells=[code(IMPORTS), code('my_probability = use (name="coin-toss")')])
    assert grade.mark(notebook, source_notebook())["coin-toss"]["status"] == W


def test_an_empty_folder_is_said_to_be_empty(tmp_path):
    nbformat.write(source_notebook(), tmp_path / "08-lab.ipynb")
    (tmp_path / "nobody").mkdir()
    with pytest.raises(FileNotFoundError, match=r"STUDENT\.ipynb"):
        grade.grade(tmp_path / "nobody", [tmp_path / "08-lab.ipynb"])


def test_marks_stay_where_there_is_nothing_to_mark_by(tmp_path):
    """As from another folder than the course's, where --notebooks leads nowhere."""
    (tmp_path / "marks.csv").write_text("anna,1,1")
    nbformat.write(source_notebook(), tmp_path / "anna.ipynb")
    with pytest.raises(FileNotFoundError, match="no source notebooks"):
        grade.grade(tmp_path, [])
    for arguments in (["grade", str(tmp_path)], ["editions"]):
        with pytest.raises(SystemExit):
            course_main(["--notebooks", str(tmp_path / "nowhere"), *arguments])
    assert (tmp_path / "marks.csv").read_text() == "anna,1,1"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cell", "-5"], "cell must be a finite number above 0, got -5.0"),
        (["--notebook", "0"], "notebook must be a finite number above 0, got 0.0"),
        (["--memory", "-1"], "memory must be a finite number above 0, got -1000000000"),
        (["--workers", "0"], "workers must be an integer of at least 1, got 0"),
    ],
)
def test_limits_that_would_fail_everybody_are_refused(tmp_path, capsys, words, said):
    (tmp_path / "05-lab.ipynb").write_text("")
    with pytest.raises(SystemExit):
        course_main(["--notebooks", str(tmp_path), "grade", str(tmp_path), *words])
    assert said in capsys.readouterr().err
