"""Experiments from settings: what the presets do, and the command line."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from labkit.heads import HEADS, VARIANTS, make
from labkit.history import History
from labkit.optim import AGD
from labkit.vision import checkpoints, data, recipes, trainer

DIGITS, CPU = recipes.PRESETS["digits"], {"device": "cpu"}


# What it must show


@pytest.mark.parametrize("head", HEADS)
def test_digits_collapse(head):
    frame = recipes.run(DIGITS, head).frame
    assert len(frame) == 61
    first, last = frame.iloc[0], frame.iloc[-1]
    assert first["nc1"] > 100 * last["nc1"]
    assert last["accuracy"] == 1.0
    assert last["test_accuracy"] > 0.92
    assert last["nc2"] < 0.1 and last["nc3"] < 0.02 and last["nc4"] == 0
    assert last["cosine_margin"] > 0.95 * 10 / 9


def test_all_heads_start_from_the_same_backbone():
    starts = [recipes.make(DIGITS, head, seed=2).backbone.state_dict() for head in HEADS]
    for other in starts[1:]:
        assert all(torch.equal(starts[0][name], value) for name, value in other.items())
    assert not torch.equal(
        starts[0]["1.weight"], recipes.make(DIGITS, "fixed", seed=3).backbone.state_dict()["1.weight"]
    )


def test_the_guiding_preset_is_the_papers():
    guiding = recipes.PRESETS["guiding"]
    assert (guiding["epochs"], guiding["batch_size"], guiding["temperature"]) == (200, 256, 5.0)
    backbone = recipes.network(guiding, 3, 32)
    head = HEADS["standard"](512, 10)
    made = recipes.optimizer(guiding, backbone, head)
    assert isinstance(made, AGD) and made.defaults["gain"] == 10
    assert backbone.conv1.weight.shape == (64, 3, 7, 7)  # the ImageNet stem
    kernels = backbone.layer1[0].conv1.weight[:, :, 1, 2]  # as AGD wants them: orthogonal, √(out/in)/3 in size
    torch.testing.assert_close(kernels @ kernels.mT, torch.eye(64) / 9, atol=1e-5, rtol=0)
    assert all(p.ndim > 1 for p in backbone.parameters())


def test_sgd_decays_matrices_only():
    backbone = recipes.network(DIGITS, 1, 8)
    groups = recipes.optimizer(DIGITS, backbone, HEADS["standard"](64, 10)).param_groups
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
    assert [{p.ndim for p in group["params"]} for group in groups] == [{2}, {1}]


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_the_heads_train(name):
    made = recipes.make(DIGITS | {"count": 50, "epochs": 1}, name)
    kind = type(made.head).__name__
    assert (
        kind == {"standard": "LinearHead", "fixed": "FixedETFHead", "implicit": "ImplicitETFHead"}[name.split("_")[0]]
    )
    assert getattr(made.head, "backprop_through_etf", None) == {"implicit": True, "implicit_without_ddn": False}.get(
        name
    )
    assert getattr(made.head, "normalized", True) == (name != "standard_no_norm")
    history = made.run()
    assert history.frame["head"].unique().tolist() == [name] and np.isfinite(history.frame["loss"]).all()


def test_make_takes_known_heads_only():
    with pytest.raises(ValueError, match="head must be one of 'standard', 'fixed', .*; got 'ETF'"):
        make("ETF", 16, 4)
    assert make("fixed_haar", 16, 4).temperature == 5.0 and make("implicit", 16, 4, delta=0.5).delta == 0.5


# Data


def test_the_test_set_is_normalised_as_the_training_set():
    train, clean, test, shape, title = recipes.batches_of(DIGITS, 0, None, False, CPU)
    assert (
        shape == (1, 8)
        and title == "scikit-learn's digits"
        and (train.order, clean.order, test.order) == ("stratified", "sequential", "sequential")
    )
    images = torch.cat([images for images, _ in clean.epoch(0)])
    assert images.mean().item() == pytest.approx(0, abs=1e-5) and images.std().item() == pytest.approx(1, abs=1e-3)
    raw = data.load("digits", "test").floats()[0]
    there = torch.cat([images for images, _ in test.epoch(0)])
    ratio = (raw - raw.mean()).norm() / (there - there.mean()).norm()
    torch.testing.assert_close(
        there * ratio - raw, torch.full_like(raw, (there.mean() * ratio - raw.mean()).item()), atol=1e-4, rtol=0
    )


def test_augmentation_is_for_training_alone():
    train, clean, test, *_ = recipes.batches_of(DIGITS | {"augment": True}, 0, None, False, CPU)
    assert [type(t).__name__ for t in train.transforms] == ["Flip", "Rotation", "PaddedCrop", "Normalise"]
    assert [type(t).__name__ for t in clean.transforms + test.transforms] == ["Normalise"] * 2


def test_pictures_of_another_side():
    settings = recipes.PRESETS["thousand"] | {"data": "patterns", "side": 12, "count": 8, "batch_size": 4}
    train, clean, test, shape, title = recipes.batches_of(settings, 0, None, False, CPU)
    assert shape == (3, 12) and test is None and len(train.images.classes) == 1000 and "random patterns" in title
    images, labels = next(iter(clean.epoch(0)))
    assert images.shape == (8, 3, 12, 12)
    blocks = data.load("patterns", "train", count=8).images.float().unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5))
    ours = data.load("patterns", "train", count=8).resized(12).images.float()
    assert (blocks - ours).abs().mean() < 5 < 25 < (blocks - blocks.mean((2, 3), keepdim=True)).abs().mean()


@pytest.mark.parametrize("side", [0, -3, 2.5, True])
def test_bad_sides(side):
    with pytest.raises(ValueError, match="side must be a whole number of pixels from 1 on, or None"):
        recipes.check(DIGITS | {"side": side})


def test_imagenet_comes_from_folders(tmp_path):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("n01", "n02"):
            folder = tmp_path / "imagenet" / split / kind
            folder.mkdir(parents=True)
            for i, size in enumerate([(260, 300), (400, 240)]):
                Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    settings = recipes.PRESETS["guiding"] | {"data": "imagenet", "backbone": "resnet50"}
    train, clean, test, shape, title = recipes.batches_of(settings, 0, tmp_path, False, CPU)
    for batches in (train, clean, test):
        batches.workers = 0
        ((images, labels),) = batches.epoch(0)
        assert images.shape == (4, 3, 224, 224) and sorted(labels.tolist()) == [0, 0, 1, 1]
    (once, _), (again, _), (other, _) = (next(iter(part.epoch(k))) for part, k in ((clean, 0), (clean, 1), (train, 1)))
    assert shape == (3, 224) and torch.equal(once, again) and not torch.equal(once, other)


# The command line


def command(folder, *more):
    return recipes.main(["--preset", "digits", "--epochs", "2", "--folder", str(folder), *more])


def test_command_line_runs_goes_on_and_skips(tmp_path, capsys):
    assert command(tmp_path, "--head", "fixed", "implicit", "--seeds", "0", "4") == 0
    out, err = capsys.readouterr()
    names = [f"digits-small-{head}-{seed}" for seed in (0, 4) for head in ("fixed", "implicit")]
    assert [line.split(":")[0] for line in out.splitlines()] == names
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


def test_command_line_settings(tmp_path):
    changes = [
        "--lr",
        "0.5",
        "--weight-decay",
        "0",
        "--schedule",
        "cosine",
        "--batch-size",
        "100",
        "--augment",
        "--precision",
        "bf16",
        "--count",
        "500",
    ]
    assert command(tmp_path, "--head", "standard", "--seeds", "1", *changes) == 0
    settings = History.load(tmp_path / "digits-small-standard-1" / trainer.HISTORY).settings
    assert settings["run"] == DIGITS | dict(
        lr=0.5, weight_decay=0.0, schedule="cosine", batch_size=100, augment=True, epochs=2, count=500
    )
    assert (
        settings["precision"] == "bf16" and settings["schedule"] == "cosine" and settings["steps"] == 5
    )  # of 500 images
    assert settings["images"] == "scikit-learn's digits"


def test_a_run_that_diverges_does_not_stop_the_others(tmp_path, capsys):
    assert command(tmp_path, "--head", "standard", "--seeds", "0", "1", "--lr", "1e30") == 1
    out, err = capsys.readouterr()
    assert out == ""
    for seed in (0, 1):
        assert f"standard, seed {seed}: stopped at step" in err
        assert f"last good checkpoint: {tmp_path}/digits-small-standard-{seed}/epoch-00000.checkpoint" in err


def test_bad_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match="missing: lr, unknown: rate"):
        recipes.run({"rate" if key == "lr" else key: value for key, value in DIGITS.items()}, "fixed")
    with pytest.raises(ValueError, match="AGD has no weight decay, got weight_decay=0.0005"):
        recipes.run(DIGITS | {"optimizer": "agd"}, "fixed")
    with pytest.raises(ValueError, match="head must be one of 'standard', 'fixed', 'implicit', .*; got 'linear'"):
        recipes.run(DIGITS, "linear")
    with pytest.raises(SystemExit):
        command(tmp_path, "--data", "mnist")
    with pytest.raises(FileNotFoundError, match="cifar10"):
        recipes.main(["--folder", str(tmp_path), "--root", str(tmp_path)])
