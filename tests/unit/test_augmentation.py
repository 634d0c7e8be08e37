import pytest
import torch
from torch import Tensor

from mnist_ocr.training.augmentation import BatchAugmenter
from mnist_ocr.training.recipes import Augmentation

NONE = {
    "max_rotation_deg": 0.0,
    "max_scaling": 0.0,
    "max_shear": 0.0,
    "max_shift_px": 0.0,
    "elastic_px": 0.0,
}
SOME = {
    "max_rotation_deg": 10.0,
    "max_scaling": 0.1,
    "max_shear": 0.1,
    "max_shift_px": 2.0,
    "elastic_px": 0.7,
}


def build_augmenter(seed: int = 0, **strengths: float) -> BatchAugmenter:
    augmentation = Augmentation(**{**NONE, **strengths})
    return BatchAugmenter(augmentation, torch.device("cpu"), seed)


@pytest.fixture
def images() -> Tensor:
    """Eight different smooth blobs, away from the border."""
    images = torch.zeros(8, 1, 28, 28)
    images[:, :, 10:18, 8:20] = torch.rand(8, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    return images


def test_no_strength_changes_nothing(images: Tensor) -> None:
    """With every strength at 0 the images come back as they were."""
    distorted = build_augmenter()(images, epoch=0, step=0, batch_size=8)
    torch.testing.assert_close(distorted, images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("strength", NONE)
def test_each_strength_distorts_each_image_in_its_own_way(strength: str, images: Tensor) -> None:
    """Any single strength moves ink, differently in copies of one image, and keeps it in range."""
    copies = images[:1].expand(8, 1, 28, 28)
    distorted = build_augmenter(**{strength: SOME[strength]})(copies, epoch=0, step=0, batch_size=8)
    assert len({tuple(image.flatten().tolist()) for image in distorted}) == 8
    assert distorted.min() >= 0
    assert distorted.max() <= copies.max() + 1e-5
    assert 0.5 < distorted.sum() / copies.sum() < 1.5


def test_shift_is_in_pixels(images: Tensor) -> None:
    """A largest shift of 2 pixels moves the centre of mass by at most 2 pixels, and near it."""
    copies = images[:1].expand(500, 1, 28, 28)
    distorted = build_augmenter(max_shift_px=2.0)(copies, epoch=0, step=0, batch_size=500)
    columns = torch.arange(28.0)
    centres = (distorted.sum(dim=(1, 2)) * columns).sum(1) / distorted.sum(dim=(1, 2, 3))
    before = (images[0].sum(dim=(0, 1)) * columns).sum() / images[0].sum()
    assert 1.9 < (centres - before).abs().max() <= 2.0 + 1e-3


def test_same_seed_epoch_and_step_give_the_same_distortion(images: Tensor) -> None:
    """The distortion is a function of (seed, epoch, step), whatever was drawn before."""
    first, second = build_augmenter(**SOME), build_augmenter(**SOME)
    second(images, epoch=5, step=7, batch_size=8)
    expected = first(images, epoch=1, step=2, batch_size=8)
    torch.testing.assert_close(
        second(images, epoch=1, step=2, batch_size=8), expected, atol=0, rtol=0
    )
    for seed, epoch, step in [(1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1)]:
        other = build_augmenter(seed, **SOME)(images, epoch=epoch, step=step, batch_size=8)
        assert not torch.equal(other, expected)


def test_workers_distort_their_slice_as_one_worker_would(images: Tensor) -> None:
    """Two workers with half a batch each get the halves of what one worker gets."""
    whole = build_augmenter(**SOME)(images, epoch=0, step=3, batch_size=8)
    halves = [
        build_augmenter(**SOME)(
            images[offset : offset + 4], epoch=0, step=3, batch_size=8, offset=offset
        )
        for offset in (0, 4)
    ]
    torch.testing.assert_close(torch.cat(halves), whole, atol=1e-6, rtol=0)
