"""Heads and AGD against the programs that the papers' authors released: numbers of tests/outside."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from labkit import heads, nearest
from labkit.optim import AGD

FOLDER = Path(__file__).parent / "outside"
# How far from the released numbers, for each precision of theirs: (standard and fixed, implicit).
TOLERANCE = {"f32": (1e-5, 1e-4), "f64": (1e-12, 1e-5), "f64tight": (None, 1e-11)}
OPTIONS = {"standard": {"start": "released"}, "fixed": {"bias": "batch_mean"}, "implicit": {"eval_bias": "last"}}


def numbers(name):
    return np.load(FOLDER / f"{name}.npz")


def tensor(array, dtype=torch.float64):
    return torch.from_numpy(np.asarray(array)).to(dtype)


def backbone_of(data, dtype):
    """Linear layers without bias, ReLU between them, from the released start."""
    count = len(data["widths"]) - 1
    layers = [m for _ in range(count) for m in (torch.nn.Linear(1, 1, bias=False), torch.nn.ReLU())][:-1]
    for k in range(count):
        layers[2 * k].weight = torch.nn.Parameter(tensor(data[f"init_weight_{k}"], dtype))
    return torch.nn.Sequential(*layers)


def train(data, kind, optimizer, prefix, monkeypatch, fused):
    """20 steps from the released start; the losses, the network and the head."""
    dtype = torch.float32 if prefix == "f32" else torch.float64
    backbone = backbone_of(data, dtype)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # an ETF made in float32 and widened would have float32's rounding
    try:
        head = heads.make(kind, int(data["d"]), int(data["C"]), float(data["tau"]), fused=fused, **OPTIONS[kind])
    finally:
        torch.set_default_dtype(default)
    if kind == "standard":
        start = tensor(data["init_W"], dtype)
        head.load_state_dict({"weight": start, "start": start})
    if kind == "implicit":  # of all solutions of the first step theirs is where a trust region stops
        first = tensor(data[f"{prefix}_start_frame"], dtype)
        monkeypatch.setattr(nearest, "start_frame", lambda means, start=None: first)
    learnt = [*backbone.parameters(), *head.parameters()]
    if optimizer == "agd":
        made = AGD(learnt, gain=float(data["gain"]))
    else:
        lr, momentum, decay = (float(data[key]) for key in ("lr", "momentum", "weight_decay"))
        made = torch.optim.SGD(learnt, lr=lr, momentum=momentum, weight_decay=decay)
    losses = []
    for images, labels in zip(tensor(data["inputs"], dtype), torch.from_numpy(data["labels"])):
        loss = F.cross_entropy(head(backbone(images), labels), labels)
        made.zero_grad()
        loss.backward()
        made.step()
        losses.append(loss.item())
    return losses, backbone, head


def runs():
    for kind in ("standard", "fixed", "implicit"):
        for prefix in TOLERANCE:
            if kind == "implicit" or prefix != "f64tight":
                yield from ((kind, optimizer, size, prefix) for optimizer in ("sgd", "agd") for size in ("c6", "c10"))


@pytest.mark.parametrize("kind, optimizer, size, prefix", runs())
@pytest.mark.parametrize("fused", [True, False])
def test_twenty_steps_of_the_released_heads(kind, optimizer, size, prefix, fused, monkeypatch):
    data = numbers(f"released-head-{kind}-{optimizer}-{size}")
    tolerance = TOLERANCE[prefix][kind == "implicit"]
    losses, backbone, head = train(data, kind, optimizer, prefix, monkeypatch, fused)
    np.testing.assert_allclose(losses, data[f"{prefix}_loss"], rtol=tolerance, atol=tolerance)
    for k, weight in enumerate(backbone.parameters()):
        expected = tensor(data[f"{prefix}_weight_{k}"], weight.dtype)
        assert (weight - expected).norm() < tolerance * expected.norm()
    torch.testing.assert_close(
        head.weight.detach(), tensor(data[f"{prefix}_W"], head.weight.dtype), rtol=tolerance, atol=tolerance
    )
    with torch.no_grad():
        logits = head.eval()(backbone(tensor(data["eval_inputs"], head.weight.dtype)))
    np.testing.assert_allclose(logits, data[f"{prefix}_eval_logits"], rtol=10 * tolerance, atol=10 * tolerance)
    if kind != "standard":
        np.testing.assert_allclose(head.bias, data[f"{prefix}_b_eval"], rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("size", ["c6", "c10"])
@pytest.mark.parametrize("optimizer", ["sgd", "agd"])
def test_single_nearest_etfs(optimizer, size):
    data = numbers(f"released-head-implicit-{optimizer}-{size}")
    frames = tensor(data["f64tight_frame_path"])
    prox = torch.cat([tensor(data["f64tight_start_frame"]).unsqueeze(0), frames[:-1]])
    means = tensor(data["f64tight_means_path"])
    means = means / torch.linalg.matrix_norm(means, keepdim=True)
    torch.testing.assert_close(nearest.nearest_etf(means, prox, float(data["delta"])), frames, rtol=0, atol=1e-10)


@pytest.mark.parametrize("gain", [1, 10])
def test_ten_steps_of_agd(gain):
    data = numbers(f"agd-gain{gain}")
    weights = [torch.nn.Parameter(tensor(data[f"init_weight_{k}"])) for k in range(3)]
    optimizer = AGD(weights, gain=float(data["gain"]))
    (s0, s1), (p0, p1) = data["strides"].tolist(), data["paddings"].tolist()

    def loss_of(t):
        k = t % len(data["inputs"])
        x = F.relu(F.conv2d(tensor(data["inputs"][k]), weights[0], stride=s0, padding=p0))
        x = F.relu(F.conv2d(x, weights[1], stride=s1, padding=p1))
        return F.cross_entropy(x.flatten(1) @ weights[2].mT, torch.from_numpy(data["labels"][k]))

    losses = []
    for t in range(10):
        loss = loss_of(t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose([*losses, loss_of(10).item()], data["losses"], rtol=1e-12)
    for k, weight in enumerate(weights):
        np.testing.assert_allclose(weight.detach(), data[f"final_weight_{k}"], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("case", ["case0", "case1"])
@pytest.mark.parametrize("kind, scale", [("cosine16", 16.0), ("lr_cosine", 25.0)])
def test_cosine_classifier(case, kind, scale):
    # case1 has 100 classes in 12 dimensions. Their learnt parameter is the root of the scale, ours the scale itself.
    data = numbers("cosine-classifier")
    x, weight = tensor(data[f"{case}_features"]).requires_grad_(), tensor(data[f"{case}_weight"])
    head = heads.CosineHead(x.shape[1], len(weight), scale, learn_temperature=kind == "lr_cosine").double()
    with torch.no_grad():
        head.directions.copy_(weight)
    logits = head(x)
    logits.backward(tensor(data[f"{case}_cotangent"]))
    for ours, name in ((logits.detach(), "logits"), (x.grad, "dfeatures"), (head.directions.grad, "dweight")):
        np.testing.assert_allclose(ours, data[f"{case}_{kind}_{name}"], rtol=1e-12, atol=1e-12)
    if kind == "lr_cosine":
        expected = float(data[f"{case}_lr_cosine_dscale"][0])
        assert head.temperature.grad.item() * 2 * 5 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_plain_cosine(case):
    data = numbers("cosine-classifier")
    x, weight = tensor(data[f"{case}_features"]), tensor(data[f"{case}_weight"])
    head = heads.CosineHead(x.shape[1], len(weight), 1.0, squashed=False).double()
    with torch.no_grad():
        head.directions.copy_(weight)
        np.testing.assert_allclose(head(x), data[f"{case}_normed_logits"], rtol=1e-12, atol=1e-12)
