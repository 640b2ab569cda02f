"""Long-tailed sets: class sizes by the published rule in exact arithmetic, and published totals; subsets; lists of
files.
"""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from image_sets import image_set, which
from PIL import Image

from labkit.vision import fields, longtail, pipelines


def exactly(largest, num_classes, imbalance, c):
    """⌊largest · imbalance^(−c/(C−1))⌋: the largest whole n with n^(C−1) · imbalance^c ≤ largest^(C−1), in whole
    numbers.
    """
    n = max(int(largest * math.exp(-math.log(imbalance) * c / (num_classes - 1))) - 2, 0)
    while (n + 1) ** (num_classes - 1) * imbalance**c <= largest ** (num_classes - 1):
        n += 1
    return n


# The totals at imbalance 100 are those in the papers that use these sets.
@pytest.mark.parametrize(
    "largest, num_classes, imbalance, total",
    [
        (5000, 10, 10, None),
        (5000, 10, 50, None),
        (5000, 10, 100, 12406),
        (500, 100, 10, None),
        (500, 100, 50, None),
        (500, 100, 100, 10847),
        (49, 7, 49, None),
        (1280, 1000, 256, None),
        (32, 6, 32, 63),  # by hand 32, 16, 8, 4, 2, 1; a power of 4/5 is rounded upwards, and its quotient downwards
        (1280, 11, 1024, None),
    ],
)
def test_exponential(largest, num_classes, imbalance, total):
    sizes = longtail.exponential(largest, num_classes, imbalance)
    assert sizes == [exactly(largest, num_classes, imbalance, c) for c in range(num_classes)]
    assert sizes[0] == largest and sizes[-1] == largest // imbalance
    assert total is None or sum(sizes) == total


def test_step():
    assert longtail.step(500, 4, 50) == [500, 500, 10, 10]
    assert longtail.step(49, 5, 49) == [49, 49, 1, 1, 1]


def test_a_subset_has_the_counts_and_its_images():
    whole = image_set([50, 30, 20])
    sizes = [50, 7, 0]
    part = longtail.subset(whole, sizes, seed=1)
    assert part.counts().tolist() == sizes and part.classes == whole.classes
    i = which(part.images)
    assert torch.equal(i, i.unique())  # in order, each once
    assert torch.equal(part.images, whole.images[i]) and torch.equal(part.labels, whole.labels[i])


def test_cifar100_lt_by_its_shapes():
    whole = image_set([500] * 100, size=1, channels=2)
    part = longtail.subset(whole, longtail.exponential(500, 100, 100))
    assert len(part) == 10847 and part.counts()[[0, 50, 99]].tolist() == [500, 48, 5]  # 500 / 100^(50/99) = 48.8
    assert part.counts().diff().max() <= 0


def test_subsets_are_drawn_by_the_seed():
    whole = image_set([50, 30])
    drawn = [tuple(which(longtail.subset(whole, [10, 10], seed).images).tolist()) for seed in (0, 1, 2, 0)]
    assert drawn[0] == drawn[3] and len(set(drawn)) == 3
    seen = torch.zeros(80)
    for seed in range(1000):
        seen[which(longtail.subset(whole, [10, 10], seed).images)] += 1
    expected = torch.where(whole.labels == 0, 200, 1000 / 3)  # each image as often as any other of its class
    assert ((seen - expected).abs() < 5 * (expected * (1 - expected / 1000)).sqrt()).all()


def test_subset_errors():
    whole = image_set([5, 3])
    for counts, message in [
        ([5], "one number for each of the 2 classes, got (1,)"),
        ([5, 4], "class 1 (class 1) has 3 images, so counts[1] cannot be 4"),
        ([-1, 3], "class 0 (class 0) has 5 images, so counts[0] cannot be -1"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            longtail.subset(whole, counts)


def test_rule_errors():
    for rule in (longtail.exponential, longtail.step):
        for arguments, message in [
            ((0, 10, 10), "largest must be a finite number above 0, got 0"),
            ((500, 1, 10), "num_classes must be an integer of at least 2, got 1"),
            ((500, 10, 0.01), "imbalance is the largest class over the smallest, at least 1; got 0.01"),
        ]:
            with pytest.raises(ValueError, match=message):
                rule(*arguments)


@pytest.fixture
def listed(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("a b.png", "c.png"):
        Image.new("L", (3, 2), 9).save(tmp_path / "train" / name)
    path = tmp_path / "list.txt"
    path.write_text("train/a b.png 2\ntrain/c.png 0\n\ntrain/c.png 2\n")
    return path


def test_read_list(listed):
    files = longtail.read_list(listed, listed.parent)
    assert (
        files.labels.tolist() == [2, 0, 2] and files.classes == ("0", "1", "2") and files.counts().tolist() == [1, 0, 2]
    )
    assert files.open(0).size == (3, 2) and files.open(0).mode == "RGB"
    assert longtail.read_list(listed, listed.parent, ["x", "y", "z", "w"]).counts().tolist() == [1, 0, 2, 0]
    few = longtail.subset(files, [1, 0, 1])
    assert few.counts().tolist() == [1, 0, 1] and set(few.paths) <= set(files.paths)


def test_list_errors(listed):
    with pytest.raises(FileNotFoundError, match="no list of pictures at .*nowhere.txt"):
        longtail.read_list(listed.parent / "nowhere.txt", listed.parent)
    with pytest.raises(
        FileNotFoundError, match=re.escape(f"{listed} lists {listed / 'train/a b.png'}, which is not there")
    ):
        longtail.read_list(listed, listed)
    with pytest.raises(ValueError, match="line 1: expected a path, a space and a label below 2, got 'train/a b.png 2'"):
        longtail.read_list(listed, listed.parent, ["x", "y"])
    for line in ("train/c.png", "train/c.png -1", "train/c.png cat"):
        listed.write_text(f"train/c.png 0\n{line}\n")
        with pytest.raises(ValueError, match=f"line 2: expected a path, a space and a label, got '{line}'"):
            longtail.read_list(listed, listed.parent)
    listed.write_text("\n")
    with pytest.raises(ValueError, match="lists no picture"):
        longtail.read_list(listed, listed.parent)


def test_every_picture_must_be_there(listed):
    listed.write_text(listed.read_text() + "train/d.png 1\ntrain/e.png 1\n")
    expected = f"{listed} lists {listed.parent / 'train/d.png'}, which is not there; so it is with 2 of 5 pictures"
    with pytest.raises(FileNotFoundError, match=re.escape(expected)):
        longtail.read_list(listed, listed.parent)


@pytest.mark.parametrize("name", list(fields.LISTS))
def test_published_lists(name, tmp_path):
    """Made-up lists under the published names, read through a recipe's loader."""
    (tmp_path / name / "pictures").mkdir(parents=True)
    for k in range(3):
        Image.new("RGB", (5, 4), (k, 0, 0)).save(tmp_path / name / "pictures" / f"{k}.jpg")
    train, test = (tmp_path / name / part for part in fields.LISTS[name])
    last = fields.LISTED_CLASSES[name] - 1
    train.write_text(f"pictures/0.jpg 0\npictures/1.jpg {last}\npictures/2.jpg {last}\n")
    test.write_text("pictures/2.jpg 7\n")
    settings = fields.FIELDS | {"data": name}
    found, other = pipelines.load(settings, tmp_path)
    assert len(found.classes) == len(other.classes) == last + 1
    assert found.labels.tolist() == [0, last, last] and other.labels.tolist() == [7]
    assert found.counts()[[0, 1, last]].tolist() == [1, 0, 2] and found.open(2).size == (5, 4)
    test.write_text(f"pictures/2.jpg {last + 1}\n")
    with pytest.raises(ValueError, match=f"{test.name}, line 1: expected a path, a space and a label below {last + 1}"):
        pipelines.load(settings, tmp_path)


def test_counts_are_whole_numbers():
    # NaN passed every comparison, and gave no image of its class
    images = image_set([9] * 10)
    for bad in (float("nan"), 2.5, float("inf")):
        with pytest.raises(ValueError, match="counts must be whole numbers, got"):
            longtail.subset(images, [5.0] * 9 + [bad])
    assert len(longtail.subset(images, [5.0] * 10)) == 50


def test_class_sizes_equal_the_released_code():
    outside = np.load(Path(__file__).parents[1] / "outside" / "longtail-counts.npz")
    names = [name for name in outside if name.startswith("counts")]
    assert len(names) == 12
    for name in names:
        kind, classes, ratio = re.fullmatch(r"counts_(\w+)_total50000_C(\d+)_imb(\d+)", name).groups()
        rule = {"exp": longtail.exponential, "step": longtail.step}[kind]
        assert rule(50000 // int(classes), int(classes), int(ratio)) == outside[name].tolist(), name


def test_sizes_that_fit():
    assert longtail.fitting([5000] * 10, 100) == longtail.exponential(5000, 10, 100)
    assert longtail.fitting([119, 122, 118], 4) == [119, 59, 29]
    assert longtail.fitting([500, 100, 400], 4) == [200, 100, 50]  # the second class is short
    # 1000^(2/3) comes out as 99.99999999999997: 99 images of the first class would leave none of the third
    assert longtail.fitting([1000, 1000, 1, 1000], 1000) == [100, 10, 1, 0]
    for available in ([119, 122, 118, 121], [500, 33, 400, 7]):
        for ratio in (1, 3, 50):
            sizes = longtail.fitting(available, ratio)
            assert all(n <= there for n, there in zip(sizes, available))
            larger = longtail.exponential(sizes[0] + 1, 4, ratio)
            assert any(n > there for n, there in zip(larger, available)) or ratio > 1
