"""A notebook with no checkout around it finds the data that labkit was installed with."""

from pathlib import Path

import pytest

from labkit import studies
from labkit.course import standalone

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_happens_in_a_checkout(monkeypatch):
    monkeypatch.chdir(ROOT / "notebooks")
    standalone.enter()
    assert Path.cwd() == ROOT / "notebooks"


def test_alone_the_data_is_copied_once(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    standalone.enter()
    assert Path.cwd() == tmp_path / "labkit-course/notebooks"
    found = {path.relative_to("../data") for path in Path("../data").rglob("*.*")}
    assert found == {path.relative_to(ROOT / "data") for path in (ROOT / "data").rglob("*.*")}
    standalone.enter()  # the same cell once more
    assert Path.cwd() == tmp_path / "labkit-course/notebooks"
    monkeypatch.chdir(tmp_path)
    Path("labkit-course/data/results/mine.parquet").write_text("kept")
    Path("labkit-course/data/paper/guiding-table1.csv").write_text("changed by hand")
    standalone.enter()  # after a restart of the kernel
    assert Path("../data/results/mine.parquet").read_text() == "kept"
    assert Path("../data/paper/guiding-table1.csv").read_text() == "changed by hand"


def test_without_data_it_says_so(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(studies, "__file__", str(tmp_path / "labkit/studies/__init__.py"))
    with pytest.raises(FileNotFoundError, match="installed without its data: there is no .*data"):
        standalone.enter()
