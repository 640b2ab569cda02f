"""A backbone and a head as one module."""

from torch import Tensor, nn


class Classifier(nn.Module):
    """A backbone and a head as one module: images and labels to logits."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor, labels: Tensor):
        return self.head(self.backbone(images), labels)


class NoHead(nn.Module):
    """In place of a head for a network that gives logits by itself: passes them on."""

    def forward(self, logits: Tensor, targets: Tensor | None = None):
        return logits
