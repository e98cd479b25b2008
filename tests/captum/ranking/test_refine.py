"""Refinement lowers its loss, keeps the best, and leaves nothing behind."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from usu_captum import ImageSpace
from usu_captum.ranking._descent import Adam
from usu_captum.ranking._objective import RankingObjective
from usu_captum.ranking._refine import refine, refine_with
from usu_captum.ranking._transport import RankTransport
from usu_core.metrics import deletion, insertion

SPACE = ImageSpace((0.0,), (1.0,))
OBJECTIVE = RankingObjective(n_percentiles=8, smoothing=0.5)


class Spot(nn.Module):
    """Class 1 is a bright spot in the upper left quarter, class 2 one in the lower right."""

    def __init__(self) -> None:
        super().__init__()
        self.blur = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        nn.init.constant_(self.blur.weight, 1 / 9)
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)
        self.calls = 0
        self.fail: BaseException | None = None

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.fail is not None and self.calls > 3:
            raise self.fail
        x = self.drop(self.norm(self.blur(images)))[:, 0]
        upper, lower = x[:, 2:6, 2:6].mean((1, 2)), x[:, 9:13, 9:13].mean((1, 2))
        return torch.stack([torch.zeros_like(upper) + 1.5, 4 * upper, 4 * lower], 1)


def spots(size: int = 2) -> Tensor:
    images = torch.rand(size, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    images[:, :, 2:6, 2:6] += 1
    images[:, :, 9:13, 9:13] += 1
    return images


def run(model: Any, images: Tensor, maps: Tensor | None = None, **change: Any) -> Any:
    arguments: dict[str, Any] = {
        "target": 1,
        "objective": OBJECTIVE,
        "grids": (8, 16, 4),
        "space": SPACE,
    }
    return refine(model, images, maps, **arguments | change)


def test_finds_the_spot_of_the_target_from_nothing() -> None:
    model, images = Spot().eval(), spots()
    result = run(model, images, target=[1, 2], n_steps=5)
    assert result.losses.shape == (6, 2)
    assert (result.losses.amin(0) < result.losses[0] - 0.05).all()
    best = result.losses.argmin(0)
    assert torch.equal(result.best, best)
    upper = result.maps[:, 0, 2:6, 2:6].mean((1, 2))
    lower = result.maps[:, 0, 9:13, 9:13].mean((1, 2))
    assert upper[0] > lower[0]
    assert lower[1] > upper[1]

    def score(x: Tensor) -> Tensor:
        return model(x).softmax(1)[:, 1]

    options: Any = {"reference": "black"}
    for metric, better in ((deletion, torch.lt), (insertion, torch.gt)):
        after = metric(score, images[:1], result.maps[:1, 0], **options).auc
        before = metric(score, images[:1], torch.zeros(1, 16, 16), **options).auc
        assert better(after, before).all()


def test_never_gets_worse_and_keeps_the_best_iterate() -> None:
    model, images = Spot().eval(), spots()
    good = torch.zeros(2, 1, 16, 16)
    good[:, :, 2:6, 2:6] = 1
    result = run(model, images, good, n_steps=4, learning_rate=30.0)
    worse = result.losses[1:] > result.losses[0]
    assert worse.any()  # So large a step spoils the map.
    assert torch.equal(result.best, result.losses.argmin(0))
    kept = result.best == 0
    assert torch.equal(result.maps[kept], good[kept])
    again = run(model, images, result.maps, n_steps=0)
    torch.testing.assert_close(again.losses[0], result.losses.amin(0), atol=1e-6, rtol=0)


def test_the_scale_of_a_map_does_not_matter() -> None:
    model, images = Spot().eval(), spots()
    start = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    first = run(model, images, start)
    second = run(model, images, 1e-4 * start)
    torch.testing.assert_close(first.losses, second.losses, atol=1e-4, rtol=0)
    torch.testing.assert_close(1e4 * second.maps, first.maps, atol=1e-2, rtol=0)


def test_examples_do_not_influence_one_another() -> None:
    model, images = Spot().eval(), spots()
    both, one = run(model, images), run(model, images[1:])
    torch.testing.assert_close(both.maps[1:], one.maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(both.losses[:, 1:], one.losses, atol=1e-5, rtol=0)


def test_all_iterates_are_judged_on_the_same_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, bool]] = []
    original = RankingObjective.__call__

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((kwargs["grid"], torch.is_grad_enabled()))
        assert kwargs["noise_scale"] == 0.0
        assert len(kwargs["references"]) == 3
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RankingObjective, "__call__", spy)
    run(Spot().eval(), spots(), grids=(8, 99, 4), n_steps=3)
    steps = [(8, 8), (16, 16), (4, 4)]  # Finer than the image is cut to its pixels.
    assert [grid for grid, grad in seen if grad] == steps
    assert [grid for grid, grad in seen if not grad] == [(8, 8)] * 3
    seen.clear()
    refine(Spot().eval(), spots(), target=1, objective=OBJECTIVE, space=SPACE, n_steps=2)
    assert seen == [((14, 14), True), ((14, 14), True), ((14, 14), False)]  # By default.


def test_the_passes_are_what_the_cost_says() -> None:
    model, images = Spot().eval(), spots(1)
    seen: list[int] = []

    def counted(x: Tensor) -> Tensor:
        seen.append(len(x))
        return model(x)

    run(counted, images, n_steps=3)
    masks = 3 * 12  # Three references, six percentiles of deletion and six of insertion.
    assert sum(seen) == 4 + 3 * masks + 3 * masks  # The ends, steps, iterates but the first.


def test_pixels_can_be_sorted_by_transport() -> None:
    objective = RankingObjective(RankTransport(0.01), n_percentiles=8, smoothing=0.5)
    result = run(Spot().eval(), spots(), objective=objective, grids=(16,))
    assert (result.losses.amin(0) < result.losses[0]).all()


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    model.blur.weight.grad = torch.ones_like(model.blur.weight)  # type: ignore[union-attr,operator]
    return (
        [m.training for m in model.modules()],
        [p.requires_grad for p in model.parameters()],
        {k: v.clone() for k, v in model.state_dict().items()},
        torch.get_rng_state(),
    )


def assert_no_trace(model: nn.Module, before: tuple[Any, ...]) -> None:
    modes, flags, state, random = before
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    grads = [p.grad for p in model.parameters()]
    assert torch.equal(grads[0], torch.ones_like(grads[0]))  # type: ignore[arg-type]
    assert grads[1:] == [None] * (len(grads) - 1)


@pytest.mark.parametrize("failure", [None, RuntimeError("no"), KeyboardInterrupt()])
def test_leaves_no_trace(failure: BaseException | None) -> None:
    model = Spot().train()
    model.drop.eval()
    model.norm.weight.requires_grad_(False)
    images = spots().requires_grad_()
    maps = torch.randn(2, 1, 16, 16, requires_grad=True)
    before, kept = snapshot(model), maps.detach().clone()
    model.fail = failure
    if failure is None:
        result = run(model, images, maps)
        assert torch.equal(result.maps, run(copy.deepcopy(model).eval(), images, maps).maps)
        assert not result.maps.requires_grad
        assert not result.losses.requires_grad
    else:
        with pytest.raises(type(failure)):
            run(model, images, maps)
    assert_no_trace(model, before)
    assert images.grad is None
    assert maps.grad is None
    assert torch.equal(maps, kept)


@pytest.mark.parametrize("wrap", [partial, lambda model: model.forward, nn.DataParallel])
def test_a_known_module_is_never_run_in_training_mode(wrap: Any) -> None:
    if wrap is nn.DataParallel and torch.cuda.is_available():
        pytest.skip("DataParallel takes the model to the GPU")
    model = Spot().train()
    before = model.norm.running_mean.clone()
    run(wrap(model), spots(), n_steps=1)
    assert torch.equal(model.norm.running_mean, before)
    assert all(module.training for module in model.modules())


def test_random_state_comes_back_even_if_the_classifier_draws() -> None:
    model, before = Spot().eval(), torch.get_rng_state()
    run(lambda x: model(x) + 0.01 * torch.rand(1), spots(), n_steps=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("failure", [None, RuntimeError("no"), KeyboardInterrupt()])
def test_parameters_are_put_back(failure: BaseException | None) -> None:
    model, images = Spot().eval(), spots()
    decoder = nn.Conv2d(1, 1, 5, padding=2)
    decoder.requires_grad_(False)
    before = {k: v.clone() for k, v in decoder.state_dict().items()}
    model.fail = failure
    options: Any = {
        "targets": torch.tensor([1, 1]),
        "references": torch.zeros(1, 2, 1, 16, 16),
        "objective": OBJECTIVE,
        "learning_rate": 0.05,
        "grids": (8,),
    }
    if failure is None:
        result = refine_with(lambda: decoder(images), [decoder.weight], model, images, **options)
        assert result.losses.mean(1).min() < result.losses[0].mean()
    else:
        with pytest.raises(type(failure)):
            refine_with(lambda: decoder(images), [decoder.weight], model, images, **options)
    assert all(torch.equal(v, before[k]) for k, v in decoder.state_dict().items())
    assert decoder.weight.grad is None
    assert not decoder.weight.requires_grad
    unused = [decoder.weight, torch.zeros(3, requires_grad=True)]
    model.fail = None
    with pytest.raises(ValueError, match=r"maps must depend on every parameter, got one of shape"):
        refine_with(lambda: decoder(images), unused, model, images, **options)


def test_works_under_no_grad_and_inference_mode() -> None:
    model, images = Spot().eval(), spots()
    expected = run(model, images).maps
    with torch.no_grad():
        torch.testing.assert_close(run(model, images).maps, expected)
    with torch.inference_mode():
        torch.testing.assert_close(run(model, images + 0).maps, expected)


def test_parameters_can_be_stepped_in_inference_mode() -> None:
    model, images, weight = Spot().eval(), spots(), torch.zeros(2, 1, 16, 16)
    references = torch.zeros(1, 2, 1, 16, 16)
    targets = torch.tensor([1, 1])
    with torch.inference_mode():
        result = refine_with(
            lambda: weight + 0,
            [weight],
            model,
            images,
            targets=targets,
            references=references,
            objective=OBJECTIVE,
            learning_rate=0.1,
        )
    assert (result.losses.amin(0) < result.losses[0]).all()
    assert torch.equal(weight, torch.zeros_like(weight))
    assert not weight.requires_grad


def test_adam_is_adam() -> None:
    ours = torch.tensor([1.0, -2.0], dtype=torch.float64)
    theirs = ours.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=0.1, eps=1e-12)
    adam = Adam([ours], 0.1)
    for k in range(5):
        theirs.grad = torch.tensor([0.3, 1e-6 * k], dtype=torch.float64) - 0.1 * k
        adam.step([theirs.grad.clone()])
        reference.step()
    torch.testing.assert_close(ours, theirs.detach())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n_steps": -1}, ValueError, "n_steps must be at least 0, got -1"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be finite and above 0"),
        ({"grids": ()}, ValueError, r"grids must hold at least one grid.*Try \(14,\)"),
        ({"references": ()}, ValueError, r"references must name at least one.*Try \('blur',\)"),
        ({"space": None}, ValueError, "reference='black' needs to know where the images live"),
        ({"maps": torch.rand(2, 1, 4, 4)}, ValueError, r"maps must have shape \(2, 1, 16, 16\)"),
        ({"maps": torch.full((2, 1, 16, 16), float("nan"))}, ValueError, "maps must be finite"),
        ({"target": None}, TypeError, r"target must be a class.*Try target=model\(images\)"),
        ({"target": 1.5}, TypeError, "target must be a class"),
        ({"target": torch.tensor([1.0])}, TypeError, "target must hold integers"),
        ({"target": ["a", "b"]}, TypeError, "target must hold integers in rows of one length"),
        ({"target": [[0, 1], [1]]}, TypeError, "target must hold integers in rows of one length"),
        ({"target": [0, 1, 2]}, ValueError, "one row for each of 2 images"),
        ({"target": 7}, ValueError, r"targets must lie in \[0, 2\], got values from 7 to 7"),
    ],
)
def test_bad_calls(change: dict[str, Any], error: type[Exception], message: str) -> None:
    change = dict(change)
    maps = change.pop("maps", None)
    with pytest.raises(error, match=message):
        run(Spot().eval(), spots(), maps, **change)


def test_bad_images() -> None:
    with pytest.raises(ValueError, match=r"images must have shape \(B, C, H, W\)"):
        run(Spot().eval(), torch.rand(16, 16))
    with pytest.raises(TypeError, match="images must be a floating-point tensor"):
        run(Spot().eval(), torch.ones(1, 1, 16, 16, dtype=torch.uint8))


def test_a_shared_scale_lets_large_gradients_go_further() -> None:
    weights = torch.zeros(2, 3)
    adam = Adam([weights], 0.1, scale="example")
    gradients = torch.tensor([[3.0, 0.0, -4.0], [1e-9, 1e-9, 1e-9]])
    adam.step([gradients])
    # Each row by itself, and by the rate in root mean square.
    assert weights.square().mean(1).sqrt().tolist() == pytest.approx([0.1, 0.1], rel=1e-2)
    assert torch.allclose(weights[0] / weights[0, 0], torch.tensor([1.0, 0.0, -4 / 3]))
    adam.step([gradients])
    assert weights[0, 0] == pytest.approx(-2 * 0.3 / (25 / 3) ** 0.5, rel=1e-4)
    with pytest.raises(ValueError, match="scale must be"):
        Adam([weights], 0.1, scale="row")


def test_elements_of_a_row_are_all_there_is_to_share() -> None:
    for start in (torch.zeros(3), torch.zeros(())):
        shared, plain = start.clone(), start.clone()
        gradient = torch.full_like(start, 0.3)
        Adam([shared], 0.1, scale="example").step([gradient])
        Adam([plain], 0.1).step([gradient])
        assert torch.equal(shared, plain)


def test_the_callers_autocast_keeps_no_old_weights() -> None:
    """Autocast copies a weight once for all passes inside it; a step makes the copy old."""
    layer = nn.Conv2d(1, 1, 3, padding=1)
    x = torch.rand(1, 1, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x).detach().clone()
        Adam([layer.weight], 0.5).step([torch.ones_like(layer.weight)])
        with torch.no_grad():
            assert not torch.equal(layer(x), before)


def test_a_shared_scale_finds_the_one_pixel_that_decides() -> None:
    """A strong pixel among weak ones rises above all after one step, with plain Adam not yet."""
    strengths = torch.full((16, 16), 0.05)
    strengths[3, 12] = 6.0
    images = torch.ones(1, 1, 16, 16)
    start = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    start[0, 0, 3, 12] = start.median()
    found = {
        scale: refine(
            lambda x: (x[:, 0] * strengths).sum((1, 2)),
            images,
            start,
            target=0,
            n_steps=2,
            grids=(16,),
            references=torch.zeros(1),
            objective=RankingObjective(smoothing=0.0, output="logit"),
            learning_rate=0.2,
            scale=scale,
        ).maps
        for scale in ("element", "example")
    }
    assert int(found["example"].argmax()) == 3 * 16 + 12
    assert int(found["element"].argmax()) != 3 * 16 + 12


@pytest.mark.parametrize("value", [0.1, 0.7])
def test_a_flat_map_is_refined_as_nothing_is(value: float) -> None:
    """The deviation of 784 equal numbers need not be 0."""
    images = nn.functional.pad(spots(1), (6, 6, 6, 6))
    flat = torch.full((1, 1, 28, 28), value)
    nothing = run(Spot().eval(), images, n_steps=2, grids=(7,))
    result = run(Spot().eval(), images, flat, n_steps=2, grids=(7,))
    moved = [float((one.maps - one.maps.mean()).abs().max()) for one in (nothing, result)]
    assert moved[0] > 0.01
    assert moved[1] == pytest.approx(moved[0], rel=0.2)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"grids": 8}, TypeError, r"grids must be a sequence, got 8\. Try \(14,\)"),
        ({"grids": (2.5,)}, TypeError, "grids must be an integer, got float"),
        ({"grids": ((2, 3, 4),)}, ValueError, r"grids must hold G or \(rows, columns\), got"),
        ({"grids": (0,)}, ValueError, "grids must be at least 1, got 0"),
        ({"references": 3}, TypeError, r"references must be names or tensors, got int"),
        ({"objective": "x"}, TypeError, "objective must be a RankingObjective, got str"),
        ({"maps": torch.zeros(16, 16)}, ValueError, r"maps must have shape \(2, 1, 16, 16\)"),
    ],
)
def test_arguments_of_the_wrong_kind(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    change = dict(change)
    with pytest.raises(error, match=message):
        run(Spot().eval(), spots(), change.pop("maps", None), **change)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_images_are_brought_into_the_models_dtype(dtype: torch.dtype) -> None:
    model, images = Spot().eval(), spots().to(dtype)
    expected = run(model, images.float(), n_steps=1)
    assert torch.equal(run(model, images, n_steps=1).maps, expected.maps)
    found = run(model.to(dtype), spots(), n_steps=1)
    torch.testing.assert_close(found.losses.float(), expected.losses, atol=0.01, rtol=0)


def test_references_may_be_given_for_every_image() -> None:
    model, images = Spot().eval(), spots()
    one, other = torch.zeros_like(images), torch.full_like(images, 0.3)
    stacked = run(model, images, references=torch.stack([one, other]), n_steps=1)
    listed = run(model, images, references=[one, other], n_steps=1)
    alone = run(model, images, references=one, n_steps=1)
    assert torch.equal(stacked.losses, listed.losses)
    assert not torch.equal(stacked.losses, alone.losses)
