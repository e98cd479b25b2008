"""The ``usu`` command."""

from usu_cli._main import main

__all__ = ["main"]
