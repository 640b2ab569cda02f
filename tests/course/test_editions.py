"""Editions of made-up notebooks: nothing is seen before it is predicted, and everything is right where it should be."""

import json
import re

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from labkit.course import editions
from labkit.course.__main__ import main


def code(source, *tags, output=None):
    outputs = [new_output("stream", text=output)] if output else []
    return new_code_cell(source, metadata={"tags": list(tags)}, outputs=outputs, execution_count=1)


def text(source, *tags):
    return new_markdown_cell(source, metadata={"tags": list(tags)})


def notebook():
    return new_notebook(
        metadata={"widgets": {"state": {}}},
        cells=[
            text("# Title, with $x$", "slide"),
            code("print('hero')", "fragment", output="hero"),
            code("from labkit.course import answer, check, predict, use"),
            code("assert 1 + 1 == 2", "hidden-check", "nbval-check-output"),
            code("predict('angle', 'Which angle?', float, '°')", "predict", output="a box"),
            code("print('109')", output="109"),
            code("answer('angle', 109.47, '°')", "answer", output="It is 109.5"),
            text("It is 109.5, as in a tetrahedron.", "answer"),
            code("def my_age(t):\n    return None  # your code", "exercise"),
            text("<details>secret words</details>", "solution"),
            code("def my_age(t):\n    return (t - 1) / 3  # secret", "solution"),
            code("check(my_age, 'mean-age')", "check", output="right"),
            code("my_age = use('mean-age')\nprint(my_age(100))", "check"),
            text("Say slowly.", "notes"),
            text("## Next", "slide"),
        ],
    )


def said(made):
    return "".join(o.get("text", "") for c in made.cells if c.cell_type == "code" for o in c.outputs)


def run(made, tmp_path):
    NotebookClient(made, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    return said(made)


def test_the_students_edition_gives_nothing_away_and_runs_with_nothing_attempted(tmp_path):
    made = editions.student(notebook())
    written = nbformat.writes(made)
    assert said(made) == "hero" and "secret" not in written and "assert" not in written and "slowly" not in written
    assert "After your prediction" in made.cells[6].source and "widgets" not in made.metadata
    out = run(made, tmp_path)
    assert "No prediction was entered. It is: 109.5°." in out
    assert "mean-age: not attempted yet." in out and "going on with labkit's my_age" in out and "33" in out


def test_the_instructors_edition_runs_with_everything_right(tmp_path):
    made = editions.instructor(notebook())
    out = run(made, tmp_path)
    assert "mean-age: right" in out and "going on with your my_age" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda n: n.cells[10].metadata.tags.__setitem__(0, "soluton"), "is 'solution' meant"),
        (lambda n: n.cells.pop(6), "never answered"),
        (lambda n: n.cells.pop(4), "never asked"),
        (lambda n: n.cells[11].metadata.tags.clear(), "no tag 'check'"),
    ],
)
def test_what_would_spoil_an_edition_is_named(change, said):
    spoilt = notebook()
    change(spoilt)
    with pytest.raises(ValueError, match=said):
        editions.student(spoilt)


def test_slides_hold_the_tagged_cells_and_fetch_nothing():
    page = editions.slides_html(notebook())
    assert "Title, with" in page and "Say slowly" in page and "tetrahedron" not in page
    assert not re.findall(r"""(?:src=|href=|import.*from |import )["']?(?:https?:)?//[^"'> ]+""", page)
    assert 'src="reveal.js/dist/reveal.js"' in page and "require(" not in page


def figure(frames=()):
    drawn = {"data": [{"y": [1, 2], "name": "</script>"}], "layout": {"height": 400}, "frames": list(frames)}
    data = {"application/vnd.plotly.v1+json": drawn, "image/png": "aGVsbG8="}
    return new_code_cell("plot()", metadata={"tags": ["slide"]}, outputs=[new_output("display_data", data)])


def shown(*cells):
    """The cells of the slides of a notebook that are shown: [(slide_type, cell)]."""
    made = editions.slides(new_notebook(cells=list(cells)))
    kinds = ((cell.metadata["slideshow"]["slide_type"], cell) for cell in made.cells)
    return [(kind, cell) for kind, cell in kinds if kind != "skip"]


def test_a_slide_without_a_heading_has_that_of_its_section():
    words = text("*Figure 1. Of the slide before.*\n\n### Three\n\nWords.", "slide")
    made = shown(text("# One", "slide"), text("## Two\n\nNot on a slide."), code("1", "slide", output="1"), words)
    assert [kind for kind, _ in made] == ["slide", "slide", "-", "slide"]
    assert [made[1][1].source, made[3][1].source] == ["## Two", "### Three\n\nWords."]


def test_slides_ask_and_answer_without_an_input():
    asks = "predict('angle', 'Which angle?', float, '°')\npredict('head', 'Whose?', ['mine', '<yours>'])"
    (_, asked), (_, answered), (_, explorer) = shown(
        code(asks, "slide", "predict", output="Predict first. (run this notebook to enter your prediction)"),
        code("answer('angle', 109.5, '°')", "fragment", output="No prediction was entered. It is: 109.5°.\n"),
        new_code_cell(
            "explorer",
            metadata={"tags": ["fragment"]},
            outputs=[new_output("display_data", {"text/plain": "(interactive: run this notebook to use it)"})],
        ),
    )
    assert asked.cell_type == "markdown" and "run this notebook" not in asked.source
    assert "Which angle?" in asked.source and "mine  ·  &lt;yours&gt;" in asked.source
    assert answered.outputs[0].text == "It is: 109.5°.\n" and explorer.outputs == []


def test_recordings_play_on_slides_and_other_figures_are_pictures():
    page = editions.slides_html(new_notebook(cells=[figure()]))
    assert "aGVsbG8=" in page and 'class="recording"' not in page and "plotly.min.js" not in page
    page = editions.slides_html(new_notebook(cells=[figure([{"name": "0", "data": [{"y": [2, 3]}]}])]))
    assert "aGVsbG8=" not in page and 'src="reveal.js/plotly.min.js"' in page
    content = re.search(r'<script type="application/json">(.*?)</script>', page).group(1)
    assert json.loads(content)["data"][0]["name"] == "</script>" and json.loads(content)["frames"][0]["name"] == "0"


def test_the_command_line_writes_editions_and_shows_cells(tmp_path, capsys):
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook(), tmp_path / "notebooks" / "05-lab.ipynb")
    (tmp_path / "reveal" / "dist").mkdir(parents=True)
    (tmp_path / "reveal" / "dist" / "reveal.js").write_text("")
    where = ["--notebooks", str(tmp_path / "notebooks")]
    main([*where, "editions", "05", "--out", str(tmp_path / "out"), "--reveal", str(tmp_path / "reveal")])
    assert {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("05*")} == {
        "student/05-lab.ipynb",
        "instructor/05-lab.ipynb",
        "slides/05-lab.slides.html",
    }
    assert "Plotly" in (tmp_path / "out" / "slides" / "reveal.js" / "plotly.min.js").read_text(encoding="utf-8")
    made = nbformat.read(tmp_path / "out" / "student" / "05-lab.ipynb", as_version=4)
    assert made.metadata["labkit"] == {"notebook": "05-lab", "edition": "student"}
    capsys.readouterr()
    main([*where, "cell", "mean-age"])
    assert capsys.readouterr().out.endswith('check(my_age, "mean-age")\n')
    with pytest.raises(SystemExit):
        main(["cell", "nosuch"])
    assert "error: no exercise called 'nosuch'; there are five-classes, nc1," in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"not a folder with reveal\.js"):
        main([*where, "editions", "--out", str(tmp_path / "out"), "--reveal", str(tmp_path)])
