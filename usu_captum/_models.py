"""The modules behind a forward function, and the mode they are scored in."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from usu_core._devices import device_of as device_of_modules
from usu_core._modes import evaluation_mode


def modules_of(forward_func: Any) -> list[nn.Module]:
    """Return the modules a forward function is known to run, outermost first.

    Looks through wrappers that keep what they wrap: ``DataParallel``, ``torch.compile``, bound
    methods and ``functools.partial``. A plain function hides its model; then the list is empty.

    Example:
        >>> relu = nn.ReLU()
        >>> modules_of(relu.forward) == [relu]
        True
        >>> modules_of(lambda images: relu(images))
        []
    """
    if isinstance(forward_func, nn.Module):
        return list(forward_func.modules())
    owner = getattr(forward_func, "__self__", None)
    if isinstance(owner, nn.Module):
        return list(owner.modules())
    if isinstance(forward_func, partial):
        return modules_of(forward_func.func)
    compiled = getattr(forward_func, "_torchdynamo_orig_callable", None)
    return [] if compiled is None else modules_of(compiled)


def bare_module(module: nn.Module) -> nn.Module:
    """Return the module behind ``torch.compile`` and ``DataParallel``; any other as it is.

    The layers of the former run no hooks, and of the latter there are copies.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> bare_module(nn.DataParallel(layer)) is layer
        True
    """
    inner: nn.Module = getattr(module, "_orig_mod", module)
    if isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = inner.module
    return inner


def device_of(forward_func: Any) -> torch.device:
    """Return where the weights are that a forward function is known to run with, or the CPU.

    Example:
        >>> device_of(nn.Linear(2, 1)).type, device_of(lambda images: images).type
        ('cpu', 'cpu')
    """
    return device_of_modules(modules_of(forward_func))


def in_its_dtype(forward_func: Any, images: Tensor) -> Tensor:
    """Return images in the dtype of the weights that a forward function is known to run with.

    Example:
        >>> in_its_dtype(nn.Conv2d(1, 1, 1).half(), torch.zeros(1, 1, 2, 2)).dtype
        torch.float16
    """
    weights = (p for module in modules_of(forward_func)[:1] for p in module.parameters())
    dtype = next((p.dtype for p in weights if p.is_floating_point()), images.dtype)
    return images.to(dtype)


def input_channels(model: nn.Module) -> int | None:
    """Return the channels that a model's first convolution takes, ``None`` if it has none.

    Example:
        >>> input_channels(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 4, 3)))
        1
    """
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    return next((first.in_channels for first in convolutions), None)


def owners(model: Any, layer: nn.Module | None) -> list[nn.Module]:
    """Return the modules of a model that contain a layer, all of them if none is given."""
    modules = modules_of(model)
    if layer is None:
        return modules
    return [module for module in modules if any(part is layer for part in module.modules())]


def evaluating(forward_func: Any) -> AbstractContextManager[None]:
    """Put the modules into evaluation mode, and each back into its own on any exit.

    Scoring runs the model hundreds of times: in training mode that would move the statistics of
    batch normalisation, and dropout would drown the scores in noise.
    """
    return evaluation_mode(modules_of(forward_func))


@contextmanager
def keeping_gradient_flags(inputs: Any) -> Iterator[None]:
    """Put ``requires_grad`` of the inputs back on any exit; Captum forgets it when it fails."""
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    leaves = [value for value in several if isinstance(value, Tensor) and value.is_leaf]
    flags = [value.requires_grad for value in leaves]
    try:
        yield
    finally:
        for value, flag in zip(leaves, flags, strict=True):
            if value.requires_grad is not flag:
                value.requires_grad_(flag)
