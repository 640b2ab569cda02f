"""From the settings of a recipe to batches: which images, and what is done to them."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms import v2

from labkit.vision import batches, data, fields, longtail
from labkit.vision.augment import Cutout, Flip, Normalise, PaddedCrop, Rotation, Torchvision

CLEAN_BATCH = 500
WORKERS = 8  # that read pictures from files
BILINEAR = v2.InterpolationMode.BILINEAR
POLICY_STEPS = ("autoaugment", "randaugment")
POLICIES = {name: getattr(v2.AutoAugmentPolicy, name.upper()) for name in ("cifar10", "imagenet")}


class Rgb:
    """Grey images (n, 1, H, W) as three equal channels."""

    def draw(self, n: int, generator: torch.Generator):
        return None

    def __call__(self, images: torch.Tensor, draws: Any = None):
        return images.expand(-1, 3, -1, -1)


# Steps on a batch: what they make of the text after the colon.
STEPS = {
    "flip": lambda _: Flip(),
    "crop": lambda padding: PaddedCrop(int(padding)),
    "rotation": lambda degrees: Rotation(float(degrees)),
    "cutout": lambda size: Cutout(int(size)),  # black where it comes before "normalise"
    "erasing": lambda p: Torchvision(v2.RandomErasing(float(p))),
    "autoaugment": lambda policy: Torchvision(v2.AutoAugment(POLICIES[policy], BILINEAR)),
    "randaugment": lambda magnitude: Torchvision(v2.RandAugment(2, int(magnitude), interpolation=BILINEAR)),
    "rgb": lambda _: Rgb(),
}
# Steps on one picture from a file, those before "normalise"; side is that of the settings.
PICTURE_STEPS = {
    "resize": lambda size, side: v2.Resize(int(size)),
    "center-crop": lambda size, side: v2.CenterCrop(int(size or side)),
    "resized-crop": lambda _, side: v2.RandomResizedCrop(side),
    "flip": lambda _, side: v2.RandomHorizontalFlip(),
    "crop": lambda padding, side: v2.RandomCrop(side, padding=int(padding)),
    "autoaugment": lambda policy, side: v2.AutoAugment(POLICIES[policy], BILINEAR),
    "randaugment": lambda magnitude, side: v2.RandAugment(2, int(magnitude), interpolation=BILINEAR),
}


def batches_of(settings: dict, seed: int, root: str | Path | None, download: bool, here: dict):
    """Batches to train on, of training images to measure, and of the test set (None where there is none); (channels,
    side); and what the images are called, such as "CIFAR-10, JPEG re-encoded".
    """
    train, *test = load(settings, root, download)
    in_memory = isinstance(train, data.ImageSet)
    if in_memory:
        if settings["side"]:
            train, *test = (part.resized(settings["side"]) for part in (train, *test))
        train = train.to(here["device"])
    norm = _normalise(settings, train)
    if in_memory and train.white != 255 and any(name.startswith(POLICY_STEPS) for name in settings["augmentation"]):
        raise ValueError(
            f"autoaugment and randaugment take white for 255, and that of {settings['data']!r} is {train.white}"
        )

    def batched(part, names, size, **options):
        steps, pictures = _steps(names, norm, None if in_memory else settings["side"])
        if in_memory:
            return batches.Batches(part, size, transforms=steps, **options, **here)
        picture = v2.Compose([v2.PILToTensor(), *pictures])
        return batches.FileBatches(part, size, picture=picture, workers=WORKERS, transforms=steps, **options, **here)

    order = batches.repeated(batches.SAMPLERS[settings["sampler"]], settings["repeats"], settings["batch_size"])
    augmented, plain = settings["augmentation"], settings["evaluation"]
    mix = _mix(settings, len(train.classes))
    shuffled = batched(train, augmented, settings["batch_size"], mix=mix, order=order, seed=seed)
    measured = plain if settings["measured_on"] == "clean" else augmented
    # The released code measures augmented images in the batches that it trains on. A bias that is the mean of a batch
    # would take the class itself away where batches are read in the order of a set that is sorted by class.
    named = settings["head"] if isinstance(settings["head"], list) else [settings["head"]]
    follows = [fields.options_of_head(settings, head).get("bias") == "batch_mean" for head in named]
    in_turn = "shuffled" if any(follows) else "sequential"
    order = in_turn if settings["measured_on"] == "clean" else "shuffled"
    clean = batched(train, measured, CLEAN_BATCH, order=order, seed=seed)
    test = [batched(part, plain, CLEAN_BATCH, order=in_turn, seed=seed) for part in test]
    channels = 3 if not in_memory or "rgb" in augmented else train.images.shape[1]
    side = train.images.shape[-1] if in_memory else settings["side"]
    return shuffled, clean, test[0] if test else None, (channels, side), train.title


def load(settings: dict, root: str | Path | None = None, download: bool = False) -> list:
    """The splits of a recipe's data, its training set cut to a long tail where the settings say so."""
    name, count = settings["data"], settings["count"]
    if name in fields.LISTS:
        folder = data.root_of(root) / name
        names = [str(c) for c in range(fields.LISTED_CLASSES[name])]
        train, test = (longtail.read_list(folder / part, folder, names) for part in fields.LISTS[name])
        parts = [train[:count], test[:count]]
    else:
        folder = data.root_of(root).absolute()
        parts = [_load(folder, name, split, root, count, download) for split in data.splits(name)]
    if settings["imbalance"]:
        sizes = longtail.fitting(parts[0].counts().tolist(), settings["imbalance"])
        parts[0] = longtail.subset(parts[0], sizes)
    return parts


@lru_cache(maxsize=2)  # one run after another on the same set
def _load(folder, *what):
    """As `data.load`; folder: what its root stands for at this moment."""
    return data.load(*what)


def _normalise(settings, train):
    white = train.white if isinstance(train, data.ImageSet) else 255
    if settings["mean"] is None:
        return train.normalise()
    return Normalise(settings["mean"], settings["std"], white)


def _steps(names, norm, side):
    """Steps on a batch, and on one picture of `side` pixels from a file (none where side is None)."""
    pictures, steps = [], []
    before = side is not None
    for text in names:
        name, _, size = text.partition(":")
        known = {"normalise": None} | (PICTURE_STEPS if before else STEPS)
        if name not in known:
            raise ValueError(f"augmentation has {', '.join(known)}, got {text!r}")
        if name == "normalise":
            steps.append(norm)
            before = False
        elif before:
            pictures.append(known[name](size, side))
        else:
            steps.append(known[name](size))
    return steps, pictures


def _mix(settings, classes):
    kinds = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
    chosen = [kind(alpha=settings[key], num_classes=classes) for key, kind in kinds.items() if settings[key]]
    return v2.RandomChoice(chosen) if len(chosen) > 1 else (chosen or [None])[0]
