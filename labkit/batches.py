"""Batches of images: their order, the share of each process, and augmentation on the device.

    train = data.load("cifar10", "train")
    batches = Batches(train, 256, transforms=[Flip(), PaddedCrop(4), train.normalise()], order="stratified", device="cuda")
    for epoch in range(200):
        for images, labels in batches.epoch(epoch):
            ...

Epoch k is a function of (seed, k) alone: there is no state, so that an epoch can be repeated, and a run that was stopped
after `step` batches goes on with `epoch(k, start=step)`. The global generators are left as they are.
"""

import numpy as np
import torch

from . import checks

ORDERS = ("shuffled", "stratified", "sequential")


class Batches:
    """Batches of an ImageSet, which lives on `device` whole.

    batch_size: images of a batch over all processes together.
    transforms: applied in turn to uint8 images (b, C, H, W); see labkit.augment.
    mix: MixUp, CutMix or RandomChoice of them from torchvision.transforms.v2, with their num_classes; labels are then
        float32 (b, num_classes). One draw for the batch, and each image is mixed with the one before it, as there.
    order: "shuffled"; "stratified", shuffled with every class spread over the epoch (see `stratified`); "sequential",
        as in the set, for evaluation.
    drop_last: leave out a last batch that is smaller than the others.
    rank, processes: this process gets the rank-th of so many contiguous shares of every batch. In the order of the ranks,
        the shares make up the batch that one process gets; they differ by one image at most.

    Raises ValueError for a batch_size above the set's size with drop_last, or when a batch has fewer images than processes.
    """

    def __init__(self, images, batch_size, *, transforms=(), mix=None, order="shuffled", seed=0, drop_last=False, rank=0,
                 processes=1, device="cpu"):
        raise NotImplementedError

    def __len__(self):
        """The number of batches in an epoch, the same for every rank."""

    def epoch(self, k, start=0):
        """Iterates over epoch k from batch `start` on: images float32 (b, C, H, W) and labels int64 (b,), on the device.

        Images stay uint8 without Normalise among the transforms.
        """
