"""What the APA paper changes in a detector (Section 2 of its supplement), as parts for torchvision's Mask R-CNN.

    from torchvision.models.detection import MaskRCNN
    body = backbones.create("se_resnet50", activation="aglu", gate="apa", attention_bias=False, attention_norm=True,
                            attention_dropout=0.1)
    model = MaskRCNN(Pyramid(body), num_classes=1204)                       # LVIS: 1203 classes and the background
    model.roi_heads.mask_predictor = NormMask(256, 256, 1204)
    factors = repeat_factors(labels_of_images)                              # for a WeightedRandomSampler

Training a detector on LVIS takes many GPU-days, and was not done here: what is tested is that these parts go forwards
and backwards on made-up boxes. Not here either: the detector's Gumbel classifier with DropLoss, and CARAFE upsampling.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from labkit import checks

STAGES = ("layer1", "layer2", "layer3", "layer4")


class Pyramid(nn.Module):
    """A ResNet of `backbones.create` with a feature pyramid on its four stages: images to {name: maps}, as
    torchvision's detectors want it.

    frozen: so many of the stem and the four stages do not learn, from the stem on, and drop nothing out; 2 in the
        released configuration.
    Batch norms keep their statistics while it trains, as there. Start it from an ImageNet model: body.load_state_dict.
    Raises ValueError for a network without four stages.
    """

    def __init__(self, body: nn.Module, out_channels: int = 256, frozen: int = 2):
        super().__init__()
        stages = [getattr(body, name, ()) for name in STAGES]
        if not all(len(stage) for stage in stages):
            raise ValueError(f"a pyramid stands on the four stages of a ResNet; got a {type(body).__name__}")
        frozen = checks.integer("frozen", frozen, 0)
        self.body, self.out_channels = body, out_channels
        widths = [stage["num_chs"] for stage in body.feature_info if stage["module"] in STAGES]
        self.fpn = FeaturePyramidNetwork(widths, out_channels, extra_blocks=LastLevelMaxPool())
        stem = nn.ModuleList([body.conv1, body.bn1, body.act1])
        self._frozen = [stem, *stages][:frozen]  # parts of `body`, which a list does not count again
        for part in self._frozen:
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        for part in self._frozen:
            part.eval()
        return self

    def forward(self, images: torch.Tensor):
        x = self.body.maxpool(self.body.act1(self.body.bn1(self.body.conv1(images))))
        maps = {}
        for k, name in enumerate(STAGES):
            maps[str(k)] = x = getattr(self.body, name)(x)
        return self.fpn(maps)


class NormMask(nn.Module):
    """A mask predictor whose last layer is a cosine: t²·⟨x/‖x‖, w_c/‖w_c‖⟩ at every pixel, with t learnt from `start`
    on, 4.5 in the released configuration of ResNet-50, so that the scale begins with 20.25.

    in_channels, hidden, num_classes: as in torchvision's MaskRCNNPredictor, whose place it takes.
    """

    def __init__(self, in_channels: int, hidden: int, num_classes: int, start: float = 4.5):
        super().__init__()
        checks.positive("start", start)
        self.up = nn.ConvTranspose2d(in_channels, hidden, 2, stride=2)
        self.weight = nn.Parameter(torch.empty(num_classes, hidden))
        self.root = nn.Parameter(torch.tensor(float(start)))
        for weight in (self.up.weight, self.weight):
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.up.bias)

    def forward(self, x: torch.Tensor):
        x = F.normalize(F.relu(self.up(x)), dim=1)
        return self.root.square() * F.conv2d(x, F.normalize(self.weight, dim=1)[..., None, None])


def repeat_factors(labels: Sequence[Sequence[int]], threshold: float = 1e-3) -> torch.Tensor:
    """How often each image is to be seen, float64 (N,): max over its classes of max(1, √(threshold/f_c)), where f_c is
    the share of images with an object of class c (Gupta et al. 2019). Images without an object count once.

    labels: of the objects of each image.

    >>> repeat_factors([[0], [0, 1], [0], [0], []], threshold=0.8).tolist()
    [1.0, 2.0, 1.0, 1.0, 1.0]
    """
    checks.positive("threshold", threshold)
    with_class = {}
    labels = [[int(c) for c in objects] for objects in labels]
    for objects in labels:
        for c in set(objects):
            with_class[c] = with_class.get(c, 0) + 1
    factor = {c: max(1.0, (threshold * len(labels) / n) ** 0.5) for c, n in with_class.items()}
    return torch.tensor([max((factor[c] for c in objects), default=1.0) for objects in labels], dtype=torch.float64)
