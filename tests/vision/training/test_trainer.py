"""The loop: what it computes, what it keeps, how it goes on, and how it stops."""

import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_runs
import torch
import torch.nn.functional as F
from small_runs import a_trainer, poisoned
from subprocesses import environment
from torchvision.transforms import v2

from labkit import metrics
from labkit.heads import HEADS, MAIN
from labkit.history import History
from labkit.vision.training import checkpoints, processes, trainer
from labkit.vision.training.trainer import HISTORY

SECONDS = ["seconds", "seconds_measuring"]
STEPS = 5  # batches in an epoch


def same_numbers(one, other):
    pd.testing.assert_frame_equal(one.drop(columns=SECONDS), other.drop(columns=SECONDS), check_exact=True)


def same_state(one, other):
    """Two checkpoints, tensor for tensor and number for number."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - set(SECONDS):
            same_state(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other):
            same_state(a, b)
    else:
        assert one == other or (one != one and other != other)


# What it computes


@pytest.mark.parametrize("head", HEADS)
def test_equals_a_loop_by_hand(head):
    run = a_trainer(head, epochs=2)
    backbone, module, optimizer = small_runs.build(head)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * STEPS)
    run.run()
    for epoch in range(2):
        losses = []
        for images, labels in run.train.epoch(epoch):
            loss = F.cross_entropy(module(backbone(images), labels), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        assert run.rows[epoch + 1]["batch_loss"] == pytest.approx(sum(losses) / STEPS, rel=1e-5)
    for ours, hand in zip(run.backbone.parameters(), backbone.parameters()):
        torch.testing.assert_close(ours, hand, rtol=1e-4, atol=1e-6)

    # and the last row is what labkit.metrics says of the network as it is then
    train, test = small_runs.sets()
    norm = train.normalise()
    with torch.no_grad():
        run.backbone.eval(), run.head.eval()
        z = run.backbone(norm(train.images))
        h, last = run.head.normalize(z), run.rows[-1]
        correct = (run.head(run.backbone(norm(test.images))).argmax(-1) == test.labels).double().mean().item()
        assert last["test_accuracy"] == pytest.approx(correct, abs=1e-12)
        assert last["nc1"] == pytest.approx(metrics.nc1(h, train.labels).item(), rel=1e-4)
        margins = metrics.cosine_margins(run.head.weight, h, train.labels)
    torch.testing.assert_close(torch.from_numpy(run.margins), margins, rtol=1e-4, atol=1e-5)


def test_rows_of_the_history():
    history = a_trainer("fixed", epochs=3, seed=7).run()
    frame = history.frame
    assert frame["iteration"].tolist() == [0, 1, 2, 3] and frame["steps"].tolist() == [0, STEPS, 2 * STEPS, 3 * STEPS]
    assert set(frame["head"]) == {"fixed"} and set(frame["seed"]) == {7}
    assert frame["lr"].tolist() == pytest.approx([0.1 * (1 + math.cos(math.pi * e / 3)) / 2 for e in range(4)])
    assert frame["accuracy"].iloc[-1] > 0.9 > 0.5 > frame["accuracy"].iloc[0]
    assert len(history.margins) == small_runs.COUNT
    assert history.margins["margin"].mean() == pytest.approx(frame["cosine_margin"].iloc[-1], rel=1e-12)
    group = history.settings["optimizer"]["groups"][0]
    assert history.settings["optimizer"]["name"] == "SGD" and group["lr"] == 0.1 and group["momentum"] == 0.9


def test_a_network_with_a_classifier_of_its_own_and_own_measures():
    """Measured where asked, and at both ends; the loss is that of smoothed labels; nothing is known of heads."""
    run = a_trainer("fixed", epochs=1)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    start = {key: value.clone() for key, value in net.state_dict().items()}
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    options = dict(name="net", epochs=4, measure=lambda t: {"epoch": t.epoch}, measure_at=[2], label_smoothing=0.3)
    frame = trainer.Trainer(net, None, sgd, run.train, **options).run().frame
    assert frame["iteration"].tolist() == frame["epoch"].tolist() == [0, 2, 4]
    net.load_state_dict(start)
    losses = [F.cross_entropy(net(x), y, label_smoothing=0.3).item() for x, y in run.train.epoch(3)]
    assert frame["batch_loss"].iloc[-1] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    with pytest.raises(ValueError, match="needs batches to measure collapse on"):
        trainer.Trainer(net, None, sgd, run.train, name="net", epochs=1)


def test_measures_may_be_numbers_of_numpy_and_torch(tmp_path):
    measured = lambda run: {"one": np.float64(0.5), "two": torch.tensor(run.epoch)}
    options = dict(measure=measured, measure_at=np.arange(1), epochs=2)
    first = a_trainer("fixed", tmp_path, **options).run().frame
    again = a_trainer("fixed", tmp_path, **options)  # from its checkpoint
    assert again.epoch == 2 and again.run().frame.equals(first) and first["two"].tolist() == [0, 2]


@pytest.mark.parametrize("options", [dict(channels_last=True), dict(measure_at=[2])])
def test_how_it_is_done_changes_no_number(options, tmp_path):
    exact, other = a_trainer("implicit").run().frame, a_trainer("implicit", tmp_path, **options).run().frame
    shared = exact[exact["iteration"].isin(other["iteration"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(other.drop(columns=SECONDS), shared.drop(columns=SECONDS), rtol=1e-5)


def test_schedule_in_steps():
    frame = a_trainer("fixed", schedule="steps").run().frame
    assert frame["lr"].tolist() == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.001])


def test_any_head_will_do():
    """One that the library does not know, which counts the batches it trains on."""

    class Other(HEADS["standard"]):
        count = 0

        def classify(self, z, targets):
            self.count += self.training
            return super().classify(z, targets)

    head = Other(small_runs.DIM, 10)
    a_trainer(head, epochs=2).run()
    assert head.count == 2 * STEPS
    torch.testing.assert_close(head.weight.norm(dim=-1), torch.ones(10))


@pytest.mark.parametrize("head", MAIN)
def test_mixed_precision(head):
    frame = a_trainer(head, precision="bf16").run().frame
    exact = a_trainer(head).run().frame
    assert frame["accuracy"].iloc[-1] > 0.9
    assert frame["loss"].to_numpy() == pytest.approx(exact["loss"].to_numpy(), rel=0.1)
    assert (frame["loss"] != exact["loss"]).any()


def test_each_accelerator_keeps_its_precision():
    """accelerate's are of one precision in all of a session: the last one's."""
    accelerators = {precision: processes.accelerator(precision) for precision in ("bf16", "no")}
    for precision, on in accelerators.items():
        made = a_trainer("standard", epochs=1)
        backbone, head, optimizer = small_runs.build("standard")
        run = trainer.Trainer(
            backbone, head, optimizer, made.train, made.clean, made.test, name="standard", epochs=1, on=on
        )
        seen = set()
        backbone[1].register_forward_hook(lambda module, inputs, output: seen.add((module.training, output.dtype)))
        processes.accelerator({"bf16": "no", "no": "bf16"}[precision])
        run.run()
        dtype = {"bf16": torch.bfloat16, "no": torch.float32}[precision]
        assert seen == {(True, dtype), (False, dtype)} and run.settings["precision"] == precision


@pytest.mark.parametrize("head", HEADS)
def test_mixed_labels(head):
    mix = v2.MixUp(num_classes=10)
    history = a_trainer(head, mix=mix, epochs=2).run()
    assert history.frame["loss"].iloc[-1] < history.frame["loss"].iloc[0]


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    a_trainer("standard", plain=False, epochs=1).run()
    assert torch.equal(torch.rand(3), expected)


def test_progress_bar_says_the_time_left(capsys):
    a_trainer("fixed", epochs=1, progress=True).run()
    shown = capsys.readouterr().err
    assert "fixed, seed 0: 100%" in shown and re.search(r"5/5 \[\d\d:\d\d<00:00", shown) and "nc1=" in shown
    a_trainer("fixed", epochs=1).run()
    assert capsys.readouterr().err == ""


# What it keeps, and how it goes on


@pytest.mark.parametrize(
    "head, optimizer, schedule, precision, stop",
    [("implicit", "sgd", "cosine", "no", 1), ("standard", "adam", "steps", "bf16", 3), ("fixed", "agd", None, "no", 0)],
)
def test_interrupted_and_resumed_is_unbroken(tmp_path, head, optimizer, schedule, precision, stop):
    options = dict(head=head, optimizer=optimizer, schedule=schedule, precision=precision, plain=False)
    whole = a_trainer(folder=tmp_path / "whole", **options).run()
    for row in a_trainer(folder=tmp_path / "broken", **options).each_epoch():
        if row["iteration"] == stop:
            break
    assert History.load(tmp_path / "broken" / HISTORY).frame["iteration"].tolist() == list(range(stop + 1))
    resumed = a_trainer(folder=tmp_path / "broken", **options)
    assert resumed.epoch == stop
    same_numbers(resumed.run().frame, whole.frame)
    assert resumed.margins.tolist() == whole.margins["margin"].tolist()
    same_state(*(checkpoints.latest(tmp_path / folder)[1] for folder in ("whole", "broken")))
    saved = History.load(tmp_path / "broken" / HISTORY)
    same_numbers(saved.frame, whole.frame)
    assert len(checkpoints.saved(tmp_path / "broken")) == checkpoints.KEEP


def test_killed_and_resumed_is_unbroken(tmp_path, until):
    """kill -9 somewhere after the second epoch, then on: bit for bit the run that was never stopped."""
    whole = a_trainer(folder=tmp_path / "whole", **small_runs.KILLED).run()
    process = subprocess.Popen(
        [sys.executable, small_runs.__file__, tmp_path / "killed"],
        cwd=Path(__file__).parent,
        env=environment(Path(trainer.__file__).parents[3]),
    )
    there = tmp_path / "killed" / "epoch-00002.checkpoint.sha256"  # the last file of an epoch
    until(lambda: process.poll() is not None or there.exists(), "the second epoch")
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    rows = len(History.load(tmp_path / "killed" / HISTORY).frame)  # readable, whenever the kill came
    resumed = a_trainer(folder=tmp_path / "killed", **small_runs.KILLED)
    assert 2 <= resumed.epoch < small_runs.KILLED["epochs"] and rows in (resumed.epoch + 1, resumed.epoch + 2)
    same_numbers(resumed.run().frame, whole.frame)
    same_state(*(checkpoints.latest(tmp_path / folder)[1] for folder in ("whole", "killed")))


def test_truncated_checkpoint_is_refused_and_the_previous_one_used(tmp_path):
    whole = a_trainer("implicit", tmp_path, plain=False).run()
    path = checkpoints.saved(tmp_path)[-1]
    expected = checkpoints.load(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match="epoch-00004.checkpoint is damaged.*going on from .*epoch-00003"):
        resumed = a_trainer("implicit", tmp_path, plain=False)
    assert resumed.epoch == 3
    same_numbers(resumed.run().frame, whole.frame)
    same_state(checkpoints.load(path), expected)


def test_a_finished_run_is_left_alone(tmp_path):
    first = a_trainer("implicit", tmp_path, epochs=1).run()
    # The lock is taken again, and some versions of filelock write to it.
    times = lambda: {path: path.name != ".lock" and path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    before = times()
    again = a_trainer("implicit", tmp_path, epochs=1).run()
    pd.testing.assert_frame_equal(again.frame, first.frame)
    assert len(again.margins) == small_runs.COUNT
    assert times() == before


def test_a_history_whose_checkpoints_are_gone_is_not_written_over(tmp_path):
    """To save space, say; a history of epoch 0 alone is what a run leaves that was killed before its first checkpoint."""
    a_trainer("fixed", tmp_path, epochs=2).run()
    kept = (tmp_path / trainer.HISTORY).read_bytes()
    for path in tmp_path.glob("*.checkpoint*"):
        path.unlink()
    for head in ("fixed", "implicit"):
        with pytest.raises(ValueError, match=r"history\.parquet has 2 epochs of a run that no checkpoint is left of"):
            a_trainer(head, tmp_path, epochs=2)
    assert (tmp_path / trainer.HISTORY).read_bytes() == kept
    whole = History.load(tmp_path / trainer.HISTORY)
    History(whole.frame[:1], whole.settings).save(tmp_path / trainer.HISTORY)
    assert len(a_trainer("fixed", tmp_path, epochs=2).run().frame) == 3


def test_other_settings_want_another_folder(tmp_path):
    a_trainer("fixed", tmp_path, epochs=1, settings={"dim": 16}).run()
    with pytest.raises(
        ValueError, match=r"epoch-00001.*: epochs is 1 there, 2 here; schedule is 'cosine' there, None here$"
    ):
        a_trainer("fixed", tmp_path, epochs=2, schedule=None, settings={"dim": 16})


# How it stops


@pytest.mark.parametrize("check_every", [1, 50])
@pytest.mark.parametrize("head", HEADS)
def test_nan_stops_with_step_and_checkpoint(tmp_path, head, check_every):
    run = poisoned(a_trainer(head, tmp_path), 2, 3)
    run.check_every = check_every  # 50 as on a GPU: what is named is still the first bad step
    reason = "features must be finite.*" if head == "implicit" else "the loss is nan"
    last = tmp_path / "epoch-00002.checkpoint"
    with pytest.raises(
        FloatingPointError, match=f"^{head}, seed 0: stopped at step 14: {reason}; last good checkpoint: {last}$"
    ):
        run.run()
    assert checkpoints.saved(tmp_path)[-1] == last and checkpoints.load(last)["epoch"] == 2
    assert History.load(tmp_path / HISTORY).frame["iteration"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("measure_at", [None, [0]])
@pytest.mark.parametrize("head", HEADS)
def test_nan_after_the_last_loss_of_an_epoch_is_not_saved(tmp_path, head, measure_at):
    run = a_trainer(head, tmp_path, measure_at=measure_at)
    count = []

    def ruin(*_):
        count.append(1)
        if len(count) == 2 * STEPS:
            next(run.backbone.parameters()).data.fill_(math.inf)

    run.optimizer.register_step_post_hook(ruin)
    with pytest.raises(
        FloatingPointError, match="stopped at step 10: it left weights that are not finite.*epoch-00001.checkpoint$"
    ):
        run.run()


def test_nan_without_a_checkpoint(tmp_path):
    with pytest.raises(FloatingPointError, match=r"step 1: the loss is nan; no checkpoint was kept \(folder=None\)$"):
        poisoned(a_trainer("fixed"), 0, 0).run()


def test_bad_arguments_are_refused():
    backbone, head, _ = small_runs.build("standard")
    batches = a_trainer("fixed").train

    def make(optimizer, **options):
        trainer.Trainer(backbone, head, optimizer, batches, batches, name="standard", **{"epochs": 1, **options})

    sgd = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.1)
    with pytest.raises(ValueError, match="does not have 1 parameters that want a gradient: head.weight; give it"):
        make(torch.optim.SGD(backbone.parameters(), lr=0.1))
    with pytest.raises(
        ValueError, match="schedule='cosine' is for an optimiser with a learning rate, and AGD has none"
    ):
        a_trainer("fixed", optimizer="agd")
    with pytest.raises(ValueError, match="schedule must be one of None, .*; got 'linear'"):
        make(sgd, schedule="linear")
    with pytest.raises(ValueError, match="epochs must be an integer of at least 1, got 0"):
        make(sgd, epochs=0)
    batches.processes = 2
    with pytest.raises(ValueError, match="this is process 0 of 1, but batches are for 0 of 2"):
        make(sgd)
    with pytest.raises(ValueError, match="precision must be one of .*; got 'fp64'"):
        processes.accelerator("fp64")
