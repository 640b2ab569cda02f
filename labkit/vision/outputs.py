"""What a finished network says of its test images, kept so that what comes after training can be computed later.

    trainer = build.make(settings, "cosine"); trainer.run()
    outputs.of(trainer).save("cosine-seed-0-outputs.npz")

The logits of CIFAR-10's 10000 test images are 0.4 MB; prior corrections, accuracy of frequent and rare classes,
calibration and paired tests need nothing else. `build.run` writes such a file into the folder of every long-tailed run.
"""

import json
import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from timm.layers import SEModule
from torch import nn

from labkit import checks, metrics
from labkit.history import plain
from labkit.system import written_whole
from labkit.vision import backbones
from labkit.vision.training import processes
from labkit.vision.training.trainer import Trainer

FILE = "outputs.npz"  # in the folder of a run
TENSORS = ("logits", "labels", "train_counts", "weight", "entropy", "cams", "shown")
PICTURES = 3


@dataclass(frozen=True)
class Outputs:
    """logits: float32 (N, C) of the test images in their order; labels: int64 (N,); train_counts: int64 (C,), images of
    each class in the training set.

    weight: float32 (C, d), the classifier's.
    entropy: float64 (N,), of the last channel attention (see `attention_entropy`); of length 0 without attention.
    cams: float32 (n, h, w), Grad-CAM maps of the first PICTURES test images of each class for the class that is
        guessed, and shown (n,), which images these are; of length 0 for networks without maps.
    measures: {"test_nc1": of the features as the backbone gives them, "test_nc1_normalised": at unit length}; NaN where
        a class has no test image.
    parameters: the learnt κ and λ by depth, one dict for each AGLU and APA gate (`backbones.parameters_by_depth`).
    settings: those of the History of the run.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    train_counts: torch.Tensor
    weight: torch.Tensor
    entropy: torch.Tensor
    cams: torch.Tensor
    shown: torch.Tensor
    measures: dict = field(default_factory=dict)
    parameters: list = field(default_factory=list)
    settings: dict = field(default_factory=dict)

    def __post_init__(self):
        checks.labels(self.labels, self.logits.shape[-1], self.logits.shape[:1])
        if self.train_counts.shape != self.logits.shape[1:]:
            raise ValueError(
                f"train_counts must have shape {tuple(self.logits.shape[1:])}, got {tuple(self.train_counts.shape)}"
            )

    def save(self, path: str | Path) -> Path:
        """Write one compressed npz file, which appears whole or not at all; returns the path."""
        said = {key: getattr(self, key) for key in ("measures", "parameters", "settings")}
        arrays = {key: getattr(self, key).numpy() for key in TENSORS}
        arrays["labels"] = arrays["labels"].astype(np.int32)
        with written_whole(Path(path)) as file:
            np.savez_compressed(file, **arrays, said=np.array(json.dumps(plain(said))))
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> "Outputs":
        """What `save` wrote. FileNotFoundError where there is no file; ValueError, naming it, for a damaged one."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no outputs of a run at {path}")
        try:
            with np.load(path) as file:
                arrays = {key: torch.from_numpy(file[key]) for key in TENSORS}
                said = json.loads(str(file["said"]))
            return cls(**arrays | {"labels": arrays["labels"].long()}, **said)
        except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} does not hold the outputs of a run: {error!r}") from error


@torch.no_grad()
def of(trainer: Trainer) -> Outputs:
    """The Outputs of a Trainer as it stands, as a rule after `run()`; its networks are put into evaluation mode.

    For one process. Raises ValueError for a trainer without test images or without a head, and for several processes,
    of which each has a share of the images only.
    """
    if trainer.test is None:
        raise ValueError("outputs are of test images, and this trainer has none")
    if not hasattr(trainer.head, "weight"):
        raise ValueError("outputs are of a network with a head of labkit.heads, and this trainer has none (head=None)")
    if trainer.on.num_processes > 1:
        raise ValueError(f"outputs are gathered by one process, and this run has {trainer.on.num_processes}")
    trainer.backbone.eval(), trainer.head.eval()
    features, logits, labels, entropy = [], [], [], []
    gates = [m.gate for m in trainer.backbone.modules() if isinstance(m, SEModule)]
    hooks = [
        g.register_forward_hook(lambda m, i, out: entropy.append(attention_entropy(out.flatten(1)))) for g in gates[-1:]
    ]
    try:
        for images, targets in trainer.test.epoch(trainer.epoch):
            with processes.autocast(trainer.on):
                features.append(trainer.backbone(images.contiguous(memory_format=trainer.layout)).float())
            logits.append(trainer.head(features[-1]).float().cpu())
            labels.append(targets.long().cpu())
    finally:
        for hook in hooks:
            hook.remove()
    features, logits, labels = torch.cat(features).cpu(), torch.cat(logits), torch.cat(labels)
    checks.finite("logits", logits)
    back = trainer.test.indices(trainer.epoch).argsort()  # from the order of the batches to that of the set
    features, logits, labels = features[back], logits[back], labels[back]
    shown = torch.cat([(labels == c).nonzero()[:PICTURES, 0] for c in labels.unique()])
    cams = _cams(trainer, shown, logits.argmax(-1))
    classes = logits.shape[-1]
    return Outputs(
        logits=logits,
        labels=labels,
        train_counts=torch.bincount(trainer.train.all_labels, minlength=classes),
        weight=trainer.head.weight.detach().float().cpu(),
        entropy=torch.cat(entropy).cpu()[back] if entropy else torch.empty(0, dtype=torch.float64),
        cams=cams,
        shown=shown,
        measures={
            "test_nc1": _nc1(features, labels, classes),
            "test_nc1_normalised": _nc1(torch.nn.functional.normalize(features.double(), dim=-1), labels, classes),
        },
        parameters=backbones.parameters_by_depth(trainer.backbone).to_dict("records"),
        settings=trainer.history().settings,
    )


def _nc1(features, labels, classes):
    """NaN where a class has no test image, as in trials on the first images of a set."""
    return metrics.nc1(features, labels, classes).item() if len(labels.unique()) == classes else math.nan


def _cams(trainer, shown, guesses):
    """Grad-CAM maps of these test images, of the classes that were guessed, without mixed precision."""
    wanted, order, maps = set(shown.tolist()), trainer.test.indices(trainer.epoch).tolist(), {}
    for images, _ in trainer.test.epoch(trainer.epoch):
        indices, order = order[: len(images)], order[len(images) :]
        if here := [k for k, index in enumerate(indices) if index in wanted]:
            these = [indices[k] for k in here]
            try:
                found, _ = grad_cam(trainer.backbone, trainer.head, images[here], guesses[these].to(images.device))
            except TypeError:  # a network without maps
                return torch.empty(0, 1, 1)
            maps |= dict(zip(these, found.float().cpu()))
    return torch.stack([maps[k] for k in shown.tolist()])


def attention_entropy(gates: torch.Tensor) -> torch.Tensor:
    """Entropy of a gate vector as a share of the largest possible, (…, C) positive -> (…,), float64, between 0 and 1.

    The gates g are made a distribution, p = g/Σg, and H = −Σ p ln p is divided by ln C: 1 where all channels pass
    alike, 0 where one passes alone. The supplement's Figure 2 prints entropies without a definition; this one is ours.

    >>> attention_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    p = gates.double() / gates.double().sum(-1, keepdim=True)
    return torch.special.entr(p).sum(-1) / torch.log(torch.tensor(gates.shape[-1], dtype=torch.float64))


def grad_cam(backbone: nn.Module, head: nn.Module, images: torch.Tensor, classes: torch.Tensor | None = None) -> tuple:
    """Grad-CAM: where in a picture a network found what speaks for a class (Selvaraju et al. 2017).

    Maps (n, h, w) of images (n, …), at the size of the backbone's last maps, and the classes (n,) they are of:

        α_k = mean over pixels of ∂ logit_c/∂ A_k,   map = max(0, Σ_k α_k A_k)

    backbone: a ResNet of `backbones.create`, whose last maps A (n, K, h, w) `forward_features` gives. head: of
    labkit.heads. Both are put into evaluation mode. classes: (n,), c of each image; None is the class that is guessed.
    Raises TypeError for a backbone without maps, or with maps that have their channels elsewhere, as Swin's.
    """
    if not hasattr(backbone, "forward_features"):
        raise TypeError(f"Grad-CAM needs a network with maps, such as a ResNet; got a {type(backbone).__name__}")
    backbone.eval(), head.eval()
    with torch.no_grad():
        maps = backbone.forward_features(images)
    if maps.ndim != 4 or maps.shape[1] != getattr(backbone, "num_features", maps.shape[1]):
        raise TypeError(f"Grad-CAM needs maps (n, features, height, width), got {tuple(maps.shape)}")
    with torch.enable_grad():
        maps = maps.detach().requires_grad_()
        logits = head(backbone.forward_head(maps, pre_logits=True))
        classes = logits.detach().argmax(-1) if classes is None else classes
        checks.labels(classes, logits.shape[-1], logits.shape[:1])
        (gradient,) = torch.autograd.grad(logits.gather(-1, classes.unsqueeze(-1)).sum(), maps)
    weights = gradient.mean((-2, -1), keepdim=True)
    return (weights * maps.detach()).sum(1).clamp(min=0), classes
