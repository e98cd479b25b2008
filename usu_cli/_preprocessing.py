"""From a picture to the model's input: resize the short side, cut the centre, normalise."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

_Triple = tuple[float, float, float]
_IMAGENET_MEAN: _Triple = (0.485, 0.456, 0.406)
_IMAGENET_STD: _Triple = (0.229, 0.224, 0.225)
_LONGEST = 16  # sides to one side; beyond, only what will be cut out is resized


@dataclass(frozen=True)
class Preprocessing:
    """What a model was trained on.

    Args:
        size: Side of the square input in pixels.
        resize: What the picture's short side is scaled to before the centre is cut out.
        mean: Per-channel mean, of values in [0, 1].
        std: Per-channel standard deviation.
        interpolation: Pillow's name of the resampling filter, in lower case.
    """

    size: int = 224
    resize: int = 256
    mean: _Triple = _IMAGENET_MEAN
    std: _Triple = _IMAGENET_STD
    interpolation: str = "bilinear"

    def changed(
        self, *, size: int | None = None, mean: _Triple | None = None, std: _Triple | None = None
    ) -> "Preprocessing":
        """Return a copy with what a person gave; a new size keeps the share that is cut off."""
        size = size or self.size
        return replace(
            self,
            size=size,
            resize=max(size, round(self.resize * size / self.size)),
            mean=mean or self.mean,
            std=std or self.std,
        )

    def crop(self, image: Image.Image) -> Image.Image:
        """Return the square the model sees."""
        scale = self.resize / min(image.size)
        width, height = (max(self.resize, round(side * scale)) for side in image.size)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        box = (left, top, left + self.size, top + self.size)
        how = Image.Resampling[self.interpolation.upper()]
        if max(width, height) <= _LONGEST * min(width, height):
            return image.resize((width, height), how, reducing_gap=None).crop(box)
        # A strip of one by thousands of pixels would take gigabytes, to lose all but its centre.
        x, y = image.width / width, image.height / height
        source = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
        return image.resize((self.size, self.size), how, source, reducing_gap=None)

    def normalise(self, crop: Image.Image) -> torch.Tensor:
        """Return the crop as the model's input, (1, 3, size, size)."""
        from torchvision.transforms.functional import normalize, to_tensor

        inputs: torch.Tensor = normalize(to_tensor(crop), list(self.mean), list(self.std))
        return inputs[None]


def for_timm(model: nn.Module) -> Preprocessing:
    """Return what timm records for ``model``."""
    from timm.data import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(model)
    size = config["input_size"][-1]
    return Preprocessing(
        size=size,
        resize=int(size / config["crop_pct"]),
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
    )


def for_torchvision(weights: "WeightsEnum") -> Preprocessing:
    """Return what torchvision records for these ``weights``."""
    transform = weights.transforms()
    return Preprocessing(
        size=transform.crop_size[0],
        resize=transform.resize_size[0],
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
    )
