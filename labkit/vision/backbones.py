"""The networks of both papers, from timm (VGG-13 is ours), with our activation and gate put in. Nothing is downloaded.

    create("resnet18")                                                      features (N, 512), for a labkit head
    create("resnet18", stem="cifar", num_classes=10)                        logits (N, 10)
    create("se_resnet50", activation="aglu", gate="apa", attention_norm=True, attention_dropout=0.1)    the paper's APA*

ResNet: He et al. 2016; ResNeXt: Xie et al. 2017; channel attention (se_): Hu et al. 2018; VGG: Simonyan & Zisserman
2015; ViT: Dosovitskiy et al. 2021; Swin: Liu et al. 2021.
"""

from functools import partial

import pandas as pd
import timm
import torch.nn.functional as F
from timm.layers import SEModule
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from labkit import checks
from labkit.activations import AGLU, APA

RESNETS = {
    "resnet10_half": dict(block=BasicBlock, layers=(1, 1, 1, 1), channels=(32, 64, 128, 256)),  # ours: half the width
    "resnet18": dict(block=BasicBlock, layers=(2, 2, 2, 2)),
    "resnet32": dict(block=BasicBlock, layers=(5, 5, 5), channels=(16, 32, 64)),
    "resnet50": dict(block=Bottleneck, layers=(3, 4, 6, 3)),
    "resnet101": dict(block=Bottleneck, layers=(3, 4, 23, 3)),
    "resnet152": dict(block=Bottleneck, layers=(3, 8, 36, 3)),
    "resnext50": dict(block=Bottleneck, layers=(3, 4, 6, 3), cardinality=32, base_width=4),
}
# timm's name, what either stem means, and what ours of a million parameters or less change of it
VIT = {"imagenet": dict(patch_size=16), "cifar": dict(patch_size=4)}
SWIN = {"imagenet": dict(patch_size=4, window_size=7), "cifar": dict(patch_size=2, window_size=4)}
TRANSFORMERS = {
    "vit_mini": ("vit_tiny_patch16_224", VIT, dict(embed_dim=96, depth=6)),
    "vit_tiny": ("vit_tiny_patch16_224", VIT, {}),
    "vit_small": ("vit_small_patch16_224", VIT, {}),
    "vit_base": ("vit_base_patch16_224", VIT, {}),
    "swin_mini": ("swin_tiny_patch4_window7_224", SWIN, dict(embed_dim=32, depths=(2, 2, 2), num_heads=(2, 4, 8))),
    "swin_tiny": ("swin_tiny_patch4_window7_224", SWIN, dict(depths=(2, 2, 6, 2))),
}
NAMES = (*RESNETS, *(f"se_{name}" for name in RESNETS), "vgg13", *TRANSFORMERS)
STEMS, INITS = ("imagenet", "cifar"), ("timm", "released")
ACTIVATIONS = {"relu": partial(nn.ReLU, inplace=True), "gelu": nn.GELU, "silu": nn.SiLU, "aglu": AGLU}
GATES = {"sigmoid": nn.Sigmoid, "apa": APA}
LEARNT = ("aglu", "apa")


def create(
    name: str,
    *,
    features_only: bool = False,
    num_classes: int = 0,
    in_chans: int = 3,
    stem: str | None = None,
    image_size: int | None = None,
    affine: bool = True,
    activation: str | None = None,
    activation_options: dict | None = None,
    gate: str | None = None,
    gate_options: dict | None = None,
    per_channel: bool = False,
    attention_bias: bool = True,
    attention_norm: bool = False,
    attention_dropout: float = 0.0,
    init: str = "timm",
) -> nn.Module:
    """The network `name`, one of NAMES, for images (N, in_chans, height, width).

    num_classes: 0 for pooled features (N, model.num_features), else logits (N, num_classes) of a linear classifier.
        features_only=True says the first in words, and refuses a num_classes.
    stem: how the network first takes the image in. None is "cifar" for resnet32 and "imagenet" for all others; VGG has
        none.
                    "imagenet"                                "cifar", for images of 32 pixels
        ResNet      7×7 convolution of stride 2, max pool     3×3 convolution of stride 1, no pool
        ViT         patches of 16 pixels                      patches of 4 pixels
        Swin        patches of 4 pixels, windows of 7×7       patches of 2 pixels, windows of 4×4
        The code released with the guiding paper has the ImageNet stem on images of 32 pixels.
    image_size: side of the images. ViT and Swin are built for one size, 224 where none is given, a multiple of the
        patch (Swin: of 8 patches). The others take any size; VGG needs 32 pixels.
    affine: False for batch norms without scale and shift and layers without bias: then all weights are matrices and
        convolutions, as `optim.AGD` needs (κ and λ excepted). Not for ViT and Swin.
    activation: "relu", "gelu", "silu" or "aglu", each layer with a module of its own; None leaves the network's own,
        GELU in ViT and Swin and ReLU elsewhere. The ReLU inside channel attention stays, as in the activation paper's
        released code.
    gate: of channel attention, "sigmoid" or "apa"; None is "sigmoid". The se_ networks have one a block.
    activation_options, gate_options: keyword arguments of AGLU and of APA, such as dict(kappa_init=(-1., 0.)).
    per_channel: one κ and λ for each channel instead of each layer, in activations and gates (Table 7 of the
        supplement).
    attention_bias: False leaves the two layers of channel attention without bias, as in the released code.
    attention_norm, attention_dropout: layer norm before, and dropout after, the two layers of channel attention (Table
        8 of the supplement; their places are those of the released code).

    init: how a ResNet's weights are drawn. "timm": convolutions, and the two layers of channel attention, normal with
        variance 2/fan_out. "released", as in the activation paper's code: of ResNet-32 all of them with 2/fan_in; of
        larger ones channel attention uniform on ±1/√fan_in.

    The rest is as timm has it, for instance that Swin drops paths while it trains (rate 0.1), except that no residual
    branch of a ResNet starts at zero, and that convolutions leave out what meets only padding (`CroppedConv2d`).
    At one seed, all weights are the same whatever the activation and the gate. Raises ValueError for a name,
    activation, gate, stem or image size that is not one of these, and for an option that the network has no use for.
    """
    checks.one_of("name", name, NAMES)
    checks.one_of("activation", activation, (None, *ACTIVATIONS))
    checks.one_of("gate", gate, (None, *GATES))
    checks.one_of("stem", stem, (None, *STEMS))
    checks.one_of("init", init, INITS)
    if init == "released" and name.removeprefix("se_") not in RESNETS:
        raise ValueError(f"init='released' is for ResNets, got {name!r}")
    if num_classes != 0:
        checks.classes(num_classes)
        if features_only:
            raise ValueError(f"features_only=True is for a network without classifier, got num_classes={num_classes}")
    if name in TRANSFORMERS and (per_channel or not affine):
        raise ValueError(f"per_channel and affine=False need batch norm and channels second; {name!r} has neither")
    if not name.startswith("se_") and (gate or attention_norm or attention_dropout):
        raise ValueError(
            f"gate, attention_norm and attention_dropout are for channel attention, which {name!r} has not; "
            f"se_ networks have it: {', '.join(n for n in NAMES if n.startswith('se_'))}"
        )
    if (activation_options and activation != "aglu") or (gate_options and gate != "apa"):
        raise ValueError(
            "activation_options are for activation='aglu' and gate_options for gate='apa', "
            f"got activation={activation!r} and gate={gate!r}"
        )
    if per_channel and activation != "aglu" and gate != "apa":
        raise ValueError(f"per_channel is for 'aglu' and 'apa', got activation={activation!r} and gate={gate!r}")

    if name in TRANSFORMERS:
        model = _transformer(name, stem or "imagenet", image_size, num_classes, in_chans)
    elif name == "vgg13":
        if stem:
            raise ValueError(f"vgg13 has no stem to choose, got stem={stem!r}")
        _check_image_size("vgg13", image_size, smallest=32)
        model = VGG13(num_classes, in_chans, affine)
    else:
        _check_image_size(name, image_size)
        stem = stem or ("cifar" if name.endswith("resnet32") else "imagenet")
        model = _resnet(name, stem, num_classes, in_chans, affine, attention_bias)
        if init == "released":
            _draw_as_released(model, name)

    for attention in [m for m in model.modules() if isinstance(m, SEModule)]:
        if attention_norm:  # with one group, and one pixel, group norm is layer norm over the channels
            norm = nn.GroupNorm(1, attention.fc1.in_channels, affine=affine)
            attention.fc1 = nn.Sequential(norm, attention.fc1)
        if attention_dropout:
            attention.fc2 = nn.Sequential(attention.fc2, nn.Dropout(attention_dropout))
    _put_in(model, activation, gate, {"aglu": activation_options or {}, "apa": gate_options or {}}, per_channel)
    for conv in [m for m in model.modules() if type(m) is nn.Conv2d]:
        conv.__class__ = CroppedConv2d  # its weights, and their names, stay
    return model


def parameters_by_depth(model: nn.Module) -> pd.DataFrame:
    """The learnt κ and λ of a network, as drawn in Figure 1 of the supplement: a row for each AGLU and APA.

    layer: 1, 2, … from the input to the output, counted for each kind by itself; name: the module's name in the model;
    kind: "activation" (AGLU) or "gate" (APA); kappa, lam: their values (λ as it is used, at its floor or above), means
    over the channels where there is one for each.
    The order is that of model.modules(), which in the networks made here is the order of the forward pass.
    """
    rows, depth = [], {"activation": 0, "gate": 0}
    for name, module in model.named_modules():
        if isinstance(module, (AGLU, APA)):
            kind = "activation" if isinstance(module, AGLU) else "gate"
            depth[kind] += 1
            rows.append((depth[kind], name, kind, module.kappa.mean().item(), module.used_lam.mean().item()))
    return pd.DataFrame(rows, columns=["layer", "name", "kind", "kappa", "lam"])


class CroppedConv2d(nn.Conv2d):
    """A convolution that leaves out the rows and columns of its kernel that meet nothing but padding; the same sums.

    Images of 32 pixels leave the last stage of a ResNet with maps of one pixel, where eight of nine weights of a kernel
    of 3×3 meet only zeros: without them a step of ResNet-18 takes about a tenth less time, a fifth less in bfloat16.
    Needs padding with zeros, in numbers, and no dilation.
    """

    def forward(self, x: Tensor):
        rows, columns = map(_meeting, x.shape[-2:], self.kernel_size, self.stride, self.padding)
        if (rows, columns) == tuple((0, size) for size in self.kernel_size):
            return super().forward(x)
        kernel = self.weight[:, :, slice(*rows), slice(*columns)]
        padding = (self.padding[0] - rows[0], self.padding[1] - columns[0])
        return F.conv2d(x, kernel, self.bias, self.stride, padding, groups=self.groups)


def _meeting(size, kernel, stride, padding):
    """The first position of the kernel that meets the map anywhere, and the first after the last one, along one side.

    The whole kernel where nothing is left, or what is left would need another padding on either side.
    """
    outputs = (size + 2 * padding - kernel) // stride + 1
    first = max(0, padding - (outputs - 1) * stride)  # left of it even the last window meets padding
    end = min(kernel, size + padding)  # from there on even the first window does
    same = (size + 2 * (padding - first) - (end - first)) // stride + 1 == outputs
    return (first, end) if first < end and same else (0, kernel)


class VGG13(nn.Module):
    """Configuration B of Simonyan & Zisserman (2015) with batch norm, its last maps averaged into 512 features.

    The two layers of 4096 units that follow in the original, 123 of its 133 million parameters, are left out: they
    expect maps of 7×7, and images of 32 pixels end in maps of one pixel.
    """

    def __init__(self, num_classes: int = 0, in_chans: int = 3, affine: bool = True):
        super().__init__()
        layers = []
        for width in (64, 128, 256, 512, 512):
            for _ in range(2):
                conv = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                layers += [conv, nn.BatchNorm2d(width, affine=affine), nn.ReLU(inplace=True)]
                in_chans = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.num_features, self.num_classes = 512, num_classes
        self.fc = nn.Linear(512, num_classes, bias=affine) if num_classes else nn.Identity()

    def forward(self, x: Tensor):
        return self.fc(self.features(x).mean((-2, -1)))


class ZeroPadShortcut(nn.Module):
    """Every second pixel, and zeros for the channels that come in: option A of He et al. (2016), as in ResNet-32."""

    def forward(self, x: Tensor):
        half = x.shape[1] // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, half))


def _resnet(name, stem, num_classes, in_chans, affine, attention_bias):
    spec = RESNETS[name.removeprefix("se_")]
    small = len(spec["layers"]) == 3
    width = spec.get("channels", [64])[0]
    attention = {}
    if name.startswith("se_"):
        # Squeezed to a sixteenth of the channels, as in Hu et al.; in ResNet-32 to a quarter, as in the released code.
        ratio = 1 / 4 if small else 1 / 16
        attention = dict(attn_layer=partial(SEModule, rd_ratio=ratio, rd_divisor=1, bias=affine and attention_bias))
    model = ResNet(
        **spec,
        num_classes=num_classes,
        in_chans=in_chans,
        norm_layer=partial(nn.BatchNorm2d, affine=affine),
        block_args=attention,
        # With zeros in the last batch norm of every block, no gradient would reach the κ and λ inside at first.
        zero_init_last=False,
        # The one kind of stem whose width timm lets us choose; its convolutions are replaced by ours.
        stem_type="deep",
        stem_width=width // 2,
    )
    if stem == "imagenet":
        model.conv1 = nn.Conv2d(in_chans, width, 7, stride=2, padding=3, bias=False)
    else:
        model.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
        for stage in model.feature_info:  # where timm writes down by how much a stage has shrunk the image
            stage["reduction"] = max(1, stage["reduction"] // 4)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if small:
        model.layer4 = nn.Sequential()  # timm's forward pass has four stages
        for stage in (model.layer2, model.layer3):
            stage[0].downsample = ZeroPadShortcut()
    if num_classes and not affine:
        model.fc.bias = None
    return model


def _draw_as_released(model, name):
    """Weights as in the activation paper's code; timm has drawn the convolutions of larger ResNets as it does."""
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and name.endswith("resnet32"):
            nn.init.kaiming_normal_(layer.weight)
        elif path.endswith((".fc1", ".fc2")):
            layer.reset_parameters()  # uniform on ±1/√fan_in


def _transformer(name, stem, image_size, num_classes, in_chans):
    timm_name, stems, changes = TRANSFORMERS[name]
    image_size = 224 if image_size is None else image_size
    patch = stems[stem]["patch_size"]
    halvings = len(changes["depths"]) - 1 if stems is SWIN else 0  # between stages
    _check_image_size(f"{name} with stem {stem!r}", image_size, multiple=patch * 2**halvings)
    sizes = dict(img_size=image_size, num_classes=num_classes, in_chans=in_chans)
    return timm.create_model(timm_name, pretrained=False, **sizes, **stems[stem], **changes)


def _check_image_size(name, image_size, smallest=1, multiple=1):
    if image_size is None:
        return
    whole = isinstance(image_size, int) and not isinstance(image_size, bool)
    if not whole or image_size < smallest or image_size % multiple:
        wanted = f"a multiple of {multiple}" if multiple > 1 else f"at least {smallest}"
        raise ValueError(f"image_size of {name} must be an integer and {wanted}, got {image_size!r}")


def _put_in(model, activation, gate, options, per_channel):
    """Replace every activation and every gate by a module of its own; None leaves what is there.

    options: {name of an activation or gate: its keyword arguments}. Done after the model has drawn its weights, which
    therefore do not depend on it.
    """
    makers = ACTIVATIONS | GATES
    channels = None
    for name, module in list(model.named_modules()):
        wanted = None
        if isinstance(module, nn.Conv2d):
            channels = module.out_channels  # modules come in forward order: this is what the next one is given
        elif isinstance(model.get_submodule(name.rpartition(".")[0]), SEModule):
            wanted = gate if name.endswith(".gate") else None
        elif isinstance(module, (nn.ReLU, nn.GELU)):
            wanted = activation
        if wanted is not None:
            width = dict(num_channels=channels) if per_channel and wanted in LEARNT else {}
            model.set_submodule(name, makers[wanted](**options.get(wanted, {}), **width))
