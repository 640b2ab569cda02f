"""Right and wrong answers to the exercises of notebook 12: see bank.py."""

import math

import numpy as np
import torch

from labkit import metrics


def size(layers, width, vocabulary, context):
    attention = width * 3 * width + 3 * width + width * width + width
    mlp = width * 4 * width + 4 * width + 4 * width * width + width
    return (vocabulary + context) * width + layers * (attention + mlp + 2 * 2 * width) + 2 * width


def paired(a, b):
    only_a, only_b, n = int((a > b).sum()), int((a < b).sum()), len(a)
    return math.sqrt((only_a + only_b) / n - ((only_a - only_b) / n) ** 2) / math.sqrt(n)


def floor(counts):
    total, found = float(counts.sum()), 0.0
    for row in counts.tolist():
        found -= sum(n / total * math.log(n / sum(row)) for n in row if n)
    return found


def nearest(v):
    best = max(float(v[i] @ v[j] / v[i].norm() / v[j].norm()) for i in range(len(v)) for j in range(i))
    return 1 - best


def row_entropies(counts):
    p = counts.double() / counts.sum(1, keepdim=True)
    return torch.special.entr(p).sum(1)


RIGHT = {
    "gpt-size": [size, lambda n, d, v, t: d * (v + t + 2) + n * d * (12 * d + 13)],
    "paired-error": [paired, lambda a, b: (a.double() - b.double()).std() / len(a) ** 0.5],
    "what-remains": [
        floor,
        lambda c: float((row_entropies(c) * c.sum(1)).sum() / c.sum()),
        lambda c: np.float64(floor(c)),
    ],
    "nearest-two": [nearest, lambda v: torch.tensor(nearest(v))],
}

WRONG = {
    "gpt-size": [
        (lambda n, d, v, t: size(n, d, v, t) + v * d, "once"),
        (lambda n, d, v, t: size(n, d, v, t) - t * d, "positions"),
        (lambda n, d, v, t: size(n, d, v, t) - 2 * d, "last norm"),
        (lambda n, d, v, t: size(n, d, v, t) - 4 * n * d, "norms of a block"),
        (lambda n, d, v, t: size(n, d, v, t) - 9 * n * d, "biases"),
        (lambda n, d, v, t: 12 * n * d * d + (v + t) * d, "matrices alone"),
        (lambda n, d, v, t: size(n, d, v, t) + 2 * n, "AGLU"),
        (lambda n, d, v, t: 124439808, ""),
        (lambda n, d, v, t: 12 * n * d * d, ""),
    ],
    "paired-error": [
        (lambda a, b: 2 * paired(a, b), "2 times"),
        (lambda a, b: (a.double().mean() * (1 - a.double().mean()) / len(a)).sqrt(), "first model"),
        (lambda a, b: (a.double() - b.double()).std(), "root"),
        (lambda a, b: ((a.double() - b.double()) ** 2).mean().sqrt(), ""),
        (lambda a, b: paired(a, b) ** 2, "variance"),
        (lambda a, b: 1.96 * paired(a, b), "95 %"),
        (lambda a, b: a.double().mean() - b.double().mean(), "itself"),
        (lambda a, b: sum(x.double().var() / len(x) for x in (a, b)).sqrt(), "same ones"),
        (lambda a, b: 0.0046, ""),
    ],
    "what-remains": [
        (lambda c: row_entropies(c).mean(), "how often"),
        (lambda c: floor(c) / math.log(2), "bits"),
        (lambda c: floor(c.mT), "wrong way"),
        (lambda c: torch.special.entr(c.double() / c.sum()).sum(), "pairs"),
        (lambda c: torch.special.entr(c.sum(0).double() / c.sum()).sum(), "nothing known"),
        (lambda c: -floor(c), "sign"),
        (lambda c: math.log(len(c)), ""),
        (lambda c: 0.0, ""),
    ],
    "nearest-two": [
        (metrics.minimal_margin, "library"),
        (lambda v: 1 - nearest(v), "1 minus"),
        (lambda v: 0.0, "itself"),
        (lambda v: nearest(v - v.mean(0)), "centred"),
        (lambda v: math.acos(1 - nearest(v)), "angle"),
        (lambda v: torch.pdist(v).min(), ""),
        (lambda v: min(nearest(v), 1.0), "negative"),
        (lambda v: 1.0, ""),
        (
            lambda v: (
                1 - torch.nn.functional.normalize(v, dim=-1) @ torch.nn.functional.normalize(v, dim=-1).mT
            ).min(),
            "itself",
        ),
    ],
}
