"""Long-tailed image classification: heads, corrections after training, and the steps of Table 8, from outputs of runs.

    runs = load("data/results", "cifar10-lt*")        # {} where nothing is stored yet
    table = heads_table(runs)                         # many, medium and few, ECE, for each run and correction
    paired(table, "few", "implicit", "cosine")        # a difference over seeds, with its interval

Runs are the `labkit.vision.outputs` of finished networks. Whatever can be done after training is done here, from the
same weights: the prior is taken out (kind "odds", the released default), and calibration is measured.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from labkit import calibration, heads
from labkit.history import differences
from labkit.studies import rates, tables
from labkit.vision import backbones, build, fields, outputs, recipes
from labkit.vision.outputs import Outputs

DIGITS = recipes.RECIPES["digits"] | {"imbalance": 20, "epochs": 30, "measure_at": 30}  # 119 … 5 training images
HEADS = ("standard_no_norm", "cosine", "fixed", "implicit")
NAMES = {
    "standard_no_norm": "linear",
    "standard": "linear, normalised",
    "cosine": "cosine",
    "fixed": "fixed ETF",
    "implicit": "implicit ETF",
}
MEASURES = ("overall", *calibration.GROUPS)
PLAIN = ["crop:4", "flip", "normalise"]  # the recipe's augmentation without AutoAugment, which brings Cutout
EPOCHS = 30  # of our runs on CIFAR-10-LT, where the paper has 200
UNTUNED = 1e-4  # weight decay of rows 1–8: not given in the paper; a usual value


# --- the steps of Table 8 ---


def printed(number: int = 8, folder: str | Path = "data/paper") -> pd.DataFrame:
    """A table of the supplement, as printed; of Table 8 with its rows numbered from 1."""
    table = pd.read_csv(Path(folder) / f"activation-table{number}.csv")
    return table.assign(row=range(1, len(table) + 1)).set_index("row") if number == 8 else table


def changes(row: Mapping, epochs: int = 200) -> dict:
    """What a row of Table 8 (`printed().loc[k]`) changes in the recipe "apa/cifar10-lt", as settings of a run; whether
    the prior is taken out afterwards (column pcs) is no setting.

    epochs: of the rows with 200; the first has half. The head is a linear one without bias or the squashed cosine. λ is
    learnt by its exact gradient, and not by Eq. 6, which the recipe has from the released code.
    """
    attention = bool(row["se_nets"])
    return {
        "epochs": epochs if row["epochs_200"] else epochs // 2,
        "head": ["cosine" if row["cosine_classifier"] else "standard_no_norm"],
        "backbone": "se_resnet32" if attention else "resnet32",
        "augmentation": recipes.CIFAR_LT["augmentation"] if row["autoaugment"] else PLAIN,
        "mixup": recipes.APA["mixup"] if row["mixup"] else None,
        "weight_decay": recipes.CIFAR_LT["weight_decay"] if row["weight_decay_tuning"] else UNTUNED,
        "gate": ("apa" if row["apa"] else "sigmoid") if attention else None,
        "attention_dropout": recipes.APA["attention_dropout"] if row["dropout"] else 0.0,
        "attention_norm": bool(row["layernorm"]),
        "activation": "aglu" if row["aglu"] else None,
        "per_channel": False,  # that is Table 7
    } | ({"lambda_gradient": "exact"} if row["apa"] or row["aglu"] else {})


def rows_of(settings: Mapping, table: pd.DataFrame) -> list[int]:
    """The rows of Table 8 that a run with these settings belongs to: two where one has the prior taken out.

    Epochs are not looked at: a row of 100 and one of 200 are told apart by `staircase`.
    """
    asked = {"head": [settings["head"]]} | {k: v for k, v in settings.items() if k != "head"}
    known = lambda key, value: (
        asked[key] in ("relu", None) if key == "activation" and value is None else asked[key] == value
    )
    return [
        row
        for row, flags in table.iterrows()
        if all(known(key, value) for key, value in changes(flags).items() if key != "epochs")
    ]


def staircase(
    runs: Mapping[str, Outputs], table: pd.DataFrame, epochs: int = EPOCHS, imbalance: float = 100
) -> pd.DataFrame:
    """Table 8 with our overall accuracy beside it, in percent: columns top1 (the paper's), ours (median over seeds),
    low, high, seeds and values (of each run); NaN and 0 where there is none. Rows of one network with and without the
    correction come from the same weights. epochs: of our runs, where the paper has 200; others are left out.
    Raises ValueError where runs of one row differ in more than the seed.
    """
    found, same = {row: [] for row in table.index}, {}
    for run in runs.values():
        for row in rows_of(run.settings["run"], table):
            asked = {"epochs": changes(table.loc[row], epochs)["epochs"], "imbalance": imbalance}
            if all(run.settings["run"][key] == value for key, value in asked.items()):
                rest = _what(run, "seed")
                if same.setdefault(row, rest) != rest:
                    raise ValueError(f"runs of row {row} differ in more than the seed: {differences(same[row], rest)}")
                logits = calibration.correct_prior(run.logits, run.train_counts, table.loc[row, "pcs"], "odds")
                found[row].append(100 * (logits.argmax(-1) == run.labels).double().mean().item())
    ours = {row: [np.median(v), min(v), max(v)] if v else [math.nan] * 3 for row, v in found.items()}
    ours = pd.DataFrame(ours, ["ours", "low", "high"]).T.assign(seeds=pd.Series(found).map(len), values=found)
    return table[["top1"]].join(ours)


# --- runs ---


def load(folder: str | Path, pattern: str = "cifar10-lt*") -> dict[str, Outputs]:
    """The outputs that are stored, {"entry/name": Outputs}: all files *outputs.npz in folders of that pattern; {} where
    there are none. Of runs with the same settings, which serve two entries, the first. ValueError, naming the file, for
    a damaged one.
    """
    found, seen = {}, []
    for path in sorted(path for entry in Path(folder).glob(pattern) for path in entry.rglob("*outputs.npz")):
        run = Outputs.load(path)
        if _what(run) not in seen:
            seen.append(_what(run))
            found[f"{path.parent.name}/{path.name.removesuffix('.npz')}"] = run
    return found


def _what(run, *without):
    """The settings that say what a run is, but for some; and the images that it is of."""
    what = {k: v for k, v in run.settings["run"].items() if k not in (*fields.HOW, *without)}
    return what | {key: run.settings.get(key) for key in tables.SAME}


def heads_of_one_setting(runs: Mapping[str, Outputs]) -> dict[str, Outputs]:
    """The runs that differ in nothing but their head, its temperature, options and learning rate, and the seed: of
    several such sets the one with the most heads, and then the most runs; {} where no two heads can be compared.
    Raises ValueError where the runs of one head have several rates, temperatures or options of its own.
    """
    return _largest_set(runs, lambda run: run.settings["head"], "head", "temperature", "head_options", "lr")


def networks_of_one_setting(runs: Mapping[str, Outputs]) -> dict[str, Outputs]:
    """The same for runs that differ in nothing but activation, attention and seed; `network` says what they are."""
    free = "backbone", "activation", "gate", "attention_norm", "attention_dropout", "lambda_gradient", "per_channel"
    return _largest_set(runs, network, *free)


def network(run: Outputs) -> str:
    """What is compared of a run's network: "ReLU", "AGLU", "ReLU, SE", "AGLU, SE", "ReLU, APA gate" or "APA*"; an APA
    gate is named with the norm and dropout that it lacks; λ learnt by Eq. 6 and κ and λ per channel are named too.
    """
    settings = run.settings["run"]
    name, attention = _parts(settings)
    if attention == "SE":
        name += ", SE"
    elif attention == "APA":
        if lacking := [part for part in ("norm", "dropout") if not settings[f"attention_{part}"]]:
            name += f", APA gate without {' and '.join(lacking)}"
        else:
            name = "APA*" if name == "AGLU" else f"{name}, APA gate"
    if settings["lambda_gradient"] == "paper" and not {settings["activation"], settings["gate"]}.isdisjoint(
        backbones.LEARNT
    ):
        name += ", Eq. 6"
    return name + (", per channel" if settings["per_channel"] else "")


def _parts(settings):
    """Activation and channel attention of a network: "ReLU" or "AGLU", and "none", "SE" or "APA"."""
    attention = ("APA" if settings["gate"] == "apa" else "SE") if settings["backbone"].startswith("se_") else "none"
    return "AGLU" if settings["activation"] == "aglu" else "ReLU", attention


def _largest_set(runs, kind, *free):
    sets = []
    for name, run in runs.items():
        what = _what(run, "seed", *free)
        mine = next((found for other, found in sets if other == what), None)
        if mine is None:
            sets.append((what, mine := {}))
        mine[name] = run
    kinds = lambda found: len({kind(run) for run in found.values()})
    most = max((found for _, found in sets), key=lambda found: (kinds(found), len(found)), default={})
    if kinds(most) < 2:
        return {}
    firsts = {}
    for run in most.values():
        settings = run.settings["run"]
        own = {key: settings[key] for key in free} | {
            "head_options": fields.options_of_head(settings, settings["head"])
        }
        if (first := firsts.setdefault(kind(run), own)) != own:
            raise ValueError(f"runs of {kind(run)!r} differ in more than the seed: {differences(first, own)}")
    return most


def digits(
    names: Sequence[str] = HEADS,
    seeds: Iterable[int] = (0, 1, 2),
    settings: Mapping = DIGITS,
    progress: Callable | None = None,
) -> dict[str, Outputs]:
    """Train heads on long-tailed digits, a few seconds a run: {"head, seed 0": Outputs}. progress: called with each
    name before its run.
    """
    found = {}
    for seed in seeds:
        for head in names:
            name = f"{head}, seed {seed}"
            if progress:
                progress(name)
            trainer = build.make(dict(settings), head, seed)
            trainer.run()
            found[name] = outputs.of(trainer)
    return found


# --- tables ---


def heads_table(
    runs: Mapping[str, Outputs], taus: Sequence[float] = (0.0, 1.0), kind: str = "odds", bins: int = 15
) -> pd.DataFrame:
    """One row for each run and τ: run, head, seed, tau, overall, many, medium, few (shares), ece, ece_mass (bins of
    equal mass), mce, confidence (its mean), test_nc1 (of the features as
    the backbone gives them), test_nc1_unit (at unit length), entropy (of the last attention, NaN without).
    """
    rows = []
    for name, run in runs.items():
        for tau in taus:
            logits = calibration.correct_prior(run.logits.double(), run.train_counts, tau, kind)
            row = {"run": name, "head": run.settings["head"], "seed": run.settings["seed"], "tau": tau}
            row |= calibration.group_accuracy(logits, run.labels, run.train_counts)
            row |= calibration.calibration_error(logits, run.labels, bins)
            row["confidence"] = logits.softmax(-1).amax(-1).mean().item()
            row["ece_mass"] = calibration.calibration_error(logits, run.labels, bins, equal_mass=True)["ece"]
            row |= {"test_nc1": run.measures["test_nc1"], "test_nc1_unit": run.measures["test_nc1_normalised"]}
            row["entropy"] = run.entropy.mean().item() if len(run.entropy) else math.nan
            rows.append(row)
    return pd.DataFrame(rows)


def networks_table(runs: Mapping[str, Outputs], taus: Sequence[float] = (0.0, 1.0)) -> pd.DataFrame:
    """`heads_table` with the columns network (see `network`), activation ("ReLU" or "AGLU"), attention ("none", "SE" or
    "APA"), and entropy_many, entropy_medium and entropy_few, of the attention for the test images of such classes.
    """
    rows = []
    for name, run in runs.items():
        activation, attention = _parts(run.settings["run"])
        row = {"run": name, "network": network(run), "activation": activation, "attention": attention}
        group, entropy = np.array(calibration.groups(run.train_counts))[run.labels], run.entropy.numpy()
        for one in calibration.GROUPS:
            row[f"entropy_{one}"] = entropy[group == one].mean() if len(entropy) and one in group else math.nan
        rows.append(row)
    return heads_table(runs, taus).merge(pd.DataFrame(rows), on="run")


def by_tau(run: Outputs, taus: Sequence[float], kind: str = "odds") -> pd.DataFrame:
    """Accuracy of one run against τ: columns tau, overall, many, medium, few."""
    corrected = lambda tau: calibration.correct_prior(run.logits, run.train_counts, tau, kind)
    found = [calibration.group_accuracy(corrected(tau), run.labels, run.train_counts) for tau in taus]
    return pd.DataFrame(found).assign(tau=list(taus))


def paired(table: pd.DataFrame, measure: str, one: Any, other: Any, by: str = "head") -> dict:
    """The difference one − other of a measure, seed by seed: {"difference", "low", "high", "seeds", "same_sign"}.

    low, high: the 95 % interval of Student's t for the mean difference; NaN for fewer than two seeds. Seeds that only
    one side has are left out. Raises ValueError where a side has a seed twice: several settings would be pooled.
    """
    sides = []
    for name in (one, other):
        side = table[table[by] == name].set_index("seed")[measure]
        if side.index.has_duplicates:
            raise ValueError(f"{name!r} has a seed twice; choose one τ and one setting first")
        sides.append(side)
    gaps = (sides[0] - sides[1]).dropna()
    mean, low, high = rates.interval(gaps)
    same = bool(len(gaps) and ((gaps > 0).all() or (gaps < 0).all()))
    return {"difference": mean, "low": low, "high": high, "seeds": len(gaps), "same_sign": same}


def sentence(pair: Mapping, one: str, other: str, what: str, points: bool = True) -> str:
    """A `paired` difference in words, and no more than it supports.

    >>> gap = {"difference": 0.02, "low": 0.01, "high": 0.03, "seeds": 3, "same_sign": True}
    >>> sentence(gap, "cosine", "linear", "few-shot accuracy")
    'few-shot accuracy: cosine is 2.0 points above linear (95 % interval 1.0 to 3.0, 3 seeds)'
    """
    if pair["seeds"] < 2 or math.isnan(pair["low"]):
        return f"{what}: no comparison of {one} and {other} ({pair['seeds']} seeds)"
    scale, unit, form = (100, " points", ".1f") if points else (1, "", ".3g")
    low, high, gap = (scale * pair[key] for key in ("low", "high", "difference"))
    if low <= 0 <= high:
        said = f"{gap:+{form}}{unit}, 95 % interval {low:{form}} to {high:{form}}"
        return f"{what}: {pair['seeds']} seeds do not tell {one} and {other} apart ({said})"
    low, high = sorted((abs(low), abs(high)))
    side, said = "above" if gap > 0 else "below", f"95 % interval {low:{form}} to {high:{form}}"
    return f"{what}: {one} is {abs(gap):{form}}{unit} {side} {other} ({said}, {pair['seeds']} seeds)"


def best(table: pd.DataFrame, measure: str = "few") -> pd.Series:
    """For each τ, the head with the highest mean of a measure over seeds; None where no head has the measure."""
    means = table.groupby(["tau", "head"])[measure].mean().unstack("tau")
    return means.apply(lambda of: of.idxmax() if of.notna().any() else None)


def missing(runs: Mapping[str, Outputs], table: pd.DataFrame, epochs: int = EPOCHS) -> str:
    """One sentence that says which rows of Table 8 have no stored run."""
    rows = [row for row, seeds in staircase(runs, table, epochs)["seeds"].items() if not seeds]
    if not rows:
        return "Every row of Table 8 has a stored run."
    if len(rows) == len(table):
        return "Of no row of Table 8 is a run stored; `make evidence` trains them."
    return f"Stored runs are missing of the rows {', '.join(map(str, rows))} of Table 8; `make evidence` trains them."


def label(head: str) -> str:
    """What figures and tables call a head here."""
    return NAMES.get(head, heads.VARIANTS[head].label if head in heads.VARIANTS else head)
