"""One solve for the nearest ETF while a model trains, by the closed form and by the paper's solver (Figures 5a, 16a).

python benchmarks/solves.py
python benchmarks/solves.py --out data/results/solves.parquet

The class means are those of an unconstrained feature model as wide as ResNet-50's features, with CIFAR-100's classes.
"""

import argparse
import shlex
import sys

from labkit import ufm
from labkit.history import History, provenance
from labkit.studies.ufms import solves


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--dim", type=int, default=2048, help="(%(default)s)")
    parser.add_argument("--samples", type=int, default=5000, help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each solve; the least counts (%(default)s)")
    parser.add_argument("--out", help="a Parquet file to write")
    args = parser.parse_args()
    spec = ufm.UFM(args.classes, args.samples, args.dim)
    found = solves.along_training(spec, [step for step in solves.STEPS if step <= 128], args.repeats)
    wide = found.pivot(index="step", columns="way", values="milliseconds")
    wide["trust region / closed form"] = wide[solves.ITERATED] / wide[solves.CLOSED]
    print(wide.round(1).to_string(), f"\nlargest distance of the two ETFs: {found['apart'].max():.0e}")
    if args.out:
        kept = {key: getattr(args, key) for key in ("classes", "dim", "samples", "repeats")}
        frame = found.rename(columns={"way": "head", "step": "iteration"}).assign(seed=0)
        History(
            frame, {**kept, "command": shlex.join(["python", "benchmarks/solves.py", *sys.argv[1:]]), **provenance()}
        ).save(args.out)


if __name__ == "__main__":
    main()
