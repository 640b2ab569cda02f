"""The files around the library agree with each other, and `make` says plainly what is missing."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import labkit

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = ["run", "lab", "check", "test", "test-browser", "test-versions", "notebooks", "results", "bench", "help"]

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
    found.pop("labkit")  # an extra that includes another
    return found


# --- versions -----------------------------------------------------------------------------------------------------


def test_version_is_the_same_everywhere():
    assert labkit.__version__ == PROJECT["version"]


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


# --- make and CI --------------------------------------------------------------------------------------------------

# The environment less what the make that runs these tests hands down, which would reach the make under test.
ENV = {key: value for key, value in os.environ.items() if "MAKE" not in key and key not in ("MFLAGS", "PYTHON")}


def test_ci_runs_the_test_commands_of_the_readme():
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert commands[-2:] == ["make test", "make test-browser || make test-browser ARGS=--last-failed"]
    assert os.access(ROOT / ".ci/run", os.X_OK)
    readme = (ROOT / "README.md").read_text()
    assert re.search(r"^(\$ )?make test\b", readme, re.MULTILINE) and "`make test-browser`" in readme


def test_make_lists_its_targets():
    listing = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, env=ENV, capture_output=True, text=True).stdout
    assert [line.split()[1] for line in listing.splitlines()] == TARGETS


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
    os.utime(tmp_path / "constraints.txt")
    assert make("run", python)[0] == 0
    assert len(installs.read_text().splitlines()) == 3  # other pins: installed anew
