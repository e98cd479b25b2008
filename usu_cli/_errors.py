"""What went wrong in the command line as opposed to in the program."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

# What Captum, the CAM library, torch and people's models raise on what they cannot handle.
_FAILURES = (ValueError, TypeError, RuntimeError, AssertionError, AttributeError, LookupError)


class UsageError(Exception):
    """A request that cannot be met: reported in one line, with exit code 2, no traceback."""


@contextmanager
def in_one_line(what: str, advice: str = "") -> Iterator[None]:
    """Say what could not be done, and why, where other people's code is run.

    Args:
        what: What could not be done.
        advice: What may be done about it.

    Raises:
        UsageError: If a library or a model cannot handle what it is given.

    Example:
        >>> with in_one_line("layer 'fc' cannot be explained", "give another --layer"):
        ...     raise AssertionError("no output. Try another.")
        Traceback (most recent call last):
        usu_cli._errors.UsageError: layer 'fc' cannot be explained: no output; give another --layer
    """
    try:
        yield
    except _FAILURES as error:
        said = f"{what}: {complaint(error)}"
        raise UsageError(f"{said}; {advice}" if advice else said) from error


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
