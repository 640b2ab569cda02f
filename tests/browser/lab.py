"""Hands and eyes of the browser tests: notebooks run, sliders moved, figures read back as plotly holds them."""

import base64
import json
import re
import statistics
import time

import nbformat
import numpy as np
import plotly.graph_objects as go
from nbformat.v4 import new_code_cell, new_notebook

from notebooks import other_parameters, tagged

# WebGL on the processor, no sandbox as tests may run as root, and nothing that asks the network.
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
]

# Counts the canvases that were given a WebGL context, and keeps none of them: a page may have 16 at a time.
COUNT_CONTEXTS = """
  window.contexts = 0;
  const known = new WeakSet(), getContext = HTMLCanvasElement.prototype.getContext;
  HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
    const context = getContext.call(this, kind, ...more);
    if (context && kind.includes("webgl") && !known.has(context)) known.add(context), (window.contexts += 1);
    return context;
  };"""

# Lines of the console that are no fault of ours, and why.
EXPECTED = {
    "to activate": "JupyterLab of its own plugins, where the processor is busy",
    "did not appear within": "JupyterLab of a cell that it scrolls to, where the processor is busy",
    "GPU stall due to ReadPixels": "plotly.js reads its own drawing back; told by Chromium when the processor draws",
    "willReadFrequently": "advice on speed about plotly.js's canvases",
    "/mathjax": "web pages of notebooks fetch what sets their formulas; there is no network here",
    "Automatic fallback to software WebGL": "there is no graphics card here",
}


class Tab:
    """A browser's page and its complaints: errors and warnings of the console, and requests to other machines."""

    def __init__(self, context):
        self.context, self.lines, self.outside = context, [], []
        context.route(lambda url: not url.startswith(("http://localhost:", "file:", "data:", "blob:")), self._refuse)
        self.renew()

    def renew(self):
        """Another page, with nothing in it, in place of the present one."""
        for page in self.context.pages:
            page.close()
        self.page = self.context.new_page()
        self.page.on(
            "console", lambda message: self.lines.append(f"{message.type}: {message.text} {message.location['url']}")
        )
        self.page.on("pageerror", lambda error: self.lines.append(f"error: {error}"))

    def _refuse(self, route):
        self.outside.append(route.request.url)
        route.abort()

    def complaints(self):
        lines = [line for line in self.lines if line.startswith(("error", "warning"))]
        return [line for line in lines if not any(text in line for text in EXPECTED)]


class Lab:
    """A JupyterLab server."""

    def __init__(self, address, token, root):
        self.address, self.token, self.root = address, token, root

    def write(self, name, *sources):
        """Make a notebook of code cells."""
        kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        cells = [new_code_cell(source) for source in sources]
        nbformat.write(new_notebook(cells=cells, metadata=kernel), self.root / "notebooks" / f"{name}.ipynb")

    def shorten(self, name):
        """Give a notebook the parameters of a short run, which its metadata holds for tests."""
        path = self.root / "notebooks" / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)
        (cell,) = tagged(notebook, "parameters")
        cell.source += "".join(f"\n{name} = {value!r}" for name, value in other_parameters(notebook).items())
        nbformat.write(notebook, path)

    def open(self, tab, name):
        """Open a notebook as a visitor does, its kernel started; in the JupyterLab of this tab, where it has one."""
        path = f"notebooks/{name}.ipynb"
        if tab.page.url.startswith(f"{self.address}/lab"):
            tab.page.evaluate("(path) => void jupyterapp.commands.execute('docmanager:open', { path })", path)
        else:
            tab.page.goto(f"{self.address}/lab/tree/{path}?token={self.token}&reset")
        tab.page.wait_for_function(
            """(path) => {
          const widget = window.jupyterapp?.shell.currentWidget;
          return widget?.context?.path === path
            && widget.sessionContext.session?.kernel?.connectionStatus === "connected"; }""",
            arg=path,
            timeout=60_000,
        )
        return Notebook(tab)


class Notebook:
    """A notebook open in JupyterLab."""

    def __init__(self, tab):
        self.tab, self.page = tab, tab.page

    def run(self):
        """Run all cells from the menu, to the end; fails if one raised. Returns the seconds it took."""
        start = time.perf_counter()
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.page.wait_for_function(
            """() => {
          const { content, sessionContext } = jupyterapp.shell.currentWidget;
          const cells = [...content.model.cells].filter((cell) => cell.type === "code");
          const outputs = cells.flatMap((cell) => cell.outputs.toJSON());
          return outputs.some((out) => out.output_type === "error") || sessionContext.session.kernel.status === "idle"
            && cells.every((cell) => cell.executionCount && cell.executionState !== "running"); }""",
            timeout=180_000,
        )
        assert self.errors() == []
        return time.perf_counter() - start

    def run_cell(self, index):
        self.page.evaluate(
            """async (k) => {
          jupyterapp.shell.currentWidget.content.activeCellIndex = k;
          await jupyterapp.commands.execute("notebook:run-cell"); }""",
            index,
        )
        assert self.errors() == []

    def json(self):
        """The notebook as it would be saved now."""
        return self.page.evaluate("() => jupyterapp.shell.currentWidget.content.model.toJSON()")

    def errors(self):
        outputs = [out for cell in self.json()["cells"] for out in cell.get("outputs", [])]
        return ["\n".join(out["traceback"]) for out in outputs if out["output_type"] == "error"]

    def close(self):
        """End the kernel, so that it takes no processor from the next test, and close the notebook unsaved."""
        self.page.evaluate("""async () => {
          const widget = jupyterapp.shell.currentWidget;
          await widget.sessionContext.shutdown();
          widget.context.model.dirty = false;
          widget.close(); }""")

    def explorer(self, label):
        """The controls and the figure of the cell that has a control with this label."""
        cell = self.page.locator(".jp-Cell", has=self.page.locator(".widget-label", has_text=label)).first
        cell.scroll_into_view_if_needed()
        return Explorer(cell)

    def explorer_of(self, index):
        """The controls and the figure of one cell."""
        self.page.evaluate(
            """async (k) => {
          const { content } = jupyterapp.shell.currentWidget;
          content.activeCellIndex = k;
          await content.scrollToItem(k);
          content.widgets[k].node.dataset.number = k; }""",
            index,
        )
        return Explorer(self.page.locator(f".jp-Cell[data-number='{index}']"))


class Explorer:
    """Controls and a figure in one cell's output."""

    def __init__(self, cell):
        self.page, self.cell = cell.page, cell
        plot = cell.locator(".js-plotly-plot").first
        plot.wait_for(timeout=60_000)
        plot.scroll_into_view_if_needed()
        self.plot = plot.element_handle()

    def control(self, label):
        return self.cell.locator(".widget-inline-hbox", has=self.page.get_by_text(label, exact=True))

    def read_out(self, label):
        return self.control(label).locator(".widget-readout").inner_text()

    def button(self, name):
        return self.cell.locator("button", has_text=name)

    def figure(self):
        """What plotly.js holds at this moment: a go.Figure."""
        text = self.page.evaluate(
            """(gd) => {
          const plain = (key, value) => {
            value = value?._inputArray ?? value;  // unpacked from base64
            return ArrayBuffer.isView(value) ? Array.from(value) : value;
          };
          return JSON.stringify([gd.data, gd.layout], plain); }""",
            self.plot,
        )
        return go.Figure(*json.loads(text), skip_invalid=True)

    def wait(self, true, seconds=30):
        """Wait until `true(figure)`, and return that figure; an AssertionError or a False in the end fails the test."""
        end = time.monotonic() + seconds
        while True:
            figure = self.figure()
            try:
                if true(figure):
                    return figure
                error = AssertionError(
                    f"the figure did not become what it should; its title is {figure.layout.title.text}"
                )
            except AssertionError as failed:
                error = failed
            if time.monotonic() > end:
                raise error
            self.page.wait_for_timeout(50)

    def press(self, label, key):
        """Press a key on a slider. Returns milliseconds from the key to the drawn figure."""
        handle = self.control(label).locator(".noUi-handle")
        handle.focus()
        self.page.evaluate(
            """(gd) => {
          window.drawn = new Promise((done) => {
            let start;
            addEventListener("keydown", () => (start = performance.now()), { capture: true, once: true });
            gd.once("plotly_afterplot", () => requestAnimationFrame(() => done(performance.now() - start)));
          }); }""",
            self.plot,
        )
        self.page.keyboard.press(key)
        return self.page.evaluate(
            "() => Promise.race([drawn, new Promise((_, no) => setTimeout(no, 15000, 'never drawn'))])"
        )

    def drag(self, label, share, steps=10):
        """Drag a slider with the mouse to a share of its length, 0 to 1."""
        handle = self.control(label).locator(".noUi-handle")
        handle.scroll_into_view_if_needed()
        at, track = handle.bounding_box(), self.control(label).locator(".noUi-base").bounding_box()
        y = at["y"] + at["height"] / 2
        self.page.mouse.move(at["x"] + at["width"] / 2, y)
        self.page.mouse.down()
        self.page.mouse.move(track["x"] + share * track["width"], y, steps=steps)
        self.page.mouse.up()

    def count_drawings(self):
        self.page.evaluate(
            """(gd) => {
          window.times = [];
          gd.on("plotly_afterplot", () => times.push(performance.now())); }""",
            self.plot,
        )

    def drawings(self):
        """(how many, in how many seconds) since the first after `count_drawings`."""
        count, duration = self.page.evaluate("() => [times.length - 1, times.at(-1) - times[0]]")
        return count, duration / 1000

    def pause(self):
        """Press the button. Returns milliseconds from there to the last drawing, 0 if there was none."""
        self.page.evaluate("""() => addEventListener(
          "click", () => (window.pressed = performance.now()), { once: true, capture: true })""")
        self.button("pause").click()
        self.page.wait_for_timeout(3500)
        return self.page.evaluate("() => Math.max(0, times.at(-1) - pressed)")

    def turn(self):
        """Drag a figure in three dimensions."""
        self.page.wait_for_function("(gd) => gd.labkitNext === undefined", arg=self.plot)  # no drawing is under way
        box = self.plot.query_selector(".gl-container canvas").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for step in range(1, 6):
            self.page.mouse.move(x + 20 * step, y + 5 * step)
            self.page.wait_for_timeout(100)  # plotly.js looks where the mouse is once for each frame
        self.page.mouse.up()
        self.page.wait_for_timeout(300)


def latency(explorer, label, moves=15):
    """Press a slider's arrows to and fro; a line that says the milliseconds from key to drawing."""
    half = moves // 2
    times = [explorer.press(label, key) for key in ["ArrowRight"] * (moves - half) + ["ArrowLeft"] * half]
    middle = statistics.median(times)
    assert middle < 1500, times  # ten times what is asked for
    return (
        f"{label}: {middle:.0f} ms from key to drawn figure, median of {moves} ({min(times):.0f} to {max(times):.0f})"
    )


def unpacked(values):
    """Numbers as plotly's JSON holds them: a list, or packed in base64."""
    return (
        np.frombuffer(base64.b64decode(values["bdata"]), values["dtype"])
        if isinstance(values, dict)
        else np.array(values)
    )


def numbers(text):
    return [float(x) for x in re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?", text.replace("−", "-"))]


def points(figure, name):
    """(C, 3): the ends of the arrows of one group, as drawn: what is neither a gap nor the origin."""
    traces = [trace for trace in figure.data if (trace.name or "").split(", class")[0] == name]
    found = np.concatenate([np.array([trace.x, trace.y, trace.z], float).T for trace in traces])
    return found[np.isfinite(found).all(1) & (found != 0).any(1)]


def curve(figure, name):
    """x and y of the first line of that name."""
    trace = next(trace for trace in figure.data if trace.name == name)
    return np.array(trace.x, float), np.array(trace.y, float)
