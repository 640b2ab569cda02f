"""nearest_etf against the number of classes: time, peak memory and gradient error, beside the papers' own algorithms.

Each method is measured at each size in a process of its own, so that its peak memory is its own. A method that took
longer than --limit seconds is not tried at larger sizes. The table goes to --out, with its provenance, and is resumed
from there.

    python benchmarks/nearest_etf.py                      the whole table, about 15 minutes on two cores
    python benchmarks/nearest_etf.py --classes 10 100     two sizes
"""

import argparse
import ctypes
import gc
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from _measuring import milliseconds

from labkit import etf, nearest, reference
from labkit.history import History, provenance

DIMS = {10: 512, 20: 512, 2000: 2048}  # 1024 for the others, as the paper's UFMs
DELTA = 1e-3


def problem(d, C, device="cpu", dtype=torch.float64):
    """Class means as in training, near a simplex ETF; the frame of the step before, a small rotation away; a
    cotangent.
    """
    g = torch.Generator().manual_seed(0)
    means = etf.simplex_etf(C, frame=etf.haar_frame(d, C, g, dtype=torch.float64))
    noise = torch.randn(2, d, C, generator=g, dtype=torch.float64) / d**0.5
    means, before = (
        m / m.norm()
        for m in (
            m - m.mean(-1, keepdim=True) for m in (means + 0.5 * noise[0], means + 0.5 * noise[0] + 0.05 * noise[1])
        )
    )
    prox = nearest.start_frame(before)
    cotangent = torch.randn(d, C, generator=g, dtype=torch.float64)
    return tuple(t.to(device, dtype) for t in (means, prox, cotangent))


class Closed:
    """Ours. backward: whether there is one."""

    def __init__(self, dtype=torch.float32, backward=True):
        self.dtype, self.backward = dtype, backward

    def solve(self, means, prox):
        return nearest.nearest_etf(means, prox, DELTA)

    def step(self, means, prox, cotangent):
        """(forward, backward) as functions; backward gives the gradient with respect to the means."""
        means = means.clone().requires_grad_(self.backward)
        state = {}

        def forward():
            state["u"] = self.solve(means, prox)
            return state["u"].detach()

        def backward():
            return torch.autograd.grad(state["u"], means, cotangent)[0]

        return forward, backward if self.backward else None


class SVD(Closed):
    def solve(self, means, prox):
        C = means.shape[-1]
        left, _, right = torch.linalg.svd(
            2 / (C - 1) ** 0.5 * (means - means.mean(-1, keepdim=True)) + DELTA * prox, full_matrices=False
        )
        return left @ right


class Polar(Closed):
    def solve(self, means, prox):
        C = means.shape[-1]
        return torch.linalg.polar(2 / (C - 1) ** 0.5 * (means - means.mean(-1, keepdim=True)) + DELTA * prox)[0]


class TrustRegion:
    """The paper's forward pass: cold from a random frame, as in its first step; warm from the frame of the step
    before.
    """

    dtype = torch.float64

    def __init__(self, warm):
        self.warm = warm

    def step(self, means, prox, cotangent):
        d, C = means.shape
        start = prox if self.warm else etf.haar_frame(d, C, torch.Generator().manual_seed(1), dtype=torch.float64)
        return lambda: reference.trust_region(means, prox, DELTA, start=start), None


class Dense:
    """The paper's backward pass, with its dC×dC matrices; forward is ours."""

    dtype = torch.float64

    def step(self, means, prox, cotangent):
        u = nearest.nearest_etf(means, prox, DELTA)
        return lambda: u, lambda: reference.proposition1_vjp(means, prox, DELTA, u, cotangent)


METHODS = {
    "closed form": lambda: Closed(),
    "closed form, float64": lambda: Closed(torch.float64),
    "closed form, no gradient": lambda: Closed(backward=False),
    "trust region, cold": lambda: TrustRegion(False),
    "trust region, warm": lambda: TrustRegion(True),
    "Proposition 1, dense": Dense,
    "SVD with autograd": lambda: SVD(),
} | ({"torch.linalg.polar": lambda: Polar()} if hasattr(torch.linalg, "polar") else {})


def seconds(functions, device, repeats):
    """Median time of a call of each of the functions, which take turns, so that a machine whose speed drifts treats
    them alike.
    """
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    taken = [[milliseconds(f, 1, wait) / 1e3 for f in functions] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*taken)]


class Peak:
    """Peak memory since it was made, beyond what was in use then, MiB. On a CPU that of the process, which Linux
    tells.
    """

    def __init__(self, device):
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated() / 2**20
        else:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but is still held would hide what comes
            Path("/proc/self/clear_refs").write_text("5")
            self.before = self.resident("VmRSS")

    def __call__(self):
        now = torch.cuda.max_memory_allocated() / 2**20 if self.cuda else self.resident("VmHWM")
        return now - self.before

    @staticmethod
    def resident(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def gradient_error(gradient, means, prox, cotangent):
    """Relative error along four random directions, against central differences of an SVD solution in float64."""
    C, g, errors = means.shape[-1], torch.Generator().manual_seed(7), []

    def value(means):
        left, _, right = torch.linalg.svd(
            2 / (C - 1) ** 0.5 * (means - means.mean(-1, keepdim=True)) + DELTA * prox, full_matrices=False
        )
        return ((left @ right) * cotangent).sum()

    for _ in range(4 if C <= 200 else 1):
        direction = torch.randn(means.shape, generator=g, dtype=torch.float64)
        direction = (
            direction / direction.norm() + gradient.cpu().double() / gradient.cpu().double().norm()
        )  # not orthogonal to the gradient
        h = 1e-4 / C**0.5
        # Four-point differences: their own error is of order h⁴.
        slope = (
            8 * (value(means + h * direction) - value(means - h * direction))
            - (value(means + 2 * h * direction) - value(means - 2 * h * direction))
        ) / (12 * h)
        errors.append(abs((gradient.cpu().double() * direction).sum() - slope) / abs(slope))
    return float(max(errors))


def measure(name, C, d, device):
    """Rows of one method at one size, measured in this process."""
    method = METHODS[name]()
    exact = problem(d, C)
    given = tuple(t.to(device, method.dtype) for t in exact)
    small = problem(16, 4, device, method.dtype)  # first use of the libraries is not the method's memory
    forward, backward = method.step(*small)
    forward()
    if backward:
        backward()
    forward, backward = method.step(*given)
    product = given[0].float(), given[1].float().mT.contiguous()
    rows = []

    def timed(quantity, function):
        peak = Peak(device)
        begin = time.perf_counter()
        result = function()
        first = time.perf_counter() - begin
        used = peak()
        repeats = 0 if first > 5 else 5 if first > 1 else 15
        took, unit = (
            seconds([function, lambda: product[1] @ product[0]], device, repeats) if repeats else (first, math.nan)
        )
        rows.append(
            {
                "method": name,
                "num_classes": C,
                "dim": d,
                "dtype": str(method.dtype).removeprefix("torch."),
                "quantity": quantity,
                "milliseconds": took * 1e3,
                "peak_mib": used,
                "product_ms": unit * 1e3,
            }
        )
        return result

    if not isinstance(method, Dense):  # its forward pass is ours
        timed("forward", forward)
    if backward:
        gradient = timed("forward + backward", lambda: (forward(), backward())[1])
        rows[-1]["gradient_error"] = gradient_error(gradient, *exact)
    return rows


def exponent(table):
    """Growth exponent of the time in C, from the sizes of one dimension (1024)."""
    fit = table[(table["num_classes"] >= 50) & (table["dim"] == 1024)]
    return np.polyfit(np.log(fit["num_classes"]), np.log(fit["milliseconds"]), 1)[0] if len(fit) > 1 else float("nan")


def report(table):
    shown = table.pivot_table(index=["method", "quantity"], columns="num_classes", values="milliseconds", sort=False)
    print(shown.to_string(float_format=lambda x: f"{x:.3g}", na_rep=""), "\n(milliseconds)\n")
    memory = table.pivot_table(index=["method", "quantity"], columns="num_classes", values="peak_mib", sort=False)
    print(memory.to_string(float_format=lambda x: f"{x:.0f}", na_rep=""), "\n(additional peak memory, MiB)\n")
    errors = table.dropna(subset="gradient_error").pivot_table(
        index="method", columns="num_classes", values="gradient_error", sort=False
    )
    print(errors.to_string(float_format=lambda x: f"{x:.1e}", na_rep=""), "\n(relative error of the gradient)\n")
    for (method, quantity), part in table.groupby(["method", "quantity"], sort=False):
        if not np.isnan(power := exponent(part)):
            print(f"time of {method}, {quantity}: C^{power:.2f} from C = 50 on at d = 1024")
    goal = table[(table["method"] == "closed form") & (table["num_classes"] == 1000)]
    for row, limit in zip(goal.itertuples(), (12, 24)):
        numbers = 4 * (row.dim * 1000 + 1000**2) / 2**20
        print(
            f"C=1000, d={row.dim}, float32, {row.quantity}: {row.milliseconds / row.product_ms:.1f} products of (1000×d)·(d×1000)  "
            f"(goal ≤ {limit}); peak memory {row.peak_mib / numbers:.1f} × (dC + C²) numbers  (goal ≤ 12)"
        )
    against_the_reference(table)


def against_the_reference(table, C=100):
    """Trust region and dense Proposition 1 over ours, at C classes. The dense one does not fit there: its time is taken
    from the largest size measured, by the power of dC between the two largest, and that at most a solve's, 3; a higher
    one would flatter us."""

    def times(method, quantity):
        return table[(table["method"] == method) & (table["quantity"] == quantity)].sort_values("num_classes")

    both = "forward + backward"
    ours, region, dense = (
        times("closed form", both),
        times("trust region, cold", "forward"),
        times("Proposition 1, dense", both),
    )
    ours, region = (part[part["num_classes"] == C]["milliseconds"] for part in (ours, region))
    if ours.empty or region.empty or len(dense) < 2:
        return
    size, took = (dense["num_classes"] * dense["dim"]).to_numpy()[-2:], dense["milliseconds"].to_numpy()[-2:]
    power = min(3.0, np.log(took[1] / took[0]) / np.log(size[1] / size[0]))
    extrapolated = took[1] * (C * DIMS.get(C, 1024) / size[1]) ** power
    print(
        f"C={C}: trust region / ours {region.item() / ours.item():.0f} ×; with dense Proposition 1, {extrapolated / 1e3:.3g} s by (dC)^{power:.2f} "
        f"from dC={size[1]}, {(region.item() + extrapolated) / ours.item():.2g} ×  (goal ≥ 1000 ×)"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 20, 50, 100, 200, 500, 1000, 2000])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=20, help="seconds: a slower method is not tried at larger sizes")
    parser.add_argument(
        "--memory", type=float, default=8, help="GiB: Proposition 1 is not tried where its matrices need more"
    )
    parser.add_argument("--out", type=Path, help="Parquet file to write, and to resume from")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        method, C, d = args.one
        print(json.dumps(measure(method, int(C), int(d), args.device)))
        return
    kept = History.load(args.out) if args.out and args.out.exists() else None
    if kept and not kept.settings["device"].startswith(torch.device(args.device).type):
        parser.error(f"{args.out} was measured on {kept.settings['device']}; {args.device} needs another file")
    rows = kept.frame.to_dict("records") if kept else []
    done = {(row["method"], row["num_classes"]) for row in rows}
    for method in args.methods:
        for C in sorted(args.classes):
            d = DIMS.get(C, 1024)
            if (method, C) in done:
                continue
            if method.startswith("Prop") and 6 * 8 * (d * C) ** 2 > args.memory * 2**30:
                break
            print(f"{method}, C={C}, d={d} ...", file=sys.stderr, flush=True)
            child = subprocess.run(
                [sys.executable, __file__, "--one", method, str(C), str(d), "--device", args.device],
                stdout=subprocess.PIPE,
                text=True,
            )
            if child.returncode:
                print(f"  ended with exit status {child.returncode}", file=sys.stderr)
                break
            found = json.loads(child.stdout)
            rows += found
            if args.out:
                frame = pd.DataFrame(rows).assign(head=lambda t: t["method"], seed=0, iteration=range(len(rows)))
                History(frame, {"benchmark": "nearest_etf", "delta": DELTA, **provenance(args.device)}).save(args.out)
            if max(row["milliseconds"] for row in found) > args.limit * 1e3:
                break
    report(pd.DataFrame(rows))


if __name__ == "__main__":
    main()
