"""Image sets: shapes, ranges and splits; the Parquet reader on files made here; and what is said where a set is missing."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from labkit import data


def encoded(pixels, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return {"bytes": file.getvalue(), "path": None}


def write(path, pictures, labels, names=("img", "label")):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({names[0]: pa.array(pictures, kind), names[1]: pa.array(labels, pa.int64())}), path)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


# --- digits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split, count", [("train", 1201), ("test", 596)])
def test_digits(split, count):
    images, labels = data.load("digits", split)
    assert images.shape == (count, 1, 8, 8) and images.dtype == torch.float32
    assert labels.shape == (count,) and labels.dtype == torch.int64
    assert images.min() == 0 and images.max() == 1
    assert labels.unique().tolist() == list(range(10))


def test_digits_are_split_evenly_over_the_classes():
    train, test = (torch.bincount(data.load("digits", split)[1]) for split in data.SPLITS)
    assert ((test / (train + test) - 1 / 3).abs() < 0.01).all()


def test_no_digit_is_in_both_splits_or_twice():
    train, test = ([x.numpy().tobytes() for x in data.load("digits", split)[0]] for split in data.SPLITS)
    assert len(set(train)) == len(train) and len(set(test)) == len(test)
    assert set(train).isdisjoint(test)
    assert len(train) + len(test) == 1797


def test_digits_are_the_same_every_time():
    for split in data.SPLITS:
        for first, second in zip(data.load("digits", split), data.load("digits", split)):
            assert torch.equal(first, second)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        data.load("digits", "train")


# --- Parquet ------------------------------------------------------------------------------------------------------


def test_parquet_pixels_and_labels(tmp_path, pixels):
    write(tmp_path / "cifar10-test.parquet", [encoded(p) for p in pixels], [3, 1, 4, 1, 5])
    images, labels = data.load("cifar10", "test", tmp_path)
    assert images.dtype == torch.float32 and images.is_contiguous() and labels.dtype == torch.int64
    np.testing.assert_array_equal((images * 255).round().byte().permute(0, 2, 3, 1), pixels)
    assert labels.tolist() == [3, 1, 4, 1, 5]


def test_the_first_images_only(tmp_path, pixels):
    write(tmp_path / "cifar10-test.parquet", [encoded(p) for p in pixels], [3, 1, 4, 1, 5])
    for name in data.NAMES:
        whole, part = (data.load(name, "test", tmp_path, count) for count in (None, 3))
        assert len(part[0]) == len(part[1]) == 3
        assert torch.equal(part[0], whole[0][:3]) and torch.equal(part[1], whole[1][:3])


def test_parquet_in_several_row_groups(tmp_path, pixels):
    path = tmp_path / "a.parquet"
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"img": pa.array([encoded(p) for p in pixels], kind), "label": pa.array(range(5), pa.int64())})
    pq.write_table(table, path, row_group_size=2)
    images, labels = data.read_parquet(path)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal((images * 255).round().byte().permute(0, 2, 3, 1), pixels)


def test_parquet_jpeg_and_grey_pictures_become_colour(tmp_path):
    grey = np.full((32, 32), 100, np.uint8)
    write(tmp_path / "a.parquet", [encoded(grey, "JPEG"), encoded(grey)], [0, 1])
    images, _ = data.read_parquet(tmp_path / "a.parquet")
    assert images.shape == (2, 3, 32, 32)
    torch.testing.assert_close(images, torch.full_like(images, 100 / 255), atol=2 / 255, rtol=0)


def test_parquet_of_another_layout(tmp_path, pixels):
    write(tmp_path / "cifar10-test.parquet", [encoded(pixels[0])], [0], names=("image", "label"))
    with pytest.raises(ValueError, match="cifar10-test.parquet has no column img; its columns: image, label"):
        data.load("cifar10", "test", tmp_path)


# --- where sets are, and are not ----------------------------------------------------------------------------------


def test_root_from_the_environment(tmp_path, pixels, monkeypatch):
    write(tmp_path / "cifar10-train.parquet", [encoded(pixels[0])], [7])
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    assert data.load("cifar10", "train")[1].tolist() == [7]
    with pytest.raises(FileNotFoundError, match="elsewhere"):  # an argument goes before the environment
        data.load("cifar10", "train", tmp_path / "elsewhere")


@pytest.mark.parametrize("asked", ["the argument root", "LABKIT_DATA", "the default"])
def test_a_missing_set_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LABKIT_DATA", raising=False)
    root = tmp_path / "data" if asked == "the argument root" else None
    if asked == "LABKIT_DATA":
        monkeypatch.setenv("LABKIT_DATA", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError) as error:
        data.load("cifar10", "test", root)
    message = str(error.value)
    assert str(tmp_path / "data" / "cifar10-test.parquet") in message and f"(folder from {asked})" in message
    assert "columns img (bytes) and label" in message and "set LABKIT_DATA" in message


def test_present(tmp_path, pixels):
    assert data.present("digits") and not data.present("cifar10", tmp_path)
    for split in data.SPLITS:
        write(tmp_path / f"cifar10-{split}.parquet", [encoded(pixels[0])], [0])
    assert data.present("cifar10", tmp_path)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="name must be one of 'digits', 'cifar10'; got 'mnist'"):
        data.load("mnist", "train")
    with pytest.raises(ValueError, match="split must be one of 'train', 'test'; got 'valid'"):
        data.load("digits", "valid")
