"""Notebook 07: the activations APA and AGLU."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from labkit.course.exercises.exercise import AUTOGRAD, DOUBLE, Exercise, randn


def eta(z: Tensor, kappa: float, lam: float) -> Tensor:
    """η(z; κ, λ) = (1 + λ e^(−κz))^(−1/λ)."""
    return (1 + lam * torch.exp(-kappa * z)) ** (-1 / lam)


def aglu(z: Tensor, kappa: float, lam: float) -> Tensor:
    return z * eta(z, kappa, lam)


def eta_at_zero(lam: float) -> float:
    return (1 + lam) ** (-1 / lam)


def equation_6(z: Tensor, kappa: float, lam: float) -> Tensor:
    return -z / lam * eta(z, kappa, lam) / (lam + torch.exp(kappa * z))


def _term(z, kappa, lam):
    return eta(z, kappa, lam) * torch.log1p(lam * torch.exp(-kappa * z)) / lam**2


def repaired(z: Tensor, kappa: float, lam: float) -> Tensor:
    return equation_6(z, kappa, lam) + z * _term(z, kappa, lam)


def through_open_shortcut(
    x: Tensor,
    W: list[Tensor],
    V: list[Tensor],
    inner: list[float],
    outer: list[float],
    fold: Callable[[float], float] = abs,
    keep: bool = True,
    both: bool = True,
    same: bool = False,
) -> Tensor:
    for w, v, k, o in zip(W, V, inner, outer):
        branch = aglu(x @ w, fold(k) if same else k, 0.5) if both else x @ w
        x = aglu((x if keep else 0) + branch @ v, fold(o), 0.5)
    return x


def _orders(how):
    def wrong(x, W, V, inner, outer):
        for w, v, k, o in zip(W, V, inner, outer):
            a = aglu(x @ w, k, 0.5)
            match how:
                case "outside":
                    x = x + aglu(a @ v, abs(o), 0.5)
                case "no last":
                    x = x + a @ v
                case "swapped":
                    x = aglu(x + aglu(x @ v, k, 0.5) @ w, abs(o), 0.5)
                case "exchanged":
                    x = aglu(x + aglu(x @ w, abs(k), 0.5) @ v, o, 0.5)
                case "transposed":
                    x = aglu(x + aglu(x @ w.mT, k, 0.5) @ v.mT, abs(o), 0.5)
                case "gates":
                    x = eta(x + eta(x @ w, k, 0.5) @ v, abs(o), 0.5)
                case "lambda":
                    x = aglu(x + aglu(x @ w, k, 1.0) @ v, abs(o), 1.0)
        return x

    return wrong


def _networks(g):
    cases = []
    for n, width, blocks in ((2, 3, 2), (5, 8, 4), (16, 16, 8)):
        matrices = [[randn(width, width, g=g) * math.sqrt(2 / width) for _ in range(blocks)] for _ in range(2)]
        kappas = [(4 * torch.rand(blocks, generator=g, dtype=DOUBLE) - 2).tolist() for _ in range(2)]
        kappas[1][0] = -abs(kappas[1][0])  # so that a sign that was not taken away is seen
        kappas[0][0] = -abs(kappas[0][0])
        cases.append((randn(n, width, g=g), *matrices, *kappas))
    return cases


_ETA = ("labkit.activations.apa", "labkit.activations.aglu")

EXERCISES = (
    Exercise(
        name="eta-at-zero",
        notebook="07",
        stub="def eta_at_zero(lam):\n    return None  # your code",
        solution=eta_at_zero,
        inputs=lambda g: [(lam,) for lam in (0.5, 1.0, 2.0, 0.01, 0.3, 10.0, 1000.0)],
        mistakes=(
            (lambda lam: (1 + lam) ** (1 / lam), "the sign of the exponent is wrong: −1/λ"),
            (lambda lam: (1 + lam) ** -2.0, "the exponent is −1/λ; −2 is right for λ = 0.5 only"),
            (lambda lam: 4 / 9, "the same answer whatever λ: 4/9 is right for λ = 0.5 only"),
            (lambda lam: (1 + lam) ** -lam, "the exponent is −1/λ, not −λ"),
            (lambda lam: 1 / (1 + lam), "the exponent is missing: −1/λ and not −1"),
            (lambda lam: (1 + 1 / lam) ** -lam, "λ and 1/λ are exchanged"),
            (lambda lam: 0.5, "½ is right for λ = 1 only (the sigmoid)"),
            (lambda lam: math.exp(-1), "1/e is only the limit for λ → 0"),
            (lambda lam: lam ** (-1 / lam), "the 1 in 1 + λ is missing"),
            (lambda lam: (1 - lam) ** (-1 / lam) if lam < 1 else math.nan, "1 + λ, not 1 − λ"),
            (lambda lam: math.log1p(lam) / lam, "minus the logarithm of the right answer"),
        ),
        sizes=lambda lam: {"λ": lam},
        library=_ETA,
    ),
    Exercise(
        name="repair-eq6",
        notebook="07",
        stub=(
            "def repaired(z, kappa, lam):\n"
            "    eq_6 = -z / lam * apa(z, kappa, lam) / (lam + torch.exp(kappa * z))\n"
            "    return None  # eq_6 + your term"
        ),
        solution=repaired,
        inputs=lambda g: [
            (torch.tensor([-1.0, 0.5, 2.0], dtype=DOUBLE), 1.0, 0.5),
            *[(2 * randn(20, g=g), k, lam) for k, lam in ((0.7, 0.3), (1.3, 2.0), (-0.5, 0.8), (0.1, 5.0))],
        ],
        tolerance=1e-5,
        mistakes=(
            (equation_6, "Eq. 6 as it stands: the term is missing"),
            (lambda z, k, lam: z * _term(z, k, lam), "the missing term alone: add it to Eq. 6"),
            (
                lambda z, k, lam: equation_6(z, k, lam) - z * _term(z, k, lam),
                "the sign of the term is wrong: n' = +1/λ²",
            ),
            (
                lambda z, k, lam: equation_6(z, k, lam) + z * lam * _term(z, k, lam),
                "1/λ in place of 1/λ²: n = −1/λ has the derivative 1/λ²",
            ),
            (
                lambda z, k, lam: equation_6(z, k, lam) + z * lam**2 * _term(z, k, lam),
                "1/λ² is missing: n = −1/λ has the derivative 1/λ²",
            ),
            (
                lambda z, k, lam: equation_6(z, k, lam) + _term(z, k, lam),
                "the factor z of AGLU is missing: AGLU is z·η",
            ),
            (
                lambda z, k, lam: equation_6(z, k, lam) + z * _term(z, k, lam) / eta(z, k, lam),
                "the factor η is missing: bⁿ ln b · n', and bⁿ is η",
            ),
            (
                lambda z, k, lam: equation_6(z, k, lam) + z * eta(z, k, lam) * (1 + lam * torch.exp(-k * z)) / lam**2,
                "the logarithm is missing: bⁿ ln b · n'",
            ),
            (
                lambda z, k, lam: (
                    equation_6(z, k, lam) + z * eta(z, k, lam) * torch.log1p(lam * torch.exp(k * z)) / lam**2
                ),
                "the sign in b = 1 + λ e^(−κz)",
            ),
            (
                lambda z, k, lam: equation_6(z, k, lam) + z * eta(z, k, lam) * torch.log1p(torch.exp(-k * z)) / lam**2,
                "λ is missing in b = 1 + λ e^(−κz)",
            ),
            (lambda z, k, lam: repaired(z, k, lam) / z, "the derivative of η; AGLU is z·η"),
            (lambda z, k, lam: -repaired(z, k, lam), "the sign is wrong"),
        ),
        library=AUTOGRAD,
        forbidden="this uses {}: complete the formula by hand",
    ),
    Exercise(
        name="open-shortcut",
        notebook="07",
        stub=(
            "def through_open_shortcut(x, W, V, inner, outer):\n"
            "    # x (n, width); W, V: a matrix for each block; inner, outer: a kappa for each, drawn from U(-2, 2)\n"
            "    return None  # your code: x after all blocks AGLU(x + AGLU(x W) V), with lambda = 0.5"
        ),
        solution=through_open_shortcut,
        inputs=_networks,
        mistakes=(
            (
                partial(through_open_shortcut, fold=lambda k: k),
                "the activation after the sum has the κ that was drawn: make it positive",
            ),
            (
                partial(through_open_shortcut, fold=lambda k: -abs(k)),
                "the activation after the sum has κ < 0: make it positive",
            ),
            (
                partial(through_open_shortcut, same=True),
                "the inner κ is made positive too; only the one after the sum has to be",
            ),
            (partial(through_open_shortcut, keep=False), "the shortcut is missing: x + …"),
            (partial(through_open_shortcut, both=False), "the inner activation is missing"),
            (_orders("outside"), "the second activation stands inside the branch; it comes after the sum"),
            (_orders("no last"), "the activation after the sum is missing"),
            (_orders("swapped"), "W and V are exchanged"),
            (_orders("exchanged"), "the wrong one is made positive: the one after the sum has to be"),
            (_orders("transposed"), "the matrices are transposed: x @ W"),
            (_orders("gates"), "that is APA, the gate; AGLU is z times it"),
            (_orders("lambda"), "λ is 0.5"),
            (lambda x, *_: x, "x has not been through any block"),
            (lambda *a: through_open_shortcut(*a).square().mean().sqrt(), "its size; asked for are the features"),
        ),
        sizes=lambda x, W, *_: {"width": x.shape[1], "blocks": len(W)},
    ),
)
