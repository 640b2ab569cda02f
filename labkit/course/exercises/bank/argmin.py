"""The notebook on differentiating through the argmin: the closed form's derivative, torque, the tangent share."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from labkit.course.exercises.exercise import AUTOGRAD, Exercise, b, closed_form, factor_of_b, p, polar, problem, randn


def _sylvester(S, right):
    """The solution X of S X + X S = right, for symmetric S."""
    eigenvalues, V = torch.linalg.eigh((S + S.mT) / 2)
    return V @ ((V.mT @ right @ V) / (eigenvalues[:, None] + eigenvalues)) @ V.mT


def _turn(S, inner, solve, sign=1):
    """Ω, skew-symmetric, with S Ω + Ω S = inner − innerᵀ."""
    right = inner - sign * inner.mT
    return _sylvester(S, right) if solve else right / 2


def _outside(rest, S, outside):
    return rest @ torch.linalg.inv(S) if outside is True else rest if outside else 0 * rest


def frame_moves(
    means: Tensor,
    prox: Tensor,
    delta: float,
    U: Tensor,
    direction: Tensor,
    centre: bool = True,
    factor: Callable[[int], float] = factor_of_b,
    inside: bool = True,
    outside: bool | str = True,
    solve: bool = True,
    sign: int = 1,
) -> Tensor:
    C = means.shape[-1]
    dB = factor(C) * (direction @ p(C) if centre else direction)
    S = U.mT @ b(means, prox, delta)
    moved = U @ _turn(S, U.mT @ dB, solve, sign) if inside else 0 * U
    return moved + _outside(dB - U @ (U.mT @ dB), S, outside)


def gradient(
    means: Tensor,
    prox: Tensor,
    delta: float,
    U: Tensor,
    Y: Tensor,
    centre: bool = True,
    factor: Callable[[int], float] = factor_of_b,
    inside: bool = True,
    outside: bool | str = True,
    solve: bool = True,
    project: bool = True,
) -> Tensor:
    C = means.shape[-1]
    S = U.mT @ b(means, prox, delta)
    turned = U @ _turn(S, U.mT @ Y, solve) if inside else 0 * U
    whole = factor(C) * (turned + _outside(Y - U @ (U.mT @ Y) if project else Y, S, outside))
    return whole @ p(C) if centre else whole


def _cases(g):
    cases = []
    for C, d, delta in ((3, 4, 0.1), (4, 6, 1e-3), (6, 6, 0.3), (5, 20, 0.05)):
        means, prox = problem(C, d, g)
        cases.append((means, prox, delta, closed_form(means, prox, delta), randn(d, C, g=g)))
    return cases


def _sizes(means, *_):
    return {"C": means.shape[-1], "d": means.shape[-2]}


def _known(f, what):
    """The mistakes that the derivative and its transpose share."""
    return (
        (partial(f, centre=False), f"P is missing: {what} has to be centred"),
        (partial(f, factor=lambda C: 1), "the factor 2/√(C − 1) is missing"),
        (partial(f, factor=lambda C: 2), "the factor 1/√(C − 1) is missing"),
        (partial(f, factor=lambda C: 1 / math.sqrt(C - 1)), "the factor 2 is missing"),
        (partial(f, factor=lambda C: 2 / (C - 1)), "1/(C − 1) in place of 1/√(C − 1): the root is missing"),
        (partial(f, factor=lambda C: 2 / math.sqrt(C)), "√C in place of √(C − 1)"),
        (partial(f, outside=False), "the part outside the columns of U is missing, (I − UUᵀ)(…)S⁻¹"),
        (partial(f, inside=False), "the part within the columns of U is missing, U times a skew-symmetric matrix"),
        (partial(f, outside="plain"), "S⁻¹ is missing in the part outside the columns of U"),
        (partial(f, solve=False), "no Sylvester equation is solved: halves of UᵀY − YᵀU are not its solution"),
        (lambda *a: -f(*a), "the sign is wrong"),
    )


_LIBRARY = ("labkit.nearest.nearest_etf", "labkit.nearest.start_frame", "labkit.reference.proposition1_vjp", *AUTOGRAD)
_BY_HAND = "this uses {}: write the derivative by hand, from U, S and the Sylvester equation"


def without_torque(g: Tensor, z: Tensor, sign: int = 1, factor: float = 1.0, solve: bool = True) -> Tensor:
    return g - factor * z @ _turn(z.mT @ z, z.mT @ g, solve, sign)


def _moving(g):
    return [
        (s * randn(n, d, g=g), randn(n, d, g=g) * t)
        for n, d, s, t in ((5, 2, 1.0, 1.0), (12, 4, 0.1, 1.0), (60, 16, 1.0, 3.0))
    ]


def tangent_share(U: Tensor, Y: Tensor) -> Tensor:
    inner = U.mT @ Y
    return (Y - U @ (inner + inner.mT) / 2).norm() / Y.norm()


def _skew(U, Y):
    inner = U.mT @ Y
    return (U @ (inner - inner.mT) / 2).norm()


def _frames_and_gradients(g):
    return [
        (polar(randn(d, C, g=g)), s * randn(d, C, g=g))
        for d, C, s in ((3, 2, 1.0), (4, 4, 1.0), (16, 10, 0.01), (40, 6, 5.0))
    ]


EXERCISES = (
    Exercise(
        name="frame-moves",
        notebook="05",
        stub=(
            "def frame_moves(means, prox, delta, U, direction):\n"
            "    return None  # your code: dU, when the means move along this direction"
        ),
        solution=frame_moves,
        inputs=_cases,
        tolerance=1e-4,
        mistakes=(
            *_known(frame_moves, "the direction"),
            (partial(frame_moves, sign=-1), "UᵀdB − dBᵀU is skew-symmetric; a sum of the two is not"),
            (gradient, "the derivative backwards (of a cotangent); asked for is dU, forwards"),
            (lambda H, prox, t, U, D: 2 / math.sqrt(H.shape[1] - 1) * D @ p(H.shape[1]), "that is dB, not yet dU"),
        ),
        sizes=_sizes,
        library=_LIBRARY,
        forbidden=_BY_HAND,
    ),
    Exercise(
        name="gradient",
        notebook="05",
        stub=(
            "def gradient(means, prox, delta, U, Y):\n"
            "    return None  # your code: the gradient of (Y * U).sum() in the means"
        ),
        solution=gradient,
        inputs=_cases,
        tolerance=1e-4,
        mistakes=(
            *_known(gradient, "the gradient"),
            (partial(gradient, project=False), "I − UUᵀ is missing: what lies in the columns of U counts twice"),
            (frame_moves, "the derivative forwards (of a direction); the gradient ends with P"),
            (lambda H, prox, t, U, Y: Y, "Y itself: how the frame follows the means is missing"),
        ),
        sizes=_sizes,
        library=_LIBRARY,
        forbidden=_BY_HAND,
    ),
    Exercise(
        name="without-torque",
        notebook="05",
        stub="def without_torque(g, z):\n    return None  # your code: g and z are (N, d)",
        solution=without_torque,
        inputs=_moving,
        mistakes=(
            (lambda g, z: g, "nothing has been taken out"),
            (partial(without_torque, factor=2), "twice too much is taken out: the torque now points the other way"),
            (partial(without_torque, factor=-1), "the torque is added, not taken out: the sign of Ω"),
            (partial(without_torque, factor=0.5), "only half of the torque is taken out: solve S Ω + Ω S = zᵀg − gᵀz"),
            (lambda g, z: g - without_torque(g, z), "that is the part with the torque; asked for is what is left"),
            (partial(without_torque, sign=-1), "Ω comes out symmetric: zᵀg − gᵀz, with a minus"),
            (partial(without_torque, solve=False), "no Sylvester equation is solved: S = zᵀz is missing"),
            (
                lambda g, z: g - z @ torch.linalg.pinv(z) @ g,
                "all linear maps are taken out, and not only rotations: Ω is skew-symmetric",
            ),
            (
                lambda g, z: g - z @ (lambda m: (m - m.mT) / 2)(torch.linalg.pinv(z) @ g),
                "the skew part of the best linear map is not the best skew map: solve the Sylvester equation",
            ),
            (lambda g, z: g.mT @ z - z.mT @ g, "that is the torque; asked for is the gradient without it"),
        ),
        sizes=lambda g, z: {"N": len(z), "d": z.shape[1]},
    ),
    Exercise(
        name="tangent-share",
        notebook="05",
        stub="def tangent_share(U, Y):\n    return None  # your code: a number between 0 and 1",
        solution=tangent_share,
        inputs=_frames_and_gradients,
        mistakes=(
            (lambda U, Y: tangent_share(U, Y) ** 2, "the squared share: take the root"),
            (lambda U, Y: tangent_share(U, Y) * Y.norm(), "the length of the tangent part; divide by ‖Y‖"),
            (lambda U, Y: (1 - tangent_share(U, Y) ** 2).sqrt(), "the share of what is *not* tangent"),
            (
                lambda U, Y: _skew(U, Y) / Y.norm(),
                "what lies outside the columns of U is tangent too, and is missing here",
            ),
            (
                lambda U, Y: (Y - U @ (U.mT @ Y)).norm() / Y.norm(),
                "what U times a skew-symmetric matrix adds is missing",
            ),
            (lambda U, Y: (Y - U @ (U.mT @ Y + Y.mT @ U)).norm() / Y.norm(), "the symmetric part is half of UᵀY + YᵀU"),
            (
                lambda U, Y: (Y - U @ (U.mT @ Y - Y.mT @ U) / 2).norm() / Y.norm(),
                "the skew part is taken out; the symmetric one has to go",
            ),
            (lambda U, Y: Y - U @ (U.mT @ Y + Y.mT @ U) / 2, "the tangent part; asked for is its share of the length"),
        ),
        sizes=lambda U, Y: {"C": U.shape[1], "d": U.shape[0]},
        library=("labkit.studies.ufms.ddn.influence",),
    ),
)
