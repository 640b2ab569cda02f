"""Minority collapse: what becomes of small classes in a UFM, head by head (Fang et al. 2021; features of one length).

end = train(Stepped(10, 505, 16, imbalance=100, num_small=5), "standard")
end.small_cosine()                         # 0.63, where a simplex ETF has −1/9
end.accuracy(noise=0.5, tau=1.0)           # of balanced, noisy copies of the class means
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from labkit import calibration, checks, metrics
from labkit.ufm import UFM, Trainer


@dataclass(frozen=True)
class Stepped(UFM):
    """A UFM with two sizes of classes: the last `num_small` classes are each 1/imbalance of the others, to rounding.

    Of C − k large and k small classes, N = (C − k)·r + k gives sizes r and 1 exactly.

    >>> Stepped(4, 22, 8, imbalance=10, num_small=2).class_sizes()
    tensor([10, 10,  1,  1])
    """

    num_small: int = 1

    def __post_init__(self):
        if checks.integer("num_small", self.num_small, 0) > self.num_classes:
            raise ValueError(f"num_small must be at most num_classes={self.num_classes}, got {self.num_small!r}")
        super().__post_init__()

    def _shape(self):
        sizes = torch.ones(self.num_classes, dtype=torch.float64)
        sizes[: self.num_classes - self.num_small] = self.imbalance
        return sizes


def stepped(num_classes: int, num_small: int, imbalance: int, dim: int | None = None, smallest: int = 1) -> Stepped:
    """The UFM whose small classes have `smallest` samples each and the others `imbalance` times as many."""
    number = ((num_classes - num_small) * imbalance + num_small) * smallest
    return Stepped(num_classes, number, dim or max(16, num_classes), float(imbalance), num_small)


@dataclass(frozen=True)
class End:
    """Where a training ended. weight (C, d), bias (C,): the classifier's; means (C, d): class means of the features as
    the head sees them; sizes (C,): samples of each class; num_small: how many of the last are small; all in float64.
    """

    head: str
    weight: torch.Tensor
    bias: torch.Tensor
    means: torch.Tensor
    sizes: torch.Tensor
    num_small: int
    loss: float

    def cosines(self) -> torch.Tensor:
        """Of the class vectors, (C, C)."""
        unit = torch.nn.functional.normalize(self.weight, dim=-1)
        return unit @ unit.mT

    def small_cosine(self) -> float:
        """The mean cosine between class vectors of small classes: 1 where they are one; NaN where there are not two."""
        return _off_diagonal(self.cosines()[-self.num_small :, -self.num_small :] if self.num_small else None)

    def large_cosine(self) -> float:
        """The same of large classes."""
        large = len(self.sizes) - self.num_small
        return _off_diagonal(self.cosines()[:large, :large])

    def logits(self, features: torch.Tensor, tau: float = 0.0) -> torch.Tensor:
        """(n, C) of features (n, d), with the prior taken out τ times."""
        return calibration.correct_prior(features @ self.weight.mT + self.bias, self.sizes, tau)

    def margins(self, tau: float = 0.0) -> torch.Tensor:
        """(C,): the logit of each class mean for its own class, less the largest other."""
        logits = self.logits(self.means, tau)
        own = logits.diagonal().clone()
        return own - logits.fill_diagonal_(-torch.inf).amax(-1)

    def accuracy(self, noise: float = 0.5, tau: float = 0.0, each: int = 400, seed: int = 0) -> dict:
        """Of `each` new samples of every class, its mean with Gaussian noise of that length (as a share of the mean's):
        {"overall", "large", "small"}. It stands for a balanced test set, which a UFM does not have.
        """
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(len(self.sizes)).repeat_interleave(each)
        centres = self.means[labels]
        scale = noise * centres.norm(dim=-1, keepdim=True) / centres.shape[-1] ** 0.5
        x = centres + scale * torch.randn(centres.shape, generator=generator, dtype=torch.float64)
        x = x * (centres.norm(dim=-1, keepdim=True) / x.norm(dim=-1, keepdim=True))  # back to the head's sphere
        shares = calibration.recall(self.logits(x, tau).argmax(-1), labels, len(self.sizes))
        large = len(self.sizes) - self.num_small
        parts = {"overall": shares, "large": shares[:large], "small": shares[large:]}
        return {name: part.mean().item() for name, part in parts.items()}


def _off_diagonal(cosines):
    if cosines is None or len(cosines) < 2:
        return float("nan")
    n = len(cosines)
    return ((cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1))).item()


def train(spec: Stepped, head: str = "standard", iterations: int = 600, seed: int = 0, **options: Any) -> End:
    """Train a UFM as `ufm.train_ufm` does, and keep where it ends. options: temperature, and those of the head."""
    trainer = Trainer(spec, head, [seed], **options)
    for _ in range(iterations):
        trainer.step()
    return ending(trainer)


@torch.no_grad()
def ending(trainer: Trainer) -> End:
    """The End of a `ufm.Trainer` of one seed, as it stands."""
    spec, (head, logits) = trainer.spec, trainer.present()
    h = head.normalize(trainer.features)[0].double()
    weight = head.weight.expand(1, spec.num_classes, spec.dim)[0].double()
    zero = weight.new_zeros(spec.num_classes)
    bias = zero if head.bias is None else head.bias.reshape(-1).double()
    loss = torch.nn.functional.cross_entropy(logits[0].double(), trainer.targets).item()
    means, _ = metrics.class_means(h, trainer.targets, spec.num_classes)
    return End(trainer.head_name, weight, bias, means, spec.class_sizes(), getattr(spec, "num_small", 0), loss)


def study(
    heads: dict[str, tuple[str, dict]] | Iterable[str],
    imbalances: Sequence[float],
    num_small: int = 5,
    num_classes: int = 10,
    seeds: Sequence[int] = (0,),
    noise: float = 0.9,
    taus: Sequence[float] = (0.0, 1.0),
    **options: Any,
) -> pd.DataFrame:
    """One row for each head, imbalance, seed and τ: columns head, imbalance, seed, tau, small_cosine, large_cosine,
    small_margin and large_margin (the smallest of their classes), overall, large, small (accuracies with noise).

    heads: {name: (head, options)}, or names of heads.
    """
    named = heads if isinstance(heads, dict) else {name: (name, {}) for name in heads}
    rows = []
    for name, (head, more) in named.items():
        for ratio in imbalances:
            for seed in seeds:
                end = train(stepped(num_classes, num_small, ratio), head, seed=seed, **more, **options)
                large = num_classes - num_small
                for tau in taus:
                    margins = end.margins(tau)
                    row = dict(head=name, imbalance=ratio, seed=seed, tau=tau, loss=end.loss)
                    row |= dict(small_cosine=end.small_cosine(), large_cosine=end.large_cosine())
                    row |= dict(small_margin=margins[large:].min().item(), large_margin=margins[:large].min().item())
                    rows.append(row | end.accuracy(noise, tau))
    return pd.DataFrame(rows)
