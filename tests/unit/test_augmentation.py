from typing import Any

import pytest
import torch
from torch import Tensor

from mnist_ocr.training.augmentation import BatchAugmenter
from mnist_ocr.training.recipes import CORRUPTION_FAMILIES, Augmentation

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


def build_augmenter(**values: Any) -> BatchAugmenter:
    return BatchAugmenter(Augmentation(**{**NONE, **values}), torch.device("cpu"))


@pytest.fixture
def images() -> Tensor:
    """Eight different smooth blobs, away from the border."""
    images = torch.zeros(8, 1, 28, 28)
    images[:, :, 10:18, 8:20] = torch.rand(8, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    return images


def test_no_strength_changes_nothing(images: Tensor) -> None:
    """With every strength at 0 the images come back as they were."""
    distorted = build_augmenter()(images, (0,), batch_size=8)
    torch.testing.assert_close(distorted, images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("strength", NONE)
def test_each_strength_distorts_each_image_in_its_own_way(strength: str, images: Tensor) -> None:
    """Any single strength moves ink, differently in copies of one image, and keeps it in range."""
    copies = images[:1].expand(8, 1, 28, 28)
    distorted = build_augmenter(**{strength: SOME[strength]})(copies, (0,), batch_size=8)
    assert len({tuple(image.flatten().tolist()) for image in distorted}) == 8
    assert distorted.min() >= 0
    assert distorted.max() <= copies.max() + 1e-5
    assert 0.5 < distorted.sum() / copies.sum() < 1.5


def test_shift_is_in_pixels(images: Tensor) -> None:
    """A largest shift of 2 pixels moves the centre of mass by at most 2 pixels, and near it."""
    copies = images[:1].expand(500, 1, 28, 28)
    distorted = build_augmenter(max_shift_px=2.0)(copies, (0,), batch_size=500)
    columns = torch.arange(28.0)
    centres = (distorted.sum(dim=(1, 2)) * columns).sum(1) / distorted.sum(dim=(1, 2, 3))
    before = (images[0].sum(dim=(0, 1)) * columns).sum() / images[0].sum()
    assert 1.9 < (centres - before).abs().max() <= 2.0 + 1e-3


HEAVY = {**SOME, "heavy_share": 0.5, "families": CORRUPTION_FAMILIES}


@pytest.mark.parametrize("values", [SOME, HEAVY], ids=["mild", "heavy"])
def test_same_numbers_give_the_same_images(values: dict[str, Any], images: Tensor) -> None:
    """The result is a function of the seed's numbers, whatever was drawn before."""
    first, second = build_augmenter(**values), build_augmenter(**values)
    second(images, (0, 5, 7), batch_size=8)
    expected = first(images, (0, 1, 2), batch_size=8)
    assert torch.equal(second(images, (0, 1, 2), batch_size=8), expected)
    for seed in [(1, 1, 2), (0, 2, 2), (0, 1, 3), (0, 2, 1)]:
        assert not torch.equal(second(images, seed, batch_size=8), expected)


@pytest.mark.parametrize("ends", [(4, 8), (3, 5, 8), (1, 7, 8)])
@pytest.mark.parametrize("values", [SOME, HEAVY], ids=["mild", "heavy"])
def test_workers_augment_their_slice_as_one_worker_would(
    values: dict[str, Any], ends: tuple[int, ...], images: Tensor
) -> None:
    """Workers with parts of a batch get the parts of what one worker gets."""
    whole = build_augmenter(**values)(images, (0, 3), batch_size=8)
    starts = (0, *ends)
    parts = [
        build_augmenter(**values)(images[start:end], (0, 3), batch_size=8, offset=start)
        for start, end in zip(starts, ends, strict=False)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)


def test_corruptions_befall_the_heavy_share_alone(images: Tensor) -> None:
    """Without distortion every other image stays as it is, and most of the rest do not."""
    copies = images.repeat(50, 1, 1, 1)
    augmenter = build_augmenter(heavy_share=0.5, families=CORRUPTION_FAMILIES[1:])
    changed = (augmenter(copies, (0,), batch_size=400) - copies).abs().amax((1, 2, 3)) > 0.01
    assert not changed[1::2].any()
    assert changed[::2].float().mean() > 0.6


def test_heavy_images_are_distorted_further(images: Tensor) -> None:
    """The family `distortion` exceeds the limits of the others."""
    copies = images[:1].expand(400, 1, 28, 28)
    options = {"max_shift_px": 2.0, "heavy_share": 0.5, "families": ("distortion",)}
    moved = build_augmenter(**options)(copies, (0,), batch_size=400)
    columns = torch.arange(28.0)
    centres = (moved.sum(dim=(1, 2)) * columns).sum(1) / moved.sum(dim=(1, 2, 3))
    before = (images[0].sum(dim=(0, 1)) * columns).sum() / images[0].sum()
    reach = (centres - before).abs()
    assert reach[1::2].max() <= 2.001
    assert reach[::2].max() > 3
