"""Notebook 03: the nearest simplex ETF."""

import math
import sys
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from labkit.course.exercises.exercise import Exercise, b, closed_form, p, polar, problem, randn
from labkit.course.exercises.reasons import numbers


def _problems(g):
    """Means off centre too, so that P is missed; sizes, δ and scales vary."""
    cases = []
    for C, d, delta in ((3, 4, 0.1), (4, 8, 0.01), (6, 6, 0.5), (10, 32, 0.05)):
        means, prox = problem(C, d, g)
        cases.append((means + 0.3 * randn(d, 1, g=g), prox, delta))
    return cases


def _problem_sizes(means, *_):
    return {"C": means.shape[-1], "d": means.shape[-2]}


def _converged(answer, means, prox, delta):
    """What is wrong with an iteration that has the right directions and has not arrived."""
    x = numbers(answer)[0]
    if x.shape != means.shape or not bool(x.isfinite().all()):
        return None
    s = torch.linalg.svdvals(x)
    if (s - 1).abs().max() > 1e-5 and (polar(x) - closed_form(means, prox, delta)).norm() < 1e-3:
        return f"not converged: the singular values still lie between {s.min():.3g} and {s.max():.3g}; take more steps"
    return None


def newton_schulz(means: Tensor, prox: Tensor, delta: float) -> Tensor:
    X = b(means, prox, delta)
    X = X / X.norm()
    for _ in range(60):
        X = X @ (3 * torch.eye(X.shape[-1], dtype=X.dtype) - X.mT @ X) / 2
    return X


def _inner(means, total=Tensor.sum, length=lambda C: math.sqrt(C - 1)):
    """Of the class means and the nearest ETF of unit norm: the sum of the singular values over √(C − 1)."""
    return total(torch.linalg.svdvals(means)).item() / length(means.shape[-1])


def _apart(inner, whole=2, factor=2):
    return math.sqrt(abs(whole - factor * inner))


def distance_to_collapse(means: Tensor) -> float:
    return math.sqrt(max(0.0, 2 - 2 * _inner(means)))


_VECTORS = "U* from singular vectors"


def _plain(x):
    return x.view(np.ndarray) if isinstance(x, np.ndarray) else x


class VectorsUsed(TorchFunctionMode):
    """Notes whether singular vectors, torch's, NumPy's or SciPy's, are multiplied with anything: then U* is being
    computed.
    """

    def __init__(self):
        super().__init__()
        self.used, self._vectors, self._kept = set(), set(), []

    def __enter__(self):
        self._before = [(m, m.svd) for m in (np.linalg, sys.modules.get("scipy.linalg")) if m is not None]
        for module, svd in self._before:
            module.svd = self._marking(svd)
        return super().__enter__()

    def __exit__(self, *error):
        for module, svd in self._before:
            module.svd = svd
        return super().__exit__(*error)

    def _marking(self, svd):
        """The same function, whose vectors say so when they are multiplied."""

        class Vectors(np.ndarray):
            def __array_ufunc__(vectors, ufunc, method, *inputs, **more):
                if ufunc in (np.matmul, np.multiply):
                    self.used.add(_VECTORS)
                return getattr(ufunc, method)(*(_plain(x) for x in inputs), **more)

            def __array_function__(vectors, function, types, args, kwargs):
                if function in (np.dot, np.einsum, np.tensordot, np.linalg.multi_dot):
                    self.used.add(_VECTORS)
                return super().__array_function__(function, types, args, kwargs)

            def dot(vectors, *args, **kwargs):
                self.used.add(_VECTORS)
                return np.asarray(vectors).dot(*args, **kwargs)

        def marked(*args, **kwargs):
            found = svd(*args, **kwargs)
            if not isinstance(found, tuple):  # the singular values alone
                return found
            left, values, right = (_plain(x) if k == 1 else x for k, x in enumerate(found))
            for x in (left, right):
                self._vectors.add(x.untyped_storage().data_ptr() if torch.is_tensor(x) else x.ctypes.data)
            self._kept.append(found)
            left, right = (x if torch.is_tensor(x) else x.view(Vectors) for x in (left, right))
            return found._replace(U=left, Vh=right) if hasattr(found, "_replace") else (left, values, right)

        return marked

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if "matmul" in name or name in ("mm", "bmm", "einsum", "__matmul__", "__rmatmul__", "mul", "__mul__"):
            flat = [a for x in args for a in (x if isinstance(x, (list, tuple)) else [x]) if torch.is_tensor(a)]
            if any(a.untyped_storage().data_ptr() in self._vectors for a in flat):
                self.used.add(_VECTORS)
        result = function(*args, **(kwargs or {}))
        if name in ("linalg_svd", "svd"):
            self._kept.append(result)  # so that no other tensor takes the same place in memory
            self._vectors |= {result[k].untyped_storage().data_ptr() for k in (0, 2)}
        return result


def _etf_of(U):
    return U @ p(U.shape[-1]) / math.sqrt(U.shape[-1] - 1)


def _even(means, prox, nearer, steps=45):
    """The δ at which the solution is no longer nearer to one end, by bisection of its logarithm."""
    low, high = 1e-6, 1e3
    for _ in range(steps):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if nearer(closed_form(means, prox, middle)) else (low, middle)
    return middle


def _is_nearer(E, near, far):
    return bool((E - near).norm() < (E - far).norm())


def even_delta(means: Tensor, prox: Tensor, steps: int = 45, turned: bool = False) -> float:
    near, far = _etf_of(polar(means @ p(means.shape[-1]))), _etf_of(prox)
    return _even(means, prox, lambda U: _is_nearer(_etf_of(U), near, far) != turned, steps)


def _even_from_means(means, prox):
    return _even(means, prox, lambda U: _is_nearer(_etf_of(U), means, _etf_of(prox)))


def _even_frames(means, prox):
    return _even(means, prox, lambda U: _is_nearer(U, polar(means), prox))


def _unit_problems(g):
    """Full rank (C = 10 has two dimensions more than it needs), and one class unseen."""
    cases = [(problem(C, d, g, noise)[0],) for C, d, noise in ((3, 4, 0.7), (4, 8, 1.0), (10, 64, 0.5), (10, 12, 2.0))]
    unseen = problem(6, 20, g)[0]
    unseen[:, 1:] -= unseen[:, 1:].mean(-1, keepdim=True)
    unseen[:, 0] = 0
    return [*cases, (unseen / unseen.norm(),)]


_DECOMPOSITIONS = tuple(
    f"torch.linalg.{n}"
    for n in ("svd", "eigh", "eig", "qr", "inv", "inv_ex", "pinv", "solve", "lstsq", "cholesky", "matrix_power")
)
_NEAREST = ("labkit.nearest.nearest_etf", "labkit.nearest.start_frame")
_OF_B = (  # the mistakes that any way from B to its polar factor can begin with
    (lambda *a: polar(b(*a, centre=False)), "P is missing: subtract the mean of the columns"),
    (lambda H, U, t: polar(b(H, U, 2 * t)), "the factor 2 before H̃P is missing"),
    (lambda *a: polar(b(*a, factor=lambda C: 1)), "the factor 2/√(C − 1) before H̃P is missing"),
    (lambda *a: polar(b(*a, factor=lambda C: 2)), "the factor 1/√(C − 1) before H̃P is missing"),
    (lambda H, U, t: polar(b(H, U, 1.0)), "U_prox is not multiplied by δ"),
)


EXERCISES = (
    Exercise(
        name="closed-form",
        notebook="03",
        stub="def closed_form(means, prox, delta):\n    return None  # your code: U of shape (d, C)",
        solution=closed_form,
        inputs=_problems,
        explain=_converged,
        mistakes=(
            *_OF_B,
            (b, "B itself: its polar factor is asked for"),
            (lambda H, U, t: polar(b(H, U, t / 2)), "δ counts half: B = 2/√(C − 1) H̃P + δ U_prox"),
            (lambda H, U, t: polar(b(H, U, t * (H.shape[1] - 1))), "1/(C − 1) twice: the root is missing"),
            (
                lambda *a: polar(b(*a, factor=lambda C: 2 / (C - 1))),
                "1/(C − 1) in place of 1/√(C − 1): the root is missing",
            ),
            (lambda *a: polar(b(*a, factor=lambda C: 2 / math.sqrt(C))), "√C in place of √(C − 1)"),
            (lambda H, U, t: polar(b(H, U, 0.0)), "the proximal term δ U_prox is missing"),
            (lambda H, U, t: polar(b(H, U, -t)), "the sign before δ U_prox is wrong"),
            (
                lambda *a: (lambda l, _, r: l @ r.mT)(*torch.linalg.svd(b(*a), full_matrices=False)),
                "torch.linalg.svd returns R transposed already: left @ right, without .mT",
            ),
            (lambda *a: torch.linalg.qr(b(*a))[0], "that is QR; the polar factor is asked for"),
            (lambda *a: _etf_of(polar(b(*a))), "the ETF U M̃; its frame U is asked for"),
            (lambda H, U, t: polar(H), "U of the means alone: neither P nor δ U_prox is there"),
            (
                lambda H, U, t: polar(b(H - H.mean(0), U, t, centre=False)),
                "the mean is taken over the wrong dimension: classes are columns, so mean(-1, keepdim=True)",
            ),
        ),
        sizes=_problem_sizes,
        library=(*_NEAREST, "labkit.reference.trust_region"),
    ),
    Exercise(
        name="distance",
        notebook="03",
        stub="def distance_to_collapse(means):\n    return None  # your code",
        solution=distance_to_collapse,
        inputs=_unit_problems,
        watch=VectorsUsed,
        mistakes=(
            (lambda H: distance_to_collapse(H) ** 2, "that is the squared distance: take the root"),
            (lambda H: 2 - 2 * torch.linalg.svdvals(H).sum(), "the squared distance, and 1/√(C − 1) is missing"),
            (lambda H: _apart(_inner(H), factor=1), "the factor 2 before the inner product is missing"),
            (
                lambda H: _apart(_inner(H), whole=1, factor=1),
                "both terms have length 1, so it is 2 − 2 ⟨·,·⟩: a factor √2 is missing",
            ),
            (lambda H: _apart(_inner(H, length=math.sqrt)), "√C in place of √(C − 1)"),
            (
                lambda H: _apart(_inner(H, length=lambda C: C - 1)),
                "1/(C − 1) in place of 1/√(C − 1): the root is missing",
            ),
            (lambda H: _apart(_inner(H, torch.max)), "only the largest singular value; all of them add up"),
            (
                lambda H: _apart(_inner(H, lambda s: s.square().sum())),
                "singular values squared: their sum is always 1 here",
            ),
            (lambda H: torch.linalg.svdvals(H).sum(), "that is the nuclear norm, not yet the distance"),
            (_inner, "that is the inner product, not yet the distance"),
            (lambda H: _apart(_inner(H), factor=-2), "the sign before the inner product is wrong"),
        ),
        sizes=_problem_sizes,
        library=(*_NEAREST, "labkit.reference.trust_region", "scipy.linalg.polar"),
        forbidden="this computes U* ({}): singular values alone are enough",
    ),
    Exercise(
        name="newton-schulz",
        notebook="03",
        stub="def newton_schulz(means, prox, delta=0.01):\n    return None  # your code",
        solution=newton_schulz,
        inputs=_problems,
        explain=_converged,
        mistakes=(
            *_OF_B,
            (lambda *a: b(*a) / b(*a).norm(), "B/‖B‖ is only the start: iterate"),
            (lambda H, U, t: newton_schulz(H, U, 0.0), "the proximal term δ U_prox is missing"),
            (lambda H, U, t: polar(b(H, U, 0.01)), "δ = 0.01 is written into the code: take the argument"),
            (
                lambda H, U, t: torch.zeros_like(H),
                "the iteration ends at zero: is it X(3I − XᵀX)/2, with the half once?",
            ),
        ),
        sizes=_problem_sizes,
        library=(
            *_NEAREST,
            *_DECOMPOSITIONS,
            "torch.svd",
            "torch.qr",
            "torch.inverse",
            "torch.pinverse",
            *(f"numpy.linalg.{n}" for n in ("svd", "eigh", "eig", "qr", "inv", "pinv", "solve", "cholesky")),
            *(f"scipy.linalg.{n}" for n in ("polar", "svd", "eigh", "qr", "inv", "pinv", "solve", "sqrtm")),
        ),
        forbidden="this uses {}: matrix products and one norm are all that is allowed",
    ),
    Exercise(
        name="even-delta",
        notebook="03",
        stub="def even_delta(means, prox):\n    return None  # your code",
        solution=even_delta,
        inputs=lambda g: [problem(C, d, g, n) for C, d, n in ((3, 4, 0.5), (4, 16, 0.7), (10, 32, 0.5), (12, 20, 0.5))],
        tolerance=1e-3,
        mistakes=(
            (lambda H, U: 2 / (H.shape[1] - 1), "2/(C − 1) is the estimate, not the answer: bisect"),
            (partial(even_delta, turned=True), "it runs to the end of the interval: the comparison is turned round"),
            (lambda H, U: 1e3, "it runs to the end of the interval: the comparison is turned round"),
            (lambda H, U: 1e-6, "it runs to the end of the interval: the comparison is turned round"),
            (partial(even_delta, steps=10), "too few halvings: the interval is still wide"),
            (_even_from_means, "the distance to the class means is compared; take the nearest ETF"),
            (_even_frames, "the frames U are compared; compare the ETFs U M̃ (turned)"),
            (lambda H, U: math.log(even_delta(H, U)), "the logarithm of δ"),
            (lambda H, U: _etf_of(closed_form(H, U, even_delta(H, U))), "the ETF at that δ; the number δ is asked for"),
            (lambda H, U: 1 / (H.shape[1] - 1), "1/(C − 1) is no answer; bisect"),
        ),
        sizes=_problem_sizes,
    ),
)
