"""Figures of activations inside networks: measures by network, κ and λ by depth, and the shapes they make.

They read the tables of `labkit.studies.networks`: curves (one row for each head, seed and iteration; `head` is the
network, `iteration` the epoch) and parameters (one row for each of those and each layer).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch

from labkit import activations
from labkit.plots.colours import (
    ACTIVATIONS,
    BLACK,
    BLUE,
    DASHES,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    Look,
    ramp,
    rgba,
)
from labkit.plots.style import bands, board, line, log_axis, marks, panel

LABELS = {
    "relu": "ReLU",
    "gelu": "GELU",
    "silu": "SiLU",
    "aglu": "AGLU",
    "aglu-frozen": "AGLU, not learnt",
    "aglu-paper-gradient": "AGLU, Eq. 6, our floor",
    "aglu-paper-released": "AGLU, Eq. 6, released",
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
    "gate_entropy": "entropy of the last gate / ln K",
}
KINDS = {"activation": "AGLU", "gate": "APA gate"}
PARAMETERS = {"lam": "λ", "kappa": "κ"}


def colour(network: str) -> str:
    """That of the activation, and with channel attention green, or purple where the gate is APA."""
    if network.startswith(("se", "apa")):
        return PURPLE if "apa" in network else GREEN
    return ACTIVATIONS[network.split("-")[0]].colour


def at(table: pd.DataFrame, epoch: int | None = None) -> pd.DataFrame:
    """The rows of one epoch; None is the last of each network and seed."""
    last = table.groupby(["head", "seed"])["iteration"].transform("max")
    return table[table["iteration"] == (last if epoch is None else epoch)]


def _up(values):
    """An axis of κ or λ: of powers of ten where one of them has run away, and none is negative."""
    return log_axis(values) if len(values) and values.max() > 20 and values.min() > 0 else {}


def dots(
    curves: pd.DataFrame,
    measure: str,
    networks: Sequence[str],
    epoch: int | None = None,
    log_x: bool = False,
    title: str | None = None,
) -> go.Figure:
    """A measure at one epoch, a row for each network: a dot for each seed and a bar at their median."""
    table, traces = at(curves, epoch), []
    for network in networks:
        values, label, shade = table.loc[table["head"] == network, measure].dropna(), LABELS[network], colour(network)
        traces.append(marks(values, [label] * len(values), label, rgba(shade, 0.55), line=dict(width=1, color=shade)))
        if len(values):
            bar = dict(line=dict(width=3, color=shade))
            traces.append(marks([values.median()], [label], f"{label}, median", shade, 22, "line-ns", **bar))
    across = (log_axis(table[measure]) if log_x else {}) | dict(title=MEASURES[measure])
    up = dict(autorange="reversed", type="category", categoryorder="array", categoryarray=[LABELS[n] for n in networks])
    figure = board([panel("", traces, across, up)], 1, 130 + 36 * len(networks), title, legend=None)
    return figure.update_layout(margin_l=170)


def over_epochs(
    curves: pd.DataFrame, measure: str, networks: Sequence[str], log_y: bool = False, title: str | None = None
) -> go.Figure:
    """A measure against the epoch: for each network the median over seeds, and their range as a band."""
    table = curves.dropna(subset=measure)
    shades = (BLUE, VERMILION, GREEN, PURPLE, GREY)
    # A dash further in every round of colours, so that 25 networks look different.
    styles = {n: Look(LABELS[n], shades[k % 5], DASHES[(k + k // 5) % 5]) for k, n in enumerate(networks)}
    up = (log_axis(table[measure]) if log_y else {}) | dict(title=MEASURES[measure])
    return board([panel("", bands(table, "iteration", measure, styles=styles), dict(title="epoch"), up)], 1, 380, title)


def depth_panels(parameters: pd.DataFrame, networks: Sequence[str], title: str | None = None) -> go.Figure:
    """λ and κ by depth before and after training, the panels of Figure 1 of the supplement.

    Two rows, λ and κ, a column for each kind of layer that learns. Small grey crosses: every seed before training;
    coloured dots: every seed after; lines: the medians over seeds. Raises ValueError for more than four networks.
    """
    shades = (BLUE, ORANGE, VERMILION, GREEN)
    if len(networks) > len(shades):
        raise ValueError(f"there are colours for {len(shades)} networks, got {len(networks)}: {', '.join(networks)}")
    table, panels = parameters[parameters["head"].isin(networks)], []
    kinds = [kind for kind in KINDS if kind in set(table["kind"])]
    for column, symbol in PARAMETERS.items():
        for kind in kinds:
            mine = table[table["kind"] == kind]
            start, end = at(mine, 0), at(mine)
            traces = _stage(start, column, "before training", GREY, "x-thin", "dot")
            for network, shade in zip(networks, shades):
                traces += _stage(end[end["head"] == network], column, f"after: {LABELS[network]}", shade)
            across = dict(title="layer, from input to output")
            panels.append(panel(f"{symbol} of {KINDS[kind]}", traces, across, _up(pd.concat([start, end])[column])))
    return board(panels, len(kinds), 520, title, "x", gaps=(0.08, 50))


def _stage(table, column, name, shade, symbol="circle", dash="solid"):
    """Every seed as a mark and the median as a line."""
    if table.empty:
        return []
    median, pale, hidden = table.groupby("layer")[column].median(), rgba(shade, 0.5), dict(showlegend=False)
    edge = dict(width=1, color=pale)
    seeds = marks(table["layer"], table[column], name, pale, 5, symbol, hidden, line=edge)
    return [seeds, line(median.index, median, name, shade, dash)]


def _values(z, kind, kappa, lam):
    function = activations.aglu if kind == "activation" else activations.apa
    return function(z, float(kappa), max(float(lam), activations.FLOOR))


def _fixed(network, kind, z):
    """A curve with nothing to learn and its name, or None where the network has no such layer."""
    if kind == "gate":
        return (z.sigmoid(), "sigmoid") if network.startswith(("se", "apa")) else None
    known = {"gelu": (torch.nn.functional.gelu, "GELU"), "silu": (torch.nn.functional.silu, "SiLU")}
    function, name = known.get(network, (torch.relu, "ReLU"))
    return function(z), name


def network_panels(
    parameters: pd.DataFrame, network: str, kind: str, seed: int, epoch: int, title: str | None = None
) -> go.Figure:
    """One network and seed at one epoch: λ by depth, κ by depth (with where they started), and the curves they make.

    kind: "activation" or "gate". Where nothing is learnt the curve is the fixed one, and the other panels say so.
    """
    mine = parameters.query("head == @network and kind == @kind and seed == @seed").sort_values("layer")
    start, now = (mine[mine["iteration"] == e] for e in (0, epoch))
    z, shades, panels = torch.linspace(-5, 5, 81, dtype=torch.float64), ramp(len(now)), []
    for column, symbol in PARAMETERS.items():
        moved = [] if now.empty else _moves(start, now, column, shades)
        across, say = dict(title="layer, from input to output"), "nothing learnt here" if now.empty else None
        panels.append(panel(f"{symbol} by depth", moved, across, _up(pd.concat([start, now])[column]), say=say))
    drawn, fixed = [], _fixed(network, kind, z)
    for shade, row in zip(shades, now.itertuples()):
        name = f"layer {row.layer}: κ {row.kappa:.2f}, λ {row.lam:.2g}"
        drawn.append(line(z, _values(z, kind, row.kappa, row.lam), name, shade, width=1.5, showlegend=False))
    if drawn:
        known = torch.nn.functional.silu(z) if kind == "activation" else z.sigmoid()
        drawn.append(line(z, known, f"{'SiLU' if kind == 'activation' else 'sigmoid'} (κ = λ = 1)", BLACK, "dash"))
    elif fixed is not None:
        drawn.append(line(z, *fixed, BLACK))
    up = dict(range=[-0.6, 5] if kind == "activation" else [-0.02, 1.02])
    say = None if drawn else "no gate in this network"
    panels.append(panel("the curves", drawn, dict(title="z", range=[-5, 5]), up, say=say))
    return board(panels, 3, 420, title, legend="below")


def _moves(start, now, column, shades):
    """From an open mark, where a layer started, a line to a full one, where it is."""
    x = np.repeat(now["layer"].to_numpy(float), 3)
    y = np.stack([start[column], now[column], np.full(len(now), np.nan)], 1).ravel()
    edge = dict(line=dict(width=1, color=GREY))
    return [
        line(x, y, "from start to now", GREY, width=1, showlegend=False, hoverinfo="skip"),
        marks(start["layer"], start[column], "at the start", GREY, 7, "circle-open"),
        marks(now["layer"], now[column], "now, coloured by depth", shades, 7, **edge),
    ]
