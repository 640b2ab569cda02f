"""What the bias of an ETF head does where classes are unequal: UFMs with each head, with its bias and without.

    python -m labkit.studies.ufms.imbalance --out data/results/ufm-imbalance.parquet

The guiding paper's Eq. 8 gives the implicit head b = −W μ_G and says nothing of the fixed one; the released code gives
the fixed head b = −W·mean(h) of the batch, a constant for the gradient. For each way there is a deterministic number
beside the runs: the smallest cross entropy that it allows, computed with one feature for each class (see `bound`).
"""

import argparse
import math
from collections.abc import Iterable, Sequence

import pandas as pd
import torch
import torch.nn.functional as F

from labkit import checks, etf, ufm
from labkit.history import History
from labkit.studies import in_name

WAYS = {
    "standard": ("standard", {}),
    "fixed, no bias": ("fixed", {}),
    "fixed, b = −W·mean(h)": ("fixed", {"bias": "batch_mean"}),
    "implicit, no bias": ("implicit", {"bias": None}),
    "implicit, b = −Wμ": ("implicit", {}),
}
SPECS = [ufm.UFM(10, 500, 64, r) for r in (1.0, 10.0, 20.0, 100.0)]


def train(
    specs: Iterable[ufm.UFM] = SPECS,
    ways: Iterable[str] = tuple(WAYS),
    iterations: int = 2000,
    seeds: Sequence[int] = range(5),
) -> History:
    """Each way on each UFM: the columns of `train_ufm` with the way as head, imbalance, and margin_largest and
    margin_smallest, the mean cosine margins of the first and of the last class at the end (NaN before).

    Raises ValueError for UFMs of one imbalance, which the tables could not tell apart.
    """
    tables, made, specs = [], {}, list(specs)
    if len(there := [in_name(spec.imbalance) for spec in specs]) > len(set(there)):
        raise ValueError(f"each UFM must have an imbalance of its own, got {', '.join(there)}")
    for spec in specs:
        labels = spec.targets().numpy()
        for name in ways:
            head, options = WAYS[name]
            run = ufm.train_ufm(spec, head, iterations, seeds, **options)
            by_class = run.margins.assign(label=labels[run.margins["sample"].to_numpy(int)])
            by_class = by_class.groupby(["seed", "label"])["margin"].mean().unstack("label")
            ends = by_class.iloc[:, [0, -1]].set_axis(["margin_largest", "margin_smallest"], axis=1)
            frame = run.frame.merge(ends.reset_index(), on="seed")
            frame.loc[frame["iteration"] < iterations, list(ends)] = math.nan
            tables.append(frame.assign(head=name, imbalance=spec.imbalance))
            made = run.settings
    settings = {key: made[key] for key in ("device", "versions", "date", "temperature", "gain", "seeds", "iterations")}
    sizes = {in_name(spec.imbalance): spec.class_sizes().tolist() for spec in specs}
    return History(pd.concat(tables), settings | {"class_sizes": sizes, "dim": spec.dim})


def bound(sizes: torch.Tensor, way: str, temperature: float = 5.0) -> tuple[float, float]:
    """The smallest mean cross entropy that a way allows, as (lower bound, value reached): equal but for rounding.

    sizes: (C,) samples of each class. Valid for any number of features, since all losses are convex in what they see
    of the features, so that the features of a class may as well be one; for the standard head in d ≥ 2C dimensions.
    - Without a bias, W an ETF: `etf.cross_entropy_bound`, whatever the sizes: it holds for every single sample.
    - With b = −W·mean(h), W an ETF: a convex problem in the features. Lower bound: value less the Frank–Wolfe gap.
    - standard: W and h are free on spheres, the problem is semidefinite. Lower bound: by the least eigenvalue of its
      dual slack.

    >>> low, value = bound(torch.tensor([8, 4, 2]), "implicit, b = −Wμ")
    >>> bool(low <= value < low + 1e-6)
    True
    """
    checks.one_of("way", way, tuple(WAYS))
    C, share = len(sizes), sizes.double() / sizes.sum()
    if way == "standard":
        return _free(share, temperature)
    if "no bias" in way:
        return (etf.cross_entropy_bound(C, temperature),) * 2
    return _with_bias(share, temperature)


def _loss(logits, share):
    """Mean cross entropy of logits (C, C), a row for the feature of each class."""
    return (share * (logits.logsumexp(-1) - logits.diagonal())).sum()


def _etf(num_classes):
    """Class vectors in float64, (C, C), one in each row."""
    return etf.simplex_etf(num_classes, frame=torch.eye(num_classes, dtype=torch.float64)).mT.contiguous()


def _minimise(value, x, steps=500):
    """The smallest value(x) that L-BFGS finds, x changed in place."""
    x.requires_grad_()
    options = dict(lr=1, max_iter=steps, tolerance_grad=1e-13, tolerance_change=1e-14, line_search_fn="strong_wolfe")
    optimizer = torch.optim.LBFGS([x], history_size=20, **options)

    def closure():
        optimizer.zero_grad()
        loss = value(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    return x.detach()


def _with_bias(share, temperature):
    w = _etf(len(share))  # (C, C), a class vector in each row

    def value(h):
        return _loss((h - share @ h) @ w.mT, share)

    on_sphere = lambda x: temperature * F.normalize(x, dim=-1)
    h = on_sphere(_minimise(lambda x: value(on_sphere(x)), w.clone())).requires_grad_()
    loss = value(h)
    (g,) = torch.autograd.grad(loss, h)
    gap = ((g * h).sum(-1) + temperature * g.norm(dim=-1)).sum()  # over all ‖h‖ ≤ τ
    return (loss - gap).item(), loss.item()


def _free(share, temperature):
    C = len(share)
    start = torch.randn(2 * C, 2 * C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit = _minimise(lambda x: _loss(temperature * _products(F.normalize(x, dim=-1)), share), start)
    rows = F.normalize(unit, dim=-1)
    products = (rows @ rows.mT).requires_grad_()  # of class vectors and of features of length 1
    loss = _loss(temperature * products[C:, :C], share)
    (g,) = torch.autograd.grad(loss, products)
    g = (g + g.mT) / 2
    slack = g - torch.diag((g * products.detach()).sum(-1))
    return (loss + 2 * C * torch.linalg.eigvalsh(slack)[0].clamp(max=0)).item(), loss.item()


def _products(rows):
    """⟨w_k, h_c⟩ at place (c, k), of rows that hold the class vectors and then the features."""
    C = len(rows) // 2
    return rows[C:] @ rows[:C].mT


def equilibrium(sizes: torch.Tensor, temperature: float = 5.0, steps: int = 600) -> tuple[float, float]:
    """Where the fixed head with b = −W·mean(h) comes to rest: its bias is a constant for the gradient, so that training
    does not minimise the loss. Returns (the loss there, the largest gradient left along the sphere).

    >>> loss, left = equilibrium(torch.tensor([8, 4, 2]))
    >>> left < 1e-6 and loss > bound(torch.tensor([8, 4, 2]), "fixed, b = −W·mean(h)")[0]
    True
    """
    share = sizes.double() / sizes.sum()
    w = _etf(len(share))
    h = temperature * w
    for _ in range(steps):
        probability = ((h - share @ h) @ w.mT).softmax(-1)
        g = (probability - torch.eye(len(share), dtype=h.dtype)) @ w  # of each class's own loss, the bias held
        outwards = -(g * h).sum(-1, keepdim=True) / temperature**2  # the force that the sphere holds
        along = g + outwards * h
        h = temperature * F.normalize(h - 0.2 * along / outwards, dim=-1)
    return _loss((h - share @ h) @ w.mT, share).item(), along.norm(dim=-1).max().item()


def summary(table: pd.DataFrame, sizes: dict) -> pd.DataFrame:
    """The ends of `train`: one row for each imbalance and way, with seeds, the loss's median and range, its bound, how
    far the median is above it, the equilibrium where there is one, and the margins of the largest and smallest class.

    sizes: {imbalance as text: class sizes}, as in the settings of `train`.
    """
    last = table[table["iteration"] == table["iteration"].max()]
    rows = []
    for (imbalance, way), runs in last.groupby(["imbalance", "head"], sort=False):
        count = torch.tensor(sizes[in_name(imbalance)])
        low, _ = bound(count, way)
        loss = runs["loss"]
        rows.append(
            dict(imbalance=imbalance, way=way, seeds=len(runs), loss=loss.median(), lowest=loss.min())
            | dict(highest=loss.max(), bound=low, above=loss.median() - low)
            | dict(rest=equilibrium(count)[0] if way.startswith("fixed, b") else math.nan)
            | {f"{which} class": runs[f"margin_{which}"].median() for which in ("largest", "smallest")}
        )
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m labkit.studies.ufms.imbalance", description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="the Parquet file to write")
    out = parser.parse_args(arguments).out  # before minutes of training
    print(train().save(out))


if __name__ == "__main__":
    main()
