"""What commands that measure maps have in common: what is asked for, checked."""

from collections.abc import Iterable
from dataclasses import fields

from usu_cli._asked import find_layer
from usu_cli._classes import find_target
from usu_cli._errors import UsageError, unknown
from usu_cli._maps import check_upsamplers
from usu_cli._models import Classifier
from usu_cli._options import MapOptions, Wanted
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._plan import Plan
from usu_cli.evaluate._sources import is_coarse, known_methods
from usu_core import resolve


def check_maps(options: MapOptions) -> None:
    """Raise a UsageError if a method, a metric or an upsampler is unknown, or can have no value."""
    check_known("method", options.methods, known_methods(), "usu methods")
    check_known("metric", options.metrics, MEASURES, "usu methods")
    check_upsamplers(options.upsamplers)
    of_coarse = [metric for metric in options.metrics if MEASURES[metric].run is None]
    if of_coarse and not any(is_coarse(method) for method in options.methods):
        raise UsageError(
            f"{', '.join(of_coarse)} is of coarse maps, and {', '.join(options.methods)} gives "
            "none; see usu methods"
        )


def check_known(kind: str, given: Iterable[str], known: Iterable[str], where: str = "") -> None:
    """Raise a UsageError at the first name that is not known, saying ``where`` they are listed."""
    names = list(known)
    for name in given:
        if name not in names:
            raise unknown(kind, name, names, where)


def plan_as_asked(options: MapOptions, classifier: Classifier) -> Plan:
    """Return the plan that the options make for a model.

    Raises:
        UsageError: If it lacks the layer or the class.
    """
    target = None
    if options.target is not None:
        target = find_target(options.target, classifier.outputs, classifier.classes)
    return Plan(
        upsamplers={name: resolve(name) for name in dict.fromkeys(options.upsamplers)},
        layer=find_layer(classifier, options.layer)[0],
        target=target,
        **{field.name: getattr(options, field.name) for field in fields(Wanted)},
    )
