"""What upsamplers and settings are, in the words of every list and page."""

from collections.abc import Iterable, Mapping
from typing import Any

from usu_core import resolve

# Classes that several names share cannot tell them apart.
_ABOUT = {
    "nearest": "Repeat each cell's value: blocks.",
    "bilinear": "Interpolate linearly: what other tools do.",
    "bicubic": "Interpolate by cubic splines, which overshoot.",
    "lanczos": "Interpolate by Pillow's three-lobed kernel.",
    "bilinear-conserving": "Interpolate linearly, then rescale each cell to the mass it had.",
    "usu": "Keep each cell's mass and give it to the pixels the model scores highest.",
    "usu-fast": "As usu, with the scores of squares from one gradient.",
    "iwmr": "Move the total mass by the cells' scores alone, then within cells as usu.",
    "iwmr-mass": "Move each cell's mass by the cells' scores, then within cells as usu.",
}
# In the order in which a page shows them.
_FACTS = (
    "model", "weights", "preprocessing", "layer", "target", "evaluations", "steps", "samples",
    "precision", "seed", "versions",
)  # fmt: skip


def about(upsampler: str) -> str:
    """Return what the upsampler of a name does; functions and plug-ins may say nothing."""
    said = _ABOUT.get(upsampler) or type(resolve(upsampler)).__doc__ or ""
    return said.strip().partition("\n")[0]


def about_all(upsamplers: Iterable[str]) -> str:
    """Return what upsamplers do, in one paragraph."""
    return " ".join(f"{name}: {said}" for name in upsamplers if (said := about(name)))


def facts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return how something was made, of its settings those that a page shows."""
    shown = {name: settings[name] for name in _FACTS if name in settings}
    if "target" in shown and shown["target"] is None:
        shown["target"] = "each image's first class"
    if "evaluations" in shown:
        shown["evaluations"] = f"{shown['evaluations']} for methods that perturb the image"
    return {name.capitalize(): _in_words(value) for name, value in shown.items()}


def _in_words(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_in_words(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
