"""History: what goes into a file comes out of it, and a broken file says so."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from labkit.history import MARGIN_COLUMNS, History, Store, plain, provenance, sample_margins


def history(seeds=(0, 1), head="fixed", offset=0.0):
    """A made-up run of three iterations with four samples a seed."""
    rows = [(head, s, t, 1 / (t + 1) + s + offset, np.nan if t == 0 else float(t)) for s in seeds for t in (0, 1, 10)]
    frame = pd.DataFrame(rows, columns=["head", "seed", "iteration", "loss", "nc1"])
    margins = sample_margins(head, seeds, np.linspace(-1, 1, 4 * len(seeds)).reshape(len(seeds), 4) + offset)
    return History(
        frame, {"delta": 1e-3, "spec": {"dim": 8}, "seeds": list(seeds), "note": "τ = 5", "none": None}, margins
    )


def equal(one, other):
    pd.testing.assert_frame_equal(one.frame, other.frame)
    pd.testing.assert_frame_equal(
        one.margins.reset_index(drop=True), other.margins.reset_index(drop=True), check_dtype=False
    )
    assert one.settings == other.settings


# Round trips


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (7, 2, 5)])
def test_round_trip(tmp_path, seeds):
    run = history(seeds)
    equal(History.load(run.save(tmp_path / "run.parquet")), run)


def test_round_trip_of_several_heads(tmp_path):
    both = History.concat([history(head="fixed"), history(head="implicit", offset=0.1)])
    equal(History.load(both.save(tmp_path / "run.parquet")), both)


def test_round_trip_without_margins(tmp_path):
    run = History(history().frame, {"a": 1})
    loaded = History.load(run.save(tmp_path / "run.parquet"))
    pd.testing.assert_frame_equal(loaded.frame, run.frame)
    assert loaded.margins.empty and list(loaded.margins.columns) == MARGIN_COLUMNS


def test_what_tells_runs_apart_is_kept_without_margins(tmp_path):
    frame = pd.DataFrame({"size": [8, 9], "head": "fixed", "seed": 0, "iteration": 5, "loss": [1.0, 2.0]})
    margins = pd.DataFrame(columns=["size", "head", "seed", "sample", "margin"])
    loaded = History.load(History(frame, margins=margins).save(tmp_path / "two.parquet"))
    assert loaded.final()["loss"].tolist() == [1.0, 2.0]


def test_round_trip_of_heads_with_and_without_margins(tmp_path):
    both = History.concat([history(head="fixed"), History(history(head="implicit").frame)])
    loaded = History.load(both.save(tmp_path / "run.parquet"))
    assert set(loaded.margins["head"]) == {"fixed"} and set(loaded.frame["head"]) == {"fixed", "implicit"}


def test_a_run_that_is_there_twice_keeps_its_margins(tmp_path):
    run = history((3, 1))
    twice = History.concat([run, run])
    for found in (History(twice.frame, {}, run.margins), twice):
        loaded = History.load(found.save(tmp_path / "twice.parquet"))
        assert len(loaded.frame) == 2 * len(run.frame)
        pd.testing.assert_frame_equal(loaded.margins, run.margins.reset_index(drop=True), check_dtype=False)


def test_margins_of_runs_that_cannot_be_told_apart_are_not_mixed(tmp_path):
    with pytest.raises(ValueError, match="several margins of one sample: {'head': 'fixed', 'seed': "):
        History.concat([history(), history(offset=1.0)]).save(tmp_path / "both.parquet")
    assert not list(tmp_path.iterdir())


def test_a_loaded_history_can_be_saved_again(tmp_path):
    run = History.load(history().save(tmp_path / "one.parquet"))
    equal(History.load(run.save(tmp_path / "two.parquet")), history())


def test_saving_replaces_what_was_there(tmp_path):
    history().save(tmp_path / "run.parquet")
    history(offset=1.0).save(tmp_path / "run.parquet")
    equal(History.load(tmp_path / "run.parquet"), history(offset=1.0))


def test_folders_are_made(tmp_path):
    assert history().save(str(tmp_path / "a" / "b" / "run.parquet")).is_file()


def test_anyone_can_read_the_file(tmp_path):
    # Plain pandas, without labkit: the table as it is, and the settings in the file's metadata.
    path = history().save(tmp_path / "run.parquet")
    table = pd.read_parquet(path)
    pd.testing.assert_frame_equal(table.drop(columns="margins"), history().frame)
    assert table["margins"].notna().tolist() == [False, False, True] * 2
    assert json.loads(pq.read_schema(path).metadata[b"labkit"])["settings"] == history().settings


# Methods


def test_final_rows():
    final = History.concat([history((3, 1)), history((3,), head="implicit")]).final()
    assert final[["head", "seed", "iteration"]].values.tolist() == [
        ["fixed", 3, 10],
        ["fixed", 1, 10],
        ["implicit", 3, 10],
    ]


def test_final_rows_do_not_depend_on_the_order_of_the_table():
    run = history()
    shuffled = History(run.frame.sample(frac=1, random_state=0))
    assert shuffled.final()["iteration"].tolist() == [10, 10]


def test_concat_keeps_rows_margins_and_settings():
    one, two = history(head="fixed"), history(head="implicit")
    both = History.concat(h for h in (one, two))
    assert len(both.frame) == 12 and len(both.margins) == 16
    assert both.settings == {"runs": [one.settings, two.settings]}


def test_sample_margins():
    table = sample_margins("fixed", [4, 2], [[0.1, 0.2], [0.3, 0.4]])
    assert table.values.tolist() == [
        ["fixed", 4, 0, 0.1],
        ["fixed", 4, 1, 0.2],
        ["fixed", 2, 0, 0.3],
        ["fixed", 2, 1, 0.4],
    ]


def test_provenance_is_plain():
    found = provenance()
    assert json.loads(json.dumps(found)) == found and found["versions"]["torch"] == torch.__version__


# Writing is all or nothing


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = history().save(tmp_path / "run.parquet")
    before = path.read_bytes()

    def fail(table, file, **options):
        file.write(b"half a")
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="no space"):
        history(offset=1.0).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.parquet"]  # and nothing beside it


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path, monkeypatch, where):
    path = history().save(tmp_path / "run.parquet")

    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((pq, "write_table") if where == "write" else (os, "fsync")), full)
    with pytest.raises(
        OSError, match=r"run.parquet could not be written \(No space left on device\); what was"
    ) as error:
        history(offset=1.0).save(path)
    assert error.value.errno == errno.ENOSPC and os.listdir(tmp_path) == ["run.parquet"]
    equal(History.load(path), history())


def test_a_failed_first_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("read-only")))
    with pytest.raises(OSError, match="read-only"):
        history().save(tmp_path / "run.parquet")
    assert list(tmp_path.iterdir()) == []


def test_settings_that_json_cannot_hold(tmp_path):
    run = history()
    run.settings["bad"] = {1, 2}
    with pytest.raises(TypeError, match="set"):
        run.save(tmp_path / "run.parquet")
    assert list(tmp_path.iterdir()) == []


# Unreadable files


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent.parquet"):
        History.load(tmp_path / "absent.parquet")


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:-20],
        lambda whole: b"",
        lambda whole: b"seed,loss\n0,1.0\n",
        lambda whole: whole[:4] + bytes(len(whole) // 3) + whole[4 + len(whole) // 3 :],
    ],
    ids=["half", "no end", "empty", "csv", "zeros"],
)
def test_damaged_file(tmp_path, damage):
    path = history().save(tmp_path / "run.parquet")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="run.parquet"):
        History.load(path)


def test_foreign_parquet(tmp_path):
    path = tmp_path / "other.parquet"
    pd.DataFrame({"price": [1.0]}).to_parquet(path)
    with pytest.raises(ValueError, match="other.parquet .*not a labkit history.*price"):
        History.load(path)


def test_parquet_without_any_metadata(tmp_path):
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(ValueError, match="other.parquet .*not a labkit history"):
        History.load(path)


@pytest.mark.parametrize("header", [b"{", b'{"settings": {}}', b"[]", b'{"version": 99, "settings": {}}'])
def test_header_of_another_make(tmp_path, header):
    path = history().save(tmp_path / "run.parquet")
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"labkit": header}), path)
    with pytest.raises(ValueError, match="run.parquet"):
        History.load(path)


def test_a_folder_is_not_a_history(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match=tmp_path.name):
        History.load(tmp_path)


def test_parts_and_ends_of_many_runs():
    rows = [(delta, head, seed, t) for delta in (0.1, 0.2) for head in ("a", "b") for seed in (0, 1) for t in (0, 5)]
    frame = pd.DataFrame(rows, columns=["delta", "head", "seed", "iteration"]).assign(loss=np.arange(16.0))
    margins = frame.query("iteration == 5").drop(columns=["iteration", "loss"]).assign(sample=0, margin=1.0)
    history = History(frame, {"a": 1}, margins)
    assert history.final()["loss"].tolist() == [1, 3, 5, 7, 9, 11, 13, 15]
    part = history.where(delta=0.2, seed=[1, 2])
    assert part.frame["loss"].tolist() == [10, 11, 14, 15] and part.settings == {"a": 1}
    assert part.margins[["delta", "seed"]].values.tolist() == [[0.2, 1], [0.2, 1]]
    assert history.where(head="a").frame["head"].unique().tolist() == ["a"]
    for column in ("iteration", "temperature"):
        with pytest.raises(ValueError, match=f"what tells runs apart, delta, head, seed; got '{column}'"):
            history.where(**{column: 5})


def test_any_damage_is_one_error_that_names_the_file(tmp_path):
    # a file without its list of margins raised KeyError, and other damage whatever pyarrow felt like
    path = history().save(tmp_path / "run.parquet")
    table = pq.read_table(path)
    pq.write_table(table.drop_columns("margins"), path)
    with pytest.raises(ValueError, match="run.parquet"):
        History.load(path)
    whole, rng, refused = history().save(path).read_bytes(), np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=rng.integers(1, 4)):
            damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            found = History.load(path)
        except ValueError:  # nothing else may come
            refused += 1
        else:
            equal(found, history())  # what can be read is what was written
    assert 0 < refused < 200


# The store


def test_a_store_finds_a_run_by_all_of_its_settings_and_by_nothing_else(tmp_path):
    store, settings = Store(tmp_path), {"head": "fixed", "spec": {"dim": 8}, "precision": "no", "seeds": (0, 1)}
    assert store.get(settings) is None
    path = store.put(settings, history())
    equal(
        store.get(settings), History(history().frame, {**history().settings, "run": plain(settings)}, history().margins)
    )
    for change in ({"precision": "bf16"}, {"spec": {"dim": 9}}, {"seeds": [0]}, {"more": None}):
        assert store.path(settings | change) != path and store.get(settings | change) is None
    other = store.path(settings | {"precision": "bf16"})
    path.rename(other)  # a file of that name, but of other settings
    with pytest.warns(
        UserWarning, match=f"{other.name} was made with other settings .*: precision is 'no' there, 'bf16' here"
    ):
        assert store.get(settings | {"precision": "bf16"}) is None
    history().save(other)
    with pytest.warns(UserWarning, match=f"{other.name} is a History, but not of a run of this kind.*again"):
        assert store.get(settings | {"precision": "bf16"}) is None
    with pytest.raises(ValueError, match=f"{other.name} is a History, but not of a run of this kind"):
        store.load()


def test_a_store_joins_runs_with_columns_for_what_differs(tmp_path):
    store = Store(tmp_path)
    for lr in (0.1, 0.2):
        store.put({"head": "fixed", "lr": lr, "epochs": 3, "spec": {"dim": 8}}, history(offset=lr))
    store.put({"head": "implicit", "lr": 0.1, "epochs": 3, "spec": {"dim": 8}, "delta": 0.5}, history(head="implicit"))
    whole = History.load(store.load().save(tmp_path / "all" / "whole.parquet"))
    assert list(whole.frame.columns[:4]) == ["lr", "delta", "head", "seed"] and len(whole.margins) == 3 * 8
    assert len(whole.final()) == 6 and whole.final()["delta"].notna().sum() == 2
    assert whole.where(lr=0.2).frame["loss"].tolist() == history(offset=0.2).frame["loss"].tolist()


def test_settings_of_one_name_at_two_places_are_two_columns(tmp_path):
    # as one column the later hides the earlier: seeds 0 and 1 were seeds of one setting, which were made at two rates
    store = Store(tmp_path)
    for seed, rate in ((0, 0.1), (1, 0.2)):
        settings = {"backbone": {"lr": rate}, "head": {"lr": 0.5}, "seed": seed, "lr": 1.0}
        store.put(settings, history((seed,)))
    whole = store.load()
    assert whole.final()[["backbone.lr", "seed"]].values.tolist() == [[0.1, 0], [0.2, 1]]
    assert whole.where(**{"backbone.lr": 0.2}).frame["seed"].unique().tolist() == [1]
    assert store.columns(settings) == {"backbone.lr": 0.2, "head.lr": 0.5, "seed": 1, "lr": 1.0}
    assert store.columns({"run": {"lr": 0.1, "spec": {"dim": 8}}}) == {"lr": 0.1, "dim": 8}


def test_two_processes_can_keep_the_same_run_at_once(tmp_path):
    code = (
        "import pandas as pd; from labkit.history import History, Store\n"
        "h = History(pd.DataFrame({'head': 'a', 'seed': 0, 'iteration': range(2000)}))\n"
        f"for k in range(60): Store({str(tmp_path)!r}).put({{'k': k % 2}}, h)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(os.listdir(tmp_path)) == 2 and len(Store(tmp_path).load().frame) == 4000


def test_the_last_row_of_runs_that_cannot_be_told_apart_is_not_guessed():
    """What notebook 07 met: runs at three rates with one head and seed, of which `final` gave one."""
    rows = [(0, 0, 0.1, 2.0), (0, 1, 0.1, 1.0), (0, 0, 0.02, 2.0), (0, 1, 0.02, 1.5)]
    frame = pd.DataFrame(rows, columns=["seed", "iteration", "lr", "loss"]).assign(head="fixed")
    with pytest.raises(ValueError, match="head fixed, seed 0, iteration 0.*differ in lr"):
        History(frame).final()
    keyed = History(frame, margins=pd.DataFrame(columns=["lr", "head", "seed", "sample", "margin"]))
    assert keyed.final().sort_values("lr")["loss"].tolist() == [1.5, 1.0]
