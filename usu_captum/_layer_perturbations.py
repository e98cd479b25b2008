"""Layer attributions that change the layer's output and watch the model's."""

from typing import Any

import captum
from captum import attr as captum_attr

from usu_captum._attribute import accepts_upsampler
from usu_captum._layer_maps import upsample_layers


@accepts_upsampler(upsample_layers)
class LayerFeatureAblation(captum_attr.LayerFeatureAblation):
    """Captum's ``LayerFeatureAblation``: (B, C, h, w), or (B, 1, H, W) with an upsampler.

    With a ``layer_mask`` Captum gives every member of a group the effect of the whole group.
    Before upsampling, the effect is divided evenly among the members, so that channels and cells
    add up to the effects of the groups rather than to as many times that.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> ablation = LayerFeatureAblation(model, model[0])
        >>> cells = torch.arange(16).reshape(1, 1, 4, 4)
        >>> ablation.attribute(
        ...     torch.rand(1, 1, 8, 8), target=3, layer_mask=cells, upsampler="usu"
        ... ).shape
        torch.Size([1, 1, 8, 8])
    """


class _Missing(captum_attr.LayerFeatureAblation):
    """Stands for a class that the installed Captum does not have."""

    attribute = captum_attr.LayerFeatureAblation.attribute

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise ImportError(
            f"LayerFeaturePermutation needs a Captum that has it, got {captum.__version__}. Try "
            "pip install --upgrade captum."
        )


_LayerFeaturePermutation: Any = getattr(captum_attr, "LayerFeaturePermutation", _Missing)


@accepts_upsampler(upsample_layers)
class LayerFeaturePermutation(_LayerFeaturePermutation):
    """Captum's ``LayerFeaturePermutation``: (B, C, h, w), or (B, 1, H, W) with an upsampler.

    Groups of a ``layer_mask`` are treated as in :class:`LayerFeatureAblation`. Captum 0.9 selects
    the target twice here, so an integer target fails on outputs (B, classes): use a forward
    function that returns the class's score, and no target.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> permutation = LayerFeaturePermutation(lambda images: model(images)[:, 3], model[0])
        >>> permutation.attribute(torch.rand(2, 1, 4, 4), upsampler="usu").shape
        torch.Size([2, 1, 4, 4])
    """
