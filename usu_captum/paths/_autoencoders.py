"""Autoencoders as Manifold-aligned Guided IG uses them, and those of diffusers as one."""

from typing import Any, Protocol

from torch import Tensor

from usu_captum._image_space import IMAGENET, ImageSpace


class Autoencoder(Protocol):
    """Two functions between images, in the space of the explained model's inputs, and latents."""

    def encode(self, images: Tensor) -> Tensor:
        """Return latents (B, ...) of images (B, C, H, W)."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, C, H, W) of latents, differentiably."""
        ...


class DiffusersAutoencoder:
    """An ``AutoencoderKL`` or ``AutoencoderTiny`` of diffusers, for a model's inputs.

    Those networks take and give pixels in [-1, 1]; the explained model takes its own. Latents are
    the posterior's mean, without the scaling factor of diffusion.

    Args:
        autoencoder: The network, in evaluation mode.
        space: Where the explained model's inputs live.

    Raises:
        TypeError: If the network has no ``encode`` and ``decode``.

    Example:
        >>> from types import SimpleNamespace
        >>> network = SimpleNamespace(
        ...     encode=lambda pixels: SimpleNamespace(latents=pixels / 2),
        ...     decode=lambda latents: SimpleNamespace(sample=latents * 2),
        ... )
        >>> autoencoder = DiffusersAutoencoder(network, ImageSpace((0.5,), (0.25,)))
        >>> autoencoder.encode(torch.full((1, 1, 1, 1), 2.0)).item()  # raw 1, as the network's 1
        0.5
        >>> autoencoder.decode(torch.zeros(1, 1, 1, 1)).item()
        0.0
    """

    def __init__(self, autoencoder: Any, space: ImageSpace = IMAGENET) -> None:
        for name in ("encode", "decode"):
            if not callable(getattr(autoencoder, name, None)):
                raise TypeError(
                    f"autoencoder must have a method {name}, got {type(autoencoder).__name__}. "
                    "Try an AutoencoderKL or AutoencoderTiny of diffusers."
                )
        self._autoencoder, self._space = autoencoder, space

    def encode(self, images: Tensor) -> Tensor:
        """Return latents of the model's inputs."""
        found = self._autoencoder.encode(self._space.to_raw(images) * 2 - 1)
        # Variational ones describe a distribution, the tiny one gives its latents directly.
        posterior = getattr(found, "latent_dist", None)
        latents: Tensor = found.latents if posterior is None else posterior.mode()
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Return inputs of the model; colours outside the raw range are not clipped."""
        return self._space.from_raw((self._autoencoder.decode(latents).sample + 1) / 2)
