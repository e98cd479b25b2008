"""What a classifier says about images that fade into a reference."""

from collections.abc import Callable
from typing import Any

import torch
from captum._utils.common import _run_forward
from torch import Tensor

from usu_captum._score import argument_tuple, follow
from usu_core.scoring._model import ClassScores

# A power of two scales exactly, and keeps the gradients of a half-precision classifier above zero.
_SCALE = 1024.0


class Classifier:
    """The mean score of each image's classes, all of them from one pass.

    Args:
        forward_func: A module or any function, as in Captum; images to (N, classes), or (N,).
        targets: (B,) or (B, K) int64.
        output: ``"probability"``, ``"logit"`` or ``"log-odds"``.
        additional_forward_args: Passed on; tensors with one entry per example follow it.

    Raises:
        TypeError: If the targets are not integers.
        ValueError: If they have another shape.

    Example:
        >>> classifier = Classifier(torch.nn.Flatten(), torch.tensor([[0, 2]]), "logit")
        >>> classifier.evaluate(torch.tensor([[[1.0, 9.0, 3.0]]]), torch.tensor([0]))
        tensor([2.])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        targets: Tensor,
        output: str,
        additional_forward_args: Any = None,
    ) -> None:
        if not isinstance(targets, Tensor) or targets.dtype is not torch.int64:
            kind = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
            raise TypeError(f"targets must be an int64 tensor, got {kind}. Try torch.tensor([3]).")
        if targets.dim() not in (1, 2) or targets.numel() == 0:
            raise ValueError(f"targets must be (B,) or (B, K), got {tuple(targets.shape)}.")
        self._forward = forward_func
        self._targets = targets.view(len(targets), -1)
        self._output, self._scores = output, ClassScores()
        self._args = argument_tuple(additional_forward_args)

    def evaluate(self, images: Tensor, example: Tensor) -> Tensor:
        """Score images (N, C, H, W), the n-th made from example ``example[n]``; returns (N,)."""
        args = tuple(follow(arg, example, len(self._targets)) for arg in self._args)
        outputs = _run_forward(self._forward, images, None, args or None)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"forward_func must return a tensor, got {type(outputs).__name__}. "
                "Try a wrapper that selects the logits."
            )
        scores = self._scores(outputs, self._output)
        scores = scores[:, None] if scores.dim() == 1 else scores
        if scores.dim() != 2 or len(scores) != len(images):
            raise ValueError(
                f"forward_func must return (N, classes) or (N,), got {tuple(outputs.shape)} for "
                f"{len(images)} images. Try a wrapper that pools or selects."
            )
        wanted = self._targets.to(scores.device)[example.to(scores.device)]
        low, high = int(wanted.min()), int(wanted.max())
        if low < 0 or high >= scores.shape[1]:
            raise ValueError(
                f"targets must lie in [0, {scores.shape[1] - 1}], got values from {low} to {high}."
            )
        return scores.gather(1, wanted).mean(1)


def faded_scores(
    classifier: Classifier,
    images: Tensor,
    references: Tensor,
    masks: Tensor,
    chunk_size: int | None,
) -> Tensor:
    """Score images as masks fade them into their references.

    Each score depends on one mask alone, so its gradient is taken at once, chunk by chunk:
    activations of one chunk are held, never those of all images, and no parameter's gradient is
    touched.

    Args:
        classifier: Scores images.
        images: (B, C, H, W).
        references: (R, B, C, H, W).
        masks: (B, M, 1, H, W), 1 where the reference shows.
        chunk_size: Images per pass; ``None`` for all at once.

    Returns:
        (B, M), averaged over references. Differentiable once, in ``masks`` alone.

    Raises:
        ValueError: If a gradient is needed and the classifier has none, or a score is not finite.

    Cost:
        R B M forward passes, and as many backward passes where masks require gradients.

    Example:
        >>> classifier = Classifier(torch.nn.Flatten(), torch.tensor([0]), "logit")
        >>> images, masks = torch.tensor([[[[8.0]]]]), torch.tensor([[[[[0.25]]]]])
        >>> faded_scores(classifier, images, torch.zeros(1, 1, 1, 1, 1), masks, None)
        tensor([[6.]])
    """
    scores: Tensor = _Faded.apply(masks, images, references, classifier, chunk_size)
    return scores


def end_scores(
    classifier: Classifier, images: Tensor, references: Tensor, chunk_size: int | None
) -> Tensor:
    """Score whole images and their references, which no mask changes.

    Args:
        classifier: As in :func:`faded_scores`, like all that follow.
        images: As there.
        references: As there.
        chunk_size: As there.

    Returns:
        (B, 2), averaged over references, without gradient.

    Raises:
        ValueError: If a score is not finite.

    Example:
        >>> classifier = Classifier(torch.nn.Flatten(), torch.tensor([0]), "logit")
        >>> end_scores(classifier, torch.full((1, 1, 1, 1), 8.0), torch.zeros(1, 1, 1, 1, 1), None)
        tensor([[8., 0.]])
    """
    size = len(images)
    every = torch.cat([images[None], references]).flatten(0, 1).detach()
    example = torch.arange(size, device=images.device).repeat(len(references) + 1)
    step = chunk_size or len(every)
    with torch.no_grad():
        pairs = zip(every.split(step), example.split(step), strict=True)
        scores = torch.cat([classifier.evaluate(*pair) for pair in pairs]).view(-1, size)
    if not bool(torch.isfinite(scores).all()):
        raise ValueError(
            "forward_func must give finite scores, got NaN or infinity for an image or its "
            "reference. Check the inputs for NaN."
        )
    return torch.stack([scores[0], scores[1:].mean(0)], 1)


class _Faded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        masks: Tensor,
        images: Tensor,
        references: Tensor,
        classifier: Classifier,
        chunk_size: int | None,
    ) -> Tensor:
        size, count = masks.shape[:2]
        wanted = ctx.needs_input_grad[0]
        flat = masks.detach().flatten(0, 1)
        scores = flat.new_zeros(size * count)
        slopes = torch.zeros_like(flat) if wanted else None
        images, references = images.detach(), references.detach()
        total = len(references) * len(flat)
        for chunk in torch.arange(total, device=masks.device).split(chunk_size or total):
            reference, row = chunk // len(flat), chunk % len(flat)
            example = row // count
            with torch.set_grad_enabled(wanted):
                mask = flat[row].requires_grad_(wanted)
                start, end = images[example], references[reference, example]
                faded = (start + mask * (end - start)).to(images.dtype)
                score = classifier.evaluate(faded, example)
                if slopes is not None:
                    slope = _gradient(score, mask)
                    slopes.index_add_(0, row, slope / len(references))
            scores.index_add_(0, row, score.detach().to(scores) / len(references))
        if not bool(torch.isfinite(scores).all()):
            raise ValueError(
                "forward_func must give finite scores, got NaN or infinity for a faded image. "
                "Check the model on the reference image, and its inputs for NaN."
            )
        if slopes is not None:
            ctx.save_for_backward(slopes.view_as(masks))
        return scores.view(size, count)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return grad[:, :, None, None, None] * slopes, None, None, None, None


def _gradient(score: Tensor, mask: Tensor) -> Tensor:
    found = None
    if score.requires_grad:
        (found,) = torch.autograd.grad(score.sum() * _SCALE, mask, allow_unused=True)
    if found is None:
        raise ValueError(
            "forward_func must be differentiable in the images, got outputs without a gradient. "
            "Try without torch.no_grad() and .detach() in it, and no round trip through numpy."
        )
    return found / _SCALE
