"""Grading: handed-in notebooks are run, each in a kernel of its own under limits, and every exercise is checked anew.

    python -m labkit.course grade HANDED_IN           writes marks.csv and reasons.csv into HANDED_IN

HANDED_IN holds STUDENT.ipynb, or a folder for each student with one or more notebooks. What a notebook prints or says
of itself counts for nothing, and so do check cells that were changed or deleted: after every cell that names an attempt
the grader asks the kernel for a check of its own, with modules imported afresh. An attempt that passed once has passed.
After a cell that takes labkit's answer with `use`, as the course's own cells do, only an attempt that is right changes
a mark, and a value no longer does: nothing tells it from labkit's.
A cell that takes too long is interrupted, and the next one is run; where a kernel does not listen, or dies, the
notebook is run again without the cell at which it stopped. This keeps honest work safe from accidents. It is no
fortress: whoever can run code in a kernel can, with effort, forge what it answers.
"""

import ast
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty

import nbformat
import pandas as pd
from jupyter_client import KernelManager

from labkit import checks
from labkit.course.editions import calls, tags
from labkit.course.recheck import EMPTY, MISSING, PASSED, WRONG

TIME, UNREADABLE = "time", "unreadable"
__all__ = ["EMPTY", "MISSING", "PASSED", "TIME", "UNREADABLE", "WRONG", "Limits", "asked", "grade", "mark", "write"]


@dataclass(frozen=True)
class Limits:
    """cell: seconds for one cell, and for one check. notebook: seconds for a hand-in. memory: bytes of its kernel, None
    for no limit (and on systems without such limits)."""

    cell: float = 60.0
    notebook: float = 600.0
    memory: int | None = 4 << 30

    def __post_init__(self):
        for name in ("cell", "notebook", "memory"):
            if name != "memory" or self.memory is not None:
                checks.positive(name, getattr(self, name))


class KernelDied(Exception):
    pass


def asked(source: nbformat.NotebookNode) -> dict[str, str]:
    """The exercises of a source notebook: {name: expression of the attempt}, from its calls of `check`."""
    found = {}
    for _, arguments in calls(source, "check"):
        if len(arguments) >= 2 and arguments[1][:1] in "'\"":
            found[ast.literal_eval(arguments[1])] = arguments[0]
    return found


def grade(
    folder: Path | str,
    sources: Iterable[Path | str],
    *,
    limits: Limits = Limits(),
    workers: int = 2,
    data: Path | str | None = None,
) -> pd.DataFrame:
    """Mark all hand-ins in a folder: a table with a row for each student and exercise, columns student, notebook,
    exercise, mark (1 or 0), status (one of the constants above) and reason.

    sources: paths of the source notebooks, by which exercises, parameters and setup cells are known. data: a folder
    that notebooks find as ../data; a copy, so that nothing can harm it.
    Raises FileNotFoundError where there is nothing to grade, or no source to mark by.
    """
    known = {Path(s).stem: nbformat.read(s, as_version=4) for s in sources}
    if not known:
        raise FileNotFoundError("no source notebooks are given, and so no exercise is known to mark by")
    jobs = [(student, path) for student, path in hand_ins(folder)]
    if not jobs:
        raise FileNotFoundError(f"no notebooks in {folder}: STUDENT.ipynb or STUDENT/NOTEBOOK.ipynb")
    with ThreadPoolExecutor(checks.integer("workers", workers, 1)) as pool:
        marked = list(pool.map(lambda job: _mark_file(job[1], known, limits, data), jobs))
    rows = [
        {
            "student": _written(student),
            "notebook": _written(stem),
            "exercise": name,
            "mark": int(m["status"] == PASSED),
            "status": m["status"],
            "reason": _written(m["reason"]),
        }
        for (student, _), (stem, marks) in zip(jobs, marked)
        for name, m in marks.items()
    ]
    return pd.DataFrame(rows, columns=["student", "notebook", "exercise", "mark", "status", "reason"])


def hand_ins(folder: Path | str) -> list[tuple[str, Path]]:
    """(student, path) of each notebook, in order of names. What begins with a point is nobody's: Jupyter makes folders
    called .ipynb_checkpoints.
    """
    folder = Path(folder)
    flat = [(path.stem, path) for path in folder.glob("*.ipynb")]
    deep = [(path.parent.name, path) for path in folder.glob("*/*.ipynb")]
    return sorted((student, path) for student, path in flat + deep if not student.startswith("."))


def write(table: pd.DataFrame, folder: Path | str) -> tuple[Path, Path]:
    """marks.csv, students × exercises with a sum, and reasons.csv, the whole table; returns their paths.

    A notebook that is none of the course's has a row in reasons.csv alone; its student has one in both.
    """
    wide = table[table["exercise"] != ""].assign(column=lambda rows: rows["notebook"].str[:2] + " " + rows["exercise"])
    columns = wide["column"].drop_duplicates()
    wide = wide.pivot_table(index="student", columns="column", values="mark", aggfunc="max")[columns].astype("Int64")
    wide = wide.reindex(pd.Index(sorted(set(table["student"])), name="student"))
    wide["sum"] = wide.sum(axis=1)
    paths = Path(folder) / "marks.csv", Path(folder) / "reasons.csv"
    wide.to_csv(paths[0])
    table.to_csv(paths[1], index=False)
    return paths


def _mark_file(path, known, limits, data):
    """(name of the source, marks) of one hand-in."""
    why = None
    try:
        notebook = nbformat.read(path, as_version=4)
        stem = str(notebook.metadata.get("labkit", {}).get("notebook", path.stem))
    except Exception as error:
        notebook, stem, why = None, path.stem, _said(error)
    if stem not in known and len(known) == 1:
        stem = next(iter(known))
    if stem not in known:
        why = why or f"no notebook of the course is called {stem!r}"
        return stem, {"": {"status": UNREADABLE, "reason": why}}
    if notebook is not None:
        try:
            return stem, mark(notebook, known[stem], limits, data)
        except Exception as error:  # of one notebook that nbformat reads and nobody can run; the others are marked
            why = _said(error)
    return stem, {name: {"status": UNREADABLE, "reason": why} for name in asked(known[stem])}


def _written(text):
    """A text that a file can hold: the name of a hand-in and what it raises need not be Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def _said(error):
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


def mark(
    notebook: nbformat.NotebookNode,
    source: nbformat.NotebookNode,
    limits: Limits = Limits(),
    data: Path | str | None = None,
) -> dict[str, dict]:
    """{exercise: dict of status and reason} of one handed-in notebook."""
    exercises, cells = asked(source), _cells(notebook, source)
    marks = {name: {"status": MISSING, "reason": f"nothing is called {e}"} for name, e in exercises.items()}
    end, skipped = time.monotonic() + limits.notebook, set()
    while True:
        with tempfile.TemporaryDirectory() as place:
            stopped = _run(cells, skipped, exercises, marks, limits, end, Path(place), data)
        spent = time.monotonic() >= end
        if stopped is None or spent or len(skipped) >= 5:
            break
        skipped.add(stopped)
    why = f"the notebook's {limits.notebook:g} seconds were used up" if spent else "the kernel stopped too often"
    for name, expression in exercises.items():
        if marks[name]["status"] == MISSING:
            if any(_names(expression, cells[number]) for number in skipped):
                marks[name] = {"status": TIME, "reason": "its cell stopped the kernel, or could not be interrupted"}
            elif stopped is not None and _names(expression, "\n".join(cells[max(stopped, 0) :])):
                marks[name] = {"status": TIME, "reason": f"{why} before its cell had run"}
    return marks


def _names(expression, code):
    """Whether code names an attempt."""
    return any(re.search(rf"\b{word}\b", code) for word in re.findall(r"\w+", expression))


def _cells(notebook, source):
    """Code of the hand-in; setup and parameters are those of the source, so that nobody's PRESET takes a day."""
    ours = {tag: c.source for c in source.cells for tag in ("setup", "parameters") if tag in tags(c)}
    cells = []
    for cell in notebook.cells:
        if cell.get("cell_type") == "code":
            tag = next((t for t in ours if t in tags(cell)), None)
            cells.append(ours[tag] if tag else cell.get("source") or "")
    return cells


def _run(cells, skipped, exercises, marks, limits, end, place, data):
    """Run the cells in a fresh kernel, and mark after each that names an attempt. Returns the number of the cell at
    which the time was used up or the kernel had to be given up, None where it came to the end.
    """
    (place / "notebooks").mkdir()
    if data is not None:
        shutil.copytree(data, place / "data")
    manager = KernelManager()
    # Threads of several kernels wait for each other by spinning, and a training step takes 40 times as long.
    env = {"OMP_NUM_THREADS": "1"} | os.environ
    manager.start_kernel(cwd=str(place / "notebooks"), extra_arguments=["--log-level=ERROR"], env=env)
    client = manager.client()
    client.start_channels(iopub=False, stdin=False, hb=False)
    number = -1
    try:
        if _ask(client, manager, _FIRST.format(limits.memory or 0), 180) is None:
            raise KernelDied
        for number, code in enumerate(cells):
            left = end - time.monotonic()
            if left <= 0:
                return number
            if number in skipped:
                continue
            seconds = min(limits.cell, left)
            late = _ask(client, manager, code, seconds) is None
            if late:
                _interrupt(client, manager)
            for name, expression in exercises.items():
                if marks[name]["status"] == PASSED or not _names(expression, code):
                    continue
                call = rf"""\buse\s*\(\s*(?:name\s*=\s*)?["']{re.escape(name)}["']"""
                used = any(re.search(call, c) for c in cells[: number + 1])
                found = _check(client, manager, name, expression, limits, used)
                if late and found["status"] != PASSED:
                    found = {"status": TIME, "reason": f"its cell takes more than {seconds:.3g} seconds"}
                # What was found of the student's own attempt stays, whatever becomes of the name further down.
                changes = not used and found["status"] != MISSING
                if changes or found["status"] == PASSED or marks[name]["status"] == MISSING:
                    marks[name] = found
    except KernelDied:
        return number
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return None


def _check(client, manager, name, expression, limits, used):
    arguments = f"{expression!r}, {name!r}, globals(), {limits.cell}, {used}"
    question = f"__import__('labkit.course.recheck', fromlist=['x']).recheck({arguments})"
    reply = _ask(client, manager, "pass", limits.cell + 5, {"mark": question})
    if reply is None:
        _interrupt(client, manager)
        return {"status": TIME, "reason": f"it has not ended after {limits.cell:g} seconds"}
    answer = reply.get("user_expressions", {}).get("mark", {})
    if answer.get("status") != "ok":
        return {"status": WRONG, "reason": f"{answer.get('ename', 'no answer')}: {answer.get('evalue', '')}"}
    return json.loads(ast.literal_eval(answer["data"]["text/plain"]))


def _ask(client, manager, code, seconds, expressions=None):
    """Run code and wait for the reply; None where the time is up. Raises KernelDied."""
    number = client.execute(
        code, store_history=False, allow_stdin=False, stop_on_error=False, user_expressions=expressions or {}
    )
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            reply = client.get_shell_msg(timeout=min(left, 0.5))
        except Empty:
            if not manager.is_alive():
                raise KernelDied from None
            continue
        if reply["parent_header"].get("msg_id") == number:
            return reply["content"]
    return None


def _interrupt(client, manager):
    """Stop what runs. Raises KernelDied where the kernel does not listen."""
    for _ in range(2):
        manager.interrupt_kernel()
        if _ask(client, manager, "pass", 3) is not None:
            return
    raise KernelDied


# Before anything of the student runs. Memory is limited from within, and the limit cannot be raised again: RLIMIT_DATA
# counts what a process can write to; RLIMIT_AS would count torch's libraries too, gigabytes of mere addresses. And
# torch is imported, which takes seconds on a busy machine and cannot be repeated once it has been interrupted.
_FIRST = """
import labkit.course.exercises
import labkit.course.recheck
labkit.course.exercises.exercises()
del labkit
try:
    import resource
    if {0}:
        resource.setrlimit(resource.RLIMIT_DATA, ({0}, {0}))
except (ImportError, ValueError, OSError):
    pass
"""
