"""Each script of examples/ runs, in a process and a folder of its own, and prints what it is there for."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from subprocesses import environment

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
# what it needs beside the base installation, and what it prints, as a regular expression
SCRIPTS = {
    "timm_implicit_head": (
        ["timm", "sklearn"],
        r"epoch 10: loss \d\.\d+\naccuracy on the training images: (9\d|100)\.\d%",
    ),
    "collapse_report": (
        ["plotly", "torchmetrics", "sklearn"],
        r"(?s)before 9.*\nnc1 .*\nneco_auroc .*open collapse-report.html",
    ),
    "metric_loop": ([], r"(?s)epoch  5: nc1 .*epoch 30: nc1 \d\.\d+  nc2 \d\.\d+  nc3 \d\.\d+"),
    "aglu_anywhere": (["timm", "torchvision"], r"34 numbers more.*\n.*18432 numbers more\n.*κ = \d\.\d+, λ = \d\.\d+"),
    "accelerate_loop": (["accelerate"], r"1200 samples: NC1 \d"),
    "lightning_module": (["lightning"], r"nc1 \d\.\d+  nc2 \d\.\d+  nc3 \d\.\d+"),
    "imbalanced": ([], r"(?s)standard +fixed +implicit\ntest accuracy .*smallest_margin"),
    "sweep": (["plotly", "joblib"], r"(?s)implicit_without_ddn.*open sweep.html"),
}


def run(command, folder, **env):
    env = environment(EXAMPLES.parent, OMP_NUM_THREADS="1", **env)
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("name", SCRIPTS)
def test_runs(name, tmp_path):
    packages, printed = SCRIPTS[name]
    needs(*packages)
    out = run([sys.executable, EXAMPLES / f"{name}.py"], tmp_path)
    assert re.search(printed, out), out


def test_each_script_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SCRIPTS)


def test_two_processes_of_accelerate_see_all_samples(tmp_path):
    needs("accelerate")
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    out = run([sys.executable, *launch, str(EXAMPLES / "accelerate_loop.py")], tmp_path)
    assert "1200 samples: NC1" in out


def test_the_implicit_head_takes_few_lines():
    source = (EXAMPLES / "timm_implicit_head.py").read_text()
    body = source.split("torch.manual_seed(0)\n", 1)[1]
    lines = [line for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) <= 25
