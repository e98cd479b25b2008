"""Grad-CAM."""

from captum import attr as captum_attr

from usu_captum._attribute import accepts_upsampler
from usu_captum._layer_maps import upsample_layers


@accepts_upsampler(upsample_layers)
class LayerGradCam(captum_attr.LayerGradCam):
    """Captum's ``LayerGradCam`` whose map can be redistributed to the pixels of the input.

    Grad-CAM (Selvaraju et al., 2017) weighs the channels of a layer by their mean gradient:
    (B, 1, h, w) without an upsampler, (B, 1, H, W) with one, signed unless
    ``relu_attributions=True``. The result keeps its graph.

    On transformer layers, whose output is a sequence of tokens (B, N, C) or has its channels last,
    Captum would average over channels and sum over positions. With an upsampler this class reads
    the layout from the model and gives the Grad-CAM of the patches instead.

    Raises:
        ValueError: From ``attribute``, if the upsampler is unknown, the layer gives no spatial
            map, it is not known how tokens lie, or no gradient reaches the patch tokens.
        AssertionError: From Captum, if inputs or target do not fit.

    Cost:
        Captum's, plus what the upsampler's scorer costs. On transformers one forward and one
        backward pass, as elsewhere.

    Example:
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 2, 3, stride=2, padding=1), torch.nn.ReLU(),
        ...     torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        ... ).eval()
        >>> grad_cam = LayerGradCam(model, model[1])
        >>> images = torch.rand(2, 1, 8, 8)
        >>> grad_cam.attribute(images, target=1).shape
        torch.Size([2, 1, 4, 4])
        >>> grad_cam.attribute(images, target=1, upsampler="usu").shape
        torch.Size([2, 1, 8, 8])
    """
