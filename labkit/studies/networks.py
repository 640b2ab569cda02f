"""Small studies of activations inside networks: train a classifier, and look at what its κ, λ, gates and features
became.

Data are in memory, without augmentation, and networks have a classifier of their own; the loop is that of
labkit.vision.training.trainer.
"""

from collections import namedtuple
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from labkit import checks, metrics
from labkit.activations import AGLU, APA
from labkit.history import History, Store, provenance
from labkit.vision import backbones, data
from labkit.vision.batches import Batches
from labkit.vision.outputs import attention_entropy
from labkit.vision.training import trainer

_STAR = dict(activation="aglu", gate="apa", attention_norm=True, attention_dropout=0.1)

# What is compared: the arguments of backbones.create, and `learn` where κ and λ stay as they were drawn.
NETWORKS = {
    "relu": dict(name="resnet32", activation="relu"),
    "gelu": dict(name="resnet32", activation="gelu"),
    "silu": dict(name="resnet32", activation="silu"),
    "aglu": dict(name="resnet32", activation="aglu"),
    "aglu-frozen": dict(name="resnet32", activation="aglu", learn=False),
    "aglu-paper-gradient": dict(name="resnet32", activation="aglu", activation_options=dict(lambda_gradient="paper")),
    "aglu-paper-released": dict(
        name="resnet32", activation="aglu", activation_options=dict(lambda_gradient="paper", floor="released")
    ),
    "aglu-channel": dict(name="resnet32", activation="aglu", per_channel=True),
    "se": dict(name="se_resnet32", activation="relu", gate="sigmoid"),
    "se-apa": dict(name="se_resnet32", activation="relu", gate="apa"),
    "apa-star": dict(name="se_resnet32", **_STAR),
    "apa-star-channel": dict(name="se_resnet32", per_channel=True, **_STAR),
}
LEARNT = [name for name, options in NETWORKS.items() if "aglu" in options.values() or "apa" in options.values()]

BLOCKS = 2  # of the five in each of ResNet-32's three stages: a ResNet-14, which a processor trains in seconds

# Each study: a data set and how long. On real images these networks are trained by the recipes of labkit.vision.
STUDIES = {
    "digits": dict(
        dataset="digits",
        networks=list(NETWORKS),
        seeds=[0, 1, 2, 3, 4],
        epochs=5,
        batch_size=64,
        lr=0.05,
        weight_decay=5e-4,
        measure_at=[0, 1, 5],
    )
}
NOTES = {"digits": "scikit-learn's digits, 8x8 grey; a third of every class for testing"}

Run = namedtuple("Run", "curves parameters")
MEASURES = ("accuracy", "nc1", "test_accuracy", "test_nc1", "gate_entropy")


def build(network: str, in_chans: int = 1, num_classes: int = 10, seed: int = 0) -> nn.Module:
    """One of NETWORKS, cut to BLOCKS. A seed gives all with attention the same weights, and all without it."""
    checks.one_of("network", network, tuple(NETWORKS))
    options = dict(NETWORKS[network])
    learn = options.pop("learn", True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = backbones.create(**options, stem="cifar", in_chans=in_chans, num_classes=num_classes)
    for stage in (model.layer1, model.layer2, model.layer3):
        del stage[BLOCKS:]
    for module in model.modules():
        if isinstance(module, (AGLU, APA)):
            module.requires_grad_(learn)
    return model


@dataclass(frozen=True)
class Samples:
    """Float images (N, …) and labels (N,), as `Batches` takes them."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self):
        return len(self.labels)

    def to(self, device: str | torch.device) -> "Samples":
        return Samples(self.images.to(device), self.labels.to(device))


def trainer_of(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    measure: Callable,
    epochs: int = 10,
    batch_size: int = 64,
    lr: float = 0.05,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    seed: int = 0,
    measure_at: Collection[int] | None = None,
) -> trainer.Trainer:
    """The Trainer of a network with a classifier of its own (images -> logits): SGD with momentum, and a learning rate
    that falls from lr to 0 along half a cosine, step by step.

    images (N, …), labels (N,); measure, measure_at: as in Trainer; `seed` orders the batches and draws dropout.
    Weight decay is for matrices and convolutions only: not for batch norms, biases, κ and λ. Decay would pull κ and λ
    to 0, where a gate is constant or Gumbel, as if that were the neutral choice.
    Raises ValueError for epochs, batch_size or lr not above 0, and for labels that do not fit the images.
    """
    for name, value in dict(epochs=epochs, batch_size=batch_size, lr=lr).items():
        checks.positive(name, value)
    checks.labels(labels, int(labels.max()) + 1, images.shape[:1])
    learnt = [p for p in model.parameters() if p.requires_grad]
    groups = [
        dict(params=[p for p in learnt if p.ndim > 1], weight_decay=weight_decay),
        dict(params=[p for p in learnt if p.ndim <= 1], weight_decay=0.0),
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum)
    batches = Batches(Samples(images, labels), batch_size, seed=seed)
    options = dict(epochs=epochs, seed=seed, schedule="cosine", measure=measure, measure_at=measure_at)
    return trainer.Trainer(model, None, optimizer, batches, name=type(model).__name__, **options)


def train_classifier(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    test_images: torch.Tensor,
    test_labels: torch.Tensor,
    *,
    epochs: int = 10,
    measure_at: Collection[int] | None = None,
    **options: Any,
) -> Run:
    """Train `model` (images -> logits) in place; returns a Run of two tables.

    images (N, C, H, W), labels (N,), options: as in `trainer_of`.
    measure_at: epochs after which to measure, besides 0 and the last; None is 1, 2, 5, 10, 20, ….
    Run.curves: one row for each measured epoch, columns iteration (the epoch), steps, loss (mean over the epoch's
        batches, NaN before the first), accuracy and nc1 of training images, test_accuracy, test_nc1, and gate_entropy
        (NaN without gates); all but the loss are measured in evaluation mode.
    Run.parameters: backbones.parameters_by_depth at each measured epoch.
    Training ends where the loss is no longer finite; the last row then holds no loss and no measures.
    """

    def measures(_):
        found = {f"test_{key}": value for key, value in measure(model, test_images, test_labels).items()}
        return measure(model, images, labels) | found | {"gate_entropy": found.pop("test_gate_entropy")}

    if measure_at is None:
        measure_at = [e for e in (1, 2, 5, *range(10, epochs, 10)) if e < epochs]
    run = trainer_of(model, images, labels, measure=measures, epochs=epochs, measure_at=measure_at, **options)
    rows, parameters = [], []
    for row in rows_of(run):
        rows.append(row)
        parameters.append(backbones.parameters_by_depth(model).assign(iteration=row["iteration"]))
    curves = pd.DataFrame(rows)[["iteration", "steps", "loss", *MEASURES]]
    return Run(curves, pd.concat(parameters, ignore_index=True))


def rows_of(run: trainer.Trainer) -> Iterator[dict]:
    """The rows of a Trainer with its `batch_loss` as `loss`; where it diverges, a last one that has no loss."""
    try:
        for row in run.each_epoch():
            yield row | {"loss": row["batch_loss"]}
    except FloatingPointError:
        steps = (run.epoch + 1) * len(run.train)
        yield {"iteration": run.epoch + 1, "seed": run.seed, "steps": steps, "loss": float("nan")}


@torch.no_grad()
def measure(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int = 500) -> dict[str, float]:
    """Accuracy, NC1 of the penultimate features (not normalised: Eq. 3 of the supplement) and gate entropy, as a
    dict.
    """
    model.eval()
    features, logits, entropies = [], [], []
    with last_gate(model) as gates:
        for batch in images.split(batch_size):
            features.append(model.forward_head(model.forward_features(batch), pre_logits=True))
            logits.append(model.get_classifier()(features[-1]))
            entropies += [attention_entropy(g) for g in gates]
            gates.clear()
    features = torch.cat(features)
    checks.finite("features", features)
    correct = torch.cat(logits).argmax(-1) == labels
    return dict(
        accuracy=correct.double().mean().item(),
        nc1=metrics.nc1(features, labels).item(),
        gate_entropy=torch.cat(entropies).mean().item() if entropies else float("nan"),
    )


class last_gate:
    """Within the `with`, the outputs (N, C) of the last channel-attention gate of `model`, one for each forward pass.

    The list stays empty for a network without channel attention.
    """

    def __init__(self, model: nn.Module):
        gates = [m.gate for m in model.modules() if isinstance(m, backbones.SEModule)]
        self.seen = []
        self.hooks = (
            [gates[-1].register_forward_hook(lambda m, i, out: self.seen.append(out.flatten(1)))] if gates else []
        )

    def __enter__(self):
        return self.seen

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def load(study: str, root: str | Path | None = None) -> tuple[torch.Tensor, ...]:
    """The images of a study, standardised by the mean and deviation of the training pixels: train, labels, test,
    labels.
    """
    parts = [data.load(STUDIES[study]["dataset"], split, root).floats() for split in data.SPLITS]
    (train, train_labels), (test, test_labels) = parts
    mean, std = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)
    return (train - mean) / std, train_labels, (test - mean) / std, test_labels


class Runs(Store):
    """The runs of the studies; two files for each, one for either table of a Run."""

    def name(self, settings: dict) -> str:
        return "-".join(str(settings[key]) for key in ("study", "network", "seed", "part"))


def run(
    study: str,
    folder: str | Path,
    networks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    root: str | Path | None = None,
    progress: Callable = print,
) -> dict[str, History]:
    """All runs of a study as two Histories, the curves and the κ, λ of each layer; `head` in them is the network.

    Each run is written to `folder` when it ends and read from there the next time, so that a broken study goes on where
    it stopped.
    """
    checks.one_of("study", study, tuple(STUDIES))
    spec, store, images = STUDIES[study], Runs(folder), None
    networks, seeds = networks or spec["networks"], spec["seeds"] if seeds is None else seeds
    options = {key: spec[key] for key in ("epochs", "batch_size", "lr", "weight_decay", "measure_at")}
    shared = {"study": study, "images": NOTES[study], "dataset": spec["dataset"], "blocks": BLOCKS, **options}
    found = {part: [] for part in Run._fields}
    for seed in seeds:
        for network in networks:
            settings = {part: shared | {"network": network, "seed": seed, "part": part} for part in found}
            histories = {part: store.get(settings[part]) for part in found}
            if None in histories.values():
                images = images or load(study, root)
                model = build(network, images[0].shape[1], seed=seed)
                result = train_classifier(model, *images, seed=seed, **options)
                for part, table in result._asdict().items():
                    histories[part] = History(table.assign(head=network, seed=seed), shared | provenance())
                    store.put(settings[part], histories[part])
                accuracy = result.curves["test_accuracy"].iloc[-1]
                progress(f"{study}, {network}, seed {seed}: test accuracy {accuracy:.3f}")
            for part, history in histories.items():
                found[part].append(history)
    return {part: _together(histories) for part, histories in found.items()}


def _together(histories):
    """Several runs as one table; those without a row (no κ and λ) have no say in the types of its columns."""
    frames = [h.frame for h in histories if len(h.frame)] or [histories[0].frame]
    return History(
        pd.concat(frames, ignore_index=True), {k: v for k, v in histories[-1].settings.items() if k != "run"}
    )


def save(found: dict[str, History], study: str, folder: str | Path) -> list[Path]:
    """Write the two Histories of `run` to networks-<study>-curves.parquet and networks-<study>-parameters.parquet."""
    return [history.save(Path(folder) / f"networks-{study}-{part}.parquet") for part, history in found.items()]


def saved(study: str, folder: str | Path) -> tuple[History, ...]:
    """The curves and parameters that `save` wrote, as two Histories; FileNotFoundError where they are not there."""
    return tuple(History.load(Path(folder) / f"networks-{study}-{part}.parquet") for part in Run._fields)
