"""``usu evaluate`` and ``usu compare``: are these maps better, on a person's own model and images?

Listing (``_items``), explaining (``_sources``, ``_maps``) and judging (``_measures``) an image end
in records (``_journal``); statistics, tables, plots and the page are made of records alone.
"""

from usu_cli._options import CompareOptions, EvaluateOptions
from usu_cli.evaluate._command import run_evaluate
from usu_cli.evaluate._compare import run_compare
from usu_cli.evaluate._items import Item, list_items
from usu_cli.evaluate._journal import Journal, Record, read_records
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._plan import Plan
from usu_cli.evaluate._run import evaluate
from usu_cli.evaluate._sources import is_coarse, known_methods
from usu_cli.evaluate._summary import Comparison, Summary, summarise

__all__ = [
    "MEASURES",
    "CompareOptions",
    "Comparison",
    "EvaluateOptions",
    "Item",
    "Journal",
    "Plan",
    "Record",
    "Summary",
    "evaluate",
    "is_coarse",
    "known_methods",
    "list_items",
    "read_records",
    "run_compare",
    "run_evaluate",
    "summarise",
]
