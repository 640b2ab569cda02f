"""Figures of a `Recording`: three classes of features in 3-D over epochs, and heads side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch

from labkit.history import History
from labkit.plots import style
from labkit.plots.colours import BLACK, GREY
from labkit.plots.player import play
from labkit.plots.style import board, line, log_axis, marks, panel
from labkit.plots.ufm import run_panels
from labkit.plots.vectors import class_colour, in_space, scene, side_by_side, sphere

MEASURES = {"nc1": "NC1", "nc2_means": "NC2 (means)", "nc3": "NC3", "nc4": "NC4"}
SYMBOLS = ("circle", "square", "diamond")
REACH = 1.1  # of the axes: features and class vectors have unit length


class Shadow:
    """Traces of three classes of a Recording at any epoch: features as dots, and class vectors as lines from the
    origin.

    per_class: so many features of each class are drawn, the first of the set.
    """

    def __init__(self, recording: Any, classes: Sequence[int], per_class: int = 50):
        points, vectors, labels, self.share = recording.shadow(classes)
        self.points = [points[:, (labels == c).nonzero().flatten()[:per_class]].numpy() for c in classes]
        self.vectors, self.classes = vectors.numpy(), classes

    def traces(self, epoch: int, legend: bool = True) -> list[dict]:
        drawn = []
        for k, c in enumerate(self.classes):
            dot, colour = dict(size=3, symbol=SYMBOLS[k], color=class_colour(c), line_width=0), class_colour(c)
            arrow = np.stack([np.zeros(3), self.vectors[epoch, k]], 1)
            drawn += [
                in_space(self.points[k][epoch].T, "markers", f"digit {c}", marker=dot, showlegend=legend),
                in_space(arrow, "lines", f"vector of {c}", line=dict(color=colour, width=6), showlegend=False),
            ]
        return drawn


def state(
    recording: Any, classes: Sequence[int], epoch: int, shadow: Shadow | None = None, height: int = 560
) -> go.Figure:
    """One epoch: at the left the features of three classes in 3-D, at the right NC1 to NC4 with a dot at this epoch."""
    shadow, frame = shadow or Shadow(recording, classes), recording.history.frame
    row, last, panels = frame.set_index("iteration").loc[epoch], frame["iteration"].max(), []
    for k, (measure, label) in enumerate(MEASURES.items()):
        values = frame[measure]
        up = dict(title=dict(text=label, standoff=4), nticks=4) | (log_axis(values, True) if measure != "nc4" else {})
        across = dict(range=[-0.05 * last, 1.05 * last], title="epoch" if k == 3 else "", showticklabels=k == 3)
        here = marks([epoch], [row[measure]], label, BLACK, more=dict(showlegend=False))
        drawn = [line(frame["iteration"], values, label, GREY, showlegend=False), here]
        panels.append(panel("", drawn, across, up, at=((0.74, 1), (0.76 - 0.25 * k, 0.97 - 0.25 * k))))
    title = (
        f"epoch {epoch}: training accuracy {100 * row['accuracy']:.1f} %, NC1 {row['nc1']:.1e}, "
        f"{100 * shadow.share[epoch]:.1f} % of squared length in view"
    )
    space = scene(REACH, (1.35, 0.95, 0.8), ((0, 0.64), (0, 1)))
    listed, data = dict(x=0, y=1, itemsizing="constant"), [*shadow.traces(epoch), sphere()]
    return board(panels, 1, height, title, legend=listed, data=data, scene=space, showlegend=True)


def scrubber(
    recording: Any, classes: Sequence[int] = (0, 1, 2), epochs: Sequence[int] | None = None, height: int = 560
) -> go.Figure:
    """`state` for many epochs, with a slider and a button of plotly's own: it moves without a kernel.

    epochs: those shown; by default every one up to 20 and then every tenth.
    """
    last = int(recording.history.frame["iteration"].max())
    epochs = list(epochs or dict.fromkeys([*range(min(last, 20) + 1), *range(20, last + 1, 10), last]))
    epochs, shadow = [e for e in epochs if e <= last], Shadow(recording, classes)
    return play([state(recording, classes, e, shadow, height) for e in epochs], [str(e) for e in epochs], "epoch")


def strip(
    recording: Any, classes: Sequence[int] = (0, 1, 2), epochs: Sequence[int] = (0, 1, 5, 60), height: int = 330
) -> go.Figure:
    """The 3-D picture of `state` at several epochs side by side."""
    shadow = Shadow(recording, classes, per_class=40)
    scenes = [(shadow.traces(e, e == epochs[0]), f"epoch {e}" if e else "before training") for e in epochs]
    listed = dict(orientation="h", x=0.5, xanchor="center", y=-0.02, yanchor="top", itemsizing="constant")
    return side_by_side(scenes, REACH, height, (1.3, 0.85, 0.75), 30, legend=listed)


def sheet(images: torch.Tensor, labels: torch.Tensor, rows: int = 4, height: int = 230) -> go.Figure:
    """The first images (N, 1, H, W) of each class, a column for each class, dark on white."""
    classes, side = range(int(labels.max()) + 1), images.shape[-1]
    framed = torch.nn.functional.pad(torch.stack([images[labels == c][:rows, 0] for c in classes]), (1, 1, 1, 1))
    ink = framed.movedim(0, 2).flatten(2).flatten(0, 1)  # (C, rows, H, W) -> (rows·H, C·W)
    drawn = dict(type="heatmap", z=ink.numpy(), colorscale="Greys", showscale=False, hoverinfo="skip")
    places = dict(tickvals=[(side + 2) * c + (side + 1) / 2 for c in classes], ticktext=[str(c) for c in classes])
    bare = dict(showgrid=False, zeroline=False, constrain="domain")
    up = bare | dict(autorange="reversed", visible=False, scaleanchor="x")
    part = panel("", [drawn], bare | places | dict(title=dict(text="digit", standoff=2)), up)
    return board([part], 1, height).update_layout(margin=dict(l=10, r=10, t=10, b=40))


def over_epochs(recording: Any, curves: Mapping, y_title: str, log_y: bool = True, height: int = 340) -> go.Figure:
    """Curves {name: E+1 values} against the epoch, told apart by colour and dash."""
    epochs = recording.history.frame["iteration"]
    return style.lines(epochs, curves, "epoch", y_title, log_x=False, log_y=log_y, height=height)


def head_panels(history: History, measures: Sequence[str] = ("accuracy", "test_accuracy", "nc1", "nc3")) -> go.Figure:
    """Measures against the epoch, one panel each, all heads of a History: median over seeds and their range."""
    return run_panels(history, measures, log_x=False, columns=2)
