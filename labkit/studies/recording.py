"""A training run kept whole: where every feature was after each epoch, to be watched again.

film = record(build.make(recipes.RECIPES["digits"], "standard"))
film.history.frame["nc1"], film.features[20]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from labkit import metrics
from labkit.history import History
from labkit.vision.batches import Batches
from labkit.vision.training import processes
from labkit.vision.training.trainer import Trainer


@dataclass(frozen=True)
class Recording:
    """What `record` keeps, for the E + 1 states of a training of E epochs; the first is that before training.

    history: a row for each state, as of `Trainer.each_epoch`, and in nc2_means the NC2 of the centred class means.
    features: float32 (E+1, N, d), as the head sees them, divided by its temperature: of unit length.
    labels: int64 (N,). weights: float32 (E+1, C, d), class vectors of unit length.
    """

    history: History
    features: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    @cached_property
    def means(self):
        """Class means less the global mean, float64 (E+1, C, d)."""
        return centred_means(self.features, self.labels, self.weights.shape[-2])

    def cosines(self, epoch: int, between: str = "means"):
        """Cosines (C, C) of the centred class means with each other ("means"), or of the class vectors, in rows, with
        them.
        """
        means = torch.nn.functional.normalize(self.means[epoch], dim=-1)
        return (means if between == "means" else self.weights[epoch].double()) @ means.mT

    def axes(self, classes: Sequence[int]):
        """Orthonormal columns (d, 3), each as near as can be to the last mean of one of three classes.

        The means lie in the space of the three axes, so at the end they are drawn as they are: the polar factor of the
        (d, 3) means.
        """
        if len(set(classes)) != 3 or not set(classes) <= set(range(self.weights.shape[-2])):
            raise ValueError(
                f"classes must be three different ones of 0 … {self.weights.shape[-2] - 1}, got {classes!r}"
            )
        left, _, right = torch.linalg.svd(self.means[-1][list(classes)].mT, full_matrices=False)
        return left @ right

    def shadow(self, classes: Sequence[int]):
        """The features of three classes seen along `axes`: points (E+1, n, 3), class vectors (E+1, 3, 3), labels (n,),
        share.

        share (E+1,): the part of the features' squared length that is in the picture, 1 where nothing is hidden.
        """
        axes, mine = self.axes(classes), torch.isin(self.labels, torch.tensor(classes))
        features = self.features[:, mine].double()
        points = features @ axes
        share = points.square().sum((-2, -1)) / features.square().sum((-2, -1))
        return points, self.weights[:, list(classes)].double() @ axes, self.labels[mine], share


def centred_means(features: torch.Tensor, labels: torch.Tensor, num_classes: int):
    """Class means less the global mean, float64 (…, C, d), of features (…, N, d) and labels (N,)."""
    means, global_mean = metrics.class_means(features, labels, num_classes)
    return means - global_mean.unsqueeze(-2)


def record(trainer: Trainer):
    """Train with a `Trainer` from its beginning to its end, and keep what it makes of its clean training set after each
    epoch.

    Memory: E·N·d numbers of float32, 19 MB for the recipe "digits". Raises ValueError for a trainer that has begun.
    """
    if trainer.rows:
        raise ValueError(
            f"the trainer has already trained {trainer.epoch} epochs; a recording needs one that has not begun"
        )
    kept = []
    for _ in trainer.each_epoch():
        features, labels = features_of(trainer, trainer.clean)
        kept.append((features, trainer.head.weight.detach().float().cpu().clone()))
    features, weights = (torch.stack(part) for part in zip(*kept))
    history = trainer.history()
    history.frame["nc2_means"] = metrics.nc2(centred_means(features, labels, weights.shape[-2])).tolist()
    return Recording(history, features, labels, weights)


@torch.no_grad()
def features_of(trainer: Trainer, batches: Batches):
    """Features (N, d) of unit length, in float32 on the CPU, and labels (N,) of all samples of `batches` in order; in
    the precision that the trainer computes in.
    """
    trainer.backbone.eval()
    with processes.autocast(trainer.on):
        pairs = [(trainer.backbone(images).float(), labels) for images, labels in batches.epoch(0)]
    pairs = [(trainer.head.normalize(z) / trainer.head.temperature, labels) for z, labels in pairs]
    return tuple(torch.cat(part).cpu() for part in zip(*pairs))
