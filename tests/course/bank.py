"""Answers to every exercise as people write them: right ones in several forms, and wrong ones with a word that the
reason must contain ("" where being refused is enough).

Written apart from labkit/course/exercises, which holds another bank: that of the mistakes each exercise knows.
"""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from labkit import etf, heads, metrics, nearest, reference
from labkit.activations import aglu, apa
from labkit.course.exercises import exercises
from labkit.history import History


def svd(B):
    return torch.linalg.svd(B, full_matrices=False)


def polar(B):
    left, _, right = svd(B)
    return left @ right


def centred(X):
    return X - X.mean(-1, keepdim=True)


def B_of(H, prox, delta, factor=2.0):
    return factor / math.sqrt(H.shape[1] - 1) * centred(H) + delta * prox


# ------------------------------------------------------------------------------------------------------ 00 and 01


def nc1_parts(features, labels):
    C, N = int(labels.max()) + 1, len(features)
    means = torch.stack([features[labels == c].mean(0) for c in range(C)])
    D, B = features - means[labels], means - features.mean(0)
    return D.mT @ D, B.mT @ B, N, C, means


def trace_inv(W, B):
    return torch.trace(W @ torch.linalg.pinv(B, rtol=1e-10, hermitian=True))


def right_nc1(features, labels):
    W, B, N, C, _ = nc1_parts(features, labels)
    return (trace_inv(W / N, B / C) / C).item()


def numpy_nc1(features, labels):
    features, labels = np.asarray(features), np.asarray(labels)
    C = labels.max() + 1
    means = np.array([features[labels == c].mean(0) for c in range(C)])
    D, B = features - means[labels], means - features.mean(0)
    return np.trace(D.T @ D / len(D) @ np.linalg.pinv(B.T @ B / C, rcond=1e-10)) / C


def numpy_methods_nc1(features, labels):  # .copy() and .astype() are not tensors' methods
    return numpy_nc1(features.astype(float), labels.copy())


def single_nc1(features, labels):
    W, B, N, C, _ = nc1_parts(features.float(), labels)
    return torch.trace(W / N @ torch.linalg.pinv(B / C, rtol=1e-5, hermitian=True)) / C


def printed_nc1(features, labels):
    right_nc1(features, labels)


def loop(*_):
    while True:
        pass


def batchwise_nc1(features, labels):  # whitening by the eigendecomposition, summed over samples
    _, _, N, C, means = nc1_parts(features, labels)
    B = means - features.mean(0)
    values, vectors = torch.linalg.eigh(B.mT @ B / C)
    kept = values > 1e-10 * values.max()
    z = (features - means[labels]) @ vectors[:, kept] / values[kept].sqrt()
    return z.square().sum() / (N * C)


def biggest(cosines, fill=-2.0):
    table = cosines.clone().fill_diagonal_(fill)
    a, b = divmod(int(table.argmax()), 10)
    return min(a, b), max(a, b)


def brute(cosines):
    return max((cosines[a, b].item(), (a, b)) for b in range(10) for a in range(b))[1]


# ------------------------------------------------------------------------------------------------------ 02 and 03


def qr_small(C):
    A = torch.eye(C) - 1 / C
    q, _ = torch.linalg.qr(A[:, :-1])
    return math.sqrt(C / (C - 1)) * q.mT


def schulz(H, prox, delta, steps=60, start=None, factor=2.0, wrong=False):
    B = B_of(H, prox, delta, factor)
    X = B / (B.norm() if start is None else start)
    eye = torch.eye(X.shape[1], dtype=X.dtype)
    for _ in range(steps):
        X = X @ (3 * eye - X.mT @ X) * (1.0 if wrong else 0.5)
    return X


def turned(U):
    return centred(U) / math.sqrt(U.shape[-1] - 1)


def bisect(H, prox, steps=60, flip=False, nearest_=None, view=turned, high=1e3):
    near, low = nearest_(H) if nearest_ else view(nearest.start_frame(H)), 1e-6
    for _ in range(steps):
        middle = math.sqrt(low * high)
        E = view(nearest.nearest_etf(H, prox, middle))
        nearer = (E - near).norm() < (E - view(prox)).norm()
        low, high = (middle, high) if nearer != flip else (low, middle)
    return middle


def by_frame(H):
    return (H - turned(polar(H))).norm()


def svdvals(H):
    return torch.linalg.svdvals(H).sum() / math.sqrt(H.shape[1] - 1)


# ------------------------------------------------------------------------------------------------------ 04 to 06


def sylvester(S, right):
    values, V = torch.linalg.eigh((S + S.mT) / 2)
    return V @ ((V.mT @ right @ V) / (values[:, None] + values)) @ V.mT


def moves(H, prox, delta, U, D, P=True, scale=2.0, out=1.0, omega=1.0):
    dB = scale / math.sqrt(H.shape[1] - 1) * (centred(D) if P else D)
    S = U.mT @ B_of(H, prox, delta)
    turn = U @ sylvester(S, U.mT @ dB - dB.mT @ U)
    return omega * turn + out * (dB - U @ (U.mT @ dB)) @ torch.linalg.inv(S)


def vjp(H, prox, delta, U, Y, P=True, scale=2.0, out=1.0, inside=1.0):
    S = U.mT @ B_of(H, prox, delta)
    X = U @ sylvester(S, U.mT @ Y - Y.mT @ U)
    outside = torch.linalg.solve(S, (Y - U @ (U.mT @ Y)).mT).mT
    whole = scale / math.sqrt(H.shape[1] - 1) * (inside * X + out * outside)
    return centred(whole) if P else whole


def autograd_vjp(H, prox, delta, U, Y):
    H = H.clone().requires_grad_()
    (polar(B_of(H, prox, delta)) * Y).sum().backward()
    return H.grad


def kronecker_torque(g, z):  # least squares over a basis of the skew-symmetric matrices
    d = z.shape[1]
    pairs = [(i, j) for i in range(d) for j in range(i)]
    basis = torch.zeros(len(pairs), d, d, dtype=z.dtype)
    for k, (i, j) in enumerate(pairs):
        basis[k, i, j], basis[k, j, i] = 1.0, -1.0
    A = (z @ basis).flatten(1).mT
    return g - (A @ torch.linalg.lstsq(A, g.flatten()[:, None]).solution).reshape(g.shape)


def implicit(z, targets, prox, tau, delta, solve=nearest.nearest_etf, **parts):
    C = prox.shape[1]
    h = tau * F.normalize(z, dim=-1)
    mu = h.mean(0)
    means = torch.stack([h[targets == c].mean(0) for c in range(C)]).mT
    means = means - (means.mean(-1, keepdim=True) if parts.get("by_class") else mu[:, None])
    U = solve(means / means.norm() if parts.get("unit", True) else means, prox, delta)
    W = etf.simplex_etf(C, frame=U).mT * parts.get("length", 1.0)
    return h @ W.mT + parts.get("bias", -1.0) * (W @ mu)


def by_the_head(z, targets, prox, tau, delta):
    head = heads.ImplicitETFHead(*prox.shape, tau, delta).double()
    head.frame.copy_(prox)
    return head(z, targets)


def descend(head, features, targets, optimizer, steps, *, zero=True, move=True, back=True):
    losses = []
    for _ in range(steps):
        if zero:
            optimizer.zero_grad()
        loss = F.cross_entropy(head(features, targets), targets)
        if back:
            loss.backward()
        if move:
            optimizer.step()
        losses.append(loss)
    return losses


def steps(frame, accuracy=0.9, how="median"):
    runs = frame[frame["accuracy"] >= accuracy].groupby(["size", "seed"])["iteration"].min().reset_index()
    runs["num_classes"] = runs["size"].str.split("-").str[1].astype(int)
    return runs.groupby("num_classes")["iteration"].agg(how)


def history(head="fixed", iterations=500, spec=None, loss=0.05, **settings):
    spec = spec or {"num_classes": 10, "num_samples": 1000, "dim": 512}
    frame = pd.DataFrame({"head": head, "seed": 0, "iteration": [0, iterations], "loss": [3.0, loss]})
    margins = pd.DataFrame({"head": [head], "seed": [0], "sample": [0], "margin": [1.0]})
    return History(frame, {"head": head, "spec": spec, "temperature": 5.0, **settings}, margins)


FEW = {"num_classes": 20, "num_samples": 400, "dim": 20}
FLOOR = etf.cross_entropy_bound(20, 5.0)


def network_run(low=-2.0, high=2.0, rows=3, kappa=True):
    start = torch.linspace(low + 0.02, high - 0.02, 31).numpy()
    table = pd.DataFrame({"kappa": start, "iteration": 0}) if kappa else pd.DataFrame({"iteration": [0]})
    return SimpleNamespace(parameters=table, curves=pd.DataFrame({"loss": [2.0] * rows}))


# ------------------------------------------------------------------------------------------------------ 07 to 11


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
    "five-classes": [-0.25, "-0.25", torch.tensor(-0.25), np.float32(-0.25), [-0.25], -1 / 4],
    "nc1": [right_nc1, numpy_nc1, numpy_methods_nc1, single_nc1, batchwise_nc1],
    "nearest-mean": [
        lambda f, m: torch.cdist(f, m).argmin(-1),
        lambda f, m: ((f[:, None] - m) ** 2).sum(-1).argmin(1).int(),
        lambda f, m: np.linalg.norm(np.asarray(f)[:, None] - np.asarray(m), axis=-1).argmin(1),
        lambda f, m: [int((m - x).norm(dim=-1).argmin()) for x in f],
        lambda f, m: torch.cdist(f.float(), m.float()).argmin(-1, keepdim=True),
    ],
    "look-alikes": [
        biggest,
        brute,
        lambda c: torch.tensor(brute(c)),
        lambda c: list(brute(c)),
        lambda c: brute(c.float()),
    ],
    "temperature": [
        lambda b, C: (C - 1) / C * math.log((C - 1) / math.expm1(b)),
        lambda b, C: torch.tensor((C - 1) / C * math.log((C - 1) / (math.exp(b) - 1))),
        lambda b, C: np.float32((C - 1) / C * (np.log(C - 1) - np.log(np.expm1(b)))),
    ],
    "small-etf": [
        lambda C: math.sqrt(C / (C - 1)) * torch.linalg.eigh(torch.eye(C) - torch.ones(C, C) / C)[1][:, 1:].mT,
        qr_small,
        lambda C: qr_small(C).numpy(),
        lambda C: -qr_small(C).flip(0),
    ],
    "polar-frame": [
        polar,
        lambda A: A @ torch.linalg.inv(torch.linalg.cholesky(A.mT @ A)).mT @ polar(torch.linalg.cholesky(A.mT @ A).mT),
        lambda A: (lambda u, s, v: u @ v)(*np.linalg.svd(np.asarray(A), full_matrices=False)),
        lambda A: polar(A.float()),
    ],
    "closed-form": [
        lambda H, p, t: polar(B_of(H, p, t)),
        lambda H, p, t: polar(B_of(H.float(), p.float(), t)),
        lambda H, p, t: polar(B_of(H, p, t).double()).numpy(),
        lambda H, p, t: polar(
            2 / math.sqrt(H.shape[1] - 1) * H @ (torch.eye(H.shape[1]) - 1 / H.shape[1]).to(H) + t * p
        ),
        lambda H, p, t: polar(2 / math.sqrt(H.shape[1] - 1) * H @ (torch.eye(H.shape[1]) - 1 / H.shape[1]) + t * p),
    ],
    "distance": [
        lambda H: math.sqrt(2 - 2 * torch.linalg.svdvals(H).sum() / math.sqrt(H.shape[1] - 1)),
        lambda H: torch.sqrt(2 - 2 * torch.linalg.svd(H).S.sum() / math.sqrt(H.shape[1] - 1)),
        lambda H: np.sqrt(2 - 2 * np.linalg.svd(np.asarray(H), compute_uv=False).sum() / np.sqrt(H.shape[1] - 1)),
        lambda H: (2 - 2 * torch.linalg.matrix_norm(H, "nuc") / math.sqrt(H.shape[1] - 1)) ** 0.5,
    ],
    "newton-schulz": [
        schulz,
        lambda H, p, t=0.01: schulz(H, p, t, 100),
        lambda H, p, delta: schulz(H.float(), p.float(), delta),
    ],
    "even-delta": [bisect, lambda H, p: torch.tensor(bisect(H, p, 40)), lambda H, p: np.float32(bisect(H, p))],
    "bound": [
        lambda C, t: math.log(math.exp(t) + (C - 1) * math.exp(-t / (C - 1))) - t,
        lambda C, t: F.cross_entropy(
            torch.cat([torch.tensor([t]), torch.full((C - 1,), -t / (C - 1))])[None], torch.tensor([0])
        ),
        lambda C, t: np.float32(np.log1p((C - 1) * np.exp(-t * C / (C - 1)))),
    ],
    "thousand-classes": [0.999 * (math.log(999) - math.log(9) + 50 / 9), 10.2549, torch.tensor(10.2549)],
    "fair-direction": [history(frame="haar"), history("fixed_haar")],
    "implicit-head": [
        implicit,
        lambda *a: implicit(*a, solve=lambda H, p, t: polar(B_of(H, p, t))),
        lambda *a: implicit(*a).detach().numpy(),
    ],
    "training-loop": [
        descend,
        lambda *a: [x.item() for x in descend(*a)],
        lambda *a: torch.stack(descend(*a)),
        lambda *a: np.array([x.item() for x in descend(*a)]),
    ],
    "frame-moves": [moves],
    "gradient": [vjp],
    "without-torque": [lambda g, z: g - z @ sylvester(z.mT @ z, z.mT @ g - g.mT @ z), kronecker_torque],
    "tangent-share": [
        lambda U, Y: (Y - U @ (U.mT @ Y + Y.mT @ U) / 2).norm() / Y.norm(),
        lambda U, Y: math.sqrt(1 - ((U.mT @ Y + Y.mT @ U) / 2).square().sum() / Y.square().sum()),
    ],
    "probability-1000": [math.exp(-etf.cross_entropy_bound(1000, 5.0)), 0.13],
    "steps-to-90": [
        steps,
        lambda f: steps(f).to_dict(),
        lambda f: steps(f).astype(int),
        lambda f: steps(f).to_frame("steps"),
    ],
    "few-dimensions": [
        history("implicit", 300, FEW, FLOOR * 1.001),
        history("implicit", 300, FEW | {"dim": 19}, FLOOR * 1.001),
    ],
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
    "by-chance": [tail(11), 0.000728] if abs(tail(11) - 0.000728) < 1e-6 else [tail(11)],
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
    "five-classes": [
        (0.25, "sign"),
        (-1 / 3, "four"),
        (-0.2, "C"),
        (104.4775, "degrees"),
        (0.0, "perpendicular"),
        (math.cos(2 * math.pi / 5), "pentagon"),
        ("a quarter", "number"),
        (-0.5, "three"),
        (-25, "100 times"),
        (1.8235, "radians"),
        ([-0.25, -0.25], "one number"),
        (lambda: -0.25, "function"),
    ],
    "nc1": [
        (lambda f, l: right_nc1(f, l) * (int(l.max()) + 1), "C times too large"),
        (lambda f, l: right_nc1(f, l) * len(f), "N times too large"),
        (lambda f, l: (lambda W, B, N, C, m: trace_inv(W, B) / C)(*nc1_parts(f, l)), "C/N"),
        (lambda f, l: (lambda W, B, N, C, m: trace_inv(W / N, B) / C)(*nc1_parts(f, l)), "C times too small"),
        (lambda f, l: (lambda W, B, N, C, m: trace_inv(B / C, W / N) / C)(*nc1_parts(f, l)), "swapped"),
        (lambda f, l: (lambda W, B, N, C, m: W.trace() / N / (B.trace() / C) / C)(*nc1_parts(f, l)), "traces"),
        (lambda f, l: math.sqrt(right_nc1(f, l)), "root"),
        (lambda f, l: right_nc1(f, l) / (int(l.max()) + 1), "C times too small"),
        (lambda f, l: -right_nc1(f, l), "sign"),
        (lambda f, l: right_nc1(f, l) * 2, "2 times"),
        (lambda f, l: metrics.nc1(f, l), "library"),
        (lambda f, l: float(metrics.nc1(f.double(), l)), "library"),
        (lambda f, l: exercises()["nc1"].solution(f, l), "own solution"),
        (printed_nc1, "nothing is returned"),
        (lambda f, l: 0.0012849, "constant"),
        (lambda f, l: (lambda W, B, N, C, m: W / N @ torch.linalg.pinv(B / C))(*nc1_parts(f, l)), "one number"),
        (lambda f: 1.0, "arguments"),
        (lambda f, l: right_nc1(f, l) if len(f) < 50 else 0.0, "right for"),
        (lambda f, l: "0.1", "str"),
        (lambda f, l: right_nc1(f, l) + 0.01, "+0.01"),
        (lambda f, l: (lambda W, B, N, C, m: trace_inv(W / (N - C), B / C) / C)(*nc1_parts(f, l)), ""),
        (lambda f, l: 1 / right_nc1(f, l), "one over"),
        (lambda f, l: (lambda W, B, N, C, m: trace_inv(W / (N - 1), B / C) / C)(*nc1_parts(f, l)), "N − 1"),
        (0.001, "function itself"),
    ],
    "nearest-mean": [
        (lambda f, m: torch.cdist(f, m).argmax(-1), "argmax"),
        (lambda f, m: torch.cdist(f, m).argmin(0), "wrong dimension"),
        (lambda f, m: (f @ m.mT).argmax(-1), "inner product"),
        (lambda f, m: torch.cdist(f, m).amin(-1), "distances"),
        (lambda f, m: torch.cdist(f, m), "all the distances"),
        (lambda f, m: F.cosine_similarity(f[:, None], m, dim=-1).argmax(-1), "cosine"),
        (lambda f, m: metrics.nearest_mean(f, m), "library"),
        (lambda f, m: torch.zeros(len(f)), ""),
        (lambda f, m: torch.cdist(f, m).argmin(-1) + 1, "from 0"),
        (lambda f, m: torch.cdist(f, m).argmin(), "shape"),
        (lambda f, m: m[torch.cdist(f, m).argmin(-1)], "shape"),
    ],
    "look-alikes": [
        (lambda c: biggest(c)[::-1], "order"),
        (lambda c: divmod(int(c.argmax()), 10), "diagonal"),
        (lambda c: biggest(-c, 2.0), ""),
        (lambda c: biggest(c, 0.0), "negative"),
        (lambda c: biggest(c.abs()), "absolute"),
        (lambda c: (3, 8), "constant"),
        (lambda c: c.clone().fill_diagonal_(-2).max(), "cosine"),
        (lambda c: int(c.clone().fill_diagonal_(-2).argmax()), "divmod"),
        (lambda c: (lambda a, b: (min(a, b), max(a, b)))(*divmod(int(c.argmin()), 10)), "least"),
        (lambda c: brute(c)[0], ""),
    ],
    "temperature": [
        (lambda b, C: math.log((C - 1) / math.expm1(b)), "(C − 1)/C"),
        (lambda b, C: (C - 1) / C * math.log(math.expm1(b) / (C - 1)), "sign"),
        (lambda b, C: (C - 1) / C * math.log(C / math.expm1(b)), "not C"),
        (lambda b, C: (C - 1) / C * math.log((C - 1) / b), "log"),
        (lambda b, C: 5.0, "constant"),
        (lambda b, C: C / (C - 1) * math.log((C - 1) / math.expm1(b)), "upside"),
        (lambda b, C: (C - 1) / C * math.log10((C - 1) / math.expm1(b)), "base 10"),
        (lambda b, C: (C - 1) / C * math.log2((C - 1) / math.expm1(b)), "base 2"),
        (lambda b, C: 2 * (C - 1) / C * math.log((C - 1) / math.expm1(b)), "2 times"),
        (lambda b, C: etf.cross_entropy_bound(C, b), "bound"),
        (lambda b, C: (C - 1) / math.expm1(b), ""),
        (lambda b, C: (C - 1) * math.log((C - 1) / math.expm1(b)), "C times too large"),
    ],
    "small-etf": [
        (lambda C: etf.simplex_etf(C, C - 1), "library"),
        (lambda C: qr_small(C) / math.sqrt(C / (C - 1)), "short"),
        (lambda C: qr_small(C).mT, "transposed"),
        (lambda C: etf.simplex_etf(C), "library"),
        (lambda C: qr_small(C) * math.sqrt(C / (C - 1)), "root"),
        (lambda C: math.sqrt(C / (C - 1)) * (torch.eye(C) - 1 / C), "one dimension too many"),
        (lambda C: torch.eye(C)[1:], ""),
        (lambda C: torch.linalg.eigh(torch.eye(C) - 1 / C)[1][:, :-1].mT, "eigenvalue 0"),
        (lambda C: torch.randn(C - 1, C), ""),
        (lambda C: F.normalize(torch.randn(C - 1, C), dim=0), ""),
        (lambda C: 2 * qr_small(C), "4 times"),
    ],
    "polar-frame": [
        (lambda A: (lambda u, s, v: u @ v.mT)(*svd(A)), "already"),
        (lambda A: svd(A)[0], "left"),
        (lambda A: torch.linalg.qr(A)[0], "QR"),
        (lambda A: nearest.nearest_etf(A), "library"),
        (lambda A: A / A.norm(), "shorter"),
        (lambda A: A @ torch.linalg.inv(A.mT @ A), "root"),
        (lambda A: polar(A).mT, "transposed"),
        (lambda A: -polar(A), "sign"),
        (lambda A: etf.haar_frame(*A.shape), "library"),
        (lambda A: torch.eye(*A.shape), ""),
        (lambda A: F.normalize(A, dim=0), "perpendicular"),
        (lambda A: polar(torch.randn_like(A)), ""),
    ],
    "closed-form": [
        (lambda H, p, t: nearest.nearest_etf(H, p, t), "library"),
        (lambda H, p, t: B_of(H, p, t), "B itself"),
        (lambda H, p, t: polar(2 / math.sqrt(H.shape[1] - 1) * H + t * p), "P is missing"),
        (lambda H, p, t: polar(B_of(H, p, t, 1.0)), "factor 2"),
        (lambda H, p, t: polar(B_of(H, p, 0.0)), ""),
        (lambda H, p, t: (lambda u, s, v: u @ v.mT)(*svd(B_of(H, p, t))), "already"),
        (lambda H, p, t: torch.linalg.qr(B_of(H, p, t))[0], "QR"),
        (lambda H, p, t: turned(polar(B_of(H, p, t))), "frame U"),
        (lambda H, p, t: polar(B_of(H, p, t)).mT, "transposed"),
        (lambda H, p, t: -polar(B_of(H, p, t)), "sign"),
        (lambda H, p, t: polar(2 / (H.shape[1] - 1) * centred(H) + t * p), "root"),
        (lambda H, p, t: schulz(H, p, t, 5), "not converged"),
        (lambda H, p, t: reference.trust_region(H, p, t), "library"),
        (lambda H, p, t: p, ""),
        (lambda H, p, t: polar(H), ""),
        (lambda H, p, t: svd(B_of(H, p, t))[0], ""),
    ],
    "distance": [
        (by_frame, "U*"),
        (lambda H: (H - turned(nearest.start_frame(H))).norm(), "U*"),
        (lambda H: 2 - 2 * svdvals(H), "squared"),
        (lambda H: math.sqrt(2 - svdvals(H)), "factor 2"),
        (lambda H: torch.linalg.svdvals(H).sum(), "nuclear"),
        (lambda H: svdvals(H), "inner product"),
        (lambda H: math.sqrt(2 - 2 * torch.linalg.svdvals(H).sum() / math.sqrt(H.shape[1])), "√C"),
        (lambda H: 0.116, "constant"),
        (lambda H: math.sqrt(2 - 2 * svdvals(H)) / 2, "2 times too small"),
        (lambda H: H.norm(), "constant"),
        (lambda H: math.sqrt(max(0, 1 - svdvals(H))), "√2"),
        (lambda H: math.sqrt(2 - 2 * torch.linalg.svdvals(H)[0]), ""),
        (lambda H: math.sqrt(2 - 2 * torch.linalg.svdvals(H).sum() / (H.shape[1] - 1)), "root"),
    ],
    "newton-schulz": [
        (lambda H, p, t: schulz(H, p, t, 10), "not converged"),
        (lambda H, p, t: polar(B_of(H, p, t)), "products"),
        (lambda H, p, t: nearest.nearest_etf(H, p, t), "nearest_etf"),
        (lambda H, p, t: schulz(H, p, t, 60, 1e-3), "not finite"),
        (lambda H, p, t: schulz(H, p, t, wrong=True), ""),
        (lambda H, p, t: schulz(H, p, 0.01), "0.01"),
        (lambda H, p, t: schulz(H, p, t, factor=1.0), "factor 2"),
        (lambda H, p, t: schulz(H, p, t).mT, "transposed"),
        (lambda H, p, t: torch.linalg.qr(B_of(H, p, t))[0], "products"),
        (lambda H, p, t: B_of(H, p, t) / B_of(H, p, t).norm(), "start"),
        (lambda H, p, t: B_of(H, p, t) @ (3 * torch.eye(H.shape[0])), "raises"),
    ],
    "even-delta": [
        (lambda H, p: 2 / (H.shape[1] - 1), "estimate"),
        (lambda H, p: bisect(H, p, flip=True), "turned round"),
        (lambda H, p: bisect(H, p, 10), "halvings"),
        (lambda H, p: 0.22, "constant"),
        (lambda H, p: bisect(H, p, nearest_=lambda H: H), "class means"),
        (lambda H, p: turned(nearest.nearest_etf(H, p, 0.2)), "number"),
        (lambda H, p: 1 / bisect(H, p), "one over"),
        (lambda H, p: 2 * bisect(H, p), "2 times"),
        (lambda H, p: bisect(H, p, view=lambda U: U), ""),
    ],
    "bound": [
        (etf.cross_entropy_bound, "library"),
        (lambda C, t: etf.cross_entropy_bound(C, t), "library"),
        (lambda C, t: math.log(math.exp(t) + (C - 1) * math.exp(-t / (C - 1))), "subtracted"),
        (lambda C, t: t - math.log(math.exp(t) + (C - 1) * math.exp(-t / (C - 1))), "sign"),
        (lambda C, t: math.log(math.exp(t) + C * math.exp(-t / (C - 1))) - t, "not C"),
        (lambda C, t: math.log(math.exp(t) + C - 1) - t, "not 0"),
        (lambda C, t: math.exp(t) / (math.exp(t) + (C - 1) * math.exp(-t / (C - 1))), "probability"),
        (lambda C, t: 0.034202, "constant"),
        (lambda C, t: math.log(C), "guessing"),
        (lambda C, t: math.log2(1 + (C - 1) * math.exp(-t * C / (C - 1))), "base 2"),
        (lambda C, t: math.log1p((C - 1) * math.exp(-5 * C / (C - 1))), ""),
        (lambda C, t: 2 * math.log1p((C - 1) * math.exp(-t * C / (C - 1))), "2 times"),
    ],
    "thousand-classes": [
        (500, "logarithm"),
        (math.log(111) + 50 / 9, "exponent"),
        (5, "same"),
        (15.0, "log C"),
        (0.999 * 50 / 9, "factor"),
        (math.log(100) + 5, "competitors"),
        (1000, ""),
        (-10.2549, "sign"),
    ],
    "fair-direction": [
        (history(frame="canonical"), "haar"),
        (history("implicit", frame="haar"), "fixed"),
        (history(frame="haar", iterations=50), "steps"),
        (0.03, "History"),
        (history("standard"), "fixed"),
        (pd.DataFrame({"loss": [1.0]}), "History"),
    ],
    "implicit-head": [
        (lambda *a: implicit(*a, bias=0.0), "bias"),
        (lambda *a: implicit(*a, bias=1.0), "bias"),
        (lambda *a: implicit(*a, unit=False), "Frobenius"),
        (lambda *a: implicit(*a, length=0.5), "2 times too small"),
        (lambda z, y, p, tau, t: implicit(z, y, p, 1.0, t), "temperature"),
        (lambda *a: implicit(*a, solve=lambda H, p, t: p), "last frame"),
        (by_the_head, "library"),
        (lambda *a: implicit(*a).mT, "transposed"),
        (lambda *a: implicit(*a).softmax(-1), "logits"),
        (lambda *a: implicit(*a).argmax(-1), "shape"),
        (lambda *a: -implicit(*a), "sign"),
        (lambda z, y, p, tau, t: z @ etf.simplex_etf(p.shape[1], frame=p).mT.mT, ""),
        (lambda *a: implicit(*a, by_class=True), ""),
        (lambda *a: implicit(*a).log_softmax(-1), ""),
    ],
    "training-loop": [
        (lambda *a: descend(*a, zero=False), "zero_grad"),
        (lambda *a: descend(*a, move=False), "stays"),
        (lambda *a: descend(*a, back=False), "stays"),
        (lambda *a: descend(*a)[-1], "last"),
        (lambda *a: descend(*a)[1:], "shape"),
        (lambda h, f, y, o, n: descend(h, f, y, o, n + 1), "many"),
        (lambda *a: [0.0] * a[-1], ""),
        (lambda *a: [x.item() * len(a[1]) for x in descend(*a)], "N times"),
        (lambda *a: None if descend(*a) else 0, "nothing"),
        (lambda h, f, y, o, n: descend(h, f, y, o, 3), ""),
        (loop, "never ends"),
    ],
    "frame-moves": [
        (
            lambda H, p, t, U, D: (
                (nearest.nearest_etf(H + 1e-6 * D, p, t) - nearest.nearest_etf(H - 1e-6 * D, p, t)) / 2e-6
            ),
            "by hand",
        ),
        (lambda *a: moves(*a, P=False), "P is missing"),
        (lambda *a: moves(*a, scale=1.0), "factor 2"),
        (lambda *a: moves(*a, out=0.0), "outside"),
        (lambda *a: moves(*a, omega=0.0), "within"),
        (lambda *a: -moves(*a), "sign"),
        (lambda H, p, t, U, D: D, ""),
        (lambda *a: moves(*a).mT, "transposed"),
        (lambda *a: vjp(*a), "backwards"),
        (lambda *a: 2 * moves(*a), "2 times"),
        (lambda *a: moves(*a, omega=-1.0), ""),
    ],
    "gradient": [
        (autograd_vjp, "by hand"),
        (lambda H, p, t, U, Y: reference.proposition1_vjp(H, p, t, U, Y), "by hand"),
        (lambda *a: vjp(*a, P=False), "P is missing"),
        (lambda *a: vjp(*a, scale=1.0), "factor 2"),
        (lambda *a: vjp(*a, out=0.0), "outside"),
        (lambda *a: vjp(*a, inside=0.0), "within"),
        (lambda *a: -vjp(*a), "sign"),
        (lambda H, p, t, U, Y: Y, "Y itself"),
        (lambda *a: moves(*a), "forwards"),
        (lambda *a: vjp(*a).mT, "transposed"),
        (lambda *a: vjp(*a) * (a[0].shape[1] - 1) ** 0.5, ""),
        (lambda *a: torch.zeros_like(a[0]), ""),
    ],
    "without-torque": [
        (lambda g, z: g, "nothing"),
        (lambda g, z: g - z @ torch.linalg.pinv(z) @ g, "linear maps"),
        (lambda g, z: z @ sylvester(z.mT @ z, z.mT @ g - g.mT @ z), "part with"),
        (lambda g, z: g + z @ sylvester(z.mT @ z, z.mT @ g - g.mT @ z), "sign"),
        (lambda g, z: g - z @ sylvester(z.mT @ z, z.mT @ g + g.mT @ z), "minus"),
        (lambda g, z: g - z @ (z.mT @ g - g.mT @ z) / 2, "Sylvester"),
        (lambda g, z: 0 * g, ""),
        (lambda g, z: g.mT @ z - z.mT @ g, "torque"),
        (lambda g, z: g - z @ sylvester(z.mT @ z, z.mT @ g - g.mT @ z) / 2, "half"),
    ],
    "tangent-share": [
        (lambda U, Y: (Y - U @ (U.mT @ Y + Y.mT @ U) / 2).norm(), "divide"),
        (lambda U, Y: (U @ (U.mT @ Y - Y.mT @ U) / 2).norm() / Y.norm(), "outside"),
        (lambda U, Y: (U.mT @ Y + Y.mT @ U).norm() / 2 / Y.norm(), "not"),
        (lambda U, Y: ((Y - U @ (U.mT @ Y + Y.mT @ U) / 2).norm() / Y.norm()) ** 2, "root"),
        (lambda U, Y: 0.98, "constant"),
        (lambda U, Y: 100 * (Y - U @ (U.mT @ Y + Y.mT @ U) / 2).norm() / Y.norm(), "100"),
        (lambda U, Y: (Y - U @ U.mT @ Y).norm() / Y.norm(), ""),
    ],
    "probability-1000": [
        (2.0389, "log p"),
        (0.001, "guessing"),
        (1 - 0.13018, "wrong classes"),
        (7.68, "sign"),
        (0.9664, "ten classes"),
        (13.0, "per cent"),
        (1.0, "sure"),
        (-2.0389, ""),
    ],
    "steps-to-90": [
        (lambda f: steps(f, 1.0), "100 %"),
        (lambda f: steps(f, how="mean"), "mean"),
        (lambda f: steps(f, how="min"), "fastest"),
        (lambda f: steps(f, how="max"), "slowest"),
        (lambda f: 12, ""),
        (lambda f: steps(f) + 1, "1 too large"),
        (lambda f: steps(f, 0.5), "50 %"),
        (lambda f: steps(f).sort_index(ascending=False).to_numpy(), "order"),
        (lambda f: f.groupby("size")["iteration"].median(), ""),
    ],
    "few-dimensions": [
        (history("implicit", 300, FEW | {"dim": 40}, FLOOR), "dimensions"),
        (history("fixed", 300, FEW, FLOOR), "implicit"),
        (history("implicit", 300, FEW | {"num_classes": 10}, FLOOR), "classes"),
        (history("implicit", 30, FEW, FLOOR), "steps"),
        (history("implicit", 300, FEW, 1.2 * FLOOR), "floor"),
        (True, "History"),
        (history("implicit", 300, FEW | {"num_samples": 100}, FLOOR), "samples"),
    ],
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
        (lambda *a: chain(*a).norm(), "number") if False else (lambda *a: chain(*a).square().mean().sqrt(), "size"),
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
        (lambda g: (entropy(g) / math.log(g.shape[-1])).exp(), "ln C"),
        (lambda g: torch.exp(-(g * g.log()).sum(-1)), "sum"),
        (lambda g: (g > 0).sum(-1), "above 0"),
        (lambda g: entropy(g).exp() / g.shape[-1], "C times too small"),
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
