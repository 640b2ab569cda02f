"""The course's own notebooks: the student's edition runs with nothing attempted, the instructor's with all right.

A notebook is in the course once it has an exercise in a cell of its own.
"""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from labkit.course import editions
from labkit.course.exercises import exercises
from notebooks import other_parameters, tagged

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PATHS = [p for p in sorted(NOTEBOOKS.glob("*.ipynb")) if '"exercise"' in p.read_text(encoding="utf-8")]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def ran(notebook):
    """The text that its cells print."""
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    return "".join(out.get("text", "") for c in notebook.cells if c.cell_type == "code" for out in c.outputs)


def checked(notebook):
    return [eval(arguments[1]) for _, arguments in editions.calls(notebook, "check")]


def test_every_exercise_has_its_gap_its_solution_and_its_check(notebook):
    assert editions.problems(notebook) == []
    for name in checked(notebook):
        exercise = exercises()[name]
        first = exercise.attempt.strip("()").split(",")[0]
        for tag in ("exercise", "solution"):
            cells = [c for c in notebook.cells if c.cell_type == "code" and tag in editions.tags(c)]
            assert any(first in c.source for c in cells), f"{name} has no cell tagged {tag}"


def test_what_is_predicted_cannot_be_seen_before(notebook):
    """No output from the first prediction on, and no text with the tag `answer` that is not folded."""
    made = editions.student(notebook)
    asked = next((k for k, c in enumerate(made.cells) if "predict" in editions.tags(c)), len(made.cells))
    for cell in made.cells[asked:]:
        assert not cell.get("outputs")
        if cell.cell_type == "markdown" and "answer" in editions.tags(cell):
            assert cell.source.startswith("<details>")


def test_the_students_edition_runs_with_nothing_attempted(notebook):
    """With the parameters of a short run."""
    edition, names = editions.student(notebook), checked(notebook)
    (cell,) = tagged(edition, "parameters")
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in other_parameters(notebook).items())
    said = ran(edition)
    assert all(f"{name}: not attempted yet." in said for name in names)
    assert all(f"{name}: going on with labkit's" in said for name in editions.named(notebook, "use"))


def test_the_instructors_edition_has_everything_right(notebook):
    """As saved; the tag makes nbval run the cell again and compare."""
    cells = editions.instructor(notebook).cells
    said = "".join(out.get("text", "") for c in cells if c.cell_type == "code" for out in c.outputs)
    assert all(f"{name}: right." in said for name in checked(notebook))
    assert all(f"{name}: going on with your" in said for name in editions.named(notebook, "use"))
    assert all("nbval-check-output" in editions.tags(cells[k]) for k, _ in editions.calls(notebook, "check"))
