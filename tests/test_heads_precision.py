"""The heads on half-precision features and under autocast: the same as float32 heads on the same features."""

import pytest
import torch
import torch.nn.functional as F

from labkit.heads import HEADS

N, D, C = 40, 16, 4


def logits_and_gradient(name, features, training=True):
    """Logits of a fresh head, and the gradient of the loss with respect to the features."""
    torch.manual_seed(0)
    head = HEADS[name](D, C).train(training)
    z, targets = features.clone().requires_grad_(), torch.arange(N) % C
    logits = head(z, targets)
    F.cross_entropy(logits, targets).backward()
    return logits.detach(), z.grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_half_precision_features(name, dtype, training):
    features = torch.randn(N, D, generator=torch.Generator().manual_seed(1)).to(dtype)
    wide, wide_grad = logits_and_gradient(name, features.float(), training)
    logits, grad = logits_and_gradient(name, features, training)
    assert logits.dtype == torch.float32 and torch.equal(logits, wide)
    assert grad.dtype == dtype and torch.equal(grad, wide_grad.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["standard", "fixed", "implicit"])  # of a plain form the backward is autograd's own
def test_autocast_does_not_reach_the_arithmetic(name, dtype):
    features = torch.randn(N, D, generator=torch.Generator().manual_seed(1)).to(dtype)
    plain = logits_and_gradient(name, features)
    with torch.autocast("cpu", torch.bfloat16):
        cast = logits_and_gradient(name, features)  # backward too
    assert all(map(torch.equal, cast, plain))


@pytest.mark.parametrize("name", HEADS)
def test_float64_features_on_a_float32_head(name):
    features = torch.randn(N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits, _ = logits_and_gradient(name, features)
    single, _ = logits_and_gradient(name, features.float())
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits.float(), single)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("averaged", [False, True])
def test_weight_and_bias_that_are_read_under_autocast_have_their_digits(name, averaged):
    torch.manual_seed(0)
    head = HEADS[name](D, C)
    head(torch.randn(N, D) + 1, torch.arange(N) % C)
    if averaged and name == "implicit":  # its frame then has to be made orthonormal again
        head.frame.add_(torch.linalg.qr(torch.randn(D, C))[0]).div_(2)
    with torch.autocast("cpu", torch.bfloat16):
        weight, bias = head.weight, head.bias
    assert torch.equal(weight, head.weight) and weight.dtype == torch.float32
    assert (bias is None and head.bias is None) or (bias.dtype == torch.float32 and torch.equal(bias, head.bias))


@pytest.mark.parametrize("name", HEADS)
def test_weight_and_bias_can_be_read_without_data(name):
    head = HEADS[name](D, C).to("meta")
    assert head.weight.shape == (C, D) and (head.bias is None or head.bias.shape == (C,))


@pytest.mark.parametrize("cast", [lambda m: m.to(torch.bfloat16), lambda m: m.half()])
@pytest.mark.parametrize("name", HEADS)
def test_a_model_in_half_precision_has_its_head_in_float32(name, cast):
    """The frame of an implicit head in bfloat16 never left its start, and rows of a linear one were 6 % too long."""
    torch.manual_seed(0)
    cast_head, head = (HEADS[name](D, C) for _ in range(2))
    head.load_state_dict(cast_head.state_dict())
    model = cast(torch.nn.Sequential(torch.nn.Linear(3, D), cast_head))
    assert model[0].weight.dtype != torch.float32 and cast_head.weight.dtype == torch.float32
    targets = torch.arange(N) % C
    for seed in range(3):
        features = torch.randn(N, D, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(cast_head(features, targets), head(features, targets))
    assert all(torch.equal(a, b) for a, b in zip(cast_head.state_dict().values(), head.state_dict().values()))
    assert cast_head.double().weight.dtype == torch.float64
