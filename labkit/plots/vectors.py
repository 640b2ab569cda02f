"""Vectors, features and their cosines as figures: arrows in a sphere, clouds of points, Gram matrices."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike

from labkit.plots.colours import BLACK, CLASS_COLOURS, GREY
from labkit.plots.style import board, layout, line, log_axis, marks, panel, short

EYE = (1.15, 1.0, 0.65)
_GROUPS = [("solid", "circle", 6), ("dash", "diamond", 4), ("dot", "square", 4)]  # dash, symbol and width


def scene(limit: float, eye: Sequence[float], domain: tuple = ((0, 1), (0, 1)), **axis: Any) -> dict:
    """Three equal axes from −limit to limit, seen from `eye`, in a part of the figure."""
    axis = dict(range=[-limit, limit], showticklabels=False, title="") | axis
    camera, (x, y) = dict(eye=dict(zip("xyz", eye))), domain
    return dict(domain=dict(x=x, y=y), xaxis=axis, yaxis=axis, zaxis=axis, aspectmode="cube", camera=camera)


def class_colour(c: int) -> str:
    return CLASS_COLOURS[c % len(CLASS_COLOURS)]


def project_3d(*groups: torch.Tensor) -> list[np.ndarray]:
    """Coordinates of several (d, C) groups in the three leading directions of the first: a list of (3, C) arrays.

    Three dimensions hold all of a centred group of up to four vectors; for more it is their best 3-D picture.

    >>> project_3d(torch.eye(5))[0].shape
    (3, 5)
    """
    groups = [g.detach().cpu().double() for g in groups]
    first = groups[0] - groups[0].mean(-1, keepdim=True)
    left, _, _ = torch.linalg.svd(first, full_matrices=False)
    axes = left[:, :3]
    # LAPACK's signs are arbitrary: fix them, so that a picture does not flip when a slider moves
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
    shown = [(axes.mT @ g).numpy() for g in groups]
    return [np.vstack([s, np.zeros((3 - len(s), s.shape[1]))]) for s in shown]


def in_space(points: np.ndarray, mode: str, name: str, **more: Any) -> dict:
    """Points (3, n) as a trace."""
    return dict(type="scatter3d", mode=mode, name=name, **dict(zip("xyz", short(points)))) | more


def cloud(points: np.ndarray, targets: torch.Tensor, name: str = "features", size: float = 3, **more: Any) -> dict:
    """Points (3, n) in the colours of their classes, targets (n,)."""
    marker = dict(size=size, color=[class_colour(c) for c in targets], line_width=0)
    return in_space(points, "markers", name, marker=marker, text=[f"class {c}" for c in targets]) | more


def arrows(groups: Mapping[str, np.ndarray]) -> list[dict]:
    """Groups of vectors {name: (3, C)} as lines from the origin: for each a trace of all, and one for the legend."""
    traces = []
    for (name, points), (dash, symbol, width) in zip(groups.items(), _GROUPS):
        C = points.shape[1]
        colours = np.repeat([class_colour(c) for c in range(C)], 3).tolist()
        lines = np.stack([np.zeros_like(points), points, np.full_like(points, np.nan)], -1).reshape(3, -1)
        ends = dict(symbol=symbol, size=[0, 5, 0] * C, color=colours, opacity=1, line_width=0)
        text = np.repeat([f"class {c}" for c in range(C)], 3).tolist()
        drawn = dict(line=dict(color=colours, dash=dash, width=width), marker=ends, text=text, showlegend=False)
        listed = dict(line=dict(color=GREY, dash=dash, width=width), marker=dict(symbol=symbol, size=5, color=GREY))
        traces += [
            in_space(np.full((3, 1), None), "lines+markers", name, **listed),
            in_space(lines, "lines+markers", name, **drawn),
        ]
    return traces


def sphere() -> dict:
    """The unit sphere as one thin line over its meridians and parallels.

    Not a surface: one that can be seen through wipes out, where several scenes lie side by side, what is drawn in front
    of it, in the places of the arrows of the first.
    """
    down, round_ = np.linspace(0, math.pi, 21), np.linspace(0, 2 * math.pi, 41)
    path = [(np.full(21, k * math.pi / 4), down[:: 1 if k % 2 == 0 else -1]) for k in range(8)]
    for start, end in zip(down[0:15:5], down[5:20:5]):  # from the pole to the next parallel, and round it
        path += [(np.zeros(6), np.linspace(start, end, 6)), (round_, np.full(41, end))]
    u, v = (np.concatenate(part) for part in zip(*path))
    points = np.stack([np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)])
    return in_space(points, "lines", "sphere", line=dict(color="#C9DCEA", width=1), showlegend=False, hoverinfo="skip")


def space(data: list, limit: float, height: int, title: str | None = None, eye: Sequence[float] = EYE) -> go.Figure:
    """A figure of one scene of three equal axes from −limit to limit."""
    page = layout(height, title, 10, 10, scene=scene(limit, eye), legend=dict(x=0, y=1, itemsizing="constant"))
    page["margin"] |= dict(l=10, r=10)
    return go.Figure(dict(data=data, layout=page))


def vectors_3d(groups: Mapping[str, np.ndarray], height: int = 480, title: str | None = None) -> go.Figure:
    """Vectors as arrows from the origin, up to three groups together.

    groups: {name: (3, C) array}. One colour for each class, one line style and marker for each group.
    """
    limit = max(1.05, *(1.05 * np.abs(points).max() for points in groups.values()))
    return space([sphere(), *arrows(groups)], limit, height, title)


def plane(groups: Mapping[str, np.ndarray], title: str | None = None, height: int = 400) -> go.Figure:
    """Vectors of the plane as lines from the origin: {name: (2, C) array}, up to three groups together.

    One colour for each class, one line style and marker for each group. For pictures that move without WebGL.
    """
    traces = []
    for (name, points), (dash, symbol, width) in zip(groups.items(), _GROUPS):
        for c, (x, y) in enumerate(points.T):
            mark = dict(symbol=symbol, size=[0, 11])
            more = dict(mode="lines+markers", marker=mark, hovertext=f"class {c}", hoverinfo="text")
            traces.append(line([0, x], [0, y], name, class_colour(c), dash, width / 2, showlegend=False) | more)
        traces.append(line([None], [None], name, GREY, dash, width / 2, marker=dict(symbol=symbol)))
    limit = 1.05 * max(1.0, *(np.abs(points).max() for points in groups.values()))
    axis = dict(range=[-limit, limit], showticklabels=False, zeroline=False, constrain="domain")
    part = panel("", traces, axis, axis | dict(scaleanchor="x"))
    return board([part], 1, height, title).update_layout(margin=dict(l=10, r=10, b=10))


def features_3d(
    features: torch.Tensor,
    targets: torch.Tensor,
    vectors: np.ndarray | None = None,
    height: int = 480,
    title: str | None = None,
    limit: float | None = None,
) -> go.Figure:
    """Features (N, 3) as points in the colours of their classes, targets (N,), and class vectors (3, C) as arrows."""
    features, targets, data = np.asarray(features), np.asarray(targets), []
    for c in sorted(set(targets.tolist())):
        marker = dict(size=3, color=class_colour(c), line_width=0)
        data.append(in_space(features[targets == c].T, "markers", f"class {c}", marker=marker))
    for c in range(0 if vectors is None else vectors.shape[1]):
        ends = np.stack([np.zeros(3), vectors[:, c]], 1)
        hidden = dict(showlegend=False, hoverinfo="skip")
        data.append(in_space(ends, "lines", f"vector {c}", line=dict(color=class_colour(c), width=5), **hidden))
    return space(data, limit or 1.05 * float(np.abs(features).max()), height, title)


def gallery_3d(pictures: Mapping[str, np.ndarray], height: int = 340) -> go.Figure:
    """Several sets of vectors side by side, each (3, C) array as arrows in a unit sphere of its own: {title: array}."""
    scenes = [([sphere(), *arrows({"": points})[1:]], title) for title, points in pictures.items()]
    return side_by_side(scenes, 1.05, height, (0.95, 0.95, 0.6))


def side_by_side(
    scenes: list[tuple[list, str]], limit: float, height: int, eye: Sequence[float], bottom: int = 0, **more: Any
) -> go.Figure:
    """Scenes beside each other: (traces, title) each."""
    data, words, axes = [], [], {}
    for k, (traces, title) in enumerate(scenes):
        name, left, right = f"scene{k + 1 if k else ''}", k / len(scenes), (k + 1) / len(scenes)
        axes[name] = scene(limit, eye, ((left + 0.005, right - 0.005), (0, 1)))
        data += [trace | dict(scene=name) for trace in traces]
        word = dict(text=title, x=(left + right) / 2, y=1, yanchor="bottom", font=dict(size=14), showarrow=False)
        words.append(word | dict(xref="paper", yref="paper", xanchor="center"))
    page = layout(height, None, 30, bottom, annotations=words, **axes, **more)
    page["margin"] |= dict(l=0, r=0)
    return go.Figure(dict(data=data, layout=page))


def heatmap(cosines: ArrayLike, digits: int | None = None, **more: Any) -> dict:
    """Cosines (C, C) as a trace, red for −1 and blue for 1; with numbers of so many digits where given."""
    kind = dict(type="heatmap", z=short(np.round(cosines, 6)), zmin=-1, zmax=1, colorscale="RdBu")
    text = {} if digits is None else dict(texttemplate=f"%{{z:.{digits}f}}")
    return kind | dict(colorbar=dict(title="cosine", outlinewidth=0, thickness=14)) | text | more


def square(across: str = "class", up: str | None = "class", number: str = "", **more: Any) -> tuple[dict, dict]:
    """The axes (x, y) of a square picture of pairs, which begins at the top."""
    every = dict(constrain="domain", showgrid=False, zeroline=False) | more
    return every | dict(title=across), every | dict(title=up, autorange="reversed", scaleanchor=f"x{number}")


def gram(vectors: torch.Tensor, height: int = 380, title: str | None = None) -> go.Figure:
    """Pairwise cosines of the columns of (d, C) as a picture: 1 on the diagonal, −1/(C−1) off it for a simplex ETF."""
    unit = torch.nn.functional.normalize(vectors.detach().double(), dim=0)
    cosines = (unit.mT @ unit).cpu().numpy()
    return board([panel("", [heatmap(cosines, 2 if len(cosines) <= 10 else None)], *square())], 1, height, title)


def grams(pictures: Mapping, across: str = "class", up: str | None = "class", height: int = 340) -> go.Figure:
    """Cosines as pictures side by side, {title: (C, C)}, on one scale from −1 (red) to 1 (blue)."""
    panels = [
        panel(
            title, [heatmap(cosines, showscale=k == 0)], *square(across, None if k else up, k + 1 if k else "", dtick=1)
        )
        for k, (title, cosines) in enumerate(pictures.items())
    ]
    return board(panels, len(panels), height, gaps=(0.07, 0))


def etf_panels(points: np.ndarray, gram: np.ndarray, title: str, height: int = 430) -> go.Figure:
    """Class vectors (3, C) in space, and the cosines (C, C) between them as numbers in colours."""
    table = panel("cosines between class vectors", [heatmap(gram, 2)], *square(dtick=1), at=((0.56, 0.98), (0, 1)))
    left = scene(max(1.05, 1.05 * np.abs(points).max()), (0.98, 0.88, 0.57), ((0, 0.5), (0, 1)), visible=False)
    data = [sphere(), *arrows({"class vectors": points})]
    return board([table], 1, height, title, legend=None, data=data, scene=left)


def nearest_panels(groups: Mapping, margins: np.ndarray, bound: float, title: str, height: int = 450) -> go.Figure:
    """Groups of class vectors {name: (3, C)} in space, and the margin (C,) of each class mean beside the bound: the
    largest that all could have.
    """
    colours, up = [class_colour(c) for c in range(len(margins))], [min(-0.1, 1.1 * margins.min()), 1.1 * bound]
    bars = dict(type="bar", x=np.arange(len(margins)), y=short(margins), marker=dict(color=colours), showlegend=False)
    axes = dict(title="class", dtick=1), dict(title="to the solution's vectors", range=up)
    right = panel("cosine margin of each class mean", [bars], *axes, bound, ((0.69, 1), (0, 1)))
    limit = max(1.0, *(np.abs(points).max() for points in groups.values()))
    left = scene(limit, (0.98, 0.88, 0.57), ((0, 0.62), (0, 1)), visible=False)
    listed = dict(x=0, y=1, font=dict(size=11))
    data = [sphere(), *arrows(groups)]
    return board([right], 1, height, title, legend=listed, data=data, scene=left, showlegend=True)


TETRAHEDRON = (0.50, 0.24, 1.25)  # from here the four arms of `etf.ring(4)` are all seen, none behind another


def _sphere_with(points, targets, vectors):
    """Features (3, n) on the unit sphere in the colours of their classes (n,), and class vectors (3, C) with names."""
    C = vectors.shape[1]
    colours, names = [class_colour(c) for c in range(C)], [f"class {c}" for c in range(C)]
    written = dict(text=names, textfont=dict(color=colours, size=13), hoverinfo="skip", showlegend=False)
    labels = in_space(1.17 * vectors, "text", "names", **written)
    return [sphere(), cloud(points, targets, showlegend=False), arrows({"class vectors": vectors})[1], labels]


def collapse_3d(
    points: np.ndarray, targets: torch.Tensor, vectors: np.ndarray, height: int = 400, title: str | None = None
) -> go.Figure:
    """Features (3, n) of classes (n,) on the unit sphere, with class vectors (3, C) as arrows that bear their names."""
    page = layout(height, title, 0, 0, scene=scene(1.0, TETRAHEDRON, visible=False), showlegend=False)
    page["margin"] |= dict(l=0, r=0)
    return go.Figure(dict(data=_sphere_with(points, targets, vectors), layout=page))


def collapse_stills(states: Mapping, height: int = 300) -> go.Figure:
    """`collapse_3d` for several (points, targets, vectors), {title: state}, side by side."""
    scenes = [(_sphere_with(*state)[:3], title) for title, state in states.items()]
    hidden = dict(xaxis_visible=False, yaxis_visible=False, zaxis_visible=False)
    return side_by_side(scenes, 1.0, height, [1.2 * x for x in TETRAHEDRON]).update_scenes(**hidden)


def collapse_panels(
    points: np.ndarray,
    targets: torch.Tensor,
    vectors: np.ndarray | None,
    steps: Sequence[int],
    angles: ArrayLike,
    step: int,
    ideal: float,
    title: str,
    height: int = 450,
) -> go.Figure:
    """`collapse_3d` at one step, and beside it the angles in degrees (steps, pairs) of all class vectors over steps.

    ideal: the angle at which a dashed line is drawn.
    """
    shown = np.asarray(steps) + 1  # 0 has no place on a logarithmic axis
    kept = dict(showlegend=False, hoverinfo="skip")
    curves = [line(shown, angle, "pair", GREY, width=1.5, **kept) for angle in angles.T]
    now = angles[list(steps).index(step)]
    here = marks(np.full(len(now), step + 1), now, "this step", BLACK, 7, more=dict(showlegend=False))
    axes = log_axis(shown) | dict(title="step + 1"), dict(range=[0, 185], dtick=30, ticksuffix="°")
    right = panel("angle of each pair of class vectors", [*curves, here], *axes, ideal, ((0.70, 1), (0, 1)))
    left = scene(1.0, TETRAHEDRON, ((0, 0.64), (0, 1)), visible=False)
    data = _sphere_with(points, targets, vectors)
    return board([right], 1, height, title, legend=None, data=data, scene=left)
