"""Upsampler objects: every name runs; details, channels, grids, shared score maps."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from usu_core import (
    IWMR,
    USU,
    CellGrid,
    GivenLabels,
    Interpolation,
    MaskedPerturbation,
    Quadtree,
    ScoreMapOnly,
    Slic,
    Upsampling,
    __version__,
    available,
    iwmr,
    resolve,
    usu,
)

GUIDED = [USU(), IWMR(), ScoreMapOnly()]


def brightness(images: Tensor) -> Tensor:
    return images[:, :, :10].flatten(1).mean(1)


def light(upsampler: Any) -> Any:
    """The same upsampler with segments that cost nothing, for speed."""
    return replace(upsampler, segmenter=Quadtree((2, 4)))


@pytest.mark.parametrize("name", available())
def test_every_name_runs_on_an_image(rand: Any, name: str) -> None:
    cells, image = rand(2, 1, 4, 4) - 0.2, rand(2, 3, 32, 40)
    fine = resolve(name)(cells, image=image, score=brightness)
    assert fine.shape == (2, 1, 32, 40)
    assert fine.dtype == torch.float32
    assert bool(fine.isfinite().all())


@pytest.mark.parametrize("name", available())
def test_details_agree_with_the_plain_call(rand: Any, name: str) -> None:
    cells, image = rand(2, 2, 4, 4), rand(2, 3, 32, 32)
    upsampler = resolve(name)
    result = upsampler(cells, image=image, score=brightness, details=True)
    assert isinstance(result, Upsampling)
    assert torch.equal(result.attribution, upsampler(cells, image=image, score=brightness))
    assert torch.equal(result.cells, cells)
    assert result.mass_error.shape == (2,)
    assert result.versions["usu-attribution"] == __version__
    assert result.versions["torch"] == torch.__version__
    assert result.config["type"] == type(upsampler).__name__
    if isinstance(upsampler, Interpolation):
        assert result.score_map is None
        assert (result.segments, result.evaluations) == ((), 0)
    else:
        assert result.score_map is not None
        assert result.score_map.shape == (2, 32, 32)
        assert all(level.shape == (2, 32, 32) for level in result.segments)
        assert result.evaluations > 0


def test_evaluations_are_the_models_own_count(rand: Any) -> None:
    seen = []

    def score(images: Tensor) -> Tensor:
        seen.append(len(images))
        return brightness(images)

    upsampler = USU(segmenter=Quadtree((2, 4)), scorer=MaskedPerturbation())
    result = upsampler(rand(2, 1, 4, 4), image=rand(2, 3, 16, 16), score=score, details=True)
    assert result.evaluations == sum(seen) > 0


@pytest.mark.parametrize(
    ("mode", "exact"),
    [("nearest", True), ("bilinear-conserving", True), ("bilinear", False), ("bicubic", False)],
)
def test_the_mass_error_tells_who_conserves(rand: Any, mode: str, exact: bool) -> None:
    cells = rand(2, 1, 4, 4)
    error = Interpolation(mode)(cells, size=(16, 16), details=True).mass_error
    fine = Interpolation(mode)(cells, size=(16, 16)).double()
    drift = (CellGrid.even((4, 4), (16, 16)).mean(fine) - cells.double()).abs().flatten(1).amax(1)
    torch.testing.assert_close(error, drift / cells.double().flatten(1).amax(1))
    assert bool((error < 1e-6).all()) == exact


@pytest.mark.parametrize("convention", ["density", "total"])
def test_usu_keeps_its_mass_in_both_conventions(rand: Any, convention: str) -> None:
    upsampler = USU(convention=convention)
    result = upsampler(rand(2, 3, 4, 4) - 0.5, score_map=rand(2, 17, 16), details=True)
    assert float(result.mass_error.max()) < 5e-7


@pytest.mark.parametrize("upsampler", GUIDED)
def test_a_score_map_is_reused_without_an_evaluation(rand: Any, upsampler: Any) -> None:
    cells, image = rand(2, 1, 4, 4), rand(2, 3, 16, 16)
    upsampler = light(upsampler)
    made = upsampler.score_map(image, brightness)
    assert made.evaluations > 0

    def never(images: Tensor) -> Tensor:
        raise AssertionError("the model was asked")

    result = upsampler(cells, image=image, score=never, score_map=made.values, details=True)
    assert (result.evaluations, result.segments) == (0, ())
    assert torch.equal(result.attribution, upsampler(cells, image=image, score=brightness))


def test_channels_share_the_score_map_and_keep_their_own_mass(rand: Any) -> None:
    cells, phi = rand(2, 3, 4, 4), rand(2, 16, 16)
    for upsampler in GUIDED:
        fine = upsampler(cells, score_map=phi)
        for c in range(3):
            torch.testing.assert_close(
                fine[:, c : c + 1], upsampler(cells[:, c : c + 1], score_map=phi)
            )


def test_options_reach_the_operators(rand: Any) -> None:
    cells, phi = rand(2, 1, 3, 3) - 0.5, rand(2, 10, 11)
    options: dict[str, Any] = {
        "temperature": 0.7, "potential": "power", "convention": "total", "negative": "invert"
    }  # fmt: skip
    wanted = usu(cells[:, 0], phi, **options)
    assert torch.equal(USU(**options)(cells, score_map=phi)[:, 0], wanted)
    options |= {"prior": "mass", "importance": "mean", "importance_temperature": 0.9}
    wanted = iwmr(cells[:, 0], phi, **options)
    assert torch.equal(IWMR(**options)(cells, score_map=phi)[:, 0], wanted)


def test_grids_are_followed_and_interpolation_refuses_them(rand: Any) -> None:
    grid = CellGrid.box((2, 2), (8, 8), (2, 2, 6, 6))
    cells, phi = rand(1, 1, 2, 2), rand(1, 8, 8)
    fine = USU()(cells, score_map=phi, grid=grid)
    assert torch.equal(fine[:, 0] == 0, (grid.labels() < 0)[None])
    with pytest.raises(ValueError, match=r"grid must be even for interpolation, got CellGrid\(box"):
        Interpolation()(cells, size=(8, 8), grid=grid)
    with pytest.raises(ValueError, match=r"grid must cover \(9, 8\) pixels, got \(8, 8\)"):
        USU()(cells, score_map=rand(1, 9, 8), grid=grid)


def test_the_score_map_control_spreads_the_total_by_the_scores(rand: Any) -> None:
    cells, phi = rand(2, 1, 3, 3) - 0.4, rand(2, 7, 8)
    for convention in ("density", "total"):
        fine = ScoreMapOnly(convention=convention)(cells, score_map=phi)[:, 0]
        sizes = CellGrid.even((3, 3), (7, 8)).sizes() if convention == "density" else 1
        total = (cells[:, 0] * sizes).sum((1, 2)).view(2, 1, 1)
        torch.testing.assert_close(fine, total * phi / phi.sum((1, 2), keepdim=True))
    flat = ScoreMapOnly()(torch.ones(1, 1, 2, 2), score_map=torch.zeros(1, 4, 4))
    torch.testing.assert_close(flat, torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize("convention", ["density", "total"])
def test_the_score_map_control_leaves_out_what_is_in_no_cell(rand: Any, convention: str) -> None:
    grid = CellGrid.box((2, 2), (8, 8), (2, 1, 6, 7))
    inside, cells = grid.labels() >= 0, rand(2, 1, 2, 2)
    total = (cells[:, 0] * (grid.sizes() if convention == "density" else 1)).sum((1, 2))
    for phi in (rand(2, 8, 8), torch.zeros(2, 8, 8), rand(2, 8, 8) * ~inside):
        fine = ScoreMapOnly(convention=convention)(cells, score_map=phi, grid=grid)[:, 0]
        assert not fine[:, ~inside].any()
        torch.testing.assert_close(fine.sum((1, 2)), total)
        weight = phi[:, inside] if phi[:, inside].any() else torch.ones(2, int(inside.sum()))
        share = weight / weight.sum(1, keepdim=True)
        torch.testing.assert_close(fine[:, inside], share * total[:, None])


def test_the_score_map_control_of_a_box_between_two_pixels_is_empty(rand: Any) -> None:
    grid = CellGrid.box((1,), (4,), (1.2, 1.8))
    assert not ScoreMapOnly()(torch.ones(1, 1, 1), score_map=rand(1, 4), grid=grid).any()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_rank(rand: Any, rank: int) -> None:
    upsampler = USU(segmenter=Quadtree((2, 4)))
    image = rand(2, 1, *[8] * rank)
    fine = upsampler(rand(2, 1, *[2] * rank), image=image, score=lambda x: x.flatten(1).sum(1))
    assert fine.shape == image.shape


def test_gradients_reach_the_cells_but_not_the_image(rand: Any) -> None:
    cells, image = rand(1, 1, 4, 4).requires_grad_(), rand(1, 3, 16, 16).requires_grad_()
    fine = light(USU())(cells, image=image, score=brightness)
    fine.sum().backward()
    torch.testing.assert_close(cells.grad, torch.full((1, 1, 4, 4), 16.0))
    assert image.grad is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        ({"image": torch.zeros(1, 3, 8, 8)}, ValueError, "score must be given to USU: it follows"),
        ({"size": (8, 8)}, ValueError, "image must be given to USU"),
        ({}, ValueError, "image, score_map or size must be given"),
        (
            {"image": torch.zeros(1, 3, 8, 8), "size": (9, 9)},
            ValueError,
            "image, score_map and size must agree on the fine shape",
        ),
        ({"score_map": torch.zeros(3, 8, 8)}, ValueError, "score_map must hold 1 examples as cell"),
        (
            {"image": torch.zeros(2, 3, 8, 8), "score": brightness},
            ValueError,
            "image must hold 1 examples as cells, got 2",
        ),
        ({"score_map": torch.full((1, 8, 8), 2.0)}, ValueError, r"score_map must lie in \[0, 1\]"),
        ({"score_map": torch.full((1, 8, 8), torch.nan)}, ValueError, "score_map must lie in"),
        ({"score_map": torch.ones(1, 8, 8).long()}, TypeError, "score_map must be a floating-poi"),
        ({"score_map": np.ones((1, 8, 8))}, TypeError, "score_map must be a torch.Tensor, got nd"),
        ({"image": np.ones((1, 3, 8, 8))}, TypeError, "image must be a torch.Tensor, got ndarray"),
        ({"image": torch.zeros(1, 3, 8, 8), "score": 3}, TypeError, "score must be a function"),
        (
            {"image": torch.full((1, 3, 8, 8), torch.nan), "score": brightness},
            ValueError,
            "images must be finite",
        ),
    ],
)
def test_calls_that_cannot_work_say_why(
    call: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        USU()(torch.ones(1, 1, 2, 2), **call)


@pytest.mark.parametrize("cells", [torch.ones(2, 2), torch.ones((1,) * 6)])
def test_cells_of_another_rank_are_refused(cells: Tensor) -> None:
    with pytest.raises(ValueError, match="cells must have shape"):
        USU()(cells, size=(4, 4))


@pytest.mark.parametrize("upsampler", [Interpolation(), *GUIDED])
def test_objects_are_frozen_hashable_and_compare_by_value(upsampler: Any) -> None:
    assert upsampler == type(upsampler)()
    assert hash(upsampler) == hash(type(upsampler)())
    assert type(upsampler).__name__ in repr(upsampler)
    with pytest.raises(FrozenInstanceError):
        upsampler.convention = "total"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: USU(segmenter=Slic), TypeError, "segmenter must be a Segmenter object"),
        (lambda: USU(scorer="gradient"), TypeError, "scorer must be a Scorer object, got 'gradien"),
        (lambda: USU(refinement=3), TypeError, "refinement must be a Refinement object, got 3"),
        (lambda: USU(convention="mass"), ValueError, "convention must be one of"),
        (lambda: USU(temperature=0.0), ValueError, "temperature must be finite and above 0"),
        (lambda: USU(potential="exp"), ValueError, "potential must be one of"),
        (lambda: IWMR(prior="cells"), ValueError, "prior must be one of"),
        (lambda: Interpolation("area"), ValueError, "mode must be one of"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    make: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make()


def test_targets_may_differ_between_examples(rand: Any, linear: Any) -> None:
    """Each image's perturbed copies are scored against its own target."""
    image, weights = torch.ones(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)
    weights[0, :, :4], weights[1, :, 4:] = 1.0, 1.0
    upsampler = USU(
        segmenter=GivenLabels([torch.arange(8).div(4, rounding_mode="floor").repeat(8, 1).T]),
        scorer=MaskedPerturbation(fill="zero"),
    )
    made = upsampler.score_map(image, linear(weights))
    assert torch.equal(made.values, weights[:, 0])


def test_segmenters_and_scorers_get_images_without_a_graph(rand: Any) -> None:
    flags = []

    class Asking(Quadtree):
        def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
            flags.append(images.requires_grad)
            return super().__call__(images)

    image = rand(1, 3, 8, 8).requires_grad_()
    USU(segmenter=Asking((2,)))(rand(1, 1, 2, 2), image=image, score=lambda x: x.sum((1, 2, 3)))
    assert flags == [False]


def test_the_mass_error_keeps_no_graph(rand: Any) -> None:
    cells = rand(1, 1, 2, 2).requires_grad_()
    result = USU()(cells, score_map=rand(1, 8, 8), details=True)
    assert result.attribution.requires_grad
    assert not result.mass_error.requires_grad
