"""Figures of trainings on images: the panels of a run, accuracy tables as ranges, times of head and backbone, and
pictures.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from PIL import Image

from labkit import etf
from labkit.history import History
from labkit.plots.colours import BLACK, GREY, Look, looks, rgba
from labkit.plots.style import board, line, log_axis, marks, panel
from labkit.plots.ufm import FIGURE_2, bounds_of, run_panels

SYMBOLS = {"standard": "circle", "fixed": "diamond", "implicit": "square", "backbone": "triangle-up"}
PANELS = (*FIGURE_2, "accuracy", "test_accuracy", "nc4")


def image_panels(
    history: History,
    num_classes: int,
    temperature: float = 5.0,
    title: str | None = None,
    panels: Sequence[str] = PANELS,
):
    """What the paper draws of a training on images (Figures 4, 6–11, 15, 17 and 18), against epochs.

    history: of `labkit.vision.build.run`. panels: names of measures, three in a row. All measures are of the training
    images without augmentation, but for the test accuracy. Dashed lines are the bounds of the cross entropy and of the
    margin; with a head that does not normalise they bound nothing. Lines are medians over seeds, bands their ranges.
    """
    panels = [name for name in panels if name != "test_accuracy" or name in history.frame]  # a set may have no test
    return run_panels(history, panels, bounds_of(num_classes, temperature), log_x=False, title=title)


def picture(image: Image.Image, title: str | None = None, height: int = 380, kind: str = "png") -> go.Figure:
    """One picture, as large as the figure allows; `pictures` has several small ones side by side.

    kind: of the file that is kept in the figure, "png", or "jpeg", which is smaller for photographs.
    """
    with io.BytesIO() as file:
        image.save(file, kind)
        kept = base64.b64encode(file.getvalue()).decode()
    traces = [dict(type="image", source=f"data:image/{kind};base64,{kept}", hoverinfo="skip")]
    bare = dict(visible=False, constrain="domain")
    across, down = dict(range=[-0.5, image.width - 0.5]), dict(range=[image.height - 0.5, -0.5], scaleanchor="x")
    return board([panel("", traces, bare | across, bare | down)], 1, height, title).update_layout(margin=dict(b=10))


def accuracies(paper: pd.DataFrame, ours: pd.DataFrame, title: str | None = None) -> go.Figure:
    """Medians (marks) and ranges (bars) of accuracy by dataset and network, the paper's on the left and ours, where
    there are any, on the right.

    paper, ours: columns dataset, network, head, median, low, high, in percent; one epoch. Ours, as from
        `tables.our_rows`, has a column images too, and may be all NaN.
    """
    copies = [images for images in ours["images"].unique() if "re-encoded" in images]  # not what the paper had
    names = list(dict.fromkeys(f"{r.dataset}, {r.network}" for r in paper.itertuples()))
    styles, panels = looks([*paper["head"], *ours["head"]]), []
    places = dict(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], zeroline=False)
    for name, table in (("paper", paper), (f"ours ({', '.join(copies)})" if copies else "ours", ours)):
        if table["median"].isna().all():
            continue
        traces = []
        for k, (head, (label, colour, _)) in enumerate(styles.items()):
            mine = table[table["head"] == head].dropna(subset="median")
            y = [names.index(f"{r.dataset}, {r.network}") + 0.24 * (k - 1) for r in mine.itertuples()]
            range_ = dict(type="data", symmetric=False, thickness=7, width=0, color=rgba(colour, 0.4))
            ends = dict(array=mine["high"] - mine["median"], arrayminus=mine["median"] - mine["low"])
            more = dict(error_x=range_ | ends, customdata=mine[["low", "high"]])
            more |= dict(hovertemplate="%{x:.2f} (%{customdata[0]}–%{customdata[1]})")
            traces.append(
                marks(mine["median"], y, label, colour, 11, "line-ns", more, line=dict(width=3, color=colour))
            )
        across = dict(title="accuracy, %", matches="x") if panels else dict(title="accuracy, %")
        panels.append(panel(name, traces, across, places))
    return board(panels, len(panels), 560, title, "y", "below", (0.03, 0)).update_layout(margin_l=140)


def head_costs(
    table: pd.DataFrame, title: str | None = None, of: str = "forward and backward pass of a batch"
) -> go.Figure:
    """Milliseconds of the backbone and of each head by network, on a logarithmic axis.

    table: columns network (a row of the figure), part ("backbone" or a head or variant), milliseconds. of: of what.
    """
    heads = looks(part for part in table["part"] if part != "backbone")
    traces = []
    for part, (label, colour, _) in {"backbone": Look("backbone", BLACK), **heads}.items():
        mine, symbol = table[table["part"] == part], SYMBOLS.get(part, "square-open")
        traces.append(marks(mine["milliseconds"], mine["network"], label, colour, 12, symbol))
    across = log_axis(table["milliseconds"], always=True) | dict(title=f"{of}, milliseconds")
    up = dict(autorange="reversed", type="category")
    return board([panel("", traces, across, up)], 1, 190 + 50 * table["network"].nunique(), title).update_layout(
        margin_l=160
    )


def pictures(images: Mapping[str, np.ndarray], height: int = 300) -> go.Figure:
    """Small pictures side by side, every pixel to be seen: {title: uint8 array (H, W, 3)}."""
    bare, panels = dict(showticklabels=False, showgrid=False, zeroline=False, constrain="domain"), []
    for title, pixels in images.items():
        anchor = f"x{len(panels) + 1 if panels else ''}"
        drawn = [dict(type="image", z=pixels, hoverinfo="skip")]
        panels.append(panel(title, drawn, bare, bare | dict(autorange="reversed", scaleanchor=anchor)))
    return board(panels, len(panels), height, gaps=(0.03, 0)).update_layout(margin=dict(l=5, r=5, b=5))


def best_probabilities(num_classes: Sequence[int], temperature: float) -> go.Figure:
    """What a collapsed network says at best, against the temperature τ: the probability of the right class, and the
    loss.

    num_classes: one line for each number of classes in this list; the last is drawn thick and once, with a mark at
        `temperature`.
    p = 1/(1 + (C−1)·exp(−τ·C/(C−1))), and −log p is the bound of the cross entropy (Yaras et al. 2022, Theorem 1).
    """
    *others, chosen = num_classes
    others, taus = [C for C in others if C != chosen], np.linspace(0.5, 30, 119)
    bound = etf.cross_entropy_bound(chosen, temperature)
    says = dict(title="temperature τ")
    percent, ten = dict(range=[0, 1.05], tickformat=".0%"), log_axis() | dict(range=[-4, 1])
    panels = []
    for name, of, up in (
        ("probability of the right class", lambda loss: np.exp(-loss), percent),
        ("smallest cross entropy", np.asarray, ten),
    ):
        drawn = []
        for C, dash in [*zip(others, ("dot", "dash", "dashdot", "longdash")), (chosen, "solid")]:
            values = of(np.array([etf.cross_entropy_bound(C, tau) for tau in taus]))
            look = (BLACK, "solid", 3) if C == chosen else (GREY, dash, 1)
            drawn.append(line(taus, values, f"C = {C}", *look))
        here = dict(type="scatter", mode="markers", x=[temperature], y=[float(of(bound))], showlegend=False)
        drawn.append(here | dict(marker=dict(size=12, color=BLACK, line=dict(width=1, color="white"))))
        panels.append(panel(name, drawn, says, up))
    title = (
        f"C = {chosen}, τ = {temperature:g}: cross entropy at least {bound:.4g}, "
        f"so the right class gets {math.exp(-bound):.1%} at most"
    )
    return board(panels, 2, 420, title, legend="below", gaps=(0.1, 0))
