"""Measure image by image, what has not been measured yet."""

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial
from pathlib import Path

from torch import nn
from tqdm import tqdm

from usu_cli._classes import find_target
from usu_cli._errors import UsageError, in_one_line
from usu_cli._maps import Scored
from usu_cli._models import Classifier
from usu_cli.evaluate._failures import Excuse, failed_records, only_this_image
from usu_cli.evaluate._fingerprints import check_same, write_digests
from usu_cli.evaluate._items import Item
from usu_cli.evaluate._journal import Journal, Key, Record, keys, read_records
from usu_cli.evaluate._judges import Judges, judged_together, records_of
from usu_cli.evaluate._maps import AS_IS, FineMap, fine_maps
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._plan import Plan, claim
from usu_cli.evaluate._sources import Method, Subject, explain, is_coarse
from usu_cli.evaluate._subjects import UnreadableError, make_methods, make_subject
from usu_core import AnyUpsampler


def evaluate(
    classifier: Classifier,
    items: Sequence[Item],
    plan: Plan,
    out: Path,
    *,
    shard: int = 0,
    shards: int = 1,
) -> dict[str, str]:
    """Measure every map of every item, but for what ``out`` holds already.

    May be stopped at any time, and called again: with the same settings it goes on; with more
    methods, upsamplers, metrics or items it adds those. What could not be measured is tried again.

    Args:
        classifier: The model; it decides the device.
        items: The images.
        plan: What to measure.
        out: Folder of the records and settings.
        shard: Which of ``shards`` this process is; it takes every ``shards``-th item.
        shards: Number of processes that share the items.

    Returns:
        The items that could not be read, with the reason; they are tried again next time.

    Raises:
        UsageError: If ``out`` holds results of other settings, or of other pictures or masks by
            the same names, another process writes this shard, a name or target is unknown, or a
            method cannot explain the model. One that cannot explain an image leaves records that
            say so.

    Cost:
        Per image and map about ``3 (steps + 1)`` model evaluations for each of deletion and
        insertion; per image ``samples`` for box metrics and 160 for guided upsamplers.
        Max-sensitivity explains and upsamples eleven times again, model randomisation twice.
    """
    methods = make_methods(classifier, plan)
    targets = {
        item.name: find_target(item.target, classifier.outputs, classifier.classes)
        for item in items
        if item.target is not None
    }
    unreadable = {}
    excuse = only_this_image(classifier.model)
    with Journal(out, shard) as journal:
        # Read under the lock: a run that is just ending may still be adding records.
        earlier = read_records(out)
        digests = check_same(out, items, earlier)
        claim(out, plan, classifier, measured=bool(earlier))
        write_digests(out, digests)
        done, failed = keys(earlier), {record for record in earlier if record.value is None}

        def write(records: Sequence[Record]) -> None:
            # What fails as it did before is no news.
            journal.append([record for record in records if record not in failed])

        mine = [item for item in items[shard::shards] if _missing(item, plan, done)]
        for item in tqdm(mine, desc="evaluating", unit="image", position=shard):
            chosen = targets.get(item.name, plan.target)
            try:
                subject = make_subject(item, chosen, classifier, plan.seed)
            except UnreadableError as error:  # named in the end, not fatal
                unreadable[item.name] = str(error)
                continue
            measure_item(item, subject, methods, plan, classifier.model, write, done, excuse)
    return unreadable


def _missing(item: Item, plan: Plan, done: set[Key]) -> bool:
    return any(
        (item.name, method, upsampler, metric) not in done
        for method in plan.methods
        for upsampler in _ways(method, plan)
        for metric in _metrics(item, method, plan)
    )


def _ways(method: str, plan: Plan) -> Sequence[str]:
    return tuple(plan.upsamplers) if is_coarse(method) else (AS_IS,)


def _metrics(item: Item, method: str, plan: Plan) -> list[str]:
    return [
        name
        for name in plan.metrics
        if (item.mask is not None or not MEASURES[name].needs_mask)
        and (is_coarse(method) or MEASURES[name].run is not None)
    ]


def measure_item(
    item: Item,
    subject: Subject,
    methods: Mapping[str, Method],
    plan: Plan,
    model: nn.Module,
    write: Callable[[Sequence[Record]], object],
    done: Set[Key] = frozenset(),
    excuse: Excuse = lambda *_: False,
) -> list[FineMap]:
    """Explain and judge one image.

    Args:
        item: The image.
        subject: What was read of it.
        methods: Those of the plan, by name.
        plan: What to measure.
        model: The judge.
        write: Takes records as they are found.
        done: What need not be measured again.
        excuse: Whether a method that fails leaves records of that, instead of ending the run.

    Returns:
        The maps that were made.

    Raises:
        UsageError: If a method fails, and that is not excused.
    """
    scored: Scored = {}
    maps: list[FineMap] = []
    for name, method in methods.items():
        wanted = [
            (way, metric)
            for way in _ways(name, plan)
            for metric in _metrics(item, name, plan)
            if (item.name, name, way, metric) not in done
        ]
        if not wanted:
            continue
        ways = dict.fromkeys(way for way, _ in wanted)
        upsamplers = {way: plan.upsamplers[way] for way in ways if way != AS_IS}
        attempt = partial(_maps_of, name, method, upsamplers)
        try:
            maps += attempt(subject, scored)
        except UsageError as error:
            if not excuse(name, attempt, subject):
                raise
            write(failed_records(item.name, name, wanted, subject, error))
    judges = Judges(subject, plan, model, scored, methods)
    for metric in plan.metrics:
        chosen = [
            m
            for m in maps
            if metric in _metrics(item, m.method, plan)
            and (item.name, m.method, m.upsampler, metric) not in done
        ]
        for group in judged_together(metric, chosen):
            write(records_of(item.name, subject, metric, group, judges))
    return maps


def _maps_of(
    name: str,
    method: Method,
    upsamplers: Mapping[str, AnyUpsampler],
    subject: Subject,
    scored: Scored,
) -> list[FineMap]:
    explanation = explain(name, method, subject)
    with in_one_line(f"a map of {name!r} cannot be upsampled"):
        return list(fine_maps(name, explanation, subject, upsamplers, scored))
