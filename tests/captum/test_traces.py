"""A call leaves the model, its gradients, the generators and Captum as they were."""

import copy
import gc
import threading
import tracemalloc
from typing import Any

import pytest
import torch
from captum import attr as captum_attr
from torch import nn

from usu_captum import LayerGradCam, Upsampled
from usu_captum._methods import WITH_UPSAMPLER
from usu_captum._models import evaluating


def snapshot(model: nn.Module, images: torch.Tensor) -> dict[str, Any]:
    return {
        "modules": [(name, id(module)) for name, module in model.named_modules()],
        "training": [module.training for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "images": (images.requires_grad, images.grad, images._version),
        "hooks": [
            len(hooks)
            for module in model.modules()
            for name, hooks in vars(module).items()
            if name.endswith("_hooks") and hooks is not None
        ],
    }


def assert_unchanged(before: dict[str, Any], after: dict[str, Any]) -> None:
    for key in ("modules", "training", "requires_grad", "images", "hooks"):
        assert before[key] == after[key], key
    for left, right in zip(before["grad"], after["grad"], strict=True):
        assert (left is None and right is None) or torch.equal(left, right)
    for name, value in before["state"].items():
        assert torch.equal(value, after["state"][name]), name


@pytest.mark.parametrize("name", WITH_UPSAMPLER)
@pytest.mark.parametrize("fast", [False, True])
def test_success_leaves_no_trace(name: str, fast: bool, case: Any, guided: Any, seed: Any) -> None:
    it = case(name)
    it.model.first.weight.requires_grad_(False)
    it.model.head.weight.grad = torch.ones_like(it.model.head.weight)
    it.images.requires_grad_(not it.is_layer)
    target = {"target": 1} if name == "LayerActivation" else {}
    seed(5)
    it.captum.attribute(it.images, **it.arguments)
    state = torch.get_rng_state()
    before = snapshot(it.model, it.images)
    seed(5)
    it.ours.attribute(it.images, **it.arguments, **target, upsampler="usu-fast" if fast else guided)
    assert torch.equal(torch.get_rng_state(), state)  # What Captum draws, and nothing else.
    assert_unchanged(before, snapshot(it.model, it.images))


def test_training_mode_is_kept_and_not_scored_in(net: Any, guided: Any) -> None:
    class Recording(nn.Dropout):
        modes: list[bool] = []  # noqa: RUF012

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.modes.append(self.training)
            return x

    net.relu = nn.Sequential(nn.ReLU(), Recording())
    net.train()
    net.norm.eval()
    before = [module.training for module in net.modules()]
    LayerGradCam(net, net.relu2).attribute(torch.rand(1, 3, 16, 12), target=1, upsampler=guided)
    assert [module.training for module in net.modules()] == before
    assert Recording.modes[0]
    assert not any(Recording.modes[1:])


class Broken:
    """An upsampler, model or target that stops the run."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error


@pytest.mark.parametrize("name", WITH_UPSAMPLER)
@pytest.mark.parametrize("where", ["model", "scorer", "upsampler", "target"])
@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt("stop")])
def test_failure_leaves_no_trace(
    name: str, where: str, error: BaseException, case: Any, guided: Any, monkeypatch: Any
) -> None:
    it = case(name)
    arguments = dict(it.arguments)
    if name == "LayerActivation":
        arguments["target"] = 1
    upsampler: Any = guided
    kind: Any = type(error)
    method = it.ours
    before = snapshot(it.model, it.images)
    if where == "upsampler":
        upsampler = Broken(error)
    elif where == "target":
        if "target" not in arguments or isinstance(error, KeyboardInterrupt):
            pytest.skip("nothing to get wrong")
        arguments["target"] = [10_000, 1]
        kind = (AssertionError, IndexError, RuntimeError, ValueError)
    elif where == "model":
        it.model.head.register_forward_hook(Broken(error))
        before = snapshot(it.model, it.images)
    else:
        monkeypatch.setattr("usu_core.MaskedPerturbation.__call__", Broken(error))
    training = it.model.norm.training
    with pytest.raises(kind):
        method.attribute(it.images, **arguments, upsampler=upsampler)
    assert_unchanged(before, snapshot(it.model, it.images))
    assert it.model.norm.training is training


def test_two_hundred_images_take_no_memory(net: Any, guided: Any, hooks: Any) -> None:
    grad_cam = LayerGradCam(net, net.relu2)

    def work(count: int) -> tuple[int, int]:
        for _ in range(count):
            image = torch.rand(1, 3, 16, 12)
            grad_cam.attribute(image, target=1, upsampler=guided).detach()
        gc.collect()
        tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
        return tensors, tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        work(10)
        before = work(1)
        after = work(200)
    finally:
        tracemalloc.stop()
    assert after[0] <= before[0]
    assert after[1] - before[1] < 100_000  # Bytes of Python objects, images being 2,304 each.
    assert hooks(net) == 0


def test_threads_with_a_model_each_agree_with_one(guided: Any, net: Any) -> None:
    images = torch.rand(4, 1, 3, 16, 12)
    models = [copy.deepcopy(net) for _ in images]
    alone = [
        LayerGradCam(net, net.relu2).attribute(image, target=1, upsampler=guided)
        for image in images
    ]
    results: dict[int, Any] = {}

    def work(i: int) -> None:
        model = models[i]
        results[i] = LayerGradCam(model, model.relu2).attribute(
            images[i], target=1, upsampler=guided
        )

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, fine in enumerate(alone):
        torch.testing.assert_close(results[i], fine)


def test_hooks_are_gone_while_scoring(net: Any, hooks: Any, guided: Any) -> None:
    counts: list[int] = []
    forward = net.forward

    def counting(images: torch.Tensor) -> torch.Tensor:
        counts.append(hooks(net))
        result: torch.Tensor = forward(images)
        return result

    net.forward = counting
    Upsampled(captum_attr.LayerGradCam(net, net.relu2), guided).attribute(
        torch.rand(1, 3, 16, 12), target=1
    )
    assert max(counts[:1]) > 0
    assert not any(counts[1:])


def test_blocks_that_overlap_restore_the_mode_when_the_last_ends(net: Any) -> None:
    """As they do in two threads: the second would save the first one's evaluation mode."""
    net.train()
    net.norm.eval()
    first, second = evaluating(net), evaluating(net.forward)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(module.training for module in net.modules())
    second.__exit__(None, None, None)
    assert all(module.training is (module is not net.norm) for module in net.modules())


def test_finding_a_layer_leaves_no_hooks(net: Any, hooks: Any) -> None:
    from usu_captum import default_layer

    default_layer(net, torch.rand(1, 3, 16, 12))
    assert hooks(net) == 0
    with pytest.raises(RuntimeError):
        default_layer(net, torch.rand(1, 2, 16, 12))
    assert hooks(net) == 0


def test_masks_of_each_example_are_not_scored_in_training_mode(case: Any, mask: Any) -> None:
    it, modes = case("FeatureAblation"), []

    def plain(cells: Any, *, image: Any, score: Any, grid: Any) -> Any:
        modes.append(it.model.training)
        return grid.expand(cells)

    it.arguments["feature_mask"] = torch.cat([mask(2, 2, 16, 12), mask(4, 1, 16, 12)])
    it.model.train()
    it.ours.attribute(it.images, **it.arguments, upsampler=plain)
    assert modes == [False, False]
    assert it.model.training
