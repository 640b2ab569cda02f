"""Each notebook as one file that runs by itself, in Colab for one: build/colab/NAME.ipynb (`make colab`).

    python tools/colab.py [NAME ...]            write them
    python tools/colab.py --try [NAME ...]      and run each from top to bottom in a fresh environment

Their first cell carries labkit as a wheel and the stored results that the notebook reads (its metadata has the list, which
`tools/notebooks.py save` made while it ran); everything else comes from the package index. Where that is too much for one
file it lies beside the notebook as NAME.zip, from where the first cell takes it, or from the public address. `--try` makes
an environment like Colab's: PyTorch, ipywidgets 7.7 and a package google.colab are there before, and no checkout. It takes
some minutes.
"""

import argparse
import base64
import io
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from pathlib import Path

import address
import nbformat

from notebooks import ROOT, notebook, tagged, write

LARGEST = 5_000_000  # bytes of what one file carries
THERE = ["ipykernel", "nbclient", "torch", "torchvision", "numpy", "pandas", "ipywidgets==7.7.1"]  # as Colab has them
# What keeps ipywidgets 7.7.1 from being installed beside our pins, and what it asks for without a bound.
OTHER_PINS = ("ipywidgets", "jupyterlab_widgets", "widgetsnbextension")

FIRST = '''\
# @title Run this cell first: it unpacks labkit, and the stored results that this notebook reads {{ display-mode: "form" }}
# Written by `make colab`. In a checkout of the course it does nothing.
{content}
import base64, importlib, io, os, sys, urllib.request, zipfile
from pathlib import Path

if not Path("../data/paper").is_dir():
    for name in [name for name in sys.modules if name.split(".")[0] == "labkit"]:  # another project's
        del sys.modules[name]
    Path("labkit-course/notebooks").mkdir(parents=True, exist_ok=True)
    Path("labkit-course/data/paper").mkdir(parents=True, exist_ok=True)
    {archive}
    zipfile.ZipFile(archive).extractall("labkit-course")
    os.chdir("labkit-course/notebooks")
    %pip install -q --force-reinstall --no-deps "../{wheel}"
    %pip install -q "../{wheel}[notebooks]"
    importlib.invalidate_caches()

import torch

device = "cuda" if torch.cuda.is_available() else "cpu"'''

CARRIED = 'CONTENT = """\n{content}\n"""', "archive = io.BytesIO(base64.b64decode(CONTENT))"
BESIDE = (
    'BESIDE = "{name}.zip"  # what it unpacks, too much to be in here',
    """archive = Path(BESIDE)
    if not archive.is_file():
        {otherwise}""",
)
FETCHED = """print("fetching", BESIDE)
        archive = io.BytesIO(urllib.request.urlopen("{url}").read())"""
ASKED = 'raise FileNotFoundError(f"{archive} is not there: `make colab` wrote it beside this notebook")'


def build_wheel(out: Path) -> Path:
    """labkit's wheel without the stored results, from the files as they lie in this checkout. Returns its path."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder)
        for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        shutil.copytree(ROOT / "labkit", source / "labkit", ignore=shutil.ignore_patterns("__pycache__"))
        (source / "data").mkdir()  # setup.py asks for it
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source]
        same = {
            "SOURCE_DATE_EPOCH": "315532800",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }  # the same bytes from the same files
        subprocess.run(command, check=True, env=os.environ | same)
    (wheel,) = Path(out).glob("*.whl")
    return wheel


def packed(wheel: Path, files: list[str]) -> bytes:
    """The wheel and files of data/ as a zip archive."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as out:
        for name, path in [(wheel.name, wheel), *((f"data/{name}", ROOT / "data" / name) for name in files)]:
            out.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def by_itself(nb: nbformat.NotebookNode, wheel: Path, name: str) -> bytes | None:
    """Put what it needs into a notebook's first cell, in place, folded. Its outputs stay as they are.

    Returns None, or what is to lie beside the notebook as NAME.zip because it is more than LARGEST. Raises ValueError for a
    notebook that does not say what it reads.
    """
    if (files := nb.metadata.get("labkit", {}).get("reads")) is None:
        raise ValueError("its metadata does not say what it reads; `tools/notebooks.py save` writes it there")
    (cell,) = tagged(nb, "setup")
    archive, url = packed(wheel, files), address.beside(f"{name}.zip")
    text = "\n".join(textwrap.wrap(base64.b64encode(archive).decode(), 2000))
    carried = len(text) <= LARGEST
    content, taken = CARRIED if carried else BESIDE
    otherwise = FETCHED.format(url=url) if url else ASKED
    cell.source = FIRST.format(
        content=content.format(content=text, name=name), archive=taken.format(otherwise=otherwise), wheel=wheel.name
    )
    cell.metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}
    nb.cells = [other for other in nb.cells if "badge" not in other.metadata.get("tags", [])]
    return None if carried else archive


def build(paths: list[Path], out: Path) -> list[Path]:
    """Write these notebooks, and beside them what is too large for one; returns the paths of the notebooks."""
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        for path in paths:
            nb, beside = nbformat.read(path, as_version=4), out / f"{path.stem}.zip"
            try:
                archive = by_itself(nb, wheel, path.stem)
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from None
            beside.unlink(missing_ok=True)
            if archive is not None:
                beside.write_bytes(archive)
            write(out / path.name, nbformat.writes(nb) + "\n")
            written.append(out / path.name)
            for made in (written[-1], beside):
                if made.is_file():
                    print(f"{os.path.relpath(made)}: {made.stat().st_size / 1000:.0f} kB", flush=True)
    return written


def like_colab(python: Path) -> None:
    """Make `google.colab` importable and imported in an environment, as Colab's kernels have it."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = Path(subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip())
    (found / "google/colab").mkdir(parents=True)
    for folder in ("google", "google/colab"):
        (found / folder / "__init__.py").write_text("")
    (found / "colab.pth").write_text("import google.colab\n")


def run_alone(path: Path, python: Path, env: dict) -> tuple[nbformat.NotebookNode, str]:
    """Run a notebook with the kernel of an environment, alone in an empty folder. Returns it as it was run, and what went
    wrong, empty where nothing did.
    """
    with tempfile.TemporaryDirectory() as folder:
        alone = Path(shutil.copy(path, folder))
        if path.with_suffix(".zip").is_file():
            shutil.copy(path.with_suffix(".zip"), folder)
        nb = nbformat.read(alone, as_version=4)
        for cell in nb.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(nb, alone)
        start = "from nbclient.cli import NbClientApp; NbClientApp.launch_instance()"
        command = [python, "-c", start, "--inplace", "--timeout=600", alone.name]
        done = subprocess.run(
            command, cwd=folder, env=env | {"COLAB_NOTEBOOK_ID": "made up"}, capture_output=True, text=True
        )
        return nbformat.read(alone, as_version=4), done.stderr[-3000:] if done.returncode else ""


def attempt(paths: list[Path]) -> int | str:
    """Run each in an environment in which nothing of ours was before, and say how it went."""
    with tempfile.TemporaryDirectory() as folder:
        venv = Path(folder, "venv")
        python = venv / "bin/python"
        pins = [
            line
            for line in (ROOT / "constraints.txt").read_text().splitlines()
            if line.split("==")[0] not in OTHER_PINS
        ]
        Path(folder, "pins.txt").write_text("\n".join(pins))
        env = {
            key: value
            for key, value in os.environ.items()
            if key not in ("PYTHONPATH", "VIRTUAL_ENV", "PLOTLY_RENDERER")
        }
        env |= {"PIP_CONSTRAINT": str(Path(folder, "pins.txt")), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        env |= {"PATH": f"{venv / 'bin'}{os.pathsep}{env['PATH']}"}
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *THERE], env=env, check=True)
        like_colab(python)
        failed = []
        for path in paths:
            subprocess.run([python, "-m", "pip", "uninstall", "-qy", "neural-collapse-lab"], env=env, check=True)
            start = time.perf_counter()
            nb, wrong = run_alone(path, python, env)
            drawn = sum(
                "plotly" in str(out.get("data", "")).lower() for cell in nb.cells for out in cell.get("outputs", [])
            )
            says = f"FAILS:\n{wrong}" if wrong else f"runs, {drawn} figures"
            print(f"{path.name}: {says}, {time.perf_counter() - start:.0f} s", flush=True)
            failed += [path.name] if wrong else []
    return f"failed: {', '.join(failed)}" if failed else 0


def main() -> int | str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=notebook, help="all, if none is named")
    parser.add_argument("--try", dest="attempt", action="store_true", help="run each in a fresh environment")
    args = parser.parse_args()
    try:
        written = build(args.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")), ROOT / "build/colab")
    except ValueError as error:
        return str(error)
    return attempt(written) if args.attempt else 0


if __name__ == "__main__":
    sys.exit(main())
