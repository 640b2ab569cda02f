"""The long runs behind the notebooks: a list of them in evidence.toml, and one command that works through it.

    python -m labkit.studies.evidence              `make evidence`: all that is missing, in the order of the list
    python -m labkit.studies.evidence --status     what is there and what is missing; trains nothing

A run that ends leaves one file in data/results/<name>/, with its settings, versions, device and duration. Until then it
keeps checkpoints under `--runs`, so that the command can be stopped at any moment, also by kill -9, and started again:
what is finished stays, and a run on images or text goes on from its last checkpoint. A damaged result is named and made
again.

An entry has a kind (ufm, images or text), a recipe unless it is a UFM, settings that change the recipe, and a run for
each head, seed and row of `vary`, a list of tables that change the settings once more: vary = [{ lr = 0.1 }, { lr = 1.0
}]. A row may have a name; "none" stands for None, which TOML does not have. Of text, `head` is the activation. A
long-tailed run also leaves what it says of the test images (`labkit.vision.outputs`), as NAME-outputs.npz. Margins of
many samples are most of a file: margins = 3 keeps three decimals of each, margins = "none" leaves them out.
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
from labkit.studies.ufms import sweep
from labkit.system import written_whole

LIST = "evidence.toml"
FIELDS = {"name", "kind", "serves", "heads", "seeds", "hours", "settings"}  # of an entry
OPTIONAL = {"vary", "margins"}
KINDS = ("ufm", "images", "text")


class Networks(Store):
    """Runs on images or text of one entry: a file for each head, seed and row of `vary`. name: of a run's file."""

    def __init__(self, folder: str | Path, name: str):
        super().__init__(folder)
        self._name = name

    def name(self, settings: dict) -> str:
        return self._name


@dataclass(frozen=True)
class Run:
    """One run of an entry of the list. settings: all that it is made with; hours: of one core, as the list says;
    varied: what its row of `vary` is called, its name or the settings that it changes, such as lr-0.1; margins: how
    many decimals of them are kept, "none" for no margins, None for all there is.
    """

    entry: str
    kind: str
    serves: str
    hours: float
    settings: dict = field(hash=False)
    varied: str = ""
    margins: int | str | None = None

    @property
    def name(self) -> str:
        """Of its file: head, changes and seed, such as implicit-lr-0.1-seed-0."""
        return "-".join(filter(None, [self.settings["head"], self.varied, "seed", str(self.settings["seed"])]))

    def __str__(self) -> str:
        return f"{self.entry}: {self.name}"

    @property
    def recipe(self) -> dict:
        """The settings without head and seed, as what trains networks takes them."""
        return {key: value for key, value in self.settings.items() if key not in ("head", "seed")}

    def store(self, results: str | Path) -> Store:
        """Where its result goes: UFMs of the paper's sizes to those of `ufms.sweep`, others to ufm-control,
        so that nobody takes them for the paper's; others to a folder of the entry.
        """
        if self.kind != "ufm":
            return Networks(Path(results) / self.entry, self.name)
        papers = sweep.size(ufm.UFM(**self.settings["spec"])) in sweep.SIZES
        return sweep.Runs(Path(results) / ("ufm" if papers else "ufm-control"))

    def folder(self, runs: str | Path) -> Path:
        """Where it keeps what it needs until it has ended."""
        return Path(runs) / self.entry / self.name

    def outputs(self, folder: str | Path) -> Path | None:
        """The file that a finished long-tailed run leaves in its folder beside its History; None for any other."""
        if self.kind != "images":
            return None
        from labkit.vision import build

        if not build.is_long_tailed(self.settings):
            return None
        return build.path_of_outputs(self.recipe, self.settings["head"], self.settings["seed"], folder)

    def train(self, folder: str | Path) -> History:
        """Make it, from its last checkpoint in `folder` where there is one (UFMs, of some minutes, have none)."""
        if self.kind == "ufm":
            return sweep.train(self.settings)
        head, seed = self.settings["head"], self.settings["seed"]
        if self.kind == "text":
            from labkit.studies import language  # only here, as below: UFMs need neither library

            return language.train(self.recipe, head, seed, folder)
        from labkit.vision import build

        return build.run(self.recipe, head, seed, folder)

    def kept(self, history: History) -> History:
        """The History as it is stored, with as much of the margins as the list says."""
        if self.margins is None:
            return history
        if self.margins == "none":
            return History(history.frame, history.settings | {"margins": "left out"})
        rounded = history.margins.assign(margin=history.margins["margin"].round(self.margins))
        return History(history.frame, history.settings | {"margins": f"to {self.margins} decimals"}, rounded)


def read(path: str | Path = LIST) -> list[Run]:
    """The runs of a list in its order, within an entry seed by seed. ValueError, naming the entry, for a bad one."""
    runs = []
    for k, entry in enumerate(tomllib.loads(Path(path).read_text(encoding="utf-8")).get("runs", []), start=1):
        try:
            checks.one_of("kind", entry.get("kind"), KINDS)
            wanted = FIELDS | (set() if entry["kind"] == "ufm" else {"recipe"})
            if missing := wanted - entry.keys():
                raise ValueError(f"missing: {', '.join(sorted(missing))}")
            if unknown := entry.keys() - wanted - OPTIONAL:
                raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
            margins = entry.get("margins")
            if not (margins in (None, "none") or (type(margins) is int and margins >= 0)):
                raise ValueError(f'margins must be a number of decimals or "none", got {margins!r}')
            about = (entry["name"], entry["kind"], entry["serves"], float(entry["hours"]))
            for seed in entry["seeds"]:
                for varied in entry.get("vary", [{}]):
                    for head in entry["heads"]:
                        changed = {key: value for key, value in varied.items() if key != "name"}
                        named = varied.get("name", "-".join(f"{key}-{value}" for key, value in varied.items()))
                        runs.append(Run(*about, _settings(entry, head, seed, changed), named, margins))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, entry {k} ({entry.get('name', 'without a name')}): {error}") from error
    names = [str(run) for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{path} has the same run twice: {', '.join(sorted(twice))}")
    return runs


def _settings(entry, head, seed, varied):
    changes = {key: None if value == "none" else value for key, value in (entry["settings"] | varied).items()}
    if entry["kind"] == "ufm":
        checks.one_of("head", head, tuple(heads.VARIANTS))
        grid = {key: [value] for key, value in changes.items()}
        (settings,) = sweep.expand(
            grid | {"spec": [ufm.UFM(**changes["spec"])], "head": [head], "seed": [seed]}
        ).values()
        return settings
    if entry["kind"] == "text":
        from labkit.text import gpt, recipes

        checks.one_of("activation", head, tuple(gpt.ACTIVATIONS))
        return recipes.check(recipes.RECIPES[entry["recipe"]] | changes) | {"head": head, "seed": seed}
    from labkit.vision import build, recipes

    checks.one_of("head", head, tuple(heads.VARIANTS))
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
            outputs = run.outputs(folder)
            if outputs is not None:
                with written_whole(run.store(results).folder / f"{run.name}-{outputs.name}") as file:
                    file.write(outputs.read_bytes())
            run.store(results).put(run.settings, run.kept(history))
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
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a run by its name, in a process of its own
    chosen = parser.parse_args(arguments)
    everything = read(chosen.list)
    if chosen.one is not None:
        (run,) = (run for run in everything if str(run) == chosen.one)
        work(run, chosen.results, chosen.runs)
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
                    command = [sys.executable, "-m", "labkit.studies.evidence", "--one", str(todo[k])]
                    command += ["--list", chosen.list, "--results", chosen.results, "--runs", chosen.runs]
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
