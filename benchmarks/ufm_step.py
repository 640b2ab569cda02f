"""What a UFM's training step costs: each head beside the standard one and beside bare arithmetic; and what logging adds.

    python benchmarks/ufm_step.py
    python benchmarks/ufm_step.py --spec UFM_1000       a few minutes

Heads take turns, with memory kept by the allocator. Five seeds in a batch are measured on UFM-10 only.
"""

import argparse
import math
import time

import torch
from _measuring import allocator, keep_memory, median, milliseconds, progress, ratio, report, turns

from labkit import ufm
from labkit.optim import layer_scale

# implicit / standard, standard / arithmetic, fixed / arithmetic, implicit / arithmetic
GOALS = {
    "UFM_10": (2.0, 2.0, None, None),
    "UFM_100": (1.7, 1.5, 1.5, 2.0),
    "UFM_200": (1.7, 1.5, 1.5, 2.0),
    "UFM_1000": (1.6, 1.5, 1.5, 2.5),
}


class Arithmetic:
    """The standard head's step written by hand: no autograd, no modules, no checks; one seed, in arrays made once."""

    def __init__(self, spec, temperature=5.0, gain=10.0):
        trainer = ufm.Trainer(spec, "standard")
        self.z, self.w = trainer.features.detach()[0].clone(), trainer.head.weight.detach()[0].clone()
        self.one_hot = torch.nn.functional.one_hot(trainer.targets, spec.num_classes).float()
        self.temperature, self.gain = temperature, gain
        self.h, self.grad_h = torch.empty_like(self.z), torch.empty_like(self.z)
        self.g, self.grad_w = torch.empty_like(self.one_hot), torch.empty_like(self.w)

    @torch.no_grad()
    def step(self):
        z, w, h, g, grad_h, grad_w, tau = self.z, self.w, self.h, self.g, self.grad_h, self.grad_w, self.temperature
        radius = tau / torch.linalg.vector_norm(z, dim=-1, keepdim=True)
        torch.mul(z, radius, out=h)
        torch.mm(h, w.T, out=g)
        torch.softmax(g, -1, out=g).sub_(self.one_hot).div_(len(z))
        torch.mm(g.T, h, out=grad_w)
        torch.mm(g, w, out=grad_h)
        along = torch.linalg.vecdot(h, grad_h).unsqueeze(-1) / tau**2
        grad_h.addcmul_(h, along, value=-1).mul_(radius)
        layers = [
            (p, grad, layer_scale(p.shape), float(torch.linalg.vector_norm(grad)))
            for p, grad in ((z, grad_h), (w, grad_w))
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, help="to measure for (15, for UFM_1000 120)")
    parser.add_argument("--spec", default="UFM_10", choices=list(GOALS))
    args = parser.parse_args()
    keep_memory()
    spec, small = getattr(ufm, args.spec), args.spec == "UFM_10"
    made = {
        "arithmetic": lambda: Arithmetic(spec).step,
        "standard, plain": lambda: ufm.Trainer(spec, "standard", fused=False).step,
        "implicit, no DDN gradient": lambda: ufm.Trainer(spec, "implicit", backprop_through_etf=False).step,
        "implicit, nothing to solve": lambda: without_solve(ufm.Trainer(spec, "implicit")),
    }
    trainers = {}
    for head in ("standard", "fixed", "implicit"):
        progress(f"making {head} ...")
        trainers[head] = ufm.Trainer(spec, head)
    steppers = {head: trainer.step for head, trainer in trainers.items()}
    for name, make in made.items():
        progress(f"making {name} ...")
        steppers[name] = make()
    if small:
        steppers |= {f"{head} ×5": ufm.Trainer(spec, head, range(5)).step for head in trainers}
    begin = time.monotonic()
    rows = turns(steppers, args.seconds or (120 if args.spec == "UFM_1000" else 15), label=args.spec)
    progress(f"measured in {time.monotonic() - begin:.0f} s; now what logging takes ...")
    logging = {head: min(milliseconds(trainer.measure) for _ in range(3)) for head, trainer in trainers.items()}

    size = f"C={spec.num_classes}, N={spec.num_samples}, d={spec.dim}"
    print(f"{args.spec} ({size}), {torch.get_num_threads()} threads, {allocator()}, torch {torch.__version__}")
    print(f"median ms a step, {len(rows)} turns")
    for name in steppers:
        print(f"  {name:28s} {median(rows, name):8.2f}")
    implicit, *arithmetic = GOALS[args.spec]
    goals = [
        ("implicit / standard", ratio(rows, "implicit", "standard"), implicit),
        ("the same, with nothing to solve", ratio(rows, "implicit, nothing to solve", "standard"), None),
        ("standard head, fused / plain", ratio(rows, "standard", "standard, plain"), 0.65 if small else None),
    ]
    goals += [(f"{h} / arithmetic alone", ratio(rows, h, "arithmetic"), goal) for h, goal in zip(trainers, arithmetic)]
    points = len(ufm.log_points(2000)) / 2000
    goals += [
        (f"{head}: logging / steps, in a run of 2000", points * took / median(rows, head), 0.1)
        for head, took in logging.items()
    ]
    if small:
        goals.append(("implicit / standard, five seeds in a batch", ratio(rows, "implicit ×5", "standard ×5"), 2.0))
        goals += [
            (f"{head}: five seeds in a batch / five runs", ratio(rows, f"{head} ×5", head, 5), 1.0) for head in trainers
        ]
    report(goals)


if __name__ == "__main__":
    main()
