"""What three of the library's classes need besides redistribution."""

import inspect
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import AblationCAM
from pytorch_grad_cam.ablation_layer import AblationLayerVit
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import Tensor, nn

from usu_gradcam._arrays import Array, as_array
from usu_gradcam._model import Evaluated
from usu_gradcam._redistributed import Redistributed
from usu_gradcam._reshape import ChannelsLast, TokenReshape


class RedistributedShapley(Redistributed):
    """Lets ShapleyCAM, which needs second derivatives, take several layers and transformers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Fused attention has no second derivative.
        self.activations_and_grads.model = Evaluated(self.model, fused_attention=False)

    def get_cam_image(
        self,
        input_tensor: Tensor,
        target_layer: nn.Module,
        targets: list[Any],
        activations: Tensor,
        grads: Tensor,
        eigen_smooth: bool = False,
    ) -> Array:
        # As the library's, but for two things: it frees the graph, so that a second layer fails,
        # and reshapes what the weights are made from, but not what they weigh.
        (product,) = torch.autograd.grad(
            grads, activations, activations, retain_graph=True, allow_unused=True
        )
        product = torch.zeros_like(grads) if product is None else product
        reshape = self.reshape_transform or (lambda tokens: tokens)
        # Reshaped before they are subtracted, as there.
        slopes = as_array(reshape(grads) - 0.5 * reshape(product))
        weights = np.mean(slopes, axis=tuple(range(2, slopes.ndim)), keepdims=True)
        weighted = weights * as_array(reshape(activations))
        cam: Array = get_2d_projection(weighted) if eigen_smooth else weighted.sum(axis=1)
        return cam


class RedistributedAblation(Redistributed):
    """Gives each AblationCAM its own layer, and transformers one that ablates their channels.

    The library's default is one object for all, and takes tokens for channels.
    """

    ablation_layer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        default = inspect.signature(AblationCAM.__init__).parameters["ablation_layer"].default
        if self.ablation_layer is default:
            last = isinstance(self.reshape_transform, TokenReshape | ChannelsLast)
            self.ablation_layer = AblationLayerVit() if last else type(default)()

    def forward(
        self, input_tensor: Tensor, targets: list[Any] | None, eigen_smooth: bool = False
    ) -> Array:
        try:
            return super().forward(input_tensor, targets, eigen_smooth)
        finally:  # Both hold a batch of activations.
            self.activations = self.ablation_layer.activations = None

    def get_cam_weights(self, *args: Any, **kwargs: Any) -> Array:
        weights: Array = super().get_cam_weights(*args, **kwargs)
        if not np.isfinite(weights).all():
            raise ValueError(
                "model must give AblationCAM finite scores other than 0, got none for some channel "
                "or image. It ablates signed activations with -1e7, which float16 cannot hold. Try "
                "bfloat16, a layer behind a ReLU, or another target."
            )
        return weights


class RedistributedFullGrad(Redistributed):
    """Keeps FullGrad's biases in a precision numpy has."""

    def get_bias_data(self, layer: nn.Module) -> Tensor:
        bias: Tensor = super().get_bias_data(layer)
        return bias.float() if bias.dtype in (torch.float16, torch.bfloat16) else bias
