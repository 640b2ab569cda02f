"""Measures of neural collapse for more features than memory holds: the same numbers as `labkit.metrics`, in two passes.

The first pass adds up each class; the second measures every sample against the means then known. Nothing is kept of a
sample, so memory does not grow with their number. With several processes, each reads its share, and sums are over all.
"""

import numpy as np
import torch
import torch.nn.functional as F

from . import checks, metrics
from .sphere import class_sums, over_processes

KEEP = 1 << 30  # bytes of features that are kept from the first pass, so that a small set goes through the network once


@torch.no_grad()
def collapse(read, head, *, keep=KEEP, margins=False):
    """Measures of the samples that `read()` yields, in batches of features z (n, d) and labels (n,); a dict of floats.

    read: called once for each pass, with the same samples in the same batches every time.
    head: a labkit head, in evaluation mode. As in `ufm.train_ufm`, features are measured as the head sees them,
        h = τ·z/‖z‖: loss (mean cross entropy), accuracy, nc1, nc2 (of the weights), nc3, nc4, equinorm_means,
        equinorm_weights and cosine_margin (mean over samples).
    keep: features of up to so many bytes stay in memory for the second pass; beyond, `read` is called again.
    margins: also the margin of every sample, under "margins": an array (N,), in the order in which one process reads them.

    Sums are in float64, and equal `labkit.metrics` on the same features to rounding. Raises ValueError for a class without a
    sample, and its subclass checks.NotFinite for features that are not finite.
    """
    weight = head.weight.double()
    num_classes = len(weight)
    first, second = _twice(read, keep)
    sums, counts = torch.zeros_like(weight), weight.new_zeros(num_classes)
    for z, labels in first():
        checks.labels(labels, num_classes, z.shape[:-1])
        more, number = class_sums(_seen(head, z), labels, num_classes)
        sums += more
        counts += number
    over_processes(sums, counts)
    checks.finite("features", sums)
    means, global_mean = metrics.means_of(sums, counts)
    whiten = metrics.whitening(means, global_mean)

    totals, found = weight.new_zeros(5), []
    for z, labels in second():
        h, logits = _seen(head, z), head(z).double()
        margin = metrics.margins_about(global_mean, weight, h, labels)
        guess = logits.argmax(-1)
        totals += torch.stack([
            F.cross_entropy(logits, labels, reduction="sum"),
            (guess == labels).sum(),
            metrics.within(h, labels, means, whiten),
            (guess != metrics.nearest_mean(h, means)).sum(),
            margin.sum(),
        ])
        if margins:
            found.append(margin.cpu().numpy())
    over_processes(totals)
    loss, correct, within, elsewhere, margin = (totals / counts.sum()).tolist()
    centred = means - global_mean
    values = {"loss": loss, "accuracy": correct, "nc1": within / num_classes, "nc2": metrics.nc2(weight).item(),
              "nc3": metrics.from_simplex(weight @ centred.mT).item(), "nc4": elsewhere,
              "equinorm_means": metrics.equinorm(centred).item(), "equinorm_weights": metrics.equinorm(weight).item(),
              "cosine_margin": margin}
    return values | {"margins": _in_order(found)} if margins else values


@torch.no_grad()
def accuracy(read, head):
    """Mean cross entropy and share of correct guesses, as {"loss", "accuracy"}; `read` and `head` as in `collapse`."""
    totals = torch.zeros(3, dtype=torch.float64, device=head.weight.device)
    for z, labels in read():
        logits = head(z).double()
        loss = F.cross_entropy(logits, labels, reduction="sum")
        totals += torch.stack([loss, (logits.argmax(-1) == labels).sum(), loss.new_tensor(len(labels))])
    loss, correct, number = over_processes(totals)[0].tolist()
    return {"loss": loss / number, "accuracy": correct / number}


def _seen(head, z):
    """Features on the head's sphere, float64; half precision is widened first, as the heads do."""
    return head.normalize(z if z.dtype == torch.float64 else z.float()).double()


def _twice(read, limit):
    """Two functions that give the batches of `read`: the second from memory where the first kept at most `limit` bytes."""
    kept, size = [], 0

    def first():
        nonlocal kept, size
        for batch in read():
            if kept is not None:
                kept.append(batch)
                size += batch[0].nbytes
                if size > limit:
                    kept = None
            yield batch

    return first, lambda: read() if kept is None else kept


def _in_order(parts):
    """The arrays of all batches in one. Of every batch each process has a share, and shares follow each other by rank."""
    shares = [parts]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shares = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(shares, parts)
    return np.concatenate([share for batch in zip(*shares) for share in batch])
