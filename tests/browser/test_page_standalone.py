"""Saved notebooks as web pages, with no kernel and no network: every figure draws, and the slider inside a figure moves it."""

import json
from pathlib import Path

import nbformat
import pytest
from lab import Explorer
from notebooks import PLOTLY, figures, to_html

ROOT = Path(__file__).resolve().parent.parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=[path for path in PATHS if path.stem[:2] in ("00", "03", "05", "07")], ids=lambda path: path.stem)
def saved(request, tab, tmp_path):
    """A saved notebook, open in the browser as a web page."""
    nb = nbformat.read(request.param, as_version=4)
    page = tmp_path / f"{request.param.stem}.html"
    page.write_text(to_html(nb, page.stem))
    tab.page.goto(page.as_uri())
    return nb


def test_every_figure_draws(saved, tab):
    count = len(figures(saved))
    tab.page.wait_for_function("(n) => document.querySelectorAll('.js-plotly-plot .plot-container').length === n", arg=count)
    assert all("mathjax" in address.lower() for address in tab.outside), tab.outside  # formulas alone need the network
    for fig, plot in zip(figures(saved), tab.page.query_selector_all(".js-plotly-plot")):
        traces, kinds = len(fig.data[PLOTLY]["data"]), {"2d": "() => 0"}
        drawn = plot.evaluate("(gd) => [gd._fullData.length, gd.calcdata.length]")
        assert drawn == [traces, traces], kinds


def test_sliders_inside_figures(saved, tab):
    """The last step of each slider shows what its frame holds."""
    players = [k for k, fig in enumerate(figures(saved)) if fig.data[PLOTLY]["layout"].get("sliders")]
    if not players:
        pytest.skip("no figure of this notebook has a slider of its own yet")
    for k in players:
        fig = figures(saved)[k].data[PLOTLY]
        (slider,) = fig["layout"]["sliders"]
        plot = tab.page.locator(".js-plotly-plot").nth(k)
        plot.scroll_into_view_if_needed()
        touch = plot.locator(".slider-rail-touch-rect").bounding_box()
        y = touch["y"] + touch["height"] / 2
        for at, step in ((0.999, slider["steps"][-1]), (0.001, slider["steps"][0])):
            tab.page.mouse.click(touch["x"] + at * touch["width"], y)
            (name,) = step["args"][0]
            (frame,) = [frame for frame in fig["frames"] if frame["name"] == name]
            explorer = Explorer(plot.locator(".."))
            explorer.wait(lambda figure, frame=frame, step=step: shows(explorer, figure, frame, step))


def shows(explorer, figure, frame, step):
    """Whether the slider says this step and each number of the frame stands in the figure."""
    label = explorer.cell.locator(".slider-label").first.text_content()
    assert step["label"] in label, (step["label"], label)
    for index, wanted in zip(frame["traces"], frame["data"]):
        trace = figure.data[index].to_plotly_json()
        for key in ("x", "y", "z"):
            if isinstance(wanted.get(key), list):
                assert json.loads(json.dumps(list(trace[key]))) == wanted[key], (index, key)
    return True
