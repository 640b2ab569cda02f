"""Notebook 12: how large a GPT is, what a paired comparison can show, the floor of a language model, many classes."""

import math
from functools import partial

import torch
import torch.nn.functional as F

from labkit.course.exercises.exercise import DOUBLE, Exercise, randn


def _parameters(layers, width, vocabulary, context, tied=True, positions=True, biases=True, norms=True, last=True):
    d = width
    block = 12 * d * d + (9 * d if biases else 0) + (4 * d if norms else 0)
    return (1 if tied else 2) * vocabulary * d + positions * context * d + layers * block + (2 * d if last else 0)


def _difference(a, b):
    return a.double() - b.double()


def _error(a, b):
    return (_difference(a, b).var(correction=0) / len(a)).sqrt()


def _apart(a, b):
    p, q = a.double().mean(), b.double().mean()
    return ((p * (1 - p) + q * (1 - q)) / len(a)).sqrt()


def _answers(g):
    cases = []
    for n, skill, agree in ((400, 0.5, 0.9), (1000, 0.3, 0.6), (5000, 0.31, 0.85), (2000, 0.7, 0.2)):
        a = torch.rand(n, generator=g) < skill
        own = torch.rand(n, generator=g) < min(0.95, skill + 0.05)
        b = torch.where(torch.rand(n, generator=g) < agree, a, own)
        cases.append((a.double(), b.double()))
    return cases


def _floor(counts):
    joint = counts.double() / counts.sum()
    given = joint / joint.sum(-1, keepdim=True)
    return -torch.special.xlogy(joint, given).sum()


def _entropy(counts):
    return torch.special.entr(counts.double() / counts.sum()).sum()


def _counts(g):
    small = torch.tensor([[6, 2], [0, 4]])
    rest = [torch.randint(0, 40, (C, C), generator=g) ** 2 // 60 + torch.eye(C, dtype=torch.long) for C in (3, 7, 65)]
    return [(counts,) for counts in (small, *rest)]


def _cosines(vectors):
    unit = F.normalize(vectors, dim=-1)
    return (unit @ unit.mT)[*torch.triu_indices(len(vectors), len(vectors), 1)]


def _vectors(g):
    small = torch.tensor([[2.0, 0.0], [-1.0, 2.0], [-1.0, -2.0]], dtype=DOUBLE)  # no positive cosine
    rest = [
        randn(C, d, g=g) * torch.rand(C, 1, generator=g, dtype=DOUBLE).add(0.3) for C, d in ((5, 3), (20, 4), (9, 8))
    ]
    return [(vectors,) for vectors in (small, *rest)]


EXERCISES = (
    Exercise(
        name="gpt-size",
        notebook="12",
        stub="def my_parameters(layers, width, vocabulary, context):\n    return None  # your code: a number",
        solution=_parameters,
        inputs=lambda g: [(1, 4, 10, 6), (2, 64, 256, 128), (5, 128, 65, 64), (12, 768, 50257, 1024)],
        tolerance=1e-9,
        mistakes=(
            (partial(_parameters, tied=False), "the output layer is the embedding itself: count it once"),
            (partial(_parameters, positions=False), "the embeddings of the positions are missing"),
            (partial(_parameters, biases=False), "the biases of the four linear layers of a block are missing: 9d"),
            (partial(_parameters, norms=False), "the two norms of a block are missing: 4d"),
            (partial(_parameters, last=False), "the last norm is missing: 2d"),
            (partial(_parameters, biases=False, norms=False, last=False), "matrices alone: biases and norms count"),
            (lambda *s: _parameters(*s) + 2 * s[0], "that is the GPT with AGLU; with GELU nothing is learnt there"),
            (
                lambda n, d, v, t: _parameters(n, d, v, t) - _parameters(n, d, v, t, positions=False) + n * 12 * d * d,
                "the embedding of the vocabulary is missing",
            ),
        ),
        sizes=lambda n, d, v, t: {"layers": n, "width": d},
    ),
    Exercise(
        name="paired-error",
        notebook="12",
        stub="def my_error(a, b):\n    return None  # your code; a and b, (tasks,): 1.0 where a model was right",
        solution=_error,
        inputs=_answers,
        tolerance=3e-3,
        mistakes=(
            (_apart, "that is for two models that answer different tasks; these answer the same ones"),
            (
                lambda a, b: (a.double().var(correction=0) / len(a)).sqrt(),
                "the error of the first model's accuracy; that of the difference is asked for",
            ),
            (
                lambda a, b: _difference(a, b).std(correction=0),
                "the spread of one task; divide by the root of their number",
            ),
            (lambda a, b: _difference(a, b).var(correction=0) / len(a), "the variance of the mean: take its root"),
            (lambda a, b: 100 * _error(a, b), "in points; asked for is a share"),
            (lambda a, b: 1.96 * _error(a, b), "half the 95 % interval; asked for is one standard error"),
            (lambda a, b: _difference(a, b).mean(), "the difference itself; its standard error is asked for"),
        ),
        sizes=lambda a, b: {"n": len(a)},
    ),
    Exercise(
        name="what-remains",
        notebook="12",
        stub="def my_floor(counts):\n    return None  # your code: nats; counts[i, j]: how often j follows i, (C, C)",
        solution=_floor,
        inputs=_counts,
        tolerance=1e-4,
        mistakes=(
            (_entropy, "the entropy of pairs; given the first character of each pair is asked for"),
            (lambda c: _entropy(c.sum(0)), "the entropy of the next character with nothing known"),
            (lambda c: _entropy(c.sum(1)), "the entropy of the character before"),
            (lambda c: _floor(c) / math.log(2), "in bits: take natural logarithms"),
            (lambda c: _floor(c.mT), "the sum runs the wrong way: rows are the character before"),
            (
                lambda c: torch.special.entr(c.double() / c.sum(1, keepdim=True)).sum(1).mean(),
                "every row counts alike; weigh it by how often its character comes",
            ),
            (
                lambda c: torch.special.entr(c.double() / c.sum(1, keepdim=True)).sum(),
                "the rows are added up; their mean is asked for, weighed by how often each comes",
            ),
            (lambda c: -_floor(c), "the sign: entropies are not negative"),
        ),
        sizes=lambda c: {"C": len(c)},
    ),
    Exercise(
        name="nearest-two",
        notebook="12",
        stub="def my_margin(vectors):\n    return None  # your code: a number; vectors are (C, d), of any length",
        solution=lambda v: 1 - _cosines(v).max(),
        inputs=_vectors,
        mistakes=(
            (lambda v: _cosines(v).max(), "the cosine itself; 1 minus it is asked for"),
            (lambda v: 1 - _cosines(v).min(), "the two that are farthest apart; the nearest are asked for"),
            (lambda v: 1 - _cosines(v).mean(), "the mean over pairs; the nearest two are asked for"),
            (lambda v: 1 - _cosines(v).abs().max(), "opposite vectors are far apart, not near: no absolute value"),
            (
                lambda v: 1 - (v @ v.mT)[*torch.triu_indices(len(v), len(v), 1)].max(),
                "the vectors are not at unit length",
            ),
            (
                lambda v: (1 - F.normalize(v, dim=-1) @ F.normalize(v, dim=-1).mT).min(),
                "a vector and itself are compared: leave the diagonal out",
            ),
            (
                lambda v: 1 - _cosines(v).max().clamp(min=0),
                "the diagonal is set to 0, which wins where all cosines are negative: take −2",
            ),
            (lambda v: 1 - _cosines(v - v.mean(0)).max(), "the vectors are centred first; take them as they are"),
            (lambda v: torch.acos(_cosines(v).max()), "the angle in radians; 1 minus its cosine is asked for"),
        ),
        library=("labkit.metrics.minimal_margin",),
        sizes=lambda v: {"C": v.shape[0], "d": v.shape[1]},
    ),
)
