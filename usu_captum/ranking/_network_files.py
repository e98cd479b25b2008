"""Networks as files: what is saved of them, and which are refused."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import usu_core
from usu_captum._digest import weights_digest
from usu_captum._models import evaluating, in_its_dtype, modules_of
from usu_captum.ranking._checkpoint import FORMAT, load_checkpoint, save_checkpoint, write_text
from usu_captum.ranking._classifier_features import ClassifierEncoder
from usu_captum.ranking._network import RankingNetwork, build_network
from usu_captum.ranking._network_config import NetworkConfig


def network_state(network: RankingNetwork) -> dict[str, Tensor]:
    """Return what training changes: a frozen encoder is known by its fingerprint instead."""
    frozen = not getattr(network.encoder, "trainable", False)
    return {
        name: value
        for name, value in network.state_dict().items()
        if not (frozen and name.startswith("encoder."))
    }


def restore_network(network: RankingNetwork, state: Mapping[str, Tensor]) -> None:
    """Put a saved state into a network of the same architecture.

    Raises:
        ValueError: If names or shapes differ.
    """
    own = network_state(network)
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    reshaped = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    if missing or unexpected or reshaped:
        raise ValueError(
            f"checkpoint must be of this architecture, got {len(missing)} missing, "
            f"{len(unexpected)} unexpected and {len(reshaped)} reshaped tensors (first: "
            f"{(missing + unexpected + reshaped)[0]})."
        )
    network.load_state_dict(dict(state), strict=False)


def network_facts(network: RankingNetwork) -> dict[str, Any]:
    """Return what identifies a network: its configuration, its frozen encoder, versions."""
    packages = ("torch", "timm", "captum", "accelerate")
    return {
        "network": asdict(network.config),
        "encoder": encoder_fingerprint(network),
        "versions": {"usu": usu_core.__version__, **{name: version(name) for name in packages}},
    }


def encoder_fingerprint(network: RankingNetwork) -> str | None:
    """Return a digest of the frozen weights that features come from, ``None`` if trained."""
    encoder = network.encoder
    if getattr(encoder, "trainable", False):
        return None
    source = encoder.classifier if isinstance(encoder, ClassifierEncoder) else encoder
    return weights_digest(source)


def save_network(path: Path, network: RankingNetwork, facts: Mapping[str, Any]) -> None:
    """Write a network as a checkpoint, and its facts beside it as ``.json`` to be read.

    Args:
        path: A ``.safetensors`` file.
        network: What to save.
        facts: More to record, such as metrics.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> network = build_network(NetworkConfig(2, (1, 8, 8)), net)
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "explainer.safetensors"
        ...     save_network(path, network, {"step": 0})
        ...     load_network(path, net).config == network.config
        True
    """
    record = {**network_facts(network), **facts}
    save_checkpoint(path, network_state(network), record)
    write_text(
        path.with_suffix(".json"),
        json.dumps({**record, "format": FORMAT}, indent=1, allow_nan=False, ensure_ascii=False)
        + "\n",
    )


def load_network(
    path: Path | str,
    classifier: Any = None,
    *,
    encoder_weights: Path | None = None,
    pretrained: bool = False,
) -> RankingNetwork:
    """Build the network of a checkpoint, in evaluation mode.

    Args:
        path: Written by :func:`save_network` or by training.
        classifier: The module it was trained for.
        encoder_weights: The file of a timm encoder's weights, which a checkpoint of a frozen
            encoder does not repeat.
        pretrained: Let timm download them.

    Raises:
        TypeError: If the classifier is needed and is no module.
        ValueError: If the file is no checkpoint, or is for another class count, image size,
            architecture or other encoder weights.

    Cost:
        Up to three passes of the classifier on one image of zeros.
    """
    tensors, facts = load_checkpoint(Path(path))
    if "network" not in facts:
        raise ValueError(f"path must be a network's checkpoint, got {str(path)!r}.")
    config = NetworkConfig(**facts["network"])
    if isinstance(classifier, nn.Module):
        check_classifier(classifier, config)
    network = build_network(
        config, classifier, encoder_weights=encoder_weights, pretrained=pretrained
    )
    restore_network(network, tensors)
    found = encoder_fingerprint(network)
    if found != facts["encoder"]:
        raise ValueError(
            f"checkpoint must be used with the encoder weights it was trained on, got others "
            f"for {config.encoder!r}. Try the classifier or encoder_weights of the training; a "
            "changed classifier can still be explained as RankingExplainer(changed, network)."
        )
    return network.eval()


def check_classifier(classifier: Any, config: NetworkConfig) -> None:
    """Run a classifier on zeros and compare its output with a configuration.

    Raises:
        ValueError: If it takes no such images, or has another number of classes.
    """
    weight = next((p for m in modules_of(classifier) for p in m.parameters()), torch.empty(0))
    zeros = torch.zeros(1, *config.input_shape, device=weight.device)
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
