"""Any timm model as the encoder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from usu_captum._image_space import ImageSpace
from usu_captum._models import in_its_dtype
from usu_captum.ranking._stages import COUNT


class TimmEncoder(nn.Module):
    """Stages of a timm model, frozen unless asked otherwise.

    They are the last four of a hierarchy, or the blocks that end the quarters of a plain
    transformer. A frozen encoder stays in evaluation mode and runs without gradients.

    Args:
        name: As in ``timm.list_models()``.
        weights: A local safetensors file of the whole model; without one, see ``pretrained``.
        pretrained: Download timm's weights; without them and a file the weights are random.
        input_shape: (C, H, W) of the images it will see.
        trainable: Train it with the decoder.
        space: Where the images live, to be brought into the model's own normalisation; ``None``
            gives them to the model as they come.

    Raises:
        ValueError: If timm has no such model, it gives no intermediate maps, or the file does not
            fit it.

    Cost:
        One forward pass of the model.

    Example:
        >>> encoder = TimmEncoder("test_resnet", input_shape=(3, 64, 64))
        >>> [tuple(stage.shape[2:]) for stage in encoder(torch.rand(1, 3, 64, 64))]
        [(16, 16), (8, 8), (4, 4), (2, 2)]
    """

    def __init__(
        self,
        name: str,
        *,
        input_shape: tuple[int, int, int],
        weights: Path | str | None = None,
        pretrained: bool = False,
        trainable: bool = False,
        space: ImageSpace | None = None,
    ) -> None:
        import timm

        super().__init__()
        if name.partition(".")[0] not in timm.list_models():
            raise ValueError(f"encoder must be a model that timm has, got {name!r}.")
        options: dict[str, Any] = {"num_classes": 0, "in_chans": input_shape[0]}
        self.model: nn.Module = self._create(name, options, input_shape, pretrained)
        if not hasattr(self.model, "forward_intermediates"):
            raise ValueError(
                f"encoder must give intermediate maps, and timm's {name!r} does not. Try a "
                "ResNet, ConvNeXt or vision transformer."
            )
        if weights is not None:
            _load(self.model, weights, name)
        self.indices = _stages(self.model)
        self.space, self.own_space = space, _own_space(self.model, input_shape[0])
        self.trainable = trainable
        self.train(self.training)
        if not trainable:
            self.model.requires_grad_(False)

    @staticmethod
    def _create(
        name: str, options: dict[str, Any], input_shape: tuple[int, int, int], pretrained: bool
    ) -> nn.Module:
        import timm

        try:
            # Transformers of one size are built for the images they will see.
            sized: nn.Module = timm.create_model(
                name, pretrained=pretrained, img_size=input_shape[1:], **options
            )
        except TypeError:
            free: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
            return free
        return sized

    def train(self, mode: bool = True) -> "TimmEncoder":
        """Switch the mode; a frozen model stays in evaluation mode."""
        super().train(mode)
        if not self.trainable:
            self.model.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return one map (B, C_i, h_i, w_i) per stage for images (B, C, H, W)."""
        model: Any = self.model
        if self.space is not None:
            images = self.own_space.from_raw(self.space.to_raw(images))
        with torch.set_grad_enabled(self.trainable and torch.is_grad_enabled()):
            stages: list[Tensor] = model.forward_intermediates(
                in_its_dtype(model, images),
                indices=self.indices,
                norm=True,
                output_fmt="NCHW",
                intermediates_only=True,
            )
        return [stage.float() for stage in stages]


def _own_space(model: nn.Module, channels: int) -> ImageSpace:
    """Return what timm says of a model's normalisation; of other channels than it has, the mean."""
    from timm.data import resolve_model_data_config

    config = resolve_model_data_config(model)
    mean, std = config["mean"], config["std"]
    if len(mean) != channels:
        mean, std = ((sum(values) / len(values),) for values in (mean, std))
    return ImageSpace(mean, std)


def _stages(model: nn.Module) -> list[int]:
    """Return the indices of the stages to take, finest first."""
    info: Any = model.feature_info
    reductions = [entry["reduction"] for entry in info]
    total = len(reductions)
    if len(set(reductions)) > 1:
        return list(range(max(0, total - COUNT), total))
    return sorted({-(-(i + 1) * total // COUNT) - 1 for i in range(COUNT)})


def _load(model: nn.Module, path: Path | str, name: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"weights must be a safetensors file, got {str(path)!r}: {error}"
        ) from error
    own = model.state_dict()
    # The head is not needed, and batch counters matter in training only.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or wrong:
        first = (missing or wrong)[0]
        raise ValueError(
            f"weights must fit timm's {name!r}, got {len(missing)} missing and {len(wrong)} of "
            f"another shape in {str(path)!r} (first: {first})."
        )
    model.load_state_dict({k: state[k] for k in own if k in state}, strict=False)
