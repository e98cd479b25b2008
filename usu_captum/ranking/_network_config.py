"""The sizes and choices that make up a ranking network."""

from collections.abc import Mapping
from dataclasses import dataclass

from usu_captum._image_space import ImageSpace
from usu_captum.ranking._checks import frozen
from usu_captum.ranking._conditioning import CONDITIONINGS
from usu_captum.ranking._decoder import NORMS, READOUTS
from usu_core._checks import check_choice, check_count

CLASSIFIER = "classifier"
PRIORS = ("auto", "cam", "flat")


@dataclass(frozen=True)
class NetworkConfig:
    """What a ranking network is made of; the defaults train on a CPU in minutes.

    Args:
        classes: Number of the classifier's outputs.
        input_shape: (C, H, W) of its images.
        encoder: ``"classifier"`` for the explained classifier's own features, or ``"timm:NAME"``.
        layers: Of the classifier's features, finest first; empty to let :func:`build_network`
            choose.
        gradients: Read the gradients of the class at each of the classifier's layers too, which
            costs it a backward pass; see :class:`ClassifierEncoder`.
        trainable: Train the timm encoder too.
        conditioning: ``"head"`` (the classifier's own row of the class) or ``"embedding"``.
        readout: ``"film"`` (the class weighs the features' channels) or ``"concat"``.
        prior: What training starts from: ``"cam"``, the class activation map of the last stage by
            the head's row (with ``gradients``, HiResCAM and Grad-CAM), which the decoder then only
            has to improve; ``"flat"`` as published; ``"auto"`` lets :func:`build_network` choose
            the first where the head is given the mean of that stage's pixels, and so weighs it.
            A timm encoder has the second alone.
        cells: Per side of the map that is made; what the decoder gives is averaged within them, and
            enlarged bilinearly. Training ranks cells of the objective's grids, so what varies
            inside them is noise that a ranking of pixels suffers from. ``None`` gives every pixel
            a score of its own.
        space: Where the images live, for a timm encoder, which then is given them in its own
            normalisation; ``None`` gives it the images as they come.
        class_width: Width of the class's description.
        middle: Channels that each stage is read out to.
        width: Channels of the pyramid.
        head: Channels of the head.
        norm: ``"group"``, or ``"batch"``, which several processes on GPUs synchronise.
        dropout: Share of channels dropped in front of the last layers, in training.

    Raises:
        TypeError: If a count is no integer, or ``input_shape`` or ``layers`` no sequence.
        ValueError: If anything is out of range or unknown.

    Example:
        >>> NetworkConfig(10, (3, 32, 32)).width
        32
        >>> NetworkConfig.published(1000).encoder
        'timm:vit_large_patch16_dinov3'
    """

    classes: int
    input_shape: tuple[int, int, int]
    encoder: str = CLASSIFIER
    layers: tuple[str, ...] = ()
    gradients: bool = False
    trainable: bool = False
    conditioning: str = "head"
    readout: str = "film"
    prior: str = "auto"
    cells: int | None = None
    space: ImageSpace | None = None
    class_width: int = 64
    middle: int = 64
    width: int = 32
    head: int = 16
    norm: str = "group"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        """Freeze sequences into tuples and check everything."""
        for name, example in (("input_shape", "(3, 224, 224)"), ("layers", "('layer4',)")):
            object.__setattr__(self, name, frozen(name, getattr(self, name), example))
        if isinstance(self.space, Mapping):  # as a checkpoint holds it
            object.__setattr__(self, "space", ImageSpace(**self.space))
        if len(self.input_shape) != 3:
            raise ValueError(f"input_shape must be (C, H, W), got {self.input_shape}.")
        for side in self.input_shape:
            check_count("input_shape", side)
        check_count("classes", self.classes, 2)
        if self.cells is not None:
            check_count("cells", self.cells)
            side = min(self.input_shape[1:])
            if self.cells > side:
                raise ValueError(
                    f"cells must be at most the image's side {side}, got {self.cells}."
                )
        for name in ("class_width", "middle", "width"):
            check_count(name, getattr(self, name))
        check_count("head", self.head, 2)
        check_choice("conditioning", self.conditioning, CONDITIONINGS)
        check_choice("readout", self.readout, READOUTS)
        check_choice("prior", self.prior, PRIORS)
        check_choice("norm", self.norm, NORMS)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}.")
        if self.encoder != CLASSIFIER and not str(self.encoder).startswith("timm:"):
            raise ValueError(f'encoder must be "classifier" or "timm:NAME", got {self.encoder!r}.')
        if self.encoder == CLASSIFIER and self.trainable:
            raise ValueError(
                'trainable must be False for encoder="classifier": the classifier is explained, '
                'not changed. Try encoder="timm:NAME".'
            )
        if self.encoder == CLASSIFIER and self.space is not None:
            raise ValueError(
                f'space must be None for encoder="classifier", which takes images as they come, '
                f'got {self.space}. Try encoder="timm:NAME".'
            )
        if self.encoder != CLASSIFIER and self.gradients:
            raise ValueError(
                f"gradients must be False for encoder={self.encoder!r}: they are the explained "
                'classifier\'s. Try encoder="classifier".'
            )
        if self.encoder != CLASSIFIER and self.layers:
            raise ValueError(
                f'layers are of encoder="classifier", got {self.layers} for {self.encoder!r}.'
            )

    @classmethod
    def published(
        cls, classes: int, input_shape: tuple[int, int, int] = (3, 224, 224)
    ) -> "NetworkConfig":
        """Return the sizes of the released model of "Learn to Rank".

        That has about 16 million weights beside its encoder, this one 7 million for 1000 classes.
        """
        return cls(
            classes,
            input_shape,
            encoder="timm:vit_large_patch16_dinov3",
            conditioning="embedding",
            readout="concat",
            prior="flat",
            class_width=1024,
            middle=256,
            width=128,
            head=64,
            norm="batch",
        )
