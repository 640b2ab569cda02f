"""From one source notebook: the student's edition, the instructor's, and slides.

    python -m labkit.course editions                  all notebooks, into build/course
    python -m labkit.course editions 05 --reveal DIR  one of them, and its slides with the reveal.js that lies in DIR

The source is written to be right from top to bottom: the exercise with its gap, the solution in a cell of its own, the
check. What becomes of a cell is said by its tags:

tag               cell                                       student                     instructor   slides
`setup`           installs what is missing                   stays                       stays        no
`parameters`      literals that papermill may replace        stays                       stays        no
`exercise`        a gap to fill in                           stays, without output       stays        no
`solution`        code or text that gives it away            goes                        stays        no
`check`           calls `check`, or `use`                    stays, without output       stays        no
`hidden-check`    a regression test, nothing to read         goes                        stays        no
`predict`         calls `predict`                            stays, without output       stays        no
`answer`          code that shows what was asked             stays, without output       stays        no
`answer`          text that tells it                         folded, "after your prediction"          no
`slide`           a new slide                                                                         begins one
`subslide`        a new slide below the last                                                          begins one
`fragment`        appears on the same slide at a click                                                yes
`on-slide`        goes on on the same slide                                                           yes
`notes`           what the speaker sees                      goes                        stays        notes

Outputs stay in the student's edition up to the first `predict` (the figure a notebook opens with), and go from there
on: nothing that was predicted can be seen before it is entered. nbval's own tags (`nbval-check-output`,
`nbval-ignore-output`, `nbval-skip`) and papermill's are left as they are.
"""

import ast
import difflib
import re
import shutil
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path

import nbformat

from labkit.course.predict import WIDGET
from labkit.course.slides import PLOTLY, page, question, recording

TAGS = ("setup", "parameters", "exercise", "solution", "check", "hidden-check", "predict", "answer")
SLIDES = {"slide": "slide", "subslide": "subslide", "fragment": "fragment", "on-slide": "-", "notes": "notes"}
GOES = {"solution", "hidden-check", "notes"}
OTHERS = (
    "nbval-check-output",
    "nbval-ignore-output",
    "nbval-skip",
    "results",
    "raises-exception",
    "injected-parameters",
)
REVEAL = "reveal.js"  # the folder beside the slides


def tags(cell: nbformat.NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def calls(notebook: nbformat.NotebookNode, function: str) -> list[tuple[int, list[str]]]:
    """Calls of a function by its name in code cells: a list of (number of the cell, text of each argument).

    >>> cell = nbformat.v4.new_code_cell('check(my_nc1, "nc1")')
    >>> calls(nbformat.v4.new_notebook(cells=[cell]), "check")
    [(0, ['my_nc1', "'nc1'"])]
    """
    found = []
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "code":
            continue
        try:
            tree = ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source))
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", None)) == function:
                found.append((number, [ast.unparse(a) for a in node.args]))
    return found


def named(notebook: nbformat.NotebookNode, function: str, place: int = 0) -> list[str]:
    """Literal names that a function is called with: `named(notebook, "predict")`."""
    return [
        ast.literal_eval(a[place]) for _, a in calls(notebook, function) if len(a) > place and a[place][:1] in "'\""
    ]


def problems(notebook: nbformat.NotebookNode) -> list[str]:
    """What would spoil an edition, as a list of sentences: misspelt tags, predictions without an answer, cells that
    predict, check or show an answer without the tag that says so.
    """
    found = []
    for number, cell in enumerate(notebook.cells):
        for tag in tags(cell) - {*TAGS, *SLIDES, *OTHERS}:
            if near := difflib.get_close_matches(tag, [*TAGS, *SLIDES, *OTHERS], 1, 0.75):
                found.append(f"cell {number} has the tag {tag!r}; is {near[0]!r} meant?")
    for function, place in (("predict", 0), ("answer", 0), ("check", 1)):
        for number, arguments in calls(notebook, function):
            if len(arguments) <= place or arguments[place][:1] not in "'\"":  # another function of that name
                continue
            if not tags(notebook.cells[number]) & {function, "hidden-check", "exercise"}:
                found.append(f"cell {number} calls {function} and has no tag {function!r}")
    asked, told = named(notebook, "predict"), named(notebook, "answer")
    found += [f"the prediction {name!r} is never answered" for name in asked if name not in told]
    found += [f"{name!r} is answered and was never asked" for name in told if name not in asked]
    return found


def student(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The student's edition of a notebook: see the table above. Raises ValueError for one with `problems`."""
    if wrong := problems(notebook):
        raise ValueError("; ".join(wrong))
    edition, asked = _copy(notebook, "student"), False
    edition.cells = [cell for cell in edition.cells if not tags(cell) & GOES]
    for cell in edition.cells:
        asked |= "predict" in tags(cell)
        if cell.cell_type == "code":
            if asked or tags(cell) & {"exercise", "check", "answer"}:
                cell.outputs, cell.execution_count = [], None
        elif "answer" in tags(cell):
            cell.source = f"<details><summary>After your prediction</summary>\n\n{cell.source}\n</details>"
    return edition


def instructor(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The instructor's edition: everything, with the solutions in place."""
    return _copy(notebook, "instructor")


def slides(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The cells that are tagged for slides, with the metadata that nbconvert reads; code is folded away, its output
    stays.

    A slide that begins without a heading has that of its section. In the place of an input stands its question, and of
    an answer only what was measured; explorers are left out, recordings play.
    """
    edition, cells, title = _copy(notebook, "slides"), [], None
    for cell in edition.cells:
        kind = next((SLIDES[tag] for tag in SLIDES if tag in tags(cell)), "skip")
        heading = re.search(r"^#+ .*$", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else None
        if kind in ("slide", "subslide"):
            if heading:
                cell.source = cell.source[heading.start() :]  # before it, words on what was on the slide before
            elif title:
                cells.append(_on_slide(nbformat.v4.new_markdown_cell(f"## {title}"), kind))
                kind = "-"
        if heading:
            title = re.findall(r"^#+ (.*)$", cell.source, re.MULTILINE)[-1]
        cells.append(_on_slide(_shown(cell), kind))
    edition.cells = cells
    return edition


def _on_slide(cell, kind):
    cell.metadata["slideshow"] = {"slide_type": kind}
    return cell


def _shown(cell):
    """A cell as a slide has it: questions in the place of inputs, answers without words on what was not entered."""
    if cell.cell_type != "code":
        return cell
    asked = [a for _, a in calls(nbformat.v4.new_notebook(cells=[cell]), "predict")]
    if asked and "predict" in tags(cell):
        return nbformat.v4.new_markdown_cell("\n\n".join(question(*map(_read, a[1:3])) for a in asked))
    kept = []
    for out in cell.outputs:
        data = out.get("data", {})
        if data.get(PLOTLY, {}).get("frames"):
            out.data = {"text/html": recording(data[PLOTLY])}
        elif (WIDGET in data or data.get("text/plain", "").startswith("(interactive")) and "image/png" not in data:
            continue
        elif out.output_type == "stream":
            out.text = out.text.replace("No prediction was entered. It is: ", "It is: ")
        data.pop(WIDGET, None)
        kept.append(out)
    cell.outputs = kept
    return cell


def _read(text):
    """The value of a literal; anything else stays as it is written."""
    try:
        return ast.literal_eval(text)
    except ValueError:
        return text


def slides_html(notebook: nbformat.NotebookNode, reveal: str = REVEAL) -> str:
    """One page of slides, which reads reveal.js from the folder `reveal` beside it and nothing from anywhere else."""
    return page(slides(notebook), reveal)


def _copy(notebook, edition):
    """A copy with its edition written in it, and without the state of widgets, which takes megabytes."""
    notebook = deepcopy(notebook)
    notebook.metadata.pop("widgets", None)
    notebook.metadata["labkit"] = {**notebook.metadata.get("labkit", {}), "edition": edition}
    return notebook


def build(
    sources: Iterable[Path | str], out: Path | str = "build/course", reveal: Path | str | None = None
) -> list[Path]:
    """Write the editions of all source notebooks (paths) under `out`; returns the paths written.

    reveal: a folder with reveal.js (its dist and plugin folders, as `npm pack reveal.js@4.6.1` has them, and
    mathjax/tex-svg.js), which is copied beside the slides, and plotly.js with it; no slides are written without it.
    Raises ValueError, naming the notebook, for one with `problems`, and for a folder that is not reveal.js.
    """
    out, written = Path(out), []
    if reveal is not None:
        if not (Path(reveal) / "dist" / "reveal.js").is_file():
            raise ValueError(f"{reveal} is not a folder with reveal.js: there is no dist/reveal.js in it")
        from plotly.offline import get_plotlyjs  # not for grading, which reads tags alone

        shutil.copytree(reveal, out / "slides" / REVEAL, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.map"))
        (out / "slides" / REVEAL / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    for source in map(Path, sources):
        notebook = nbformat.read(source, as_version=4)
        notebook.metadata["labkit"] = {"notebook": source.stem}
        for edition in (student, instructor):
            try:
                made = edition(notebook)
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from None
            path = out / edition.__name__ / source.name
            path.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(made, path)
            written.append(path)
        if reveal is not None and any(tags(cell) & {"slide"} for cell in notebook.cells):
            path = out / "slides" / f"{source.stem}.slides.html"
            path.write_text(slides_html(notebook), encoding="utf-8")
            written.append(path)
    return written
