"""From the settings of a recipe to batches, a network, an optimiser, a Trainer, and a History.

run(RECIPES["digits"], "implicit", seed=0, folder="runs")
"""

from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2

from labkit import heads
from labkit.activations import AGLU, APA
from labkit.history import History, Store
from labkit.optim import AGD, agd_init_
from labkit.vision import backbones, batches, checkpoints, data, longtail, outputs, processes, recipes, trainer
from labkit.vision.augment import Cutout, Flip, Normalise, PaddedCrop, Rotation, Torchvision

PASSED = ("epochs", "schedule", "warmup", "label_smoothing", "channels_last", "compile")  # to the Trainer as they are
CLEAN_BATCH = 500
WORKERS = 8  # that read pictures from files
BILINEAR = v2.InterpolationMode.BILINEAR
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


class Runs(Store):
    """Runs on images, each in a folder of its own: its history.parquet, and its checkpoints."""

    def name(self, settings: dict):
        cut = settings["imbalance"] and f"lt{settings['imbalance']:g}"
        parts = (settings[key] for key in ("backbone", "activation", "gate", "head", "seed"))
        said = "-".join(str(part) for part in (settings["data"], cut, *parts) if part is not None)
        return f"{said}-{super().name(settings)[-8:]}/{Path(trainer.HISTORY).stem}"


def run(
    settings: dict,
    head: str,
    seed: int = 0,
    folder: str | Path | None = None,
    *,
    root: str | Path | None = None,
    download: bool = False,
    progress: bool = False,
) -> History:
    """One run to its end, or from where it was stopped, or from its file if it is finished; returns the History.

    settings: a recipe of `recipes.RECIPES`, or one with changes. head: of heads.VARIANTS. seed: of weights, batches and
    augmentation; at one seed all heads start from the same backbone. folder: where runs are kept, this one in a folder
    of its own; None keeps nothing. root, download: as in data.load.
    A run on a long-tailed set also leaves there what `outputs.of` makes of its test images, as outputs.npz.
    """
    found = folder and finished(settings, head, seed, folder)
    kept = folder and is_long_tailed(settings) and path_of_outputs(settings, head, seed, folder)
    if found and (not kept or kept.is_file()):
        return found
    run = make(settings, head, seed, folder, root=root, download=download, progress=progress)
    history = run.run()
    if kept and run.on.num_processes == 1:
        outputs.of(run).save(kept)
    return history


def path_of_outputs(settings: dict, head: str, seed: int, folder: str | Path) -> Path:
    """Where `run` leaves the outputs of this run, if its set is long-tailed."""
    return Runs(folder).path(described(settings, head, seed)).parent / outputs.FILE


def is_long_tailed(settings: dict) -> bool:
    """Whether a recipe's training set is a long-tailed one: cut to be so, or from a list of files."""
    return bool(settings["imbalance"]) or settings["data"] in recipes.LISTS


def described(settings: dict, head: str, seed: int) -> dict:
    """What tells one run from all others: the settings with one head, a seed, and the precision that is meant."""
    settings = recipes.check(settings | {"head": [head]})
    return settings | {"head": head, "seed": seed, "precision": processes.resolved(settings["precision"])}


def finished(settings: dict, head: str, seed: int, folder: str | Path) -> History | None:
    """The History of a finished run with exactly these settings; None where there is none."""
    found = Runs(folder).get(described(settings, head, seed))
    return found if found and found.frame["iteration"].max() == settings["epochs"] else None


def make(
    settings: dict,
    head: str,
    seed: int = 0,
    folder: str | Path | None = None,
    *,
    root: str | Path | None = None,
    download: bool = False,
    progress: bool = False,
) -> trainer.Trainer:
    """The Trainer of `run`, for those who want to look at each epoch: `for row in make(...).each_epoch(): ...`."""
    settings = described(settings, head, seed)
    on = processes.accelerator(settings["precision"])
    train, clean, test, shape, title = batches_of(settings, seed, root, download, processes.place(on))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = network(settings, *shape)
        known = settings["head_options"]
        options = known.get(head, known.get(heads.VARIANTS[head].head, {}))
        classes = len(train.images.classes)
        module = heads.make(head, backbone.num_features, classes, settings["temperature"], **options)
    return trainer.Trainer(
        backbone,
        module,
        optimizer(settings, backbone, module),
        train,
        clean,
        test,
        name=head,
        seed=seed,
        measure_at=epochs_to_measure(settings),
        folder=folder and Runs(folder).path(settings).parent,
        on=on,
        progress=progress,
        settings={"run": settings, "images": title, "classes": classes},
        **{key: settings[key] for key in PASSED},
    )


def epochs_to_measure(settings: dict) -> list[int]:
    """The epochs of `measure_at`, as a list: those of the papers' tables and the last are always among them."""
    epochs, at = settings["epochs"], settings["measure_at"]
    wanted = range(0, epochs + 1, at or 1) if at is None or isinstance(at, int) else at
    return sorted({e for e in (*recipes.PAPER_EPOCHS, *wanted, epochs) if 0 <= e <= epochs})


# --- images ---


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

    def batched(part, names, size, **options):
        steps, pictures = _steps(names, norm, None if in_memory else settings["side"])
        if in_memory:
            return batches.Batches(part, size, transforms=steps, **options, **here)
        picture = v2.Compose([v2.PILToTensor(), *pictures])
        return batches.FileBatches(part, size, picture=picture, workers=WORKERS, transforms=steps, **options, **here)

    order = batches.repeated(batches.SAMPLERS[settings["sampler"]], settings["repeats"])
    augmented, plain = settings["augmentation"], settings["evaluation"]
    mix = _mix(settings, len(train.classes))
    shuffled = batched(train, augmented, settings["batch_size"], mix=mix, order=order, seed=seed)
    measured = plain if settings["measured_on"] == "clean" else augmented
    clean, *test = (
        batched(part, names, CLEAN_BATCH, order="sequential", seed=seed)
        for part, names in ((train, measured), *((part, plain) for part in test))
    )
    channels = 3 if not in_memory or "rgb" in augmented else train.images.shape[1]
    side = train.images.shape[-1] if in_memory else settings["side"]
    return shuffled, clean, test[0] if test else None, (channels, side), train.title


def load(settings: dict, root: str | Path | None = None, download: bool = False) -> list:
    """The splits of a recipe's data, its training set cut to a long tail where the settings say so."""
    name, count = settings["data"], settings["count"]
    if name in recipes.LISTS:
        folder = data.root_of(root) / name
        names = [str(c) for c in range(recipes.LISTED_CLASSES[name])]
        train, test = (longtail.read_list(folder / part, folder, names) for part in recipes.LISTS[name])
        parts = [train[:count], test[:count]]
    else:
        parts = [_load(name, split, root, count, download) for split in data.splits(name)]
    if settings["imbalance"]:
        sizes = longtail.fitting(parts[0].counts().tolist(), settings["imbalance"])
        parts[0] = longtail.subset(parts[0], sizes)
    return parts


_load = lru_cache(maxsize=2)(data.load)  # one run after another on the same set


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


# --- networks ---


def network(settings: dict, in_chans: int, side: int) -> nn.Module:
    """The backbone of the settings, for images (n, in_chans, side, side); for AGD all weights are matrices, at its
    scale.
    """
    agd = settings["optimizer"] == "agd"
    if settings["backbone"] == recipes.SMALL:
        model = small_network(in_chans * side**2, bias=not agd)
    else:
        model = backbones.create(
            settings["backbone"],
            features_only=True,
            in_chans=in_chans,
            stem=settings["stem"],
            affine=not agd,
            image_size=side if settings["backbone"] in backbones.TRANSFORMERS else None,
            activation=settings["activation"],
            gate=settings["gate"],
            per_channel=settings["per_channel"],
            activation_options=_ranges(settings, "activation", "", settings["lambda_gradient"]),
            gate_options=_ranges(settings, "gate", "gate_", "exact"),
            **{f"attention_{key}": settings[f"attention_{key}"] for key in ("bias", "norm", "dropout")},
        )
    if settings["start_from"]:
        _start(model, settings)
    elif agd:
        for weight in model.parameters():
            agd_init_(weight)
    if settings["learnt"] == "last-stage":
        model.requires_grad_(False)
        model.layer4.requires_grad_(True)
    return model


def _ranges(settings, field, kind, gradient):
    """Options of AGLU or APA; None for what learns neither κ nor λ."""
    if settings[field] not in backbones.LEARNT:
        return None
    kappa, lam = (tuple(settings[f"{kind}{key}"]) for key in ("kappa", "lam"))
    return dict(kappa_init=kappa, lambda_init=lam, lambda_gradient=gradient)


def _start(model, settings):
    """Weights of another run's backbone; κ and λ of the last stage stay as drawn where it alone is learnt."""
    state = checkpoints.load(settings["start_from"])["parts"]["backbone"]
    if settings["learnt"] == "last-stage":
        drawn = {n: p for n, p in model.state_dict().items() if n.startswith("layer4") and n.endswith(("kappa", "lam"))}
        state |= drawn
    model.load_state_dict(state)


def small_network(pixels: int, bias: bool = True, width: int = 128, features: int = 64) -> nn.Module:
    """Three layers with ReLU between them, from images of so many pixels to features (n, 64)."""
    linear = partial(nn.Linear, bias=bias)
    hidden = [linear(pixels, width), nn.ReLU(), linear(width, width), nn.ReLU()]
    model = nn.Sequential(nn.Flatten(), *hidden, linear(width, features))
    model.num_features = features
    return model


def optimizer(settings: dict, backbone: nn.Module, head: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum, AdamW or AGD, over the parameters of both that learn."""
    learnt = [p for p in (*backbone.parameters(), *head.parameters()) if p.requires_grad]
    if settings["optimizer"] == "agd":
        return AGD(learnt, gain=settings["lr"])
    groups = [
        {"params": params, "weight_decay": decay}
        for decay, params in _decays(settings, backbone, head).items()
        if params
    ]
    if settings["optimizer"] == "adamw":
        return torch.optim.AdamW(groups, lr=settings["lr"])
    return torch.optim.SGD(groups, lr=settings["lr"], momentum=settings["momentum"])


def _decays(settings, *modules):
    """{weight decay: parameters}: that of norms, of biases, of all others, and 0 for κ and λ."""
    usual, norm, bias = (settings[f"{kind}weight_decay"] for kind in ("", "norm_", "bias_"))
    norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
    groups = {}
    for module in (m for part in modules for m in part.modules()):
        for name, parameter in module.named_parameters(recurse=False):
            chosen = 0.0 if isinstance(module, (AGLU, APA)) else norm if isinstance(module, norms) else usual
            if name == "bias" and not isinstance(module, norms):
                chosen = bias
            if parameter.requires_grad:
                groups.setdefault(usual if chosen is None else chosen, []).append(parameter)
    return groups
