"""Grad-CAM."""

from typing import Any

from captum import attr as captum_attr
from captum._utils.gradient import compute_layer_gradients_and_eval
from captum.log import log_usage
from torch import Tensor
from torch.nn import functional

from usu_captum._tokens import token_grad_cam
from usu_captum._upsampling import upsample
from usu_core import AnyUpsampler, resolve


class LayerGradCam(captum_attr.LayerGradCam):
    """Captum's ``LayerGradCam`` whose map can be redistributed to the pixels of the input.

    Grad-CAM (Selvaraju et al., 2017) weighs the channels of a layer by their mean gradient. See
    ``captum.attr.LayerGradCam`` for the constructor and all arguments but the last two.

    On transformer layers, whose output is a sequence of tokens, Captum would average over channels
    and sum over tokens. With an upsampler this class reads the token grid from the model and gives
    the Grad-CAM of the tokens instead.

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
        upsampler: str | AnyUpsampler | None = None,
        image_input: int = 0,
    ) -> Any:
        """Attribute the target to the layer, and redistribute the result if asked to.

        Args:
            inputs: As in Captum.
            target: As in Captum.
            additional_forward_args: As in Captum.
            attribute_to_layer_input: As in Captum.
            relu_attributions: As in Captum; applied to the coarse map.
            attr_dim_summation: As in Captum.
            grad_kwargs: As in Captum (0.8 and later).
            upsampler: ``None`` for Captum's coarse map, bit for bit; a name such as ``"usu"`` (see
                :func:`usu_core.available`); or an object such as ``usu_core.USU(...)``.
            image_input: Which of several ``inputs`` is the image to redistribute over.

        Returns:
            (B, 1, h, w) without an upsampler; (B, 1, H, W) with one, density unless the upsampler
            says otherwise. A tuple if the layer returns one.

        Raises:
            ValueError: If the upsampler is unknown, or the layer gives no spatial map for it.
            AssertionError: From Captum, if inputs or target do not fit.
        """
        # An unknown name should not cost a gradient first.
        resolved = None if upsampler is None else resolve(upsampler)
        options = {} if grad_kwargs is None else {"grad_kwargs": grad_kwargs}
        coarse = captum_attr.LayerGradCam.attribute.__wrapped__(
            self,
            inputs,
            target=target,
            additional_forward_args=additional_forward_args,
            attribute_to_layer_input=attribute_to_layer_input,
            relu_attributions=relu_attributions,
            attr_dim_summation=attr_dim_summation,
            **options,
        )
        if resolved is None:
            return coarse
        image = inputs[image_input] if isinstance(inputs, tuple) else inputs
        if isinstance(coarse, Tensor) and coarse.dim() == 3 and image.dim() == 4:
            gradients, activations = compute_layer_gradients_and_eval(
                self.forward_func,
                self.layer,
                inputs,
                target,
                additional_forward_args,
                device_ids=self.device_ids,
                attribute_to_layer_input=attribute_to_layer_input,
            )
            coarse = token_grad_cam(self.forward_func, activations[0], gradients[0])
            coarse = functional.relu(coarse) if relu_attributions else coarse
        return upsample(
            coarse,
            resolved,
            inputs=inputs,
            forward_func=self.forward_func,
            target=target,
            additional_forward_args=additional_forward_args,
            image_input=image_input,
        )
