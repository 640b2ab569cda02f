"""A training step of ResNet-18 on CIFAR-10 as `make evidence` takes it, and with each of its three savings left out.

    python benchmarks/resnet18_step.py                two threads where there are two cores
    OMP_NUM_THREADS=1 python benchmarks/resnet18_step.py

The recipe guiding/cifar10 (batches of 256, implicit head, AGD) on made-up images; bf16 where the processor computes in
it. All take turns in one run, with memory kept by the allocator; ratios are medians of ratios within a turn.
"""

import argparse

import torch
import torch.nn.functional as F
from _measuring import allocator, keep_memory, median, progress, ratio, report, turns

from labkit import heads
from labkit.vision import backbones, build, recipes
from labkit.vision.training import processes

OURS = "as in make evidence"
WITHOUT = {
    "float32": dict(precision="no"),
    "channel by channel": dict(layout=torch.contiguous_format),
    "whole kernels": dict(kernels=torch.nn.Conv2d),
    "none of the three": dict(precision="no", layout=torch.contiguous_format, kernels=torch.nn.Conv2d),
}
GOAL = 0.65  # of the step with none of the three, where bf16 is computed in


def stepper(images, labels, precision="auto", layout=torch.channels_last, kernels=backbones.CroppedConv2d):
    """A function that takes one step on the same images each time."""
    settings = recipes.RECIPES["guiding/cifar10"]
    torch.manual_seed(0)
    backbone = build.network(settings, 3, 32).to(memory_format=layout)
    for conv in [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)]:
        conv.__class__ = kernels
    head = heads.make("implicit", dim=512, num_classes=10, temperature=settings["temperature"])
    optimizer = build.optimizer(settings, backbone, head)
    low = processes.resolved(precision) == "bf16"
    images = images.contiguous(memory_format=layout)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            features = backbone(images)
        F.cross_entropy(head(features.float(), labels), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="to measure for (%(default)s)")
    parser.add_argument("--batch", type=int, default=256)
    args = parser.parse_args()
    keep_memory()
    images, labels = torch.randn(args.batch, 3, 32, 32), torch.arange(args.batch) % 10
    steppers = {OURS: stepper(images, labels)}
    for name, changes in WITHOUT.items():
        progress(f"making {name} ...")
        steppers[name] = stepper(images, labels, **changes)
    rows = turns(steppers, args.seconds, label="ResNet-18")
    low = processes.resolved("auto") == "bf16"
    print(
        f"ResNet-18, {args.batch} images of 32 pixels, {'bf16' if low else 'float32'}, {torch.get_num_threads()} threads, "
        f"{allocator()}, torch {torch.__version__}"
    )
    print(f"median images a second, {len(rows)} turns")
    for name in steppers:
        print(f"  {name:36s} {1000 * args.batch / median(rows, name):8.0f}")
    report(
        [
            (f"a step as in make evidence / {name}", ratio(rows, OURS, name), GOAL if low and "none" in name else None)
            for name in WITHOUT
        ]
    )


if __name__ == "__main__":
    main()
