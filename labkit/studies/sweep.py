"""Many UFM runs: a grid of settings, side by side on all cores or on a cluster, each run kept in a file of its own.

sweep({"spec": [UFM_10], "head": ["standard", "implicit"], "delta": [1e-3, 1e-1], "seed": range(5)}, folder="runs")

python -m labkit.studies.sweep --help          the paper's runs, into data/results/ufm
"""

import argparse
import inspect
import itertools
import warnings
from dataclasses import asdict
from pathlib import Path

import joblib
from tqdm import tqdm

from labkit import checks, ufm
from labkit.heads import HEADS, PAPER, VARIANTS
from labkit.history import History

SIZES = {"UFM-10": ufm.UFM_10, "UFM-100": ufm.UFM_100, "UFM-200": ufm.UFM_200, "UFM-1000": ufm.UFM_1000}

# What a run is told apart by, beside its model, head and seed; the defaults are those of train_ufm and the heads.
HEAD_OPTIONS = ("delta", "alpha")  # only some heads have them
OPTIONS = {
    name: HEADS["implicit"].options[name]
    if name in HEAD_OPTIONS
    else inspect.signature(ufm.train_ufm).parameters[name].default
    for name in ("iterations", "temperature", "delta", "alpha", "gain", "batch_size")
}


def sweep(grid, folder=None, jobs=-1, device="cpu", progress=True):
    """Train every combination of a grid, and return all of them as one `History`.

    grid: dict of lists, or a list of such dicts: "spec" (UFMs), "head" (names in heads.VARIANTS), "seed", and any of
        OPTIONS.
        What is not named has train_ufm's default; spec and head must be there, seed is 0 by default.
    folder: where each run is saved when it ends, in one file named after its settings. A run whose file is there is not
        trained again; a damaged file is named in a warning, and made anew. None keeps nothing.
    jobs: runs at a time, −1 for one on each core. Inside joblib.parallel_config("dask"), with a dask.distributed Client
        at work, they are run by its workers; files are written here, so that workers need no common disk.
    progress: a tqdm bar over runs, on stderr.

    The frame has the columns of train_ufm, with the variant as head, and before them size (the model's name) and one
    for each of OPTIONS that the grid names. Raises ValueError for a grid that is not one, before anything is trained;
    and RuntimeError, when all others are done and saved, if runs failed.
    """
    runs = expand(grid)
    paths = [folder and Path(folder) / f"{name(run)}.parquet" for run in runs]
    found = {k: history for k, (run, path) in enumerate(zip(runs, paths)) if path and (history := read(path, run))}
    waiting = [k for k in range(len(runs)) if k not in found]
    failed = {}
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    with tqdm(total=len(runs), initial=len(found), desc="runs", disable=not progress) as bar:
        for k, result in parallel(joblib.delayed(_attempt)(k, runs[k], device) for k in waiting):
            if isinstance(result, Exception):
                failed[name(runs[k])] = result
            else:
                found[k] = result
                if folder:
                    result.save(paths[k])
            bar.set_postfix_str(name(runs[k]))
            bar.update()
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(runs)} runs failed: " + "; ".join(f"{n}: {e!r}" for n, e in failed.items())
        )
    return together([found[k] for k in range(len(runs))])


def expand(grid):
    """The runs of a grid, as dicts of spec, head, seed and OPTIONS, each once. Raises ValueError for bad ones."""
    runs = {}
    for part in [grid] if isinstance(grid, dict) else grid:
        known = {"spec", "head", "seed", *OPTIONS}
        if not isinstance(part, dict) or not {"spec", "head"} <= set(part) <= known:
            raise ValueError(
                f"a grid is a dict with spec, head and any of seed, {', '.join(OPTIONS)}; or a list of them; "
                f"got {part!r}"
            )
        for key, values in part.items():
            if isinstance(values, str) or not hasattr(values, "__iter__") or not len(values):
                raise ValueError(f"a grid needs a list of values for {key}, got {values!r}")
        for values in itertools.product(*part.values()):
            run = {"seed": 0, **OPTIONS, **dict(zip(part, values))}
            checks.one_of("head", run["head"], tuple(VARIANTS))
            if not isinstance(run["spec"], ufm.UFM):
                raise ValueError(f"spec must be a UFM, got {run['spec']!r}")
            runs[name(run)] = run
    return list(runs.values())


def size(spec):
    """The name of a UFM: that of SIZES, or its numbers."""
    for known, model in SIZES.items():
        if model == spec:
            return known
    tail = f"-imbalance-{spec.imbalance:g}" if spec.imbalance != 1 else ""
    return f"UFM-{spec.num_classes}-{spec.num_samples}x{spec.dim}{tail}"


def name(run):
    """What a run's file is called: model, head, the options that are not the default, seed."""
    changed = [f"{key}-{run[key]}" for key, default in OPTIONS.items() if run[key] != default]
    return "-".join([size(run["spec"]), run["head"], *changed, f"seed-{run['seed']}"])


def read(path, run):
    """The saved History of a run; None where there is none, or none to be trusted, which a warning then names."""
    if not path.is_file():
        return None
    try:
        history = History.load(path)
    except ValueError as error:
        warnings.warn(f"{error}; this run is done again", stacklevel=3)
        return None
    if history.settings.get("run") != _plain(run):
        warnings.warn(
            f"{path} was made with other settings than its name says ({history.settings.get('run')}); "
            "this run is done again",
            stacklevel=3,
        )
        return None
    return history


def load(folder, pattern="*"):
    """All saved runs in a folder whose names match a glob pattern, as one `History` like that of `sweep`.

    Raises FileNotFoundError where there are none, ValueError, naming the file, for a damaged one.
    """
    paths = sorted(Path(folder).glob(f"{pattern}.parquet"))
    if not paths:
        raise FileNotFoundError(f"no runs named {pattern} in {Path(folder).absolute()}")
    return together([History.load(path) for path in paths])


def together(histories):
    """Runs as one History; a column for each option that is not the default in all of them.

    There alpha is 0 where it follows the paper's schedule, and batch_size num_samples where it is all of them.
    """
    runs = [h.settings["run"] for h in histories]
    shown = [key for key, default in OPTIONS.items() if any(run[key] != default for run in runs)]
    for history, run in zip(histories, runs):
        stand_in = {"alpha": 0.0, "batch_size": run["spec"]["num_samples"]}  # pandas does not group by None
        columns = {key: stand_in[key] if run[key] is None else run[key] for key in shown}
        columns = {"size": size(ufm.UFM(**run["spec"])), **columns}
        for table in (history.frame, history.margins):
            for at, (key, value) in enumerate(columns.items()):
                table.insert(at, key, value)
    return History.concat(histories)


def _attempt(k, run, device):
    """A run's number, and its History or what went wrong: one failure does not end the others."""
    try:
        return k, _train(run, device)
    except Exception as error:  # reported by `sweep` when all are done
        return k, error


def _train(run, device):
    known = HEADS[VARIANTS[run["head"]].head].options
    options = {key: run[key] for key in OPTIONS if key not in HEAD_OPTIONS or key in known}
    history = ufm.train_ufm(run["spec"], run["head"], seeds=[run["seed"]], device=device, **options)
    history.margins["margin"] = history.margins["margin"].round(5)  # compresses to a third
    history.settings["run"] = _plain(run)
    return history


def _plain(run):
    """A run as JSON gives it back."""
    return {**run, "spec": asdict(run["spec"])}


def main():
    parser = argparse.ArgumentParser(description="Train the paper's UFMs with all heads. Finished runs are skipped.")
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
