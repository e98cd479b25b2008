"""Classifiers, their images, and the settings that their ranking explainers are trained with.

Three splits each: to train on, to tune on (settings and the best weights), and to report.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks._common import (
    central,
    data_folder,
    data_module,
    image_files,
    load_model,
    load_whole,
)
from benchmarks._ranking_images import Crops, MovedImages
from usu_captum import IMAGENET, ImageSpace
from usu_captum._models import device_of
from usu_captum.ranking import (
    ArrayImages,
    ImageSource,
    PartOfImages,
    RankingObjective,
    RankTransport,
    TrainingConfig,
)


@dataclass(frozen=True)
class Photographs:
    """What differs between classifiers of photographs; chosen on images that are not reported.

    Attributes:
        layer: Of their activation maps.
        refinement_grids: Up to twice the layer's: with finer cells ResNet-18's deletion falls
            further, and its insertion falls too.
        insertion_weight: In training; of two, the one by which both measures gain.
    """

    layer: str
    refinement_grids: tuple[int, ...]
    insertion_weight: float


PHOTOGRAPHS = {
    "resnet18": Photographs("layer4", (14,), 2.0),
    "deit_tiny": Photographs("blocks.11.norm1", (14, 28), 0.6),
}
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
        refinement: What these steps descend.
        cells: Per side of the network's maps; ``None`` where every pixel counts.
    """

    model: nn.Module
    classes: int
    space: ImageSpace
    layer: str
    training: ImageSource
    tuning: ImageSource
    reported: ImageSource
    config: TrainingConfig
    refinement_grids: tuple[int, ...]
    refinement: RankingObjective
    cells: int | None = None

    def shown(self, index: int) -> Tensor:
        """Return a reported image (1, C, H, W) on the classifier's device."""
        return self.reported[index].image[None].to(device_of(self.model))


def load_subject(name: str) -> Subject:
    """Return one of ``NAMES``."""
    if name in PHOTOGRAPHS:
        return _photographs(name)
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
        _small_objective(0.01, n_percentiles=10),
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
        _small_objective(0.02, n_percentiles=10),
    )


def _photographs(name: str) -> Subject:
    """ImageNet samples, cut by class: 340 to train on, 60 to tune on, the other half to report."""
    model, _ = load_model(name)
    chosen, shape = PHOTOGRAPHS[name], (3, 224, 224)
    order = torch.from_numpy(np.random.default_rng(0).permutation(400))
    tuning, reported = (
        torch.stack([load_whole(f) for f in image_files(split, 400)])[order]
        for split in ("tuning", "held-out")
    )

    def centres(pixels: Tensor) -> ArrayImages:
        array = central(pixels).permute(0, 2, 3, 1).numpy()
        return ArrayImages(array, None, shape, IMAGENET)

    return Subject(
        model,
        1000,
        IMAGENET,
        chosen.layer,
        Crops(tuning[60:], 224, IMAGENET),
        centres(tuning[:60]),
        centres(reported),
        TrainingConfig(
            steps=240,
            batch_size=24,
            grids=(14,),
            rivals=0.1,
            precision="bf16",
            evaluate_every=120,
            checkpoint_every=40,
            workers=2,
            objective=RankingObjective(
                RankTransport(regularisation=0.005, normalise="range"),
                n_percentiles=11,
                insertion_weight=chosen.insertion_weight,
                chunk_size=256,
            ),
        ),
        chosen.refinement_grids,
        RankingObjective(RankTransport(regularisation=0.02, normalise="range"), n_percentiles=6),
        cells=14,
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
