"""From a picture to the model's input: resize, cut out the centre, normalise."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from usu_cli._errors import UsageError

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
        resize: What a side of the picture is scaled to before the centre is cut out.
        mean: Per-channel mean, of values in [0, 1].
        std: Per-channel standard deviation.
        interpolation: Pillow's name of the resampling filter, in lower case.
        crop_mode: Which side is scaled, by timm's names: ``"center"`` the short one;
            ``"squash"`` both, whatever the proportions; ``"border"`` the long one, with the mean
            colour where the picture does not reach.
    """

    size: int = 224
    resize: int = 256
    mean: _Triple = _IMAGENET_MEAN
    std: _Triple = _IMAGENET_STD
    interpolation: str = "bilinear"
    crop_mode: str = "center"

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
        width, height = self._scaled(*image.size)
        left, top = (int((side - self.size) / 2) for side in (width, height))
        how = Image.Resampling[self.interpolation.upper()]
        if max(width, height) <= _LONGEST * self.resize:
            # Of a mask, which is grey, nothing beyond the picture is the object.
            fill = tuple(round(255 * v) for v in self.mean) if image.mode == "RGB" else 0
            seen = Image.new(image.mode, (self.size, self.size), fill)
            seen.paste(image.resize((width, height), how, reducing_gap=None), (-left, -top))
            return seen
        # A strip of one by thousands of pixels would take gigabytes, to lose all but its centre.
        x, y = image.width / width, image.height / height
        source = (left * x, top * y, (left + self.size) * x, (top + self.size) * y)
        return image.resize((self.size, self.size), how, source, reducing_gap=None)

    def _scaled(self, width: int, height: int) -> tuple[int, int]:
        """Return what a picture's width and height are scaled to."""
        if self.crop_mode == "squash":
            return self.resize, self.resize
        scale = self.resize / (max if self.crop_mode == "border" else min)(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))

    def normalise(self, crop: Image.Image) -> torch.Tensor:
        """Return the crop as the model's input, (1, 3, size, size)."""
        from torchvision.transforms.functional import normalize, to_tensor

        inputs: torch.Tensor = normalize(to_tensor(crop), list(self.mean), list(self.std))
        return inputs[None]


def for_timm(model: nn.Module) -> Preprocessing:
    """Return what timm records for ``model``.

    Raises:
        UsageError: If its input is not square.
    """
    from timm.data import resolve_model_data_config

    config: dict[str, Any] = resolve_model_data_config(model)
    _, height, size = config["input_size"]
    if height != size:
        raise UsageError(
            f"the model takes images {size} pixels wide and {height} high, and usu gives square "
            "ones; from Python, usu_captum explains it at its size"
        )
    return Preprocessing(
        size=size,
        resize=int(size / config["crop_pct"]),
        mean=config["mean"],
        std=config["std"],
        interpolation=config["interpolation"],
        crop_mode=config["crop_mode"],
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
