"""Blur integrated gradients: the path, SciPy, the authors' code, and completeness."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from usu_captum.paths import QUADRATURES, BlurIG
from usu_captum.paths._scale_space import BlurPath, blur_matrices

IMAGE = torch.rand(2, 3, 24, 17, generator=torch.Generator().manual_seed(3)).double()


def path(power: float = 2.0, border: str = "reflect", truncate: float | None = None) -> BlurPath:
    return BlurPath((IMAGE,), (4.0,), power, border, truncate, 0.0)


@pytest.mark.parametrize("sigma", [0.0, 0.2, 0.6, 1.5, 4.0, 9.0])
@pytest.mark.parametrize(("border", "mode"), [("reflect", "reflect"), ("zero", "constant")])
@pytest.mark.parametrize("truncate", [4.0, 12.0])
def test_blurs_as_scipy(sigma: float, border: str, mode: str, truncate: float) -> None:
    """Wide Gaussians reflect more than once: 12 times 9 is 108 pixels around 17."""
    at = torch.tensor([1 - sigma / 9.0], dtype=torch.float64)
    ours = BlurPath((IMAGE,), (9.0,), 1.0, border, truncate, 0.0).at(at)[0][0]
    width = [0, 0, sigma, sigma]
    theirs = ndimage.gaussian_filter(IMAGE.numpy(), width, mode=mode, truncate=truncate)
    assert np.abs(ours.numpy() - theirs).max() < 1e-12


def test_whole_gaussian_is_that_of_a_far_cut() -> None:
    sigmas = torch.tensor([0.0, 0.3, 2.0, 30.0]).double()
    whole = blur_matrices(9, sigmas, "reflect", None, IMAGE)
    assert torch.allclose(whole, blur_matrices(9, sigmas, "reflect", 15.0, IMAGE), atol=1e-15)
    assert torch.equal(whole[0], torch.eye(9).double())


def test_keeps_constants_and_means() -> None:
    blurred = path().at(torch.tensor([0.0, 0.4]))[0]
    assert torch.allclose(blurred.mean((-1, -2)), IMAGE.mean((-1, -2)).expand(2, 2, 3), atol=1e-14)
    flat = BlurPath((torch.ones(1, 1, 8, 8),), (3.0,), 2.0, "reflect", None, 0.0)
    assert torch.allclose(flat.at(torch.tensor([0.0]))[0], torch.ones(1), atol=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 3.5])
def test_path_is_continuous_and_ends_at_the_image(power: float) -> None:
    alphas = torch.linspace(0, 1, 401).double()
    points = path(power).at(alphas)[0]
    assert torch.equal(points[-1], IMAGE)
    jumps = points.diff(dim=0).flatten(1).norm(dim=1)
    fine = path(power).at(torch.linspace(0, 1, 4001).double())[0].diff(dim=0).flatten(1).norm(dim=1)
    assert fine.max() < 0.4 * jumps.max()  # Ten times the points: a jump would stay as large.


def test_a_cut_gaussian_jumps() -> None:
    """What ``truncate=None`` avoids: at sigma 1.125 a pixel enters a Gaussian cut at four."""
    around = torch.tensor([1 - 1.1251 / 4, 1 - 1.1249 / 4], dtype=torch.float64)
    cut = path(1.0, truncate=4.0).at(around)[0].diff(dim=0).abs().max()
    whole = path(1.0).at(around)[0].diff(dim=0).abs().max()
    assert cut > 1.02 * whole


def test_sigmas_fall_by_the_power() -> None:
    ours = path(2.0).at(torch.tensor([0.5]))[0]
    assert torch.allclose(ours, path(1.0).at(torch.tensor([0.75]))[0], atol=1e-14)


@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 9, 7), (1, 2, 5, 6, 4)])
@pytest.mark.parametrize("method", QUADRATURES)
def test_linear_models_are_exact(shape: tuple[int, ...], method: str) -> None:
    """On images of any rank, a linear model's attribution is slope times (image - blurred)."""
    images, slope = torch.rand(shape).double(), torch.randn(shape[1:]).double()
    explainer = BlurIG(lambda x: (x * slope).flatten(1).sum(1))
    found = explainer.attribute(images, n_steps=3, method=method)
    assert torch.allclose(found, slope * (images - explainer.start(images)), atol=1e-13)


def test_quadratic() -> None:
    """f = Σ x²: each pixel's part is x² minus its blurred value squared."""
    explainer = BlurIG(lambda x: x.square().flatten(1).sum(1))
    found = explainer.attribute(IMAGE, n_steps=2000, max_sigma=3.0)
    expected = IMAGE**2 - explainer.start(IMAGE, 3.0) ** 2
    assert (found - expected).abs().max() < 1e-5


def test_starts_at_the_blurred_image() -> None:
    """50 of 224 pixels, in proportion to the shorter side; one's own in pixels."""
    explainer = BlurIG(lambda x: x.flatten(1).sum(1))
    width = 50 / 224 * 17
    blurred = ndimage.gaussian_filter(IMAGE.numpy(), [0, 0, width, width], truncate=20)
    assert np.abs(explainer.start(IMAGE).numpy() - blurred).max() < 1e-12
    blurred = ndimage.gaussian_filter(IMAGE.numpy(), [0, 0, 2, 2], truncate=20)
    assert np.abs(explainer.start(IMAGE, 2).numpy() - blurred).max() < 1e-12


def test_gap_is_measured_from_the_start(smooth: Any, images: Tensor) -> None:
    explainer = BlurIG(smooth.double())
    images = images.double()
    found, gap = explainer.attribute(
        images, target=1, n_steps=4, max_sigma=2.0, return_convergence_delta=True
    )
    with torch.no_grad():
        change = (smooth(images) - smooth(explainer.start(images, 2.0)))[:, 1]
    assert torch.allclose(gap, found.flatten(1).sum(1) - change, atol=1e-14)
    start = explainer.start(images, 2.0)
    again = explainer.compute_convergence_delta(found, start, images, target=1)
    assert torch.allclose(gap, again, atol=1e-14)
    fine = explainer.attribute(
        images, target=1, n_steps=200, max_sigma=2.0, return_convergence_delta=True
    )[1]
    assert fine.abs().max() < 0.01 * gap.abs().max()


def test_tuples_blur_each_at_its_own_size() -> None:
    inputs = (torch.rand(2, 1, 12, 12).double(), torch.rand(2, 2, 30).double())
    explainer = BlurIG(lambda a, b: a.flatten(1).square().sum(1) + 3 * b.flatten(1).sum(1))
    begin = explainer.start(inputs)
    alone = BlurIG(lambda b: b)
    assert torch.equal(begin[1], alone.start(inputs[1]))
    found = explainer.attribute(inputs, n_steps=5)
    assert torch.allclose(found[1], 3 * (inputs[1] - begin[1]), atol=1e-13)


@pytest.mark.parametrize(("max_sigma", "n_steps", "root"), [(50, 100, False), (4, 30, False),
                                                            (9, 20, True)])  # fmt: skip
def test_equals_pair(
    smooth: Any, images: Tensor, pair: Any, pair_call: Any,
    max_sigma: int, n_steps: int, root: bool,
) -> None:  # fmt: skip
    """To 1e-12 relative to the largest value, in float64."""
    smooth, images = smooth.double(), images.double()
    explainer = BlurIG(smooth, power=0.5 if root else 1, border="zero", truncate=4, grad_step=0.01)
    ours = explainer.attribute(
        images, 1, n_steps=n_steps, max_sigma=max_sigma ** (0.5 if root else 1),
        method="riemann_right",
    )  # fmt: skip
    for image, found in zip(images, ours, strict=True):
        theirs = pair.BlurIG().GetMask(
            image.permute(1, 2, 0).numpy(), pair_call(smooth, 1),
            max_sigma=max_sigma, steps=n_steps, grad_step=0.01, sqrt=root,
        )  # fmt: skip
        difference = np.abs(found.permute(1, 2, 0).numpy() - theirs).max()
        assert difference < 1e-12 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"border": "wrap"}, "border must be one of reflect, zero, got 'wrap'"),
        ({"power": 0}, "power must be finite and above 0, got 0"),
        ({"truncate": -1.0}, "truncate must be finite and above 0"),
        ({"grad_step": float("nan")}, "grad_step must be finite and above 0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlurIG(lambda x: x, **options)


def test_bad_arguments() -> None:
    explainer = BlurIG(lambda x: x.flatten(1).sum(1))
    with pytest.raises(ValueError, match="max_sigma must be finite and above 0, got 0"):
        explainer.attribute(IMAGE, max_sigma=0)
    with pytest.raises(TypeError, match="max_sigma must be a number, got str"):
        explainer.attribute(IMAGE, max_sigma="50")
    for call in (explainer.attribute, explainer.start):
        with pytest.raises(ValueError, match=r"inputs must be images .* got shape \(2, 5\)"):
            call(torch.ones(2, 5))
        with pytest.raises(TypeError, match=r"inputs must be floating-point .* got torch\.int"):
            call(IMAGE.long())
        with pytest.raises(TypeError, match="inputs must be floating-point tensors, got list"):
            call([IMAGE])
        with pytest.raises(ValueError, match="inputs must be finite, got NaN or infinity"):
            call(IMAGE / 0)


@pytest.mark.data
def test_complete_on_a_real_network(real: Any) -> None:
    """At the default steps; ReLU networks are rugged near the sharp image."""
    network, pictures, target = real("mobilenet_v2", 1)
    found, gap = BlurIG(network).attribute(pictures, target, return_convergence_delta=True)
    assert (gap / (found.flatten(1).sum(1) - gap)).abs().mean() < 0.01
