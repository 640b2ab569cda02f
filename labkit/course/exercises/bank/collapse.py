"""Notebooks 00 and 01: neural collapse, and how it is measured."""

import math
from functools import partial

import torch
from torch import Tensor

from labkit.course.exercises.exercise import DOUBLE, Exercise, randn, samples


def nc1(
    features: Tensor,
    labels: Tensor,
    about: str = "samples",
    weighted: bool = False,
    alike: bool = False,
    swapped: bool = False,
    traces: bool = False,
    total: bool = False,
    ddof: tuple[int, int] = (0, 0),
    rtol: float = 1e-10,
) -> Tensor:
    C, N = int(labels.max()) + 1, len(features)
    means = torch.stack([features[labels == c].mean(0) for c in range(C)])
    middle = features.mean(0) if about == "samples" else means.mean(0)
    D, B = features - (middle if total else means[labels]), means - middle
    counts = torch.bincount(labels).double()
    within, between = D.mT @ D / (N - ddof[0]), B.mT @ B / (C - ddof[1])
    if weighted:
        between = B.mT @ (B * counts[:, None]) / N
    if alike:
        within = D.mT @ (D / counts[labels][:, None]) / C
    if swapped:
        within, between = between, within
    if traces:
        return torch.trace(within) / torch.trace(between) / C
    return torch.trace(within @ torch.linalg.pinv(between, rtol=rtol, hermitian=True)) / C


def _flat(features, labels):
    """With a last direction so short that a careless tolerance drops it; NC1 itself does not depend on lengths."""
    scale = torch.ones(features.shape[1], dtype=features.dtype)
    scale[-1] = 0.03
    return features * scale, labels


def nearest_mean(features: Tensor, class_means: Tensor) -> Tensor:
    return torch.cdist(features, class_means).argmin(-1)


def _points(g):
    return [
        (scale * (randn(n, d, g=g) + 1), scale * (2 * randn(c, d, g=g) + 1))
        for n, d, c, scale in ((4, 2, 3, 1.0), (30, 5, 10, 1.0), (50, 16, 7, 0.1), (7, 3, 7, 10.0))
    ]


def look_alikes(cosines: Tensor) -> tuple[int, ...]:
    off_diagonal = cosines.clone().fill_diagonal_(-2)
    return tuple(sorted(divmod(int(off_diagonal.argmax()), len(cosines))))


def _pair(table):
    return tuple(sorted(divmod(int(table.argmax()), len(table))))


def _cosines(g):
    tables = []
    for shift in (1.0, 0.3, 0.0, 0.0, -1.0):  # the last has no positive cosine off its diagonal
        x = randn(10, 12, g=g) + shift if shift >= 0 else 8 * torch.eye(10, 12, dtype=DOUBLE) + 0.1 * randn(10, 12, g=g)
        x = x - x.mean(0) if shift <= 0 else x
        x = x / x.norm(dim=-1, keepdim=True)
        tables.append(((x @ x.mT).fill_diagonal_(1.0),))
    return tables


EXERCISES = (
    Exercise(
        name="five-classes",
        notebook="00",
        stub="my_cosine = None  # your number here",
        solution=-0.25,
        mistakes=(
            (0.25, "the sign is wrong: the vectors point away from each other"),
            (-1 / 3, "that is the cosine of four classes; here are five"),
            (-0.2, "−1/C; but each vector has only C − 1 others to keep away from"),
            (-1 / 6, "−1/(C + 1); but each vector has only C − 1 others to keep away from"),
            (-4.0, "one over the right answer: a cosine lies between −1 and 1"),
            (0.0, "that would be perpendicular; the vectors sum to zero, so they open further than that"),
            (math.degrees(math.acos(-0.25)), "that is the angle in degrees; its cosine is asked for"),
            (math.acos(-0.25), "that is the angle in radians; its cosine is asked for"),
            (math.cos(math.radians(72)), "that is a pentagon in a plane; five vectors have four dimensions here"),
            (math.cos(math.radians(144)), "that is a pentagon in a plane; five vectors have four dimensions here"),
            (72.0, "that is a pentagon's angle; the cosine in four dimensions is asked for"),
            (-1.0, "two vectors can be opposite, five cannot"),
            (-0.5, "that is the cosine of three classes; here are five"),
        ),
        sizes=lambda: {"C": 5},
    ),
    Exercise(
        name="nc1",
        notebook="01",
        stub="def my_nc1(features, labels):\n    return None  # your code: features (N, d), labels (N,)",
        solution=nc1,
        inputs=lambda g: [
            samples(3, 2, [3, 1, 2], g),
            samples(4, 6, [5, 9, 3, 7], g, 10.0),
            samples(10, 16, [4, 6, 9, 2, 5, 8, 3, 7, 4, 6], g, 0.1),
            _flat(*samples(8, 3, [6, 4, 9, 5, 7, 3, 8, 2], g)),
            samples(2, 5, [30, 10], g, spread=0.01),
            samples(5, 8, [7] * 5, g),
        ],
        mistakes=(
            (partial(nc1, ddof=(1, 0)), "Σ_W is divided by N − 1, as torch.cov does; the formula divides by N"),
            (partial(nc1, ddof=(0, 1)), "Σ_B is divided by C − 1, as torch.cov does; the formula divides by C"),
            (partial(nc1, ddof=(1, 1)), "both are divided by one less, as torch.cov does; divide by N and C"),
            (partial(nc1, swapped=True), "Σ_W and Σ_B are swapped: Σ_B is the one to be inverted"),
            (lambda f, l: nc1(f, l, swapped=True) * int(l.max() + 1), "Σ_W and Σ_B are swapped, and 1/C is missing"),
            (partial(nc1, about="means"), "μ_G is the mean of all samples, not that of the class means"),
            (partial(nc1, traces=True), "a ratio of two traces; asked for is the trace of Σ_W Σ_B†"),
            (lambda f, l: nc1(f, l, traces=True) * int(l.max() + 1), "a ratio of two traces, without 1/C"),
            (partial(nc1, total=True), "Σ_W is about the mean of all; subtract each sample's class mean"),
            (partial(nc1, weighted=True), "Σ_B counts large classes more; each class mean counts once"),
            (partial(nc1, alike=True), "Σ_W averages the classes' covariances; each sample counts once"),
            (lambda f, l: nc1(f, l).sqrt(), "the root of NC1: one root too many"),
            *(
                (
                    partial(nc1, rtol=rtol),
                    "the pseudo-inverse drops a direction that counts: its rtol is too large, take 1e-10",
                )
                for rtol in (1e-2, 1e-3)
            ),
        ),
        sizes=lambda f, l: {"C": int(l.max()) + 1, "N": len(f), "d": f.shape[1]},
        library=("labkit.metrics.nc1", "labkit.metrics.within", "labkit.streaming.collapse"),
    ),
    Exercise(
        name="nearest-mean",
        notebook="01",
        stub="def nearest(features, class_means):\n    return None  # your code: one class for each row of features",
        solution=nearest_mean,
        inputs=_points,
        mistakes=(
            (lambda f, m: torch.cdist(f, m).argmax(-1), "the class farthest away: argmax in place of argmin"),
            (lambda f, m: torch.cdist(f, m).argmin(0), "argmin over the wrong dimension: one answer for each class"),
            (
                lambda f, m: torch.cdist(f, m).min(-1).values,
                "the distances; asked for is the class that has the smallest",
            ),
            (
                lambda f, m: torch.cdist(f, m),
                "all the distances; asked for is the class that has the smallest (argmin)",
            ),
            (lambda f, m: (f @ m.mT).argmax(-1), "the largest inner product is not the nearest: long means win"),
            (
                lambda f, m: (f @ (m / m.norm(dim=-1, keepdim=True)).mT).argmax(-1),
                "the largest cosine is not the nearest: lengths count too",
            ),
            (lambda f, m: (f @ m.mT).argmin(-1), "the smallest inner product: that is the farthest direction"),
            (
                lambda f, m: torch.cdist(f, m, p=1).argmin(-1),
                "nearest by the sum of absolute differences; take Euclid's",
            ),
            (
                lambda f, m: (m.square().sum(-1) - f @ m.mT).argmin(-1),
                "‖f − m‖² = ‖f‖² − 2⟨f, m⟩ + ‖m‖²: a factor 2 is missing",
            ),
            (lambda f, m: torch.cdist(f, m).argmin(-1) + 1, "classes are counted from 0, not from 1"),
            (
                lambda f, m: torch.nn.functional.one_hot(torch.cdist(f, m).argmin(-1), len(m)),
                "one row of zeros and a one; asked for is the number of the class",
            ),
        ),
        sizes=lambda f, m: {"C": len(m), "N": len(f), "d": f.shape[1]},
        library=("labkit.metrics.nearest_mean", "labkit.metrics.nc4"),
    ),
    Exercise(
        name="look-alikes",
        notebook="01",
        stub="def look_alikes(cosines):\n    return None  # your code: (a, b) with a < b",
        solution=look_alikes,
        inputs=_cosines,
        mistakes=(
            (lambda t: look_alikes(t)[::-1], "the right pair in the wrong order: a < b"),
            (lambda t: (0, 0), "a digit is most like itself: take out the diagonal"),
            (lambda t: _pair(-t), "the two that are *least* alike: argmin in place of argmax"),
            (lambda t: _pair(t.clone().fill_diagonal_(0).abs()), "the largest absolute value: opposite is not alike"),
            (
                lambda t: _pair(t.clone().fill_diagonal_(0)),
                "the diagonal is set to 0, which wins where all cosines are negative: take −2",
            ),
            (
                lambda t: int(t.clone().fill_diagonal_(-2).argmax()),
                "the place in the flattened table: divmod makes a pair of it",
            ),
            (lambda t: t.clone().fill_diagonal_(-2).max(), "the largest cosine; asked for are the two digits"),
        ),
    ),
)
