"""Gradients integrated along paths, as Captum-style attributions on one engine."""

from usu_captum.paths._attribution import PathAttribution
from usu_captum.paths._autoencoders import Autoencoder, DiffusersAutoencoder
from usu_captum.paths._blur import BlurIG
from usu_captum.paths._directions import ManipulationPath, SAMPDirections
from usu_captum.paths._guided import GuidedIG
from usu_captum.paths._manifold import ManifoldGuidedIG
from usu_captum.paths._objective import OBJECTIVES
from usu_captum.paths._quadrature import QUADRATURES
from usu_captum.paths._samp import SAMP
from usu_captum.paths._samp_plus_plus import SAMPPlusPlus
from usu_captum.paths._spectral import SpectralIG
from usu_captum.paths._straight import IntegratedGradients

__all__ = [
    "OBJECTIVES",
    "QUADRATURES",
    "SAMP",
    "Autoencoder",
    "BlurIG",
    "DiffusersAutoencoder",
    "GuidedIG",
    "IntegratedGradients",
    "ManifoldGuidedIG",
    "ManipulationPath",
    "PathAttribution",
    "SAMPDirections",
    "SAMPPlusPlus",
    "SpectralIG",
]
