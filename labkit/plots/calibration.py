"""Figures of long tails and calibration: reliability diagrams, groups of classes against τ, Table 8 as a staircase,
minority collapse, and Grad-CAM maps.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from labkit.plots import style, vectors
from labkit.plots.colours import BLACK, BLUE, GREY, ORANGE, PURPLE, VERMILION, Look, ordered, ramp, rgba
from labkit.plots.style import board, line, marks, panel

_MANY, _MEDIUM, _FEW = ramp(3)
GROUPS = {  # one look for each group of classes; their order is that of ramp
    "overall": Look("all classes", BLACK, "solid"),
    "many": Look("many-shot", _MANY, "dash"),
    "medium": Look("medium-shot", _MEDIUM, "dashdot"),
    "few": Look("few-shot", _FEW, "dot"),
}
BEFORE, AFTER = GREY, PURPLE  # as trained, and with the prior taken out
LABELS = {"ece": "calibration error, ECE", "mce": "largest calibration error", "test_nc1": "NC1 of test features"}
PERCENT = dict(tickformat=".0%")


def reliability_panel(table: pd.DataFrame, title: str, colour: str = GREY) -> dict:
    """Accuracy in each bin of confidence as bars, the diagonal where both are equal, and below it, as a line, the share
    of samples in the bin. table: of `labkit.calibration.reliability`.
    """
    there = table[table["samples"] > 0]
    width = np.maximum(there["high"] - there["low"], 0.004)
    middle = (there["low"] + there["high"]) / 2
    bars = dict(type="bar", x=middle, y=there["accuracy"], width=width, name="accuracy in the bin")
    bars |= dict(
        legendgroup="accuracy in the bin", marker=dict(color=rgba(colour, 0.45), line=dict(color=colour, width=1))
    )
    bars |= dict(customdata=there["samples"], hovertemplate="accuracy %{y:.1%}, %{customdata} samples")
    ideal = line([0, 1], [0, 1], "accuracy = confidence", GREY, "dash", 1.5, hoverinfo="skip")
    mean = marks(there["confidence"], there["accuracy"], "mean confidence of the bin", BLACK, 6, "diamond")
    some = line(
        (table["low"] + table["high"]) / 2,
        table["samples"] / max(table["samples"].sum(), 1),
        "share of samples",
        ORANGE,
        "solid",
        2,
    )
    return panel(
        title,
        [bars, ideal, mean, some],
        dict(title="confidence", range=[0, 1.01]) | PERCENT,
        dict(range=[0, 1.02]) | PERCENT,
    )


def reliability(
    tables: Mapping[str, pd.DataFrame], title: str | None = None, columns: int = 3, height: int = 400
) -> go.Figure:
    """Reliability diagrams side by side: {title: table of `labkit.calibration.reliability`}.

    >>> table = pd.DataFrame({"low": [0.0, 0.5], "high": [0.5, 1.0], "samples": [0, 2], "confidence": [np.nan, 0.9]})
    >>> len(reliability({"a": table.assign(accuracy=[np.nan, 0.5])}).data)
    4
    """
    panels = [reliability_panel(table, name) for name, table in tables.items()]
    return board(panels, min(columns, len(panels)), height, title, legend="below", gaps=(0.06, 90), bargap=0)


def groups_dots(
    table: pd.DataFrame, measures: Sequence[str], heads: Sequence[str], title: str | None = None, height: int = 380
) -> go.Figure:
    """Measures of heads before (open) and after (filled) the correction: a dot for each seed, a bar for the median.

    table: columns head (as in `heads`), seed, tau and the measures; the smaller τ is drawn open.
    """
    taus, panels = sorted(table["tau"].unique()), []
    for measure in measures:
        traces, across = [], {}
        for tau in taus:
            after = tau == taus[-1] and len(taus) > 1
            name = f"prior taken out, τ = {tau:g}" if tau else "as trained"
            colour, shift = (AFTER if after else BEFORE), (0.16 if after else -0.16)
            for k, head in enumerate(heads):
                values = table.loc[(table["head"] == head) & (table["tau"] == tau), measure].dropna()
                if not len(values):
                    continue
                traces.append(
                    marks(
                        values,
                        [k + shift] * len(values),
                        name,
                        rgba(colour, 0.5),
                        8,
                        "circle" if after else "circle-open",
                    )
                )
                bar = dict(line=dict(color=colour, width=3))
                traces.append(
                    marks([values.median()], [k + shift], name, colour, 16, "line-ns", dict(showlegend=False), **bar)
                )
        shown = GROUPS[measure].label if measure in GROUPS else LABELS.get(measure, style.LABELS.get(measure, measure))
        across = dict(title="share right" if measure in GROUPS else measure.upper()) | (
            PERCENT if measure in GROUPS else {}
        )
        places = dict(
            tickvals=list(range(len(heads))), ticktext=list(heads), range=[len(heads) - 0.5, -0.5], zeroline=False
        )
        panels.append(panel(shown, traces, across, places))
    return board(panels, len(panels), height, title, "y", "below", (0.03, 0)).update_layout(margin_l=120)


def tau_panels(
    curves: pd.DataFrame,
    recalls: Sequence[float],
    before: Sequence[float],
    tau: float,
    counts: Sequence[int],
    title: str | None = None,
    height: int = 420,
):
    """Accuracy of groups of classes against τ, with a mark at the present one; and every class's recall before
    (open) and at τ (filled), from the largest class to the smallest.

    curves: columns tau, overall, many, medium, few. recalls, before, counts: (C,).
    """
    at = curves.iloc[(curves["tau"] - tau).abs().argmin()]
    left = []
    for name in ("overall", "many", "medium", "few"):
        if curves[name].notna().any():
            left.append(line(curves["tau"], curves[name], *GROUPS[name]))
            left.append(
                marks([tau], [at[name]], GROUPS[name].label, GROUPS[name].colour, 11, more=dict(showlegend=False))
            )
    order = np.argsort(-np.asarray(counts), kind="stable")
    names = [f"{c} ({counts[c]})" for c in order]
    right = [
        marks(names, np.asarray(before)[order], "τ = 0", BEFORE, 9, "circle-open"),
        marks(names, np.asarray(recalls)[order], "present τ", AFTER, 10),
    ]
    panels = [
        panel("accuracy of groups", left, dict(title="τ"), dict(range=[0, 1.03]) | PERCENT),
        panel(
            "share of each class that is found",
            right,
            dict(title="class (training images)", type="category"),
            dict(range=[0, 1.03]) | PERCENT,
        ),
    ]
    return board(panels, 2, height, title, legend="below", gaps=(0.08, 0))


def staircase(table: pd.DataFrame, steps: Sequence[str], title: str | None = None, height: int = 430) -> go.Figure:
    """Table 8 step by step: what the paper prints (diamonds) and our median with its range over seeds (circles),
    each with an axis of its own, since data sets differ.

    table: of `studies.longtail.staircase`; steps: a name for each row.
    """
    names = [f"{row} {step}" for row, step in zip(table.index, steps)]
    up = dict(autorange="reversed", type="category")
    left = [marks(table["top1"], names, "paper, ImageNet-LT", VERMILION, 10, "diamond")]
    there = table["ours"].notna().to_numpy()
    ours = table[there]
    bars = dict(
        type="data",
        symmetric=False,
        array=ours["high"] - ours["ours"],
        arrayminus=ours["ours"] - ours["low"],
        color=BLUE,
    )
    mine = [n for n, is_there in zip(names, there) if is_there]
    right = [marks(ours["ours"], mine, "ours", BLUE, 10, more=dict(error_x=bars))] if len(ours) else []
    across = dict(title="accuracy, %")
    panels = [
        panel("paper, ImageNet-LT, ResNet-50", left, across, up),
        panel("ours, CIFAR-10-LT, ResNet-32", right, across, up, say=None if len(ours) else "no stored run"),
    ]
    return board(panels, 2, height, title, "y", None, (0.03, 0)).update_layout(margin_l=200)


def fold_panels(end: Any, tau: float, scores: Mapping, title: str, height: int = 430) -> go.Figure:
    """An `End` of `studies.ufms.minority`: cosines between class vectors, margins of means, accuracy of noisy samples.

    scores: {"as trained": dict, "prior taken out": dict} of large, small and overall accuracy.
    """
    C = len(end.sizes)
    numbers = dict(dtick=1) if C <= 12 else {}
    cosines = panel(
        "cosines of class vectors",
        [vectors.heatmap(end.cosines().numpy(), showscale=False)],
        *vectors.square(**numbers),
    )
    classes, margins = np.arange(C), []
    for name, at, colour, symbol in (
        ("as trained", 0.0, BEFORE, "circle-open"),
        (f"prior taken out, τ = {tau:g}", tau, AFTER, "circle"),
    ):
        margins.append(marks(classes, end.margins(at), name, colour, 9, symbol))
    split = dict(title="class, small ones on the right")
    middle = panel(
        "margin of each class mean", margins, split, dict(title="own logit − largest other", zeroline=True), bound=0
    )
    bars = []
    for (name, score), colour in zip(scores.items(), (BEFORE, AFTER)):
        shown = ["large", "small", "overall"]
        bars.append(
            dict(
                type="bar",
                x=["large", "small", "all"],
                y=[score[key] for key in shown],
                name=name,
                marker=dict(color=rgba(colour, 0.7)),
                showlegend=False,
            )
        )
    right = panel("noisy samples found", bars, {}, dict(range=[0, 1.03]) | PERCENT)
    return board([cosines, middle, right], 3, height, title, legend="below", gaps=(0.09, 0), barmode="group")


def fold_curves(
    table: pd.DataFrame,
    measure: str,
    y_title: str,
    looks: Mapping[str, Look],
    ideal: float | None = None,
    height: int = 380,
    title: str | None = None,
):
    """A measure of `studies.ufms.minority.study` against the imbalance, a line for each head (medians, ranges)."""
    traces = style.bands(table, "imbalance", measure, styles=looks)
    part = panel(
        "",
        traces,
        style.log_axis(table["imbalance"]) | dict(title="large class / small class"),
        dict(title=y_title),
        bound=ideal,
    )
    return board([part], 1, height, title)


def by_depth(table: pd.DataFrame, height: int = 520) -> go.Figure:
    """κ and λ by depth (Figure 1 of the supplement): of activations on the left and of gates on the right; lines are
    medians over seeds, bands ranges. Of powers of ten where one has run away.

    table: columns head (what a line is called), seed, kind, layer, kappa, lam.
    """
    panels, styles = [], ordered(dict.fromkeys(table["head"]))
    for column, letter in (("kappa", "κ"), ("lam", "λ")):
        for kind, name in (("activation", "AGLU"), ("gate", "APA gates")):
            part = table[table["kind"] == kind]
            traces = style.bands(part, "layer", column, styles=styles) if len(part) else []
            values = part[column]
            up = style.log_axis(values) if len(part) and values.max() > 20 and values.min() > 0 else {}
            panels.append(panel(f"{letter} of {name}", traces, dict(title="layer"), up, say=None if traces else "none"))
    return board(panels, 2, height)


def cams(pictures: Mapping[str, tuple], height: int = 250, columns: int = 6) -> go.Figure:
    """Grad-CAM maps: {title: (map (h, w), picture uint8 (H, W, 3) or None)}, each map as strong as its largest number.

    Maps are drawn over the picture, at its size, or alone.
    """
    bare, panels = dict(showticklabels=False, showgrid=False, zeroline=False, constrain="domain"), []
    for title, (map_, picture) in pictures.items():
        anchor = f"x{len(panels) + 1 if panels else ''}"
        map_ = np.asarray(map_, float) / max(float(np.max(map_)), 1e-12)
        side = map_.shape[0] if picture is None else picture.shape[0]
        step = side / map_.shape[0]
        places = (np.arange(map_.shape[0]) + 0.5) * step - 0.5
        traces = [] if picture is None else [dict(type="image", z=picture, hoverinfo="skip")]
        heat = dict(
            type="heatmap",
            z=style.short(map_),
            x=places,
            y=places,
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            showscale=False,
        )
        traces.append(heat | dict(opacity=1 if picture is None else 0.55, zsmooth="best", hoverinfo="skip"))
        edges = [-0.5, side - 0.5]
        panels.append(
            panel(title, traces, bare | dict(range=edges), bare | dict(range=edges[::-1], scaleanchor=anchor))
        )
    rows = -(-len(panels) // columns)
    return board(panels, min(columns, len(panels)), height * rows, gaps=(0.02, 60)).update_layout(
        margin=dict(l=5, r=5, b=5)
    )
