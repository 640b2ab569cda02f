"""Figures of UFMs of several sizes side by side: convergence against the number of classes, imbalance, τ and d, memory.

They read the tables of `labkit.studies.sweep`: one row for each size, head (a variant), seed and iteration.
"""

import itertools

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from labkit import etf
from labkit.plots.style import (
    GREY,
    LABELS,
    METHODS,
    ORANGE,
    PURPLE,
    SKY,
    STYLES,
    _decades,
    _heads_in,
    _layout,
    _rgba,
    _shift,
    curve_traces,
)
from labkit.ufm import classes_of

LOG = {"loss", "excess", "nc1", "nc2", "nc3"}  # measures that span decades


def with_excess(frame, temperature=5.0):
    """The table with a column excess, the cross entropy above its bound; NaN where rounding leaves nothing above 0.

    For heads without normalised features, which have no bound, it is the cross entropy itself.
    """
    bounds = {size: etf.cross_entropy_bound(classes_of(size), temperature) for size in frame["size"].unique()}
    bound = frame["size"].map(bounds).where(frame["head"] != "standard_no_norm", 0.0)
    excess = frame["loss"] - bound
    return frame.assign(excess=excess.where(excess > 1e-9))


def _below(height):
    """A legend under panels that are so many pixels high together, clear of the title of their axis."""
    return dict(orientation="h", y=-50 / height, yanchor="top", x=0.5, xanchor="center")


def by_size(frame, measures=("accuracy",), heads=None, last=None, title=None):
    """Curves of training: a column of panels for each size, a row for each measure, all heads; Figure 3 with one row.

    frame: with a column size. heads: names, all when None. last: the last iteration drawn. Lines are medians over
    seeds, bands their range; iterations are on a logarithmic axis, and so are measures that span decades.
    """
    frame = frame[frame["head"].isin(heads or STYLES)]
    frame = with_excess(frame if last is None else frame[frame["iteration"] <= last])
    frame = frame.assign(shown=frame["iteration"] + 1)
    sizes = sorted(frame["size"].unique(), key=classes_of)
    figure = make_subplots(
        len(measures),
        len(sizes),
        column_titles=sizes,
        shared_yaxes=True,
        shared_xaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.06,
    )
    for row, measure in enumerate(measures, start=1):
        for col, size in enumerate(sizes, start=1):
            mine = frame[frame["size"] == size]
            for head in _heads_in(frame):
                if head in set(mine["head"]):
                    first = row == 1 and head not in {t.legendgroup for t in figure.data}
                    figure.add_traces(
                        curve_traces(mine[mine["head"] == head], "shown", measure, head, legend=first), row, col
                    )
            figure.update_xaxes(
                type="log",
                dtick=1,
                exponentformat="power",
                row=row,
                col=col,
                title="iteration + 1" if row == len(measures) else None,
            )
            if measure in LOG:
                figure.update_yaxes(
                    type="log", exponentformat="power", dtick=_decades(frame[measure]), row=row, col=col
                )
        figure.update_yaxes(title=LABELS.get(measure, measure), row=row, col=1)
    height = 230 * len(measures)
    return _layout(figure, height + 170, title, headroom=True, legend=_below(height)).update_layout(
        margin=dict(t=80, b=90)
    )


def against(table, x, y, heads=None, x_title=None, y_title=None, log_x=True, log_y=True, title=None):
    """A number of each finished run against a setting, e.g. steps against C: the median over seeds, bars for the range.

    table: columns head, x, y, one row for each run.
    """
    figure = go.Figure()
    for head in _heads_in(table):
        if heads and head not in heads:
            continue
        label, colour, dash = STYLES[head]
        by = table[table["head"] == head].groupby(x)[y]
        median = by.median()
        spread = dict(type="data", symmetric=False, array=by.max() - median, arrayminus=median - by.min())
        figure.add_scatter(
            x=median.index,
            y=median,
            error_y=spread | dict(thickness=1, width=4),
            mode="lines+markers",
            name=label,
            line=dict(color=colour, dash=dash, width=2),
        )
    figure.update_xaxes(title=x_title or x, type="log" if log_x else "linear", tickvals=sorted(table[x].unique()))
    figure.update_yaxes(
        title=y_title or LABELS.get(y, y),
        type="log" if log_y else "linear",
        **(dict(exponentformat="power", dtick=_decades(table[y])) if log_y else {}),
    )
    return _layout(
        figure, 400, title, headroom=True, legend=dict(orientation="h", y=1.02, yanchor="bottom", x=1, xanchor="right")
    )


def class_margins(margins, sizes_of_classes, by, heads=None, title=None):
    """Mean cosine margin of each class at the end, from the largest class to the smallest: a panel for each value of
    `by`.

    margins: columns head, seed, sample, margin and `by`. sizes_of_classes: {value of by: class sizes (C,)}; samples are
    sorted by class. Lines are medians over seeds, bands their range; dashed is the margin of a collapsed simplex ETF.
    """
    values = list(sizes_of_classes)
    titles = [f"{by} {v:g}" for v in values]
    figure = make_subplots(1, len(values), subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.02)
    for col, value in enumerate(values, start=1):
        counts = np.asarray(sizes_of_classes[value])
        mine = margins[margins[by] == value]
        mine = mine.assign(shown=np.repeat(np.arange(len(counts)), counts)[mine["sample"].astype(int)])
        per_class = mine.groupby(["head", "seed", "shown"], as_index=False)["margin"].mean()
        for head in [h for h in _heads_in(per_class) if not heads or h in heads]:
            figure.add_traces(
                curve_traces(per_class[per_class["head"] == head], "shown", "margin", head, legend=col == 1), 1, col
            )
        figure.add_hline(
            etf.cosine_margin_bound(len(counts)), line=dict(color=GREY, dash="dash", width=1), row=1, col=col
        )
        figure.update_xaxes(title="class, largest first", row=1, col=col)
    figure.update_yaxes(title="mean cosine margin", row=1, col=1)
    return _layout(figure, 420, title, headroom=True, legend=_below(250)).update_layout(margin=dict(t=80, b=90))


def memory(paper, ours, title=None):
    """Memory of training by size and head, the paper's (GPU) and ours (the whole process on a CPU), in GB, side by
    side.

    paper, ours: columns size, head, gigabytes (NaN where there is none), heads those of Table 3.
    """
    figure = make_subplots(
        1,
        2,
        subplot_titles=["paper, on a GPU (Table 3)", "labkit, whole process on a CPU"],
        shared_yaxes=True,
        horizontal_spacing=0.04,
    )
    sizes = sorted(set(paper["size"]), key=classes_of)
    for col, table in enumerate((paper, ours), start=1):
        for head in ("standard", "fixed", "implicit_without_ddn", "implicit_with_ddn"):
            label, colour, _ = STYLES[head]
            found = table[table["head"] == head].set_index("size")["gigabytes"].reindex(sizes)
            figure.add_bar(
                x=sizes,
                y=found,
                name=label,
                legendgroup=head,
                showlegend=col == 1,
                row=1,
                col=col,
                marker=dict(color=_rgba(colour, 0.8), line=dict(color=colour, width=1)),
            )
        for size in table.loc[table["gigabytes"].isna(), "size"]:
            figure.add_annotation(
                x=size,
                y=0,
                yref="y domain" if col == 1 else "y2 domain",
                xref="x" if col == 1 else "x2",
                xanchor="left",
                xshift=12,
                yanchor="bottom",
                text="N/A",
                showarrow=False,
                font_size=10,
            )
    figure.update_yaxes(type="log", dtick=1, exponentformat="none", ticksuffix=" GB", row=1, col=1)
    figure.update_yaxes(type="log", dtick=1, row=1, col=2)
    legend = dict(orientation="h", y=1.12, yanchor="bottom", x=0.5, xanchor="center")
    return _layout(figure, 400, title, headroom=True, legend=legend).update_layout(margin_t=90)


def curves(history, measure, bound=None, log_y=True, height=380, title=None):
    """One measure of a History against iterations, all heads; `bound` draws a dashed line at a theoretical limit."""
    figure = go.Figure()
    table = _shift(history.frame)
    for head in _heads_in(table):
        figure.add_traces(curve_traces(table[table["head"] == head], "shown", measure, head))
    if bound is not None:
        figure.add_hline(
            bound,
            line=dict(color=GREY, dash="dash", width=1),
            annotation_text=f"bound {bound:.4g}",
            annotation_position="top left",
        )
    figure.update_xaxes(type="log", title="iteration + 1", dtick=1, exponentformat="power")
    figure.update_yaxes(
        type="log" if log_y else "linear",
        title=LABELS.get(measure, measure),
        exponentformat="power",
        dtick=_decades(table[measure]) if log_y else None,
    )
    return _layout(figure, height, title, legend=dict(orientation="h", y=1.02, yanchor="bottom", x=1, xanchor="right"))


def ufm_panels(history, num_classes, temperature=5.0):
    """The six panels of Figure 2 (and 12–14) of Markou et al. 2024, from a History with one or more heads.

    Cross entropy with its bound; mean cosine margin; the margin of every sample at the end, sorted; NC1; NC3; and the
    difference between the equinorm measures of means and weights.
    """
    table = _shift(history.frame)
    table["equinorm_gap"] = (table["equinorm_means"] - table["equinorm_weights"]).abs()
    margin = etf.cosine_margin_bound(num_classes)
    panels = [
        ("loss", "log", etf.cross_entropy_bound(num_classes, temperature)),
        ("cosine_margin", "linear", margin),
        ("margins", None, margin),
        ("nc1", "log", None),
        ("nc3", "log", None),
        ("equinorm_gap", "log", None),
    ]
    titles = [
        "(a) cross entropy",
        "(b) mean cosine margin",
        "(c) margin of each sample at the end",
        "(d) NC1",
        "(e) NC3",
        "(f) equinorm: |means − weights|",
    ]
    figure = make_subplots(2, 3, subplot_titles=titles, horizontal_spacing=0.08, vertical_spacing=0.2)
    for k, (measure, scale, bound) in enumerate(panels):
        row, col = divmod(k, 3)
        at = dict(row=row + 1, col=col + 1)
        for head in _heads_in(table):
            if measure == "margins":
                figure.add_traces(_margin_traces(history.margins, head), rows=at["row"], cols=at["col"])
            else:
                figure.add_traces(
                    curve_traces(table[table["head"] == head], "shown", measure, head, legend=k == 0),
                    rows=at["row"],
                    cols=at["col"],
                )
        if bound is not None:
            figure.add_hline(bound, line=dict(color=GREY, dash="dash", width=1), **at)
        if measure == "margins":
            figure.update_xaxes(title="training example, sorted", **at)
        else:
            figure.update_xaxes(type="log", title="iteration + 1", dtick=1, exponentformat="power", **at)
            figure.update_yaxes(
                type=scale, exponentformat="power", dtick=_decades(table[measure]) if scale == "log" else None, **at
            )
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
    return [
        go.Scatter(
            x=shown,
            y=np.median(ranked, axis=0)[shown],
            mode="lines",
            name=label,
            legendgroup=head,
            showlegend=False,
            line=dict(color=colour, dash=dash, width=2),
        )
    ]


def bound_curve(class_counts=(10, 100, 1000), temperatures=None):
    """The cross-entropy bound against temperature, one line for each number of classes (Yaras et al. 2022, Theorem
    1).
    """
    temperatures = np.geomspace(1, 30, 60) if temperatures is None else temperatures
    figure = go.Figure()
    for C, colour in zip(class_counts, itertools.cycle([ORANGE, SKY, PURPLE, GREY])):  # not a head's colour
        figure.add_scatter(
            x=temperatures,
            y=[etf.cross_entropy_bound(C, float(t)) for t in temperatures],
            mode="lines",
            name=f"C = {C}",
            line=dict(color=colour, width=2),
        )
    figure.update_xaxes(type="log", title="temperature τ", tickvals=[1, 2, 5, 10, 20, 30])
    figure.update_yaxes(type="log", title="smallest cross entropy", exponentformat="power")
    return _layout(figure, 380)


def costs(table, measure="milliseconds", height=430):
    """Time ("milliseconds") or memory ("peak_mib") of the nearest ETF against the number of classes, as Figures 5 and
    16 have it.

    table: columns method, num_classes, dim, quantity ("forward" or "forward + backward", a panel each) and the measure.
    Of several dimensions at one C the largest is drawn; it shows under the pointer.
    """
    table = table.dropna(subset=measure).sort_values(["num_classes", "dim"])
    table = table.drop_duplicates(["method", "quantity", "num_classes"], keep="last")
    quantities = [q for q in ("forward", "forward + backward") if q in set(table["quantity"])]
    figure = make_subplots(1, len(quantities), subplot_titles=quantities, shared_yaxes=True, horizontal_spacing=0.04)
    for method, (colour, symbol) in METHODS.items():
        mine = {k: table[(table["method"] == method) & (table["quantity"] == q)] for k, q in enumerate(quantities, 1)}
        mine = {k: rows for k, rows in mine.items() if len(rows)}
        for k, rows in mine.items():
            figure.add_scatter(
                x=rows["num_classes"],
                y=rows[measure],
                mode="lines+markers",
                name=method,
                legendgroup=method,
                showlegend=k == min(mine),
                line=dict(color=colour, width=2),
                marker=dict(symbol=symbol, size=8),
                customdata=rows["dim"],
                hovertemplate="C = %{x}, d = %{customdata}: %{y:.3g}",
                row=1,
                col=k,
            )
    figure.update_xaxes(type="log", title="classes C", tickvals=sorted(table["num_classes"].unique().tolist()))
    figure.update_yaxes(type="log", dtick=_decades(table[measure]), exponentformat="power")
    figure.update_yaxes(title={"peak_mib": "peak memory, MiB"}.get(measure, measure), row=1, col=1)
    legend = dict(orientation="h", y=-0.22, yanchor="top", x=0.5, xanchor="center")
    return _layout(figure, height, legend=legend).update_layout(margin_b=110)
