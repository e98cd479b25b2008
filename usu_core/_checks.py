"""Checks on what a user passes in, with one wording for all of them.

Checks that read tensor values wait for the device, and a compiler cannot trace them, so they are
skipped while ``torch.compile`` traces.
"""

import difflib
import math
import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``, naming the nearest ones."""
    known = list(choices)
    if value in known:
        return
    near = difflib.get_close_matches(str(value), known, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.{hint}")


def check_number(name: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(
            f"{name} must be a number, got {type(value).__name__}: Python's own is needed. "
            "Try float(value)."
        )


def check_not_negative(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number of at least 0."""
    check_number(name, value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value}.")


def check_share(name: str, value: float) -> None:
    """Raise unless ``value`` is a number in [0, 1]."""
    check_number(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1], got {value}.")


def check_positive(name: str, value: float) -> None:
    """Raise unless ``value`` is a finite number above zero."""
    check_number(name, value)
    if not 0 < value < math.inf:  # Unlike isfinite, torch.compile can trace it; NaN fails it too.
        raise ValueError(f"{name} must be finite and above 0, got {value}.")


def check_temperature(name: str, value: float) -> None:
    """Raise unless scores can be divided by ``value`` in single precision."""
    check_positive(name, value)
    if not 1e-30 <= value <= 1e30:
        raise ValueError(f"{name} must lie between 1e-30 and 1e30, got {value:g}.")


def check_count(name: str, value: int, minimum: int = 1) -> None:
    """Raise unless ``value`` is an integer of at least ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{name} must be an integer, got {type(value).__name__}: Python's own is needed. "
            "Try int(value)."
        )
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}.")


def check_tensor(name: str, value: object) -> Tensor:
    """Return ``value`` if it is a tensor, raise ``TypeError`` otherwise."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    return value


def check_float_tensor(name: str, value: object) -> Tensor:
    """Return ``value`` if it is a real floating-point tensor, raise ``TypeError`` otherwise."""
    value = check_tensor(name, value)
    if not value.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {value.dtype}. Try .float().")
    return value


def check_integer_tensor(name: str, value: Tensor) -> None:
    """Raise ``TypeError`` unless ``value`` holds integers; masks do not."""
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} must be an integer tensor, got {value.dtype}. Try .long().")


def extremes(*values: Tensor) -> list[tuple[float, float]]:
    """Return the smallest and largest value of each tensor, NaN if it holds one.

    All are read together, for reading waits for the device.
    """
    found = [end for value in values for end in torch.aminmax(value.detach())]
    ends = iter(torch.stack(found).tolist())
    return list(zip(ends, ends, strict=True))


def check_finite(name: str, value: Tensor, known: tuple[float, float] | None = None) -> None:
    """Raise ``ValueError`` if ``value``, whose extremes may be known, holds NaN or infinity."""
    if torch.compiler.is_compiling() or value.numel() == 0:
        return
    # One pass without a buffer the size of the input: an extreme is non-finite if any value is.
    low, high = known or extremes(value)[0]
    if not math.isfinite(low) or not math.isfinite(high):
        bad = int((~torch.isfinite(value)).sum())
        raise ValueError(
            f"{name} must be finite, got {bad} NaN or infinite of {value.numel()} values."
        )


def check_unit_interval(name: str, value: Tensor, known: tuple[float, float] | None = None) -> None:
    """Raise ``ValueError`` if ``value`` holds NaN or anything outside [0, 1]; see check_finite."""
    if torch.compiler.is_compiling() or value.numel() == 0:
        return
    low, high = known or extremes(value)[0]
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(
            f"{name} must lie in [0, 1] and be finite, got values from {low:.8g} to {high:.8g}. "
            f"Try ({name} - {name}.min()) / ({name}.max() - {name}.min())."
        )


def check_size(name: str, value: Sequence[int]) -> tuple[int, ...]:
    """Return ``value`` as a tuple of positive integers of length 1, 2 or 3."""
    try:
        # Unlike int(), index() refuses fractions, and makes a compiler specialise on the size.
        size = tuple(operator.index(v) for v in value)
    except TypeError as error:
        raise TypeError(
            f"{name} must be a tuple of integers, got {value!r}. Try {name}=(8, 8)."
        ) from error
    if not 1 <= len(size) <= 3:
        raise ValueError(f"{name} must have 1, 2 or 3 dimensions, got {size}.")
    if min(size) < 1:
        raise ValueError(f"{name} must not be empty, got {size}.")
    return size
