"""From the settings of a recipe to batches, a network, an optimiser, a Trainer, and a History.

run(RECIPES["digits"], "implicit", seed=0, folder="runs")
"""

from functools import partial
from pathlib import Path

import torch
from torch import nn

from labkit import heads
from labkit.activations import AGLU, APA
from labkit.history import History, Store
from labkit.optim import AGD, agd_init_
from labkit.vision import backbones, data, fields, outputs, pipelines
from labkit.vision.training import checkpoints, processes, trainer

PASSED = ("epochs", "schedule", "warmup", "label_smoothing", "channels_last", "compile")  # to the Trainer as they are


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
    Raises ValueError for a finished run on images of another title than those at hand, such as re-encoded ones.
    A run on a long-tailed set also leaves there what `outputs.of` makes of its test images, as outputs.npz.
    """
    found = folder and finished(settings, head, seed, folder)
    if found and (here := data.title_at_hand(settings["data"], root)) not in (None, found.settings["images"]):
        raise ValueError(
            f"{folder} has this run on {found.settings['images']!r}, but the images at hand are {here!r}; "
            "another folder is needed"
        )
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
    return bool(settings["imbalance"]) or settings["data"] in fields.LISTS


def described(settings: dict, head: str, seed: int) -> dict:
    """What tells one run from all others: the settings with one head, a seed, and the precision that is meant."""
    settings = fields.check(settings | {"head": [head]})
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
    train, clean, test, shape, title = pipelines.batches_of(settings, seed, root, download, processes.place(on))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = network(settings, *shape)
        options = fields.options_of_head(settings, head)
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
    return sorted({e for e in (*fields.PAPER_EPOCHS, *wanted, epochs) if 0 <= e <= epochs})


# --- networks ---


def network(settings: dict, in_chans: int, side: int) -> nn.Module:
    """The backbone of the settings, for images (n, in_chans, side, side); for AGD all weights are matrices, at its
    scale.
    """
    agd = settings["optimizer"] == "agd"
    if settings["backbone"] == fields.SMALL:
        model = small_network(in_chans * side**2, bias=not agd)
    else:
        model = backbones.create(
            settings["backbone"],
            features_only=True,
            in_chans=in_chans,
            stem=settings["stem"],
            init=settings["init"],
            affine=not agd,
            image_size=side if settings["backbone"] in backbones.TRANSFORMERS else None,
            activation=settings["activation"],
            gate=settings["gate"],
            per_channel=settings["per_channel"],
            activation_options=_options(settings, "activation"),
            gate_options=_options(settings, "gate"),
            **{f"attention_{key}": settings[f"attention_{key}"] for key in ("bias", "norm", "dropout")},
        )
    if settings["start_from"]:
        _start(model, settings)
    elif agd:
        for weight in model.parameters():
            agd_init_(weight)
    if settings["learnt"] == "last-stage":
        model.requires_grad_(False)
        getattr(model, _last_stage(model, settings)).requires_grad_(True)
    return model


def _last_stage(model, settings):
    """The name of the last stage of a ResNet, the third of some and the fourth of others."""
    found = [name for name in ("layer4", "layer3") if list(getattr(model, name, nn.Identity()).parameters())]
    if not found:
        raise ValueError(f"learnt='last-stage' is for a ResNet, got backbone={settings['backbone']!r}")
    return found[0]


def _options(settings, field):
    """Options of the "activation" or the "gate", AGLU or APA; None for what learns neither κ nor λ.

    With the paper's gradient, which its code has for activations and not for gates, goes the floor of its code, where λ
    that reaches 0 stays there. Under labkit's floor it comes back, and Eq. 6 drives it up without end: to 600 000 in a
    first run on CIFAR-10-LT.
    """
    if settings[field] not in backbones.LEARNT:
        return None
    gate, paper = field == "gate", settings["lambda_gradient"] == "paper"
    kappa, lam = (tuple(settings[f"gate_{key}" if gate else key]) for key in ("kappa", "lam"))
    gradient = "paper" if paper and not gate else "exact"
    floor = "released" if paper else "one-sided"
    return dict(kappa_init=kappa, lambda_init=lam, lambda_gradient=gradient, floor=floor)


def _start(model, settings):
    """Weights of another run's backbone; κ and λ of the last stage stay as drawn where it alone is learnt."""
    state = checkpoints.load(settings["start_from"])["parts"]["backbone"]
    if settings["learnt"] == "last-stage":
        drawn = getattr(model, last := _last_stage(model, settings)).state_dict()
        state |= {f"{last}.{name}": drawn[name] for name in drawn if name.endswith(("kappa", "lam"))}
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
