"""Metrics by name: what they are, which end is better, and what computes them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from usu_cli.evaluate import _computed
from usu_cli.evaluate._judged import Judged, Values
from usu_core import metrics
from usu_core.metrics import AHA, RISE, SAMP


@dataclass(frozen=True)
class Measure:
    """A metric.

    Args:
        about: What it is, in a line.
        higher_is_better: Whether it is; ``None`` for a property that is neither.
        run: Computes it; ``None`` for what the upsampling reports of itself, which fine maps lack.
        needs_mask: Whether it compares with the object.
        explains_again: Whether it needs maps of changed images, or by a changed model.
    """

    about: str
    higher_is_better: bool | None
    run: Callable[[Judged], Values] | None
    needs_mask: bool = False
    explains_again: bool = False


_AREAS = {"rise": RISE, "samp": SAMP, "aha": AHA}

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "deletion": Measure(
            "probability while pixels are replaced, best first; mean over black, mean and blur",
            False,
            partial(_computed.curve, "deletion"),
        ),
        "insertion": Measure(
            "probability while pixels are revealed, best first; mean over black, mean and blur",
            True,
            partial(_computed.curve, "insertion"),
        ),
        "correlation": Measure(
            "between the mass in random boxes and what blurring them costs",
            True,
            _computed.correlation,
        ),
        "infidelity": Measure(
            "share of the boxes' effects left unexplained at the map's best scale",
            False,
            _computed.infidelity,
        ),
        "quantus-infidelity": Measure(
            "in the form of the Quantus library, which mostly measures scale",
            False,
            _computed.quantus_infidelity,
        ),
        "sensitivity-n": Measure(
            "correlation of the mass of random pixel sets with their effect",
            True,
            _computed.sensitivity_n,
        ),
        "mu-fidelity": Measure(
            "correlation of the mass of random superpixels with their effect",
            True,
            _computed.mu_fidelity,
        ),
        "pixel-flipping": Measure(
            "mean drop of the probability while pixels turn black, best first",
            True,
            _computed.pixel_flipping,
        ),
        "irof": Measure(
            "area over the curve while superpixels turn to the mean colour", True, _computed.irof
        ),
        "monotonicity": Measure(
            "share of steps that do not lower the score, least important first",
            True,
            _computed.monotonicity,
        ),
        "road": Measure("probability with the best pixels imputed", False, _computed.road),
        **{
            f"{curve}-{name}": Measure(
                f"{curve} by the protocol of {name.upper()}",
                curve == "insertion",
                partial(_computed.protocol, curve, protocol),
            )
            for name, protocol in _AREAS.items()
            for curve in ("deletion", "insertion")
        },
        "diffid": Measure(
            "share of steps that keep the class without the least important pixels, less that "
            "without the most important",
            True,
            _computed.diffid,
        ),
        "max-sensitivity": Measure(
            "largest relative change of the map in a small box around the image",
            False,
            _computed.max_sensitivity,
            explains_again=True,
        ),
        "model-randomisation": Measure(
            "rank correlation with the map of the model with all weights drawn anew",
            False,
            _computed.model_randomisation,
            explains_again=True,
        ),
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
