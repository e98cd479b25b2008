"""One call of the library, with clear errors and nothing left behind."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from usu_gradcam._arrays import Array
from usu_gradcam._guard import untouched
from usu_gradcam._model import detached, widen
from usu_gradcam._recording import noting
from usu_gradcam._targets import explain_failure


def guarded(
    cams: Sequence[Any],
    run: Callable[[Tensor], Array],
    images: Tensor,
    targets: Sequence[Any] | None,
) -> Array:
    """Run what explains images by CAMs of one model.

    Args:
        cams: The CAMs whose layers are recorded.
        run: From images, on the model's device and without their graph, to maps.
        images: (B, C, *pixels).
        targets: One per image, or ``None``.

    Raises:
        TypeError: If the model's output is no tensor or list.
        ValueError: If targets do not fit the output.
    """
    model = cams[0].model
    first: list[Any] = []

    def widened(module: Any, given: Any, output: Any) -> Any:
        if not first:
            first.append(detached(output))
        return widen(output)  # The library finds the highest class in numpy, which has no bfloat16.

    # What the images were made by is the caller's, and so are its gradients.
    own = images.detach().to(cams[0].device).requires_grad_(images.requires_grad)
    recording = [cam for cam in cams if hasattr(cam, "activations_and_grads")]
    layers = [layer for cam in recording for layer in cam.target_layers]
    with untouched(model, layers), ExitStack() as stack:
        stack.callback(model.register_forward_hook(widened).remove)
        for cam in recording:
            stack.callback(drop_graph, cam)
            stack.enter_context(noting(cam))
        try:
            return run(own)
        except (LookupError, AttributeError, TypeError, RuntimeError) as error:
            clearer = explain_failure(error, targets, first[0] if first else None, len(images))
            if clearer is None:
                raise
            raise clearer from error


def drop_graph(cam: Any) -> None:
    """Detach what a CAM holds: the library keeps every activation until the next call."""
    recorded = cam.activations_and_grads
    recorded.activations = [detached(one) for one in recorded.activations]
    recorded.gradients = [detached(one) for one in recorded.gradients]
    cam.outputs = detached(getattr(cam, "outputs", None))
