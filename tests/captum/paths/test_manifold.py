"""Manifold-aligned guided IG: the latent walk, the jumps, and autoencoders of all kinds."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from usu_captum import ImageSpace
from usu_captum.paths import DiffusersAutoencoder, IntegratedGradients, ManifoldGuidedIG
from usu_captum.paths._latent import guided_step


class Identity:
    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class Linear:
    """Keeps ``kept`` principal directions of random images, as float64 throughout."""

    def __init__(self, kept: int = 12, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        samples = torch.rand(200, 48, generator=g, dtype=torch.float64)
        self.mean = samples.mean(0)
        self.axes = torch.linalg.svd(samples - self.mean, full_matrices=False)[2][:kept]
        self.decoded = self.encoded = 0

    def encode(self, images: Tensor) -> Tensor:
        self.encoded += 1
        return (images.flatten(1) - self.mean.to(images)) @ self.axes.T.to(images)

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded += 1
        flat = latents @ self.axes.to(latents) + self.mean.to(latents)
        return flat.view(-1, 3, 4, 4)


def smooth(images: Tensor) -> Tensor:
    """Three outputs with curvature and interactions, smooth."""
    flat = images.flatten(1)
    return torch.stack(
        (flat.sin().sum(1), (flat**3).sum(1), (flat[:, ::2] * flat[:, 1::2]).sum(1)), 1
    )


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 4, 4, dtype=torch.float64)


def printed_walk(
    model: Any, autoencoder: Any, start: Tensor, end: Tensor, target: int, points: int,
    fraction: float, slerp: bool,
) -> Tensor:  # fmt: skip
    """One image, as section 3a of the notes on the paper has it, freezing and repeating."""

    def rate(at: Tensor) -> Tensor:
        u = at.detach().requires_grad_()
        return torch.autograd.grad(model(autoencoder.decode(u))[:, target].sum(), u)[0]

    u, z = autoencoder.encode(start), autoencoder.encode(end)
    total = float((z - u).abs().sum())
    path = [start]
    for k in range(points - 2):
        magnitude = rate(u).abs().flatten()
        flat, goal = u.flatten().clone(), z.flatten()
        left = total * (1 - (k + 1) / points)
        while True:
            magnitude[(flat - goal).abs() < 1e-9] = math.inf
            limit = magnitude.sort().values[math.floor(fraction * (len(flat) - 1))]
            chosen = (magnitude <= limit) & magnitude.isfinite()
            gap = (flat - goal).abs()
            gamma = max(0.0, float((gap.sum() - left) / gap[chosen].sum()))
            if gamma > 1:
                flat[chosen] = goal[chosen]
                continue
            a, b = flat[chosen], goal[chosen]
            cosine = (a @ b) / (a.norm() * b.norm())
            if slerp and abs(cosine) <= 0.9995:
                angle = cosine.acos()
                moved = ((1 - gamma) * angle).sin() * a + (gamma * angle).sin() * b
                flat[chosen] = moved / angle.sin()
            else:
                flat[chosen] = a + gamma * (b - a)
            break
        u = flat.view_as(u)
        path.append(autoencoder.decode(u))
    path.append(end)
    total_map = torch.zeros_like(end)
    for here, there in pairwise(path):
        x = here.detach().requires_grad_()
        slope = torch.autograd.grad(model(x)[:, target].sum(), x)[0]
        total_map += slope * (there - here)
    return total_map


@pytest.mark.parametrize("interpolation", ["lerp", "slerp"])
@pytest.mark.parametrize("fraction", [0.1, 0.3, 1.0])
def test_printed_form_is_the_papers_loop(
    images: Tensor, interpolation: str, fraction: float
) -> None:
    autoencoder = Linear(30)
    explainer = ManifoldGuidedIG(
        smooth, autoencoder, fraction=fraction, interpolation=interpolation, jump_steps=0
    )
    target = torch.tensor([0, 1, 2, 0])
    found = explainer.attribute(images, target=target, n_steps=11, method="riemann_left")
    for i in range(4):
        x = images[i : i + 1]
        wanted = printed_walk(
            smooth, autoencoder, torch.zeros_like(x), x, int(target[i]), 12, fraction,
            interpolation == "slerp",
        )  # fmt: skip
        torch.testing.assert_close(found[i : i + 1], wanted)


def test_all_latents_at_once_are_the_straight_line(images: Tensor) -> None:
    guided = ManifoldGuidedIG(smooth, Identity(), fraction=1.0, jump_steps=0)
    line = IntegratedGradients(smooth)
    # Without jumps the last step is twice as long: compare by the limits.
    found = guided.attribute(images, target=0, n_steps=200)
    torch.testing.assert_close(found, line.attribute(images, target=0), rtol=1e-4, atol=1e-4)
    jumps = ManifoldGuidedIG(smooth, Identity(), fraction=1.0, jump_steps=1)
    found = jumps.attribute(images, target=0, n_steps=8)
    points = torch.linspace(0, 1, 9, dtype=torch.float64)
    slopes = torch.stack([(p * images).cos() for p in points])
    trapezoid = torch.trapezoid(slopes, points, dim=0) * images
    torch.testing.assert_close(found, trapezoid)


def test_the_flattest_pixels_move_first() -> None:
    # f = x0 * x1 from 0 with steeper x0: x1 rises while x0 is 0, so that x0 has it all.
    def product(images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return flat[:, :1] * flat[:, 1:2] + 0.01 * flat[:, 1:2] + 2 * flat[:, :1]

    images = torch.tensor([[[[3.0, 5.0]]]])
    found = ManifoldGuidedIG(product, Identity(), fraction=0.01).attribute(
        images, target=0, n_steps=64
    )
    torch.testing.assert_close(found.flatten(), torch.tensor([15.0 + 6.0, 0.05]))


def test_the_pace_is_exact_on_a_line_and_not_on_an_arc() -> None:
    torch.manual_seed(0)
    here, there = torch.randn(400, 32, dtype=torch.float64), torch.randn(400, 32).double()
    rate = torch.randn(400, 32)
    length = (there - here).abs().sum(1)
    for left in (0.9, 0.5, 0.1):
        line = guided_step(here, there, rate, length * left, 0.25, "lerp")
        torch.testing.assert_close((there - line).abs().sum(1), length * left)
        low, high = torch.minimum(here, there), torch.maximum(here, there)
        assert bool(((line >= low - 1e-12) & (line <= high + 1e-12)).all())
    arc = guided_step(here, there, rate, length * 0.9, 0.25, "slerp")
    below = ((there - arc).abs().sum(1) < length * 0.9 - 1e-9).double().mean()
    assert 0.05 < below < 0.5
    outside = ((arc < low - 1e-12) | (arc > high + 1e-12)).double()
    assert outside.mean() > 0.02


def test_opposite_and_parallel_latents_have_no_arc() -> None:
    here = torch.tensor([[1.0, -2.0, 3.0], [1.0, -2.0, 3.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    there = torch.tensor([[-1.0], [2.0], [1.0]], dtype=torch.float64) * here[:1]
    left = (there - here).abs().sum(1) * 0.75
    line = guided_step(here, there, here, left, 1.0, "lerp")
    torch.testing.assert_close(guided_step(here, there, here, left, 1.0, "slerp"), line)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    size=st.integers(1, 20),
    fraction=st.floats(0.01, 1.0),
    left=st.floats(0.0, 1.0),
)
def test_each_example_leaves_the_distance_asked_for(
    seed: int, size: int, fraction: float, left: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    here, there, rate = torch.randn(3, 2, size, generator=g, dtype=torch.float64)
    there[0, : size // 2] = here[0, : size // 2]
    rate = rate.round()  # ties
    shares = torch.tensor([left, left / 2], dtype=torch.float64)
    want = (there - here).abs().sum(1) * shares
    moved = guided_step(here, there, rate, want, fraction, "lerp")
    torch.testing.assert_close((there - moved).abs().sum(1), want)
    order = (moved - here).abs() / (there - here).abs().clamp_min(1e-9)
    block = math.floor(fraction * (size - 1)) + 1
    # At most one block lies between its start and its goal.
    assert bool((((order > 1e-9) & (order < 1 - 1e-9)).sum(1) <= block).all())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 7), jumps=st.integers(0, 3))
def test_linear_models_are_exact_and_dummies_get_nothing(seed: int, steps: int, jumps: int) -> None:
    g = torch.Generator().manual_seed(seed)
    images, baselines = torch.rand(2, 2, 3, 4, 4, generator=g, dtype=torch.float64)
    weights = torch.randn(3, 4, 4, generator=g, dtype=torch.float64)
    weights[1] = 0
    explainer = ManifoldGuidedIG(
        lambda x: (x * weights).flatten(1).sum(1), Linear(), jump_steps=jumps
    )
    found, gap = explainer.attribute(
        images, baselines, n_steps=steps, return_convergence_delta=True
    )
    torch.testing.assert_close(found, weights * (images - baselines))
    assert bool((found[:, 1] == 0).all())
    assert gap.abs().max() < 1e-12


def test_subdivided_jumps_close_the_gap(images: Tensor) -> None:
    arguments: dict[str, Any] = {"target": 0, "n_steps": 60, "return_convergence_delta": True}

    def gap(**options: Any) -> float:
        explainer = ManifoldGuidedIG(lambda x: smooth(3 * x), Linear(4), **options)
        return float(explainer.attribute(images, **arguments)[1].abs().mean())

    assert gap(jump_steps=10) < gap(jump_steps=1) / 20
    arguments["method"] = "riemann_left"
    assert gap(jump_steps=0) > 20 * gap(jump_steps=100)


def test_batch_is_its_images_and_chunks_do_not_matter(images: Tensor) -> None:
    explainer = ManifoldGuidedIG(smooth, Linear(), fraction=0.2)
    target = torch.tensor([2, 0, 1, 2])
    together = explainer.attribute(images, 0.2, target, n_steps=9)
    chunked = explainer.attribute(images, 0.2, target, n_steps=9, internal_batch_size=3)
    single = [
        explainer.attribute(images[i : i + 1], 0.2, target[i : i + 1], n_steps=9) for i in range(4)
    ]
    torch.testing.assert_close(together, chunked)
    torch.testing.assert_close(together, torch.cat(single))


def test_each_latent_is_decoded_once(images: Tensor) -> None:
    autoencoder, calls = Linear(), [0]

    def model(x: Tensor) -> Tensor:
        calls[0] += 1
        return smooth(x)

    ManifoldGuidedIG(model, autoencoder, jump_steps=4).attribute(images, target=0, n_steps=7)
    assert (autoencoder.encoded, autoencoder.decoded, calls[0]) == (2, 8, 7 + 2 * 4 + 1)
    largest: list[int] = []
    watched = Linear()
    decode = watched.decode
    watched.decode = lambda z: (largest.append(len(z)), decode(z))[1]  # type: ignore[method-assign]
    ManifoldGuidedIG(smooth, watched).attribute(images, target=0, n_steps=3, internal_batch_size=2)
    assert max(largest) == 2


def test_unchanged_image_gets_nothing_and_inference_mode_is_no_obstacle(images: Tensor) -> None:
    explainer = ManifoldGuidedIG(smooth, Linear())
    assert explainer.attribute(images, images, target=0).abs().max() < 1e-12
    with torch.inference_mode():
        inside = explainer.attribute(images + 0, target=0, n_steps=4)
    with torch.no_grad():
        torch.testing.assert_close(inside, explainer.attribute(images, target=0, n_steps=4))


def test_autoencoders_keep_no_trace(images: Tensor) -> None:
    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(48, 9), nn.Linear(9, 48)

        def encode(self, x: Tensor) -> Tensor:
            return self.down(x.flatten(1))

        def decode(self, z: Tensor) -> Tensor:
            return self.up(z).view(-1, 3, 4, 4)

    autoencoder = Learned().double()
    found = ManifoldGuidedIG(smooth, autoencoder).attribute(images, target=0, n_steps=3)
    assert not found.requires_grad
    assert autoencoder.training
    assert all(p.grad is None and p.requires_grad for p in autoencoder.parameters())


def broken(**methods: Any) -> Any:
    autoencoder = Linear()
    for name, method in methods.items():
        setattr(autoencoder, name, method)
    return autoencoder


@pytest.mark.parametrize(
    ("autoencoder", "error", "message"),
    [
        (broken(decode=lambda z: z.new_zeros(4, 3, 5, 4)), ValueError, r"4\), got \(4, 3, 5"),
        (broken(decode=lambda z: torch.zeros(4, 3, 4, 4)), ValueError, "in the latents"),
        (broken(decode=lambda z: (z,)), TypeError, "decode must return a tensor, got tuple"),
        (broken(encode=lambda x: (x,)), TypeError, "encode must return a tensor, got tuple"),
        (broken(encode=lambda x: x[:1]), ValueError, "keep the first dimension, 4"),
    ],
)  # fmt: skip
def test_broken_autoencoders(images: Tensor, autoencoder: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ManifoldGuidedIG(smooth, autoencoder).attribute(images, target=0, n_steps=2)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fraction": 0.0}, ValueError, "fraction must be above 0 and at most 1, got 0.0"),
        ({"fraction": "all"}, TypeError, "fraction must be a number, got str"),
        ({"interpolation": "arc"}, ValueError, "one of lerp, slerp, got 'arc'"),
        ({"jump_steps": -1}, ValueError, "jump_steps must be at least 0, got -1"),
        ({"jump_steps": 1.5}, TypeError, "jump_steps must be an integer, got float"),
        ({"autoencoder": object()}, TypeError, "got object without encode"),
    ],
)  # fmt: skip
def test_bad_options(options: dict[str, Any], error: Any, message: str) -> None:
    autoencoder = options.pop("autoencoder", Identity())
    with pytest.raises(error, match=message):
        ManifoldGuidedIG(smooth, autoencoder, **options)


def test_bad_calls(images: Tensor) -> None:
    explainer = ManifoldGuidedIG(smooth, Linear())
    with pytest.raises(ValueError, match="one batch of images"):
        explainer.attribute((images, images), target=0)
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        explainer.attribute(images, target=0, n_steps=0)
    with pytest.raises(ValueError, match="found step by step, got 'gausslegendre'"):
        explainer.attribute(images, target=0, method="gausslegendre")


def tiny_diffusers(kind: str) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="the extra 'manifold' is not installed")
    torch.manual_seed(0)
    if kind == "AutoencoderTiny":
        network = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=2,
        )  # fmt: skip
    else:
        network = diffusers.AutoencoderKL(
            block_out_channels=(8, 8), norm_num_groups=4, latent_channels=2,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
    return network.eval()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny"])
def test_autoencoders_of_diffusers(kind: str) -> None:
    network = tiny_diffusers(kind)
    space = ImageSpace((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    autoencoder = DiffusersAutoencoder(network, space)
    raw = torch.rand(2, 3, 16, 16)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (space.mean, space.std))
    images = (raw - mean) / std
    with torch.no_grad():
        encoded = network.encode(raw * 2 - 1)
        latents = encoded.latent_dist.mean if kind == "AutoencoderKL" else encoded.latents
        torch.testing.assert_close(autoencoder.encode(images), latents, rtol=1e-3, atol=1e-4)
        decoded = (network.decode(latents).sample / 2 + 0.5 - mean) / std
        torch.testing.assert_close(autoencoder.decode(latents), decoded, rtol=1e-3, atol=1e-4)
    explainer = ManifoldGuidedIG(smooth, autoencoder, space=space)
    found, gap = explainer.attribute(
        images, "black", target=0, n_steps=20, return_convergence_delta=True
    )
    change = smooth(images)[:, 0] - smooth(space.black(images))[:, 0]
    assert found.shape == images.shape
    assert bool((gap.abs() < 0.05 * change.abs() + 0.5).all())


def test_raw_spaces_are_not_normalised() -> None:
    class Network:
        def encode(self, pixels: Tensor) -> Any:
            return type("Output", (), {"latents": pixels})

        def decode(self, latents: Tensor) -> Any:
            return type("Output", (), {"sample": latents})

    autoencoder = DiffusersAutoencoder(Network(), ImageSpace((0.5,), (0.2,), normalised=False))
    images = torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1)
    assert autoencoder.encode(images).flatten().tolist() == [-1, 0, 1]
    torch.testing.assert_close(autoencoder.decode(autoencoder.encode(images)), images)
    with pytest.raises(ValueError, match="space must have the images' 3 channels"):
        DiffusersAutoencoder(Network(), ImageSpace((0.5, 0.5))).encode(images)
    with pytest.raises(TypeError, match="must have a method encode, got object"):
        DiffusersAutoencoder(object())


def test_every_example_starts_at_its_own_baseline(images: Tensor) -> None:
    """Whatever the number of examples that are followed together."""
    baselines = torch.rand_like(images) - 0.5
    method = ManifoldGuidedIG(smooth, Identity())
    together, apart = (
        method.attribute(images, baselines, target=1, n_steps=4, internal_batch_size=size)
        for size in (8, 3)
    )
    torch.testing.assert_close(apart, together)
