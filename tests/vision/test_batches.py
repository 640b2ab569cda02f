"""Batches: every image once, the same for the same seed and epoch, shares that make up the whole, and classes spread
evenly.
"""

import itertools

import pytest
import torch
from image_sets import image_set, which
from PIL import Image
from torchvision.transforms import v2

from labkit.vision import longtail
from labkit.vision.augment import Cutout, Flip, PaddedCrop, Rotation, Torchvision
from labkit.vision.batches import Batches, FileBatches, stratified
from labkit.vision.data import ImageFiles

ORDERS = ("shuffled", "stratified", "sequential")
SET = image_set([40, 20, 10, 33])
MIX = v2.RandomChoice([v2.MixUp(num_classes=4), v2.CutMix(num_classes=4)])


def heavy(images):
    """One of everything."""
    return [Flip(), PaddedCrop(1), Rotation(10), Torchvision(v2.RandAugment()), images.normalise(), Cutout(2)]


def same(first, second):
    first, second = list(first), list(second)
    return len(first) == len(second) and all(torch.equal(a, b) for x, y in zip(first, second) for a, b in zip(x, y))


# --- order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_image_once_an_epoch_with_its_label(order, drop_last):
    batches = Batches(SET, 16, order=order, drop_last=drop_last)
    found = list(batches.epoch(0))
    assert len(batches) == len(found) == (6 if drop_last else 7)
    assert [len(x) for x, _ in found] == [16] * 6 + ([] if drop_last else [7])
    images, labels = (torch.cat(part) for part in zip(*found))
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    i = which(images)
    assert len(i.unique()) == len(i)
    assert (
        torch.equal(images, SET.images[i]) and torch.equal(labels, SET.labels[i]) and torch.equal(i, batches.indices(0))
    )
    if order == "sequential":
        assert torch.equal(i, torch.arange(len(i)))


@pytest.mark.parametrize("order", ["shuffled", "stratified"])
def test_epochs_and_seeds_differ_and_repeat(order):
    orders = {
        (seed, k): tuple(Batches(SET, 16, order=order, seed=seed).indices(k).tolist())
        for seed, k in itertools.product(range(3), range(3))
    }
    assert len(set(orders.values())) == 9
    batches = Batches(SET, 16, order=order, seed=1)
    list(batches.epoch(0))
    assert tuple(batches.indices(2).tolist()) == orders[1, 2]


def test_a_shuffle_is_uniform():
    """Where image 0 lands: chi-squared over 8 places in 4000 epochs, below the 0.999 quantile with 7 degrees of
    freedom.
    """
    few = image_set([5, 3])
    for order in ("shuffled", "stratified"):
        batches = Batches(few, 8, order=order)
        places = torch.stack([batches.indices(k) for k in range(4000)]).argsort(1)
        seen = sum(torch.bincount(places[:, i], minlength=8) for i in (few.labels == 0).nonzero()[:, 0])
        if order == "shuffled":
            seen = torch.bincount(places[:, 0], minlength=8)
            assert ((seen - 500) ** 2 / 500).sum() < 24.3
        assert seen.sum() == 4000 * (1 if order == "shuffled" else 5) and (seen > 0).all()


# --- stratification -----------------------------------------------------------------------------------------------


def tables(labels, batch_size, num_classes, seed=0):
    """How often each class comes in each full batch of a stratified order: (batches, classes)."""
    order = stratified(labels, torch.Generator().manual_seed(seed))
    assert torch.equal(order.sort().values, torch.arange(len(labels)))
    full = labels[order][: len(labels) // batch_size * batch_size].reshape(-1, batch_size)
    return torch.stack([torch.bincount(batch, minlength=num_classes) for batch in full])


@pytest.mark.parametrize("batch_size", [100, 256, 64, 7, 3])
def test_balanced_classes_are_as_even_in_every_batch_as_they_can_be(batch_size):
    labels = torch.arange(1000) % 10
    for seed in range(5):
        found = tables(labels, batch_size, 10, seed)
        assert found.min() == batch_size // 10 and found.max() == -(-batch_size // 10)


@pytest.mark.parametrize(
    "sizes",
    [
        longtail.exponential(500, 100, 100),
        longtail.exponential(5000, 10, 50),
        longtail.step(500, 20, 10),
        [70, 1, 0, 3000],
    ],
)
def test_imbalanced_classes_have_their_share_of_every_batch(sizes):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    share = 128 * torch.tensor(sizes) / len(labels)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    unspread = torch.stack([torch.bincount(b, minlength=len(sizes)) for b in shuffled.split(128) if len(b) == 128])
    for seed in range(3):
        found = (tables(labels, 128, len(sizes), seed) - share).abs().max()
        assert found < 2.5 and found < (unspread - share).abs().max()


def test_stratified_pairs_change_from_epoch_to_epoch():
    """The images that share a batch are not always the same ones."""
    batches = Batches(image_set([20, 20]), 4, order="stratified")
    together = {frozenset(batch.tolist()) for k in range(10) for batch in batches.indices(k).split(4)}
    assert len(together) > 90


# --- repeating, resuming, sharing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mix", [None, MIX], ids=["unmixed", "mixed"])
@pytest.mark.parametrize("order", ORDERS)
def test_an_epoch_is_repeated_and_resumed_bit_for_bit(order, mix):
    def batches(seed=3):
        return Batches(SET, 16, order=order, seed=seed, transforms=heavy(SET), mix=mix)

    torch.manual_seed(0)
    first = list(batches().epoch(2))
    assert same(first, batches().epoch(2))
    torch.rand(5)  # the global generator has no say, and is left alone
    state = torch.get_rng_state()
    assert same(first[4:], batches().epoch(2, start=4))
    assert torch.equal(torch.get_rng_state(), state)
    assert same([], batches().epoch(2, start=7))
    assert not same(first, batches().epoch(1)) and not same(first, batches(seed=4).epoch(2))


@pytest.mark.parametrize("mix", [None, MIX], ids=["unmixed", "mixed"])
@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_shares_make_up_the_batch_of_one_process(order, processes, mix):
    options = dict(order=order, seed=1, transforms=heavy(SET), mix=mix)
    shares = [Batches(SET, 16, rank=rank, processes=processes, **options) for rank in range(processes)]
    whole = Batches(SET, 16, **options)
    assert {len(share) for share in shares} == {len(whole)}
    for batch, *parts in zip(whole.epoch(5), *(share.epoch(5) for share in shares), strict=True):
        assert all(torch.equal(torch.cat(column), expected) for column, expected in zip(zip(*parts), batch))
        sizes = [len(labels) for _, labels in parts]
        assert max(sizes) - min(sizes) <= 1


def test_mixing_is_torchvisions():
    """The same as MixUp of the whole batch, for one of whose weights the images and the labels agree."""
    plain, mixed = (Batches(SET, 16, transforms=[SET.normalise()], mix=m) for m in (None, v2.MixUp(num_classes=4)))
    weights = []
    for (images, labels), (got, soft) in zip(plain.epoch(0), mixed.epoch(0), strict=True):
        one_hot = torch.nn.functional.one_hot(labels, 4).float()
        before, after = one_hot.roll(1, 0), one_hot
        row = (before != after).any(1).nonzero()[0, 0]
        weight = soft[row][labels[row]]
        torch.testing.assert_close(soft, weight * after + (1 - weight) * before)
        torch.testing.assert_close(got, weight * images + (1 - weight) * images.roll(1, 0), rtol=1e-4, atol=1e-5)
        weights.append(float(weight))
    assert len(set(weights)) == len(weights) and min(weights) < 0.5 < max(weights)


def test_errors():
    for options, message in [
        (dict(batch_size=0), "batch_size must be an integer of at least 1, got 0"),
        (dict(batch_size=2.5), "batch_size must be an integer of at least 1, got 2.5"),
        (dict(seed=-1), "seed must be an integer of at least 0, got -1"),
        (dict(order="random"), "order must be one of 'shuffled', 'stratified', .*'sequential'; got 'random'"),
        (dict(rank=2, processes=2), "rank must be one of 0 … 1 for processes=2, got 2"),
        (dict(batch_size=104, drop_last=True), "an epoch has no batch: 103 images, batch_size=104, drop_last=True"),
        (
            dict(batch_size=51, processes=2),
            r"2 processes cannot share a batch of 1 image\(s\); batch_size=51 with 103 images",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            Batches(SET, **{"batch_size": 16, **options})
    assert len(Batches(SET, 51, processes=2, drop_last=True)) == 2
    with pytest.raises(TypeError, match="got torch.uint8: put Normalise among the transforms"):
        next(Batches(SET, 16, mix=MIX).epoch(0))


# --- pictures in files --------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """The pictures of SET, as files."""
    paths = []
    for i, image in enumerate(SET.images[:30]):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[-1])
    return ImageFiles(tuple(paths), SET.labels[:30], SET.classes)


@pytest.mark.parametrize("order", ORDERS)
def test_files_come_as_the_same_pictures_in_memory_would(files, order):
    options = dict(order=order, rank=1, processes=2)
    for k in (0, 1):
        assert same(
            Batches(SET[:30], 8, **options).epoch(k),
            FileBatches(files, 8, picture=v2.PILToTensor(), workers=0, **options).epoch(k),
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_augmented_the_same_by_any_worker(files, workers):
    picture = v2.Compose([v2.RandomResizedCrop(5), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    options = dict(
        picture=picture, transforms=[Rotation(10), SET.normalise()], order="stratified", mix=v2.MixUp(num_classes=4)
    )
    whole = list(FileBatches(files, 8, workers=0, **options).epoch(1))
    assert whole[0][0].shape == (8, 3, 5, 5)
    state = torch.get_rng_state()
    shares = [FileBatches(files, 8, workers=workers, rank=rank, processes=2, **options) for rank in range(2)]
    together = [tuple(map(torch.cat, zip(*parts))) for parts in zip(*(share.epoch(1, start=1) for share in shares))]
    assert same(together, whole[1:])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("k, start", [(0, -1), (-1, 0), (0, 1.5)])
def test_an_epoch_begins_at_a_batch_that_there_is(k, start):
    # start=-1 gave the last batch before the first
    batches = Batches(image_set([4, 4]), 4)
    with pytest.raises(ValueError, match="must be an integer of at least 0, got"):
        batches.epoch(k, start)
