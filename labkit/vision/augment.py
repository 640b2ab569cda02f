"""Augmentation of a whole batch on its device, with draws of its own for every image.

A transform has two methods. `draw(n, generator)` makes its random numbers for n images, one row an image, on the CPU,
or None where it needs none; `transform(images, draws)` applies them to images (n, C, H, W), and is a function of its
arguments alone. Draws come first and for the whole global batch, so that a process which holds a share of the batch
takes its rows of them, and the batch is the same on any number of processes and on any device.

Flip, padded crop, rotation and Cutout are a few lines of PyTorch each; everything else comes from torchvision, through
`Torchvision` (image by image, or nearly) and through `mix` of labkit.vision.batches (MixUp, CutMix). torchvision's own
flip and crop draw once for a whole batch. kornia draws once for each image, but from the global generators, which a
share of a batch cannot repeat; its RandAugment picks the operations once for a batch; and it was no faster than the
gather below.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from labkit import checks


class Flip:
    """Mirrors each image left to right with probability one half."""

    def draw(self, n: int, generator: torch.Generator):
        return torch.rand(n, generator=generator) < 0.5

    def __call__(self, images: torch.Tensor, draws: Any):
        return torch.where(draws.to(images.device)[:, None, None, None], images.flip(-1), images)


class PaddedCrop:
    """Puts `padding` zeros on every side and cuts each image out again at a place of its own, in its old size."""

    def __init__(self, padding: int):
        self.padding = checks.integer("padding", padding, 1)

    def draw(self, n: int, generator: torch.Generator):
        return torch.randint(2 * self.padding + 1, (n, 2), generator=generator)  # top, left

    def __call__(self, images: torch.Tensor, draws: Any):
        n, channels, height, width = images.shape
        draws, count = draws.to(images.device), lambda k: torch.arange(k, device=images.device)
        rows, columns = draws[:, :1] + count(height), draws[:, 1:] + count(width)
        padded = F.pad(images, (self.padding,) * 4)
        return padded[
            count(n)[:, None, None, None],
            count(channels)[:, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


class Rotation:
    """Turns each image about its middle by an angle uniform in ±degrees: nearest pixel, zeros from outside.

    As torchvision's RandomRotation by default: positive angles turn counter-clockwise.
    """

    def __init__(self, degrees: float):
        self.degrees = checks.positive("degrees", degrees)

    def draw(self, n: int, generator: torch.Generator):
        return (2 * torch.rand(n, generator=generator) - 1) * self.degrees

    def __call__(self, images: torch.Tensor, draws: Any):
        angle = torch.deg2rad(draws.double())
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        aspect = images.shape[-2] / images.shape[-1]  # grid coordinates run from −1 to 1 in both directions
        turn = torch.stack([cos, -sin * aspect, zero, sin / aspect, cos, zero], -1).reshape(-1, 2, 3)
        grid = F.affine_grid(turn.float().to(images.device), images.shape, align_corners=False)
        turned = F.grid_sample(images.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False)
        return turned.to(images.dtype)


class Cutout:
    """Sets a square of `size` pixels to 0 in each image, its middle anywhere in the image (DeVries & Taylor 2017).

    What sticks out of the image is lost. Put it after Normalise, where 0 is the mean colour.
    """

    def __init__(self, size: int):
        self.size = checks.integer("size", size, 1)

    def draw(self, n: int, generator: torch.Generator):
        return torch.rand(n, 2, generator=generator)

    def __call__(self, images: torch.Tensor, draws: Any):
        inside = []
        for axis, length in enumerate(images.shape[-2:]):
            first = (draws[:, axis, None] * length).long() - self.size // 2
            place = torch.arange(length)
            inside.append(((place >= first) & (place < first + self.size)).to(images.device))
        return images.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)


class Normalise:
    """uint8 to float32: x/white less the mean, over the deviation, channel by channel. Draws nothing."""

    def __init__(self, mean: Sequence[float] | torch.Tensor, std: Sequence[float] | torch.Tensor, white: int = 255):
        self.mean, self.std = (torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1, 1) for value in (mean, std))
        if self.mean.shape != self.std.shape or not (self.std > 0).all():
            raise ValueError(
                "mean and std must have one number for each channel, and std no zero; "
                f"got mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"
            )
        self.white = white

    def draw(self, n: int, generator: torch.Generator):
        return None

    def __call__(self, images: torch.Tensor, draws: Any = None):
        scale, shift = 1 / (self.white * self.std), -self.mean / self.std
        return images * scale.float().to(images.device) + shift.float().to(images.device)


class Torchvision:
    """Any random transform of torchvision.transforms.v2 that keeps the size: RandAugment, AutoAugment, ColorJitter, …

        Torchvision(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10))

    torchvision draws once in a call, and a call for each of 256 images takes several times as long as 32 calls for as
    many.
    So there are GROUPS calls for a batch, and each image goes at random into one of them. For every image by itself
    that is the transform's own distribution; two images of a batch share their draws with probability 1/GROUPS.
    RandAugment and AutoAugment take images in uint8: put this before Normalise.
    """

    GROUPS = 32

    def __init__(self, transform: Callable):
        self.transform = transform

    def draw(self, n: int, generator: torch.Generator):
        seeds = torch.randint(2**31, (self.GROUPS,), generator=generator)
        return seeds[torch.randint(self.GROUPS, (n,), generator=generator)]

    def __call__(self, images: torch.Tensor, draws: Any):
        result = torch.empty_like(images)
        with torch.random.fork_rng(devices=[]):
            for seed in draws.unique().tolist():
                torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the accelerators as well
                rows = (draws == seed).nonzero()[:, 0].to(images.device)
                result[rows] = self.transform(images[rows])
        return result
