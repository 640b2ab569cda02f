"""Run tests with other versions of the dependencies than those in constraints.txt.

    python tools/versions.py [--keep NAME ...] [-- OPTIONS OF PYTEST]            (`make test-versions`)

First all the oldest versions that pyproject.toml admits, together; then notebooks, widgets and figures with old and new
ipywidgets and plotly, crossed. What is tried goes into a folder that Python finds before the environment's packages.
Needs a package index; PyTorch comes from its own, where it has builds without CUDA. `--keep torch torchvision` keeps
the environment's, and leaves out that download.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The oldest that pyproject.toml admits and the newest, crossed; CI runs the newest two together. Colab has ipywidgets
# 7.7.1.
PAIRS = [("7.7.1", "6.1.1"), ("7.7.1", "7.1.0"), ("8.1.9", "6.1.1")]
DRAWN = ["notebooks", "tests/plots", "tests/widgets"]
# What these old versions need beside them, and the environment with its new ones does not have.
ALSO = {"ipywidgets 7": ["jupyterlab_widgets<3", "widgetsnbextension<4", "ipython_genutils"], "pandas 2": ["pytz"]}
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"


def oldest() -> dict[str, str]:
    """{name: version}, the oldest version of each dependency of the library and its extras; less those of the tests, and
    Lightning, which the tests do without.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [
        *project["dependencies"],
        *(line for name in extras if name not in ("test", "lightning") for line in extras[name]),
    ]
    return dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", line).groups() for line in lines if ">=" in line)


def pip(*arguments: str) -> None:
    index = ["--extra-index-url", CPU_BUILDS] if any(word.startswith("torch==") for word in arguments) else []
    command = [sys.executable, "-m", "pip", "install", "-q", *index, *arguments]
    subprocess.run(command, check=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})


def tried(versions: dict[str, str], tests: list[str], options: list[str]) -> bool:
    """Whether these tests pass with these versions."""
    print(f"== {', '.join(f'{name} {version}' for name, version in versions.items())}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        names = {f"{name} {version.split('.')[0]}" for name, version in versions.items()}
        also = [line for name in ALSO if name in names for line in ALSO[name]]
        pip("--no-deps", "--target", folder, *(f"{name}=={version}" for name, version in versions.items()), *also)
        path = os.pathsep.join(filter(None, [folder, str(ROOT), os.environ.get("PYTHONPATH")]))
        env = os.environ | {"PYTHONPATH": path, "JUPYTER_PATH": str(Path(folder, "share/jupyter"))}
        found = f"from importlib import metadata; print(*(metadata.version(name) for name in {list(versions)}))"
        asked = subprocess.run([sys.executable, "-c", found], env=env, cwd=ROOT, capture_output=True, text=True)
        for (name, wanted), there in zip(versions.items(), asked.stdout.split(), strict=True):
            if not f"{there}.".replace("+", ".").startswith(f"{wanted}."):
                sys.exit(f"wanted {name} {wanted}, Python finds {there}")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", *tests, *options]
        return subprocess.run(command, cwd=ROOT, env=env).returncode == 0


def main() -> int | str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", nargs="*", default=[], help="dependencies that stay as they are")
    parser.add_argument("options", nargs="*", help="for pytest, after --")
    args = parser.parse_args()
    least = {name: version for name, version in oldest().items() if name not in args.keep}
    if not args.keep:  # that they can be installed together: downloads little, as only dependencies are asked for
        pip("--dry-run", "--ignore-installed", *(f"{name}=={version}" for name, version in least.items()))
    here = ROOT / "tests"
    library = [str(path) for path in sorted(here.glob("test_*.py")) if path.stem != "test_project"]
    rooms = {path.relative_to(here).parts[0] for path in here.glob("*/**/test_*.py")}
    library += [str(here / room) for room in sorted(rooms - {"browser", "notebooks"})]
    runs = [(least, library), *(({"ipywidgets": w, "plotly": p}, DRAWN) for w, p in PAIRS)]
    failed = [versions for versions, tests in runs if not tried(versions, tests, args.options)]
    return f"failed: {failed}" if failed else 0


if __name__ == "__main__":
    sys.exit(main())
