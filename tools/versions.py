"""Run notebooks and tests of widgets and figures with other versions of ipywidgets and plotly than those in
constraints.txt.

    python tools/versions.py [-- OPTIONS OF PYTEST]            (`make test-versions`)

Each pair goes into a folder of its own that Python finds before the environment's packages. Needs a package index.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The oldest that pyproject.toml admits and the newest, crossed; CI runs the newest two together. Colab has ipywidgets
# 7.7.1.
PAIRS = [("7.7.1", "6.1.1"), ("7.7.1", "7.1.0"), ("8.1.9", "6.1.1")]
TESTS = [
    "notebooks",
    *sorted(
        str(path.relative_to(ROOT))
        for pattern in ("explore", "figures", "live", "controls", "player")
        for path in (ROOT / "tests").glob(f"test_{pattern}*.py")
    ),
]


def main(options):
    failed = []
    for widgets, plotly in PAIRS:
        name = f"ipywidgets {widgets} with plotly {plotly}"
        with tempfile.TemporaryDirectory() as folder:
            wanted = [f"ipywidgets=={widgets}", f"plotly=={plotly}"]
            # the two that bring ipywidgets' scripts come in versions of their own for 7 and 8
            wanted += (
                ["jupyterlab_widgets<3", "widgetsnbextension<4", "ipython_genutils"] if widgets.startswith("7") else []
            )
            install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, *wanted]
            subprocess.run(install, check=True)
            path = os.pathsep.join(filter(None, [folder, str(ROOT), os.environ.get("PYTHONPATH")]))
            env = os.environ | {"PYTHONPATH": path, "JUPYTER_PATH": str(Path(folder, "share/jupyter"))}
            found = "import ipywidgets, plotly; print(ipywidgets.__version__, plotly.__version__)"
            asked = subprocess.run([sys.executable, "-c", found], env=env, cwd=ROOT, capture_output=True, text=True)
            versions = asked.stdout.split()
            if versions != [widgets, plotly]:
                sys.exit(f"wanted {widgets} and {plotly}, Python finds {versions}")
            print(f"== {name}", flush=True)
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", *TESTS, *options]
            if subprocess.run(command, cwd=ROOT, env=env).returncode:
                failed.append(name)
    return f"failed: {'; '.join(failed)}" if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
