"""The collapse report: all measures of a network on one page, layer by layer where there are several."""

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from labkit import checks
from labkit.plots.colours import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION
from labkit.plots.style import board, line, log_axis, panel, short

# A colour is what is measured: features, weights, both together, or features out of distribution.
FEATURES, WEIGHTS, BOTH, OUTSIDE = BLUE, VERMILION, GREEN, ORANGE
PANELS = {  # title: {measure: (label, colour)}
    "spread within classes (0 at collapse)": {
        "nc1": ("NC1", FEATURES),
        "nc1_quotient": ("NC1, quotient", FEATURES),
        "cdnv": ("CDNV", FEATURES),
    },
    "distance from a simplex ETF (0 at collapse)": {
        "nc2_means": ("NC2, means", FEATURES),
        "nc2": ("NC2, weights", WEIGHTS),
        "nc3": ("NC3", BOTH),
    },
    "equinorm (0 at collapse)": {
        "equinorm_means": ("equinorm, means", FEATURES),
        "equinorm_weights": ("equinorm, weights", WEIGHTS),
    },
    "decisions": {
        "nearest_mean_accuracy": ("nearest-mean accuracy", FEATURES),
        "accuracy": ("accuracy", BOTH),
        "nc4": ("NC4, disagreement", BOTH),
    },
    "numerical rank of a class (1 at collapse)": {"numerical_rank": ("numerical rank", FEATURES)},
    "cosine margin": {"cosine_margin": ("mean margin", BOTH), "smallest_margin": ("smallest margin", BOTH)},
    "spread over the sphere": {
        "uniformity_distance": ("mean distance", FEATURES),
        "uniformity_log": ("log energy", FEATURES),
        "minimal_margin_means": ("minimal margin", FEATURES),
    },
    "out of distribution": {
        "nc5": ("NC5", OUTSIDE),
        "neco_auroc": ("NECO, AUROC", OUTSIDE),
        "nci_auroc": ("NCI, AUROC", OUTSIDE),
    },
}
SYMBOLS, DASHES = ("circle", "diamond", "square"), ("solid", "dash", "dot")
LOGARITHMIC, SHARES = "spread within classes (0 at collapse)", "decisions"


def report(table: pd.DataFrame, num_classes: int, title: str | None = None) -> go.Figure:
    """All measures of a table with the columns layer, measure and value, a panel for each kind; a line over the layers,
    or, for one layer, a point for each measure with its value beside it. Dashed: the margin of a collapsed network.
    """
    layers = list(table["layer"].unique())
    values = {measure: rows.set_index("layer")["value"] for measure, rows in table.groupby("measure", sort=False)}
    panels = [
        _panel(name, {m: look for m, look in wanted.items() if m in values}, values, layers, num_classes)
        for name, wanted in PANELS.items()
        if any(m in values for m in wanted)
    ]
    rows = math.ceil(len(panels) / 2)
    bottom = 20 if len(layers) == 1 else 15 + 5 * max(map(len, layers))  # for their names, which are written at a slant
    page = dict(showlegend=len(layers) > 1, legend=dict(x=1.02, y=1))
    return board(panels, 2, 90 + rows * (190 + bottom), title, gaps=(0.12, 50 + bottom), **page)


def _panel(name, looks, values, layers, num_classes):
    single, traces = len(layers) == 1, []
    for k, (measure, (label, colour)) in enumerate(looks.items()):
        column = values[measure].reindex(layers)
        trace = dict(type="scatter", y=short(column), name=label, legendgroup=label, showlegend=not single)
        trace |= dict(marker=dict(color=colour, size=9, symbol=SYMBOLS[k]), connectgaps=False)
        if single:
            shown = dict(text=[f"{v:.3g}" for v in column], textposition="middle right", textfont=dict(color=GREY))
            trace |= dict(x=[label], mode="markers+text", cliponaxis=False) | shown
        else:
            trace |= dict(x=layers, mode="lines+markers", line=dict(color=colour, dash=DASHES[k], width=2))
        traces.append(trace)
    shown = pd.concat([values[measure] for measure in looks])
    x = dict(type="category") | ({} if single else dict(categoryorder="array", categoryarray=layers, tickangle=-40))
    y = dict(rangemode="tozero")
    if name == LOGARITHMIC and (shown > 0).any():
        y = log_axis(shown)
    elif name == SHARES:
        y = dict(tickformat=".3~%", range=[-0.03, 1.05])
    bound = num_classes / (num_classes - 1) if name == "cosine margin" else None
    if name == "numerical rank of a class (1 at collapse)":
        bound = 1
    return panel(name, traces, x, y, bound)


def through_training(table: pd.DataFrame, measure: str, epoch: int, title: str | None = None) -> go.Figure:
    """One measure over layers and epochs: a map of all, and a line over the layers at one epoch, before the first, and,
    faint, at all others.

    table: columns layer, measure, value and epoch. The axes do not depend on the epoch. Raises ValueError for an epoch
    or a measure that is not in the table.
    """
    checks.one_of("measure", measure, tuple(table["measure"].unique()))
    checks.one_of("epoch", epoch, tuple(table["epoch"].unique()))
    rows = table[table["measure"] == measure]
    layers = list(rows["layer"].unique())
    wide = rows.pivot(index="layer", columns="epoch", values="value").reindex(layers)
    positive = bool((rows["value"] > 0).all()) and measure in PANELS[LOGARITHMIC]
    label = next((panel[measure][0] for panel in PANELS.values() if measure in panel), measure)
    colours = np.log10(wide) if positive else wide
    bar = dict(x=0.43, thickness=12)
    names = [str(e) for e in wide]
    place = dict(type="heatmap", x=names, y=layers, z=short(colours), colorscale="Cividis", reversescale=True)
    place |= dict(colorbar=bar, hovertemplate="epoch %{x}, %{y}: %{z:.3g}<extra></extra>")
    at = names.index(str(epoch))
    box = dict(type="rect", xref="x", yref="y", x0=at - 0.5, x1=at + 0.5, y0=-0.5, y1=len(layers) - 0.5)
    box |= dict(line=dict(color=BLACK, width=3))
    faint = dict(showlegend=False, hoverinfo="skip", opacity=0.25)
    traces = [line(layers, wide[e], colour=GREY, width=1, **faint) for e in wide]
    traces += [line(layers, wide[min(wide)], "before training", GREY, "dash")]
    traces += [line(layers, wide[epoch], "at this epoch", BLACK, width=3, mode="lines+markers")]
    across = dict(title="layer", type="category", categoryorder="array", categoryarray=layers, tickangle=-40)
    up = log_axis(rows["value"]) if positive else {}
    panels = [
        panel(
            f"log₁₀ of {label}" if positive else label,
            [place],
            dict(title="epoch", type="category"),
            dict(type="category"),
            at=((0, 0.42), (0, 1)),
        ),
        panel(f"{label}, layer by layer", traces, across, up, at=((0.6, 1), (0, 1))),
    ]
    return board(panels, 2, 430, title, shapes=[box])
