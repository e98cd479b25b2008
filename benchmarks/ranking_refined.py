"""Does refinement improve a trained explainer's maps beyond chance, on photographs?

    python -m benchmarks.ranking_refined resnet18 --gradients

Five steps against none and nothing else, on more photographs than ``benchmarks.ranking_train``
judges, whose network, images and measures it takes.
"""

from torch import Tensor

from benchmarks._ranking_maps import refined_maps
from benchmarks._ranking_subjects import Subject
from benchmarks.ranking_passes import compare
from usu_captum.ranking import RankingNetwork

STEPS = 5


def main() -> None:
    """Measure, print the table and write the JSON."""
    compare(__doc__, "refined", refined, images=200)


def refined(
    subject: Subject, network: RankingNetwork, image: Tensor, target: int
) -> dict[str, Tensor]:
    """Return the explainer's map of a single pass, and the one after its steps."""
    return refined_maps(subject, network, image, target, (STEPS,))


if __name__ == "__main__":
    main()
