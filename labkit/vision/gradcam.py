"""Grad-CAM: where in a picture a network found what speaks for a class (Selvaraju et al. 2017)."""

import torch
from torch import nn

from labkit import checks


def grad_cam(backbone: nn.Module, head: nn.Module, images: torch.Tensor, classes: torch.Tensor | None = None) -> tuple:
    """Maps (n, h, w) of images (n, …), at the size of the backbone's last maps, and the classes (n,) they are of.

        α_k = mean over pixels of ∂ logit_c/∂ A_k,   map = max(0, Σ_k α_k A_k)

    backbone: a ResNet of `backbones.create`, whose last maps A (n, K, h, w) `forward_features` gives. head: of
    labkit.heads. Both are put into evaluation mode. classes: (n,), c of each image; None is the class that is guessed.
    Raises TypeError for a backbone without maps.
    """
    if not hasattr(backbone, "forward_features"):
        raise TypeError(f"Grad-CAM needs a network with maps, such as a ResNet; got a {type(backbone).__name__}")
    backbone.eval(), head.eval()
    with torch.no_grad():
        maps = backbone.forward_features(images)
    if maps.ndim != 4:
        raise TypeError(f"Grad-CAM needs maps (n, channels, height, width), got {tuple(maps.shape)}")
    with torch.enable_grad():
        maps = maps.detach().requires_grad_()
        logits = head(backbone.forward_head(maps, pre_logits=True))
        classes = logits.detach().argmax(-1) if classes is None else classes
        checks.labels(classes, logits.shape[-1], logits.shape[:1])
        (gradient,) = torch.autograd.grad(logits.gather(-1, classes.unsqueeze(-1)).sum(), maps)
    weights = gradient.mean((-2, -1), keepdim=True)
    return (weights * maps.detach()).sum(1).clamp(min=0), classes
