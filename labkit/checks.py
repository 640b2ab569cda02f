"""Argument checks shared by the library: each raises one clear error that names the value it was given."""

import math
from numbers import Integral, Real

import torch


def classes(num_classes, dim=None, smallest_dim=None):
    """Refuse fewer than two classes and, where `dim` is given, too few dimensions for them."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 2:
        raise ValueError(f"num_classes must be an integer of at least 2, got {num_classes!r}")
    if dim is None:
        return
    smallest = num_classes if smallest_dim is None else smallest_dim
    if isinstance(dim, bool) or not isinstance(dim, Integral) or dim < smallest:
        why = ""
        if isinstance(dim, Integral) and 0 < dim < num_classes - 1:
            why = (
                f": no simplex ETF of {num_classes} vectors fits into {dim} dimensions, since vectors whose pairwise "
                f"cosines "
                f"are all -1/(C-1) span C-1 = {num_classes - 1} of them"
            )
        elif dim == num_classes - 1:
            why = (
                ": a simplex ETF would fit, but it is written here with a frame of C orthonormal columns, which needs "
                "C "
                "dimensions"
            )
        raise ValueError(
            f"dim must be an integer of at least {smallest} for num_classes={num_classes}, got {dim!r}{why}"
        )


def positive(name, value):
    """Refuse anything but a finite number above zero."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")


def one_of(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def floating(name, tensor):
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {kind}")


class NotFinite(ValueError):
    """What `finite` raises, so that a training loop can tell divergence from a wrong argument."""


def finite(name, tensor):
    if math.isfinite(tensor.detach().sum()):  # one pass; a sum that overflows is looked at again below
        return
    if not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise NotFinite(f"{name} must be finite, but {bad} of its {tensor.numel()} entries are NaN or infinite")


def labels(targets, num_classes, samples_shape):
    """Refuse labels that are not integers in [0, num_classes), or do not fit features of shape samples_shape + (d,)."""
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point() or targets.dtype == torch.bool:
        kind = targets.dtype if isinstance(targets, torch.Tensor) else type(targets).__name__
        raise TypeError(f"targets must be a tensor of integer class labels, got {kind}")
    samples_shape = tuple(samples_shape)
    if targets.shape not in (samples_shape, samples_shape[-1:]):
        raise ValueError(f"targets must have shape {samples_shape} or {samples_shape[-1:]}, got {tuple(targets.shape)}")
    if targets.numel() == 0:
        raise ValueError("targets must hold at least one label, got none")
    low, high = map(int, torch.aminmax(targets))
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must lie in 0 … {num_classes - 1}, got values from {low} to {high}")
