"""Upsamplers to and from plain dictionaries and TOML."""

import tomllib
from dataclasses import fields, is_dataclass
from typing import Any

from usu_core._checks import check_choice
from usu_core._guided import IWMR, USU, ScoreMapOnly, Tilted
from usu_core._refinement import Refinement
from usu_core._upsamplers import Interpolation, Upsampler
from usu_core.scoring import GradientScorer, MaskedPerturbation, ShapleyRegression
from usu_core.segments import Quadtree, Slic

_CLASSES: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        GradientScorer,
        IWMR,
        Interpolation,
        MaskedPerturbation,
        Quadtree,
        Refinement,
        ScoreMapOnly,
        ShapleyRegression,
        Slic,
        Tilted,
        USU,
    )
}


def to_dict(value: Any) -> dict[str, Any]:
    """Return a configured object as nested dictionaries of plain values.

    Args:
        value: An upsampler, segmenter, scorer or refinement.

    Returns:
        Its fields, with the class name under ``"type"``, but for those that are ``None``, which is
        then their default. Tensors and functions become their ``repr``, which says what they were
        but cannot be read back.
    """
    result: dict[str, Any] = {"type": type(value).__name__}
    for field in fields(value):
        item = getattr(value, field.name)
        if item is None:  # TOML has no such thing.
            continue
        if is_dataclass(item):
            result[field.name] = to_dict(item)
        elif isinstance(item, tuple | list):
            result[field.name] = [i if _is_plain(i) else repr(i) for i in item]
        else:
            result[field.name] = item if _is_plain(item) else repr(item)
    return result


def from_dict(config: dict[str, Any]) -> Any:
    """Build the object that :func:`to_dict` described.

    Raises:
        ValueError: If a class or field is unknown, or a value does not fit it.
        TypeError: If a value has the wrong type.
    """
    kind = config.get("type")
    check_choice("type", kind, _CLASSES)
    cls = _CLASSES[str(kind)]
    known = {field.name for field in fields(cls)}
    arguments = {}
    for name, item in config.items():
        if name == "type":
            continue
        check_choice(f"field of {kind}", name, sorted(known))
        if isinstance(item, dict):
            item = from_dict(item)
        arguments[name] = tuple(item) if isinstance(item, list) else item
    return cls(**arguments)


def to_toml(upsampler: Upsampler) -> str:
    """Write an upsampler as TOML that :func:`from_toml` reads back as an equal object.

    Raises:
        ValueError: If it holds a tensor or a function, which TOML cannot carry.

    Example:
        >>> print(to_toml(Interpolation("bicubic")))
        type = "Interpolation"
        mode = "bicubic"
    """
    import tomli_w

    _check_writable(upsampler)
    return tomli_w.dumps(to_dict(upsampler)).strip()


def from_toml(text: str) -> Upsampler:
    r"""Read an upsampler written by :func:`to_toml`, or by hand: missing fields have defaults.

    Raises:
        ValueError: If the text is not TOML, or does not describe an upsampler.
        TypeError: If a value has the wrong type.

    Example:
        >>> from_toml('type = "USU"\ntemperature = 0.3').temperature
        0.3
    """
    result = from_dict(tomllib.loads(text))
    if not isinstance(result, Upsampler):
        raise ValueError(f"text must describe an upsampler, got a {type(result).__name__}.")
    return result


def _is_plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _check_writable(value: Any) -> None:
    for field in fields(value):
        item = getattr(value, field.name)
        if is_dataclass(item):
            _check_writable(item)
        elif not (item is None or _is_plain(item) or isinstance(item, tuple)):
            raise ValueError(
                f"{type(value).__name__}.{field.name} must be a plain value to be written as TOML, "
                f"got {type(item).__name__}."
            )
    if type(value).__name__ not in _CLASSES:
        raise ValueError(f"{type(value).__name__} is not a class from_toml knows.")
