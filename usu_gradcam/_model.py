"""The model as a CAM runs it."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from usu_gradcam._guard import evaluating

_HALVES = (torch.float16, torch.bfloat16)


class ScoredModel(nn.Module):
    """A model whose output is a score function, or whose half precision stays inside.

    The library turns outputs into numpy arrays, which have no bfloat16, and multiplies images with
    float32 masks. Layers, parameters and hooks are the wrapped model's.

    Args:
        model: The user's model.
        score_fn: From images (N, C, *pixels) to (N,), instead of the model's own output.
    """

    def __init__(
        self, model: nn.Module, score_fn: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.wrapped = model
        self._score_fn = score_fn
        self.training = model.training

    def forward(self, images: Tensor) -> Any:
        """Run the score function or the model on images of any floating-point type."""
        half = _half(self.wrapped)
        images = images if half is None else images.to(half)
        if self._score_fn is None:
            return widen(self.wrapped(images))
        scores = self._score_fn(images)
        if not isinstance(scores, Tensor) or scores.numel() != len(images):
            got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(
                f"score_fn must return one number per image, got {got} for {len(images)} images."
            )
        return widen(scores.reshape(len(images)))


class Evaluated:
    """Calls a model in evaluation mode, without a reference that would keep a CAM alive."""

    def __init__(self, model: nn.Module, fused_attention: bool = True) -> None:
        self._model = model
        self._fused_attention = fused_attention

    def __call__(self, images: Tensor) -> Any:
        attention = nullcontext() if self._fused_attention else sdpa_kernel(SDPBackend.MATH)
        with evaluating(self._model), attention:
            return self._model(images)


def adapt(model: Any, score_fn: Callable[[Tensor], Tensor] | None) -> nn.Module:
    """Return the model a CAM should hold: the user's own unless it needs a wrapper.

    Raises:
        TypeError: If the model is not a module, or the score function not callable.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if score_fn is not None and not callable(score_fn):
        raise TypeError(
            f"score_fn must be a function from images to (N,), got {type(score_fn).__name__}."
        )
    if score_fn is None and _half(model) is None:
        return model
    return ScoredModel(model, score_fn)


def detached(outputs: Any) -> Any:
    """Return outputs without the graph that would keep all activations alive."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, list | tuple) and type(outputs) in (list, tuple):
        return type(outputs)(detached(item) for item in outputs)
    if type(outputs) is dict:
        return {key: detached(item) for key, item in outputs.items()}
    return outputs


def _half(model: nn.Module) -> torch.dtype | None:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return dtype if dtype in _HALVES else None


def is_half(value: Any) -> bool:
    """Whether a value is a tensor in half precision."""
    return isinstance(value, Tensor) and value.dtype in _HALVES


def widen(outputs: Any) -> Any:
    """Return outputs in single precision if they are in half of it."""
    return outputs.float() if is_half(outputs) else outputs
