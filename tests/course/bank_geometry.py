"""Right and wrong answers to the exercises of notebooks 00 to 03: see bank.py."""

import math
from fractions import Fraction

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F

from labkit import etf, metrics, nearest, reference
from labkit.course.exercises import exercises


def svd(B):
    return torch.linalg.svd(B, full_matrices=False)


def polar(B):
    left, _, right = svd(B)
    return left @ right


def centred(X):
    return X - X.mean(-1, keepdim=True)


def B_of(H, prox, delta, factor=2.0):
    return factor / math.sqrt(H.shape[1] - 1) * centred(H) + delta * prox


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


def buffered_nc1(features, labels):  # the buffer rounds the means to float32; right where features are of that kind
    C, N = int(labels.max()) + 1, len(features)
    means = torch.zeros(C, features.shape[1])
    for c in range(C):
        means[c] = features[labels == c].mean(0)
    D, B = features - means[labels], means - features.mean(0)
    return torch.trace(D.T @ D / N @ torch.linalg.pinv(B.T @ B / C)) / C


def careless_nc1(features, labels, rtol=1e-2):
    W, B, N, C, _ = nc1_parts(features, labels)
    return torch.trace(W / N @ torch.linalg.pinv(B / C, rtol=rtol, hermitian=True)) / C


def printed_nc1(features, labels):
    right_nc1(features, labels)


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


def heron(X, inverse):  # as for a square root: each step the mean of X and its inverse transposed
    for _ in range(30):
        X = (X + X @ inverse(X.mT @ X)) / 2
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


def by_numpy(H, svd, product=np.matmul):
    left, _, right = svd(np.asarray(H), full_matrices=False)
    return (H - turned(torch.as_tensor(product(left, right)))).norm()


def svdvals(H):
    return torch.linalg.svdvals(H).sum() / math.sqrt(H.shape[1] - 1)


RIGHT = {
    "five-classes": [-0.25, Fraction(-1, 4), "-0.25", torch.tensor(-0.25), np.float32(-0.25), [-0.25], -1 / 4],
    "nc1": [right_nc1, numpy_nc1, numpy_methods_nc1, single_nc1, buffered_nc1, batchwise_nc1],
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
        lambda H: np.sqrt(2 - 2 * np.linalg.svd(np.asarray(H))[1].sum() / np.sqrt(H.shape[1] - 1)),
        lambda H: np.sqrt(2 - 2 * scipy.linalg.svdvals(np.asarray(H)).sum() / np.sqrt(H.shape[1] - 1)),
        lambda H: (2 - 2 * torch.linalg.matrix_norm(H, "nuc") / math.sqrt(H.shape[1] - 1)) ** 0.5,
    ],
    "newton-schulz": [
        schulz,
        lambda H, p, t=0.01: schulz(H, p, t, 100),
        lambda H, p, delta: schulz(H.float(), p.float(), delta),
    ],
    "even-delta": [bisect, lambda H, p: torch.tensor(bisect(H, p, 40)), lambda H, p: np.float32(bisect(H, p))],
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
        (-0.250012, "last digits"),
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
        (careless_nc1, "rtol"),
        (lambda f, l: careless_nc1(f, l, 1e-4), "rtol"),
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
        (lambda C: torch.cat([qr_small(C), torch.zeros(3, C)]), "in C − 1 dimensions"),
        (lambda C: torch.cat([qr_small(C), torch.zeros(3, C)]).tolist(), "in C − 1 dimensions"),
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
        (lambda H, p, t: list(p), ""),
        (lambda H, p, t: polar(H), ""),
        (lambda H, p, t: svd(B_of(H, p, t))[0], ""),
    ],
    "distance": [
        (by_frame, "U*"),
        (lambda H: by_numpy(H, np.linalg.svd), "U*"),
        (lambda H: by_numpy(H, scipy.linalg.svd), "U*"),
        (lambda H: by_numpy(H, np.linalg.svd, np.dot), "U*"),
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
        (lambda H, p, t: heron(B_of(H, p, t), torch.inverse), "products"),
        (lambda H, p, t: heron(B_of(H, p, t), lambda M: torch.as_tensor(np.linalg.inv(M.numpy()))), "products"),
        (lambda H, p, t: np.matmul(*scipy.linalg.svd(B_of(H, p, t), full_matrices=False)[::2]), "products"),
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
}
