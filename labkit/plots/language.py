"""Figures of language models: runs of activations, margins by frequency, what comes next, HellaSwag, and many classes.

Tables in, plotly figures out; `labkit.studies.language` and `labkit.studies.ufms.many_classes` make the tables.
"""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from labkit.plots import vectors
from labkit.plots.colours import ACTIVATIONS, BLACK, BLUE, GREEN, GREY, ORANGE, VERMILION, Look
from labkit.plots.style import band, bands, board, line, log_axis, marks, panel, short

SPACES = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥"})  # characters that nobody sees


def visible(text: str) -> str:
    """A text with signs in the place of blanks and line ends.

    >>> visible("to be\\n")
    'to␣be⏎'
    """
    return text.translate(SPACES)


def losses(table: pd.DataFrame, height: int = 380, title: str | None = None) -> go.Figure:
    """Validation loss of activations (column head) against the step: median over seeds, and their range as a band."""
    styles = {name: look for name, look in ACTIVATIONS.items() if name in set(table["head"])}
    styles |= {name: Look(str(name), BLACK) for name in table["head"].unique() if name not in styles}
    traces = bands(table.dropna(subset="validation_loss"), "iteration", "validation_loss", styles=styles)
    return board([panel("", traces, dict(title="step"), dict(title="validation loss, nats a token"))], 1, height, title)


def depth(table: pd.DataFrame, height: int = 340, title: str | None = None) -> go.Figure:
    """κ and λ of each layer before training (crosses) and at its end (dots), of every seed; lines are medians."""
    layers = sorted(int(name.split("_")[1]) for name in table if name.startswith("kappa_"))
    by_step = table.sort_values("iteration").groupby("seed")
    parts = []
    for name, label in (("kappa", "κ"), ("lambda", "λ")):
        columns = [f"{name}_{k}" for k in layers]
        start, end = by_step[columns].first(), by_step[columns].last()
        x = np.tile(layers, len(start))
        traces = [
            marks(x, start.to_numpy().ravel(), "before training", GREY, 7, "x-thin", line=dict(width=1.5, color=GREY)),
            marks(x, end.to_numpy().ravel(), "after", BLUE, 7),
            line(layers, start.median(), "before training, median", GREY, "dot"),
            line(layers, end.median(), "after, median", BLUE),
        ]
        parts.append(panel(label, traces, dict(title="layer", dtick=1)))
    return board(parts, 2, height, title)


def margins_by_frequency(tables: Mapping[str, pd.DataFrame], height: int = 420, title: str | None = None) -> go.Figure:
    """Mean cosine margin of each token's samples against how often it comes next, {name of an activation: table with
    columns text, count, margin}; the letters stand for themselves.
    """
    traces, everything = [], pd.concat(tables.values())
    for name, table in tables.items():
        look = ACTIVATIONS.get(name, Look(name, BLACK))
        letters = [visible(text) for text in table["text"]]
        words = dict(mode="text", text=letters, textfont=dict(color=look.colour, size=13))
        traces.append(marks(table["count"], table["margin"], look.label, look.colour, more=words))
        traces[-1]["hovertemplate"] = "%{text}: %{x} times, margin %{y:.2f}"
        if len(tables) > 1:  # letters have no sign in the legend
            traces.append(marks([None], [None], look.label, look.colour))
            traces[-2]["showlegend"] = False
    axes = (
        log_axis(everything["count"]) | dict(title="samples, of which it is the next character"),
        dict(title="mean cosine margin"),
    )
    ends = [everything["count"].min(), everything["count"].max()]
    zero = line(ends, [0, 0], "", GREY, "dash", 1, showlegend=False, hoverinfo="skip")
    return board([panel("", [zero, *traces], *axes)], 1, height, title)


def next_tokens(
    names: Sequence[str], probabilities: Sequence, drawn: int | None, title: str, written: str = "", height: int = 420
) -> go.Figure:
    """The likeliest next tokens as bars, the one that was drawn in another colour.

    names, probabilities: of all tokens. drawn: which one came. written: a text to show above, with plotly's tags.
    """
    probabilities = np.asarray(probabilities, float)
    order = np.argsort(-probabilities, kind="stable")[:12]
    if drawn is not None and drawn not in order:
        order[-1] = drawn
    shades = [VERMILION if k == drawn else BLUE for k in order]
    bars = dict(type="bar", orientation="h", x=short(probabilities[order]), y=list(range(len(order))))
    bars |= dict(marker=dict(color=shades), showlegend=False, hovertemplate="%{x:.3f}<extra></extra>")
    bars |= dict(text=[f"{p:.1%}" for p in probabilities[order]], textposition="outside", cliponaxis=False)
    letters = dict(tickvals=list(range(len(order))), ticktext=[visible(names[k]) for k in order], autorange="reversed")
    letters |= dict(tickfont=dict(size=14, family="monospace"), title="next character")
    axes = dict(range=[0, 1.08], title="probability", tickformat=".0%"), letters
    part = panel("", [bars], *axes, at=((0.64, 1), (0, 1)))
    page = dict(x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="top", showarrow=False, align="left")
    words = page | dict(text=written, font=dict(family="monospace", size=13))
    return board([part], 1, height, title, annotations=[words] if written else [])


def wrapped(text: str, width: int = 46, last: int = 16) -> str:
    """A text as lines for a figure, no longer than `width`, the `last` of them; tags of plotly in it are shown.

    >>> wrapped("to be, or not to be", 10)
    'to be, or<br>not to be'
    """
    lines = []
    for row in text.split("\n"):
        lines += textwrap.wrap(row, width, drop_whitespace=False, break_long_words=True) or [""]
    lines = [one.strip() if k else one.rstrip() for k, one in enumerate(lines)]
    safe = [one.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for one in lines[-last:]]
    return "<br>".join(safe)


def endings(
    task_text: str,
    options: Sequence[str],
    losses: Sequence[float] | None,
    tokens: Sequence[int] | None,
    right: int | None,
    mine: int | None,
    title: str,
):
    """A HellaSwag item: the context, its endings, and beside them what a model makes of them, once it may be seen.

    losses, tokens: of each ending, the sum of −log p and the number of tokens; None before the answer. right, mine: the
    right ending and the one that was chosen.
    """
    names = "ABCD"
    signs = [("✓ " if k == right else "→ " if k == mine else "   ") + names[k] for k in range(len(options))]
    text = f"<b>{wrapped(task_text, 62, 8)}</b><br><br>" + "<br>".join(
        f"<b>{sign}</b>  {wrapped(option, 58, 4)}" for sign, option in zip(signs, options)
    )
    page = dict(x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="top", showarrow=False, align="left")
    words = page | dict(text=text, font=dict(size=13))
    traces, say = [], "answer first"
    if losses is not None:
        per_token = np.asarray(losses) / np.asarray(tokens)
        shades = [GREEN if k == right else GREY for k in range(len(options))]
        bars = dict(type="bar", orientation="h", x=short(per_token), y=list(names[: len(options)]), showlegend=False)
        bars |= dict(marker=dict(color=shades), text=[f"{v:.3f}" for v in per_token], textposition="inside")
        traces, say = [bars], None
    axes = (dict(title="mean loss a token", rangemode="tozero"), dict(autorange="reversed"))
    part = panel("the model takes the lowest", traces, *axes, at=((0.66, 1), (0, 1)), say=say)
    return board([part], 1, 430, title, annotations=[words])


def many_classes(
    table: pd.DataFrame,
    ratio: float,
    points: np.ndarray,
    targets: ArrayLike,
    arrows: np.ndarray,
    title: str,
    height: int = 430,
) -> go.Figure:
    """Class vectors and features in three dimensions, and measures of a study over C/d with the present place marked.

    table: last rows of `studies.ufms.many_classes`, with columns num_classes, dim, seed, nc1, nc2, minimal_margin and
    `bound`, the largest minimal margin where it is known. ratio: C/d that is marked. points (3, n), targets (n,) and
    arrows (3, C): the picture.
    """
    found = table.assign(ratio=table["num_classes"] / table["dim"])
    x = dict(title="classes over dimensions, C/d") | dict(type="log", tickvals=[0.5, 1, 2, 4, 8], dtick=None)
    known = found.drop_duplicates("ratio").sort_values("ratio")
    known = known[known["ratio"] <= 2]
    best = [line(known["ratio"], known["bound"], "the best there can be", BLACK, "dash", 1.5)]
    spread = band(found, "ratio", "minimal_margin", Look("minimal margin", BLUE))
    upper = panel("minimal margin, 1 − largest cosine", best + spread, x | dict(title=None), dict(rangemode="tozero"))
    kinds = {"nc1": Look("NC1", GREEN), "nc2": Look("NC2 (weights)", ORANGE)}
    shown = [
        t
        for name, look in kinds.items()
        for t in band(found.assign(**{name: found[name].clip(lower=1e-12)}), "ratio", name, look)
    ]
    lower = panel("NC1 and NC2", shown, x, dict(type="log", exponentformat="power", dtick=3))
    upper["at"], lower["at"] = ((0.56, 1), (0.6, 0.97)), ((0.56, 1), (0, 0.37))
    shapes = [
        dict(type="line", x0=ratio, x1=ratio, y0=0, y1=1, xref=axis, yref=f"{up} domain")
        for axis, up in (("x", "y"), ("x2", "y2"))
    ]
    shapes = [shape | dict(line=dict(color=VERMILION, width=2)) for shape in shapes]
    left = vectors.scene(1.05, vectors.EYE, ((0, 0.5), (0, 1)), visible=False)
    colours = [vectors.class_colour(int(c)) for c in targets]
    dots = vectors.in_space(np.asarray(points), "markers", "features", marker=dict(size=3, color=colours, line_width=0))
    data = [vectors.sphere(), dots | dict(showlegend=False), vectors.arrows({"class vectors": np.asarray(arrows)})[1]]
    return board([upper, lower], 2, height, title, legend="below", data=data, scene=left, shapes=shapes)
