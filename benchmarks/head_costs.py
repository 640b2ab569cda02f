"""What a head costs beside its backbone: time of a training step's two passes, and its peak memory.

    python benchmarks/head_costs.py                        ResNet-50 on 32 images of 224 pixels, 1000 classes
    python benchmarks/head_costs.py --backbone resnet50 --classes 100 --side 32 --batch 256 --out costs.parquet

Times are of one process, in which the parts take turns. Memory is that of a process for each head: of the GPU the most
that PyTorch had allocated, on a CPU the largest resident size of the process less its size before there was a model.
"Backbone" is a step in which the features take a made-up gradient, with no head.
"""

import argparse
import subprocess
import sys

import pandas as pd
import torch
import torch.nn.functional as F
from ufm_memory import peak

from labkit import heads
from labkit.history import History, provenance
from labkit.studies import tables
from labkit.vision import backbones

VARIANTS = ("standard", "fixed", "implicit_without_ddn", "implicit")


def setting(args, names):
    """The backbone, the heads by name, and a batch."""
    torch.manual_seed(0)
    backbone = backbones.create(args.backbone, features_only=True, affine=False).to(args.device)
    made = {name: heads.make(name, backbone.num_features, args.classes).to(args.device) for name in names}
    images = torch.randn(args.batch, 3, args.side, args.side, device=args.device)
    return backbone, made, images, torch.arange(args.batch, device=args.device) % args.classes


def most(device):
    """Most memory so far, in MiB."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else peak()


def memory(args):
    """Peak MiB of two steps with one head, or with none."""
    before = most(args.device)
    backbone, made, images, labels = setting(args, [] if args.one == "backbone" else [args.one])
    for _ in range(2):
        features = backbone.train()(images)
        for head in made.values():
            features = F.cross_entropy(head.train()(features, labels), labels)
        features.backward(torch.ones_like(features))
        backbone.zero_grad(), [head.zero_grad() for head in made.values()]
    return most(args.device) - before


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--side", type=int, default=224, help="pixels (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", help="a Parquet file to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        return print(memory(args))
    peaks = {}  # first, while this process is small: Linux hands the largest size on to a child
    for part in ("backbone", *VARIANTS):
        done = subprocess.run([sys.executable, *sys.argv, "--one", part], capture_output=True, text=True)
        if done.returncode:
            parser.error(f"{part}: {done.stderr.strip().splitlines()[-1]}")
        peaks[part] = float(done.stdout)
    times = tables.costs(*setting(args, VARIANTS), repeats=args.repeats)
    total = times.sum(axis=1)
    rows = [
        {
            "head": part,
            "seed": 0,
            "iteration": 0,
            **times.loc[part],
            "milliseconds": total[part],
            "peak_mib": peaks[part],
        }
        for part in peaks
    ]
    for part in peaks:
        passes = "forward {forward:8.1f} ms, backward {backward:8.1f} ms".format(**times.loc[part])
        print(
            f"{part:21} {passes} ({total[part] / total['backbone']:7.1%} of the backbone), peak {peaks[part]:8.0f} MiB"
        )
    if args.out:
        kept = {key: getattr(args, key) for key in ("backbone", "classes", "side", "batch")}
        command = "python benchmarks/head_costs.py " + " ".join(sys.argv[1:])
        History(pd.DataFrame(rows), {**kept, "command": command.strip(), **provenance(args.device)}).save(args.out)


if __name__ == "__main__":
    main()
