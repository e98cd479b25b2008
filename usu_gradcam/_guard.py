"""Leave no trace in the user's model."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from pytorch_grad_cam.base_cam import BaseCAM
from torch import nn

from usu_core._modes import evaluation_mode


def release(recorder: ActivationsAndGradients) -> None:
    """Remove a CAM's hooks from the model.

    The library detaches what it recorded first, which fails on views and leaves the hooks behind.
    """
    recorder.activations, recorder.gradients = [], []
    recorder.release()


def evaluating(model: nn.Module) -> AbstractContextManager[None]:
    """Put a model into evaluation mode, and give every module its own mode back."""
    return evaluation_mode(model.modules())


@contextmanager
def untouched(model: nn.Module, layers: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Evaluate a model, and restore modes, gradients, layers and their hooks on any exit.

    The library clears and fills the gradients of all parameters. AblationCAM puts its own layer in
    the place of the target and, after an error, would leave it there together with a hook.
    """
    layers = list(layers)
    gradients = [(value, value.grad) for value in model.parameters()]
    wanted = {id(layer) for layer in layers}
    parents = [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent._modules.items()
        if id(layer) in wanted
    ]
    hooks = [(layer._forward_hooks, set(layer._forward_hooks)) for layer in layers]
    try:
        with evaluating(model):
            yield
    finally:
        for parent, name, layer in parents:
            parent._modules[name] = layer
        for now, before in hooks:
            for key in [k for k, hook in now.items() if k not in before and _ablates(hook)]:
                del now[key]
        for value, gradient in gradients:
            if value.grad is not gradient:
                value.grad = gradient


@contextmanager
def muted(model: nn.Module) -> Iterator[None]:
    """Silence every CAM on a model.

    Their hooks copy the activations of each forward pass to the CPU and keep them, which scoring
    with hundreds of masked images must not pay for. Other hooks stay, all come back in their order.
    """
    saved: list[tuple[dict[int, Any], dict[int, Any], set[int]]] = []
    try:
        for module in model.modules():
            hooks = module._forward_hooks
            ours = {key for key, hook in hooks.items() if _records(hook)}
            if ours:
                saved.append((hooks, hooks.copy(), ours))
                for key in ours:
                    del hooks[key]
        yield
    finally:
        for hooks, before, ours in saved:
            now = hooks.copy()  # Others may have come and gone meanwhile.
            hooks.clear()
            hooks.update({key: hook for key, hook in before.items() if key in ours | set(now)})
            hooks.update(now)


def _records(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), ActivationsAndGradients)


def _ablates(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), BaseCAM)
