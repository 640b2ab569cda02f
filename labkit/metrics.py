"""Measures of neural collapse, in float64 whatever comes in, with any leading batch dimensions.

features (…, N, d) are rows, targets (…, N) or (N,) are labels of any integer dtype; weights and other class vectors are
rows too, (…, C, d). Conventions differ between codebases; these are the guiding paper's (Markou et al. 2024, Appendix
A): covariances are divided by N and by C, the global mean is the mean of all samples, and NC1 is divided by C. Features
should be those that the classifier sees (`head.normalize`).

Every class needs a sample: ValueError names those that have none. Features that are not finite raise checks.NotFinite.
Where several measures are taken of the same features, `means=class_means(…)` saves each a pass over them. In most
examples the features are those of a collapsed model: the corners of a simplex, two samples at each.
"""

import math
import warnings

import torch
from torch import Tensor

from labkit import checks

Means = tuple[Tensor, Tensor]  # class means (…, C, d) and the global mean (…, d)
RANK = 1e-12  # directions with less of Σ_B's largest eigenvalue count as none: some ten roundings of float32, squared


def class_means(features: Tensor, targets: Tensor, num_classes: int) -> Means:
    """Class means (…, C, d) and the global mean over samples (…, d), float64.

    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), 2)[0].tolist()
    [[2.0], [5.0]]
    """
    checks.floating("features", features)
    checks.classes(num_classes)
    checks.labels(targets, num_classes, features.shape[:-1])
    checks.finite("features", features)
    return means_of(*class_sums(features.double(), targets, num_classes))


def means_of(sums: Tensor, counts: Tensor) -> Means:
    """`class_means` from the sum of each class (…, C, d) and its number of samples (…, C).

    >>> means_of(torch.tensor([[1.0], [6.0]]), torch.tensor([1, 2]))[1]  # the mean of all three samples
    tensor([2.3333])
    """
    if bool((counts == 0).any()):
        num_classes = counts.shape[-1]
        missing = (counts == 0).reshape(-1, num_classes).any(0).nonzero().flatten().tolist()
        few = ", ".join(map(str, missing[:5])) + (f", … ({len(missing)} in all)" if len(missing) > 5 else "")
        raise ValueError(f"every class needs a sample, but classes [{few}] of {num_classes} have none")
    return sums / counts.unsqueeze(-1), sums.sum(-2) / counts.sum(-1, keepdim=True)


def _means(features, targets, num_classes, means):
    """The means given, or found; and every check of the other arguments."""
    if means is None:
        if num_classes is None:
            checks.labels(targets, math.inf, features.shape[:-1])
            num_classes = int(targets.long().max()) + 1
        return class_means(features, targets, num_classes)
    checks.labels(targets, means[0].shape[-2], features.shape[:-1])
    checks.finite("features", features)
    return means


def nc1(features: Tensor, targets: Tensor, num_classes: int | None = None, means: Means | None = None) -> Tensor:
    """Variability collapse, tr(Σ_W Σ_B†)/C, shape (…)   (Eq. 11, Markou et al. 2024).

    num_classes: C. Without it C is the largest label + 1: a smaller class without a sample is an error, but that the
        last ones are missing cannot be seen.

    The pseudo-inverse takes the true rank of Σ_B, which is at most min(C−1, d) and less where class means coincide:
    directions with less than RANK = 1e-12 of the largest eigenvalue are rounding, and are dropped. What variance within
    the classes lies in them is lost from NC1; that is the published convention. NaN where all class means are equal,
    and, with a warning, where no class has a second sample.

    >>> h = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 8.0], [0.0, 10.0]])
    >>> round(nc1(h, torch.tensor([0, 0, 1, 1])).item(), 9)
    0.03125
    """
    means, global_mean = _means(features, targets, num_classes, means)
    inside = within(features, targets, means, whitening(means, global_mean))
    return of_spread(inside / means.shape[-2], features.shape[-2], means.shape[-2])


def of_spread(sum_over_samples: Tensor, samples: int, num_classes: int) -> Tensor:
    """A measure of the spread within classes from its sum over all samples; but NaN, with a warning, where each class
    has one sample only, which is its mean, so that the sum is 0 whatever the features are.

    >>> of_spread(torch.tensor(6.0), 3, 2).item()
    2.0
    """
    if samples > num_classes:
        return sum_over_samples / samples
    warnings.warn(f"{num_classes} classes of one sample each have no spread: NC1 and CDNV are NaN", stacklevel=3)
    return sum_over_samples * math.nan


def whitening(means: Tensor, global_mean: Tensor) -> Tensor:
    """K (…, d, min(C, d)) with K Kᵀ = Σ_B†, from class means (…, C, d) and the global mean (…, d).

    By the singular values of the centred means, whose squares are Σ_B's eigenvalues times C: from a Gram matrix the
    small ones would lose half of their digits. Directions that are dropped (see `nc1`) are columns of zeros.

    >>> k = whitening(torch.tensor([[0.0, 0.0], [0.0, 4.0]]), torch.tensor([0.0, 2.0]))
    >>> (k @ k.mT).round(decimals=6).tolist()
    [[0.0, 0.0], [0.0, 0.25]]
    """
    _, sizes, directions = torch.linalg.svd(means - global_mean.unsqueeze(-2), full_matrices=False)
    kept = (sizes > math.sqrt(RANK) * sizes[..., :1]) & (sizes > _rounding(means))
    scale = torch.where(kept, math.sqrt(means.shape[-2]) / sizes, 0.0)
    scale = torch.where(kept.any(-1, keepdim=True), scale, math.nan)
    return directions.mT * scale.unsqueeze(-2)


def within(features: Tensor, targets: Tensor, means: Tensor, whiten: Tensor) -> Tensor:
    """Sum over samples of ‖Kᵀ(h − its class mean)‖², shape (…): their part in NC1, before division by N·C.

    >>> h, means = torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 9.0]]), torch.tensor([[0.0, 1.0], [0.0, 9.0]]).double()
    >>> within(h, torch.tensor([0, 0, 1]), means, torch.eye(2).double()).item()
    2.0
    """
    # Project before subtracting the class means: N×C numbers instead of N×d.
    residual = features.double() @ whiten - of_class(means @ whiten, targets)
    return residual.square().sum((-2, -1))


def cdnv(features: Tensor, targets: Tensor, num_classes: int | None = None, means: Means | None = None) -> Tensor:
    """Class-distance normalised variance (Galanti et al. 2022), shape (…): the mean over all pairs of classes of
    (V_i + V_j)/(2‖m_i − m_j‖²), with V_c the mean squared distance of a class's samples to its mean m_c.

    Unlike NC1 it looks at no direction, only at distances. Infinite where two class means are equal, and not finite or
    NaN where `nc1` is. num_classes as in `nc1`.

    >>> cdnv(torch.tensor([[0.0, 0.0], [0.0, 2.0], [0.0, 8.0], [0.0, 10.0]]), torch.tensor([0, 0, 1, 1])).item()
    0.015625
    """
    means, _ = _means(features, targets, num_classes, means)
    squares = (features.double() - of_class(means, targets)).square().sum(-1, keepdim=True)
    sums, counts = class_sums(squares, targets.expand(squares.shape[:-1]), means.shape[-2])
    samples, num_classes = features.shape[-2], means.shape[-2]
    return of_spread(samples * pair_variance(sums.squeeze(-1) / counts, means), samples, num_classes)


def pair_variance(variances: Tensor, means: Tensor) -> Tensor:
    """`cdnv` from the variance of each class (…, C) and the class means (…, C, d).

    >>> pair_variance(torch.tensor([1.0, 3.0]), torch.tensor([[0.0, 0.0], [0.0, 4.0]])).item()
    0.125
    """
    i, j = torch.triu_indices(means.shape[-2], means.shape[-2], 1, device=means.device)
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")[..., i, j]
    distances = torch.where(distances > _rounding(means), distances, 0.0).square()
    return ((variances[..., i] + variances[..., j]) / (2 * distances)).mean(-1)


def _rounding(means):
    """The length below which a difference of class means is rounding in float64, shape (…, 1)."""
    return 1e-14 * torch.linalg.matrix_norm(means).unsqueeze(-1)


def nc2(vectors: Tensor) -> Tensor:
    """Distance of class vectors (…, C, d) from a simplex ETF, ‖VVᵀ/‖VVᵀ‖_F − P/√(C−1)‖_F, shape (…)   (Eq. 12).

    For the weights as in the paper; for the means give them centred by the global mean.

    >>> nc2(torch.eye(3, dtype=torch.double) - 1 / 3).item() < 1e-15
    True
    """
    checks.finite("vectors", vectors)
    return from_simplex(vectors.double() @ vectors.double().mT)


def nc3(weight: Tensor, features: Tensor, targets: Tensor, means: Means | None = None) -> Tensor:
    """Self-duality, ‖WH̄/‖WH̄‖_F − P/√(C−1)‖_F with the centred class means H̄, shape (…)   (Eq. 13).

    >>> nc3(torch.eye(3), torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)).item() < 1e-15
    True
    """
    checks.finite("weight", weight)
    means, global_mean = _means(features, targets, weight.shape[-2], means)
    return from_simplex(weight.double() @ (means - global_mean.unsqueeze(-2)).mT)


def nc4(logits: Tensor, features: Tensor, targets: Tensor, means: Means | None = None) -> Tensor:
    """Share of samples that the classifier and the nearest class mean put in different classes, shape (…)   (Eq. 14).

    >>> nc4(torch.eye(3).repeat(2, 1), torch.eye(3).repeat(2, 1), torch.arange(3).repeat(2)).item()
    0.0
    """
    checks.finite("logits", logits)
    means, _ = _means(features, targets, logits.shape[-1], means)
    return (logits.argmax(-1) != nearest_mean(features, means)).double().mean(-1)


def nearest_mean(features: Tensor, means: Tensor) -> Tensor:
    """The class whose mean is nearest to each sample: (…, N) from features (…, N, d) and means (…, C, d).

    >>> nearest_mean(torch.tensor([[0.4], [0.6]]), torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    tensor([0, 1])
    """
    middle = means.mean(-2, keepdim=True)  # what is measured from: an offset of all would swallow small differences
    arms = 2 * (means - middle)
    # ‖h − m‖² up to what is the same for all classes
    distance = (arms * (arms / 4 + middle)).sum(-1).unsqueeze(-2) - features.double() @ arms.mT
    return distance.argmin(-1)


def equinorm(vectors: Tensor) -> Tensor:
    """Standard deviation over mean of the lengths of class vectors (…, C, d), shape (…); zero when all are equally long
    (Eq. 15). The deviation is the unbiased one, as in the released code. Means are to be centred by the global mean.

    >>> equinorm(torch.eye(3)).item()
    0.0
    """
    checks.finite("vectors", vectors)
    norms = torch.linalg.vector_norm(vectors.double(), dim=-1)
    return norms.std(-1) / norms.mean(-1)


def minimal_margin(vectors: Tensor) -> Tensor:
    """1 − cos of the two class vectors (…, C, d) that are nearest to each other, shape (…).

    What takes the place of NC2 where C > d+1 and no simplex ETF fits (Jiang et al. 2023): the most that any vectors can
    have is `etf.minimal_margin_bound` for C ≤ 2d, and is not known in general beyond. Means are to be centred by the
    global mean. NaN where a vector is zero.

    >>> minimal_margin(torch.tensor([[2.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -3.0]])).item()
    1.0
    """
    checks.finite("vectors", vectors)
    unit = vectors.double() / torch.linalg.vector_norm(vectors.double(), dim=-1, keepdim=True)
    cosines = unit @ unit.mT
    i, j = torch.triu_indices(unit.shape[-2], unit.shape[-2], 1, device=unit.device)
    return 1 - cosines[..., i, j].amax(-1)


def cosine_margins(weight: Tensor, features: Tensor, targets: Tensor, means: Means | None = None) -> Tensor:
    """Each sample's margin: cosine to its own class vector minus the largest to another, shape (…, N)   (Eq. 16).

    Class vectors are centred by their mean, features by the global mean. C/(C−1) for a collapsed simplex ETF.

    >>> cosine_margins(torch.eye(3), torch.eye(3), torch.arange(3)).round(decimals=6).tolist()
    [1.5, 1.5, 1.5]
    """
    checks.finite("weight", weight)
    return margins_about(_means(features, targets, weight.shape[-2], means)[1], weight, features, targets)


def margins_about(global_mean: Tensor, weight: Tensor, features: Tensor, targets: Tensor) -> Tensor:
    """`cosine_margins` of samples whose global mean (…, d) is known.

    >>> margins_about(torch.zeros(1), torch.tensor([[1.0], [-1.0]]), torch.ones(1, 1), torch.tensor([0])).tolist()
    [2.0]
    """
    w = weight.double() - weight.double().mean(-2, keepdim=True)
    h = features.double() - global_mean.unsqueeze(-2)
    lengths = torch.linalg.vector_norm(h, dim=-1, keepdim=True) * torch.linalg.vector_norm(w, dim=-1).unsqueeze(-2)
    cosine = h @ w.mT / lengths
    shape, cosine = cosine.shape[:-1], cosine.flatten(0, -2)
    sample, own = torch.arange(len(cosine), device=cosine.device), targets.long().expand(shape).flatten()
    mine = cosine[sample, own]
    cosine[sample, own] = -math.inf
    return (mine - cosine.amax(-1)).reshape(shape)


def from_simplex(product: Tensor) -> Tensor:
    """‖V/‖V‖_F − P/√(C−1)‖_F of a C×C product V (…, C, C), shape (…): zero for that of a simplex ETF with itself.

    >>> round(from_simplex(torch.eye(2)).item(), 4)
    0.7654
    """
    num_classes = product.shape[-1]
    simplex = torch.eye(num_classes, dtype=product.dtype, device=product.device) - 1 / num_classes
    product = product / torch.linalg.matrix_norm(product, keepdim=True)
    return torch.linalg.matrix_norm(product - simplex / math.sqrt(num_classes - 1))


def class_sums(features: Tensor, targets: Tensor, num_classes: int) -> Means:
    """Sum of the features of each class and their number: (…, C, d) and (…, C), from features (…, N, d), targets (…, N)
    or (N,). By index-add: O(N d), where a product with one-hot labels costs O(N C d).

    >>> class_sums(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, 1]), 2)
    (tensor([[1.],
            [6.]]), tensor([1, 2]))
    """
    *batch, n, d = features.shape
    runs = math.prod(batch)
    index = _numbered_on(targets, batch, num_classes)
    sums = features.new_zeros(runs * num_classes, d).index_add_(0, index, features.reshape(-1, d))
    counts = torch.bincount(index, minlength=runs * num_classes)
    return sums.reshape(*batch, num_classes, d), counts.reshape(*batch, num_classes)


def of_class(means: Tensor, targets: Tensor) -> Tensor:
    """The mean of each sample's class: (…, C, k) -> (…, N, k).

    >>> of_class(torch.tensor([[1.0], [5.0]]), torch.tensor([1, 0, 1])).tolist()
    [[5.0], [1.0], [5.0]]
    """
    *batch, num_classes, k = means.shape
    index = _numbered_on(targets, batch, num_classes)
    return means.reshape(-1, k).index_select(0, index).reshape(*batch, targets.shape[-1], k)


def _numbered_on(targets, batch, num_classes):
    """Labels (…, N) or (N,) as one list of int64, in which each run of the batch has classes of its own."""
    labels, runs = targets.long(), math.prod(batch)  # index_add and bincount do not take every integer dtype
    if labels.numel():  # one out of range would be a class of the run beside it
        checks.labels(targets, num_classes, targets.shape)
    labels = labels.expand(*batch, labels.shape[-1]).reshape(runs, -1)
    return (labels + num_classes * torch.arange(runs, device=labels.device).unsqueeze(-1)).reshape(-1)
