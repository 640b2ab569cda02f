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


@pytest.mark.parametrize(
    "path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem, indirect=True
)
def test_slides_have_titles_little_text_and_no_answer_beside_its_question(nb):
    slides = []
    for cell in editions.slides(nb).cells:
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
