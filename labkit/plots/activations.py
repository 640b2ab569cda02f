"""Figures of APA and AGLU: their derivatives, errors, what a fit and a network make of κ and λ, and their explorer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import ArrayLike

from labkit.activations import derivatives
from labkit.history import History
from labkit.plots import style
from labkit.plots.colours import ACTIVATIONS, BLUE, GREY, ORANGE, SKY, VERMILION, Look, ordered, rgba
from labkit.plots.style import board, line, log_axis, marks, panel

GRADIENTS = {
    "exact": Look("exact gradient", BLUE),
    "paper": Look("Eq. 6", VERMILION, "dash"),
    "exact, labkit's floor": Look("exact gradient", BLUE),
    "Eq. 6, released floor": Look("Eq. 6, released floor", ORANGE, "dot"),
    "Eq. 6, labkit's floor": Look("Eq. 6, labkit's floor", VERMILION, "dash"),
}
PARTS = {"z": "z", "kappa": "κ", "lam": "λ"}
REACH = 6.0  # curves are drawn from −6 to 6


def joined(x: ArrayLike, curves: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Many curves over the same x as one: x and y with gaps between."""
    curves = np.asarray(curves, float)
    return np.tile(np.append(x, np.nan), len(curves)), np.pad(curves, ((0, 0), (0, 1)), constant_values=np.nan).ravel()


def derivative_panels(
    gated: bool, kappas: Sequence[float] = (-1.0, 0.3, 1.0, 3.0), lams: Sequence[float] = (0.01, 0.3, 1.0, 3.0, 30.0)
):
    """Derivatives of AGLU (gated) or APA in z, κ and λ: above for several κ at λ = 1, below for several λ at κ = 1."""
    name, panels = "AGLU" if gated else "APA", []
    z = torch.linspace(-REACH, REACH, 121, dtype=torch.float64)
    for letter, values, fixed, legend in (("κ", kappas, "λ = 1", "legend"), ("λ", lams, "κ = 1", "legend2")):
        found = [derivatives(z, *((v, 1.0) if letter == "κ" else (1.0, v)), gated) for v in values]
        styles = ordered(f"{letter} = {v:g}" for v in values).values()
        for part, symbol in PARTS.items():
            traces = [line(z, f[part], *look, width=2.5, legend=legend) for f, look in zip(found, styles)]
            panels.append(panel(f"∂{name}/∂{symbol} at {fixed}", traces, dict(title=dict(text="z", standoff=4))))
    beside = dict(x=1.01, y=1)
    return board(panels, 3, 580, legend=beside, gaps=(0.06, 80), legend2=dict(x=1.01, y=0.4), showlegend=True)


def references(z: torch.Tensor, kappa: float, gated: bool) -> list[tuple]:
    """Familiar functions to draw beside this one: (values, label, colour, dash)."""
    if gated:
        gelu = torch.nn.functional.gelu(z)
        silu = z * z.sigmoid()
        return [(f, *ACTIVATIONS[name]) for f, name in ((z.relu(), "relu"), (gelu, "gelu"), (silu, "silu"))]
    return [
        ((kappa * z).sigmoid(), "sigmoid(κz), λ = 1", VERMILION, "dash"),
        (torch.exp(-torch.exp(-kappa * z)), "Gumbel exp(−e^(−κz)), λ → 0", ORANGE, "dashdot"),
    ]


def error_panels(lams: Sequence[float], errors: Mapping, height: int = 640) -> go.Figure:
    """Largest relative errors against λ, on logarithmic axes: a panel for each (quantity, precision).

    errors: {(method, quantity, precision): values}; quantities and precisions in the order they come. NaN and errors
    above 100 are drawn at 100.
    """
    methods, quantities, precisions = (list(dict.fromkeys(key[i] for key in errors)) for i in range(3))
    looks = dict(zip(methods, zip((VERMILION, ORANGE, BLUE), ("dot", "dash", "solid"))))
    down = log_axis() | dict(dtick=3, range=[-17.3, 2.5], title="relative error")
    panels = []
    for quantity in quantities:
        for precision in precisions:
            mine = {m: v for (m, q, p), v in errors.items() if (q, p) == (quantity, precision)}
            shown = {
                m: np.nan_to_num(np.asarray(v, float), nan=100, posinf=100).clip(1e-17, 100) for m, v in mine.items()
            }
            traces = [line(lams, v, m, *looks[m], width=2.5) for m, v in shown.items()]
            panels.append(panel(f"{quantity}, {precision}", traces, log_axis(lams) | dict(title="λ"), down))
    return board(panels, len(precisions), height, share="y", gaps=(0.05, 80))


def fit_panels(history: History, kappa: float, lam: float, height: int = 400) -> go.Figure:
    """Loss, κ and λ of `fit_curve` runs against steps, one line for each seed; dashed grey lines at the values
    sought.
    """
    frame, panels = history.frame.assign(loss=history.frame["loss"].clip(lower=1e-20)), []
    for column, title, sought in (("loss", "loss", None), ("kappa", "κ", kappa), ("lam", "λ", lam)):
        runs = [(GRADIENTS[name], run) for (name, _), run in frame.groupby(["head", "seed"])]
        traces = [line(run["iteration"], run[column], *look, width=1.5) for look, run in runs]
        up = {} if column == "kappa" else log_axis(frame[column])
        panels.append(panel(title, traces, dict(title="step"), up, sought))
    return board(panels, 3, height)


def lambda_paths(history: History, height: int = 420) -> go.Figure:
    """λ of every AGLU layer and seed against epochs, a panel for each variant in the history."""
    columns, panels = [c for c in history.frame if c.startswith("lam_")], []
    up = log_axis(history.frame[columns]) | dict(title="λ")
    for name, rows in history.frame.groupby("head", sort=False):
        runs = [run for _, run in rows.sort_values("iteration").groupby("seed")]
        label, colour, _ = GRADIENTS.get(name, Look(name, GREY))
        paths = joined(runs[0]["iteration"], [run[c].to_numpy() for run in runs for c in columns])
        panels.append(panel(label, [line(*paths, name, rgba(colour, 0.55), width=1.2)], dict(title="epoch"), up))
    return board(panels, len(panels), height, share="y", legend=None, gaps=(0.03, 0))


def depth_panels(tables: Mapping[str, pd.DataFrame], y: str, y_title: str, height: int = 420) -> go.Figure:
    """One measure of `signal` against depth: {title: table with head, seed, layer and the measure}, a panel each.

    Lines are medians over seeds, bands their ranges, for each initialisation in the column head.
    """
    styles, panels = ordered(dict.fromkeys(name for t in tables.values() for name in t["head"])), []
    for title, table in tables.items():
        up = log_axis(table[y]) | dict(title=y_title if not panels else "")
        panels.append(panel(title, style.bands(table, "layer", y, styles=styles), dict(title="layer"), up))
    return board(panels, len(panels), height, gaps=(0.06, 0))


def accuracy_dots(printed: Mapping, measured: Mapping, printed_title: str, measured_title: str) -> go.Figure:
    """Printed accuracies, {label: number or None}, beside ours, {label: one for each seed}, each with an axis of its
    own.
    """
    left, right = [], []
    for label, value in printed.items():
        left.append(marks([value], [label], label, VERMILION, 11, "diamond"))
    for label, values in measured.items():
        right.append(marks(list(values), [label] * len(values), label, rgba(BLUE, 0.45)))
        bar = dict(line=dict(color=BLUE, width=3))
        right.append(marks([float(np.median(values))], [label], label, BLUE, 18, "line-ns", **bar))
    failed = dict(x=0.5, xref="x domain", text="“Failed”", showarrow=False, font_color=VERMILION)
    words = [failed | dict(y=label) for label, value in printed.items() if value is None]
    across, up = dict(title="top-1 accuracy, %"), dict(autorange="reversed", type="category")
    panels = [panel(printed_title, left, across, up), panel(measured_title, right, across, up)]
    figure = board(panels, 2, 380, None, "y", None, (0.04, 0), annotations=words)
    return figure.update_layout(margin_l=110)


def apa_panels(
    kappa: float,
    lam: float,
    gated: bool,
    title: str,
    wrong: bool = False,
    draws: tuple | None = None,
    ranges: Any = None,
    effect: tuple | None = None,
    height: int = 490,
):
    """AGLU (gated) or APA, its three derivatives, and the place of (κ, λ) among others.

    wrong: Eq. 6 beside the true ∂/∂λ. draws: (κ (n,), λ (n,)) of functions drawn behind. ranges: those of κ and λ that
    the draws are from. effect: (κ (m,), log10 λ (n,), percentages (n, m), title), colours behind the place.
    """
    name = "AGLU" if gated else "APA"
    z = torch.linspace(-REACH, REACH, 201, dtype=torch.float64)
    found, big = derivatives(z, kappa, lam, gated), []
    if draws is not None:
        few = z[::4]  # enough for thin lines
        many = [derivatives(few, *pair, gated)["value"] for pair in zip(*(d.tolist() for d in draws))]
        big.append(line(*joined(few, torch.stack(many)), "initial values", rgba(SKY, 0.5), width=1))
    big += [line(z, *known, width=1.5) for known in references(z, kappa, gated)]
    big.append(line(z, found["value"], name, BLUE, width=4))
    across = dict(title=dict(text="z", standoff=3), range=[-REACH, REACH])
    up = dict(range=[-REACH, REACH] if gated else [-0.05, 1.05])
    panels = [panel(f"{name}(z; κ, λ)", big, across, up, at=((0, 0.38), (0, 1)))]
    places = {"z": ((0.44, 0.68), (0.6, 1)), "kappa": ((0.76, 1), (0.6, 1)), "lam": ((0.44, 0.68), (0, 0.4))}
    for part, at in places.items():
        panels.append(panel(f"∂/∂{PARTS[part]}", [line(z, found[part], name, BLUE, width=2.5)], across, at=at))
    if wrong:
        values = derivatives(z, kappa, lam, gated, "paper")["lam"]
        panels[-1]["traces"].append(line(z, values, "Eq. 6 of the supplement", *GRADIENTS["paper"][1:], width=2.5))
    across = dict(range=[-3.3, 10.3], title=dict(text="κ", standoff=3), zeroline=False)
    ticks = dict(tickvals=[-4, -2, 0, 2], ticktext=["10<sup>−4</sup>", "0.01", "1", "100"])
    up = ticks | dict(range=[-4.3, 2.3], zeroline=False, title=dict(text="λ", standoff=2))
    label, right = ("place of (κ, λ)", 1) if effect is None else (effect[3], 0.94)
    panels.append(panel(label, _place(kappa, lam, draws, ranges, effect), across, up, at=((0.76, right), (0, 0.4))))
    figure = board(panels, 1, height, title, legend="below")
    return figure.update_layout(margin=dict(l=35, r=15))


def _place(kappa, lam, draws, ranges, effect):
    """The traces of a map of κ (across) and log10 λ (up)."""
    place, hidden = [], dict(showlegend=False)
    if effect is not None:
        bar = dict(title=dict(text="%"), outlinewidth=0, thickness=10, x=0.95, y=0.2, len=0.45)
        colours = dict(zmin=0, zmax=100, colorscale="Cividis", colorbar=bar)
        place.append(dict(type="heatmap", x=effect[0], y=effect[1], z=style.short(effect[2])) | colours)
    if ranges is not None:
        (k0, k1), (l0, l1) = ranges[0], np.log10(np.clip(ranges[1], 1e-4, None))
        place.append(line([k0, k1, k1, k0, k0], [l0, l0, l1, l1, l0], "range", SKY, **hidden))
        edge = dict(color="white", width=1)
        place.append(marks(draws[0], draws[1].log10(), "initial values", SKY, 5, more=hidden, line=edge))
    here = marks([kappa], [float(np.log10(lam))], "here", BLUE, 13, more=hidden, line=dict(color="white", width=2))
    return [*place, here]


def start_panels(
    table: pd.DataFrame, ranges: Any, epochs: int, title: str, floor: float = 1e-3, height: int = 560
) -> go.Figure:
    """A network that learns κ and λ, from where they were drawn: the plane of (κ, λ), accuracy, κ and λ by epoch.

    table: a row for each epoch from 0 on, with iteration, accuracy, test_accuracy, and kappa_0 …, lam_0 … of every
    layer. ranges: ((low, high) of κ, (low, high) of λ), drawn as a box. epochs: where the axes end. λ below `floor` is
    drawn there.
    """
    count, epoch = sum(c.startswith("kappa_") for c in table), table["iteration"]
    kappas, lams = (table[[f"{name}_{k}" for k in range(count)]].to_numpy(float) for name in ("kappa", "lam"))
    lams, quiet = lams.clip(min=floor), dict(showlegend=False)
    (k0, k1), (l0, l1) = ranges[0], np.clip(ranges[1], floor, None)
    box = line([k0, k1, k1, k0, k0], [l0, l0, l1, l1, l0], "range", ORANGE, width=2)
    paths = line(*_joined_paths(kappas, lams), "way", rgba(BLUE, 0.35), width=1, **quiet)
    start = marks(kappas[0], lams[0], "drawn", SKY, 8, line=dict(width=1, color=GREY))
    now = marks(kappas[-1], lams[-1], "now", BLUE, 8, line=dict(width=1, color="white"))
    wide = [min(-3.2, kappas.min() - 0.2), max(3.2, kappas.max() + 0.2)]
    high = log_axis([floor, 10, lams.max()], always=True) | dict(title="λ")
    across = dict(title="epoch", range=[-0.3, epochs + 0.3])
    right = [
        line(epoch, 100 * table["test_accuracy"], "test accuracy", VERMILION, width=3),
        line(epoch, 100 * table["accuracy"], "training accuracy", GREY, "dash", width=2),
    ]
    layers = lambda values, name: [line(*joined(epoch, values.T), name, rgba(BLUE, 0.6), width=1.5, **quiet)]
    panels = [
        panel("(a) κ and λ of every layer", [box, paths, start, now], dict(title="κ", range=wide), high),
        panel("(b) accuracy, %", right, across, dict(range=[0, 102])),
        panel("(c) κ by epoch", layers(kappas, "κ"), across, dict(range=wide)),
        panel("(d) λ by epoch", layers(lams, "λ"), across, high),
    ]
    return board(panels, 2, height, title, legend="below", gaps=(0.1, 70))


def _joined_paths(x, y):
    """The paths of many points, x and y (steps, n), as one line with gaps."""
    return tuple(np.pad(v.T, ((0, 0), (0, 1)), constant_values=np.nan).ravel() for v in (x, y))
