"""The bold sentences of the notebooks as a table: claim, where, seeds, whether a rate was swept, rule, verdict.

    python tools/findings.py          write docs/findings.md from docs/findings.toml, and name what is missing

docs/findings.toml has an entry for every bold sentence of the notebooks that it covers; what is bold and no claim, as a
term or the name of a part, is listed there too. `checked` names the cell that decides the claim from the notebook's own
data: its assertions run wherever the notebook does, so that a verdict cannot stay when the numbers go.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
SOURCE, TABLE = ROOT / "docs/findings.toml", ROOT / "docs/findings.md"
VERDICTS = ("holds", "holds in part", "does not hold", "cannot be told", "by derivation")
FIELDS = {"notebook", "bold", "says", "seeds", "rate", "rule", "verdict", "checked"}
PARTS = r"Exercise \d|You are here|Time$|Prerequisites|What you will be able to do|Predict first|\d\d "
HEAD = """# Every bold sentence, and what it stands on

What the notebooks set in bold and mean as a finding, with the number of seeds, whether each side was given its best learning rate, the rule that decides, and the verdict. *By derivation*: proved, and
checked by numbers. Each is asserted in a cell of its notebook (tagged `hidden-check`, or shown), which runs with the notebook's tests. Made by `python tools/findings.py` from `docs/findings.toml`.

"""


def bold(nb):
    """The bold texts of the markdown cells of a notebook, but for the names of its parts."""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            for text in re.findall(r"\*\*(.+?)\*\*", cell.source, re.DOTALL):
                if not re.match(PARTS, text := " ".join(text.split())):
                    yield text


def notebook(number):
    (path,) = (ROOT / "notebooks").glob(f"{number}-*.ipynb")
    return path


def load():
    """The findings, a list of dicts, and {notebook: [bold texts that are no claims]}."""
    found = tomllib.loads(SOURCE.read_text())
    return found["finding"], found["terms"]


def missing(findings, terms):
    """What is wrong, as sentences: bold texts without an entry, entries without their text or their cell."""
    problems = []
    for number, names in terms.items():
        path = notebook(number)
        nb, mine = nbformat.read(path, as_version=4), [f for f in findings if f["notebook"] == number]
        there, known = list(bold(nb)), [f["bold"] for f in mine] + names
        problems += [f"{path.stem}: “{text}” is bold and has no entry" for text in there if text not in known]
        problems += [f"{path.stem}: “{text}” has an entry and is not bold there" for text in known if text not in there]
        cells = {cell.id: cell.source for cell in nb.cells}
        for finding in mine:
            if set(finding) != FIELDS or finding["verdict"] not in VERDICTS:
                problems.append(f"{path.stem}: the entry of “{finding['bold']}” is incomplete or has no known verdict")
            elif "assert" not in cells.get(finding["checked"], ""):
                problems.append(f"{path.stem}: no cell {finding['checked']} asserts “{finding['bold']}”")
    return problems


def table(findings):
    rows = ["| claim | where | seeds | rate swept? | rule | verdict |", "|---|---|---|---|---|---|"]
    for f in findings:
        path = notebook(f["notebook"])
        where = f"[{f['notebook']}](../notebooks/{path.name}), cell `{f['checked']}`"
        rows.append(f"| {f['says']} | {where} | {f['seeds']} | {f['rate']} | {f['rule']} | {f['verdict']} |")
    return HEAD + "\n".join(rows) + "\n"


def main():
    argparse.ArgumentParser(description="Write docs/findings.md from docs/findings.toml.").parse_args()
    findings, terms = load()
    TABLE.write_text(table(findings))
    if problems := missing(findings, terms):
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
