"""Batches of images: their order, the share of each process, and augmentation on the device.

    train = data.load("cifar10", "train")
    batches = Batches(train, 256, transforms=[Flip(), PaddedCrop(4), train.normalise()], order="stratified",
    device="cuda") for epoch in range(200):
        for images, labels in batches.epoch(epoch):
            ...

Epoch k is a function of (seed, k) alone: there is no state, so that an epoch can be repeated, and a run that was
stopped after `step` batches goes on with `epoch(k, start=step)`. The global generators are left as they are.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from labkit import checks
from labkit.vision.sets import ImageFiles, ImageSet


class Batches:
    """Batches of an ImageSet, which lives on `device` whole.

    batch_size: images of a batch over all processes together.
    transforms: applied in turn to uint8 images (b, C, H, W); see labkit.vision.augment.
    mix: MixUp, CutMix or RandomChoice of them from torchvision.transforms.v2, with their num_classes; the labels are
        then float32 (b, num_classes). One draw for the batch, and each image is mixed with the one before it, as there.
    order: "shuffled"; "stratified", shuffled with every class spread over the epoch (see `stratified`); "sequential",
        as in the set, for evaluation; another one of SAMPLERS; or a function as they are.
    drop_last: leave out a last batch that is smaller than the others.
    rank, processes: this process gets the rank-th of so many contiguous shares of every batch. In the order of the
        ranks, the shares make up the batch that one process gets; they differ by one image at most.

    Raises ValueError for an unknown order, a batch_size or seed that is no whole number from 1 or 0 on, a rank
    not below processes, an epoch without a batch, and a batch with fewer images than there are processes.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        *,
        transforms: Sequence[Callable] = (),
        mix: Callable | None = None,
        order: str | Callable = "shuffled",
        seed: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        processes: int = 1,
        device: torch.device | str = "cpu",
    ):
        if not callable(order):
            checks.one_of("order", order, (*SAMPLERS, "sequential"))
        batch_size, seed = checks.integer("batch_size", batch_size, 1), checks.integer("seed", seed, 0)
        processes = checks.integer("processes", processes, 1)
        if rank not in range(processes):
            raise ValueError(f"rank must be one of 0 … {processes - 1} for processes={processes}, got {rank!r}")
        total = len(images) // batch_size * batch_size if drop_last else len(images)
        if not total:
            raise ValueError(
                f"an epoch has no batch: {len(images)} images, batch_size={batch_size}, drop_last={drop_last}"
            )
        smallest = min(batch_size, total % batch_size or batch_size)
        if smallest < processes:
            raise ValueError(
                f"{processes} processes cannot share a batch of {smallest} image(s); batch_size={batch_size} with "
                f"{len(images)} images leaves that. Use drop_last=True or another batch_size"
            )
        self.total, self.batch_size, self.seed, self.order = total, batch_size, seed, order
        self.transforms, self.mix = list(transforms), mix
        self.rank, self.processes, self.device = rank, processes, torch.device(device)
        self.images, self.all_labels = self._place(images), images.labels.cpu()

    def __len__(self):
        """The number of batches in an epoch, the same for every rank."""
        return -(-self.total // self.batch_size)

    def epoch(self, k: int, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Iterates over epoch k from batch `start` on: images float32 (b, C, H, W) and labels int64 (b,), on the
        device.

        Images stay uint8 without Normalise among the transforms. Raises ValueError for a negative k or start.
        """
        k, start = checks.integer("the epoch", k, 0), checks.integer("start", start, 0)
        return self._epoch(k, start)

    def _epoch(self, k, start):
        order = self.indices(k)
        shares = [self._share(order, k, step) for step in range(start, len(self))]
        for (size, rows, _, random), (images, labels) in zip(shares, self._read(shares)):
            for transform in self.transforms:
                draws = transform.draw(size, random)
                images = transform(images, None if draws is None else draws[rows])
            yield self._mixed(images, labels, random) if self.mix else (images, labels)

    def indices(self, k: int) -> torch.Tensor:
        """The order of epoch k: indices into the set, int64 (total,), the same for every rank."""
        if self.order == "sequential":
            return torch.arange(self.total)
        generator = _generator(self.seed, k, 0)
        sampler = SAMPLERS.get(self.order, self.order)
        return sampler(self.all_labels, generator)[: self.total]

    def _share(self, order, k, step):
        """Of one global batch: its size, this process's rows of it, their indices into the set, and its generator."""
        batch = order[step * self.batch_size : (step + 1) * self.batch_size]
        rows = torch.arange(len(batch)).tensor_split(self.processes)[self.rank]
        if self.mix:  # each row is mixed with the one before it, which may be another process's
            rows = torch.cat([(rows[:1] - 1) % len(batch), rows])
        return len(batch), rows, batch[rows], _generator(self.seed, k, step + 1)

    def _place(self, images):
        return images.to(self.device)

    def _read(self, shares):
        for _, _, indices, _ in shares:
            indices = indices.to(self.device)
            yield self.images.images[indices], self.images.labels[indices]

    def _mixed(self, images, labels, random):
        if not images.is_floating_point():
            raise TypeError(
                f"mix works on floating-point images, got {images.dtype}: put Normalise among the transforms"
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(torch.randint(2**31, (), generator=random)))
            images, labels = self.mix(images, labels)
        return images[1:], labels[1:]


class FileBatches(Batches):
    """Batches of an ImageFiles, read from disk by worker processes; otherwise as Batches.

    picture: turns one PIL picture into a uint8 tensor (C, H, W), the same size for all, in a worker; random transforms
        of torchvision.transforms.v2 draw anew for each picture, and the same again when an epoch is repeated.
    workers: worker processes; 0 reads in this one.
    """

    def __init__(self, files: ImageFiles, batch_size: int, *, picture: Callable, workers: int = 8, **options: Any):
        super().__init__(files, batch_size, **options)
        self.picture, self.workers = picture, workers

    def _place(self, files):
        return files

    def _read(self, shares):
        wanted = (
            list(zip(indices.tolist(), torch.randint(2**31, (size,), generator=random)[rows].tolist()))
            for size, rows, indices, random in shares
        )
        loader = torch.utils.data.DataLoader(
            _Pictures(self.images, self.picture),
            batch_sampler=wanted,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),
        )  # its own: not the global one
        for images, labels in loader:
            yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)


class _Pictures(torch.utils.data.Dataset):
    """Pictures by (index, seed)."""

    def __init__(self, files, picture):
        self.files, self.picture = files, picture

    def __getitem__(self, key):
        index, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.picture(self.files.open(index)), self.files.labels[index]


def stratified(labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random order of the samples that spreads every class evenly over it: indices int64 (N,) for labels (N,).

    The j-th of the n images of a class, shuffled, gets the place (j + φ)/n with a phase 0 < φ < 1 of the class's own,
    and the samples are ordered by place. With classes of one size the order goes round the classes, so that any stretch
    of B samples has ⌊B/C⌋ or ⌈B/C⌉ of each. Otherwise a class has its share B·n/N of a batch, give or take one or two.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    shuffled = shuffled[labels[shuffled].argsort(stable=True)]
    classes, counts = labels[shuffled], labels.bincount()
    within = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[classes]
    phase = (torch.randperm(len(counts), generator=generator) + 0.5) / len(counts)
    place = (within + phase.double()[classes]) / counts[classes]
    return shuffled[place.argsort(stable=True)]


def _shuffled(labels, generator):
    return torch.randperm(len(labels), generator=generator)


def _by_class(weight_of):
    """Draws with replacement. weight_of: each class's share of the set, (classes,), to the weight of its images."""

    def draw(labels, generator):
        weights = weight_of(labels.bincount() / len(labels))[labels]
        return torch.multinomial(weights, len(labels), replacement=True, generator=generator)

    return draw


# An epoch's order: (labels (N,), generator) to indices (N,).
SAMPLERS = {
    "shuffled": _shuffled,
    "stratified": stratified,
    "class-balanced": _by_class(lambda share: 1 / share),
    "repeat-factor": _by_class(lambda share: (1e-3 / share).sqrt().clamp(min=1)),  # Gupta et al. 2019
}


def repeated(sampler: Callable, repeats: int, batch_size: int) -> Callable:
    """Each image `repeats` times in a batch, and as many draws in all as before: repeated augmentation (Hoffer et al.
    2020).

    A batch has all its images once, then all of them once more, and so on: an image is mixed with the one before it,
    which has to be another one. (In the released code each of four processes has one of four copies.)
    """
    if repeats == 1:
        return sampler

    def order(labels, generator):
        place = torch.arange(len(labels))
        copies = (place // batch_size * repeats + place % repeats).argsort(stable=True)  # by batch, and then by copy
        return sampler(labels, generator).repeat_interleave(repeats)[: len(labels)][copies]

    return order


def _generator(*key):
    """A generator for whole numbers from 0 on; other numbers, other draws."""
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))
