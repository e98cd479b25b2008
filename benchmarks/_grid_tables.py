"""Markdown tables of grids: maps in rows, models side by side."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np

from benchmarks._common import chance, emphasised, markdown
from usu_cli.evaluate import Summary
from usu_cli.evaluate._maps import AS_IS
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._statistics import Array, holm, paired
from usu_cli.evaluate._summary import Comparison, MapName, label

EQUAL_COST = ("RISE", "Lime", "Occlusion")
CONTROLS = (*EQUAL_COST, "random")
SUBJECTS = ("usu", "iwmr-mass", "tilted")
LEVEL = 0.05
Tests = Mapping[str, Mapping[str, float]]
"""Gain and p, among others, by what was compared."""
_CURVES = ("deletion", "insertion")


def maps_of(
    summaries: Mapping[str, Summary], methods: Sequence[str] | None = None
) -> list[MapName]:
    """Return the maps of any model, of these methods or of all, in their order."""
    every = dict.fromkeys(name for summary in summaries.values() for name in summary.maps)
    order = list(dict.fromkeys(method for method, _ in every)) if methods is None else methods
    return [name for method in order for name in every if name[0] == method]


def means(
    summaries: Mapping[str, Summary], metrics: Sequence[str], maps: Sequence[MapName], peer: str
) -> str:
    """Return a row per map; cells hold the metrics in turn.

    Values are bold where better and italic where worse than ``peer`` on the same CAM at
    p < 0.05, corrected by Holm.
    """
    rows = []
    for name in maps:
        cells = [
            " / ".join(filter(None, (_marked(summary, m, name, peer) for m in metrics)))
            for summary in summaries.values()
        ]
        rows.append([label(name), *cells])
    return markdown([" / ".join(metrics), *_heads(summaries)], rows)


def gains(
    summaries: Mapping[str, Summary],
    metrics: Sequence[str],
    methods: Sequence[str],
    subject: str,
    peers: Sequence[str],
) -> str:
    """Return the mean gain of one upsampler over others, with p corrected by Holm."""
    rows = []
    for method, metric, peer in itertools.product(methods, metrics, peers):
        found = [
            _found(summary, metric, (method, subject), (method, peer))
            for summary in summaries.values()
        ]
        cells = [f"{c.result.gain:+.3f}, {chance(c.holm)}" if c else "" for c in found]
        rows.append([f"{method}, {metric}, over {peer}", *cells])
    return markdown([f"gain of {subject}", *_heads(summaries)], rows)


def tested(
    summaries: Mapping[str, Summary],
    metric: str,
    methods: Sequence[str],
    subject: str,
    peers: Sequence[str],
) -> str:
    """Return :func:`corrected` gains over peers, also those ``summaries`` do not compare with."""
    sign = 1 if MEASURES[metric].higher_is_better else -1
    columns: dict[str, Tests] = {}
    for head, summary in zip(_heads(summaries), summaries.values(), strict=True):
        tests = {}
        for method, peer in itertools.product(methods, peers):
            ours, theirs = (summary.values.get((metric, (method, w)), {}) for w in (subject, peer))
            images = sorted(ours.keys() & theirs.keys())
            if images:
                gains = np.array([sign * (ours[image] - theirs[image]) for image in images])
                tests[f"{method}, {metric}, over {peer}"] = asdict(paired(gains))
        columns[head] = tests
    return corrected(columns, subject)


def corrected(models: Mapping[str, Tests], subject: str) -> str:
    """Return mean gains, a row per test, with p corrected by Holm over all tests of a model."""
    columns = []
    for tests in models.values():
        chances = holm(np.array([test["p"] for test in tests.values()]))
        pairs = zip(tests.items(), chances, strict=True)
        columns.append({name: f"{t['gain']:+.3f}, {chance(p)}" for (name, t), p in pairs})
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(column.get(name, "") for column in columns)] for name in names]
    return markdown([f"gain of {subject}", *models], rows)


def verdicts(
    summaries: Mapping[str, Summary], metrics: Sequence[str], peer: str = "bilinear"
) -> str:
    """Return on how many CAMs an upsampler is better and worse in the mean, and significantly."""
    rows = []
    for subject in SUBJECTS:
        for metric in metrics:
            cells = []
            for summary in summaries.values():
                found = [
                    c
                    for c in summary.comparisons
                    if (c.metric, c.subject[1], c.peer[1]) == (metric, subject, peer)
                ]
                up = [c for c in found if c.result.gain > 0]
                down = [c for c in found if c.result.gain < 0]
                cells.append(" : ".join(f"{len(s)} ({_sure(s)})" for s in (up, down)))
            rows.append([f"{subject}, {metric}", *cells])
    return markdown([f"better : worse than {peer}", *_heads(summaries)], rows)


def differences(summaries: Mapping[str, Summary], method: str, peers: Sequence[str]) -> str:
    """Return insertion minus deletion of a method's maps, and p (uncorrected) against peers."""
    places = {peer: (peer, AS_IS) if peer in CONTROLS else (method, peer) for peer in peers}
    subjects = {name: (method, name) for name in SUBJECTS}
    models = [_gaps(summary) for summary in summaries.values()]
    rows = []
    for name, place in (places | subjects | {"random": ("random", AS_IS)}).items():
        rows.append([name, *(f"{gaps[place].mean():.3f}" for gaps in models)])
    for subject, peer in itertools.product(subjects, places):
        found = [paired(gaps[subjects[subject]] - gaps[places[peer]]) for gaps in models]
        rows.append([f"{subject} over {peer}", *(f"{r.gain:+.3f}, {chance(r.p)}" for r in found)])
    return markdown(["insertion - deletion", *_heads(summaries)], rows)


def _heads(summaries: Mapping[str, Summary]) -> list[str]:
    return [f"{model}, {summary.images}" for model, summary in summaries.items()]


def _sure(comparisons: Sequence[Comparison]) -> int:
    return sum(c.holm < LEVEL for c in comparisons)


def _found(summary: Summary, metric: str, subject: MapName, peer: MapName) -> Comparison | None:
    for c in summary.comparisons:
        if (c.metric, c.subject, c.peer) == (metric, subject, peer):
            return c
    return None


def _marked(summary: Summary, metric: str, name: MapName, peer: str) -> str:
    mean = summary.mean(metric, name)
    if mean is None:
        return ""
    compared = _found(summary, metric, name, (name[0], peer))
    sure = compared is not None and compared.holm < LEVEL
    return emphasised(mean, compared.result.gain if compared and sure else None)


def _gaps(summary: Summary) -> dict[MapName, Array]:
    """Return insertion minus deletion of every map, on the images that have all of them."""
    measured = [set(summary.values[m, n]) for m in _CURVES for n in summary.maps]
    common = sorted(set.intersection(*measured))
    low, high = (
        {n: np.array([summary.values[m, n][image] for image in common]) for n in summary.maps}
        for m in _CURVES
    )
    return {name: high[name] - low[name] for name in summary.maps}
