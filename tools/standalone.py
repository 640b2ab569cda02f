"""Run each notebook as a visitor of Colab does: copied alone into an empty folder, with no labkit until its first cell
runs.

    python tools/standalone.py [NAME ...]

The environment is a fresh one with PyTorch and a kernel, as Colab has them. The first cell installs labkit, from the
last commit of this checkout instead of the address in pyproject.toml. It takes some minutes, and needs a package index.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from notebooks import PLOTLY, ROOT, setup_source, tagged

THERE = ["ipykernel", "nbclient", "torch", "torchvision", "numpy", "pandas"]  # before the notebook comes


def main(names):
    paths = sorted((ROOT / "notebooks").glob("*.ipynb"))
    paths = [path for path in paths if not names or path.stem in names]
    name, address = re.search(r'"([\w-]+)\[notebooks\] @ git\+(.+)"', setup_source()).groups()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        clone, venv = folder / "labkit.git", folder / "venv"
        subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, clone], check=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        env |= {
            "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PATH": f"{venv / 'bin'}{os.pathsep}{env['PATH']}",
        }
        subprocess.run([venv / "bin/python", "-m", "pip", "install", "-q", *THERE], env=env, check=True)
        failed = []
        for path in paths:
            subprocess.run([venv / "bin/python", "-m", "pip", "uninstall", "-qy", name], env=env, check=True)
            alone = folder / path.stem
            alone.mkdir()
            nb = nbformat.read(path, as_version=4)
            (cell,) = tagged(nb, "setup")
            cell.source = cell.source.replace(address, f"file://localhost{clone}")  # pip asks for a host
            for code in nb.cells:
                if code.cell_type == "code":
                    code.outputs, code.execution_count = [], None
            nbformat.write(nb, alone / path.name)
            start = time.perf_counter()
            command = [venv / "bin/jupyter-execute", "--inplace", path.name]
            done = subprocess.run(command, cwd=alone, env=env, capture_output=True, text=True)
            outputs = [
                out for cell in nbformat.read(alone / path.name, as_version=4).cells for out in cell.get("outputs", [])
            ]
            drawn = sum(PLOTLY in out.get("data", {}) or "plotly" in str(out.get("data", "")) for out in outputs)
            says = "runs" if done.returncode == 0 else f"FAILS:\n{done.stderr[-3000:]}"
            print(f"{path.name}: {says}, {drawn} figures, {time.perf_counter() - start:.0f} s", flush=True)
            failed += [path.name] if done.returncode else []
            shutil.rmtree(alone)
    return f"failed: {', '.join(failed)}" if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
