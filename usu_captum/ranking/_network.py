"""The network that ranks pixels: an encoder, a class, a decoder."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from usu_captum._models import bare_module, device_of, evaluating
from usu_captum.ranking._classifier_checks import check_classifier
from usu_captum.ranking._classifier_features import ClassifierEncoder, sum_to_map
from usu_captum.ranking._conditioning import EmbeddingConditioning, HeadConditioning, head_rows
from usu_captum.ranking._decoder import Decoder, resized
from usu_captum.ranking._masks import pool_to_grid
from usu_captum.ranking._network_config import CLASSIFIER, NetworkConfig
from usu_captum.ranking._prior import choose_prior
from usu_captum.ranking._stages import default_stages
from usu_captum.ranking._timm_encoder import TimmEncoder


class Encoded(NamedTuple):
    """What an encoder gives for some images and targets.

    Attributes:
        stages: Maps (B, C, h, w), finest first.
        start: An activation map of the targets (B, 1, h, w), or ``None``.
    """

    stages: list[Tensor]
    start: Tensor | None


class RankingNetwork(nn.Module):
    """Images and classes to one score per pixel; higher is more important.

    Scores are an order, neither mass nor density: sums and means of them say nothing.

    Args:
        config: Its sizes.
        encoder: Images (B, C, H, W) to a list of maps, finest first; where the configuration asks
            for gradients, images and targets to such a list and an activation map.
        conditioning: Targets (B,) to (B, class_width).

    Shape:
        images (B, C, H, W), targets (B,) -> (B, 1, H, W)

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> network = build_network(NetworkConfig(2, (1, 8, 8)), net)
        >>> network(torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 0])).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(self, config: NetworkConfig, encoder: nn.Module, conditioning: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.conditioning = conditioning
        source = encoder.classifier if isinstance(encoder, ClassifierEncoder) else encoder
        probe = _probe(config, device_of(source))
        with evaluating(encoder), torch.no_grad():
            stages, _ = self._read(probe, probe.new_zeros(1, dtype=torch.int64))
        self.decoder = Decoder(
            [stage.shape[1] for stage in stages],
            class_width=config.class_width,
            middle=config.middle,
            width=config.width,
            head=config.head,
            readout=config.readout,
            norm=config.norm,
            dropout=config.dropout,
        )
        prior = choose_prior(config, encoder, conditioning, probe, stages[-1])
        self.config = dataclasses.replace(config, prior=prior)
        self.gain = nn.Parameter(torch.ones(())) if prior == "cam" else None
        self.to(probe.device)

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        """Rank the pixels of ``images`` for ``targets``."""
        return self.decode(self.encode(images, targets), targets)

    def encode(self, images: Tensor, targets: Tensor) -> Encoded:
        """Return what the decoder reads, and the map it starts from."""
        stages, start = self._read(images, targets)
        if self.gain is not None and start is None:
            start = self._class_activation_map(stages[-1], targets)
        return Encoded(stages, start)

    def decode(self, encoded: Encoded, targets: Tensor) -> Tensor:
        """Rank pixels by what :meth:`encode` gave for the same targets."""
        height, width = self.config.input_shape[1:]
        scores: Tensor = self.decoder(encoded.stages, self.conditioning(targets), (height, width))
        if self.config.cells is not None:
            cells = self.config.cells
            means = pool_to_grid(scores, cells).view(-1, 1, cells, cells)
            scores = resized(means, (height, width))
        if self.gain is None or encoded.start is None:
            return scores
        return scores + self.gain * resized(encoded.start, (height, width))

    def _read(self, images: Tensor, targets: Tensor) -> Encoded:
        if self.config.gradients:
            *stages, start = self.encoder(images, targets)
            return Encoded(stages, start)
        return Encoded(self.encoder(images), None)

    def _class_activation_map(self, features: Tensor, targets: Tensor) -> Tensor:
        """Return the last stage's map of the class by its row of the head."""
        rows: Any = self.conditioning.rows
        # Half precision would give neighbouring pixels one score, and so no order.
        with torch.autocast(features.device.type, enabled=False):
            return sum_to_map(features.float() * rows[targets].float()[:, :, None, None])


def build_network(
    config: NetworkConfig,
    classifier: Any = None,
    *,
    encoder_weights: Path | str | None = None,
    pretrained: bool = False,
) -> RankingNetwork:
    """Build a network for a classifier, with a fresh decoder.

    Args:
        config: Its sizes. Layers of the classifier that are not named are chosen, and named in
            ``network.config``.
        classifier: The module to explain; needed for its features and for its head's rows. The
            network is built on its device.
        encoder_weights: A local safetensors file for a timm encoder.
        pretrained: Let timm download its own weights.

    Raises:
        TypeError: If the classifier is needed and is no module.
        ValueError: If it does not fit the configuration, or weights are given for no timm encoder.

    Cost:
        Up to four forward passes of the classifier on one image, and a backward pass for gradients.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> build_network(NetworkConfig(2, (1, 8, 8)), net).config.layers
        ('1',)
    """
    if reads_classifier(config) and not isinstance(classifier, nn.Module):
        raise TypeError(
            f"classifier must be a module for encoder={config.encoder!r} and conditioning="
            f'{config.conditioning!r}, got {type(classifier).__name__}. Try encoder="timm:NAME" '
            'with conditioning="embedding".'
        )
    if isinstance(classifier, nn.Module):
        classifier = bare_module(classifier)
        check_classifier(classifier, config)
    encoder: nn.Module
    if config.encoder == CLASSIFIER:
        if encoder_weights is not None:
            raise ValueError(
                'encoder_weights must be None for encoder="classifier", whose weights are the '
                f'classifier\'s own, got {str(encoder_weights)!r}. Try encoder="timm:NAME".'
            )
        if not config.layers:
            probe = _probe(config, device_of(classifier))
            layers = default_stages(classifier, probe, gradients=config.gradients)
            config = dataclasses.replace(config, layers=layers)
        encoder = ClassifierEncoder(classifier, config.layers, gradients=config.gradients)
    else:
        encoder = TimmEncoder(
            config.encoder.removeprefix("timm:"),
            input_shape=config.input_shape,
            weights=encoder_weights,
            pretrained=pretrained,
            trainable=config.trainable,
            space=config.space,
        ).to(device_of(classifier))
    conditioning: nn.Module = (
        HeadConditioning(head_rows(classifier, config.classes), config.class_width)
        if config.conditioning == "head"
        else EmbeddingConditioning(config.classes, config.class_width)
    )
    return RankingNetwork(config, encoder, conditioning)


def reads_classifier(config: NetworkConfig) -> bool:
    """Whether a network is built from the classifier it explains."""
    return config.encoder == CLASSIFIER or config.conditioning == "head"


def _probe(config: NetworkConfig, device: torch.device) -> Tensor:
    """Return an image to see layers' outputs on: of zeros, a mean and a maximum would be one."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, *config.input_shape, generator=generator).to(device)
