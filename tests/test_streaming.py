"""Measures in two passes are those of labkit.metrics on all features at once."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import labkit
from labkit import checks, metrics, streaming
from labkit.heads import HEADS, ImplicitETFHead

N, D, C = 203, 12, 5
NAMES = ["loss", "accuracy", "nc1", "nc2", "nc3", "nc4", "equinorm_means", "equinorm_weights", "cosine_margin"]


def samples(spread=1.0, dtype=torch.float64):
    """Features around random centres, in classes of different sizes and no order."""
    g = torch.Generator().manual_seed(0)
    labels = (torch.rand(N, generator=g, dtype=torch.float64) ** 2 * C).long()
    centres = torch.randn(C, D, generator=g, dtype=torch.float64)
    return (centres[labels] + spread * torch.randn(N, D, generator=g, dtype=torch.float64)).to(dtype), labels


def a_head(name, dtype=torch.float64):
    torch.manual_seed(1)
    head = HEADS[name](D, C).to(dtype)
    head(*samples(dtype=dtype))  # the implicit one has taken in a batch, and has a bias
    return head.eval()


def reader(features, labels, size=64):
    """read() in batches, and the list of its calls."""
    calls = []

    def read():
        calls.append(1)
        return zip(features.split(size), labels.split(size))

    return read, calls


@torch.no_grad()
def at_once(head, features, labels):
    """The same by labkit.metrics, with every feature in memory."""
    h, logits, weight = head.normalize(features), head(features).double(), head.weight
    means, global_mean = metrics.class_means(h, labels, C)
    margins = metrics.cosine_margins(weight, h, labels)
    values = [
        F.cross_entropy(logits, labels),
        (logits.argmax(-1) == labels).double().mean(),
        metrics.nc1(h, labels),
        metrics.nc2(weight),
        metrics.nc3(weight, h, labels),
        metrics.nc4(logits, h, labels),
        metrics.equinorm(means - global_mean),
        metrics.equinorm(weight),
        margins.mean(),
    ]
    return dict(zip(NAMES, (v.item() for v in values))), margins.numpy()


@pytest.mark.parametrize("spread", [1.0, 1e-4], ids=["spread", "collapsed"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", HEADS)
def test_equals_metrics(name, dtype, spread):
    head, (features, labels) = a_head(name, dtype), samples(spread, dtype)
    read, calls = reader(features, labels)
    expected, margins = at_once(head, features, labels)
    found = streaming.collapse(read, head, margins=True)
    assert len(calls) == 1  # few enough to be kept
    np.testing.assert_allclose(found.pop("margins"), margins, rtol=1e-10, atol=1e-12)
    assert list(found) == NAMES
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-13)


def test_beyond_the_limit_the_data_is_read_twice():
    head, (features, labels) = a_head("implicit"), samples()
    read, calls = reader(features, labels)
    limit = features.nbytes // 2
    assert streaming.collapse(read, head, keep=limit) == streaming.collapse(reader(features, labels)[0], head)
    assert len(calls) == 2


def test_half_precision_features_are_widened_first():
    head, (features, labels) = a_head("standard", torch.float32), samples(dtype=torch.bfloat16)
    found = streaming.collapse(reader(features, labels)[0], head)
    assert found == pytest.approx(at_once(head, features.float(), labels)[0], rel=1e-10)


def test_accuracy_and_loss():
    head, (features, labels) = a_head("implicit"), samples()
    found = streaming.accuracy(reader(features, labels)[0], head)
    expected, _ = at_once(head, features, labels)
    assert found == pytest.approx({key: expected[key] for key in ("loss", "accuracy")}, rel=1e-12)


def test_bad_samples_are_refused():
    head, (features, labels) = a_head("fixed"), samples()
    with pytest.raises(ValueError, match="labels must lie in 0 … 4"):  # of a mean the ignored ones would be a part
        streaming.accuracy(reader(features, labels.index_fill(0, torch.arange(3), -100))[0], head)
    with pytest.raises(ValueError, match=r"classes \[4\] of 5 have none"):
        streaming.collapse(reader(features[labels < 4], labels[labels < 4])[0], head)
    with pytest.raises(ValueError, match="labels must lie in 0 … 4"):
        streaming.collapse(reader(features, labels + 1)[0], head)
    features[7, 2] = float("nan")
    with pytest.raises(checks.NotFinite, match="features must be finite"):
        streaming.collapse(reader(features, labels)[0], head)


def test_nothing_moves_in_an_implicit_head():
    head, (features, labels) = a_head("implicit"), samples()
    before = {name: value.clone() for name, value in head.state_dict().items()}
    streaming.collapse(reader(features, labels)[0], head)
    assert isinstance(head, ImplicitETFHead) and all(
        torch.equal(before[name], v) for name, v in head.state_dict().items()
    )


@pytest.mark.parametrize("kind", [streaming.NeuralCollapse, labkit.NeuralCollapse])
def test_a_batch_of_another_size_is_refused_and_an_empty_one_changes_nothing(kind):
    features, labels = samples()
    measures, wanted = kind(C), kind(C)
    for part in (slice(0, 100), slice(100, N)):
        wanted.update(features[part], labels[part])
        measures.update(features[part], labels[part])
        with pytest.raises(ValueError, match=rf"\('N', {D}\).*\(9, 1\)"):
            measures.update(features[:9, :1], labels[:9])
        measures.update(features[:0], labels[:0])
    found, expected = measures.compute(), wanted.compute()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_an_empty_first_batch_is_none():
    features, labels = samples()
    measures = labkit.NeuralCollapse(C)
    assert all(value.isnan() for value in measures(features[:0], labels[:0]).values())
    with pytest.raises(ValueError, match="before the first update"):
        measures.compute()
    measures.update(features, labels)
    torch.testing.assert_close(measures.compute()["nc1"], metrics.nc1(features, labels))


def test_runs_beside_each_other_stay_as_many():
    measures = streaming.NeuralCollapse(C)
    measures.update(*samples())
    with pytest.raises(ValueError, match=r"\('N', 12\).*\(2, 203, 12\)"):
        measures.update(samples()[0].expand(2, N, D), samples()[1])
