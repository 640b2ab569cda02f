"""The course as web pages that need neither Python nor a network: build/site (`make site`).

    python tools/pages.py [NAME ...] [--out build/site] [--no-reference]

The notebooks as they are saved, with their recordings to play; docs/*.md; the reference of labkit from its docstrings, by
pdoc. What they share lies beside them in assets/: plotly.js once, MathJax once, one style and one script. The pages work
from a folder (file://) and from any static server under any path. Names: some notebooks only.
"""

import argparse
import ast
import base64
import copy
import functools
import hashlib
import html
import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import address
import course_map
import nbformat
import pdoc
from alt import describe, slider_title
from jinja2 import FileSystemLoader
from nbconvert import HTMLExporter
from plotly.offline import get_plotlyjs
from pygments.formatters import HtmlFormatter

from labkit.course import editions
from notebooks import PLOTLY, ROOT, SIZE, notebook, picture, write

WEB = Path(__file__).resolve().parent / "web"
LARGEST = 1_500_000  # bytes of a page
# MathJax as one file that draws formulas without fonts; the package brings nothing else that is needed here.
MATHJAX = "django-static-mathjax==3.2.2.1"
MATHJAX_FILE = "mathjax/static/mathjax/es5/tex-svg.js"
MATHJAX_SHA256 = "2af9375000b5a3669be94d436ae1c61159855283cd18b3ee9817fb71c8f94c84"
GONE = {"setup", "hidden-check", "badge", "notes"}  # tags of cells that a page does not show
FOLDS = {"answer": "After your prediction", "solution": "Solution"}  # and of those that open with a click
MARKDOWN = ["docs/*.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/paper/README.md", "data/results/README.md"]
SLIDER_HEIGHT = 95  # pixels that labkit.plots.player adds to a figure for its slider


# --- cells ------------------------------------------------------------------------------------------------------------


def for_readers(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy of a notebook as a page shows it: without set-up and checks, answers and solutions folded, predictions as
    questions.
    """
    nb = copy.deepcopy(nb)
    nb.cells = [part for cell in nb.cells if not editions.tags(cell) & GONE for part in parts(cell)]
    for cell in nb.cells:
        tags = editions.tags(cell)
        if cell.cell_type == "code":
            cell.metadata["folded"] = bool(tags & {"parameters", "check"})
            if "predict" in tags:
                cell.metadata["unseen"] = True
                cell.outputs = [nbformat.v4.new_output("display_data", {"text/html": ask(cell)})]
            for out in cell.outputs:
                if "(interactive: run this notebook" in str(out.get("data", {}).get("text/plain", "")):
                    said = "In the notebook there are controls here; the page shows what they start from."
                    out.data = nbformat.from_dict({"text/html": f'<p class="note">{said}</p>'})
    kind = [next((FOLDS[tag] for tag in FOLDS if tag in editions.tags(cell)), None) for cell in nb.cells]
    for k, cell in enumerate(nb.cells):
        if kind[k] and (k == 0 or kind[k - 1] != kind[k]):
            cell.metadata["fold"] = kind[k]
        if kind[k] and (k + 1 == len(nb.cells) or kind[k + 1] != kind[k]):
            cell.metadata["unfold"] = True
    return nb


def parts(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """A cell, or, where a folded text goes on to the next section, the two: a heading is never folded away."""
    heading = re.search(r"(?m)^#{1,4} ", cell.source)
    if cell.cell_type != "markdown" or heading is None or not editions.tags(cell) & set(FOLDS):
        return [cell]
    before, after = copy.deepcopy(cell), copy.deepcopy(cell)
    after["id"] += "-next"
    before.source, after.source = cell.source[: heading.start()], cell.source[heading.start() :]
    after.metadata["tags"] = [tag for tag in cell.metadata["tags"] if tag not in FOLDS]
    return [before, after] if before.source.strip() else [after]


def ask(cell: nbformat.NotebookNode) -> str:
    """What the calls of `predict` in a cell ask, as HTML."""
    shown = [out.data["text/plain"] for out in cell.outputs if "text/plain" in out.get("data", {})]
    said = []
    for k, (_, arguments) in enumerate(editions.calls(nbformat.v4.new_notebook(cells=[cell]), "predict")):
        found = re.match(r"Predict first\. (.*) \(run this notebook", shown[k] if k < len(shown) else "", re.DOTALL)
        question = found[1] if found else literal(arguments[1])
        choices = ""
        if len(arguments) > 2 and isinstance(listed := literal(arguments[2]), list):
            choices = "<ul>" + "".join(f"<li>{html.escape(str(choice))}</li>" for choice in listed) + "</ul>"
        said.append(f'<div class="predict"><strong>Predict first.</strong> {html.escape(question)}{choices}</div>')
    return "".join(said)


def literal(code: str):
    """The value of an expression; of a text with values in it, the text with their names; of others, their code."""
    tree = ast.parse(code, mode="eval").body
    if isinstance(tree, ast.JoinedStr):
        return "".join(ast.unparse(v.value) if isinstance(v, ast.FormattedValue) else v.value for v in tree.values)
    try:
        return ast.literal_eval(tree)
    except ValueError:
        return code


# --- figures ----------------------------------------------------------------------------------------------------------


def still(figure: dict) -> tuple[dict, list[str], str, int]:
    """A figure without plotly's own slider, the labels of its frames, what they are frames of, and which is shown first;
    a figure without a slider has no labels.
    """
    figure = json.loads(json.dumps({key: figure[key] for key in ("data", "layout", "frames") if key in figure}))
    sliders = figure["layout"].pop("sliders", [])
    figure["layout"].pop("updatemenus", None)
    if not sliders:
        return figure, [], "", 0
    (slider,) = sliders
    figure["layout"]["height"] -= SLIDER_HEIGHT
    figure["layout"]["margin"]["b"] -= SLIDER_HEIGHT
    return figure, [step["label"] for step in slider["steps"]], slider_title(slider), slider.get("active", 0)


def player(figure: dict, image: str | None, name: str) -> str:
    """A figure as HTML: its picture until it is drawn, its content, and for a recording a slider of the browser's own.

    image: where its picture lies. name: of this figure, once in a page.
    """
    words = html.escape(describe(figure))
    figure, labels, title, start = still(figure)
    layout = figure["layout"]
    height = layout.get("height", SIZE["height"])
    wide = sum(key.startswith("xaxis") for key in layout) + sum(key.startswith("scene") for key in layout) > 1
    wide |= len((layout.get("title") or {}).get("text", "")) > 60
    content = json.dumps({**figure, "labels": labels}, separators=(",", ":"), ensure_ascii=False).replace("</", "<\\/")
    image = f'<img class="plot-still" loading="lazy" alt="{words}" src="{image}">' if image else ""
    controls = ""
    if labels:  # its picture has plotly's slider in it, which the page has not
        image = f"<noscript>{image}</noscript>"
        options = "".join(f'<option value="{k}" label="{html.escape(label)}">' for k, label in enumerate(labels))
        shown = html.escape(labels[start])
        controls = f"""
<div class="player" role="group" aria-label="Recording: {html.escape(title)}">
<button type="button" aria-label="play">▶</button>
<label for="{name}">{html.escape(title)}</label>
<input type="range" id="{name}" min="0" max="{len(labels) - 1}" step="1" value="{start}" aria-valuetext="{shown}">
<output for="{name}">{shown}</output>
<datalist>{options}</datalist>
</div>"""
    return f"""<figure class="plot{" wide" * wide}">
<div class="plot-scroll" style="min-height: {height}px">{image}<div class="plot-area" style="height: {height}px" role="img" aria-label="{words}"></div></div>{controls}
<script type="application/json">{content}</script>
</figure>"""


def with_figures(nb: nbformat.NotebookNode, stem: str, folder: Path) -> int:
    """Put players in the place of a notebook's figures, in place, and their pictures into a folder `figures` below
    `folder`. Returns how many there are.
    """
    count = 0
    for out in (out for cell in nb.cells for out in cell.get("outputs", []) if PLOTLY in out.get("data", {})):
        count += 1
        place = None
        if shown := picture(out):
            kind, content = re.fullmatch(r"data:image/(\w+);base64,(.*)", shown, re.DOTALL).groups()
            path = folder / "figures" / f"{stem}-{count}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(content))
            place = f"figures/{path.name}"
        out.data = nbformat.from_dict({"text/html": player(out.data[PLOTLY], place, f"frame-{count}")})
    return count


# --- pages ------------------------------------------------------------------------------------------------------------


@functools.cache
def exporter() -> HTMLExporter:
    return HTMLExporter(extra_loaders=[FileSystemLoader(WEB)], template_file="page.html.j2")


class Site:
    """Where every page is: `pages`, {path in the repository: path in the site}; `titles`, of the same; `out`, its folder."""

    def __init__(self, out: Path, notebooks: list[Path], markdown: list[Path]):
        self.out, self.images = out, {}
        self.pages = {f"notebooks/{path.name}": f"notebooks/{path.stem}.html" for path in notebooks}
        self.pages |= {path.relative_to(ROOT).as_posix(): place(path) for path in markdown}
        self.pages["README.md"] = "index.html"
        self.titles = {}
        for source in self.pages:
            text = (ROOT / source).read_text(encoding="utf-8")
            if source.endswith(".ipynb"):
                text = next(
                    cell.source for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "markdown"
                )
            self.titles[source] = plain_title(text)

    def page(self, source: str, nb: nbformat.NotebookNode, **more) -> None:
        """Write one page; `source` is its path in the repository, nb what it shows."""
        target = self.pages[source]
        figures = 0 if source == "README.md" else with_figures(nb, Path(source).stem, (self.out / target).parent)
        text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
        repository = address.repository()
        page = dict(title=self.titles[source], up="../" * target.count("/"), plots=figures > 0, repository=repository)
        page |= (
            dict(formulas=re.search(r"\$[^$]+\$", without_code(text)), version=address.project()["version"], toc="")
            | more
        )
        body, _ = exporter().from_notebook_node(nb, {"metadata": {"name": page["title"]}, "page": page})
        body = re.sub(
            r'<a href="([^"]*)"([^>]*)>(.*?)</a>', lambda m: self.link(source, *m.groups()), body, flags=re.DOTALL
        )
        body = re.sub(r'(<img [^>]*?src=")(?!data:|figures/)([^"]*)', lambda m: m[1] + self.image(source, m[2]), body)
        self.write(target, body.replace("<!-- contents -->", contents(body)))

    def write(self, target: str, text: str) -> None:
        if (size := len(text.encode())) > LARGEST:
            raise ValueError(f"{target} would have {size:,} bytes, over {LARGEST:,}")
        (self.out / target).parent.mkdir(parents=True, exist_ok=True)
        write(self.out / target, text)

    def link(self, source: str, href: str, more: str, text: str) -> str:
        """A link as the page has it: to another page, to the repository, or, with no address for that, its text alone."""
        if re.match(r"[a-z]+:|#|$", href) or "page-own" in more:
            return f'<a href="{href}"{more}>{text}</a>'
        path, _, anchor = html.unescape(href).partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        target = self.pages.get(path)
        if target is not None:
            to = posixpath.relpath(target, posixpath.dirname(self.pages[source]) or ".") + (
                f"#{anchor}" if anchor else ""
            )
        elif (to := address.source(path)) is None:
            return f"<span>{text}</span>"
        return f'<a href="{html.escape(to)}"{more}>{text}</a>'

    def image(self, source: str, href: str) -> str:
        """Copies a picture of the repository and says where the page finds it."""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), href))
        copied = self.out / "assets" / Path(path).name
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, copied)
        return posixpath.relpath(f"assets/{copied.name}", posixpath.dirname(self.pages[source]) or ".")


def place(path: Path) -> str:
    """Where the page of a Markdown file lies: docs/data-results.html for data/results/README.md."""
    name = path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/README").removeprefix("docs/")
    return f"docs/{name.replace('/', '-').lower()}.html"


def plain_title(text: str) -> str:
    """The first heading of a Markdown text."""
    found = re.search(r"(?m)^#+ +(.*)$", text)
    return re.sub(r"[`*$]", "", found[1]) if found else "labkit"


def without_code(text: str) -> str:
    return re.sub(r"(?s)```.*?```|`[^`]*`", "", text)


def contents(body: str) -> str:
    """Links to the sections of a page, folded."""
    found = re.findall(r'<h2 id="([^"]+)">(.*?)<a class="anchor-link"', body, re.DOTALL)
    if len(found) < 3:
        return ""
    items = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in found)
    return f'<details class="toc"><summary>On this page</summary><ul>{items}</ul></details>'


def markdown(text: str) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])


def notebook_pages(site: Site, paths: list[Path]) -> None:
    neighbours = [None, *paths, None]
    for before, path, after in zip(neighbours, paths, neighbours[2:]):
        source = f"notebooks/{path.name}"
        around = {
            word: other and dict(href=f"{other.stem}.html", title=site.titles[f"notebooks/{other.name}"])
            for word, other in (("before", before), ("after", after))
        }
        nb = for_readers(nbformat.read(path, as_version=4))
        site.page(source, nb, **around, toc="<!-- contents -->", colab=address.colab(path.stem), runs=True)


def markdown_pages(site: Site, paths: list[Path]) -> None:
    for path in paths:
        source = path.relative_to(ROOT).as_posix()
        site.page(source, markdown(path.read_text(encoding="utf-8")), toc="<!-- contents -->")
    sources = [path.relative_to(ROOT).as_posix() for path in paths]
    items = "\n".join(f"- [{site.titles[source]}]({posixpath.relpath(source, 'docs')})" for source in sources)
    site.pages["docs/index.md"], site.titles["docs/index.md"] = "docs/index.html", "Guides"
    site.page("docs/index.md", markdown(f"# Guides\n\n{items}\n"))


# --- the contents page --------------------------------------------------------------------------------------------------

WELCOME = """# Neural collapse: a course and a lab

Train a classifier long past its last mistake, and the features of its last layer collapse: every class to a point, the points
to a regular simplex, the classifier's weights onto the points. Press ▶, or take the slider with mouse or arrow keys.

{film}

Two hundred dots are features, a colour is a class, arrows are class vectors. Nobody told the arrows about angles.

## The map

An arrow leads from what is best read first. [Start here]({first}) if this is your first visit.

{drawn}

## The notebooks

{cards}

Everything on these pages can be read and played as it is. To run the notebooks, move their sliders and do their exercises with
a check that says what is wrong, take the repository: `make lab` opens them in JupyterLab, `make colab` writes each as one file
that runs by itself.

## More

- [Guides](docs/index.md): how it runs, what there is, teaching with it, the papers' claims one by one
- <a href="api/labkit.html" class="page-own">Reference</a>: every public function, with an example
"""


def contents_page(site: Site, paths: list[Path]) -> None:
    """index.html: the first recording of the first notebook, the map, and a card for each notebook."""
    film, cards, needs = "", [], {}
    for path in paths:
        nb = nbformat.read(path, as_version=4)
        needs[path.stem[:2]] = course_map.needed(nb)
        texts = [cell.source for cell in nb.cells if cell.cell_type == "markdown"]
        time = re.search(r"\*\*Time\*\*[:]? *([^.;\n]*)", "\n".join(texts))
        about = about_line(texts[0])
        minutes = f"<p>{html.escape(time[1])}</p>" if time else ""
        title = html.escape(site.titles[f"notebooks/{path.name}"])
        cards.append(f'<li><a href="notebooks/{path.name}">{title}</a><p>{about}</p>{minutes}</li>')
        outs = [out for cell in nb.cells for out in cell.get("outputs", []) if PLOTLY in out.get("data", {})]
        if not film and outs and outs[0].data[PLOTLY].get("frames"):
            film = player(outs[0].data[PLOTLY], None, "film")
    text = WELCOME.format(
        film="@film@",
        drawn="@map@",
        cards=f'<ul class="cards">{"".join(cards)}</ul>',
        first=f"notebooks/{paths[0].name}",
    )
    site.titles["README.md"] = "Neural collapse: a course and a lab"
    nb = markdown(text)
    site.page("README.md", nb, plots=True)
    page = site.out / "index.html"
    titles = {path.stem[:2]: site.titles[f"notebooks/{path.name}"] for path in paths}
    leads = {path.stem[:2]: f"notebooks/{path.stem}.html" for path in paths}
    body = page.read_text(encoding="utf-8").replace("<p>@film@</p>", film)
    write(page, body.replace("<p>@map@</p>", course_map.drawn(needs, titles, leads)))


def about_line(text: str) -> str:
    """The first sentence below a notebook's title, without its formatting."""
    below = text.split("\n", 1)[-1].strip()
    sentence = re.split(r"(?<=[.?!])\s", re.sub(r"\s+", " ", below), maxsplit=1)[0]
    return html.escape(re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`$]", r"\1", sentence))


# --- what pages share, and the reference --------------------------------------------------------------------------------


def mathjax() -> bytes:
    """MathJax's script, from a package that pip fetches once and build/ keeps; checked by its digest."""
    kept = ROOT / "build/mathjax.js"
    if not kept.is_file():
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
            subprocess.run([*command, "-d", folder, MATHJAX], check=True)
            (wheel,) = Path(folder).glob("*.whl")
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(zipfile.ZipFile(wheel).read(MATHJAX_FILE))
    content = kept.read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != MATHJAX_SHA256:
        kept.unlink()
        raise ValueError(f"{MATHJAX} does not hold the file that is known here: its SHA-256 is {found}")
    return content


def assets(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    style = (WEB / "style.css").read_text(encoding="utf-8")
    code = HtmlFormatter(style="default").get_style_defs(".highlight")
    (out / "style.css").write_text(f"{style}\n{code}\n.highlight {{ background: var(--back); }}\n", encoding="utf-8")
    shutil.copy(WEB / "page.js", out)
    (out / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    (out / "mathjax.js").write_bytes(mathjax())


def reference(out: Path, modules: tuple[str, ...] = ("labkit",)) -> None:
    """The reference of these modules and all below them, by pdoc."""
    # By itself pdoc compiles its search index where there is a node, to twice the size; here it is the same everywhere.
    pdoc.render.precompile_index = lambda documents, _: json.dumps(documents)
    pdoc.render.configure(docformat="markdown", show_source=False, template_directory=WEB / "pdoc")
    pdoc.pdoc(*modules, "!labkit._", output_directory=out)


def build(out: Path, notebooks: list[Path] | None = None, modules: tuple[str, ...] | None = ("labkit",)) -> None:
    """Write the site. notebooks: all by default. modules: of the reference, None for none."""
    every = sorted((ROOT / "notebooks").glob("*.ipynb"))
    paths = every if notebooks is None else notebooks
    texts = [path for pattern in MARKDOWN for path in sorted(ROOT.glob(pattern))]
    shutil.rmtree(out, ignore_errors=True)
    site = Site(out, paths, texts)
    assets(out / "assets")
    notebook_pages(site, paths)
    markdown_pages(site, texts)
    contents_page(site, paths)
    if modules:
        reference(out / "api", modules)
    (out / ".nojekyll").touch()  # GitHub Pages leaves the files as they are


def main() -> int | str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=notebook, help="all, if none is named")
    parser.add_argument("--out", type=Path, default=ROOT / "build/site")
    parser.add_argument(
        "--no-reference", action="store_true", help="leave out the reference, which takes half of the time"
    )
    args = parser.parse_args()
    try:
        build(args.out, args.notebooks or None, None if args.no_reference else ("labkit",))
    except ValueError as error:
        return str(error)
    print(f"open {os.path.relpath(args.out / 'index.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
