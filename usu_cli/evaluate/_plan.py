"""What to measure, and the settings that results may not be mixed across."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from usu_captum._digest import weights_digest
from usu_captum.ranking._checkpoint import write_text
from usu_cli._errors import UsageError
from usu_cli._folder import read_own
from usu_cli._models import Classifier
from usu_cli._options import Wanted
from usu_cli._versions import versions
from usu_core import AnyUpsampler, to_dict

SETTINGS = "settings.json"
_PACKAGE = "usu-attribution"


@dataclass(frozen=True, kw_only=True)
class Plan(Wanted):
    """What to measure on every image.

    Args:
        upsamplers: What brings coarse maps to the image's size, by the name to show.
        layer: Name of the explained layer.
        target: The class to explain where the list of images says nothing; each image's first
            if ``None``.
    """

    upsamplers: Mapping[str, AnyUpsampler]
    layer: str
    target: int | None = None


def read_settings(out: Path) -> dict[str, Any]:
    """Return what the results in ``out`` depend on, by name.

    Raises:
        UsageError: If the file cannot be read, or is not of ``usu evaluate``.
    """

    def parse(settings: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(settings["upsamplers"], dict):
            raise TypeError
        str(settings["versions"][_PACKAGE])
        return settings

    return read_own(out / SETTINGS, "settings of usu evaluate", parse)


def claim(out: Path, plan: Plan, classifier: Classifier, *, measured: bool) -> None:
    """Write down what the results in ``out`` depend on, or check that it is the same.

    Methods, metrics, upsamplers and images may be added to an earlier run. Processes that share
    a run all call this, and write the same.

    Args:
        out: Folder of the records and settings.
        plan: What to measure.
        classifier: The model.
        measured: Whether ``out`` holds records; a run that failed before the first binds no other.

    Raises:
        UsageError: If ``out`` holds results of other settings, naming the first that differs, or
            settings of something else.
    """
    settings: dict[str, Any] = {
        "model": classifier.name,
        "weights": weights_digest(classifier.model),
        "preprocessing": asdict(classifier.preprocessing),
        "layer": plan.layer,
        "target": plan.target,
        "evaluations": plan.evaluations,
        "steps": plan.steps,
        "samples": plan.samples,
        "precision": plan.precision,
        "seed": plan.seed,
        "upsamplers": {name: _config(u) for name, u in plan.upsamplers.items()},
        "versions": versions(),
    }
    settings = json.loads(json.dumps(settings))  # tuples become what they will be read back as
    path = out / SETTINGS
    if path.is_file():
        earlier = read_settings(out)
        if measured:
            _compare(earlier, settings, out)
            settings["upsamplers"] = earlier["upsamplers"] | settings["upsamplers"]
            settings["versions"] = earlier["versions"]
    text = json.dumps(settings, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)


def _config(upsampler: AnyUpsampler) -> Any:
    try:
        return to_dict(upsampler)
    except (TypeError, ValueError):  # of a third party, or with a function inside
        return repr(upsampler)


def _compare(earlier: dict[str, Any], now: dict[str, Any], out: Path) -> None:
    differing = [
        (name, earlier.get(name), value)
        for name, value in now.items()
        if name not in ("upsamplers", "versions") and earlier.get(name) != value
    ]
    differing += [
        (f"upsampler {name}", earlier["upsamplers"][name], config)
        for name, config in now["upsamplers"].items()
        if name in earlier["upsamplers"] and earlier["upsamplers"][name] != config
    ]
    if earlier["versions"][_PACKAGE] != now["versions"][_PACKAGE]:
        differing.append((_PACKAGE, earlier["versions"][_PACKAGE], now["versions"][_PACKAGE]))
    if differing:
        name, before, after = differing[0]
        raise UsageError(
            f"{str(out)!r} holds results of another {name}: {before!r}, now {after!r}; "
            "give another --out"
        )
