"""What a plotly figure shows, in words, for those who do not see it."""

import base64
import html
import re

import numpy as np

KINDS = {
    "scatter": "curves",
    "scatter3d": "a scene in three dimensions",
    "heatmap": "a map of values in colours",
    "bar": "bars",
    "image": "pictures",
}
LONGEST = 900  # characters; who needs more has the numbers in the text


def describe(figure: dict) -> str:
    """One paragraph about a figure given as plotly's JSON: what is drawn in which panels and over which axes, where the
    named curves begin and end, and what its slider moves.

    >>> trace = {"type": "scatter", "name": "loss", "x": [1, 10], "y": [2.5, 0.25]}
    >>> describe({"data": [trace], "layout": {"xaxis": {"title": {"text": "step"}}}})
    'Figure: curves. Horizontal axis: step. loss from 2.5 at 1 to 0.25 at 10.'
    """
    layout, data = figure["layout"], figure["data"]
    kinds = dict.fromkeys(KINDS.get(trace.get("type", "scatter"), trace.get("type")) for trace in data)
    title = plain((layout.get("title") or {}).get("text"))
    parts = [f"{title or 'Figure'}: {' and '.join(kinds)}."]
    panels = [plain(note.get("text")) for note in layout.get("annotations", []) if note.get("yanchor") == "bottom"]
    if panels := [text for text in panels if text]:
        parts.append(f"Panels: {'; '.join(panels)}.")
    for axis, word in (("xaxis", "Horizontal axis"), ("yaxis", "Vertical axis")):
        titles = (plain((layout[key].get("title") or {}).get("text")) for key in sorted(layout) if key.startswith(axis))
        if titles := list(dict.fromkeys(filter(None, titles))):
            parts.append(f"{word}: {'; '.join(titles)}.")
    curves = [said for trace in data if (said := ends(trace))]
    names = dict.fromkeys(plain(trace.get("name")) for trace in data if trace.get("showlegend", True))
    if 0 < len(curves) <= 6:
        parts.append(f"{'; '.join(curves)}.")
    elif names := [name for name in names if name]:
        parts.append(f"Shown: {', '.join(names[:12])}.")
    for slider in layout.get("sliders", []):
        labels = [step["label"] for step in slider["steps"]]
        parts.append(f"A recording of {len(labels)} frames: {slider_title(slider)} from {labels[0]} to {labels[-1]}.")
    text = " ".join(parts)
    return text if len(text) <= LONGEST else text[:LONGEST].rsplit(" ", 1)[0] + " …"


def slider_title(slider: dict) -> str:
    """What a slider inside a figure sets."""
    return plain(slider.get("currentvalue", {}).get("prefix")).rstrip(": ") or "frame"


def plain(text: str | None) -> str:
    """Plotly's text without its tags, in one line."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text or ""))).strip()


def ends(trace: dict) -> str | None:
    """Where a named curve begins and ends; None for what is no such curve."""
    name = plain(trace.get("name"))
    if trace.get("type", "scatter") != "scatter" or not name or not trace.get("showlegend", True):
        return None
    x, y = numbers(trace.get("x")), numbers(trace.get("y"))
    if x is None or y is None or len(x) != len(y) or len(x) < 2 or "lines" not in trace.get("mode", "lines"):
        return None
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if not known.size:
        return None
    first, last = known[0], known[-1]
    return f"{name} from {y[first]:.3g} at {x[first]:.4g} to {y[last]:.3g} at {x[last]:.4g}"


def numbers(values) -> np.ndarray | None:
    """The numbers of a trace, a list or packed in base64; None for what is none."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"]).astype(float)
    try:
        return np.array([np.nan if value is None else value for value in values or []], float)
    except (TypeError, ValueError):
        return None
