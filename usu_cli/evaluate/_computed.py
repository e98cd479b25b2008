"""Metrics as functions from all maps of an image to a value each."""

import torch

from usu_cli.evaluate._judged import Judged, Values
from usu_core import metrics
from usu_core.metrics import CurveProtocol

_SHARES = (0.01, 0.05, 0.1, 0.2, 0.4)  # of the pixels, in sensitivity-N


def curve(name: str, given: Judged) -> Values:
    """Deletion or insertion, its mean over all references."""
    references = metrics.REFERENCES
    return protocol(name, CurveProtocol(references, references, steps=given.steps), given)


def protocol(name: str, how: CurveProtocol, given: Judged) -> Values:
    """Deletion or insertion as a paper does it."""
    curve = getattr(metrics, name)(
        given.score,
        given.images,
        given.maps,
        black=given.black,
        ties=given.ties,
        chunk_size=given.batch_size,
        protocol=how,
    )
    return Values(curve.auc, curve.scores)


def correlation(given: Judged) -> Values:
    """Correlation of the mass of boxes with the effects of blurring them."""
    return Values(metrics.box_correlation(*given.boxes))


def infidelity(given: Judged) -> Values:
    """What the map leaves unexplained of these effects at its best scale."""
    return Values(metrics.scale_optimised_infidelity(*given.boxes))


def quantus_infidelity(given: Judged) -> Values:
    """Infidelity as Quantus has it."""
    found = metrics.quantus_infidelity(
        given.score, given.images, given.maps, chunk_size=given.batch_size
    )
    return Values(found)


def sensitivity_n(given: Judged) -> Values:
    """Sensitivity-N, its mean over sizes of sets."""
    pixels = given.maps[0].numel()
    found = metrics.sensitivity_n(
        given.score,
        given.images,
        given.maps,
        [max(1, round(share * pixels)) for share in _SHARES],
        samples=given.samples,
        chunk_size=given.batch_size,
        seed=given.seed,
    )
    return Values(found.mean(1))


def mu_fidelity(given: Judged) -> Values:
    """The same for random superpixels."""
    found = metrics.mu_fidelity(
        given.score,
        given.images,
        given.maps,
        given.segments,
        samples=given.samples,
        chunk_size=given.batch_size,
        seed=given.seed,
    )
    return Values(found)


def pixel_flipping(given: Judged) -> Values:
    """Mean drop of the probability while pixels turn black."""
    curve = metrics.pixel_flipping(
        given.score,
        given.images,
        given.maps,
        steps=given.steps,
        black=given.black,
        ties=given.ties,
        output="probability",
        chunk_size=given.batch_size,
    )
    return Values(curve.auc, curve.scores)


def irof(given: Judged) -> Values:
    """Area over the curve while superpixels turn to the mean colour."""
    curve = metrics.irof(
        given.score, given.images, given.maps, given.segments, chunk_size=given.batch_size
    )
    return Values(curve.auc)


def monotonicity(given: Judged) -> Values:
    """Share of steps that do not lower the score."""
    found = metrics.monotonicity(
        given.score, given.images, given.maps, steps=given.steps, chunk_size=given.batch_size
    )
    return Values(found)


def road(given: Judged) -> Values:
    """Probability with the best pixels imputed, its mean over shares."""
    found = metrics.road(
        given.score, given.images, given.maps, chunk_size=given.batch_size, seed=given.seed
    )
    return Values(found.mean(1))


def diffid(given: Judged) -> Values:
    """DiffID against the explained class."""
    labels = torch.full((len(given.maps),), given.target, device=given.maps.device)
    found = metrics.diffid(
        given.model,
        given.images,
        given.maps,
        labels,
        unit="pixel",
        ties=given.ties,
        chunk_size=given.batch_size,
    )
    return Values(found.difference)


def max_sensitivity(given: Judged) -> Values:
    """Largest change of the map in a box around the image."""
    make = given.made_again.make
    return Values(
        # One image once per map: what is drawn is the same for all of them.
        metrics.max_sensitivity(lambda images: make(images[:1]), given.images, seed=given.seed)
    )


def model_randomisation(given: Judged) -> Values:
    """Similarity to the map of the model drawn anew as a whole."""
    again = given.made_again
    found = metrics.model_randomisation(
        lambda _: again.make(given.inputs), again.model, layers=("",), seed=given.seed
    )
    return Values(found.similarity[:, 0])
