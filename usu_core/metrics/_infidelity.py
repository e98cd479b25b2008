"""Infidelity as the Quantus library computes it, for comparison with printed numbers."""

import torch
from torch import Tensor

from usu_core._checks import check_count
from usu_core.metrics._evaluation import check_maps, check_planes
from usu_core.metrics._ranking import scores_along
from usu_core.scoring import ModelScore, ScoreFunction


def quantus_infidelity(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    *,
    patch: int = 4,
    output: str = "logit",
    chunk_size: int = 64,
) -> Tensor:
    """Infidelity in the form of the Quantus library; lower is better.

    A parity form: use it to compare with numbers that papers print, and
    :func:`scale_optimised_infidelity` to judge maps. Patches are hidden one after another and
    never restored, in reading order, by the image's smallest value. With ``I_k`` the pixels hidden
    after ``k`` of ``K`` patches and ``x_k`` the image without them::

        1 / K · sum_k (f(x) - f(x_k) - sum_{p in I_k} a_p · (x - x_k)_p)²

    The sum over pixels also runs over channels. The result follows the scale of the map more than
    its shape: dividing a map by its maximum changes it by orders of magnitude.

    Args:
        score: The explained scalar.
        images: (B, C, H, W).
        attribution: (B, H, W), multiplied by what is taken from each channel.
        patch: Side of a patch in pixels; patches at the lower and right border may be smaller.
        output: Scale of the score.
        chunk_size: Images per model call.

    Returns:
        (B,) float64, 0 or above.

    Raises:
        ValueError: If shapes do not match, or images, maps or scores are not finite.

    Cost:
        ``B · (1 + ceil(H / patch) · ceil(W / patch))`` model evaluations.

    Example:
        >>> images = torch.tensor([[[[4.0, 3.0], [2.0, 0.0]]]])
        >>> gradient = torch.ones(1, 2, 2)
        >>> quantus_infidelity(lambda x: x.sum((1, 2, 3)), images, gradient, patch=1)
        tensor([0.], dtype=torch.float64)
    """
    check_count("patch", patch)
    attribution = check_maps(images, attribution)
    check_planes(images)
    H, W = images.shape[2:]
    row = torch.arange(H, device=images.device) // patch
    column = torch.arange(W, device=images.device) // patch
    place = (row[:, None] * -(-W // patch) + column).expand(len(images), H, W)
    count = -(-H // patch) * -(-W // patch)
    fill = images.amin((1, 2, 3), keepdim=True).expand_as(images)
    scores = scores_along(
        score, images, fill, place, range(count + 1), output=output, chunk_size=chunk_size
    ).double()
    share = attribution.double() * (images - fill).double().sum(1)
    mass = share.new_zeros(len(images), count).scatter_add_(1, place.flatten(1), share.flatten(1))
    return (scores[:, :1] - scores[:, 1:] - mass.cumsum(1)).square().mean(1)
