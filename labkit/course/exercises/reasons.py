"""Comparing answers as numbers, and finding out what is wrong with a wrong one.

An answer may be a tensor of any dtype, a NumPy array, a pandas object, a list or a number: `numbers` makes a float64
tensor of each. `reason` compares the answers to several inputs with the right ones, and names the slip that explains
all of them: a factor, a transposed matrix, a square in place of its root.
"""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import torch

# Answers in float32 carry its rounding through a decomposition or two; in half precision hardly three digits are left.
LOOSE = {torch.float32: 1e-3, torch.complex64: 1e-3, torch.float16: 3e-2, torch.bfloat16: 3e-2}


def numbers(answer: object) -> tuple[torch.Tensor, torch.dtype]:
    """An answer as a float64 tensor (…,), whatever it came as, and the dtype it came in.

    Raises TypeError for what is not numbers.

    >>> numbers([np.float32(0.5), 2])[0]
    tensor([0.5000, 2.0000], dtype=torch.float64)
    """
    if isinstance(answer, (str, bytes)) or answer is None or (callable(answer) and not torch.is_tensor(answer)):
        raise TypeError(f"{kind(answer)} in place of numbers")
    if isinstance(answer, (pd.Series, pd.DataFrame)):
        answer = answer.to_numpy()
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, (list, tuple)) and any(torch.is_tensor(a) or isinstance(a, np.ndarray) for a in answer):
        parts = [numbers(a) for a in answer]
        if len({p.shape for p, _ in parts}) > 1:
            raise TypeError(f"{kind(answer)} of parts with different shapes")
        return torch.stack([p for p, _ in parts]), parts[0][1]
    if isinstance(answer, (Fraction, Decimal)):
        answer = float(answer)
    try:
        tensor = answer.detach().to_dense() if torch.is_tensor(answer) else torch.as_tensor(np.array(answer))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{kind(answer)} in place of numbers") from None
    if tensor.is_complex():
        if tensor.imag.abs().max() > 1e-6 * tensor.abs().max():
            raise TypeError("complex numbers in place of real ones")
        return tensor.real.cpu().double(), tensor.dtype
    return tensor.cpu().double(), tensor.dtype


def kind(answer: object) -> str:
    """What an answer is, with its article: "a str", "an int".

    >>> kind([1])
    'a list'
    """
    name = type(answer).__name__
    return "nothing" if answer is None else f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def agree(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    """Whether two tensors hold the same numbers: same shape but for dimensions of one, largest difference at most
    `tolerance` times the largest number.

    >>> agree(torch.tensor([1.0]), torch.tensor(1.0 + 1e-9), 1e-6)
    True
    """
    actual, expected = actual.squeeze(), expected.squeeze()
    if actual.shape != expected.shape:
        return False
    if not actual.numel():
        return True
    infinite = ~expected.isfinite()
    if not torch.equal(actual[infinite].nan_to_num(), expected[infinite].nan_to_num()):
        return False
    actual, expected = actual[~infinite], expected[~infinite]
    if not bool(actual.isfinite().all()):
        return False
    if not actual.numel():
        return True
    return bool((actual - expected).abs().max() <= tolerance * expected.abs().max() + 1e-12)


def all_agree(actual: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float) -> bool:
    return all(agree(a, e, tolerance) for a, e in zip(actual, expected, strict=True))


def reason(
    actual: list[torch.Tensor],
    expected: list[torch.Tensor],
    sizes: list[dict],
    tolerance: float,
    name: str = "the answer",
) -> str | None:
    """Why answers are wrong, or None where nothing explains all of them.

    actual, expected: lists of tensors, one for each input. sizes: for each input a dict of what its sizes are called,
    {"C": 10, "N": 200}. name: what an answer is called.

    >>> wrong, right = [torch.tensor(6.0), torch.tensor(20.0)], [torch.tensor(2.0), torch.tensor(4.0)]
    >>> reason(wrong, right, [{"C": 3}, {"C": 5}], 1e-6)
    'C times too large: did you divide by C?'
    """
    steps = (_finite, _shape, _nearly, _factor, _slips, _constant, _order, _lengths, _partly)
    for step in steps:
        if found := step(actual, expected, sizes, max(tolerance, 1e-6), name):
            return found
    return None


def _finite(actual, expected, sizes, tolerance, name):
    for a, e in zip(actual, expected):
        if not bool(a.isfinite().all()) and bool(e.isfinite().all()):
            what = "NaN" if bool(a.isnan().any()) else "infinite"
            return f"{name} is not finite but {what}: is something divided by zero, or does an iteration run away?"
    return None


def _shape(actual, expected, sizes, tolerance, name):
    if all(a.ndim >= 2 and a.mT.shape == e.shape for a, e in zip(actual, expected)):
        if all_agree([a.mT for a in actual], expected, tolerance):
            return "transposed: your rows are the columns"
    for a, e in zip(actual, expected):
        if a.squeeze().shape != e.squeeze().shape:
            text = f"shape {tuple(a.shape)} where {tuple(e.shape)} is expected"
            if a.numel() == e.numel() and agree(a.reshape(-1), e.reshape(-1), tolerance):
                return f"{text}: the right numbers, in another shape"
            if a.ndim >= 2 and a.mT.shape == e.shape:
                found = reason([a.mT for a in actual], expected, sizes, tolerance) if _same_ndim(actual) else None
                return f"{text}: transposed" + (f", and {found}" if found else "")
            if e.ndim == 0 or e.numel() == 1:
                return f"{text}: one number is asked for, not {a.numel()}"
            return text
    return None


def _same_ndim(actual):
    return all(a.ndim >= 2 for a in actual)


def _ratios(actual, expected, tolerance):
    """{number of an input: actual/expected}, where that is one number throughout each; None otherwise. Inputs for which
    zero is right tell nothing.
    """
    ratios = {}
    for k, (a, e) in enumerate(zip(actual, expected)):
        a, e = a.squeeze(), e.squeeze()
        if not e.numel() or e.abs().max() == 0:
            if a.numel() and a.abs().max() > 0:
                return None
            continue
        ratio = ((a * e).sum() / (e * e).sum()).item()
        if ratio == 0 or not agree(a, ratio * e, tolerance):
            return None
        ratios[k] = ratio
    return ratios or None


def _candidates(size):
    """Factors that people forget, by name: each size s, s − 1, their roots, and the ratios of neighbours and pairs."""
    factors = {}
    for s, n in size.items():
        factors |= {s: n, f"{s} − 1": n - 1, f"√{s}": math.sqrt(n), f"{s}²": n * n}
        if n > 1:
            factors |= {f"√({s} − 1)": math.sqrt(n - 1), f"{s}/({s} − 1)": n / (n - 1)}
            factors |= {f"√({s}/({s} − 1))": math.sqrt(n / (n - 1)), f"{s} + 1": n + 1}
    for s, n in size.items():
        for t, m in size.items():
            if s != t:
                factors |= {f"{s}/{t}": n / m, f"{s}·{t}": n * m}
    return factors


def _nearly(actual, expected, sizes, tolerance, name):
    """Right but for the last digits, which no slip of a formula explains."""
    if not all_agree(actual, expected, 1e-4):
        return None
    pairs = [(a.squeeze(), e.squeeze()) for a, e in zip(actual, expected) if e.any()]
    off = max(((a - e).abs().max() / e.abs().max()).item() for a, e in pairs) if pairs else 0.0
    return f"nearly: the last digits differ, by up to {off:.0e} of the answer; was something rounded on the way?"


def _factor(actual, expected, sizes, tolerance, name):
    ratios = _ratios(actual, expected, max(tolerance, 1e-5))
    if ratios is None:
        return None
    sizes = [sizes[k] for k in ratios] if sizes else []
    ratios = list(ratios.values())
    close = lambda wanted: all(math.isclose(r, w, rel_tol=1e-4) for r, w in zip(ratios, wanted))
    if close([-1.0] * len(ratios)):
        return "the sign is wrong"
    for base in (2, 10):
        if close([1 / math.log(base)] * len(ratios)):
            return f"a logarithm to base {base} in place of the natural one"
    for sign in (1, -1):
        also = "" if sign == 1 else ", and the sign is wrong"
        # plain numbers first, where several inputs rule out that a size only happens to be that number
        for number in (2, 4, math.sqrt(2), 3, math.pi, 100, 1000):
            text = {math.sqrt(2): "√2", math.pi: "π"}.get(number, f"{number}")
            if close([sign * number] * len(ratios)):
                return f"{text} times too large: is there a factor {text} too many?{also}"
            if close([sign / number] * len(ratios)):
                return f"{text} times too small: is a factor {text} missing?{also}"
        if sizes and all(sizes):
            table = [_candidates(size) for size in sizes]
            for label in table[0]:
                factors = [factors[label] for factors in table if label in factors]
                if len(factors) != len(ratios) or all(abs(f - 1) < 1e-9 for f in factors):
                    continue
                if close([sign * f for f in factors]):
                    return f"{label} times too large: did you divide by {label}?{also}"
                if all(factors) and close([sign / f for f in factors]):
                    return f"{label} times too small: is a factor {label} missing, or divided by twice?{also}"
    if len(ratios) > 1 and max(ratios) - min(ratios) <= 1e-4 * abs(ratios[0]):
        return f"always {ratios[0]:.4g} times the right answer: a constant factor is wrong"
    if len(ratios) > 1 and actual[0].numel() > 1 and min(ratios) > 0:
        return "right up to a factor that depends on the input: the scale is wrong"
    return None


def _slips(actual, expected, sizes, tolerance, name):
    """A function taken too often or not at all."""
    positive, tables = all(bool((e >= 0).all()) for e in expected), all(e.ndim > 1 for e in expected)
    slips = [
        (lambda e: e * e, "the square of the right answer: is a root missing?", True),
        (lambda e: e.clamp(min=0).sqrt(), "the root of the right answer: one root too many", positive),
        (lambda e: 1 / e, "one over the right answer: numerator and denominator are exchanged", True),
        (lambda e: 1 - e, "1 minus the right answer: the opposite is counted", True),
        (lambda e: e.exp(), "the exponential of the right answer: is a logarithm missing?", True),
        (lambda e: e.clamp(min=0).log(), "the logarithm of the right answer", positive),
        (lambda e: -e.clamp(min=0).log(), "minus the logarithm of the right answer", positive),
        (lambda e: e.abs(), "the absolute value of the right answer: the sign is lost", True),
        (lambda e: e + 1, "1 too large", True),
        (lambda e: e - 1, "1 too small", True),
        (lambda e: e.mT, "transposed: your rows are the columns", tables),
        (lambda e: -e.mT, "transposed, and the sign is wrong", tables),
    ]
    for slip, text, possible in slips:
        if possible and all_agree(actual, [slip(e) for e in expected], max(tolerance, 1e-5)):
            return text
    shifts = [(a.squeeze() - e.squeeze()) for a, e in zip(actual, expected)]
    if len(shifts) > 1 and all(bool((s - shifts[0].flatten()[0]).abs().max() < 1e-6) for s in shifts if s.numel()):
        return f"always {shifts[0].flatten()[0].item():+.4g} away from the right answer"
    return None


def _constant(actual, expected, sizes, tolerance, name):
    if len(actual) < 3 or (len({a.shape for a in actual}) > 1 and any(a.numel() > 1 for a in actual)):
        return None
    if all(agree(a, actual[0], 1e-9) for a in actual):
        return "the same answer whatever the input: a constant is returned"
    return None


def _order(actual, expected, sizes, tolerance, name):
    if all(e.ndim == 1 and e.numel() > 1 for e in expected):
        if all_agree([a.sort().values for a in actual], [e.sort().values for e in expected], tolerance):
            return "the right numbers in another order"
    return None


def _lengths(actual, expected, sizes, tolerance, name):
    """Columns or rows that point the right way, with other lengths; or a right answer that is not centred."""
    if not all(a.ndim == 2 and a.numel() > 2 for a in actual):
        return None
    for dim, what in ((-2, "columns"), (-1, "rows")):
        unit = lambda x: x / x.norm(dim=dim, keepdim=True).clamp(min=1e-300)
        if expected[0].shape[dim] > 1 and all_agree([unit(a) for a in actual], [unit(e) for e in expected], 1e-5):
            return f"the {what} have the right directions and the wrong lengths"
    for dim, what in ((-1, "rows"), (-2, "columns")):
        centred = [a - a.mean(dim, keepdim=True) for a in actual]
        if all_agree(centred, expected, 1e-5):
            return f"right up to centring: subtract the mean of the {what} (the matrix P)"
        if all_agree(actual, [e - e.mean(dim, keepdim=True) for e in expected], 1e-5):
            return f"centred once too often: the {what} should not have mean zero"
    return None


def _partly(actual, expected, sizes, tolerance, name):
    right = [agree(a, e, tolerance) for a, e in zip(actual, expected)]
    if any(right):
        wrong = right.index(False)
        if len(right) == 1:
            return None
        where = ", ".join(f"{s} = {n}" for s, n in sizes[wrong].items()) if sizes and sizes[wrong] else ""
        where = f" (wrong for {where})" if where else ""
        return (
            f"right for {sum(right)} of {len(right)} inputs{where}: does your code hold for some sizes or values only?"
        )
    entries = [((a - e).abs() <= tolerance * e.abs().max() + 1e-12) for a, e in zip(actual, expected)]
    if all(m.numel() > 2 and 0.5 <= m.double().mean() < 1 for m in entries):
        return "most entries are right, some are not"
    return None
