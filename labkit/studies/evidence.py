"""The long runs behind the notebooks: a list of them in evidence.toml, and one command that works through it.

    python -m labkit.studies.evidence              `make evidence`: all that is missing, in the order of the list
    python -m labkit.studies.evidence --status     what is there and what is missing; trains nothing

A run that ends leaves one file in data/results/<name>/, with its settings, versions, device and duration. Until then it
keeps checkpoints under `--runs`, so that the command can be stopped at any moment, also by kill -9, and started again:
what is finished stays, and a run on images or text goes on from its last checkpoint. A damaged result is named and made
again.

What an entry of the list may say is in `labkit.studies.entries`.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import filelock
import pandas as pd
from tqdm import tqdm

from labkit.history import Store
from labkit.studies.entries import LIST, Run, read
from labkit.system import written_whole

PATIENCE = 10  # seconds to wait for a run whose command was killed: it sees that within five
BUSY = 3  # exit status of a run that another process is at


def work(run: Run, results: str | Path, runs: str | Path, parent: int | None = None) -> bool:
    """Make one run and keep its result, unless it is there or another process is at it. Returns whether it was made.

    parent: the process that this one ends with; the one that started it where none is named.
    """
    parent = os.getppid() if parent is None else parent
    folder = run.folder(runs)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / "lock", timeout=PATIENCE):
            store = run.store(results)
            if store.get(run.settings) is not None:
                return False
            started, file, done = time.time(), _seconds(run, folder), threading.Event()
            spent = _spent(file)
            keeper = threading.Thread(target=_keep_time, args=(file, started, spent, done, parent), daemon=True)
            keeper.start()
            try:
                history = run.train(folder)
            finally:
                done.set()
                keeper.join()
            history.settings["hours"] = round((spent + time.time() - started) / 3600, 4)
            history.settings["serves"] = run.serves
            if outputs := run.outputs(folder):
                with written_whole(store.outputs) as file:
                    file.write(outputs.read_bytes())
            store.put(run.settings, run.kept(history))
            return True
    except filelock.Timeout:
        return False


def _seconds(run, folder):
    """The file that says how long this run took: one for its settings, which the list may change."""
    return folder / f"seconds-{Store(folder).path(run.settings).stem[-8:]}"


def _spent(file):
    """Seconds that a run took before it was stopped."""
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return 0.0


def _keep_time(file, started, spent, done, parent):
    """Write down now and then how long the run has taken; end with the process that started this one, also where that
    went while this one was still importing torch.
    """
    while os.name != "posix" or os.getppid() == parent:
        if done.wait(5):
            return
        file.write_text(str(spent + time.time() - started))
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
        spent = _spent(_seconds(run, run.folder(runs))) / 3600
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
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # the process that started it
    chosen = parser.parse_args(arguments)
    if chosen.workers < 1:
        parser.error(f"--workers must be at least 1, got {chosen.workers}")
    if not Path(chosen.list).is_file():
        parser.error(f"there is no list of runs at {Path(chosen.list).absolute()}")
    everything = read(chosen.list)
    if chosen.one is not None:
        (run,) = (run for run in everything if str(run) == chosen.one)
        made = work(run, chosen.results, chosen.runs, chosen.parent)
        return 0 if made or run.store(chosen.results).get(run.settings) is not None else BUSY
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
    running, failed, busy = {}, [], []
    form = "{l_bar}{bar}| {n:.1f} of {total:.1f} core-hours, {elapsed} gone, {remaining} left{postfix}"
    with tqdm(total=sum(todo[k].hours for k in waiting), bar_format=form) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < chosen.workers:
                    k = waiting.pop(0)
                    command = [sys.executable, "-m", "labkit.studies.evidence", "--one", str(todo[k])]
                    command += ["--parent", str(os.getpid())]
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
                    said = {0: "done", BUSY: "another process is at it"}.get(process.returncode, "FAILED")
                    if process.returncode:
                        (busy if process.returncode == BUSY else failed).append(str(todo[k]))
                    tqdm.write(f"{said}: {todo[k]}", file=sys.stderr)
                bar.set_postfix_str("; ".join(str(todo[k]) for k in running))
        finally:
            for process in running.values():
                process.terminate()
    if busy:
        print(f"{len(busy)} runs are left to another process: {'; '.join(busy)}", file=sys.stderr)
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
