"""Deletion and insertion: does the ranking find what the model needs?"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from usu_core._checks import check_choice, check_count
from usu_core.metrics._evaluation import check_maps, relative_scores
from usu_core.metrics._protocols import CURVE_OUTPUTS, CurveProtocol
from usu_core.metrics._ranking import places, scores_along
from usu_core.metrics._references import Reference, reference_images
from usu_core.scoring import ModelScore, ScoreFunction


@dataclass(frozen=True)
class Curve:
    """A score as pixels change.

    Attributes:
        scores: (B, steps + 1), from no changed pixel to all of them.
        auc: (B,), the trapezoidal area under the curve over the share of steps taken, or the area
            that the function or the protocol names instead. Where ``pixels_per_step`` does not
            divide the pixels, the shorter last step counts as a full one, as in the papers' code.
    """

    scores: Tensor
    auc: Tensor


def deletion(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    *,
    reference: Reference = "blur",
    black: Tensor | float = 0.0,
    steps: int = 16,
    ties: Tensor | None = None,
    output: str = "probability",
    chunk_size: int = 64,
    protocol: CurveProtocol | None = None,
) -> Curve:
    """Replace pixels by the reference, most important first; lower is better.

    Petsiuk et al., 2018 (RISE), with the reference explicit.

    Args:
        score: The explained scalar; see :class:`~usu_core.scoring.ModelScore`.
        images: (B, C, *pixels).
        attribution: (B, *pixels); only its ranking matters.
        reference: ``"black"``, ``"mean"``, ``"blur"``, a number, a
            :class:`~usu_core.metrics.Blur` or a tensor, such as a colour (C, 1, 1).
        black: Value of black in the model's space.
        steps: Number of equal steps from none to all pixels.
        ties: (B, *pixels), ranks pixels of equal attribution, highest first. Remaining ties keep
            their order in memory.
        output: Scale of the score: ``"probability"``, ``"logit"``, ``"log-odds"``, or
            ``"normalised-logit"``, the logit divided by that of the whole image.
        chunk_size: Images per model call.
        protocol: ``RISE``, ``SAMP``, ``AHA`` or one of your own. It stands in for ``reference``,
            ``steps`` and ``output``, and may average over references.

    Returns:
        The curve and its area.

    Raises:
        ValueError: If shapes do not match, images, maps or scores are not finite, or the output is
            normalised and the score of a whole image is not above 0.

    Cost:
        ``B · (steps + 1)`` model evaluations; with a protocol, once per reference.

    Example:
        >>> images = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
        >>> total = lambda x: x.sum((1, 2))
        >>> deletion(total, images, images[:, 0], reference="black", steps=4).scores
        tensor([[10.,  6.,  3.,  1.,  0.]])
        >>> from dataclasses import replace
        >>> from usu_core.metrics import SAMP
        >>> small = replace(SAMP, pixels_per_step=2)
        >>> deletion(total, images, images[:, 0], protocol=small).scores
        tensor([[1.0000, 0.3000, 0.0000]])
    """
    if protocol is None:
        protocol = _protocol(reference, steps, output)
    attribution = check_maps(images, attribution, ties)
    fills = [reference_images(images, given, black) for given in protocol.deletion]
    pairs = [(images, fill) for fill in fills]
    return _curve(score, pairs, attribution, ties, protocol, chunk_size, whole=0)


def insertion(
    score: ModelScore | ScoreFunction,
    images: Tensor,
    attribution: Tensor,
    *,
    reference: Reference = "blur",
    black: Tensor | float = 0.0,
    steps: int = 16,
    ties: Tensor | None = None,
    output: str = "probability",
    chunk_size: int = 64,
    protocol: CurveProtocol | None = None,
) -> Curve:
    """Reveal pixels on the reference, most important first; higher is better.

    Everything else is as in :func:`deletion`.

    Args:
        score: As in :func:`deletion`.
        images: As in :func:`deletion`.
        attribution: As in :func:`deletion`.
        reference: As in :func:`deletion`.
        black: As in :func:`deletion`.
        steps: As in :func:`deletion`.
        ties: As in :func:`deletion`.
        output: As in :func:`deletion`.
        chunk_size: As in :func:`deletion`.
        protocol: As in :func:`deletion`.

    Returns:
        The curve and its area.

    Raises:
        ValueError: As in :func:`deletion`.

    Cost:
        As in :func:`deletion`.

    Example:
        >>> images = torch.tensor([[[4.0, 3.0, 2.0, 1.0]]])
        >>> total = lambda x: x.sum((1, 2))
        >>> insertion(total, images, images[:, 0], reference="black", steps=2).auc
        tensor([6.])
    """
    if protocol is None:
        protocol = _protocol(reference, steps, output)
    attribution = check_maps(images, attribution, ties)
    fills = [reference_images(images, given, black) for given in protocol.insertion]
    pairs = [(fill, images) for fill in fills]
    return _curve(score, pairs, attribution, ties, protocol, chunk_size, whole=-1)


def _protocol(reference: Reference, steps: int, output: str) -> CurveProtocol:
    """Return the protocol that single settings stand for."""
    check_count("steps", steps)
    check_choice("output", output, CURVE_OUTPUTS)
    return CurveProtocol((reference,), (reference,), output, steps=steps)


def _curve(
    score: ModelScore | ScoreFunction,
    pairs: Sequence[tuple[Tensor, Tensor]],
    attribution: Tensor,
    ties: Tensor | None,
    protocol: CurveProtocol,
    chunk_size: int,
    whole: int,
) -> Curve:
    """Average the curves from start to end; point ``whole`` of each is the image itself."""
    place = places(attribution, ties)
    counts = protocol.counts(place[0].numel())
    normalised = protocol.output == "normalised-logit"
    output = "logit" if normalised else protocol.output
    curves = [
        scores_along(score, start, end, place, counts, output=output, chunk_size=chunk_size)
        for start, end in pairs
    ]
    scores = torch.stack(curves).mean(0).float()
    if normalised:
        scores = relative_scores(scores, scores[:, whole])
    return Curve(scores, protocol.summary(scores))
