"""The map of the course: its arrows are what the notebooks say that they need."""

import re
from pathlib import Path

import course_map
import nbformat
from nbformat.v4 import new_markdown_cell, new_notebook

PATHS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


def test_what_a_notebook_needs_is_read_from_its_words():
    words = "**Time** 50 min. **Prerequisites** [06](06-x.ipynb), [04](04-ufm-10.ipynb): UFM-10, 12 images.\n\n[03](03-x.ipynb)"
    assert course_map.needed(new_notebook(cells=[new_markdown_cell(words)])) == ["04", "06"]
    assert course_map.needed(new_notebook(cells=[new_markdown_cell("**You need** nothing but [00](00-x.ipynb)")])) == ["00"]


def test_arrows_leave_out_what_is_needed_on_the_way():
    needs = {"00": [], "01": [], "02": ["00", "01"], "03": ["01", "02"], "04": ["03", "00"], "05": ["77"]}
    wanted = {"00": [], "01": ["00"], "02": ["01"], "03": ["02"], "04": ["03"], "05": ["00"]}
    assert course_map.before(needs) == wanted


def test_no_arrow_of_the_course_goes_through_a_box_or_back():
    """From every notebook that one names, arrows lead to it; each box stands alone below those its arrows come from."""
    needs = {path.stem[:2]: course_map.needed(nbformat.read(path, as_version=4)) for path in PATHS}
    assert all(b < k for k, listed in needs.items() for b in listed)
    arrows = course_map.before(needs)
    reached = {}
    for k, listed in arrows.items():
        reached[k] = set(listed).union(*(reached[b] for b in listed))
        assert set(needs[k]) <= reached[k]
    svg = course_map.drawn(needs, {k: f"{k} · a title: more" for k in needs}, {k: f"{k}.html" for k in needs})
    boxes = [tuple(map(float, found)) for found in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)"', svg)]
    assert len(set(boxes)) == len(boxes) == len(PATHS)
    ways = re.findall(r'<path d="(M.*?)" marker-end', svg)
    assert len(ways) == sum(map(len, arrows.values()))
    for way in ways:
        x, start = map(float, re.search(r"([\d.]+) ([\d.]+)V", way).groups())
        end = float(re.search(r"V([\d.]+)", way)[1])
        for left, top in boxes:
            beside = not left < x < left + course_map.WIDE
            assert beside or top + course_map.TALL <= start or end <= top
