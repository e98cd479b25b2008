"""An autoencoder without training loops: principal components of 8 x 8 colour patches.

Guided paths on a manifold ask for an autoencoder; the papers use one of a diffusion model, which is
not at hand offline. This one is linear: latents are (B, components, H / 8, W / 8), 8 times smaller
per side like theirs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PATCH = 8


@dataclass(frozen=True)
class PatchPCA:
    """Encode every patch by its coordinates along the main directions of real patches.

    Attributes:
        mean: (C * 64,), the mean patch.
        basis: (components, C * 64), orthonormal rows.
    """

    mean: Tensor
    basis: Tensor

    def encode(self, images: Tensor) -> Tensor:
        """Return latents (B, components, H / 8, W / 8) of images (B, C, H, W)."""
        patches = F.pixel_unshuffle(images, PATCH)
        centred = patches - self.mean.to(patches).view(1, -1, 1, 1)
        return torch.einsum("kc,bchw->bkhw", self.basis.to(patches), centred)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (B, C, H, W) of latents."""
        patches = torch.einsum("kc,bkhw->bchw", self.basis.to(latents), latents)
        return F.pixel_shuffle(patches + self.mean.to(latents).view(1, -1, 1, 1), PATCH)


def fit_patch_pca(images: Tensor, components: int) -> PatchPCA:
    """Fit the components to images (B, C, H, W)."""
    patches = F.pixel_unshuffle(images, PATCH).movedim(1, -1).flatten(0, -2).double()
    mean = patches.mean(0)
    centred = patches - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return PatchPCA(mean.float(), vectors[:, -components:].flip(1).T.float().contiguous())
