"""Reshape transforms read from the model: timm and torchvision, ViT and Swin."""

import os
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.ablation_layer import AblationLayer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.reshape_transforms import swinT_reshape_transform
from torch import nn

import usu_gradcam
from usu_core import USU, CellGrid
from usu_gradcam import ChannelsLast, TokenReshape, reshape_transform_for
from usu_gradcam._guard import release

os.environ.setdefault("HF_HUB_OFFLINE", "1")

TARGETS = [ClassifierOutputTarget(1)]


@pytest.fixture(scope="module")
def timm() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("timm")


@pytest.fixture(scope="module")
def vit(timm: Any) -> nn.Module:
    """A 3 by 4 grid, one class token and four registers: 17 tokens, as 1 + 4 by 4 would be."""
    torch.manual_seed(3)
    return timm.models.vision_transformer.VisionTransformer(
        img_size=(24, 32),
        patch_size=8,
        depth=2,
        num_heads=2,
        reg_tokens=4,
        embed_dim=16,
        num_classes=5,
    ).eval()


@pytest.fixture(scope="module")
def swin(timm: Any) -> nn.Module:
    torch.manual_seed(3)
    return timm.models.swin_transformer.SwinTransformer(
        img_size=32,
        patch_size=2,
        depths=(1, 1),
        num_heads=(2, 2),
        window_size=4,
        embed_dim=24,
        num_classes=5,
    ).eval()


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    torch.manual_seed(3)
    model = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=5,
    )  # fmt: skip
    nn.init.normal_(model.heads[-1].weight)
    return model.eval()


def torchvision_swin() -> nn.Module:
    from torchvision.models import SwinTransformer

    torch.manual_seed(3)
    return SwinTransformer(
        patch_size=[4, 4], embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=[4, 4],
        num_classes=5,
    ).eval()  # fmt: skip


def test_derived(vit: nn.Module, swin: nn.Module) -> None:
    assert reshape_transform_for(vit) == TokenReshape(3, 4, prefix=5)
    assert reshape_transform_for(torchvision_vit()) == TokenReshape(4, 4, prefix=1)
    assert reshape_transform_for(swin) == ChannelsLast(frozenset({24, 96, 48}))
    assert isinstance(reshape_transform_for(torchvision_swin()), ChannelsLast)
    assert reshape_transform_for(nn.Conv2d(1, 1, 1)) is None
    assert reshape_transform_for(nn.Sequential(vit)) == TokenReshape(3, 4, prefix=5)
    assert reshape_transform_for(nn.Sequential(swin)) == reshape_transform_for(swin)


def test_tokens_land_where_their_patch_is() -> None:
    """Number the patches of an image, and find the numbers in the map."""
    patches = nn.functional.unfold(torch.arange(12.0).view(1, 1, 3, 4), 1).transpose(1, 2)
    tokens = torch.cat([torch.full((1, 5, 1), -1.0), patches], 1)
    assert torch.equal(TokenReshape(3, 4, 5)(tokens)[0, 0], torch.arange(12.0).view(3, 4))


@pytest.mark.parametrize(
    "name", ["GradCAM", "HiResCAM", "EigenCAM", "ShapleyCAM", "FinerCAM", "AblationCAM"]
)
@pytest.mark.parametrize("family", ["vit", "swin", "torchvision_vit", "torchvision_swin"])
def test_cams_without_a_transform(
    name: str, family: str, request: pytest.FixtureRequest, quick: USU
) -> None:
    builder = {"torchvision_vit": torchvision_vit, "torchvision_swin": torchvision_swin}
    model: Any = builder[family]() if family in builder else request.getfixturevalue(family)
    layer, pixels, cells = {
        "vit": lambda: (model.blocks[-1].norm1, (24, 32), (3, 4)),
        "swin": lambda: (model.layers[-1].blocks[-1].norm1, (32, 32), (8, 8)),
        "torchvision_vit": lambda: (model.encoder.layers[-1].ln_1, (32, 32), (4, 4)),
        "torchvision_swin": lambda: (model.features[-1][-1].norm1, (32, 32), (4, 4)),
    }[family]()
    image = torch.rand(1, 3, *pixels)
    cls = getattr(usu_gradcam, name)
    fine = cls(model, [layer], upsampler=quick, raw=True)(image, TARGETS)
    even = cls(model, [layer], upsampler="nearest", raw=True)(image, TARGETS)
    assert fine.shape == (1, *pixels)
    assert even.std() > 0
    grid = CellGrid.even(cells, pixels)
    np.testing.assert_allclose(
        grid.mean(torch.from_numpy(fine)),
        grid.mean(torch.from_numpy(even)),
        rtol=1e-3,
        atol=1e-5 * np.abs(even).max(),
    )
    blocks = grid.split(torch.from_numpy(even), 0.0)
    assert torch.equal(blocks.amax((2, 4)), blocks.amin((2, 4))), "cells are not the grid's"


def test_shapley_agrees_with_the_library_where_it_runs(quick: USU) -> None:
    """A convolution as tokens: the library cannot weigh them, but can without the detour."""
    import pytorch_grad_cam as library

    torch.manual_seed(5)

    class Flat(nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            return maps.flatten(2).transpose(1, 2)

    features, head = nn.Conv2d(3, 4, 4, stride=4), nn.Sequential(nn.Tanh(), nn.Linear(4, 5))

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.flat, self.head = features, Flat(), head

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.flat(self.features(x))).mean(1)

    model, image = Tokens().eval(), torch.rand(1, 3, 16, 16)
    theirs = library.ShapleyCAM(model, [model.features])
    wanted = theirs(image, TARGETS)
    release(theirs.activations_and_grads)  # its own fails on views
    ours = usu_gradcam.ShapleyCAM(model, [model.flat], TokenReshape(4, 4, 0), upsampler=None)
    np.testing.assert_allclose(ours(image, TARGETS), wanted, atol=1e-5)


def test_full_grad_takes_the_patch_embedding(vit: nn.Module, quick: USU) -> None:
    fine = usu_gradcam.FullGrad(vit, [], upsampler=quick)(torch.rand(1, 3, 24, 32), TARGETS)
    assert fine.shape == (1, 24, 32)
    assert fine.std() > 0


def test_convolutions_inside_transformers(vit: nn.Module, swin: nn.Module, quick: USU) -> None:
    for model, pixels in ((vit, (24, 32)), (swin, (32, 32))):
        layer: Any = model.patch_embed.proj  # type: ignore[union-attr]
        fine = usu_gradcam.LayerCAM(model, [layer], upsampler=quick)(
            torch.rand(1, 3, *pixels), TARGETS
        )
        assert fine.std() > 0


class TestErrors:
    """What the library scrambles or fails at."""

    def test_layer_after_the_last_mixing(self, vit: nn.Module) -> None:
        cam = usu_gradcam.GradCAM(vit, [vit.blocks[-1]], upsampler="nearest")  # type: ignore[index]
        with pytest.raises(ValueError, match=r"patch tokens have no gradient. Try the norm1"):
            cam(torch.rand(1, 3, 24, 32), TARGETS)

    def test_wrong_number_of_tokens(self) -> None:
        with pytest.raises(ValueError, match=r"5 \+ 3 x 4 = 17 tokens.*got shape \(1, 18, 2\)"):
            TokenReshape(3, 4, 5)(torch.zeros(1, 18, 2))

    def test_channels_neither_first_nor_last(self) -> None:
        for shape in ((1, 2, 2, 3), (1, 16, 2, 16), (1, 4, 16)):
            with pytest.raises(ValueError, match=r"maps with \[16\] channels first or last"):
                ChannelsLast(frozenset({16}))(torch.zeros(shape))

    def test_an_explicit_transform_is_used_as_it_is(self, swin: nn.Module) -> None:
        layer = swin.layers[-1].blocks[-1].norm1  # type: ignore[index,union-attr]
        cam = usu_gradcam.GradCAM(swin, [layer], swinT_reshape_transform, upsampler="nearest")
        with pytest.raises(RuntimeError, match="invalid for input of size"):
            cam(torch.rand(1, 3, 32, 32), TARGETS)


def test_tokens_of_a_model_of_any_size_lie_as_in_each_image(timm: Any) -> None:
    """The same number of tokens, in another shape than the model was made with."""
    torch.manual_seed(3)
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=(32, 32), patch_size=8, depth=2, num_heads=2, embed_dim=16, num_classes=5,
        dynamic_img_size=True,
    ).eval()  # fmt: skip
    layer = model.blocks[-1].norm1
    for size, grid in (((16, 64), (2, 8)), ((32, 32), (4, 4)), ((64, 16), (8, 2))):
        images = torch.rand(1, 3, *size)
        options = {"upsampler": "nearest", "raw": True}
        with usu_gradcam.GradCAM(model, [layer], **options) as cam:
            cam(torch.rand(1, 3, 32, 32), TARGETS)
            fine = cam(images, TARGETS)
        with usu_gradcam.GradCAM(model, [layer], TokenReshape(*grid, 1), **options) as cam:
            np.testing.assert_array_equal(fine, cam(images, TARGETS))


def test_what_fails_elsewhere_is_not_blamed_on_targets(vit: nn.Module, quick: USU) -> None:
    """The library's own ablation layer takes tokens for channels."""
    cam = usu_gradcam.AblationCAM(
        vit, [vit.blocks[-1].norm1], ablation_layer=AblationLayer(), upsampler=quick
    )
    with pytest.raises(IndexError, match="too many indices"):
        cam(torch.rand(1, 3, 24, 32), TARGETS)


class Blocks(nn.Module):
    """Keeps (B, h, w, C), and does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 7, 8, 8)
        self.block = nn.Sequential(nn.LayerNorm(7), nn.GELU())
        self.head = nn.Linear(7, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.embed(images).movedim(1, -1)).mean((1, 2)))


def test_channels_last_are_not_taken_for_rows() -> None:
    torch.manual_seed(3)
    model, images = Blocks().eval(), torch.rand(1, 3, 64, 64)
    options: dict[str, Any] = {"upsampler": "nearest", "raw": True}
    with pytest.raises(ValueError, match=r"of the images' proportions, got shape \(1, 8, 8, 7\)"):
        usu_gradcam.GradCAM(model, [model.block], **options)(images, TARGETS)
    cam = usu_gradcam.GradCAM(model, [model.block], lambda x: x.movedim(-1, 1), **options)
    fine = cam(images, TARGETS)
    assert (fine[:, ::8, ::8].repeat(8, 1).repeat(8, 2) == fine).all()
    assert usu_gradcam.GradCAM(model, [model.embed], **options)(images, TARGETS).std() > 0
