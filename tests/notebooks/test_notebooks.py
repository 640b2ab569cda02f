"""Every notebook runs, as saved and with other parameters, and is saved as readers and tools need it.

A new notebook is covered as soon as it is there (CONTRIBUTING.md says what it needs). How it is written is for readers
to judge and not for tests. That its cells run as saved is for nbval to test: `make test` runs
`pytest --nbval-lax tests notebooks`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_notebook, new_output

from labkit.course import editions
from notebooks import (
    LARGEST,
    PLOTLY,
    WIDGET,
    NotebookError,
    add_setup,
    execute,
    figures,
    other_parameters,
    parameters,
    run,
    save,
    setup_source,
    tagged,
    tidy,
    to_html,
)

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
RUN = re.search(r"^NOTEBOOK\s*=\s*(\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def nb(path):
    return nbformat.read(path, as_version=4)


def code_cells(nb):
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def outputs(nb):
    return [out for cell in code_cells(nb) for out in cell.outputs]


# --- what tools rely on ---------------------------------------------------------------------------------------------


def test_parameters_are_literals(nb):
    assert len(tagged(nb, "parameters")) == 1
    assert "PRESET" in parameters(nb)  # raises on anything but literals assigned to names


def test_setup_is_the_first_code_and_the_same_everywhere(nb):
    (cell,) = tagged(nb, "setup")
    assert cell is code_cells(nb)[0] and cell.source == setup_source(), "run `tools/notebooks.py setup`"
    assert cell.outputs == []


def test_the_notebook_of_make_run_has_results():
    assert tagged(nbformat.read(ROOT / "notebooks" / f"{RUN}.ipynb", as_version=4), "results")


# --- as saved -------------------------------------------------------------------------------------------------------


def test_is_small_and_valid(path, nb):
    assert path.stat().st_size <= LARGEST
    nbformat.validate(nb)
    assert all(cell.source.strip() for cell in nb.cells), "an empty cell"
    assert set(nb.metadata) <= {"kernelspec", "labkit", "language_info"}, "not saved by `make notebooks`"


def test_was_run_without_error(nb):
    assert outputs(nb)
    assert [cell.execution_count for cell in code_cells(nb)] == list(range(1, len(code_cells(nb)) + 1))
    assert [out for out in outputs(nb) if out.output_type == "error" or out.get("name") == "stderr"] == []


def test_text_of_a_cell_is_in_one_piece(nb):
    for cell in code_cells(nb):
        kinds = [out.output_type for out in cell.outputs]
        assert ("stream", "stream") not in zip(kinds, kinds[1:])


def promised_but_false(text):
    """The lines of a printed text that say of something that it is false: "name: False", "{'name': False}", "False".

    A table may have a column of truth values; those are data, and not promises.
    """
    return [text for text in text.splitlines() if re.search(r"(?:^\s*|[:=]\s*)False\b", text)]


def test_no_cell_saves_a_promise_that_is_false(nb):
    """What notebook 07 once did: "more than 4000 points: False", under a sentence that said there were more."""
    texts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs(nb)]
    assert [line for text in texts for line in promised_but_false("".join(text))] == []


@pytest.mark.parametrize(
    "text, found",
    [
        ("more than 4000 points: False\nall: True", ["more than 4000 points: False"]),
        ("{'same': False}", ["{'same': False}"]),
        ("False", ["False"]),
        ("ok=False", ["ok=False"]),
        ("implicit  0.25  False", []),
        ("it is False that", []),
    ],
)
def test_promises_are_told_from_tables(text, found):
    assert promised_but_false(text) == found


def test_figures_show_without_scripts(nb):
    """A recording has no PNG: JupyterLab would show that in its place until its cell is run."""
    for out in figures(nb):
        assert {"image/png", "image/jpeg"} & set(out.data) == {"image/jpeg" if out.data[PLOTLY].get("frames") else "image/png"}
    assert not any(WIDGET in out.get("data", {}) for out in outputs(nb))


def test_names_no_path_of_a_machine(nb):
    texts = [cell.source for cell in nb.cells]
    texts += [json.dumps({**out, "data": {**out.get("data", {}), "image/png": None, "image/jpeg": None}}) for out in outputs(nb)]
    for text in texts:
        # not after a letter, as in addresses (https://site.org/home/) and in base64
        assert not (found := re.search(r"(?<![\w.+/])/(root|home|tmp|work|Users)/.{0,60}|\b[A-Z]:\\+Users", text)), (
            found
        )


def test_links_to_files_lead_somewhere(path, nb):
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\((?!https?:|#|data:|attachment:|mailto:)([^)\s#]+)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


# --- with other parameters ------------------------------------------------------------------------------------------


def test_runs_with_other_parameters(path, nb, tmp_path):
    """Those with exercises run so as the student's edition: tests/course/test_editions_run.py."""
    values, own = other_parameters(nb), parameters(nb)
    assert values, f"the metadata of {path.stem} needs labkit.test_parameters: values for some of {', '.join(own)}"
    assert all(own.get(name) != value for name, value in values.items()), "these are the notebook's own values"
    if not tagged(nb, "exercise"):
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
    run(small, {"PRESET": "paper"}, tmp_path / "build")
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1].endswith(f"open next: {os.path.relpath(tmp_path / 'build/small.html')}")
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


def test_tidy_keeps_the_test_parameters():
    nb = new_notebook(metadata={"labkit": {"test_parameters": {"SEED": 3}}, "papermill": {"duration": 1.0}})
    tidy(nb)
    assert other_parameters(nb) == {"SEED": 3} and set(nb.metadata) == {"kernelspec", "labkit", "language_info"}


@pytest.mark.parametrize("foreign", [False, True], ids=["nothing", "another project's labkit"])
def test_setup_says_what_to_do_where_labkit_is_missing(foreign, tmp_path):
    """In an empty folder; one sentence, and nothing is installed. Of the other labkit of the package index, too."""
    site, folder = tmp_path / "site", tmp_path / "empty"
    site.mkdir(), folder.mkdir()
    if foreign:
        (site / "labkit").mkdir()
        (site / "labkit/__init__.py").write_text("")
    code = f"""
import sys
sys.path[:] = [{str(site)!r}, *(p for p in sys.path if p != {str(ROOT)!r})]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in str(finder)]  # this checkout, installed
def get_ipython(): raise AssertionError("it wanted to install something")
{TransformerManager().transform_cell(setup_source())}
"""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    *trace, said = done.stderr.splitlines()
    assert said.startswith("ModuleNotFoundError: This notebook needs the course's own labkit: "), done.stderr
    assert len(trace) <= 4 and "During handling" not in done.stderr


def test_setup_leaves_a_labkit_that_is_there(monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    code = TransformerManager().transform_cell(setup_source())
    exec(code, {"get_ipython": lambda: pytest.fail("it wanted to install something")})


def test_the_course_the_widgets_and_the_tools_mean_the_same_outputs():
    """Neither of the first two imports the other, and the tools do not import the course, which brings torch."""
    assert (editions.PLOTLY, editions.WIDGET) == (PLOTLY, WIDGET)


def test_unknown_parameters_are_refused(small):
    with pytest.raises(NotebookError, match="small.ipynb has no parameter PRESETT. It has: PRESET."):
        execute(small, {"PRESETT": "quick"})
