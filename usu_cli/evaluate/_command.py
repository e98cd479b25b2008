"""What ``usu evaluate`` does with what was asked for."""

from collections.abc import Sequence
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch

from usu_cli._asked import classifier_as_asked, to_device
from usu_cli._errors import UsageError
from usu_cli._folder import check_free, prepare_folder
from usu_cli._options import EvaluateOptions
from usu_cli._table import counted, text_table
from usu_cli.evaluate._asked import check_known, check_maps, plan_as_asked
from usu_cli.evaluate._fingerprints import IMAGES
from usu_cli.evaluate._items import Item, list_items
from usu_cli.evaluate._journal import Record, read_records
from usu_cli.evaluate._maps import AS_IS
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._page import FILES, write_summary
from usu_cli.evaluate._plan import SETTINGS, read_settings
from usu_cli.evaluate._run import evaluate
from usu_cli.evaluate._sources import is_coarse
from usu_cli.evaluate._summary import summarise
from usu_cli.evaluate._tables import means

_EXTRA = ("scipy", "pandas", "scikit_posthocs", "tabulate")
_WRITTEN = ("records-*.jsonl", "records-*.lock", SETTINGS, IMAGES, *FILES)
_SLOWEST = timedelta(days=7)  # that the other processes wait for the slowest


def run_evaluate(options: EvaluateOptions) -> None:
    """Measure what is missing, or this process's share of it; the first process sums up.

    Raises:
        UsageError: If anything named does not exist or does not fit, or an earlier run in the same
            folder used other settings.
    """
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"evaluate needs {', '.join(missing)}; try pip install {' '.join(missing)}"
        )
    _check_files(options.out)
    against = _check_names(options)
    items = list_items(options.data, options.masks, options.images, options.out)
    masked = [metric for metric in options.metrics if MEASURES[metric].needs_mask]
    if masked and not any(item.mask for item in items):
        raise UsageError(
            f"masks are needed for {', '.join(masked)}; give --masks DIR or a list with masks"
        )
    _check_free(options, items)
    prepare_folder(options.out)
    classifier = classifier_as_asked(options)
    plan = plan_as_asked(options, classifier)
    processes = _Processes()
    to_device(classifier.model)
    with_mask = sum(item.mask is not None for item in items)
    if processes.first and 0 < with_mask < len(items):
        has = "has" if with_mask == 1 else "have"
        print(f"{with_mask} of {len(items)} images {has} a mask", flush=True)
    unreadable = evaluate(
        classifier, items, plan, options.out, shard=processes.index, shards=processes.count
    )
    _report_unreadable(unreadable, len(items[processes.index :: processes.count]))
    processes.wait()
    if processes.first:
        _sum_up(options.out, against, items)


class _Processes:
    """This process among those that torchrun started; alone without it."""

    def __init__(self) -> None:
        from accelerate import PartialState

        # Without a GPU, accelerate looks for other processes only if told that this is meant.
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=_SLOWEST)
        self.index: int = state.process_index
        self.count: int = state.num_processes
        self.first: bool = state.is_main_process
        self._state = state

    def wait(self) -> None:
        """Wait for all processes to come here."""
        self._state.wait_for_everyone()


def _check_files(out: Path) -> None:
    """Raise a UsageError if a file could not be written in the end, since a folder has its name."""
    for pattern in _WRITTEN:
        for path in out.glob(pattern):
            if path.is_dir():
                raise UsageError(
                    f"{str(path)!r} is a folder, and a file of this name is to be written; "
                    "give another --out"
                )


def _check_free(options: EvaluateOptions, items: Sequence[Item]) -> None:
    """Raise a UsageError if a file that is read, or of something else, would be replaced."""
    read = [options.data, *(path for i in items for path in (i.path, i.mask) if path is not None)]
    # What else has such a file is told from evaluate's before anything is measured.
    own = FILES if (options.out / SETTINGS).is_file() else ()
    check_free(options.out, "evaluate", FILES, own=own, inputs=read)


def _check_names(options: EvaluateOptions) -> tuple[str, ...]:
    """Return what to compare with: bilinear, if it is measured and nothing else was asked for."""
    coarse = any(is_coarse(method) for method in options.methods)
    peers = set(options.upsamplers if coarse else ())
    peers |= {method for method in options.methods if not is_coarse(method)}
    peers |= {part for r in read_records(options.out) for part in (r.method, r.upsampler)}
    peers.discard(AS_IS)
    against = options.against
    if against is None:
        against = ("bilinear",) if "bilinear" in peers else ()
    check_maps(options)
    check_known("upsampler or method to compare with", against, sorted(peers))
    return against


def _report_unreadable(unreadable: dict[str, str], items: int) -> None:
    if unreadable:
        print(f"{len(unreadable)} of {counted(items, 'image')} could not be read:")
        for name, reason in unreadable.items():
            print(f"  {name}: {reason}")


def _sum_up(out: Path, against: tuple[str, ...], items: Sequence[Item]) -> None:
    records = read_records(out)
    if not records:
        raise UsageError("nothing could be measured: no image could be read")
    if all(record.value is None for record in records):
        raise UsageError(f"nothing could be measured; the first: {_failure(records[0])}")
    summary = summarise(records, against)
    files = write_summary(summary, read_settings(out), against, out)
    print(text_table(*means(summary, against[0] if against else None)))
    if summary.errors:
        print(
            f"{counted(len(summary.errors), 'value')} could not be measured, and will be "
            f"tried again next time; the first: {_failure(summary.errors[0])}"
        )
    asked = {item.name for item in items}
    more = any(record.image not in asked for record in records)
    here = f" in this folder, {len(asked)} asked for" if more else ""
    images = counted(summary.images, "image")
    print(f"{images}{here}; tables, pictures and the page to open: {files[-1]}")


def _failure(record: Record) -> str:
    return f"{record.metric} of {record.image}: {record.error}"
