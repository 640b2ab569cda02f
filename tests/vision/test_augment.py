"""Augmentation of a batch, image by image against torchvision, slicing or a closed form, with the same draws."""

import pytest
import torch
import torch.nn.functional as F
from image_sets import image_set
from torchvision.transforms import v2

from labkit.vision import augment

N = 64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    """Not square, so that rows and columns cannot be exchanged unseen."""
    return torch.randint(256, (N, 3, 12, 8), generator=generator()).byte()


RANDOM = [
    augment.Flip(),
    augment.PaddedCrop(2),
    augment.Rotation(20),
    augment.Cutout(3),
    augment.Torchvision(v2.RandAugment()),
]


@pytest.mark.parametrize("transform", RANDOM, ids=lambda t: type(t).__name__)
def test_each_image_depends_on_its_own_draws_alone(images, transform):
    draws = transform.draw(N, generator())
    before = images.clone()
    whole = transform(images, draws)
    assert torch.equal(images, before) and whole.dtype == torch.uint8 and whole.shape == images.shape
    parts = [transform(images[rows], draws[rows]) for rows in torch.arange(N).split([1, 20, 43])]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(transform(images, transform.draw(N, generator())), whole)
    assert not torch.equal(transform(images, transform.draw(N, generator(1))), whole)


def test_flip(images):
    flip = augment.Flip()
    draws = flip.draw(N, generator())
    once = flip(images, draws)
    for before, after, mirrored in zip(images, once, draws):
        assert torch.equal(after, v2.functional.horizontal_flip(before) if mirrored else before)
    assert torch.equal(flip(once, draws), images)
    share = flip.draw(10_000, generator()).double().mean()
    assert abs(share - 0.5) < 0.02  # four deviations


def test_padded_crop(images):
    crop = augment.PaddedCrop(2)
    draws = crop.draw(N, generator())
    for before, after, (top, left) in zip(images, crop(images, draws), draws):
        assert torch.equal(after, F.pad(before, (2, 2, 2, 2))[:, top : top + 12, left : left + 8])
    places = crop.draw(10_000, generator())
    assert len(places.unique(dim=0)) == 25 and places.min() == 0 and places.max() == 4


def test_rotation(images):
    rotation = augment.Rotation(40)
    draws = rotation.draw(N, generator())
    wrong = 0
    for before, after, angle in zip(images, rotation(images, draws), draws):
        wrong += (after != v2.functional.rotate(before, float(angle))).sum()
    assert wrong <= images.numel() * 1e-3  # a pixel half way between two may go to either
    assert draws.abs().max() <= 40 and draws.min() < -30 and draws.max() > 30


def test_rotation_by_right_angles(images):
    square, rotation = images[..., :8, :], augment.Rotation(180)
    for quarters in (-2, -1, 0, 1, 2):
        assert torch.equal(rotation(square, torch.full((N,), 90.0 * quarters)), torch.rot90(square, quarters, (-2, -1)))


def test_cutout(images):
    cutout = augment.Cutout(4)
    images = images.float() + 1  # no zeros of their own
    draws = cutout.draw(N, generator())
    areas = set()
    for before, after, (u, v) in zip(images, cutout(images, draws), draws):
        y, x = int(u * 12), int(v * 8)
        expected = before.clone()
        expected[:, max(y - 2, 0) : y + 2, max(x - 2, 0) : x + 2] = 0
        assert torch.equal(after, expected)
        areas.add(int((after[0] == 0).sum()))
    assert max(areas) == 16 and min(areas) < 16  # some stick out


def test_normalise_is_torchvisions(images):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    got = augment.Normalise(mean, std)(images)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, v2.functional.normalize(images.float() / 255, mean, std), rtol=1e-5, atol=1e-5)
    got = augment.Normalise(mean[:1], std[:1], white=16)(images[:, :1] // 16)
    torch.testing.assert_close(got, ((images[:, :1] // 16).double() / 16 - 0.4).float() / 0.2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "transform",
    [v2.RandAugment(), v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10), v2.RandomErasing(p=1)],
    ids=lambda t: type(t).__name__,
)
def test_torchvision_transforms_image_by_image(images, transform):
    wrapped = augment.Torchvision(transform)
    draws, state = wrapped.draw(N, generator()), torch.get_rng_state()
    for before, after, seed in zip(images, wrapped(images, draws), draws):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed))
            assert torch.equal(after, transform(before))
    assert torch.equal(torch.get_rng_state(), state)


def test_torchvision_draws_are_shared_by_few():
    draws = augment.Torchvision(v2.RandAugment()).draw(10_000, generator())
    counts = draws.unique(return_counts=True)[1]
    assert len(counts) == augment.Torchvision.GROUPS
    assert (counts / 10_000 * augment.Torchvision.GROUPS - 1).abs().max() < 0.25  # four deviations of 1/√(10000/32)


def test_bad_arguments():
    for make in (augment.PaddedCrop, augment.Rotation, augment.Cutout):
        with pytest.raises(ValueError, match="must be .* got 0"):
            make(0)
    for mean, std in (((0.5, 0.5), (0.2,)), ((0.5,), (0.0,))):
        with pytest.raises(ValueError, match="one number for each channel"):
            augment.Normalise(mean, std)


def test_augmentation_leaves_the_set_as_it_is():
    images = image_set([8, 8])
    before = images.images.clone()
    for transform in [*RANDOM, images.normalise()]:
        transform(images.images, transform.draw(len(images), generator()))
    assert torch.equal(images.images, before)
