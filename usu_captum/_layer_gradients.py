"""Layer attributions by activations, gradients and integrated gradients."""

from inspect import Parameter

from captum import attr as captum_attr

from usu_captum._attribute import accepts_upsampler
from usu_captum._layer_maps import upsample_layers

_SCORED = Parameter("target", Parameter.KEYWORD_ONLY, default=None)


@accepts_upsampler(upsample_layers, _SCORED)
class LayerActivation(captum_attr.LayerActivation):
    """Captum's ``LayerActivation``: what the layer outputs, (B, C, h, w) or (B, 1, H, W).

    An activation has no target, but redistributing it follows the model's score of one: pass it
    as ``target=``, which Captum's class does not have.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> activation = LayerActivation(model, model[0])
        >>> activation.attribute(torch.rand(1, 1, 8, 8), target=3, upsampler="usu").shape
        torch.Size([1, 1, 8, 8])
    """


@accepts_upsampler(upsample_layers)
class LayerGradientXActivation(captum_attr.LayerGradientXActivation):
    """Captum's ``LayerGradientXActivation``: (B, C, h, w), or (B, 1, H, W) with an upsampler.

    Takes a list of layers as well, and then returns a list; the model is scored once for all.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> product = LayerGradientXActivation(model, [model[0]])
        >>> maps = product.attribute(torch.rand(1, 1, 8, 8), target=3, upsampler="usu")
        >>> [fine.shape for fine in maps]
        [torch.Size([1, 1, 8, 8])]
    """


@accepts_upsampler(upsample_layers)
class LayerConductance(captum_attr.LayerConductance):
    """Captum's ``LayerConductance``: (B, C, h, w), or (B, 1, H, W) with an upsampler.

    With ``return_convergence_delta=True`` the fine map sums to what the coarse one does, so the
    delta is true of it.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> conductance = LayerConductance(model, model[0])
        >>> conductance.attribute(torch.rand(1, 1, 8, 8), target=3, upsampler="usu").shape
        torch.Size([1, 1, 8, 8])
    """


@accepts_upsampler(upsample_layers)
class LayerIntegratedGradients(captum_attr.LayerIntegratedGradients):
    """Captum's ``LayerIntegratedGradients``: (B, C, h, w), or (B, 1, H, W) with an upsampler.

    Takes a list of parallel layers. With ``return_convergence_delta=True`` the fine map sums to
    what the coarse one does, so the delta is true of it.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> gradients = LayerIntegratedGradients(model, model[0])
        >>> images = torch.rand(1, 1, 8, 8)
        >>> fine, delta = gradients.attribute(
        ...     images, target=3, return_convergence_delta=True, upsampler="usu"
        ... )
        >>> difference = (model(images) - model(torch.zeros_like(images)))[:, 3]
        >>> torch.allclose(fine.sum((1, 2, 3)) - difference, delta, atol=1e-5)
        True
    """


@accepts_upsampler(upsample_layers)
class InternalInfluence(captum_attr.InternalInfluence):
    """Captum's ``InternalInfluence``: (B, C, h, w), or (B, 1, H, W) with an upsampler.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> influence = InternalInfluence(model, model[0])
        >>> influence.attribute(torch.rand(1, 1, 8, 8), target=3, upsampler="usu").shape
        torch.Size([1, 1, 8, 8])
    """
