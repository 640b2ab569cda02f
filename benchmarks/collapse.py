"""What `labkit.collapse` costs: its time over that of two bare forward passes, in one run on this machine.

    python benchmarks/collapse.py
    python benchmarks/collapse.py --device cuda --network resnet18

N = 50000 samples of C = 10 classes with d = 512 features. The two passes are those that a program would make that first
finds the class means and then measures; `collapse` keeps the features of the first, where they fit into memory. The
networks: "mlp", three layers of 512 units, whose forward pass is about as cheap as one with 512 features can be, and
"resnet18" for images of 32 pixels; on a CPU that one reads its first images only (--resnet-samples), and its passes are
taken to be as long for the rest.
"""

import argparse

import torch
from _measuring import keep_memory, median, progress, ratio, report, turns
from torch import nn

import labkit

GOAL = 1.2


class Batches:
    """Made-up samples in batches that lie in memory."""

    def __init__(self, inputs, labels, size):
        self.batches = list(zip(inputs.split(size), labels.split(size)))

    def __iter__(self):
        return iter(self.batches)


@torch.no_grad()
def two_passes(model, batches):
    model.eval()
    for _ in range(2):
        for inputs, _ in batches:
            model(inputs)


def compared(name, model, batches, args):
    """Rows of milliseconds of both sides."""
    synchronize = torch.cuda.synchronize if args.device == "cuda" else lambda: None
    sides = {"collapse": lambda: labkit.collapse(model, batches), "passes": lambda: two_passes(model, batches)}
    return turns(sides, args.seconds, least=3, synchronize=synchronize, label=name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=("mlp", "resnet18", "both"), default="both")
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--resnet-samples", type=int, help="50000 on a GPU, 512 on a CPU")
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=20)
    args = parser.parse_args()
    torch.manual_seed(0)
    goals = []
    labels = torch.arange(args.samples, device=args.device) % 10
    if args.network in ("mlp", "both"):
        model = nn.Sequential(
            *(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()),
            *(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)),
        ).to(args.device)
        rows = compared(
            "mlp", model, Batches(torch.randn(args.samples, 784, device=args.device), labels, args.batch), args
        )
        progress(f"mlp: collapse {median(rows, 'collapse'):.0f} ms, two passes {median(rows, 'passes'):.0f} ms")
        goals.append(("collapse / two forward passes, mlp of 512 units", ratio(rows, "collapse", "passes"), GOAL))
    if args.network in ("resnet18", "both"):
        from labkit.vision import backbones

        count = args.resnet_samples or (50_000 if args.device == "cuda" else 512)
        model = backbones.create("resnet18", stem="cifar", num_classes=10).to(args.device)
        images = torch.randn(count, 3, 32, 32, device=args.device)
        some = compared("resnet18", model, Batches(images, labels[:count], 64), args)
        # the passes of all samples, and the measures alone: those of a network that only hands its features on
        alone = nn.Sequential(nn.Identity(), nn.Linear(512, 10)).to(args.device)
        features = torch.randn(args.samples, 512, device=args.device)
        measured = compared("measures", alone, Batches(features, labels, args.batch), args)
        passes = median(some, "passes") * args.samples / count
        whole = passes / 2 + median(measured, "collapse")
        progress(f"resnet18: two passes {passes:.0f} ms, measures alone {median(measured, 'collapse'):.0f} ms")
        goals.append((f"collapse / two forward passes, resnet18 (on {count} images)", whole / passes, GOAL))
        goals.append((f"the same, as it runs on {count} images", ratio(some, "collapse", "passes"), None))
    report(goals)


if __name__ == "__main__":
    keep_memory()
    main()
