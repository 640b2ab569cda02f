"""Argument checks shared by the library: each raises one clear error that names the value it was given.

Numbers of NumPy, and torch tensors of one number, are as good as Python's.
"""

import math
import operator
from numbers import Real
from typing import Any

import torch


def integer(name: str, value: Any, least: int | None = None) -> int:
    """The value as a Python integer; ValueError for what is none, for a bool, and for less than `least`.

    >>> integer("seed", torch.tensor(3), 0)
    3
    """
    try:
        number = None if _is_bool(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        wanted = "an integer" if least is None else f"an integer of at least {least}"
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    return number


def positive(name: str, value: Any) -> float:
    """The value as a Python number; ValueError for anything but a finite number above 0."""
    return _number(name, value, lambda number: number > 0, "above 0")


def not_negative(name: str, value: Any) -> float:
    """The value as a Python number; ValueError for anything but a finite number of at least 0."""
    return _number(name, value, lambda number: number >= 0, "of at least 0")


def _number(name, value, allowed, wanted):
    number = value.item() if isinstance(value, torch.Tensor) and value.ndim == 0 else value
    if not isinstance(number, Real) or _is_bool(value) or not math.isfinite(number) or not allowed(number):
        raise ValueError(f"{name} must be a finite number {wanted}, got {value!r}")
    return number.item() if hasattr(number, "item") else number


def _is_bool(value):
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool")


def classes(num_classes: Any, dim: Any = None, smallest_dim: int | None = None) -> None:
    """Refuse fewer than two classes and, where `dim` is given, too few dimensions for them."""
    num_classes = integer("num_classes", num_classes, 2)
    if dim is None:
        return
    smallest = num_classes if smallest_dim is None else smallest_dim
    try:
        dim = integer("dim", dim, smallest)
    except ValueError as error:
        why = ""
        if 0 < (number := _or_zero(dim)) < num_classes - 1:
            why = (
                f": no simplex ETF of {num_classes} vectors fits into {number} dimensions, since vectors whose "
                f"pairwise cosines are all -1/(C-1) span C-1 = {num_classes - 1} of them"
            )
        elif number == num_classes - 1:
            why = (
                ": a simplex ETF would fit, but it is written here with a frame of C orthonormal columns, which needs "
                "C dimensions"
            )
        raise ValueError(str(error).replace(", got", f" for num_classes={num_classes}, got") + why) from None


def _or_zero(value):
    try:
        return operator.index(value)
    except TypeError:
        return 0


def one_of(name: str, value: Any, choices: tuple) -> None:
    """Refuse what is not among the choices, which the error lists."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")


def floating(name: str, tensor: Any) -> None:
    """Refuse what is not a floating-point tensor, with TypeError."""
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a floating-point tensor, got {kind}")


class NotFinite(ValueError):
    """What `finite` raises, so that a training loop can tell divergence from a wrong argument."""


def finite(name: str, tensor: torch.Tensor) -> None:
    """Refuse a tensor with entries that are NaN or infinite, and say how many."""
    if math.isfinite(tensor.detach().sum()):  # one pass; a sum that overflows is looked at again below
        return
    if not torch.isfinite(tensor).all():
        bad = int((~torch.isfinite(tensor)).sum())
        raise NotFinite(f"{name} must be finite, but {bad} of its {tensor.numel()} entries are NaN or infinite")


def labels(targets: Any, num_classes: float, samples_shape: tuple) -> None:
    """Refuse labels that are not integers in [0, num_classes), or do not fit features of shape samples_shape + (d,)."""
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point() or targets.dtype == torch.bool:
        kind = targets.dtype if isinstance(targets, torch.Tensor) else type(targets).__name__
        raise TypeError(f"targets must be a tensor of integer class labels, got {kind}")
    allowed = dict.fromkeys((tuple(samples_shape), tuple(samples_shape[-1:])))
    if tuple(targets.shape) not in allowed:
        raise ValueError(f"targets must have shape {' or '.join(map(str, allowed))}, got {tuple(targets.shape)}")
    if targets.numel() == 0:
        raise ValueError("targets must hold at least one label, got none")
    low, high = map(int, torch.aminmax(targets.long()))
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels must lie in 0 … {num_classes - 1}, got values from {low} to {high}")
