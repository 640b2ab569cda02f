"""What one UFM training step costs: each head against the standard one and against bare arithmetic, and what logging
adds.

Every number is a ratio of medians of paired blocks taken in turn in one run, so that a machine whose speed drifts does
not decide it. Five seeds in a batch are measured on UFM-10 only.

    python benchmarks/ufm_step.py
    python benchmarks/ufm_step.py --spec UFM_1000 --repeats 8 --steps 1
"""

import argparse
import math
import statistics
import time

import torch

from labkit import ufm
from labkit.optim import layer_scale


class Arithmetic:
    """The standard head's step written by hand: no autograd, no modules, no checks; one seed."""

    def __init__(self, spec, temperature=5.0, gain=10.0):
        trainer = ufm.Trainer(spec, "standard")
        self.z, self.w = trainer.features.detach()[0].clone(), trainer.head.weight.detach()[0].clone()
        self.one_hot = torch.nn.functional.one_hot(trainer.targets, spec.num_classes).float()
        self.temperature, self.gain = temperature, gain

    def step(self):
        z, w, tau = self.z, self.w, self.temperature
        radius = tau / torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        h = z * radius
        g = torch.softmax(h @ w.T, -1).sub_(self.one_hot).div_(len(z))
        grad_w = g.T @ h
        grad_h = g @ w
        along = (h * grad_h).sum(-1, keepdim=True) / tau**2
        grad_z = grad_h.addcmul_(h, along, value=-1).mul_(radius)
        layers = [
            (p, grad, layer_scale(p.shape), float(torch.linalg.matrix_norm(grad)))
            for p, grad in ((z, grad_z), (w, grad_w))
        ]
        eta = math.log((1 + math.sqrt(1 + 4 * sum(s * n for _, _, s, n in layers) / 2)) / 2)
        for p, grad, s, n in layers:
            p.add_(grad, alpha=-self.gain * eta / 2 * s / n)
        w /= torch.linalg.vector_norm(w, dim=-1, keepdim=True)


def without_solve(trainer):
    """The trainer's step with the W and b found in its first: what is left if the nearest ETF costs nothing."""
    step, found = trainer.head.step, []

    def once(sums, counts):
        if not found:
            found.extend(t.detach() for t in step(sums, counts))
        return found[0], found[1] + 0 * sums.sum(-1)  # so that the class sums have a gradient

    trainer.head.step = once
    return trainer.step


def blocks(steppers, repeats, steps):
    """Milliseconds a step of each, block by block, the steppers taking turns."""
    for step in steppers.values():
        for _ in range(2 * steps):
            step()
    rows = []
    for _ in range(repeats):
        row = {}
        for name, step in steppers.items():
            start = time.perf_counter()
            for _ in range(steps):
                step()
            row[name] = (time.perf_counter() - start) / steps * 1e3
        rows.append(row)
    return rows


def ratio(rows, a, b, factor=1.0):
    return statistics.median(row[a] / (factor * row[b]) for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--steps", type=int, default=5, help="steps in a block")
    parser.add_argument("--spec", default="UFM_10", choices=["UFM_10", "UFM_100", "UFM_200", "UFM_1000"])
    args = parser.parse_args()
    spec, small = getattr(ufm, args.spec), args.spec == "UFM_10"
    trainers = {head: ufm.Trainer(spec, head) for head in ("standard", "fixed", "implicit")}
    steppers = {head: trainer.step for head, trainer in trainers.items()}
    steppers["implicit, no DDN gradient"] = ufm.Trainer(spec, "implicit", backprop_through_etf=False).step
    steppers["implicit, nothing to solve"] = without_solve(ufm.Trainer(spec, "implicit"))
    steppers["standard, plain"] = ufm.Trainer(spec, "standard", fused=False).step
    steppers["arithmetic"] = Arithmetic(spec).step
    if small:
        steppers |= {f"{head} ×5": ufm.Trainer(spec, head, range(5)).step for head in ("standard", "fixed", "implicit")}
    steppers |= {f"{head}, measuring": trainer.measure for head, trainer in trainers.items()}
    rows = blocks(steppers, args.repeats, args.steps)

    print(
        f"{args.spec} (C={spec.num_classes}, N={spec.num_samples}, d={spec.dim}), {torch.get_num_threads()} threads, torch {torch.__version__}; median ms a step"
    )
    for name in steppers:
        print(f"  {name:28s} {statistics.median(row[name] for row in rows):8.2f}")
    limits = {"UFM_10": 2.0, "UFM_100": 1.7, "UFM_200": 1.7, "UFM_1000": 1.6}
    goals = [
        ("implicit / standard, one seed", ratio(rows, "implicit", "standard"), limits[args.spec]),
        ("standard, fused / plain", ratio(rows, "standard", "standard, plain"), 0.65),
        ("the same, with nothing to solve", ratio(rows, "implicit, nothing to solve", "standard"), math.inf),
        ("standard / arithmetic alone", ratio(rows, "standard", "arithmetic"), 2.0 if small else 1.5),
    ]
    if not small:
        limit = 2.5 if args.spec == "UFM_1000" else 2.0
        goals += [
            ("fixed / arithmetic alone", ratio(rows, "fixed", "arithmetic"), 1.5),
            ("implicit / arithmetic alone", ratio(rows, "implicit", "arithmetic"), limit),
        ]
    points = len(ufm.log_points(2000)) / 2000
    goals += [
        (f"{head}: logging / steps, in a run of 2000", points * ratio(rows, f"{head}, measuring", head), 0.1)
        for head in ("standard", "fixed", "implicit")
    ]
    if small:
        goals.append(("implicit / standard, five seeds in a batch", ratio(rows, "implicit ×5", "standard ×5"), 1.5))
        goals += [
            (f"{head}: five seeds in a batch / five runs", ratio(rows, f"{head} ×5", head, 5), 1.0)
            for head in ("standard", "fixed", "implicit")
        ]
    print("ratio                                             measured   goal")
    for name, value, goal in goals:
        print(
            f"  {name:46s} {value:8.2f}   {'' if goal == math.inf else f'≤ {goal:g}'}{'' if value <= goal else '   MISSED'}"
        )


if __name__ == "__main__":
    main()
