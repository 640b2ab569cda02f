"""The table of bold sentences is in step with the notebooks, and what is missing is named."""

import copy

import findings as module
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


def test_every_bold_sentence_has_an_entry():
    assert module.missing(*module.load()) == []


def test_the_table_is_that_of_the_entries():
    assert module.TABLE.read_text() == module.table(module.load()[0]), "run tools/findings.py"


FINDING = dict(
    notebook="04", bold="It holds.", says="it holds", seeds="5", rate="no", rule="all", verdict="holds", checked="a"
)


@pytest.fixture
def made_up(monkeypatch):
    cells = [
        new_markdown_cell("**Time** 5 min. **It holds.** And a **term**."),
        new_code_cell("assert True", id="a"),
        new_code_cell("print(1)", id="b"),
    ]
    monkeypatch.setattr(module.nbformat, "read", lambda path, as_version: new_notebook(cells=cells))


@pytest.mark.parametrize(
    "change, terms, problem",
    [
        ({}, ["term"], None),
        ({}, [], "“term” is bold and has no entry"),
        ({"bold": "It does."}, ["term"], "“It holds.” is bold and has no entry"),
        ({}, ["term", "other"], "“other” has an entry and is not bold there"),
        ({"verdict": "true"}, ["term"], "is incomplete or has no known verdict"),
        ({"checked": "b"}, ["term"], "no cell b asserts"),
        ({"checked": "c"}, ["term"], "no cell c asserts"),
    ],
)
def test_what_is_missing_is_named(made_up, change, terms, problem):
    found = module.missing([copy.copy(FINDING) | change], {"04": terms})
    assert found == [] if problem is None else any(problem in text for text in found)
