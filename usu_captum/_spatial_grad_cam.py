"""Grad-CAM on layers whose channels are not in Captum's place."""

from typing import Any

from captum import attr as captum_attr
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum.log import log_usage
from torch import Tensor
from torch.nn import functional

from usu_captum._layout import is_spatial, lay_out, needs_layout
from usu_captum._options import Options
from usu_captum._upsampling import image_of
from usu_captum._wrapping import innermost, with_innermost


class SpatialGradCam(captum_attr.LayerGradCam):
    """Grad-CAM that lays tokens (B, N, C) and (B, h, w, C) out before it takes means.

    Captum averages gradients over all dimensions but the first two and sums over the second: on
    tokens, that is a mean over channels and a sum over positions.
    """

    options = Options()

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Return the Grad-CAM (B, 1, h, w) of the layer, a tuple if it gives several outputs."""
        image = image_of(inputs, self.options.image_input)
        gradients, activations = compute_layer_gradients_and_eval(
            self.forward_func,
            self.layer,
            inputs,
            target,
            additional_forward_args,
            device_ids=self.device_ids,
            attribute_to_layer_input=attribute_to_layer_input,
            **({} if grad_kwargs is None else {"grad_kwargs": grad_kwargs}),
        )
        maps = tuple(
            self._weigh(gradient, activation, image, attr_dim_summation, relu_attributions)
            for gradient, activation in zip(gradients, activations, strict=True)
        )
        return maps if len(maps) > 1 else maps[0]

    def _weigh(
        self, gradient: Tensor, activation: Tensor, image: Tensor, summation: bool, relu: bool
    ) -> Tensor:
        slopes, values = gradient, activation
        if is_spatial(activation, image):  # Else as Captum: it may stand beside a map.
            slopes, values = (
                lay_out(part, image, self.forward_func, self.layer, self.options)
                for part in (gradient, activation)
            )
        places = tuple(range(2, slopes.dim()))
        weights = slopes.mean(places, keepdim=True) if places else slopes
        result = weights * values
        if summation:
            result = result.sum(1, keepdim=True)
        return functional.relu(result) if relu else result


def spatial(method: Any, options: Options) -> Any:
    """Return a copy of Captum's Grad-CAM, alone or in noise tunnels, that is right on tokens.

    Anything else, and Grad-CAM on layers with channels first, comes back as it is.
    """
    inner = innermost(method)
    if not isinstance(inner, captum_attr.LayerGradCam) or isinstance(inner, SpatialGradCam):
        return method
    if not needs_layout(inner.forward_func, inner.layer, options):
        return method
    replacement = SpatialGradCam(inner.forward_func, inner.layer, inner.device_ids)
    replacement.options = options
    return with_innermost(method, replacement)
