"""Channel attention of SE networks and of APA*, held to the numbers of the released code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from labkit.vision import backbones

OUTSIDE = np.load(Path(__file__).parents[1] / "outside" / "channel-attention.npz")
STAR = dict(gate="apa", attention_norm=True, attention_dropout=0.1)


@pytest.mark.parametrize("case, name", [("case1", "se_resnet32"), ("case2", "se_resnet18")])
@pytest.mark.parametrize("kind", ["se", "apa"])
def test_channel_attention_equals_the_released_code(case, name, kind):
    """The first attention of a network in evaluation mode: its output and all gradients."""
    prefix = f"{case}_{kind}_"
    theirs = {key.removeprefix(prefix): torch.from_numpy(OUTSIDE[key]) for key in OUTSIDE if key.startswith(prefix)}
    model = backbones.create(name, attention_bias=False, **(STAR if kind == "apa" else {}))
    attention = model.layer1[0].se.double().eval()
    if kind == "apa":
        norm, first = attention.fc1
        pairs = {"excitation.0.weight": first.weight, "excitation.2.weight": attention.fc2[0].weight}
        pairs |= {"norm.weight": norm.weight, "norm.bias": norm.bias}
        pairs |= {"unact.lambda_param": attention.gate.lam, "unact.kappa_param": attention.gate.kappa}
    else:
        pairs = {"excitation.0.weight": attention.fc1.weight, "excitation.2.weight": attention.fc2.weight}
    assert {f"state_{key}" for key in pairs} == {key for key in theirs if key.startswith("state_")}
    for key, parameter in pairs.items():
        parameter.data = theirs[f"state_{key}"].double().reshape(parameter.shape)
    x = torch.from_numpy(OUTSIDE[f"{case}_x"]).double().requires_grad_()
    out = attention(x)
    (out * torch.from_numpy(OUTSIDE[f"{case}_cotangent"])).sum().backward()
    found = {"out": out, "dx": x.grad} | {f"grad_{key}": parameter.grad for key, parameter in pairs.items()}
    for key, value in found.items():
        torch.testing.assert_close(value, theirs[key].double().reshape(value.shape), rtol=1e-11, atol=1e-12, msg=key)
