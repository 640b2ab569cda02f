"""Figures of UFMs in training and of several sizes side by side, of imbalance, τ and d, of memory and time.

Tables are those of a `History`, or of `labkit.studies.ufms.sweep` with a column size: one row for each head, seed and
iteration.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from labkit import etf
from labkit.heads import VARIANTS
from labkit.history import History
from labkit.plots import style
from labkit.plots.colours import BLACK, BLUE, GREEN, GREY, VERMILION, Look, looks
from labkit.plots.style import LABELS, LOG, bands, board, line, log_axis, marks, panel, scale, short
from labkit.plots.vectors import arrows, cloud, scene
from labkit.ufm import classes_of

FIGURE_2 = ("loss", "cosine_margin", "margins", "nc1", "nc3", "equinorm_gap")


def with_excess(frame: pd.DataFrame, temperature: float = 5.0) -> pd.DataFrame:
    """The table with a column excess, the cross entropy above its bound; NaN where rounding leaves nothing above 0.

    For heads without normalised features it is the cross entropy itself. temperature: of tables without such a column.
    """
    tau = frame.get("temperature", pd.Series(temperature, frame.index))
    bounds = {(size, t): etf.cross_entropy_bound(classes_of(size), t) for size, t in {*zip(frame["size"], tau)}}
    unbounded = [name for name, variant in VARIANTS.items() if variant.options.get("normalized") is False]
    bound = pd.Series([bounds[pair] for pair in zip(frame["size"], tau)], frame.index)
    excess = frame["loss"] - bound.where(~frame["head"].isin(unbounded), 0.0)
    return frame.assign(excess=excess.where(excess > 1e-9))


def chosen(table: pd.DataFrame, heads: Sequence[str] | None) -> pd.DataFrame:
    """The rows of these heads, of all where None. Raises ValueError where there are none."""
    found = table if heads is None else table[table["head"].isin(heads)]
    if found.empty:
        wanted = "any head" if heads is None else ", ".join(heads)
        raise ValueError(f"no rows to draw of {wanted}; the table has {len(table)} rows")
    return found


def ranked(margins: pd.DataFrame, points: int = 300) -> list[dict]:
    """Margins of each head against rank: a trace of the median over seeds at each share of the samples."""
    margins, traces = _of_one_setting(margins), []
    for head, look in looks(margins["head"]).items():
        runs = [np.sort(run["margin"].to_numpy(float)) for _, run in margins[margins["head"] == head].groupby("seed")]
        shares = np.linspace(0, 1, min(points, max(map(len, runs))))
        median = np.median([np.interp(shares, np.linspace(0, 1, len(run)), run) for run in runs], axis=0)
        traces.append(line(shares, median, *look))
    return traces


def _of_one_setting(margins):
    """Each margin once. ValueError where a sample of a head and seed has several: settings would be drawn as one."""
    single = margins.drop_duplicates(["head", "seed", "sample", "margin"])
    if (twice := single[single.duplicated(["head", "seed", "sample"])]).empty:
        return single
    head, seed = twice[["head", "seed"]].iloc[0]
    raise ValueError(f"samples of {head}, seed {seed}, have several margins: choose one setting, e.g. by History.where")


def run_panels(
    history: History,
    measures: Sequence[str],
    bounds: Mapping = {},
    log_x: bool = True,
    columns: int = 3,
    title: str | None = None,
):
    """Measures of a History, a panel each, for all its heads: medians over seeds, and their ranges as bands.

    measures: columns of the table, "margins" for those of every sample at the end, or "equinorm_gap". bounds: {measure:
    where a dashed line is drawn}. log_x: against iterations on a logarithmic axis, else against epochs. Accuracies and
    NC4 before training may lie outside of their panels, which would otherwise show little else.
    """
    table = history.frame.assign(shown=history.frame["iteration"] + log_x)  # 0 has no place on a logarithmic axis
    if "equinorm_gap" in measures:
        table["equinorm_gap"] = (table["equinorm_means"] - table["equinorm_weights"]).abs()
    across = log_axis(table["shown"]) | dict(title="iteration + 1") if log_x else dict(title="epoch")
    panels = []
    for letter, measure in zip("abcdefghijkl", measures):
        name, bound = f"({letter}) {LABELS.get(measure, measure)}", bounds.get(measure)
        if measure == "margins":
            ranks = dict(title="share of samples", tickformat=".0%")
            panels.append(panel(name, ranked(history.margins), ranks, {}, bound))
            continue
        up, trained = scale(measure, table[measure]), table.loc[table["iteration"] > 0, measure]
        if measure in style.SHARES and len(trained) and not log_x:
            room = 0.05 * (trained.max() - trained.min()) + 0.001
            up["range"] = [trained.min() - room, trained.max() + room]
        panels.append(panel(name, bands(table, "shown", measure), across | dict(title_standoff=4), up, bound))
    columns = min(columns, len(panels))
    return board(panels, columns, 120 + 230 * -(-len(panels) // columns), title)


def ufm_panels(history: History, num_classes: int, temperature: float = 5.0, title: str | None = None) -> go.Figure:
    """The six panels of Figure 2 (and 12–14) of Markou et al. 2024, from a History with one or more heads.

    Cross entropy with its bound; mean cosine margin; the margin of every sample at the end, sorted; NC1; NC3; and the
    difference between the equinorm measures of means and weights.
    """
    return run_panels(history, FIGURE_2, bounds_of(num_classes, temperature), title=title)


def bounds_of(num_classes: int, temperature: float) -> dict[str, float]:
    """What the cross entropy and the margins of a collapsed simplex ETF are.

    >>> round(bounds_of(10, 5.0)["loss"], 4)
    0.0342
    """
    margin = etf.cosine_margin_bound(num_classes)
    return dict(loss=etf.cross_entropy_bound(num_classes, temperature), cosine_margin=margin, margins=margin)


def curves(
    history: History,
    measure: str,
    bound: float | None = None,
    log_y: bool = True,
    height: int = 380,
    title: str | None = None,
):
    """One measure of a History against iterations, all heads; `bound` draws a dashed line at a theoretical limit.

    Raises ValueError for a table of several settings, as of a sweep, that would be drawn as one line.
    """
    table = history.frame.assign(shown=history.frame["iteration"] + 1)
    up = log_axis([*table[measure], *([] if bound is None else [bound])]) if log_y else {}
    across = log_axis(table["shown"]) | dict(title="iteration + 1")
    name = "" if bound is None else f"dashed: the bound, {bound:.4g}"
    traces = bands(table, "shown", measure)
    part = panel(name, traces, across, up | dict(title=LABELS.get(measure, measure)), bound)
    return board([part], 1, height, title)


def by_size(
    frame: pd.DataFrame,
    measures: Sequence[str] = ("accuracy",),
    heads: Sequence[str] | None = None,
    last: int | None = None,
    title: str | None = None,
):
    """Curves of training: a column of panels for each size, a row for each measure, all heads; Figure 3 with one row.

    frame: with a column size. heads: names, all when None. last: the last iteration drawn. Lines are medians over
    seeds, bands their range; iterations are on a logarithmic axis, and so are measures that span decades.
    """
    frame = with_excess(chosen(frame if last is None else frame[frame["iteration"] <= last], heads))
    frame, panels = frame.assign(shown=frame["iteration"] + 1), []
    sizes = sorted(frame["size"].unique(), key=classes_of)
    for measure in measures:
        up = (log_axis(frame[measure]) if measure in LOG else {}) | dict(title=LABELS.get(measure, measure))
        for size in sizes:
            across = log_axis(frame["shown"]) | dict(title="iteration + 1")
            name = size if measure == measures[0] else ""
            panels.append(panel(name, bands(frame[frame["size"] == size], "shown", measure), across, up))
    return board(panels, len(sizes), 150 + 230 * len(measures), title, "xy", "below", (0.03, 18))


def against(
    table: pd.DataFrame,
    x: str,
    y: str,
    heads: Sequence[str] | None = None,
    x_title: str | None = None,
    y_title: str | None = None,
    log_x: bool = True,
    log_y: bool = True,
    title: str | None = None,
):
    """A number of each finished run against a setting, e.g. steps against C: the median over seeds, bars for the range.

    table: columns head, x, y, one row for each run. Raises ValueError where runs differ in more than head, seed and x.
    """
    table, traces = chosen(table, heads), []
    for head, look in looks(table["head"]).items():
        mine = table[table["head"] == head]
        if never := int(np.isinf(mine[y]).sum()):  # points at infinity cannot be drawn
            look = look._replace(label=f"{look.label} ({never} of {len(mine)} runs never)")
        found = style.summary(mine, x, y).replace(np.inf, np.nan)
        low, high = found["median"] - found["min"], found["max"] - found["median"]
        ranges = dict(type="data", symmetric=False, array=short(high), arrayminus=short(low), thickness=1, width=4)
        traces.append(line(found.index, found["median"], *look, mode="lines+markers", error_y=ranges))
    across = dict(title=x_title or x, type="log" if log_x else "linear", tickvals=sorted(table[x].unique()))
    up = (log_axis(table[y]) if log_y else {}) | dict(title=y_title or LABELS.get(y, y))
    return board([panel("", traces, across, up)], 1, 400, title)


def class_margins(
    margins: pd.DataFrame,
    sizes_of_classes: Mapping,
    by: str,
    heads: Sequence[str] | None = None,
    title: str | None = None,
) -> go.Figure:
    """Mean cosine margin of each class at the end, from the largest class to the smallest: a panel for each value of
    `by`.

    margins: columns head, seed, sample, margin and `by`. sizes_of_classes: {value of by: class sizes (C,)}; samples are
    sorted by class. Lines are medians over seeds, bands their range; dashed is the margin of a collapsed simplex ETF.
    """
    panels, margins = [], chosen(margins, heads)
    for value, counts in sizes_of_classes.items():
        counts, mine = np.asarray(counts), _of_one_setting(margins[margins[by] == value])
        mine = mine.assign(shown=np.repeat(np.arange(len(counts)), counts)[mine["sample"].astype(int)])
        per_class = mine.groupby(["head", "seed", "shown"], as_index=False)["margin"].mean()
        axes = dict(title="class, largest first"), dict(title="mean cosine margin")
        traces, bound = bands(per_class, "shown", "margin"), etf.cosine_margin_bound(len(counts))
        panels.append(panel(f"{by} {value:g}", traces, *axes, bound))
    return board(panels, len(panels), 400, title, "y", "below", (0.02, 0))


def biases(table: pd.DataFrame, title: str | None = None, height: int = 480) -> go.Figure:
    """Losses of heads with and without a bias against the imbalance of classes, with the smallest that each allows.

    table: of `studies.ufms.imbalance.summary`. Marks are medians, bars the range over seeds. Lines are deterministic:
    the bound of each way, and, dotted, where the fixed head with a bias comes to rest.
    """
    colours = {"standard": VERMILION, "fixed": BLUE, "implicit": GREEN}
    traces, shift = ([], np.linspace(0.94, 1.06, table["way"].nunique()))  # not on top of each other
    for way, rows in table.groupby("way", sort=False):
        colour, bare = colours[way.split(",")[0]], "no bias" in way
        symbol = "circle-open" if bare else "circle" if way == "standard" else "diamond"
        low, high = rows["loss"] - rows["lowest"], rows["highest"] - rows["loss"]
        bars = dict(type="data", symmetric=False, array=short(high), arrayminus=short(low), thickness=1, width=4)
        place = rows["imbalance"] * shift[list(table["way"].unique()).index(way)]
        traces.append(marks(place, rows["loss"], way, colour, 11, symbol, dict(error_y=bars), line=dict(width=2)))
    lines = {
        "bound: standard": ("standard", "bound", VERMILION, "dash"),
        "bound: an ETF without bias": ("fixed, no bias", "bound", GREY, "dash"),
        "bound: an ETF with b = −W·mean(h)": ("implicit, b = −Wμ", "bound", BLACK, "dash"),
        "at rest, the bias held constant": ("fixed, b = −W·mean(h)", "rest", BLUE, "dot"),
    }
    for name, (way, column, colour, dash) in lines.items():
        rows = table[table["way"] == way]
        traces.insert(0, line(rows["imbalance"], rows[column], name, colour, dash, 1.5))
    across = dict(type="log", title="largest class over smallest", tickvals=sorted(table["imbalance"].unique()))
    up = dict(title="cross entropy at the end")
    return board([panel("", traces, across, up)], 1, height, title, legend="below")


def memory(paper: pd.DataFrame, ours: pd.DataFrame, title: str | None = None) -> go.Figure:
    """Memory of training by size and head, in GB: the paper's, of a GPU, and ours, of the whole process on a CPU.

    paper, ours: columns size, head, gigabytes (NaN where there is none). Each has an axis of its own: the two are not
    the same quantity.
    """
    sizes, panels = sorted(set(paper["size"]), key=classes_of), []
    for name, table in (("paper: memory of the GPU (Table 3)", paper), ("labkit: the whole process, on a CPU", ours)):
        traces = []
        for k, (head, look) in enumerate(looks(table["head"]).items()):
            found = table[table["head"] == head].set_index("size")["gigabytes"].reindex(sizes)
            there = np.arange(len(sizes)) + 0.14 * (k - (table["head"].nunique() - 1) / 2)
            lowest, missing = table["gigabytes"].min(), found.isna().to_numpy()
            symbol = ("circle", "diamond", "square", "triangle-up")[k % 4]
            traces.append(marks(there, found, look.label, look.colour, 10, symbol))
            nothing = dict(mode="text", text="N/A", textfont=dict(color=look.colour, size=10), showlegend=False)
            if missing.any():
                traces.append(line(there[missing], [lowest] * missing.sum(), f"{look.label}: N/A", **nothing))
        across = dict(tickvals=list(range(len(sizes))), ticktext=sizes, range=[-0.5, len(sizes) - 0.5], zeroline=False)
        panels.append(panel(name, traces, across, log_axis(table["gigabytes"], always=True) | dict(title="GB")))
    return board(panels, 2, 420, title, legend="below", gaps=(0.09, 0))


def bound_curve(
    class_counts: Sequence[int] = (10, 100, 1000), temperatures: Sequence[float] | None = None
) -> go.Figure:
    """The cross-entropy bound against temperature, one line for each number of classes (Yaras et al. 2022, Theorem
    1).
    """
    taus = np.geomspace(1, 30, 60) if temperatures is None else temperatures
    bounds = {f"C = {C}": [etf.cross_entropy_bound(C, float(t)) for t in taus] for C in class_counts}
    figure = style.lines(taus, bounds, "temperature τ", "smallest cross entropy", height=380)
    return figure.update_xaxes(tickvals=[1, 2, 5, 10, 20, 30], dtick=None)


def training_panels(
    look: Look,
    table: pd.DataFrame,
    margins: np.ndarray | None,
    points: np.ndarray,
    targets: np.ndarray,
    vectors: np.ndarray,
    limit: float,
    bounds: Mapping,
    title: str | None,
    height: int = 440,
) -> go.Figure:
    """A UFM in training: features and class vectors in space; cross entropy, margins of all samples, NC1 and NC3.

    look: of the head. table: columns iteration, loss, nc1 and nc3. margins: (N,). points: (3, n) features with targets
    (n,). vectors: (3, C). bounds: {measure: where its dashed line is}. All figures have the same axes, whatever the
    step, but where a run leaves them.
    """
    steps, panels = table["iteration"] + 1, []
    left, right, top, bottom = [0.46, 0.7], [0.77, 1], [0.6, 1], [0, 0.4]
    for measure, at, usual in (
        ("loss", (left, top), (bounds["loss"], 10)),
        ("nc1", (left, bottom), (1e-8, 10)),
        ("nc3", (right, bottom), (1e-8, 10)),
    ):
        text = "iteration + 1" if at[1] is bottom else ""
        across = log_axis() | dict(range=[-0.05, 3.55], title=dict(text=text, standoff=3))
        up = log_axis([*np.clip(table[measure], 1e-18, None), *usual], always=True)
        dots = dict(mode="lines+markers", marker=dict(size=3, color=look.colour))
        drawn = [line(steps, table[measure], LABELS[measure], *look[1:], **dots)]
        panels.append(panel(LABELS[measure], drawn, across, up, bounds.get(measure), at))
    shown = np.sort(margins)[np.unique(np.linspace(0, len(margins) - 1, 100).astype(int))]
    across = dict(title=dict(text="samples, sorted (%)", standoff=3))
    up = dict(range=[min(-0.35, 1.1 * shown[0]), 1.12 * bounds["margins"]])
    drawn = [line(np.linspace(0, 100, len(shown)), shown, "margin", *look[1:])]
    panels.insert(1, panel("margin of each sample", drawn, across, up, bounds["margins"], (right, top)))
    data = [*arrows({"class vectors": vectors})[1:], cloud(points, targets)]
    space = scene(limit, (1.25, 1.15, 0.7), ((0, 0.4), (0, 1)))
    return board(panels, 2, height, title, legend=None, data=data, scene=space)
