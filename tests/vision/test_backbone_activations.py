"""Activations and gates inside backbones: how many, of which kind, in use, in which order."""

import pytest
import torch

from labkit.activations import AGLU, APA
from labkit.vision import backbones

# blocks of each stage, convolutions on the main path of a block
BLOCKS = {
    "resnet18": ((2, 2, 2, 2), 2),
    "resnet32": ((5, 5, 5), 2),
    "resnet50": ((3, 4, 6, 3), 3),
    "resnet101": ((3, 4, 23, 3), 3),
    "resnet152": ((3, 8, 36, 3), 3),
    "resnext50": ((3, 4, 6, 3), 3),
}
OTHERS = {"vgg13": 2 + 2 + 2 + 2 + 2, "vit_tiny": 12, "vit_small": 12, "vit_base": 12, "swin_tiny": 2 + 2 + 6 + 2}


def small(name, **options):
    """The network for images of 32 pixels."""
    return backbones.create(name, image_size=32, stem=None if name == "vgg13" else "cifar", **options)


def learnt_everywhere(name, **options):
    return small(name, activation="aglu", gate="apa" if name.startswith("se_") else None, **options)


def images(n=2):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def learnt(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, (AGLU, APA))}


def seen(model):
    """(name, shape of the input) of every AGLU and APA, in the order in which a forward pass comes to them."""
    calls = []
    for name, module in learnt(model).items():
        module.register_forward_pre_hook(lambda m, args, name=name: calls.append((name, tuple(args[0].shape))))
    with torch.no_grad():
        model.eval()(images())
    return calls


def counts(model):
    modules = learnt(model).values()
    activations = sum(isinstance(m, AGLU) for m in modules)
    return activations, len(modules) - activations


@pytest.mark.parametrize("name", [*BLOCKS, *(f"se_{name}" for name in BLOCKS), *OTHERS])
def test_one_aglu_for_each_activation_and_one_apa_for_each_gate(name):
    with torch.device("meta"):
        model = learnt_everywhere(name)
    if name in OTHERS:
        assert counts(model) == (OTHERS[name], 0)
    else:
        blocks, convolutions = BLOCKS[name.removeprefix("se_")]
        assert counts(model) == (1 + sum(blocks) * convolutions, sum(blocks) * name.startswith("se_"))
    modules = learnt(model).values()
    assert len({id(m.kappa) for m in modules}) == len({id(m.lam) for m in modules}) == len(modules)
    # what is left is the ReLU inside channel attention
    left = [n for n, m in model.named_modules() if isinstance(m, (torch.nn.ReLU, torch.nn.GELU, torch.nn.Sigmoid))]
    assert len(left) == counts(model)[1] and all(n.endswith(".se.act") for n in left)


def test_resnet50_has_49_activations_and_16_gates():
    with torch.device("meta"):
        assert counts(backbones.create("resnet50", activation="aglu")) == (49, 0)
        assert counts(backbones.create("se_resnet50", activation="aglu", gate="apa")) == (49, 16)
        assert counts(backbones.create("se_resnet50", gate="apa")) == (0, 16)


@pytest.mark.parametrize("name", ["resnet18", "vgg13", "vit_tiny", "swin_tiny"])
@pytest.mark.parametrize(
    "activation, kind", [("relu", torch.nn.ReLU), ("gelu", torch.nn.GELU), ("silu", torch.nn.SiLU)]
)
def test_activations_by_name(name, activation, kind):
    with torch.device("meta"):
        model = backbones.create(name, activation=activation)
    found = [m for m in model.modules() if isinstance(m, (torch.nn.ReLU, torch.nn.GELU, torch.nn.SiLU))]
    assert len(found) == {"resnet18": 17, "vgg13": 10}.get(name, 12)
    assert all(isinstance(m, kind) for m in found)


def test_own_activations():
    with torch.device("meta"):
        assert isinstance(backbones.create("resnet18").act1, torch.nn.ReLU)
        assert isinstance(backbones.create("vit_tiny").blocks[0].mlp.act, torch.nn.GELU)


@pytest.mark.parametrize("name", ["se_resnet18", "se_resnet32", "se_resnext50", "vgg13", "vit_tiny", "swin_tiny"])
def test_every_parameter_has_a_finite_gradient(name):
    torch.manual_seed(0)
    model = learnt_everywhere(name)
    model(images(4)).square().sum().backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), parameter
    for layer, module in learnt(model).items():
        assert module.kappa.grad != 0 and module.lam.grad != 0, layer


def test_gate_is_in_use():
    torch.manual_seed(0)
    model = small("se_resnet18", gate="apa", gate_options=dict(kappa_init=(1.0, 1.0), lambda_init=(1.0, 1.0))).eval()
    torch.manual_seed(0)
    sigmoid = small("se_resnet18", gate="sigmoid").eval()
    with torch.no_grad():
        same = model(images())
        torch.testing.assert_close(same, sigmoid(images()))  # APA with κ = λ = 1 is the sigmoid
        for module in learnt(model).values():
            module.lam.fill_(0.2)
        assert not torch.allclose(model(images()), same)


@pytest.mark.parametrize("name", ["se_resnet32", "se_resnet50", "vgg13"])
def test_per_channel(name):
    model = learnt_everywhere(name, per_channel=True)
    for layer, shape in seen(model):
        module = learnt(model)[layer]
        assert module.kappa.shape == module.lam.shape == shape[1:2], layer


def test_per_channel_in_the_gates_alone():
    with torch.device("meta"):
        model = backbones.create("se_resnet18", gate="apa", per_channel=True)
    assert [len(m.kappa) for m in learnt(model).values()] == [64, 64, 128, 128, 256, 256, 512, 512]


def test_initial_values():
    torch.manual_seed(0)
    model = small(
        "se_resnet50",
        activation="aglu",
        gate="apa",
        gate_options=dict(kappa_init=(-1.0, 0.0)),
        activation_options=dict(lambda_init=(0.4, 0.5)),
    )
    table = backbones.parameters_by_depth(model).set_index("kind")
    assert table.loc["activation", "kappa"].between(1, 1.3).all() and table.loc["gate", "kappa"].between(-1, 0).all()
    assert table.loc["activation", "lam"].between(0.4, 0.5).all() and table.loc["gate", "lam"].between(0, 1).all()
    assert table["kappa"].nunique() == len(table)


@pytest.mark.parametrize("name", ["se_resnet50", "se_resnet32", "vgg13", "vit_tiny", "swin_tiny"])
def test_parameters_by_depth_in_forward_order(name):
    model = learnt_everywhere(name)
    table = backbones.parameters_by_depth(model)
    assert list(table["name"]) == [layer for layer, _ in seen(model)]
    for _, rows in table.groupby("kind"):
        assert list(rows["layer"]) == list(range(1, len(rows) + 1))
    for row in table.itertuples():
        module = learnt(model)[row.name]
        assert row.kind == ("activation" if isinstance(module, AGLU) else "gate")
        assert (row.kappa, row.lam) == (module.kappa.item(), module.lam.item())


def test_parameters_by_depth_of_a_network_without_any():
    table = backbones.parameters_by_depth(small("resnet32"))
    assert table.empty and list(table.columns) == ["layer", "name", "kind", "kappa", "lam"]


def test_parameters_by_depth_takes_means_over_channels():
    model = small("resnet32", activation="aglu", per_channel=True)
    first = backbones.parameters_by_depth(model).iloc[0]
    assert first["kappa"] == pytest.approx(model.act1.kappa.mean().item())


def test_norm_and_dropout_in_channel_attention():
    torch.manual_seed(0)
    model = small("se_resnet18", activation="aglu", gate="apa", attention_norm=True, attention_dropout=0.1)
    attention = model.layer2[0].se
    assert attention.fc2[1].p == 0.1
    channels = 128
    squeezed = torch.randn(4, channels, 1, 1)
    expected = torch.nn.functional.layer_norm(squeezed.flatten(1), (channels,))
    torch.testing.assert_close(attention.fc1[0](squeezed).flatten(1), expected)
    assert not torch.equal(attention.fc2(torch.ones(2, 8, 1, 1)), attention.fc2(torch.ones(2, 8, 1, 1)))
    model(images(4)).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert len(learnt(model)) == 17 + 8


@pytest.mark.parametrize("name", ["se_resnet32", "vgg13", "vit_tiny", "swin_tiny"])
def test_a_seed_gives_one_model_and_one_set_of_weights_for_all_activations(name):
    def state(**options):
        torch.manual_seed(3)
        return small(name, **options).state_dict()

    first, second, plain = state(activation="aglu"), state(activation="aglu"), state()
    assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
    assert {k.rpartition(".")[2] for k in first.keys() - plain.keys()} == {"kappa", "lam"}
    assert all(torch.equal(first[k], plain[k]) for k in plain)
