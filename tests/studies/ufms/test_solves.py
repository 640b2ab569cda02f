"""The solves of a training, by trust region and in closed form, are those that the head makes."""

from labkit import ufm
from labkit.studies.ufms import solves


def test_both_ways_find_the_etf_that_the_head_moves_to():
    table = solves.along_training(ufm.UFM(4, 40, 16), steps=(0, 1, 5), repeats=1, seed=2)
    assert table["way"].tolist() == [solves.CLOSED, solves.ITERATED] * 3 and table["step"].tolist() == [
        0,
        0,
        1,
        1,
        5,
        5,
    ]
    assert table["apart"].max() < 1e-6 and (table["milliseconds"] > 0).all()
