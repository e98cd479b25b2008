"""How a command line is read: options by their types, and what was given as keywords."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from usu_cli._errors import UsageError

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


class Parser(argparse.ArgumentParser):
    """Reports its own errors as everything else here does: in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known here: left to the parser above, it would name its own help."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def add_command(
    commands: Commands,
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], None],
) -> Parser:
    """Add a command that calls ``run`` with what was given."""
    command = commands.add_parser(
        name,
        help=text,
        description=text.capitalize() + ".",
        argument_default=argparse.SUPPRESS,  # the defaults are those of the options' classes
    )
    command.set_defaults(run=run)
    return command


def show_defaults(command: Parser, options: type) -> None:
    """End what is said of each option with its default in the options' class, if it has one."""
    defaults = {field.name: field.default for field in fields(options)}
    for action in command._actions:
        default = defaults.get(action.dest)
        if isinstance(default, str | Path | float) or type(default) is int:
            action.help = f"{action.help or ''} (default {default})".strip()


def add_names(command: Parser, flags: Sequence[str], text: str, dest: str | None = None) -> None:
    """Add an option that may be repeated and takes several names at once."""
    command.add_argument(
        *flags, action="extend", type=_names, metavar="NAME[,NAME...]", help=text, dest=dest
    )


def given_options(given: argparse.Namespace, **defaults: tuple[str, ...] | None) -> dict[str, Any]:
    """Return what was given, lists as tuples; what was not is left to the options' own defaults.

    Args:
        given: The parsed command line.
        defaults: What stands for a list of names that is empty or was not given.
    """
    values = {name: value for name, value in vars(given).items() if name != "run"}
    for name, value in values.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    names = {name: tuple(dict.fromkeys(values.get(name, ()))) for name in defaults}
    return values | {name: names[name] or default for name, default in defaults.items()}


def _names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def natural(text: str) -> int:
    """Return a whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {value}")
    return value


def path(text: str) -> Path:
    """Return a path, ``~`` for the home folder: after ``=``, a shell leaves it as it is."""
    if not text:  # an unset variable of the shell; Python would take it for the working folder
        raise argparse.ArgumentTypeError("must be a path, got ''; . is the working folder")
    try:
        return Path(text).expanduser()
    except RuntimeError:  # nobody has that home
        return Path(text)


def number(text: str) -> float:
    """Return a number that is finite."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be finite, got {value}")
    return value


def of_colours(text: str) -> float:
    """Return a number that colours in [0, 1] may have as their mean or deviation."""
    value = number(text)
    if value > 1:
        raise argparse.ArgumentTypeError(
            f"must be of values in [0, 1], got {value:g}; divide what is of 0 to 255 by 255"
        )
    return value


def positive_number(text: str) -> float:
    """Return a finite number above 0."""
    value = number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be positive, got {value}")
    return value


def deviation_of_colours(text: str) -> float:
    """Return a number that colours in [0, 1] may have as their deviation."""
    return min(positive_number(text), of_colours(text))


class Version(argparse.Action):
    """Looks the version up only when asked for: that imports torch."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        text = "show the version and exit"
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=text)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import usu_core

        print(f"usu {usu_core.__version__}")
        parser.exit()
