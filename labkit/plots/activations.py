"""Plotly figures of APA and AGLU, one function per figure, in the style of `labkit.plots.style`."""

import math

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from labkit.activations import derivatives
from labkit.plots.style import GREY, ORANGE, _layout, _rgba

GRADIENTS = {
    "exact": ("exact gradient", "#0072B2", "solid"),
    "paper": ("Eq. 6", "#D55E00", "dash"),
}  # label, colour, dash
PARTS = {"z": "z", "kappa": "κ", "lam": "λ"}
RAMP = ["#56B4E9", "#0072B2", "#000000", "#D55E00", "#E69F00"]  # Okabe and Ito's, from cold to warm
DASHES = ["dot", "dash", "solid", "longdash", "dashdot"]
INKS = {
    "κ ~ U(0, 1)": ("#0072B2", "solid"),
    "κ ~ U(−2, 0)": ("#D55E00", "dash"),
    "κ ~ U(−3, 0)": ("#E69F00", "dashdot"),
    "κ ~ U(−2, 2)": ("#000000", "dot"),
    "κ ~ U(1, 1.3)": ("#009E73", "solid"),
    "κ ~ U(−1, 0)": ("#D55E00", "dash"),
}


def line(x, y, name, colour, dash="solid", width=2.5, in_legend=True, **more):
    """A curve, in float32: as good to look at, and half as long in a saved notebook."""
    x, y = (np.asarray(values, np.float32) for values in (x, y))
    return go.Scatter(
        x=x, y=y, mode="lines", name=name, showlegend=in_legend, line=dict(color=colour, dash=dash, width=width), **more
    )


def joined(x, curves):
    """Many curves over the same x as one: x and y with gaps between."""
    curves = np.asarray(curves, float)
    return np.tile(np.append(x, np.nan), len(curves)), np.pad(curves, ((0, 0), (0, 1)), constant_values=np.nan).ravel()


def _powers_of_ten(update, step=1, **more):
    update(type="log", dtick=step, exponentformat="power", **more)


def _above(y=1.1):
    return dict(orientation="h", x=0.5, xanchor="center", y=y, yanchor="bottom")


def derivative_panels(gated, kappas=(-1.0, 0.3, 1.0, 3.0), lams=(0.01, 0.3, 1.0, 3.0, 30.0), reach=6.0, height=580):
    """Derivatives of AGLU (gated) or APA in z, κ and λ: above for several κ at λ = 1, below for several λ at κ = 1."""
    name = "AGLU" if gated else "APA"
    rows = [[(k, 1.0, f"κ = {k:g}") for k in kappas], [(1.0, l, f"λ = {l:g}") for l in lams]]
    titles = [f"∂{name}/∂{part} at {fixed}" for fixed in ("λ = 1", "κ = 1") for part in PARTS.values()]
    figure = make_subplots(2, 3, subplot_titles=titles, horizontal_spacing=0.06, vertical_spacing=0.17)
    z = torch.linspace(-reach, reach, 121, dtype=torch.float64)
    for row, settings in enumerate(rows, start=1):
        for (k, l, label), colour, dash in zip(settings, RAMP, DASHES):
            found = derivatives(z, k, l, gated)
            for col, part in enumerate(PARTS, start=1):
                figure.add_trace(
                    line(
                        z,
                        found[part],
                        label,
                        colour,
                        dash,
                        in_legend=col == 1,
                        legendgroup=label,
                        legend="legend" if row == 1 else "legend2",
                    ),
                    row=row,
                    col=col,
                )
    figure.update_xaxes(title="z", title_standoff=4)
    return _layout(figure, height, legend=dict(x=1.01, y=1), legend2=dict(x=1.01, y=0.4))


def references(z, kappa, gated):
    """Familiar functions to draw beside this one: (label, values, colour, dash)."""
    if gated:
        return [
            ("ReLU", z.relu(), GREY, "dot"),
            ("GELU", torch.nn.functional.gelu(z), "#D55E00", "dash"),
            ("SiLU", z * z.sigmoid(), ORANGE, "dashdot"),
        ]
    return [
        ("sigmoid(κz), λ = 1", (kappa * z).sigmoid(), "#D55E00", "dash"),
        ("Gumbel exp(−e^(−κz)), λ → 0", torch.exp(-torch.exp(-kappa * z)), ORANGE, "dashdot"),
    ]


def error_panels(lams, errors, height=640):
    """Largest relative errors against λ, on logarithmic axes: a panel for each (quantity, precision).

    errors: {(method, quantity, precision): values}; quantities and precisions in the order they come. NaN and errors
    above 100 are drawn at 100.
    """
    rows, cols = (list(dict.fromkeys(key[i] for key in errors)) for i in (1, 2))
    figure = make_subplots(
        len(rows),
        len(cols),
        subplot_titles=[f"{row}, {col}" for row in rows for col in cols],
        shared_yaxes="rows",
        vertical_spacing=0.14,
        horizontal_spacing=0.05,
    )
    methods = list(dict.fromkeys(key[0] for key in errors))
    for (method, quantity, precision), values in errors.items():
        k = methods.index(method)
        shown = np.clip(np.nan_to_num(np.asarray(values, float), nan=100, posinf=100), 1e-17, 100)
        at = dict(row=rows.index(quantity) + 1, col=cols.index(precision) + 1)
        colour = ("#D55E00", ORANGE, "#0072B2")[k % 3]
        figure.add_trace(
            line(
                lams,
                shown,
                method,
                colour,
                ("dot", "dash", "solid")[k % 3],
                legendgroup=method,
                in_legend=at == dict(row=1, col=1),
            ),
            **at,
        )
    _powers_of_ten(figure.update_xaxes, 2, title="λ", title_standoff=4)
    _powers_of_ten(figure.update_yaxes, 3, range=[-17.3, 2.5])
    figure.update_yaxes(title="relative error", col=1)
    return _layout(figure, height, headroom=True, legend=_above(1.06))


def fit_panels(history, kappa, lam, height=400):
    """Loss, κ and λ of `fit_curve` runs against steps, one line for each seed; dashed grey lines at the values
    sought.
    """
    figure = make_subplots(1, 3, subplot_titles=["loss", "κ", "λ"], horizontal_spacing=0.07)
    for name, (label, colour, dash) in GRADIENTS.items():
        for k, (_, run) in enumerate(history.frame[history.frame["head"] == name].groupby("seed")):
            for col, column in enumerate(("loss", "kappa", "lam"), start=1):
                values = run[column].clip(lower=1e-20 if column == "loss" else None)
                figure.add_trace(
                    line(
                        run["iteration"],
                        values,
                        label,
                        colour,
                        dash,
                        1.5,
                        in_legend=k == 0 and col == 1,
                        legendgroup=name,
                    ),
                    row=1,
                    col=col,
                )
    for col, value in ((2, kappa), (3, lam)):
        figure.add_hline(value, line=dict(color=GREY, dash="dash", width=1), row=1, col=col)
    figure.update_xaxes(title="step")
    _powers_of_ten(figure.update_yaxes, 4, col=1)
    _powers_of_ten(figure.update_yaxes, 2, col=3)
    return _layout(figure, height, headroom=True, legend=_above(1.12))


def lambda_paths(history, height=420):
    """λ of every AGLU layer and seed against epochs, a panel for each variant in the history."""
    names = list(dict.fromkeys(history.frame["head"]))
    figure = make_subplots(
        1,
        len(names),
        subplot_titles=[GRADIENTS[n][0] if n in GRADIENTS else n for n in names],
        shared_yaxes=True,
        horizontal_spacing=0.03,
    )
    columns = [c for c in history.frame if c.startswith("lam_")]
    for col, name in enumerate(names, start=1):
        runs = [run for _, run in history.frame[history.frame["head"] == name].groupby("seed")]
        curves = [run[c].to_numpy() for run in runs for c in columns]
        colour = GRADIENTS[name][1] if name in GRADIENTS else GREY
        paths = joined(runs[0]["iteration"], curves)
        figure.add_trace(line(*paths, name, _rgba(colour, 0.55), width=1.2, in_legend=False), row=1, col=col)
    figure.update_xaxes(title="epoch")
    _powers_of_ten(figure.update_yaxes, 3)
    figure.update_yaxes(title="λ", col=1)
    return _layout(figure, height)


def spread(figure, table, x, y, colour_of, at, in_legend):
    """Median over seeds as a line and the range as a band, for each name in the column "head"."""
    for name in dict.fromkeys(table["head"]):
        group = table[table["head"] == name].groupby(x)[y]
        (colour, dash), median, low, high = colour_of[name], group.median(), group.min(), group.max()
        outline = np.concatenate([low.index, high.index[::-1]]), np.concatenate([low, high[::-1]])
        figure.add_trace(
            line(
                *outline,
                name,
                colour,
                width=0,
                in_legend=False,
                fill="toself",
                fillcolor=_rgba(colour, 0.12),
                legendgroup=name,
                hoverinfo="skip",
            ),
            **at,
        )
        figure.add_trace(line(median.index, median, name, colour, dash, 2, in_legend, legendgroup=name), **at)


def depth_panels(tables, y, y_title, height=420):
    """One measure of `signal` against depth: {title: table with head, seed, layer and the measure}, a panel each."""
    figure = make_subplots(1, len(tables), subplot_titles=list(tables), horizontal_spacing=0.06)
    for col, table in enumerate(tables.values(), start=1):
        spread(figure, table, "layer", y, INKS, dict(row=1, col=col), col == 1)
        values = table[y][table[y] > 0]
        decades = math.log10(values.max() / values.min())
        _powers_of_ten(figure.update_yaxes, "D2" if decades < 1.5 else max(1, math.ceil(decades / 7)), row=1, col=col)
    figure.update_xaxes(title="layer")
    figure.update_yaxes(title=y_title, col=1)
    return _layout(figure, height, headroom=True, legend=_above(1.1))


def accuracy_dots(printed, measured, printed_title, measured_title, height=380):
    """Printed accuracies, {label: number or None}, beside ours, {label: one for each seed}, each with an axis of its
    own.
    """
    figure = make_subplots(
        1, 2, subplot_titles=[printed_title, measured_title], shared_yaxes=True, horizontal_spacing=0.04
    )
    for label, value in printed.items():
        figure.add_trace(_dots([value], label, size=11, color="#D55E00", symbol="diamond"), row=1, col=1)
        if value is None:
            figure.add_annotation(
                x=0.5, xref="x domain", y=label, yref="y", text="“Failed”", showarrow=False, font_color="#D55E00"
            )
    for label, values in measured.items():
        median = float(np.median(values))
        figure.add_trace(_dots(list(values), label, size=9, color=_rgba("#0072B2", 0.45)), row=1, col=2)
        bar = dict(size=18, symbol="line-ns", line=dict(color="#0072B2", width=3))
        figure.add_trace(_dots([median], label, **bar), row=1, col=2)
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="top-1 accuracy, %")
    return _layout(figure, height, headroom=True).update_layout(margin_l=110)


def _dots(x, label, **marker):
    return go.Scatter(x=x, y=[label] * len(x), mode="markers", name=label, showlegend=False, marker=marker)
