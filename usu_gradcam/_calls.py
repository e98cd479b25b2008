"""One call of the library, with clear errors and nothing left behind."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from usu_gradcam._arrays import Array
from usu_gradcam._guard import untouched
from usu_gradcam._model import detached
from usu_gradcam._targets import explain_failure


def guarded(
    cam: Any,
    library: Callable[..., Array],
    images: Tensor,
    targets: list[Any] | None,
    eigen_smooth: bool,
) -> Array:
    """Run the library's ``forward`` of one CAM.

    Raises:
        TypeError: If the model's output is no tensor or list.
        ValueError: If targets do not fit the output.
    """
    cam.outputs = None
    with untouched(cam.model, cam.target_layers, images):
        try:
            return library(images, targets, eigen_smooth)
        except (IndexError, AttributeError, TypeError, RuntimeError) as error:
            clearer = explain_failure(error, targets, cam.outputs, len(images))
            if clearer is None:
                raise
            raise clearer from error
        finally:
            cam.outputs = detached(cam.outputs)
            drop_graph(cam)


def drop_graph(cam: Any) -> None:
    """Detach what a CAM recorded: the library keeps every activation until the next call."""
    recorded = cam.activations_and_grads
    recorded.activations = [detached(one) for one in recorded.activations]
    recorded.gradients = [detached(one) for one in recorded.gradients]
