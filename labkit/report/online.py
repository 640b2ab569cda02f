"""Neural collapse of features that come in batches, from one process or several, in the manner of torchmetrics."""

import math
from typing import Self

import torch
from torch import Tensor

from labkit import checks, metrics, streaming, system
from labkit.report import measures


class NeuralCollapse(streaming.NeuralCollapse):
    """`labkit.streaming.NeuralCollapse` with every measure that one pass gives, added up over the processes of a run.

    In torchmetrics' manner, and without it: update(features (N, d), targets (N,)) takes a batch in; compute(weight,
    bias) measures all so far, of all processes; reset() forgets them. Called, it takes a batch in and returns the
    measures of this batch. It works in a plain loop, with accelerate and in a LightningModule: there,
    `self.log_dict(metric.compute(…))`.

    num_classes: C.
    centre: the global mean, of all "samples" or of the "classes", see `labkit.report.measures`.

    It keeps C×d and d×d numbers in float64 on the device of the features. What needs the class means before it can look
    at a sample (NC4, margins) takes a second pass: `labkit.collapse` has those. Raises ValueError for features that are
    not a matrix, where a class has no sample in compute(), and what `labkit.metrics` raises.

    >>> metric = NeuralCollapse(2)
    >>> metric.update(torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    >>> metric.update(torch.tensor([[0.0, 8.0], [0.0, 10.0]]), torch.tensor([1, 1]))
    >>> {name: round(value.item(), 9) for name, value in metric.compute().items() if name.startswith("nc1")}
    {'nc1': 0.03125, 'nc1_svd': 0.03125, 'nc1_quotient': 0.0625}
    """

    def __init__(self, num_classes: int, centre: str = "samples"):
        checks.one_of("centre", centre, ("samples", "classes"))
        self.centre = centre
        super().__init__(num_classes)

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._own = None

    def update(self, features: Tensor, targets: Tensor) -> None:
        """Take in a batch: features (N, d) of any floating dtype, labels (N,); d as before, and N may be 0."""
        if self._own is not None:
            raise RuntimeError("the sums are those of all processes since sync(): call unsync() before update()")
        if features.ndim != 2:
            raise ValueError(f"features must have shape (N, d), got {tuple(features.shape)}")
        super().update(features.detach(), targets)

    def forward(self, features: Tensor, targets: Tensor, weight: Tensor | None = None, bias: Tensor | None = None):
        """Take in a batch, and return the measures of this batch on this process alone; NaN where it misses a class."""
        self.update(features, targets)
        alone = type(self)(self.num_classes, self.centre)
        alone.update(features, targets)
        if isinstance(alone.counts, int) or (alone.counts == 0).any():
            names = measures.of_one_pass(self.num_classes, features.shape[-1], weight is not None)
            return {name: features.new_tensor(math.nan, dtype=torch.float64) for name in names}
        return alone._measured(weight, bias)

    __call__ = forward

    def compute(self, weight: Tensor | None = None, bias: Tensor | None = None) -> dict[str, Tensor]:
        """The measures of all batches of all processes, {name: tensor of shape ()}; names as in `measures.MEASURES`.

        weight: (C, d) of the classifier adds nc2, nc3, equinorm_weights and nc4_bias, the last with bias (C,), if any.
        Every process must call it, since they wait for each other.
        """
        synced = self._own is None
        if synced:
            self.sync()
        try:
            return self._measured(weight, bias)
        finally:
            if synced:
                self.unsync()

    def _measured(self, weight, bias):
        class_means, of_samples = self.means()
        mu = measures.global_mean(class_means, of_samples, self.centre)
        whiten = metrics.whitening(class_means, mu)
        inside = (whiten * (self.scatter @ whiten)).sum((-2, -1))
        spread = measures.of_spread(inside, self.squares, self.counts, class_means, mu, whiten)
        return spread | measures.of_means(class_means, mu, weight, bias)

    def sync(self) -> None:
        """Replace this process's sums by those of all, until unsync(). Does nothing where there is one process."""
        if self._own is not None:
            raise RuntimeError("sync() was called before: call unsync() first")
        self._own = self.counts, self.centres, self.squares, self.scatter
        if not system.several():
            return
        distributed = torch.distributed
        dims = [None] * distributed.get_world_size()
        distributed.all_gather_object(dims, None if isinstance(self.counts, int) else self.centres.shape[-1])
        known = {dim for dim in dims if dim is not None}
        if len(known) != 1:  # all processes see the same
            self._own = None
            raise ValueError(f"processes have features of these dimensions: {dims}; None is that of one with no batch")
        (d,) = known
        if isinstance(self.counts, int):
            on = "cuda" if distributed.get_backend() == "nccl" else "cpu"
            zeros = lambda *shape: torch.zeros(*shape, dtype=torch.float64, device=on)
            C = self.num_classes
            self.counts, self.centres, self.squares, self.scatter = zeros(C), zeros(C, d), zeros(C), zeros(d, d)
        sums, counts = system.over_processes(self.centres * self.counts.unsqueeze(-1), self.counts.clone())
        centres = sums / counts.clamp(min=1).unsqueeze(-1)
        gap = self.centres - centres  # each process moves its squares to the common means
        scatter = self.scatter + (gap * self.counts.unsqueeze(-1)).mT @ gap
        squares = self.squares + self.counts * gap.square().sum(-1)
        system.over_processes(scatter, squares)
        self.counts, self.centres, self.squares, self.scatter = counts, centres, squares, scatter

    def unsync(self) -> None:
        """Back to the sums of this process."""
        if self._own is None:
            raise RuntimeError("there was no sync() to undo")
        (self.counts, self.centres, self.squares, self.scatter), self._own = self._own, None

    def to(self, device: str | torch.device) -> Self:
        """Move the sums to a device."""
        if not isinstance(self.counts, int):
            names = "counts", "centres", "squares", "scatter"
            self.__dict__.update({name: getattr(self, name).to(device) for name in names})
        return self
