"""A stranger's path: a clone, `make run`, the page that its last line names, and the README's lines as pasted."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from notebooks import figures, other_parameters

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENV = {key: value for key, value in os.environ.items() if "MAKE" not in key and key not in ("MFLAGS", "PYTHON", "PYTHONPATH")}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The files that git would commit, with an environment that is set up: this one, where `labkit` is the clone's."""
    folder = tmp_path_factory.mktemp("clone")
    listed = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv/.ready").touch()
    return folder


@pytest.mark.timeout(300)  # it takes 20 s; a machine may be busy
def test_make_run_ends_with_three_rows_and_the_page_to_open(clone):
    """With the parameters of a short run."""
    command = re.search(r"^(make run)\b", README, re.MULTILINE)[1].split()
    name = re.search(r"^NOTEBOOK\s*=\s*(\S+)", (clone / "Makefile").read_text(), re.MULTILINE)[1]
    short = other_parameters(nbformat.read(clone / f"notebooks/{name}.ipynb", as_version=4))
    options = " ".join(f"--set {key} '{value!r}'" for key, value in short.items())
    env = ENV | {"PYTHONPATH": str(clone), "BROWSER_PATH": "/nonexistent"}
    done = subprocess.run([*command, f"ARGS={options}"], cwd=clone, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    medians = [line.split() for line in lines if line.startswith(("standard ", "fixed ", "implicit "))]
    assert [row[0] for row in medians] == ["standard", "fixed", "implicit"]
    assert all(float(value) >= 0 for row in medians for value in row[1:5])
    assert "the paper" in done.stdout and any(line.startswith("What to see: ") for line in lines)
    page = clone / re.search(r"open next: (\S+)$", lines[-1])[1]
    drawn = figures(nbformat.read(clone / f"build/{name}.ipynb", as_version=4))
    assert page.read_text(encoding="utf-8").count("Plotly.newPlot(") >= len(drawn) > 3


@pytest.mark.parametrize("number", range(README.count("```python")))
def test_the_readmes_lines_run_as_pasted(clone, number):
    pasted = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[number]
    done = subprocess.run(
        [sys.executable, "-c", pasted], cwd=clone, env=ENV | {"PYTHONPATH": str(clone)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    if "print(" in pasted:
        assert "nc1" in done.stdout


def test_the_readmes_doors_lead_somewhere():
    for door in ("Learn", "Teach", "Use in research"):
        assert re.search(rf"\*\*{door}\.\*\*.*?\]\(([^)]+)\)", README, re.DOTALL)
