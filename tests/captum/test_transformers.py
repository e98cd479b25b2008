"""Tokens and channels-last maps lie where the model says, checked against hand-made reshapes."""

from typing import Any

import pytest
import timm
import torch
import torchvision
from captum import attr as captum_attr
from captum.attr import LayerIntegratedGradients, NoiseTunnel
from torch import Tensor, nn

from usu_captum import (
    LayerActivation,
    LayerGradCam,
    LayerGradientXActivation,
    TokenGrid,
    Upsampled,
    default_layer,
    token_grid,
)
from usu_core import CellGrid
from usu_core._tokens import has_proportions

TINY: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 3}


def vit(name: str = "vit_tiny_patch16_224", **options: Any) -> Any:
    return timm.create_model(name, **{**TINY, **options}).eval()


def swin() -> Any:
    return timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=(64, 96), window_size=4, embed_dim=16,
        depths=(1, 1), num_heads=(2, 2), num_classes=3,
    ).eval()  # fmt: skip


def torchvision_swin() -> Any:
    kind = torchvision.models.swin_transformer.SwinTransformer
    return kind([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=3).eval()


def torchvision_vit() -> Any:
    kind = torchvision.models.vision_transformer.VisionTransformer
    model = kind(32, 8, 2, 2, 24, 48, num_classes=3).eval()
    nn.init.normal_(model.heads.head.weight)  # Zeros as built: no gradient anywhere.
    return model


def layer_output(model: Any, layer: Any, images: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """The output of a layer and the gradient of the target, by a hook of our own."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        score = model(images)[:, target].sum()
    finally:
        handle.remove()
    return kept[0].detach(), torch.autograd.grad(score, kept[0])[0]


def oracle(output: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM of (B, C, h, w), from its definition."""
    result = torch.zeros(len(output), *output.shape[2:])
    for c in range(output.shape[1]):
        result += gradient[:, c].mean((1, 2))[:, None, None] * output[:, c]
    return result[:, None]


def cells_of(fine: Tensor, h: int, w: int) -> Tensor:
    """Read a nearest-neighbour map back."""
    return fine[:, :, :: fine.shape[2] // h, :: fine.shape[3] // w]


def assert_close_to(found: Tensor, expected: Tensor) -> None:
    """Close, measured by the largest value: fresh models have gradients of any size."""
    scale = expected.abs().max()
    assert scale > 0
    torch.testing.assert_close(found / scale, expected / scale, atol=1e-4, rtol=1e-4)


MODELS = [
    pytest.param(lambda: vit(img_size=(192, 256)), (192, 256), (12, 16), 1, id="vit-12x16"),
    pytest.param(
        # 4 + 12 x 16 = 196 = 14 x 14: the square root would scramble it.
        lambda: vit("vit_medium_patch16_reg4_gap_256", img_size=(192, 256)),
        (192, 256), (12, 16), 4, id="reg4-12x16",
    ),
    pytest.param(
        lambda: vit("vit_base_patch16_reg4_gap_256", img_size=128, class_token=True),
        (128, 128), (8, 8), 5, id="class-and-reg4",
    ),
    pytest.param(
        lambda: vit("deit_tiny_distilled_patch16_224", img_size=(64, 96)),
        (64, 96), (4, 6), 2, id="deit-distilled",
    ),
    pytest.param(
        lambda: vit(dynamic_img_size=True), (96, 160), (6, 10), 1, id="dynamic-size"
    ),
    pytest.param(
        lambda: timm.create_model("vit_tiny_r_s16_p8_224", img_size=64, depth=1, num_classes=3),
        (64, 64), (2, 2), 1, id="hybrid",
    ),
    pytest.param(torchvision_vit, (32, 32), (4, 4), 1, id="torchvision"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "size", "grid", "prefix"), MODELS)
def test_tokens_lie_in_the_models_grid(make: Any, size: Any, grid: Any, prefix: int) -> None:
    model, images = make().eval(), torch.rand(2, 3, *size)
    assert token_grid(model, images) == (*grid, prefix)
    name, layer = default_layer(model, images)
    assert name.endswith(("norm1", "ln_1"))
    tokens, gradient = layer_output(model, layer, images, 1)

    def by_hand(values: Tensor) -> Tensor:
        result = torch.zeros(2, values.shape[2], *grid)
        for i in range(grid[0]):
            for j in range(grid[1]):
                result[:, :, i, j] = values[:, prefix + i * grid[1] + j]
        return result

    grad_cam = LayerGradCam(model, layer).attribute(images, target=1, upsampler="nearest")
    expected = oracle(by_hand(tokens), by_hand(gradient))
    assert_close_to(cells_of(grad_cam, *grid), expected)
    product = LayerGradientXActivation(model, layer).attribute(
        images, target=1, upsampler="nearest"
    )
    expected = by_hand(tokens * gradient).sum(1, keepdim=True)
    assert_close_to(cells_of(product, *grid), expected)


@pytest.mark.parametrize("make", [swin, torchvision_swin])
@pytest.mark.parametrize("stage", [0, 1])
def test_swin_maps_keep_rows_and_columns(make: Any, stage: int) -> None:
    model, images = make(), torch.rand(2, 3, 64, 96)
    stages = [m for m in model.modules() if type(m).__name__ == "SwinTransformerBlock"]
    layer, grid = stages[stage], ((16, 24), (8, 12))[stage]
    maps, gradient = layer_output(model, layer, images, 1)
    assert tuple(maps.shape[1:3]) == grid  # (B, h, w, C)
    fine = LayerGradCam(model, layer).attribute(images, target=1, upsampler="nearest")
    expected = oracle(maps.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2))
    assert_close_to(cells_of(fine, *grid), expected)
    product = LayerGradientXActivation(model, layer).attribute(
        images, target=1, upsampler="nearest"
    )
    expected = (maps * gradient).sum(3)[:, None]
    assert_close_to(cells_of(product, *grid), expected)


def test_layers_of_one_swin_agree_whatever_their_layout() -> None:
    model, images = swin(), torch.rand(1, 3, 64, 96)
    first = LayerActivation(model, model.patch_embed.proj)  # (B, C, h, w), a convolution.
    normal = LayerActivation(model, model.patch_embed.norm)  # (B, h, w, C), a layer norm.
    flat = LayerActivation(model, model.layers[1].blocks[0].norm2)  # (B, h w, C)
    for method in (first, normal, flat):
        fine = method.attribute(images, target=1, upsampler="nearest", reduce=None)
        assert fine.shape[2:] == (64, 96)
    assert first.attribute(images, target=1, upsampler="nearest", reduce=None).shape[1] == 16
    last = default_layer(model, images)[0]
    assert last == "norm"
    inner = model.layers[0].blocks[0].attn
    with pytest.raises(ValueError, match="one spatial map of the image's rank per example"):
        LayerGradCam(model, inner).attribute(images, target=1, upsampler="nearest")


def test_torchvision_swin_channels_first_at_the_end() -> None:
    model, images = torchvision_swin(), torch.rand(1, 3, 64, 96)
    name, layer = default_layer(model, images)
    assert name == "permute"
    fine = LayerGradCam(model, layer).attribute(images, target=1, upsampler="nearest")
    plain = captum_attr.LayerGradCam(model, layer).attribute(images, target=1)
    torch.testing.assert_close(cells_of(fine, 8, 12), plain)


def test_the_last_block_is_refused() -> None:
    model, images = vit(img_size=(64, 96)), torch.rand(1, 3, 64, 96)
    for cls in (LayerGradCam, LayerGradientXActivation):
        with pytest.raises(ValueError, match="Try the norm1"):
            cls(model, model.blocks[-1]).attribute(images, target=1, upsampler="nearest")
    # An average of all tokens reads the last block, and its gradient is none to refuse.
    pooled = vit(img_size=(64, 96), global_pool="avg")
    method = LayerGradCam(pooled, pooled.blocks[-1])
    assert method.attribute(images, target=1, upsampler="nearest").any()


def test_wrong_layers_and_hidden_models_are_named() -> None:
    model, images = vit(img_size=(64, 96)), torch.rand(1, 3, 64, 96)
    with pytest.raises(ValueError, match="forward_func"):
        LayerGradCam(lambda x: model(x), model.blocks[0]).attribute(
            images, target=1, upsampler="nearest"
        )
    told = LayerGradCam(lambda x: model(x), model.blocks[0]).attribute(
        images, target=1, upsampler="nearest", grid=TokenGrid(4, 6, 1)
    )
    known = LayerGradCam(model, model.blocks[0]).attribute(images, target=1, upsampler="nearest")
    torch.testing.assert_close(told, known)
    with pytest.raises(ValueError, match="1 \\+ 3 x 6 = 19 tokens"):
        LayerGradCam(model, model.blocks[0]).attribute(
            images, target=1, upsampler="nearest", grid=TokenGrid(3, 6, 1)
        )
    with pytest.raises(ValueError, match="one spatial map"):
        LayerGradCam(model, model.head).attribute(images, target=1, upsampler="nearest")


def test_wrappers_are_seen_through() -> None:
    class Scaled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: Tensor) -> Tensor:
            result: Tensor = 2 * self.inner(images)
            return result

    model, images = vit(img_size=(64, 96)), torch.rand(1, 3, 64, 96)
    layer = model.blocks[1].norm1
    expected = LayerGradCam(model, layer).attribute(images, target=1, upsampler="nearest")
    forms = [Scaled(model), Scaled(model).forward]
    if not torch.cuda.is_available():  # It would take the model to the GPU.
        forms.append(nn.DataParallel(Scaled(model)))
    for wrapped in forms:
        fine = LayerGradCam(wrapped, layer).attribute(images, target=1, upsampler="nearest")
        torch.testing.assert_close(fine, 2 * expected)
    assert default_layer(Scaled(model), images)[0] == "inner.blocks.1.norm1"


def test_patch_embedding_is_a_grid_in_every_form() -> None:
    images = torch.rand(1, 3, 64, 96)
    for dynamic in (False, True):  # (B, N, C) without prefix, then (B, h, w, C).
        model = vit(img_size=(64, 96), dynamic_img_size=dynamic)
        for layer in (model.patch_embed, model.patch_embed.proj):
            fine = LayerActivation(model, layer).attribute(images, target=1, upsampler="nearest")
            proj = model.patch_embed.proj(images).sum(1, keepdim=True)
            torch.testing.assert_close(cells_of(fine, 4, 6), proj, atol=1e-5, rtol=1e-4)


def test_integrated_gradients_of_tokens_keep_their_delta() -> None:
    model, images = vit(img_size=(64, 96), global_pool="avg"), torch.rand(1, 3, 64, 96)
    method = LayerIntegratedGradients(model, model.blocks[1].norm1)
    coarse, delta = method.attribute(images, target=1, n_steps=4, return_convergence_delta=True)
    fine, again = Upsampled(method, "nearest").attribute(
        images, target=1, n_steps=4, return_convergence_delta=True
    )
    assert torch.equal(delta, again)
    torch.testing.assert_close(fine.sum(), coarse[:, 1:].sum(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("outside", [True, False])
def test_noise_tunnels_keep_token_grad_cam_right(outside: bool, seed: Any) -> None:
    model, images = vit(img_size=(64, 96)), torch.rand(1, 3, 64, 96)
    plain = captum_attr.LayerGradCam(model, model.blocks[1].norm1)
    expected = LayerGradCam(model, plain.layer).attribute(images, target=1, upsampler="nearest")
    method: Any = Upsampled(NoiseTunnel(plain), "nearest")
    method = method if outside else NoiseTunnel(Upsampled(plain, "nearest"))
    fine = method.attribute(images, target=1, nt_samples=2, stdevs=0.0)
    assert_close_to(fine, expected)
    assert type(plain) is captum_attr.LayerGradCam


def test_guided_redistribution_keeps_token_mass(guided: Any) -> None:
    model, images = vit(img_size=(64, 96)), torch.rand(2, 3, 64, 96)
    method = LayerGradCam(model, model.blocks[1].norm1)
    nearest = method.attribute(images, target=[0, 2], upsampler="nearest")
    fine = method.attribute(images, target=[0, 2], upsampler=guided)
    pooled = torch.nn.functional.avg_pool2d(fine, 16)
    torch.testing.assert_close(pooled, cells_of(nearest, 4, 6), atol=1e-6, rtol=1e-3)


class Declared(nn.Module):
    """Keeps (B, h, w, C), says so, and has no patch embedding that says how finely."""

    output_fmt = "NHWC"

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 24, 8, 8)
        self.stage = nn.Sequential(nn.Identity(), nn.Identity())
        self.attention = nn.Softmax(-1)
        self.head = nn.Linear(24, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stage(self.embed(images).permute(0, 2, 3, 1))
        tokens = maps.flatten(1, 2)
        weights = self.attention((tokens @ tokens.mT)[:, None].expand(-1, 2, -1, -1))
        return self.head((weights[:, 0] @ tokens).mean(1))


def test_a_model_that_declares_channels_last_without_its_grid() -> None:
    torch.manual_seed(0)
    model, images = Declared().eval(), torch.rand(1, 3, 64, 96)
    name, layer = default_layer(model, images)
    assert name == "stage"  # Not the attention, whose 96 by 96 are no map.
    output, gradient = layer_output(model, layer, images, 1)
    fine = LayerGradientXActivation(model, layer).attribute(images, target=1, upsampler="nearest")
    assert_close_to(cells_of(fine, 8, 12), (output * gradient).sum(3)[:, None])


class Plain(nn.Module):
    """A transformer as written by hand: attention is a layer, and nobody says how tokens lie."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 8, stride=8)
        self.attend, self.norm, self.head = nn.Softmax(-1), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.patches(images).flatten(2).mT)
        return self.head((self.attend((tokens @ tokens.mT)[:, None])[:, 0] @ tokens).mean(1))


def test_attention_is_no_layer_to_explain() -> None:
    assert default_layer(Plain().eval(), torch.rand(1, 3, 64, 64))[0] == "patches"


def test_tokens_by_channels_are_no_map() -> None:
    """Fifty tokens of forty channels have about the proportions of a square image."""
    model = timm.create_model("coat_lite_tiny").eval()
    for crpe in ("crpe1", "crpe4"):
        assert default_layer(model, torch.rand(1, 3, 224, 224))[0] != crpe


def test_attention_of_tokens_is_refused() -> None:
    model, images = vit(), torch.rand(1, 3, 224, 224)
    for block in model.blocks:
        block.attn.fused_attn = False
    layer = model.blocks[1].attn.attn_drop
    with pytest.raises(ValueError, match="what every token is to every other, of shape"):
        LayerGradCam(model, layer).attribute(images, target=1, upsampler="nearest")


def test_a_given_grid_is_the_maps() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Flatten(), nn.Linear(64, 3)).eval()
    grad_cam, images = LayerGradCam(model, model[0]), torch.rand(1, 3, 32, 32)
    plain = grad_cam.attribute(images, target=1, upsampler="nearest")
    given = {"target": 1, "upsampler": "nearest"}
    assert torch.equal(grad_cam.attribute(images, **given, grid=TokenGrid(4, 4, 0)), plain)
    with pytest.raises(ValueError, match=r"grid must be the layer's, .* \(4, 4\) cells, got Token"):
        grad_cam.attribute(images, **given, grid=TokenGrid(2, 2, 0))


def test_a_signal_whose_maps_have_more_dimensions_than_it_has() -> None:
    """A spectrogram is made inside: its maps are no scaled images, and are taken as they come."""
    model = nn.Sequential(nn.Unflatten(2, (8, 8)), nn.Conv2d(1, 4, 3, padding=1), nn.Flatten())
    assert default_layer(model, torch.rand(1, 1, 64))[0] == "1"


def test_convolutions_without_padding_lose_borders_and_are_maps_all_the_same() -> None:
    pairs = [(nn.Conv2d(1 if i == 0 else 4, 4, 3), nn.ReLU()) for i in range(5)]
    layers = [layer for pair in pairs for layer in pair]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for size in ((32, 32), (32, 48)):
        assert default_layer(model, torch.rand(2, 1, *size))[0] == "9"


def test_zeros_have_the_channels_of_the_first_convolution() -> None:
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert default_layer(grey)[0] == "0"
    narrow = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    with pytest.raises(ValueError, match=r"inputs must be given, since Sequential .* 1, 224, 224"):
        default_layer(narrow)
    assert default_layer(narrow, torch.zeros(1, 1, 28, 28))[0] == "0"
    with pytest.raises(TypeError, match="model must be a module, got function"):
        default_layer(lambda images: narrow(images))


class Layers(nn.Module):
    """A stem, one layer that may be anything, and a head that reads all places alike."""

    def __init__(self, stem: nn.Module, layer: nn.Module, is_last: bool) -> None:
        super().__init__()
        self.stem, self.layer, self.head = stem, layer, nn.LazyLinear(3)
        self.is_last = is_last

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        maps = self.layer(maps.movedim(1, -1) if self.is_last else maps)
        maps = maps.movedim(-1, 1) if self.is_last else maps
        return self.head(maps.sin().flatten(2).mean(2))


def block(channels: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(channels), nn.GELU())


LAYOUTS = [
    pytest.param(nn.LayerNorm([20, 8, 12]), False, 2, id="norm-of-whole-maps"),
    pytest.param(timm.layers.LayerNorm2dFp32(20), False, 2, id="timm-2d-fp32"),
    pytest.param(timm.layers.LayerNormAct2dFp32(20), False, 2, id="timm-2d-act-fp32"),
    pytest.param(nn.Linear(12, 12), False, 2, id="linear-over-the-width"),
    pytest.param(nn.LayerNorm(20), True, 2, id="norm-of-channels"),
    pytest.param(nn.Linear(20, 20), True, 2, id="linear-of-channels"),
    pytest.param(block(20), True, 2, id="block"),
    pytest.param(nn.LayerNorm(20), True, 1, id="norm-of-signals"),
    pytest.param(block(20), True, 1, id="block-of-signals"),
    pytest.param(nn.LayerNorm(20), True, 3, id="norm-of-volumes"),
    pytest.param(nn.ReLU(), False, 3, id="volumes"),
]


@pytest.mark.parametrize(("layer", "is_last", "rank"), LAYOUTS)
def test_a_layout_is_that_of_the_map_and_not_of_the_type(
    layer: nn.Module, is_last: bool, rank: int
) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    images = torch.rand(2, 3, *((96,), (64, 96), (16, 16, 24))[rank - 1])
    model = Layers(conv(3, 20, 8, 8), layer, is_last)
    model(images)
    output, gradient = layer_output(model.eval(), layer, images, 1)
    if is_last:
        output, gradient = output.movedim(-1, 1), gradient.movedim(-1, 1)
    coarse = (output * gradient).sum(1, keepdim=True)
    expected = nn.functional.interpolate(coarse, images.shape[2:])
    product = LayerGradientXActivation(model, layer)
    assert_close_to(product.attribute(images, target=1, upsampler="nearest"), expected)
    weights = gradient.mean(tuple(range(2, rank + 2)), keepdim=True)
    expected = nn.functional.interpolate((weights * output).sum(1, True), images.shape[2:])
    grad_cam = LayerGradCam(model, layer)
    assert_close_to(grad_cam.attribute(images, target=1, upsampler="nearest"), expected)


def test_a_permutation_says_where_it_puts_channels() -> None:
    model, images = torchvision_swin(), torch.rand(1, 3, 64, 96)
    activation = LayerActivation(model, model.features[0][1])  # To (B, h, w, C).
    fine = activation.attribute(images, target=1, upsampler="nearest")
    proj = model.features[0][0](images).sum(1, keepdim=True)
    torch.testing.assert_close(cells_of(fine, 16, 24), proj, atol=1e-5, rtol=1e-4)


def test_windows_are_no_map() -> None:
    """Four windows of 4 by 6 tokens have as many dimensions as a map."""

    class Windows(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            rows = maps.unflatten(2, (2, 4)).unflatten(4, (2, 6))
            return rows.permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2, 3)

    norm = nn.LayerNorm(6)
    model = Layers(nn.Sequential(nn.Conv2d(3, 6, 8, 8), Windows()), norm, False)
    model(torch.rand(1, 3, 64, 96))
    with pytest.raises(ValueError, match=r"one spatial map .* got shape \(1, 4, 24, 6\)"):
        LayerGradientXActivation(model.eval(), norm).attribute(
            torch.rand(1, 3, 64, 96), target=1, upsampler="nearest"
        )


def test_convolutions_stride_as_they_like() -> None:
    """As text recognisers do, which keep the width and give up the height."""
    stem = nn.Sequential(nn.Conv2d(3, 6, (16, 4), (16, 4)), nn.ReLU())
    model, images = Layers(stem, nn.Identity(), False), torch.rand(1, 3, 32, 96)
    model(images)
    plain = captum_attr.LayerActivation(model, stem[1]).attribute(images).sum(1, keepdim=True)
    fine = LayerActivation(model, stem[1]).attribute(images, target=1, upsampler="nearest")
    assert torch.equal(cells_of(fine, 2, 24), plain)
    # Beside layer norms that could be windows, and is said to be cells.
    normal = Layers(stem, nn.Sequential(nn.Identity(), timm.layers.LayerNorm2d(6)), False)
    normal(images)
    activation = LayerActivation(normal, stem[1])
    with pytest.raises(ValueError, match=r"one spatial map .*CellGrid\.even"):
        activation.attribute(images, target=1, upsampler="nearest")
    told = activation.attribute(
        images, target=1, upsampler="nearest", grid=CellGrid.even((2, 24), (32, 96))
    )
    assert torch.equal(told, fine)


def test_odd_grids_are_halved_rounding_up() -> None:
    model, images = torchvision_swin(), torch.rand(1, 3, 28, 44)  # 7 x 11, then 4 x 6
    layer = [m for m in model.modules() if type(m).__name__ == "SwinTransformerBlock"][-1]
    maps, gradient = layer_output(model, layer, images, 1)
    assert tuple(maps.shape[1:3]) == (4, 6)
    method = LayerGradientXActivation(model, layer)
    fine = method.attribute(images, target=1, upsampler="nearest")
    coarse = (maps * gradient).sum(3)[:, None]
    torch.testing.assert_close(fine, torch.nn.functional.interpolate(coarse, (28, 44)))


def test_what_may_be_either_has_its_channels_first() -> None:
    """Four channels of 4 x 4, of a plain transformer, whose maps are those of convolutions."""
    from usu_captum._layout import lay_out
    from usu_captum._options import Options

    model, values = torchvision_vit(), torch.rand(1, 4, 4, 4)
    assert token_grid(model, torch.rand(1, 3, 32, 32)) == (4, 4, 1)
    found = lay_out(values, torch.rand(1, 3, 32, 32), model, model.encoder.dropout, Options())
    assert torch.equal(found, values)


class Windowed(nn.Module):
    """Looks at each quarter of its map as an example of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inside = nn.Conv2d(3, 4, 4, 4), nn.Identity()
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        quarters = self.embed(images).unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5)
        seen = self.inside(quarters.flatten(0, 2))
        return self.head(seen.mean((2, 3)).unflatten(0, (-1, 4)).mean(1))


def test_windows_are_no_maps_of_the_image() -> None:
    assert default_layer(Windowed(), torch.rand(2, 3, 32, 32))[0] == "embed"


@pytest.mark.parametrize("summation", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_grad_cam_of_tokens_heeds_captums_options(summation: bool, relu: bool) -> None:
    model, images = vit(img_size=(64, 96)), torch.rand(1, 3, 64, 96)
    layer = model.blocks[1].norm1
    tokens, gradient = layer_output(model, layer, images, 1)
    values, slopes = (
        part[:, 1:].transpose(1, 2).reshape(1, -1, 4, 6) for part in (tokens, gradient)
    )
    expected = slopes.mean((2, 3), keepdim=True) * values
    expected = expected.sum(1, keepdim=True) if summation else expected
    fine = LayerGradCam(model, layer).attribute(
        images, target=1, upsampler="nearest", reduce=None,
        relu_attributions=relu, attr_dim_summation=summation,
    )  # fmt: skip
    assert_close_to(cells_of(fine, 4, 6), expected.relu() if relu else expected)


def test_grad_cam_of_tokens_heeds_a_layers_input() -> None:
    model, images = vit(img_size=(64, 96)), torch.rand(1, 3, 64, 96)
    seen = []
    handle = model.blocks[1].norm1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    outputs = model(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(outputs[:, 1].sum(), seen[0])
    values, slopes = (
        part.detach()[:, 1:].transpose(1, 2).reshape(1, -1, 4, 6) for part in (seen[0], gradient)
    )
    fine = LayerGradCam(model, model.blocks[1].norm1).attribute(
        images, target=1, upsampler="nearest", attribute_to_layer_input=True
    )
    expected = (slopes.mean((2, 3), keepdim=True) * values).sum(1, keepdim=True)
    assert_close_to(cells_of(fine, 4, 6), expected)


def test_a_strict_look_allows_a_cell_more_or_less_along_each_axis() -> None:
    for size, fits in (((8, 6), True), ((9, 6), False), ((8, 5), False), ((1, 2), True)):
        assert has_proportions(size, (224, 224), strict=True) is fits, size
