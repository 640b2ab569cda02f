"""Saved notebooks as web pages, with no kernel and no network: every figure draws, and the slider inside a figure moves
it.
"""

from pathlib import Path

import nbformat
import numpy as np
import pytest
from lab import Explorer, unpacked

from notebooks import PLOTLY, figures, to_html

ROOT = Path(__file__).resolve().parent.parent.parent
PATHS = sorted((ROOT / "notebooks").glob("0[03457]-*.ipynb"))


WITH_SLIDERS = ("03-nearest-simplex-etf", "04-ufm-10", "07-apa-and-aglu")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_saved_notebook_without_kernel(path, tab, tmp_path):
    nb = nbformat.read(path, as_version=4)
    page = tmp_path / f"{path.stem}.html"
    page.write_text(to_html(nb, page.stem))
    tab.page.goto(page.as_uri())
    figs = [out.data[PLOTLY] for out in figures(nb)]
    tab.page.wait_for_function(
        "(n) => document.querySelectorAll('.js-plotly-plot .plot-container').length === n", arg=len(figs)
    )
    assert all("mathjax" in address.lower() for address in tab.outside), tab.outside  # formulas alone need the network
    drawn = tab.page.evaluate("() => [...document.querySelectorAll('.js-plotly-plot')].map((gd) => gd.calcdata.length)")
    assert drawn == [len(fig["data"]) for fig in figs]
    moved = 0
    for k, fig in enumerate(figs):
        for slider in fig["layout"].get("sliders", []):
            move(tab.page.locator(".js-plotly-plot").nth(k), slider, fig["frames"])
            moved += 1
    assert moved or path.stem not in WITH_SLIDERS


def move(plot, slider, frames):
    """Click at both ends of a slider inside a figure: each shows what its frame holds."""
    plot.scroll_into_view_if_needed()
    explorer = Explorer(plot.locator(".."))
    for at, step in ((0.999, slider["steps"][-1]), (0.001, slider["steps"][0])):
        touch = plot.locator(".slider-rail-touch-rect").bounding_box()
        plot.page.mouse.click(touch["x"] + at * touch["width"], touch["y"] + touch["height"] / 2)
        (name,) = step["args"][0]
        (frame,) = [frame for frame in frames if frame["name"] == name]
        explorer.wait(lambda figure, frame=frame, step=step: shows(explorer, figure, frame, step))


def shows(explorer, figure, frame, step):
    """Whether the slider says this step, and the figure's numbers are those of the frame."""
    assert step["label"] in explorer.cell.locator(".slider-label").first.text_content()
    for index, wanted in zip(frame["traces"], frame["data"]):
        trace = figure.data[index]
        for key in {"x", "y", "z"} & wanted.keys():
            np.testing.assert_array_equal(
                np.ravel(trace[key]).astype(float), np.ravel(unpacked(wanted[key])).astype(float)
            )
    return True
