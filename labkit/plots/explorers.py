"""The figures of the explorers of ETFs, UFMs and activations, each a function of numbers already computed.

Colours are those of `labkit.plots.style`: of classes in pictures of vectors, of heads in curves. A figure is put
together as one dict
and checked by plotly once: with `make_subplots` and updates it takes several times as long, and a slider waits for it.
"""

import math

import numpy as np
import plotly.graph_objects as go
import torch

from labkit.activations import derivatives
from labkit.plots.activations import GRADIENTS, joined, line, references
from labkit.plots.style import CLASS_COLOURS, GREY, HEADS, SKY, TEMPLATE, _rgba
from labkit.plots.vectors import _sphere, arrows

_TEN = dict(type="log", exponentformat="power")


def _scene(width, limit, eye, **axis):
    """Three equal axes from −limit to limit in the left part of the figure."""
    axis = dict(range=[-limit, limit], showticklabels=False, title=dict(text=""), **axis)
    camera = dict(eye=dict(zip("xyz", eye)))
    return dict(
        domain=dict(x=[0, width], y=[0, 1]), xaxis=axis, yaxis=axis, zaxis=axis, aspectmode="cube", camera=camera
    )


def _panel(number, title, x, y, across, up, bound=None):
    """A panel: axes of that number ("" or "2" …) over the parts x and y of the figure, (axes, title, dashed line at a
    bound).
    """
    axes = {
        f"xaxis{number}": dict(domain=x, anchor=f"y{number}", **across),
        f"yaxis{number}": dict(domain=y, anchor=f"x{number}", **up),
    }
    label = dict(
        text=title,
        x=sum(x) / 2,
        y=y[1],
        xref="paper",
        yref="paper",
        xanchor="center",
        yanchor="bottom",
        showarrow=False,
        font=dict(size=13),
    )
    lines = [
        dict(
            type="line",
            xref=f"x{number} domain",
            x0=0,
            x1=1,
            yref=f"y{number}",
            y0=bound,
            y1=bound,
            line=dict(color=GREY, dash="dash", width=1.5),
        )
    ]
    return axes, [label], lines if bound is not None else []


def _decades_of(values, bound):
    """A logarithmic axis from one power of ten to another, so that there is always more than one label."""
    shown = np.log10(np.clip([*values, *([] if bound is None else [bound])], 1e-18, None))
    low = math.floor(shown.min())
    high = max(low + 1, math.ceil(shown.max()))
    return dict(range=[low, high], dtick=math.ceil((high - low) / 5), **_TEN)


def _figure(data, scene, panels, height, title, **more):
    layout = {} if scene is None else dict(scene=scene)
    layout |= dict(
        template=TEMPLATE,
        height=height,
        uirevision="keep",
        font=dict(size=12),
        margin=dict(l=5, r=15, t=75, b=50),
        title=dict(text=title, font=dict(size=14), x=0.01, y=0.96, yanchor="top"),
        annotations=[label for _, labels, _ in panels for label in labels],
        shapes=[line for _, _, lines in panels for line in lines],
        **more,
    )
    for axes, _, _ in panels:
        layout |= axes
    return go.Figure(dict(data=data, layout=layout))


def etf_panels(points, gram, title, height=430):
    """Class vectors (3, C) in space, and the cosines (C, C) between them as numbers in colours."""
    limit = max(1.0, np.abs(points).max())
    table = dict(
        type="heatmap",
        z=gram.astype(np.float32),
        zmin=-1,
        zmax=1,
        colorscale="RdBu",
        texttemplate="%{z:.2f}",
        colorbar=dict(title=dict(text="cosine"), outlinewidth=0, thickness=14),
    )
    every = dict(title=dict(text="class"), dtick=1, constrain="domain", showgrid=False, zeroline=False)
    up = dict(every, autorange="reversed", scaleanchor="x")
    panel = _panel("", "cosines between class vectors", [0.56, 0.98], [0, 1], every, up)
    scene = _scene(0.5, limit, (0.98, 0.88, 0.57), visible=False)
    return _figure(
        [_sphere(), *arrows({"class vectors": points}), table], scene, [panel], height, title, showlegend=False
    )


def nearest_panels(groups, margins, bound, title, height=450):
    """Groups of class vectors {name: (3, C)} in space, and the margin (C,) of each class mean with the largest all
    could have.
    """
    limit = max(1.0, *(np.abs(points).max() for points in groups.values()))
    C = len(margins)
    bars = dict(
        type="bar",
        x=np.arange(C),
        y=margins.astype(np.float32),
        marker=dict(color=CLASS_COLOURS[:C]),
        showlegend=False,
        name="margin",
    )
    up = dict(title=dict(text="to the nearest ETF"), range=[min(-0.1, 1.1 * margins.min()), 1.1 * bound])
    panel = _panel(
        "", "cosine margin of each class mean", [0.69, 1], [0, 1], dict(title=dict(text="class"), dtick=1), up, bound
    )
    scene = _scene(0.62, limit, (0.98, 0.88, 0.57), visible=False)
    return _figure(
        [_sphere(), *arrows(groups), bars], scene, [panel], height, title, legend=dict(x=0, y=1, font=dict(size=11))
    )


def ufm_panels(head, table, margins, points, targets, vectors, limit, loss_bound, margin_bound, title, height=440):
    """A UFM in training: features and class vectors in space; cross entropy, margins of all samples, NC1 and NC3.

    table: columns iteration, loss, nc1 and nc3. margins: (N,). points: (3, n) features with targets (n,). vectors: (3,
        C).
    """
    x, y, z = points.astype(np.float32)
    colours = [CLASS_COLOURS[c % len(CLASS_COLOURS)] for c in targets]
    data = [
        *arrows({"class vectors": vectors})[1:],
        dict(
            type="scatter3d",
            x=x,
            y=y,
            z=z,
            mode="markers",
            marker=dict(size=3, color=colours),
            name="features",
            text=[f"class {c}" for c in targets],
        ),
    ]
    _, colour, dash = HEADS[head]
    steps, line = table["iteration"].to_numpy(np.float32) + 1, dict(color=colour, dash=dash, width=2)
    left, right, top, bottom = [0.46, 0.7], [0.77, 1], [0.6, 1], [0, 0.4]
    panels = []
    for measure, name, number, x, y, bound in (
        ("loss", "cross entropy", "", left, top, loss_bound),
        ("nc1", "NC1 (variability)", "2", left, bottom, None),
        ("nc3", "NC3 (self-duality)", "3", right, bottom, None),
    ):
        values = table[measure].to_numpy(np.float32)
        data.append(
            dict(
                type="scatter",
                x=steps,
                y=values,
                mode="lines+markers",
                marker=dict(size=3, color=colour),
                line=line,
                name=name,
                xaxis=f"x{number}",
                yaxis=f"y{number}",
            )
        )
        text = "iteration + 1" if y is bottom else ""
        across = dict(range=[-0.05, 3.55], dtick=1, title=dict(text=text, standoff=3), **_TEN)
        panels.append(_panel(number, name, x, y, across, _decades_of(values, bound), bound))
    ranked = np.sort(margins)[np.unique(np.linspace(0, len(margins) - 1, 100).astype(int))]
    data.append(
        dict(
            type="scatter",
            x=np.linspace(0, 100, len(ranked), dtype=np.float32),
            y=ranked.astype(np.float32),
            mode="lines",
            name="margin",
            line=line,
            xaxis="x4",
            yaxis="y4",
        )
    )
    across = dict(title=dict(text="samples, sorted (%)", standoff=3))
    up = dict(range=[min(-0.35, 1.1 * ranked[0]), 1.12 * margin_bound])
    panels.append(_panel("4", "margin of each sample", right, top, across, up, margin_bound))
    return _figure(data, _scene(0.4, limit, (1.25, 1.15, 0.7)), panels, height, title, showlegend=False)


def apa_panels(kappa, lam, gated, title, wrong=False, draws=None, ranges=None, effect=None, reach=6.0, height=490):
    """AGLU (gated) or APA, its three derivatives, and the place of (κ, λ) among others.

    wrong: Eq. 6 beside the true ∂/∂λ. draws: (κ (n,), λ (n,)) of functions drawn behind. ranges: those of κ and λ that
    the draws are from. effect: (κ (m,), log10 λ (n,), percentages (n, m), title), colours behind the place.
    """
    name, blue = "AGLU" if gated else "APA", "#0072B2"
    z = torch.linspace(-reach, reach, 201, dtype=torch.float64)
    data = []
    if draws is not None:
        few = z[::4]  # enough for thin lines
        many = [derivatives(few, *pair, gated)["value"] for pair in zip(*(d.tolist() for d in draws))]
        data.append(line(*joined(few, torch.stack(many)), "initial values", _rgba(SKY, 0.5), width=1))
    found = derivatives(z, kappa, lam, gated)
    data += [
        line(z, values, label, colour, dash, width=1.5) for label, values, colour, dash in references(z, kappa, gated)
    ]
    data.append(line(z, found["value"], name, blue, width=4))
    places = [
        ("", f"{name}(z; κ, λ)", "value", [0, 0.38], [0, 1]),
        ("2", "∂/∂z", "z", [0.44, 0.68], [0.6, 1]),
        ("3", "∂/∂κ", "kappa", [0.76, 1], [0.6, 1]),
        ("4", "∂/∂λ", "lam", [0.44, 0.68], [0, 0.4]),
    ]
    panels = []
    for number, label, part, x, y in places:
        up = {} if number else dict(range=[-reach, reach] if gated else [-0.05, 1.05])
        panels.append(_panel(number, label, x, y, dict(title=dict(text="z", standoff=3), range=[-reach, reach]), up))
        if number:
            data.append(line(z, found[part], name, blue, in_legend=False, xaxis=f"x{number}", yaxis=f"y{number}"))
    if wrong:
        values = derivatives(z, kappa, lam, gated, "paper")["lam"]
        data.append(line(z, values, "Eq. 6 of the supplement", *GRADIENTS["paper"][1:], xaxis="x4", yaxis="y4"))
    data += _place(kappa, lam, draws, ranges, effect)
    across = dict(range=[-3.3, 10.3], title=dict(text="κ", standoff=3), zeroline=False)
    up = dict(
        range=[-4.3, 2.3],
        tickvals=[-4, -2, 0, 2],
        ticktext=["10<sup>−4</sup>", "0.01", "1", "100"],
        zeroline=False,
        title=dict(text="λ", standoff=2),
    )
    label, right = ("place of (κ, λ)", 1) if effect is None else (effect[3], 0.94)
    panels.append(_panel("5", label, [0.76, right], [0, 0.4], across, up))
    legend = dict(orientation="h", x=0, y=-0.09, yanchor="top")
    figure = _figure(data, None, panels, height, title, legend=legend)
    return figure.update_layout(margin=dict(l=35, r=15, t=75, b=75))


def _place(kappa, lam, draws, ranges, effect):
    """The traces of a map of κ (across) and log10 λ (up)."""
    at, place = dict(xaxis="x5", yaxis="y5"), []
    if effect is not None:
        bar = dict(title=dict(text="%"), outlinewidth=0, thickness=10, x=0.95, y=0.2, len=0.45)
        place.append(
            dict(
                type="heatmap",
                x=effect[0],
                y=effect[1],
                z=effect[2].astype(np.float32),
                zmin=0,
                zmax=100,
                colorscale="Cividis",
                colorbar=bar,
                **at,
            )
        )
    if ranges is not None:
        (k0, k1), (l0, l1) = ranges[0], np.log10(np.clip(ranges[1], 1e-4, None))
        place.append(line([k0, k1, k1, k0, k0], [l0, l0, l1, l1, l0], "range", SKY, width=2, in_legend=False, **at))
        dots = dict(size=5, color=SKY, line=dict(color="white", width=1))
        place.append(
            dict(
                type="scatter",
                x=draws[0].numpy().astype(np.float32),
                y=draws[1].log10().numpy().astype(np.float32),
                mode="markers",
                marker=dots,
                name="initial values",
                showlegend=False,
                **at,
            )
        )
    here = dict(size=13, color="#0072B2", line=dict(color="white", width=2))
    place.append(
        dict(
            type="scatter",
            x=[kappa],
            y=[float(np.log10(lam))],
            mode="markers",
            marker=here,
            name="here",
            showlegend=False,
            **at,
        )
    )
    return place
