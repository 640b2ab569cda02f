"""The explorer of starts without a browser: what it trains is `train_digits`, and it follows its ranges."""

import asyncio

import numpy as np
import pytest

from labkit import widgets
from labkit.studies import activation_fits

pytestmark = [pytest.mark.usefixtures("page"), pytest.mark.filterwarnings("error")]
SMALL = dict(kappa=(-2.0, 2.0), lam=(0.2, 0.4), blocks=1, lr=0.1, seed=3)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(widgets.networks, "EPOCHS", 2)


def trace(figure, name):
    (found,) = (t for t in figure.data if t.name == name)
    return found


def test_a_run_is_that_of_train_digits(short):
    run = widgets.networks.DigitRun(**SMALL)
    assert run.iteration == 0
    run.advance(1), run.advance(2)
    expected = activation_fits.train_digits(
        "x", [3], epochs=2, blocks=1, kappa_init=(-2.0, 2.0), lambda_init=(0.2, 0.4)
    ).frame
    for column in ("test_accuracy", "kappa_0", "lam_2"):
        np.testing.assert_array_equal(run.table()[column], expected[column])


def test_starts_are_drawn_from_the_ranges(short):
    explorer = widgets.networks.StartsExplorer()
    figure = explorer.figure(**{**SMALL, "blocks": 6}, iteration=0)
    drawn, box = trace(figure, "drawn"), trace(figure, "range")
    assert len(drawn.x) == 13 and min(drawn.x) >= -2 and max(drawn.x) <= 2 and np.ptp(drawn.x) > 1
    assert min(drawn.y) >= 0.2 and max(drawn.y) <= 0.4
    assert (min(box.x), max(box.x), min(box.y), max(box.y)) == (-2, 2, 0.2, 0.4)
    assert "scikit-learn's digits" in figure.layout.title.text and "epoch 0 of 2" in figure.layout.title.text


def test_it_shows_the_way(short):
    figure = widgets.networks.StartsExplorer().figure(**SMALL)
    accuracy = trace(figure, "test accuracy")
    assert list(accuracy.x) == [0, 1, 2] and accuracy.y[2] > 80 > 30 > accuracy.y[0]
    lams = np.asarray(trace(figure, "λ").y, float).reshape(3, 4)[:, :3]  # a gap after each of three layers
    np.testing.assert_array_equal(lams[:, 0], trace(figure, "drawn").y)
    np.testing.assert_array_equal(lams[:, 2], trace(figure, "now").y)


def test_buttons_train_and_pause(short):
    explorer = widgets.networks.StartsExplorer()
    explorer.set(**SMALL)

    async def press():
        explorer.train()
        assert explorer.training and explorer.buttons["train"].disabled
        while explorer._run.iteration < 1:
            await asyncio.sleep(0.01)
        explorer.pause()
        await asyncio.sleep(0.2)

    asyncio.run(press())
    assert explorer._run.iteration in (1, 2) and not explorer.training and "of 2" in explorer.status.value
    explorer.run()
    assert explorer.status.value == "epoch 2 of 2"
    explorer.set(kappa=(1.0, 1.3))
    assert explorer.status.value == "epoch 0 of 2"


def test_ranges_outside_the_sliders_are_refused():
    explorer = widgets.networks.StartsExplorer()
    with pytest.raises(ValueError, match="kappa must be from -3 to 3"):
        explorer.set(kappa=(-4.0, 1.0))
    assert explorer.state["kappa"] == (1.0, 1.3)


def test_lambda_of_zero_only_is_kept_off_the_floor(short):
    run = widgets.networks.DigitRun(**{**SMALL, "lam": (0.0, 0.0)})
    assert run.rows[0]["lam_0"] <= 1e-3


def test_a_run_that_diverges_has_ended(short):
    run = widgets.networks.DigitRun(**{**SMALL, "lr": 1e30})
    run.advance(2)
    figure = widgets.networks.StartsExplorer.drawn(run)
    assert run.diverged and run.iteration == 2 and "no longer finite" in figure.layout.title.text
