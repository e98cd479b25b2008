"""The objective is deletion and insertion, soft; one pass serves every class."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from usu_captum.ranking._interventions import Classifier, faded_scores
from usu_captum.ranking._masks import masks_to_pixels, pool_to_grid
from usu_captum.ranking._objective import RankingObjective
from usu_captum.ranking._sinkhorn import GumbelSinkhorn
from usu_captum.ranking._transport import RankTransport
from usu_core.metrics import deletion, insertion

PLAIN: Any = {"smoothing": 0.0, "peak_penalty": 0.0, "output": "logit"}


class Counted(nn.Module):
    """A small smooth classifier that counts the images it sees and remembers gradient mode."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(classes, 2 * 6 * 6, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(weight / 3)
        self.seen: list[tuple[int, bool]] = []

    def forward(self, images: Tensor, shift: Tensor | None = None) -> Tensor:
        self.seen.append((len(images), torch.is_grad_enabled()))
        logits = images.flatten(1).tanh() @ self.weight.T
        return logits if shift is None else logits + shift


def case(size: int = 2) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    draw: Callable[..., Tensor] = lambda *shape: torch.randn(  # noqa: E731
        shape, generator=generator, dtype=torch.float64
    )
    images, maps = draw(size, 2, 6, 6), draw(size, 1, 6, 6)
    references = draw(3, size, 2, 6, 6) / 2
    return images, maps, torch.tensor([[0, 2], [3, 1]])[:size], references


def by_hand(
    model: nn.Module, images: Tensor, maps: Tensor, targets: Tensor, references: Tensor, grid: int
) -> tuple[Tensor, Tensor]:
    """Deletion and insertion with every mask of both sorts, one image at a time."""
    fractions = torch.linspace(0, 1, 16, dtype=torch.float64)
    sorter = GumbelSinkhorn(tolerance=1e-9)
    areas = []
    for sign in (1, -1):
        cells = F.adaptive_avg_pool2d(maps, grid).flatten(1)
        masks = sorter.top_masks(sign * cells, fractions)
        pixels = masks_to_pixels(masks, grid, (6, 6), 1.0)
        rows = []
        for b in range(len(images)):
            total = torch.zeros(16, dtype=torch.float64)
            for reference in references:
                for k in targets[b]:
                    shown = torch.lerp(images[b].expand(16, -1, -1, -1), reference[b], pixels[b])
                    total = total + model(shown).softmax(1)[:, k]
            rows.append(total / len(references) / len(targets[b]))
        areas.append(torch.trapezoid(torch.stack(rows), fractions))
    return areas[0], areas[1]


@pytest.mark.parametrize("shared_order", [True, False])
@pytest.mark.parametrize("chunk_size", [5, 64, None])
def test_agrees_with_a_plain_loop(shared_order: bool, chunk_size: int | None) -> None:
    images, maps, targets, references = case()
    maps.requires_grad_()
    objective = RankingObjective(
        GumbelSinkhorn(tolerance=1e-9), shared_order=shared_order, chunk_size=chunk_size
    )
    model = Counted()
    value = objective(model, images, maps, targets, grid=3, references=references)
    first, last = by_hand(model, images, maps, targets, references, 3)
    torch.testing.assert_close(value.deletion, first, atol=1e-8, rtol=0)
    torch.testing.assert_close(value.insertion, last, atol=1e-8, rtol=0)
    low, high = maps.amin((1, 2, 3), True), maps.amax((1, 2, 3), True)
    tall = 10 * (maps - low) / (high - low)
    around = F.avg_pool2d(tall, 15, 1, 7, count_include_pad=False)
    peak = (tall - around).clamp(min=0).pow(2).mean((1, 2, 3))
    torch.testing.assert_close(value.peak, peak)
    total = first + (1 - last) + 0.0025 * peak
    torch.testing.assert_close(value.total, total, atol=1e-8, rtol=0)
    weights = torch.tensor([0.3, 2.0]).double()
    (mine,) = torch.autograd.grad((value.total * weights).sum(), maps, retain_graph=True)
    (other,) = torch.autograd.grad((total * weights).sum(), maps)
    torch.testing.assert_close(mine, other, atol=1e-8, rtol=1e-5)
    assert model.weight.grad is None


@pytest.mark.parametrize("sorter", [GumbelSinkhorn(1.0), RankTransport(0.05, normalise="range")])
def test_gradients(sorter: Any) -> None:
    images, maps, targets, references = case()
    objective = RankingObjective(sorter, n_percentiles=5)

    def run(maps: Tensor) -> Any:
        value = objective(Counted(), images, maps, targets, grid=2, references=references)
        return value.total, value.deletion, value.insertion, value.peak, value.curves

    assert torch.autograd.gradcheck(run, maps.requires_grad_())


def test_a_linear_model_by_hand() -> None:
    images = torch.tensor([[[[4.0, 3.0], [2.0, 1.0]]]])

    def evaluate(**settings: float) -> Any:
        objective = RankingObjective(GumbelSinkhorn(1e-4), n_percentiles=5, **PLAIN, **settings)
        return objective(
            lambda x: x.sum((1, 2, 3)),
            images,
            images,
            torch.tensor([0]),
            grid=2,
            references=torch.zeros_like(images),
        )

    value = evaluate()
    expected = torch.tensor([[[10.0, 6, 3, 1, 0], [10, 9, 7, 4, 0]]])
    torch.testing.assert_close(value.curves, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(value.deletion, torch.tensor([15 / 4]), atol=1e-3, rtol=0)
    torch.testing.assert_close(value.insertion, torch.tensor([25 / 4]), atol=1e-3, rtol=0)
    torch.testing.assert_close(value.total, torch.tensor([15 / 4 + 1 - 25 / 4]), atol=1e-3, rtol=0)
    heavy = evaluate(insertion_weight=3.0)
    expected = torch.tensor([15 / 4 + 3 * (1 - 25 / 4)])
    torch.testing.assert_close(heavy.total, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("sorter", [GumbelSinkhorn(1e-5), RankTransport(1e-6)])
def test_cold_and_pixel_wise_it_is_the_metric(sorter: Any) -> None:
    images, maps, _, references = case()
    targets, model = torch.tensor([1, 3]), Counted()
    objective = RankingObjective(sorter, n_percentiles=19, smoothing=0.0)
    value = objective(model, images, maps, targets, grid=6, references=references[0])

    class Score:
        def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
            return model(images).softmax(1).gather(1, targets[example, None])[:, 0]

    hard: Any = {"reference": references[0], "steps": 18}
    fall = deletion(Score(), images, maps[:, 0], **hard)
    rise = insertion(Score(), images, maps[:, 0], **hard)
    torch.testing.assert_close(value.curves[:, 0].float(), fall.scores, atol=2e-3, rtol=0)
    torch.testing.assert_close(value.curves[:, 1].flip(1).float(), rise.scores, atol=2e-3, rtol=0)


@pytest.mark.parametrize("classes", [1, 2])
def test_one_pass_serves_all_classes_and_the_ends_are_seen_once(classes: int) -> None:
    images, maps, targets, references = case()
    model = Counted()
    objective = RankingObjective(n_percentiles=6, chunk_size=None)
    objective(
        model,
        images,
        maps.requires_grad_(),
        targets[:, :classes],
        grid=3,
        references=references,
    )
    with_gradient = sum(n for n, grad in model.seen if grad)
    without = sum(n for n, grad in model.seen if not grad)
    assert with_gradient == 2 * 3 * 2 * 4
    assert without == (3 + 1) * 2
    assert len(model.seen) == 2


def test_given_ends_are_not_evaluated_again() -> None:
    images, maps, targets, references = case()
    model, objective = Counted(), RankingObjective()
    ends = objective.ends(model, images, targets, references=references)
    expected = objective(model, images, maps, targets, grid=3, references=references)
    model.seen.clear()
    value = objective(model, images, maps, targets, grid=3, references=references, ends=ends)
    assert sum(n for n, _ in model.seen) == 3 * 2 * 2 * 14
    assert not any(grad for _, grad in model.seen)
    torch.testing.assert_close(value.total, expected.total)
    torch.testing.assert_close(value.curves[:, 0, 0], ends[:, 0])
    torch.testing.assert_close(value.curves[:, 1, -1], ends[:, 1])


def test_chunks_bound_the_images_of_a_pass() -> None:
    images, maps, targets, references = case()
    model = Counted()
    objective = RankingObjective(chunk_size=7)
    objective(model, images, maps, targets, grid=3, references=references)
    assert max(n for n, _ in model.seen) == 7


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_examples_do_not_influence_one_another(seed: int) -> None:
    images, _, targets, references = case()
    maps = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(seed)).double() ** 3
    options: Any = {"grid": 5}
    both = RankingObjective()(Counted(), images, maps, targets, references=references, **options)
    for b in (0, 1):
        one = RankingObjective()(
            Counted(),
            images[[b]],
            maps[[b]],
            targets[[b]],
            references=references[:, [b]],
            **options,
        )
        torch.testing.assert_close(one.total, both.total[[b]])


def test_additional_arguments_follow_their_example() -> None:
    images, maps, targets, references = case()
    shift = torch.randn(2, 4, dtype=torch.float64)
    together = RankingObjective()(
        Counted(),
        images,
        maps,
        targets,
        grid=3,
        references=references,
        additional_forward_args=shift,
    )
    alone = RankingObjective()(
        lambda x: Counted()(x) + shift[1],
        images[1:],
        maps[1:],
        targets[1:],
        grid=3,
        references=references[:, 1:],
    )
    torch.testing.assert_close(together.total[1:], alone.total)


def test_a_scale_free_map_has_scale_free_peaks() -> None:
    images, maps, targets, references = case()
    options: Any = {"grid": 3, "references": references}
    first = RankingObjective()(Counted(), images, maps, targets, **options)
    second = RankingObjective()(Counted(), images, 50 * maps - 3, targets, **options)
    torch.testing.assert_close(first.total, second.total)
    published = RankingObjective(scaled_peaks=False, peak_window=3)
    raw = published(Counted(), images, maps, targets, **options).peak
    around = F.avg_pool2d(maps, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(raw, (maps - around).clamp(min=0).pow(2).mean((1, 2, 3)))


def test_published_cells_and_overrides_reach_their_parts() -> None:
    images, maps, targets, references = case()
    options: Any = {"grid": 4, "references": references}
    ours = RankingObjective()(Counted(), images, maps, targets, **options)
    theirs = RankingObjective(consistent_cells=False)(Counted(), images, maps, targets, **options)
    assert not torch.allclose(ours.total, theirs.total)
    warm = RankingObjective()(Counted(), images, maps, targets, temperature=2.0, **options)
    other = RankingObjective(GumbelSinkhorn(2.0))(Counted(), images, maps, targets, **options)
    assert torch.equal(warm.total, other.total)
    assert not torch.allclose(warm.total, ours.total)
    noisy = [
        RankingObjective()(
            Counted(),
            images,
            maps,
            targets,
            noise_scale=1.0,
            generator=torch.Generator().manual_seed(seed),
            **options,
        ).total
        for seed in (0, 0, 1)
    ]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.allclose(noisy[0], noisy[2])


def test_mixed_precision() -> None:
    images, maps, targets, references = (v.float() if v.is_floating_point() else v for v in case())
    maps.requires_grad_()
    model = Counted().float()
    exact = RankingObjective()(model, images, maps, targets, grid=3, references=references)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = RankingObjective()(model, images, maps, targets, grid=3, references=references)
    assert half.total.dtype == torch.float32
    torch.testing.assert_close(half.total, exact.total, atol=0.02, rtol=0)
    (one,) = torch.autograd.grad(half.total.sum(), maps)
    (two,) = torch.autograd.grad(exact.total.sum(), maps)
    assert F.cosine_similarity(one.flatten(), two.flatten(), 0) > 0.98


def test_faded_scores_stop_where_nothing_can_be_learnt() -> None:
    images, maps, targets, references = case()
    objective, options = RankingObjective(), {"grid": 3, "references": references}

    def opaque(x: Tensor) -> Tensor:
        return Counted()(x).detach()

    objective(opaque, images, maps, targets, **options)
    with pytest.raises(ValueError, match=r"forward_func must be differentiable .*no_grad"):
        objective(opaque, images, maps.clone().requires_grad_(), targets, **options)
    with pytest.raises(ValueError, match="forward_func must give finite scores, got NaN"):
        objective(lambda x: Counted()(x) * float("nan"), images, maps, targets, **options)
    classifier = Classifier(lambda x: Counted()(x) / (x.mean() - 1), targets, "logit")
    with pytest.raises(ValueError, match="finite scores, got NaN or infinity for a faded image"):
        faded_scores(
            classifier, images, torch.ones_like(references), torch.ones(2, 1, 1, 6, 6), None
        )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sorter": 3}, TypeError, "sorter must have top_masks and score_range, got int"),
        ({"n_percentiles": 2}, ValueError, "n_percentiles must be at least 3, got 2"),
        (
            {"insertion_weight": -1.0},
            ValueError,
            "insertion_weight must be finite and at least 0, got -1.0",
        ),
        (
            {"peak_penalty": -1.0},
            ValueError,
            "peak_penalty must be finite and at least 0, got -1.0",
        ),
        ({"peak_window": 4}, ValueError, "peak_window must be odd, got 4. Try 15"),
        ({"smoothing": -1.0}, ValueError, "smoothing must be finite and at least 0"),
        ({"output": "logits"}, ValueError, "output must be one of .*Did you mean 'logit'"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1, got 0"),
    ],
)
def test_bad_settings(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RankingObjective(**change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"maps": torch.rand(2, 2, 6, 6)}, ValueError, r"maps must have shape \(2, 1, 6, 6\)"),
        ({"maps": torch.full((2, 1, 6, 6), float("inf"))}, ValueError, "must be finite"),
        ({"images": torch.rand(2, 6, 6)}, ValueError, r"images must have shape \(B, C, H, W\)"),
        ({"targets": torch.tensor([0])}, ValueError, "one row for each of 2 images"),
        ({"targets": torch.tensor([0, 4])}, ValueError, r"lie in \[0, 3\], got values from 0 to 4"),
        ({"targets": torch.tensor([0.0, 1.0])}, TypeError, "targets must be an int64 tensor"),
        ({"targets": torch.zeros(2, 1, 1).long()}, ValueError, r"targets must be \(B,\) or"),
        ({"references": torch.rand(2, 2, 5, 6)}, ValueError, r"references must have shape"),
        ({"grid": 7}, ValueError, "Try grid=6 or fewer"),
        ({"forward_func": lambda x: [x]}, TypeError, "must return a tensor, got list"),
        ({"forward_func": lambda x: x}, ValueError, r"must return \(N, classes\) or \(N,\)"),
    ],
)
def test_bad_calls(change: dict[str, Any], error: type[Exception], message: str) -> None:
    images, maps, targets, references = case()
    arguments: dict[str, Any] = {
        "forward_func": Counted(),
        "images": images,
        "maps": maps,
        "targets": targets,
        "grid": 3,
        "references": references,
    }
    with pytest.raises(error, match=message):
        RankingObjective()(**arguments | change)


def test_pooled_scores_are_what_is_sorted() -> None:
    """The meta-test of the loop above: another grid gives another objective."""
    images, maps, targets, references = case()
    value = RankingObjective()(Counted(), images, maps, targets, grid=2, references=references)
    first, _ = by_hand(Counted(), images, maps, targets, references, 3)
    assert not torch.allclose(value.deletion, first, atol=1e-4)
    assert pool_to_grid(maps, 2).shape == (2, 4)


def test_a_classifiers_outputs_are_logits_or_not_once_and_for_all() -> None:
    classifier = Classifier(nn.Flatten(), torch.tensor([0]), "probability")
    for pixels in ([0.9, 0.5, 0.0], [0.5, 0.5, 0.0]):  # the second add up to one by chance
        images = torch.tensor(pixels).view(1, 1, 1, 3)
        found = classifier.evaluate(images, torch.tensor([0]))
        torch.testing.assert_close(found, images.flatten(1).softmax(1)[:, 0])
