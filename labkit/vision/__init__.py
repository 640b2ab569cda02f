"""Images to features: data sets, batches, backbones, the training loop and its recipes.

Torchvision is imported here, before any module that needs it, because it can need a hand: a CPU build of torch with the
torchvision of the package index, built for CUDA, is a common pair. The compiled library of torchvision does not load
there, so its operators stay undeclared, and the import fails: "operator torchvision::nms does not exist". Declaring
them is enough for data sets, transforms and timm, which never call one; a call still raises torchvision's own error.
"""

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    if "operator torchvision::" not in str(error):
        raise
    for name in ("nms", "qnms"):  # those that its Python files refer to while they are imported
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]  # half-imported
    import torchvision  # noqa: F401
