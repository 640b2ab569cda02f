"""Figures of the study in `labkit.studies.ddn`: training with and without the gradient through the ETF."""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labkit.plots.style import GREY, _decades, _layout, _rgba

ALPHAS = {  # weight of a batch in the running means: (label, colour, dash)
    1.0: ("α = 1", "#D55E00", "solid"),
    0.1: ("α = 0.1", "#0072B2", "dash"),
    0.0: ("α: the paper's schedule", "#009E73", "dot"),
}


def relative_difference(table, measure="loss"):
    """with/without − 1 of a measure for each setting, seed and iteration, a Series: positive where it is lower without.

    table: from `influence.load_study`. A seed is compared with itself: same start, same batches.
    """
    keys = ["num_samples", "dim", "imbalance", "batch_size", "alpha", "seed", "iteration"]
    wide = table.pivot(index=keys, columns="head", values=measure)
    return (wide["implicit_with_ddn"] / wide["implicit_without_ddn"] - 1).rename("difference")


def study_panels(table, measure, y_title, log_y=False, height=560):
    """A measure against iterations: one panel for each imbalance (columns) and batch size (rows), one curve for each α.

    table: columns imbalance, batch_size, alpha, seed, iteration and the measure. Curves are medians over seeds, bands
        ranges.
    """
    sizes, ratios = sorted(table["batch_size"].unique(), reverse=True), sorted(table["imbalance"].unique())
    titles = [
        f"imbalance {r:g}, {'all samples' if b == sizes[0] else f'batches of {b}'}" for b in sizes for r in ratios
    ]
    figure = make_subplots(
        len(sizes),
        len(ratios),
        subplot_titles=titles,
        shared_xaxes=True,
        shared_yaxes="rows",
        horizontal_spacing=0.03,
        vertical_spacing=0.11,
    )
    named = set()
    for row, size in enumerate(sizes, start=1):
        for col, ratio in enumerate(ratios, start=1):
            cell = table[(table["batch_size"] == size) & (table["imbalance"] == ratio)]
            for alpha in [a for a in ALPHAS if a in set(cell["alpha"])]:
                figure.add_traces(
                    _band(cell[cell["alpha"] == alpha], measure, alpha, alpha not in named), rows=row, cols=col
                )
                named.add(alpha)
            if not log_y:
                figure.add_hline(0, line=dict(color=GREY, width=1), row=row, col=col)
    figure.update_xaxes(type="log", dtick=1, exponentformat="power")
    figure.update_xaxes(title="iteration + 1", row=len(sizes))
    figure.update_yaxes(title=y_title, col=1)
    if log_y:
        figure.update_yaxes(type="log", dtick=_decades(table[measure]), exponentformat="power")
    legend = dict(orientation="h", y=1.07, yanchor="bottom", x=0.5, xanchor="center")
    return _layout(figure, height, legend=legend, headroom=True)


def _band(table, measure, alpha, legend):
    label, colour, dash = ALPHAS[alpha]
    group = table.groupby("iteration")[measure]
    low, middle, high = group.min(), group.median(), group.max()
    x = middle.index + 1  # iteration 0 has no place on a logarithmic axis
    band = go.Scatter(
        x=np.concatenate([x, x[::-1]]),
        y=np.concatenate([low, high[::-1]]),
        fill="toself",
        mode="lines",
        line_width=0,
        fillcolor=_rgba(colour, 0.15),
        legendgroup=label,
        showlegend=False,
        hoverinfo="skip",
    )
    line = go.Scatter(
        x=x,
        y=middle,
        mode="lines",
        name=label,
        legendgroup=label,
        showlegend=legend,
        line=dict(color=colour, dash=dash, width=2),
    )
    return [band, line]
