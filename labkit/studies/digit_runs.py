"""The runs of the digit network behind notebook 07: studies whose runs have a file each until all are there.

    python -m labkit.studies.digit_runs eq6 starts          all runs that are missing, into build/digit-runs
    python -m labkit.studies.digit_runs starts --save       data/results/digits-starts.parquet

"eq6": what the derivative of the supplement's Eq. 6 does to λ in four blocks, under the released floor and under
labkit's, beside the exact one; "eq6-more" in 16 blocks and at another rate. "starts": where κ starts in 24 blocks, each
start at three learning rates for ten epochs; "starts-more" in 4 and 16 blocks, at one rate for twenty. "gates": where κ
of the gates of channel attention starts. All on one split of scikit-learn's digits, that of `labkit.vision.data`.
"""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import nn

from labkit import checks
from labkit.activations import FLOOR
from labkit.history import History, Store, plain
from labkit.studies import activation_fits

SEEDS, EPOCHS, RATES = range(5), 20, (0.1, 0.02, 0.005)
EXACT, EXACT_RELEASED = "exact, labkit's floor", "exact, released floor"
EQ6_RELEASED, EQ6_OURS, EQ6_HIGH = "Eq. 6, released floor", "Eq. 6, labkit's floor", "Eq. 6, λ ≥ 0.01"
HELD = "κ and λ held"
GRADIENTS = {
    EXACT: {},
    EXACT_RELEASED: dict(floor="released"),
    EQ6_RELEASED: dict(lambda_gradient="paper", floor="released"),
    EQ6_OURS: dict(lambda_gradient="paper"),
    EQ6_HIGH: dict(lambda_gradient="paper", smallest=0.01),
    HELD: dict(learn=False),
}
MAIN = (EXACT, EQ6_RELEASED, EQ6_OURS)
MIXED, ONE_SIGN, RELU = "κ ~ U(−2, 2)", "κ ~ U(−2, 2), one sign on the shortcut", "ReLU"
STARTS = {
    "κ ~ U(0, 1)": dict(kappa_init=(0.0, 1.0)),
    "κ ~ U(−2, 0)": dict(kappa_init=(-2.0, 0.0)),
    "κ ~ U(−3, 0)": dict(kappa_init=(-3.0, 0.0)),
    MIXED: dict(kappa_init=(-2.0, 2.0)),
    "κ ~ U(1, 1.3)": dict(kappa_init=(1.0, 1.3)),
    ONE_SIGN: dict(kappa_init=(-2.0, 2.0), one_sign=True),
    RELU: dict(activation="relu"),
}
GATES = {"κ ~ U(0, 1)": dict(gate_kappa_init=(0.0, 1.0)), "κ ~ U(−1, 0)": dict(gate_kappa_init=(-1.0, 0.0))}


def _runs(variants, blocks, lr, seeds=SEEDS, epochs=EPOCHS):
    return [
        plain(dict(variant=name, blocks=blocks, lr=lr, seed=seed, epochs=epochs, options=options))
        for seed in seeds
        for name, options in variants.items()
    ]


_MAIN = {name: GRADIENTS[name] for name in MAIN}
_DEEP = {name: STARTS[name] for name in (RELU, MIXED, "κ ~ U(1, 1.3)", ONE_SIGN)}
_SWEPT = [run for seed in range(3) for lr in RATES for run in _runs(_DEEP, 24, lr, [seed], 10)]
STUDIES = {  # the settings of every run, the most wanted first
    "eq6": _runs(GRADIENTS, 4, 0.1),
    "eq6-more": _runs(_MAIN, 16, 0.1) + _runs(_MAIN, 4, 0.02),
    "starts": _SWEPT,
    "starts-more": _runs(STARTS, 16, 0.1) + _runs(STARTS, 4, 0.1),
    "gates": _runs(GATES, 4, 0.1),
}


class Runs(Store):
    """The runs of a study while it is under way."""

    always = ("blocks", "lr")

    def columns(self, settings: dict) -> dict:
        return {key: settings[key] for key in ("blocks", "lr")}


def train(settings: dict) -> History:
    """One run, from its settings as STUDIES has them: `activation_fits.train_digits` for one seed."""
    options = dict(settings["options"])
    if options.get("activation") == "relu":
        options["activation"] = nn.ReLU
    same = {key: settings[key] for key in ("blocks", "lr", "epochs")}
    return activation_fits.train_digits(settings["variant"], [settings["seed"]], **same, **options)


def work(study: str, folder: str | Path, seconds: float = math.inf) -> int:
    """Make the missing runs of a study, until that many seconds have passed. Returns how many are still missing."""
    checks.one_of("study", study, tuple(STUDIES))
    store, end = Runs(Path(folder) / study), time.monotonic() + seconds
    missing = 0
    for settings in STUDIES[study]:
        if store.get(settings) is not None:  # a damaged file is named in a warning, and counts as none
            continue
        if time.monotonic() > end:
            missing += 1
        else:
            store.put(settings, train(settings))
    return missing


def collect(study: str, folder: str | Path) -> History:
    """The runs of a study as one table: the columns of `train_digits`, blocks and lr. FileNotFoundError where one is
    missing.
    """
    store = Runs(Path(folder) / study)
    found = {str(s): store.get(s) for s in STUDIES[study]}
    if missing := [s for s in STUDIES[study] if found[str(s)] is None]:
        raise FileNotFoundError(f"{len(missing)} runs of {study} are missing in {folder}, the first is {missing[0]}")
    whole = store.join(found.values())
    made = next(iter(found.values())).settings
    whole.settings = {key: made[key] for key in ("device", "versions", "date", "epochs", "batch", "weight_decay")}
    whole.settings |= {"data": "scikit-learn's digits, 1201 for training and 596 for testing"}
    kinds = {"blocks": int, "lr": float}
    return History(whole.frame.astype(kinds), whole.settings, whole.margins.astype(kinds))


def lambda_shares(table: pd.DataFrame, high: float = 100.0) -> pd.DataFrame:
    """What became of λ: one row for each variant, blocks, lr and seed at its last epoch.

    Columns: layers, floor and above (shares of layers with λ within a hundred of the floor, 1e-6, and above `high`),
    largest, gradient (the largest norm in any epoch) and test (accuracy in percent).
    """
    keys, rows = ["head", "blocks", "lr", "seed"], []
    for key, run in table.groupby(keys, sort=False):
        last = run.loc[run["iteration"].idxmax()]
        lams = last.filter(regex="^lam_").dropna().astype(float)
        rows.append(
            dict(zip(keys, key))
            | dict(layers=len(lams), floor=(lams < 100 * FLOOR).mean(), above=(lams > high).mean(), largest=lams.max())
            | dict(gradient=run["gradient"].max(), test=100 * last["test_accuracy"])
        )
    return pd.DataFrame(rows)


def best_rates(table: pd.DataFrame, blocks: int) -> pd.DataFrame:
    """Of runs at several learning rates: each start at the rate that is best for it by its median test accuracy.

    One row for each start, in their order: lr, then lowest, median and highest test accuracy in percent there, learnt
    (how many seeds are above 90 %), seeds, and the median at every rate as columns "at …". Of each run the last row
    counts, also of one that diverged and ends earlier.
    """
    mine = table[table["blocks"] == blocks]
    last = mine.loc[mine.groupby(["head", "lr", "seed"], sort=False)["iteration"].idxmax()]
    last = last[["head", "lr", "seed", "test_accuracy"]].assign(test=100 * last["test_accuracy"])
    medians = last.pivot_table("test", "head", "lr", "median", sort=False)
    rows = {}
    for name, row in medians.iterrows():
        found = last[(last["head"] == name) & (last["lr"] == row.idxmax())]["test"]
        rows[name] = dict(lr=row.idxmax(), lowest=found.min(), median=found.median(), highest=found.max())
        rows[name] |= dict(learnt=int((found > 90).sum()), seeds=len(found))
        rows[name] |= {f"at {lr:g}": row[lr] for lr in sorted(medians, reverse=True)}
    return pd.DataFrame(rows).T.astype({"learnt": int, "seeds": int})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m labkit.studies.digit_runs", description=__doc__.split("\n")[0])
    parser.add_argument("studies", nargs="+", choices=STUDIES)
    parser.add_argument("--folder", default="build/digit-runs", help="of the single runs (%(default)s)")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no run after so many")
    parser.add_argument("--save", action="store_true", help="write data/results/digits-STUDY.parquet")
    chosen, started = parser.parse_args(arguments), time.monotonic()
    for study in chosen.studies:
        missing = work(study, chosen.folder, chosen.seconds - (time.monotonic() - started))
        print(f"{study}: {missing} of {len(STUDIES[study])} runs are missing", flush=True)
        if chosen.save:
            print(collect(study, chosen.folder).save(f"data/results/digits-{study}.parquet"))


if __name__ == "__main__":
    main()
