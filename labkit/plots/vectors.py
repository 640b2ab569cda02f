"""Vectors, features and their cosines as plotly figures: arrows in a sphere, clouds of points, Gram matrices."""

import math

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from labkit.plots.style import CLASS_COLOURS, GREY, SKY, _layout


def project_3d(*groups):
    """Coordinates of several (d, C) groups in the three leading directions of the first: a list of (3, C) arrays.

    Three dimensions hold all of a centred group of up to four vectors; for more it is their best 3-D picture.
    """
    groups = [g.detach().cpu().double() for g in groups]
    first = groups[0] - groups[0].mean(-1, keepdim=True)
    left, _, _ = torch.linalg.svd(first, full_matrices=False)
    axes = left[:, :3]
    # LAPACK's signs are arbitrary: fix them, so that a picture does not flip when a slider moves
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
    shown = [(axes.mT @ g).numpy() for g in groups]
    return [np.vstack([s, np.zeros((3 - len(s), s.shape[1]))]) for s in shown]


def vectors_3d(groups, height=480, title=None, sphere=True):
    """Vectors as arrows from the origin, several groups together.

    groups: {name: (3, C) array}. One colour for each class, one line style and marker for each group.
    """
    figure = go.Figure([*([_sphere()] if sphere else []), *arrows(groups)])
    return _scene(figure, height, title, max(1.05, *(1.05 * np.abs(p).max() for p in groups.values())))


def arrows(groups):
    """The traces of `vectors_3d`, for each group one of all its vectors and one for the legend."""
    styles, traces = [("solid", "circle", 6), ("dash", "diamond", 4), ("dot", "square", 4)], []
    for (name, points), (dash, symbol, width) in zip(groups.items(), styles):
        C = points.shape[1]
        colours = np.repeat([CLASS_COLOURS[c % len(CLASS_COLOURS)] for c in range(C)], 3).tolist()
        traces.append(
            go.Scatter3d(
                x=[None],
                y=[None],
                z=[None],
                mode="lines+markers",
                name=name,
                line=dict(color=GREY, dash=dash, width=width),
                marker=dict(symbol=symbol, size=5, color=GREY),
            )
        )
        x, y, z = (
            np.stack([np.zeros_like(points), points, np.full_like(points, np.nan)], -1)
            .reshape(3, -1)
            .astype(np.float32)
        )
        traces.append(
            go.Scatter3d(
                x=x,
                y=y,
                z=z,
                mode="lines+markers",
                showlegend=False,
                name=name,
                text=np.repeat([f"class {c}" for c in range(C)], 3).tolist(),
                line=dict(color=colours, dash=dash, width=width),
                marker=dict(symbol=symbol, size=[0, 5, 0] * C, color=colours, opacity=1, line_width=0),
            )
        )
    return traces


def features_3d(features, targets, vectors=None, height=480, title=None, limit=None):
    """Features (N, 3) as points in the colours of their classes, and class vectors (3, C) as arrows."""
    figure = go.Figure()
    for c in sorted(set(np.asarray(targets).tolist())):
        x, y, z = np.asarray(features)[np.asarray(targets) == c].T
        figure.add_scatter3d(
            x=x, y=y, z=z, mode="markers", name=f"class {c}", marker=dict(size=3, color=CLASS_COLOURS[c % 10])
        )
    if vectors is not None:
        for c in range(vectors.shape[1]):
            x, y, z = np.stack([np.zeros(3), vectors[:, c]], 1)
            figure.add_scatter3d(
                x=x,
                y=y,
                z=z,
                mode="lines",
                showlegend=False,
                hoverinfo="skip",
                line=dict(color=CLASS_COLOURS[c % 10], width=5),
            )
    return _scene(figure, height, title, limit or 1.05 * float(np.abs(features).max()))


def _scene(figure, height, title, limit):
    axis = dict(range=[-limit, limit], showticklabels=False, title="")
    figure.update_layout(
        scene=dict(xaxis=axis, yaxis=axis, zaxis=axis, aspectmode="cube", camera_eye=dict(x=1.15, y=1.0, z=0.65))
    )
    _layout(figure, height, title, legend=dict(x=0, y=1))
    return figure.update_layout(margin=dict(l=10, r=10, t=50 if title else 10, b=10))


def _sphere():
    u, v = np.meshgrid(np.linspace(0, 2 * math.pi, 25, dtype=np.float32), np.linspace(0, math.pi, 13, dtype=np.float32))
    return go.Surface(
        x=np.cos(u) * np.sin(v),
        y=np.sin(u) * np.sin(v),
        z=np.cos(v),
        opacity=0.08,
        showscale=False,
        colorscale=[[0, SKY], [1, SKY]],
        hoverinfo="skip",
        lighting=dict(ambient=1, diffuse=0, specular=0, fresnel=0),
    )


def gram(vectors, height=380, title=None):
    """Pairwise cosines of the columns of (d, C) as a picture: 1 on the diagonal, −1/(C−1) off it for a simplex ETF."""
    unit = torch.nn.functional.normalize(vectors.detach().double(), dim=0)
    cosines = (unit.mT @ unit).cpu().numpy()
    text = np.round(cosines, 2) if len(cosines) <= 10 else None
    figure = go.Figure(
        go.Heatmap(
            z=cosines.round(6),
            zmin=-1,
            zmax=1,
            colorscale="RdBu",
            text=text,
            texttemplate="%{text}" if text is not None else None,
            colorbar=dict(title="cosine", outlinewidth=0),
        )
    )
    figure.update_yaxes(autorange="reversed", title="class", scaleanchor="x", constrain="domain")
    figure.update_xaxes(title="class", constrain="domain")
    return _layout(figure, height, title)


def gallery_3d(pictures, height=340):
    """Several sets of vectors side by side, each (3, C) array as arrows in a unit sphere of its own: {title: array}."""
    figure = make_subplots(
        1,
        len(pictures),
        specs=[[{"type": "scene"}] * len(pictures)],
        subplot_titles=list(pictures),
        horizontal_spacing=0.01,
    )
    for k, points in enumerate(pictures.values(), start=1):
        single = vectors_3d({"": points})
        for trace in single.data:
            trace.showlegend = False
            figure.add_trace(trace, row=1, col=k)
        figure.update_scenes(single.layout.scene, row=1, col=k)
    figure.update_scenes(camera=dict(eye=dict(x=0.95, y=0.95, z=0.6)))
    return _layout(figure, height).update_layout(margin=dict(l=0, r=0, t=30, b=0))
