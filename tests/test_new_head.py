"""A head that the library does not know, in one class of its own: everything that trains, draws or asks for heads has it."""

import pytest
import torch
import torch.nn.functional as F

from labkit import heads, ufm
from labkit.history import History

NAME = "prototype"


@pytest.fixture(scope="module")
def prototype():
    class Prototype(heads.Head, name=NAME, label="class prototypes", colour="#123456", dash="dash"):
        """Logits fall with the squared distance to learnt prototypes."""

        def __init__(self, dim, num_classes, temperature=5.0, *, spread=1.0, generators=None, **common):
            super().__init__(dim, num_classes, temperature, generators=generators, **common)
            draw = self._draw(generators, lambda g: torch.randn(num_classes, dim, generator=g))
            self.weight = torch.nn.Parameter(spread * F.normalize(draw, dim=-1))

        @property
        def bias(self):
            return -self.weight.square().sum(-1) / 2

    yield Prototype
    del heads.HEADS[NAME], heads.VARIANTS[NAME]


@pytest.fixture(scope="module")
def history(prototype):
    return ufm.train_ufm(ufm.UFM(4, 40, 16), NAME, 60, seeds=[0, 1], spread=0.5)


def test_it_trains_as_a_ufm(history):
    assert set(history.frame["head"]) == {NAME} and history.settings["spread"] == 0.5
    assert (history.final()["accuracy"] == 1).all()
    with pytest.raises(ValueError, match="'prototype' has no option spred; it has .*spread"):
        ufm.train_ufm(ufm.UFM(4, 40, 16), NAME, 1, spred=0.5)


def test_logits_are_those_of_the_class(prototype):
    head, z = prototype(8, 3).double(), torch.randn(5, 8, dtype=torch.float64)
    h = head.normalize(z)
    expected = -(h.unsqueeze(1) - head.weight).square().sum(-1) / 2 + h.square().sum(-1, keepdim=True) / 2
    torch.testing.assert_close(head(z), expected)


def test_it_trains_on_images_and_is_drawn(prototype, history):
    build, recipes = (pytest.importorskip(f"labkit.vision.{name}") for name in ("build", "recipes"))
    settings = recipes.RECIPES["digits"] | {"epochs": 1, "count": 200}
    found = build.run(settings, NAME)
    assert set(found.frame["head"]) == {NAME}


def test_it_is_on_the_command_line(prototype, tmp_path, capsys):
    command = pytest.importorskip("labkit.vision.__main__")
    arguments = ["--recipe", "digits", "--epochs", "1", "--count", "200", "--seeds", "0", "--folder", str(tmp_path)]
    assert command.main([*arguments, "--head", NAME]) == 0
    assert NAME in capsys.readouterr().out


def test_it_is_drawn_and_labelled_in_the_panels(history):
    panels = pytest.importorskip("labkit.plots.ufm")
    standard = ufm.train_ufm(ufm.UFM(4, 40, 16), "standard", 60, seeds=[0, 1])
    figure = panels.ufm_panels(History.concat([standard, history]), 4)
    drawn = [trace for trace in figure.data if trace.name == "class prototypes"]
    assert drawn and {trace.line.color for trace in drawn if trace.mode == "lines" and trace.line.color} >= {"#123456"}
