"""Imports that need a hand."""

import sys

import torch

# Operators that torchvision's Python files refer to while they are imported, as its compiled library declares them.
SCHEMAS = {name: "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")}


def import_torchvision():
    """Import torchvision, also beside a torch build that cannot load torchvision's compiled library; returns the
    module.

    A CPU build of torch with the torchvision of the package index, built for CUDA, is a common pair. The library does
    not load there, so its operators stay undeclared, and the import fails: "operator torchvision::nms does not exist".
    Declaring them is enough for data sets, transforms and timm, which never call one; a call still raises torchvision's
    own error. Nothing is declared where the import works by itself. Any other failure is passed on.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name, schema in SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(f"torchvision::{name}", schema)
        for module in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[module]  # half-imported
        import torchvision
    return torchvision
