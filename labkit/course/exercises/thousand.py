"""Notebook 11: a thousand classes and more."""

import math

from labkit.course.exercises.exercise import Exercise


def my_temperature(C, p):
    return (C - 1) / C * math.log((C - 1) * p / (1 - p))


def _wide(answer):
    try:
        width, gigabytes = (float(x) for x in answer)
    except (TypeError, ValueError):
        return "two numbers are asked for: the width, and the gigabytes"
    right = 4 * 21841**2 / 1e9
    widths = {
        21841: "one less is enough: C points need C − 1 dimensions",
        2048: "that is what a ResNet-50 has, and too few",
        21842: "C points need C − 1 dimensions",
    }
    if width != 21840:
        return "the width: " + widths.get(width, "the smallest d with d ≥ C − 1 is asked for")
    slips = {
        2: "8 bytes a number, which is float64",
        1000: "that is in megabytes",
        1e9: "that is in bytes",
        1e9 / 2**30: "that is in units of 2^30 bytes; a gigabyte is 10^9",
        0.25: "a number in float32 has 4 bytes",
        1e6: "that is in kilobytes",
        8: "those are bits: 8 make a byte",
        0.5: "2 bytes a number, which is half precision",
    }
    for factor, text in slips.items():
        if math.isclose(gigabytes, factor * right, rel_tol=0.02):
            return f"the size: {text}"
    if math.isclose(gigabytes, 4 * 21841 * 2048 / 1e9, rel_tol=0.02):
        return "the size: that is the frame in 2048 dimensions"
    if not math.isclose(gigabytes, right, rel_tol=0.02):
        return "the size: d × C numbers of 4 bytes each, in units of 10⁹ bytes"
    return None


EXERCISES = (
    Exercise(
        name="sure-enough",
        notebook="11",
        stub="def my_temperature(C, p):\n    return None  # your code here",
        solution=my_temperature,
        inputs=lambda g: [(2, 0.8), (10, 0.5), (3, 0.6), (100, 0.05), (1000, 0.9), (21841, 0.99)],
        mistakes=(
            (lambda C, p: math.log((C - 1) * p / (1 - p)), "(C − 1)/C is missing: the exponent is −τ C/(C − 1)"),
            (
                lambda C, p: C / (C - 1) * math.log((C - 1) * p / (1 - p)),
                "C/(C − 1) is upside down: multiply by (C − 1)/C",
            ),
            (lambda C, p: (C - 1) / C * math.log(p / (1 - p)), "the factor C − 1 before the exponential is missing"),
            (lambda C, p: (C - 1) / C * math.log(C * p / (1 - p)), "C − 1 classes compete with the right one, not C"),
            (lambda C, p: (C - 1) / C * math.log((C - 1) * p), "1 − p is missing"),
            (lambda C, p: (C - 1) / C * math.log((C - 1) * (1 - p) / p), "p and 1 − p are exchanged"),
            (
                lambda C, p: (C - 1) / C * math.log((1 - p) / p / (C - 1)),
                "the sign is wrong: the fraction is upside down",
            ),
            (
                lambda C, p: (C - 1) / C * math.log10((C - 1) * p / (1 - p)),
                "a logarithm to base 10; take the natural one",
            ),
            (lambda C, p: (C - 1) / C * math.log((C - 1) / (1 - p)), "the numerator's p is missing"),
            (
                lambda C, p: (C - 1) / C * math.log((C - 1) / math.expm1(p)),
                "p is taken for the loss: the loss is −log p",
            ),
            (
                lambda C, p: 1 / (1 + (C - 1) * math.exp(-p * C / (C - 1))),
                "the probability of a temperature; its inverse is asked for",
            ),
        ),
        sizes=lambda C, p: {"C": C},
    ),
    Exercise(
        name="widest-frame", notebook="11", stub="my_width, my_gigabytes = None, None  # your numbers here", judge=_wide
    ),
    Exercise(
        name="mean-age",
        notebook="11",
        stub="def my_age(t):\n    return None  # your code here",
        solution=lambda t: (t - 1) / 3,
        inputs=lambda g: [(t,) for t in (1, 2, 4, 10, 100, 5005)],
        mistakes=(
            (lambda t: t / 3, "nearly: (t − 1)/3; after one step the mean is of age 0"),
            (lambda t: (t + 1) / 3, "nearly: a sample of this step has age 0, not 1"),
            (lambda t: (t + 2) / 3, "1 too large: a sample of this step has age 0, not 1"),
            (lambda t: (2 * t + 1) / 3, "that is the mean step Σ s·weight; its age is t minus that"),
            (lambda t: (t - 1) / 2, "as if all steps had the same weight; step s has 2s/(t(t + 1))"),
            (lambda t: (t + 1) / 2, "the mean step if all had the same weight"),
            (lambda t: 2 / (t + 1), "that is α_t"),
            (lambda t: (1 - t) / 3, "the sign is wrong"),
            (lambda t: float(t - 1), "the age of the first step, which has the least weight"),
            (lambda t: 2 * (t - 1) / 3, "twice the right answer: recent steps weigh more, not less"),
        ),
        sizes=lambda t: {"t": t},
    ),
)
