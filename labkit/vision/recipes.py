"""Recipes: complete settings of experiments on images, as data. labkit.vision.build makes runs of them.

    RECIPES["guiding/cifar10"] | {"epochs": 50, "precision": "bf16"}

What the two papers and their released code say stands behind each value: [P] Markou et al. 2024, [G] its code
(evanmarkou/Guiding-Neural-Collapse, commit 00cdf29); [S] the supplement of "Adaptive Parametric Activation" (ECCV
2024), [A] its code (kostas1515/AGLU, commit ed45253, folder classification). Where paper and code disagree, the code is
followed, and the comment says so.
"""

import math

from labkit import checks, heads
from labkit.vision import backbones, batches, data, optimizers, processes

SMALL = "small"  # the one backbone that is not of labkit.vision.backbones: three layers
LISTS = {  # sets of pictures that come as text files, and these files; under a folder of that name
    "imagenet-lt": ("ImageNet_LT_train.txt", "ImageNet_LT_test.txt"),
    "places-lt": ("Places_LT_train.txt", "Places_LT_test.txt"),
    "inaturalist18": ("iNaturalist18_train.txt", "iNaturalist18_val.txt"),
}
LISTED_CLASSES = {"imagenet-lt": 1000, "places-lt": 365, "inaturalist18": 8142}
PAPER_EPOCHS = (0, 50, 200)  # always measured: Tables 1 and 2 of [P] are of 50 and 200
HOW = ("precision", "channels_last", "compile", "measure_at")  # fields that say how fast and how often, and not what

# Every field, with the value that changes nothing.
FIELDS = {
    "data": "digits",  # of data.NAMES or LISTS
    "count": None,  # only the first so many images of each split, for trials
    "side": None,  # pixels that pictures are brought to; None leaves those in memory as they are
    "imbalance": None,  # the largest class over the smallest, of a training set cut to exponential class sizes
    "augmentation": ["normalise"],  # steps in this order, see labkit.vision.build; what follows a colon is their size
    "evaluation": ["normalise"],  # the steps for test images, and for training images that are measured clean
    "mean": None,  # of each channel, for "normalise"; None measures it on the training images
    "std": None,
    "mixup": None,  # α of Beta(α, α); with CutMix too, one of the two is drawn for each batch
    "cutmix": None,
    "label_smoothing": 0.0,
    "sampler": "shuffled",  # of batches.SAMPLERS
    "repeats": 1,  # how often an image comes in a batch, each time augmented anew; an epoch has N draws all the same
    "backbone": SMALL,
    "stem": None,  # None is the network's own
    "activation": None,  # None is the network's own
    "gate": None,
    "attention_bias": True,  # of the two layers of channel attention
    "attention_norm": False,
    "attention_dropout": 0.0,
    "per_channel": False,  # one κ and λ for each channel
    "kappa": [1.0, 1.3],  # AGLU starts with κ and λ uniform on these ranges, and the APA gate on the next two
    "lam": [0.0, 1.0],
    "gate_kappa": [-1.0, 0.0],
    "gate_lam": [0.0, 1.0],
    "lambda_gradient": "exact",  # or "paper", for Eq. 6 of [S], whose sign is wrong
    "head": list(heads.MAIN),  # one run for each
    "head_options": {},  # {head: options of its constructor}
    "temperature": 5.0,  # the norm of features, and the scale of a cosine classifier
    "optimizer": "sgd",
    "lr": 0.1,  # of AGD the gain
    "momentum": 0.9,
    "weight_decay": 0.0,  # κ and λ never decay
    "norm_weight_decay": None,  # of scale and shift of batch and layer norm; None is weight_decay
    "bias_weight_decay": None,  # of biases outside norms; None is weight_decay
    "schedule": None,  # of optimizers.SCHEDULES
    "warmup": 0,  # epochs
    "epochs": 60,
    "batch_size": 64,  # over all processes
    "start_from": None,  # a checkpoint of another run, whose backbone this one starts with
    "learnt": "all",  # or "last-stage": the last stage of a ResNet and the head
    "precision": "no",  # of processes.PRECISIONS
    "channels_last": False,
    "compile": False,
    "measure_at": None,  # None: every epoch; k: every k-th; a list: these. PAPER_EPOCHS and the last always
    "measured_on": "clean",  # or "augmented": which training images accuracy and collapse are measured on
}

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
# Flips come before crops; [P] names rotations for all sets, [G datasets.py] has them for MNIST alone.
FLIP_CROP = ["flip", "crop:4", "normalise"]

APA = FIELDS | {
    "activation": "aglu",  # with "gate", norm and dropout this is APA* of [S Table 8]
    "gate": "apa",
    "attention_bias": False,  # [A resnet_pytorch.py:535]
    "attention_norm": True,  # [A]
    "attention_dropout": 0.1,  # [A], always; [S Table 2] has 0 for iNaturalist
    "kappa": [0.8, 1.2],  # [A] for all sets; [S Table 2] has U(1, 1.3)
    "gate_kappa": [-1.0, 0.0],  # [A] for all sets; [S Table 2] has U(0, 1) for iNaturalist and ImageNet
    "lambda_gradient": "paper",  # both: [S Eq. 6], [A resnet_cifar.py:81]
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
        "head_options": {"cosine": {"learn_temperature": True}},  # in [A] its root is learnt, from 5 on
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

CHOICES = {
    "data": (*data.NAMES, *LISTS),
    "sampler": tuple(batches.SAMPLERS),
    "backbone": (SMALL, *backbones.NAMES),
    "stem": (None, *backbones.STEMS),
    "activation": (None, *backbones.ACTIVATIONS),
    "gate": (None, *backbones.GATES),
    "lambda_gradient": ("exact", "paper"),
    "optimizer": ("sgd", "agd", "adamw"),
    "schedule": optimizers.SCHEDULES,
    "learnt": ("all", "last-stage"),
    "precision": processes.PRECISIONS,
    "measured_on": ("clean", "augmented"),
}
LEAST = {  # whole numbers
    "count": 1, "side": 1, "repeats": 1, "warmup": 0, "epochs": 1, "batch_size": 1
}  # fmt: skip
RANGES = {  # other numbers: from the first to the second, the first excluded where it is the third too
    "imbalance": (1, math.inf), "mixup": (0, math.inf, 0), "cutmix": (0, math.inf, 0), "label_smoothing": (0, 1),
    "attention_dropout": (0, 1), "temperature": (0, math.inf, 0), "lr": (0, math.inf, 0), "momentum": (0, 1),
    "weight_decay": (0, math.inf), "norm_weight_decay": (0, math.inf), "bias_weight_decay": (0, math.inf),
}  # fmt: skip


def check(settings: dict) -> dict:
    """The settings, if they are complete and possible; ValueError, which names the field and the value, otherwise.

    >>> check(RECIPES["digits"] | {"weight_decay": -1})
    Traceback (most recent call last):
    ValueError: weight_decay must be a number from 0 to inf, got -1
    """
    missing, unknown = (", ".join(sorted(a.keys() - b.keys())) for a, b in ((FIELDS, settings), (settings, FIELDS)))
    if missing or unknown:
        raise ValueError(
            f"settings must have the fields of a recipe; missing: {missing or 'none'}, unknown: {unknown or 'none'}"
        )
    for key, choices in CHOICES.items():
        checks.one_of(key, settings[key], choices)
    for key, default in FIELDS.items():
        value, optional = settings[key], default is None
        if value is None and optional:
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key in LEAST and not (isinstance(value, int) and number and value >= LEAST[key]):
            raise ValueError(
                f"{key} must be a whole number of at least {LEAST[key]}{', or None' * optional}, got {value!r}"
            )
        if key in RANGES:
            low, high, *excluded = RANGES[key]
            if not (number and low <= value <= high and math.isfinite(value)) or value in excluded:
                allowed = f"{'above' if excluded else 'from'} {low} to {high}{', or None' * optional}"
                raise ValueError(f"{key} must be a number {allowed}, got {value!r}")
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ValueError(f"{key} must be True or False, got {value!r}")
    if settings["optimizer"] == "agd" and settings["weight_decay"]:
        raise ValueError(f"AGD has no weight decay, got weight_decay={settings['weight_decay']!r}")
    for head in settings["head"]:
        checks.one_of("head", head, tuple(heads.VARIANTS))
    return dict(settings)
