"""What all figures share: colours and dashes, the median and its band, axes of powers of ten, and panels side by side.

One colour and one dash for each head, the same everywhere, as `labkit.heads` declares them. Classes have a palette of
their own (Paul Tol's "muted"), and so has what comes in an order, such as α, distances or numbers of classes (cividis):
a colour means one thing. All of them can be told apart by colour-blind eyes.

A figure is put together as plain dicts and handed to plotly once. With `make_subplots` and updates it takes several
times as long, and a slider waits for it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from numpy.typing import ArrayLike

from labkit.plots.colours import GREY, Look, looks, ordered, ramp, rgba

DASHED = dict(type="line", line=dict(color=GREY, dash="dash", width=1))
LABELS = {  # what axes and panels call a measure
    "loss": "cross entropy",
    "excess": "cross entropy − bound",
    "accuracy": "training accuracy",
    "test_accuracy": "test accuracy",
    "nc1": "NC1 (variability)",
    "nc2": "NC2 (weights)",
    "nc2_means": "NC2 (means)",
    "nc3": "NC3 (self-duality)",
    "nc4": "NC4 (disagreement)",
    "cosine_margin": "mean cosine margin",
    "margins": "margins at the end, sorted",
    "equinorm_gap": "equinorm: |means − weights|",
}
LOG = {"loss", "excess", "nc1", "nc2", "nc2_means", "nc3", "equinorm_gap"}  # measures that span decades
SHARES = {"accuracy", "test_accuracy", "nc4"}

# plotly_white less what no figure here uses: a third of its length, which would stand in every figure of every notebook
_USED = ("annotationdefaults", "colorway", "font", "hoverlabel", "hovermode", "scene", "title", "xaxis", "yaxis")
_WHITE = pio.templates["plotly_white"].layout.to_plotly_json()
TEMPLATE = go.layout.Template(layout={name: _WHITE[name] for name in _USED})


def short(values: ArrayLike) -> np.ndarray:
    """Numbers in float32: as good to look at, and half as long in a saved notebook. Names stay as they are."""
    values = np.asarray(values)
    return values.astype(np.float32) if values.dtype.kind in "fiub" else values


def line(
    x: ArrayLike, y: ArrayLike, name: str = "", colour: str = GREY, dash: str = "solid", width: float = 2, **more: Any
) -> dict:
    """A curve as a trace. The legend shows the first of each name; more: of plotly's `scatter`."""
    kind = dict(type="scatter", mode="lines", x=short(x), y=short(y), name=name, legendgroup=name)
    return kind | dict(line=dict(color=colour, dash=dash, width=width)) | more


def marks(
    x: ArrayLike,
    y: ArrayLike,
    name: str = "",
    color: str = GREY,
    size: float = 9,
    symbol: str = "circle",
    more: Mapping = {},
    **marker: Any,
):
    """Dots as a trace; more: of plotly's `scatter`, marker: of its marker."""
    kind = dict(type="scatter", mode="markers", x=short(x), y=short(y), name=name, legendgroup=name)
    return kind | dict(marker=dict(color=color, size=size, symbol=symbol, **marker)) | more


def summary(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The smallest, the median and the largest y over seeds at each x: columns min, median, max, with x as the index.

    A row that is there twice counts once. Raises ValueError where a seed has more than one y at some x: several
    settings would be pooled into one.

    >>> summary(pd.DataFrame({"seed": [0, 1, 2], "step": 5, "loss": [3.0, 1.0, 7.0]}), "step", "loss").loc[5].tolist()
    [1.0, 3.0, 7.0]
    """
    if "seed" in table:
        single = table[["seed", x, y]].drop_duplicates()
        if (twice := single.duplicated(["seed", x])).any():
            seed, place = single.loc[twice, ["seed", x]].iloc[0]
            same = table[(table["seed"] == seed) & (table[x] == place)]
            names = [c for c in same if c != y and same[c].astype(str).nunique() > 1 and c not in LABELS]
            raise ValueError(
                f"seed {seed:g} has {len(same)} values of {y} at {x} = {place:g}: several settings would be drawn as "
                f"one line. Choose one, e.g. with History.where. Columns that differ: {', '.join(names) or 'none'}"
            )
        table = single
    return table.groupby(x)[y].agg(["min", "median", "max"])


def band(table: pd.DataFrame, x: str, y: str, look: Look, **more: Any) -> list[dict]:
    """The median over seeds as a line and, with several seeds, their range as a band behind it: a list of traces.

    table: columns x, y and seed, of one setting (see `summary`). more: of the line, as in `line`.
    """
    found = summary(table, x, y)
    traces = [line(found.index, found["median"], *look, **more)]
    if table["seed"].nunique() > 1:
        there = found.dropna()
        outline = [*there.index, *there.index[::-1]], [*there["min"], *there["max"][::-1]]
        hidden = dict(fill="toself", fillcolor=rgba(look.colour, 0.15), showlegend=False, hoverinfo="skip")
        traces.insert(0, line(*outline, look.label, width=0, **hidden))
    return traces


def bands(
    table: pd.DataFrame, x: str, y: str, by: str = "head", styles: Mapping | None = None, **more: Any
) -> list[dict]:
    """`band` for each value of the column `by`. styles: {value: Look}, `looks` where not given."""
    styles = looks(table[by]) if styles is None else styles
    parts = ((look, table[table[by] == name]) for name, look in styles.items())
    return [trace for look, mine in parts if len(mine) for trace in band(mine, x, y, look, **more)]


def log_axis(values: ArrayLike = (), always: bool = False) -> dict:
    """A logarithmic axis labelled at powers of ten alone, at two or more and at seven or so at most.

    always: from one power to another whatever lies between, for figures of which the axes should keep still.

    >>> log_axis([0.3, 0.5])["range"]
    [-1.05, 0.05]
    """
    shown = np.asarray(values, float).ravel()
    shown, axis = shown[np.isfinite(shown) & (shown > 0)], dict(type="log", dtick=1, exponentformat="power")
    if not shown.size:
        return axis
    low, high = np.log10([shown.min(), shown.max()])
    if always or math.floor(high + 0.02) - math.ceil(low - 0.02) < 1:  # fewer than two powers in between
        low = math.floor(low + 0.02)
        high = max(low + 1, math.ceil(high - 0.02))
        axis["range"] = [low - 0.05, high + 0.05]
    return axis | dict(dtick=max(1, math.ceil((high - low) / 7)))


def scale(measure: str, values: ArrayLike) -> dict:
    """The axis that a measure has: of powers of ten, of percentages, or plain."""
    return log_axis(values) if measure in LOG else dict(tickformat=".3~%") if measure in SHARES else {}


def layout(height: int, title: str | None = None, top: int = 40, bottom: int = 50, **more: Any) -> dict:
    """The page around a figure: height and margins in pixels, the title at the left above. more: of plotly's layout."""
    lines = 0 if title is None else 1 + title.count("<br>")
    top += 24 * lines + 10 * (lines > 1)
    if title is not None:  # plotly lifts a title of two lines
        title = dict(text=title, font=dict(size=15), x=0.01, y=1 - (8 if lines == 1 else 22) / height, yanchor="top")
    page = dict(template=TEMPLATE, height=height, uirevision="keep", font=dict(size=12), title=title)
    return page | dict(margin=dict(l=60, r=20, t=top, b=bottom)) | more


def panel(
    title: str,
    traces: list,
    x: Mapping = {},
    y: Mapping = {},
    bound: float | None = None,
    at: dict | None = None,
    say: str | None = None,
):
    """A part of a `board`: its traces and axes, a dashed line at a bound, and a word in place of what is missing.

    at: its place, ((x0, x1), (y0, y1)) in shares of the figure; else the board finds one.
    """
    return dict(title=title, traces=traces, x=dict(x), y=dict(y), bound=bound, at=at, say=say)


def board(
    panels: list,
    columns: int = 3,
    height: int = 400,
    title: str | None = None,
    share: str = "",
    legend: str = "above",
    gaps: tuple[float, float] = (0.08, 80),
    data: Sequence = (),
    **more: Any,
):
    """Panels in rows of so many columns, as one figure.

    share: "x", "y" or "xy", where the panels of a column, or of a row, have the same axis. legend: "above", "below",
    None, or a dict as plotly has it. gaps: between columns in shares of the width, between rows in pixels. data: traces
    that lie in no panel, as those of a scene. more: of plotly's layout.
    """
    names = _named_once([*data, *(trace for part in panels for trace in part["traces"])])
    top, by_hand = 14 + 24 * any(part["title"] for part in panels), isinstance(legend, dict)
    letters = sum(len(name) + 8 for name in names)  # the sample of a line takes the room of eight
    rows_of_names = 0 if by_hand or legend is None or len(names) < 2 else math.ceil(letters / 137)
    above, below = ((8 + 23 * rows_of_names) * (legend == side and rows_of_names > 0) for side in ("above", "below"))
    page = layout(height, title, top + above, 50 + below) | dict(showlegend=rows_of_names > 0)
    inner = height - page["margin"]["t"] - page["margin"]["b"]
    if rows_of_names:  # measured from the upper or the lower edge of the figure, whatever lies between
        page["legend"] = dict(orientation="h", x=0.5, xanchor="center", yref="container", yanchor="bottom")
        page["legend"] |= dict(y=(page["margin"]["b"] + inner + top if above else 6) / height)
    elif by_hand:
        page["legend"] = legend
    wide, tall = _parts(columns, gaps[0]), _parts(math.ceil(len(panels) / columns), gaps[1] / inner)
    data, axes, words, shapes = list(data), {}, [], []
    for k, part in enumerate(panels):
        n, (row, col) = k + 1 if k else "", divmod(k, columns)
        (x0, x1), (y0, y1) = part["at"] or (wide[col], [1 - share for share in tall[row][::-1]])
        x, y = dict(domain=[x0, x1], anchor=f"y{n}") | part["x"], dict(domain=[y0, y1], anchor=f"x{n}") | part["y"]
        if "y" in share and col:
            y |= dict(matches=f"y{k - col + 1 if row else ''}", showticklabels=False, title=None)
        if "x" in share and row:
            x |= dict(matches=f"x{col + 1 if col else ''}")
        if "x" in share and k + columns < len(panels):
            x |= dict(showticklabels=False, title=None)
        if not part["traces"]:
            x["visible"] = y["visible"] = False
        axes |= {f"xaxis{n}": x, f"yaxis{n}": y}
        data += [{"xaxis": f"x{n}", "yaxis": f"y{n}"} | trace for trace in part["traces"]]
        word = dict(x=(x0 + x1) / 2, xref="paper", yref="paper", xanchor="center", showarrow=False)
        if part["title"]:
            words.append(word | dict(text=part["title"], y=y1, yanchor="bottom", font=dict(size=13)))
        if part["say"]:
            words.append(word | dict(text=part["say"], y=(y0 + y1) / 2, font=dict(color=GREY, size=14)))
        if part["bound"] is not None:
            level = dict(x0=0, x1=1, xref=f"x{n} domain", y0=part["bound"], y1=part["bound"], yref=f"y{n}")
            shapes.append(DASHED | level)
    words, shapes = words + more.pop("annotations", []), shapes + more.pop("shapes", [])
    return go.Figure(dict(data=data, layout=page | axes | dict(annotations=words, shapes=shapes) | more))


def _named_once(traces):
    """Have the legend show the first trace of each name. Returns these names."""
    seen = []
    for trace in traces:
        if trace.get("showlegend", True) and (name := trace.get("legendgroup")):
            trace["showlegend"] = name not in seen
            seen += [name] if trace["showlegend"] else []
    return seen


def _parts(count, gap):
    """The ends of so many equal parts of 0 to 1, with gaps between."""
    size = (1 - gap * (count - 1)) / count
    return [[k * (size + gap), min(1, k * (size + gap) + size)] for k in range(count)]


def upright(places: Mapping[str, float], log_x: bool = False) -> dict:
    """Dashed lines at {name: x} with their names above, as what `board` takes for annotations and shapes."""
    upwards = DASHED | dict(yref="y domain", y0=0, y1=1)
    name = dict(y=1, yref="y domain", yanchor="bottom", showarrow=False)
    # on a logarithmic axis plotly wants the place of a text, not that of a line, as its logarithm
    texts = [name | dict(text=text, x=math.log10(x) if log_x else x) for text, x in places.items()]
    return dict(shapes=[upwards | dict(x0=x, x1=x) for x in places.values()], annotations=texts)


def lines(
    x: ArrayLike,
    curves: Mapping,
    x_title: str,
    y_title: str,
    log_x: bool = True,
    log_y: bool = True,
    marks: Mapping[str, float] | None = None,
    height: int = 400,
    title: str | None = None,
):
    """Curves over one axis, each {name: values}, told apart by colour and dash; `marks`, {name: x}, are vertical lines.

    >>> len(lines([1, 10], {"a": [3, 4], "b": [5, 6]}, "δ", "distance").data)
    2
    """
    x, values = np.asarray(x), np.concatenate([np.ravel(np.asarray(v)) for v in curves.values()])
    traces = [line(x, y, *look, width=2.5) for y, look in zip(curves.values(), ordered(curves).values())]
    across, up = log_axis(x) if log_x else {}, log_axis(values) if log_y else {}
    axes = across | dict(title=x_title), up | dict(title=y_title)
    part = panel(" " if marks else "", traces, *axes)  # room for the names of the marks
    return board([part], 1, height, title, **upright(marks or {}, log_x))


def histograms(
    samples: Mapping, x_title: str, bins: int = 40, marks: Mapping[str, float] | None = None, height: int = 360
):
    """Share of samples in each bin, a colour for each of {name: values}, on common bins; `marks`, {name: x}, are
    vertical lines.
    """
    samples = {name: np.asarray(values) for name, values in samples.items()}
    edges = np.histogram_bin_edges(np.concatenate([v.ravel() for v in samples.values()]), bins)
    shares = {name: np.histogram(values, edges)[0] / values.size for name, values in samples.items()}
    bar = dict(type="bar", x=short((edges[1:] + edges[:-1]) / 2), width=edges[1] - edges[0], opacity=0.6)
    traces = [
        bar | dict(y=short(y), name=name, legendgroup=name, marker=dict(color=colour, line_width=0))
        for (name, y), colour in zip(shares.items(), ramp(len(shares)))
    ]
    part = panel(" " if marks else "", traces, dict(title=x_title), dict(title="share of samples", rangemode="tozero"))
    return board([part], 1, height, barmode="overlay", **upright(marks or {}))
