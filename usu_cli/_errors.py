"""What went wrong in the command line as opposed to in the program."""

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(Exception):
    """A request that cannot be met: reported in one line, with exit code 2, no traceback."""


def unknown(kind: str, given: str, known: Iterable[str], where: str = "") -> UsageError:
    """Say that ``given`` is no known ``kind``, naming the nearest that exist.

    Args:
        kind: What is being named, in the singular: "layer", "class".
        given: The name that was not found.
        known: Every name that would have been right; shown whole when there are few.
        where: What lists them all, if anything does.
    """
    names = list(dict.fromkeys(known))
    # Compared without case, since a wrong capital is the commonest near miss of all.
    spelling = {name.lower(): name for name in reversed(names)}
    near = [spelling[name] for name in get_close_matches(given.lower(), spelling, n=5, cutoff=0.5)]
    if near:
        said = f"did you mean {', '.join(near)}?"
    elif len(names) <= 12:
        said = f"there are: {', '.join(names)}"
    else:
        said = f"none of the {len(names)} known names is close to it"
    also = f" (see {where})" if where else ""
    return UsageError(f"unknown {kind} {given!r}; {said}{also}")


def complaint(error: BaseException) -> str:
    """Return what an exception says is wrong, without its advice, which is for Python.

    Example:
        >>> complaint(ValueError("layer must be spatial. Try upsampler=None."))
        'layer must be spatial'
    """
    return one_line(error).partition(". Try ")[0].removesuffix(".")


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line, or its type's name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
