"""A figure on the page that follows Python: sent as plain plotly JSON, drawn anew in place.

A notebook stores the last figure drawn, as JSON that any front end shows. Each update is the whole figure under a
display id.
What the page does with it differs:

- JupyterLab 4 and Notebook 7 draw it with the renderer in plotly's package, which draws a figure once and ignores
  what comes later. A script changes that: `Plotly.react` then draws the difference into the same plot, so that the
  camera, the zoom and the graphics context stay. Of the figures that arrive during a drawing, the last one is drawn
  next.
- Colab has no such renderer: there the figure is a page of its own with a script, which keeps the plot and does the
same.
- Others, VS Code for one, draw each bundle by themselves.
"""

import json
import sys
import uuid

from IPython.display import display
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs_version

MIME = "application/vnd.plotly.v1+json"

# Draws `figure` into the plot `gd` once the drawing under way, if any, is done; what waits is replaced by what comes
# later.
_DRAW = """
  const draw = async (Plotly, gd, figure) => {
    const busy = gd.labkitNext !== undefined;
    gd.labkitNext = figure;
    if (busy) return;
    try {
      while (gd.labkitNext) {
        await new Promise(requestAnimationFrame);
        const figure = gd.labkitNext;
        gd.labkitNext = null;
        await Plotly.react(gd, figure);
      }
    } finally {
      delete gd.labkitNext;
    }
  };"""

# Pictures in three dimensions at the screen's own resolution. By itself plotly.js draws twice as fine, four times the
# pixels:
# hardly to be seen, and where the processor draws, the longest part of an update (measured, 200 to 260 ms from key to
# drawing).
_RESOLUTION = "setPlotConfig({ plotGlPixelRatio: devicePixelRatio })"

# JupyterLab keeps the modules of its extensions under window._JUPYTERLAB; this one has the renderer and, in it,
# plotly.js.
_PATCH = """(async () => {%s
  const extension = window._JUPYTERLAB?.["jupyterlab-plotly"];
  if (!extension) return;
  const [plugin] = [(await extension.get("./mimeExtension"))().default].flat();
  const renderer = plugin.rendererFactory.createRenderer({ mimeType: "%s" });
  const prototype = Object.getPrototypeOf(renderer);
  renderer.dispose();
  if (prototype.labkitFirst) return;
  const { constructor: Renderer } = prototype;
  Renderer.loadingPlotly?.then(() => Renderer.Plotly.%s);
  prototype.labkitFirst = prototype.renderModel;
  prototype.renderModel = function (model) {
    if (!this.hasGraphElement()) return this.labkitFirst(model);
    return draw(Renderer.Plotly, this.node, structuredClone(model.data["%s"]));
  };
})();""" % (_DRAW, MIME, _RESOLUTION, MIME)

# In Colab a cell's outputs are one frame, whose window keeps plotly.js and the plot from one output to the next. The
# script tag is made here because Colab does not wait for those it finds in an output that a widget sent.
_PAGE = """<div id="%(name)s"></div><script>(async () => {%(draw)s
  await (window.labkitPlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    Object.assign(script, { src: "%(source)s", onload: () => resolve(Plotly.%(resolution)s), onerror: reject });
    document.head.append(script);
  }));
  const gd = ((window.labkitPlots ??= {})["%(name)s"] ??= document.createElement("div"));
  document.getElementById("%(name)s").append(gd);
  await draw(Plotly, gd, %(figure)s);
})();</script>"""


def bundle(figure: Figure) -> dict:
    """A figure as the raw MIME bundle that front ends draw. What the reader turned, zoomed or hid stays so in the next
    figure.
    """
    content = json.loads(figure.to_json())
    content["layout"].setdefault("uirevision", "labkit")
    return {MIME: content}


def page(figure: Figure, name: str) -> dict:
    """A figure as a piece of a web page, for Colab: it fetches plotly.js and draws into the plot of that name."""
    text = json.dumps(bundle(figure)[MIME]).replace("</", "<\\/")  # a title could hold </script>
    source = f"https://cdn.plot.ly/plotly-{get_plotlyjs_version()}.min.js"
    return {"text/html": _PAGE % dict(name=name, draw=_DRAW, source=source, resolution=_RESOLUTION, figure=text)}


class LiveFigure:
    """A figure on the page that can be replaced in place."""

    def __init__(self):
        self._handle = None
        self._name = f"labkit-{uuid.uuid4().hex}"

    def draw(self, figure: Figure):
        """Show a figure, the first time as an output of the present cell, from then on in that place."""
        in_colab = "google.colab" in sys.modules
        content = page(figure, self._name) if in_colab else bundle(figure)
        if self._handle is None:
            first = content if in_colab else {"application/javascript": _PATCH}
            self._handle = display(first, raw=True, display_id=True)
            if in_colab:
                return
        if self._handle is not None:  # as it is outside of a notebook
            self._handle.update(content, raw=True)
