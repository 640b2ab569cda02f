"""`make evidence`: what is missing is made, what is there stays, damage is named, and a killed run is taken up again."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from subprocesses import environment

from labkit.history import History
from labkit.studies import evidence
from labkit.vision import build
from labkit.vision.outputs import Outputs

ROOT = Path(__file__).resolve().parents[2]
LIST = """
[[runs]]
name = "small-ufm"
kind = "ufm"
serves = "a test"
heads = ["implicit"]
seeds = [0]
hours = 0.01
settings = {{ iterations = 3, spec = {{ num_classes = 3, num_samples = 12, dim = 4 }} }}

[[runs]]
name = "digits"
kind = "images"
serves = "a test"
recipe = "digits"
heads = ["fixed"]
seeds = [1]
hours = 0.01
settings = {{ epochs = {epochs}, count = 300 }}
"""


@pytest.fixture
def place(tmp_path):
    """A list of two runs, each of them a process that imports torch, and where their results go."""
    (tmp_path / "list.toml").write_text(LIST.format(epochs=2))
    return tmp_path


def arguments(place):
    return ["--list", str(place / "list.toml"), "--results", str(place / "results"), "--runs", str(place / "runs")]


def told(place, capsys):
    capsys.readouterr()
    assert evidence.main([*arguments(place), "--status"]) == 0
    return [line.split()[:4] for line in capsys.readouterr().out.splitlines()[1:3]]


def test_what_is_missing_is_made_once_and_damage_is_named(place, capsys):
    assert told(place, capsys) == [["small-ufm", "0", "0", "1"], ["digits", "0", "0", "1"]]
    assert evidence.main(arguments(place)) == 0
    assert told(place, capsys) == [["small-ufm", "1", "0", "0"], ["digits", "1", "0", "0"]]
    assert len(list((place / "results/ufm-control").glob("*.parquet"))) == 1  # apart from UFMs of the paper's sizes
    made = place / "results/digits/fixed-seed-1.parquet"
    history = History.load(made)
    assert (
        history.frame["iteration"].max() == 2
        and history.settings["hours"] >= 0
        and history.settings["serves"] == "a test"
    )
    assert history.settings["run"]["epochs"] == 2 and history.settings["device"]
    before = made.stat().st_mtime_ns
    assert evidence.main(arguments(place)) == 0 and made.stat().st_mtime_ns == before
    made.write_bytes(made.read_bytes()[:-50])
    with pytest.warns(UserWarning, match="fixed-seed-1.parquet .*done again"):
        assert evidence.main([*arguments(place), "--status"]) == 0


def test_a_run_with_other_settings_does_not_inherit_the_time_of_the_one_before(place):
    """The list changes while a run is under way: what the old one took is not the new one's."""
    _, old = evidence.read(place / "list.toml")
    (place / "list.toml").write_text(LIST.format(epochs=1))
    _, new = evidence.read(place / "list.toml")
    old.folder(place / "runs").mkdir(parents=True)
    evidence._seconds(old, old.folder(place / "runs")).write_text("7200")
    assert new.folder(place / "runs") == old.folder(place / "runs")
    status = lambda run: evidence.status([run], place / "results", place / "runs").iloc[0]
    assert (status(old)["begun"], status(old)["hours"], status(new)["begun"]) == (1, 2.0, 0)
    assert evidence.work(new, place / "results", place / "runs")
    assert History.load(place / "results/digits/fixed-seed-1.parquet").settings["hours"] < 1


def test_vary_gives_a_run_for_each_row_and_its_settings(tmp_path):
    """Rows change the settings of the entry, and tell the files of the runs apart."""
    entry = LIST.format(epochs=2).replace("[[runs]]", "", 1).split("[[runs]]")[1]
    entry = entry.replace('recipe = "digits"', 'recipe = "digits"\nvary = [{ lr = 0.1 }, { lr = 0.2, epochs = 3 }]')
    (tmp_path / "list.toml").write_text("[[runs]]" + entry)
    runs = evidence.read(tmp_path / "list.toml")
    assert [run.name for run in runs] == ["fixed-lr-0.1-seed-1", "fixed-lr-0.2-epochs-3-seed-1"]
    assert [(run.settings["lr"], run.settings["epochs"]) for run in runs] == [(0.1, 2), (0.2, 3)]
    (tmp_path / "list.toml").write_text("[[runs]]" + entry.replace("lr = 0.2", "lr = -1"))
    with pytest.raises(ValueError, match="entry 1 .digits.: lr must be .* got -1"):
        evidence.read(tmp_path / "list.toml")


def test_a_bad_command_line_says_why(place, capsys):
    for words, reason in (
        (["--list", str(place / "nosuch.toml")], f"there is no list of runs at {place / 'nosuch.toml'}"),
        (["--workers", "0"], "--workers must be at least 1, got 0"),
        (["--only", "nosuch"], "no entry named nosuch; there are small-ufm, digits"),
    ):
        with pytest.raises(SystemExit):
            evidence.main([*arguments(place), *words])
        assert reason in capsys.readouterr().err


def test_a_head_may_have_settings_of_its_own(tmp_path):
    """by_head changes one head's, below those of a row; "none" is None at any depth."""
    entry = LIST.format(epochs=2).replace("[[runs]]", "", 1).split("[[runs]]")[1]
    own = '{ implicit = { lr = 0.3, epochs = 3, head_options = { implicit = { bias = "none" } } } }'
    text = entry.replace(
        'heads = ["fixed"]', f'heads = ["fixed", "implicit"]\nby_head = {own}\nvary = [{{ epochs = 4 }}]'
    )
    (tmp_path / "list.toml").write_text("[[runs]]" + text)
    fixed, implicit = (run.settings for run in evidence.read(tmp_path / "list.toml"))
    assert fixed["lr"] != 0.3 and fixed["head_options"] == {} and implicit["lr"] == 0.3
    assert implicit["head_options"] == {"implicit": {"bias": None}} and fixed["epochs"] == implicit["epochs"] == 4
    for bad in ("{ cosine = { lr = 0.3 } }", '["implicit"]'):
        (tmp_path / "list.toml").write_text("[[runs]]" + text.replace(own, bad))
        with pytest.raises(ValueError, match="entry 1 .digits.: by_head must be a table of fixed, implicit, got"):
            evidence.read(tmp_path / "list.toml")


def test_a_long_tailed_run_leaves_its_outputs_too(tmp_path):
    """What it says of the test images lies beside its History, under the name of its row."""
    entry = LIST.format(epochs=1).replace("[[runs]]", "", 1).split("[[runs]]")[1].replace(", count = 300", "")
    row = '{ name = "plain", imbalance = 5, activation = "none" }'
    entry = entry.replace('recipe = "digits"', f'recipe = "digits"\nvary = [{row}]')
    (tmp_path / "list.toml").write_text("[[runs]]" + entry)
    (run,) = evidence.read(tmp_path / "list.toml")
    assert run.name == "fixed-plain-seed-1" and run.settings["activation"] is None
    assert evidence.work(run, tmp_path / "results", tmp_path / "runs")
    kept = Outputs.load(tmp_path / "results/digits/fixed-plain-seed-1-outputs.npz")
    assert kept.logits.shape == (596, 10) and kept.train_counts.max() > 4 * kept.train_counts.min()
    assert History.load(tmp_path / "results/digits/fixed-plain-seed-1.parquet").settings["run"]["imbalance"] == 5
    assert not evidence.work(run, tmp_path / "results", tmp_path / "runs")
    path = tmp_path / "results/digits/fixed-plain-seed-1-outputs.npz"
    for damage, said in (
        (lambda: path.write_bytes(path.read_bytes()[:500]), "does not hold"),
        (path.unlink, "no outputs"),
    ):
        damage()
        with pytest.warns(UserWarning, match=f"{said}.*this run is done again"):
            assert evidence.work(run, tmp_path / "results", tmp_path / "runs")
        assert torch.equal(Outputs.load(path).logits, kept.logits)


def test_as_much_of_the_margins_is_kept_as_the_list_says(place):
    text, kept = (place / "list.toml").read_text(), {}
    for margins in ("", "margins = 2", 'margins = "none"'):
        (place / "list.toml").write_text(text.replace('kind = "ufm"', f'kind = "ufm"\n{margins}'))
        run = evidence.read(place / "list.toml")[0]
        evidence.work(run, place / f"results {margins}", place / "runs")
        kept[margins] = run.store(place / f"results {margins}").get(run.settings)
    whole, rounded = (kept[margins].margins["margin"].to_numpy() for margins in ("", "margins = 2"))
    assert 0 < abs(rounded - whole).max() <= 0.005
    assert kept['margins = "none"'].margins.empty and len(whole) == 12
    assert [one.settings.get("margins") for one in kept.values()] == [None, "to 2 decimals", "left out"]


def test_a_killed_run_loses_at_most_an_epoch(place, until):
    (place / "list.toml").write_text(LIST.format(epochs=400))
    command = [sys.executable, "-m", "labkit.studies.evidence", *arguments(place), "--only", "digits", "--workers", "1"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(ROOT), stderr=subprocess.DEVNULL)
    kept = lambda: sorted((place / "runs/digits").rglob("history.parquet"))
    until(kept, "a first epoch", 100, 0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    lock = next((place / "runs/digits").rglob("lock"))
    until(lambda: _free(lock), "the run to see that its parent has gone", 40, 0.5)
    reached = History.load(kept()[0]).frame["iteration"].max()
    assert reached < 400
    (run,) = [run for run in evidence.read(place / "list.toml") if run.entry == "digits"]
    settings = {key: value for key, value in run.settings.items() if key != "seed"} | {"head": ["fixed"]}
    trainer = build.make(settings, "fixed", 1, run.folder(place / "runs"))
    assert reached - 1 <= trainer.epoch < 400


def test_a_run_whose_command_was_gone_before_it_began_ends_at_once(tmp_path, monkeypatch):
    """Killed while the run was importing torch: the parent that the run then has is not the one that started it."""
    left = []
    monkeypatch.setattr(evidence.os, "_exit", left.append)
    done = threading.Event()
    evidence._keep_time(tmp_path / "seconds", 0, 0, done, parent=-1)
    assert left == [1]
    done.set()
    evidence._keep_time(tmp_path / "seconds", 0, 0, done, parent=os.getppid())
    assert left == [1]


def test_a_run_that_another_process_is_at_is_not_called_done(place, monkeypatch):
    monkeypatch.setattr(evidence, "PATIENCE", 0)
    run, _ = evidence.read(place / "list.toml")
    one = [*arguments(place), "--one", str(run)]
    run.folder(place / "runs").mkdir(parents=True)
    with evidence.filelock.FileLock(run.folder(place / "runs") / "lock"):
        assert evidence.main(one) == evidence.BUSY
    assert evidence.main(one) == 0 and evidence.main(one) == 0  # made, then there


def _free(lock):
    try:
        with evidence.filelock.FileLock(lock, timeout=0):
            return True
    except evidence.filelock.Timeout:
        return False


@pytest.mark.parametrize(
    "change, error",
    [
        (('kind = "ufm"', 'kind = "sound"'), r"entry 1 \(small-ufm\): kind must be one of"),
        (('"implicit"', '"explicit"'), r"entry 1 \(small-ufm\): head must be one of .*'explicit'"),
        (("hours = 0.01\nsettings = { epochs", "settings = { epochs"), r"entry 2 \(digits\): missing: hours"),
        (("epochs = 2", "epochs = -2"), r"entry 2 \(digits\): epochs must be"),
        (('name = "digits"', 'name = "digits"\nwish = 1'), r"entry 2 \(digits\): unknown: wish"),
        (('name = "digits"', 'name = "digits"\nmargins = -1'), r"entry 2 \(digits\): margins must be .* got -1"),
    ],
)
def test_a_bad_list_names_the_entry(place, change, error):
    text = (place / "list.toml").read_text()
    assert change[0] in text
    (place / "list.toml").write_text(text.replace(*change))
    with pytest.raises(ValueError, match=error):
        evidence.read(place / "list.toml")


def test_the_list_of_the_project_is_sound():
    runs = evidence.read(ROOT / "evidence.toml")
    assert {run.kind for run in runs} == {"ufm", "images", "text"} and all(run.hours > 0 for run in runs)
