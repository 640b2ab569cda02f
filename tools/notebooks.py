"""Run the notebooks, and save them as readers meet them.

    python tools/notebooks.py run 04-ufm-10 --preset paper     build/04-ufm-10.ipynb and .html (`make run`)
    python tools/notebooks.py save [NAME ...]                  notebooks/NAME.ipynb in place (`make notebooks`)
    python tools/notebooks.py setup [NAME ...]                 write the first cell, and badges; runs nothing

The first two run a notebook in a fresh kernel, in the notebook's own folder, as Jupyter does.
"""

import argparse
import ast
import asyncio
import base64
import copy
import html
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import address
import kaleido
import nbformat
import papermill
import plotly.io
from alt import describe
from jinja2 import DictLoader
from kaleido.errors import ChromeNotFoundError
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from papermill.exceptions import PapermillExecutionError
from PIL import Image
from plotly.offline import get_plotlyjs

from labkit.widgets.live import MIME as PLOTLY

ROOT = Path(__file__).resolve().parent.parent
WIDGET = "application/vnd.jupyter.widget-view+json"
LARGEST = 1_000_000  # bytes of a saved notebook: clones stay small, and GitHub shows it
SIZE = {"width": 900, "height": 450}  # pixels, of figures that do not say

# nbconvert's page with plotly.js inside, once, and without two scripts it would fetch: require.js, under which other
# scripts may hide, and Mermaid. Where scripts are off, figures leave their place to the pictures that follow them.
PAGE = """{% extends 'lab/index.html.j2' %}
{% block html_head_js %}<script>{{ resources.plotlyjs }}</script>
<noscript><style>div:has(> .plotly-graph-div) { display: none }</style></noscript>{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}"""


SETUP = """\
# Finds this course's labkit and its data; in a checkout, or where labkit is installed, there is nothing to do.
try:
    from labkit.course import standalone
except ModuleNotFoundError as missing:
    if not missing.name.startswith("labkit"):
        raise
    raise ModuleNotFoundError({sentence!r}) from None

import torch

standalone.enter()
device = "cuda" if torch.cuda.is_available() else "cpu"
"""
# What a notebook says where nothing is there. Another project is called labkit too: nothing is installed unasked.
ALONE = (
    "This notebook needs the course's own labkit: open it with `make lab` in a checkout of the course, "
    "or take the notebook of this name that `make colab` writes there, which brings all it needs."
)
INSTALL = (
    'This notebook needs the course\'s own labkit: run %pip install "{name}[notebooks] @ git+{address}" and start anew.'
)

# An option of the kernel: it writes down what Python opens. (What pyarrow opens by itself it cannot see: `pd.read_parquet`
# of a name that is not written out in the notebook.)
WATCH = """--IPKernelApp.exec_lines=__import__("sys").addaudithook(lambda event, args, to=open(%r, "a", 1),
path=__import__("os").path: event == "open" and isinstance(args[0], str) and print(path.abspath(args[0]), file=to))"""


class NotebookError(Exception):
    """A notebook cannot be run or saved; the message is for the person who asked for it."""


def tagged(nb, tag):
    return [cell for cell in nb.cells if tag in cell.metadata.get("tags", [])]


def parameters(nb):
    """{name: value} of the cell tagged `parameters`, which holds assignments of literals and nothing else."""
    lines = [line for cell in tagged(nb, "parameters") for line in ast.parse(cell.source).body]
    try:
        return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    except (AttributeError, ValueError):
        raise NotebookError("The cell tagged `parameters` may hold only lines like NAME = literal.") from None


def literal(name, text):
    """The value that a command line gives a parameter."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise NotebookError(f"--set {name} takes a Python literal, such as 3 or '\"quick\"'; got {text}") from None


def other_parameters(nb):
    """{name: value}, other values of its parameters that the tests run a notebook with; its metadata holds them as
    {"labkit": {"test_parameters": {...}}}.
    """
    return nb.metadata.get("labkit", {}).get("test_parameters", {})


def figures(nb):
    """The outputs that hold a plotly figure, whether plotly showed it or it is a bundle with a display id."""
    return [out for cell in nb.cells for out in cell.get("outputs", []) if PLOTLY in out.get("data", {})]


def setup_source():
    """The first code cell of every notebook; it names the public address once there is one."""
    where = address.repository()
    sentence = INSTALL.format(name=address.project()["name"], address=where) if where else ALONE
    return SETUP.format(sentence=sentence).rstrip()


def add_badge(nb, name):
    """Put the badge "Open in Colab" below the title, in place, or bring it up to date, or take it away while there is no
    public address.
    """
    nb.cells = [cell for cell in nb.cells if "badge" not in cell.metadata.get("tags", [])]
    if text := address.badge(name):
        nb.cells.insert(1, nbformat.v4.new_markdown_cell(text, id="badge", metadata={"tags": ["badge"]}))


def add_setup(nb):
    """Put the cell that finds labkit before all other code, in place, or bring it up to date. Outputs stay as they
    are.
    """
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    folded = {"tags": ["setup"], "jupyter": {"source_hidden": True}}
    if found := tagged(nb, "setup"):
        found[0].source = setup_source()
        found[0].metadata |= folded
        return
    cell = nbformat.v4.new_code_cell(setup_source(), id="setup", metadata=folded, execution_count=1)
    nb.cells.insert(nb.cells.index(code[0]), cell)
    for later in code:  # as if it had run with them
        for holder in (later, *later.outputs):
            if holder.get("execution_count"):
                holder.execution_count += 1


def execute(path, values=None, output=None, opened=None):
    """Run a notebook with other parameter values. Its progress bars go to our stderr as they move.

    opened: a file that gets the names of the files that the kernel opens, one a line.
    """
    known = parameters(nbformat.read(path, as_version=4))
    if unknown := sorted(set(values or {}) - set(known)):  # papermill would only warn
        raise NotebookError(f"{path.name} has no parameter {', '.join(unknown)}. It has: {', '.join(known)}.")
    os.environ["PLOTLY_RENDERER"] = "plotly_mimetype"  # others would put all of plotly.js into the notebook
    try:
        return papermill.execute_notebook(
            path,
            output,
            values,
            kernel_name="python3",
            language="python",
            cwd=path.parent,
            progress_bar=False,  # counts cells; the bars that tell something are those of the cells
            stderr_file=sys.stderr,
            extra_arguments=["--log-level=CRITICAL", *([WATCH % str(opened)] if opened else [])],  # of the kernel
        )
    except PapermillExecutionError as error:
        trace = "\n".join(error.traceback)
        raise NotebookError(f"\n{path.name} stopped at cell [{error.exec_count}].\n{trace}") from error
    except DeadKernelError as error:
        raise NotebookError(f"\n{path.name}: the kernel died; the usual cause is too little memory.") from error


def tidy(nb):
    """Drop, in place, what differs between two runs and what is of use only while the kernel lives."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    ours = {"labkit": nb.metadata["labkit"]} if "labkit" in nb.metadata else {}
    nb.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}} | ours)
    for cell in nb.cells:
        for key in ("papermill", "execution", "ExecuteTime"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
        if cell.cell_type != "code":
            continue
        bars = [out for out in cell.outputs if out.get("name") == "stderr"]
        if bars and "nbval-check-output" in cell.metadata.get("tags", []):
            raise NotebookError(f"\nA checked cell must not write to stderr:\n{cell.source}\n{bars[0].text}")
        cell.outputs = [out for out in cell.outputs if out not in bars]
        for out in cell.outputs:
            if WIDGET in out.get("data", {}):  # without a kernel it would be shown as an error
                words = "".join(out.data.get("text/plain", ""))  # what a prediction asks stays
                said = words if words.startswith("Predict first") else "(interactive: run this notebook to use it)"
                out.data = nbformat.from_dict({"text/plain": said})
    # A cell's text comes in pieces, by the time that passed between them.
    CoalesceStreamsPreprocessor().preprocess(nb, {})


def add_pictures(nb):
    """Give each figure a picture, in place. Needs Chrome or Chromium."""

    async def draw(figs):
        async with kaleido.Kaleido(mathjax=False) as browser:  # MathJax would be fetched
            sizes = [{key: fig.get("layout", {}).get(key, SIZE[key]) for key in SIZE} for fig in figs]
            return [await browser.calc_fig(fig, {"format": "png", **size}) for fig, size in zip(figs, sizes)]

    if outs := figures(nb):
        for out, png in zip(outs, asyncio.run(draw([out.data[PLOTLY] for out in outs]))):
            # In place of a figure JupyterLab's plotly shows its PNG until the cell is run, if there is one; a recording
            # should play at once, so its picture is a JPEG, which other readers show and that one does not look for.
            recording = bool(out.data[PLOTLY].get("frames"))
            kind, content = ("image/jpeg", as_jpeg(png)) if recording else ("image/png", smaller(png))
            out.data[kind] = base64.b64encode(content).decode()


def picture(out):
    """The picture beside a figure, as an address that holds it; None where there is none."""
    return next(
        (f"data:{kind};base64,{out.data[kind]}" for kind in ("image/png", "image/jpeg") if kind in out.data), None
    )


def as_jpeg(png):
    out = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(out, "JPEG", quality=85, optimize=True)
    return out.getvalue()


def smaller(png):
    """The picture with a palette of 128 colours: about a fifth of the bytes, and line drawings look the same.

    Maximum coverage keeps the colours of thin lines apart; Pillow's own choice, median cut, merged blue with green.
    """
    out, palette = io.BytesIO(), dict(method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    Image.open(io.BytesIO(png)).convert("RGB").quantize(128, **palette).save(out, "PNG", optimize=True)
    return out.getvalue()


def to_html(nb, title):
    """One page, its figures complete within it: to zoom and turn, or, where scripts are off, as pictures."""
    nb = copy.deepcopy(nb)
    for out in figures(nb):
        fig = out.data[PLOTLY]
        live = plotly.io.to_html(
            {key: fig[key] for key in ("data", "layout", "frames") if key in fig},
            config=fig.get("config"),
            default_height=SIZE["height"],
            include_plotlyjs=False,
            auto_play=False,  # frames are for the figure's slider
            full_html=False,
            validate=False,
        )
        still = "<em>This figure needs JavaScript.</em>"
        if shown := picture(out):
            still = f'<img alt="{html.escape(describe(fig))}" src="{shown}">'
        out.data = nbformat.from_dict({"text/html": f"{live}<noscript>{still}</noscript>"})
    exporter = HTMLExporter(extra_loaders=[DictLoader({"page.html.j2": PAGE})], template_file="page.html.j2")
    return exporter.from_notebook_node(nb, {"metadata": {"name": title}, "plotlyjs": get_plotlyjs()})[0]


def reads(nb, opened, folder):
    """Files in data/ that a notebook needs, as sorted names below data/: those that its run opened (`opened`, a file of
    names) and those that its cells name, which another PRESET may open. folder: where it ran.
    """
    data = (folder / "../data").resolve()
    code = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "code")
    named = [folder / name for name in re.findall(r"\.\./data/[\w./-]+", code)]
    found = {Path(name).resolve() for name in [*opened.read_text(encoding="utf-8").splitlines(), *named]}
    inside = (path.relative_to(data) for path in found if path.is_relative_to(data) and path.is_file())
    return sorted(path.as_posix() for path in inside if path.parts[0] in ("paper", "results"))


def results(nb):
    """What the cells tagged `results` print or show, as text."""
    outs = [out for cell in tagged(nb, "results") for out in cell.outputs]
    return "\n".join(out.text if out.output_type == "stream" else out.data["text/plain"] for out in outs).strip("\n")


def write(path, text):
    """All or nothing: no reader meets half a file."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def run(path, values, folder):
    """`make run`: the notebook with other parameters, and the same as a web page, in a folder of their own."""
    print(f"{path.name} with {', '.join(f'{name} = {value!r}' for name, value in values.items())}:", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    ipynb, html = folder / path.name, folder / f"{path.stem}.html"
    nb = execute(path, values, ipynb)
    tidy(nb)
    try:
        add_pictures(nb)
    except Exception:
        pass  # whoever has no Chrome, or none that starts, misses only the pictures for pages without scripts
    write(ipynb, nbformat.writes(nb) + "\n")
    write(html, to_html(nb, path.stem))
    print(f"\n{results(nb)}\n\nThe notebook as it was run: {os.path.relpath(ipynb)}")
    print(f"Its figures, to zoom and turn in a browser; open next: {os.path.relpath(html)}")


def save(paths):
    """`make notebooks`: run afresh and save in place. A notebook that fails stays as it was."""
    try:
        kaleido.Kaleido()  # only looks for the browser: better now than after the runs
    except ChromeNotFoundError:
        raise NotebookError(
            "make notebooks needs Chrome or Chromium to draw figures. Debian: apt-get install chromium"
        ) from None
    for path in paths:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            opened = Path(folder, "opened")
            nb = execute(path, opened=opened)
            tidy(nb)
            nb.metadata["labkit"] = {**nb.metadata.get("labkit", {}), "reads": reads(nb, opened, path.parent)}
        add_setup(nb)
        add_badge(nb, path.stem)
        add_pictures(nb)
        nbformat.validate(nb)
        text = nbformat.writes(nb) + "\n"
        if (size := len(text.encode())) > LARGEST:
            raise NotebookError(f"{path.name} would have {size:,} bytes, over {LARGEST:,}: its figures hold too much.")
        write(path, text)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {size / 1000:.0f} kB", flush=True)


def setup(paths):
    for path in paths:
        nb = nbformat.read(path, as_version=4)
        add_setup(nb)
        add_badge(nb, path.stem)
        write(path, nbformat.writes(nb) + "\n")
    readme = ROOT / "README.md"
    write(readme, address.with_links(readme.read_text(encoding="utf-8")))


def notebook(name):
    """The path of a notebook given as 04-ufm-10 or by its path."""
    path = Path(name) if name.endswith(".ipynb") else ROOT / "notebooks" / f"{name}.ipynb"
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no notebook {os.path.relpath(path)}")
    return path.resolve()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run", help="run one notebook; write it and a web page to build/")
    one.add_argument("notebook", type=notebook)
    one.add_argument("--preset", choices=("quick", "paper"), default="paper")
    one.add_argument("--set", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="another parameter")
    many = commands.add_parser("save", help="run notebooks afresh and save them in place, with pictures")
    many.add_argument("notebooks", nargs="*", type=notebook, help="all, if none is named")
    first = commands.add_parser(
        "setup", help="write the cell that finds labkit, and badges once there is an address, in place; runs nothing"
    )
    first.add_argument("notebooks", nargs="*", type=notebook, help="all, if none is named")
    args = parser.parse_args()
    try:
        if args.command == "run":
            more = {name: literal(name, value) for name, value in args.set}
            run(args.notebook, {"PRESET": args.preset, **more}, ROOT / "build")
        else:
            {"save": save, "setup": setup}[args.command](args.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")))
    except NotebookError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nstopped")


if __name__ == "__main__":
    main()
