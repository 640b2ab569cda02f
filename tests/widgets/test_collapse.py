"""The sphere of notebook 00, without a browser: its states are those of the training, turned and nothing else."""

import math

import numpy as np
import pytest
import torch

from labkit import etf, ufm, widgets

pytestmark = pytest.mark.usefixtures("page")


@pytest.fixture(scope="module")
def explorer():
    return widgets.collapse.CollapseExplorer(per_class=5, iterations=10)


@pytest.mark.parametrize("num_classes", [3, 4])
def test_states_are_the_training_turned(explorer, num_classes):
    states = explorer.states(num_classes, 2)
    assert list(states) == ufm.log_points(10)
    trainer = ufm.Trainer(ufm.UFM(num_classes, 5 * num_classes, 3), "standard", [2], gain=2.0)
    for step in states:
        while trainer.iteration < step:
            trainer.step()
        head, logits = trainer.present()
        own = torch.nn.functional.normalize(trainer.features.detach()[0].double(), dim=-1)
        torch.testing.assert_close(
            states[step]["features"] @ states[step]["features"].mT, own @ own.mT, atol=1e-5, rtol=0
        )
        assert states[step]["mistakes"] == (logits[0].argmax(-1) != trainer.targets).sum()
        low, high = states[step]["angles"].min(), states[step]["angles"].max()
        assert f"step {step}:" in (title := explorer.figure(num_classes, 2, step).layout.title.text)
        assert f"{low:.1f}°" in title and f"{high:.1f}°" in title


def test_training_ends_in_the_tetrahedron_the_same_way_up_for_every_seed():
    explorer = widgets.collapse.CollapseExplorer()
    for seed in (0, 1):
        end = explorer.states(4, seed)[1000]
        assert end["mistakes"] == 0 and (end["angles"] - math.degrees(math.acos(-1 / 3))).abs().max() < 0.05
        np.testing.assert_allclose(end["vectors"].mT.numpy(), etf.ring(4).numpy(), atol=2e-3)
        assert (end["features"] - end["vectors"][end["targets"]]).norm(dim=-1).max() < 0.05


def test_the_film_plays_every_step_and_gives_no_answer_away(explorer):
    film = explorer.film()
    assert [frame.name for frame in film.frames] == [str(step) for step in ufm.log_points(10)]
    assert not any(word in film.to_json() for word in ("angle", "wrong side"))
    assert len(explorer.stills((0, 10)).data) == 6
