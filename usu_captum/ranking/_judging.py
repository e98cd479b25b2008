"""How good the maps of held-out images are, by hard deletion and insertion."""

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from usu_captum._image_space import ImageSpace
from usu_captum._models import in_its_dtype
from usu_captum._score import ForwardScore
from usu_captum.ranking._checks import check_images
from usu_captum.ranking._classes import logits_of
from usu_captum.ranking._images import ImageSource, UnreadableImageError
from usu_captum.ranking._network import RankingNetwork
from usu_captum.ranking._randomness import seeded
from usu_captum.ranking._references import reference_images
from usu_core import metrics

STEPS = 20


def judge(
    network: RankingNetwork,
    classifier: Any,
    images: Tensor,
    *,
    references: tuple[str, ...],
    space: ImageSpace | None,
) -> Tensor:
    """Return deletion and insertion of the maps for each image's top-1 class.

    Pixels are removed in 20 equal steps; softmax probability; mean over the references. The
    network should be in evaluation mode.

    Args:
        network: Makes the maps.
        classifier: Judges them.
        images: (B, C, H, W).
        references: Names, as in :func:`reference_images`.
        space: Where the images live.

    Returns:
        (B, 2): deletion, lower is better, and insertion, higher is better.

    Cost:
        ``42 B`` classifier passes per reference, and one pass of the network.
    """
    targets = logits_of(classifier, images, network.config.classes).argmax(1)
    with torch.no_grad():
        maps = network(images, targets)[:, 0].float()
    score = ForwardScore(classifier, targets)
    found = []
    for name in references:
        fill = reference_images(images, name, space)
        removed = metrics.deletion(score, images, maps, reference=fill, steps=STEPS)
        revealed = metrics.insertion(score, images, maps, reference=fill, steps=STEPS)
        found.append(torch.stack([removed.auc, revealed.auc], 1))
    return torch.stack(found).mean(0)


def judge_source(
    network: RankingNetwork,
    classifier: Any,
    source: ImageSource,
    *,
    references: tuple[str, ...],
    space: ImageSpace | None,
    batch_size: int,
    device: torch.device,
    strict: bool = False,
    process: int = 0,
    processes: int = 1,
    progress: bool = False,
) -> tuple[Tensor, tuple[str, ...]]:
    """Sum :func:`judge` over this process's share of a source; ``strict`` raises as training does.

    The classifier is in evaluation mode. Images are read by fixed seeds, so that the same ones are
    judged each time; ``progress`` shows a bar of the classifier's passes.

    Returns:
        (3,): the sums of deletion and insertion and the number of images, float64; and what could
        not be read.

    Raises:
        ValueError: If images are of another shape than the network's.
    """
    total = torch.zeros(3, dtype=torch.float64)
    unreadable: list[str] = []
    mine = range(process, len(source), processes)
    passes = len(mine) * (1 + 2 * (STEPS + 1) * len(references))
    bar = tqdm(total=passes, disable=not progress, desc="evaluating", unit="pass", leave=False)

    def counted(images: Tensor) -> Any:
        bar.update(len(images))
        return classifier(images)

    for start in range(0, len(mine), batch_size):
        images = []
        for index in mine[start : start + batch_size]:
            try:
                with seeded(index):
                    images.append(source[index].image)
            except UnreadableImageError as error:
                if strict:
                    raise
                unreadable.append(str(error))
        if images:
            batch = in_its_dtype(classifier, torch.stack(images).to(device))
            check_images("held_out", batch, network.config.input_shape)
            values = judge(network, counted, batch, references=references, space=space)
            total[:2] += values.cpu().double().sum(0)  # not every device has float64
            total[2] += len(images)
    bar.close()
    return total, tuple(unreadable)
