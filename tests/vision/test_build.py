"""Experiments from recipes: what a run on digits does, and the command line."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from image_sets import encoded, pixels, write_parquet
from PIL import Image

from labkit.heads import MAIN, VARIANTS
from labkit.history import History
from labkit.vision import __main__, build, data, pipelines, recipes
from labkit.vision.training import checkpoints, trainer

DIGITS, CPU = recipes.RECIPES["digits"], {"device": "cpu"}


@pytest.mark.parametrize("head", MAIN)
def test_digits_collapse(head):
    frame = build.run(DIGITS, head).frame
    assert len(frame) == 61
    first, last = frame.iloc[0], frame.iloc[-1]
    assert first["nc1"] > 100 * last["nc1"]
    assert last["accuracy"] == 1.0
    assert last["test_accuracy"] > 0.92
    assert last["nc2"] < 0.1 and last["nc3"] < 0.02 and last["nc4"] == 0
    assert last["cosine_margin"] > 0.95 * 10 / 9


def test_all_heads_start_from_the_same_backbone():
    starts = [build.make(DIGITS, head, seed=2).backbone.state_dict() for head in MAIN]
    for other in starts[1:]:
        assert all(torch.equal(starts[0][name], value) for name, value in other.items())
    assert not torch.equal(starts[0]["1.weight"], build.make(DIGITS, "fixed", seed=3).backbone.state_dict()["1.weight"])


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_the_heads_train(name):
    history = build.run(DIGITS | {"count": 50, "epochs": 1}, name)
    assert history.frame["head"].unique().tolist() == [name] and np.isfinite(history.frame["loss"]).all()


# Data


def test_the_test_set_is_normalised_as_the_training_set():
    train, clean, test, shape, title = pipelines.batches_of(DIGITS, 0, None, False, CPU)
    assert shape == (1, 8) and title == "scikit-learn's digits"
    images = torch.cat([images for images, _ in clean.epoch(0)])
    assert images.mean().item() == pytest.approx(0, abs=1e-5) and images.std().item() == pytest.approx(1, abs=1e-3)
    raw = data.load("digits", "test").floats()[0]
    there = torch.cat([images for images, _ in test.epoch(0)])
    ratio = (raw - raw.mean()).norm() / (there - there.mean()).norm()
    shift = there.mean() * ratio - raw.mean()
    torch.testing.assert_close(there * ratio - raw, shift.expand_as(raw), atol=1e-4, rtol=0)


@pytest.mark.parametrize("measured_on", ["clean", "augmented"])
def test_augmentation_is_for_training_and_for_what_is_measured_on_it(measured_on):
    steps = ["flip", "rotation:15", "crop:1", "normalise"]
    train, clean, test, *_ = pipelines.batches_of(
        DIGITS | {"augmentation": steps, "measured_on": measured_on}, 0, None, False, CPU
    )
    kinds = [[type(t).__name__ for t in part.transforms] for part in (train, clean, test)]
    all_of_them = ["Flip", "Rotation", "PaddedCrop", "Normalise"]
    assert kinds == [all_of_them, all_of_them if measured_on == "augmented" else ["Normalise"], ["Normalise"]]
    order, read = data.load("digits", "train").labels, torch.cat([y for _, y in clean.epoch(3)])
    assert torch.equal(read, order) is (measured_on == "clean") and torch.equal(read.bincount(), order.bincount())


def test_a_bias_of_the_batch_does_not_depend_on_the_order_of_the_images(monkeypatch):
    """The released fixed head takes the mean of each batch away, which is the class itself in a set that is sorted."""
    monkeypatch.setattr(pipelines, "CLEAN_BATCH", 100)  # less than a class, as on ImageNet
    settings = recipes.RECIPES["guiding/cifar10"] | {"data": "digits", "epochs": 8, "mean": None, "std": None}
    settings |= {"backbone": "small", "stem": None, "augmentation": ["normalise"]}
    whole, found = data.load, []
    for order in (lambda labels: torch.arange(len(labels)), lambda labels: labels.argsort(stable=True)):
        in_order = lambda *what: (images := whole(*what))[order(images.labels)]
        monkeypatch.setattr(data, "load", in_order)
        pipelines._load.cache_clear()
        found.append(build.run(settings, "fixed").final()[["accuracy", "test_accuracy"]].min(axis=1).item())
    pipelines._load.cache_clear()
    assert min(found) > 0.9


def test_policies_for_white_at_255_are_refused_elsewhere():
    with pytest.raises(ValueError, match="take white for 255, and that of 'digits' is 16"):
        build.make(DIGITS | {"augmentation": ["randaugment:9", "normalise"]}, "fixed")


def test_a_finished_run_is_of_the_images_that_it_was_made_with(tmp_path, monkeypatch):
    for folder, kind in (("a", "JPEG"), ("b", "PNG")):
        (tmp_path / folder).mkdir()
        for split in data.SPLITS:
            pictures = [encoded(p, kind) for p in pixels(20)]
            write_parquet(tmp_path / folder / f"cifar10-{split}.parquet", pictures, [*range(10)] * 2)
    settings = DIGITS | {"data": "cifar10", "epochs": 1, "sampler": "shuffled"}
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "a"))
    run = lambda folder="runs": build.run(settings, "fixed", folder=tmp_path / folder)
    first = run()
    assert first.settings["images"] == "CIFAR-10, JPEG re-encoded"
    assert run().frame.equals(first.frame)
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "b"))
    with pytest.raises(
        ValueError, match="this run on 'CIFAR-10, JPEG re-encoded', but the images at hand are 'CIFAR-10'"
    ):
        run()
    assert run("others").settings["images"] == "CIFAR-10"
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "nowhere"))
    assert run().frame.equals(first.frame)  # to look at a run needs no images


def test_pictures_of_another_side():
    settings = recipes.RECIPES["thousand"] | {"data": "patterns", "side": 12, "count": 8, "batch_size": 4}
    train, clean, test, shape, title = pipelines.batches_of(settings, 0, None, False, CPU)
    assert shape == (3, 12) and test is None and len(train.images.classes) == 1000 and "random patterns" in title
    images, labels = next(iter(clean.epoch(0)))
    assert images.shape == (8, 3, 12, 12)
    blocks = data.load("patterns", "train", count=8).images.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5))
    ours = data.load("patterns", "train", count=8).resized(12).images.float()
    assert (blocks - ours).abs().mean() < 5 < 25 < (blocks - blocks.mean((2, 3), keepdim=True)).abs().mean()


def test_imagenet_comes_from_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(pipelines, "WORKERS", 0)
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("n01", "n02"):
            folder = tmp_path / "imagenet" / split / kind
            folder.mkdir(parents=True)
            for i, size in enumerate([(260, 300), (400, 240)]):
                Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    settings = recipes.RECIPES["guiding/imagenet"] | {"measured_on": "clean", "head": ["implicit"]}
    train, clean, test, shape, title = pipelines.batches_of(settings, 0, tmp_path, False, CPU)
    for batches in (train, clean, test):
        ((images, labels),) = batches.epoch(0)
        assert images.shape == (4, 3, 224, 224) and sorted(labels.tolist()) == [0, 0, 1, 1]
    (once, _), (again, _), (other, _) = (next(iter(part.epoch(k))) for part, k in ((clean, 0), (clean, 1), (train, 1)))
    assert shape == (3, 224) and torch.equal(once, again) and not torch.equal(once, other)


# The command line


def command(folder, *more):
    return __main__.main(["--recipe", "digits", "--epochs", "2", "--folder", str(folder), *more])


def test_command_line_runs_goes_on_and_skips(tmp_path, capsys):
    assert command(tmp_path, "--head", "fixed", "implicit", "--seeds", "0", "4") == 0
    out, err = capsys.readouterr()
    names = [line.split(":")[0] for line in out.splitlines()]
    wanted = [f"digits-small-{head}-{seed}" for seed in (0, 4) for head in ("fixed", "implicit")]
    assert [name.rpartition("-")[0] for name in names] == wanted
    assert "implicit, seed 4: 100%" in err
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert command(tmp_path, "--head", "fixed", "implicit", "--seeds", "0", "4") == 0
    assert capsys.readouterr() == (out, "")  # read from the files, not trained
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == kept

    # one that was stopped after its first epoch
    folder = tmp_path / names[0]
    whole = History.load(folder / trainer.HISTORY)
    (folder / trainer.HISTORY).unlink()
    checkpoints.saved(folder)[-1].unlink()
    assert command(tmp_path, "--head", "fixed", "--seeds", "0") == 0
    assert "50%" in capsys.readouterr().err
    assert History.load(folder / trainer.HISTORY).frame["loss"].tolist() == whole.frame["loss"].tolist()


def test_a_killed_command_goes_on(tmp_path):
    """kill -9 between two measured epochs: the same command ends as one that was never stopped."""
    words = ["--recipe", "digits", "--head", "implicit", "--seeds", "0", "--epochs", "300", "--measure-at", "1", "40"]
    call = lambda folder: [sys.executable, "-m", "labkit.vision", *words, "--folder", str(folder)]
    process = subprocess.Popen(call(tmp_path / "killed"), stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not [*tmp_path.glob("killed/*/epoch-00005.checkpoint.sha256")] and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    (folder,) = (tmp_path / "killed").iterdir()
    assert History.load(folder / trainer.HISTORY).frame["iteration"].tolist()[:2] == [0, 1]
    assert checkpoints.latest(folder)[1]["epoch"] >= 5  # which no row is of
    settings = __main__.chosen([*words, "--folder", "x"])[1]
    resumed = build.make(settings, "implicit", 0, tmp_path / "killed")
    whole = build.make(settings, "implicit", 0)
    for run in (resumed, whole):
        rows = run.each_epoch()
        while run.epoch < 40:
            next(rows)
    assert resumed.rows[-1]["loss"] == whole.rows[-1]["loss"]
    assert [row["iteration"] for row in resumed.rows] == [0, 1, 40]


def test_every_field_can_be_changed_and_is_kept(tmp_path):
    words = (
        "--lr 0.5 --weight-decay 0 --schedule cosine-by-epoch --warmup 1 --batch-size 100 --augmentation crop:1 normalise "
        "--precision bf16 --count 500 --channels-last true --measure-at 2 2 --label-smoothing 0.1 --mixup 0.2 "
        "--sampler class-balanced --measured-on augmented --mean 0.3 --std 0.4 --temperature 4"
    ).split() + ["--head-options", '{"standard": {"start": "released"}}']
    assert command(tmp_path, "--head", "standard", "--seeds", "1", *words) == 0
    (path,) = tmp_path.glob(f"*/{trainer.HISTORY}")
    history = History.load(path)
    changed = dict(
        lr=0.5, weight_decay=0, schedule="cosine-by-epoch", warmup=1, batch_size=100, epochs=2, count=500,
        augmentation=["crop:1", "normalise"], precision="bf16", channels_last=True, measure_at=[2, 2], mixup=0.2,
        label_smoothing=0.1, sampler="class-balanced", measured_on="augmented", mean=0.3, std=0.4, temperature=4,
        head_options={"standard": {"start": "released"}}, head="standard", seed=1,
    )  # fmt: skip
    assert history.settings["run"] == DIGITS | changed
    assert history.settings["precision"] == "bf16" and history.settings["steps"] == 5  # of 500 images
    assert history.frame["iteration"].tolist() == [0, 2]
    assert history.frame["lr"].tolist() == pytest.approx([0.005, 0.0])


def test_an_option_of_a_head_leaves_the_recipes_others_as_they_are():
    words = ["--recipe", "guiding/cifar10", "--folder", "x", "--head-options", '{"implicit": {"delta": 0.01}}']
    assert __main__.chosen(words)[1]["head_options"] == {
        "standard": {"start": "released"},
        "fixed": {"bias": "batch_mean"},
        "implicit": {"eval_bias": "last", "delta": 0.01},
    }


def test_a_run_that_diverges_does_not_stop_the_others(tmp_path, capsys):
    assert command(tmp_path, "--head", "standard", "--seeds", "0", "1", "--lr", "1e30") == 1
    out, err = capsys.readouterr()
    assert out == ""
    for seed in (0, 1):
        assert f"standard, seed {seed}: stopped at step" in err
        assert f"last good checkpoint: {tmp_path}/digits-small-standard-{seed}-" in err


def test_a_bad_command_line_says_why(tmp_path, capsys):
    for words, reason in (
        (["--data", "mnits"], "data must be one of"),
        (["--weight-decay", "-1"], "weight_decay must be"),
        (["--threads", "0"], "threads must be an integer of at least 1, got 0"),
        (["--seeds", "3", "-1"], "seed must be an integer of at least 0, got -1"),
    ):
        with pytest.raises(SystemExit):
            command(tmp_path, *words)
        assert reason in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="cifar10"):
        __main__.main(["--folder", str(tmp_path), "--root", str(tmp_path)])
