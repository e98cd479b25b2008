"""``usu-fast`` with Grad-CAM: one forward pass serves the map and the scores."""

from dataclasses import replace

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from usu_captum import ForwardScore, LayerGradCam
from usu_captum._shared_pass import SharedPass, SharedScore
from usu_core import CellGrid, GradientScorer, resolve
from usu_core._tokens import is_scaled
from usu_core.segments import segment_expand, segment_mean


class Counted(nn.Module):
    """A small network that counts its forward passes, fine activations before coarse ones."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU())
        self.coarse = nn.Sequential(nn.Conv2d(4, 6, 3, stride=4, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 5)
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        return self.head(self.coarse(self.fine(images)).mean((2, 3)))


@pytest.fixture
def model() -> Counted:
    torch.manual_seed(0)
    return Counted().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def recorded(model: nn.Module, layer: nn.Module, images: Tensor) -> SharedPass:
    shared = SharedPass(model, layer, images)
    with shared.recording():
        model(shared.inputs)
    return shared


def test_one_forward_pass_serves_both(model: Counted, images: Tensor) -> None:
    LayerGradCam(model, model.coarse).attribute(images, target=1, upsampler="usu-fast")
    assert model.passes == 1


def test_the_map_is_captums_redistributed(model: Counted, images: Tensor) -> None:
    target = torch.tensor([1, 3])
    plain = captum.attr.LayerGradCam(model, model.coarse).attribute(images, target=target)
    fine = LayerGradCam(model, model.coarse).attribute(images, target=target, upsampler="usu-fast")
    grid = CellGrid.even((4, 4), (32, 32))
    torch.testing.assert_close(grid.mean(fine), plain, rtol=1e-5, atol=1e-7)


def test_scores_are_gradient_times_the_fine_activations(model: Counted, images: Tensor) -> None:
    """Each example against a hand-made pass of its own target."""
    target = torch.tensor([1, 3])
    upsampler = resolve("usu-fast")
    activations = model.fine(images).detach().requires_grad_()
    outputs = model.head(model.coarse(activations).mean((2, 3)))
    (gradient,) = torch.autograd.grad(outputs[[0, 1], target].sum(), activations)
    effect = (gradient * activations).sum(1).abs().detach()

    class Known:
        def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
            raise AssertionError("the effects are at hand")

        def pixel_effects(self, images: Tensor, output: str) -> Tensor:
            return effect.repeat_interleave(2, 1).repeat_interleave(2, 2)

    expected = upsampler(
        captum.attr.LayerGradCam(model, model.coarse).attribute(images, target=target),
        score_map=upsampler.score_map(images, Known()).values,
    )
    fine = LayerGradCam(model, model.coarse).attribute(images, target=target, upsampler="usu-fast")
    torch.testing.assert_close(fine, expected, rtol=1e-4, atol=1e-6)


def test_without_finer_activations_the_image_is_the_guide(model: Counted, images: Tensor) -> None:
    fine = LayerGradCam(model, model.fine).attribute(images, target=0, upsampler="usu-fast")
    assert fine.shape == (2, 1, 32, 32)
    assert model.passes == 1
    assert bool(torch.isfinite(fine).all())


@pytest.mark.parametrize("fill", ["zero", torch.full((3, 1, 1), 0.5)], ids=["name", "tensor"])
def test_a_chosen_fill_is_heeded(model: Counted, images: Tensor, fill: str | Tensor) -> None:
    upsampler = replace(resolve("usu-fast"), scorer=GradientScorer(fill=fill))
    fine = LayerGradCam(model, model.coarse).attribute(images, target=1, upsampler=upsampler)
    cells = captum.attr.LayerGradCam(model, model.coarse).attribute(images, target=1)
    expected = upsampler(cells, image=images, score=ForwardScore(model, 1))
    torch.testing.assert_close(fine, expected, rtol=1e-4, atol=1e-6)


def test_training_mode_is_scored_in_a_pass_of_its_own(model: Counted, images: Tensor) -> None:
    model.train()
    LayerGradCam(model, model.coarse).attribute(images, target=1, upsampler="usu-fast")
    assert model.passes == 2
    assert model.training


@pytest.mark.parametrize("of_the_image", [False, True])
def test_the_graph_is_captums(model: Counted, images: Tensor, of_the_image: bool) -> None:
    """Each cell keeps its mean, so the means have the gradients of the coarse map."""
    images.requires_grad_(of_the_image)
    sources = [*model.fine.parameters(), *model.coarse.parameters()] + [images] * of_the_image
    plain = captum.attr.LayerGradCam(model, model.coarse).attribute(images, target=1)
    expected = torch.autograd.grad(plain.sum(), sources)
    model.passes = 0
    fine = LayerGradCam(model, model.coarse).attribute(images, target=1, upsampler="usu-fast")
    found = torch.autograd.grad(CellGrid.even((4, 4), (32, 32)).mean(fine).sum(), sources)
    assert model.passes == 1
    for gradient, wanted in zip(found, expected, strict=True):
        assert bool(wanted.any())
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-7)


def test_nothing_is_left_behind(model: Counted, images: Tensor) -> None:
    images.requires_grad_(False)
    method = LayerGradCam(model, model.coarse)
    method.attribute(images, target=1, upsampler="usu-fast")
    with pytest.raises(AssertionError):
        method.attribute(images, target=[0, 1, 2], upsampler="usu-fast")
    assert all(not module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not images.requires_grad
    assert images.grad is None


class Attending(nn.Module):
    """Mixes sixteen cells by a matrix that has the dimensions of a map."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.ReLU())
        self.weights = nn.Softmax(-1)
        self.late = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.coarse(images)
        tokens = cells.flatten(2).transpose(1, 2)
        attention = self.weights((tokens @ tokens.transpose(1, 2))[:, None])
        mixed = (attention[:, 0] @ tokens).transpose(1, 2).unflatten(2, (5, 5))
        return self.head(self.late(mixed).mean((2, 3)))


def test_attention_is_no_map_of_the_image() -> None:
    """25 x 25 is four times as fine as 5 x 5, and within 40 x 40."""
    torch.manual_seed(0)
    model, images = Attending().eval(), torch.rand(1, 3, 40, 40)
    images[..., :24, :] = images[..., :24].mean()
    fine = LayerGradCam(model, model.late).attribute(images, target=1, upsampler="usu-fast")
    cells = captum.attr.LayerGradCam(model, model.late).attribute(images, target=1)
    guide = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(guide)[0, 1], guide)
    effect = (gradient * images).sum(1).abs()
    upsampler = resolve("usu-fast")
    levels = upsampler.segmenter(images)
    means = [
        segment_expand(segment_mean(effect, level, int(level.max()) + 1), level) for level in levels
    ]
    scores = torch.stack(means).mean(0)
    expected = upsampler(cells, score_map=scores / scores.amax())
    torch.testing.assert_close(fine, expected, rtol=1e-4, atol=1e-6)


class ChannelsLast(nn.Module):
    """Channels last between convolutions, and as many of them as rows."""

    output_fmt = "NHWC"

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 2, stride=2)
        self.norm = nn.LayerNorm(16)
        self.coarse = nn.Conv2d(16, 6, 4, stride=4)
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.stem(images).movedim(1, -1)).movedim(-1, 1)
        return self.head(self.coarse(maps).relu().mean((2, 3)))


def test_maps_of_channels_last_are_no_guide() -> None:
    """The norm's (16, 16, 16) read as a map either way; it is passed over for the stem."""
    torch.manual_seed(0)
    model, images = ChannelsLast().eval(), torch.rand(1, 3, 32, 32)
    shared = recorded(model, model.coarse, images)
    stem = model.stem(images).detach().requires_grad_()
    maps = model.norm(stem.movedim(1, -1)).movedim(-1, 1)
    outputs = model.head(model.coarse(maps).relu().mean((2, 3)))
    (gradient,) = torch.autograd.grad(outputs[0, 1], stem)
    expected = (gradient * stem).sum(1).abs().detach()
    found = shared.effects(1, "logit")
    assert found is not None
    torch.testing.assert_close(found, expected.repeat_interleave(2, 1).repeat_interleave(2, 2))


class Rescaling(nn.Module):
    """Writes into what it is given, as preprocessing inside a model may."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.head = nn.Conv2d(3, 4, 3, stride=4, padding=1), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.coarse(images.sub_(0.5).div_(0.25)).relu().mean((2, 3)))


def test_a_model_may_write_into_its_input() -> None:
    torch.manual_seed(0)
    net, images = Rescaling().eval(), torch.rand(1, 3, 32, 32)
    layer = net.coarse
    before = images.clone()
    fine = LayerGradCam(net, layer).attribute(images.clone(), target=1, upsampler="usu-fast")
    cells = captum.attr.LayerGradCam(net, layer).attribute(before.clone(), target=1)
    torch.testing.assert_close(CellGrid.even((8, 8), (32, 32)).mean(fine), cells)
    shared = recorded(net, layer, images)
    guide = before.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(guide.clone())[0, 1], guide)
    torch.testing.assert_close(shared.effects(1, "logit"), (gradient * before).sum(1).abs())
    assert torch.equal(images, before)


class AttendingChannels(Attending):
    """Twenty channels that attend to each other: half of forty pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Sequential(nn.Conv2d(3, 20, 8, stride=8), nn.ReLU())
        self.late, self.head = nn.Conv2d(20, 6, 1), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.coarse(images).flatten(2)
        attention = self.weights((cells @ cells.transpose(1, 2))[:, None])
        return self.head(self.late((attention[:, 0] @ cells).unflatten(2, (5, 5))).mean((2, 3)))


def test_attention_at_the_images_stride_is_no_map_either() -> None:
    torch.manual_seed(0)
    model, images = AttendingChannels().eval(), torch.rand(1, 3, 40, 40)
    shared = recorded(model, model.late, images)
    guide = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(guide)[0, 1], guide)
    torch.testing.assert_close(shared.effects(1, "logit"), (gradient * images).sum(1).abs())


@pytest.mark.parametrize(
    ("side", "scaled"),
    [(224, True), (112, True), (111, True), (55, True), (7, True), (49, False), (42, False)],
)
def test_what_is_an_image_at_a_stride(side: int, scaled: bool) -> None:
    """Unpadded convolutions lose a cell or two; 49 and 42 are tokens on either side."""
    assert is_scaled((side, side), (224, 224)) is scaled
    assert is_scaled((side, 224), (224, 224)) is scaled


def test_one_image_in_a_tuple_is_that_image(model: Counted, images: Tensor) -> None:
    method = LayerGradCam(model, model.coarse)
    plain = method.attribute(images, target=1, upsampler="usu-fast")
    assert torch.equal(method.attribute((images,), target=1, upsampler="usu-fast"), plain)


def test_maps_may_lack_two_cells_of_border() -> None:
    """An unpadded convolution of 5 x 5 and stride 2 makes 12 of 28, where 14 would be all."""
    assert is_scaled((12, 12), (28, 28))


def test_one_part_in_training_mode_is_scored_in_a_pass_of_its_own(
    model: Counted, images: Tensor
) -> None:
    model.fine.train()
    LayerGradCam(model, model.coarse).attribute(images, target=1, upsampler="usu-fast")
    assert model.passes == 2


def test_activations_twice_as_fine_are_no_guide(model: Counted, images: Tensor) -> None:
    model.coarse[0].stride = (2, 2)
    guide = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(guide)[:, 1].sum(), guide)
    effect = (gradient * images).sum(1).abs()
    upsampler = resolve("usu-fast")

    class Known:
        def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
            raise AssertionError("the effects are at hand")

        def pixel_effects(self, images: Tensor, output: str) -> Tensor:
            return effect

    cells = captum.attr.LayerGradCam(model, model.coarse).attribute(images, target=1)
    expected = upsampler(cells, score_map=upsampler.score_map(images, Known()).values)
    fine = LayerGradCam(model, model.coarse).attribute(images, target=1, upsampler="usu-fast")
    torch.testing.assert_close(fine, expected, rtol=1e-4, atol=1e-6)


def test_the_guide_is_the_last_before_the_layer(model: Counted, images: Tensor) -> None:
    """Neither the first fine activation nor one that is made of the layer's own."""
    model.fine[1] = nn.Tanh()  # unlike ReLU, its output times gradient is not its input's
    model.coarse[1].register_forward_hook(lambda *_: None)
    wider = nn.Upsample(scale_factor=4)
    model.head = nn.Sequential(nn.Unflatten(1, (6, 1, 1)), wider, nn.Flatten(), nn.Linear(96, 5))

    class Decoding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.coarse, self.up = model.fine, model.coarse, nn.Upsample(scale_factor=4)
            self.head = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.up(self.coarse(self.fine(x)))).mean((2, 3)))

    decoding = Decoding().eval()
    activations = decoding.fine(images).detach().requires_grad_()
    wide = torch.tanh(decoding.up(decoding.coarse(activations)))
    (gradient,) = torch.autograd.grad(decoding.head(wide.mean((2, 3)))[:, 1].sum(), activations)
    effect = (gradient * activations).sum(1).abs().detach()
    upsampler = resolve("usu-fast")

    class Known:
        def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
            raise AssertionError("the effects are at hand")

        def pixel_effects(self, images: Tensor, output: str) -> Tensor:
            return effect.repeat_interleave(2, 1).repeat_interleave(2, 2)

    cells = captum.attr.LayerGradCam(decoding, decoding.coarse).attribute(images, target=1)
    expected = upsampler(cells, score_map=upsampler.score_map(images, Known()).values)
    fine = LayerGradCam(decoding, decoding.coarse).attribute(images, target=1, upsampler="usu-fast")
    torch.testing.assert_close(fine, expected, rtol=1e-4, atol=1e-6)


def test_effects_are_of_the_recorded_images_and_given_once(model: Counted, images: Tensor) -> None:
    shared = recorded(model, model.coarse, images)
    score = SharedScore(shared, model, 1, None, (images,), 0)
    assert score.pixel_effects(images[:1], "logit") is None
    assert score.pixel_effects(images, "logit") is not None
    assert score.pixel_effects(images, "logit") is None  # nothing holds the graph any more


def test_a_callers_own_gradient_arguments_are_not_replaced(model: Counted, images: Tensor) -> None:
    LayerGradCam(model, model.coarse).attribute(
        images, target=1, upsampler="usu-fast", grad_kwargs={"retain_graph": False}
    )
    assert model.passes == 2
