"""Peak memory of training UFMs, each size and head in a process of its own: Table 3 of the guiding paper on a CPU.

python benchmarks/ufm_memory.py
python benchmarks/ufm_memory.py --out data/results/ufm-memory.parquet
"""

import argparse
import resource
import subprocess
import sys

import pandas as pd

from labkit import ufm
from labkit.history import History, provenance
from labkit.studies.ufms import sweep

HEADS = {
    "standard": "standard",
    "fixed": "fixed",
    "implicit_without_ddn": "implicit_without_ddn",
    "implicit_with_ddn": "implicit",
}


def peak():
    """Largest resident memory of this process so far, in MiB (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(size, variant, steps=3):
    """Peak MiB of this process after importing labkit, and after some steps of training."""
    before = peak()
    trainer = ufm.Trainer(sweep.SIZES[size], variant)
    for _ in range(steps):
        trainer.step()
    return before, peak()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="a Parquet file to write")
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "VARIANT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return print(*measure(*args.one))
    rows = []
    for size in sweep.SIZES:
        for head, variant in HEADS.items():
            done = subprocess.run(
                [sys.executable, __file__, "--one", size, variant], capture_output=True, text=True, check=True
            )
            imported, whole = map(float, done.stdout.split())
            rows.append(
                {"head": head, "seed": 0, "iteration": 3, "size": size, "imported_mib": imported, "peak_mib": whole}
            )
            print(
                f"{size:9} {head:21} {whole:7.0f} MiB for the whole process, of which {imported:4.0f} before there is a model",
                flush=True,
            )
    if args.out:
        History(pd.DataFrame(rows), {"command": "python benchmarks/ufm_memory.py", **provenance()}).save(args.out)


if __name__ == "__main__":
    main()
