"""Figures that move with no Python: the states of one setting as frames, behind a slider that is part of the figure."""

import json
import re

import numpy as np
import plotly.graph_objects as go

HEIGHT = 95  # pixels, of the slider below the figure
_AT_ONCE = dict(mode="immediate", fromcurrent=True, transition=dict(duration=0))


def play(figures: list, labels: list[str], title: str, start: int = 0) -> go.Figure:
    """Several figures of the same curves as one, with a slider to go from one to the next and a button that does so.

    figures, labels: as many of one as of the other. title: what the slider sets. start: the index of the figure shown
        first.
    An axis that would move from one figure to the next has, in all of them, the range that holds them all; axes of
    heatmaps follow their cells. A frame holds only what is not the same in all figures. Raises ValueError where figures
    differ in the number or kind of their traces or in the properties they set, where two labels are the same, where
    there is no figure, and for a start that is none of them.

    >>> moving = play([go.Figure(go.Scatter(y=[1, k])) for k in range(3)], ["0", "1", "2"], "height")
    >>> [frame.name for frame in moving.frames]
    ['0', '1', '2']
    >>> moving.layout.yaxis.range  # 0 to 2, and a little more
    (-0.1, 2.1)
    """
    figures, labels = list(figures), list(labels)
    if not figures or len(figures) != len(labels) or len(set(labels)) != len(labels):
        raise ValueError(
            f"need one or more figures with a label of its own each, got {len(figures)} figures and "
            f"{len(labels)} labels: {', '.join(labels)}"
        )
    if start not in range(len(figures)):
        raise ValueError(f"start must be the index of a figure, 0 to {len(figures) - 1}, got {start!r}")
    plain = [json.loads(figure.to_json()) for figure in figures]
    kinds = [[trace["type"] for trace in figure["data"]] for figure in plain]
    if any(found != kinds[0] for found in kinds):
        raise ValueError(
            f"all figures must have the same traces, got {kinds[0]} and {next(k for k in kinds if k != kinds[0])}"
        )
    for place in _axes(figures[0]):
        _hold(place, figures, plain)
    if any(_keys(found) != _keys(plain[0]) for found in plain):
        raise ValueError("all figures must set the same properties: a frame can change one, not take it away")
    moving = [k for k in range(len(kinds[0])) if any(p["data"][k] != plain[0]["data"][k] for p in plain)]
    frames = []
    for label, figure in zip(labels, plain):
        data = [_differences(figure["data"][k], [p["data"][k] for p in plain]) for k in moving]
        kind = [{"type": kinds[0][k], **d} for k, d in zip(moving, data)]
        layout = _differences(figure["layout"], [p["layout"] for p in plain])
        frames.append(go.Frame(name=label, data=kind, traces=moving, layout=layout))
    return _with_slider(go.Figure(plain[start]["data"], plain[start]["layout"], frames), labels, title, start)


def _axes(figure):
    """The places of all axes in the layout of a figure: ("yaxis2",) or ("scene", "zaxis")."""
    flat = [(name,) for name in figure.layout if re.fullmatch(r"[xy]axis\d*", name)]
    scenes = [name for name in figure.layout if re.fullmatch(r"scene\d*", name)]
    return flat + [(scene, f"{letter}axis") for scene in scenes for letter in "xyz"]


def _hold(place, figures, plain):
    """Give an axis of all figures, in their plain copies, the range that holds them all, where it would move."""
    spans = [span for figure in figures if (span := _span(place, figure))]
    if all(span == spans[0] for span in spans):
        return
    low, high = min(map(min, spans)), max(map(max, spans))
    axes = [figure["layout"] for figure in plain]
    for name in place:
        axes = [axis.setdefault(name, {}) for axis in axes]
    room = 0 if all("range" in axis for axis in axes) else 0.05 * (high - low)
    low, high = low - room, high + room
    ticks = [axis["dtick"] for axis in axes if "dtick" in axis]
    for axis in axes:
        axis["range"] = [low, high] if spans[0][0] <= spans[0][1] else [high, low]
        axis.update({"dtick": max(ticks)} if ticks else {})


def _span(place, figure):
    """The range of an axis, [from, to]: the one it is given, or that of all that is drawn on it and on those that match
    it. None where plotly must find it: with nothing drawn, with names, and with a heatmap.
    """
    axis = figure.layout
    for name in place:
        axis = axis[name]
    if axis.range or axis.autorange or len(place) > 1:
        return list(axis.range) if axis.range else None
    letter, shared = place[0][0], axis.matches or place[0].replace("axis", "")
    alike = [name for name, *deeper in _axes(figure) if not deeper and figure.layout[name].matches == shared]
    names = {shared, *(name.replace("axis", "") for name in alike)}
    traces = [t for t in figure.data if f"{letter}axis" in t and (t[f"{letter}axis"] or letter) in names]
    lines = [shape for shape in figure.layout.shapes if shape[f"{letter}ref"] in names]
    if any(trace.type == "heatmap" for trace in traces):
        return None
    try:
        drawn = [part for trace in traces for part in _extents(trace, letter)]
        drawn += [np.array([shape[f"{letter}0"], shape[f"{letter}1"]]).astype(float) for shape in lines]
    except (TypeError, ValueError):  # names
        return None
    drawn += [np.zeros(1)] * (axis.rangemode in ("tozero", "nonnegative"))
    values = np.concatenate([np.empty(0), *drawn])
    if axis.type == "log":
        values = np.log10(values[values > 0])
    if not (values := values[np.isfinite(values)]).size:
        return None
    return [float(values.min()), float(values.max())]


def _extents(trace, letter):
    """What a trace takes of an axis, as arrays: values, the ends of error bars, and of bars where they begin and their
    sides. TypeError or ValueError where it has names.
    """
    values = np.atleast_1d(np.nan if trace[letter] is None else trace[letter]).astype(float)
    yield values
    if trace.type == "bar":
        along = "x" if trace.orientation == "h" else "y"
        yield np.zeros(1) if letter == along else np.concatenate([values - 0.5, values + 0.5])
    errors = trace[f"error_{letter}"] if f"error_{letter}" in trace else None
    if errors is not None and errors.array is not None:
        yield values + np.asarray(errors.array).astype(float)
        yield values - np.asarray(errors.array if errors.arrayminus is None else errors.arrayminus).astype(float)


def _keys(content):
    """The names in a nested structure, without the values."""
    if isinstance(content, dict) and "bdata" not in content:
        return {key: _keys(value) for key, value in content.items()}
    nested = isinstance(content, list) and content and isinstance(content[0], dict)
    return [_keys(value) for value in content] if nested else None


def _differences(one, all_of_them):
    """The part of a nested dict that is not the same in all of them. Lists are taken whole."""
    found = {}
    for key, value in one.items():
        values = [other[key] for other in all_of_them]
        if all(v == value for v in values):
            continue
        nested = all(isinstance(v, dict) and "bdata" not in v for v in values)  # "bdata": numbers, packed in text
        found[key] = _differences(value, values) if nested else value
    return found


def _with_slider(figure, labels, title, start):
    def move(names, milliseconds):
        return dict(method="animate", args=[names, _AT_ONCE | dict(frame=dict(duration=milliseconds, redraw=True))])

    height, bottom = figure.layout.height or 450, figure.layout.margin.b or 50
    steps = [dict(label=label, **move([label], 0)) for label in labels]
    below = dict(y=0, yanchor="top", active=start)
    slider = dict(
        steps=steps, currentvalue=dict(prefix=f"{title}: ", font_size=14), x=0.12, len=0.87, pad=dict(t=bottom)
    )
    buttons = [dict(label="▶", **move(None, 400)), dict(label="❚❚", **move([None], 0))]
    menu = dict(type="buttons", direction="right", x=0, xanchor="left", showactive=False, pad=dict(t=bottom + 25))
    figure.update_layout(sliders=[slider | below], updatemenus=[menu | below | dict(buttons=buttons, active=-1)])
    return figure.update_layout(height=height + HEIGHT, margin_b=bottom + HEIGHT)
