"""What AGLU and APA cost in time and memory beside their plain formula and SiLU, and how exact each formula is.

    python benchmarks/activations.py                    about four minutes on two cores
    python benchmarks/activations.py --device cuda      also compiled

Measured are forward and backward passes, with the gradients of z, κ and λ: labkit's functions, and the formula as
printed, differentiated by autograd, with memory kept by the allocator. Last a step of ResNet-18 on 64 images of 32
pixels, with AGLU and with ReLU.
"""

import argparse
import os
import shutil
from functools import partial

import pandas as pd
import torch
from _measuring import allocator, keep_memory, median, progress, ratio, report, turns
from mpmath import mp, mpf

from labkit.activations import aglu, apa
from labkit.vision import backbones

SIZES = (10_000, 30_000, 100_000, 1_000_000, 10_000_000)
CHANNELS, PIXELS = 16, 625  # of z (n, 16, 25, 25), 10 000 numbers for each n
FUNCTIONS = {"AGLU": aglu, "APA": apa}


def composite(z, kappa, lam, gated=True):
    """The formula as printed."""
    eta = (lam * torch.exp(-kappa * z) + 1) ** (-1 / lam)
    return z * eta if gated else eta


def softplus_form(z, kappa, lam):
    """Eq. 4 of the supplement: η = exp(s(κz − ln λ, −1)/λ) with s(x, β) = ln(1 + e^{βx})/β."""
    return z * torch.exp(torch.nn.functional.softplus(kappa * z - torch.log(lam), beta=-1) / lam)


# --- time and memory ----------------------------------------------------------------------------------------------


def steppers(name, numbers, per_channel, dtype, device="cpu"):
    """Forward and backward of labkit's function, of the formula and of SiLU, as functions without arguments."""
    generator = torch.Generator().manual_seed(0)
    shape = (numbers // (CHANNELS * PIXELS), CHANNELS, 25, 25)
    z, grad = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2))
    z.requires_grad_()
    pair = (CHANNELS,) if per_channel else ()
    kappa, lam = (torch.full(pair, x, device=device, requires_grad=True) for x in (1.1, 0.5))

    def step(function):
        return lambda: torch.autograd.grad(function(), (z, kappa, lam), grad, allow_unused=True)  # SiLU has no κ and λ

    def plain():  # a tensor with channels would make the result float32
        k, l = (t.view(-1, 1, 1).to(dtype) if per_channel else t for t in (kappa, lam))
        return composite(z, k, l, name == "AGLU")

    return {
        "labkit": step(lambda: FUNCTIONS[name](z, kappa, lam)),
        "composite": step(plain),
        "SiLU": step(lambda: torch.nn.functional.silu(z)),
    }


def table(threads, names, sizes, seconds):
    """Print the ratios to the formula, and to SiLU, for all kinds of arguments; a * where the goal is missed."""
    torch.set_num_threads(threads)
    print(
        f"\n{threads} thread{'s' * (threads > 1)}: labkit / composite (goal ≤ 1.1 at 10000, else ≤ 1), * where missed"
    )
    print(f"{'':34s}" + "".join(f"{n:>12,d}" for n in sizes) + "    and labkit / SiLU")
    missed = 0
    for name in names:
        for per_channel in (False, True):
            for dtype in (torch.float32, torch.bfloat16):
                label = f"{name}, {'per channel' if per_channel else 'scalar'}, {str(dtype)[6:]}"
                progress(f"{threads} threads, {label} ...")
                cells, silu = "", ""
                for n in sizes:
                    rows = turns(steppers(name, n, per_channel, dtype), seconds, least=3)
                    found = ratio(rows, "labkit", "composite")
                    late = found > (1.1 if n == 10_000 else 1.0)
                    missed += late
                    cells += f"{found:11.2f}{'*' if late else ' '}"
                    silu += f"{ratio(rows, 'labkit', 'SiLU'):7.1f}"
                print(f"  {label:32s}{cells}   {silu}", flush=True)
    return missed


def resnet(activations, batch=64):
    """A step (forward, backward) of ResNet-18 for CIFAR with each of the activations."""
    images, labels = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10

    def step(model):
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()

    made = {a: backbones.create("resnet18", num_classes=10, stem="cifar", activation=a).train() for a in activations}
    return {a: partial(step, model) for a, model in made.items()}


def kept(function, z, *parameters):
    """Bytes that autograd keeps for the backward pass, z included, as a multiple of those of z."""
    storages = {}

    def note(t):
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        function(z, *parameters)
    return sum(storages.values()) / z.untyped_storage().nbytes()


def compiled(device, dtype, seconds):
    """Ratios of compiled functions at 12.8 million numbers, or at one million on a CPU."""
    missing = "a C++ compiler" if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))) else None
    if device == "cuda":
        from torch.utils._triton import has_triton

        missing = None if has_triton() else "Triton"
    if missing:
        print(f"  compiled: not measured, {missing} is missing")
        return []
    z = torch.randn(64, 64, *((56, 56) if device == "cuda" else (16, 16)), device=device).to(dtype).requires_grad_()
    arguments = z, *(torch.tensor(x, device=device, requires_grad=True) for x in (1.1, 0.5))
    forms = {"labkit": aglu, "composite": composite, "SiLU": lambda z, kappa, lam: torch.nn.functional.silu(z)}

    def step(function):
        return torch.autograd.grad(function(*arguments).sum(), arguments, allow_unused=True)

    parts = {name: partial(step, torch.compile(form, dynamic=False)) for name, form in forms.items()}
    rows = turns(parts, seconds, synchronize=torch.cuda.synchronize if device == "cuda" else lambda: None)
    return [
        (f"compiled, {str(dtype)[6:]}: labkit / SiLU", ratio(rows, "labkit", "SiLU"), 1.2 if device == "cuda" else 1.5),
        (f"compiled, {str(dtype)[6:]}: labkit / composite", ratio(rows, "labkit", "composite"), None),
    ]


# --- errors -------------------------------------------------------------------------------------------------------

FORMS = {"labkit": aglu, "composite": composite, "Eq. 4": softplus_form}


def error_table(lambdas=None, zs=None):
    """Relative errors of AGLU and of its derivative in λ at κ = 1, the largest over zs, against mpmath at 80 digits.

    lambdas: values of λ, 1e-8 to 10 when omitted. zs: values of z, −1.5 to 8 when omitted, where |ln η| < 5 for every
        λ.
    Returns a table with the columns lambda, dtype, quantity ("value" or "λ-gradient"), formula (those of FORMS) and
    error, infinite where a result is not finite. The truth is taken at the numbers as rounded to the dtype.
    """
    lambdas = [10.0**i for i in range(-8, 2)] if lambdas is None else lambdas
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers, multiples of 10000")
    parser.add_argument("--functions", nargs="+", default=list(FUNCTIONS), choices=list(FUNCTIONS))
    parser.add_argument("--seconds", type=float, default=0.8, help="for each ratio (%(default)s)")
    args = parser.parse_args()
    keep_memory()
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {allocator()}"
    print(f"forward + backward, {where}, torch {torch.__version__}")
    goals = []
    if args.device == "cuda":
        for dtype in (torch.float32, torch.bfloat16):
            rows = turns(steppers("AGLU", 10_000_000, False, dtype, "cuda"), 2, synchronize=torch.cuda.synchronize)
            goals.append((f"eager, {str(dtype)[6:]}: labkit / composite", ratio(rows, "labkit", "composite"), 1.0))
            goals += compiled("cuda", dtype, 2)
    else:
        missed = sum(table(threads, args.functions, args.sizes, args.seconds) for threads in args.threads)
        print(f"missed: {missed}\n")
        for threads in args.threads:
            torch.set_num_threads(threads)
            progress(f"ResNet-18, {threads} threads ...")
            rows = turns(resnet(("relu", "silu", "aglu")), 10)
            print(f"ResNet-18, 64 images of 32 pixels, ReLU, {threads} threads: {median(rows, 'relu'):.0f} ms a step")
            for name, goal in (("aglu", 1.2), ("silu", None)):
                goals.append((f"ResNet-18, {name} / relu, {threads} threads", ratio(rows, name, "relu"), goal))
        progress("compiled ...")
        goals += compiled("cpu", torch.float32, 1)
    z = torch.randn(64, 64, 16, 16, device=args.device, requires_grad=True)
    pair = [torch.tensor(x, device=args.device, requires_grad=True) for x in (1.1, 0.5)]
    goals += [
        (f"memory kept / z: {name}", kept(form, z, *pair), 2.0 if form is aglu else None)
        for name, form in FORMS.items()
    ]
    report(goals)
    shown = error_table().pivot(index=["dtype", "quantity", "formula"], columns="lambda", values="error")
    shown.columns = [f"{x:.0e}" for x in shown.columns]
    print("AGLU: largest relative error over −1.5 ≤ z ≤ 8, κ = 1, for each λ")
    print(shown.to_string(float_format=lambda x: f"{x:.0e}"))


if __name__ == "__main__":
    main()
