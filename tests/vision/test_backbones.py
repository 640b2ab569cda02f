"""Backbones against arithmetic on the architectures and the parameter counts published for them."""

import itertools
import socket

import pytest
import torch

from labkit import heads
from labkit.optim import AGD, agd_init_
from labkit.vision import backbones

RESNETS = ["resnet10_half", "resnet18", "resnet32", "resnet50", "resnet101", "resnet152", "resnext50"]
ATTENTION = [f"se_{name}" for name in RESNETS]
TRANSFORMERS = ["vit_mini", "swin_mini", "vit_tiny", "vit_small", "vit_base", "swin_tiny"]
ALL = [*RESNETS, *ATTENTION, "vgg13", *TRANSFORMERS]

FEATURES = {
    "vgg13": 512,
    "vit_mini": 96,
    "swin_mini": 128,
    "vit_tiny": 192,
    "vit_small": 384,
    "vit_base": 768,
    "swin_tiny": 768,
}
FEATURES |= {"resnet10_half": 256, "resnet18": 512, "resnet32": 64}  # the other ResNets: 2048


def small(name, **options):
    """The network for images of 32 pixels."""
    return backbones.create(name, image_size=32, stem=None if name == "vgg13" else "cifar", **options)


def images(n=2, size=32, channels=3):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def count(model):
    return sum(p.numel() for p in model.parameters())


# --- names, sizes, shapes -------------------------------------------------------------------------------------------


def test_the_shortcut_of_narrow_resnets_takes_every_second_pixel_and_pads_with_zeros():
    shortcut, x = backbones.create("resnet32").layer2[0].downsample, torch.randn(2, 16, 8, 8)
    y = shortcut(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2]) and not y[:, :8].any() and not y[:, 24:].any()


def test_names():
    assert sorted(backbones.NAMES) == sorted(ALL)


# With 1000 classes, as published with torchvision's weights.
PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50": 25_028_904,
    "vit_base": 86_567_656,
    "swin_tiny": 28_288_354,
}


@pytest.mark.parametrize("name, parameters", PUBLISHED.items(), ids=PUBLISHED)
def test_published_numbers_of_parameters(name, parameters):
    with torch.device("meta"):
        assert count(backbones.create(name, num_classes=1000)) == parameters


@pytest.mark.parametrize("name", RESNETS)
def test_channel_attention_adds_two_layers_a_block(name):
    blocks = {"resnet18": (2, 2, 2, 2), "resnet32": (5, 5, 5), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
    blocks |= {"resnet10_half": (1, 1, 1, 1)}
    widths = {"resnet10_half": (32, 64, 128, 256), "resnet18": (64, 128, 256, 512), "resnet32": (16, 32, 64)}
    widths = widths.get(name, (256, 512, 1024, 2048))
    ratio = 4 if name == "resnet32" else 16
    attention = sum(
        n * ((c + 1) * (c // ratio) + (c // ratio + 1) * c) for n, c in zip(blocks.get(name, (3, 4, 6, 3)), widths)
    )
    with torch.device("meta"):
        assert count(backbones.create(f"se_{name}")) - count(backbones.create(name)) == attention


@pytest.mark.parametrize("name, d, depth", [("vit_mini", 96, 6), ("vit_tiny", 192, 12), ("vit_small", 384, 12)])
def test_parameters_of_the_smaller_vits(name, d, depth):
    block = (d + 1) * 3 * d + (d + 1) * d + (d + 1) * 4 * d + (4 * d + 1) * d + 2 * 2 * d
    tokens = (16 * 16 * 3 + 1) * d + d + (14 * 14 + 1) * d
    with torch.device("meta"):
        assert count(backbones.create(name, num_classes=1000)) == tokens + depth * block + 2 * d + (d + 1) * 1000


SWINS = {"swin_mini": (32, (2, 2, 2), (2, 4, 8)), "swin_tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24))}


@pytest.mark.parametrize("name", SWINS)
def test_parameters_of_swins(name):
    d, depths, heads = SWINS[name]
    expected = (4 * 4 * 3 + 1) * d + 2 * d  # patches and their norm
    for depth, h in zip(depths, heads):
        expected += depth * (12 * d * d + 13 * d + 13 * 13 * h)  # with the biases of relative places in 7×7 windows
        expected += 2 * 4 * d + 4 * d * 2 * d  # patches merged: a norm, and a matrix without bias
        d = 2 * d
    d = d // 2
    expected -= 2 * 4 * d + 4 * d * 2 * d  # but not after the last stage
    with torch.device("meta"):
        assert count(backbones.create(name, num_classes=1000)) == expected + 2 * d + (d + 1) * 1000


def test_resnet32_has_the_0_46_million_parameters_of_he_et_al():
    def conv_and_norm(fan_in, out):
        return 9 * fan_in * out + 2 * out

    expected = conv_and_norm(3, 16) + 10 * conv_and_norm(16, 16)
    expected += conv_and_norm(16, 32) + 9 * conv_and_norm(32, 32)
    expected += conv_and_norm(32, 64) + 9 * conv_and_norm(64, 64)
    expected += 64 * 10 + 10
    assert expected == 464_154
    assert count(backbones.create("resnet32", num_classes=10)) == expected


def test_vgg13_is_the_published_network_less_its_head_and_the_biases_of_its_convolutions():
    published = 133_053_736  # torchvision's vgg13_bn
    head = (512 * 7 * 7 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    biases = 2 * (64 + 128 + 256 + 512 + 512)
    with torch.device("meta"):
        assert count(backbones.create("vgg13")) == published - head - biases


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("name", ALL)
def test_shapes(name, size):
    with torch.device("meta"):  # shapes without arithmetic
        model = backbones.create(name, image_size=size, features_only=True)
        d = FEATURES.get(name.removeprefix("se_"), 2048)
        assert model.num_features == d
        assert model(torch.empty(2, 3, size, size)).shape == (2, d)
        model = backbones.create(name, image_size=size, num_classes=7, in_chans=1)
        assert model(torch.empty(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", ["resnet18", "resnet32", "vgg13", "vit_tiny", "swin_tiny"])
def test_runs_at_224_pixels(name):
    features = backbones.create(name, activation="aglu").eval()(images(1, 224))
    assert features.isfinite().all() and features.std() > 0


def test_features_are_those_under_the_classifier():
    features, classifier = small("resnet18").eval(), small("resnet18", num_classes=10).eval()
    extra = features.load_state_dict(classifier.state_dict(), strict=False)
    assert extra.missing_keys == [] and extra.unexpected_keys == ["fc.weight", "fc.bias"]
    with torch.no_grad():
        torch.testing.assert_close(classifier(images()), classifier.fc(features(images())))


# --- stems ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*RESNETS, "se_resnet32", "se_resnet50"])
@pytest.mark.parametrize("stem, shrinks", [("imagenet", 4), ("cifar", 1)])
def test_stem_sets_the_size_of_the_first_stage(name, stem, shrinks):
    with torch.device("meta"):
        model = backbones.create(name, stem=stem).eval()
        maps = []
        model.layer1.register_forward_hook(lambda module, args, out: maps.append((args[0].shape, out.shape)))
        model(torch.empty(1, 3, 32, 32))
    ((into, out),) = maps
    assert into[2:] == out[2:] == (32 // shrinks, 32 // shrinks)
    assert into[1] == {"resnet32": 16, "resnet10_half": 32}.get(name.removeprefix("se_"), 64)
    kernel = {"imagenet": ((7, 7), (2, 2)), "cifar": ((3, 3), (1, 1))}[stem]
    assert (model.conv1.kernel_size, model.conv1.stride) == kernel
    assert isinstance(model.maxpool, torch.nn.MaxPool2d) == (stem == "imagenet")
    # what timm's own feature extraction goes by
    stages = 3 if name.endswith("resnet32") else 4
    assert [info["reduction"] for info in model.feature_info[1:]] == [shrinks * 2**i for i in range(stages)]


@pytest.mark.parametrize("name, stem", [("resnet32", "cifar"), ("se_resnet32", "cifar"), ("resnet18", "imagenet")])
def test_stem_of_its_own(name, stem):
    with torch.device("meta"):
        own, chosen = backbones.create(name), backbones.create(name, stem=stem)
    assert own.conv1.kernel_size == chosen.conv1.kernel_size


@pytest.mark.parametrize("stem, tokens", [("imagenet", 4), ("cifar", 64)])
def test_stem_of_vit_is_its_patch(stem, tokens):
    with torch.device("meta"):
        model = backbones.create("vit_tiny", stem=stem, image_size=32)
        assert model.patch_embed(torch.empty(1, 3, 32, 32)).shape == (1, tokens, 192)


@pytest.mark.parametrize("stem, side, window", [("imagenet", 8, 7), ("cifar", 16, 4)])
def test_stem_of_swin_is_its_patch_and_window(stem, side, window):
    with torch.device("meta"):
        model = backbones.create("swin_tiny", stem=stem, image_size=32)
        assert model.patch_embed(torch.empty(1, 3, 32, 32)).shape == (1, side, side, 96)
    assert model.layers[0].blocks[0].window_size == (window, window)


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet32", "se_resnet18", "vgg13", "vit_tiny"])
def test_a_head_on_top_trains(name):
    torch.manual_seed(0)
    model = small(name, activation="aglu", features_only=True)
    head = heads.ImplicitETFHead(model.num_features, 4)
    optimiser = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.01)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    targets = torch.arange(8) % 4
    for _ in range(2):
        loss = torch.nn.functional.cross_entropy(head(model(images(8)), targets), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        assert loss.isfinite()
    for n, p in model.named_parameters():
        assert p.isfinite().all(), n
        assert p.ndim < 2 or not torch.equal(p, before[n]), n  # every matrix and convolution has moved
    assert head.eval()(model.eval()(images(8))).shape == (8, 4)


@pytest.mark.parametrize("name", ["resnet18", "se_resnet32", "vgg13"])
def test_without_scales_and_biases_agd_trains(name):
    torch.manual_seed(0)
    model = small(name, affine=False, num_classes=4, attention_norm=name.startswith("se_"))
    assert {p.ndim for p in model.parameters()} == {2, 4}
    for p in model.parameters():
        agd_init_(p)
    optimiser = AGD(model.parameters(), gain=1.0)
    targets = torch.arange(8) % 4
    losses = []
    for _ in range(4):
        loss = torch.nn.functional.cross_entropy(model(images(8)), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


# --- kernels that meet only padding ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel, stride, padding", list(itertools.product((1, 2, 3, 5, 7), (1, 2, 3), (0, 1, 2, 3))))
def test_what_meets_only_padding_is_left_out_of_no_sum(kernel, stride, padding):
    g = torch.Generator().manual_seed(0)
    plain = torch.nn.Conv2d(4, 6, kernel, stride, padding, groups=2, dtype=torch.float64)
    cropped = backbones.CroppedConv2d(4, 6, kernel, stride, padding, groups=2, dtype=torch.float64)
    cropped.load_state_dict(plain.state_dict())
    for height, width in itertools.product((1, 2, 3, 4, 8), (1, 2, 7)):
        if min(height, width) + 2 * padding < kernel:
            continue
        x = torch.randn(2, 4, height, width, generator=g, dtype=torch.float64, requires_grad=True)
        weights = torch.randn(plain(x).shape, generator=g, dtype=torch.float64)
        found = []
        for conv in (cropped, plain):
            y = conv(x)
            found.append((y, *torch.autograd.grad(y, (x, conv.weight, conv.bias), weights)))
        for ours, wanted in zip(*found):
            torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stem, cropped", [("imagenet", 1 + 3), ("cifar", 0)])
def test_only_the_last_stage_of_resnet18_is_cropped(stem, cropped, monkeypatch):
    """From maps of 2×2 to one pixel a kernel of 3×3 needs 2×2 of its weights, and on that pixel, three times, one."""
    met, conv2d = [], torch.nn.functional.conv2d
    monkeypatch.setattr(
        torch.nn.functional,
        "conv2d",
        lambda x, kernel, *rest, **named: met.append(tuple(kernel.shape[2:])) or conv2d(x, kernel, *rest, **named),
    )
    backbones.create("resnet18", stem=stem).eval()(images())
    assert len(met) == 20 and met.count((1, 1)) + met.count((2, 2)) == 3 + cropped  # three shortcuts are of 1×1


def test_nothing_is_downloaded(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with torch.device("meta"):
        for name in ALL:
            backbones.create(name)


@pytest.mark.parametrize(
    "name, layers",
    [  # standard deviations by √(2/fan) of normal weights, and of uniform ones on ±1/√fan_in, 1/√(3 fan_in)
        ("se_resnet32", {"conv1": (2 / 27) ** 0.5, "layer2.0.conv1": (2 / 144) ** 0.5, "layer3.4.se.fc1": (2 / 64) ** 0.5,
                         "layer3.4.se.fc2": (2 / 16) ** 0.5}),
        ("se_resnet50", {"conv1": (2 / 3136) ** 0.5, "layer1.0.conv2": (2 / 576) ** 0.5, "layer4.2.se.fc1": 6144**-0.5,
                         "layer4.2.se.fc2": 384**-0.5}),
    ],
)  # fmt: skip
def test_weights_are_drawn_as_released(name, layers):
    """The numbers that the released code's networks have, by what they are drawn from."""
    torch.manual_seed(0)
    model = backbones.create(name, init="released", gate="apa", attention_norm=True)
    for path, deviation in layers.items():
        layer = model.get_submodule(path)
        weight = (layer[1] if isinstance(layer, torch.nn.Sequential) else layer).weight
        assert weight.std().item() == pytest.approx(deviation, rel=4 / weight.numel() ** 0.5), path


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(name="resnet19"), r"name must be one of .*'resnet18', .*got 'resnet19'"),
        (dict(activation="mish"), "activation must be one of .*got 'mish'"),
        (dict(name="se_resnet50", gate="relu"), "gate must be one of .*got 'relu'"),
        (dict(gate="apa"), "'resnet18' has not"),
        (dict(attention_norm=True), "'resnet18' has not"),
        (dict(attention_dropout=0.1), "'resnet18' has not"),
        (dict(init="he"), "init must be one of 'timm', 'released'; got 'he'"),
        (dict(name="vgg13", init="released"), "init='released' is for ResNets, got 'vgg13'"),
        (dict(stem="mnist"), "stem must be one of .*got 'mnist'"),
        (dict(name="vgg13", stem="cifar"), "vgg13 has no stem to choose, got stem='cifar'"),
        (dict(num_classes=1), "num_classes must be an integer of at least 2, got 1"),
        (dict(num_classes=10, features_only=True), "got num_classes=10"),
        (dict(image_size=0), "image_size of resnet18 must be an integer and at least 1, got 0"),
        (dict(name="vgg13", image_size=28), "image_size of vgg13 must be an integer and at least 32, got 28"),
        (dict(name="vit_tiny", image_size=40), "a multiple of 16, got 40"),
        (dict(name="vit_tiny", stem="cifar", image_size=30), "a multiple of 4, got 30"),
        (dict(name="swin_tiny", image_size=48), "a multiple of 32, got 48"),
        (dict(name="swin_tiny", stem="cifar", image_size=24), "a multiple of 16, got 24"),
        (dict(name="swin_mini", stem="cifar", image_size=20), "a multiple of 8, got 20"),
        (dict(name="vit_tiny", image_size=32.0), "got 32.0"),
        (dict(name="vit_tiny", activation="aglu", per_channel=True), "'vit_tiny' has neither"),
        (dict(name="swin_tiny", affine=False), "'swin_tiny' has neither"),
        (dict(per_channel=True), "per_channel is for 'aglu' and 'apa', got activation=None and gate=None"),
        (dict(activation_options=dict(kappa_init=(0.0, 1.0))), "got activation=None and gate=None"),
        (dict(name="se_resnet18", activation="aglu", gate_options=dict(kappa_init=(0.0, 1.0))), "gate=None"),
    ],
    ids=str,
)
def test_clear_errors(arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        backbones.create(**{"name": "resnet18"} | arguments)


@pytest.mark.parametrize("name", ["vit_tiny", "swin_tiny"])
def test_images_of_another_size_than_the_transformer_was_built_for(name):
    with pytest.raises(AssertionError, match=r"\(64\) doesn't match model \(32\)"):
        small(name)(images(1, 64))
