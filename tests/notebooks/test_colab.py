"""A notebook of `make colab` runs by itself, and the public address is everywhere or nowhere."""

import base64
import io
import os
import re
import sys
import venv
import zipfile
from pathlib import Path

import address
import colab
import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import notebooks
from notebooks import add_badge, add_setup, reads, setup_source, tagged

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
READ = ["paper/guiding-table1.csv", "results/ufm-10.parquet"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """An environment like Colab's, with nothing of ours: its Python, and the variables to run it with. It finds the
    packages of the tests' environment, so that nothing needs to be fetched.
    """
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv")
    python = folder / "venv/bin/python"
    (folder / "packages").mkdir()
    sites = [Path(entry) for entry in sys.path if entry.endswith("site-packages")]
    for path in {path.name: path for site in sites for path in site.iterdir()}.values():
        if "neural_collapse_lab" not in path.name and path.name != "google":
            (folder / "packages" / path.name).symlink_to(path)
    colab.like_colab(python)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    (site / "packages.pth").write_text(f"{folder / 'packages'}\n")
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PLOTLY_RENDERER")}
    return python, env | {"IPYTHONDIR": str(folder / "ipython"), "PIP_NO_INDEX": "1"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A notebook that reads a table of the paper and a stored result, as `make colab` writes it."""
    folder = tmp_path_factory.mktemp("colab")
    cells = [
        "import sys, labkit\nfrom labkit.course import standalone\nprint(labkit.__file__, 'google.colab' in sys.modules)",
        "from pathlib import Path\nprint(sorted(p.relative_to('../data').as_posix() for p in Path('../data').rglob('*.*')))",
        "import pandas as pd\nfrom labkit.history import History\n"
        "print(len(pd.read_csv('../data/paper/guiding-table1.csv')), len(History.load('../data/results/ufm-10.parquet').frame))",
        "from labkit import widgets\nmovie = widgets.collapse.CollapseExplorer(seed=0)\nmovie.film()",
        "movie",
        "standalone.enter()\nprint(Path.cwd().parts[-2:])",
    ]
    nb = new_notebook(cells=[new_markdown_cell("# Made up"), *map(new_code_cell, cells)])
    add_setup(nb)
    nb.metadata["labkit"] = {"reads": READ}
    nbformat.write(nb, folder / "made-up.ipynb")
    colab.build([folder / "made-up.ipynb"], folder / "out")
    return folder / "out/made-up.ipynb"


def test_it_runs_where_nothing_of_ours_is(alone, fresh):
    nb, wrong = colab.run_alone(alone, *fresh)
    assert wrong == ""
    printed = ["".join(out.get("text", "") for out in cell.outputs) for cell in nb.cells if cell.cell_type == "code"]
    assert str(fresh[0].parent.parent) in printed[1] and printed[1].endswith(
        " True\n"
    )  # the wheel's, not the checkout's
    assert eval(printed[2]) == READ
    assert [int(n) for n in printed[3].split()] == [
        len((ROOT / "data/paper/guiding-table1.csv").read_text().splitlines()) - 1,
        len(pd.read_parquet(ROOT / "data/results/ufm-10.parquet")),
    ]
    film, explorer = (str([out.get("data") for out in cell.outputs]) for cell in nb.cells[5:7])
    assert "Plotly.newPlot(" in film  # plotly's way in Colab
    assert "labkitPlots" in explorer  # ours
    assert printed[6] == "('labkit-course', 'notebooks')\n"


def test_what_is_too_much_for_one_file_lies_beside_it(alone, fresh, tmp_path, monkeypatch):
    """It runs with the archive beside it, says what is missing without, and once there is an address fetches it there."""
    monkeypatch.setattr(colab, "LARGEST", 20_000)
    nb = new_notebook(cells=[new_code_cell("print(len(__import__('pandas').read_parquet('../data/results/ufm-10.parquet')))")])
    add_setup(nb)
    nb.metadata["labkit"] = {"reads": READ}
    nbformat.write(nb, tmp_path / "1-large.ipynb")
    (path,) = colab.build([tmp_path / "1-large.ipynb"], tmp_path / "out")
    assert path.stat().st_size < 20_000 and sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1-large.ipynb", "1-large.zip"]
    done, wrong = colab.run_alone(path, *fresh)
    assert wrong == "" and int(done.cells[1].outputs[0]["text"]) == len(pd.read_parquet(ROOT / "data/results/ufm-10.parquet"))
    path.with_suffix(".zip").rename(tmp_path / "kept.zip")
    assert "1-large.zip is not there: `make colab` wrote it beside this notebook" in colab.run_alone(path, *fresh)[1]
    kept = (tmp_path / "kept.zip").as_uri()
    monkeypatch.setattr(address, "beside", lambda name: kept)
    (path,) = colab.build([tmp_path / "1-large.ipynb"], tmp_path / "out")
    path.with_suffix(".zip").unlink()
    done, wrong = colab.run_alone(path, *fresh)
    assert wrong == "" and "fetching 1-large.zip" in done.cells[0].outputs[0]["text"]


def test_what_it_carries(alone):
    """The wheel has all modules and no results; nothing names an address or a path of this machine."""
    (cell,) = tagged(nbformat.read(alone, as_version=4), "setup")
    assert not re.search(r"git\+|https?:", cell.source) and str(ROOT) not in cell.source
    names = packed_names(cell.source)
    assert {name for name in names if name.startswith("data/")} == {f"data/{name}" for name in READ}
    assert alone.stat().st_size < 1_000_000


def packed_names(source):
    """The names in the archive; the wheel within it is looked at here."""
    content = re.search(r'CONTENT = """\n(.*?)\n"""', source, re.DOTALL)[1]
    archive = zipfile.ZipFile(io.BytesIO(base64.b64decode(content)))
    (wheel,) = [name for name in archive.namelist() if name.endswith(".whl")]
    inside = zipfile.ZipFile(io.BytesIO(archive.read(wheel))).namelist()
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "labkit").rglob("*.py")}
    assert modules <= set(inside) and not [name for name in inside if "stored" in name]
    return archive.namelist()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_says_what_it_reads(path):
    """Every file is there, and those that its code names are among them."""
    nb = nbformat.read(path, as_version=4)
    found = nb.metadata["labkit"]["reads"]
    assert [name for name in found if not (ROOT / "data" / name).is_file()] == []
    assert set(reads(nb, Path(os.devnull), path.parent)) <= set(found)


def test_a_run_writes_down_what_it_opens(tmp_path):
    """By pandas and by History under any name, and what its code names; no more."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "data").symlink_to(ROOT / "data")
    cells = [
        'PRESET = "quick"',
        "import pandas as pd\nfrom labkit.history import History\nfrom labkit.studies.ufms import sweep",
        "data = '../da' + 'ta/'\npd.read_csv(data + 'paper/guiding-table3.csv')",
        "if False: pd.read_parquet('../data/results/digits.parquet')",
        "len(sweep.load(data + 'results/ufm', 'UFM-10-fixed-seed-*').frame)",
    ]
    nb = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    nb.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(nb, folder / "reader.ipynb")
    nb = notebooks.execute(folder / "reader.ipynb", opened=tmp_path / "opened")
    seeds = sorted(path.name for path in (ROOT / "data/results/ufm").glob("UFM-10-fixed-seed-*.parquet"))
    wanted = ["paper/guiding-table3.csv", "results/digits.parquet", *(f"results/ufm/{name}" for name in seeds)]
    assert len(seeds) > 1 and reads(nb, tmp_path / "opened", folder) == sorted(wanted)


# --- the address ----------------------------------------------------------------------------------------------------


def test_what_is_committed_follows_the_address():
    """Run `tools/notebooks.py setup` where this fails."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert address.with_links(readme) == readme and "end of links" in readme
    for path in PATHS:
        nb = nbformat.read(path, as_version=4)
        assert [cell.source for cell in tagged(nb, "badge")] == list(filter(None, [address.badge(path.stem)]))


def small():
    return new_notebook(cells=[new_markdown_cell("# A title"), new_code_cell("1 + 1")])


def test_without_an_address_nothing_leads_there(monkeypatch):
    monkeypatch.setattr(address, "project", lambda: {"name": "neural-collapse-lab"})
    assert (address.repository(), address.site(), address.colab("x"), address.source("x")) == (None,) * 4
    nb = small()
    add_badge(nb, "00-x")
    assert len(nb.cells) == 2 and address.links() == ""
    assert "pip" not in setup_source() and "http" not in setup_source() and "make lab" in setup_source()


def test_with_an_address_badges_and_links_appear_and_go_again(monkeypatch):
    urls = {"Repository": "https://github.com/Some-One/the-lab.git"}
    monkeypatch.setattr(address, "project", lambda: {"name": "neural-collapse-lab", "urls": urls})
    assert address.site() == "https://some-one.github.io/the-lab/"
    opened = "https://colab.research.google.com/github/Some-One/the-lab/blob/colab/00-x.ipynb"
    nb = small()
    add_badge(nb, "00-x"), add_badge(nb, "00-x")
    assert len(nb.cells) == 3 and opened in nb.cells[1].source
    nbformat.validate(nb)
    assert '%pip install "neural-collapse-lab[notebooks] @ git+https://github.com/Some-One/the-lab"' in setup_source()
    text = address.with_links("# T\n<!-- links: x -->\n<!-- end of links -->\nmore\n")
    assert address.site() in text and "blob/colab/00-start-here.ipynb" in text
    urls.clear()
    assert address.with_links(text) == "# T\n<!-- links: x -->\n<!-- end of links -->\nmore\n"
    add_badge(nb, "00-x")
    assert [cell.source for cell in nb.cells] == [cell.source for cell in small().cells]


def test_an_address_elsewhere_has_no_colab(monkeypatch):
    urls = {"Repository": "https://codeberg.org/some/lab"}
    monkeypatch.setattr(address, "project", lambda: {"name": "neural-collapse-lab", "urls": urls})
    assert address.colab("x") is None and address.site() is None and address.links() == ""
    assert address.source("docs/data.md") == "https://codeberg.org/some/lab/blob/main/docs/data.md"
    assert "git+https://codeberg.org/some/lab" in setup_source()

