"""Lengths, means and orthonormality of the rows that heads have, and what they are made in."""

import torch

from labkit import system
from labkit._fast import polar


def lengths(weight: torch.Tensor, start: torch.Tensor | None = None, rounding: bool = False) -> torch.Tensor:
    """What rows (…, C, d) have to be divided by to be of unit length, (…, C, 1); 1 for rows of zeros, and for weights
    that are still those of the `start`.

    rounding: 1 too for rows that have that length but for rounding, so that they keep every bit.
    """
    length = torch.linalg.vector_norm(weight, dim=-1, keepdim=True)
    stays = length == 0
    if start is not None:
        stays = stays | (weight == start).all()
    if rounding:
        stays = stays | ((length - 1).abs() < 8 * torch.finfo(weight.dtype).eps)
    return length.masked_fill(stays, 1.0)


def orthonormal(frame: torch.Tensor) -> torch.Tensor:
    """A frame (…, d, C) that is one; for an average of several, as of weights averaged over training, the nearest one.

    An average of frames that differ is shorter than each of them, which is how it is known.
    """
    if polar.transformed() or frame.is_meta:
        return frame
    rank = min(frame.shape[-2:])
    if not bool(((frame.square().sum((-2, -1)) / rank - 1).abs() > 1e-4).any()):
        return frame
    return _polar_factor(frame)


@polar.full_precision
def _polar_factor(frame):
    u, _, vh = torch.linalg.svd(frame, full_matrices=False)
    return u @ vh


def mean_over_batch(logits: torch.Tensor, targets: torch.Tensor | None, everywhere: bool) -> torch.Tensor:
    """The mean (…, C) of logits (…, N, C) without those of ignored samples, whose label is C in targets (…, N).

    everywhere: of the samples of all processes, where there are several; every process then has to take part.
    """
    labelled = targets is not None and not targets.is_floating_point()
    kept = (targets < logits.shape[-1] if labelled else logits.new_ones(logits.shape[-2])).to(logits.dtype)
    total, count = sums_of(kept.unsqueeze(-1), logits).squeeze(-2), kept.sum(-1, keepdim=True)
    if everywhere:
        total, count = system.over_processes(total, count)
    return total / count


def sums_of(share: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Sums (…, C, d) of rows (…, N, d) by their shares (…, N, C) in classes; NaN in rows without any does not count."""
    return share.mT @ rows.masked_fill((share == 0).all(-1, keepdim=True), 0)


def wide() -> torch.dtype:
    """What a head is made in: the default, but for half precision, which cannot tell the steps of its state."""
    return torch.promote_types(torch.get_default_dtype(), torch.float32)


def exporting() -> bool:
    """Whether torch.export is at work, as PyTorch from 2.7 on tells; a graph of its own must not change its weights."""
    return getattr(torch.compiler, "is_exporting", bool)()
