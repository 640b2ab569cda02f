"""Makes tools/notebooks.py importable, pytest itself finds labkit where pip put it; and a page for widgets, with no
browser.
"""

import importlib
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
LONG = 300  # seconds, for what runs a notebook or a browser; pyproject.toml has the limit of all other tests


def pytest_sessionstart(session):
    """What ipywidgets 7.7 says of itself, and the sockets and loops that the kernels of notebooks leave to the garbage
    collector, do not fail tests that take warnings for errors: the session's filters come last.
    """
    for ignored in ("The `ipykernel.comm.Comm` class:DeprecationWarning", "unclosed:ResourceWarning"):
        session.add_marker(pytest.mark.filterwarnings(f"ignore:{ignored}"))


def pytest_collection_modifyitems(items):
    """More time for what runs notebooks and a browser."""
    for item in items:
        whole_notebook = "test_runs_with_other_parameters" in item.name
        if whole_notebook or item.path.suffix == ".ipynb" or "browser" in item.path.parts:
            item.add_marker(pytest.mark.timeout(LONG))


@pytest.fixture
def until():
    """Wait until a condition holds, and fail where it does not within `seconds`: until(lambda: ..., "what is awaited")."""

    def wait(condition, awaited, seconds=60, rest=0.002):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"waited {seconds} s for {awaited}")
            time.sleep(rest)

    return wait


@pytest.fixture
def page(monkeypatch):
    """What labkit's modules would show on a page: a list of objects and of figure bundles, in order."""
    shown = []

    class Handle:
        def update(self, content, raw=False):
            assert raw
            shown.append(content)

    def display(content, raw=False, display_id=None):
        if not (raw and "application/javascript" in content):  # prepares the page, shows nothing
            shown.append(content)
        return Handle() if display_id else None

    importlib.import_module("labkit.widgets.base")  # what is imported later would have the real one
    for name, module in sys.modules.copy().items():  # a copy: importing goes on meanwhile
        if name.startswith("labkit.") and hasattr(module, "display"):
            monkeypatch.setattr(module, "display", display)
    return shown
