"""The site: from a folder and from a server, with all other hosts blocked; every recording is played by keyboard."""

import functools
import http.server
import re
import threading
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pages
import pytest
from lab import Explorer, unpacked

from notebooks import PLOTLY, figures

ROOT = Path(__file__).resolve().parent.parent.parent
# With formulas, recordings in two and in three dimensions, and without; the others are made in the same way.
NAMES = ["00-start-here", "05-differentiating-through-the-argmin", "11-imagenet"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "below/a path"
    pages.build(out, [ROOT / f"notebooks/{name}.ipynb" for name in NAMES])
    return out


@pytest.fixture
def visit(tab):
    """Call with an address: the page, with nothing that failed on the way."""
    failed = []
    tab.page.on("requestfailed", lambda request: failed.append(request.url))
    tab.page.on("response", lambda response: response.status >= 400 and failed.append(response.url))

    def visit(address):
        tab.page.goto(address)
        if tab.page.locator("script[src$='mathjax.js']").count():
            tab.page.wait_for_function("() => window.MathJax?.startup?.promise", timeout=30_000)
            tab.page.evaluate("() => MathJax.startup.promise")
        return tab.page

    yield visit
    assert failed == [] and tab.outside == []


class Page(HTMLParser):
    """Names, links, what is fetched, and the alternative texts of a page."""

    def __init__(self, path):
        super().__init__()
        self.names, self.links, self.fetched, self.alts = set(), [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.names |= {found["id"]} if "id" in found else set()
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("img", "script", "link", "iframe", "source"):
            self.fetched += [found[key] for key in ("src", "href") if key in found]
        if tag == "img":
            self.alts.append(found.get("alt", ""))
        if found.get("role") == "img":
            self.alts.append(found.get("aria-label", ""))


def test_links_sizes_and_alternative_texts(site):
    """No page fetches anything from elsewhere, all links between them lead somewhere, and pictures have words."""
    found = {path: Page(path) for path in site.rglob("*.html")}
    assert len(found) > 60  # notebooks, guides, reference
    for path, page in found.items():
        assert path.stat().st_size <= pages.LARGEST
        for href in page.fetched + page.links:
            address = urllib.parse.urlsplit(href)
            if address.scheme in ("http", "https", "mailto"):
                assert href in page.links, f"{path.name} fetches {href}"
                continue
            if address.scheme == "data":
                continue
            target = (path.parent / urllib.parse.unquote(address.path)).resolve() if address.path else path
            assert target.is_file(), f"{path.name}: {href}"
            if address.fragment and target.suffix == ".html" and "api" not in target.parts:
                names = {address.fragment, urllib.parse.unquote(address.fragment)}  # browsers try one, then the other
                assert names & found[target].names, f"{path.name}: {href}"
    for name in NAMES:
        alts = found[site / f"notebooks/{name}.html"].alts
        nb = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
        assert len(alts) >= 2 * len(figures(nb)) > 0  # of the picture, and of what is drawn in its place
        assert min(map(len, alts)) > 40


def test_without_an_address_there_is_no_link_to_one(site):
    if pages.address.repository() is None:
        text = "".join(path.read_text() for path in [site / "index.html", *(site / "notebooks").glob("*.html")])
        assert "colab.research" not in text and "example.org" not in text and ">Repository<" not in text


@pytest.fixture(scope="module")
def server(site):
    """The address of the site on a server that shows it below a path."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=site.parents[1])
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/below/a%20path/"
        server.shutdown()


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_draws_and_every_recording_plays_by_keyboard(name, site, visit):
    page = visit((site / f"notebooks/{name}.html").as_uri())
    figs = [out.data[PLOTLY] for out in figures(nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4))]
    places = page.locator("figure.plot")
    assert places.count() == len(figs)
    for k, fig in enumerate(figs):
        place = places.nth(k)
        page.evaluate(
            "(node) => { for (let d = node.closest('details'); d; d = d.parentElement.closest('details')) d.open = true; }",
            place.element_handle(),
        )
        place.scroll_into_view_if_needed()
        place.locator(".js-plotly-plot .plot-container").wait_for(timeout=30_000)
        assert len(Explorer(place).figure().data) == len(fig["data"])
        assert place.locator("input[type=range]").count() == len(fig["layout"].get("sliders", []))
        if fig["layout"].get("sliders"):
            play_by_keyboard(page, place, fig)
    assert page.locator("mjx-container").count() > 0 and page.locator("[data-mml-node=merror]").count() == 0


def play_by_keyboard(page, place, fig):
    """The keys of a slider; then the space bar on its button plays the last three frames, and it is a button to play."""
    steps = fig["layout"]["sliders"][0]["steps"]
    frames = {frame["name"]: frame for frame in fig["frames"]}
    control, button = place.locator("input[type=range]"), place.locator(".player button")
    assert control.evaluate("(node) => node.labels[0].textContent.trim().length > 0")
    control.focus()

    def arrived(index):
        (name,) = steps[index]["args"][0]
        page.wait_for_function("([node, name]) => node.dataset.shown === name", arg=[place.element_handle(), name])
        shows(Explorer(place).figure(), frames[name])
        assert control.get_attribute("aria-valuetext") == steps[index]["label"] == place.locator("output").inner_text()

    there = int(control.input_value()) == len(steps) - 1  # where it starts, a key that leads there moves nothing
    for key, index in (("Home", 0) if there else ("ArrowRight", 1), ("End", -1), ("ArrowLeft", -2), ("ArrowLeft", -3)):
        page.keyboard.press(key)
        arrived(index)
    page.keyboard.press("Shift+Tab")  # the button stands before the slider
    assert button.evaluate("(node) => node === document.activeElement")
    page.keyboard.press(" ")
    assert button.get_attribute("aria-label") == "pause"
    arrived(-1)
    page.wait_for_function("(node) => node.getAttribute('aria-label') === 'play'", arg=button.element_handle())


def shows(figure, frame):
    for index, wanted in zip(frame["traces"], frame["data"]):
        for key in {"x", "y", "z"} & wanted.keys():
            seen = np.ravel(figure.data[index][key]).astype(float)
            np.testing.assert_array_equal(seen, np.ravel(unpacked(wanted[key])).astype(float))


def test_a_mouse_moves_a_recording_from_a_server(server, visit):
    page = visit(f"{server}index.html")
    place = page.locator("figure.plot")
    box = place.locator("input[type=range]").bounding_box()
    page.mouse.click(box["x"] + 0.97 * box["width"], box["y"] + box["height"] / 2)
    Explorer(place).wait(
        lambda figure: figure.layout.title.text.startswith("step 1000:") or place.locator("output").inner_text() != "0"
    )
    page.get_by_role("link", name="Reference").first.click()
    page.wait_for_load_state()
    assert page.url.startswith(server) and page.get_by_role("link", name="heads").count()
    page.go_back()
    page.get_by_role("link", name=re.compile("^00")).first.click()
    page.wait_for_load_state()
    assert "00" in page.title()


@pytest.mark.parametrize(
    "name", ["index", "notebooks/05-differentiating-through-the-argmin", "docs/teaching", "api/labkit/heads"]
)
def test_on_a_phone_nothing_is_wider_than_the_screen(name, site, visit, tab):
    tab.page.set_viewport_size({"width": 390, "height": 800})
    page = visit((site / f"{name}.html").as_uri())
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


def test_without_scripts_there_are_pictures(site, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "notebooks/11-imagenet.html").as_uri())
    nb = nbformat.read(ROOT / "notebooks/11-imagenet.ipynb", as_version=4)
    assert page.locator("figure.plot img").count() == len(figures(nb))
    assert page.locator(".player:visible, .plot-area:visible").count() == 0
    context.close()
