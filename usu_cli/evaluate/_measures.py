"""Metrics by name, as functions from all maps of an image to a value each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from usu_cli.evaluate._judged import Judged, Values
from usu_core import metrics
from usu_core.metrics import AHA, RISE, SAMP, CurveProtocol

_SHARES = (0.01, 0.05, 0.1, 0.2, 0.4)  # of the pixels, in sensitivity-N


@dataclass(frozen=True)
class Measure:
    """A metric.

    Args:
        about: What it is, in a line.
        higher_is_better: Whether it is; ``None`` for a property that is neither.
        run: Computes it; ``None`` for what the upsampling reports of itself, which fine maps lack.
        needs_mask: Whether it compares with the object.
    """

    about: str
    higher_is_better: bool | None
    run: Callable[[Judged], Values] | None
    needs_mask: bool = False


def _curve(name: str, given: Judged) -> Values:
    references = metrics.REFERENCES
    return _protocol(name, CurveProtocol(references, references, steps=given.steps), given)


def _protocol(name: str, protocol: CurveProtocol, given: Judged) -> Values:
    curve = getattr(metrics, name)(
        given.score,
        given.images,
        given.maps,
        black=given.black,
        ties=given.ties,
        chunk_size=given.batch_size,
        protocol=protocol,
    )
    return Values(curve.auc, curve.scores)


def _correlation(given: Judged) -> Values:
    return Values(metrics.box_correlation(*given.boxes))


def _infidelity(given: Judged) -> Values:
    return Values(metrics.scale_optimised_infidelity(*given.boxes))


def _quantus(given: Judged) -> Values:
    found = metrics.quantus_infidelity(
        given.score, given.images, given.maps, chunk_size=given.batch_size
    )
    return Values(found)


def _sensitivity(given: Judged) -> Values:
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


def _mu_fidelity(given: Judged) -> Values:
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


def _pixel_flipping(given: Judged) -> Values:
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


def _irof(given: Judged) -> Values:
    curve = metrics.irof(
        given.score, given.images, given.maps, given.segments, chunk_size=given.batch_size
    )
    return Values(curve.auc)


def _monotonicity(given: Judged) -> Values:
    found = metrics.monotonicity(
        given.score, given.images, given.maps, steps=given.steps, chunk_size=given.batch_size
    )
    return Values(found)


def _road(given: Judged) -> Values:
    found = metrics.road(
        given.score, given.images, given.maps, chunk_size=given.batch_size, seed=given.seed
    )
    return Values(found.mean(1))


_AREAS = {"rise": RISE, "samp": SAMP, "aha": AHA}

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "deletion": Measure(
            "probability while pixels are replaced, best first; mean over black, mean and blur",
            False,
            partial(_curve, "deletion"),
        ),
        "insertion": Measure(
            "probability while pixels are revealed, best first; mean over black, mean and blur",
            True,
            partial(_curve, "insertion"),
        ),
        "correlation": Measure(
            "between the mass in random boxes and what blurring them costs", True, _correlation
        ),
        "infidelity": Measure(
            "share of the boxes' effects left unexplained at the map's best scale",
            False,
            _infidelity,
        ),
        "quantus-infidelity": Measure(
            "in the form of the Quantus library, which mostly measures scale", False, _quantus
        ),
        "sensitivity-n": Measure(
            "correlation of the mass of random pixel sets with their effect", True, _sensitivity
        ),
        "mu-fidelity": Measure(
            "correlation of the mass of random superpixels with their effect", True, _mu_fidelity
        ),
        "pixel-flipping": Measure(
            "mean drop of the probability while pixels turn black, best first",
            True,
            _pixel_flipping,
        ),
        "irof": Measure(
            "area over the curve while superpixels turn to the mean colour", True, _irof
        ),
        "monotonicity": Measure(
            "share of steps that do not lower the score, least important first",
            True,
            _monotonicity,
        ),
        "road": Measure("probability with the best pixels imputed", False, _road),
        **{
            f"{curve}-{name}": Measure(
                f"{curve} by the protocol of {name.upper()}",
                curve == "insertion",
                partial(_protocol, curve, protocol),
            )
            for name, protocol in _AREAS.items()
            for curve in ("deletion", "insertion")
        },
        "sparseness": Measure(
            "Gini index of the map", None, lambda given: Values(metrics.sparseness(given.maps))
        ),
        "complexity": Measure(
            "entropy of the map", None, lambda given: Values(metrics.complexity(given.maps))
        ),
        "mass-error": Measure(
            "largest change of a cell's mass, relative to the largest cell", False, None
        ),
        "pointing-game": Measure(
            "whether the highest pixel lies on the object",
            True,
            lambda given: Values(metrics.pointing_game(given.maps, given.masks)),
            needs_mask=True,
        ),
        "concentration": Measure(
            "share of the positive mass on the object",
            True,
            lambda given: Values(metrics.concentration(given.maps, given.masks)),
            needs_mask=True,
        ),
        "iou": Measure(
            "overlap of the object with as many of the highest pixels",
            True,
            lambda given: Values(metrics.matched_area_iou(given.maps, given.masks)),
            needs_mask=True,
        ),
    }
)
"""Every metric of ``usu evaluate`` by name."""
