"""Whether a network can start from a class activation map, and whether it should."""

from typing import Any

import torch
from torch import Tensor, nn

from usu_captum._models import evaluating, in_its_dtype
from usu_captum.ranking._classifier_features import ClassifierEncoder
from usu_captum.ranking._conditioning import HeadConditioning, last_layer
from usu_captum.ranking._network_config import NetworkConfig


def choose_prior(
    config: NetworkConfig, encoder: nn.Module, conditioning: nn.Module, images: Tensor, last: Tensor
) -> str:
    """Return ``"cam"`` or ``"flat"``: what is asked for, or what suits the network.

    Args:
        config: What is asked for.
        encoder: Gives the stages.
        conditioning: Holds the head's rows, if they are read.
        images: A probe (1, C, H, W), not constant.
        last: The encoder's last stage of it (1, c, h, w).

    Raises:
        ValueError: If ``"cam"`` is asked for where the head's rows cannot weigh the last stage.
    """
    if config.gradients:
        return "cam" if config.prior == "auto" else config.prior
    defined = (
        isinstance(encoder, ClassifierEncoder)
        and isinstance(conditioning, HeadConditioning)
        and conditioning.rows.shape[1] == last.shape[1]
        and min(last.shape[2:]) > 1
    )
    if config.prior == "cam" and not defined:
        raise ValueError(
            'prior must not be "cam" unless the last stage is the classifier\'s own and what its '
            f"head's rows weigh, got {last.shape[1]} channels of encoder={config.encoder!r}. Try "
            'prior="auto".'
        )
    if config.prior != "auto":
        return config.prior
    if not defined or not isinstance(encoder, ClassifierEncoder):
        return "flat"
    return "cam" if head_reads(encoder.classifier, config.classes, images, last) else "flat"


def head_reads(classifier: nn.Module, classes: int, images: Tensor, stage: Tensor) -> bool:
    """Whether the last layer of a classifier is given the mean over pixels of a stage.

    Then its rows weigh the stage's channels. With a layer or a normalisation between, or a class
    token, they weigh something else, whatever the number of channels.

    Args:
        classifier: A module.
        classes: Number of its outputs.
        images: (B, C, H, W).
        stage: What one of its layers gives for them (B, c, h, w).

    Cost:
        One forward pass of the classifier.

    Example:
        >>> net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> images = torch.rand(1, 4, 3, 3)
        >>> head_reads(net, 2, images, images), head_reads(net, 2, images, images.square())
        (True, False)
    """
    given: list[Tensor] = []

    def keep(layer: nn.Module, args: tuple[Any, ...]) -> None:
        given.append(args[0])

    layer = last_layer(classifier, classes)
    if layer is None:
        return False
    handle = layer.register_forward_pre_hook(keep)
    try:
        with evaluating(classifier), torch.no_grad():
            classifier(in_its_dtype(classifier, images))
    finally:
        handle.remove()
    if not given or given[-1].dim() not in (2, 4):
        return False
    read = given[-1].float()
    read = read.mean((2, 3)) if read.dim() == 4 else read  # A convolution averages later.
    means = stage.float().mean((2, 3))
    if read.shape != means.shape:
        return False
    # Half precision rounds the mean; anything else in between is far further away.
    return bool((read - means).abs().max() <= 0.01 * means.abs().max())
