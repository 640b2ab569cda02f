"""The second pass over the features of one layer, whose class means are known."""

import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from labkit import metrics, system
from labkit.report import measures

CHUNK = 1 << 20  # numbers of features that are looked at together in float64


def wide(features: Tensor) -> Tensor:
    """The features in float64; on the CPU where the device has none (mps)."""
    return (features.cpu() if features.device.type == "mps" else features).double()


class Layer:
    """Sums over batches, from which `finished` makes the measures of a layer."""

    def __init__(
        self,
        name: str,
        sums: Tensor,
        counts: Tensor,
        watch: Sequence[str],
        centre: Tensor,
        keep: bool,
        covariance: bool,
    ):
        self.name, self.counts, self.watch = name, counts.to(sums.device), watch
        self.means, self.of_samples = metrics.means_of(sums, self.counts)
        self.mu = measures.global_mean(self.means, self.of_samples, centre)
        self.whiten = metrics.whitening(self.means, self.mu)
        self.classified = watch.weight is not None and name == watch.before
        self.weight = wide(watch.weight).to(sums.device) if self.classified else None
        if self.classified and self.weight.shape[-1] != sums.shape[-1]:
            raise ValueError(
                f"{watch.name!r} has a weight of shape {tuple(self.weight.shape)}, "
                f"but its features have {sums.shape[-1]} numbers"
            )
        (classes, d), on = sums.shape, sums.device
        zeros = lambda *shape: torch.zeros(*shape, dtype=torch.float64, device=on)
        self.inside, self.squares, self.shares, self.drift = zeros(()), zeros(classes), zeros(4), zeros(d)
        self.least, self.margins, self.eps = zeros(()) + math.inf, [], 1e-5
        self.scatter = None
        if 8 * classes * d * d <= keep:
            self.scatter = zeros(classes, d, d)
        else:
            warnings.warn(
                f"numerical_rank of {name!r} would take {classes}×{d}×{d} numbers, "
                f"more than its share of keep, {keep} bytes: left out",
                stacklevel=4,
            )
        self.pooled = zeros(d, d) if covariance and self.scatter is None else None

    def add(self, features: Tensor, labels: Tensor, guess: Tensor | None):
        if features.dtype in (torch.float16, torch.bfloat16):
            self.eps = 1e-3
        rows = max(1, CHUNK // features.shape[-1])
        parts = labels.split(rows), [None] * len(labels) if guess is None else guess.split(rows)
        for h, y, g in zip(features.split(rows), *parts):
            order = y.argsort()  # the samples of a class side by side
            h = wide(h[order.to(h.device)])
            y, order, g = (None if t is None else t.to(h.device) for t in (y, order, g))
            self._add(h, y[order].long(), order, None if g is None else g[order])

    def _add(self, h, y, order, guess):
        nearest = metrics.nearest_mean(h, self.means)
        self.shares[0] += len(y)
        self.shares[1] += (nearest == y).sum()
        if guess is not None:
            self.shares[2] += (guess == y).sum()
            self.shares[3] += (guess != nearest).sum()
        if self.weight is not None:
            margins = metrics.margins_about(self.mu, self.weight, h, y)
            self.least = torch.minimum(self.least, margins.amin())
            self.margins.append(margins[order.argsort()])
        parts = h.split(torch.bincount(y, minlength=len(self.means)).tolist())
        for part, mean in zip(parts, self.means):
            part -= mean  # in place: from here on h is the residuals
        self.drift += h.sum(0)
        if self.scatter is not None:
            for total, part in zip(self.scatter, parts):
                add_products(total, part)
            return
        self.inside += (h @ self.whiten).square().sum()
        self.squares += metrics.class_sums(h.square().sum(-1, keepdim=True), y, len(self.means))[0].squeeze(-1)
        if self.pooled is not None:
            add_products(self.pooled, h)

    def finished(self):
        """{measure: value}, of all processes."""
        margin = sum((m.sum() for m in self.margins), torch.zeros_like(self.inside)).clone()
        sums = [self.inside, self.squares, self.shares, self.drift, margin]
        system.over_processes(*sums, *(m for m in (self.scatter, self.pooled) if m is not None))
        if self.weight is not None and system.several():
            torch.distributed.all_reduce(self.least, torch.distributed.ReduceOp.MIN)
        samples, right, correct, elsewhere = self.shares.tolist()
        expected = self.counts.sum().item()
        if self.scatter is not None:
            self.squares = self.scatter.diagonal(dim1=-2, dim2=-1).sum(-1)
            self.inside = (self.whiten * (symmetric(self.scatter.sum(0)) @ self.whiten)).sum()
        # Residuals about the class means add up to zero, unless the means are those of other samples.
        size = (self.squares + self.counts * self.means.square().sum(-1)).sum()
        rounding = self.eps * samples * (size / samples).sqrt()
        if samples != expected or not torch.linalg.vector_norm(self.drift) <= rounding:
            raise ValueError(
                f"the loader gave {samples:g} samples in its second pass after {expected:g}, or others than in its "
                "first: it must give the same each time, without random augmentation; or raise keep="
            )
        values = {"nearest_mean_accuracy": right / samples}
        if self.watch.module is not None:
            values["nc4"] = elsewhere / samples
        values |= measures.of_spread(self.inside, self.squares, self.counts, self.means, self.mu, self.whiten)
        if self.scatter is not None:
            values["numerical_rank"] = measures.numerical_rank(self.scatter, self.means, self.counts)
        values |= measures.of_means(self.means, self.mu, self.weight, self.watch.bias if self.classified else None)
        if self.classified and not self.watch.own_bias:
            values["nc4_bias"] = torch.full_like(values["nc4_bias"], math.nan)
        if self.weight is not None:
            values |= {"cosine_margin": margin / samples, "smallest_margin": self.least, "accuracy": correct / samples}
        return values

    def has(self, score: str):
        """Whether an out-of-distribution score can be taken: NECO needs dimensions to leave out, NCI weights."""
        return len(self.means) - 1 < self.means.shape[-1] if score == "neco" else self.weight is not None

    def covariance(self):
        """Of all features, (d, d), about the mean of all samples."""
        inside = symmetric(self.pooled if self.scatter is None else self.scatter.sum(0))
        centred = self.means - self.of_samples
        return (inside + (centred * self.counts.unsqueeze(-1)).mT @ centred) / self.counts.sum()


def symmetric(lower: Tensor) -> Tensor:
    """The symmetric matrix (d, d) of which this has the lower triangle."""
    return lower.tril() + lower.tril(-1).mT


def add_products(total: Tensor, r: Tensor, width: int = 128):
    """Add rᵀr to total (d, d), of which only the lower triangle will be used: two thirds of the work."""
    for start in range(0, r.shape[-1], width):
        part = slice(start, start + width)
        total[part, : part.stop].addmm_(r[:, part].mT, r[:, : part.stop])
