"""Classifiers, their images, and the settings that their ranking explainers are trained with.

Three splits each: to train on, to tune on (settings and the best weights), and to report.
"""

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks._common import data_folder, data_module, image_files, load_image, load_model
from usu_captum import IMAGENET, ImageSpace
from usu_captum.ranking import (
    ArrayImages,
    ImageSource,
    PartOfImages,
    RankingObjective,
    RankTransport,
    Sample,
    TrainingConfig,
)

PHOTOGRAPHS = {"resnet18": ("layer4", (14,)), "deit_tiny": ("blocks.11.norm1", (14, 28))}
"""Classifiers of photographs, the layer of their activation maps, and the grids of refinement.

Chosen on training images, up to twice the layer's: with finer cells ResNet-18's deletion falls
further, and its insertion falls too.
"""
NAMES = ("cifar10", "mnist", *PHOTOGRAPHS)


@dataclass(frozen=True)
class Subject:
    """A classifier, its images, and the settings its explainer is trained with.

    Attributes:
        model: The classifier.
        classes: Number of its outputs.
        space: Where its images live.
        layer: The layer of Grad-CAM and LayerCAM.
        training: Images to train on.
        tuning: Images that chose the settings and choose the best weights.
        reported: Images that nothing has seen.
        config: How to train.
        refinement_grids: Grids of the refinement's steps.
        refinement_percentiles: Shares of deleted cells in them.
    """

    model: nn.Module
    classes: int
    space: ImageSpace
    layer: str
    training: ImageSource
    tuning: PartOfImages
    reported: PartOfImages
    config: TrainingConfig
    refinement_grids: tuple[int, ...]
    refinement_percentiles: int = 10


def load_subject(name: str) -> Subject:
    """Return one of ``NAMES``."""
    if name in PHOTOGRAPHS:
        return _photographs(name, *PHOTOGRAPHS[name])
    return {"cifar10": _cifar10, "mnist": _mnist}[name]()


def folded(model: nn.Module) -> nn.Module:
    """Fold the normalisations of a CIFAR ResNet into its convolutions, in place.

    The same function to rounding, in three quarters of the time.
    """
    for module in list(model.modules()):
        for number in "12":
            norm = getattr(module, f"bn{number}", None)
            if norm is not None:
                conv = fuse_conv_bn_eval(getattr(module, f"conv{number}"), norm)
                setattr(module, f"conv{number}", conv)
                setattr(module, f"bn{number}", nn.Identity())
    return model


class MovedImages:
    """Every image of a source at all shifts of up to some pixels, and mirrored.

    Args:
        source: The images.
        reach: Largest shift along each axis; what leaves at one border enters at the other.
        mirror: Mirrored left to right too.
    """

    def __init__(self, source: ImageSource, reach: int, *, mirror: bool) -> None:
        self.source = source
        steps = range(-reach, reach + 1)
        self.moves = list(itertools.product(steps, steps, (False, True)[: 1 + mirror]))

    def __len__(self) -> int:
        return len(self.source) * len(self.moves)

    def __getitem__(self, index: int) -> Sample:
        image, label = self.source[index % len(self.source)]
        down, right, mirrored = self.moves[index // len(self.source)]
        moved = image.roll((down, right), (1, 2))
        return Sample(moved.flip(2) if mirrored else moved, label)

    def fingerprint(self) -> str:
        """Return a digest of the source and the moves."""
        digest = hashlib.sha256(f"{self.source.fingerprint()} {self.moves}".encode())
        return digest.hexdigest()


def _cifar10() -> Subject:
    """ResNet-56: its 10000 training images, and 700 test images of which it is less sure.

    Half of a batch is of each kind. 100 more test images to tune on, the other 200 to report.
    """
    files = data_folder() / "cifar10"
    model = folded(data_module().cifar("resnet56")[0])
    paths = [files / "train-10000-jpeg.npz", files / "test-1000-jpeg.npz"]
    every = _stored(paths, (3, 32, 32), IMAGENET)
    count = 10000
    order = (count + np.random.default_rng(0).permutation(1000)).tolist()
    unsure = order[300:]
    return Subject(
        model.to(memory_format=torch.channels_last),
        10,
        IMAGENET,
        "layer3",
        MovedImages(
            PartOfImages(every, [*range(count), *unsure * (count // len(unsure))]), 2, mirror=True
        ),
        PartOfImages(every, order[200:300]),
        PartOfImages(every, order[:200]),
        TrainingConfig(
            steps=1500,
            batch_size=24,
            learning_rate=4e-3,
            grids=(16, 32, 32),
            rivals=0.1,  # on images this easy a rival has no probability to lose
            precision="bf16",
            evaluate_every=250,
            checkpoint_every=25,
            objective=_small_objective(0.01),
        ),
        (32, 16, 32),
    )


def _mnist() -> Subject:
    """Five layers: 600 test images to train on, 100 to tune on, the other 300 to report."""
    model, _ = data_module().mnist()
    space = ImageSpace((0.1307,), (0.3081,))
    every = _stored([data_folder() / "mnist" / "test-1000.npz"], (1, 28, 28), space)
    order = np.random.default_rng(0).permutation(1000).tolist()
    return Subject(
        model.to(memory_format=torch.channels_last),
        10,
        space,
        "3",
        MovedImages(PartOfImages(every, order[:600]), 2, mirror=False),
        PartOfImages(every, order[600:700]),
        PartOfImages(every, order[700:]),
        TrainingConfig(
            steps=1200,
            batch_size=12,
            learning_rate=4e-3,
            grids=(28,),
            rivals=0.1,
            precision="bf16",
            evaluate_every=250,
            checkpoint_every=25,
            # Strokes cover a fifth of the image: coarser shares would not see their order.
            objective=_small_objective(0.02, n_percentiles=21),
        ),
        (28, 14, 28),
    )


def _photographs(name: str, layer: str, refinement_grids: tuple[int, ...]) -> Subject:
    """ImageNet samples, cut by class: 388 to train on, 12 to tune on, the other half to report."""
    model, _ = load_model(name)
    seen, reported = (
        ArrayImages(
            np.stack([load_image(f).permute(1, 2, 0).numpy() for f in image_files(split, 400)]),
            None,
            (3, 224, 224),
            IMAGENET,
        )
        for split in ("tuning", "held-out")
    )
    order = np.random.default_rng(0).permutation(len(seen)).tolist()
    return Subject(
        model,
        1000,
        IMAGENET,
        layer,
        MovedImages(PartOfImages(seen, order[12:]), 8, mirror=True),
        PartOfImages(seen, order[:12]),
        PartOfImages(reported, np.random.default_rng(0).permutation(len(reported)).tolist()),
        TrainingConfig(
            steps=240,
            batch_size=6,
            learning_rate=3e-4,
            grids=(14, 28),
            rivals=0.1,
            precision="bf16",
            evaluate_every=60,
            checkpoint_every=10,
            objective=RankingObjective(
                RankTransport(regularisation=0.02, normalise="range"), n_percentiles=6
            ),
        ),
        refinement_grids,
        refinement_percentiles=6,
    )


def _small_objective(regularisation: float, n_percentiles: int = 8) -> RankingObjective:
    """Images this small have no pixels to spare for smooth masks, and lone pixels count."""
    return RankingObjective(
        RankTransport(regularisation=regularisation, normalise="range"),
        n_percentiles=n_percentiles,
        peak_penalty=0.0,
        smoothing=0.0,
        chunk_size=256,
    )


def _stored(paths: list[Path], shape: tuple[int, int, int], space: ImageSpace) -> ArrayImages:
    images, labels = [], []
    for path in paths:
        with np.load(path) as arrays:
            images.append(arrays["images"])
            labels.append(arrays["labels"])
    return ArrayImages(np.concatenate(images), np.concatenate(labels), shape, space)
