"""Recipes: complete settings of experiments on images, as data. labkit.vision.build makes runs of them.

    RECIPES["guiding/cifar10"] | {"epochs": 50, "precision": "bf16"}

What the two papers and their released code say stands behind each value: [P] Markou et al. 2024, [G] its code
(evanmarkou/Guiding-Neural-Collapse, commit 00cdf29); [S] the supplement of "Adaptive Parametric Activation" (ECCV
2024), [A] its code (kostas1515/AGLU, commit ed45253, folder classification). Where paper and code disagree, the code is
followed, and the comment says so.
"""

from operator import itemgetter

import pandas as pd

from labkit.vision.fields import FIELDS

CIFAR = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

GUIDING = FIELDS | {
    "backbone": "resnet18",
    "stem": "imagenet",  # on all images [G models/resnet.py:190]
    "sampler": "stratified",  # [P]; the scripts of [G] have it for the implicit head only, and shuffle for the others
    "optimizer": "agd",  # [P §4]; its initialisation too, and no biases nor affine batch norm [G models/resnet.py:175]
    "lr": 10.0,  # the gain [P §4]
    "momentum": 0.0,
    "epochs": 200,  # [P §4]
    "batch_size": 256,  # [P §4]
    "temperature": 5.0,  # [P §4]
    "head": ["standard", "fixed", "implicit"],
    "head_options": {
        "standard": {"start": "released"},  # rows of length √(C/d) until the first step [G train.py:64]
        "fixed": {"bias": "batch_mean"},  # of the batch at hand, in evaluation too [G models/resnet.py:328]
        "implicit": {"eval_bias": "last"},  # of the last training batch [G train.py:144]
    },
    "precision": "auto",  # float32 in [G]; bf16 moves the end of collapse less than a seed does, see docs/data.md
    "measure_at": 5,  # log_interval of [G], there from epoch 1 on
    "measured_on": "augmented",  # in evaluation mode [G validate_NC.py]
}
# Flips come before crops; [P] names rotations for all sets, [G datasets.py] has them for MNIST and SVHN.
FLIP_CROP = ["flip", "crop:4", "normalise"]

APA = FIELDS | {
    "init": "released",  # [A resnet_cifar.py:126, resnet_pytorch.py:323]
    "activation": "aglu",  # with "gate", norm and dropout this is APA* of [S Table 8]
    "gate": "apa",
    "attention_bias": False,  # [A resnet_pytorch.py:535]
    "attention_norm": True,  # [A]
    "attention_dropout": 0.1,  # [A], always; [S Table 2] has 0 for iNaturalist
    "kappa": [0.8, 1.2],  # [A] for all sets; [S Table 2] has U(1, 1.3)
    "gate_kappa": [-1.0, 0.0],  # [A] for all sets; [S Table 2] has U(0, 1) for iNaturalist and ImageNet
    "lambda_gradient": "paper",  # both: [S Eq. 6], [A resnet_cifar.py:81]; λ at its floor stays (1e-4 in [A]'s gate)
    "head": ["cosine"],
    "temperature": 16.0,  # [A README:42–69]
    "lr": 0.2,
    "schedule": "cosine-by-epoch",  # [A train.py:422]
    "warmup": 3,  # [A], not in [S]
    "mixup": 0.2,
}
CIFAR_LT = APA | {
    **CIFAR,  # also for CIFAR-100 [A imbalanced_dataset.py:184]
    "imbalance": 100,  # and 10, 50; class sizes as in [A], whose generator draws other images
    "augmentation": ["crop:4", "flip", "autoaugment:cifar10", "cutout:16", "normalise"],
    "backbone": "se_resnet32",
    "weight_decay": 1e-3,
    "epochs": 500,
    "batch_size": 512,
}
PICTURES = {  # how [A presets.py] reads files
    **IMAGENET,
    "side": 224,
    "augmentation": ["resized-crop", "flip", "autoaugment:imagenet", "normalise"],
    "evaluation": ["resize:256", "center-crop", "normalise"],
}

RECIPES = {
    # A network of three layers on digits of 8×8 pixels. In 60 epochs, a few seconds, NC1 falls by about a thousand.
    "digits": FIELDS
    | {"sampler": "stratified", "weight_decay": 5e-4, "norm_weight_decay": 0.0, "bias_weight_decay": 0.0},
    # Ours: hundreds of real classes. An epoch of 15 batches, in each of which every character comes once.
    "omniglot": FIELDS
    | {
        "data": "omniglot",
        "side": 32,
        "sampler": "stratified",
        "backbone": "resnet10_half",
        "weight_decay": 5e-4,
        "norm_weight_decay": 0.0,
        "bias_weight_decay": 0.0,
        "schedule": "cosine",
        "epochs": 40,
        "batch_size": 242,
        "channels_last": True,
        "head": ["standard", "fixed", "implicit", "implicit_without_ddn"],
        "measure_at": 5,
    },
    # Ours: transformers of under a million parameters. The paper says nothing of how its ViT and Swin were trained.
    "transformers": FIELDS
    | CIFAR
    | {
        "data": "cifar10",
        "augmentation": ["crop:4", "flip", "normalise"],
        "backbone": "vit_mini",  # or "swin_mini"
        "stem": "cifar",
        "head": ["standard_no_norm"],
        "optimizer": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "norm_weight_decay": 0.0,
        "bias_weight_decay": 0.0,
        "schedule": "cosine",
        "warmup": 1,
        "epochs": 3,
        "batch_size": 128,
        "measure_at": 3,
    },
    # ResNet-50 learns one small picture of each of ImageNet's classes by heart.
    "thousand": FIELDS
    | {
        "data": "imagenet-one-per-class",
        "side": 32,
        "sampler": "stratified",
        "backbone": "resnet50",
        "lr": 0.5,
        "epochs": 40,
        "batch_size": 250,
    },
    "guiding/mnist": GUIDING
    | {
        "data": "mnist",  # in [G], not in [P]
        "side": 32,
        "augmentation": ["rgb", "rotation:25", "normalise"],
        "evaluation": ["rgb", "normalise"],
        "mean": [0.1307] * 3,
        "std": [0.3081] * 3,
    },
    "guiding/cifar10": GUIDING | CIFAR | {"data": "cifar10", "augmentation": FLIP_CROP},
    "guiding/cifar100": GUIDING
    | {
        "data": "cifar100",
        "augmentation": FLIP_CROP,
        "mean": [0.5071, 0.4865, 0.4409],
        "std": [0.2673, 0.2564, 0.2762],
        "backbone": "resnet50",
    },
    "guiding/stl10": GUIDING
    | {
        "data": "stl10",
        "augmentation": FLIP_CROP,
        "mean": [0.4467, 0.4398, 0.4066],
        "std": [0.2603, 0.2566, 0.2713],
        "backbone": "resnet50",
    },
    "guiding/imagenet": GUIDING
    | IMAGENET
    | {
        "data": "imagenet",
        "side": 224,
        "augmentation": ["resize:256", "flip", "crop:4", "normalise"],  # no RandomResizedCrop [G datasets.py:346]
        "evaluation": ["resize:256", "center-crop", "normalise"],
        "backbone": "resnet50",
    },
    "apa/cifar100-lt": CIFAR_LT | {"data": "cifar100"},  # scale learnable in [S Table 2], fixed in the command of [A]
    "apa/cifar10-lt": CIFAR_LT | {"data": "cifar10"},  # no settings of its own in either
    "apa/imagenet-lt": APA
    | PICTURES
    | {
        "data": "imagenet-lt",
        "backbone": "se_resnet50",
        "weight_decay": 1e-4,
        "epochs": 200,
        "batch_size": 256,
        "precision": "auto",  # mixed in [A], in float16
    },
    "apa/inaturalist18": APA
    | PICTURES
    | {
        "data": "inaturalist18",
        "side": 192,
        "augmentation": ["resized-crop", "flip", "randaugment:9", "normalise", "erasing:0.1"],
        "evaluation": ["resize:232", "center-crop:224", "normalise"],
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "repeats": 4,
        "backbone": "se_resnet50",
        "lr": 0.5,
        "weight_decay": 1e-4,
        "norm_weight_decay": 0.0,
        "bias_weight_decay": 0.0,
        "warmup": 5,
        "epochs": 500,
        "batch_size": 1024,
    },
    "apa/places-lt": APA
    | PICTURES
    | {
        "data": "places-lt",
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "backbone": "se_resnet152",  # from "apa/imagenet": name its checkpoint in start_from
        "learnt": "last-stage",
        "kappa": [0.0, 1.0],  # of what is learnt, drawn anew [A train.py:172]; [S] says loaded
        "gate_kappa": [0.0, 1.0],
        "head_options": {"cosine": {"learn_temperature": True}},  # in [A] its root, from 5 on; docs/differences.md
        "temperature": 25.0,
        "lr": 0.1,
        "weight_decay": 5e-5,
        "epochs": 40,
        "batch_size": 256,
    },
    "apa/imagenet": APA  # the pre-training of SE-ResNet-152 [A README:56]; of other networks nothing is said
    | PICTURES
    | {
        "data": "imagenet",
        "side": 192,
        "evaluation": ["resize:232", "center-crop:224", "normalise"],
        "backbone": "se_resnet152",
        "head": ["standard_no_norm"],  # linear; in [A] with a bias
        "lr": 0.256,
        "momentum": 0.875,
        "weight_decay": 6.103515625e-5,
        "epochs": 100,
        "batch_size": 256,
    },
}

# --- beside the supplement's Table 2 ---

_TASKS = {
    "ImageNet-LT": "apa/imagenet-lt",
    "i-Naturalist18": "apa/inaturalist18",
    "Places-LT": "apa/places-lt",
    "C100-LT": "apa/cifar100-lt",
}
_decay = lambda kind: lambda r: r["weight_decay"] if r[kind] is None else r[kind]
_has = lambda step: lambda r: any(s.startswith(step) for s in r["augmentation"])
_size = lambda step: lambda r: next((s.partition(":")[2] for s in r["augmentation"] if s.startswith(step)), None)
_range = lambda field: lambda r: "U({:g},{:g})".format(*r[field])
_ROWS = {  # what they are in a recipe
    "Batch size": itemgetter("batch_size"),
    "Optimiser": lambda r: r["optimizer"].upper(),
    "LR": itemgetter("lr"),
    "epochs": itemgetter("epochs"),
    "Weight Decay": itemgetter("weight_decay"),
    "Norm Weight Decay": _decay("norm_weight_decay"),
    "Bias Weight Decay": _decay("bias_weight_decay"),
    "Attention Dropout": itemgetter("attention_dropout"),
    "Mixup alpha": itemgetter("mixup"),
    "CutMix alpha": itemgetter("cutmix"),
    "Label smoothing epsilon": itemgetter("label_smoothing"),
    "Repeated Aug": lambda r: r["repeats"] > 1,
    "AutoAugment": _has("autoaugment"),
    "RandAugment": _has("randaugment"),
    "Erasing prob": _size("erasing"),
    "Cutout": _has("cutout"),
    "Cos. Cls. scale": lambda r: "learnable" if r["head_options"] else r["temperature"],
    "Sampler": lambda r: {"shuffled": "random"}.get(r["sampler"], r["sampler"]),
    "APA kappa Init": _range("gate_kappa"),
    "APA lambda Init": _range("gate_lam"),
    "AGLU kappa Init": _range("kappa"),
    "AGLU lambda Init": _range("lam"),
}


def beside_table2(table: pd.DataFrame) -> pd.DataFrame:
    """Where these recipes, which follow the released code, differ from Table 2 of [S] as it is printed.

    table: columns setting, task and value, of data/paper/activation-table2.csv; its detector is left out. Columns
    setting, task, printed and recipe, as text; "-" is nothing, "N/A" does not apply.
    """
    rows = []
    for setting, task, text in table[["setting", "task", "value"]].fillna("N/A").itertuples(index=False):
        if setting in _ROWS and task in _TASKS:
            ours = _ROWS[setting](RECIPES[_TASKS[task]])
            ours = "yes" if ours is True else str(ours or "-")
            if _meant(text) != _meant(ours):
                rows.append((setting, task, text, ours))
    return pd.DataFrame(rows, columns=["setting", "task", "printed", "recipe"])


def _meant(text):
    """A number where text is one; nothing, and what does not apply, are 0."""
    try:
        return float({"-": 0, "N/A": 0}.get(text, text))
    except ValueError:
        return text
