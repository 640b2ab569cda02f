"""Measures of neural collapse of samples that come in batches: in float64, those of `labkit.metrics` on all at once.

`NeuralCollapse` needs features and labels only, in one pass. `collapse` and `accuracy` also look at what a head of
labkit makes of them, in two passes, over all processes of a run.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from labkit import checks, metrics, system


class NeuralCollapse:
    """NC1, CDNV and the measures of the means, gathered batch by batch in one pass, in the manner of torchmetrics.

    update(features (…, N, d), targets (…, N) or (N,)) takes a batch in, compute(weight=None) measures all so far, and
    reset() forgets them; `means()` are those of all so far, for `nc4` and `cosine_margins` in a second pass. It keeps
    C×d and d×d numbers, and adds up squares about the means (Chan et al. 1979), so that no digit is lost near collapse.

    >>> measures = NeuralCollapse(2)
    >>> measures.update(torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    >>> measures.update(torch.tensor([[0.0, 8.0], [0.0, 10.0]]), torch.tensor([1, 1]))
    >>> round(measures.compute()["nc1"].item(), 9)
    0.03125
    """

    def __init__(self, num_classes: int):
        checks.classes(num_classes)
        self.num_classes = num_classes
        self.reset()

    def reset(self) -> None:
        self.counts = self.centres = self.squares = self.scatter = 0  # (…, C), (…, C, d), (…, C), (…, d, d)

    def update(self, features: Tensor, targets: Tensor) -> None:
        """Take in a batch of features of one size, with any samples and classes; one without samples changes nothing.

        Raises ValueError for another size than before, and what `metrics.class_means` raises; nothing has changed then.
        """
        checks.floating("features", features)
        size = lambda rows: (*rows.shape[:-2], "N", *rows.shape[-1:])
        if not isinstance(self.counts, int) and size(features) != (known := size(self.centres)):
            raise ValueError(f"features must have shape {known} as before, got {tuple(features.shape)}")
        if isinstance(targets, Tensor) and targets.numel() == features.shape[:-1].numel() == 0:
            return
        checks.labels(targets, self.num_classes, features.shape[:-1])
        checks.finite("features", features)
        h = features.detach().double()
        sums, counts = metrics.class_sums(h, targets, self.num_classes)
        counts = counts.double()
        centres = sums / counts.clamp(min=1).unsqueeze(-1)
        residual = h - metrics.of_class(centres, targets)
        apart = metrics.class_sums(residual.square().sum(-1, keepdim=True), targets, self.num_classes)[0].squeeze(-1)
        total = (self.counts + counts).clamp(min=1)
        gap, share = centres - self.centres, self.counts * counts / total
        self.scatter = self.scatter + residual.mT @ residual + (gap * share.unsqueeze(-1)).mT @ gap
        self.squares = self.squares + apart + share * gap.square().sum(-1)
        self.centres = self.centres + gap * (counts / total).unsqueeze(-1)
        self.counts = self.counts + counts

    def means(self) -> metrics.Means:
        """Class means (…, C, d) and the global mean (…, d) of all samples so far."""
        if isinstance(self.counts, int):
            raise ValueError("there is nothing to measure before the first update")
        return metrics.means_of(self.centres * self.counts.unsqueeze(-1), self.counts)

    def compute(self, weight: Tensor | None = None) -> dict[str, Tensor]:
        """nc1, cdnv, nc2_means and equinorm_means; with weights (…, C, d) also nc2, nc3, equinorm_weights; each (…)."""
        means, global_mean = self.means()
        samples, whiten = int(self.counts.sum(-1).max()), metrics.whitening(means, global_mean)
        inside = (whiten * (self.scatter @ whiten)).sum((-2, -1))
        pairs = metrics.pair_variance(self.squares / self.counts, means)
        centred = means - global_mean.unsqueeze(-2)
        values = {
            "nc1": metrics.of_spread(inside / self.num_classes, samples, self.num_classes),
            "cdnv": metrics.of_spread(samples * pairs, samples, self.num_classes),
            "nc2_means": metrics.nc2(centred),
            "equinorm_means": metrics.equinorm(centred),
        }
        if weight is None:
            return values
        nc3 = metrics.from_simplex(weight.double() @ centred.mT)
        return values | {"nc2": metrics.nc2(weight), "nc3": nc3, "equinorm_weights": metrics.equinorm(weight)}


KEEP = 1 << 30  # bytes of features that are kept from the first pass, so that a small set goes through the network once


@torch.no_grad()
def collapse(read: Callable, head: torch.nn.Module, *, keep: int = KEEP, margins: bool = False) -> dict:
    """Measures of the samples that `read()` yields, in batches of features z (n, d) and labels (n,); a dict of floats.

    read: called once for each pass, with the same samples in the same batches every time.
    head: a labkit head, in evaluation mode. As in `ufm.train_ufm`, features are measured as the head sees them,
        h = τ·z/‖z‖: loss (mean cross entropy), accuracy, nc1, nc2 (of the weights), nc3, nc4, equinorm_means,
        equinorm_weights and cosine_margin (mean over samples).
    keep: features of up to so many bytes stay in memory for the second pass; beyond, `read` is called again.
    margins: also the margin of every sample, under "margins": an array (N,), in the order in which one process reads
        them.

    Sums are in float64, and equal `labkit.metrics` on the same features to rounding; nc1 is NaN where `metrics.nc1` is.
    Raises ValueError for a class without a sample, and checks.NotFinite, one too, for features that are not finite.
    """
    weight = head.weight.double()
    num_classes = len(weight)
    first, second = twice(read, keep, lambda batch: batch[0].nbytes)
    sums, counts = torch.zeros_like(weight), weight.new_zeros(num_classes)
    for z, labels in first():
        checks.labels(labels, num_classes, z.shape[:-1])
        more, number = metrics.class_sums(_seen(head, z), labels, num_classes)
        sums += more
        counts += number
    system.over_processes(sums, counts)
    checks.finite("features", sums)
    samples = int(counts.sum())
    means, global_mean = metrics.means_of(sums, counts)
    whiten = metrics.whitening(means, global_mean)

    totals, found = weight.new_zeros(5), []
    for z, labels in second():
        labels = labels.long()
        h, logits = _seen(head, z), head(z).double()
        margin = metrics.margins_about(global_mean, weight, h, labels)
        guess = logits.argmax(-1)
        totals += torch.stack(
            [
                F.cross_entropy(logits, labels, reduction="sum"),
                (guess == labels).sum(),
                metrics.within(h, labels, means, whiten),
                (guess != metrics.nearest_mean(h, means)).sum(),
                margin.sum(),
            ]
        )
        if margins:
            found.append(margin.cpu().numpy())
    system.over_processes(totals)
    loss, correct, _, elsewhere, margin = (totals / samples).tolist()
    centred = means - global_mean
    values = {
        "loss": loss,
        "accuracy": correct,
        "nc1": metrics.of_spread(totals[2] / num_classes, samples, num_classes).item(),
        "nc2": metrics.nc2(weight).item(),
        "nc3": metrics.from_simplex(weight @ centred.mT).item(),
        "nc4": elsewhere,
        "equinorm_means": metrics.equinorm(centred).item(),
        "equinorm_weights": metrics.equinorm(weight).item(),
        "cosine_margin": margin,
    }
    return values | {"margins": _in_order(found)} if margins else values


@torch.no_grad()
def accuracy(read: Callable, head: torch.nn.Module) -> dict[str, float]:
    """Mean cross entropy and share of correct guesses, as {"loss", "accuracy"}; `read` and `head` as in `collapse`."""
    totals = torch.zeros(3, dtype=torch.float64, device=head.weight.device)
    for z, labels in read():
        checks.labels(labels, head.weight.shape[-2], z.shape[:-1])
        labels, logits = labels.long(), head(z).double()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        totals += torch.stack([loss, (logits.argmax(-1) == labels).sum(), loss.new_tensor(len(labels))])
    loss, correct, number = system.over_processes(totals)[0].tolist()
    return {"loss": loss / number, "accuracy": correct / number}


def _seen(head, z):
    """Features on the head's sphere, float64; half precision is widened first, as the heads do."""
    return head.normalize(z if z.dtype == torch.float64 else z.float()).double()


def twice(read: Callable, limit: int, size_of: Callable, again: Callable = iter) -> tuple[Callable, Callable]:
    """Two functions that give the batches of `read`; the second those in memory, by `again` of their list, where all
    of them, of `size_of(batch)` bytes each, are at most `limit` bytes.
    """
    kept, size = [], 0

    def first():
        nonlocal kept, size
        for batch in read():
            if kept is not None:
                kept.append(batch)
                size += size_of(batch)
                if size > limit:
                    kept = None
            yield batch

    return first, lambda: read() if kept is None else again(kept)


def _in_order(parts):
    """The arrays of all batches in one. Each process has a share of every batch; shares follow each other by rank."""
    shares = [parts]
    if system.several():
        shares = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(shares, parts)
    return np.concatenate([share for batch in zip(*shares) for share in batch])
