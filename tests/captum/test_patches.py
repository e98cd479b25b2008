"""Patch attributions: a patch's whole effect, once, among its own pixels."""

from typing import Any

import pytest
import torch
from captum import attr as captum_attr
from torch import Tensor

from usu_captum import METHODS, FeatureAblation, KernelShap, Occlusion
from usu_core import USU, Quadtree

MASKED = (
    "FeatureAblation", "FeaturePermutation", "ShapleyValueSampling", "ShapleyValues", "Lime",
    "KernelShap",
)  # fmt: skip


def patch_sums(fine: Tensor, mask: Tensor) -> Tensor:
    """Add a map (B, 1, H, W) up over each label, in plain Python."""
    labels = mask.broadcast_to(fine.shape)
    return torch.stack(
        [(fine * (labels == i)).sum((1, 2, 3)) for i in range(int(mask.max()) + 1)], 1
    )


def effects(coarse: Tensor, mask: Tensor) -> Tensor:
    """Read the value Captum repeats over each label."""
    labels = mask.broadcast_to(coarse.shape)
    first = [labels[0, 0].flatten().tolist().index(i) for i in range(int(mask.max()) + 1)]
    return coarse[:, 0].flatten(1)[:, first]


def test_even_patches_are_even_however_they_are_numbered(case: Any) -> None:
    it = case("FeatureAblation")
    by_row = torch.arange(16).view(4, 4).repeat_interleave(4, 0).repeat_interleave(3, 1)
    by_column = torch.arange(16).view(4, 4).T.repeat_interleave(4, 0).repeat_interleave(3, 1)
    found = [
        it.ours.attribute(it.images, target=1, feature_mask=mask[None, None], upsampler="bilinear")
        for mask in (by_row, by_column * 7 + 3)
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("ragged", [False, True])
def test_a_patch_keeps_its_effect(
    name: str, ragged: bool, case: Any, guided: Any, seed: Any
) -> None:
    it = case(name)
    if ragged:  # Neither even nor rectangular, and unequal in size.
        labels = torch.zeros(1, 1, 16, 12, dtype=torch.long)
        labels[..., 3:, 5:] = 1
        labels[..., :7, 9:] = 2
        labels[..., 15:, :] = 3
        it.arguments["feature_mask"] = labels
    mask = it.arguments["feature_mask"]
    seed()
    coarse = it.captum.attribute(it.images, **it.arguments)
    seed()
    fine = it.ours.attribute(it.images, **it.arguments, upsampler=guided)
    assert fine.shape == (2, 1, 16, 12)
    torch.testing.assert_close(patch_sums(fine, mask), effects(coarse, mask), atol=1e-6, rtol=1e-4)
    seed()
    density = it.ours.attribute(it.images, **it.arguments, upsampler=guided, convention="density")
    sizes = patch_sums(torch.ones_like(fine), mask)
    torch.testing.assert_close(
        patch_sums(density, mask) / sizes, effects(coarse, mask), atol=1e-6, rtol=1e-4
    )


def test_an_even_mask_serves_interpolation_too(case: Any) -> None:
    it = case("FeatureAblation")
    coarse = it.captum.attribute(it.images, **it.arguments)
    flat = it.ours.attribute(it.images, **it.arguments, upsampler="nearest")
    torch.testing.assert_close(flat * 48, coarse[:, :1])
    it.ours.attribute(it.images, **it.arguments, upsampler="bicubic")
    it.arguments["feature_mask"] = (torch.arange(192).view(1, 1, 16, 12) % 7 > 2).long()
    with pytest.raises(ValueError, match="grid must be even"):
        it.ours.attribute(it.images, **it.arguments, upsampler="bicubic")


def test_masks_may_differ_between_examples(case: Any, guided: Any, mask: Any) -> None:
    it = case("FeatureAblation")
    target = it.arguments["target"]
    both = torch.cat([mask(2, 2, 16, 12), mask(4, 1, 16, 12)])
    fine = it.ours.attribute(it.images, target=target, feature_mask=both, upsampler=guided)
    for i in range(2):
        alone = it.ours.attribute(
            it.images[i : i + 1],
            target=target[i : i + 1],
            feature_mask=both[i : i + 1],
            upsampler=guided,
        )
        torch.testing.assert_close(fine[i : i + 1], alone, atol=1e-6, rtol=1e-4)

    def plain(cells: Tensor, image: Tensor, score: Any, grid: Any) -> Tensor:
        """An upsampler of another package: it has no score map, and asks the score itself."""
        value = score.evaluate(image, torch.arange(len(image)), "logit")
        return grid.expand(cells) * value.view(-1, 1, 1, 1)

    logits = it.model(it.images).gather(1, target[:, None]).view(-1, 1, 1, 1)
    coarse = it.captum.attribute(it.images, target=target, feature_mask=both)[:, :1]
    found = it.ours.attribute(
        it.images, target=target, feature_mask=both, upsampler=plain, convention="density"
    )
    torch.testing.assert_close(found, coarse * logits)


@pytest.mark.parametrize(
    ("window", "stride"),
    [((3, 4, 4), (3, 4, 4)), ((3, 5, 5), (3, 5, 5)), ((3, 16, 3), (3, 1, 3)), ((3, 4, 4), 4)],
)
def test_windows_edge_to_edge_are_patches(window: Any, stride: Any, net: Any, guided: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    coarse = captum_attr.Occlusion(net).attribute(images, window, stride, target=1)
    fine = Occlusion(net).attribute(images, window, stride, target=1, upsampler=guided)
    rows = torch.arange(16) // window[1]
    columns = torch.arange(12) // window[2]
    labels = (rows[:, None] * (int(columns.max()) + 1) + columns)[None, None]
    torch.testing.assert_close(
        patch_sums(fine, labels), effects(coarse, labels), atol=1e-6, rtol=1e-4
    )


def test_overlapping_windows_share_their_effects(net: Any, guided: Any) -> None:
    images = torch.rand(1, 3, 16, 12)
    coarse = captum_attr.Occlusion(net).attribute(images, (3, 8, 8), (3, 4, 4), target=1)
    fine = Occlusion(net).attribute(images, (3, 8, 8), (3, 4, 4), target=1, upsampler=guided)
    # Regions of 4 x 4: the mean of the windows over it, times 16 of 64 pixels.
    sums = torch.nn.functional.avg_pool2d(fine, 4) * 16
    torch.testing.assert_close(sums, coarse[:, :1, ::4, ::4] / 4, atol=1e-6, rtol=1e-4)
    # In the middle, where all overlap alike, that adds up to the windows' effects.
    linear = Occlusion(lambda x: x.sum((1, 2, 3)))
    total = linear.attribute(images, (3, 8, 8), (3, 4, 4), upsampler="nearest")
    middle = total[..., 4:12, 4:8].sum()
    assert 0.5 < middle / images[..., 4:12, 4:8].sum() < 2


def test_windows_of_one_channel_are_added_up(guided: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    method = Occlusion(lambda x: x.sum((1, 2, 3)))
    fine = method.attribute(images, (1, 4, 4), (1, 4, 4), upsampler=guided)
    expected = torch.nn.functional.avg_pool2d(images.sum(1, keepdim=True), 4)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(fine, 4), expected)
    with pytest.raises(ValueError, match="sliding_window_shapes must cover one channel or all 3"):
        method.attribute(images, (2, 4, 4), (1, 4, 4), upsampler=guided)


def test_other_inputs_keep_captums_result(guided: Any, mask: Any) -> None:
    images, table = torch.rand(2, 1, 8, 8), torch.rand(2, 5)
    patches = mask(2, 2, 8, 8)
    masks = (torch.arange(4, 9)[None], patches)

    def forward(table: Tensor, images: Tensor) -> Tensor:
        return images.sum((1, 2, 3)) * table.sum(1)

    plain = captum_attr.FeatureAblation(forward).attribute((table, images), feature_mask=masks)
    mixed = FeatureAblation(forward).attribute(
        (table, images), feature_mask=masks, upsampler=guided, image_input=1
    )
    assert torch.equal(mixed[0], plain[0])
    torch.testing.assert_close(patch_sums(mixed[1], patches), effects(plain[1], patches))
    windows = Occlusion(forward).attribute(
        (table, images), ((5,), (1, 4, 4)), (5, (1, 4, 4)), upsampler=guided, image_input=1
    )
    torch.testing.assert_close(patch_sums(windows[1], patches), effects(plain[1], patches))


def test_what_is_missing_is_named(net: Any, mask: Any) -> None:
    images = torch.rand(1, 3, 16, 12)
    with pytest.raises(ValueError, match="feature_mask must be given"):
        FeatureAblation(net).attribute(images, target=1, upsampler="usu")
    with pytest.raises(ValueError, match="feature_mask must be the same in every channel"):
        FeatureAblation(net).attribute(
            images, target=1, upsampler="usu", feature_mask=torch.arange(3).view(1, 3, 1, 1)
        )
    with pytest.raises(ValueError, match="return_input_shape must be True"):
        KernelShap(net).attribute(
            images, target=1, upsampler="usu", feature_mask=mask(2, 2, 16, 12),
            return_input_shape=False,
        )  # fmt: skip
    with pytest.raises(ValueError, match="the attribution must have the image's shape"):
        FeatureAblation(net).attribute(images, feature_mask=mask(2, 2, 16, 12), upsampler="usu")


def test_a_layer_mask_divides_its_effect(net: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    cells = torch.arange(12).view(1, 1, 4, 3)
    cells = cells.repeat_interleave(2, 2).repeat_interleave(2, 3)
    coarse = captum_attr.LayerFeatureAblation(net, net.relu2).attribute(
        images, target=1, layer_mask=cells
    )
    fine = METHODS["LayerFeatureAblation"](net, net.relu2).attribute(
        images, target=1, layer_mask=cells, upsampler=USU(segmenter=Quadtree((2,))),
        convention="total",
    )  # fmt: skip
    sums = torch.nn.functional.avg_pool2d(fine, 4) * 16
    torch.testing.assert_close(sums, coarse[:, :1, ::2, ::2], atol=1e-6, rtol=1e-4)


def test_a_tuple_of_strides_is_one_for_each_of_several_inputs(guided: Any) -> None:
    """As many inputs as dimensions: Captum reads an integer for each input all the same."""
    images, others = torch.rand(1, 2, 8, 8), (torch.rand(1, 2, 8, 8), torch.rand(1, 2, 8, 8))
    method = Occlusion(lambda a, b, c: (a + 2 * b + 3 * c).sum((1, 2, 3)))
    windows = ((2, 4, 4), (2, 4, 4), (2, 4, 4))
    for index in range(3):
        inputs = (*others[:index], images, *others[index:])
        short, long = (
            method.attribute(inputs, windows, strides, upsampler=guided, image_input=index)
            for strides in ((2, 4, 4), ((2, 2, 2), (4, 4, 4), (4, 4, 4)))
        )
        for left, right in zip(short, long, strict=True):
            assert torch.equal(left, right)
    # Of one input, in a tuple or not, it is that input's.
    one, window = Occlusion(lambda x: x.sum((1, 2, 3))), (2, 4, 4)
    (alone,) = one.attribute((images,), window, window, upsampler=guided)
    assert torch.equal(alone, one.attribute(images, window, window, upsampler=guided))


def test_labels_of_a_layer_mask_may_be_any_integers(net: Any, guided: Any) -> None:
    images = torch.rand(1, 3, 16, 12)
    dense = torch.arange(48).view(1, 1, 8, 6) // 12
    labels = torch.tensor([-2, 2**62, 0, -(2**62)])[dense]
    method = METHODS["LayerFeatureAblation"](net, net.relu2)
    expected = method.attribute(images, target=1, layer_mask=dense, upsampler=guided)
    found = method.attribute(images, target=1, layer_mask=labels, upsampler=guided)
    torch.testing.assert_close(found, expected)


def test_a_window_as_high_as_the_image_overlaps_none(net: Any, guided: Any) -> None:
    """Whatever its stride there; and the last one along the other axis is cut off, and whole."""
    images = torch.rand(2, 3, 16, 12)
    window, stride = (3, 16, 5), (3, 1, 5)
    coarse = captum_attr.Occlusion(net).attribute(images, window, stride, target=1)
    fine = Occlusion(net).attribute(images, window, stride, target=1, upsampler=guided)
    labels = (torch.arange(12) // 5).expand(1, 1, 16, 12)
    torch.testing.assert_close(
        patch_sums(fine, labels), effects(coarse, labels), atol=1e-6, rtol=1e-4
    )


def test_cells_of_overlapping_windows_end_where_a_cut_off_window_begins() -> None:
    from usu_captum._patch_cells import window_cells

    coarse = captum_attr.Occlusion(lambda x: x.square().sum((1, 2, 3))).attribute(
        torch.rand(1, 1, 12, 13), (1, 6, 5), (1, 4, 3)
    )
    cells, _ = window_cells(coarse, (1, 6, 5), (1, 4, 3))
    # Captum's value is the same all over a cell, and so its largest is its smallest.
    torch.testing.assert_close(cells.grid.max(coarse), -cells.grid.max(-coarse))


def test_groups_of_a_layer_mask_are_counted_in_each_example() -> None:
    from usu_captum._layer_maps import _shared

    mask = torch.tensor([[[[0, 0], [0, 1]]], [[[1, 0], [1, 1]]]])
    found = _shared(torch.full((2, 3, 2, 2), 9.0), mask)
    # A group has its members in all three channels.
    assert found[0, 0].tolist() == [[1.0, 1.0], [1.0, 3.0]]
    assert found[1, 2].tolist() == [[1.0, 3.0], [1.0, 1.0]]
