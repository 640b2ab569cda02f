"""Plotly figures, one function per figure. Each takes tables or tensors and returns a plotly.graph_objects.Figure.

One colour and one dash per head, the same everywhere; the colours are Okabe and Ito's, which colour-blind eyes tell apart.
Runs over several seeds are drawn as their median with the range as a band, as the papers report them.
"""

import itertools
import math

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import torch
from plotly.subplots import make_subplots

from . import etf

HEADS = {  # head: (label, colour, dash)
    "standard": ("standard", "#D55E00", "dot"),
    "fixed": ("fixed ETF", "#0072B2", "dash"),
    "implicit": ("implicit ETF", "#009E73", "solid"),
}
ORANGE, SKY, PURPLE, GREY = "#E69F00", "#56B4E9", "#CC79A7", "#555555"
STYLES = HEADS | {  # and their variants (`labkit.sweep`, `labkit.influence`)
    "implicit_with_ddn": ("implicit, with DDN gradient", "#009E73", "solid"),
    "implicit_without_ddn": ("implicit, without DDN gradient", PURPLE, "dashdot"),
    "fixed_haar": ("fixed ETF, Haar frame", SKY, "longdash"),
    "standard_no_norm": ("standard, not normalised", ORANGE, "longdashdot"),
}
METHODS = {  # ways to compute the nearest ETF and its gradient: (colour, marker)
    "closed form": ("#009E73", "circle"), "closed form, no gradient": (SKY, "circle-open"),
    "closed form, float64": ("#000000", "triangle-up"),
    "trust region, cold": ("#D55E00", "square"), "trust region, warm": (ORANGE, "square-open"),
    "Proposition 1, dense": ("#0072B2", "diamond"), "SVD with autograd": (PURPLE, "x"),
}
CLASS_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#7F7F7F", "#882255"]

LABELS = {
    "loss": "cross entropy", "excess": "cross entropy − bound", "accuracy": "training accuracy",
    "nc1": "NC1 (variability)", "nc2": "NC2 (weights)", "nc3": "NC3 (self-duality)", "nc4": "NC4 (disagreement)",
    "cosine_margin": "mean cosine margin", "equinorm_gap": "|equinorm means − weights|",
}


# plotly_white less what no figure here uses: a third of its length, which would stand in every figure of every notebook
_USED = ("annotationdefaults", "colorway", "font", "hoverlabel", "hovermode", "scene", "title", "xaxis", "yaxis")
_WHITE = pio.templates["plotly_white"].layout.to_plotly_json()
TEMPLATE = go.layout.Template(layout={name: _WHITE[name] for name in _USED})


def _layout(figure, height, title=None, headroom=False, **more):
    figure.update_layout(template=TEMPLATE, height=height, title=title, font_size=12, uirevision="keep",
                         margin=dict(l=60, r=20, t=60 if title or headroom else 40, b=50), **more)
    return figure


def _rgba(colour, alpha):
    return f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:7], 16)},{alpha})"


def curve_traces(table, x, y, head, legend=True):
    """Median over seeds and, with several seeds, the range as a band: a list of traces for one head."""
    label, colour, dash = STYLES[head]
    group = table.groupby(x)[y]
    median, low, high = group.median(), group.min(), group.max()
    traces = []
    if table["seed"].nunique() > 1:
        outline = np.concatenate([low.index, high.index[::-1]])
        traces.append(go.Scatter(x=outline, y=np.concatenate([low, high[::-1]]), fill="toself", mode="lines", line_width=0,
                                 fillcolor=_rgba(colour, 0.2), legendgroup=head, showlegend=False, hoverinfo="skip"))
    traces.append(go.Scatter(x=median.index, y=median, mode="lines", name=label, legendgroup=head, showlegend=legend,
                             line=dict(color=colour, dash=dash, width=2)))
    return traces


def _decades(values):
    """The dtick of a logarithmic axis: decades between two labels, so that there are at most seven.

    None, which lets plotly label numbers between powers of ten, where values hardly span two of these.
    """
    shown = values[values > 0]
    if not len(shown) or shown.max() < 50 * shown.min():
        return None
    return math.ceil(math.log10(shown.max() / shown.min()) / 7)


def _heads_in(table):
    return [h for h in STYLES if h in set(table["head"])]


def _shift(table):
    """Iteration 0 has no place on a logarithmic axis: show steps + 1."""
    return table.assign(shown=table["iteration"] + 1)


def curves(history, measure, bound=None, log_y=True, height=380, title=None):
    """One measure of a History against iterations, all heads; `bound` draws a dashed line at a theoretical limit."""
    figure = go.Figure()
    table = _shift(history.frame)
    for head in _heads_in(table):
        figure.add_traces(curve_traces(table[table["head"] == head], "shown", measure, head))
    if bound is not None:
        figure.add_hline(bound, line=dict(color=GREY, dash="dash", width=1), annotation_text=f"bound {bound:.4g}",
                         annotation_position="top left")
    figure.update_xaxes(type="log", title="iteration + 1", dtick=1, exponentformat="power")
    figure.update_yaxes(type="log" if log_y else "linear", title=LABELS.get(measure, measure), exponentformat="power",
                        dtick=_decades(table[measure]) if log_y else None)
    return _layout(figure, height, title, legend=dict(orientation="h", y=1.02, yanchor="bottom", x=1, xanchor="right"))


def ufm_panels(history, num_classes, temperature=5.0):
    """The six panels of Figure 2 (and 12–14) of Markou et al. 2024, from a History with one or more heads.

    Cross entropy with its bound; mean cosine margin; the margin of every sample at the end, sorted; NC1; NC3; and the
    difference between the equinorm measures of means and weights.
    """
    table = _shift(history.frame)
    table["equinorm_gap"] = (table["equinorm_means"] - table["equinorm_weights"]).abs()
    margin = etf.cosine_margin_bound(num_classes)
    panels = [("loss", "log", etf.cross_entropy_bound(num_classes, temperature)),
              ("cosine_margin", "linear", margin), ("margins", None, margin),
              ("nc1", "log", None), ("nc3", "log", None), ("equinorm_gap", "log", None)]
    titles = ["(a) cross entropy", "(b) mean cosine margin", "(c) margin of each sample at the end", "(d) NC1", "(e) NC3",
              "(f) equinorm: |means − weights|"]
    figure = make_subplots(2, 3, subplot_titles=titles, horizontal_spacing=0.08, vertical_spacing=0.2)
    for k, (measure, scale, bound) in enumerate(panels):
        row, col = divmod(k, 3)
        at = dict(row=row + 1, col=col + 1)
        for head in _heads_in(table):
            if measure == "margins":
                figure.add_traces(_margin_traces(history.margins, head), rows=at["row"], cols=at["col"])
            else:
                figure.add_traces(curve_traces(table[table["head"] == head], "shown", measure, head, legend=k == 0),
                                  rows=at["row"], cols=at["col"])
        if bound is not None:
            figure.add_hline(bound, line=dict(color=GREY, dash="dash", width=1), **at)
        if measure == "margins":
            figure.update_xaxes(title="training example, sorted", **at)
        else:
            figure.update_xaxes(type="log", title="iteration + 1", dtick=1, exponentformat="power", **at)
            figure.update_yaxes(type=scale, exponentformat="power", dtick=_decades(table[measure]) if scale == "log" else None, **at)
    legend = dict(orientation="h", y=1.09, yanchor="bottom", x=0.5, xanchor="center")
    return _layout(figure, 620, legend=legend, headroom=True)


def _margin_traces(margins, head):
    """Sorted margins of one head: the median over seeds at each rank."""
    mine = margins[margins["head"] == head]
    if mine.empty:
        return []
    ranked = np.sort(np.stack([group["margin"].to_numpy() for _, group in mine.groupby("seed")]), axis=1)
    shown = np.unique(np.linspace(0, ranked.shape[1] - 1, 400).astype(int))  # a saved notebook stays small
    label, colour, dash = STYLES[head]
    return [go.Scatter(x=shown, y=np.median(ranked, axis=0)[shown], mode="lines", name=label, legendgroup=head,
                       showlegend=False, line=dict(color=colour, dash=dash, width=2))]


def bound_curve(class_counts=(10, 100, 1000), temperatures=None):
    """The cross-entropy bound against temperature, one line for each number of classes (Yaras et al. 2022, Theorem 1)."""
    temperatures = np.geomspace(1, 30, 60) if temperatures is None else temperatures
    figure = go.Figure()
    for C, colour in zip(class_counts, itertools.cycle([ORANGE, SKY, PURPLE, GREY])):  # not a head's colour
        figure.add_scatter(x=temperatures, y=[etf.cross_entropy_bound(C, float(t)) for t in temperatures], mode="lines",
                           name=f"C = {C}", line=dict(color=colour, width=2))
    figure.update_xaxes(type="log", title="temperature τ", tickvals=[1, 2, 5, 10, 20, 30])
    figure.update_yaxes(type="log", title="smallest cross entropy", exponentformat="power")
    return _layout(figure, 380)


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
        traces.append(go.Scatter3d(x=[None], y=[None], z=[None], mode="lines+markers", name=name,
                                   line=dict(color=GREY, dash=dash, width=width),
                                   marker=dict(symbol=symbol, size=5, color=GREY)))
        x, y, z = np.stack([np.zeros_like(points), points, np.full_like(points, np.nan)], -1).reshape(3, -1).astype(np.float32)
        traces.append(go.Scatter3d(x=x, y=y, z=z, mode="lines+markers", showlegend=False, name=name,
                                   text=np.repeat([f"class {c}" for c in range(C)], 3).tolist(),
                                   line=dict(color=colours, dash=dash, width=width),
                                   marker=dict(symbol=symbol, size=[0, 5, 0] * C, color=colours, opacity=1, line_width=0)))
    return traces


def features_3d(features, targets, vectors=None, height=480, title=None, limit=None):
    """Features (N, 3) as points in the colours of their classes, and class vectors (3, C) as arrows."""
    figure = go.Figure()
    for c in sorted(set(np.asarray(targets).tolist())):
        x, y, z = np.asarray(features)[np.asarray(targets) == c].T
        figure.add_scatter3d(x=x, y=y, z=z, mode="markers", name=f"class {c}", marker=dict(size=3, color=CLASS_COLOURS[c % 10]))
    if vectors is not None:
        for c in range(vectors.shape[1]):
            x, y, z = np.stack([np.zeros(3), vectors[:, c]], 1)
            figure.add_scatter3d(x=x, y=y, z=z, mode="lines", showlegend=False, hoverinfo="skip",
                                 line=dict(color=CLASS_COLOURS[c % 10], width=5))
    return _scene(figure, height, title, limit or 1.05 * float(np.abs(features).max()))


def _scene(figure, height, title, limit):
    axis = dict(range=[-limit, limit], showticklabels=False, title="")
    figure.update_layout(scene=dict(xaxis=axis, yaxis=axis, zaxis=axis, aspectmode="cube", camera_eye=dict(x=1.15, y=1.0, z=0.65)))
    _layout(figure, height, title, legend=dict(x=0, y=1))
    return figure.update_layout(margin=dict(l=10, r=10, t=50 if title else 10, b=10))


def _sphere():
    u, v = np.meshgrid(np.linspace(0, 2 * math.pi, 25, dtype=np.float32), np.linspace(0, math.pi, 13, dtype=np.float32))
    return go.Surface(x=np.cos(u) * np.sin(v), y=np.sin(u) * np.sin(v), z=np.cos(v), opacity=0.08, showscale=False,
                      colorscale=[[0, SKY], [1, SKY]], hoverinfo="skip",
                      lighting=dict(ambient=1, diffuse=0, specular=0, fresnel=0))


def gram(vectors, height=380, title=None):
    """Pairwise cosines of the columns of (d, C) as a picture: 1 on the diagonal, −1/(C−1) off it for a simplex ETF."""
    unit = torch.nn.functional.normalize(vectors.detach().double(), dim=0)
    cosines = (unit.mT @ unit).cpu().numpy()
    text = np.round(cosines, 2) if len(cosines) <= 10 else None
    figure = go.Figure(go.Heatmap(z=cosines.round(6), zmin=-1, zmax=1, colorscale="RdBu", text=text,
                                  texttemplate="%{text}" if text is not None else None,
                                  colorbar=dict(title="cosine", outlinewidth=0)))
    figure.update_yaxes(autorange="reversed", title="class", scaleanchor="x", constrain="domain")
    figure.update_xaxes(title="class", constrain="domain")
    return _layout(figure, height, title)


def gallery_3d(pictures, height=340):
    """Several sets of vectors side by side, each (3, C) array as arrows in a unit sphere of its own: {title: array}."""
    figure = make_subplots(1, len(pictures), specs=[[{"type": "scene"}] * len(pictures)], subplot_titles=list(pictures),
                           horizontal_spacing=0.01)
    for k, points in enumerate(pictures.values(), start=1):
        single = vectors_3d({"": points})
        for trace in single.data:
            trace.showlegend = False
            figure.add_trace(trace, row=1, col=k)
        figure.update_scenes(single.layout.scene, row=1, col=k)
    figure.update_scenes(camera=dict(eye=dict(x=0.95, y=0.95, z=0.6)))
    return _layout(figure, height).update_layout(margin=dict(l=0, r=0, t=30, b=0))


def lines(x, curves, x_title, y_title, log_x=True, log_y=True, marks=None, height=400):
    """Curves over one axis, each {name: values}, told apart by colour and dash; `marks`, {name: x}, are vertical lines."""
    figure = go.Figure()
    for k, (name, values) in enumerate(curves.items()):
        dash = ("solid", "dash", "dot", "dashdot")[k % 4]
        figure.add_scatter(x=np.asarray(x), y=np.asarray(values), mode="lines", name=name,
                           line=dict(color=CLASS_COLOURS[k % len(CLASS_COLOURS)], dash=dash, width=2.5))
    for name, place in (marks or {}).items():
        figure.add_vline(place, line=dict(color=GREY, dash="dash", width=1))
        # apart from the line: on a logarithmic axis plotly wants the place of a text, not of a line, as its logarithm
        figure.add_annotation(x=math.log10(place) if log_x else place, y=1, yref="paper", yanchor="bottom", text=name,
                              showarrow=False)
    for update, title, log in ((figure.update_xaxes, x_title, log_x), (figure.update_yaxes, y_title, log_y)):
        update(title=title, type="log" if log else "linear", **(dict(dtick=1, exponentformat="power") if log else {}))
    return _layout(figure, height, legend=dict(orientation="h", y=1.08, yanchor="bottom", x=0), headroom=True)


def histograms(samples, x_title, bins=40, marks=None, height=360):
    """Share of samples per bin, one colour for each of {name: values}, on common bins; `marks`, {name: x}, are vertical lines."""
    samples = {name: np.asarray(values) for name, values in samples.items()}
    low, high = min(v.min() for v in samples.values()), max(v.max() for v in samples.values())
    edges = np.linspace(low, high, bins + 1)
    figure = go.Figure()
    for (name, values), colour in zip(samples.items(), CLASS_COLOURS):
        figure.add_bar(x=(edges[1:] + edges[:-1]) / 2, y=np.histogram(values, edges)[0] / len(values), name=name, opacity=0.6,
                       marker=dict(color=colour, line_width=0), width=edges[1] - edges[0])
    for name, place in (marks or {}).items():
        figure.add_vline(place, line=dict(color=GREY, dash="dash", width=1), annotation_text=name, annotation_position="top")
    figure.update_xaxes(title=x_title)
    figure.update_yaxes(title="share of samples", rangemode="tozero")
    return _layout(figure, height, barmode="overlay", showlegend=len(samples) > 1, headroom=True,
                   legend=dict(orientation="h", y=1.08, yanchor="bottom", x=0))


def costs(table, measure="milliseconds", height=430):
    """Time ("milliseconds") or memory ("peak_mib") of the nearest ETF against the number of classes, as Figures 5 and 16 have it.

    table: columns method, num_classes, dim, quantity ("forward" or "forward + backward", a panel each) and the measure. Of
    several dimensions at one C the largest is drawn; it shows under the pointer.
    """
    table = table.dropna(subset=measure).sort_values(["num_classes", "dim"])
    table = table.drop_duplicates(["method", "quantity", "num_classes"], keep="last")
    quantities = [q for q in ("forward", "forward + backward") if q in set(table["quantity"])]
    figure = make_subplots(1, len(quantities), subplot_titles=quantities, shared_yaxes=True, horizontal_spacing=0.04)
    for method, (colour, symbol) in METHODS.items():
        mine = {k: table[(table["method"] == method) & (table["quantity"] == q)] for k, q in enumerate(quantities, 1)}
        mine = {k: rows for k, rows in mine.items() if len(rows)}
        for k, rows in mine.items():
            figure.add_scatter(x=rows["num_classes"], y=rows[measure], mode="lines+markers", name=method, legendgroup=method,
                               showlegend=k == min(mine), line=dict(color=colour, width=2), marker=dict(symbol=symbol, size=8),
                               customdata=rows["dim"], hovertemplate="C = %{x}, d = %{customdata}: %{y:.3g}", row=1, col=k)
    figure.update_xaxes(type="log", title="classes C", tickvals=sorted(table["num_classes"].unique().tolist()))
    figure.update_yaxes(type="log", dtick=_decades(table[measure]), exponentformat="power")
    figure.update_yaxes(title={"peak_mib": "peak memory, MiB"}.get(measure, measure), row=1, col=1)
    legend = dict(orientation="h", y=-0.22, yanchor="top", x=0.5, xanchor="center")
    return _layout(figure, height, legend=legend).update_layout(margin_b=110)
