"""Sweeps of UFM runs: the same as single runs, and nothing lost, damaged or silently reused."""

import json
import math
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import joblib
import numpy as np
import pandas as pd
import pytest
import torch

from labkit.heads import PAPER
from labkit.history import History
from labkit.studies.ufms import ddn
from labkit.studies.ufms import sweep as module
from labkit.studies.ufms.sweep import SIZES, VARIANTS, Runs, expand, load, sweep
from labkit.ufm import UFM, UFM_10, train_ufm

SMALL = UFM(3, 12, 6)
GRID = {"spec": [SMALL], "head": ["implicit"], "delta": [1e-3, 1e-1], "seed": [0, 4], "iterations": [3]}
FILES = [
    f"UFM-3-12x6-implicit-iterations-3{delta}-seed-{seed}.parquet" for delta in ("", "-delta-0.1") for seed in (0, 4)
]


def measures(frame):
    return frame.select_dtypes("float").drop(columns="delta", errors="ignore")


def test_a_sweep_is_the_single_runs():
    found = sweep(GRID, jobs=1, progress=False).frame
    for (delta, seed), rows in found.groupby(["delta", "seed"]):
        alone = train_ufm(SMALL, "implicit", 3, [seed], delta=delta).frame
        np.testing.assert_allclose(measures(rows), measures(alone), rtol=1e-4, atol=1e-6)
    assert set(found["size"]) == {"UFM-3-12x6"} and list(found.groupby(["delta", "seed"]).ngroup().unique()) == [
        0,
        1,
        2,
        3,
    ]
    assert found.groupby("delta")["nc3"].last().nunique() == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_what_their_names_say(variant):
    run = sweep({"spec": [SMALL], "head": [variant], "iterations": [2]}, jobs=1, progress=False)
    settings = run.settings["runs"][0]
    assert set(run.frame["head"]) == set(run.margins["head"]) == {variant}
    assert settings["head"] == variant and VARIANTS[variant].options.items() <= settings.items()


def test_the_sizes_are_the_papers():
    assert {n: (s.num_classes, s.num_samples, s.dim) for n, s in SIZES.items()} == {
        "UFM-10": (10, 1000, 512),
        "UFM-100": (100, 5000, 1024),
        "UFM-200": (200, 5000, 1024),
        "UFM-1000": (1000, 10000, 1024),
    }


def test_side_by_side_and_one_by_one_agree(tmp_path):
    alone = sweep(GRID, jobs=1, progress=False).frame
    pd.testing.assert_frame_equal(sweep(GRID, tmp_path, jobs=2, progress=False).frame, alone, rtol=1e-4, atol=1e-6)
    assert sorted(os.listdir(tmp_path)) == sorted(FILES)


def test_on_a_dask_cluster():
    distributed = pytest.importorskip("distributed")
    alone = sweep(GRID, jobs=1, progress=False).frame
    # Dask sets the number of threads for its workers in this process's environment too, where it would outlive the
    # cluster.
    with (
        mock.patch.dict(os.environ),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
    ):
        with distributed.Client(cluster), joblib.parallel_config("dask"):
            found = sweep(GRID, progress=False).frame
    pd.testing.assert_frame_equal(found, alone, rtol=1e-4, atol=1e-6)


def test_finished_runs_are_not_trained_again(tmp_path, monkeypatch):
    first = sweep(GRID, tmp_path, jobs=1, progress=False)
    stamps = {f: (tmp_path / f).stat().st_mtime_ns for f in FILES}
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("trained again"))
    again = sweep(GRID, tmp_path, jobs=1, progress=False)
    pd.testing.assert_frame_equal(again.frame, first.frame)
    pd.testing.assert_frame_equal(again.margins, first.margins, check_dtype=False)
    assert {f: (tmp_path / f).stat().st_mtime_ns for f in FILES} == stamps
    pd.testing.assert_frame_equal(
        load(tmp_path, "*-delta-0.1-*").frame,
        first.frame.query("delta == 0.1").drop(columns="delta").reset_index(drop=True),
    )


@pytest.mark.parametrize("damage", ["cut", "bit", "other", "no history"])
def test_a_damaged_file_is_named_and_made_again(tmp_path, damage):
    first = sweep(GRID, tmp_path, jobs=1, progress=False)
    path = tmp_path / FILES[2]
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "bit":  # inside the first column's values
        path.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    elif damage == "other":
        path.write_bytes((tmp_path / FILES[1]).read_bytes())
    else:
        pd.DataFrame({"a": [1]}).to_parquet(path)
    with pytest.warns(UserWarning, match=f"{FILES[2]}.* again"):
        again = sweep(GRID, tmp_path, jobs=1, progress=False)
    pd.testing.assert_frame_equal(again.frame, first.frame, rtol=1e-5, atol=1e-7)
    assert History.load(path).settings["run"]["delta"] == 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep(GRID, tmp_path, jobs=1, progress=False)


def test_kill_9_loses_the_run_in_progress_only(tmp_path, until):
    grid = "{'spec': [UFM(10, 300, 64)], 'head': ['standard'], 'seed': range(30), 'iterations': [150]}"
    code = f"from labkit.studies.ufms.sweep import sweep; from labkit.ufm import UFM; sweep({grid}, {str(tmp_path)!r}, jobs=1, progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: len(list(tmp_path.glob("*.parquet"))) >= 2, "two runs")
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL  # it was still at work
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.parquet")}
    assert 2 <= len(stamps) < 30
    few = {"spec": [UFM(10, 300, 64)], "head": ["standard"], "seed": range(len(stamps) + 1), "iterations": [150]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none is damaged
        found = sweep(few, tmp_path, jobs=1, progress=False)
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps  # none is made again
    assert sorted(found.frame["seed"].unique()) == list(range(len(stamps) + 1))


def test_a_run_that_fails_does_not_take_the_others_along(tmp_path):
    grid = {"spec": [SMALL], "head": ["standard"], "temperature": [5.0, -1.0, 6.0], "iterations": [2]}
    with pytest.raises(
        RuntimeError,
        match=r"1 of 3 runs failed: UFM-3-12x6-standard-iterations-2-temperature--1.0-seed-0: "
        r"ValueError\('temperature must be",
    ):
        sweep(grid, tmp_path, jobs=1, progress=False)
    assert len(os.listdir(tmp_path)) == 2


@pytest.mark.parametrize(
    "grid, message",
    [
        ({"spec": [SMALL]}, "a grid is a dict with spec, head"),
        ({"spec": [SMALL], "head": ["standard"], "tau": [5]}, "a grid is a dict .* got .*tau"),
        ("standard", "a grid is a dict"),
        ({"spec": [SMALL], "head": "standard"}, "list of values for head, got 'standard'"),
        ({"spec": [SMALL], "head": ["standard"], "seed": 3}, "list of values for seed, got 3"),
        ({"spec": [SMALL], "head": ["standard"], "seed": []}, r"list of values for seed, got \[\]"),
        ({"spec": [SMALL], "head": ["linear"]}, "head must be one of .*got 'linear'"),
        ({"spec": ["UFM-10"], "head": ["standard"]}, "spec must be a UFM, got 'UFM-10'"),
    ],
)
def test_bad_grids(grid, message):
    with pytest.raises(ValueError, match=message):
        sweep(grid, progress=False)


def test_all_options_in_one_file(tmp_path):
    grid = {
        "spec": [SMALL],
        "head": ["implicit"],
        "alpha": [None, 0.5],
        "batch_size": [None, 6],
        "seed": [0, 1],
        "iterations": [2],
    }
    found = sweep(grid, jobs=1, progress=False)
    loaded = History.load(found.save(tmp_path / "all.parquet"))
    assert set(loaded.frame["alpha"]) == {0.0, 0.5} and set(loaded.frame["batch_size"]) == {6, 12}
    keys = ["size", "head", "alpha", "batch_size", "seed", "sample"]
    assert len(loaded.margins) == 8 * 12
    ours, theirs = (h.margins.set_index(keys)["margin"].sort_index() for h in (loaded, found))
    np.testing.assert_array_equal(ours, theirs)
    alone = train_ufm(SMALL, "implicit", 2, [1], alpha=0.5, batch_size=6).margins["margin"]
    np.testing.assert_allclose(
        loaded.margins.query("alpha == 0.5 and batch_size == 6 and seed == 1")["margin"], alone, atol=1e-5
    )


def test_no_two_models_have_one_name():
    ratios = [3.3333333, 3.3333334, 1e6 + 0.5, 1e6, 2.5]  # with six digits the first four would be two models
    runs = expand({"spec": [UFM(3, 2_000_000, 4, r) for r in ratios], "head": ["fixed"]})
    assert [run["spec"]["imbalance"] for run in runs.values()] == ratios
    assert list(runs)[-1] == "UFM-3-2000000x4-imbalance-2.5-fixed-seed-0"


def test_several_grids_and_no_run_twice():
    runs = expand(
        [{"spec": [UFM_10], "head": ["standard", "fixed"]}, {"spec": [UFM_10], "head": ["fixed"], "seed": (0, 1)}]
    )
    assert list(runs) == ["UFM-10-standard-seed-0", "UFM-10-fixed-seed-0", "UFM-10-fixed-seed-1"]
    assert list(expand({"spec": [UFM(4, 90, 8, 10.0)], "head": ["implicit"], "alpha": [0.5]})) == [
        "UFM-4-90x8-imbalance-10-implicit-alpha-0.5-seed-0"
    ]


def test_a_head_is_not_trained_once_for_each_value_of_an_option_that_it_does_not_have(tmp_path):
    # it was: one run of the standard head for each δ, all with the same numbers
    grid = {"spec": [SMALL], "head": ["standard", "implicit"], "delta": [1e-3, 1e-1], "seed": [0], "iterations": [2]}
    found = sweep(grid, tmp_path, jobs=1, progress=False)
    ends = found.final()
    assert ends["head"].tolist() == ["standard", "implicit", "implicit"] and len(os.listdir(tmp_path)) == 3
    np.testing.assert_array_equal(ends["delta"], [np.nan, 1e-3, 1e-1])
    loaded = History.load(found.save(tmp_path / "all" / "runs.parquet"))  # NaN tells a run apart in a file too
    pd.testing.assert_frame_equal(loaded.frame, found.frame)
    assert loaded.margins["margin"].tolist() == found.margins["margin"].tolist() and len(loaded.margins) == 3 * 12


def test_seeds_and_options_of_numpy_and_torch_are_saved(tmp_path):
    # np.arange was trained, and then could not be saved
    grid = {
        "spec": [SMALL],
        "head": ["implicit"],
        "seed": np.arange(2),
        "delta": torch.tensor([0.5]),
        "iterations": [1],
    }
    sweep(grid, tmp_path, jobs=1, progress=False)
    assert sorted(os.listdir(tmp_path)) == [
        f"UFM-3-12x6-implicit-iterations-1-delta-0.5-seed-{s}.parquet" for s in (0, 1)
    ]


def test_every_stored_run_is_found_by_its_settings():
    folder = Path(__file__).resolve().parents[3] / "data" / "results"
    for store in (Runs(folder / "ufm"), ddn.Runs(folder / "ddn")):
        paths = sorted(store.folder.glob("*.parquet"))
        assert len(paths) > 20
        for path in paths:
            settings = store.settings_of(History.load(path))
            assert store.path(settings) == path and store.get(settings) is not None
    grid = {"spec": [UFM_10], "head": list(PAPER), "seed": range(5)}
    assert all((folder / "ufm" / f"{name}.parquet").is_file() for name in expand(grid))
    run = next(iter(expand(grid).values()))
    assert Runs(folder / "ufm").get(run).final()["iteration"].item() == 2000


def test_nothing_to_load(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no runs named UFM-\\* in {tmp_path}"):
        load(tmp_path, "UFM-*")


def test_the_command(tmp_path):
    command = [
        sys.executable,
        "-m",
        "labkit.studies.ufms.sweep",
        "--sizes",
        "UFM-10",
        "--heads",
        "fixed",
        "standard",
        "--seeds",
        "3",
        "--iterations",
        "2",
        "--jobs",
        "1",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "UFM-10-fixed" in done.stderr and "2/2" in done.stderr  # the bar
    assert [line.split()[-5] for line in done.stdout.splitlines()[-2:]] == ["fixed", "standard"]
    settings = History.load(tmp_path / "UFM-10-fixed-iterations-2-seed-3.parquet").settings
    assert (
        {"torch", "labkit", "python"} <= set(settings["versions"])
        and settings["date"]
        and settings["device"].startswith("cpu")
    )
    assert math.isfinite(settings["seconds_per_step"]) and json.dumps(settings)
