"""Gradient scores: one forward and one backward pass for all segments."""

from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._checks import check_choice
from usu_core._precision import wide
from usu_core.scoring._fills import FILLS, Filling, fill_images
from usu_core.scoring._model import OUTPUTS, ModelScore
from usu_core.scoring._protocol import LevelScorer
from usu_core.segments import segment_mean


@dataclass(frozen=True, eq=False)
class GradientScorer(Filling):
    """Score each segment by its mean |gradient · (input - fill)|.

    A first-order estimate of :class:`MaskedPerturbation`'s drop, for the price of one gradient. A
    score that has a ``pixel_effects(images, output)`` method is asked for the effects (B, *pixels)
    first: adapters that have run the model already can read them off a hidden layer for less.

    Args:
        fill: What the input is compared with: ``"blur"``, ``"mean"``, ``"zero"`` or a tensor.
        output: Scale of the model's score. The default does not saturate, so gradients of sure
            predictions do not vanish.

    Raises:
        ValueError: When called, if the score does not depend differentiably on the images.

    Cost:
        One forward and one backward pass. Gradients of parameters are not touched.

    Example:
        >>> from usu_core.scoring import model_score
        >>> product = model_score(lambda images: images.prod(2).sum(1))
        >>> score_level = GradientScorer(fill="zero")(torch.tensor([[[2.0, 3.0]]]), product)
        >>> score_level(torch.tensor([[0, 1]]), torch.ones(1, 2).bool())
        tensor([[6., 6.]])
    """

    fill: str | Tensor = "blur"
    output: str = "logit"

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("output", self.output, OUTPUTS)
        if not isinstance(self.fill, Tensor):
            check_choice("fill", self.fill, FILLS)

    def __call__(self, images: Tensor, score: ModelScore) -> LevelScorer:
        """Take the gradient once, for all levels; see :class:`Scorer`."""
        images = images.detach()
        at_hand = getattr(score, "pixel_effects", None)
        known: Tensor | None = None if at_hand is None else at_hand(images, self.output)
        effect = self._effects(images, score) if known is None else known

        def score_level(labels: Tensor, active: Tensor) -> Tensor:
            return segment_mean(effect, labels, active.shape[1]) * active

        return score_level

    def _effects(self, images: Tensor, score: ModelScore) -> Tensor:
        # Inference mode keeps nothing to differentiate, nor may tensors made in it be kept.
        with torch.inference_mode(False), torch.enable_grad():
            everyone = torch.arange(len(images), device=images.device)
            inputs = images.clone().requires_grad_()
            values = score.evaluate(inputs, everyone, self.output)
            gradient = None
            if values.requires_grad:
                (gradient,) = torch.autograd.grad(values.sum(), inputs, allow_unused=True)
        if gradient is None:
            raise ValueError(
                "score must be differentiable in the images for GradientScorer, got values "
                "without a gradient. Try scorer=MaskedPerturbation()."
            )
        # In half precision products of small gradients vanish, and sums of large ones overflow.
        difference = wide(images) - wide(fill_images(images, self.fill))
        return (wide(gradient) * difference).sum(1).abs().float()
