"""Plotly figures, one function per figure. Each takes tables or tensors and returns a plotly.graph_objects.Figure.

One colour and one dash per head, the same everywhere; the colours are Okabe and Ito's, which colour-blind eyes tell
apart.
Runs over several seeds are drawn as their median with the range as a band, as the papers report them.
"""

import math

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio

HEADS = {  # head: (label, colour, dash)
    "standard": ("standard", "#D55E00", "dot"),
    "fixed": ("fixed ETF", "#0072B2", "dash"),
    "implicit": ("implicit ETF", "#009E73", "solid"),
}
ORANGE, SKY, PURPLE, GREY = "#E69F00", "#56B4E9", "#CC79A7", "#555555"
STYLES = HEADS | {  # and their variants (`labkit.studies.sweep`, `labkit.studies.ddn`)
    "implicit_with_ddn": ("implicit, with DDN gradient", "#009E73", "solid"),
    "implicit_without_ddn": ("implicit, without DDN gradient", PURPLE, "dashdot"),
    "fixed_haar": ("fixed ETF, Haar frame", SKY, "longdash"),
    "standard_no_norm": ("standard, not normalised", ORANGE, "longdashdot"),
}
METHODS = {  # ways to compute the nearest ETF and its gradient: (colour, marker)
    "closed form": ("#009E73", "circle"),
    "closed form, no gradient": (SKY, "circle-open"),
    "closed form, float64": ("#000000", "triangle-up"),
    "trust region, cold": ("#D55E00", "square"),
    "trust region, warm": (ORANGE, "square-open"),
    "Proposition 1, dense": ("#0072B2", "diamond"),
    "SVD with autograd": (PURPLE, "x"),
}
CLASS_COLOURS = [
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C6D31",
    "#7F7F7F",
    "#882255",
]

LABELS = {
    "loss": "cross entropy",
    "excess": "cross entropy − bound",
    "accuracy": "training accuracy",
    "nc1": "NC1 (variability)",
    "nc2": "NC2 (weights)",
    "nc3": "NC3 (self-duality)",
    "nc4": "NC4 (disagreement)",
    "cosine_margin": "mean cosine margin",
    "equinorm_gap": "|equinorm means − weights|",
}


# plotly_white less what no figure here uses: a third of its length, which would stand in every figure of every notebook
_USED = ("annotationdefaults", "colorway", "font", "hoverlabel", "hovermode", "scene", "title", "xaxis", "yaxis")
_WHITE = pio.templates["plotly_white"].layout.to_plotly_json()
TEMPLATE = go.layout.Template(layout={name: _WHITE[name] for name in _USED})


def _layout(figure, height, title=None, headroom=False, **more):
    figure.update_layout(
        template=TEMPLATE,
        height=height,
        title=title,
        font_size=12,
        uirevision="keep",
        margin=dict(l=60, r=20, t=60 if title or headroom else 40, b=50),
        **more,
    )
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
        traces.append(
            go.Scatter(
                x=outline,
                y=np.concatenate([low, high[::-1]]),
                fill="toself",
                mode="lines",
                line_width=0,
                fillcolor=_rgba(colour, 0.2),
                legendgroup=head,
                showlegend=False,
                hoverinfo="skip",
            )
        )
    traces.append(
        go.Scatter(
            x=median.index,
            y=median,
            mode="lines",
            name=label,
            legendgroup=head,
            showlegend=legend,
            line=dict(color=colour, dash=dash, width=2),
        )
    )
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


def lines(x, curves, x_title, y_title, log_x=True, log_y=True, marks=None, height=400):
    """Curves over one axis, each {name: values}, told apart by colour and dash; `marks`, {name: x}, are vertical
    lines.
    """
    figure = go.Figure()
    for k, (name, values) in enumerate(curves.items()):
        dash = ("solid", "dash", "dot", "dashdot")[k % 4]
        figure.add_scatter(
            x=np.asarray(x),
            y=np.asarray(values),
            mode="lines",
            name=name,
            line=dict(color=CLASS_COLOURS[k % len(CLASS_COLOURS)], dash=dash, width=2.5),
        )
    for name, place in (marks or {}).items():
        figure.add_vline(place, line=dict(color=GREY, dash="dash", width=1))
        # apart from the line: on a logarithmic axis plotly wants the place of a text, not of a line, as its logarithm
        figure.add_annotation(
            x=math.log10(place) if log_x else place, y=1, yref="paper", yanchor="bottom", text=name, showarrow=False
        )
    for update, title, log in ((figure.update_xaxes, x_title, log_x), (figure.update_yaxes, y_title, log_y)):
        update(title=title, type="log" if log else "linear", **(dict(dtick=1, exponentformat="power") if log else {}))
    return _layout(figure, height, legend=dict(orientation="h", y=1.08, yanchor="bottom", x=0), headroom=True)


def histograms(samples, x_title, bins=40, marks=None, height=360):
    """Share of samples per bin, one colour for each of {name: values}, on common bins; `marks`, {name: x}, are vertical
    lines.
    """
    samples = {name: np.asarray(values) for name, values in samples.items()}
    low, high = min(v.min() for v in samples.values()), max(v.max() for v in samples.values())
    edges = np.linspace(low, high, bins + 1)
    figure = go.Figure()
    for (name, values), colour in zip(samples.items(), CLASS_COLOURS):
        figure.add_bar(
            x=(edges[1:] + edges[:-1]) / 2,
            y=np.histogram(values, edges)[0] / len(values),
            name=name,
            opacity=0.6,
            marker=dict(color=colour, line_width=0),
            width=edges[1] - edges[0],
        )
    for name, place in (marks or {}).items():
        figure.add_vline(
            place, line=dict(color=GREY, dash="dash", width=1), annotation_text=name, annotation_position="top"
        )
    figure.update_xaxes(title=x_title)
    figure.update_yaxes(title="share of samples", rangemode="tozero")
    return _layout(
        figure,
        height,
        barmode="overlay",
        showlegend=len(samples) > 1,
        headroom=True,
        legend=dict(orientation="h", y=1.08, yanchor="bottom", x=0),
    )
