"""Right and wrong answers to the exercises of notebooks 04 to 06: see bank.py."""

import math

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from course.bank_geometry import B_of, centred, polar
from torch.autograd import forward_ad

from labkit import etf, heads, nearest, reference
from labkit.history import History
from labkit.studies.ufms import claims


def loop(*_):
    while True:
        pass


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


def backward_vjp(H, prox, delta, U, Y):
    H = H.clone().requires_grad_()
    torch.autograd.backward((polar(B_of(H, prox, delta)) * Y).sum())
    return H.grad


def forward_mode(H, prox, delta, U, D):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(polar(B_of(forward_ad.make_dual(H, D), prox, delta))).tangent


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
    head = heads.ImplicitETFHead(*prox.shape, temperature=tau, delta=delta).double()
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


RIGHT = {
    "bound": [
        lambda C, t: math.log(math.exp(t) + (C - 1) * math.exp(-t / (C - 1))) - t,
        lambda C, t: F.cross_entropy(
            torch.cat([torch.tensor([t]), torch.full((C - 1,), -t / (C - 1))])[None], torch.tensor([0])
        ),
        lambda C, t: np.float32(np.log1p((C - 1) * np.exp(-t * C / (C - 1)))),
    ],
    "thousand-classes": [10.25, 0.999 * (math.log(999) - math.log(9) + 50 / 9), 10.2549, torch.tensor(10.2549)],
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
        lambda f: steps(f).to_frame("iteration"),
        lambda f: claims.steps_to(f, 0.9).groupby("num_classes")["steps"].median(),
        lambda f: steps(f).astype(int),
        lambda f: steps(f).to_frame("steps"),
    ],
    "few-dimensions": [
        history("implicit", 300, FEW, FLOOR * 1.001),
        history("implicit", 300, FEW | {"dim": 19}, FLOOR * 1.001),
    ],
}

WRONG = {
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
        (history(frame="haar", loss=math.nan), "finite"),
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
        (forward_mode, "by hand"),
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
        (backward_vjp, "by hand"),
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
        (
            lambda f: steps(f.groupby(["size", "iteration"])["accuracy"].median().reset_index().assign(seed=0)),
            "the median accuracy first",
        ),
        (lambda f: steps(f.assign(accuracy=f[::-1].groupby(["size", "seed"])["accuracy"].cummin())), "stays"),
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
}
