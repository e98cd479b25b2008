"""A wrapper that upsamples what any Captum attribution gives."""

from typing import Any

from captum import attr as captum_attr
from captum.attr import Attribution
from captum.log import log_usage

from usu_captum._attribute import Attribute, Upsample, unlogged
from usu_captum._frames import FRAMES
from usu_captum._guided import upsample_guided
from usu_captum._layer_maps import upsample_layers, without_target
from usu_captum._models import keeping_gradient_flags
from usu_captum._options import Options
from usu_captum._patch_maps import upsample_patches
from usu_captum._wrapping import innermost
from usu_core import AnyUpsampler, CellGrid
from usu_core._tokens import TokenGrid

_PATCHES = (
    captum_attr.FeatureAblation,
    captum_attr.ShapleyValueSampling,
    captum_attr.Lime,
    captum_attr.DataLoaderAttribution,
)


class Upsampled(Attribution):
    """Wrap any Captum attribution, in the manner of ``NoiseTunnel``, and upsample its result.

    Around a noise tunnel, coarse maps are averaged and the model is scored once; inside one, every
    noisy sample is segmented and scored, at so many times the cost::

        Upsampled(NoiseTunnel(LayerGradCam(model, layer)))
        NoiseTunnel(Upsampled(LayerGradCam(model, layer)))

    Layer attributions, Guided Grad-CAM and patches of a ``feature_mask`` or a sliding window are
    upsampled. Attributions that give every pixel a value already come back as they are.
    ``DataLoaderAttribution`` explains a data set rather than an image, so it takes upsamplers that
    look at none, such as ``"nearest"`` and ``"bilinear"``.

    Args:
        attribution_method: Any Captum attribution.
        upsampler: A name or an object; ``None`` gives the wrapped method's own result.
        image_input: Which of several ``inputs`` is the image to redistribute over.
        reduce: ``"sum"`` of the channels before, or ``None``.
        expand_to_input: Repeat the map for every channel of the image.
        convention: ``"density"``, ``"total"``, or ``None``: total where a delta is returned and
            for patches, else the upsampler's own.
        grid: Where tokens or cells lie, if that cannot be read.

    Raises:
        TypeError: If ``attribution_method`` is no Captum attribution.
        ValueError: If an option is unknown; from ``attribute``, if the result is no map.

    Example:
        >>> from captum.attr import LayerGradCam, NoiseTunnel
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 2, 2), torch.nn.Flatten()).eval()
        >>> smooth = Upsampled(NoiseTunnel(LayerGradCam(model, model[0])), "usu")
        >>> smooth.attribute(torch.rand(1, 1, 8, 8), nt_samples=2, target=3).shape
        torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        attribution_method: Attribution,
        upsampler: str | AnyUpsampler | None = "usu",
        *,
        image_input: int = 0,
        reduce: str | None = "sum",
        expand_to_input: bool = False,
        convention: str | None = None,
        grid: TokenGrid | CellGrid | None = None,
    ) -> None:
        if not isinstance(attribution_method, Attribution):
            kind = type(attribution_method).__name__
            raise TypeError(
                f"attribution_method must be a Captum attribution, got {kind}. Try "
                "Upsampled(LayerGradCam(model, layer))."
            )
        Attribution.__init__(self, attribution_method.forward_func)
        self.attribution_method = attribution_method
        self.options = Options(upsampler, image_input, reduce, expand_to_input, convention, grid)

    @property
    def multiplies_by_inputs(self) -> bool:
        """As the wrapped method."""
        return bool(self.attribution_method.multiplies_by_inputs)

    @property
    def is_gradient_method(self) -> bool:
        """Whether the wrapped method takes gradients with respect to its inputs."""
        method = innermost(self.attribution_method)
        if isinstance(method, captum_attr.GradientAttribution):
            return True
        return bool(getattr(method, "is_gradient_method", False))

    def has_convergence_delta(self) -> bool:
        """As the wrapped method."""
        return bool(self.attribution_method.has_convergence_delta())

    def compute_convergence_delta(self, *args: Any, **kwargs: Any) -> Any:
        """As the wrapped method; true of fine maps in the total convention."""
        return self.attribution_method.compute_convergence_delta(*args, **kwargs)

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(self, inputs: Any, **kwargs: Any) -> Any:
        """Run the wrapped method and upsample its result.

        Args:
            inputs: As the wrapped method takes them.
            kwargs: Passed on. Methods that have no ``target`` take one here, for the score.

        Returns:
            What the wrapped method returns, with fine maps in place of coarse ones; a delta stays.
        """
        method = self.attribution_method
        with FRAMES.suspended():  # A patch would upsample what is wrapped before it comes here.
            if self.options.upsampler is None:
                return _attribute(method, inputs, **without_target(method, kwargs))
            upsample = upsampling_of(method)
            if upsample is None:
                return _attribute(method, inputs, **kwargs)
            with keeping_gradient_flags(inputs):
                return upsample(method, _attribute, inputs, kwargs, self.options)

    def attribute_future(self) -> None:
        """Not implemented, as for most of Captum."""
        raise NotImplementedError("attribute_future is not implemented for Upsampled.")


def upsampling_of(method: Any) -> Upsample | None:
    """Return what upsamples a method's result, or ``None`` if that is as fine as the image."""
    inner = innermost(method)
    if isinstance(inner, captum_attr.LayerAttribution):
        return upsample_layers
    if isinstance(inner, captum_attr.GuidedGradCam):
        if inner is not method:
            raise ValueError(
                "attribution_method must not be a noise tunnel around GuidedGradCam, which "
                "resizes inside. Try NoiseTunnel(Upsampled(GuidedGradCam(model, layer)))."
            )
        return upsample_guided
    return upsample_patches if isinstance(inner, _PATCHES) else None


def _attribute(method: Any, inputs: Any, **arguments: Any) -> Any:
    attribute: Attribute = unlogged(type(method).attribute)
    return attribute(method, inputs, **arguments)
