"""Made-up image sets for the tests."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from labkit.vision.data import ImageSet


def pixels(n=5, size=32, seed=0):
    """Noise, uint8 (n, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def encoded(picture, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return {"bytes": file.getvalue(), "path": None}


def write_parquet(path, pictures, labels, names=("img", "label"), metadata=None, row_group_size=None, **columns):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {names[0]: pa.array(pictures, kind), names[1]: pa.array(labels, pa.int64()), **columns}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=row_group_size)


def image_set(counts, size=6, channels=3, seed=0):
    """A set with counts[c] images of class c in random order; image i is noise, but its first pixel is (i mod 256, i
    div 256).
    """
    g = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=g)]
    images = torch.randint(256, (len(labels), channels, size, size), generator=g).byte()
    i = torch.arange(len(labels))
    images[:, 0, 0, 0], images[:, -1, 0, 0] = i % 256, i // 256
    return ImageSet(images, labels, tuple(f"class {c}" for c in range(len(counts))))


def which(images):
    """The numbers of the images that `image_set` made, from batches without transforms."""
    return images[:, 0, 0, 0].long() + 256 * images[:, -1, 0, 0].long()
