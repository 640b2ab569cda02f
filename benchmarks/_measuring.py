"""What the benchmarks share: measuring several things in turn, ratios of what was measured, and tables with goals.

A machine whose speed drifts treats things alike that take turns; so a ratio here is the median of ratios within a turn.
"""

import os
import statistics
import sys
import time

# glibc hands the memory of large arrays back to the system and takes it again, which costs a chain of passes over them
# more than the passes. A comparison of arithmetic is fair where both sides keep their memory.
KEPT = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TOP_PAD_": "200000000"}


def keep_memory() -> None:
    """Start this program anew, with memory kept by the allocator, unless that is so (it is read when a process starts)."""
    if any(name not in os.environ for name in KEPT):
        os.execve(sys.executable, [sys.executable, *sys.argv], KEPT | dict(os.environ))


def allocator() -> str:
    """What a table says of it."""
    kept = all(int(os.environ.get(name, 0)) >= int(value) for name, value in KEPT.items())
    return "memory kept by the allocator" if kept else "memory handed back to the system"


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def milliseconds(step, steps: int = 1, synchronize=lambda: None) -> float:
    """Of one call of step, the mean over some; synchronize waits for what a GPU still does."""
    synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return (time.perf_counter() - start) / steps * 1e3


def turns(steppers: dict, seconds: float, least: int = 5, synchronize=lambda: None, label: str = "") -> list[dict]:
    """Rows {name: milliseconds a step} of turns in which each of the steppers, functions without arguments, is measured.

    For about `seconds` seconds in all, but at least some turns; a turn gives each about 4 ms, or one step."""
    for step in steppers.values():
        step()
    first = {name: milliseconds(step, 1, synchronize) for name, step in steppers.items()}
    steps = {name: max(1, round(4 / took)) for name, took in first.items()}
    count = max(least, round(seconds * 1e3 / sum(steps[name] * took for name, took in first.items())))
    count, rows, told = min(count, 200), [], time.monotonic()
    for i in range(count):
        rows.append({name: milliseconds(step, steps[name], synchronize) for name, step in steppers.items()})
        if label and time.monotonic() - told > 10:
            told = time.monotonic()
            progress(f"{label}: {i + 1} of {count} turns")
    return rows


def median(rows: list[dict], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def ratio(rows: list[dict], a: str, b: str, factor: float = 1.0) -> float:
    """Median over turns of a/(factor·b)."""
    return statistics.median(row[a] / (factor * row[b]) for row in rows)


def report(goals: list[tuple]) -> None:
    """Print (name, measured, goal) with MISSED where measured is above the goal, which may be None."""
    print(f"{'ratio':60s} measured   goal")
    for name, value, goal in goals:
        verdict = "" if goal is None else f"   ≤ {goal:g}{'' if value <= goal else '   MISSED'}"
        print(f"  {name:58s} {value:8.2f}{verdict}")
