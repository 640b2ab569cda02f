"""A LiveFigure on the page: one plot for all updates, whose camera stays, and nothing left behind."""

import numpy as np
import plotly.graph_objects as go
import pytest
from lab import Explorer
from plotly.offline import get_plotlyjs

from labkit.widgets import live

SPACE = """
import numpy as np, plotly.graph_objects as go
from labkit.widgets.live import LiveFigure
def space(k):
    return go.Figure(go.Scatter3d(x=np.arange(4.) * k, y=[0, 1, 0, 1], z=[0, 0, 1, 1]), dict(title=str(k), height=300))
live = LiveFigure()
live.draw(space(1))
"""
CAMERA = "(gd) => gd._fullLayout.scene._scene.getCamera()"


MANY = """
import time
for k in range(2, 202):
    live.draw(space(k))
    time.sleep(0.03)
"""


@pytest.fixture
def notebook(lab, tab):
    """An open notebook that draws in its first cell and 200 times more in its second."""
    lab.write("space", SPACE, MANY)
    notebook = lab.open(tab, "space")
    yield notebook
    notebook.close()


def turn(explorer, page, first):
    """Drag until the camera is well away from where it was (a busy browser drops moves), and let it come to rest."""
    for _ in range(5):
        explorer.turn()
        now = page.evaluate(CAMERA, explorer.plot)
        for _ in range(50):
            page.wait_for_timeout(200)
            seen, now = now, page.evaluate(CAMERA, explorer.plot)
            if now == seen:
                break
        if max(abs(now["eye"][axis] - first["eye"][axis]) for axis in "xyz") > 0.05:
            return now
    pytest.fail(f"dragging did not turn the figure: {first} before, {now} after")


def test_updates_in_jupyterlab(notebook, tab):
    notebook.run_cell(0)
    explorer = Explorer(tab.page.locator(".jp-Cell").first)
    first = tab.page.evaluate(CAMERA, explorer.plot)
    turned = turn(explorer, tab.page, first)
    contexts = tab.page.evaluate("() => contexts")
    tab.page.evaluate(
        "(gd) => { window.drawings = 0; gd.on('plotly_afterplot', () => (drawings += 1)); }", explorer.plot
    )
    notebook.run_cell(1)
    figure = explorer.wait(lambda figure: figure.layout.title.text == "201")
    np.testing.assert_array_equal(figure.data[0].x, np.arange(4.0) * 201)
    now = tab.page.evaluate(CAMERA, explorer.plot)
    for part in ("eye", "center", "up"):
        np.testing.assert_allclose(list(now[part].values()), list(turned[part].values()), atol=1e-6)
    assert tab.page.evaluate("() => drawings") > 20  # Chromium keeps 16 contexts
    assert tab.page.evaluate("() => contexts") == contexts
    assert tab.page.locator(".js-plotly-plot").count() == 1
    assert (
        tab.page.evaluate("(gd) => gd._context.plotGlPixelRatio", explorer.plot) == 1
    )  # as the screen, not twice as fine
    # what would be saved: the last figure as JSON, and no script
    (out,) = notebook.json()["cells"][0]["outputs"]
    assert live.MIME in out["data"] and "application/javascript" not in out["data"]
    assert go.Figure(out["data"][live.MIME]).layout.title.text == "201"


# What a front end does with HTML from a kernel: it puts it in place of the last output and runs its scripts.
SHOW = """(html) => {
  document.body.innerHTML = html;
  for (const old of document.querySelectorAll("script")) {
    const script = document.createElement("script");
    script.textContent = old.textContent;
    old.replaceWith(script);
  } }"""


def test_updates_in_colab(tab):
    """Colab as far as it can be had here: a window whose HTML is replaced by that of the next figure."""
    page = tab.page
    fetched = []
    page.route(
        "https://cdn.plot.ly/*", lambda route: fetched.append(route.request.url) or route.fulfill(body=get_plotlyjs())
    )

    def space(k):
        return go.Figure(
            go.Scatter3d(x=np.arange(4) * k, y=[0, 1, 0, 1], z=[0, 0, 1, 1]), {"title": str(k), "height": 300}
        )

    def show(k):
        page.evaluate(SHOW, live.page(space(k), "name")["text/html"])

    page.set_content("<!DOCTYPE html>")
    show(1), show(2)  # the second comes while plotly.js is on its way
    page.wait_for_selector(".gl-container canvas")
    explorer = Explorer(page.locator("body"))
    explorer.wait(lambda figure: figure.layout.title.text == "2")
    turned = turn(explorer, page, page.evaluate(CAMERA, explorer.plot))
    contexts = page.evaluate("() => contexts")
    for k in range(3, 23):
        show(k)
        explorer.wait(lambda figure, k=k: figure.layout.title.text == str(k))
    np.testing.assert_array_equal(explorer.figure().data[0].x, np.arange(4) * 22)
    assert turned["eye"]["x"] != pytest.approx(1.25, abs=0.1)
    assert page.evaluate(CAMERA, explorer.plot)["eye"] == pytest.approx(turned["eye"])
    assert page.evaluate("() => contexts") == contexts
    assert page.locator(".js-plotly-plot").count() == 1 and len(fetched) == 1
