"""The figures that play with no Python: each frame, put on the figure as plotly.js does, is the figure of the pure
function, but for the axes, which stand still.
"""

import base64
import copy
import json
import re

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
    "noise": (widgets.etf.ETFExplorer, "noise", [0.0, 0.5, 1.0]),
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


def axes(layout, path=()):
    """All axes in a layout: {path: axis}."""
    found = {}
    for name, value in layout.items():
        if re.fullmatch(r"[xyz]axis\d*", name):
            found[*path, name] = value
        elif re.fullmatch(r"scene\d*", name):
            found |= axes(value, (name,))
    return found


def plain(content):
    """Data and layout, without the slider and what holds the axes."""
    content = copy.deepcopy(content)
    for axis in axes(content["layout"]).values():
        axis.pop("range", None), axis.pop("dtick", None)
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


def numbers(values):
    if isinstance(values, dict):  # packed by plotly
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).astype(float)
    return np.asarray(values, float)


def drawn_on(content, path):
    """Finite numbers that the traces draw on an axis, on its scale; None for a heatmap."""
    axis, letter, drawn = axes(content["layout"])[path], path[-1][0], [np.empty(0)]
    for trace in content["data"]:
        deep = trace["type"] == "scatter3d"
        place = (trace.get("scene", "scene"), f"{letter}axis") if deep else (trace.get(f"{letter}axis", letter),)
        if (place[0].replace(letter, f"{letter}axis"), *place[1:]) != path or letter not in trace:
            continue
        if trace["type"] == "heatmap":
            return None
        drawn.append(numbers(trace[letter]))
    drawn = np.concatenate(drawn)
    drawn = np.log10(drawn[drawn > 0]) if axis.get("type") == "log" else drawn
    return drawn[np.isfinite(drawn)]


@pytest.mark.parametrize("make, name, values", PLAYED.values(), ids=PLAYED)
def test_the_axes_stand_still_and_hold_every_frame(make, name, values):
    explorer = make()
    content = json.loads(explorer.player(name, values).to_json())
    figures = [json.loads(explorer.figure(**{**explorer.state, name: value}).to_json()) for value in values]
    drawn = {path: [] for path in axes(content["layout"])}
    for frame in content["frames"]:
        put(content, frame)
        for path, axis in axes(content["layout"]).items():
            drawn[path].append((axis.get("range"), drawn_on(content, path)))
    for path, (ranges, parts) in ((path, zip(*found)) for path, found in drawn.items()):
        assert all(span == ranges[0] for span in ranges), path
        if any(part is None for part in parts):  # cells of a heatmap
            continue
        own = [axes(figure["layout"])[path].get("range") for figure in figures]
        if ranges[0] is None and "matches" not in axes(content["layout"])[path]:  # plotly finds the same one for all
            ends = [(part.min(), part.max()) for part in parts if part.size]
            assert all(end == ends[0] for end in ends), path
        elif own[0] is None or any(span != own[0] for span in own):
            everything = np.concatenate(parts)
            assert min(ranges[0]) <= everything.min() + 1e-6 and everything.max() - 1e-6 <= max(ranges[0]), path


def test_axes_that_move_get_one_range_for_all():
    drawn = [dict(x=[0, 1], y=[1, k + 1]) for k in range(3)]
    figures = [go.Figure(go.Scatter(**d)) for d in drawn]
    assert player.play(figures, list("abc"), "").layout.yaxis.range == pytest.approx((0.9, 3.1))
    assert player.play(figures, list("abc"), "").layout.xaxis.range is None  # the same in all
    for figure, d in zip(figures, drawn):
        figure.update_yaxes(type="log", dtick=d["y"][1])
    moving = player.play(figures, list("abc"), "")
    assert moving.layout.yaxis.range == pytest.approx((-0.05 * np.log10(3), 1.05 * np.log10(3)))
    assert moving.layout.yaxis.dtick == 3 and all(frame.layout.yaxis.range is None for frame in moving.frames)


def test_bars_and_error_bars_are_inside_too():
    bars = [go.Figure(go.Bar(x=[0, 1], y=[3, k + 4])) for k in range(3)]
    moving = player.play([f.update_xaxes(title=str(k)) for k, f in enumerate(bars)], list("abc"), "")
    assert moving.layout.yaxis.range[0] <= 0 and moving.layout.yaxis.range[1] >= 6
    across = [go.Figure(go.Bar(x=[5, k + 6], y=[0, 1], orientation="h")) for k in range(3)]
    assert player.play(across, list("abc"), "").layout.xaxis.range[0] <= 0
    ranges = dict(type="data", symmetric=False, array=[5, 5], arrayminus=[7, 1])
    points = [go.Figure(go.Scatter(x=[80, 85 + k], y=[0, 1], error_x=ranges)) for k in range(3)]
    low, high = player.play(points, list("abc"), "").layout.xaxis.range
    assert low <= 73 and high >= 92


def test_given_ranges_are_joined_and_keep_their_direction():
    figures = [go.Figure(go.Scatter(y=[1, 2])).update_yaxes(range=[k + 3, k]) for k in range(3)]
    assert player.play(figures, list("abc"), "").layout.yaxis.range == (5, 0)


def test_axes_of_names_and_of_heatmaps_are_left_to_plotly():
    figures = [go.Figure([go.Scatter(x=list("abc")[:k], y=[1, 1, 1][:k])]) for k in (2, 3)]
    assert player.play(figures, list("ab"), "").layout.xaxis.range is None
    figures = [go.Figure(go.Heatmap(z=np.eye(k))) for k in (2, 3)]
    assert player.play(figures, list("ab"), "").layout.xaxis.range is None


def test_axes_that_match_get_one_range_together():
    figures = [go.Figure([dict(y=[0, k]), dict(y=[0, 10 - k], yaxis="y2")]) for k in (1, 2)]
    for figure in figures:
        figure.update_layout(yaxis2=dict(matches="y"))
    moving = player.play(figures, list("ab"), "").layout
    assert moving.yaxis.range == moving.yaxis2.range == pytest.approx((-0.45, 9.45))


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


@pytest.mark.parametrize("start", [-1, 2])
def test_a_start_that_is_no_figure_is_refused(start):
    """−1 showed the last figure, over a slider that stood at its first."""
    figures = [go.Figure(go.Scatter(y=[1, k])) for k in range(2)]
    with pytest.raises(ValueError, match=f"start must be the index of a figure, 0 to 1, got {start}"):
        player.play(figures, ["0", "1"], "height", start)


def test_other_settings_can_be_given_and_change_nothing(page):
    explorer = widgets.etf.ETFExplorer()
    figure = explorer.player("angle", (90 * k for k in range(2)), num_classes=7)
    assert explorer.state == widgets.etf.ETFExplorer().state and page == []
    assert figure.layout.title.text == explorer.figure(7, 0, 0.0).layout.title.text
    assert [frame.name for frame in figure.frames] == ["0", "90"]
