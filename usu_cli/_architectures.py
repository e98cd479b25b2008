"""Architectures by name: of timm, of torchvision, or a person's own function."""

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from usu_cli._errors import UsageError, one_line, unknown
from usu_cli._preprocessing import Preprocessing, for_timm, for_torchvision

FORMS = "timm:NAME, torchvision:NAME or package.module:function"

State = Mapping[str, Tensor]
# Heads for training alone: some files hold them, some do not, and no output comes from them.
_TRAINING_HEAD = re.compile(r"(aux[12]|AuxLogits)\.")
# A dot that torchvision's own DenseNet files have, and its modules no longer.
_OLD_DENSE_LAYER = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True)
class Architecture:
    """How to build a network.

    Args:
        name: As a person gave it.
        build: Makes it to be filled from a file, with any number of classes; ``None`` for its own.
        pretrained: Makes it with the weights it comes with.
        preprocessing: What its input looks like.
        downloads: Whether ``pretrained`` may need a network.
        adapted: Brings a file's weights to the names that ``build`` gives them.
    """

    name: str
    build: Callable[[int | None], nn.Module]
    pretrained: Callable[[], nn.Module]
    preprocessing: Callable[[nn.Module], Preprocessing]
    downloads: bool = True
    adapted: Callable[[State], State] = dict


def find_architecture(spec: str) -> Architecture:
    """Return the architecture of ``timm:NAME``, ``torchvision:NAME`` or ``module:function``.

    The last is a person's own code, which is imported, also from the working folder, and called
    without arguments.

    Raises:
        UsageError: If there is none.
    """
    library, colon, name = spec.partition(":")
    if library == "timm":
        return _timm(name)
    if library == "torchvision":
        return _torchvision(name)
    if library and colon and name:
        return _own(spec)
    raise UsageError(f"unknown architecture {spec!r}; give {FORMS}")


def _timm(name: str) -> Architecture:
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

    return Architecture(f"timm:{name}", build, pretrained, for_timm)


def _torchvision(name: str) -> Architecture:
    from torchvision import models

    if name not in (names := models.list_models(module=models)):
        raise unknown("torchvision model", name, names)
    best = models.get_model_weights(name).DEFAULT

    def build(outputs: int | None) -> nn.Module:
        # What torchvision itself passes to these when it fills them.
        arguments: dict[str, Any] = {} if outputs is None else {"num_classes": outputs}
        if name in ("googlenet", "inception_v3"):
            arguments |= {"transform_input": True, "aux_logits": False, "init_weights": False}
        if name.startswith("vit_"):
            arguments["image_size"] = best.meta["min_size"][0]
        model: nn.Module = models.get_model(name, weights=None, **arguments)
        return model

    def pretrained() -> nn.Module:
        with _tensors_only():
            model: nn.Module = models.get_model(name, weights=best)
        return model

    return Architecture(
        f"torchvision:{name}",
        build,
        pretrained,
        lambda _: for_torchvision(best),
        adapted=_torchvision_names,
    )


def _torchvision_names(state: State) -> State:
    return {
        _OLD_DENSE_LAYER.sub(r"\1\2", key): value
        for key, value in state.items()
        if not _TRAINING_HEAD.match(key)
    }


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Keep torchvision, which asks for it, from running what a downloaded pickle says."""
    before = os.environ.get(_FORCE)
    os.environ[_FORCE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


def _own(spec: str) -> Architecture:
    function = _imported(spec)

    def build(_: int | None = None) -> nn.Module:
        try:
            with _working_folder():  # it may import what lies beside it
                model = function()
        # Whatever a person's own code raises is theirs to read, in the one line there is.
        except Exception as error:
            raise UsageError(
                f"{spec} failed with {type(error).__name__}: {one_line(error)}"
            ) from error
        if not isinstance(model, nn.Module):
            raise UsageError(f"{spec} must return a torch.nn.Module, got {type(model).__name__}")
        return model

    def look(model: nn.Module) -> Preprocessing:
        return for_timm(model) if hasattr(model, "pretrained_cfg") else Preprocessing()

    return Architecture(spec, build, build, look, downloads=False)


def _imported(spec: str) -> Callable[[], Any]:
    module_name, _, name = spec.partition(":")
    if module_name.endswith(".py"):
        dotted = ".".join(Path(module_name).with_suffix("").parts)
        raise UsageError(f"{spec!r} names a file, not a module; did you mean {dotted}:{name}?")
    try:
        with _working_folder():
            module = importlib.import_module(module_name)
    except Exception as error:  # as above
        raise UsageError(
            f"cannot import {module_name!r} of {spec!r}: {one_line(error)}; a model is {FORMS}"
        ) from error
    function: Any = getattr(module, name, None)
    if not callable(function):
        names = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        raise unknown(f"function in {module_name}:", name, names)
    made: Callable[[], Any] = function
    return made


@contextmanager
def _working_folder() -> Iterator[None]:
    """Import from the working folder too, where an installed command does not look."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:  # a person's own code may have taken it out
            sys.path.remove(here)
