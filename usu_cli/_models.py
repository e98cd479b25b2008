"""Build the classifier a person names, with its weights, its preprocessing and its class names.

``timm:NAME`` and ``torchvision:NAME`` come with pretrained weights, downloaded on first use, or
with the ones in a local safetensors file. Pickled checkpoints are refused: local files have to be
safetensors, and downloads that exist in no other form are read by PyTorch's weights-only reader,
which builds tensors and runs no code.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from usu_cli._classes import imagenet_names
from usu_cli._errors import UsageError, one_line, unknown
from usu_cli._preprocessing import Preprocessing, for_timm, for_torchvision

Build = Callable[[int | None], nn.Module]


@dataclass(frozen=True)
class Classifier:
    """A model in evaluation mode, what its input looks like, and what its outputs are called."""

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    outputs: int
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class _Architecture:
    """A named architecture: how to build it untrained, with any number of classes, or trained."""

    name: str
    build: Build
    pretrained: Callable[[], nn.Module]
    preprocessing: Callable[[nn.Module], Preprocessing]


def load_classifier(
    spec: str, *, arch: str | None = None, weights: Path | None = None
) -> Classifier:
    """Return the classifier named by ``--model``, ``--arch`` and ``--weights``.

    Args:
        spec: ``timm:NAME``, ``torchvision:NAME``, or the path of a safetensors file.
        arch: The architecture of a safetensors file; only for that form.
        weights: Local weights for a named model; only for that form.

    Raises:
        UsageError: if the names or files do not exist or do not fit each other.
    """
    if spec.startswith(("timm:", "torchvision:")):
        if arch is not None:
            raise UsageError(f"--arch is for a safetensors file; {spec!r} already names one")
        architecture = _architecture(spec)
    else:
        if not spec.endswith(".safetensors"):
            raise UsageError(
                f"unknown model {spec!r}; give timm:NAME, torchvision:NAME or FILE.safetensors"
            )
        if weights is not None:
            raise UsageError(f"--weights is for a named model; {spec!r} already holds weights")
        weights = Path(spec)
        if arch is None:
            if weights.is_file():
                raise UsageError(
                    f"{spec!r} needs its architecture: --arch timm:NAME or torchvision:NAME"
                )
            raise UsageError(f"no such weights file: {spec!r}")
        architecture = _architecture(arch)

    model = _downloaded(architecture) if weights is None else _with_weights(architecture, weights)
    model = model.float().eval()
    preprocessing = architecture.preprocessing(model)
    outputs = _count_outputs(model, preprocessing, architecture.name)
    name = architecture.name if weights is None else f"{architecture.name} ({weights.name})"
    return Classifier(name, model, preprocessing, outputs, imagenet_names(outputs))


def check_size(classifier: Classifier, size: int) -> None:
    """Run the model once on an input of another ``size`` than its own.

    Raises:
        UsageError: if it takes no such input.
    """
    try:
        with torch.inference_mode():
            classifier.model(torch.zeros(1, 3, size, size))
    # timm asserts; a flattening head, or a kernel larger than its input, fails inside torch.
    except (AssertionError, RuntimeError) as error:
        raise UsageError(
            f"{classifier.name} takes no input of --size {size}: {one_line(error)}"
        ) from error


def _architecture(spec: str) -> _Architecture:
    library, _, name = spec.partition(":")
    if library == "timm":
        return _timm(name)
    if library == "torchvision":
        return _torchvision(name)
    raise UsageError(f"unknown architecture {spec!r}; give timm:NAME or torchvision:NAME")


def _timm(name: str) -> _Architecture:
    import timm

    # A pretrained tag may follow the architecture: resnet18.a1_in1k.
    if name.partition(".")[0] not in (names := timm.list_models()):
        raise unknown("timm model", name, names)
    if "." in name and name not in (tagged := timm.list_pretrained(f"{name.partition('.')[0]}.*")):
        raise unknown("timm model", name, tagged)

    def pretrained() -> nn.Module:
        if not timm.is_model_pretrained(name):
            raise UsageError(
                f"timm:{name} has no pretrained weights; give --weights FILE.safetensors"
            )
        model: nn.Module = timm.create_model(name, pretrained=True)
        return model

    def build(outputs: int | None) -> nn.Module:
        # timm reads None as "the architecture's own".
        model: nn.Module = timm.create_model(name, pretrained=False, num_classes=outputs)
        return model

    return _Architecture(f"timm:{name}", build, pretrained, for_timm)


def _torchvision(name: str) -> _Architecture:
    from torchvision import models

    if name not in (names := models.list_models(module=models)):
        raise unknown("torchvision model", name, names)
    best = models.get_model_weights(name).DEFAULT

    def build(outputs: int | None) -> nn.Module:
        arguments: dict[str, Any] = {} if outputs is None else {"num_classes": outputs}
        if name in ("googlenet", "inception_v3"):
            arguments["init_weights"] = True  # the present default, which otherwise warns
        model: nn.Module = models.get_model(name, weights=None, **arguments)
        return model

    def pretrained() -> nn.Module:
        # Built empty and filled here, because get_model would unpickle without the restriction.
        state = best.get_state_dict(progress=True, check_hash=True, weights_only=True)
        model = build(None)
        model.load_state_dict(state)
        return model

    return _Architecture(f"torchvision:{name}", build, pretrained, lambda _: for_torchvision(best))


def _downloaded(architecture: _Architecture) -> nn.Module:
    print(f"fetching the weights of {architecture.name}", file=sys.stderr)
    # One line in the end says what a dozen retry warnings would.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return architecture.pretrained()
    except OSError as error:  # also the base of urllib's, requests' and the hub's own errors
        raise UsageError(
            f"could not download the weights of {architecture.name} ({one_line(error)}); "
            "without a network, give --weights FILE.safetensors"
        ) from error


def _with_weights(architecture: _Architecture, path: Path) -> nn.Module:
    state = _read_safetensors(path)
    model = architecture.build(None)
    # The head's bias comes last, and its length is the number of classes the file was trained for.
    head, bias = list(model.named_parameters())[-1]
    if head in state and state[head].ndim == 1 and len(state[head]) != len(bias):
        model = architecture.build(len(state[head]))
    own = model.state_dict()
    # Batch counters matter in training only, and many exporters drop them.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    reshaped = [
        f"{k} is {_sizes(state[k])} for {_sizes(own[k])}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    complaints = [
        f"{len(keys)} {what} (first: {keys[0]})"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
        )
        if keys
    ]
    if complaints:
        raise UsageError(
            f"weights {str(path)!r} do not fit {architecture.name}: {', '.join(complaints)}"
        )
    model.load_state_dict(state, strict=False)
    return model


def _read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UsageError(f"no such weights file: {str(path)!r}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(
            f"{str(path)!r} is not a readable safetensors file: {one_line(error)}"
        ) from error


def _sizes(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _count_outputs(model: nn.Module, preprocessing: Preprocessing, name: str) -> int:
    with torch.inference_mode():
        output = model(torch.zeros(1, 3, preprocessing.size, preprocessing.size))
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        raise UsageError(
            f"{name} is not a classifier: its output is not one row of logits per image"
        )
    return output.shape[1]
