"""Figures of activations inside networks: measures by network, κ and λ by depth, and the shapes they make.

They read the tables of `labkit.studies.networks`: curves (one row for each head, seed and iteration; `head` is the
network, `iteration` the epoch) and parameters (one row for each of those and each layer).
"""

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from labkit import activations
from labkit.plots.style import GREY, _layout, _rgba

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # Okabe and Ito
LABELS = {
    "relu": "ReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "aglu": "AGLU",
    "aglu-frozen": "AGLU, not learnt",
    "aglu-paper-gradient": "AGLU, paper's ∂λ",
    "aglu-channel": "AGLU per channel",
    "se": "SE (sigmoid)",
    "se-apa": "SE with APA",
    "apa-star": "APA*",
    "apa-star-channel": "APA* per channel",
}
MEASURES = {
    "test_accuracy": "test accuracy",
    "accuracy": "training accuracy",
    "loss": "training loss",
    "test_nc1": "NC1 of test features",
    "nc1": "NC1 of training features",
    "gate_entropy": "entropy of the last gate / ln C",
}
KINDS = {"activation": "AGLU", "gate": "APA gate"}
SYMBOLS = ("circle", "diamond", "square", "x", "triangle-up")
DEPTH = "Cividis"  # a scale that colour-blind eyes read as others do


def colour(network):
    """Blue and orange-red without channel attention, green and purple with it; the second of each pair learns κ and
    λ.
    """
    attention, learns = network.startswith(("se", "apa")), "aglu" in network or "apa" in network
    return {(False, False): BLUE, (False, True): VERMILION, (True, False): GREEN, (True, True): PURPLE}[
        attention, learns
    ]


def at(table, epoch=None):
    """The rows of one epoch; None is the last of each network and seed."""
    last = table.groupby(["head", "seed"])["iteration"].transform("max")
    return table[table["iteration"] == (last if epoch is None else epoch)]


def _legend(y):
    return dict(orientation="h", y=y, yanchor="bottom" if y > 0 else "top", x=1, xanchor="right")


def dots(curves, measure, networks, epoch=None, log_x=False, title=None):
    """A measure at one epoch, a row for each network: a dot for each seed and a bar at their median."""
    table = at(curves, epoch)
    figure = go.Figure()
    for network in networks:
        values = table.loc[table["head"] == network, measure].dropna()
        label, shade = LABELS[network], colour(network)
        figure.add_scatter(
            x=values,
            y=[label] * len(values),
            mode="markers",
            showlegend=False,
            name=label,
            marker=dict(size=9, color=_rgba(shade, 0.55), line=dict(width=1, color=shade)),
        )
        if len(values):
            figure.add_scatter(
                x=[values.median()],
                y=[label],
                mode="markers",
                showlegend=False,
                name=f"{label}, median",
                marker=dict(symbol="line-ns", size=22, line=dict(width=3, color=shade)),
            )
    figure.update_xaxes(title=MEASURES[measure], type="log" if log_x else "linear")
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=[LABELS[n] for n in networks])
    _layout(figure, 130 + 36 * len(networks), title)
    return figure.update_layout(margin_l=170)


def over_epochs(curves, measure, networks, log_y=False, title=None):
    """A measure against the epoch: for each network the median over seeds, and their range as a band."""
    figure = go.Figure()
    palette = (BLUE, VERMILION, GREEN, PURPLE, GREY)
    for k, network in enumerate(networks):
        by = curves[curves["head"] == network].dropna(subset=measure).groupby("iteration")[measure]
        low, high, shade = by.min(), by.max(), palette[k % len(palette)]
        figure.add_scatter(
            x=[*low.index, *high.index[::-1]],
            y=[*low, *high[::-1]],
            fill="toself",
            mode="lines",
            line_width=0,
            fillcolor=_rgba(shade, 0.15),
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=low.index,
            y=by.median(),
            mode="lines+markers",
            name=LABELS[network],
            marker_symbol=SYMBOLS[k % 5],
            line=dict(color=shade, dash=("solid", "dash", "dot", "dashdot")[k % 4], width=2),
        )
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title=MEASURES[measure], type="log" if log_y else "linear")
    return _layout(figure, 380, title, headroom=True, legend=_legend(1.02))


def depth_panels(parameters, networks, title=None):
    """λ and κ by depth before and after training, the panels of Figure 1 of the supplement.

    Two rows, λ and κ, a column for each kind of layer that learns. Small grey crosses: every seed before training;
        coloured
    dots: every seed after; lines: the medians over seeds.
    """
    table = parameters[parameters["head"].isin(networks)]
    kinds = [kind for kind in KINDS if kind in set(table["kind"])]
    titles = [f"{symbol} of {KINDS[kind]}" for symbol in "λκ" for kind in kinds]
    figure = make_subplots(
        2, len(kinds), subplot_titles=titles, shared_xaxes=True, vertical_spacing=0.12, horizontal_spacing=0.08
    )
    for row, column in enumerate(("lam", "kappa"), start=1):
        for col, kind in enumerate(kinds, start=1):
            mine = table[table["kind"] == kind]
            _stage(figure, mine[mine["iteration"] == 0], column, "before training", GREY, "x-thin", "dot", row, col)
            for network, shade in zip(networks, (VERMILION, BLUE, GREEN)):
                end = at(mine[mine["head"] == network])
                _stage(figure, end, column, f"after: {LABELS[network]}", shade, "circle", "solid", row, col)
            if mine[column].max() > 20:
                figure.update_yaxes(type="log", exponentformat="power", dtick=2, row=row, col=col)
            figure.update_xaxes(title="layer, from input to output" if row == 2 else None, row=row, col=col)
    return _layout(figure, 500, title, headroom=True, legend=_legend(1.08))


def _stage(figure, table, column, name, shade, symbol, dash, row, col):
    """Every seed as a mark and the median as a line, in one panel."""
    if table.empty:
        return
    first, median = (row, col) == (1, 1), table.groupby("layer")[column].median()
    mark = dict(symbol=symbol, size=5, color=_rgba(shade, 0.5), line=dict(width=1, color=_rgba(shade, 0.5)))
    figure.add_scatter(
        x=table["layer"], y=table[column], mode="markers", marker=mark, showlegend=False, name=name, row=row, col=col
    )
    figure.add_scatter(
        x=median.index,
        y=median,
        mode="lines",
        line=dict(color=shade, dash=dash, width=2),
        name=name,
        legendgroup=name,
        showlegend=first,
        row=row,
        col=col,
    )


def _values(z, kind, kappa, lam):
    function = activations.aglu if kind == "activation" else activations.apa
    return function(z, float(kappa), max(float(lam), activations.FLOOR))


def _fixed(network, kind, z):
    """The values and name of a curve with nothing to learn, or None where the network has no such layer."""
    if kind == "gate":
        return (torch.sigmoid(z).numpy(), "sigmoid") if network.startswith(("se", "apa")) else None
    known = {"gelu": (torch.nn.functional.gelu, "GELU"), "silu": (torch.nn.functional.silu, "SiLU")}
    function, name = known.get(network, (torch.relu, "ReLU"))
    return function(z).numpy(), name


def network_panels(parameters, network, kind, seed, epoch, title=None):
    """One network and seed at one epoch: λ by depth, κ by depth (with where they started), and the curves they make.

    kind: "activation" or "gate". Where nothing is learnt the curve is the fixed one, and the other panels say so.
    """
    mine = parameters.query("head == @network and kind == @kind and seed == @seed")
    start, now = (mine[mine["iteration"] == e] for e in (0, epoch))
    figure = make_subplots(1, 3, subplot_titles=["λ by depth", "κ by depth", "the curves"], horizontal_spacing=0.08)
    z = torch.linspace(-5, 5, 81, dtype=torch.float64)
    for col, column in enumerate(("lam", "kappa"), start=1):
        if now.empty:
            _say(figure, "nothing learnt here", col)
        else:
            _moves(figure, start, now, column, col)
        figure.update_xaxes(title="layer, from input to output", row=1, col=col)
    fixed, across = _fixed(network, kind, z), z.numpy()
    if not now.empty:
        shades = _shades(len(now))
        for shade, row in zip(shades, now.itertuples()):
            figure.add_scatter(
                x=across,
                y=_values(z, kind, row.kappa, row.lam).numpy(),
                mode="lines",
                line=dict(color=shade, width=1.5),
                name=f"layer {row.layer}: κ {row.kappa:.2f}, λ {row.lam:.2g}",
                showlegend=False,
                row=1,
                col=3,
            )
        known = torch.nn.functional.silu(z) if kind == "activation" else torch.sigmoid(z)
        figure.add_scatter(
            x=across,
            y=known.numpy(),
            mode="lines",
            line=dict(color="black", dash="dash", width=2),
            row=1,
            col=3,
            name="SiLU (κ = λ = 1)" if kind == "activation" else "sigmoid (κ = λ = 1)",
        )
    elif fixed is not None:
        figure.add_scatter(
            x=across, y=fixed[0], mode="lines", line=dict(color="black", width=2), name=fixed[1], row=1, col=3
        )
    else:
        _say(figure, "no gate in this network", 3)
    figure.update_xaxes(title="z", range=[-5, 5], row=1, col=3)
    figure.update_yaxes(range=[-0.6, 5] if kind == "activation" else [-0.02, 1.02], row=1, col=3)
    return _layout(figure, 400, title, headroom=True, legend=_legend(-0.22))


def _say(figure, text, col):
    """A word in place of an empty panel (by the page: plotly drops the axes of a panel without traces)."""
    axis = figure.layout["xaxis" if col == 1 else f"xaxis{col}"]
    figure.add_annotation(
        text=text, showarrow=False, x=sum(axis.domain) / 2, y=0.5, xref="paper", yref="paper", font_color=GREY
    )
    axis.visible = figure.layout["yaxis" if col == 1 else f"yaxis{col}"].visible = False


def _shades(count):
    return sample_colorscale(DEPTH, np.linspace(0, 0.9, count).tolist())


def _moves(figure, start, now, column, col):
    """From an open mark, where a layer started, a line to a full one, where it is."""
    x = np.repeat(now["layer"].to_numpy(float), 3)
    y = np.stack([start[column], now[column], np.full(len(now), np.nan)], 1).ravel()
    figure.add_scatter(
        x=x, y=y, mode="lines", line=dict(color=GREY, width=1), showlegend=False, hoverinfo="skip", row=1, col=col
    )
    full = dict(color=_shades(len(now)), line=dict(width=1, color=GREY))
    for table, name, mark in (
        (start, "at the start", dict(symbol="circle-open", color=GREY)),
        (now, "now, coloured by depth", full),
    ):
        figure.add_scatter(
            x=table["layer"],
            y=table[column],
            mode="markers",
            name=name,
            showlegend=col == 1,
            marker=dict(size=7, **mark),
            row=1,
            col=col,
        )
    if now[column].max() > 20:
        figure.update_yaxes(type="log", exponentformat="power", dtick=2, row=1, col=col)
