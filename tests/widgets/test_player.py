"""The figures that play with no Python: each frame, put on the figure as plotly.js does, is the figure of the pure
function.
"""

import copy
import json

import numpy as np
import plotly.graph_objects as go
import pytest
from networks_made_up import results

from labkit import ufm, widgets
from labkit.plots import player

PLAYED = {
    "etf": (widgets.etf.ETFExplorer, "num_classes", [2, 3, 4, 10]),
    "turned": (widgets.etf.ETFExplorer, "angle", [0, 45, 90]),
    "nearest": (widgets.etf.NearestETFExplorer, "delta", [1e-6, 1e-3, 1.0, 1e3]),
    "dragged": (widgets.etf.NearestETFExplorer, "far", [0.0, 1.0, 2.0]),
    "ufm": (lambda: widgets.ufm.UFMExplorer(ufm.UFM(3, 30, 8)), "iteration", [0, 1, 3, 10]),
    "apa": (widgets.activations.APAExplorer, "kappa", [-1.0, 0.0, 1.0]),
    "networks": (lambda: widgets.networks.NetworksExplorer(*results()), "epoch", [1, 5]),
}
SLIDER = ("height", "margin", "sliders", "updatemenus")


def extend(there, new):
    """What plotly.js does with a frame: dicts are merged, all else is replaced."""
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(there.get(key), dict) and "bdata" not in value:
            extend(there[key], value)
        else:
            there[key] = copy.deepcopy(value)


def put(content, frame):
    for k, change in zip(frame["traces"], frame["data"]):
        extend(content["data"][k], change)
    extend(content["layout"], frame.get("layout", {}))


def plain(content):
    return content["data"], {k: v for k, v in content["layout"].items() if k not in SLIDER}


@pytest.mark.parametrize("make, name, values", PLAYED.values(), ids=PLAYED)
@pytest.mark.parametrize("start", [0, -1])
def test_every_frame_is_the_figure_of_its_value(make, name, values, start):
    explorer = make()
    content = json.loads(explorer.player(name, values, start % len(values)).to_json())
    figures = [json.loads(explorer.figure(**{**explorer.state, name: value}).to_json()) for value in values]
    assert plain(content) == plain(figures[start])
    for k in [*range(len(values)), *range(len(values))[::-2], 0]:  # forwards, back in leaps
        put(content, content["frames"][k])
        assert plain(content) == plain(figures[k])


def test_the_slider_goes_to_the_frames():
    figure = widgets.etf.NearestETFExplorer().player("delta", [1e-3, 1.0], start=1)
    (slider,) = figure.layout.sliders
    assert (
        [tuple(step.args[0]) for step in slider.steps]
        == [(frame.name,) for frame in figure.frames]
        == [("0.001",), ("1",)]
    )
    assert slider.currentvalue.prefix == "proximal δ: " and slider.active == 1
    assert [button.args[0] for button in figure.layout.updatemenus[0].buttons] == [None, (None,)]  # play, and stop


def test_frames_hold_only_what_moves():
    explorer = widgets.etf.ETFExplorer()
    figure = explorer.player("angle", [0, 90])
    whole = len(explorer.figure(**explorer.state).to_json())
    for frame in figure.frames:
        assert len(json.dumps(frame.to_plotly_json(), default=lambda a: a.tolist())) < whole / 10
        assert set(frame.layout.to_plotly_json()) == set()  # turning changes no cosine


def test_numbers_stay_single_precision():
    content = widgets.activations.APAExplorer().player("kappa", [0.0, 1.0]).to_json()
    assert '"dtype":"f8"' not in content and '"dtype":"f4"' in content


@pytest.mark.parametrize(
    "figures, labels, message",
    [
        ([], [], "got 0 figures and 0 labels"),
        ([go.Figure()], ["a", "b"], "got 1 figures and 2 labels"),
        ([go.Figure()] * 2, ["a", "a"], "2 labels: a, a"),
        (
            [go.Figure(go.Scatter(y=[1, 2], text=["a", "b"])), go.Figure(go.Scatter(y=[1, 2]))],
            ["a", "b"],
            "the same properties",
        ),
        (
            [go.Figure(go.Scatter(y=np.ones(2))), go.Figure(go.Bar(y=np.ones(2)))],
            ["a", "b"],
            r"\['scatter'\] and \['bar'\]",
        ),
    ],
)
def test_figures_that_cannot_be_played(figures, labels, message):
    with pytest.raises(ValueError, match=message):
        player.play(figures, labels, "x")


def test_other_settings_can_be_given_and_change_nothing(page):
    explorer = widgets.etf.ETFExplorer()
    figure = explorer.player("angle", [0, 90], num_classes=7)
    assert explorer.state == widgets.etf.ETFExplorer().state and page == []
    assert figure.layout.title.text == explorer.figure(7, 0, 0.0).layout.title.text
