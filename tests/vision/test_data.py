"""Image sets: shapes, counts and splits; each layout on files made here; and what is said where a set is missing."""

import hashlib
import json
import os
import pickle
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from image_sets import encoded, image_set, pixels, write_parquet
from PIL import Image
from torchvision import datasets

from labkit.vision import data


def digests(images):
    return [hashlib.sha256(x.numpy().tobytes()).digest() for x in images]


# --- digits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split, count", [("train", 1201), ("test", 596)])
def test_digits(split, count):
    digits = data.load("digits", split)
    assert digits.images.shape == (count, 1, 8, 8) and digits.images.dtype == torch.uint8
    assert digits.labels.shape == (count,) and digits.labels.dtype == torch.int64
    assert digits.images.min() == 0 and digits.images.max() == digits.white == 16
    assert digits.classes == tuple("0123456789") and digits.labels.unique().tolist() == list(range(10))


def test_digits_are_split_evenly_over_the_classes():
    train, test = (data.load("digits", split).counts() for split in data.SPLITS)
    assert ((test / (train + test) - 1 / 3).abs() < 0.01).all()


def test_no_digit_is_in_both_splits_or_twice():
    train, test = (digests(data.load("digits", split).images) for split in data.SPLITS)
    assert len(set(train)) == len(train) and len(set(test)) == len(test)
    assert set(train).isdisjoint(test)
    assert len(train) + len(test) == 1797


def test_digits_are_the_same_every_time():
    for split in data.SPLITS:
        first, second = data.load("digits", split), data.load("digits", split)
        assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        data.load("digits", "train")


# --- a set --------------------------------------------------------------------------------------------------------


def test_floats_are_between_0_and_1():
    images, _ = data.load("digits", "test").floats()
    assert images.dtype == torch.float32 and images.min() == 0 and images.max() == 1
    assert torch.equal((images * 16).byte(), data.load("digits", "test").images)


def test_parts_keep_the_classes():
    whole = image_set([3, 4, 2])
    part = whole[torch.tensor([8, 0])]
    assert torch.equal(part.images, whole.images[[8, 0]]) and torch.equal(part.labels, whole.labels[[8, 0]])
    assert part.classes == whole.classes and len(part) == 2 and part.counts().sum() == 2 and len(part.counts()) == 3
    assert whole.counts().tolist() == [3, 4, 2] and len(whole[:5]) == 5


@pytest.mark.parametrize("white", [255, 16])
def test_normalise_standardises_every_channel(white):
    images = image_set([20, 20])
    images = data.ImageSet(images.images // (256 // white), images.labels, images.classes, white)
    mean, std = (getattr(images.floats()[0].double(), m)((0, 2, 3)) for m in ("mean", "std"))
    n = images.images[:, 0].numel()
    normalise = images.normalise()
    torch.testing.assert_close(normalise.mean.flatten(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(normalise.std.flatten(), std * (1 - 1 / n) ** 0.5, rtol=1e-6, atol=0)
    x = normalise(images.images).double()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.var((0, 2, 3), unbiased=False), torch.ones(3).double(), rtol=1e-5, atol=0)


def test_a_set_of_one_colour_cannot_be_normalised():
    with pytest.raises(ValueError, match="std no zero"):
        data.ImageSet(torch.full((2, 3, 4, 4), 7, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b")).normalise()


def test_a_set_refuses_what_is_not_one():
    images, labels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 2])
    with pytest.raises(ValueError, match="labels must lie in 0 … 1, got values from 0 to 2"):
        data.ImageSet(images, labels, ("a", "b"))
    with pytest.raises(ValueError, match=r"images must be uint8 \(N, C, H, W\), got torch.float32 \(2, 3, 4, 4\)"):
        data.ImageSet(images.float(), labels, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        data.ImageSet(images, torch.tensor([0]), ("a", "b"))


# --- Parquet ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("img", "label"), ("image", "label"), ("img", "fine_label")])
def test_parquet_pixels_and_labels(tmp_path, names):
    write_parquet(
        tmp_path / "cifar10-test.parquet", [encoded(p) for p in pixels()], [3, 1, 4, 1, 5], names, row_group_size=2
    )
    test = data.load("cifar10", "test", tmp_path)
    assert test.images.dtype == torch.uint8 and test.images.is_contiguous() and test.labels.dtype == torch.int64
    np.testing.assert_array_equal(test.images.permute(0, 2, 3, 1), pixels())
    assert test.labels.tolist() == [3, 1, 4, 1, 5]
    assert len(test.classes) == 10 and test.classes[3] == "cat"


def test_the_first_images_only(tmp_path):
    write_parquet(tmp_path / "cifar10-test.parquet", [encoded(p) for p in pixels()], [3, 1, 4, 1, 5])
    for name in ("digits", "cifar10"):
        whole, part = (data.load(name, "test", tmp_path, count) for count in (None, 3))
        assert len(part) == 3
        assert torch.equal(part.images, whole.images[:3]) and torch.equal(part.labels, whole.labels[:3])


def test_parquet_jpeg_and_grey_pictures_become_colour(tmp_path):
    grey = np.full((32, 32), 100, np.uint8)
    write_parquet(tmp_path / "a.parquet", [encoded(grey, "JPEG"), encoded(grey)], [0, 1])
    images = data.read_parquet(tmp_path / "a.parquet").images
    assert images.shape == (2, 3, 32, 32) and ((images.int() - 100).abs() <= 2).all()


def test_the_title_tells_of_pixels_that_are_not_the_authors(tmp_path):
    for kind, title in (("PNG", "CIFAR-10"), ("JPEG", "CIFAR-10, JPEG re-encoded")):
        write_parquet(tmp_path / "cifar10-test.parquet", [encoded(p, kind) for p in pixels()], [3, 1, 4, 1, 5])
        assert data.load("cifar10", "test", tmp_path)[:2].title == title
    pictures = [encoded(p, "JPEG") for p in pixels()]  # as ImageNet's own pictures are
    write_parquet(tmp_path / "imagenet1k-one-per-class-96px.parquet", pictures, [3, 1, 4, 1, 5])
    assert data.load("imagenet-one-per-class", "train", tmp_path).title == data.TITLES["imagenet-one-per-class"]
    assert data.load("digits", "test").title == "scikit-learn's digits"


def test_class_names_from_the_hub_or_a_column_or_none(tmp_path):
    path, pictures = tmp_path / "a.parquet", [encoded(p) for p in pixels(3)]
    hub = json.dumps({"info": {"features": {"label": {"names": ["cat", "dog", "emu"], "_type": "ClassLabel"}}}})
    write_parquet(path, pictures, [0, 1, 1], metadata={"huggingface": hub})
    assert data.read_parquet(path).classes == ("cat", "dog", "emu")
    write_parquet(path, pictures, [2, 0, 2], name=pa.array(["yak", "ant", "yak"]))
    assert data.read_parquet(path).classes == ("ant", "1", "yak")
    assert data.read_parquet(path, 2).classes == ("ant", "1", "yak")
    write_parquet(path, pictures, [2, 0, 2])
    assert data.read_parquet(path).classes == ("0", "1", "2")


def test_parquet_of_another_layout(tmp_path):
    path = tmp_path / "cifar10-test.parquet"
    write_parquet(path, [encoded(pixels()[0])], [0], names=("picture", "class"))
    with pytest.raises(
        ValueError, match="cifar10-test.parquet has no column img or label; its columns: picture, class"
    ):
        data.load("cifar10", "test", tmp_path)
    write_parquet(path, [encoded(pixels()[0])], [10])
    with pytest.raises(ValueError, match="labels must lie in 0 … 9"):
        data.load("cifar10", "test", tmp_path)
    write_parquet(path, [encoded(pixels(1, size)[0]) for size in (32, 16)], [0, 1])
    with pytest.raises(ValueError, match=r"cifar10-test.parquet must hold pictures of one size.*16, 16, 3"):
        data.load("cifar10", "test", tmp_path)


# --- torchvision's files ------------------------------------------------------------------------------------------


@pytest.fixture
def checksums_ignored(monkeypatch):
    for module in (datasets.cifar, datasets.stl10):
        monkeypatch.setattr(module, "check_integrity", lambda *_: True)


def write_cifar(folder, parts, key, meta, names):
    """CIFAR as its authors pack it: rows of 3072 bytes, red first."""
    folder.mkdir()
    for file, (pictures, labels) in parts.items():
        rows = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)
        (folder / file).write_bytes(pickle.dumps({"data": rows, key: labels}))
    (folder / meta).write_bytes(pickle.dumps({names: [f"kind {c}" for c in range(100)]}))


def test_cifar10_from_torchvisions_folder(tmp_path, checksums_ignored):
    parts = {f"data_batch_{k}": (pixels(2, seed=k), [k, k + 1]) for k in range(1, 6)} | {
        "test_batch": (pixels(2), [9, 0])
    }
    write_cifar(tmp_path / "cifar-10-batches-py", parts, "labels", "batches.meta", "label_names")
    train, test = (data.load("cifar10", split, tmp_path) for split in data.SPLITS)
    assert train.labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6] and test.labels.tolist() == [9, 0]
    np.testing.assert_array_equal(train.images[2:4].permute(0, 2, 3, 1), pixels(2, seed=2))
    np.testing.assert_array_equal(test.images.permute(0, 2, 3, 1), pixels(2))
    assert train.images.is_contiguous() and train.classes == data.CLASSES["cifar10"] and train.title == "CIFAR-10"
    assert data.present("cifar10", tmp_path)
    write_parquet(tmp_path / "cifar10-test.parquet", [encoded(pixels(1)[0])], [7])  # Parquet goes first
    assert data.load("cifar10", "test", tmp_path).labels.tolist() == [7]


def test_cifar100_from_torchvisions_folder(tmp_path, checksums_ignored):
    parts = {"train": (pixels(3), [99, 1, 0]), "test": (pixels(1), [5])}
    write_cifar(tmp_path / "cifar-100-python", parts, "fine_labels", "meta", "fine_label_names")
    train = data.load("cifar100", "train", tmp_path, 2)
    assert train.labels.tolist() == [99, 1] and train.classes[99] == "kind 99" and len(train.classes) == 100


def test_stl10_from_torchvisions_folder(tmp_path, checksums_ignored):
    folder, pictures = tmp_path / "stl10_binary", pixels(2, 96)
    folder.mkdir()
    pictures.transpose(0, 3, 2, 1).tofile(folder / "test_X.bin")  # column by column
    np.array([1, 10], np.uint8).tofile(folder / "test_y.bin")  # classes from 1 on
    (folder / "class_names.txt").write_text("\n".join(data.CLASSES["stl10"]))
    test = data.load("stl10", "test", tmp_path)
    np.testing.assert_array_equal(test.images.permute(0, 2, 3, 1), pictures)
    assert test.labels.tolist() == [0, 9] and test.classes[9] == "truck"


def test_a_damaged_folder_is_named(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match="cifar-10-batches-py is there, but torchvision does not take it for cifar10"):
        data.load("cifar10", "train", tmp_path)


def test_downloads_only_when_asked(tmp_path, monkeypatch):
    class Fetched(Exception):
        pass

    def fetch(*_, **__):
        raise Fetched

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", fetch)
    with pytest.raises(FileNotFoundError):
        data.load("cifar100", "test", tmp_path)
    with pytest.raises(Fetched):
        data.load("cifar100", "test", tmp_path, download=True)
    write_parquet(tmp_path / "cifar100-test.parquet", [encoded(pixels()[0])], [99])
    assert len(data.load("cifar100", "test", tmp_path, download=True)) == 1  # it is there already
    for name in ("digits", "imagenet"):
        with pytest.raises(ValueError, match=f"download=True is for mnist, cifar10, cifar100, stl10; got '{name}'"):
            data.load(name, "test", tmp_path, download=True)


# --- ImageNet -----------------------------------------------------------------------------------------------------


def test_imagenet_from_folders(tmp_path):
    for split, n in (("train", 2), ("val", 1)):
        for wnid in ("n02", "n01", "n10"):
            folder = tmp_path / "imagenet" / split / wnid
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(np.full((4, 5), 20 * int(wnid[1:]) + i, np.uint8)).save(folder / f"{i}.png")
    train, test = (data.load("imagenet", split, tmp_path) for split in data.SPLITS)
    assert train.classes == test.classes == ("n01", "n02", "n10")
    assert train.labels.tolist() == [0, 0, 1, 1, 2, 2] and test.labels.tolist() == [0, 1, 2]
    assert [train.open(i).getpixel((0, 0)) for i in (1, 4)] == [(21, 21, 21), (200, 200, 200)]
    assert train.open(0).size == (5, 4) and train.counts().tolist() == [2, 2, 2] and len(train[:3]) == 3
    assert train[torch.tensor([5, 0])].paths == (train.paths[5], train.paths[0])
    assert data.present("imagenet", tmp_path)


def test_one_per_class_has_no_test_split(tmp_path):
    with pytest.raises(ValueError, match="split must be one of 'train'; got 'test'"):
        data.load("imagenet-one-per-class", "test", tmp_path)


# --- where sets are, and are not ----------------------------------------------------------------------------------


def test_root_from_the_environment(tmp_path, monkeypatch):
    write_parquet(tmp_path / "cifar10-train.parquet", [encoded(pixels()[0])], [7])
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    assert data.load("cifar10", "train").labels.tolist() == [7]
    with pytest.raises(FileNotFoundError, match="elsewhere"):  # an argument goes before the environment
        data.load("cifar10", "train", tmp_path / "elsewhere")


@pytest.mark.parametrize("asked", ["the argument root", "LABKIT_DATA", "the default"])
def test_a_missing_set_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LABKIT_DATA", raising=False)
    root = tmp_path / "data" if asked == "the argument root" else None
    if asked == "LABKIT_DATA":
        monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "data"))
    looked = {"cifar10": ["cifar10-test.parquet", "cifar-10-batches-py"], "imagenet": ["imagenet/val"]}
    for name, places in looked.items():
        with pytest.raises(FileNotFoundError) as error:
            data.load(name, "test", root)
        message = str(error.value)
        assert " or ".join(str(tmp_path / "data" / place) for place in places) + f" (folder from {asked})" in message
        assert ("give as root" if root else "set LABKIT_DATA to") in message and ("download=True" in message) == (
            name == "cifar10"
        )


def test_present(tmp_path):
    assert data.present("digits") and not data.present("cifar10", tmp_path)
    write_parquet(tmp_path / "cifar10-test.parquet", [encoded(pixels()[0])], [0])
    assert not data.present("cifar10", tmp_path)
    write_parquet(tmp_path / "cifar10-train.parquet", [encoded(pixels()[0])], [0])
    assert data.present("cifar10", tmp_path)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="name must be one of 'digits', 'mnist', .*; got 'emnist'"):
        data.load("emnist", "train")
    with pytest.raises(ValueError, match="split must be one of 'train', 'test'; got 'valid'"):
        data.load("digits", "valid")


# --- the sets themselves, where LABKIT_DATA has them --------------------------------------------------------------


def wanted(name):
    there = "LABKIT_DATA" in os.environ and data.present(name)
    return pytest.mark.skipif(not there, reason=f"no {name} in LABKIT_DATA")


@wanted("cifar10")
def test_cifar10_has_every_class_evenly_and_its_own_images():
    for split, each in (("train", 5000), ("test", 1000)):
        part = data.load("cifar10", split, count=500)
        assert part.images.shape == (500, 3, 32, 32) and part.counts().min() > 20
        assert len(set(digests(part.images))) == 500 and part.title.startswith("CIFAR-10")
        path = data.find("cifar10", split)
        if path.suffix == ".parquet":
            assert np.bincount(pq.read_table(path)["label"].to_numpy()).tolist() == [each] * 10


@wanted("cifar10")
def test_no_cifar10_image_is_in_both_splits():
    """By the encoded bytes, which are equal where one encoder was given equal pixels; decoding all takes ten
    seconds.
    """
    paths = [data.find("cifar10", split) for split in data.SPLITS]
    if {path.suffix for path in paths} != {".parquet"}:
        pytest.skip("CIFAR-10 is there as torchvision keeps it")
    train, test = (pq.read_table(path)["img"].combine_chunks().field("bytes").to_pylist() for path in paths)
    assert len(train) == 50000 and len(test) == 10000
    assert set(train).isdisjoint(test)


@wanted("imagenet-one-per-class")
def test_imagenet_one_per_class_counts_its_classes_as_folders_would():
    images = data.load("imagenet-one-per-class", "train")
    assert images.images.shape == (1000, 3, 96, 96) and images.counts().tolist() == [1] * 1000
    assert images.classes[0] == "tench" and images.classes[999] == "toilet tissue"
    table = pq.read_table(data.find("imagenet-one-per-class", "train"), columns=["label", "wnid"])
    wnids = dict(zip(table["label"].to_pylist(), table["wnid"].to_pylist()))
    assert [wnids[c] for c in range(1000)] == sorted(wnids.values())


def test_scribbles_of_some_hands_tell_the_characters_of_others():
    """By the nearest mean in pixels: far above chance, and far from all."""
    train, test = (data.load("scribbles", split) for split in data.SPLITS)
    assert train.images.shape == (242 * 15, 1, 32, 32) and test.images.shape == (242 * 5, 1, 32, 32)
    assert set(train.counts().tolist()) == {15} and set(test.counts().tolist()) == {5}
    assert torch.equal(test.images, data.load("scribbles", "test").images) and data.present("scribbles")
    assert len({picture.numpy().tobytes() for part in (train, test) for picture in part.images}) == 242 * 20
    ink = (train.images == 0).float().mean()
    assert 0.03 < ink < 0.3
    means = train.images.float().view(242, 15, -1).mean(1)
    right = torch.cdist(test.images.float().flatten(1), means).argmin(1) == test.labels
    assert 0.5 < right.float().mean() < 0.9


def test_patterns_are_a_thousand_different_pictures():
    found = data.load("patterns", "train")
    assert found.images.shape == (1000, 3, 96, 96) and found.labels.tolist() == list(range(1000))
    assert len({picture.numpy().tobytes() for picture in found.images}) == 1000
    assert torch.equal(found.images, data.load("patterns", "train").images) and data.present("patterns")
    steps = found.images.int().diff(dim=-1).abs().float()
    assert steps.mean() < 10 and found.images.float().std() > 40  # smooth, and not flat
    with pytest.raises(ValueError, match="split must be one of 'train'; got 'test'"):
        data.load("patterns", "test")


@pytest.mark.parametrize("count", [0, -1, -5, 1.5, True])
def test_a_count_is_at_least_one(tmp_path, count):
    # -5 left out the last five
    write_parquet(tmp_path / "cifar10-test.parquet", [encoded(x) for x in pixels(3)], [0, 1, 2])
    for name in ("digits", "cifar10"):
        with pytest.raises(ValueError, match="count must be an integer of at least 1, got"):
            data.load(name, "test", tmp_path, count)
    assert len(data.load("cifar10", "test", tmp_path, np.int64(2))) == 2


@pytest.mark.parametrize("labels", [[0.0, 1.7, 2.0], [0, 1, 2**40], [0, -1, 2], [0, None, 2], ["a", "b", "c"]])
def test_labels_that_are_no_classes(tmp_path, labels):
    # 1.7 became 1, and 2**40 filled the memory with names
    path = tmp_path / "cifar10-test.parquet"
    write_parquet(path, [encoded(x) for x in pixels(3)], [0, 1, 2])
    table = pq.read_table(path)
    at = table.column_names.index("label")
    pq.write_table(table.set_column(at, "label", pa.array(labels)), path)
    with pytest.raises(ValueError, match="cifar10-test.parquet, column label: labels must be whole numbers from 0 to"):
        data.read_parquet(path)


# --- Omniglot -----------------------------------------------------------------------------------------------------


def test_omniglot_is_split_by_drawer(tmp_path):
    """Two characters drawn by seventeen people, in an order that is not that of the drawers."""
    drawer, label = np.tile(np.arange(17, 0, -1), 2), np.repeat([1, 0], 17)
    pictures = [encoded(np.full((9, 9), 10 * d + c, np.uint8)) for d, c in zip(drawer, label)]
    about = {"alphabet": pa.array(["Greek"] * 34), "character": pa.array([f"character0{c + 1}" for c in label])}
    write_parquet(tmp_path / "omniglot-242.parquet", pictures, label, drawer=pa.array(drawer), **about)
    train, test = (data.load("omniglot", split, root=tmp_path) for split in data.SPLITS)
    assert train.images.shape == (30, 1, 9, 9) and test.images.shape == (4, 1, 9, 9)
    assert sorted(test.images[:, 0, 0, 0].tolist()) == [160, 161, 170, 171]
    for part in (train, test):
        assert torch.equal(part.images[:, 0, 0, 0] % 10, part.labels)
        assert part.classes == ("Greek, character01", "Greek, character02")
    assert len(data.load("omniglot", "train", root=tmp_path, count=3)) == 3
    with pytest.raises(FileNotFoundError, match="omniglot-242.parquet"):
        data.load("omniglot", "test", root=tmp_path / "elsewhere")


def test_omniglot_as_it_is():
    """The file itself, where it is at hand: 15 and 5 drawings of each of 242 characters, ink on white."""
    if not data.present("omniglot"):
        pytest.skip("omniglot-242.parquet is not at hand")
    train, test = (data.load("omniglot", split) for split in data.SPLITS)
    assert train.counts().tolist() == [15] * 242 and test.counts().tolist() == [5] * 242
    assert train.images.unique().tolist() == [0, 255] and 0.85 < train.floats()[0].mean() < 0.98
