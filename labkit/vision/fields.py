"""The fields of a recipe, each with the value that changes nothing, what they can be, and a check of them."""

import math

from labkit import checks, heads
from labkit.vision import backbones, batches, data
from labkit.vision.training import optimizers, processes

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
    "init": "timm",  # how a ResNet's weights are drawn; "released": as by the activation paper's code
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
    "lambda_gradient": "exact",  # or "paper": for AGLU Eq. 6 of [S], whose sign is wrong; the floor of [A]
    "head": list(heads.MAIN),  # one run for each
    "head_options": {},  # {head: options of its constructor}
    "temperature": 5.0,  # the norm of features, and the scale of a cosine classifier
    "optimizer": "sgd",
    "lr": 0.1,  # of AGD the gain
    "momentum": 0.9,
    "weight_decay": 0.0,  # κ and λ never decay; a learnt temperature does, as the scale in [A]
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

CHOICES = {
    "data": (*data.NAMES, *LISTS),
    "sampler": tuple(batches.SAMPLERS),
    "backbone": (SMALL, *backbones.NAMES),
    "stem": (None, *backbones.STEMS),
    "init": backbones.INITS,
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

WITHOUT_EFFECT = {  # (field, value): fields that have no effect with it, which are as in FIELDS, or 0
    ("backbone", SMALL): ("stem", "init", "activation", "gate", "attention_norm", "attention_dropout", "per_channel"),
    ("optimizer", "agd"): ("weight_decay", "norm_weight_decay", "bias_weight_decay", "momentum"),
    ("optimizer", "adamw"): ("momentum",),
}


def check(settings: dict) -> dict:
    """The settings, if they are complete and possible; ValueError, which names the field and the value, otherwise.

    >>> check(FIELDS | {"weight_decay": -1})
    Traceback (most recent call last):
    ValueError: weight_decay must be a number of at least 0, got -1
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
                least = f"{'above' if excluded else 'of at least'} {low}"
                allowed = least if high == math.inf else f"from {low} to {high}"
                raise ValueError(f"{key} must be a number {allowed}{', or None' * optional}, got {value!r}")
        if isinstance(default, bool) and not isinstance(value, bool):
            raise ValueError(f"{key} must be True or False, got {value!r}")
    if (settings["mean"] is None) != (settings["std"] is None):
        raise ValueError(f"mean and std go together, got mean={settings['mean']!r} and std={settings['std']!r}")
    at = settings["measure_at"]
    epochs = [] if at is None else [at] if isinstance(at, int) else at
    if not all(isinstance(epoch, int) and epoch >= 0 for epoch in epochs):
        raise ValueError(f"measure_at must be None, a number of epochs or a list of epochs, got {at!r}")
    for (field, value), keys in WITHOUT_EFFECT.items():
        changed = [f"{key}={settings[key]!r}" for key in keys if settings[key] not in (FIELDS[key], 0)]
        if settings[field] == value and changed:
            raise ValueError(f"with {field}={value!r} there is no effect of {', '.join(changed)}")
    for head in settings["head"]:
        checks.one_of("head", head, tuple(heads.VARIANTS))
    options = settings["head_options"]
    if not isinstance(options, dict) or not all(isinstance(value, dict) for value in options.values()):
        raise ValueError(f"head_options must be a dict of dicts, one for each head, got {options!r}")
    for head in options:
        checks.one_of("a head of head_options", head, tuple(heads.VARIANTS))
    return dict(settings)


def options_of_head(settings: dict, head: str) -> dict:
    """The options of a head by these settings: its own, or else those of the head that it is a variant of.

    >>> options_of_head(FIELDS | {"head_options": {"fixed": {"bias": "batch_mean"}}}, "fixed_haar")
    {'bias': 'batch_mean'}
    """
    known = settings["head_options"]
    return known.get(head, known.get(heads.VARIANTS[head].head, {}))
