"""Every notebook keeps to the plan of the course, and runs: as saved, and with other parameters.

A new notebook is covered as soon as it is there. It needs an entry in OTHER_PARAMETERS below, and:

- first of all code, the cell tagged `setup` that `tools/notebooks.py setup` puts there, the same in all; the rules
  below do not count it
- a cell tagged `parameters`: assignments of literals, nothing derived; PRESET is one of them
- Markdown that begins with a title (# ...) and has, anywhere,
    ## What you will be able to do
    a line with the minutes to read and to run             **Time** 20 min to read, 1 min to run
    Prerequisites                                          as a heading or in bold
    Predict first                                          before an experiment
    ## Exercises                                           each solution folded into <details>
    ## References
- code cells of at most 6 lines in the median, 20 lines nine times in ten, 40 lines ever; blank lines do not count
- 55 to 65 % of the cells in prose; no empty cells
- saved by `make notebooks`: every code cell run, no error, a PNG beside each figure, at most 1 MB, no path
  of your machine
- #NBVAL_CHECK_OUTPUT as the first line of cells whose output must stay as it is: rounded numbers and facts, no
  figure, nothing on stderr (progress bars write there)
- in the notebook that `make run` runs: a cell tagged `results`, which shows or prints the table

That the cells run as saved is for nbval to test: `make test` is `pytest --nbval-lax tests notebooks`.
"""

import json
import re
import statistics
import tomllib
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from notebooks import (
    LARGEST,
    PLOTLY,
    WIDGET,
    NotebookError,
    add_setup,
    execute,
    figures,
    parameters,
    run,
    save,
    setup_source,
    tagged,
    to_html,
)

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUN = re.search(r"^NOTEBOOK\s*=\s*(\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)

# One entry for each notebook: parameter values other than its own, to run it with. Keep the runs short.
#   "05-ufm-10": dict(SEEDS=(3,), ITERATIONS=20),
OTHER_PARAMETERS = {
    "00-start-here": dict(SEED=3, ITERATIONS=30),
    "01-what-neural-collapse-is": dict(SEED=3, EPOCHS=10, DIGITS=[3, 5, 8]),
    "02-simplex-etf": dict(CLASSES=4, DIM=6, TEMPERATURE=10.0, SEED=1),
    "03-nearest-simplex-etf": dict(CLASSES=6, DIM=12, DELTA=0.1, NOISE=1.0, SEED=3),
    "04-differentiating-through-the-argmin": dict(CLASSES=5, DIM=9, DELTA=0.01, SEED=3),
    "05-ufm-10": dict(SEEDS=[3, 4], CLASSES=5, SAMPLES=100, DIM=16, TEMPERATURE=4.0, ITERATIONS=150),
    "06-ufm-100-to-1000": dict(SIZE="UFM-10", ITERATIONS=8, SEED=2),
    "07-apa-and-aglu": dict(PRESET="paper", KAPPA=1.5, LAMBDA=1.2, SEEDS=[5, 6], EPOCHS=1),
    "08-aglu-inside-networks": dict(NETWORKS=["se", "silu"], EPOCHS=1, SEED=3),
    "09-cifar-and-stl": dict(EPOCHS=2, COUNT=200, BATCH=8, SEED=3),
    "11-imagenet": dict(SEED=3, SIDE=8),
}

MUST_HAVE = {
    "a title": r"\A# \S",
    "what you will be able to do": r"(?im)^#+ what you will be able to do",
    "the time to read and to run": r"(?im)^(?=.*\bmin)(?=.*\bread)(?=.*\brun).*\d",
    "prerequisites": r"(?im)^#+ prerequisites|\*\*prerequisites",
    "predict first": r"(?i)predict first",
    "exercises": r"(?im)^#+ .*exercises?",
    "a folded solution": r"(?is)<details.*<summary.*solution.*</details>",
    "references": r"(?im)^#+ references",
}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def nb(path):
    return nbformat.read(path, as_version=4)


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def prose(nb):
    return "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")


def outputs(nb):
    return [out for cell in code_cells(nb) for out in cell.outputs]


# --- the plan of a notebook ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", MUST_HAVE)
def test_has(nb, part):
    assert re.search(MUST_HAVE[part], prose(nb)), f"no {part}: looked for {MUST_HAVE[part]}"


def test_parameters_are_literals(nb):
    assert len(tagged(nb, "parameters")) == 1
    assert "PRESET" in parameters(nb)  # raises on anything but literals assigned to names


def test_setup_is_the_first_code_and_the_same_everywhere(nb):
    (cell,) = tagged(nb, "setup")
    assert cell is code_cells(nb)[0] and cell.source == setup_source(), "run `tools/notebooks.py setup`"
    assert cell.outputs == []


def own(cells):
    return [cell for cell in cells if "setup" not in cell.metadata.get("tags", [])]


def test_cells_are_short(nb):
    lines = sorted(sum(1 for line in cell.source.splitlines() if line.strip()) for cell in own(code_cells(nb)))
    assert statistics.median(lines) <= 6
    assert lines[int(0.9 * (len(lines) - 1))] <= 20
    assert lines[-1] <= 40


def test_prose_is_more_than_half(nb):
    assert all(cell.source.strip() for cell in nb.cells), "an empty cell"
    share = sum(cell.cell_type == "markdown" for cell in nb.cells) / len(own(nb.cells))
    assert 0.55 <= share <= 0.65, f"{100 * share:.0f} % of {len(own(nb.cells))} cells are prose"


def test_run_notebook_has_results(path, nb):
    if path.stem == RUN:
        assert tagged(nb, "results")


def test_run_names_a_notebook():
    assert not PATHS or RUN in [path.stem for path in PATHS]


# --- as saved -------------------------------------------------------------------------------------------------------


def test_is_small_and_valid(path, nb):
    assert path.stat().st_size <= LARGEST
    nbformat.validate(nb)
    assert set(nb.metadata) == {"kernelspec", "language_info"}, "not saved by `make notebooks`"


def test_was_run_without_error(nb):
    assert outputs(nb)
    assert [cell.execution_count for cell in code_cells(nb)] == list(range(1, len(code_cells(nb)) + 1))
    assert [out for out in outputs(nb) if out.output_type == "error" or out.get("name") == "stderr"] == []


def test_text_of_a_cell_is_in_one_piece(nb):
    for cell in code_cells(nb):
        kinds = [out.output_type for out in cell.outputs]
        assert ("stream", "stream") not in zip(kinds, kinds[1:])


def test_figures_show_without_scripts(nb):
    assert all("image/png" in out.data for out in figures(nb))
    assert not any(WIDGET in out.get("data", {}) for out in outputs(nb))


def test_names_no_path_of_a_machine(nb):
    texts = [cell.source for cell in nb.cells]
    texts += [json.dumps({**out, "data": {**out.get("data", {}), "image/png": None}}) for out in outputs(nb)]
    for text in texts:
        # not after a letter, as in addresses (https://site.org/home/) and in base64
        assert not (found := re.search(r"(?<![\w.+/])/(root|home|tmp|work|Users)/.{0,60}|\b[A-Z]:\\+Users", text)), found


# --- with other parameters ------------------------------------------------------------------------------------------


def test_every_notebook_has_other_parameters():
    names = [path.stem for path in PATHS]
    assert sorted(OTHER_PARAMETERS) == names, "OTHER_PARAMETERS in this file needs one entry for each notebook"


def test_runs_with_other_parameters(path, nb, tmp_path):
    values, own = OTHER_PARAMETERS.get(path.stem), parameters(nb)
    assert values, f"OTHER_PARAMETERS in this file needs values for {path.stem}, which has: {', '.join(own)}"
    assert all(own.get(name) != value for name, value in values.items()), "these are the notebook's own values"
    execute(path, values, tmp_path / path.name)


# --- tools/notebooks.py ---------------------------------------------------------------------------------------------

SMALL = {
    "parameters": 'PRESET = "quick"',
    "figure": "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[1, 3, 2]))",
    "widget": """
from IPython.display import display
from ipywidgets import IntSlider
def bundle(k):
    return {"application/vnd.plotly.v1+json": go.Figure(go.Scatter(y=[0, k])).to_plotly_json()}
slider = IntSlider(1)
handle = display(bundle(1), raw=True, display_id="line")
slider.observe(lambda change: handle.update(bundle(change.new), raw=True), "value")
display(slider)
""",
    "move": "slider.value = 4",
    "bar": "from tqdm import tqdm\nfor _ in tqdm(range(3)): pass",
    "results": "print(f'{PRESET}: 42')",
}


@pytest.fixture
def small(tmp_path):
    """The path of a notebook with one of each kind of output, its cells tagged as above."""
    path = tmp_path / "small.ipynb"
    cells = [new_code_cell(source, metadata={"tags": [tag]}) for tag, source in SMALL.items()]
    nbformat.write(new_notebook(cells=cells), path)
    return path


def test_run_writes_a_table_a_notebook_and_a_page(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nonexistent")  # readers need no Chrome
    run(small, "paper", tmp_path / "build")
    printed = capsys.readouterr()
    assert "paper: 42" in printed.out and "3/3" in printed.err
    nb = nbformat.read(tmp_path / "build/small.ipynb", as_version=4)
    assert len(figures(nb)) == 2
    assert figures(nb)[1].data[PLOTLY]["data"][0]["y"] == [0, 4]  # the slider moved it
    page = (tmp_path / "build/small.html").read_text()
    assert page.count("plotly.js v") == 1 and page.count("Plotly.newPlot(") == 2
    assert page.count("This figure needs JavaScript.") == 2
    fetched = re.findall(r"""<(?:script|link|img)[^>]*(?:src|href)=["'](?!data:)([^"']*)""", page)
    assert all("mathjax" in address for address in fetched), fetched


def test_a_figure_with_frames_waits_for_its_slider():
    frames = [go.Frame(name=str(k), data=[go.Scatter(y=[0, k])]) for k in range(2)]
    figure = go.Figure(go.Scatter(y=[0, 0]), dict(sliders=[dict(steps=[dict(method="animate", args=[["1"]])])]), frames)
    output = new_output("display_data", {PLOTLY: figure.to_plotly_json()})
    page = to_html(new_notebook(cells=[new_code_cell("", outputs=[output], execution_count=1)]), "frames")
    assert page.count("Plotly.addFrames(") == 1 and "Plotly.animate(" not in page.split("Plotly.addFrames(")[1]


def test_save_leaves_a_failing_notebook_as_it_was(small, monkeypatch):
    monkeypatch.setattr("notebooks.kaleido.Kaleido", lambda: None)  # a failing notebook gets to no picture
    nb = nbformat.read(small, as_version=4)
    nb.cells[3].source = "1 / 0"
    nbformat.write(nb, small)
    before = small.read_bytes()
    with pytest.raises(NotebookError, match=r"small.ipynb stopped at cell \[4\](.|\n)*ZeroDivisionError"):
        save([small])
    assert small.read_bytes() == before


def test_setup_goes_first_once_and_leaves_outputs_alone(small):
    nb = nbformat.read(small, as_version=4)
    nb.cells[1].outputs = [new_output("execute_result", {"text/plain": "7"}, execution_count=2)]
    nb.cells[1].execution_count = 2
    before = [cell.source for cell in nb.cells]
    add_setup(nb)
    assert [cell.source for cell in nb.cells] == [setup_source(), *before]
    assert nb.cells[0].execution_count == 1
    assert nb.cells[2].execution_count == 3 and nb.cells[2].outputs[0].execution_count == 3
    assert nb.cells[2].outputs[0].data == {"text/plain": "7"}
    nb.cells[0].source = "an old one"
    add_setup(nb)
    assert [cell.source for cell in nb.cells] == [setup_source(), *before] and nb.cells[2].execution_count == 3
    nbformat.validate(nb)


def test_setup_names_the_repository_of_the_project():
    (address,) = re.findall(r"git\+(\S+?)\"", setup_source())
    assert address == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def test_unknown_parameters_are_refused(small):
    with pytest.raises(NotebookError, match="small.ipynb has no parameter PRESETT. It has: PRESET."):
        execute(small, {"PRESETT": "quick"})
