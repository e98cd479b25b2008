"""What specks buy: scattered pixels of high input x gradient, put in front of an explainer's order.

    python -m benchmarks.ranking_specks resnet18 --gradients
    python -m benchmarks.ranking_specks deit_tiny --gradients

A classifier misses such pixels at once, and they show it next to nothing alone. Takes the network
of ``benchmarks.ranking_train`` (which trains it if it is not there), its reported images and its
measures. A control of deletion, and no map for anybody to look at.
"""

import torch
from torch import Tensor

from benchmarks._ranking_maps import refined_maps, single_pass_maps
from benchmarks._ranking_subjects import Subject
from benchmarks.ranking_heldout import ranks
from benchmarks.ranking_passes import compare
from usu_captum.ranking import RankingNetwork

SHARES = (0.02, 0.05, 0.1, 0.2)
SPECKS = "input x gradient"


def main() -> None:
    """Measure, print the table and write the JSON."""
    compare(__doc__, "specks", with_specks, images=40)


def specks_first(order: Tensor, specks: Tensor, share: float) -> Tensor:
    """Put a share of the pixels, the highest of ``specks``, in front of an order.

    Args:
        order: (B, H, W), higher comes first; so do ``specks``.
        specks: (B, H, W).
        share: Of the pixels, in [0, 1].

    Returns:
        (B, H, W), an order.
    """
    highest = ranks(specks)
    return torch.where(highest > 1 - share, 1 + highest, ranks(order))


def with_specks(
    subject: Subject, network: RankingNetwork, image: Tensor, target: int
) -> dict[str, Tensor]:
    """Return the explainer's map, without and with specks in front, and what it is against."""
    single = single_pass_maps(subject, image, target)
    maps = refined_maps(subject, network, image, target, ())
    own, specks = (m.detach().view(1, *image.shape[2:]) for m in (maps["ranking"], single[SPECKS]))
    for share in SHARES:
        maps[f"{share:.0%} specks, ranking"] = specks_first(own, specks, share)
    for name in ("Grad-CAM bilinear", SPECKS):
        maps[name] = single[name]
    return maps


if __name__ == "__main__":
    main()
