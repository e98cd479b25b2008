"""Layer attributions that compare with a reference, or pass relevance back."""

from captum import attr as captum_attr

from usu_captum._attribute import accepts_upsampler
from usu_captum._layer_maps import upsample_layers


@accepts_upsampler(upsample_layers)
class LayerDeepLift(captum_attr.LayerDeepLift):
    """Captum's ``LayerDeepLift``: (B, C, h, w), or (B, 1, H, W) with an upsampler.

    With ``return_convergence_delta=True`` the fine map sums to what the coarse one does, so the
    delta is true of it.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> deep_lift = LayerDeepLift(model, model[0])
        >>> deep_lift.attribute(torch.rand(1, 1, 8, 8), target=3, upsampler="usu").shape
        torch.Size([1, 1, 8, 8])
    """


@accepts_upsampler(upsample_layers)
class LayerDeepLiftShap(captum_attr.LayerDeepLiftShap):
    """Captum's ``LayerDeepLiftShap``: (B, C, h, w), or (B, 1, H, W) with an upsampler.

    The delta has one entry per pair of input and baseline, as in Captum.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> deep_lift = LayerDeepLiftShap(model, model[0])
        >>> images, baselines = torch.rand(1, 1, 8, 8), torch.zeros(2, 1, 8, 8)
        >>> deep_lift.attribute(images, baselines, target=3, upsampler="usu").shape
        torch.Size([1, 1, 8, 8])
    """


@accepts_upsampler(upsample_layers)
class LayerGradientShap(captum_attr.LayerGradientShap):
    """Captum's ``LayerGradientShap``: (B, C, h, w), or (B, 1, H, W) with an upsampler.

    The expectation is taken over coarse maps, and its result is upsampled once.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> shap = LayerGradientShap(model, model[0])
        >>> images, baselines = torch.rand(1, 1, 8, 8), torch.zeros(2, 1, 8, 8)
        >>> shap.attribute(images, baselines, target=3, upsampler="usu").shape
        torch.Size([1, 1, 8, 8])
    """


@accepts_upsampler(upsample_layers)
class LayerLRP(captum_attr.LayerLRP):
    """Captum's ``LayerLRP``: (B, C, h, w), or (B, 1, H, W) with an upsampler.

    Needs a module, a layer that Captum has a rule for, and takes a list of layers.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.AvgPool2d(4)).eval()
        >>> relevance = LayerLRP(model, model[0])
        >>> images = torch.rand(1, 1, 8, 8, requires_grad=True)
        >>> relevance.attribute(images, target=(1, 0, 0), upsampler="usu").shape
        torch.Size([1, 1, 8, 8])
    """
