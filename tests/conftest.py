"""Makes tools/notebooks.py importable, pytest itself finds labkit where pip put it; and a page for widgets, with no
browser.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))


def pytest_sessionstart(session):
    """What ipywidgets 7.7 says of itself does not fail tests that take warnings for errors: the session's filter comes
    last.
    """
    session.add_marker(pytest.mark.filterwarnings("ignore:The `ipykernel.comm.Comm` class:DeprecationWarning"))


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

    for name, module in list(sys.modules.items()):
        if name.startswith("labkit.") and hasattr(module, "display"):
            monkeypatch.setattr(module, "display", display)
    return shown
