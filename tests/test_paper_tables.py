"""The tables in data/paper: complete, well formed, and equal to the print at spots read a second time."""

import re
from pathlib import Path

import pandas as pd
import pytest

PAPER = Path(__file__).resolve().parent.parent / "data" / "paper"
ACCURACY = "dataset network epoch head median low high"
KEY = ["dataset", "network", "epoch", "head"]

TABLES = {  # file: (rows, columns)
    "guiding-table1.csv": (42, ACCURACY),
    "guiding-table2.csv": (42, ACCURACY),
    "guiding-table3.csv": (8, "model dataset standard fixed implicit_without_ddn implicit_with_ddn"),
    "activation-table1.csv": (4, "backbone se_nc1 apa_star_nc1"),
    "activation-table2.csv": (120, "setting task value"),
    "activation-table3.csv": (10, "dataset imbalance_factor network activation top1"),
    "activation-table4.csv": (4, "model activation epochs top1"),
    "activation-table5.csv": (5, "kappa_init top1"),
    "activation-table6.csv": (2, "kappa_init top1"),
    "activation-table7.csv": (2, "parameters top1"),
    "activation-table8.csv": (
        16,
        "epochs_200 cosine_classifier se_nets autoaugment mixup weight_decay_tuning pcs apa "
        "dropout layernorm aglu top1",
    ),
    "activation-table9.csv": (2, "activation accuracy"),
}

# What the README calls odd.
MISSING = [("CIFAR10", "VGG13", 50, "standard")]
OUTSIDE = {
    "guiding-table1.csv": [
        ("STL10", "ResNet50", 50, "standard"),
        ("STL10", "VGG13", 200, "fixed"),
        ("ImageNet", "ResNet50", 200, "fixed"),
    ],
    "guiding-table2.csv": [],
}
WIDER = {  # where another head has a narrower range than the implicit one
    "guiding-table1.csv": [("STL10", "ResNet50", 200), ("STL10", "VGG13", 50), ("ImageNet", "ResNet50", 200)],
    "guiding-table2.csv": [("STL10", "VGG13", 50), ("STL10", "VGG13", 200), ("ImageNet", "ResNet50", 200)],
}


def read(name):
    return pd.read_csv(PAPER / name)


def as_text(name):
    return pd.read_csv(PAPER / name, dtype=str, keep_default_na=False)


def test_readme_names_every_file():
    named = set(re.findall(r"^\| `([\w-]+\.csv)`", (PAPER / "README.md").read_text(encoding="utf-8"), re.M))
    assert named == set(TABLES) == {path.name for path in PAPER.glob("*.csv")}


@pytest.mark.parametrize("name", TABLES)
def test_shape(name):
    rows, columns = TABLES[name]
    table = read(name)
    assert list(table.columns) == columns.split()
    assert len(table) == rows
    labels = [c for c in table if c not in ("top1", "accuracy", "value", "median", "low", "high")]
    assert not table.duplicated(labels).any()


@pytest.mark.parametrize("name", OUTSIDE)
def test_accuracy_tables(name):
    table = read(name)
    assert set(table["head"]) == {"standard", "fixed", "implicit"}
    assert set(table["epoch"]) == {50, 200}

    empty = table[["median", "low", "high"]].isna().any(axis=1)
    assert list(table[empty][KEY].itertuples(index=False, name=None)) == (MISSING if "table1" in name else [])

    full = table[~empty]
    assert (full["low"] <= full["high"]).all()
    assert full[["median", "low", "high"]].stack().between(0, 100).all()
    outside = full[~full["median"].between(full["low"], full["high"])]
    assert list(outside[KEY].itertuples(index=False, name=None)) == OUTSIDE[name]


@pytest.mark.parametrize("name", WIDER)
def test_where_the_implicit_head_varies_more_than_another(name):
    table = read(name)
    table["width"] = (table["high"] - table["low"]).round(1)
    width = table.pivot(index=KEY[:3], columns="head", values="width")
    wider = width[width["implicit"] > width[["standard", "fixed"]].min(axis=1)]
    assert set(wider.index) == set(WIDER[name])


@pytest.mark.parametrize(
    "table, key, printed",
    [
        (1, ("CIFAR10", "ResNet18", 50, "standard"), (87.42, 86.1, 89.7)),
        (1, ("CIFAR10", "VGG13", 50, "fixed"), (76.66, 53.9, 85.8)),
        (1, ("CIFAR10", "VGG13", 200, "implicit"), (99.56, 99.4, 99.7)),
        (1, ("CIFAR100", "ResNet50", 200, "standard"), (95.87, 94.7, 98.6)),  # the source gives the superscript first
        (1, ("STL10", "ResNet50", 50, "standard"), (83.86, 84.5, 90.7)),  # as printed
        (1, ("STL10", "VGG13", 200, "implicit"), (100.0, 100, 100)),
        (1, ("ImageNet", "ResNet50", 200, "implicit"), (88.01, 87.5, 88.5)),
        (2, ("CIFAR10", "VGG13", 200, "fixed"), (72.48, 56.9, 90.5)),
        (2, ("CIFAR100", "VGG13", 50, "standard"), (60.82, 59.3, 61.2)),
        (2, ("STL10", "VGG13", 50, "implicit"), (68.78, 56.2, 71.3)),
        (2, ("ImageNet", "ResNet50", 200, "standard"), (60.02, 59.8, 60.7)),
        (2, ("ImageNet", "ResNet50", 200, "implicit"), (65.36, 65.0, 65.7)),
    ],
)
def test_accuracy_spots(table, key, printed):
    assert tuple(read(f"guiding-table{table}.csv").set_index(KEY).loc[key]) == printed


def test_memory_spots():
    memory = as_text("guiding-table3.csv").set_index(["model", "dataset"])
    assert list(memory.loc[("UFM-200", "")]) == ["1.7", "1.7", "1.8", "70.3"]
    assert list(memory.loc[("UFM-1000", "")]) == ["1.9", "1.9", "2.9", "N/A"]
    assert list(memory.loc[("ResNet50", "CIFAR100")]) == ["2.6", "2.6", "2.7", "18.9"]
    assert list(memory.loc[("ResNet50", "ImageNet")]) == ["27.5", "27.2", "27.8", "N/A"]


@pytest.mark.parametrize(
    "number, row",
    [
        (1, "ResNeXt-50 3.38 2.55"),
        (3, "CIFAR100-LT 10 ResNet-32 AGLU 66.8"),
        (3, "ImageNet-LT 256 ResNeXt50 RELU 57.0"),
        (3, "iNaturalist 500 ResNet50 AGLU 72.4"),
        (4, "ViT-B AGLU 200 78.5"),
        (4, "Swin-T GELU 100 78.7"),
        (5, "Uniform(-2,2) Failed"),
        (5, "Uniform(1,1.3) 57.9"),
        (6, "Uniform(-1,0) 57.9"),
        (9, "GELU 31.0"),
        (9, "AGLU 31.4"),
    ],
)
def test_activation_spots(number, row):
    assert row in [" ".join(cells) for cells in as_text(f"activation-table{number}.csv").values]


@pytest.mark.parametrize(
    "setting, values",
    [  # ImageNet-LT, i-Naturalist18, Places-LT, C100-LT, LVISv1
        ("Method", "R50/X50 R50 R152 R32 MRCNN-R50"),
        ("LR", "0.2 0.5 0.1 0.2 0.02"),
        ("Weight Decay", "1e-4 1e-4 5e-5 1e-3 1e-4"),
        ("Cutout", "- - - yes -"),
        ("AutoAugment", "yes - yes yes -"),
        ("APA kappa Init", "U(-1,0) U(0,1) N/A U(-1,0) N/A"),
        ("AGLU kappa Init", "U(1,1.3) U(1,1.3) N/A U(1,1.3) N/A"),
        ("AGLU lambda Init", "U(0,1) U(0,1) N/A U(0,1) N/A"),
    ],
)
def test_settings_spots(setting, values):
    table = as_text("activation-table2.csv")
    assert list(table[table["setting"] == setting]["value"]) == values.split()


def test_ablation():
    table = read("activation-table8.csv")
    ingredients = table.drop(columns="top1")
    assert ingredients.isin([0, 1]).all(axis=None)
    assert list(ingredients.sum(axis=1)) == [0, 1, 2, 3, 2, 3, 4, 5, 5, 6, 6, 7, 8, 9, 10, 11]
    assert list(table["top1"]) == [
        44.4,
        45.9,
        46.3,
        46.8,
        45.2,
        45.9,
        46.6,
        46.6,
        49.6,
        55.0,
        51.7,
        56.0,
        57.0,
        57.3,
        57.4,
        57.9,
    ]
    assert list(table[table["top1"].isin([49.6, 55.0])]["se_nets"]) == [0, 0]
    assert list(table[table["top1"] == 51.7]["pcs"]) == [0]


def test_tables_agree_where_they_report_the_same_configuration():
    best = read("activation-table8.csv")["top1"].max()
    assert best == read("activation-table6.csv")["top1"].max() == read("activation-table7.csv")["top1"].max()
    assert best == pd.to_numeric(read("activation-table5.csv")["top1"], errors="coerce").max()


@pytest.mark.parametrize(
    "name, column",
    [(f"activation-table{n}.csv", "top1") for n in range(3, 9)] + [("activation-table9.csv", "accuracy")],
)
def test_activation_accuracies_are_percentages(name, column):
    values = read(name)[column]
    assert pd.to_numeric(values[values != "Failed"]).between(0, 100).all()
