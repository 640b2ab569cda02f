"""What a set of images is: ImageSet, whole in memory, or ImageFiles, a list of files. labkit.vision.data loads them."""

from dataclasses import dataclass, replace

import torch
from PIL import Image
from torchvision.transforms import v2

from labkit import checks
from labkit.vision.augment import Normalise


@dataclass(frozen=True)
class ImageSet:
    """Images uint8 (N, C, H, W), labels int64 (N,), the names of all classes, the pixel value that is white, and a
    title.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple
    white: int = 255
    title: str = ""

    def __post_init__(self):
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(f"images must be uint8 (N, C, H, W), got {self.images.dtype} {tuple(self.images.shape)}")
        checks.labels(self.labels, len(self.classes), self.images.shape[:1])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        """The images of a slice or an index tensor, as an ImageSet with the same classes."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def to(self, device: torch.device | str) -> "ImageSet":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def counts(self) -> torch.Tensor:
        """Images of each class, int64 (number of classes,)."""
        return torch.bincount(self.labels, minlength=len(self.classes))

    def floats(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 in [0, 1] and labels, as two tensors."""
        return self.images.float() / self.white, self.labels

    def resized(self, side: int) -> "ImageSet":
        """The images brought to side×side pixels: bilinear with antialiasing, as torchvision does it, in whole grey
        levels.
        """
        return replace(self, images=v2.functional.resize(self.images, [side, side], antialias=True))

    def normalise(self) -> Normalise:
        """The transform (labkit.vision.augment) that gives these images mean 0 and deviation 1 in every channel.

        Exact to rounding: from the counts of the pixel values. Use that of the training images for the test images too.
        """
        values = torch.arange(256, dtype=torch.float64) / self.white
        shares = torch.stack([x.flatten().bincount(minlength=256).double() for x in self.images.cpu().unbind(1)])
        shares = shares / shares.sum(1, keepdim=True)
        mean = shares @ values
        return Normalise(mean, (shares @ values**2 - mean**2).clamp(min=0).sqrt(), self.white)


@dataclass(frozen=True)
class ImageFiles:
    """Pictures too many to hold: their paths, labels int64 (N,), the names of all classes, and a title. For
    FileBatches.
    """

    paths: tuple
    labels: torch.Tensor
    classes: tuple
    title: str = ""

    def __post_init__(self):
        checks.labels(self.labels, len(self.classes), (len(self.paths),))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        index = torch.arange(len(self))[index]
        return replace(self, paths=tuple(self.paths[i] for i in index.tolist()), labels=self.labels[index])

    counts = ImageSet.counts

    def open(self, i: int) -> Image.Image:
        """The i-th picture, RGB."""
        with Image.open(self.paths[i]) as picture:
            return picture.convert("RGB")
