"""The source notebooks 04 to 08 and 10 as the editions need them: every exercise checked, every prediction answered."""

from pathlib import Path

import nbformat
import pytest

from labkit.course import editions
from labkit.course.exercises import exercises
from labkit.course.grade import asked

ROOT = Path(__file__).resolve().parents[2]
PATHS = [
    path
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    if path.stem[:2] in ("04", "05", "06", "07", "08", "10")
]


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def nb(path):
    return nbformat.read(path, as_version=4)


def printed(cell):
    return "".join(out.get("text", "") for out in cell.get("outputs", []))


def test_every_prediction_is_answered_and_every_tag_is_known(nb):
    assert editions.problems(nb) == []
    assert editions.named(nb, "predict")


def test_every_exercise_of_the_notebook_is_checked_in_it(path, nb):
    here = {name: e.attempt for name, e in exercises().items() if e.notebook == path.stem[:2]}
    assert asked(nb) == here
    for name, exercise in ((name, exercises()[name]) for name in here):
        (gap,) = [c for c in nb.cells if "exercise" in editions.tags(c) and c.source.startswith(exercise.stub)]
        (check,) = [c for c in nb.cells if exercise.call in c.source]
        assert nb.cells.index(gap) < nb.cells.index(check) and f"{name}: right" in printed(check)


def test_regression_checks_print_nothing_and_students_see_no_answer(nb):
    assert [c.id for c in nb.cells if "hidden-check" in editions.tags(c) and c.outputs] == []
    made = editions.student(nb)
    first = next(k for k, cell in enumerate(made.cells) if "predict" in editions.tags(cell))
    assert all(not cell.get("outputs") for cell in made.cells[first:])
    assert "assert " not in "".join(cell.source for cell in made.cells if cell.cell_type == "code")


def test_there_are_slides(nb):
    assert any(editions.tags(cell) & {"slide"} for cell in nb.cells)
