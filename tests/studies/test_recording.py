"""A recording holds what the training loop saw, its 3-D shadow shows and hides what it says, and its figures show its
numbers.
"""

import base64
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from labkit import etf, metrics, plots, widgets
from labkit.history import History
from labkit.studies import recording
from labkit.studies.recording import Recording
from labkit.vision import build, recipes

SETTINGS = recipes.RECIPES["digits"] | {"epochs": 3}


@pytest.fixture(scope="module")
def film():
    return recording.record(build.make(SETTINGS, "standard", seed=1))


def at_a_simplex(classes=10, dim=12, samples=4):
    """A recording of one state: every feature on the vertex of its class, turned at random, and class vectors there
    too.
    """
    frame = etf.haar_frame(dim, classes, torch.Generator().manual_seed(0), dtype=torch.float64)
    vertices = etf.simplex_etf(classes, frame=frame).mT
    labels = torch.arange(classes * samples) % classes
    return Recording(History(pd.DataFrame({"iteration": [0]})), vertices[labels][None], labels, vertices[None])


def decoded(values):
    """Numbers as an array, also those that plotly packed in base64."""
    if isinstance(values, dict):
        values = np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
    return np.asarray(values, float)


# --- what is kept


def test_it_keeps_every_epoch_and_does_not_change_the_run(film):
    alone = build.run(SETTINGS, "standard", seed=1).frame
    assert film.history.frame["iteration"].tolist() == [0, 1, 2, 3]
    assert film.history.frame["loss"].tolist() == alone["loss"].tolist()
    assert film.features.shape == (4, 1201, 64) and film.weights.shape == (4, 10, 64)
    assert film.features.dtype == film.weights.dtype == torch.float32
    torch.testing.assert_close(film.features.norm(dim=-1), torch.ones(4, 1201))


@pytest.mark.parametrize("head", ["standard", "fixed", "implicit"])
def test_what_is_kept_gives_the_measures_of_the_loop(film, head):
    film = film if head == "standard" else recording.record(build.make(SETTINGS | {"epochs": 1}, head))
    frame, kept = film.history.frame, (film.features, film.labels)
    np.testing.assert_allclose(metrics.nc1(*kept), frame["nc1"], rtol=1e-4)
    np.testing.assert_allclose(metrics.nc3(film.weights, *kept), frame["nc3"], rtol=1e-4)
    np.testing.assert_allclose(metrics.nc2(film.weights), frame["nc2"], rtol=1e-4, atol=1e-6)


def test_features_are_of_the_precision_that_the_loop_measures_in():
    film = recording.record(build.make(SETTINGS | {"epochs": 1, "precision": "bf16"}, "standard"))
    np.testing.assert_allclose(metrics.nc1(film.features, film.labels), film.history.frame["nc1"], rtol=1e-5)


def test_features_of_the_test_set_are_those_of_the_images_in_order():
    trainer = build.make(SETTINGS, "fixed")
    features, labels = recording.features_of(trainer, trainer.test)
    images = torch.cat([images for images, _ in trainer.test.epoch(0)])
    with torch.no_grad():
        expected = torch.nn.functional.normalize(trainer.backbone(images), dim=-1)
    torch.testing.assert_close(features, expected)
    assert torch.equal(labels, torch.cat([labels for _, labels in trainer.test.epoch(0)]))


def test_a_trainer_that_has_begun_is_refused():
    trainer = build.make(SETTINGS, "standard")
    next(trainer.each_epoch())
    with pytest.raises(ValueError, match="already trained 0 epochs"):
        recording.record(trainer)


def test_means_are_those_of_numpy(film):
    features, labels = film.features[2].double().numpy(), film.labels.numpy()
    expected = np.stack([features[labels == c].mean(0) for c in range(10)]) - features.mean(0)
    np.testing.assert_allclose(film.means[2], expected, atol=1e-12)
    cosine = expected[3] @ expected[8] / np.linalg.norm(expected[3]) / np.linalg.norm(expected[8])
    assert math.isclose(film.cosines(2)[3, 8], cosine, rel_tol=1e-9)
    of_vector = film.weights[2, 3].double().numpy() @ expected[8] / np.linalg.norm(expected[8])
    assert math.isclose(film.cosines(2, "weights")[3, 8], of_vector, rel_tol=1e-9)


# --- the shadow


def test_nothing_of_a_simplex_is_hidden_and_its_angles_stay():
    film = at_a_simplex()
    points, vectors, labels, share = film.shadow([1, 4, 7])
    assert torch.isclose(share[0], torch.ones((), dtype=torch.float64))
    expected = torch.full((3, 3), -1 / 9, dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(vectors[0] @ vectors[0].mT, expected)
    own = torch.tensor([[1, 4, 7].index(c) for c in labels.tolist()])
    torch.testing.assert_close(points[0], vectors[0][own])
    assert (vectors[0].argmax(-1) == torch.arange(3)).all()  # class k along axis k


def test_the_share_is_what_three_of_d_directions_hold(film):
    axes = film.axes([2, 5, 6])
    torch.testing.assert_close(axes.mT @ axes, torch.eye(3, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    z = torch.nn.functional.normalize(torch.randn(1, 3000, 60, generator=generator, dtype=torch.float64), dim=-1)
    anywhere = Recording(film.history, torch.cat([z, z]), torch.arange(3000) % 3, torch.zeros(2, 3, 60))
    assert abs(anywhere.shadow([0, 1, 2])[-1][0] - 3 / 60) < 0.01  # random directions: 3 of 60


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 1], [0, 1, 10], [-1, 0, 1]])
def test_three_different_classes_are_asked_for(classes):
    with pytest.raises(ValueError, match="three different ones of 0 … 9"):
        at_a_simplex().axes(classes)


# --- figures


def test_the_scrubber_moves_every_trace_that_a_single_state_has(film):
    figure = plots.digits.scrubber(film, [3, 5, 8])
    steps = figure.layout.sliders[0].steps
    assert [frame.name for frame in figure.frames] == [step.label for step in steps] == ["0", "1", "2", "3"]
    assert all(
        list(step.args[0]) == [step.label] and step.args[1]["frame"]["redraw"] for step in steps
    )  # 3-D needs a redraw
    for frame in figure.frames:
        state = plots.digits.state(film, [3, 5, 8], int(frame.name))
        assert frame.layout.title.text == state.layout.title.text
        for place, moved in zip(frame.traces, frame.data):
            there = state.data[place]
            assert there.type == moved.type
            for axis in {"x", "y", "z"} & set(moved.to_plotly_json()):
                np.testing.assert_array_equal(decoded(moved[axis]), decoded(there[axis]))
        still = {place for place in range(len(state.data)) if place not in frame.traces}
        for place in still:
            np.testing.assert_array_equal(decoded(state.data[place].x), decoded(figure.data[place].x))


def test_the_dots_of_a_class_are_its_first_features(film):
    points, _, labels, share = film.shadow([3, 5, 8])
    figure = plots.digits.state(film, [3, 5, 8], 2)
    (cloud,) = (t for t in figure.data if t.name == "digit 5")
    drawn = np.stack([decoded(cloud[axis]) for axis in "xyz"], 1)
    np.testing.assert_allclose(drawn, points[2, labels == 5][:50], atol=1e-6)
    assert f"{100 * share[2]:.1f} % of squared length in view" in figure.layout.title.text


def test_the_strip_has_a_scene_for_each_epoch(film):
    figure = plots.digits.strip(film, [0, 1, 2], epochs=(0, 3))
    clouds = [t for t in figure.data if t.name == "digit 1"]
    assert [t.scene for t in clouds] == ["scene", "scene2"] and [t.showlegend for t in clouds] == [True, False]
    assert [a.text for a in figure.layout.annotations] == ["before training", "epoch 3"]


def test_the_sheet_shows_the_images_where_the_labels_say():
    labels = torch.arange(6) % 2
    images = torch.arange(1, 7, dtype=torch.uint8)[:, None, None, None].expand(6, 1, 3, 3)
    ink = decoded(plots.digits.sheet(images, labels, rows=2).data[0].z)
    assert ink.shape == (10, 10)  # 2 rows and 2 classes of 3 pixels in a frame of 1
    assert ink[1:4, 1:4].tolist() == [[1] * 3] * 3 and ink[2, 7] == 2 and ink[7, 2] == 3 and ink[7, 7] == 4
    assert ink[0].sum() == ink[:, 5].sum() == 0


def test_panels_of_heads_are_medians_and_every_figure_is_plain_json(film):
    rows = [
        film.history.frame.assign(head=head, seed=seed, nc1=lambda f, k=k: f["nc1"] * k)
        for head in ("standard", "implicit")
        for seed, k in enumerate((1.0, 2.0, 9.0))
    ]
    figure = plots.digits.head_panels(History(pd.concat(rows)), ["accuracy", "nc1"])
    curves = [t for t in figure.data if t.fill is None and t.yaxis == "y2"]
    assert [t.name for t in curves] == ["standard", "implicit ETF"]
    np.testing.assert_allclose(decoded(curves[0].y), 2 * film.history.frame["nc1"])
    grams = plots.vectors.grams({"a": film.cosines(0), "b": film.cosines(3)})
    lines = plots.digits.over_epochs(film, {"loss": film.history.frame["loss"]}, "loss")
    np.testing.assert_allclose(decoded(grams.data[1].z), film.cosines(3), atol=1e-3)
    np.testing.assert_allclose(decoded(lines.data[0].y), film.history.frame["loss"], rtol=1e-6)
    for made in (figure, grams, lines):
        assert json.loads(made.to_json())["data"] and made.layout.uirevision and made.layout.height


# --- the explorer


def test_every_choice_of_digits_and_epochs_gives_three_classes(film):
    explorer = widgets.images.DigitsExplorer({"standard": film})
    for first, second, third in [(0, 1, 2), (9, 9, 9), (4, 5, 4), (9, 0, 9)]:
        figure = explorer.figure("standard", first, second, third, 3)
        clouds = [t.name for t in figure.data if t.name and t.name.startswith("digit")]
        assert len(set(clouds)) == 3 and clouds[0] == f"digit {first}"
    for epoch, head in itertools.product(range(4), explorer.recordings):
        assert explorer.figure(head, 1, 2, 3, epoch).layout.title.text.startswith(f"epoch {epoch}:")
    assert explorer.state == dict(head="standard", first=0, second=1, third=2, epoch=0)
    assert explorer.widgets["epoch"].max == 3


def test_a_value_set_from_code_shows(film, monkeypatch):
    shown = []
    explorer = widgets.images.DigitsExplorer({"standard": film})
    monkeypatch.setattr(explorer._live, "draw", shown.append)
    explorer.set(first=7, epoch=2)
    assert len(shown) == 1 and shown[0] == explorer.figure("standard", 7, 1, 2, 2)
