"""Networks as files: what is saved of them, and which are refused."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import usu_core
from usu_captum._digest import weights_digest
from usu_captum.ranking._checkpoint import FORMAT, load_checkpoint, save_checkpoint, write_text
from usu_captum.ranking._classifier_features import ClassifierEncoder
from usu_captum.ranking._network import RankingNetwork, build_network, reads_classifier
from usu_captum.ranking._network_config import CLASSIFIER, NetworkConfig


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


def save_network(path: Path | str, network: RankingNetwork, facts: Mapping[str, Any]) -> None:
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
    write_network(Path(path), network, {**network_facts(network), **facts})


def write_network(path: Path, network: RankingNetwork, record: Mapping[str, Any]) -> None:
    """Write a network as :func:`save_network` does, with all that is to be recorded of it."""
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
    encoder_weights: Path | str | None = None,
    pretrained: bool = False,
) -> RankingNetwork:
    """Build the network of a checkpoint, in evaluation mode.

    Args:
        path: Written by :func:`save_network` or by training.
        classifier: The module it was trained for; the network is built on its device.
        encoder_weights: The file of a timm encoder's weights, which a checkpoint of a frozen
            encoder does not repeat.
        pretrained: Let timm download them.

    Raises:
        TypeError: If the classifier is needed and is no module.
        ValueError: If the file is no checkpoint, or is for another class count, image size,
            architecture or other encoder weights.

    Cost:
        As :func:`build_network`.
    """
    tensors, facts = load_checkpoint(Path(path))
    if "network" not in facts:
        raise ValueError(f"path must be a network's checkpoint, got {str(path)!r}.")
    if any(name.startswith("network.") for name in tensors):
        raise ValueError(
            f"path must be an explainer, got the state of a training run, {str(path)!r}. Try the "
            "explainer.safetensors beside it."
        )
    config = NetworkConfig(**facts["network"])
    if reads_classifier(config) and not isinstance(classifier, nn.Module):
        raise TypeError(
            "classifier must be the module that the network was trained for and reads, got "
            f"{type(classifier).__name__}. Try load_network(path, classifier)."
        )
    network = build_network(
        config, classifier, encoder_weights=encoder_weights, pretrained=pretrained
    )
    restore_network(network, tensors)
    if encoder_fingerprint(network) != facts["encoder"]:
        if config.encoder == CLASSIFIER:
            raise ValueError(
                "classifier must have the weights that the network was trained for, got others. "
                "Try loading with the classifier of the training; a changed one can still be "
                "explained as RankingExplainer(changed, network)."
            )
        raise ValueError(
            f"encoder_weights must be the encoder weights it was trained on, got others for "
            f"{config.encoder!r}. Try encoder_weights=FILE of the training, or pretrained=True."
        )
    return network.eval()
