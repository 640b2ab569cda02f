"""Small experiments with APA and AGLU: fitting one curve, a network on handwritten digits, signals in depth.

Whatever is trained leaves a `History`; its column "head" holds the name of the variant, for example "exact" or "paper".
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from labkit import checks
from labkit.activations import AGLU, APA, FLOOR, aglu
from labkit.history import History, provenance
from labkit.studies import networks
from labkit.studies.digit_net import KAPPA, LAMBDA, DigitNet, Range


def fit_curve(
    kappa: float = 0.8,
    lam: float = 0.5,
    lambda_gradient: str = "exact",
    seeds: Sequence[int] = range(5),
    steps: int = 2000,
    lr: float = 0.5,
    samples: int = 256,
    smallest: float = FLOOR,
    floor: str = "one-sided",
    name: str | None = None,
) -> History:
    """Find (κ, λ) of AGLU again by gradient descent, from values of the function without noise.

    For each seed: samples z ~ N(0, 2²), y = AGLU(z; kappa, lam), a start κ ~ U(1, 1.3), λ ~ U(0, 1), and `steps` steps
    of size lr on half the mean squared error.
    floor: "one-sided" puts λ back to `smallest` where a step leaves it below; "released" fits p, with
        λ = relu(p) + FLOOR, as in the code released with the paper.
    Returns a History, named `name` or by lambda_gradient, with loss, kappa and lam (λ, not p) at up to 100 iterations.
    """
    checks.one_of("floor", floor, ("one-sided", "released"))
    name, released = name or lambda_gradient, floor == "released"
    draws = [_draw(seed, samples) for seed in seeds]
    z, k, l = (torch.stack(part, -1) for part in zip(*draws))  # seeds are channels: (samples, S), (S,), (S,)
    y = aglu(z, kappa, lam)
    k.requires_grad_(), l.requires_grad_()
    shown, rows = {round(t) for t in torch.linspace(0, steps, 100).tolist()}, []
    for t in range(steps + 1):
        used = torch.relu(l) + FLOOR if released else l
        losses = (aglu(z, k, used, lambda_gradient=lambda_gradient) - y).square().mean(0) / 2
        if t in shown:
            rows.append(
                pd.DataFrame(
                    {
                        "head": name,
                        "seed": list(seeds),
                        "iteration": t,
                        **{name: v.tolist() for name, v in (("loss", losses), ("kappa", k), ("lam", used))},
                    }
                )
            )
        grads = torch.autograd.grad(losses.sum(), (k, l))  # a sum: no seed sees another
        with torch.no_grad():
            for parameter, grad in zip((k, l), grads):
                parameter -= lr * grad
            if not released:
                l.clamp_(min=smallest)
    settings = dict(
        kappa=kappa,
        lam=lam,
        lambda_gradient=lambda_gradient,
        seeds=list(seeds),
        steps=steps,
        lr=lr,
        samples=samples,
        smallest=smallest,
        floor=floor,
        **provenance(),
    )
    return History(pd.concat(rows).sort_values(["seed", "iteration"]), settings)


def _draw(seed, samples):
    generator = torch.Generator().manual_seed(seed)
    options = dict(generator=generator, dtype=torch.float64)
    z = 2 * torch.randn(samples, **options)
    return z, torch.empty((), dtype=torch.float64).uniform_(*KAPPA, generator=generator), torch.rand((), **options)


def train_digits(
    name: str,
    seeds: Sequence[int] = range(5),
    epochs: int = 20,
    lr: float = 0.1,
    batch: int = 128,
    weight_decay: float = 1e-4,
    smallest: float = FLOOR,
    learn: bool = True,
    progress: Callable | None = None,
    **options: Any,
) -> History:
    """Train a DigitNet(**options) for each seed, as `networks.trainer_of` does.

    learn=False holds κ and λ where they start. λ is put back to `smallest` where a step leaves it below, but for layers
    with the floor "released". A run whose
    loss or gradient is not finite stops: its last row has loss NaN and the accuracies of chance.
    progress: a function of the name, the seed and its last row, called after each seed.
    Returns a History, named `name`, of epochs 0 to `epochs`: loss (mean over the epoch's batches), accuracy and
    test_accuracy, gradient (the largest norm in the epoch), and kappa_0 …, lam_0 … of the AGLU layers.
    """
    rows = []
    same = dict(epochs=epochs, lr=lr, batch=batch, weight_decay=weight_decay, smallest=smallest, learn=learn)
    for seed in seeds:
        rows += epochs_of(seed, **same, **options)
        if progress:
            progress(name, seed, rows[-1])
    also = {key: value for key, value in options.items() if key != "activation"}
    settings = dict(name=name, seeds=list(seeds), **same, **provenance(), **also)
    return History(pd.DataFrame(rows).assign(head=name)[["head", *rows[-1]]], settings)


def epochs_of(
    seed: int,
    epochs: int = 20,
    lr: float = 0.1,
    batch: int = 128,
    weight_decay: float = 1e-4,
    smallest: float = FLOOR,
    learn: bool = True,
    **options: Any,
) -> Iterator[dict]:
    """The rows of `train_digits` for one seed, without head, as the training goes on: that of epoch 0 comes first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DigitNet(**options)
    same = dict(epochs=epochs, batch_size=batch, lr=lr, weight_decay=weight_decay, seed=seed)
    run = _trainer(net, networks.load("digits"), smallest, learn, **same)
    for row in networks.rows_of(run):
        row = _chance(net) | row
        yield {key: row[key] for key in ("seed", "iteration", "loss", *_chance(net))}


def _trainer(net, images, smallest, learn, **options):
    """A Trainer that watches the gradient, and λ too."""
    train, labels, test, test_labels = images
    special = [m for m in net.modules() if isinstance(m, APA | AGLU)]
    for module in special:
        module.requires_grad_(learn)
    norms = []

    def watch(*_):
        norm = nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])
        checks.finite("the gradient", norm)
        norms.append(norm.item())

    @torch.no_grad()
    def put_back(*_):
        for module in special if learn else ():
            if module.floor != "released":
                module.lam.clamp_(min=smallest)

    @torch.no_grad()
    def measure(_):
        net.eval()
        parts = {"accuracy": (train, labels), "test_accuracy": (test, test_labels)}
        found = {key: (net(x).argmax(-1) == y).float().mean().item() for key, (x, y) in parts.items()}
        found["gradient"] = max(norms, default=math.nan)
        norms.clear()
        return found | _pairs(net)

    run = networks.trainer_of(net, train, labels, measure=measure, **options)
    run.optimizer.register_step_pre_hook(watch)
    run.optimizer.register_step_post_hook(put_back)
    return run


def _chance(net):
    """The measures of a network that has diverged."""
    return {"accuracy": 0.1, "test_accuracy": 0.1, "gradient": math.nan, **_pairs(net)}


def _pairs(net):
    kappas, lams = net.parameters_of(AGLU)
    return {f"kappa_{i}": v for i, v in enumerate(kappas)} | {f"lam_{i}": v for i, v in enumerate(lams)}


def held(
    names: Sequence[str] = ("AGLU", "APA"),
    kappas: Sequence[float] | None = None,
    lams: Sequence[float] | None = None,
    seeds: Sequence[int] = range(3),
    epochs: int = 4,
) -> History:
    """What κ and λ do to a network: DigitNets trained with every activation held at one pair, for each pair of a grid.

    names: the functions that stand at all nine activations, "AGLU" or "APA". kappas, lams: by default every half from
    −3 to 10 and every half decade from 1e-4 to 100, 351 pairs. Settings are those of `train_digits`.
    Returns a History whose head is the function, with columns kappa, lam and test_accuracy for epochs 1 to `epochs`.
    """
    kappas = [k / 2 for k in range(-6, 21)] if kappas is None else kappas
    lams = [10 ** (k / 2) for k in range(-8, 5)] if lams is None else lams
    tables = []
    for name, kappa, lam in itertools.product(names, kappas, lams):
        kind = {"AGLU": AGLU, "APA": APA}[name]
        run = train_digits(name, seeds, epochs, learn=False, activation=lambda: kind((kappa, kappa), (lam, lam)))
        table = run.frame.query("iteration > 0")[["head", "seed", "iteration", "test_accuracy"]]
        tables.append(table.assign(kappa=kappa, lam=lam))
    settings = dict(seeds=list(seeds), epochs=epochs, kappas=list(kappas), lams=list(lams), **provenance())
    return History(pd.concat(tables), settings)


def signal(
    name: str,
    kappa_init: Range,
    kind: str,
    depth: int = 32,
    width: int = 64,
    samples: int = 64,
    seeds: Iterable[int] = range(5),
    lambda_init: Range = LAMBDA,
) -> pd.DataFrame:
    """Sizes of features and gradients in an untrained stack of AGLU layers whose κ and λ are uniform on their ranges.

    kind: "plain" for layers AGLU(W z) with W of standard deviation √(2/width); "residual" for AGLU(z + V AGLU(W z)),
    two activations a layer; "normalised" for the same with batch norm (training mode) after W and V.
    Inputs and the gradient at the output are N(0, 1), each in `samples` × `width` numbers of float64.
    Returns a DataFrame with head (the name), seed, layer, scale and gradient (root mean squares), after each of the
    layers.
    """
    checks.one_of("kind", kind, ("plain", "residual", "normalised"))
    tables = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)

        def act(z):
            kappa, lam = (torch.empty(()).uniform_(*r, generator=generator).item() for r in (kappa_init, lambda_init))
            return aglu(z, kappa, max(lam, FLOOR))

        def linear(z):
            z = z @ normal(width, width) * math.sqrt(2 / width)
            return F.batch_norm(z, None, None, training=True) if kind == "normalised" else z

        features = [normal(samples, width).requires_grad_()]
        for _ in range(depth):
            z = features[-1]
            features.append(act(linear(z)) if kind == "plain" else act(z + linear(act(linear(z)))))
        grads = torch.autograd.grad(features[-1], features, normal(samples, width))
        rms = [[t.square().mean().sqrt().item() for t in values] for values in (features, grads)]
        columns = dict(head=name, seed=seed, layer=range(depth + 1), scale=rms[0], gradient=rms[1])
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
