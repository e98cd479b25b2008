"""Build the classifier a person names, with its weights, its preprocessing and its class names.

``timm:NAME`` and ``torchvision:NAME`` come with pretrained weights, downloaded on first use, a
person's own function with those it gives its model, and each with the ones in a local safetensors
file instead. Pickled checkpoints are refused: local files have to be
safetensors, and downloads that exist in no other form are read by PyTorch's weights-only reader,
which builds tensors and runs no code.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import nn

from usu_captum._models import input_channels
from usu_cli._architectures import FORMS, Architecture, find_architecture
from usu_cli._classes import imagenet_names
from usu_cli._errors import UsageError, one_line
from usu_cli._preprocessing import Preprocessing
from usu_cli._table import counted

_PICKLES = (".pt", ".pth", ".ckpt", ".bin")


@dataclass(frozen=True)
class Classifier:
    """A model in evaluation mode, what its input looks like, and what its outputs are called."""

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    outputs: int
    classes: tuple[str, ...] | None


def load_classifier(
    spec: str,
    *,
    arch: str | None = None,
    weights: Path | None = None,
    size: int | None = None,
) -> Classifier:
    """Return the classifier named by ``--model``, ``--arch``, ``--weights`` and ``--size``.

    Args:
        spec: ``timm:NAME``, ``torchvision:NAME``, ``package.module:function``, or the path of a
            safetensors file.
        arch: The architecture of a safetensors file; only for that form.
        weights: Local weights for a named model; only for that form.
        size: Side of its input, if it is not to be the architecture's own.

    Raises:
        UsageError: if the names or files do not exist or do not fit each other, or the network
            takes no input of that size.
    """
    check_weights(Path(spec))
    if spec.endswith(".safetensors"):
        if weights is not None:
            raise UsageError(f"--weights is for a named model; {spec!r} already holds weights")
        weights = Path(spec).expanduser()
        if arch is None:
            if weights.is_file():
                raise UsageError(f"{spec!r} needs its architecture: --arch {FORMS}")
            raise UsageError(f"no such weights file: {spec!r}")
        architecture = find_architecture(arch)
    elif ":" not in spec:
        raise UsageError(f"unknown model {spec!r}; give {FORMS}, or FILE.safetensors")
    else:
        if arch is not None:
            raise UsageError(f"--arch is for a safetensors file; {spec!r} already names one")
        architecture = find_architecture(spec)

    model = _pretrained(architecture) if weights is None else _with_weights(architecture, weights)
    model = model.float().eval()
    preprocessing = architecture.preprocessing(model).changed(size=size)
    outputs = _count_outputs(model, preprocessing.size, architecture.name)
    name = architecture.name if weights is None else f"{architecture.name} ({weights.name})"
    return Classifier(name, model, preprocessing, outputs, imagenet_names(outputs))


def check_weights(path: Path) -> None:
    """Raise a UsageError that says how to convert a file, if its name is that of a pickle."""
    if path.suffix.lower() in _PICKLES:
        safe = str(path.with_suffix(".safetensors"))
        raise UsageError(
            f"{str(path)!r} is a pickle, which may run code; convert it: python -c "
            '"import torch, safetensors.torch as s; '
            f's.save_file(torch.load({str(path)!r}, weights_only=True), {safe!r})"'
        )


def _pretrained(architecture: Architecture) -> nn.Module:
    if not architecture.downloads:
        return architecture.pretrained()
    with fetching(architecture.name, "--weights"):
        return architecture.pretrained()


@contextmanager
def fetching(name: str, flag: str) -> Iterator[None]:
    """Say that weights are being fetched, and if they cannot be, which flag needs no network.

    Raises:
        UsageError: If they cannot.
    """
    # Without a network, the hub gives up after a minute: time to read what would do without.
    print(f"fetching the weights of {name}; {flag} FILE.safetensors needs none", file=sys.stderr)
    # One line in the end says what a dozen retry warnings would.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        yield
    # OSError is also the base of urllib's, requests' and the hub's own errors; the others tell of a
    # damaged file, and of one that holds more than tensors.
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise UsageError(
            f"could not get the weights of {name} ({one_line(error)}); "
            f"without a network, give {flag} FILE.safetensors"
        ) from error


def _with_weights(architecture: Architecture, path: Path) -> nn.Module:
    state = architecture.adapted(_read_safetensors(path))
    model = architecture.build(None)
    # The head's bias comes last, and its length is the number of classes the file was trained for.
    *_, (head, bias) = ("", torch.empty(0)), *model.named_parameters()
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

    check_weights(path)
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


def _count_outputs(model: nn.Module, size: int, name: str) -> int:
    try:
        with torch.no_grad():
            output = model(torch.zeros(1, 3, size, size))
    # timm asserts; a flattening head, or a kernel larger than its input, fails inside torch.
    except (AssertionError, RuntimeError) as error:
        channels = input_channels(model)
        if channels not in (None, 3):
            raise UsageError(
                f"{name} takes images of {counted(channels, 'channel')}, and is given RGB: three"
                + (
                    "; wrap it: nn.Sequential(torchvision.transforms.Grayscale(), model)"
                    if channels == 1
                    else ""
                )
            ) from error
        raise UsageError(f"{name} takes no input of --size {size}: {one_line(error)}") from error
    # Whatever a person's own model raises is theirs to read, in the one line there is.
    except Exception as error:
        raise UsageError(
            f"{name} failed on an image with {type(error).__name__}: {one_line(error)}"
        ) from error
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        raise UsageError(
            f"{name} is not a classifier: its output is not one row of logits per image"
        )
    return output.shape[1]
