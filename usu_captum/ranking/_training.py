"""Train a ranking network for a classifier, on one process or many."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from usu_captum._image_space import ImageSpace
from usu_captum._models import device_of, evaluating, modules_of
from usu_captum.ranking._checkpoint import load_checkpoint
from usu_captum.ranking._checks import check_source
from usu_captum.ranking._classifier_checks import check_classifier
from usu_captum.ranking._images import ImageSource
from usu_captum.ranking._network import RankingNetwork
from usu_captum.ranking._network_files import restore_network
from usu_captum.ranking._processes import accelerate_as_it_was
from usu_captum.ranking._randomness import kept_randomness
from usu_captum.ranking._references import reference_images
from usu_captum.ranking._run import Run
from usu_captum.ranking._run_state import EXPLAINER
from usu_captum.ranking._training_config import TrainingConfig


@dataclass(frozen=True)
class TrainingResult:
    """What a run gave.

    Attributes:
        network: With the best weights on held-out images, or the last without such images; in
            evaluation mode.
        steps: Steps taken, fewer than asked for if it stopped early.
        best: ``step``, ``deletion`` and ``insertion`` of the best evaluation, if there was one.
        unreadable: Images that could not be read, by name, with the reason.
        path: The network's checkpoint.
    """

    network: RankingNetwork
    steps: int
    best: dict[str, float] | None
    unreadable: tuple[str, ...]
    path: Path


def train_explainer(
    classifier: Any,
    network: RankingNetwork,
    data: ImageSource,
    config: TrainingConfig,
    out_dir: Path | str,
    *,
    space: ImageSpace | None = None,
    held_out: ImageSource | None = None,
    progress: bool = True,
) -> TrainingResult:
    """Train a network to rank pixels as deletion and insertion of a classifier ask for.

    Into ``out_dir`` go ``explainer.safetensors`` (the best network) and ``explainer.json``,
    ``training.safetensors`` (the last checkpoint), ``curves.csv`` and ``curves.png``. Called again
    with the same arguments it goes on from the last checkpoint, and ends with the same weights,
    bit for bit on a CPU, as if it had not been stopped.

    Under ``accelerate launch`` or ``torchrun`` every process trains on its own part of each batch;
    a step then sees ``processes * batch_size`` images. The classifier's modes, gradient flags and
    device, accelerate's settings and the global random state are left as they were.

    Args:
        classifier: Images (B, C, H, W) to logits (B, classes); a module, or any function.
        network: From :func:`build_network`; trained in place.
        data: Images to train on.
        config: How.
        out_dir: Folder for the results; made if it does not exist.
        space: Where the images live; needed for the references ``"black"`` and ``"mean"``.
        held_out: Images to evaluate on, which choose the best weights and the early stop.
        progress: Show progress bars.

    Returns:
        The network and what is known about it.

    Raises:
        TypeError: If ``data`` or ``held_out`` does not know its fingerprint.
        ValueError: If the classifier has no gradient or another class count or image size, images
            are of another size, a reference needs a ``space``, ``space`` is not the network's,
            ``config`` cannot be recorded, ``out_dir`` holds another run, or the process has an
            ``Accelerator`` of mixed precision.
        FloatingPointError: If the loss or its gradient is not finite; the last checkpoint stays.

    Cost:
        Per step and process, ``2 (n_percentiles - 2) batch_size`` forward and backward passes of
        the classifier, and about four more forward passes. Per evaluation and held-out image,
        42 forward passes for each reference.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torch import nn
        >>> from usu_captum.ranking import DatasetImages, NetworkConfig, build_network
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> network = build_network(NetworkConfig(2, (1, 8, 8)), net)
        >>> images = DatasetImages(torch.rand(6, 1, 8, 8), (1, 8, 8))
        >>> config = TrainingConfig(steps=2, batch_size=3, references=("blur",))
        >>> with TemporaryDirectory() as folder:
        ...     train_explainer(net, network, images, config, folder, progress=False).steps
        2
    """
    check_source("data", data)
    if held_out is not None:
        check_source("held_out", held_out)
    check_classifier(classifier, network.config)
    if None not in (space, network.config.space) and space != network.config.space:
        raise ValueError(
            f"space must be the network's, {network.config.space}, got {space}. Try a network of "
            "NetworkConfig(..., space=space)."
        )
    for name in config.references:
        reference_images(torch.zeros(1, *network.config.input_shape), name, space)
    folder = Path(out_dir)
    with accelerate_as_it_was():
        run = Run(classifier, network, data, config, folder, space, held_out, progress)
        with _borrowed(classifier, network, run.device), kept_randomness(run.device):
            run.train()
            restore_network(network, load_checkpoint(folder / EXPLAINER)[0])
    unreadable = tuple(run.state.unreadable)
    if unreadable and run.main:
        warnings.warn(
            f"{len(unreadable)} of {len(data) + len(held_out or ())} images could not be read: "
            f"{'; '.join(unreadable[:5])}",
            UserWarning,
            stacklevel=2,
        )
    return TrainingResult(
        network.eval(), run.state.step, run.state.best, unreadable, folder / EXPLAINER
    )


@contextmanager
def _borrowed(classifier: Any, network: RankingNetwork, device: torch.device) -> Iterator[None]:
    """Bring both to a device, the classifier frozen and in evaluation mode; put it back."""
    roots = modules_of(classifier)[:1]
    before = device_of(classifier)
    flags = [(p, p.requires_grad) for root in roots for p in root.parameters()]
    try:
        for part in (*roots, network):
            part.to(device)
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with evaluating(classifier):
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for part in (*roots, network):
            part.to(before)
        network.zero_grad()
