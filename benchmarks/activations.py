"""What AGLU costs in time and memory beside its plain formula and SiLU, and how exact each way of computing it is.

Compared are forward and backward, with the gradients of z, κ and λ: labkit's aglu, the formula as printed and the
supplement's softplus form (its Eq. 4), both differentiated by autograd, and SiLU. Every ratio is the median over paired
blocks taken in turn in one run, so that a machine whose speed drifts does not decide it. --help for the options.
"""

import argparse
import os
import shutil
import statistics
import time

import pandas as pd
import plotly.graph_objects as go
import torch
from mpmath import mp, mpf
from plotly.subplots import make_subplots

from labkit.activations import aglu


def composite(z, kappa, lam):
    """The formula as printed."""
    return z * (lam * torch.exp(-kappa * z) + 1) ** (-1 / lam)


def softplus_form(z, kappa, lam):
    """Eq. 4 of the supplement: η = exp(s(κz − ln λ, −1)/λ) with s(x, β) = ln(1 + e^{βx})/β."""
    return z * torch.exp(torch.nn.functional.softplus(kappa * z - torch.log(lam), beta=-1) / lam)


def silu(z, kappa, lam):
    return torch.nn.functional.silu(z)


FORMS = {"labkit": aglu, "composite": composite, "Eq. 4": softplus_form}


# --- time and memory ----------------------------------------------------------------------------------------------


def stepper(function, arguments, grad):
    """Forward and backward of function(z, κ, λ), as a function without arguments."""
    return lambda: torch.autograd.grad(function(*arguments), arguments, grad, allow_unused=True)  # SiLU has no κ and λ


def milliseconds(step, steps, device):
    if device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(steps):
            step()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / steps
    start = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - start) / steps * 1e3


def blocks(steppers, repeats, steps, device):
    """Milliseconds a step of each, block by block, the steppers taking turns."""
    for step in steppers.values():
        for _ in range(3):
            step()
    return [{name: milliseconds(step, steps, device) for name, step in steppers.items()} for _ in range(repeats)]


def ratio(rows, a, b):
    return statistics.median(row[a] / row[b] for row in rows)


def kept(function, z, *parameters):
    """Bytes that autograd keeps for the backward pass, z included, as a multiple of those of z."""
    storages = {}

    def note(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        function(z, *parameters)
    return sum(storages.values()) / z.untyped_storage().nbytes()


def compiler_missing(device):
    """What torch.compile would lack on the device, or None."""
    if device == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "Triton"
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    return None if any(map(shutil.which, names)) else "a C++ compiler (g++ or clang++)"


def report(device, dtype, shape, repeats, steps):
    """Print times, memory and ratios with their goals."""
    generator = torch.Generator().manual_seed(0)
    z, grad = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2))
    arguments = [z.requires_grad_(), *(torch.tensor(x, device=device, requires_grad=True) for x in (1.1, 0.5))]
    steppers = {f"{name}, eager": stepper(f, arguments, grad) for name, f in FORMS.items()}
    missing = compiler_missing(device)
    if missing is None:
        steppers |= {
            f"{name}, compiled": stepper(torch.compile(f, dynamic=False), arguments, grad)
            for name, f in {"labkit": aglu, "composite": composite, "SiLU": silu}.items()
        }
    rows = blocks(steppers, repeats, steps, device)
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"z of shape {' × '.join(map(str, shape))}, {str(dtype)[6:]}, {where}, torch {torch.__version__}")
    print("median ms, forward + backward")
    for name in steppers:
        print(f"  {name:28s} {statistics.median(row[name] for row in rows):8.2f}")
    goals = [
        ("eager: labkit / composite", ratio(rows, "labkit, eager", "composite, eager"), 1.0),
        ("eager: labkit / Eq. 4", ratio(rows, "labkit, eager", "Eq. 4, eager"), None),
    ]
    if missing is None:
        goal = 1.2 if device == "cuda" else 1.5
        goals += [
            ("compiled: labkit / SiLU", ratio(rows, "labkit, compiled", "SiLU, compiled"), goal),
            ("compiled: labkit / composite", ratio(rows, "labkit, compiled", "composite, compiled"), None),
        ]
    goals += [
        (f"memory kept / z: {name}", kept(f, *arguments), 2.0 if f is aglu else None) for name, f in FORMS.items()
    ]
    print("ratio                                             measured   goal")
    for name, value, goal in goals:
        verdict = "" if goal is None else f"   ≤ {goal:g}{'' if value <= goal else '   MISSED'}"
        print(f"  {name:46s} {value:8.2f}{verdict}")
    if missing is not None:
        print(f"  compiled: not measured, {missing} is missing")


# --- errors -------------------------------------------------------------------------------------------------------


def error_table(lambdas=None, zs=None):
    """Relative errors of AGLU and of its derivative in λ at κ = 1, the largest over zs, against mpmath at 50 digits.

    lambdas: values of λ, 1e-8 to 10 when omitted. zs: values of z, −1.5 to 8 when omitted, where |ln η| < 5 for every
        λ.
    Returns a table with the columns lambda, dtype, quantity ("value" or "λ-gradient"), formula (those of FORMS) and
    error, infinite where a result is not finite. The truth is taken at the numbers as rounded to the dtype.
    """
    lambdas = [10 ** (i / 4) for i in range(-32, 5)] if lambdas is None else lambdas
    zs = [-1.5 + 0.5 * i for i in range(20) if i != 3] if zs is None else zs
    rows = []
    for dtype in (torch.float32, torch.float64):
        z = torch.tensor([zs], dtype=dtype)
        for value in lambdas:
            lam = torch.full_like(z[0], value).requires_grad_()  # each z is a channel, and has a λ of its own
            true = [truth(x, lam[0].item()) for x in z[0].tolist()]
            for name, function in FORMS.items():
                out = function(z, torch.ones_like(lam), lam)
                (slope,) = torch.autograd.grad(out.sum(), lam)
                for quantity, found, exact in zip(("value", "λ-gradient"), (out[0], slope), zip(*true)):
                    errors = [float(abs(mpf(a) - b) / abs(b)) for a, b in zip(found.tolist(), exact)]
                    worst = max(errors) if all(e == e for e in errors) else float("inf")
                    rows.append((value, str(dtype)[6:], quantity, name, worst))
    return pd.DataFrame(rows, columns=["lambda", "dtype", "quantity", "formula", "error"])


def truth(z, lam):
    """AGLU and its derivative in λ at κ = 1."""
    with mp.workdps(80):
        z, lam = mpf(z), mpf(lam)
        u = lam * mp.exp(-z)
        value = z * mp.exp(-mp.log1p(u) / lam)
        return value, value * (mp.log1p(u) - u / (1 + u)) / lam**2


def error_figure(table):
    """The table as a log-log figure, a panel for each dtype and quantity."""
    dtypes, quantities = table["dtype"].unique(), table["quantity"].unique()
    figure = make_subplots(
        len(quantities),
        len(dtypes),
        shared_xaxes=True,
        shared_yaxes="columns",
        subplot_titles=[f"{q}, {d}" for q in quantities for d in dtypes],
    )
    for (quantity, dtype, name), part in table.groupby(["quantity", "dtype", "formula"], sort=False):
        row, col = list(quantities).index(quantity) + 1, list(dtypes).index(dtype) + 1
        colour = dict(zip(FORMS, ("#009E73", "#D55E00", "#0072B2")))[name]
        figure.add_trace(
            go.Scatter(
                x=part["lambda"],
                y=part["error"].clip(1e-17),
                mode="lines",
                name=name,
                legendgroup=name,
                line_color=colour,
                showlegend=row == col == 1,
            ),
            row,
            col,
        )
    figure.update_xaxes(type="log", exponentformat="power").update_yaxes(type="log", exponentformat="power", dtick=4)
    figure.update_xaxes(title="λ", row=len(quantities)).update_yaxes(title="relative error", col=1)
    title = "AGLU: largest relative error over −1.5 ≤ z ≤ 8, κ = 1"
    return figure.update_layout(template="plotly_white", height=600, title=title)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", nargs="+", choices=["float32", "bfloat16"], help="default: float32, on cuda both")
    parser.add_argument("--shape", type=int, nargs="+", default=[64, 64, 56, 56])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--steps", type=int, help="steps in a block; default: 1, on cuda 20")
    parser.add_argument("--figure", metavar="PATH", help="write the errors as a figure to this HTML file")
    args = parser.parse_args()
    cuda = args.device == "cuda"
    for dtype in args.dtype or (["float32", "bfloat16"] if cuda else ["float32"]):
        report(args.device, getattr(torch, dtype), args.shape, args.repeats, args.steps or (20 if cuda else 1))
    table = error_table()
    shown = table.pivot(index=["dtype", "quantity", "formula"], columns="lambda", values="error").iloc[:, ::4]
    shown.columns = [f"{x:.0e}" for x in shown.columns]
    print("AGLU: largest relative error over −1.5 ≤ z ≤ 8, κ = 1, for each λ")
    print(shown.to_string(float_format=lambda x: f"{x:.0e}"))
    if args.figure:
        error_figure(table).write_html(args.figure, include_plotlyjs="cdn")
        print(f"figure written to {args.figure}")


if __name__ == "__main__":
    main()
