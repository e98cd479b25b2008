"""Masked perturbation: hide a segment, see what the model loses."""

from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._checks import check_choice, check_count
from usu_core.scoring._fills import FILLS, fill_images
from usu_core.scoring._model import OUTPUTS, ModelScore
from usu_core.scoring._protocol import LevelScorer

MODES = ("drop", "keep", "both")


@dataclass(frozen=True)
class MaskedPerturbation:
    """Score each segment by the model's loss when it is masked.

    ``drop`` is f(x) - f(x without the segment), ``keep`` is f(the segment alone) - f(nothing), both
    clipped at 0; ``both`` is the mean of the two. "Masked perturbation" is named but not defined
    in arXiv:2603.16067.

    Args:
        mode: ``"drop"``, ``"keep"`` or ``"both"``.
        fill: What replaces masked pixels: ``"blur"``, ``"mean"``, ``"zero"`` or a tensor.
        output: Scale of the model's score: ``"probability"``, ``"logit"`` or ``"log-odds"``.
        chunk_size: Images per model call; bounds memory.

    Cost:
        One model evaluation per segment and mode, and one or two per image. No gradient.

    Example:
        >>> labels = torch.tensor([[0, 0, 1]])
        >>> scorer = MaskedPerturbation(fill="zero")
        >>> from usu_core.scoring import model_score
        >>> total = model_score(lambda images: images.sum((1, 2)))
        >>> score_level = scorer(torch.tensor([[[1.0, 2.0, 5.0]]]), total)
        >>> score_level(labels, torch.ones(1, 2).bool())
        tensor([[3., 5.]])
    """

    mode: str = "drop"
    fill: str | Tensor = "blur"
    output: str = "probability"
    chunk_size: int = 64

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("mode", self.mode, MODES)
        check_choice("output", self.output, OUTPUTS)
        check_count("chunk_size", self.chunk_size)
        if not isinstance(self.fill, Tensor):
            check_choice("fill", self.fill, FILLS)

    def __call__(self, images: Tensor, score: ModelScore) -> LevelScorer:
        """Score the unmasked images once; see :class:`Scorer`."""
        fill = fill_images(images, self.fill)
        everyone = torch.arange(len(images), device=images.device)
        with torch.no_grad():
            whole = nothing = images.new_zeros(0)
            if self.mode != "keep":
                whole = score.evaluate(images, everyone, self.output)
            if self.mode != "drop":
                nothing = score.evaluate(fill, everyone, self.output)

        def score_level(labels: Tensor, active: Tensor) -> Tensor:
            example, segment = active.nonzero(as_tuple=True)
            parts = []
            if self.mode != "keep":
                left = self._masked(fill, images, labels, example, segment, score)
                parts.append((whole[example] - left).clamp(min=0))
            if self.mode != "drop":
                alone = self._masked(images, fill, labels, example, segment, score)
                parts.append((alone - nothing[example]).clamp(min=0))
            values = torch.stack(parts).mean(0)
            return values.new_zeros(active.shape).index_put_((example, segment), values)

        return score_level

    def _masked(
        self,
        inside: Tensor,
        outside: Tensor,
        labels: Tensor,
        example: Tensor,
        segment: Tensor,
        score: ModelScore,
    ) -> Tensor:
        """Score images that are ``inside`` within one segment and ``outside`` elsewhere."""
        results = []
        ones = (1,) * (labels.dim() - 1)
        with torch.no_grad():
            for i, p in zip(
                example.split(self.chunk_size), segment.split(self.chunk_size), strict=True
            ):
                mask = (labels[i] == p.view(-1, *ones)).unsqueeze(1)
                mixed = torch.where(mask, inside[i], outside[i])
                if mixed.dim() == 4:  # Convolutions are faster on it, and it costs one copy.
                    mixed = mixed.contiguous(memory_format=torch.channels_last)
                results.append(score.evaluate(mixed, i, self.output))
        return torch.cat(results)
