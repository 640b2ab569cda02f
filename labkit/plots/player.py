"""Figures that move with no Python: the states of one setting as frames, behind a slider that is part of the figure."""

import json

import plotly.graph_objects as go

HEIGHT = 95  # pixels, of the slider below the figure
_AT_ONCE = dict(mode="immediate", fromcurrent=True, transition=dict(duration=0))


def play(figures: list, labels: list[str], title: str, start: int = 0) -> go.Figure:
    """Several figures of the same curves as one, with a slider to go from one to the next and a button that does so.

    figures, labels: as many of one as of the other. title: what the slider sets. start: the index of the figure shown
        first.
    A frame holds only what is not the same in all figures. Raises ValueError where figures differ in the number or kind
    of their traces or in the properties they set, where two labels are the same, or where there is no figure.

    >>> moving = play([go.Figure(go.Scatter(y=[1, k])) for k in range(3)], ["0", "1", "2"], "height")
    >>> [frame.name for frame in moving.frames]
    ['0', '1', '2']
    """
    figures, labels = list(figures), list(labels)
    if not figures or len(figures) != len(labels) or len(set(labels)) != len(labels):
        raise ValueError(
            f"need one or more figures with a label of its own each, got {len(figures)} figures and "
            f"{len(labels)} labels: {', '.join(labels)}"
        )
    plain = [json.loads(figure.to_json()) for figure in figures]
    kinds = [[trace["type"] for trace in figure["data"]] for figure in plain]
    if any(found != kinds[0] for found in kinds):
        raise ValueError(
            f"all figures must have the same traces, got {kinds[0]} and {next(k for k in kinds if k != kinds[0])}"
        )
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
