"""Figures of the study in `labkit.studies.ddn`: training with and without the gradient through the ETF."""

import pandas as pd
import plotly.graph_objects as go

from labkit.plots.style import Look, bands, board, log_axis, ordered, panel


def relative_difference(table: pd.DataFrame, measure: str = "loss") -> pd.Series:
    """with/without − 1 of a measure for each setting, seed and iteration: positive where it is lower without.

    table: from `labkit.studies.ddn.load_study`. A seed is compared with itself: same start, same batches.
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


def study_panels(table: pd.DataFrame, measure: str, y_title: str, log_y=False, height=560) -> go.Figure:
    """A measure against iterations: one panel for each imbalance (columns) and batch size (rows), one curve for each α.

    table: columns imbalance, batch_size, alpha, seed, iteration and the measure. Curves are medians over seeds, bands
        ranges. Raises ValueError where a panel would pool several settings.
    """
    sizes, ratios = sorted(table["batch_size"].unique(), reverse=True), sorted(table["imbalance"].unique())
    table, styles, panels = table.assign(shown=table["iteration"] + 1), alphas(table), []
    for size in sizes:
        row = table[table["batch_size"] == size]
        up = (log_axis(table[measure]) if log_y else {}) | dict(title=y_title)
        for ratio in ratios:
            title = f"imbalance {ratio:g}, {'all samples' if size == sizes[0] else f'batches of {size}'}"
            cell = row[row["imbalance"] == ratio]
            traces = bands(cell, "shown", measure, "alpha", styles)
            across = log_axis(table["shown"]) | dict(title="iteration + 1")
            panels.append(panel(title, traces, across, up, None if log_y else 0))
    return board(panels, len(ratios), height, share="xy", gaps=(0.03, 40))
