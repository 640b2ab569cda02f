"""Measures of neural collapse, in float64 whatever comes in, with any leading batch dimensions.

features (…, N, d) are rows, targets (…, N) or (N,); weights and other class vectors are rows too, (…, C, d).
Conventions differ between codebases; these are the guiding paper's (Appendix A): covariances divided by N and by C, the
global mean is the mean of all samples, and NC1 is divided by C. Features should be those the classifier sees
(`head.normalize`).
Every class needs at least one sample; a missing one raises ValueError. Where several measures are taken of the same
features, `means = class_means(…)` can be given to each, which saves a pass over them.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

from labkit import checks


def class_means(features, targets, num_classes):
    """Class means (…, C, d) and the global mean over samples (…, d), float64."""
    checks.floating("features", features)
    checks.labels(targets, num_classes, features.shape[:-1])
    return means_of(*class_sums(features.double(), targets, num_classes))


def means_of(sums, counts):
    """`class_means` from the sum of each class (…, C, d) and its number of samples (…, C)."""
    if bool((counts == 0).any()):
        num_classes = counts.shape[-1]
        missing = (counts == 0).reshape(-1, num_classes).any(0).nonzero().flatten().tolist()
        few = ", ".join(map(str, missing[:5])) + (f", … ({len(missing)} in all)" if len(missing) > 5 else "")
        raise ValueError(f"every class needs a sample, but classes [{few}] of {num_classes} have none")
    return sums / counts.unsqueeze(-1), sums.sum(-2) / counts.sum(-1, keepdim=True)


def nc1(features, targets, means=None):
    """Variability collapse, tr(Σ_W Σ_B†)/C, shape (…)   (Eq. 11).

    Σ_B has rank C−1 at most; its pseudo-inverse is taken on exactly the C−1 leading eigenpairs, found from the C×C Gram
    matrix of the centred means, so that no d×d matrix is formed and no tolerance is chosen.
    """
    if means is None:
        num_classes = int(targets.max()) + 1 if targets.numel() else 0
        checks.classes(num_classes)
        means = class_means(features, targets, num_classes)
    means, global_mean = means
    return within(features, targets, means, whitening(means, global_mean)) / (features.shape[-2] * means.shape[-2])


def whitening(means, global_mean):
    """K (…, d, C−1) with K Kᵀ = Σ_B†, from class means (…, C, d) and the global mean (…, d)."""
    centred, num_classes = means - global_mean.unsqueeze(-2), means.shape[-2]
    eigenvalues, vectors = torch.linalg.eigh(centred @ centred.mT / num_classes)
    eigenvalues, vectors = eigenvalues[..., 1:], vectors[..., 1:]
    # Σ_B's unit eigenvectors are centredᵀ v/√(Cλ); dividing by √λ once more whitens.
    return centred.mT @ vectors / (math.sqrt(num_classes) * eigenvalues.unsqueeze(-2))


def within(features, targets, means, whiten):
    """Sum over samples of ‖Kᵀ(h − its class mean)‖², shape (…): a sample's part in NC1, before division by N·C."""
    # Project before subtracting the class means: N×C numbers instead of N×d.
    residual = features.double() @ whiten - _of_class(means @ whiten, targets)
    return residual.square().sum((-2, -1))


def nc2(vectors):
    """Distance of class vectors (…, C, d) from a simplex ETF, ‖VVᵀ/‖VVᵀ‖_F − P/√(C−1)‖_F, shape (…)   (Eq. 12).

    For the weights as in the paper; for the means give them centred by the global mean.
    """
    return from_simplex(vectors.double() @ vectors.double().mT)


def nc3(weight, features, targets, means=None):
    """Self-duality, ‖WH̄/‖WH̄‖_F − P/√(C−1)‖_F with the centred class means H̄, shape (…)   (Eq. 13)."""
    means, global_mean = means or class_means(features, targets, weight.shape[-2])
    return from_simplex(weight.double() @ (means - global_mean.unsqueeze(-2)).mT)


def nc4(logits, features, targets, means=None):
    """Share of samples that the classifier and the nearest class centre put in different classes, shape (…)   (Eq.
    14).
    """
    means, _ = means or class_means(features, targets, logits.shape[-1])
    return (logits.argmax(-1) != nearest_mean(features, means)).double().mean(-1)


def nearest_mean(features, means):
    """The class whose mean is nearest to each sample: (…, N) from features (…, N, d) and means (…, C, d)."""
    # ‖h − m‖² up to ‖h‖², which is the same for all classes
    distance = means.square().sum(-1).unsqueeze(-2) - 2 * features.double() @ means.mT
    return distance.argmin(-1)


def equinorm(vectors):
    """Standard deviation over mean of the lengths of class vectors (…, C, d), shape (…); zero when all are equally long
    (Eq. 15).

    Unbiased standard deviation, as the released code. For the means give them centred by the global mean.
    """
    norms = torch.linalg.vector_norm(vectors.double(), dim=-1)
    return norms.std(-1) / norms.mean(-1)


def cosine_margins(weight, features, targets, means=None):
    """Each sample's margin: cosine to its own class vector minus the largest to another, shape (…, N)   (Eq. 16).

    Class vectors are centred by their mean, features by the global mean. C/(C−1) for a collapsed simplex ETF.
    """
    _, global_mean = means or class_means(features, targets, weight.shape[-2])
    return margins_about(global_mean, weight, features, targets)


def margins_about(global_mean, weight, features, targets):
    """`cosine_margins` of samples whose global mean (…, d) is known."""
    w = weight.double() - weight.double().mean(-2, keepdim=True)
    h = features.double() - global_mean.unsqueeze(-2)
    lengths = torch.linalg.vector_norm(h, dim=-1, keepdim=True) * torch.linalg.vector_norm(w, dim=-1).unsqueeze(-2)
    cosine = h @ w.mT / lengths
    own = targets.expand(cosine.shape[:-1]).unsqueeze(-1)
    return cosine.gather(-1, own).squeeze(-1) - cosine.scatter(-1, own, -math.inf).amax(-1)


def _of_class(means, targets):
    """The mean of each sample's class: (…, C, k) -> (…, N, k)."""
    index = targets.expand(*means.shape[:-2], targets.shape[-1]).unsqueeze(-1)
    return means.gather(-2, index.expand(*index.shape[:-1], means.shape[-1]))


def from_simplex(product):
    """‖V/‖V‖_F − P/√(C−1)‖_F of a C×C product V (…, C, C), shape (…): zero for that of a simplex ETF with itself."""
    num_classes = product.shape[-1]
    simplex = torch.eye(num_classes, dtype=product.dtype, device=product.device) - 1 / num_classes
    product = product / torch.linalg.matrix_norm(product, keepdim=True)
    return torch.linalg.matrix_norm(product - simplex / math.sqrt(num_classes - 1))


def class_sums(features, targets, num_classes):
    """Sum of the features of each class and their number: (…, C, d) and (…, C), from features (…, N, d), targets (…, N)
    or (N,).

    By index-add: O(N d), where a product with one-hot labels costs O(N C d).
    """
    *batch, n, d = features.shape
    runs = math.prod(batch)
    labels = targets.expand(*batch, n).reshape(runs, n)
    index = _numbered_on(labels, num_classes)
    sums = features.new_zeros(runs * num_classes, d).index_add_(0, index, features.reshape(-1, d))
    return sums.reshape(*batch, num_classes, d), _counts(labels, num_classes).reshape(*batch, num_classes)


def _numbered_on(labels, num_classes):
    """Labels (runs, N) as one list, (runs·N,), in which each run has classes of its own."""
    if len(labels) > 1:
        labels = labels + num_classes * torch.arange(len(labels), device=labels.device).unsqueeze(-1)
    return labels.reshape(-1)


def _counts(labels, num_classes):
    """Number of samples in each class, (runs, C), from labels (runs, N)."""
    flat = torch.bincount(_numbered_on(labels, num_classes), minlength=len(labels) * num_classes)
    return flat.reshape(len(labels), num_classes)


def over_processes(*tensors):
    """The tensors, each added up in place over all processes where there are several."""
    if (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    ):
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)
    return tensors


KEEP = 1 << 30  # bytes of features that are kept from the first pass, so that a small set goes through the network once


@torch.no_grad()
def collapse(read, head, *, keep=KEEP, margins=False):
    """Measures of the samples that `read()` yields, in batches of features z (n, d) and labels (n,); a dict of floats.

    read: called once for each pass, with the same samples in the same batches every time.
    head: a labkit head, in evaluation mode. As in `ufm.train_ufm`, features are measured as the head sees them,
        h = τ·z/‖z‖: loss (mean cross entropy), accuracy, nc1, nc2 (of the weights), nc3, nc4, equinorm_means,
        equinorm_weights and cosine_margin (mean over samples).
    keep: features of up to so many bytes stay in memory for the second pass; beyond, `read` is called again.
    margins: also the margin of every sample, under "margins": an array (N,), in the order in which one process reads
        them.

    Sums are in float64, and equal `labkit.metrics` on the same features to rounding. Raises ValueError for a class
    without a sample, and its subclass checks.NotFinite for features that are not finite.
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
    means, global_mean = means_of(sums, counts)
    whiten = whitening(means, global_mean)

    totals, found = weight.new_zeros(5), []
    for z, labels in second():
        h, logits = _seen(head, z), head(z).double()
        margin = margins_about(global_mean, weight, h, labels)
        guess = logits.argmax(-1)
        totals += torch.stack(
            [
                F.cross_entropy(logits, labels, reduction="sum"),
                (guess == labels).sum(),
                within(h, labels, means, whiten),
                (guess != nearest_mean(h, means)).sum(),
                margin.sum(),
            ]
        )
        if margins:
            found.append(margin.cpu().numpy())
    over_processes(totals)
    loss, correct, inside, elsewhere, margin = (totals / counts.sum()).tolist()
    centred = means - global_mean
    values = {
        "loss": loss,
        "accuracy": correct,
        "nc1": inside / num_classes,
        "nc2": nc2(weight).item(),
        "nc3": from_simplex(weight @ centred.mT).item(),
        "nc4": elsewhere,
        "equinorm_means": equinorm(centred).item(),
        "equinorm_weights": equinorm(weight).item(),
        "cosine_margin": margin,
    }
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
    """Two functions that give the batches of `read`: the second from memory where the first kept at most `limit`
    bytes.
    """
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
    """The arrays of all batches in one. Of every batch each process has a share, and shares follow each other by
    rank.
    """
    shares = [parts]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        shares = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(shares, parts)
    return np.concatenate([share for batch in zip(*shares) for share in batch])
