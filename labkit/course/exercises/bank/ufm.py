"""The notebook on UFM-10: the floor under the loss, the implicit head, the training loop."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.course.exercises.exercise import Exercise, closed_form, p, polar, randn, samples


def bound(num_classes: int, temperature: float) -> float:
    return math.log1p((num_classes - 1) * math.exp(-temperature * num_classes / (num_classes - 1)))


def _softmax(C, own, other, competitors):
    return math.log(math.exp(own) + competitors * math.exp(other)) - own


# ---------------------------------------------------------------------------------------------- the implicit head

EVERY_PART = ("h", "centre", "unit", "P", "scale", "bias", "tau")


def implicit_head(
    z: Tensor,
    targets: Tensor,
    prox: Tensor,
    tau: float,
    delta: float,
    keep: Sequence[str] = EVERY_PART,
    frame: Callable[[Tensor, Tensor, float], Tensor] = closed_form,
) -> Tensor:
    C = prox.shape[-1]
    h = (tau if "tau" in keep else 1.0) * z / z.norm(dim=-1, keepdim=True) if "h" in keep else z
    centre = h.mean(0)
    means = torch.stack([h[targets == c].mean(0) for c in range(C)], dim=-1)
    means = means - centre[:, None] if "centre" in keep else means
    means = means / means.norm() if "unit" in keep else means
    U = frame(means, prox, delta)
    W = (U @ p(C) if "P" in keep else U).mT * (math.sqrt(C / (C - 1)) if "scale" in keep else 1.0)
    return h @ W.mT - (W @ centre if "bias" in keep else 0.0)


def _without(*parts):
    return partial(implicit_head, keep=[k for k in EVERY_PART if k not in parts])


def _other_bias(*a):
    return 2 * _without("bias")(*a) - implicit_head(*a)


def _batches(g):
    cases = []
    for C, d, counts, tau, delta in (
        (3, 4, [2, 1, 3], 5.0, 0.1),
        (4, 6, [5, 2, 7, 4], 2.0, 1.0),
        (10, 24, [3, 5, 2, 8, 4, 6, 3, 2, 7, 5], 5.0, 1e-3),
    ):
        z, targets = samples(C, d, counts, g)
        cases.append((z, targets, polar(randn(d, C, g=g)), tau, delta))
    return cases


# ---------------------------------------------------------------------------------------------- the training loop


class TinyHead(torch.nn.Module):
    """A head to train in the exercise: logits ⟨w_c, h⟩ with w_c and h on spheres. weight (C, d)."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, features: Tensor, targets: Tensor | None = None) -> Tensor:
        return 5 * F.normalize(features, dim=-1) @ F.normalize(self.weight, dim=-1).mT


class Descent:
    """Gradient descent with momentum. Not torch.optim.SGD, with which torch imports its compiler, for seconds."""

    def __init__(self, parameters: list[Tensor], rate: float, momentum: float):
        self.parameters, self.rate, self.momentum = parameters, rate, momentum
        self.speed = [torch.zeros_like(q) for q in parameters]

    def zero_grad(self, set_to_none: bool = True):
        for q in self.parameters:
            q.grad = None

    @torch.no_grad()
    def step(self):
        for q, speed in zip(self.parameters, self.speed):
            if q.grad is not None:
                speed.mul_(self.momentum).add_(q.grad)
                q.sub_(self.rate * speed)


def train(head: torch.nn.Module, features: Tensor, targets: Tensor, optimizer: Descent, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(head(features, targets), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _loop(zero=True, step=True, late=False, sum_=False, once=False, all_=False, soft=False, extra=0):
    def wrong(head, features, targets, optimizer, steps):
        losses = []
        for _ in range(steps + extra):
            if zero:
                optimizer.zero_grad()
            logits = head(features, targets)
            logits = logits.softmax(-1) if soft else logits
            loss = F.cross_entropy(logits, targets, reduction="sum" if sum_ else "mean")
            if step:
                loss.backward()
                optimizer.step()
                optimizer.step() if once else None
            if late:
                loss = F.cross_entropy(head(features, targets), targets)
            losses.append(loss.item())
        return losses[-1] if all_ else losses

    return wrong


def _runs(g):
    cases = []
    for C, n, d, rate, momentum, steps in ((3, 9, 4, 1.0, 0.0, 5), (5, 20, 8, 0.5, 0.9, 12), (4, 11, 6, 2.0, 0.5, 8)):
        features = torch.nn.Parameter(randn(n, d, g=g))
        head, targets = TinyHead(randn(C, d, g=g)), torch.arange(n) % C
        optimizer = Descent([features, *head.parameters()], rate, momentum)
        cases.append((head, features, targets, optimizer, steps))
    return cases


EXERCISES = (
    Exercise(
        name="bound",
        notebook="04",
        stub="def my_bound(num_classes, temperature):\n    return None  # your code here",
        solution=bound,
        inputs=lambda g: [(2, 1.0), (3, 2.0), (10, 5.0), (100, 5.0), (1000, 3.0), (5, 0.3)],
        mistakes=(
            (lambda C, t: _softmax(C, t, -t / (C - 1), C - 1) + t, "the right class's own logit τ is not subtracted"),
            (lambda C, t: -bound(C, t), "the sign is wrong: cross entropy is minus the logarithm"),
            (lambda C, t: _softmax(C, t, -t / (C - 1), C), "C − 1 classes compete with the right one, not C"),
            (lambda C, t: _softmax(C, t, -t / (C - 1), 1), "only one competitor is counted; there are C − 1"),
            (lambda C, t: _softmax(C, t, 0.0, C - 1), "the other logits are −τ/(C − 1), not 0"),
            (lambda C, t: _softmax(C, t, -t / C, C - 1), "−τ/C in place of −τ/(C − 1)"),
            (lambda C, t: _softmax(C, t, -t, C - 1), "the other logits are −τ/(C − 1), not −τ"),
            (lambda C, t: _softmax(C, t, t / (C - 1), C - 1), "the other logits have a minus: −τ/(C − 1)"),
            (lambda C, t: math.exp(-bound(C, t)), "the probability of the right class; its −log is the cross entropy"),
            (lambda C, t: bound(C, t) / math.log(2), "a logarithm to base 2; take the natural one"),
            (lambda C, t: bound(C, 1.0), "the temperature is not used"),
            (lambda C, t: math.log(C), "log C is the loss of guessing; at the floor the logits are τ and −τ/(C − 1)"),
        ),
        sizes=lambda C, t: {"C": C, "τ": t},
        library=("labkit.etf.cross_entropy_bound",),
    ),
    Exercise(
        name="thousand-classes",
        notebook="04",
        stub="my_tau = None  # your number here",
        solution=0.999 * (math.log(999 / 9) + 50 / 9),
        tolerance=6e-4,  # 10.25 is near enough
        mistakes=(
            (math.log(999 / 9) + 50 / 9, "nearly: the exponent has C/(C − 1) for a thousand classes too"),
            (0.999 * (math.log(100) + 50 / 9), "C − 1 competitors, not C: log 999 − log 9"),
            (0.999 * (math.log(999 / 9) + 5), "nearly: the exponent has C/(C − 1) for ten classes too, so 5 · 10/9"),
            (math.log(999 / 9) + 5, "nearly: the exponents have C/(C − 1), for ten classes and for a thousand"),
            (math.log(100) + 5, "C − 1 competitors, not C; and the exponents have C/(C − 1)"),
            (0.999 * 50 / 9, "the factor C − 1 before the exponential is missing"),
            (0.999 * (math.log10(999 / 9) + 50 / 9), "a logarithm to base 10; take the natural one"),
            (0.999 * (50 / 9 - math.log(999 / 9)), "the sign of the logarithm: more classes need a larger τ"),
            (500.0, "τ grows with the logarithm of C, not with C"),
            (5.0, "with the same τ the floor is higher for more classes"),
            (15.0, "τ grows with log C, but is not proportional to it"),
        ),
    ),
    Exercise(
        name="implicit-head",
        notebook="04",
        stub=(
            "def implicit_head(z, targets, prox, tau, delta):\n"
            "    return None  # your code: logits (N, C), from features (N, d) and the last frame (d, C)"
        ),
        solution=implicit_head,
        inputs=_batches,
        mistakes=(
            (_without("bias"), "the bias −W μ_G is missing"),
            (_other_bias, "the sign of the bias is wrong: −W μ_G"),
            (_without("scale"), "the factor √(C/(C − 1)) of the weights is missing: they are too short"),
            (
                lambda *a: (
                    implicit_head(*a)
                    * a[2].shape[1]
                    / (a[2].shape[1] - 1)
                    / math.sqrt(a[2].shape[1] / (a[2].shape[1] - 1))
                ),
                "√(C/(C − 1)): the root is missing",
            ),
            (_without("P"), "P is missing in W = √(C/(C − 1)) (U P)ᵀ"),
            (_without("P", "scale"), "W is Uᵀ: both P and √(C/(C − 1)) are missing"),
            (_without("tau"), "the temperature is missing: h = τ z/‖z‖"),
            (_without("h"), "the features are not put on the sphere: h = τ z/‖z‖"),
            (
                _without("unit"),
                "the class means are not divided by their Frobenius norm, which is what δ is weighed against",
            ),
            (
                _without("centre"),
                "the class means are not centred by the global mean before they are divided by their norm",
            ),
            (
                partial(implicit_head, frame=lambda H, U, t: U),
                "the weights are those of the last frame: solve for the nearest one",
            ),
            (
                partial(implicit_head, frame=lambda H, U, t: polar(H)),
                "the frame is not that of the nearest ETF with its proximal term",
            ),
            (lambda *a: implicit_head(*a).softmax(-1), "probabilities; asked for are logits"),
        ),
        sizes=lambda z, t, prox, tau, delta: {"C": prox.shape[1], "d": prox.shape[0], "N": len(z), "τ": tau},
        library=("labkit.heads.ImplicitETFHead.__init__",),
    ),
    Exercise(
        name="training-loop",
        notebook="04",
        stub=(
            "def train(head, features, targets, optimizer, steps):\n"
            "    return None  # your code: the list of losses, each before its step"
        ),
        solution=train,
        inputs=_runs,
        mistakes=(
            (_loop(zero=False), "optimizer.zero_grad() is missing: gradients add up over the steps"),
            (_loop(step=False), "the loss stays what it was: loss.backward() or optimizer.step() is missing"),
            (_loop(late=True), "each loss is that after its step; asked for is the one before"),
            (_loop(sum_=True), "the sum over samples; take the mean"),
            (_loop(once=True), "optimizer.step() is called twice in each round"),
            (_loop(all_=True), "only the last loss; asked for are all of them, in a list"),
            (_loop(soft=True), "cross_entropy takes logits: leave the softmax away"),
            (_loop(extra=1), "one step too many"),
            (_loop(extra=-1), "one step too few"),
        ),
        sizes=lambda head, features, targets, optimizer, steps: {"N": len(features), "steps": steps},
    ),
)
