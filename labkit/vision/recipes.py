"""Experiments on images, from settings to a History, and the command line that runs them.

    python -m labkit.vision.recipes --preset digits --folder runs/digits
    python -m labkit.vision.recipes --preset guiding --data cifar10 --backbone resnet18 --head implicit --seeds 0 1 2
    --folder runs
    torchrun --nproc_per_node 4 -m labkit.vision.recipes …                        on several GPUs, or processors

Each run keeps its checkpoints and its history.parquet in a folder of its own, <folder>/<data>-<backbone>-<head>-<seed>.
The same command once more goes on where it was stopped, and leaves alone what is finished.
"""

import argparse
import json
import sys
from functools import lru_cache, partial
from pathlib import Path

import torch
from torch import nn

from labkit import checks, heads
from labkit.history import History
from labkit.optim import AGD, agd_init_
from labkit.vision import backbones, data, processes, trainer
from labkit.vision.augment import Flip, Normalise, PaddedCrop, Rotation
from labkit.vision.batches import Batches, FileBatches

SMALL = "small"  # the one backbone that is not of labkit.vision.backbones
OPTIMIZERS = ("sgd", "agd")
PRESETS = {
    # A network of three layers on digits of 8×8 pixels. In 60 epochs, a few seconds, NC1 falls by about a thousand.
    "digits": dict(
        data="digits",
        count=None,
        side=None,
        backbone=SMALL,
        stem=None,
        epochs=60,
        batch_size=64,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-4,
        schedule=None,
        augment=False,
        temperature=5.0,
    ),
    # Section 4 of Markou et al. 2024; the ImageNet stem also on small images, as in the released code. That flips,
    # rotations
    # and crops were used is printed, but not by how much: 15 degrees and an eighth of the side are our choice.
    "guiding": dict(
        data="cifar10",
        count=None,
        side=None,
        backbone="resnet18",
        stem=None,
        epochs=200,
        batch_size=256,
        optimizer="agd",
        lr=10.0,
        weight_decay=0.0,
        schedule=None,
        augment=True,
        temperature=5.0,
    ),
    # ResNet-50 learns one small picture of each of ImageNet's classes by heart: the paper's largest head on any
    # computer.
    "thousand": dict(
        data="imagenet-one-per-class",
        count=None,
        side=32,
        backbone="resnet50",
        stem=None,
        epochs=40,
        batch_size=250,
        optimizer="sgd",
        lr=0.5,
        weight_decay=0.0,
        schedule=None,
        augment=False,
        temperature=5.0,
    ),
}
CLEAN_BATCH = 500
SHOWN = ("accuracy", "test_accuracy", "loss", "nc1")
IMAGENET = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of pixels between 0 and 1
SIDE = 224  # of ImageNet's pictures, which come in all sizes, if the settings do not say

_load = lru_cache(maxsize=2)(data.load)  # one run after another on the same set


def run(settings, head, seed=0, folder=None, *, root=None, download=False, precision="no", progress=False):
    """One run to its end, or from where it was stopped, or from its file if it is finished; returns the History.

    settings: dict with the keys of PRESETS["digits"]: data (of data.NAMES), count (only the first so many images of
        each split; None is all), side (pixels that pictures are brought to; None leaves them as they are, and takes 224
        for ImageNet's files), backbone (of backbones.NAMES, or "small"), stem, epochs, batch_size (over all processes),
        optimizer ("sgd" with momentum 0.9, or "agd"), lr (of AGD the gain), weight_decay (of matrices and convolutions;
        not for AGD), schedule, augment (flips, rotations and crops), temperature.
    head: of heads.VARIANTS. seed: of weights, batches and augmentation; at one seed all heads start from the same
        backbone.
    folder: of this run alone; None keeps nothing. root, download: as in data.load. precision: as in
        processes.accelerator.
    """
    settings = check(settings)
    if folder is not None and (found := finished(folder, settings, head, seed)):
        return found
    return make(
        settings, head, seed, folder, root=root, download=download, precision=precision, progress=progress
    ).run()


def make(settings, head, seed=0, folder=None, *, root=None, download=False, precision="no", progress=False):
    """The Trainer of `run`, for those who want to look at each epoch: `for row in make(...).each_epoch(): ...`."""
    checks.one_of("head", head, tuple(heads.VARIANTS))
    settings = check(settings)
    on = processes.accelerator(precision)
    train, clean, test, shape, title = batches_of(settings, seed, root, download, processes.place(on))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = network(settings, *shape)
        module = heads.make(head, backbone.num_features, len(train.images.classes), settings["temperature"])
    return trainer.Trainer(
        backbone,
        module,
        optimizer(settings, backbone, module),
        train,
        clean,
        test,
        name=head,
        seed=seed,
        epochs=settings["epochs"],
        schedule=settings["schedule"],
        folder=folder,
        on=on,
        progress=progress,
        settings={"run": settings, "images": title, "classes": len(train.images.classes)},
    )


def batches_of(settings, seed, root, download, here):
    """Batches to train on, of the training set in order, and of the test set (None where there is none); (channels,
    side); and what the images are called, such as "CIFAR-10, JPEG re-encoded".

    Training batches are stratified whatever the head, as in the paper.
    """
    name, size = settings["data"], settings["batch_size"]
    train, *test = (_load(name, split, root, settings["count"], download=download) for split in data.splits(name))
    side = settings["side"]
    if isinstance(train, data.ImageFiles):
        side = side or SIDE
        from torchvision.transforms import (
            v2,  # here, as torchvision can need the help that labkit.vision.backbones gives
        )

        random = [v2.RandomResizedCrop(side), v2.RandomHorizontalFlip()]
        middle = [v2.Resize(side * 8 // 7), v2.CenterCrop(side)]
        some, whole = (
            v2.Compose([v2.PILToTensor(), *steps]) for steps in (random if settings["augment"] else middle, middle)
        )
        kinds, norm, shape, augment = (partial(FileBatches, picture=p) for p in (some, whole)), IMAGENET, (3, side), []
    else:
        if side:
            train, *test = (part.resized(side) for part in (train, *test))
        train = train.to(here["device"])
        kinds, norm, shape = (Batches, Batches), train.normalise(), (train.images.shape[1], train.images.shape[-1])
        augment = [Flip(), Rotation(15), PaddedCrop(shape[1] // 8)] if settings["augment"] else []
    shuffled, in_order = kinds
    clean = [in_order(part, CLEAN_BATCH, transforms=[norm], order="sequential", **here) for part in (train, *test)]
    batches = shuffled(train, size, transforms=[*augment, norm], order="stratified", seed=seed, **here)
    return batches, clean[0], clean[1] if test else None, shape, train.title


def network(settings, in_chans, side):
    """The backbone of the settings, for images (n, in_chans, side, side); for AGD all weights are matrices, at its
    scale.
    """
    agd = settings["optimizer"] == "agd"
    if settings["backbone"] == SMALL:
        return small_network(in_chans * side**2, bias=not agd)
    transformer = {"image_size": side} if settings["backbone"] in backbones.TRANSFORMERS else {}
    model = backbones.create(
        settings["backbone"],
        features_only=True,
        in_chans=in_chans,
        stem=settings["stem"],
        affine=not agd,
        **transformer,
    )
    if agd:
        for weight in model.parameters():
            agd_init_(weight)
    return model


def small_network(pixels, bias=True, width=128, features=64):
    """Three layers with ReLU between them, from images of so many pixels to features (n, 64)."""
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, width, bias),
        nn.ReLU(),
        nn.Linear(width, width, bias),
        nn.ReLU(),
        nn.Linear(width, features, bias),
    )
    model.num_features = features
    return model


def optimizer(settings, backbone, head):
    """SGD with momentum 0.9, or AGD, over the parameters of both."""
    learnt = [p for p in (*backbone.parameters(), *head.parameters()) if p.requires_grad]
    if settings["optimizer"] == "agd":
        return AGD(learnt, gain=settings["lr"])
    groups = [
        dict(params=[p for p in learnt if p.ndim > 1], weight_decay=settings["weight_decay"]),
        dict(params=[p for p in learnt if p.ndim <= 1], weight_decay=0.0),
    ]  # not norms, biases, κ and λ
    return torch.optim.SGD([group for group in groups if group["params"]], lr=settings["lr"], momentum=0.9)


def check(settings):
    """The settings, if they are complete and possible; ValueError otherwise."""
    known = PRESETS["digits"].keys()
    if settings.keys() != known:
        missing, unknown = (
            ", ".join(sorted(keys)) or "none" for keys in (known - settings.keys(), settings.keys() - known)
        )
        raise ValueError(f"settings must have the keys {', '.join(known)}; missing: {missing}, unknown: {unknown}")
    checks.one_of("data", settings["data"], data.NAMES)
    checks.one_of("backbone", settings["backbone"], (SMALL, *backbones.NAMES))
    checks.one_of("optimizer", settings["optimizer"], OPTIMIZERS)
    checks.positive("lr", settings["lr"])
    if (side := settings["side"]) is not None and (isinstance(side, bool) or not isinstance(side, int) or side < 1):
        raise ValueError(f"side must be a whole number of pixels from 1 on, or None, got {side!r}")
    if settings["optimizer"] == "agd" and settings["weight_decay"]:
        raise ValueError(f"AGD has no weight decay, got weight_decay={settings['weight_decay']!r}")
    return dict(settings)


def finished(folder, settings, head, seed):
    """The History of a finished run with these settings in `folder`, else None."""
    path = Path(folder) / trainer.HISTORY
    if not path.is_file():
        return None
    history = History.load(path)
    same = (
        history.settings.get("run") == json.loads(json.dumps(settings))
        and history.settings["head"] == head
        and history.settings["seed"] == seed
    )
    return history if same and history.frame["iteration"].max() == settings["epochs"] else None


def place_of(folder, settings, head, seed):
    """The folder of one of many runs."""
    return Path(folder) / f"{settings['data']}-{settings['backbone']}-{head}-{seed}"


def main(arguments=None):
    """The command line; returns the exit status, 1 where a run diverged."""
    parser = argparse.ArgumentParser(
        prog="python -m labkit.vision.recipes",
        description="Train heads on images.",
        epilog="The same command again goes on where it was stopped.",
    )
    parser.add_argument("--preset", choices=PRESETS, default="guiding", help="settings to start from (%(default)s)")
    parser.add_argument(
        "--head", nargs="+", choices=heads.VARIANTS, default=list(heads.MAIN), help="one or more heads (%(default)s)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="one or more seeds (0 1 2 3 4)")
    parser.add_argument("--folder", required=True, help="where the runs are kept, each in a folder of its own")
    parser.add_argument("--root", help="folder of the data (LABKIT_DATA, else data/)")
    parser.add_argument("--download", action="store_true", help="let torchvision fetch the data if they are not there")
    parser.add_argument(
        "--precision", default="no", choices=("no", "bf16", "fp16"), help="mixed precision (%(default)s)"
    )
    changes = parser.add_argument_group("in place of what the preset says")
    changes.add_argument("--data", choices=data.NAMES)
    changes.add_argument("--count", type=int, help="only the first so many images of each split, for trials")
    changes.add_argument("--side", type=int, help="pixels that pictures are brought to")
    changes.add_argument("--backbone", choices=(SMALL, *backbones.NAMES))
    changes.add_argument("--stem", choices=backbones.STEMS)
    changes.add_argument("--optimizer", choices=OPTIMIZERS)
    changes.add_argument("--lr", type=float, help="learning rate; of AGD the gain")
    changes.add_argument("--weight-decay", type=float)
    changes.add_argument("--schedule", choices=("none", "cosine", "steps"))
    changes.add_argument("--epochs", type=int)
    changes.add_argument("--batch-size", type=int, help="over all processes together")
    changes.add_argument(
        "--augment", action=argparse.BooleanOptionalAction, default=None, help="flips, rotations and crops"
    )
    chosen = vars(parser.parse_args(arguments))
    settings = PRESETS[chosen["preset"]] | {
        key: chosen[key] for key in PRESETS["digits"] if chosen.get(key) is not None
    }
    settings["schedule"] = None if settings["schedule"] == "none" else settings["schedule"]
    lead, failed = processes.accelerator().is_main_process, 0
    for seed in chosen["seeds"]:
        for head in chosen["head"]:
            folder = place_of(chosen["folder"], settings, head, seed)
            try:
                history = run(
                    settings,
                    head,
                    seed,
                    folder,
                    root=chosen["root"],
                    download=chosen["download"],
                    precision=chosen["precision"],
                    progress=True,
                )
            except FloatingPointError as error:  # the other runs can still be done
                failed = 1
                lead and print(error, file=sys.stderr)
                continue
            last = history.frame.iloc[-1]
            lead and print(
                f"{folder.name}: " + ", ".join(f"{key} {last[key]:.4g}" for key in SHOWN if key in last), flush=True
            )
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return failed


if __name__ == "__main__":
    sys.exit(main())
