"""Torchvision beside any build of torch."""

import sys
from types import ModuleType

import torch


def import_torchvision() -> ModuleType:
    """Import torchvision, also where its compiled library does not load. ModuleNotFoundError where there is none.

    A CPU build of torch with the torchvision of the package index, built for CUDA, is a common pair. There the
    operators of torchvision stay undeclared, and the import fails: "operator torchvision::nms does not exist".
    Declaring them is enough for data sets, transforms, and whatever else never calls one; a call still raises
    torchvision's own error.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name in ("nms", "qnms"):  # those that its Python files refer to while they are imported
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(
                    f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                )
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]  # half-imported
        import torchvision
    return torchvision
