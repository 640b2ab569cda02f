"""More classes than dimensions: known optima are reached, and the stored study says what notebook 12 says."""

import math
from pathlib import Path

import pytest

from labkit import etf
from labkit.history import History
from labkit.studies.ufms import many_classes

STORED = Path(__file__).parents[3] / "data/results/ufm-many-classes.parquet"


def log_energy(distances):
    """Mean over pairs of ln(1/r) from {distance: pairs}."""
    return -sum(n * math.log(r) for r, n in distances.items()) / sum(distances.values())


@pytest.mark.parametrize(
    "classes, dim, margin, distances",
    [
        (5, 4, 5 / 4, {math.sqrt(2 * 5 / 4): 10}),  # simplex
        (8, 4, 1.0, {2.0: 4, math.sqrt(2): 24}),  # orthoplex: 4 opposite pairs, all others at right angles
        (12, 3, 1 - 1 / math.sqrt(5), None),  # icosahedron
    ],
)
def test_known_optima_are_reached(classes, dim, margin, distances):
    final = many_classes.study([classes], dim, seeds=[0, 1], iterations=2500).final()
    assert final["minimal_margin"].to_numpy() == pytest.approx(margin, abs=1e-3)
    assert (final["accuracy"] == 1).all() and (final["nc1"] < 1e-4).all() and (final["self_duality"] > 0.999).all()
    if distances:
        assert final["log_energy"].to_numpy() == pytest.approx(log_energy(distances), abs=1e-3)
        assert etf.minimal_margin_bound(classes, dim) == margin
    assert (final["nc2"] < 0.01).all() == (classes <= dim + 1)


def test_the_stored_study():
    study = History.load(STORED)
    final = study.final().set_index("num_classes")
    assert set(final.index) == set(many_classes.SIZES) and (final.groupby(level=0).size() == 5).all()
    for classes, rows in final.groupby(level=0):
        bound = etf.minimal_margin_bound(classes, many_classes.DIM)
        assert (rows["minimal_margin"] < bound + 1e-6).all()
        if classes in (17, 32):  # simplex and orthoplex
            assert rows["minimal_margin"].to_numpy() == pytest.approx(bound, abs=1e-3)
    assert (final["accuracy"] == 1).all() and (final["nc1"] < 1e-5).all() and (final["self_duality"] > 0.999).all()
    assert (final.loc[:17, "nc2"] < 1e-3).all() and (final.loc[20:, "nc2"] > 0.4).all()


def test_the_command_line_is_read_before_anything_is_trained(monkeypatch, capsys):
    monkeypatch.setattr(many_classes, "study", lambda: pytest.fail("trained first"))
    for words, said in ((["--help"], "usage: python -m labkit.studies.ufms.many_classes"), (["--nosuch"], "error:")):
        with pytest.raises(SystemExit):
            many_classes.main(words)
        shown = capsys.readouterr()
        assert said in shown.out + shown.err
