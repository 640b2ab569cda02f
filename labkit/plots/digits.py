"""Plotly figures of a `Recording`: three classes of features in 3-D over epochs, cosines as pictures, heads side by
side.
"""

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from labkit.plots.style import CLASS_COLOURS, GREY, _decades, _heads_in, _layout, curve_traces
from labkit.plots.vectors import _sphere

MEASURES = {"nc1": "NC1", "nc2_means": "NC2 (means)", "nc3": "NC3", "nc4": "NC4"}
SYMBOLS = ("circle", "square", "diamond")
REACH = 1.1  # of the axes: features and class vectors have unit length
EYE = dict(x=1.35, y=0.95, z=0.8)


class Shadow:
    """Traces of three classes of a Recording at any epoch: features as dots, and class vectors as lines from the
    origin.

    per_class: so many features of each class are drawn, the first of the set.
    """

    def __init__(self, recording, classes, per_class=50):
        points, vectors, labels, self.share = recording.shadow(classes)
        rows = [(labels == c).nonzero().flatten()[:per_class] for c in classes]
        # float32: as good to look at, and half as long in a saved notebook
        self.points = [points[:, r].float().numpy() for r in rows]
        self.vectors = vectors.float().numpy()
        self.classes = classes

    def traces(self, epoch, legend=True):
        drawn = []
        for k, c in enumerate(self.classes):
            colour = CLASS_COLOURS[c % len(CLASS_COLOURS)]
            x, y, z = self.points[k][epoch].T
            drawn.append(
                go.Scatter3d(
                    x=x,
                    y=y,
                    z=z,
                    mode="markers",
                    name=f"digit {c}",
                    showlegend=legend,
                    marker=dict(size=3, symbol=SYMBOLS[k], color=colour, line_width=0),
                )
            )
            x, y, z = np.stack([np.zeros(3, np.float32), self.vectors[epoch, k]], 1)
            drawn.append(
                go.Scatter3d(
                    x=x,
                    y=y,
                    z=z,
                    mode="lines",
                    name=f"class vector of {c}",
                    showlegend=False,
                    line=dict(color=colour, width=6),
                )
            )
        return drawn


def state(recording, classes, epoch, shadow=None, height=560):
    """One epoch: at the left the features of three classes in 3-D, at the right NC1 to NC4 with a dot at this epoch."""
    shadow = shadow or Shadow(recording, classes)
    figure = make_subplots(
        4,
        2,
        column_widths=[0.66, 0.34],
        horizontal_spacing=0.07,
        vertical_spacing=0.06,
        shared_xaxes=True,
        specs=[[{"type": "scene", "rowspan": 4}, {}], *[[None, {}]] * 3],
    )
    for trace in shadow.traces(epoch):
        figure.add_trace(trace, row=1, col=1)
    for row, trace in enumerate(_dots(recording, epoch), start=1):
        figure.add_trace(trace, row=row, col=2)
    frame = recording.history.frame
    for row, (measure, label) in enumerate(MEASURES.items(), start=1):
        log = measure != "nc4"  # which reaches 0
        figure.add_trace(
            go.Scatter(
                x=frame["iteration"],
                y=frame[measure],
                mode="lines",
                line=dict(color=GREY, width=2),
                name=label,
                showlegend=False,
            ),
            row=row,
            col=2,
        )
        figure.update_yaxes(
            title=label,
            title_standoff=4,
            row=row,
            col=2,
            nticks=4,
            **_range(frame[measure], log),
            **(dict(type="log", dtick=1, exponentformat="power") if log else {}),
        )
    last = frame["iteration"].max()
    figure.update_xaxes(range=[-0.05 * last, 1.05 * last])
    figure.update_xaxes(title="epoch", row=4, col=2)
    figure.add_trace(_sphere())
    figure.update_scenes(**_box(EYE))
    _layout(figure, height, _title(recording, shadow, epoch), legend=dict(x=0, y=1, itemsizing="constant"))
    return figure.update_layout(margin=dict(l=10, r=20, t=60, b=50), title_x=0.02)


def scrubber(recording, classes=(0, 1, 2), epochs=None, height=640):
    """`state` for many epochs, with a slider and a button of plotly's own: it moves without a kernel.

    epochs: those shown; by default every one up to 20 and then every tenth.
    """
    last = recording.history.frame["iteration"].max()
    epochs = list(epochs or dict.fromkeys([*range(min(last, 20) + 1), *range(20, last + 1, 10), last]))
    epochs = [e for e in epochs if e <= last]
    shadow = Shadow(recording, classes)
    figure = state(recording, classes, epochs[0], shadow, height)
    moving = list(range(2 * len(classes) + len(MEASURES)))  # the first traces of `state`
    figure.frames = [
        go.Frame(
            name=str(e),
            traces=moving,
            layout=dict(title=dict(text=_title(recording, shadow, e))),
            data=[_place(trace) for trace in (*shadow.traces(e), *_dots(recording, e))],
        )
        for e in epochs
    ]

    def play(names, milliseconds):
        return dict(
            method="animate",
            args=[
                names,
                dict(
                    mode="immediate",
                    fromcurrent=True,
                    transition=dict(duration=0),
                    frame=dict(duration=milliseconds, redraw=True),
                ),
            ],
        )

    figure.update_layout(
        sliders=[
            dict(
                active=0,
                currentvalue=dict(prefix="epoch "),
                x=0.12,
                len=0.88,
                pad=dict(t=30),
                steps=[dict(label=str(e), **play([str(e)], 0)) for e in epochs],
            )
        ],
        updatemenus=[
            dict(
                type="buttons",
                x=0.0,
                xanchor="left",
                y=0,
                yanchor="top",
                pad=dict(t=45),
                showactive=False,
                direction="right",
                buttons=[dict(label="▶", **play(None, 400)), dict(label="❚❚", **play([None], 0))],
            )
        ],
    )
    return figure.update_layout(margin_b=130)


def strip(recording, classes=(0, 1, 2), epochs=(0, 1, 5, 60), height=330):
    """The 3-D picture of `state` at several epochs side by side."""
    shadow = Shadow(recording, classes, per_class=40)
    titles = [f"epoch {e}" if e else "before training" for e in epochs]
    figure = make_subplots(
        1, len(epochs), specs=[[{"type": "scene"}] * len(epochs)], subplot_titles=titles, horizontal_spacing=0.01
    )
    for col, epoch in enumerate(epochs, start=1):
        for trace in shadow.traces(epoch, legend=col == 1):
            figure.add_trace(trace, row=1, col=col)
    figure.update_scenes(**_box(dict(x=1.3, y=0.85, z=0.75)))
    legend = dict(orientation="h", x=0.5, xanchor="center", y=-0.02, yanchor="top", itemsizing="constant")
    return _layout(figure, height, legend=legend).update_layout(margin=dict(l=0, r=0, t=30, b=30))


def grams(pictures, across="class", up="class", height=340):
    """Cosines as pictures side by side, {title: (C, C)}, on one scale from −1 (red) to 1 (blue)."""
    figure = make_subplots(1, len(pictures), subplot_titles=list(pictures), horizontal_spacing=0.07)
    for col, cosines in enumerate(pictures.values(), start=1):
        figure.add_heatmap(z=np.asarray(cosines).round(3).astype(np.float32), coloraxis="coloraxis", row=1, col=col)
    figure.update_xaxes(title=across, constrain="domain", dtick=1)
    figure.update_yaxes(autorange="reversed", constrain="domain", dtick=1)
    for k in range(1, len(pictures) + 1):
        figure.update_yaxes(scaleanchor="x" if k == 1 else f"x{k}", title=up if k == 1 else None, row=1, col=k)
    bar = dict(title=dict(text="cosine", side="right"))
    return _layout(figure, height, coloraxis=dict(colorscale="RdBu", cmin=-1, cmax=1, colorbar=bar))


def sheet(images, labels, rows=4, height=230):
    """The first images (N, 1, H, W) of each class, a column for each class, dark on white."""
    classes = range(int(labels.max()) + 1)
    side = images.shape[-1]
    framed = torch.nn.functional.pad(torch.stack([images[labels == c][:rows, 0] for c in classes]), (1, 1, 1, 1))
    ink = framed.movedim(0, 2).flatten(2).flatten(0, 1)  # (C, rows, H, W) -> (rows·H, C·W)
    figure = go.Figure(go.Heatmap(z=ink.numpy(), colorscale="Greys", showscale=False, hoverinfo="skip"))
    figure.update_xaxes(
        tickvals=[(side + 2) * c + (side + 1) / 2 for c in classes],
        ticktext=[str(c) for c in classes],
        showgrid=False,
        zeroline=False,
        constrain="domain",
        title="digit",
        title_standoff=2,
    )
    figure.update_yaxes(autorange="reversed", visible=False, scaleanchor="x", constrain="domain")
    return _layout(figure, height).update_layout(margin=dict(l=10, r=10, t=10, b=40))


def over_epochs(recording, curves, y_title, log_y=True, height=340):
    """Curves {name: E+1 values} against the epoch, told apart by colour and dash."""
    figure = go.Figure()
    for k, (name, values) in enumerate(curves.items()):
        figure.add_scatter(
            x=recording.history.frame["iteration"],
            y=np.asarray(values, np.float32),
            mode="lines",
            name=name,
            line=dict(color=CLASS_COLOURS[k], dash=("solid", "dash", "dot")[k % 3], width=2.5),
        )
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title=y_title, **(dict(type="log", dtick=1, exponentformat="power") if log_y else {}))
    return _layout(figure, height, legend=dict(orientation="h", y=1.03, yanchor="bottom", x=0), headroom=True)


def head_panels(history, measures=("accuracy", "test_accuracy", "nc1", "nc3"), height=560):
    """Measures against the epoch, one panel each, all heads of a History: median over seeds and their range."""
    titles = {"accuracy": "training accuracy", "test_accuracy": "test accuracy", "nc2": "NC2 (weights)", **MEASURES}
    figure = make_subplots(
        -(-len(measures) // 2),
        2,
        subplot_titles=[titles.get(m, m) for m in measures],
        horizontal_spacing=0.09,
        vertical_spacing=0.16,
    )
    table = history.frame
    for k, measure in enumerate(measures):
        at = dict(row=k // 2 + 1, col=k % 2 + 1)
        for head in _heads_in(table):
            traces = curve_traces(table[table["head"] == head], "iteration", measure, head, legend=k == 0)
            figure.add_traces(traces, rows=at["row"], cols=at["col"])
        if "accuracy" in measure:
            figure.update_yaxes(tickformat=".0%", range=[0.85, 1.005], **at)
        else:
            figure.update_yaxes(type="log", dtick=_decades(table[measure]), exponentformat="power", **at)
        figure.update_xaxes(title="epoch", title_standoff=4, **at)
    legend = dict(orientation="h", y=1.07, yanchor="bottom", x=0.5, xanchor="center")
    return _layout(figure, height, legend=legend, headroom=True)


def _dots(recording, epoch):
    """A dot at this epoch on the curve of each measure."""
    row = recording.history.frame.set_index("iteration").loc[epoch]
    return [
        go.Scatter(
            x=[epoch],
            y=[row[measure]],
            mode="markers",
            marker=dict(color="#000000", size=9),
            name=label,
            showlegend=False,
        )
        for measure, label in MEASURES.items()
    ]


def _place(trace):
    """A trace with nothing but its coordinates: what a frame changes, and short in a saved notebook."""
    return type(trace)({axis: trace[axis] for axis in "xyz" if axis in trace})


def _range(values, log):
    """Room around a curve for the dot, and the same at all epochs."""
    values = np.log10(values) if log else values
    room = 0.12 * (values.max() - values.min()) + 1e-9
    return dict(range=[values.min() - room, values.max() + room])


def _title(recording, shadow, epoch):
    row = recording.history.frame.set_index("iteration").loc[epoch]
    return (
        f"epoch {epoch}: training accuracy {100 * row['accuracy']:.1f} %, NC1 {row['nc1']:.1e}, "
        f"{100 * shadow.share[epoch]:.1f} % of squared length in view"
    )


def _box(eye):
    axis = dict(range=[-REACH, REACH], showticklabels=False, title="")
    return dict(xaxis=axis, yaxis=axis, zaxis=axis, aspectmode="cube", camera=dict(eye=eye))
