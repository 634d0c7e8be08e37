import pytest
import torch
from torch import Tensor

from mnist_ocr.training.corruptions import CORRUPTIONS, draw_lines
from mnist_ocr.training.draws import Draw, seed_generator
from mnist_ocr.training.outliers import draw_outliers
from mnist_ocr.training.recipes import CORRUPTION_FAMILIES


def build_draw(count: int, rows: slice = slice(None), seed: int = 0) -> Draw:
    generator = torch.Generator()
    seed_generator(generator, seed)
    return Draw(generator, count, rows)


@pytest.fixture
def images() -> Tensor:
    """Twelve copies of a ring and a bar, grey at the edges."""
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    ring = (2.5 - ((x - 14).hypot(y - 14) - 7).abs()).clamp(0, 1)
    bar = (2.5 - (x - 14).abs()).clamp(0, 1) * ((y - 14).abs() < 9)
    return torch.stack([ring, bar] * 6)[:, None]


def test_every_family_has_a_name() -> None:
    """The recipes' list is that of the functions, and the distortion."""
    assert ("distortion", *CORRUPTIONS) == CORRUPTION_FAMILIES


@pytest.mark.parametrize("family", CORRUPTIONS)
def test_corruption_changes_each_image_in_its_own_way(family: str, images: Tensor) -> None:
    """Copies come out different, in range, in shape, and the same for the same seed."""
    before = images.clone()
    corrupted = CORRUPTIONS[family](images, build_draw(12))
    assert corrupted.shape == images.shape
    assert torch.equal(images, before)
    assert corrupted.isfinite().all()
    assert corrupted.min() >= -1e-5
    assert corrupted.max() <= 1 + 1e-5
    assert len({tuple(image.flatten().tolist()) for image in corrupted[::2]}) == 6
    assert torch.equal(CORRUPTIONS[family](images, build_draw(12)), corrupted)
    assert not torch.equal(CORRUPTIONS[family](images, build_draw(12, seed=1)), corrupted)


@pytest.mark.parametrize("family", CORRUPTIONS)
def test_workers_corrupt_their_rows_as_one_worker_would(family: str, images: Tensor) -> None:
    """A part of a batch, none of it included, gets its part of what the whole batch gets."""
    whole = CORRUPTIONS[family](images, build_draw(12))
    for rows in (slice(0, 5), slice(5, 12), slice(3, 3)):
        part = CORRUPTIONS[family](images[rows], build_draw(12, rows))
        torch.testing.assert_close(part, whole[rows], atol=1e-5, rtol=0)


def test_lines_are_drawn_where_they_are_told() -> None:
    """A line covers its pixels, fades at its edges, and a dashed one has gaps."""
    ends = torch.tensor([[[[4.5, 10.5], [20.5, 10.5]]]])
    line = draw_lines(ends, torch.tensor([[1.0]]), torch.tensor([[0.8]]))[0, 0]
    assert line[10, 4:21] == pytest.approx(0.8)
    assert line[11, 10] == pytest.approx(0.4)
    assert line[13].max() == 0
    assert line[10, 24] == 0
    dashed = draw_lines(ends, torch.ones(1, 1), torch.ones(1, 1), torch.tensor([[2.0]]))[0, 0]
    assert dashed[10, 4] == 1
    assert dashed[10, 7] == 0


def test_outliers_are_neither_of_their_digits(images: Tensor) -> None:
    """They differ from what they are made of, from each other, and stay in range."""
    outliers = draw_outliers(images, images.flip(0), build_draw(12))
    assert outliers.shape == images.shape
    assert outliers.min() >= 0
    assert outliers.max() <= 1
    # those made of the same two digits may be the same
    assert len({tuple(image.flatten().tolist()) for image in outliers}) >= 10
    for outlier in outliers:
        assert (outlier - images).abs().sum((1, 2, 3)).min() > 5
