"""The map of the course: the notebooks as boxes, row below row, with arrows from what a notebook says that it needs."""

import html
import re
from collections.abc import Mapping

import nbformat

WIDE, TALL, ACROSS, DOWN = 200, 62, 216, 104  # of a box, and from one to the next
LANE = {"01": 0, "05": 0, "12": 0, "07": 2, "08": 2, "09": 2, "11": 2}  # of three; 1, the middle, where not named
WIDEST = 18  # letters of a line in a box


def needed(nb: nbformat.NotebookNode) -> list[str]:
    """The numbers of the notebooks that one says it needs: to which its paragraph "You need" or "Prerequisites" leads."""
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    found = re.search(r"\*\*(?:You need|Prerequisites)\*\*([^\n]*)", text)
    return sorted(set(re.findall(r"\((\d\d)-[^)]*\.ipynb\)", found[1]))) if found else []


def before(needs: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """What the arrows to each notebook come from: what it needs, less what that needs itself; or else the first one.

    >>> before({"00": [], "01": ["00"], "02": ["00", "01"], "07": []})
    {'00': [], '01': ['00'], '02': ['01'], '07': ['00']}
    """
    first, *_ = needs
    own = {k: [b for b in listed if b in needs and b != k] or [first] * (k != first) for k, listed in needs.items()}
    earlier = {}  # all that comes before, in reading order
    for k, listed in sorted(own.items()):
        earlier[k] = set(listed).union(*(earlier[b] for b in listed))
    return {k: [b for b in listed if not any(b in earlier[c] for c in listed)] for k, listed in own.items()}


def lane(number: str) -> int:
    return LANE.get(number, 1)


def drawn(needs: Mapping[str, list[str]], titles: Mapping[str, str], pages: Mapping[str, str]) -> str:
    """SVG with links. needs, titles and pages, where a box leads: by number, in reading order."""
    arrows, row = before(needs), {}
    for k, listed in sorted(arrows.items()):
        row[k] = max((row[b] + 1 for b in listed), default=0)
        while any(row[other] == row[k] and lane(other) == lane(k) for other in row if other != k):
            row[k] += 1
    at = {k: (ACROSS * lane(k) + 108, 8 + DOWN * row[k]) for k in row}
    lines = []
    for k, listed in arrows.items():
        for b in listed:
            in_between = any(lane(other) == lane(b) and row[b] < row[other] < row[k] for other in row)
            lines.append(f'<path d="{_way(*at[b], *at[k], in_between)}" marker-end="url(#tip)"/>')
    boxes = [_box(*at[k], two_lines(titles[k]), pages[k]) for k in at]
    tip = '<marker id="tip" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto"><path d="M0 0L8 4L0 8"/></marker>'
    return (
        f'<svg class="map" viewBox="0 0 648 {8 + DOWN * max(row.values()) + TALL + 8}" role="group" '
        f'aria-label="Map of the notebooks: what to read before what">'
        f"<defs>{tip}</defs>{''.join(lines)}{''.join(boxes)}</svg>"
    )


def _way(x0, y0, x1, y1, in_between):
    """From the lower edge of a box down its lane, or down the gap beside it where a box is in between, and over."""
    y0, turn = y0 + TALL, y1 - (DOWN - TALL) / 2
    start = f"M{x0} {y0}"
    if in_between:
        side = 1 if x0 < ACROSS * 2 else -1
        gap = x0 + side * ACROSS / 2
        start = f"M{x0 + side * 80} {y0}C{x0 + side * 80} {y0 + 18} {gap} {y0 + 14} {gap} {y0 + 36}"
        x0 = gap
    return f"{start}V{turn - 12}C{x0} {turn + 8} {x1} {turn - 8} {x1} {y1 - 3}"


def _box(x, y, words, page):
    first, second = (html.escape(part) for part in words)
    text = f'<text x="{x}" y="{y + (26 if second else 37)}" text-anchor="middle">{first}</text>'
    text += f'<text x="{x}" y="{y + 48}" text-anchor="middle">{second}</text>' if second else ""
    return f'<a href="{page}"><rect x="{x - WIDE / 2}" y="{y}" width="{WIDE}" height="{TALL}" rx="8"/>{text}</a>'


def two_lines(title: str) -> tuple[str, str]:
    """The part of a title before its colon, broken into two lines, the first of at most WIDEST letters."""
    words, lines = title.split(":")[0].replace(" · ", " ").split(), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + 1 + len(word) > WIDEST and len(lines) < 2:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[0], lines[1] if len(lines) > 1 else ""
