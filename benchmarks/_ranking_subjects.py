"""Classifiers, their images, and the settings that their ranking explainers are trained with.

Three splits each: to train on, to tune on (settings and the best weights), and to report.
"""

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
    PartOfImages,
    RankingObjective,
    RankTransport,
    TrainingConfig,
)

NAMES = ("cifar10", "mnist", "resnet18")


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
    """

    model: nn.Module
    classes: int
    space: ImageSpace
    layer: str
    training: PartOfImages
    tuning: PartOfImages
    reported: PartOfImages
    config: TrainingConfig
    refinement_grids: tuple[int, ...]


def load_subject(name: str) -> Subject:
    """Return one of ``NAMES``."""
    return {"cifar10": _cifar10, "mnist": _mnist, "resnet18": _resnet18}[name]()


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


def _cifar10() -> Subject:
    """ResNet-56: 9900 training images to train on, 100 more to tune on; reported: test images."""
    files = data_folder() / "cifar10"
    model = folded(data_module().cifar("resnet56")[0])
    every = _stored(files / "train-10000-jpeg.npz", (3, 32, 32), IMAGENET)
    test = _stored(files / "test-1000-jpeg.npz", (3, 32, 32), IMAGENET)
    return Subject(
        model.to(memory_format=torch.channels_last),
        10,
        IMAGENET,
        "layer3",
        PartOfImages(every, range(9900)),
        PartOfImages(every, range(9900, 10000)),
        PartOfImages(test, np.random.default_rng(0).permutation(1000).tolist()),
        TrainingConfig(
            steps=1100,
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
    every = _stored(data_folder() / "mnist" / "test-1000.npz", (1, 28, 28), space)
    order = np.random.default_rng(0).permutation(1000).tolist()
    return Subject(
        model.to(memory_format=torch.channels_last),
        10,
        space,
        "3",
        PartOfImages(every, order[:600]),
        PartOfImages(every, order[600:700]),
        PartOfImages(every, order[700:]),
        TrainingConfig(
            steps=800,
            learning_rate=4e-3,
            rivals=0.1,
            precision="bf16",
            evaluate_every=100,
            checkpoint_every=25,
            objective=_small_objective(0.02),
        ),
        (28, 14, 28),
    )


def _resnet18() -> Subject:
    """ImageNet samples, cut by class: 376 to train on, 24 to tune on, the other half to report."""
    model, _ = load_model("resnet18")
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
        "layer4",
        PartOfImages(seen, order[24:]),
        PartOfImages(seen, order[:24]),
        PartOfImages(reported, np.random.default_rng(0).permutation(len(reported)).tolist()),
        TrainingConfig(
            steps=250,
            batch_size=6,
            learning_rate=2e-3,
            grids=(14, 28),
            precision="bf16",
            evaluate_every=125,
            checkpoint_every=10,
            objective=RankingObjective(
                RankTransport(regularisation=0.02, normalise="range"), n_percentiles=6
            ),
        ),
        (28, 14, 28),
    )


def _small_objective(regularisation: float) -> RankingObjective:
    """Images this small have no pixels to spare for smooth masks, and lone pixels count."""
    return RankingObjective(
        RankTransport(regularisation=regularisation, normalise="range"),
        n_percentiles=8,
        peak_penalty=0.0,
        smoothing=0.0,
        chunk_size=256,
    )


def _stored(path: Path, shape: tuple[int, int, int], space: ImageSpace) -> ArrayImages:
    with np.load(path) as arrays:
        return ArrayImages(arrays["images"], arrays["labels"], shape, space)
