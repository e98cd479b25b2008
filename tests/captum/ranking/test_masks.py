"""The pixels a cell is ranked by are the pixels it masks; references are what their names say."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from usu_captum import IMAGENET, ImageSpace
from usu_captum.ranking._masks import masks_to_pixels, pool_to_grid
from usu_captum.ranking._references import reference_images


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.data())
def test_cells_that_are_pooled_are_cells_that_are_masked(h: int, w: int, data: Any) -> None:
    grid = (data.draw(st.integers(1, h)), data.draw(st.integers(1, w)))
    cells = grid[0] * grid[1]
    masks = torch.eye(cells, dtype=torch.float64)[None]
    pixels = masks_to_pixels(masks, grid, (h, w), 0.0)
    assert pixels.shape == (1, cells, 1, h, w)
    torch.testing.assert_close(pixels.sum(1), torch.ones(1, 1, h, w, dtype=torch.float64))
    maps = torch.rand(2, 1, h, w, dtype=torch.float64)
    means = (maps[:, None] * pixels).sum((2, 3, 4)) / pixels.sum((2, 3, 4))
    torch.testing.assert_close(pool_to_grid(maps, grid), means)


def test_the_published_cells_overlap_and_can_be_chosen() -> None:
    maps = torch.rand(1, 1, 224, 224)
    published = pool_to_grid(maps, 9, consistent=False)
    assert torch.equal(published, F.adaptive_avg_pool2d(maps, 9).flatten(1))
    assert not torch.allclose(published, pool_to_grid(maps, 9))
    # Where the grid divides the image, there is no difference; nearest masks are the same always.
    torch.testing.assert_close(
        pool_to_grid(maps, 8, consistent=False), pool_to_grid(maps, 8), atol=1e-6, rtol=0
    )
    masks = torch.rand(1, 2, 81)
    nearest = F.interpolate(masks.view(1, 2, 9, 9), size=(224, 224), mode="nearest")
    assert torch.equal(masks_to_pixels(masks, 9, (224, 224), 0.0)[:, :, 0], nearest)


def test_cells_may_be_counted_by_numpy() -> None:
    maps = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(pool_to_grid(maps, np.int64(4)), pool_to_grid(maps, 4))


def test_smoothing_is_the_seven_tap_gaussian_with_reflection() -> None:
    masks = torch.rand(1, 1, 64, dtype=torch.float64)
    taps = torch.exp(-0.5 * torch.arange(-3.0, 4.0, dtype=torch.float64) ** 2)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    hard = masks_to_pixels(masks, 8, (24, 24), 0.0)[:, 0]
    expected = F.conv2d(F.pad(hard, (3, 3, 3, 3), mode="reflect"), kernel[None, None])
    smooth = masks_to_pixels(masks, 8, (24, 24))[:, 0]
    torch.testing.assert_close(smooth, expected, atol=1e-6, rtol=0)
    constant = masks_to_pixels(torch.full((1, 1, 49), 0.3), 7, (31, 30))
    torch.testing.assert_close(constant, torch.full((1, 1, 1, 31, 30), 0.3))


def test_gradients() -> None:
    maps = torch.rand(1, 1, 7, 5, dtype=torch.float64, requires_grad=True)

    def there_and_back(maps: torch.Tensor) -> torch.Tensor:
        return masks_to_pixels(pool_to_grid(maps, (3, 2))[:, None], (3, 2), (7, 5), 0.8)

    assert torch.autograd.gradcheck(there_and_back, maps)


def test_stays_in_single_precision_inside_autocast() -> None:
    maps = torch.rand(1, 1, 32, 32)
    expected = masks_to_pixels(pool_to_grid(maps, 14)[:, None], 14, (32, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = masks_to_pixels(pool_to_grid(maps, 14)[:, None], 14, (32, 32))
        assert pool_to_grid(maps.bfloat16(), 14).dtype == torch.float32
    assert torch.equal(result, expected)


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match=r"grid must have .* got \(9, 9\).* Try grid=8"):
        pool_to_grid(torch.rand(1, 1, 8, 8), 9)
    with pytest.raises(ValueError, match=r"grid must have .* got \(0, 0\)"):
        masks_to_pixels(torch.rand(1, 1, 0), 0, (8, 8))
    with pytest.raises(ValueError, match=r"maps must have shape \(B, 1, H, W\).*maps.sum"):
        pool_to_grid(torch.rand(1, 3, 8, 8), 4)
    with pytest.raises(ValueError, match=r"masks must have shape \(B, S, 16\).*\(1, 1, 9\)"):
        masks_to_pixels(torch.rand(1, 1, 9), 4, (8, 8))
    with pytest.raises(ValueError, match="smoothing must be at least 0, got -1"):
        masks_to_pixels(torch.rand(1, 1, 16), 4, (8, 8), -1.0)
    with pytest.raises(TypeError, match="maps must be a floating-point tensor"):
        pool_to_grid(torch.ones(1, 1, 8, 8, dtype=torch.long), 4)


def test_references() -> None:
    images = torch.rand(2, 3, 40, 30).requires_grad_()
    black = reference_images(images, "black", IMAGENET)
    torch.testing.assert_close(black[0, :, 0, 0], -torch.tensor(IMAGENET.mean) / torch.tensor(
        IMAGENET.std
    ))  # fmt: skip
    assert reference_images(images, "mean", IMAGENET).abs().max() < 1e-6
    raw = ImageSpace((0.5,), normalised=False)
    assert float(reference_images(images, "mean", raw).mean()) == 0.5
    for name in ("blur", "wide-blur"):
        blurred = reference_images(images, name)
        assert blurred.var() < images.var()
        assert not blurred.requires_grad
    own = torch.rand(3, 1, 1)
    assert torch.equal(reference_images(images, own), own.expand(2, 3, 40, 30))


def test_the_wide_blur_is_the_published_one_at_the_published_size() -> None:
    images = torch.rand(1, 1, 224, 224, dtype=torch.float64)
    taps = torch.exp(-0.5 * (torch.arange(-18.0, 19.0, dtype=torch.float64) / 37) ** 2)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    padded = F.pad(images, (18, 18, 18, 18), mode="reflect")
    ours = reference_images(images, "wide-blur")
    torch.testing.assert_close(ours, F.conv2d(padded, kernel[None, None]), atol=1e-6, rtol=0)


def test_bad_references() -> None:
    images = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"reference='black' needs to know .* Try space="):
        reference_images(images, "black")
    with pytest.raises(ValueError, match=r"reference must be one of .*Did you mean 'blur'"):
        reference_images(images, "blurr")
    with pytest.raises(ValueError, match="must broadcast"):
        reference_images(images, torch.rand(2, 5))
