"""Figures of the gradient through the ETF: its two paths, training with and without it, and what it costs."""

import pandas as pd
import plotly.graph_objects as go

from labkit.plots.colours import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, Look, ordered
from labkit.plots.style import bands, board, line, log_axis, panel

METHODS = {  # ways to compute the nearest ETF and its gradient: (colour, marker)
    "closed form": (GREEN, "circle"),
    "closed form, no gradient": (SKY, "circle-open"),
    "closed form, float64": (BLACK, "triangle-up"),
    "trust region, cold": (VERMILION, "square"),
    "trust region, warm": (ORANGE, "square-open"),
    "Proposition 1, dense": (BLUE, "diamond"),
    "SVD with autograd": (PURPLE, "x"),
}
BOXES = {  # of Figure 1: (x, y) of the middle, in a picture 10 wide and 4 high
    "features<br>h = τ z / ‖z‖": (1.2, 3.1),
    "logits<br>W h + b": (6.1, 3.1),
    "loss<br>ℓ": (8.9, 3.1),
    "class means<br>H̃": (1.2, 0.8),
    "nearest ETF<br>U* = argmin": (3.7, 0.8),
    "classifier<br>W = M U*ᵀ": (6.1, 0.8),
}
LIT = {  # what lights up: (title, colour)
    "forward": ("Forwards: the features give the logits, and by their class means the classifier too", GREY),
    "direct": ("The direct path: how the loss changes with the features, the classifier held still", PURPLE),
    "indirect": ("The indirect path: how the loss changes because the features turn the classifier", GREEN),
    "both": ("The whole gradient: the sum of both paths", BLACK),
}


def two_paths(lit: str = "both", height: int = 330) -> go.Figure:
    """Figure 1 of Markou et al. 2024, of the head alone: the two paths of the gradient from the loss to the features.

    lit: "forward", "direct", "indirect" or "both". All pictures have the same traces, so that a player can turn from
    one to the next. Raises ValueError for another word.

    >>> two_paths("direct").layout.title.text[:16]
    'The direct path:'
    """
    if lit not in LIT:
        raise ValueError(f"lit must be one of {', '.join(LIT)}, got {lit!r}")
    h, logits, loss, means, etf, weight = BOXES.values()
    forward = [(h, logits, (0.95, 0.15)), (logits, loss, (0.95, 0.15)), (h, means, (-0.2, -0.55))]
    forward += [(means, etf, (0.95, 0.15)), (etf, weight, (0.95, 0.15)), (weight, logits, (-0.2, 0.55))]
    direct = [(loss, logits, (-0.95, -0.15)), (logits, h, (-0.95, -0.15))]
    indirect = [(loss, logits, (-0.95, -0.15)), (logits, weight, (0.2, -0.55)), (weight, etf, (-0.95, -0.15))]
    indirect += [(etf, means, (-0.95, -0.15)), (means, h, (0.2, 0.55))]
    traces = [_arrow(*a, GREY if lit == "forward" else "#cccccc", 2.5 if lit == "forward" else 1) for a in forward]
    for name, path in (("direct", direct), ("indirect", indirect)):
        on = lit in (name, "both")
        traces += [_arrow(*a, LIT[name][1] if on else "#cccccc", 4 if on else 1, _shift(name, a)) for a in path]
    words = dict(mode="text", textfont=dict(size=13, color=BLACK))
    traces.append(line(*zip(*BOXES.values()), **words, text=list(BOXES)))
    for text, x, y, name in (("∂ℓ/∂H", 3.6, 2.65, "direct"), ("Y = ∂ℓ/∂U", 7.15, 1.95, "indirect")):
        font = dict(size=13, color=LIT[name][1] if lit in (name, "both") else "#cccccc")
        traces.append(line([x], [y], mode="text", text=[text], textfont=font))
    font = dict(size=13, color=LIT["indirect"][1] if lit in ("indirect", "both") else "#cccccc")
    traces.append(line([2.45], [1.95], mode="text", text=["(∂U*/∂H)ᵀ Y"], textfont=font))
    edge = dict(type="rect", line=dict(color=GREY, width=1), layer="below", xref="x", yref="y")
    shapes = [edge | dict(x0=x - 0.95, x1=x + 0.95, y0=y - 0.55, y1=y + 0.55) for x, y in BOXES.values()]
    nothing = dict(visible=False, fixedrange=True)
    part = panel("", traces, nothing | dict(range=[0, 10]), nothing | dict(range=[0, 3.9]))
    return board([part], 1, height, LIT[lit][0], legend=None, shapes=shapes, hovermode=False)


def _shift(name, arrow):
    """The two paths begin on the same arrow, from the loss to the logits: there they run side by side."""
    start, end, _ = arrow
    together = start == BOXES["loss<br>ℓ"] and end == BOXES["logits<br>W h + b"]
    return (0, -0.18) if together and name == "indirect" else (0, 0)


def _arrow(start, end, edge, colour, width, shift=(0, 0)):
    """An arrow between two boxes, from the edge of the one to that of the other. edge: where it leaves, from the
    middle; along the way it keeps the same distance from the line between the middles."""
    across = abs(end[0] - start[0]) > abs(end[1] - start[1])
    first = (start[0] + edge[0] + shift[0], start[1] + edge[1] + shift[1])
    last = (end[0] - edge[0], first[1]) if across else (first[0], end[1] - edge[1])
    tip = dict(symbol="arrow", angleref="previous", size=[0, 8 + 2 * width], color=colour, opacity=1)
    return line(*zip(first, last), colour=colour, width=width, mode="lines+markers", marker=tip)


def relative_difference(table: pd.DataFrame, measure: str = "loss") -> pd.Series:
    """with/without − 1 of a measure for each setting, seed and iteration: positive where it is lower without.

    table: from `labkit.studies.ufms.ddn.load_study`. A seed is compared with itself: same start, same batches.
    """
    keys = ["num_samples", "dim", "imbalance", "batch_size", "alpha", "seed", "iteration"]
    wide = table.pivot(index=keys, columns="head", values=measure)
    return (wide["implicit_with_ddn"] / wide["implicit_without_ddn"] - 1).rename("difference")


def alphas(table: pd.DataFrame) -> dict[float, Look]:
    """How each α in the table, the weight of a batch in the running means, is drawn; 0 is the paper's schedule.

    >>> [look.label for look in alphas(pd.DataFrame({"alpha": [1.0, 0.0, 0.1]})).values()]
    ["α: the paper's schedule", 'α = 0.1', 'α = 1']
    """
    found = sorted(table["alpha"].unique())
    labels = [f"α = {a:g}" if a else "α: the paper's schedule" for a in found]
    return dict(zip(found, ordered(labels).values()))


def study_panels(table: pd.DataFrame, measure: str, y_title: str, log_y: bool = False, height: int = 560) -> go.Figure:
    """A measure against iterations: one panel for each imbalance (columns) and batch size (rows), one curve for each α.

    table: columns imbalance, batch_size, alpha, seed, iteration and the measure. Curves are medians over seeds, bands
        ranges. Raises ValueError where a panel would pool several settings.
    """
    sizes, ratios = sorted(table["batch_size"].unique(), reverse=True), sorted(table["imbalance"].unique())
    table, styles, panels = table.assign(shown=table["iteration"] + 1), alphas(table), []
    for size in sizes:
        row = table[table["batch_size"] == size]
        whole = (row["num_samples"] == size).all() if "num_samples" in row else size == sizes[0]
        up = (log_axis(table[measure]) if log_y else {}) | dict(title=y_title)
        for ratio in ratios:
            title = f"imbalance {ratio:g}, {'all samples' if whole else f'batches of {size}'}"
            cell = row[row["imbalance"] == ratio]
            traces = bands(cell, "shown", measure, "alpha", styles)
            across = log_axis(table["shown"]) | dict(title="iteration + 1")
            panels.append(panel(title, traces, across, up, None if log_y else 0))
    return board(panels, len(ratios), height, share="xy", gaps=(0.03, 40))


def costs(table: pd.DataFrame, measure: str = "milliseconds", height: int = 430) -> go.Figure:
    """Time ("milliseconds") or memory ("peak_mib") of the nearest ETF against the number of classes, as Figures 5 and
    16 have it.

    table: columns method, num_classes, dim, quantity ("forward" or "forward + backward", a panel each) and the measure.
    Of several dimensions at one C the largest is drawn; it shows under the pointer.
    """
    table = table.dropna(subset=measure).sort_values(["num_classes", "dim"])
    table = table.drop_duplicates(["method", "quantity", "num_classes"], keep="last")
    title = {"peak_mib": "peak memory, MiB"}.get(measure, measure)
    over = "C = %{x}, d = %{customdata}: %{y:.3g}"
    unknown = {name: (GREY, "star") for name in table["method"]}
    panels = []
    for quantity in [q for q in ("forward", "forward + backward") if q in set(table["quantity"])]:
        traces = []
        for method, (colour, symbol) in (unknown | METHODS).items():
            mine = table[(table["method"] == method) & (table["quantity"] == quantity)]
            more = dict(mode="lines+markers", marker=dict(symbol=symbol, size=8), hovertemplate=over)
            if len(mine):
                traces.append(line(mine["num_classes"], mine[measure], method, colour, **more, customdata=mine["dim"]))
        across = dict(type="log", title="classes C", tickvals=sorted(table["num_classes"].unique().tolist()))
        panels.append(panel(quantity, traces, across, log_axis(table[measure]) | dict(title=title)))
    return board(panels, len(panels), height, None, "y", "below", (0.04, 0))
