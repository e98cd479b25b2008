"""Gradients integrated along paths, as Captum-style attributions on one engine."""

from usu_captum.paths._attribution import PathAttribution
from usu_captum.paths._objective import OBJECTIVES
from usu_captum.paths._quadrature import QUADRATURES
from usu_captum.paths._straight import IntegratedGradients

__all__ = ["OBJECTIVES", "QUADRATURES", "IntegratedGradients", "PathAttribution"]
