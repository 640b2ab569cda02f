"""Right and wrong answers to the exercises of notebooks 07 to 11: see bank.py."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from labkit import etf
from labkit.activations import aglu, apa


def network_run(low=-2.0, high=2.0, rows=3, kappa=True, layers=31):
    start = torch.linspace(low + 0.02, high - 0.02, layers).numpy()
    table = pd.DataFrame({"kappa": start, "iteration": 0}) if kappa else pd.DataFrame({"iteration": [0]})
    return SimpleNamespace(parameters=table, curves=pd.DataFrame({"loss": [2.0] * rows}))


def eq_6(z, kappa, lam):
    return -z / lam * apa(z, kappa, lam) / (lam + torch.exp(kappa * z))


def term(z, kappa, lam):
    return z * apa(z, kappa, lam) * torch.log1p(lam * torch.exp(-kappa * z)) / lam**2


def by_autograd(z, kappa, lam):
    lam = torch.tensor(lam, dtype=z.dtype, requires_grad=True)
    return torch.stack(
        [torch.autograd.grad(v, lam, retain_graph=True)[0] for v in z * (1 + lam * torch.exp(-kappa * z)) ** (-1 / lam)]
    )


def chain(x, W, V, inner, outer, outward=abs, inward=lambda k: k, shortcut=1.0):
    for w, v, i, o in zip(W, V, inner, outer):
        x = aglu(shortcut * x + aglu(x @ w, inward(i), 0.5) @ v, outward(o), 0.5)
    return x


def entropy(gates):
    p = gates / gates.sum(-1, keepdim=True)
    return -(p * p.log()).sum(-1)


def formula(n):
    step = lambda n, k, s, p: (n + 2 * p - k) // s + 1
    found = [step(step(n, 7, 2, 3), 3, 2, 1)]
    found.append(found[-1])
    for _ in range(3):
        found.append(step(found[-1], 3, 2, 1))
    return found


def first(low, high):
    return {h: int((low[h] > high.drop(columns=h).max(axis=1)).sum()) for h in low}


def tail(k_from, chance=1 / 3, n=14):
    return sum(math.comb(n, k) * chance**k * (1 - chance) ** (n - k) for k in range(k_from, n + 1))


RIGHT = {
    "eta-at-zero": [
        lambda lam: (1 + lam) ** (-1 / lam),
        lambda lam: math.exp(-math.log1p(lam) / lam),
        lambda lam: torch.tensor(1 + lam) ** (-1 / lam),
        lambda lam: np.float32((1 + lam) ** (-1 / lam)),
    ],
    "repair-eq6": [
        lambda z, k, lam: eq_6(z, k, lam) + term(z, k, lam),
        lambda z, k, lam: eq_6(z.float(), k, lam) + term(z.float(), k, lam),
    ],
    "open-shortcut": [chain, lambda *a: chain(*a).numpy()],
    "coin-toss": [0.0625, 1 / 16, "0.0625", torch.tensor(0.0625)],
    "channels": [
        lambda g: entropy(g).exp(),
        lambda g: g.shape[-1] ** (entropy(g) / math.log(g.shape[-1])),
        lambda g: np.exp(entropy(g).numpy()),
        lambda g: entropy(g.float()).exp(),
    ],
    "failing-start": [network_run()],
    "by-chance": [tail(11), 0.00069, 0.0007],
    "sides": [
        formula,
        lambda n: tuple(map(float, formula(n))),
        lambda n: np.array(formula(n)),
        lambda n: [-(-n // k) for k in (4, 4, 8, 16, 32)],
    ],
    "clearly-first": [first, lambda low, high: pd.Series(first(low, high))],
    "sure-enough": [
        lambda C, p: (C - 1) / C * math.log((C - 1) * p / (1 - p)),
        lambda C, p: (1 - 1 / C) * (math.log(C - 1) + torch.logit(torch.tensor(p, dtype=torch.float64))),
    ],
    "widest-frame": [(21840, 1.9), (21840, 4 * 21841 * 21840 / 1e9), [21840, 1.908], (21840.0, 1.91)],
    "mean-age": [lambda t: (t - 1) / 3, lambda t: sum((t - s) * 2 * s / (t * (t + 1)) for s in range(1, t + 1))],
}

WRONG = {
    "eta-at-zero": [
        (lambda lam: (1 + lam) ** -2, "0.5 only"),
        (lambda lam: 4 / 9, "4/9"),
        (lambda lam: (1 + lam) ** (1 / lam), "sign"),
        (lambda lam: 1 / (1 + lam), "exponent"),
        (lambda lam: apa(torch.zeros(()), 1.0, lam), "library"),
        (lambda lam: (1 + lam) ** -lam, "1/λ"),
        (lambda lam: 0.5, "λ = 1"),
        (lambda lam: math.exp(-1), "limit"),
        (lambda lam: -math.log1p(lam) / lam, "logarithm"),
        (lambda lam: aglu(torch.ones(()) * 1e-12, 1.0, lam) / 1e-12, "library"),
    ],
    "repair-eq6": [
        (eq_6, "as it stands"),
        (lambda z, k, lam: eq_6(z, k, lam) - term(z, k, lam), "sign"),
        (lambda z, k, lam: eq_6(z, k, lam) + lam * term(z, k, lam), "1/λ"),
        (lambda z, k, lam: term(z, k, lam), "alone"),
        (lambda z, k, lam: eq_6(z, k, lam) + term(z, k, lam) / z, "factor z"),
        (by_autograd, "by hand"),
        (lambda z, k, lam: -eq_6(z, k, lam) - term(z, k, lam), "sign"),
        (lambda z, k, lam: eq_6(z, k, lam) + term(z, k, lam) / apa(z, k, lam), "η"),
        (lambda z, k, lam: eq_6(z, k, lam) + 1, ""),
        (lambda z, k, lam: eq_6(z, k, lam) + 2 * term(z, k, lam), ""),
    ],
    "open-shortcut": [
        (lambda *a: 2.0, ""),
        (lambda *a: chain(*a, outward=lambda k: k), "drawn"),
        (lambda *a: chain(*a, inward=abs), "inner"),
        (lambda *a: chain(*a, shortcut=0.0), "shortcut"),
        (lambda x, *a: x, "any block"),
        (lambda *a: chain(*a).square().mean().sqrt(), "size"),
        (lambda *a: chain(*a).mT, "transposed"),
        (lambda *a: chain(*a, outward=lambda k: k, inward=abs), "wrong one"),
        (lambda *a: -chain(*a), "sign"),
        (lambda *a: chain(*a, outward=lambda k: 1.0), ""),
    ],
    "coin-toss": [
        (0.03125, "one network"),
        (0.9375, "1 minus"),
        (0.5, "one seed"),
        (0.05, "threshold"),
        (6.25, "per cent"),
        (0.125, ""),
        (5 / 32, "one way"),
        (0.4, ""),
    ],
    "channels": [
        (lambda g: 3, ""),
        (lambda g: 3.0, ""),
        (lambda g: (g > 0.01).sum(-1), ""),
        (lambda g: 1 / ((g / g.sum(-1, keepdim=True)) ** 2).sum(-1), "Simpson"),
        (lambda g: entropy(g), "exponential"),
        (lambda g: 2 ** entropy(g), "exp"),
        (lambda g: (entropy(g) / math.log(g.shape[-1])).exp(), "ln K"),
        (lambda g: torch.exp(-(g * g.log()).sum(-1)), "sum"),
        (lambda g: (g > 0).sum(-1), "above 0"),
        (lambda g: entropy(g).exp() / g.shape[-1], "K times too small"),
        (lambda g: entropy(g).exp().round(), ""),
        (lambda g: entropy(g).exp().mean(), "shape"),
        (lambda g: torch.full(g.shape[:-1], 3.0), "3 is right"),
    ],
    "failing-start": [
        (network_run(1.0, 1.3), "U(−2, 2)"),
        (network_run(0.0, 2.0), "U(−2, 2)"),
        (network_run(kappa=False), "aglu"),
        (0.9, "train_classifier"),
        (network_run(rows=1), "trained"),
        (network_run(layers=13), "ResNet-32"),
        (network_run(-4, 4), "U(−2, 2)"),
    ],
    "by-chance": [
        (tail(12), "at least 11"),
        (tail(10), "at least 11"),
        (1 - tail(11), "opposite"),
        (tail(11, 0.5), "1/3"),
        (3.0**-11, "coefficients"),
        (math.comb(14, 11) * 3.0**-11 * (2 / 3) ** 3, "exactly"),
        (11 / 14, "share"),
        (0.0, ""),
        (3 * tail(11), "any"),
    ],
    "sides": [
        (lambda n: [n // 4, n // 4, n // 8, n // 16, n // 32], "32 divides"),
        (lambda n: [56, 56, 28, 14, 7], "224"),
        (lambda n: [n, *formula(n)[1:]], "first"),
        (lambda n: formula(n)[1:], "four"),
        (lambda n: formula(n)[-1], "five"),
        (lambda n: [x + 1 for x in formula(n)], "1 too large"),
        (lambda n: [2 * x for x in formula(n)], "2 times"),
        (lambda n: [round(n / k) for k in (4, 4, 8, 16, 32)], ""),
        (lambda n: [n / k for k in (4, 4, 8, 16, 32)], "right for"),
        (lambda n: formula(n)[::-1], "order"),
        (lambda n: [formula(n)[0], *[formula(n)[0] // 2**k for k in range(4)]], "right for"),
    ],
    "clearly-first": [
        (lambda low, high: {h: int((low[h] >= high.drop(columns=h).max(axis=1)).sum()) for h in low}, "touch"),
        (lambda low, high: {h: int((high[h] > high.drop(columns=h).max(axis=1)).sum()) for h in low}, "high ends"),
        (lambda low, high: {h: int((low[h] > low.drop(columns=h).max(axis=1)).sum()) for h in low}, "low end"),
        (lambda low, high: {h: int((low[h] > high.drop(columns=h).min(axis=1)).sum()) for h in low}, "both"),
        (lambda low, high: {"standard": 1, "fixed": 0, "implicit": 4}, "constant"),
        (lambda low, high: {h: 0 for h in low}, ""),
        (lambda low, high: 4, ""),
        (lambda low, high: {h: n / len(low) for h, n in first(low, high).items()}, "share"),
        (lambda low, high: {"standard": 1}, ""),
    ],
    "sure-enough": [
        (lambda C, p: math.log((C - 1) * p / (1 - p)), "(C − 1)/C"),
        (lambda C, p: (C - 1) / C * math.log(p / (1 - p)), "factor C − 1"),
        (lambda C, p: (C - 1) / C * math.log(C * p / (1 - p)), "not C"),
        (lambda C, p: (C - 1) / C * math.log10((C - 1) * p / (1 - p)), "base 10"),
        (lambda C, p: -(C - 1) / C * math.log((C - 1) * p / (1 - p)), "sign"),
        (lambda C, p: (C - 1) / C * math.log((C - 1) * (1 - p) / p), "exchanged"),
        (lambda C, p: 5.0, "constant"),
        (lambda C, p: C / (C - 1) * math.log((C - 1) * p / (1 - p)), "upside"),
        (lambda C, p: (C - 1) / C * math.log((C - 1) * p), "1 − p"),
        (lambda C, p: math.exp(-etf.cross_entropy_bound(C, p)), "inverse"),
    ],
    "widest-frame": [
        ((21841, 1.9), "one less"),
        ((2048, 0.18), "ResNet"),
        ((21840, 3.8), "8 bytes"),
        ((21840, 1900), "megabytes"),
        ((21840, 1.777), "2^30"),
        (21840, "two numbers"),
        ((21840, 0.95), "2 bytes"),
        ((21840, 5), "4 bytes"),
        ((1.9, 21840), "width"),
    ],
    "mean-age": [
        (lambda t: t / 3, "t − 1"),
        (lambda t: (t + 1) / 3, "age 0"),
        (lambda t: (2 * t + 1) / 3, "mean step"),
        (lambda t: (t - 1) / 2, "same weight"),
        (lambda t: 33.0, "constant"),
        (lambda t: 2 / (t + 1), "α"),
        (lambda t: 2 * (t - 1) / 3, "twice"),
        (lambda t: (1 - t) / 3, "sign"),
        (lambda t: t // 3, ""),
        (lambda t: math.log(t), ""),
    ],
}
