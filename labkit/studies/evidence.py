"""The long runs behind the notebooks: a list of them in evidence.toml, and one command that works through it.

    python -m labkit.studies.evidence              `make evidence`: all that is missing, in the order of the list
    python -m labkit.studies.evidence --status     what is there and what is missing; trains nothing

A run that ends leaves one file in data/results/<name>/, with its settings, versions, device and duration. Until then it
keeps checkpoints under `--runs`, so that the command can be stopped at any moment, also by kill -9, and started again:
what is finished stays, and a run on images goes on from its last epoch. A damaged result is named and made again.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import filelock
import pandas as pd
from tqdm import tqdm

from labkit import checks, heads, ufm
from labkit.history import History, Store
from labkit.studies import sweep

LIST = "evidence.toml"
FIELDS = {"name", "kind", "serves", "heads", "seeds", "hours", "settings"}  # of an entry; images also have a recipe


class Images(Store):
    """Runs on images of one entry: a file for each head and seed."""

    def name(self, settings: dict) -> str:
        return f"{settings['head']}-seed-{settings['seed']}"


@dataclass(frozen=True)
class Run:
    """One run of an entry of the list. settings: all that it is made with; hours: of one core, as the list says."""

    entry: str
    kind: str
    serves: str
    hours: float
    settings: dict = field(hash=False)

    def __str__(self) -> str:
        return f"{self.entry}: {self.settings['head']}, seed {self.settings['seed']}"

    def store(self, results: str | Path) -> Store:
        """Where its result goes: UFMs of the paper's sizes to those of `labkit.studies.sweep`, others to ufm-control,
        so that nobody takes them for the paper's; images to a folder of the entry.
        """
        if self.kind == "images":
            return Images(Path(results) / self.entry)
        papers = sweep.size(ufm.UFM(**self.settings["spec"])) in sweep.SIZES
        return sweep.Runs(Path(results) / ("ufm" if papers else "ufm-control"))

    def folder(self, runs: str | Path) -> Path:
        """Where it keeps what it needs until it has ended."""
        return Path(runs) / self.entry / f"{self.settings['head']}-seed-{self.settings['seed']}"

    def train(self, folder: str | Path) -> History:
        """Make it, from its last checkpoint in `folder` where there is one (UFMs, of some minutes, have none)."""
        if self.kind == "ufm":
            return sweep.train(self.settings)
        from labkit.vision import build  # only here: UFMs need no image library

        head, seed = self.settings["head"], self.settings["seed"]
        settings = {key: value for key, value in self.settings.items() if key != "seed"}
        return build.run(settings | {"head": [head]}, head, seed, folder)


def read(path: str | Path = LIST) -> list[Run]:
    """The runs of a list in its order, within an entry seed by seed. ValueError, naming the entry, for a bad one."""
    runs = []
    for k, entry in enumerate(tomllib.loads(Path(path).read_text(encoding="utf-8")).get("runs", []), start=1):
        try:
            checks.one_of("kind", entry.get("kind"), ("images", "ufm"))
            wanted = FIELDS | ({"recipe"} if entry["kind"] == "images" else set())
            if missing := wanted - entry.keys():
                raise ValueError(f"missing: {', '.join(sorted(missing))}")
            if unknown := entry.keys() - wanted:
                raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
            for seed in entry["seeds"]:
                for head in entry["heads"]:
                    checks.one_of("head", head, tuple(heads.VARIANTS))
                    settings = _settings(entry, head, seed)
                    runs.append(Run(entry["name"], entry["kind"], entry["serves"], float(entry["hours"]), settings))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, entry {k} ({entry.get('name', 'without a name')}): {error}") from error
    names = [str(run) for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{path} has the same run twice: {', '.join(sorted(twice))}")
    return runs


def _settings(entry, head, seed):
    changes = entry["settings"]
    if entry["kind"] == "ufm":
        grid = {key: [value] for key, value in changes.items()}
        (settings,) = sweep.expand(
            grid | {"spec": [ufm.UFM(**changes["spec"])], "head": [head], "seed": [seed]}
        ).values()
        return settings
    from labkit.vision import build, recipes

    return build.described(recipes.RECIPES[entry["recipe"]] | changes, head, seed)


def work(run: Run, results: str | Path, runs: str | Path) -> bool:
    """Make one run and keep its result, unless it is there or another process is at it. Returns whether it was made."""
    folder = run.folder(runs)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / "lock", timeout=0):
            if run.store(results).get(run.settings) is not None:
                return False
            started, spent = time.time(), _spent(folder)
            keeper = threading.Thread(target=_keep_time, args=(folder, started, spent), daemon=True)
            keeper.start()
            history = run.train(folder)
            history.settings["hours"] = round((spent + time.time() - started) / 3600, 4)
            history.settings["serves"] = run.serves
            run.store(results).put(run.settings, history)
            return True
    except filelock.Timeout:
        return False


def _spent(folder):
    """Seconds that this run took before it was stopped."""
    try:
        return float((folder / "seconds").read_text())
    except (OSError, ValueError):
        return 0.0


def _keep_time(folder, started, spent):
    """Write down now and then how long the run has taken; end with the process that started this one."""
    parent = os.getppid()
    while True:
        time.sleep(5)
        (folder / "seconds").write_text(str(spent + time.time() - started))
        if os.getppid() != parent:
            os._exit(1)


def status(todo: Sequence[Run], results: str | Path, runs: str | Path) -> pd.DataFrame:
    """One row for each entry: runs done, under way and missing, the core-hours they took and those that are left."""
    rows = {}
    for run in todo:
        row = rows.setdefault(
            run.entry,
            {"entry": run.entry, "done": 0, "begun": 0, "missing": 0, "hours": 0.0, "left": 0.0, "serves": run.serves},
        )
        history = run.store(results).get(run.settings)
        spent = _spent(run.folder(runs)) / 3600
        row["done" if history else "begun" if spent else "missing"] += 1
        row["hours"] += history.settings.get("hours", 0.0) if history else spent
        row["left"] += 0.0 if history else max(run.hours - spent, 0.0)
    return pd.DataFrame(rows.values()).round(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 1 where runs failed."""
    parser = argparse.ArgumentParser(prog="python -m labkit.studies.evidence", description=__doc__.split("\n")[0])
    parser.add_argument("--status", action="store_true", help="only say what is there and what is missing")
    parser.add_argument("--list", default=LIST, help="the list of runs (%(default)s)")
    parser.add_argument("--results", default="data/results", help="where finished runs go (%(default)s)")
    parser.add_argument(
        "--runs", default=os.environ.get("LABKIT_RUNS", "build/evidence"), help="checkpoints (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=int(os.environ.get("WORKERS", 1)), help="runs at a time (%(default)s)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these entries")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # one run of the list, in a process of its own
    chosen = parser.parse_args(arguments)
    everything = read(chosen.list)
    if chosen.one is not None:
        work(everything[chosen.one], chosen.results, chosen.runs)
        return 0
    if unknown := set(chosen.only or ()) - {run.entry for run in everything}:
        parser.error(
            f"no entry named {', '.join(sorted(unknown))}; there are {', '.join({run.entry: 0 for run in everything})}"
        )
    todo = {k: run for k, run in enumerate(everything) if not chosen.only or run.entry in chosen.only}
    table = status(list(todo.values()), chosen.results, chosen.runs)
    print(table.to_string(index=False))
    print(f"{table['left'].sum():.1f} core-hours are left")
    if chosen.status:
        return 0
    return _work_through(todo, chosen)


def _work_through(todo, chosen):
    """Each run in a process of its own, of one thread and low priority, `workers` at a time."""
    waiting = [k for k, run in todo.items() if run.store(chosen.results).get(run.settings) is None]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WORKERS": "1"}
    running, failed = {}, []
    form = "{l_bar}{bar}| {n:.1f} of {total:.1f} core-hours, {elapsed} gone{postfix}"
    with tqdm(total=sum(todo[k].hours for k in waiting), bar_format=form) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < chosen.workers:
                    k = waiting.pop(0)
                    command = [sys.executable, "-m", "labkit.studies.evidence", "--one", str(k), "--list", chosen.list]
                    command += ["--results", chosen.results, "--runs", chosen.runs]
                    running[k] = subprocess.Popen(
                        command,
                        env=environment,
                        preexec_fn=_lowest if os.name == "posix" else None,
                        start_new_session=True,
                    )
                    tqdm.write(f"begun: {todo[k]}", file=sys.stderr)
                time.sleep(1)
                for k, process in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[k]
                    bar.update(todo[k].hours)
                    if process.returncode:
                        failed.append(str(todo[k]))
                    tqdm.write(f"{'FAILED' if process.returncode else 'done'}: {todo[k]}", file=sys.stderr)
                bar.set_postfix_str("; ".join(str(todo[k]) for k in running))
        finally:
            for process in running.values():
                process.terminate()
    if failed:
        print(f"{len(failed)} runs failed: {'; '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _lowest():
    """The lowest priority; on Linux also that of the group of processes, which is what counts among several groups."""
    os.nice(19)
    try:
        Path("/proc/self/autogroup").write_text("19")
    except OSError:  # another system
        pass


if __name__ == "__main__":
    sys.exit(main())
