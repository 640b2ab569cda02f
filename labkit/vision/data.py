"""Image sets: small ones whole in memory, as one uint8 tensor with labels, and ImageNet as a list of files.

    train = load("digits", "train")                           with scikit-learn, offline
    test = load("cifar10", "test", root="data")               from data/cifar10-test.parquet, or as torchvision keeps it
    train = load("cifar100", "train", download=True)          nothing is downloaded without being asked for

What makes batches of them is labkit.vision.batches; long-tailed subsets are in labkit.vision.longtail.
"""

import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
import torchvision
from PIL import Image

from labkit import checks
from labkit.vision.sets import ImageFiles, ImageSet

SPLITS = ("train", "test")
CLASSES = {
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    "stl10": ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
}

TITLES = {
    "digits": "scikit-learn's digits",
    "mnist": "MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "stl10": "STL-10",
    "omniglot": "Omniglot, 242 characters",
    "imagenet": "ImageNet",
    "imagenet-one-per-class": "ImageNet, one 96-pixel picture of each class",
    "scribbles": "scribbles, 242 characters, made up",
    "patterns": "random patterns, one of each class",
}

# Where each set can lie under the root: a Parquet file for each split, and a folder as torchvision leaves it.
_PARQUET = {name: name + "-{split}.parquet" for name in ("cifar10", "cifar100", "stl10")}
_PARQUET["imagenet-one-per-class"] = "imagenet1k-one-per-class-96px.parquet"
_PARQUET["omniglot"] = "omniglot-242.parquet"
_FOLDERS = {
    "mnist": "MNIST",
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "stl10": "stl10_binary",
    "imagenet": "imagenet",
}
_TORCHVISION = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "stl10": "STL10"}
NAMES = tuple(TITLES)
LAST_TO_TRAIN = 15  # of the 20 drawers of Omniglot, and of the hands of the scribbles
MOST_CLASSES = 1_000_000  # a larger label is damage: names and counts of so many classes would fill the memory


def load(
    name: str, split: str, root: str | Path | None = None, count: int | None = None, download: bool = False
) -> ImageSet | ImageFiles:
    """One split of a set as an ImageSet, or as ImageFiles for "imagenet"; the same at every call.

    Its title says what it is, for figures and results: "CIFAR-10", or "CIFAR-10, JPEG re-encoded" for pictures that are
    not the authors' pixels any more.

    name: "digits", 8×8 grey images of ten digits, 1201 and 596 (Alpaydin & Kaynak 1998, from scikit-learn; pixels are 0
        … 16); "mnist", 28×28, grey, 60000 and 10000 (LeCun et al. 1998); "cifar10" and "cifar100", 32×32, 50000 and
        10000 (Krizhevsky 2009);
        "stl10", 96×96, 5000 and 8000 (Coates et al. 2011);
        "omniglot", 242 characters of eight alphabets, drawn once by each of 20 people (Lake et al. 2015), 105×105, ink
        black; drawers 1 to 15 are for training and 16 to 20 for testing, 3630 and 1210, so that no hand is in both;
        "imagenet", the 1000 classes of ILSVRC 2012 (Russakovsky et al. 2015), one folder of pictures a class;
        "imagenet-one-per-class", one 96×96 picture of each of these, "train" only;
        "scribbles", 242 characters of three strokes, drawn once by each of 20 hands, 32×32, ink black, split as
        Omniglot and offline: made up, to stand in for it where it is not at hand;
        "patterns", a thousand classes of one smooth random pattern each, 96×96, "train" only, offline: made up, to
        stand in for "imagenet-one-per-class".
    root: folder of the sets, see `find` for the files in it. None is the environment variable LABKIT_DATA, or data/
        under the working directory where that is not set.
    count: only the first so many images, at least 1, for trials; None is all.
    download: let torchvision fetch MNIST, CIFAR-10, CIFAR-100 or STL-10 into root if the set is not there.

    Raises ValueError for another name, split or count, for files of another layout, and to download another set;
    FileNotFoundError, which says where it looked, for a set that is not there; and ModuleNotFoundError for the digits
    without scikit-learn.
    """
    _check(name, split)
    count = None if count is None else checks.integer("count", count, 1)
    if download and name not in _TORCHVISION:
        raise ValueError(f"download=True is for {', '.join(_TORCHVISION)}; got {name!r}")
    if name in _OFFLINE:
        return _OFFLINE[name](split)[:count]
    try:
        path = find(name, split, root)
    except FileNotFoundError:
        if not download:
            raise
        path = _root(root)[0] / _FOLDERS[name]
    if name == "omniglot":
        return _omniglot(path, split)[:count]
    if path.suffix == ".parquet":
        images = read_parquet(path, count, CLASSES.get(name))
        lossy = images.title == "JPEG" and name in _TORCHVISION  # their authors give plain pixels
        return replace(images, title=TITLES[name] + ", JPEG re-encoded" * lossy)
    return (_image_folder(path) if name == "imagenet" else _torchvision(name, split, path.parent, download))[:count]


def find(name: str, split: str, root: str | Path | None = None) -> Path:
    """The path that `load` reads: of those below, the first that is there. FileNotFoundError, with what to do, for
    none.

    <name>-<split>.parquet in the layout of the Hugging Face hub: a column `img` or `image` with encoded pictures under
        `bytes`, and a column `label` or `fine_label`;
    MNIST, cifar-10-batches-py, cifar-100-python, stl10_binary: folders as torchvision unpacks them;
    omniglot-242.parquet: both splits of "omniglot", with columns alphabet, character and drawer beside those above;
    imagenet/train and imagenet/val ("test"): folders with one folder for each class, whose sorted names count the
    classes; imagenet1k-one-per-class-96px.parquet: "imagenet-one-per-class", as the other Parquet files.
    """
    _check(name, split)
    root, asked = _root(root)
    paths, advice = [], []
    if name in _PARQUET:
        paths.append(root / _PARQUET[name].format(split=split))
        advice.append(
            f"put {paths[0].name} there, a Parquet file with columns img (bytes) and label as on the Hugging Face hub"
        )
    if name in _TORCHVISION:
        paths.append(root / _FOLDERS[name])
        advice.append("let torchvision fetch it with download=True (--download)")
    if name == "imagenet":
        paths.append(root / "imagenet" / {"train": "train", "test": "val"}[split])
        advice.append(f"put or link the pictures there, one folder for each class under {paths[0].name}")
    for path in paths:
        if path.is_file() if path.suffix == ".parquet" else path.is_dir():
            return path
    looked = " or ".join(str(path.absolute()) for path in paths)
    here = "set LABKIT_DATA to" if asked != "the argument root" else "give as root"
    advice = ", or ".join([*advice, f"{here} the folder that holds it"])
    raise FileNotFoundError(
        f"{name} ({split}) is not at {looked} (folder from {asked}). {advice[0].upper() + advice[1:]}."
    )


def present(name: str, root: str | Path | None = None) -> bool:
    """Whether all splits of a set can be loaded."""
    try:
        return name in _OFFLINE or all(find(name, split, root) for split in splits(name))
    except FileNotFoundError:
        return False


def title_at_hand(name: str, root: str | Path | None = None) -> str | None:
    """The title of a set of NAMES, of which one image is read; None where it is not at hand."""
    if name not in NAMES or not present(name, root):
        return None
    return TITLES[name] if name == "imagenet" else load(name, "train", root, count=1).title


def splits(name: str) -> tuple[str, ...]:
    """The splits that a set has."""
    checks.one_of("name", name, NAMES)
    return SPLITS[:1] if name in ("imagenet-one-per-class", "patterns") else SPLITS


def read_parquet(path: str | Path, count: int | None = None, classes: Sequence[str] | None = None) -> ImageSet:
    """The images of a Parquet file in the hub's layout (see `find`), as an ImageSet with the pictures' format as its
    title.

    count: as in `load`.
    classes: their names; None takes those that the hub writes into the file, or else the column `name`, or else
        numbers.
    Raises ValueError, naming the file, for missing columns, for labels that are not whole numbers from 0 to 999999, and
    for pictures that differ in size.
    """
    count = None if count is None else checks.integer("count", count, 1)
    schema = pq.read_schema(path)
    image, label = (
        [c for c in choices if c in schema.names] for choices in (("img", "image"), ("label", "fine_label"))
    )
    if missing := [name for name, found in (("img", image), ("label", label)) if not found]:
        raise ValueError(f"{path} has no column {' or '.join(missing)}; its columns: {', '.join(schema.names)}")
    names = ["name"] if "name" in schema.names else []
    table = pq.read_table(path, columns=[image[0], label[0], *names])
    labels = _labels(table[label[0]].to_numpy(), f"{path}, column {label[0]}")
    hub = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    classes = classes or hub.get("info", {}).get("features", {}).get(label[0], {}).get("names")
    if not classes:
        known = dict(zip(labels.tolist(), table["name"].to_pylist())) if names else {}
        classes = [known.get(c, str(c)) for c in range(int(labels.max()) + 1)]
    encoded = table[image[0]].slice(0, count).combine_chunks().field("bytes")
    pixels = [_decode(picture) for picture in encoded]  # threads are slower: small pictures are mostly Python's work
    if len(sizes := {picture.shape for picture in pixels}) != 1:
        raise ValueError(
            f"{path} must hold pictures of one size; it has (height, width, channels) of {sorted(sizes)[:5]}"
        )
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    title = Image.open(io.BytesIO(encoded[0].as_py())).format
    return ImageSet(images, labels[:count], tuple(classes), title=title)


def _labels(found, where):
    """Labels of a file as int64; ValueError for those that are not classes, before anything is made for each class."""
    right = found.size and np.issubdtype(found.dtype, np.integer) and 0 <= found.min() and found.max() < MOST_CLASSES
    if not right:
        values = f"{found.min()} to {found.max()}" if found.size and found.dtype != object else "none, or missing ones"
        raise ValueError(
            f"{where}: labels must be whole numbers from 0 to {MOST_CLASSES - 1}, got {found.dtype} ({values})"
        )
    return torch.from_numpy(found.astype(np.int64))


def _decode(picture):
    return np.asarray(Image.open(io.BytesIO(picture.as_py())).convert("RGB"))


def root_of(root: str | Path | None = None) -> Path:
    """The folder of the sets: `root`, else LABKIT_DATA, else data/."""
    return _root(root)[0]


def _root(root):
    """The folder of the sets, and who named it."""
    asked = "the argument root" if root is not None else "LABKIT_DATA" if "LABKIT_DATA" in os.environ else "the default"
    return Path(root if root is not None else os.environ.get("LABKIT_DATA", "data")), asked


def _check(name, split):
    checks.one_of("split", split, splits(name))


def _digits(split):
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the digits come with scikit-learn, which is missing: pip install scikit-learn"
        ) from None
    pixels, labels = load_digits(return_X_y=True)
    # The last third of every class is for testing: stratified, and the same whatever the version of a random generator.
    place = np.empty(len(labels))
    for c in np.unique(labels):
        mine = labels == c
        place[mine] = np.arange(mine.sum()) / mine.sum()
    kept = place >= 2 / 3 if split == "test" else place < 2 / 3
    images = torch.from_numpy(pixels[kept].astype(np.uint8)).reshape(-1, 1, 8, 8)
    return ImageSet(
        images, torch.from_numpy(labels[kept].astype(np.int64)), tuple("0123456789"), white=16, title=TITLES["digits"]
    )


def _patterns(_):
    """Noise on a grid of 8×8 points, with smooth transitions between them."""
    coarse = torch.rand(1000, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(coarse, (96, 96), mode="bilinear", align_corners=True)
    names = tuple(f"pattern {c}" for c in range(1000))
    return ImageSet((255 * images).round().to(torch.uint8), torch.arange(1000), names, title=TITLES["patterns"])


def _scribbles(split):
    """A stroke is a Bézier curve of three random points. Each hand slants and stretches all characters in its own way,
    and slips a little at each point.
    """
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
    characters = 0.3 * draw(242, 1, 3, 3, 2)  # character, hand, stroke, point, x and y
    slips = 0.05 * draw(242, 20, 3, 3, 2)
    habits = torch.eye(2) + 0.15 * draw(20, 1, 2, 2)
    hands = range(LAST_TO_TRAIN) if split == "train" else range(LAST_TO_TRAIN, 20)
    points = ((characters + slips) @ habits)[:, hands]
    t = torch.linspace(0, 1, 24).unsqueeze(1)
    ink = torch.hstack([(1 - t) ** 2, 2 * t * (1 - t), t**2]) @ points
    places = (torch.arange(32) - 15.5) / 32
    paper = torch.cartesian_prod(places, places)
    away = torch.stack([torch.cdist(paper, drawing.flatten(0, 1)).amin(1) for drawing in ink.flatten(0, 1)])
    images = (255 * (32 * away - 0.7).clamp(0, 1)).round().to(torch.uint8).view(-1, 1, 32, 32)
    labels = torch.arange(242).repeat_interleave(len(hands))
    return ImageSet(images, labels, tuple(f"character {c}" for c in range(242)), title=TITLES["scribbles"])


_OFFLINE = {"digits": _digits, "scribbles": _scribbles, "patterns": _patterns}


def _omniglot(path, split):
    """The drawings of the drawers of one split, as grey images of one channel."""
    images, about = read_parquet(path), pq.read_table(path, columns=["label", "alphabet", "character", "drawer"])
    drawer = about["drawer"].to_numpy()
    kept = drawer <= LAST_TO_TRAIN if split == "train" else drawer > LAST_TO_TRAIN
    said = {row["label"]: f"{row['alphabet']}, {row['character']}" for row in about.to_pylist()}
    names = tuple(said[c] for c in sorted(said))
    images = replace(images, images=images.images[:, :1].contiguous(), classes=names, title=TITLES["omniglot"])
    return images[torch.from_numpy(kept)]


def _torchvision(name, split, root, download):
    options = {"split": split} if name == "stl10" else {"train": split == "train"}
    try:
        found = getattr(torchvision.datasets, _TORCHVISION[name])(root, download=download, **options)
    except RuntimeError as error:  # a file is missing or has another checksum
        raise ValueError(
            f"{root / _FOLDERS[name]} is there, but torchvision does not take it for {name}: {error}"
        ) from error
    images = torch.as_tensor(found.data)
    if name == "mnist":
        images = images.unsqueeze(1)
    elif name != "stl10":
        images = images.permute(0, 3, 1, 2).contiguous()
    labels = torch.as_tensor(found.labels if name == "stl10" else found.targets, dtype=torch.int64)
    return ImageSet(images, labels, CLASSES.get(name) or tuple(found.classes), title=TITLES[name])


def _image_folder(path):
    folder = torchvision.datasets.ImageFolder(path)
    paths, labels = zip(*folder.samples)
    return ImageFiles(paths, torch.tensor(labels), tuple(folder.classes), TITLES["imagenet"])
