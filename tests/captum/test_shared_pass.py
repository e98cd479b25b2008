"""``usu-fast`` with Grad-CAM: one forward pass serves the map and the scores."""

from dataclasses import replace

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from usu_captum import ForwardScore, LayerGradCam
from usu_core import CellGrid, GradientScorer, resolve


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
