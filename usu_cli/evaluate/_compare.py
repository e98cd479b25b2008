"""``usu compare``: methods and upsamplers side by side on a few images, every map measured."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from usu_cli._about import about_all, facts
from usu_cli._asked import classifier_as_asked, to_device
from usu_cli._classes import class_name
from usu_cli._errors import UsageError
from usu_cli._folder import prepare_report
from usu_cli._images import read_image, utf8
from usu_cli._models import Classifier
from usu_cli._options import CompareOptions
from usu_cli._pictures import COLOURS, Panel, map_panel
from usu_cli._report import Report, Sheet, Table, sheet_stem, write_report
from usu_cli._table import counted, text_table
from usu_cli._versions import versions
from usu_cli.evaluate._asked import check_maps, plan_as_asked
from usu_cli.evaluate._items import Item
from usu_cli.evaluate._journal import Record
from usu_cli.evaluate._maps import AS_IS, FineMap
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._plan import Plan
from usu_cli.evaluate._run import measure_item
from usu_cli.evaluate._sources import Subject
from usu_cli.evaluate._subjects import make_methods, make_subject
from usu_cli.evaluate._summary import label, summarise
from usu_cli.evaluate._tables import EVALUATIONS, figure, means


def run_compare(options: CompareOptions) -> None:
    """Explain every image in every way, measure the maps, print tables, write the report.

    Raises:
        UsageError: If anything named does not exist or does not fit.
    """
    check_maps(options)
    masked = [metric for metric in options.metrics if MEASURES[metric].needs_mask]
    if masked:
        raise UsageError(
            f"masks are needed for {', '.join(masked)}; usu evaluate --masks takes them"
        )
    paths = list(dict.fromkeys(options.images))
    stems = [sheet_stem(number, path) for number, path in enumerate(paths, start=1)]
    prepare_report(options.out, "compare", stems, paths)
    classifier = classifier_as_asked(options)
    plan = plan_as_asked(options, classifier)
    to_device(classifier.model)
    methods = make_methods(classifier, plan)
    # Everything is read before anything is explained: that is quick.
    items = [Item(utf8(str(path)), path) for path in paths]
    subjects = [make_subject(item, plan.target, classifier, plan.seed) for item in items]
    sheets: list[Sheet] = []
    records: list[Record] = []
    for item, subject in tqdm(list(zip(items, subjects, strict=True)), "comparing", unit="image"):
        found: list[Record] = []
        maps = measure_item(item, subject, methods, plan, classifier.model, found.extend)
        sheets.append(_sheet(len(sheets) + 1, item, subject, maps, found, classifier))
        records += found
    _write(sheets, records, plan, classifier, options.out)


def _sheet(
    number: int,
    item: Item,
    subject: Subject,
    maps: Sequence[FineMap],
    records: Sequence[Record],
    classifier: Classifier,
) -> Sheet:
    picture = np.asarray(classifier.preprocessing.crop(read_image(item.path)))
    explained = class_name(subject.target, classifier.classes)
    panels = [Panel("input", explained, picture)]
    for m in maps:
        values = [
            f"{record.metric} {'none' if record.value is None else figure(record.value)}"
            for record in records
            if (record.method, record.upsampler) == (m.method, m.upsampler)
        ]
        name, drawn = label((m.method, m.upsampler)), m.values.cpu().numpy()
        panels.append(map_panel(name, ", ".join(values), drawn, picture))
    return Sheet(
        stem=sheet_stem(number, item.path),
        title=f"{utf8(item.path.name)}: {explained}",
        note="the model's first class" if subject.first else "not the model's first class",
        panels=panels,
        table=_table(records),
    )


def _table(records: Sequence[Record]) -> Table:
    summary = summarise(records, ())
    failed = "; ".join(dict.fromkeys(f"{r.metric}: {r.error}" for r in summary.errors))
    without = f" Without a value: {failed}." if failed else ""
    return Table(*means(summary), f"{EVALUATIONS}{without}")


def _write(
    sheets: Sequence[Sheet],
    records: Sequence[Record],
    plan: Plan,
    classifier: Classifier,
    out: Path,
) -> None:
    total = _table(records)
    metrics = [f"{name.capitalize()}: {MEASURES[name].about}." for name in plan.metrics]
    if classifier.outputs == 1:  # which is no probability
        metrics = [text.replace("probability", "score") for text in metrics]
    target = None if plan.target is None else class_name(plan.target, classifier.classes)
    settings: dict[str, Any] = {
        **{k: v for k, v in vars(plan).items() if k != "upsamplers"},
        "model": classifier.name,
        "preprocessing": asdict(classifier.preprocessing),
        "upsamplers": list(plan.upsamplers),
    }
    report = Report(
        title=f"Attribution maps of {classifier.name}, side by side",
        lead=(
            "Every method's map, and every way of bringing a coarse one to the image's size: what "
            f"speaks for the class. {COLOURS}",
            about_all(dict.fromkeys(r.upsampler for r in records if r.upsampler != AS_IS)),
            *metrics,
            "A few images are a look, not evidence: usu evaluate measures many, and tests.",
        ),
        facts=facts({**settings, "target": target, "versions": versions()}),
        sheets=sheets,
        summary=total if len(sheets) > 1 else None,
    )
    manifest = {
        "command": "compare",
        "settings": settings,
        "versions": versions(),
        "records": [asdict(record) for record in records],
    }
    paths = write_report(report, manifest, out)
    print(text_table(total.header, total.rows))
    if len(sheets) > 1:
        print(f"\nMeans over {len(sheets)} images.")
    pictures = counted(len(sheets), "picture")
    print(f"{pictures}, {paths[-1].name} and the page to open: {paths[-2]}")
