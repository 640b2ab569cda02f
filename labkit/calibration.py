"""What comes after training on unequal classes: logits corrected for the training prior, accuracy of frequent and rare
classes, and calibration, whether 80 % sure is right 80 % of the time.

    corrected = correct_prior(logits, counts)                     # towards classes of equal size
    group_accuracy(corrected, labels, counts)                     # {"overall": …, "many": …, "medium": …, "few": …}
    calibration_error(corrected, labels, bins=15)                 # {"ece": …, "mce": …}

Logits of stored runs are enough. Confidence is the largest softmax probability, in float64.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from labkit import checks

GROUPS = ("many", "medium", "few")
MARKS = {"many": "F", "medium": "C", "few": "R"}  # frequent, common and rare, as LVIS calls them
THRESHOLDS = (100, 20)  # many: more than 100 training images; few: fewer than 20 (Liu et al. 2019)


def prior_offset(counts: Sequence[int] | Tensor, kind: str = "prior") -> Tensor:
    """What `correct_prior` adds to the logit of each class at τ = 1, float64 (C,), from its training images (C,).

    kind: "prior" for ln(N/n_c), which is PC-softmax (Hong et al. 2021), or logit adjustment after training (Menon et
        al. 2021), towards equal classes; "odds" for ln((N − n_c)/n_c), the default of the APA paper's code. They differ
        by ln(1 − n_c/N), which matters for classes that are a large share of the data.
    Raises ValueError for a class without a training image: nothing is known of it.

    >>> prior_offset([90, 10]).exp().float(), prior_offset([90, 10], "odds").exp().float()
    (tensor([ 1.1111, 10.0000]), tensor([0.1111, 9.0000]))
    """
    checks.one_of("kind", kind, ("prior", "odds"))
    n = torch.as_tensor(counts, dtype=torch.float64)
    checks.classes(n.numel())
    if not bool((n > 0).all() & n.isfinite().all()):
        raise ValueError(f"every class needs at least one training image, got counts {n.tolist()}")
    total = n.sum()
    return (total / n).log() if kind == "prior" else ((total - n) / n).log()


def correct_prior(logits: Tensor, counts: Sequence[int] | Tensor, tau: float = 1.0, kind: str = "prior") -> Tensor:
    """Logits (…, C) with the training prior taken out: z_c + τ·ln(N/n_c); the classes have (C,) training images.

    A network that has learnt p(c|x) of the training data has, up to a constant, p(c|x) of data with equal classes at
    τ = 1 (Bayes). tau 0 changes nothing, more than 1 favours rare classes further. kind: see `prior_offset`.

    >>> correct_prior(torch.tensor([2.0, 0.0]), [90, 10])
    tensor([2.1054, 2.3026])
    """
    checks.floating("logits", logits)
    checks.not_negative("tau", tau)
    offset = prior_offset(counts, kind)
    if logits.shape[-1:] != offset.shape:
        shape = tuple(logits.shape)
        raise ValueError(f"logits must have one number for each of the {len(offset)} classes, got {shape}")
    return logits + (tau * offset).to(logits)


def groups(counts: Sequence[int] | Tensor, thresholds: Sequence[int] = THRESHOLDS) -> list[str]:
    """'many', 'medium' or 'few' for each class, from its training images: more than 100, from 20 to 100, fewer than 20.

    The thresholds are those of ImageNet-LT (Liu et al. 2019), which the APA paper's code takes for all data sets.

    >>> groups([500, 101, 100, 20, 19])
    ['many', 'many', 'medium', 'medium', 'few']
    """
    most, least = thresholds
    if not 0 < least <= most:
        raise ValueError(f"thresholds must be two numbers, the larger first, got {tuple(thresholds)!r}")
    return ["many" if n > most else "few" if n < least else "medium" for n in torch.as_tensor(counts).tolist()]


def recall(guesses: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Share of each class's samples that are put in it, float64 (C,); NaN for a class without a sample.

    >>> recall(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), 3).tolist()
    [0.5, 1.0, nan]
    """
    checks.labels(guesses, num_classes, guesses.shape)
    checks.labels(labels, num_classes, guesses.shape)
    guesses, labels = guesses.long(), labels.long()
    right = torch.bincount(labels[guesses == labels], minlength=num_classes).double()
    return right / torch.bincount(labels, minlength=num_classes).double()


def group_accuracy(
    logits: Tensor, labels: Tensor, counts: Sequence[int] | Tensor, thresholds: Sequence[int] = THRESHOLDS
) -> dict[str, float]:
    """Accuracy over all samples, "overall", and the mean of the recalls of "many", "medium" and "few" classes.

    logits (N, C), labels (N,), counts (C,) of the training set. NaN for a group without a class, and for one with a
    class that has no test sample.

    >>> z = torch.tensor([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    >>> group_accuracy(z, torch.tensor([0, 0, 1, 0]), [200, 5])
    {'overall': 0.75, 'many': 0.6666666666666666, 'medium': nan, 'few': 1.0}
    """
    checks.finite("logits", logits)
    guesses, named = logits.argmax(-1), np.array(groups(counts, thresholds))
    if len(named) != logits.shape[-1]:
        raise ValueError(f"counts must have one number for each of the {logits.shape[-1]} classes, got {len(named)}")
    shares = recall(guesses, labels, logits.shape[-1]).cpu().numpy()
    parts = {group: float(shares[named == group].mean()) if group in named else float("nan") for group in GROUPS}
    return {"overall": (guesses == labels.long()).double().mean().item(), **parts}


def reliability(logits: Tensor, labels: Tensor, bins: int = 15, equal_mass: bool = False) -> pd.DataFrame:
    """The reliability diagram as a table, a row for each of `bins` bins of confidence: low, high, samples, confidence
    and accuracy (means over its samples, NaN in an empty bin).

    logits (N, C), labels (N,). Bins are of equal width, [low, high) and the last one closed; or, with equal_mass=True,
    of as many samples each, where equal confidences stay together.

    >>> z = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    >>> reliability(z, torch.tensor([0, 0, 1]), bins=2).round(3).to_dict("list")
    {'low': [0.0, 0.5], 'high': [0.5, 1.0], 'samples': [0, 3], 'confidence': [nan, 0.754], 'accuracy': [nan, 0.667]}
    """
    checks.floating("logits", logits)
    checks.labels(labels, logits.shape[-1], logits.shape[:-1])
    checks.finite("logits", logits)
    bins = checks.integer("bins", bins, 1)
    confidence, guesses = (found.cpu() for found in logits.double().softmax(-1).max(-1))
    if equal_mass:
        ranked = confidence.sort().values
        first = torch.searchsorted(ranked, confidence)  # of all samples that are as confident, the place of the first
        place = first * bins // len(confidence)
        edges = [ranked[min(-(-k * len(ranked) // bins), len(ranked) - 1)].item() for k in range(bins + 1)]
    else:
        edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device="cpu")
        place, edges = (torch.bucketize(confidence, edges, right=True) - 1).clamp(0, bins - 1), edges.tolist()
    sums = lambda values: torch.bincount(place, values.double(), minlength=bins)
    samples = torch.bincount(place, minlength=bins)
    table = {"low": edges[:-1], "high": edges[1:], "samples": samples.numpy()}
    table |= {"confidence": (sums(confidence) / samples).numpy()}
    return pd.DataFrame(table | {"accuracy": (sums(guesses == labels.cpu().long()) / samples).numpy()})


def errors(table: pd.DataFrame) -> dict[str, float]:
    """The expected and the largest calibration error of a table of `reliability`: |accuracy − confidence| of the bins,
    their mean weighted by samples, "ece", and their maximum, "mce".

    >>> errors(pd.DataFrame({"samples": [1, 3], "confidence": [0.5, 0.75], "accuracy": [1.0, 0.5]}))
    {'ece': 0.3125, 'mce': 0.5}
    """
    there = table[table["samples"] > 0]
    gaps = (there["accuracy"] - there["confidence"]).abs()
    ece = (gaps * there["samples"]).sum() / there["samples"].sum()
    return {"ece": float(ece), "mce": float(gaps.max())}


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15, equal_mass: bool = False) -> dict[str, float]:
    """Expected and largest calibration error of logits (N, C), {"ece", "mce"}, over bins as in `reliability`.

    With bins of equal width they are those of torchmetrics (norms "l1" and "max"), but for confidences that are 1 to
    the last digit: those have a bin of their own there.

    >>> round(calibration_error(torch.tensor([[20.0, 0.0], [20.0, 0.0]]), torch.tensor([0, 1]))["ece"], 6)
    0.5
    """
    return errors(reliability(logits, labels, bins, equal_mass))


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """T > 0 that makes the cross entropy of logits/T smallest (Guo et al. 2017), for samples that were not trained on.

    Raises ValueError where there is no such T between 1/1000 and 1000: where every sample is right, T → 0 is best, and
    where guesses are no better than a constant, T → ∞.

    >>> z = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> round(best_temperature(z, torch.tensor([0, 0, 0, 1])), 3)        # three of four: p = 0.75, logit ln 3
    3.641
    """
    checks.labels(labels, logits.shape[-1], logits.shape[:-1])
    checks.finite("logits", logits)
    z = logits.double()
    own = z.gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)

    def slope(scale):  # of the cross entropy of scale·z, which grows with scale
        return (((scale * z).softmax(-1) * z).sum(-1) - own).mean().item()

    low, high = 1e-3, 1e3
    if slope(low) >= 0 or slope(high) <= 0:
        raise ValueError("no temperature between 0.001 and 1000 makes the cross entropy of these samples smallest")
    while high / low > 1 + 1e-12:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 1 / low
