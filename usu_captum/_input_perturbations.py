"""Attributions of patches of the input, redistributed inside each patch.

With an upsampler, all of these need to know the patches: a ``feature_mask`` that is the same in
every channel, or for :class:`Occlusion` the window. Captum writes a patch's whole effect to every
pixel of it; the fine map (B, 1, H, W) divides it among them, so by default they add up to it
(``convention="total"``), and a patch twice as large does not count twice.
"""

from captum import attr as captum_attr

from usu_captum._attribute import accepts_upsampler
from usu_captum._patch_maps import upsample_patches


@accepts_upsampler(upsample_patches)
class FeatureAblation(captum_attr.FeatureAblation):
    """Captum's ``FeatureAblation``; patches of a ``feature_mask`` are redistributed.

    Example:
        >>> model = torch.nn.Flatten()
        >>> patches = torch.arange(4).reshape(1, 1, 2, 2).repeat_interleave(4, 2)
        >>> patches = patches.repeat_interleave(4, 3)
        >>> images = torch.rand(1, 1, 8, 8)
        >>> ablation = FeatureAblation(lambda images: images.sum((1, 2, 3)))
        >>> fine = ablation.attribute(images, feature_mask=patches, upsampler="usu")
        >>> torch.allclose(fine[..., :4, :4].sum(), images[..., :4, :4].sum())
        True
    """


@accepts_upsampler(upsample_patches)
class FeaturePermutation(captum_attr.FeaturePermutation):
    """Captum's ``FeaturePermutation``; patches of a ``feature_mask`` are redistributed.

    Example:
        >>> patches = torch.arange(4).reshape(1, 1, 2, 2).repeat_interleave(4, 2)
        >>> patches = patches.repeat_interleave(4, 3)
        >>> permutation = FeaturePermutation(lambda images: images.sum((1, 2, 3)))
        >>> images = torch.rand(2, 1, 8, 8)
        >>> permutation.attribute(images, feature_mask=patches, upsampler="usu").shape
        torch.Size([2, 1, 8, 8])
    """


@accepts_upsampler(upsample_patches)
class Occlusion(captum_attr.Occlusion):
    """Captum's ``Occlusion``; the windows' effects are redistributed.

    Windows that follow each other edge to edge (``strides`` as large as the window) are patches.
    Where windows overlap, Captum averages the effects of all that cover a pixel; cells are then
    the regions between the windows' edges, and each gets that average times the part of a window
    it makes up.

    Windows must cover all channels, or one each; in the latter case channels are added up.

    Example:
        >>> occlusion = Occlusion(lambda images: images.sum((1, 2, 3)))
        >>> images = torch.rand(1, 1, 8, 8)
        >>> fine = occlusion.attribute(images, (1, 4, 4), strides=(1, 4, 4), upsampler="usu")
        >>> torch.allclose(fine[..., :4, :4].sum(), images[..., :4, :4].sum())
        True
    """


@accepts_upsampler(upsample_patches)
class ShapleyValueSampling(captum_attr.ShapleyValueSampling):
    """Captum's ``ShapleyValueSampling``; patches of a ``feature_mask`` are redistributed.

    Example:
        >>> patches = torch.tensor([[[[0, 0, 1, 1]] * 4]])
        >>> shapley = ShapleyValueSampling(lambda images: images.sum((1, 2, 3)))
        >>> fine = shapley.attribute(
        ...     torch.ones(1, 1, 4, 4), feature_mask=patches, n_samples=2, upsampler="nearest"
        ... )
        >>> float(fine.sum())
        16.0
    """


@accepts_upsampler(upsample_patches)
class ShapleyValues(captum_attr.ShapleyValues):
    """Captum's ``ShapleyValues``; patches of a ``feature_mask`` are redistributed.

    Example:
        >>> patches = torch.tensor([[[[0, 0, 1, 1]] * 4]])
        >>> shapley = ShapleyValues(lambda images: images.sum((1, 2, 3)))
        >>> fine = shapley.attribute(
        ...     torch.ones(1, 1, 4, 4), feature_mask=patches, upsampler="nearest"
        ... )
        >>> float(fine.sum())
        16.0
    """


@accepts_upsampler(upsample_patches)
class Lime(captum_attr.Lime):
    """Captum's ``Lime``; coefficients of a ``feature_mask``'s patches are redistributed.

    Example:
        >>> patches = torch.tensor([[[[0, 0, 1, 1]] * 4]])
        >>> lime = Lime(lambda images: images.sum((1, 2, 3)))
        >>> lime.attribute(
        ...     torch.rand(1, 1, 4, 4), feature_mask=patches, n_samples=8, upsampler="usu"
        ... ).shape
        torch.Size([1, 1, 4, 4])
    """


@accepts_upsampler(upsample_patches)
class KernelShap(captum_attr.KernelShap):
    """Captum's ``KernelShap``; values of a ``feature_mask``'s patches are redistributed.

    Example:
        >>> patches = torch.tensor([[[[0, 0, 1, 1]] * 4]])
        >>> shap = KernelShap(lambda images: images.sum((1, 2, 3)))
        >>> shap.attribute(
        ...     torch.rand(1, 1, 4, 4), feature_mask=patches, n_samples=8, upsampler="usu"
        ... ).shape
        torch.Size([1, 1, 4, 4])
    """
