"""The course's own notebooks as the editions need them: every exercise checked, every prediction answered, nothing to be
seen too early; the student's edition runs with nothing attempted, and the instructor's has everything right.
"""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from labkit.course import editions
from labkit.course.exercises import exercises
from labkit.course.grade import asked
from notebooks import other_parameters, tagged

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def printed(*cells):
    """The text that cells print."""
    return "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", []))


def checked(notebook):
    return [eval(arguments[1]) for _, arguments in editions.calls(notebook, "check")]


def test_every_prediction_is_answered_and_every_tag_is_known(notebook):
    assert editions.problems(notebook) == []
    assert editions.named(notebook, "predict")


def test_every_exercise_has_its_gap_its_solution_and_its_check(path, notebook):
    here = {name: e.attempt for name, e in exercises().items() if e.notebook == path.stem[:2]}
    assert asked(notebook) == here
    for name, exercise in ((name, exercises()[name]) for name in here):
        (gap,) = [c for c in notebook.cells if "exercise" in editions.tags(c) and c.source.startswith(exercise.stub)]
        (check,) = [c for c in notebook.cells if exercise.call in c.source]
        first = exercise.attempt.strip("()").split(",")[0]
        solutions = [c for c in notebook.cells if "solution" in editions.tags(c) and first in c.source]
        assert solutions and notebook.cells.index(gap) < notebook.cells.index(solutions[0]), name
        assert notebook.cells.index(solutions[0]) < notebook.cells.index(check), name


def test_students_see_no_answer_too_early(notebook):
    """No output from the first prediction on, no text with the tag `answer` that is not folded, and no check of ours."""
    assert [c.id for c in notebook.cells if "hidden-check" in editions.tags(c) and c.outputs] == []
    made = editions.student(notebook)
    first = next(k for k, cell in enumerate(made.cells) if "predict" in editions.tags(cell))
    for cell in made.cells[first:]:
        assert not cell.get("outputs")
        if cell.cell_type == "markdown" and "answer" in editions.tags(cell):
            assert cell.source.startswith("<details>")
    assert "assert " not in "".join(cell.source for cell in made.cells if cell.cell_type == "code")


def test_the_students_edition_runs_with_nothing_attempted(notebook):
    """With the parameters of a short run."""
    edition, names = editions.student(notebook), checked(notebook)
    (cell,) = tagged(edition, "parameters")
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in other_parameters(notebook).items())
    NotebookClient(edition, timeout=200, resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    said = printed(*edition.cells)
    assert all(f"{name}: not attempted yet." in said for name in names)
    assert all(f"{name}: going on with labkit's" in said for name in editions.named(notebook, "use"))


def test_the_instructors_edition_has_everything_right(notebook):
    """As saved; the tag makes nbval run the cell again and compare."""
    cells = editions.instructor(notebook).cells
    said = printed(*cells)
    assert all(f"{name}: right." in said for name in checked(notebook))
    assert all(f"{name}: going on with your" in said for name in editions.named(notebook, "use"))
    assert all("nbval-check-output" in editions.tags(cells[k]) for k, _ in editions.calls(notebook, "check"))


def test_slides_have_titles_little_text_and_no_answer_beside_its_question(notebook):
    slides = []
    for cell in editions.slides(notebook).cells:
        kind = cell.metadata["slideshow"]["slide_type"]
        if kind in ("slide", "subslide"):
            slides.append([])
        if kind not in ("skip", "notes"):
            slides[-1].append(cell)
    assert slides
    for cells in slides:
        words = [cell.source for cell in cells if cell.cell_type == "markdown"]
        assert words and words[0].startswith("#"), cells[0].source
        assert len(" ".join(words).split()) <= 190, words[0]
        assert sum(len(printed(cell).splitlines()) for cell in cells) <= 26, words[0]
        if any(text.startswith("**Predict first.**") for text in words):
            at_once = [cell for cell in cells if cell.metadata["slideshow"]["slide_type"] == "-"]
            assert not any("answer" in editions.tags(cell) for cell in at_once), words[0]
