"""Long-tailed training sets: class sizes by rule, subsets of them, and lists of files as ImageNet-LT has them.

    train = data.load("cifar100", "train")
    train = subset(train, exponential(500, 100, imbalance=100), seed=0)      # CIFAR-100-LT, 10847 images

The test set stays as it is, balanced.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from labkit import checks
from labkit.vision.sets import ImageFiles, ImageSet


def exponential(largest: int, num_classes: int, imbalance: float) -> list[int]:
    """Class sizes that fall exponentially: n_c = ⌊largest · imbalance^(−c/(C−1))⌋ for c = 0 … C−1, a list.

    CIFAR-10-LT and CIFAR-100-LT (Cui et al. 2019; Cao et al. 2019) are this with largest 5000 and 500 and imbalance 10,
    50 or 100; 12406 and 10847 images at 100.
    """
    _check(largest, num_classes, imbalance)
    return [_whole(largest / imbalance ** (c / (num_classes - 1))) for c in range(num_classes)]


def step(largest: int, num_classes: int, imbalance: float) -> list[int]:
    """Class sizes of one step: `largest` for the first ⌊C/2⌋ classes and ⌊largest/imbalance⌋ for the others, a list."""
    _check(largest, num_classes, imbalance)
    return [largest if c < num_classes // 2 else _whole(largest / imbalance) for c in range(num_classes)]


def fitting(available: Sequence[int], imbalance: float):
    """`exponential` sizes with the largest first class for which no class needs more than its `available` (C,) images.

    Of classes of one size that is their size, as in CIFAR-10-LT and CIFAR-100-LT.

    >>> fitting([119, 122, 118], imbalance=4)
    [119, 59, 29]
    """
    checks.positive("imbalance", imbalance)
    share = [imbalance ** (c / (len(available) - 1)) for c in range(len(available))]
    return exponential(_whole(min(n * s for n, s in zip(available, share))), len(available), imbalance)


def subset(images: ImageSet | ImageFiles, counts: Sequence[int] | torch.Tensor, seed: int = 0) -> ImageSet | ImageFiles:
    """counts[c] images of each class c, drawn at random by `seed`, in their old order; for an ImageSet or ImageFiles.

    Raises ValueError for counts that are not whole numbers, and where the classes are not as many as the counts, or
    hold too few images.
    """
    counts, there = torch.as_tensor(counts), images.counts().cpu()
    if counts.is_floating_point():  # among them NaN, which is neither below 0 nor too large
        if not torch.equal(counts, counts.long().to(counts.dtype)):
            raise ValueError(f"counts must be whole numbers, got {counts.tolist()}")
        counts = counts.long()
    if counts.shape != there.shape:
        raise ValueError(f"counts must have one number for each of the {len(there)} classes, got {tuple(counts.shape)}")
    if (counts < 0).any() or (counts > there).any():
        c = int(((counts < 0) | (counts > there)).nonzero()[0, 0])
        raise ValueError(f"class {c} ({images.classes[c]}) has {there[c]} images, so counts[{c}] cannot be {counts[c]}")
    labels = images.labels.cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    shuffled = shuffled[labels[shuffled].argsort(stable=True)]
    within = torch.arange(len(labels)) - (there.cumsum(0) - there)[labels[shuffled]]
    return images[shuffled[within < counts[labels[shuffled]]].sort().values]


def read_list(path: str | Path, root: str | Path, classes: Sequence[str] | None = None) -> ImageFiles:
    """The pictures of a list file, one "path label" a line with paths relative to `root`, as ImageFiles.

    ImageNet-LT and Places-LT (Liu et al. 2019) come as such files. classes: their names; None is the numbers. Pictures
    are not opened, but must be there. Raises FileNotFoundError for pictures that are not, which it counts, and for the
    list; ValueError, with the number of the line, for a line of another form or a label that is not a class.
    """
    path, root = Path(path), Path(root)
    if not path.is_file():
        raise FileNotFoundError(f"no list of pictures at {path.absolute()}")
    pictures, labels = [], []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal() or (classes is not None and int(label) >= len(classes)):
            wanted = "" if classes is None else f" below {len(classes)}"
            raise ValueError(f"{path}, line {number}: expected a path, a space and a label{wanted}, got {line!r}")
        pictures.append(str(root / name))
        labels.append(int(label))
    if not pictures:
        raise ValueError(f"{path} lists no picture")
    if missing := [picture for picture in pictures if not os.path.isfile(picture)]:
        raise FileNotFoundError(
            f"{path} lists {missing[0]}, which is not there; so it is with {len(missing)} of {len(pictures)} pictures; "
            f"root is {root.absolute()}"
        )
    return ImageFiles(tuple(pictures), torch.tensor(labels), tuple(classes or map(str, range(max(labels) + 1))))


def _whole(size):
    """⌊size⌋ of a number that has been rounded: 32/32^(4/5) comes out as 1.9999999999999996, and is 2."""
    return int(size * (1 + 1e-12))


def _check(largest, num_classes, imbalance):
    checks.classes(num_classes)
    checks.positive("largest", largest)
    checks.positive("imbalance", imbalance)
    if imbalance < 1:
        raise ValueError(f"imbalance is the largest class over the smallest, at least 1; got {imbalance!r}")
