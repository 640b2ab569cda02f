"""The layout stays one that a newcomer finds their way in: no folder with too many modules, no file that is too long."""

from pathlib import Path

import pytest

import labkit

PACKAGE = Path(labkit.__file__).resolve().parent
FOLDERS = [PACKAGE, *sorted({path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE})]
MODULES, LINES = 13, 320  # as CONTRIBUTING.md says
CORE = 2600  # lines of the modules that lie in the package itself


def modules_of(folder):
    """What a folder holds: its modules but `__init__` and `__main__`, and its folders, each as one.

    Beside the core's modules lie the rooms, which are not of the core: they and its private folders do not count there.
    """
    found = [path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "__main__")]
    inside = [] if folder == PACKAGE else [path.parent.name for path in folder.glob("*/__init__.py")]
    return sorted(found + inside)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(PACKAGE.parent).as_posix())
def test_folders_are_small(folder):
    found = modules_of(folder)
    assert len(found) <= MODULES, f"{folder.name} has {len(found)} modules: {', '.join(found)}"


def test_files_are_short():
    lengths = {
        path.relative_to(PACKAGE): len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")
    }
    assert {str(path): length for path, length in lengths.items() if length > LINES} == {}


def test_the_core_is_thin():
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.glob("*.py")) <= CORE


def test_every_folder_of_modules_is_a_package():
    assert [str(folder) for folder in FOLDERS if not (folder / "__init__.py").is_file()] == []


def test_contributing_has_the_same_numbers():
    text = " ".join((PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    assert f"at most {LINES} lines a file and {MODULES} modules a folder" in text
