"""Right and wrong answers to the exercises of notebook 10: see bank.py."""

import math

import numpy as np
import torch

from labkit import calibration
from labkit.vision import longtail


def sizes(largest, C, ratio):
    exact = largest * np.exp(-np.log(ratio) * np.arange(C) / (C - 1))
    return np.floor(exact + 1e-9).astype(int).tolist()


def ece(confidence, right, bins):
    c, r = confidence.numpy(), right.numpy().astype(float)
    place = np.digitize(c, np.linspace(0, 1, bins + 1)[1:-1])
    total = 0.0
    for b in range(bins):
        if (place == b).any():
            total += (place == b).sum() * abs(r[place == b].mean() - c[place == b].mean())
    return total / len(c)


RIGHT = {
    "tail-sizes": [
        sizes,
        lambda n, C, r: np.array(sizes(n, C, r)),
        lambda n, C, r: torch.tensor(sizes(n, C, r)),
        lambda n, C, r: [int(n * math.exp(-c / (C - 1) * math.log(r))) for c in range(C)],
        lambda n, C, r: [int(n * ((1 / r) ** (1 / (C - 1))) ** c) for c in range(C)],
        lambda n, C, r: (n * torch.exp(-torch.arange(C) / (C - 1) * math.log(r))).int(),
    ],
    "hidden-tail": [(12134 / 12406, 0.7), (0.978, 0.7), [0.9781, 7 / 10], np.array([0.97807, 0.7])],
    "prior-out": [
        lambda z, n: z - n.log(),  # the constant ln N does not matter
        lambda z, n: z + (n.sum() / n).log(),
        lambda z, n: (z.softmax(-1) / n * n.sum()).log(),
        lambda z, n: z.numpy() - np.log(n.numpy() / n.numpy().sum()),
    ],
    "calibration-error": [ece, lambda c, r, b: torch.tensor(ece(c, r, b)), lambda c, r, b: np.float64(ece(c, r, b))],
}

WRONG = {
    "tail-sizes": [
        (lambda n, C, r: [int(n * r ** (-c / C)) for c in range(C)], "C − 1"),
        (lambda n, C, r: [round(n * r ** (-c / (C - 1))) for c in range(C)], "cuts off"),
        (lambda n, C, r: sorted(sizes(n, C, r)), "order"),
        (lambda n, C, r: [int(n / r**c) for c in range(C)], "neighbours"),
        (lambda n, C, r: [int(x) for x in np.linspace(n, n / r, C)], "straight"),
        (lambda n, C, r: [110, 17, 2], ""),
        (lambda n, C, r: longtail.exponential(n, C, r), "library"),
        (lambda n, C, r: sum(sizes(n, C, r)), ""),
    ],
    "hidden-tail": [
        ((0.7, 0.978), "interchanged"),
        ((0.9, 0.7), ""),
        ((0.978, 0.978), "tenth"),
        ((0.0219, 0.7), "lost"),
        ((98, 70), ""),
        (0.978, ""),
        ((0.978, 0.3), "seven"),
    ],
    "prior-out": [
        (lambda z, n: z, "as they were"),
        (lambda z, n: z + n.log(), "twice"),
        (lambda z, n: z - n / n.sum(), "logarithm"),
        (lambda z, n: (z - n.log()).softmax(-1), "probabilities"),
        (lambda z, n: z + torch.log((n.sum() - n) / n), "code"),
        (lambda z, n: calibration.correct_prior(z, n), "library"),
        (lambda z, n: z - n.log2(), "base 2"),
        (lambda z, n: z - n.log().mean(), "as they were"),
        (lambda z, n: z * n.log(), ""),
    ],
    "calibration-error": [
        (lambda c, r, b: abs(c.mean() - r.float().mean()), "one bin"),
        (lambda c, r, b: (c - r.float()).abs().mean(), "outcome"),
        (lambda c, r, b: (c - r.float()).square().mean(), "Brier"),
        (lambda c, r, b: 100 * ece(c, r, b), "per cent"),
        (lambda c, r, b: ece(c, r, b) * len(c), "number of samples"),
        (lambda c, r, b: ece(c, r, b + 1), ""),
        (lambda c, r, b: 0.1, ""),
        (lambda c, r, b: 1 - ece(c, r, b), ""),
    ],
}
