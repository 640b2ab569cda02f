"""Figures of trainings on images: the panels of a run, accuracy tables as ranges, times of head and backbone, and
pictures.
"""

import math

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labkit import etf
from labkit.plots.style import GREY, ORANGE, STYLES, _decades, _heads_in, _layout, _rgba, curve_traces

SYMBOLS = {"standard": "circle", "fixed": "diamond", "implicit": "square"}
PANELS = {  # measure: axis, title
    "loss": ("log", "cross entropy"),
    "cosine_margin": ("linear", "mean cosine margin"),
    "margins": (None, "margins at the end"),
    "nc1": ("log", "NC1"),
    "nc3": ("log", "NC3"),
    "equinorm_gap": ("log", "equinorm: |means − weights|"),
    "accuracy": ("linear", "training accuracy"),
    "test_accuracy": ("linear", "test accuracy"),
    "nc4": ("linear", "NC4"),
}
SHARES = ("accuracy", "test_accuracy", "nc4")


def image_panels(history, num_classes, temperature=5.0, title=None, panels=tuple(PANELS)):
    """What the paper draws of a training on images (Figures 4, 6–11, 15, 17 and 18), against epochs.

    history: of `labkit.vision.recipes`. panels: names in PANELS, three in a row. All measures are of the training
    images without augmentation, but for the test accuracy. Dashed lines are the bounds of the cross entropy and of the
    margin; with a head that does not normalise they bound nothing. Lines are medians over seeds, bands their ranges.
    Epoch 0, before training, may lie outside the panels of accuracy and NC4, which would otherwise show little else.
    """
    table = history.frame.assign(
        equinorm_gap=(history.frame["equinorm_means"] - history.frame["equinorm_weights"]).abs()
    )
    bounds = {
        "loss": etf.cross_entropy_bound(num_classes, temperature),
        "cosine_margin": etf.cosine_margin_bound(num_classes),
    }
    bounds["margins"] = bounds["cosine_margin"]
    rows = math.ceil(len(panels) / 3)
    titles = [f"({chr(97 + k)}) {PANELS[measure][1]}" for k, measure in enumerate(panels)]
    figure = make_subplots(rows, 3, subplot_titles=titles, horizontal_spacing=0.08, vertical_spacing=0.42 / rows)
    for k, measure in enumerate(panels):
        at, scale = dict(row=k // 3 + 1, col=k % 3 + 1), PANELS[measure][0]
        for head in _heads_in(table):
            if measure == "margins":
                traces = _sorted_margins(history.margins, head)
            else:
                traces = curve_traces(table[table["head"] == head], "iteration", measure, head, legend=k == 0)
            figure.add_traces(traces, rows=at["row"], cols=at["col"])
        if measure in bounds:
            figure.add_hline(bounds[measure], line=dict(color=GREY, dash="dash", width=1), **at)
        if measure == "margins":
            figure.update_xaxes(title="training images, sorted", tickformat=".0%", title_standoff=5, **at)
            continue
        figure.update_xaxes(title="epoch" if at["row"] == rows else None, **at)
        if measure in SHARES and (trained := table.loc[table["iteration"] > 0, measure]).size:
            room = 0.05 * (trained.max() - trained.min()) + 0.001
            figure.update_yaxes(range=[trained.min() - room, trained.max() + room], **at)
        figure.update_yaxes(
            type=scale,
            exponentformat="power",
            dtick=_decades(table[measure]) if scale == "log" else None,
            tickformat=".3~%" if measure in SHARES else None,
            **at,
        )
    legend = dict(orientation="h", y=1 + 0.15 / rows, yanchor="bottom", x=1, xanchor="right")
    above = 120 if title else 90
    return _layout(figure, 70 + above + 220 * rows, title, legend=legend, headroom=True).update_layout(margin_t=above)


def _sorted_margins(margins, head, points=300):
    """Margins of one head against rank: the median over seeds at each share of the images."""
    runs = [np.sort(group["margin"].to_numpy(float)) for _, group in margins[margins["head"] == head].groupby("seed")]
    if not runs:
        return []
    shares = np.linspace(0, 1, points)
    ranked = [np.interp(shares, np.linspace(0, 1, len(run)), run) for run in runs]
    label, colour, dash = STYLES[head]
    return [
        go.Scatter(
            x=shares,
            y=np.median(ranked, axis=0),
            mode="lines",
            name=label,
            legendgroup=head,
            showlegend=False,
            line=dict(color=colour, dash=dash, width=2),
        )
    ]


def accuracies(paper, ours, title=None):
    """Medians (black marks) and ranges (bars) of accuracy by dataset and network, the paper's on the left and ours on
    the right.

    paper, ours: columns dataset, network, head, median, low, high, in percent; one epoch. Ours, as from
        `tables.our_rows`, has a column images too, and may be all NaN.
    """
    copies = [images for images in ours["images"].unique() if "re-encoded" in images]  # not what the paper had
    title_of_ours = f"ours ({', '.join(copies)})" if copies else "ours"
    figure = make_subplots(1, 2, subplot_titles=["paper", title_of_ours], shared_yaxes=True, horizontal_spacing=0.03)
    names = list(dict.fromkeys(f"{r.dataset}, {r.network}" for r in paper.itertuples()))
    for col, table in enumerate((paper, ours), start=1):
        for k, head in enumerate(SYMBOLS):
            label, colour, _ = STYLES[head]
            mine = table[table["head"] == head].dropna(subset="median")
            y = [names.index(f"{r.dataset}, {r.network}") + 0.24 * (k - 1) for r in mine.itertuples()]
            ranges = [(x, v) for r, v in zip(mine.itertuples(), y) for x in (r.low, r.high, None)]
            figure.add_scatter(
                x=[x for x, _ in ranges],
                y=[v for _, v in ranges],
                mode="lines",
                legendgroup=head,
                showlegend=False,
                hoverinfo="skip",
                line=dict(color=_rgba(colour, 0.6), width=7),
                row=1,
                col=col,
            )
            figure.add_scatter(
                x=[None],
                y=[None],
                mode="lines",
                name=label,
                legendgroup=head,
                showlegend=col == 1,
                line=dict(color=_rgba(colour, 0.6), width=7),
                row=1,
                col=col,
            )
            figure.add_scatter(
                x=mine["median"],
                y=y,
                mode="markers",
                name=label,
                legendgroup=head,
                showlegend=False,
                customdata=mine[["low", "high"]],
                hovertemplate="%{x:.2f} (%{customdata[0]}–%{customdata[1]})",
                marker=dict(symbol="line-ns", size=11, line=dict(width=2, color="black")),
                row=1,
                col=col,
            )
    if ours["median"].isna().all():
        figure.add_annotation(
            x=0.5,
            y=0.5,
            xref="x2 domain",
            yref="y2 domain",
            text="not run yet",
            showarrow=False,
            font=dict(color=GREY, size=15),
        )
    figure.update_xaxes(title="accuracy, %", matches="x")
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], zeroline=False
    )
    legend = dict(orientation="h", y=-0.13, yanchor="top", x=0.5, xanchor="center")
    return _layout(figure, 560, title, headroom=True, legend=legend).update_layout(margin=dict(l=140, t=80, b=90))


def head_costs(table, title=None):
    """Milliseconds of the backbone and of each head by network, on a logarithmic axis.

    table: columns network, part ("backbone" or a head or variant), milliseconds.
    """
    figure, symbols = go.Figure(), SYMBOLS | {"backbone": "triangle-up"}
    for part in [part for part in ("backbone", *STYLES) if part in set(table["part"])]:
        label, colour, _ = STYLES.get(part, ("backbone", "#000000", None))
        mine = table[table["part"] == part]
        figure.add_scatter(
            x=mine["milliseconds"],
            y=mine["network"],
            mode="markers",
            name=label,
            marker=dict(
                symbol=symbols.get(part, "square-open"), size=12, color=colour, line=dict(width=1, color="white")
            ),
        )
    figure.update_xaxes(type="log", title="forward and backward pass of a batch, milliseconds", dtick=1)
    figure.update_yaxes(autorange="reversed")
    legend = dict(orientation="h", y=1.03, yanchor="bottom", x=1, xanchor="right")
    return _layout(figure, 320, title, legend=legend, headroom=True).update_layout(margin=dict(l=160, t=90))


def pictures(images, height=300):
    """Small pictures side by side, every pixel to be seen: {title: uint8 array (H, W, 3)}."""
    figure = make_subplots(1, len(images), subplot_titles=list(images), horizontal_spacing=0.03)
    for k, pixels in enumerate(images.values(), start=1):
        figure.add_trace(go.Image(z=pixels, hoverinfo="skip"), row=1, col=k)
    figure.update_xaxes(showticklabels=False, showgrid=False)
    figure.update_yaxes(showticklabels=False, showgrid=False)
    return _layout(figure, height).update_layout(margin=dict(l=5, r=5, t=35, b=5))


def best_probabilities(num_classes, temperature):
    """What a collapsed network says at best, against the temperature τ: the probability of the right class, and the
    loss.

    num_classes: one line for each number of classes in this list; the last is drawn thick and once, with a mark at
        `temperature`.
    p = 1/(1 + (C−1)·exp(−τ·C/(C−1))), and −log p is the bound of the cross entropy (Yaras et al. 2022, Theorem 1).
    """
    figure = make_subplots(
        1, 2, subplot_titles=["probability of the right class", "smallest cross entropy"], horizontal_spacing=0.1
    )
    taus = np.linspace(0.5, 30, 119)
    *others, chosen = num_classes
    for k, C in enumerate(num_classes):
        if k < len(others) and C == chosen:
            continue
        bounds = np.array([etf.cross_entropy_bound(C, tau) for tau in taus])
        line = dict(color=GREY, width=1, dash=("dot", "dash", "dashdot")[k % 3])
        if C == chosen:
            line = dict(color="#000000", width=3)
        for col, values in enumerate((np.exp(-bounds), bounds), start=1):
            figure.add_scatter(
                x=taus,
                y=values,
                mode="lines",
                line=line,
                name=f"C = {C}",
                legendgroup=str(k),
                showlegend=col == 1,
                row=1,
                col=col,
            )
    bound = etf.cross_entropy_bound(chosen, temperature)
    for col, value in enumerate((math.exp(-bound), bound), start=1):
        figure.add_scatter(
            x=[temperature],
            y=[value],
            mode="markers",
            showlegend=False,
            row=1,
            col=col,
            marker=dict(size=12, color=ORANGE, line=dict(width=1, color="white")),
        )
    figure.update_xaxes(title="temperature τ")
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%", row=1, col=1)
    figure.update_yaxes(type="log", range=[-4, 1], dtick=1, exponentformat="power", row=1, col=2)
    title = (
        f"C = {chosen}, τ = {temperature:g}: cross entropy at least {bound:.4g}, "
        f"so the right class gets {math.exp(-bound):.1%} at most"
    )
    legend = dict(orientation="h", y=-0.2, yanchor="top", x=0.5, xanchor="center")
    return _layout(figure, 420, title, headroom=True, legend=legend).update_layout(margin=dict(t=90, b=90))
