"""Spectral IG: decompositions, timings, the printed form's errata, and real networks."""

import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import fft
from torch import Tensor

from usu_captum.paths import QUADRATURES, IntegratedGradients, SpectralIG
from usu_captum.paths._spectra import DECOMPOSITIONS, cosine_matrix, decompose
from usu_captum.paths._spectral_path import GATES, TIMINGS, SpectralPath, fading_times, gate_values

DOUBLE = torch.float64


def smooth(images: Tensor) -> Tensor:
    flat = images.flatten(1)
    return torch.stack((flat.sin().sum(1), (flat[:, ::2] * flat[:, 1::2]).sum(1)), 1)


def path(start: Tensor, end: Tensor, **options: Any) -> SpectralPath:
    chosen = {"decomposition": "svd", "overlap": 0.4, "gate": "linear", "timing": "strength"}
    return SpectralPath((start,), (end,), **({**chosen, "power": 2.0} | options))


def natural(size: int = 64, seed: int = 0) -> Tensor:
    """An image in [0, 1] whose amplitudes fall as 1 / frequency."""
    g = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    frequency[0, 0] = 1 / size
    noise = np.fft.fft2(g.standard_normal((1, 3, size, size)))
    image = np.fft.ifft2(noise / frequency).real
    image -= image.min((2, 3), keepdims=True)
    return torch.from_numpy(image / image.max((2, 3), keepdims=True))


# Decompositions


@pytest.mark.parametrize("shape", [(7, 5), (16, 12), (1, 1), (1, 9), (13, 2)])
@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
def test_components_add_up_on_any_size(decomposition: str, shape: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *shape, dtype=DOUBLE)
    spectrum = decompose(images, decomposition)
    shape_of_weights = spectrum.lengths.shape
    whole = spectrum.combine(torch.ones(1, *shape_of_weights, dtype=DOUBLE))
    torch.testing.assert_close(whole[0], images)
    assert bool((spectrum.strengths.diff(dim=-1) <= 0).all())
    each = torch.stack([
        spectrum.combine(row.expand(1, *shape_of_weights))[0]
        for row in torch.eye(shape_of_weights[-1], dtype=DOUBLE)
    ])  # fmt: skip
    torch.testing.assert_close(each.sum(0), images)
    dims = (-2, -1) if decomposition == "svd" else (-3, -2, -1)
    norms = each.square().sum(dims).sqrt()
    lengths = spectrum.lengths.movedim(-1, 0)
    torch.testing.assert_close(norms, lengths if decomposition == "svd" else lengths[..., 0])


def test_the_cosine_transform_is_scipys() -> None:
    image = torch.randn(9, 14, dtype=DOUBLE)
    rows, columns = cosine_matrix(9, image), cosine_matrix(14, image)
    torch.testing.assert_close(rows @ rows.T, torch.eye(9, dtype=DOUBLE))
    expected = torch.from_numpy(fft.dctn(image.numpy(), norm="ortho"))
    torch.testing.assert_close(rows @ image @ columns.T, expected)


def test_bands_go_from_coarse_to_fine() -> None:
    constant = decompose(torch.ones(1, 1, 21, 34, dtype=DOUBLE), "laplacian")
    assert float(constant.lengths[0, 0, 1:].max()) < 1e-10
    rings = decompose(torch.ones(1, 1, 21, 34, dtype=DOUBLE), "dct")
    assert float(rings.lengths[0, 0, 1:].max()) < 1e-10
    checks = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
    fine = decompose(checks.view(1, 1, 32, 32), "laplacian").lengths.flatten()
    assert float(fine[-1]) > 5 * float(fine[:-1].max())


def test_joint_components_keep_colours_in_step() -> None:
    grey = torch.rand(1, 1, 8, 8, dtype=DOUBLE)
    images = torch.cat((grey, 0.5 * grey + 0.2 * torch.rand_like(grey), 0.1 * grey), 1)
    joint, single = decompose(images, "joint"), decompose(images, "svd")
    assert joint.lengths.shape == (1, 1, 8)
    assert single.lengths.shape == (1, 3, 8)
    # Two channels that differ in contrast alone share every joint component in one ratio.
    part = joint.combine(torch.eye(8, dtype=DOUBLE)[:, None, None])
    torch.testing.assert_close(part[:, 0, 2], 0.1 * part[:, 0, 0])
    stacked = torch.linalg.svdvals(images.reshape(1, 24, 8))
    torch.testing.assert_close(joint.lengths[:, 0], stacked)


# The path


@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("overlap", [0.0, 0.4, 1.0])
def test_paths_start_and_end_exactly(decomposition: str, timing: str, overlap: float) -> None:
    start, end = torch.rand(2, 2, 3, 9, 6)
    curve = path(start, end, decomposition=decomposition, timing=timing, overlap=overlap)
    (ends,) = curve.at(torch.tensor([0.0, 1.0], dtype=DOUBLE))
    assert torch.equal(ends[1], end)
    assert torch.equal(ends[0], start) or (timing == "printed" and overlap == 0)
    (near,) = curve.at(torch.tensor([1 - 1e-9], dtype=DOUBLE))
    torch.testing.assert_close(near[0], end, rtol=1e-4, atol=1e-4)


def test_printed_path_is_the_formula() -> None:
    start, end = torch.rand(2, 2, 3, 6, 5, dtype=DOUBLE)
    alphas = torch.tensor([0.1, 0.45, 0.7, 0.93], dtype=DOUBLE)
    (found,) = path(start, end, timing="printed", overlap=0.3).at(alphas)
    for k, alpha in enumerate(alphas):
        for b in range(2):
            for c in range(3):
                left, s, right = np.linalg.svd((end - start)[b, c].numpy())
                wanted = start[b, c].numpy().copy()
                for i in range(5):
                    gate = np.clip((float(alpha) - 0.7 * (1 - s[i] / s[0])) / 0.3, 0, 1)
                    wanted += gate * s[i] * np.outer(left[:, i], right[i])
                np.testing.assert_allclose(found[k, b, c].numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
@pytest.mark.parametrize("timing", TIMINGS)
def test_full_overlap_is_the_straight_line(decomposition: str, timing: str) -> None:
    images = torch.rand(2, 3, 8, 6, dtype=DOUBLE)
    options = {"decomposition": decomposition, "timing": timing, "overlap": 1.0, "power": 1.0}
    spectral = SpectralIG(smooth, **options)  # type: ignore[arg-type]
    line = IntegratedGradients(smooth)
    for method in QUADRATURES:
        arguments: dict[str, Any] = {"target": 0, "n_steps": 9, "method": method}
        torch.testing.assert_close(
            spectral.attribute(images, 0.1, **arguments), line.attribute(images, 0.1, **arguments)
        )


@pytest.mark.parametrize("gate", GATES)
def test_gates_open_from_nothing_to_all(gate: str) -> None:
    times = torch.linspace(0, 1, 101, dtype=DOUBLE)[:, None]
    start = torch.tensor([0.2], dtype=DOUBLE).view(1, 1, 1)
    found = gate_values(times, start, start + 0.5, gate).flatten()
    assert found[0] == 0
    assert found[20] == 0
    assert found[-1] == 1
    assert bool((found.diff() >= 0).all())
    assert abs(float(found[44] + found[46]) - 1) < 1e-6
    if gate != "step":
        assert abs(float(found[45]) - 0.5) < 1e-6
        assert float(found.diff().max()) < 0.07


def test_full_overlap_at_speed_spends_its_steps_near_the_start() -> None:
    start, end = torch.zeros(1, 1, 4, 4, dtype=DOUBLE), torch.rand(1, 1, 4, 4, dtype=DOUBLE)
    (found,) = path(start, end, overlap=1.0, power=2.0).at(torch.tensor([0.5], dtype=DOUBLE))
    torch.testing.assert_close(found[0], 0.25 * end)


# What the printed form gets wrong


def test_without_overlap_the_printed_path_misses_the_first_component() -> None:
    start = torch.zeros(1, 1, 6, 6, dtype=DOUBLE)
    image = torch.rand(1, 1, 6, 6, dtype=DOUBLE)
    left, s, right = torch.linalg.svd(image)
    first = s[..., :1, None] * left[..., :1] @ right[..., :1, :]

    def gap(timing: str) -> float:
        explainer = SpectralIG(smooth, overlap=0.0, timing=timing)
        found = explainer.attribute(
            image, start, 0, n_steps=4000, method="riemann_trapezoid", return_convergence_delta=True
        )
        return float(found[1])

    missed = float(smooth(start)[0, 0] - smooth(first)[0, 0])
    (begin,) = path(start, image, timing="printed", overlap=0.0).at(torch.zeros(1))
    torch.testing.assert_close(begin[0], first)
    assert abs(missed) > 1
    # The other components jump, too, and add their own errors.
    assert abs(gap("printed") - missed) < 0.1 * abs(missed)
    for timing in ("strength", "length", "rank"):
        assert abs(gap(timing)) < 1e-4


def test_printed_time_runs_idle_and_ours_does_not() -> None:
    image = natural()
    start = torch.zeros_like(image)
    spectrum = decompose(image, "svd")
    assert float(spectrum.strengths[..., 1].max()) < 0.25
    alphas = torch.linspace(0, 1, 200, dtype=DOUBLE)

    def idle(timing: str) -> float:
        (points,) = path(start, image, timing=timing, power=1.0).at(alphas)
        lengths = points.diff(dim=0).flatten(1).norm(dim=1)
        return float((lengths < 0.05 * lengths.mean()).double().mean())

    # The last steps end where the weakest components do, in a few hundredths of the path.
    assert idle("printed") > 0.08
    for timing in ("strength", "length"):
        assert idle(timing) < 0.04


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    overlap=st.floats(0.0, 1.0),
    timing=st.sampled_from(("strength", "length", "rank")),
    decomposition=st.sampled_from(DECOMPOSITIONS),
)
def test_something_is_always_fading_in(
    seed: int, overlap: float, timing: str, decomposition: str
) -> None:
    g = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 2, 9, 7, generator=g, dtype=DOUBLE)
    spectrum = decompose(image, decomposition)
    start, end = fading_times(spectrum, overlap, timing)
    covered = 0.0
    for a, b in sorted(zip(start[0, 0].tolist(), end[0, 0].tolist(), strict=True)):
        assert a <= covered + 1e-9
        covered = max(covered, b)
    assert abs(covered - 1) < 1e-9
    torch.testing.assert_close(end.amax(-1), torch.ones_like(end[..., 0]))
    # Steps that halve halve the largest move: no jump.
    positions = torch.linspace(0, 1, 4001, dtype=DOUBLE)
    curve = path(torch.zeros_like(image), image, decomposition=decomposition, timing=timing,
                 overlap=overlap, power=1.0)  # fmt: skip
    moves = curve.at(positions)[0].diff(dim=0).flatten(1).norm(dim=1)
    assert float(moves.max()) < 0.05 * float(image.norm())


# Attributions


def test_quadratic_by_hand() -> None:
    # f = x0 * x3 from 0 to diag(2, 1): x0 is complete before x3 starts, so that x3 has it all.
    image = torch.diag(torch.tensor([2.0, 1.0], dtype=DOUBLE)).view(1, 1, 2, 2)

    def product(images: Tensor) -> Tensor:
        return images[:, 0, 0, 0] * images[:, 0, 1, 1]

    found = SpectralIG(product, overlap=0.0, timing="length").attribute(image, n_steps=2000)
    torch.testing.assert_close(
        found.flatten(), torch.tensor([0, 0, 0, 2.0]).double(), atol=1e-3, rtol=0
    )
    # Half overlapped by length: x0 fades in over [0, 5/6], x3 over [1/3, 1], so that at x3 = 1
    # x0's share is the integral of x3 dx0 = 2 / (5/6) * int_{1/3}^{5/6} (t - 1/3) 3/2 dt = 0.45.
    found = SpectralIG(product, overlap=0.5, timing="length").attribute(image, n_steps=4000)
    expected = torch.tensor([0.45, 0, 0, 1.55], dtype=DOUBLE)
    torch.testing.assert_close(found.flatten(), expected, atol=1e-3, rtol=0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    steps=st.integers(2, 9),
    decomposition=st.sampled_from(DECOMPOSITIONS),
    timing=st.sampled_from(("strength", "length", "rank")),
    gate=st.sampled_from(GATES),
    overlap=st.floats(0.0, 1.0),
)
def test_linear_models_are_exact_and_dummies_get_nothing(
    seed: int, steps: int, decomposition: str, timing: str, gate: str, overlap: float
) -> None:
    g = torch.Generator().manual_seed(seed)
    images, baselines = torch.rand(2, 2, 3, 5, 4, generator=g, dtype=DOUBLE)
    weights = torch.randn(3, 5, 4, generator=g, dtype=DOUBLE)
    weights[1] = 0
    explainer = SpectralIG(
        lambda x: (x * weights).flatten(1).sum(1), decomposition=decomposition, timing=timing,
        gate=gate, overlap=overlap,
    )  # fmt: skip
    found, gap = explainer.attribute(
        images, baselines, n_steps=steps, return_convergence_delta=True
    )
    torch.testing.assert_close(found, weights * (images - baselines))
    assert bool((found[:, 1] == 0).all())
    assert gap.abs().max() < 1e-10


@pytest.mark.parametrize("decomposition", DECOMPOSITIONS)
def test_degenerate_images_get_nothing(decomposition: str) -> None:
    explainer = SpectralIG(smooth, decomposition=decomposition)
    for image in (torch.zeros(2, 3, 6, 6), torch.rand(2, 3, 6, 6)):
        assert torch.equal(explainer.attribute(image, image, 0), torch.zeros_like(image))
    one_channel = torch.cat((torch.rand(1, 1, 6, 6), torch.zeros(1, 2, 6, 6)), 1)
    found, gap = explainer.attribute(one_channel, target=0, return_convergence_delta=True)
    assert bool((found[:, 1:].abs() < 1e-6).all())
    assert gap.abs().max() < 1e-2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 6, 6, dtype=DOUBLE)
    exact = SpectralIG(smooth).attribute(images, target=0, n_steps=20)
    found = SpectralIG(smooth).attribute(images.to(dtype), target=0, n_steps=20)
    assert found.dtype == dtype
    tolerance = {torch.float16: 0.01, torch.bfloat16: 0.06}.get(dtype, 1e-4)
    assert float((found.double() - exact).abs().max()) < tolerance


def test_batch_is_its_images_and_chunks_do_not_matter() -> None:
    images = torch.rand(3, 3, 8, 7, dtype=DOUBLE)
    explainer, target = SpectralIG(smooth), torch.tensor([0, 1, 0])
    together = explainer.attribute(images, target=target, n_steps=13)
    chunked = explainer.attribute(images, target=target, n_steps=13, internal_batch_size=2)
    single = [explainer.attribute(images[i : i + 1], target=target[i : i + 1], n_steps=13)
              for i in range(3)]  # fmt: skip
    torch.testing.assert_close(together, chunked)
    torch.testing.assert_close(together, torch.cat(single))


def test_several_inputs_run_side_by_side() -> None:
    first, second = torch.rand(2, 3, 6, 6, dtype=DOUBLE), torch.rand(2, 1, 5, 4, dtype=DOUBLE)

    def model(a: Tensor, b: Tensor) -> Tensor:
        return smooth(a) * smooth(b)

    found, gap = SpectralIG(model).attribute(
        (first, second), target=0, return_convergence_delta=True
    )
    assert [f.shape for f in found] == [first.shape, second.shape]
    change = model(first, second)[:, 0]
    assert bool((gap.abs() < 1e-3 * change).all())
    # One path of both: alone, each would start with the other one complete or absent.
    assert all(bool((f.flatten(1).sum(1) > 0.2 * change).all()) for f in found)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"decomposition": "wavelet"}, ValueError, "decomposition must be one of svd, joint, dct"),
        ({"gate": "cubic"}, ValueError, "gate must be one of linear, cosine, sigmoid, step, got"),
        ({"timing": "late"}, ValueError, "timing must be one of strength, .* got 'late'"),
        ({"overlap": 1.2}, ValueError, r"overlap must lie in \[0, 1\], got 1.2"),
        ({"overlap": "all"}, TypeError, "overlap must be a number, got str"),
        ({"overlap": -0.1}, ValueError, r"overlap must lie in \[0, 1\], got -0\.1"),
        ({"power": 0}, ValueError, "power must be finite and above 0, got 0"),
        ({"power": math.nan}, ValueError, "power must be finite and above 0, got nan"),
    ],
)
def test_bad_options(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        SpectralIG(smooth, **options)


def test_inputs_must_be_images() -> None:
    with pytest.raises(ValueError, match=r"images \(B, C, H, W\), got shape \(2, 5\)"):
        SpectralIG(smooth).attribute(torch.rand(2, 5), target=0)


# Real networks


# The network, side in pixels, largest gap: small sides, foreign to the networks, keep it short.
NETWORKS = [("mobilenet_v2", 128, 0.01), ("resnet18", 128, 0.01), ("resnet50", 96, 0.02)]


@pytest.mark.data
@pytest.mark.parametrize(("name", "side", "most"), NETWORKS)
def test_gap_on_real_networks(
    data: Path, loaders: ModuleType, name: str, side: int, most: float
) -> None:
    """At the default steps; ReLU networks are rugged along any path."""
    network, prepare = loaders.imagenet(name)
    files = sorted((data / "imagenet" / "images").glob("*.jpg"))[::150][:1]
    pictures = [Image.open(f).convert("RGB").resize((side, side)) for f in files]
    pixels = torch.stack([torch.from_numpy(np.array(p)) for p in pictures]).permute(0, 3, 1, 2)
    images, black = prepare(pixels), prepare(torch.zeros_like(pixels[:1]))
    with torch.no_grad():
        target = network(images).argmax(1)
        rows = torch.arange(len(images))
        change = network(images)[rows, target] - network(black)[0, target]
    found, gap = SpectralIG(network).attribute(
        images, black, target, internal_batch_size=8, return_convergence_delta=True
    )
    assert found.isfinite().all()
    assert float((gap / change).abs().mean()) < most


@pytest.mark.parametrize(
    ("size", "bands"), [((64, 48), 6), ((224, 224), 6), ((8, 6), 4), ((1, 1), 2)]
)
def test_the_pyramid_has_six_bands_where_the_image_is_large_enough(size: Any, bands: int) -> None:
    from usu_captum.paths._spectra import decompose

    assert decompose(torch.rand(1, 3, *size), "laplacian").lengths.shape == (1, 1, bands)
