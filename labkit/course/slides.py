"""The page of slides: nbconvert's, with reveal.js, MathJax and plotly.js read from a folder beside it and nothing from
anywhere else, and with every slide made to fit the screen.
"""

import json
import re
from html import escape

import nbformat

PLOTLY = "application/vnd.plotly.v1+json"
WIDTH, HEIGHT = 1280, 800  # pixels, of a slide before it is scaled to the screen

# nbconvert's page has the look of a notebook; and headings in capitals, as reveal.js has them, would make Λ of λ.
STYLE = """
.reveal { font-size: 28px; }
.reveal h1, .reveal h2, .reveal h3 { text-transform: none; letter-spacing: normal; margin: 0 0 0.5em; }
.reveal h1 { font-size: 1.8em; }
.reveal h2 { font-size: 1.4em; }
.reveal h3 { font-size: 1.2em; }
.reveal .jp-RenderedHTMLCommon { font-size: 1em; line-height: 1.4; padding: 0; }
.reveal .jp-RenderedHTMLCommon table { font-size: 0.75em; margin: 0.4em 0; }
.reveal .jp-RenderedHTMLCommon ol, .reveal .jp-RenderedHTMLCommon ul { margin: 0.3em 0 0.6em 1.2em; }
.reveal .jp-Cell, .reveal .jp-OutputArea, .reveal .jp-Cell-outputWrapper { overflow: visible; padding: 0; }
.reveal .jp-Collapser, .reveal .jp-InputPrompt, .reveal .jp-OutputPrompt { display: none; }
.reveal div.jp-OutputArea-output > pre { width: 100%; font-size: 0.78em; line-height: 1.3; overflow-x: auto;
  box-sizing: border-box; white-space: pre; }
.reveal .jp-RenderedImage img { width: 100%; max-width: 100%; max-height: var(--tall); margin: 0; object-fit: contain;
  object-position: left; }
.reveal .recording { width: 100%; height: min(var(--own), var(--tall)); }
.reveal .slides section section { padding: 0 24px; box-sizing: border-box; }
.reveal .controls { transform: scale(0.6); transform-origin: bottom right; }
.reveal .slides section.long { overflow-y: auto; max-height: 100%; }
"""

# A slide that is too tall has its pictures made smaller first, then all letters; too long a line, its letters.
SCRIPT = """
async function show(slide) {
  if (!slide || !slide.clientWidth) return;
  const height = Reveal.getConfig().height;
  let picture = 640, letters = 1;
  const tall = () => {
    slide.style.setProperty("--tall", picture + "px");
    slide.style.fontSize = letters + "em";
    for (const text of slide.querySelectorAll(".jp-OutputArea-output > pre")) {
      text.style.fontSize = "";
      const size = parseFloat(getComputedStyle(text).fontSize), share = text.clientWidth / text.scrollWidth;
      if (share < 1) text.style.fontSize = Math.max(9, Math.floor(10 * size * share) / 10) + "px";
    }
    return slide.scrollHeight > height || slide.scrollWidth > slide.clientWidth + 1;
  };
  slide.classList.remove("long");
  while (tall() && picture > 380) picture -= 20;
  while (tall() && letters > 0.6) letters -= 0.04;
  while (tall() && picture > 260) picture -= 20;
  slide.classList.toggle("long", tall());
  Reveal.layout();
  for (const place of slide.querySelectorAll(".recording:not(.js-plotly-plot)")) {
    const { data, layout, frames } = JSON.parse(place.nextElementSibling.textContent);
    delete layout.height; // that of its place
    await Plotly.newPlot(place, data, layout, { responsive: true, displayModeBar: false, plotGlPixelRatio: 1 });
    await Plotly.addFrames(place, frames);
  }
}
const now = () => show(Reveal.getCurrentSlide());
Reveal.on("ready", now);
Reveal.on("slidechanged", now);
window.addEventListener("load", now); // when pictures have their size
"""


def recording(figure: dict) -> str:
    """A figure with frames as HTML: an empty place, which the page fills when its slide is shown, and what to draw."""
    height = figure["layout"].get("height", 450)
    content = json.dumps({key: figure[key] for key in ("data", "layout", "frames")}).replace("</", "<\\/")
    return f'<div class="recording" style="--own: {height}px"></div><script type="application/json">{content}</script>'


def question(text: str, kind: list | str = "") -> str:
    """What a slide has in the place of an input, as Markdown: the question, and the choices where `kind` has them."""
    choices = "  ·  ".join(escape(str(choice)) for choice in kind) if isinstance(kind, list) else ""
    return f"**Predict first.** {text}" + f"\n\n{choices}" * bool(choices)


def page(notebook: nbformat.NotebookNode, reveal: str) -> str:
    """The slides of a notebook whose cells have a slide_type, as one page that reads reveal.js from the folder
    `reveal` beside it.

    nbconvert's page fetches require.js, and MathJax where it is told of none; reveal.js is loaded here by plain script
    tags, MathJax from `reveal/mathjax/tex-svg.js`, and for recordings plotly.js from `reveal/plotly.min.js`. Formulas
    stay as they are typed where the file of MathJax is missing.
    """
    from nbconvert import SlidesExporter

    exporter = SlidesExporter(
        reveal_url_prefix=reveal,
        reveal_theme="white",  # the others fetch their fonts
        require_js_url="",
        jquery_url="",
        mathjax_url="",
        exclude_input=True,
    )
    made, _ = exporter.from_notebook_node(notebook)
    made = re.sub(r'<script src=""></script>', "", made)
    made = re.sub(r'<script type="module">(?:(?!</script>).)*mermaid.*?</script>', "", made, count=1, flags=re.DOTALL)
    made = re.sub(r'<link[^>]*href="https?://[^>]*>', "", made)
    made = re.sub(r'<script[^>]*src="https?://[^>]*>\s*</script>', "", made)
    mathjax = made.find("<!-- Load mathjax -->")
    if mathjax >= 0:
        made = made[:mathjax] + made[made.find("<!-- End of mathjax configuration -->", mathjax) :]
    start = made.rfind("<script", 0, made.find("require(", made.find('class="reveal"')))
    end = made.find("</script>", start) + len("</script>")
    if start < 0:
        raise ValueError("nbconvert's page of slides is not built as expected: there is no require(…) after the slides")
    plotly = f'<script src="{reveal}/plotly.min.js"></script>' if 'class="recording"' in made else ""
    starter = f"""
<script src="{reveal}/dist/reveal.js"></script>
<script src="{reveal}/plugin/notes/notes.js"></script>
{plotly}
<script>
{SCRIPT}
Reveal.initialize({{width: {WIDTH}, height: {HEIGHT}, margin: 0.05, controls: true, progress: true, history: true,
  transition: "none", plugins: [RevealNotes]}});
window.MathJax = {{
  tex: {{inlineMath: [["$", "$"], ["\\\\(", "\\\\)"]], displayMath: [["$$", "$$"]], processEscapes: true}},
  startup: {{pageReady: () => MathJax.startup.defaultPageReady().then(now)}},
}};
</script>
<script src="{reveal}/mathjax/tex-svg.js" onerror="this.remove()"></script>
"""
    made = made[:start] + starter + made[end:]
    return made.replace("</head>", f"<style>{STYLE}</style>\n</head>", 1)
