"""Run the command as ``python -m usu_cli``."""

from usu_cli import main

main()
