"""The recipes: every field as the papers and their code have it, the size of the network, one step; and their rules."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from image_sets import image_set
from PIL import Image
from torch import nn

from labkit.activations import AGLU, APA
from labkit.heads import HEADS
from labkit.optim import AGD
from labkit.vision import build, data, fields, pipelines, torchvision
from labkit.vision.batches import SAMPLERS, repeated
from labkit.vision.fields import FIELDS
from labkit.vision.recipes import RECIPES, beside_table2
from labkit.vision.training import trainer

# What differs from FIELDS, in which nothing is done to the images and all is as the network has it.
CIFAR = dict(mean=[0.4914, 0.4822, 0.4465], std=[0.2023, 0.1994, 0.2010])
IMAGENET = dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
GUIDING = dict(
    stem="imagenet", sampler="stratified", optimizer="agd", lr=10.0, momentum=0.0, epochs=200, batch_size=256,
    measure_at=5, measured_on="augmented", precision="auto",
    head_options=dict(standard=dict(start="released"), fixed=dict(bias="batch_mean"), implicit=dict(eval_bias="last")),
)  # fmt: skip
CROP = dict(augmentation=["flip", "crop:4", "normalise"])
APA_STAR = dict(
    init="released", activation="aglu", gate="apa", attention_bias=False, attention_norm=True, attention_dropout=0.1,
    kappa=[0.8, 1.2], lambda_gradient="paper", head=["cosine"], temperature=16.0, lr=0.2, schedule="cosine-by-epoch", warmup=3, mixup=0.2,
)  # fmt: skip
LONG_TAIL = APA_STAR | CIFAR | dict(
    imbalance=100, augmentation=["crop:4", "flip", "autoaugment:cifar10", "cutout:16", "normalise"],
    backbone="se_resnet32", weight_decay=1e-3, epochs=500, batch_size=512,
)  # fmt: skip
POLICY = dict(augmentation=["resized-crop", "flip", "autoaugment:imagenet", "normalise"])
TO_224 = dict(evaluation=["resize:256", "center-crop", "normalise"], side=224)
FROM_192 = dict(evaluation=["resize:232", "center-crop:224", "normalise"], side=192)
FACTS = {
    "guiding/mnist": GUIDING | dict(
        data="mnist", backbone="resnet18", side=32, augmentation=["rgb", "rotation:25", "normalise"],
        evaluation=["rgb", "normalise"], mean=[0.1307] * 3, std=[0.3081] * 3,
    ),
    "guiding/cifar10": GUIDING | CIFAR | CROP | dict(data="cifar10", backbone="resnet18"),
    "guiding/cifar100": GUIDING | CROP | dict(
        data="cifar100", backbone="resnet50", mean=[0.5071, 0.4865, 0.4409], std=[0.2673, 0.2564, 0.2762]
    ),
    "guiding/stl10": GUIDING | CROP | dict(
        data="stl10", backbone="resnet50", mean=[0.4467, 0.4398, 0.4066], std=[0.2603, 0.2566, 0.2713]
    ),
    "guiding/imagenet": GUIDING | IMAGENET | TO_224 | dict(
        data="imagenet", backbone="resnet50", augmentation=["resize:256", "flip", "crop:4", "normalise"]
    ),
    "apa/cifar100-lt": LONG_TAIL | dict(data="cifar100"),
    "apa/cifar10-lt": LONG_TAIL | dict(data="cifar10"),
    "apa/imagenet-lt": APA_STAR | IMAGENET | POLICY | TO_224 | dict(
        data="imagenet-lt", backbone="se_resnet50", weight_decay=1e-4, epochs=200, batch_size=256, precision="auto"
    ),
    "apa/inaturalist18": APA_STAR | IMAGENET | FROM_192 | dict(
        data="inaturalist18", backbone="se_resnet50", weight_decay=1e-4, norm_weight_decay=0.0, bias_weight_decay=0.0,
        epochs=500, lr=0.5, batch_size=1024, warmup=5, cutmix=1.0, label_smoothing=0.1, repeats=4,
        augmentation=["resized-crop", "flip", "randaugment:9", "normalise", "erasing:0.1"],
    ),
    "apa/places-lt": APA_STAR | IMAGENET | POLICY | TO_224 | dict(
        data="places-lt", backbone="se_resnet152", weight_decay=5e-5, epochs=40, lr=0.1, batch_size=256, cutmix=1.0,
        label_smoothing=0.1, temperature=25.0, head_options=dict(cosine=dict(learn_temperature=True)),
        learnt="last-stage", kappa=[0.0, 1.0], gate_kappa=[0.0, 1.0],
    ),
    "apa/imagenet": APA_STAR | IMAGENET | POLICY | FROM_192 | dict(
        data="imagenet", backbone="se_resnet152", weight_decay=6.103515625e-5, epochs=100, lr=0.256, momentum=0.875,
        batch_size=256, head=["standard_no_norm"], temperature=16.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in RECIPES if "/" in name])
def test_every_field_is_as_the_papers_have_it(name):
    assert fields.check(RECIPES[name]) == FIELDS | FACTS[name]


def plain(name):
    """Of torchvision's network, without classifier: parameters in convolutions, and in batch norms."""
    model = getattr(torchvision.models, name)()
    model.fc = nn.Identity()
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    return sum(p.numel() for p in model.parameters()) - norms, norms


def attention(blocks, ratio=16):
    """Two matrices, a layer norm, and κ and λ of the gate, for each block (channels, how many)."""
    return sum(n * (2 * c * c // ratio + 2 * c + 2) for c, n in blocks)


WIDE = (256, 512, 1024, 2048)
SIZES = {
    "resnet18": lambda: plain("resnet18")[0],
    "resnet50": lambda: plain("resnet50")[0],
    "se_resnet32": lambda: 484_656 - 6500,  # as the released code has it, less its classifier
    "se_resnet50": lambda: sum(plain("resnet50")) + attention(zip(WIDE, (3, 4, 6, 3))) + 2 * 49,
    "se_resnet152": lambda: sum(plain("resnet152")) + attention(zip(WIDE, (3, 8, 36, 3))) + 2 * 151,
}


@pytest.mark.parametrize("name", [n for n in RECIPES if n.startswith(("guiding", "apa"))])
def test_the_network_has_as_many_parameters_as_the_papers(name):
    settings = RECIPES[name]
    model = build.network(settings | {"learnt": "all"}, 3, 32)
    assert sum(p.numel() for p in model.parameters()) == SIZES[settings["backbone"]]()
    if settings["gate"] == "apa":
        kinds = [sum(isinstance(m, kind) for m in model.modules()) for kind in (AGLU, APA)]
        assert (
            kinds == {"se_resnet32": [31, 15], "se_resnet50": [49, 16], "se_resnet152": [151, 50]}[settings["backbone"]]
        )


def made_up(settings, folder):
    """Ten images of three classes, of the kind and size that the data have."""
    if settings["data"] not in (*fields.LISTS, "imagenet"):
        channels, size = {"mnist": (1, 28), "stl10": (3, 96)}.get(settings["data"], (3, 32))
        return [image_set([20, 20, 20], size, channels)] * 2
    paths = [folder / f"{i}.png" for i in range(10)]
    for i, path in enumerate(paths):
        Image.effect_noise((260 + i, 280), 50).convert("RGB").save(path)
    return [data.ImageFiles(tuple(map(str, paths)), torch.arange(10) % 3, ("a", "b", "c"))] * 2


@pytest.mark.parametrize("name", [name for name in RECIPES if "/" in name])
def test_a_step_of_every_recipe(name, tmp_path, monkeypatch):
    settings = RECIPES[name] | {"batch_size": 3, "imbalance": None}
    parts = made_up(settings, tmp_path)
    monkeypatch.setattr(pipelines, "_load", lambda *_: parts[0])
    monkeypatch.setattr(pipelines.longtail, "read_list", lambda *_: parts[0])
    monkeypatch.setattr(pipelines, "WORKERS", 0)
    made = build.make(settings, settings["head"][-1], root=tmp_path)
    for batches, side in ((made.train, settings["side"]), (made.clean, None), (made.test, settings["side"] and 224)):
        images, targets = next(iter(batches.epoch(0)))
        wanted = images.shape[-1] if side is None or settings["data"] == "mnist" else side
        assert images.shape[1:] == (3, wanted, wanted) and images.dtype == torch.float32
        assert 0.05 < images.std() < 3 and abs(images.mean()) < 3
    images, targets = next(iter(made.train.epoch(0)))
    assert (targets.ndim == 2) == bool(settings["mixup"])
    before = [p.detach().clone() for p in made.backbone.parameters()]
    made.backbone.train(), made.head.train()
    loss = F.cross_entropy(made.model(images, targets), targets, label_smoothing=made.label_smoothing)
    loss.backward()
    made.optimizer.step()
    assert loss.isfinite()
    moved = [n for (n, p), old in zip(made.backbone.named_parameters(), before) if not torch.equal(p, old)]
    assert moved and (settings["learnt"] == "all" or all(n.startswith("layer4") for n in moved))
    assert isinstance(made.optimizer, AGD) == (settings["optimizer"] == "agd")


def test_where_recipes_differ_from_the_supplements_table_2():
    """As a reading of both lists it: numbers 16 to 21 of what paper and released code disagree in."""
    table = pd.read_csv(Path(__file__).resolve().parents[2] / "data/paper/activation-table2.csv")
    found = beside_table2(table)
    wanted = {
        ("Bias Weight Decay", "ImageNet-LT"): ("0.0", "0.0001"),
        ("Bias Weight Decay", "Places-LT"): ("0.0", "5e-05"),
        ("Bias Weight Decay", "C100-LT"): ("0.0", "0.001"),
        ("Attention Dropout", "i-Naturalist18"): ("0.0", "0.1"),
        ("Cos. Cls. scale", "C100-LT"): ("learnable", "16.0"),
        ("APA kappa Init", "i-Naturalist18"): ("U(0,1)", "U(-1,0)"),
        **{
            ("AGLU kappa Init", task): ("U(1,1.3)", "U(0.8,1.2)")
            for task in ("ImageNet-LT", "i-Naturalist18", "C100-LT")
        },
        **{
            (f"{kind} Init", "Places-LT"): ("N/A", "U(0,1)")
            for kind in ("APA kappa", "APA lambda", "AGLU kappa", "AGLU lambda")
        },
    }
    assert {(row.setting, row.task): (row.printed, row.recipe) for row in found.itertuples()} == wanted
    other = table.assign(value=table["value"].where(table["setting"] != "LR", "0.3"))
    more = beside_table2(other)
    assert sorted(more.loc[more["setting"] == "LR", "recipe"]) == ["0.1", "0.2", "0.2", "0.5"]
    kept = {name for name in table["setting"] if name not in ("Method", "Norm. Mask scale")}
    assert set(beside_table2(table.assign(value="other"))["setting"]) == kept


def test_agd_starts_at_its_own_scale():
    model = build.network(RECIPES["guiding/cifar10"], 3, 32)
    assert model.conv1.weight.shape == (64, 3, 7, 7)  # the ImageNet stem
    kernels = model.layer1[0].conv1.weight[:, :, 1, 2]  # orthogonal, √(out/in)/3 in size
    torch.testing.assert_close(kernels @ kernels.mT, torch.eye(64) / 9, atol=1e-5, rtol=0)
    assert all(p.ndim > 1 for p in model.parameters())


def test_the_released_options_reach_the_heads(monkeypatch):
    monkeypatch.setattr(pipelines, "_load", lambda *_: image_set([20] * 10, 32))
    heads = [build.make(RECIPES["guiding/cifar10"], name).head for name in ("standard", "fixed", "fixed_haar")]
    assert heads[0].weight.norm(dim=-1).mean().item() == pytest.approx((10 / 512) ** 0.5)
    assert heads[1].follows and heads[2].follows


def decays(settings, model, head):
    groups = build.optimizer(settings, model, head).param_groups
    found = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return found


def test_what_decays():
    """iNaturalist: no norms, no biases; elsewhere both; κ and λ never; each parameter in one group. The scale of the
    cosine classifier does where it is learnt, as in the released code."""
    model, head = build.network(RECIPES["apa/cifar100-lt"], 3, 32), HEADS["cosine"](64, 10, learn_temperature=True)
    for norm, bias in ((None, None), (0.0, 0.0), (0.1, 0.2)):
        settings = RECIPES["apa/cifar100-lt"] | {"norm_weight_decay": norm, "bias_weight_decay": bias}
        found = decays(settings, model, head)
        attention = model.layer1[0].se.fc1
        assert found[id(model.conv1.weight)] == found[id(head.directions)] == found[id(head.temperature)] == 1e-3
        assert found[id(model.bn1.bias)] == found[id(attention[0].weight)] == (1e-3 if norm is None else norm)
        assert found[id(model.act1.kappa)] == found[id(model.layer1[0].se.gate.lam)] == 0
        assert len(found) == len([*model.parameters()]) + 2
        small = build.small_network(8)
        assert decays(settings, small, head)[id(small[1].bias)] == (1e-3 if bias is None else bias)


def test_kappa_and_lambda_start_on_their_ranges():
    changes = {"kappa": [2.0, 2.1], "lam": [3.0, 3.1], "gate_kappa": [4.0, 4.1], "gate_lam": [5.0, 5.1]}
    model = build.network(RECIPES["apa/cifar10-lt"] | changes, 3, 32)
    for kind, low in ((AGLU, 2), (APA, 4)):
        layers = [m for m in model.modules() if isinstance(m, kind)]
        assert all(low <= m.kappa <= low + 0.1 and low + 1 <= m.lam <= low + 1.1 for m in layers)
    assert {m.lambda_gradient for m in model.modules() if isinstance(m, AGLU)} == {"paper"}
    assert {m.lambda_gradient for m in model.modules() if isinstance(m, APA)} == {"exact"}  # as in the released code


@pytest.mark.parametrize(("gradient", "comes_back"), [("paper", False), ("exact", True)])
def test_lambda_below_zero_stays_there_with_the_papers_gradient(gradient, comes_back):
    model = build.network(RECIPES["apa/cifar10-lt"] | {"lambda_gradient": gradient}, 3, 32)
    learnt = [m for m in model.modules() if isinstance(m, (AGLU, APA))]
    for module in learnt:
        z = torch.tensor([-1.0, 2.0])
        for sign in (1, -1):  # one of the two would raise λ, which is at -1
            module.lam.data.fill_(-1.0)
            (slope,) = torch.autograd.grad(sign * module(z).sum(), module.lam)
            if slope < 0:
                break
        assert module.used_lam <= 1e-7
        assert (slope < 0) == comes_back and (comes_back or slope == 0)


def test_fine_tuning_starts_from_another_run(tmp_path):
    settings = RECIPES["digits"] | {"backbone": "se_resnet50", "activation": "aglu", "gate": "apa"}
    model = build.network(settings, 3, 32)
    path = build.checkpoints.save(tmp_path, 0, {"parts": {"backbone": model.state_dict()}})
    again = build.network(settings | {"start_from": str(path), "learnt": "last-stage", "kappa": [7.0, 7.1]}, 3, 32)
    assert torch.equal(again.conv1.weight, model.conv1.weight)
    assert torch.equal(again.layer4[0].conv1.weight, model.layer4[0].conv1.weight)
    assert again.act1.kappa < 2 and again.layer4[0].act1.kappa > 6  # drawn anew in the last stage
    assert {n.split(".")[0] for n, p in again.named_parameters() if p.requires_grad} == {"layer4"}


def test_the_last_stage_of_networks_with_three_and_without_stages():
    settings = RECIPES["digits"] | {"learnt": "last-stage"}
    for backbone in ("resnet32", "se_resnet32"):
        model = build.network(settings | {"backbone": backbone}, 3, 32)
        assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"layer3"}
    with pytest.raises(ValueError, match="learnt='last-stage' is for a ResNet, got backbone='vgg13'"):
        build.network(settings | {"backbone": "vgg13"}, 3, 32)


def test_a_long_tail(monkeypatch):
    monkeypatch.setattr(pipelines, "_load", lambda *_: image_set([500] * 100, 4))
    for imbalance, total in ((100, 10847), (50, 12608), (10, 19573)):
        train, test = pipelines.load(RECIPES["apa/cifar100-lt"] | {"imbalance": imbalance})
        assert len(train) == total and len(test) == 50_000  # counts of the released code


def test_samplers():
    labels = torch.tensor([0] * 9000 + [1] * 995 + [2] * 5)
    draw = lambda name: SAMPLERS[name](labels, torch.Generator().manual_seed(0))
    assert torch.equal(draw("shuffled").sort().values, torch.arange(10_000))
    assert labels[draw("class-balanced")].bincount() / 10_000 == pytest.approx(torch.full((3,), 1 / 3), abs=0.02)
    expected = torch.tensor([9000, 995, 5 * 2**0.5])  # r = √(1e-3/f) where that is above 1
    torch.testing.assert_close(
        labels[draw("repeat-factor")].bincount() / 10_000, expected / expected.sum(), atol=0.02, rtol=0
    )


def test_repeated_images_come_together_and_are_mixed_with_others():
    """Of 10 000 draws in batches of 1024, the last of 784: a quarter of each are the images, in four rounds."""
    labels = torch.zeros(10_000, dtype=torch.int64)
    four = repeated(SAMPLERS["shuffled"], 4, 1024)(labels, torch.Generator().manual_seed(0))
    assert len(four) == 10_000 and len(four.unique()) == 2500
    for batch in four.split(1024):
        rounds = batch.view(4, -1)
        assert (rounds == rounds[0]).all() and len(rounds[0].unique()) == len(batch) // 4
        assert (batch != batch.roll(1)).all()  # MixUp's partner of each
    alone = repeated(SAMPLERS["shuffled"], 3, 8)(labels[:20], torch.Generator().manual_seed(0))  # 8 is no multiple of 3
    assert alone.bincount(minlength=20).sort().values.tolist() == [0] * 13 + [2] + [3] * 6


def test_epochs_that_are_measured():
    at = lambda wanted, epochs=200: build.epochs_to_measure(
        RECIPES["digits"] | {"epochs": epochs, "measure_at": wanted}
    )
    assert at(None) == list(range(201)) and at(80) == [0, 50, 80, 160, 200]
    assert at([3, 7]) == [0, 3, 7, 50, 200] and at([3, 70], 60) == [0, 3, 50, 60]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weight_decay": -1}, "weight_decay must be a number of at least 0, got -1"),  # was accepted
        ({"lr": 0}, "lr must be a number above 0, got 0"),
        ({"side": 2.5}, "side must be a whole number of at least 1, or None, got 2.5"),
        ({"side": True}, "side must be a whole number"),
        ({"compile": "no"}, "compile must be True or False, got 'no'"),
        ({"optimizer": "agd", "weight_decay": 5e-4}, "with optimizer='agd' there is no effect of weight_decay=0.0005"),
        (
            {"optimizer": "agd", "norm_weight_decay": 0.1, "bias_weight_decay": 0.1, "weight_decay": 0.0},
            "no effect of norm_weight_decay=0.1, bias_weight_decay=0.1",
        ),
        (
            {"optimizer": "agd", "momentum": 0.5, "weight_decay": 0},
            "with optimizer='agd' there is no effect of momentum",
        ),
        ({"optimizer": "adamw", "momentum": 0.5}, "with optimizer='adamw' there is no effect of momentum=0.5"),
        (
            {"activation": "aglu", "stem": "imagenet", "per_channel": True},
            "with backbone='small' there is no effect of stem='imagenet', activation='aglu', per_channel=True",
        ),
        ({"attention_norm": True}, "with backbone='small' there is no effect of attention_norm=True"),
        ({"head": ["linear"]}, "head must be one of 'standard', 'fixed', 'implicit', .*; got 'linear'"),
        ({"rate": 1}, "missing: none, unknown: rate"),
        ({"std": [0.5]}, r"mean and std go together, got mean=None and std=\[0.5\]"),  # was ignored
        ({"measure_at": -5}, "measure_at must be None, a number of epochs or a list of epochs, got -5"),
        ({"head_options": {"fixd": {}}}, "a head of head_options must be one of .*; got 'fixd'"),  # was ignored
        ({"head_options": [1]}, r"head_options must be a dict of dicts, one for each head, got \[1\]"),
        ({"head_options": {"fixed": 1}}, "head_options must be a dict of dicts"),
        ({"measure_at": [1, 2.5]}, r"got \[1, 2.5\]"),
        ({"data": "mnits"}, "data must be one of 'digits', .*; got 'mnits'"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        fields.check(RECIPES["digits"] | changes)


def test_unknown_steps_are_refused():
    with pytest.raises(ValueError, match="augmentation has normalise, flip, .*, got 'mirror'"):
        build.make(RECIPES["digits"] | {"augmentation": ["mirror", "normalise"]}, "fixed")


def test_half_precision_of_which_there_is_none(monkeypatch, tmp_path):
    """fp16 on a CPU trained in float32, and bf16 asked of a finished float32 folder gave its rows."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match='precision="fp16" needs a GPU'):
        build.make(RECIPES["digits"] | {"precision": "fp16"}, "fixed")
    settings = RECIPES["digits"] | {"count": 50, "epochs": 1}
    exact = build.run(settings, "fixed", folder=tmp_path)
    half = build.run(settings | {"precision": "bf16"}, "fixed", folder=tmp_path)
    assert half.settings["precision"] == "bf16" and half.frame["loss"].tolist() != exact.frame["loss"].tolist()
    assert len([*tmp_path.glob(f"*/{trainer.HISTORY}")]) == 2
    for has, meant in ((True, "bf16"), (False, "no")):
        monkeypatch.setattr(build.processes, "_bf16_on_cpu", lambda has=has: has)
        assert build.described(settings | {"precision": "auto"}, "fixed", 0)["precision"] == meant
