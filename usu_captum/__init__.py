"""Captum's attributions with an ``upsampler=`` argument.

Every class is a subclass of Captum's own of the same name. Without an upsampler the result is
Captum's, bit for bit; with one it has the size of the input.
"""

from usu_captum._layer_grad_cam import LayerGradCam
from usu_captum._layers import default_layer
from usu_captum._score import ForwardScore
from usu_captum._tokens import TokenGrid, token_grid

__all__ = ["ForwardScore", "LayerGradCam", "TokenGrid", "default_layer", "token_grid"]
