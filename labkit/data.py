"""Image sets as tensors: images float32 (N, C, H, W) in [0, 1] and labels int64 (N,). Nothing is downloaded.

    images, labels = load("digits", "train")                        with scikit-learn, offline
    images, labels = load("cifar10", "test", root="data")           from data/cifar10-test.parquet

Minimal: two sets, whole in memory. Stratified batches and long-tailed subsets are to come.
"""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image

from . import checks

NAMES = ("digits", "cifar10")
SPLITS = ("train", "test")


def load(name, split, root=None, count=None):
    """All images and labels of one split of a set: float32 (N, C, H, W) in [0, 1] and int64 (N,), the same at every call.

    name: "digits", 8×8 grey images of ten digits, 1201 for training and 596 for testing (Alpaydin & Kaynak 1998, from
        scikit-learn); or "cifar10", 32×32 colour images of ten classes, 50000 and 10000 (Krizhevsky 2009).
    root: folder of the files cifar10-train.parquet and cifar10-test.parquet, in the layout of the Hugging Face hub: a column
        `img` with the encoded picture under `bytes`, and a column `label`. None is the environment variable LABKIT_DATA,
        or data/ under the working directory where that is not set.
    count: only the first so many images, for trials; None is all.

    Raises ValueError for another name or split and for a Parquet file of another layout, FileNotFoundError, which says where
    it looked, for a set that is not there, and ModuleNotFoundError for the digits without scikit-learn.
    """
    checks.one_of("name", name, NAMES)
    checks.one_of("split", split, SPLITS)
    if name == "digits":
        return tuple(part[:count] for part in _digits(split))
    return read_parquet(find(name, split, root), count)


def find(name, split, root=None):
    """The path of a set's file; FileNotFoundError, with where it looked and what to do, where there is none."""
    asked = "the argument root" if root is not None else "LABKIT_DATA" if "LABKIT_DATA" in os.environ else "the default"
    folder = Path(root if root is not None else os.environ.get("LABKIT_DATA", "data"))
    path = folder / f"{name}-{split}.parquet"
    if not path.is_file():
        raise FileNotFoundError(
            f"{name} ({split}) is not at {path.absolute()} (folder from {asked}). Put {path.name} there, a Parquet file "
            "with columns img (bytes) and label as on the Hugging Face hub, or set LABKIT_DATA to the folder that holds it.")
    return path


def present(name, root=None):
    """Whether both splits of a set can be loaded."""
    if name == "digits":
        return True
    try:
        return all(find(name, split, root).is_file() for split in SPLITS)
    except FileNotFoundError:
        return False


def read_parquet(path, count=None):
    """Images and labels of a Parquet file: encoded pictures in `img.bytes`, classes in `label`; `count` as in `load`."""
    columns = pq.read_schema(path).names
    if missing := {"img", "label"} - set(columns):
        raise ValueError(f"{path} has no column {' or '.join(sorted(missing))}; its columns: {', '.join(columns)}")
    table = pq.read_table(path, columns=["img", "label"]).slice(0, count)
    encoded = table["img"].combine_chunks().field("bytes")
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(picture.as_py())).convert("RGB")) for picture in encoded])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return images.contiguous(), torch.from_numpy(table["label"].to_numpy().astype(np.int64))


def _digits(split):
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError("the digits come with scikit-learn, which is missing: pip install scikit-learn") from None
    pixels, labels = load_digits(return_X_y=True)
    # The last third of every class is for testing: stratified, and the same whatever the version of a random generator.
    place = np.empty(len(labels))
    for c in np.unique(labels):
        mine = labels == c
        place[mine] = np.arange(mine.sum()) / mine.sum()
    kept = place >= 2 / 3 if split == "test" else place < 2 / 3
    images = torch.from_numpy(pixels[kept]).float().reshape(-1, 1, 8, 8) / 16
    return images, torch.from_numpy(labels[kept].astype(np.int64))
