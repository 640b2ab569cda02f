"""The one public address, [project.urls] Repository in pyproject.toml, and the addresses that follow from it.

While it is not set there is no badge and no link to it anywhere. `tools/notebooks.py setup` writes what is committed: the
first cell of every notebook, their badges and the README's.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BRANCH = "colab"  # .github/workflows/site.yml puts there what `make colab` writes
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"


def project() -> dict:
    """The table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def repository() -> str | None:
    """Where the repository is, without a slash or `.git` at its end; None while nobody has said so."""
    found = project().get("urls", {}).get("Repository")
    return found and found.rstrip("/").removesuffix(".git")


def _on_github() -> tuple[str, str] | None:
    """Owner and name, where the repository is on GitHub."""
    found = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", repository() or "")
    return found and found.groups()


def site() -> str | None:
    """Where GitHub Pages shows what `make site` writes."""
    if (found := _on_github()) is None:
        return None
    owner, name = found
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def colab(name: str) -> str | None:
    """Where Colab opens the notebook of this name, as `make colab` writes it: Colab reads from GitHub."""
    if (found := _on_github()) is None:
        return None
    return "https://colab.research.google.com/github/{}/{}/blob/{}/{}.ipynb".format(*found, BRANCH, name)


def beside(file: str) -> str | None:
    """Where a file that `make colab` writes beside a notebook can be fetched."""
    if (found := _on_github()) is None:
        return None
    return "https://raw.githubusercontent.com/{}/{}/{}/{}".format(*found, BRANCH, file)


def source(path: str) -> str | None:
    """Where a file of the repository can be read."""
    return f"{repository()}/blob/main/{path}" if repository() else None


def badge(name: str) -> str | None:
    """The Markdown of the badge "Open in Colab" of a notebook."""
    return f"[![Open in Colab]({BADGE})]({colab(name)})" if colab(name) else None


def links() -> str:
    """The README's line with the site and notebook 00 in Colab; empty while there is no address."""
    parts = [f"[Read and play the course in the browser]({site()})" if site() else None, badge("00-start-here")]
    return " · ".join(filter(None, parts))


def with_links(readme: str) -> str:
    """The README's text with `links` between the two comments that keep their place."""
    middle = f"\n{links()}\n" if links() else "\n"
    return re.sub(
        r"(?s)(<!-- links.*?-->).*?(<!-- end of links -->)", lambda found: found[1] + middle + found[2], readme
    )
