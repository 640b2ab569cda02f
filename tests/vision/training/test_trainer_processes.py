"""The loop on two processes is the loop on one with the same batches; started as torchrun and as a notebook start
it.
"""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_runs
import torch
import torch.distributed as dist
from subprocesses import environment

from labkit.heads import HEADS
from labkit.history import History
from labkit.vision import __main__
from labkit.vision.training import checkpoints
from labkit.vision.training.trainer import HISTORY

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="this PyTorch has no gloo"
)
TESTS = Path(__file__).parents[2]
MEASURES = [
    "batch_loss",
    "loss",
    "accuracy",
    "nc1",
    "nc2",
    "nc3",
    "nc4",
    "equinorm_means",
    "cosine_margin",
    "test_loss",
    "test_accuracy",
]


def call(*command):
    """A program in a process of its own, which gives its errors back."""
    env = environment(TESTS.parent, TESTS, OMP_NUM_THREADS="1")
    env.pop("RANK", None)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Folders of the same runs on one process and, launched after these as from a notebook, on two."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    call(
        sys.executable,
        "-c",
        "import sys, small_runs\nsmall_runs.every_head(sys.argv[1])\n"
        "small_runs.processes.launch(small_runs.every_head, sys.argv[2], processes=2)",
        one,
        two,
    )
    return one, two


@pytest.mark.parametrize("head", HEADS)
def test_two_processes_train_as_one(both, head):
    one, two = (torch.load(folder / f"{head}.pt") for folder in both)
    torch.testing.assert_close(two["losses"], one["losses"], rtol=0, atol=1e-5)
    assert one["losses"][-1] < one["losses"][0] / 2  # a curve, and not a line
    one_rows, two_rows = (pd.DataFrame(part["rows"]) for part in (one, two))
    np.testing.assert_allclose(two_rows[MEASURES], one_rows[MEASURES], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(two["margins"], one["margins"], rtol=1e-3, atol=1e-4)  # sample by sample
    for part in ("backbone", "head"):
        states = [checkpoints.latest(folder / head)[1]["parts"][part] for folder in both]
        for name, value in states[0].items():
            torch.testing.assert_close(states[1][name], value, rtol=1e-3, atol=1e-5)


def test_processes_end_alike_but_draw_different_random_numbers(both):
    one, two = (torch.load(both[1] / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    for name, value in one["state"].items():  # running statistics of batch norm too
        assert torch.equal(two["state"][name], value), name
    for a, b in zip(one["rows"], two["rows"]):
        assert {key: b[key] for key in MEASURES[1:]} == {key: a[key] for key in MEASURES[1:]}
    assert not torch.equal(one["generators"]["cpu"], two["generators"]["cpu"])


def test_until_they_are_averaged_each_process_has_its_own_statistics(both):
    """Those of the first process overwrote the others', so that the average was of one share of the images."""
    found = [torch.load(both[1] / f"{rank}.pt", weights_only=False)["statistics"] for rank in (0, 1)]
    for together, alone in found:
        torch.testing.assert_close(together, alone)
    assert (found[0][0] - found[1][0]).abs().max() > 1e-3


def test_nan_on_one_process_stops_both(both):
    for rank in (0, 1):
        standard, implicit = torch.load(both[1] / f"{rank}.pt", weights_only=False)["messages"]
        assert standard.startswith("standard, seed 0: stopped at step 8: the loss is nan; no checkpoint")
        assert implicit.startswith("implicit, seed 0: stopped at step 8: features must be finite")


@pytest.mark.parametrize("head", HEADS)
def test_measures_do_not_depend_on_the_number_of_processes(both, head):
    """What two processes measured of their last network, one measures too."""
    run = small_runs.a_trainer(head, both[1] / head, batch_size=65, epochs=3)
    last = torch.load(both[1] / f"{head}.pt")["rows"][-1]
    found = run.measure()
    found.pop("margins")
    assert found == pytest.approx({key: last[key] for key in found}, rel=1e-6, abs=1e-9)


def test_streamed_measures_of_two_processes_are_those_of_one(both):
    """Of the same features, in float64: no network, whose matrix products depend on the size of a share."""
    one, two = (torch.load(folder / "0.pt", weights_only=False)["made up"] for folder in both)
    np.testing.assert_allclose(two.pop("margins"), one.pop("margins"), rtol=1e-12, atol=1e-14)
    assert two == pytest.approx(one, rel=1e-12, abs=1e-14)


def test_torchrun_of_the_command_line(tmp_path):
    arguments = ["--recipe", "digits", "--head", "implicit", "--seeds", "3", "--epochs", "2"]
    shown = call(
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "labkit.vision",
        *arguments,
        "--folder",
        tmp_path / "two",
    )
    assert len(re.findall(r"digits-small-implicit-3-\w+: accuracy", shown)) == 1  # one process speaks
    assert __main__.main([*arguments, "--folder", str(tmp_path / "one")]) == 0
    runs = [History.load(next((tmp_path / folder).glob(f"*/{HISTORY}"))) for folder in ("one", "two")]
    assert [run.settings["processes"] for run in runs] == [1, 2]
    one, two = (run.frame for run in runs)
    np.testing.assert_allclose(two["batch_loss"], one["batch_loss"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(two["nc1"], one["nc1"], rtol=1e-3)
