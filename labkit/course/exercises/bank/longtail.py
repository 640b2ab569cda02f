"""Notebook 10: class sizes of a long tail, the prior taken out of logits, and the calibration error."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from labkit.course.exercises.exercise import DOUBLE, Exercise, randn


def my_sizes(largest: int, C: int, ratio: float, last: int = 1, whole: Callable[[float], float] = int) -> list[float]:
    return [whole(largest * ratio ** (-c / (C - last))) for c in range(C)]


def my_correction(logits: Tensor, counts: Tensor, sign: float = 1.0) -> Tensor:
    share = counts.double() / counts.sum()
    return logits - sign * share.log()


def _bins(confidence, right, bins):
    place = (confidence * bins).long().clamp(max=bins - 1)
    for b in range(bins):
        inside = place == b
        if inside.any():
            gap = right[inside].double().mean() - confidence[inside].mean()
            yield inside.sum().item() / len(confidence), gap.item()


def my_ece(confidence: Tensor, right: Tensor, bins: int) -> float:
    return sum(weight * abs(gap) for weight, gap in _bins(confidence, right, bins))


def _unweighted(*a):
    gaps = [abs(gap) for _, gap in _bins(*a)]
    return sum(gaps) / len(gaps)


def _tables(g):
    few = torch.randn(2, 3, generator=g, dtype=DOUBLE), torch.tensor([90, 9, 1])
    return [few, *[(2 * randn(n, len(c), g=g), torch.tensor(c)) for n, c in ((5, [40, 30, 20, 10]), (7, [500, 50, 5]))]]


def _samples(g):
    cases = []
    for n, bins in ((4, 2), (60, 10), (203, 15)):
        confidence = 0.05 + 0.9 * torch.rand(n, generator=g, dtype=DOUBLE)
        cases.append((confidence, (torch.rand(n, generator=g) < 0.2 + 0.5 * confidence.float()).double(), bins))
    return cases


def _centred(answer, *_):
    """Logits of a sample may have any constant added."""
    answer = torch.as_tensor(answer)
    return answer - answer.double().mean(-1, keepdim=True) if answer.ndim else answer


EXERCISES = (
    Exercise(
        name="tail-sizes",
        notebook="10",
        stub="def my_sizes(largest, C, ratio):\n    return None  # your code: a list of C whole numbers",
        solution=my_sizes,
        # After class 0 no exact size is a whole number, which a right formula may leave just below itself.
        inputs=lambda g: [(110, 3, 40), (5000, 10, 70), (500, 100, 56), (119, 10, 20)],
        mistakes=(
            (partial(my_sizes, last=0), "the last class is too large: c/(C − 1) ends at 1, c/C does not"),
            (partial(my_sizes, whole=round), "rounded to the nearest; the published rule cuts off"),
            (partial(my_sizes, whole=float), "not whole numbers: cut off what is behind the point"),
            (lambda n, C, r: my_sizes(n, C, r)[::-1], "in the other order: class 0 is the largest"),
            (
                lambda n, C, r: [int(n - (n - n / r) * c / (C - 1)) for c in range(C)],
                "a straight line; sizes fall by the same factor from class to class",
            ),
            (
                lambda n, C, r: [int(n * r ** (c / (C - 1))) for c in range(C)],
                "the sizes grow: the sign of the exponent",
            ),
            (
                lambda n, C, r: [n] * (C // 2) + [int(n / r)] * (C - C // 2),
                "one step; sizes fall by the same factor from class to class",
            ),
            (
                lambda n, C, r: [int(n / r**c) for c in range(C)],
                "the ratio is between the first and the last class, not between neighbours",
            ),
        ),
        sizes=lambda largest, C, ratio: {"largest": largest, "C": C, "ratio": ratio},
        library=("labkit.vision.longtail.exponential", "labkit.vision.longtail.fitting"),
    ),
    Exercise(
        name="hidden-tail",
        notebook="10",
        stub="my_accuracies = None  # two numbers, (tested on the same tail, tested on equal classes)",
        solution=(12134 / 12406, 0.7),
        tolerance=1e-3,
        mistakes=(
            ((0.7, 12134 / 12406), "the two are interchanged"),
            ((0.7, 0.7), "on the tail classes count by their size"),
            ((272 / 12406, 0.7), "that is the share of images in the three smallest classes: those that are lost"),
            ((12134 / 12406, 12134 / 12406), "with equal classes each of the ten counts a tenth"),
            ((12134 / 12406, 0.3), "three of ten classes are lost, seven are found"),
            ((97.8, 70), "in per cent; asked for are numbers between 0 and 1"),
        ),
    ),
    Exercise(
        name="prior-out",
        notebook="10",
        stub="def my_correction(logits, counts):\n    return None  # your code: (N, C) and (C,) to (N, C)",
        solution=my_correction,
        inputs=_tables,
        view=_centred,
        mistakes=(
            (lambda z, n: z, "the logits as they were"),
            (lambda z, n: my_correction(z, n, -1.0), "the prior is put in twice: subtract its logarithm"),
            (
                lambda z, n: z / (n / n.sum()),
                "logits are logarithms: what divides a probability is subtracted from its logarithm",
            ),
            (lambda z, n: z - n / n.sum(), "the prior is subtracted; its logarithm is asked for"),
            (lambda z, n: z - (n / n.sum()).double().log2(), "the logarithm to base 2; logits are natural logarithms"),
            (lambda z, n: my_correction(z, n).softmax(-1), "probabilities; asked for are logits"),
            (lambda z, n: z - 0.5 * (n / n.sum()).double().log(), "half of it: τ is 1 here"),
            (
                lambda z, n: z + ((n.sum() - n) / n).double().log(),
                "ln((N − n)/n), the constant of the APA paper's code; Bayes' rule has ln(N/n)",
            ),
        ),
        sizes=lambda z, n: {"N": len(z), "C": len(n)},
        library=("labkit.calibration.correct_prior", "labkit.calibration.prior_offset"),
    ),
    Exercise(
        name="calibration-error",
        notebook="10",
        stub="def my_ece(confidence, right, bins):\n    return None  # your code: (N,) and (N,) to one number",
        solution=my_ece,
        inputs=_samples,
        mistakes=(
            (_unweighted, "bins are averaged alike; weigh each by its share of the samples"),
            (lambda *a: max(abs(gap) for _, gap in _bins(*a)), "that is the largest gap, MCE"),
            (
                lambda *a: sum(w * gap for w, gap in _bins(*a)),
                "gaps of different signs cancel, as in one bin: take the absolute value in each",
            ),
            (
                lambda *a: -sum(w * gap for w, gap in _bins(*a)),
                "gaps of different signs cancel, as in one bin: take the absolute value in each",
            ),
            (
                lambda c, r, b: abs(r.double().mean() - c.mean()),
                "gaps of different signs cancel, as in one bin: take the absolute value in each",
            ),
            (lambda *a: sum(w * gap**2 for w, gap in _bins(*a)), "squared gaps; ECE has absolute ones"),
            (
                lambda c, r, b: (r.double() - c).abs().mean(),
                "each sample against its own outcome, which is never between 0 and 1: average in bins first",
            ),
            (lambda c, r, b: ((r.double() - c) ** 2).mean(), "that is the Brier score of the guess"),
            (lambda c, r, b: 100 * my_ece(c, r, b), "in per cent; asked for is a number between 0 and 1"),
            (lambda c, r, b: len(c) * my_ece(c, r, b), "divide by the number of samples"),
        ),
        sizes=lambda confidence, right, bins: {"N": len(confidence), "bins": bins},
        library=(
            "labkit.calibration.calibration_error",
            "labkit.calibration.reliability",
            "torchmetrics.functional.classification.multiclass_calibration_error",
        ),
    ),
)
