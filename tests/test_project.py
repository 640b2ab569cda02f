"""The files around the library agree with each other, and `make` says plainly what is missing."""

import email
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import labkit

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = [
    "run",
    "lab",
    "check",
    "test",
    "test-browser",
    "test-versions",
    "notebooks",
    "course",
    "site",
    "colab",
    "evidence",
    "bench",
    "help",
]

# Where conda-forge has another name than PyPI, and what it does not have.
CONDA_NAMES = {"torch": "pytorch", "kaleido": "python-kaleido"}
NOT_ON_CONDA_FORGE = {"pymanopt", "playwright"}


def bounds(lines):
    """{name: version bounds} of requirement lines, such as "torch>=2.6"."""
    found = {}
    for line in lines:
        requirement = Requirement(line)
        found[canonicalize_name(requirement.name)] = str(requirement.specifier)
    return found


def dependencies():
    """Everything pyproject.toml asks for: the library's dependencies and those of its extras."""
    extras = PROJECT["optional-dependencies"].values()
    found = bounds([*PROJECT["dependencies"], *(line for extra in extras for line in extra)])
    found.pop(PROJECT["name"])  # an extra that includes another
    return found


# --- versions -----------------------------------------------------------------------------------------------------


def test_version_is_the_same_everywhere():
    assert labkit.__version__ == PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


def test_conda_environment_has_the_dependencies_of_pyproject():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    *pip, last = conda.pop()["pip"]
    assert last == "-e ."
    found = bounds(conda)
    assert found.pop("python") == PROJECT["requires-python"]
    assert found.pop("pip") == ""
    wanted = dependencies()
    assert bounds(pip) == {name: wanted.pop(name) for name in NOT_ON_CONDA_FORGE}
    assert found == {CONDA_NAMES.get(name, name): bound for name, bound in wanted.items()}


def test_constraints_pin_every_dependency_within_its_bounds():
    pins = bounds((ROOT / "constraints.txt").read_text().splitlines())
    assert [name for name, pin in pins.items() if not pin.startswith("==")] == []
    for name, bound in dependencies().items():
        assert name in pins, f"constraints.txt does not pin {name}"
        version = pins[name].removeprefix("==")
        assert Requirement(name + bound).specifier.contains(version), f"{name}: {version} is not {bound}"


# --- the installation ---------------------------------------------------------------------------------------------

BASE = {"torch", "numpy", "pandas", "pyarrow", "tqdm"}
CORE = sorted(path.stem for path in (ROOT / "labkit").glob("*.py") if path.stem != "__init__")
# What `pip install .` leaves out, and what labkit uses of it; IPython comes with ipywidgets.
EXTRAS = [
    "plotly",
    "ipywidgets",
    "IPython",
    "matplotlib",
    "torchvision",
    "timm",
    "accelerate",
    "sklearn",
    "PIL",
    "joblib",
    "pymanopt",
    "mpmath",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The distribution that pip would build and install, made of the files that git would commit."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("notebooks/", "tests/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, check=True, timeout=100)
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_the_wheel_asks_for_the_core_only(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Name"] == "neural-collapse-lab"
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    assert {r.name for r in wanted if r.marker is None} == BASE
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])


def test_the_wheel_carries_every_module_and_all_data(wheel):
    found = set(wheel.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "labkit").rglob("*.py")}
    stored = {
        str(Path("labkit/stored", path.relative_to(ROOT / "data")))
        for folder in ("paper", "results")
        for path in (ROOT / "data" / folder).rglob("*")
        if path.is_file()
    }
    assert modules | stored | {"labkit/py.typed"} == {name for name in found if ".dist-info/" not in name}


def test_the_core_needs_no_extra(wheel, tmp_path):
    """The wheel, unpacked, in a Python that finds none of the extras' packages: every module of the core, the README's
    example, and stored results.
    """
    wheel.extractall(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert all(len([line for line in example.splitlines() if line]) <= 7 for example in examples)
    example = "\n".join(examples)
    code = f"""
import importlib, importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS!r} or name.startswith("pandas.plotting._matplotlib"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.path[:0] = [{str(tmp_path)!r}]
import labkit
assert labkit.__file__.startswith({str(tmp_path)!r}), labkit.__file__
for name in {CORE!r}:
    importlib.import_module("labkit." + name)
{example}
assert features.grad.abs().sum() > 0
from labkit import studies
from labkit.history import History
assert len(History.load(studies.stored() / "results" / "ufm-10.parquet").frame)
"""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
    ],
)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", (ROOT / page).read_text())
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_the_tests_that_the_differences_name_exist():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/differences.md").read_text(encoding="utf-8")))
    there = {name for path in ROOT.glob("tests/**/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert len(named) > 10 and named <= there


# --- make and CI --------------------------------------------------------------------------------------------------

# The environment less what the make that runs these tests hands down, which would reach the make under test.
ENV = {key: value for key, value in os.environ.items() if "MAKE" not in key and key not in ("MFLAGS", "PYTHON")}


def test_ci_checks_and_tests():
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert commands[-3:] == [
        "make check",
        "make test",
        "make test-browser || make test-browser WORKERS=1 ARGS=--last-failed",
    ]
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_make_lists_its_targets():
    listing = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, env=ENV, capture_output=True, text=True).stdout
    assert [line.split()[1] for line in listing.splitlines()] == TARGETS
    explained = re.findall(r"^\| `make ([\w-]+)` \|", (ROOT / "docs/running.md").read_text(), re.MULTILINE)
    assert set(explained) == set(TARGETS) - {"help"}


def test_make_lab_opens_the_first_notebook():
    printed = subprocess.run(
        ["make", "-n", "lab", "READY=README.md"], cwd=ROOT, env=ENV, capture_output=True, text=True
    ).stdout
    (name,) = re.findall(r"jupyterlab (\S+)", printed)
    assert (ROOT / name).is_file() and "--allow-root" in printed


@pytest.fixture
def make(tmp_path):
    """make in a copy of the checkout that has no .venv yet, with a stand-in for Python where one is given.

    Returns the exit status and the lines printed, less make's own ("make: *** [...] Error 1").
    """
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)

    def call(target, python, **env):
        done = subprocess.run(
            ["make", "--no-print-directory", target, f"PYTHON={python}"],
            cwd=tmp_path,
            env=ENV | env,
            capture_output=True,
            text=True,
        )
        lines = (done.stdout + done.stderr).splitlines()
        return done.returncode, [line for line in lines if not line.startswith("make:")]

    return call


@pytest.fixture
def stand_in(tmp_path):
    """A script that answers as a Python of the given version, and writes down what it is asked to install."""

    def create(version, has_venv=True):
        path = tmp_path / "python"
        path.write_text(
            f"""#!/bin/sh
case "$*" in
  *version_info*) echo {version} ;;
  *ensurepip*) exit {0 if has_venv else 1} ;;
  "-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip"*) echo "$*" >> installs; exit ${{PIP_STATUS:-0}} ;;
esac
"""
        )
        path.chmod(0o755)
        return path

    return create


@pytest.mark.parametrize("target", ["run", "lab", "test", "test-browser", "test-versions", "notebooks", "bench"])
def test_make_without_python(make, target):
    status, lines = make(target, "/nonexistent")
    assert status != 0
    assert lines == [
        "labkit needs Python 3.11 or newer; /nonexistent was not found or does not start. "
        f"Try: make {target} PYTHON=python3.12"
    ]


@pytest.mark.parametrize("version", ["2.7.18", "3.1.5", "3.9.2", "3.10.14"])
def test_make_with_an_old_python(make, stand_in, version):
    python = stand_in(version)
    status, lines = make("run", python)
    assert status != 0
    assert lines == [f"labkit needs Python 3.11 or newer; {python} is {version}. Try: make run PYTHON=python3.12"]


def test_make_asks_for_the_python_of_pyproject():
    minimum = PROJECT["requires-python"].removeprefix(">=")
    assert set(re.findall(r"needs Python (\S+) or newer", (ROOT / "Makefile").read_text())) == {minimum}


def test_make_without_venv_module(make, stand_in):
    python = stand_in("3.12.1", has_venv=False)
    status, lines = make("run", python)
    assert status != 0
    assert lines == [
        f"labkit needs Python's venv module; {python} (3.12.1) has none. "
        "On Debian or Ubuntu: apt-get install python3.12-venv"
    ]


def test_make_installs_once_and_again_after_an_interruption(make, stand_in, tmp_path):
    python = stand_in("3.11.0")
    installs = tmp_path / "installs"
    assert make("run", python, PIP_STATUS="1")[0] != 0
    assert len(installs.read_text().splitlines()) == 1
    assert make("run", python)[0] == 0
    assert installs.read_text().splitlines()[-1].endswith("-c constraints.txt -e .[test]")
    assert len(installs.read_text().splitlines()) == 2
    assert make("run", python)[0] == 0
    assert len(installs.read_text().splitlines()) == 2  # found finished: nothing installed
    later = time.time() + 60  # beyond what the clock of the file system can tell apart
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert make("run", python)[0] == 0
    assert len(installs.read_text().splitlines()) == 3  # other pins: installed anew
