"""Parts of a detector: Mask R-CNN of torchvision takes them, forwards and backwards on made-up boxes."""

import pytest
import torch

from labkit.activations import AGLU, APA
from labkit.vision import backbones, detection  # first: torchvision can need the hand that it gets there

torchvision = pytest.importorskip("torchvision")
MaskRCNN = torchvision.models.detection.MaskRCNN

STAR = dict(activation="aglu", gate="apa", attention_bias=False, attention_norm=True, attention_dropout=0.1)


def plain_nms(boxes, scores, iou_threshold):
    """In place of torchvision's, where its compiled library is not there."""
    order, kept = scores.argsort(descending=True).tolist(), []
    overlap = torchvision.ops.box_iou(boxes, boxes)
    for i in order:
        if all(overlap[i, j] <= iou_threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


@pytest.fixture
def operators(monkeypatch):
    """Those of torchvision's compiled library, written out where it is not there."""
    if torchvision.extension._has_ops():
        yield
        return
    monkeypatch.setattr(torchvision.ops.boxes, "nms", plain_nms)
    with torch.compiler.set_stance("force_eager"):  # its own roi_align in Python would be compiled, for a minute
        yield


def made_up(classes=5, side=64):
    generator = torch.Generator().manual_seed(0)
    images, targets = [torch.rand(3, side, side, generator=generator) for _ in range(2)], []
    for _ in images:
        corner = torch.rand(3, 2, generator=generator) * 30
        masks = torch.zeros(3, side, side, dtype=torch.uint8)
        masks[:, 10:40, 10:40] = 1
        targets.append(
            {"boxes": torch.cat([corner, corner + 30], 1), "labels": torch.tensor([1, 2, classes - 1]), "masks": masks}
        )
    return images, targets


def test_mask_rcnn_trains_on_it(operators):
    torch.manual_seed(0)
    body = backbones.create("se_resnet50", **STAR)
    sizes = dict(
        rpn_pre_nms_top_n_train=40, rpn_post_nms_top_n_train=20, box_batch_size_per_image=8, rpn_pre_nms_top_n_test=20
    )
    model = MaskRCNN(detection.Pyramid(body, 32), 5, min_size=64, max_size=64, **sizes)
    model.roi_heads.mask_predictor = detection.NormMask(256, 32, 5)
    running = body.bn1.running_mean.clone(), body.layer4[0].bn1.running_mean.clone()
    losses = model(*made_up())
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert torch.equal(running[0], body.bn1.running_mean) and torch.equal(running[1], body.layer4[0].bn1.running_mean)
    counted = {AGLU: 0, APA: 0}
    for name, module in body.named_modules():
        if isinstance(module, (AGLU, APA)):
            counted[type(module)] += 1
            frozen = name.startswith(("act1", "layer1"))
            for parameter in (module.kappa, module.lam):
                assert parameter.requires_grad is not frozen
                assert (parameter.grad is None) if frozen else bool(parameter.grad.abs().sum() > 0), name
    assert counted == {AGLU: 49, APA: 16}  # as the released SE-ResNet-50 has them
    assert model.roi_heads.mask_predictor.root.grad.abs() > 0
    model.eval()
    with torch.no_grad():
        found = model(made_up()[0])
    assert [set(one) for one in found] == [{"boxes", "labels", "scores", "masks"}] * 2


def test_the_maps_are_those_of_the_stages():
    body = backbones.create("se_resnet18")
    pyramid = detection.Pyramid(body, 16, frozen=0)
    maps = pyramid(torch.randn(1, 3, 64, 96))
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "0": (1, 16, 16, 24), "1": (1, 16, 8, 12), "2": (1, 16, 4, 6), "3": (1, 16, 2, 3), "pool": (1, 16, 1, 2)
    }  # fmt: skip
    assert all(p.requires_grad for p in pyramid.parameters())
    frozen = detection.Pyramid(backbones.create("se_resnet18", attention_dropout=0.5)).train()
    dropouts = {
        k: [m.training for m in getattr(frozen.body, f"layer{k}").modules() if type(m) is torch.nn.Dropout]
        for k in (1, 2)
    }
    assert dropouts[1] and not any(dropouts[1]) and all(dropouts[2])
    pyramid.train()
    assert not any(m.training for m in body.modules() if isinstance(m, torch.nn.BatchNorm2d)) and pyramid.fpn.training
    with pytest.raises(ValueError, match="four stages of a ResNet; got a ResNet"):
        detection.Pyramid(backbones.create("resnet32"))


def test_masks_are_cosines():
    predictor = detection.NormMask(4, 6, 3, start=2.0)
    x = torch.randn(2, 4, 5, 5)
    inside = predictor.up(x).relu()
    cosine = torch.nn.functional.cosine_similarity(inside[:, None], predictor.weight[None, :, :, None, None], dim=2)
    torch.testing.assert_close(predictor(x), 4 * cosine, rtol=1e-4, atol=1e-5)
    assert detection.NormMask(4, 6, 3).root.item() ** 2 == 20.25


def test_repeat_factors_by_hand():
    labels = [[0, 0, 1], [0], [0, 2], [0], [0], [0], [0], [0], [], [0]]  # shares 0.9, 0.1, 0.1 of ten images
    found = detection.repeat_factors(labels, threshold=0.4)
    assert found.tolist() == pytest.approx([2, 1, 2, 1, 1, 1, 1, 1, 1, 1])
    assert detection.repeat_factors(labels).tolist() == [1.0] * 10
    targets = [torch.tensor(objects, dtype=torch.long) for objects in labels]  # as torchvision's have them
    assert torch.equal(detection.repeat_factors(targets, threshold=0.4), found)
