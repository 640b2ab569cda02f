"""What is kept of a finished network's test images: the numbers that the run itself measured, and files that last."""

import numpy as np
import pytest
import torch

from labkit import metrics
from labkit.studies import networks
from labkit.vision import build, data, outputs, recipes
from labkit.vision.outputs import Outputs
from labkit.vision.training.classifier import NoHead

TAILED = recipes.RECIPES["digits"] | {"imbalance": 20, "epochs": 2, "measure_at": []}


@pytest.mark.parametrize("head", ["cosine", "standard_no_norm", "fixed", "implicit"])
def test_outputs_are_what_the_run_measured(head):
    run = build.make(TAILED, head)
    last = run.run().final().iloc[0]
    kept = outputs.of(run)
    assert kept.logits.shape == (596, 10) and kept.weight.shape == (10, 64) and len(kept.entropy) == 0
    assert len(kept.cams) == 0 and len(kept.shown) == 30
    assert torch.equal(kept.labels, torch.cat([y for _, y in run.test.epoch(0)]))
    assert kept.train_counts.tolist() == run.train.images.counts().tolist() and kept.train_counts.sum() < 600
    assert (kept.logits.argmax(-1) == kept.labels).double().mean().item() == pytest.approx(last["test_accuracy"])
    loss = torch.nn.functional.cross_entropy(kept.logits.double(), kept.labels).item()
    assert loss == pytest.approx(last["test_loss"], rel=1e-5)
    with torch.no_grad():
        features = torch.cat([run.backbone(x) for x, _ in run.test.epoch(0)])
    assert kept.measures["test_nc1"] == pytest.approx(metrics.nc1(features, kept.labels, 10).item(), rel=1e-6)
    unit = features / features.norm(dim=-1, keepdim=True)
    assert kept.measures["test_nc1_normalised"] == pytest.approx(metrics.nc1(unit, kept.labels, 10).item(), rel=1e-4)


def test_a_head_whose_batches_are_shuffled_has_its_outputs_in_the_order_of_the_set():
    """The bias of the batch is another one for a few images, so maps are of the classes that the logits say."""
    changes = {"backbone": "resnet10_half", "count": 60, "epochs": 1, "imbalance": None, "measure_at": []}
    run = build.make(TAILED | changes | {"head_options": {"fixed": {"bias": "batch_mean"}}}, "fixed")
    run.run()
    kept = outputs.of(run)
    assert run.test.order == "shuffled" and torch.equal(kept.labels, data.load("digits", "test", count=60).labels)
    images = torch.cat([x for x, _ in run.test.epoch(0)])[run.test.indices(0).argsort()]
    with torch.no_grad():
        torch.testing.assert_close(kept.logits, run.head(run.backbone(images)), rtol=1e-4, atol=1e-4)
    maps, _ = outputs.grad_cam(run.backbone, run.head, images[kept.shown], kept.logits.argmax(-1)[kept.shown])
    torch.testing.assert_close(kept.cams, maps, rtol=1e-3, atol=1e-5)


def test_a_bias_of_the_batch_is_that_of_the_batches_that_the_run_measured():
    """The test set fills two batches, and they are others in each epoch."""
    run = build.make(TAILED | {"head_options": {"fixed": {"bias": "batch_mean"}}}, "fixed")
    last, kept = run.run().final().iloc[0], outputs.of(run)
    assert len(run.test) == 2
    assert (kept.logits.argmax(-1) == kept.labels).double().mean().item() == pytest.approx(last["test_accuracy"])
    loss = torch.nn.functional.cross_entropy(kept.logits.double(), kept.labels).item()
    assert loss == pytest.approx(last["test_loss"], rel=1e-5)


def test_a_run_in_a_folder_leaves_its_outputs(tmp_path):
    first = build.run(TAILED, "cosine", 1, tmp_path)
    path = build.path_of_outputs(TAILED, "cosine", 1, tmp_path)
    kept = Outputs.load(path)
    assert path.parent.joinpath("history.parquet").is_file() and kept.settings["run"]["imbalance"] == 20
    path.unlink()
    again = build.run(TAILED, "cosine", 1, tmp_path)  # finished, from its last checkpoint, without an epoch more
    assert again.frame.equals(first.frame) and torch.equal(Outputs.load(path).logits, kept.logits)
    build.run(TAILED | {"imbalance": None, "epochs": 1}, "cosine", 1, tmp_path)
    assert len(list(tmp_path.rglob("outputs.npz"))) == 1  # balanced sets have none


def test_channel_attention_is_kept_by_image_and_depth():
    settings = TAILED | {"backbone": "se_resnet32", "activation": "aglu", "gate": "apa", "count": 60, "epochs": 1}
    run = build.make(settings | {"imbalance": None}, "cosine")
    kept = outputs.of(run)
    assert kept.entropy.shape == (60,) and bool(((kept.entropy > 0) & (kept.entropy <= 1)).all())
    images = torch.cat([x for x, _ in run.test.epoch(0)])
    with networks.last_gate(run.backbone) as seen, torch.no_grad():
        run.backbone(images)
    torch.testing.assert_close(kept.entropy, outputs.attention_entropy(seen[0]), rtol=1e-5, atol=0)
    assert kept.cams.shape == (len(kept.shown), 2, 2) and kept.labels[kept.shown].bincount().max() == 3
    one, guess = outputs.grad_cam(run.backbone, run.head, images[kept.shown[4:5]])
    torch.testing.assert_close(kept.cams[4:5], one, rtol=1e-4, atol=1e-6)
    assert guess == kept.logits[kept.shown[4]].argmax()
    assert {row["kind"] for row in kept.parameters} == {"activation", "gate"} and len(kept.parameters) == 46


def test_files(tmp_path):
    kept = Outputs(
        logits=torch.randn(5, 3), labels=torch.tensor([0, 1, 2, 2, 0]), train_counts=torch.tensor([9, 3, 1]),
        weight=torch.randn(3, 4), entropy=torch.rand(5).double(), cams=torch.rand(2, 4, 4), shown=torch.tensor([1, 3]), measures={"test_nc1": np.float64(2.5)},
        settings={"seed": 3},
    )  # fmt: skip
    path = kept.save(tmp_path / "folder" / "outputs.npz")
    back = Outputs.load(path)
    for name in outputs.TENSORS:
        assert (
            torch.equal(getattr(back, name), getattr(kept, name))
            and getattr(back, name).dtype == getattr(kept, name).dtype
        )
    assert back.measures == {"test_nc1": 2.5} and back.settings == {"seed": 3} and back.parameters == []
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="outputs.npz does not hold the outputs of a run"):
        Outputs.load(path)
    with pytest.raises(FileNotFoundError, match="no outputs of a run at"):
        Outputs.load(tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match=r"train_counts must have shape \(3,\), got \(2,\)"):
        Outputs(kept.logits, kept.labels, torch.tensor([1, 2]), kept.weight, kept.entropy, kept.cams, kept.shown)


def test_a_run_without_test_images_is_refused():
    run = build.make(TAILED, "fixed")
    run.test = None
    with pytest.raises(ValueError, match="this trainer has none"):
        outputs.of(run)
    run = build.make(TAILED, "fixed")
    run.head = NoHead()
    with pytest.raises(ValueError, match=r"this trainer has none \(head=None\)"):
        outputs.of(run)


def test_a_trial_whose_test_images_lack_a_class():
    kept = outputs.of(build.make(TAILED | {"count": 14, "imbalance": 2}, "fixed"))
    assert kept.labels.unique().numel() < 10 and np.isnan(list(kept.measures.values())).all()
