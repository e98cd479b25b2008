"""Captum's own table of configurations, with our classes plugged in and under the patch.

Captum's wheels hold the table but not the tests that read it; these are theirs in spirit: results
equal Captum's, a batch equals its examples, and hooks are gone after success and after failure.
"""

import copy
from typing import Any

import pytest
import torch
from captum.attr import LayerAttribution, NoiseTunnel
from torch import Tensor, nn

from usu_captum import patched
from usu_captum._methods import WITH_UPSAMPLER

config = pytest.importorskip("captum.testing.attr.helpers.test_config").config  # Captum 0.9

ENTRIES = [
    pytest.param(entry, algorithm, id=f"{entry['name']}-{algorithm.__name__}")
    for entry in config
    for algorithm in entry["algorithms"]
]
OURS = [p for p in ENTRIES if p.values[1].__name__ in WITH_UPSAMPLER]
# These draw new samples for each example of a batch, or permute among its examples.
SAMPLING = ("Lime", "KernelShap", "ShapleyValueSampling", "FeaturePermutation")


def build(algorithm: Any, entry: dict[str, Any], model: nn.Module) -> Any:
    names = entry.get("layer")
    if names is None:
        method = algorithm(model)
    elif isinstance(names, list):
        method = algorithm(model, [model.get_submodule(name) for name in names])
    else:
        method = algorithm(model, model.get_submodule(names))
    return NoiseTunnel(method) if entry.get("noise_tunnel") else method


def run(algorithm: Any, entry: dict[str, Any], seed: Any, **changes: Any) -> Any:
    method = build(algorithm, entry, copy.deepcopy(entry["model"]))
    seed(1234)
    return method.attribute(**{**entry["attribute_args"], **changes})


def test_the_table_is_the_one_this_was_written_for() -> None:
    assert len(config) >= 77
    assert len(OURS) > 90


@pytest.mark.parametrize(("entry", "algorithm"), OURS)
def test_our_class_equals_captums(entry: Any, algorithm: Any, same: Any, seed: Any) -> None:
    theirs = run(algorithm, entry, seed)
    ours = run(WITH_UPSAMPLER[algorithm.__name__], entry, seed)
    assert same(theirs, ours)


@pytest.mark.parametrize(("entry", "algorithm"), ENTRIES)
def test_captum_under_the_patch_is_captum(entry: Any, algorithm: Any, same: Any, seed: Any) -> None:
    theirs = run(algorithm, entry, seed)
    with patched():
        assert same(theirs, run(algorithm, entry, seed))
    # None of the tables' layers is a map of the image in rank and batch but the convolutions'.
    if isinstance(theirs, Tensor) and theirs.dim() == 2:
        with patched("nearest"):
            assert same(theirs, run(algorithm, entry, seed))


@pytest.mark.parametrize(
    ("entry", "algorithm"),
    [
        p
        for p in OURS
        if isinstance(p.values[0]["attribute_args"].get("target"), list | Tensor)
        and p.values[1].__name__ not in SAMPLING
    ],
)
@pytest.mark.parametrize("under_patch", [False, True])
def test_a_batch_equals_its_examples(
    entry: Any, algorithm: Any, under_patch: bool, seed: Any
) -> None:
    cls = algorithm if under_patch else WITH_UPSAMPLER[algorithm.__name__]
    arguments = entry["attribute_args"]
    count = len(first(arguments["inputs"]))
    keep = {"baselines"} if entry.get("baseline_distr") else set()

    def examples(i: int) -> dict[str, Any]:
        names = ("inputs", "baselines", "target", "additional_forward_args")
        present = [n for n in names if n in arguments and n not in keep]
        return {n: one(arguments[n], i, count, n == "target") for n in present}

    with patched() if under_patch else torch.enable_grad():
        whole = first(run(cls, entry, seed))
        for i in range(count):
            alone = first(run(cls, entry, seed, **examples(i)))
            error = (whole[i : i + 1] - alone).abs().max()
            assert error <= entry.get("target_delta", 1e-4)


def can_fail(entry: dict[str, Any], failure: str | None) -> bool:
    """Whether there is a target to get wrong, or a layer to break."""
    if failure == "target":
        return "target" in entry["attribute_args"]
    return failure is None or isinstance(entry.get("layer"), str)


@pytest.mark.parametrize(
    ("entry", "algorithm", "failure"),
    [
        pytest.param(*p.values, failure, id=f"{p.id}-{failure}")
        for failure in (None, "target", "layer")
        for p in OURS
        if can_fail(p.values[0], failure)
    ],
)
def test_hooks_are_gone(entry: Any, algorithm: Any, failure: str | None, hooks: Any) -> None:
    names = entry.get("layer")
    arguments = dict(entry["attribute_args"])
    if issubclass(algorithm, LayerAttribution):
        arguments["upsampler"] = "nearest" if failure else None
    model = copy.deepcopy(entry["model"])
    method = build(WITH_UPSAMPLER[algorithm.__name__], entry, model)
    if failure is None:
        method.attribute(**arguments)
    elif failure == "target":
        target = [10_000] * len(first(arguments["inputs"]))
        with pytest.raises((AssertionError, IndexError, RuntimeError)):
            method.attribute(**{**arguments, "target": target})
    else:
        layer = model.get_submodule(str(names))
        layer.forward = fail
        with pytest.raises(RuntimeError, match="on purpose"):
            method.attribute(**arguments)
    assert hooks(model) == 0


def fail(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("on purpose")


def first(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else first(value[0])


def one(value: Any, i: int, count: int, is_target: bool) -> Any:
    """The i-th example of an argument, of each tensor in a tuple of them."""
    if is_target:
        return value[i] if len(value) == count else value
    if isinstance(value, tuple):
        return tuple(one(part, i, count, False) for part in value)
    return value[i : i + 1] if isinstance(value, Tensor) and len(value) == count else value
