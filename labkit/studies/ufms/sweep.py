"""Many UFM runs: a grid of settings, side by side on all cores or on a cluster, each run kept in a file of its own.

sweep({"spec": [UFM_10], "head": ["standard", "implicit"], "delta": [1e-3, 1e-1], "seed": range(5)}, folder="runs")

python -m labkit.studies.ufms.sweep --help          the paper's runs, into data/results/ufm
"""

import argparse
import inspect
import itertools
from collections.abc import Iterable
from pathlib import Path

import joblib
from tqdm import tqdm

from labkit import checks, ufm
from labkit.heads import HEADS, PAPER, VARIANTS
from labkit.history import History, Store, plain
from labkit.studies import in_name

SIZES = {"UFM-10": ufm.UFM_10, "UFM-100": ufm.UFM_100, "UFM-200": ufm.UFM_200, "UFM-1000": ufm.UFM_1000}

# What a run is told apart by, beside its model, head and seed; the defaults are those of train_ufm and the heads.
HEAD_OPTIONS = ("delta", "alpha")  # of these a run has only those that its head has
OPTIONS = {
    name: HEADS["implicit"].options[name]
    if name in HEAD_OPTIONS
    else inspect.signature(ufm.train_ufm).parameters[name].default
    for name in ("iterations", "temperature", "delta", "alpha", "gain", "batch_size")
}


class Runs(Store):
    """The store of sweeps. Settings of a run: spec, head, seed, and those of OPTIONS that its head has."""

    always = ("size",)

    def name(self, settings: dict) -> str:
        """Model, head, the options that are not the default, seed."""
        changed = [f"{key}-{settings[key]}" for key in OPTIONS if settings.get(key, OPTIONS[key]) != OPTIONS[key]]
        return "-".join([size(_spec(settings)), settings["head"], *changed, f"seed-{settings['seed']}"])

    def settings_of(self, history: History) -> dict:
        """Of a run of any age: once, runs had options that their head had not."""
        return _relevant(history.settings["run"])

    def columns(self, settings: dict) -> dict:
        """The model's name and the options; alpha is 0 where it follows the paper's schedule, and batch_size
        num_samples where it is all of them.
        """
        shown = {key: settings[key] for key in OPTIONS if key in settings}
        stand_in = {"alpha": 0.0, "batch_size": settings["spec"]["num_samples"]}
        return {"size": size(_spec(settings))} | {k: stand_in[k] if v is None else v for k, v in shown.items()}


def sweep(
    grid: dict | list[dict],
    folder: str | Path | None = None,
    jobs: int = -1,
    device: str = "cpu",
    progress: bool = True,
) -> History:
    """Train every combination of a grid, and return all of them as one `History`.

    grid: dict of lists, or a list of such dicts: "spec" (UFMs), "head" (names in heads.VARIANTS), "seed", and any of
        OPTIONS. What is not named has train_ufm's default; spec and head must be there, seed is 0 by default. A head is
        trained once where the combinations differ only in options that it does not have.
    folder: where each run is saved when it ends, in one file named after its settings (see `Runs`). A run whose file is
        there is not trained again; a damaged file is named in a warning, and made anew. None keeps nothing.
    jobs: runs at a time, −1 for one on each core. Inside joblib.parallel_config("dask"), with a dask.distributed Client
        at work, they are run by its workers; files are written here, so that workers need no common disk.
    progress: a tqdm bar over runs, on stderr.

    The frame has the columns of train_ufm, with the variant as head, and before them size (the model's name) and one
    for each of OPTIONS in which the runs differ, NaN where a head has none. Raises ValueError for a grid that is not
    one, before anything is trained; and RuntimeError, when all others are done and saved, if runs failed.
    """
    runs, store = expand(grid), Runs(folder or ".")
    found = {name: history for name, run in runs.items() if folder and (history := store.get(run))}
    waiting = [name for name in runs if name not in found]
    failed = {}
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    with tqdm(total=len(runs), initial=len(found), desc="runs", disable=not progress) as bar:
        for name, result in parallel(joblib.delayed(_attempt)(name, runs[name], device) for name in waiting):
            if isinstance(result, Exception):
                failed[name] = result
            else:
                found[name] = result
                if folder:
                    store.put(runs[name], result)
            bar.set_postfix_str(name)
            bar.update()
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(runs)} runs failed: " + "; ".join(f"{n}: {e!r}" for n, e in failed.items())
        )
    return store.join(found[name] for name in runs)


def expand(grid: dict | list[dict]) -> dict[str, dict]:
    """The runs of a grid, {name: settings}, each once. Raises ValueError for a grid that is not one.

    >>> list(expand({"spec": [ufm.UFM_10], "head": ["fixed", "implicit"], "delta": [1e-3, 0.1]}))
    ['UFM-10-fixed-seed-0', 'UFM-10-implicit-seed-0', 'UFM-10-implicit-delta-0.1-seed-0']
    """
    runs = {}
    for part in [grid] if isinstance(grid, dict) else grid:
        known = {"spec", "head", "seed", *OPTIONS}
        if not isinstance(part, dict) or not {"spec", "head"} <= set(part) <= known:
            raise ValueError(
                f"a grid is a dict with spec, head and any of seed, {', '.join(OPTIONS)}; or a list of them; "
                f"got {part!r}"
            )
        for key, values in part.items():
            if isinstance(values, str) or not isinstance(values, Iterable) or not len(values):
                raise ValueError(f"a grid needs a list of values for {key}, got {values!r}")
        for values in itertools.product(*part.values()):
            run = {"seed": 0, **OPTIONS, **dict(zip(part, values))}
            checks.one_of("head", run["head"], tuple(VARIANTS))
            if not isinstance(run["spec"], ufm.UFM):
                raise ValueError(f"spec must be a UFM, got {run['spec']!r}")
            run["seed"] = checks.integer("seed", run["seed"], 0)
            run = plain(_relevant(run))
            runs[Runs(".").name(run)] = run
    return runs


def _relevant(run):
    """A run without the options that its head does not have."""
    known = HEADS[VARIANTS[run["head"]].head].options
    return {key: value for key, value in run.items() if key not in HEAD_OPTIONS or key in known}


def _spec(settings):
    return ufm.UFM(**settings["spec"])


def size(spec: ufm.UFM) -> str:
    """The name of a UFM: that of SIZES, or its numbers."""
    for known, model in SIZES.items():
        if model == spec:
            return known
    tail = f"-imbalance-{in_name(spec.imbalance)}" if spec.imbalance != 1 else ""
    return f"UFM-{spec.num_classes}-{spec.num_samples}x{spec.dim}{tail}"


def load(folder: str | Path, pattern: str = "*") -> History:
    """All saved runs in a folder whose names match a glob pattern, as one `History` like that of `sweep`.

    Raises FileNotFoundError where there are none, ValueError, naming the file, for a damaged or foreign one.
    """
    return Runs(folder).load(pattern)


def _attempt(name, run, device):
    """A run's name, and its History or what went wrong: one failure does not end the others."""
    try:
        return name, train(run, device)
    except Exception as error:  # reported by `sweep` when all are done
        return name, error


def train(run: dict, device: str = "cpu") -> History:
    """One run, from its settings as `expand` gives them."""
    options = {key: run[key] for key in OPTIONS if key in run}
    history = ufm.train_ufm(_spec(run), run["head"], seeds=[run["seed"]], device=device, **options)
    history.margins["margin"] = history.margins["margin"].round(5)  # compresses to a third
    history.settings["run"] = run
    return history


def main():
    parser = argparse.ArgumentParser(
        prog="python -m labkit.studies.ufms.sweep",
        description="Train the paper's UFMs with all heads. Finished runs are skipped.",
    )
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES, metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument(
        "--heads", nargs="+", default=list(PAPER), choices=VARIANTS, metavar="HEAD", help=", ".join(VARIANTS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(5)), metavar="SEED")
    parser.add_argument("--iterations", type=int, default=OPTIONS["iterations"])
    parser.add_argument("--folder", default="data/results/ufm")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, help="runs at a time; all cores on a CPU, else 1")
    args = parser.parse_args()
    if args.jobs == 0:
        parser.error("--jobs must be a number of runs, or -1 for all cores, got 0")
    jobs = args.jobs or (-1 if args.device == "cpu" else 1)
    grid = [
        {"spec": [SIZES[s]], "seed": args.seeds, "head": args.heads, "iterations": [args.iterations]}
        for s in args.sizes
    ]
    history = sweep(grid, args.folder, jobs, args.device)
    print(
        history.final().groupby(["size", "head"], sort=False)[["accuracy", "loss", "nc1", "nc3"]].median().to_string()
    )


if __name__ == "__main__":
    main()
