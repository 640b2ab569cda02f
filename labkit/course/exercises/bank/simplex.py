"""Notebook 02: the simplex ETF."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from labkit.course.exercises.exercise import Exercise, p, polar, randn


def temperature_of(
    C: int,
    odds: float,
    scale: Callable[[int], float] = lambda C: (C - 1) / C,
    others: Callable[[int], float] = lambda C: C - 1,
    log: Callable[[float], float] = math.log,
    power: int = 1,
) -> float:
    """τ at which a collapsed classifier gives the right class these odds: e^(τ C/(C − 1)) = (C − 1) odds."""
    return scale(C) * log((others(C) * odds) ** power)


def slips_of(temperature: Callable) -> tuple:
    """The mistakes of all who solve for a temperature."""
    return (
        (partial(temperature, scale=lambda C: 1), "(C − 1)/C is missing: the exponent is −τ C/(C − 1)"),
        (partial(temperature, scale=lambda C: C / (C - 1)), "C/(C − 1) is upside down: multiply by (C − 1)/C"),
        (partial(temperature, others=lambda C: 1), "the factor C − 1 before the exponential is missing"),
        (partial(temperature, others=lambda C: C), "C − 1 classes compete with the right one, not C"),
        (partial(temperature, power=-1), "the sign is wrong: the fraction is upside down"),
        (partial(temperature, log=math.log10), "a logarithm to base 10; take the natural one"),
    )


def temperature_for(b: float, C: int, **slip: Callable | int) -> float:
    return temperature_of(C, 1 / math.expm1(b), **slip)


def small_etf(C: int) -> Tensor:
    _, vectors = torch.linalg.eigh(p(C))
    return math.sqrt(C / (C - 1)) * vectors[:, 1:].mT


def _eigenvectors(C, part):
    return torch.linalg.eigh(p(C))[1][:, part]


def _with_the_mean(answer, C):
    U = torch.as_tensor(answer).double()
    if U.shape == (C - 1, C) and U.sum(-1).norm() > 0.5 * U.norm() / math.sqrt(C):
        return "the eigenvector of eigenvalue 0, (1, …, 1), is among them: eigenvalues ascend, so drop the first"
    return None


def _is_small(answer, C):
    shape = np.shape(answer)
    if shape == (C, C - 1):
        return "transposed: the vectors are columns, and the shape is (C − 1, C)"
    if shape == (C, C):
        return "shape (C, C): that is one dimension too many; all C vectors fit into C − 1 dimensions"
    if len(shape) == 2 and shape != (C - 1, C):
        return f"shape {shape}: C = {C} vectors in C − 1 dimensions, as columns, have the shape {(C - 1, C)}"
    return None


EXERCISES = (
    Exercise(
        name="temperature",
        notebook="02",
        stub="def temperature_for(b, C):\n    return None  # your code",
        solution=temperature_for,
        inputs=lambda g: [(b, C) for b, C in ((0.5, 2), (0.01, 10), (0.5, 3), (0.03, 100), (2.0, 1000), (1e-3, 1000))],
        mistakes=(
            *slips_of(temperature_for),
            (
                lambda b, C: (C - 1) / C * math.log((C - 1) / b),
                "log in the bound was dropped: solve with e^b − 1, not with b",
            ),
            (lambda b, C: (C - 1) / C * math.log((C - 1) / math.exp(b)), "the 1 in log(1 + …) is missing: e^b − 1"),
            (lambda b, C: (C - 1) / C * (C - 1) / math.expm1(b), "the logarithm is missing"),
            (
                lambda b, C: math.log1p((C - 1) * math.exp(-b * C / (C - 1))),
                "the bound of a temperature b; its inverse is asked for",
            ),
        ),
        sizes=lambda b, C: {"C": C},
    ),
    Exercise(
        name="small-etf",
        notebook="02",
        stub="def small_etf(C):\n    return None  # your code: shape (C − 1, C)",
        solution=small_etf,
        inputs=lambda g: [(3,), (2,), (5,), (7,), (20,)],
        view=lambda U, C: torch.as_tensor(U).double().mT @ torch.as_tensor(U).double(),
        judge=_is_small,
        explain=_with_the_mean,
        mistakes=(
            (
                lambda C: _eigenvectors(C, slice(1, None)).mT,
                "the vectors are too short: the factor √(C/(C − 1)) is missing",
            ),
            (
                lambda C: C / (C - 1) * _eigenvectors(C, slice(1, None)).mT,
                "the vectors are too long: √(C/(C − 1)), and the root is missing",
            ),
            (
                lambda C: math.sqrt((C - 1) / C) * _eigenvectors(C, slice(1, None)).mT,
                "√(C/(C − 1)) is upside down: the vectors are too short",
            ),
            (
                lambda C: math.sqrt(C / (C - 1)) * _eigenvectors(C, slice(None, -1)).mT,
                "the eigenvector of eigenvalue 0 is among them: eigenvalues ascend, so drop the first",
            ),
            (
                lambda C: _eigenvectors(C, slice(None, -1)).mT,
                "the eigenvector of eigenvalue 0 is among them, and √(C/(C − 1)) is missing",
            ),
            (lambda C: torch.eye(C - 1, C), "unit vectors along the axes, one of them zero: not at equal angles"),
            (
                lambda C: (math.sqrt(C / (C - 1)) * p(C))[:-1],
                "rows of P were cut off: what is left has neither equal lengths nor equal angles",
            ),
        ),
        sizes=lambda C: {"C": C},
        library=("labkit.etf.simplex_etf", "labkit.etf.simplex_basis", "labkit.etf.ring"),
    ),
    Exercise(
        name="polar-frame",
        notebook="02",
        stub="def polar_frame(A):\n    return None  # your code: A (d, C) is the Gaussian matrix",
        solution=polar,
        inputs=lambda g: [
            (s * randn(d, C, g=g),) for d, C, s in ((3, 2, 1.0), (4, 4, 1.0), (9, 3, 10.0), (20, 10, 0.1))
        ],
        mistakes=(
            (
                lambda A: (lambda l, _, r: l @ r.mT)(*torch.linalg.svd(A, full_matrices=False)),
                "torch.linalg.svd returns R transposed already: left @ right, without .mT",
            ),
            (lambda A: torch.linalg.svd(A, full_matrices=False)[0], "the left singular vectors alone: multiply by Rᵀ"),
            (lambda A: torch.linalg.qr(A)[0], "that is QR, whose signs are not fair; the polar factor is asked for"),
            (
                lambda A: torch.linalg.qr(A)[0] * torch.linalg.qr(A)[1].diagonal().sign(),
                "that is QR with its signs mended; asked for is the polar factor",
            ),
            (lambda A: A, "A itself is returned: its stretching has to go"),
            (lambda A: A / A.norm(), "A is only made shorter: its stretching has to go"),
            (lambda A: A / A.norm(dim=0), "columns of unit length, but not perpendicular"),
            (lambda A: A @ torch.linalg.inv(A.mT @ A), "(AᵀA)⁻¹ in place of (AᵀA)^(−1/2): the root is missing"),
            (
                lambda A: (lambda l, s, r: (l * s * s) @ r)(*torch.linalg.svd(A, full_matrices=False)),
                "A (AᵀA)^(1/2): the root has the wrong sign in its exponent",
            ),
            (lambda A: A @ torch.linalg.inv(A.mT @ A).sqrt(), "a root of each entry is not the root of a matrix"),
            (lambda A: polar(A).mT, "transposed: columns are to be orthonormal, shape (d, C)"),
            (lambda A: polar(A)[:, :1], "one column only"),
        ),
        sizes=lambda A: {"d": A.shape[0], "C": A.shape[1]},
        library=(
            "labkit.nearest.nearest_etf",
            "labkit.nearest.start_frame",
            "labkit.etf.haar_frame",
            "scipy.linalg.polar",
        ),
    ),
)
