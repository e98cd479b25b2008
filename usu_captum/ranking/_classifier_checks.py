"""What a classifier must be before a network is built or trained for it."""

from typing import Any

import torch
from torch import Tensor

from usu_captum._models import device_of, evaluating, in_its_dtype
from usu_captum.ranking._network_config import NetworkConfig


def check_classifier(classifier: Any, config: NetworkConfig) -> None:
    """Run a classifier on zeros and compare its output with a configuration.

    Raises:
        ValueError: If it takes no such images, or has another number of classes.
    """
    zeros = torch.zeros(1, *config.input_shape, device=device_of(classifier))
    try:
        with evaluating(classifier), torch.no_grad():
            output = classifier(in_its_dtype(classifier, zeros))
    # timm asserts; others fail inside torch.
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f"classifier must take images of shape {config.input_shape}, which the network is "
            f"for: {' '.join(str(error).split())}"
        ) from error
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if shape != (1, config.classes):
        raise ValueError(
            f"classifier must give one row of {config.classes} logits per image, which the "
            f"network is for, got {shape} for one image."
        )


def check_differentiable(classifier: Any, images: Tensor) -> None:
    """Run a classifier once and see that gradients reach the images.

    Raises:
        ValueError: If not.
    """
    with torch.enable_grad():
        inputs = images[:1].detach().clone().requires_grad_()
        outputs = classifier(inputs)
        found = None
        if isinstance(outputs, Tensor) and outputs.requires_grad:
            (found,) = torch.autograd.grad(outputs.sum(), inputs, allow_unused=True)
    if found is None:
        raise ValueError(
            "classifier must be differentiable in the images, got outputs without a gradient. Try "
            "without torch.no_grad() and .detach() in it, and no round trip through numpy."
        )
