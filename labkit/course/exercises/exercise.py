"""What an exercise is, and what several of them share: made-up class means and samples, and the formulas of solutions.

The formulas are written out here, and not taken from labkit, so that the two can be held against each other.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

AUTOGRAD = tuple(
    f"torch.{n}"
    for n in (
        "autograd.grad",
        "autograd.backward",
        "autograd.forward_ad.make_dual",
        "autograd.functional.jacobian",
        "func.vjp",
        "func.jvp",
    )
)


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """One exercise, as data.

    name: what `check` calls it. notebook: its number, "01". stub: the student's cell, one function or one assignment.
    solution: the right function, or the right value where no inputs are given.
    inputs: function of a torch.Generator that gives a list of argument tuples, the smallest first; None for a value.
    mistakes: pairs of a wrong function (or value) and what to say to whoever wrote it.
    tolerance: largest difference, relative to the largest number.
    sizes: function of the arguments that gives their sizes by name, for "C times too large".
    view: function of (answer, *arguments) that makes what is compared of an answer which is not itself unique.
    judge: function of (answer, *arguments) that returns what is wrong, or None; asked before the comparison, and in its
        place where solution is None.
    explain: the same, asked of wrong answers that are none of the mistakes.
    library: dotted names of functions that would give the answer away; builtin ones, like torch.linalg.svd, too.
    watch: makes a context manager with a set `used`, which notes other ways that are not allowed.
    forbidden: what to say of both, in place of "this uses the library's own answer".
    """

    name: str
    notebook: str
    stub: str
    solution: object = None
    inputs: Callable | None = None
    mistakes: tuple = ()
    tolerance: float = 1e-5
    sizes: Callable | None = None
    view: Callable | None = None
    judge: Callable | None = None
    explain: Callable | None = None
    library: tuple = ()
    watch: Callable | None = None
    forbidden: str = "this uses the library's own answer ({}): write it yourself"

    @property
    def attempt(self) -> str:
        """What the student's cell gives a value, as an expression: "my_nc1", "(my_width, my_gigabytes)"."""
        found = re.search(r"^(?:def )?(\w+(?:, \w+)*)", self.stub, re.MULTILINE).group(1)
        return f"({found})" if "," in found else found

    @property
    def call(self) -> str:
        """The line that checks it."""
        return f'check({self.attempt}, "{self.name}")'


DOUBLE = torch.float64


def randn(*shape: int, g: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=DOUBLE)


def p(C: int) -> Tensor:
    """P = I − 11ᵀ/C, (C, C)."""
    return torch.eye(C, dtype=DOUBLE) - 1 / C


def polar(matrix: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    return left @ right


def factor_of_b(C: int) -> float:
    return 2 / math.sqrt(C - 1)


def b(
    means: Tensor, prox: Tensor, delta: float, factor: Callable[[int], float] = factor_of_b, centre: bool = True
) -> Tensor:
    """B of the nearest-ETF problem, whose polar factor is its solution."""
    C = means.shape[-1]
    return factor(C) * (means @ p(C).to(means.dtype) if centre else means) + delta * prox


def closed_form(means: Tensor, prox: Tensor, delta: float) -> Tensor:
    return polar(b(means, prox, delta))


def unit(means: Tensor) -> Tensor:
    centred = means - means.mean(-1, keepdim=True)
    return centred / centred.norm()


def problem(C: int, d: int, g: torch.Generator, noise: float = 0.7) -> tuple[Tensor, Tensor]:
    """Class means H̃ (d, C), centred and of unit norm, on their way to an ETF; and an unrelated frame (d, C)."""
    clean = polar(randn(d, C, g=g)) @ p(C)
    return unit(clean + noise * randn(d, C, g=g) / math.sqrt(d)), polar(randn(d, C, g=g))


def samples(
    C: int, d: int, counts: list[int], g: torch.Generator, scale: float = 1.0, spread: float = 0.3
) -> tuple[Tensor, Tensor]:
    """Features (N, d) and labels (N,) of unequal classes, in mixed order, off the origin."""
    labels = torch.repeat_interleave(torch.arange(C), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=g)]
    centres = randn(C, d, g=g) + 2 * randn(1, d, g=g)
    return scale * (centres[labels] + spread * randn(len(labels), d, g=g)), labels
