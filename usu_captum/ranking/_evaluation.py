"""How good a network is on held-out images, by all processes together."""

from typing import Any

from usu_captum._image_space import ImageSpace
from usu_captum._models import evaluating
from usu_captum.ranking._images import ImageSource
from usu_captum.ranking._judging import judge_source
from usu_captum.ranking._network import RankingNetwork
from usu_captum.ranking._training_config import TrainingConfig


def evaluate(
    accelerator: Any,
    network: RankingNetwork,
    classifier: Any,
    held_out: ImageSource,
    config: TrainingConfig,
    space: ImageSpace | None,
    *,
    progress: bool,
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Return mean deletion and insertion, and what this process could not read.

    Raises:
        ValueError: If no image can be read, or images are of another shape.
    """
    with evaluating(network):
        total, unreadable = judge_source(
            network,
            classifier,
            held_out,
            references=config.references,
            space=space,
            batch_size=config.batch_size,
            device=accelerator.device,
            strict=config.strict,
            process=accelerator.process_index,
            processes=accelerator.num_processes,
            progress=progress,
        )
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total.to(accelerator.device), "sum").cpu()
    if not total[2]:
        first = f" The first: {unreadable[0]}." if unreadable else ""
        raise ValueError(f"held_out must hold an image that can be read, got none.{first}")
    deletion, insertion = (total[:2] / total[2]).tolist()
    return {"deletion": deletion, "insertion": insertion}, unreadable
