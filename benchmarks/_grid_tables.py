"""Markdown tables of grids: maps in rows, models side by side."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks._common import markdown
from usu_cli.evaluate import Summary
from usu_cli.evaluate._maps import AS_IS
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._statistics import Array, paired
from usu_cli.evaluate._summary import Comparison, MapName, label

CONTROLS = ("RISE", "Lime", "Occlusion", "random")
SUBJECTS = ("usu", "iwmr-mass", "tilted")
LEVEL = 0.05
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
    for method in methods:
        for metric in metrics:
            for peer in peers:
                pair = [
                    _found(summary, metric, (method, subject), (method, peer))
                    for summary in summaries.values()
                ]
                if any(pair):
                    cells = [f"{c.result.gain:+.3f}, p {c.holm:.3f}" if c else "" for c in pair]
                    rows.append([f"{method}, {metric}, over {peer}", *cells])
    return markdown([f"gain of {subject}", *_heads(summaries)], rows)


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
    rows = []
    for name, place in (places | subjects | {"random": ("random", AS_IS)}).items():
        rows.append([name, *(f"{_gap(s, place).mean():.3f}" for s in summaries.values())])
    for subject, place in subjects.items():
        for peer, other in places.items():
            cells = []
            for summary in summaries.values():
                result = paired(_gap(summary, place) - _gap(summary, other))
                cells.append(f"{result.gain:+.3f}, p {result.p:.3f}")
            rows.append([f"{subject} over {peer}", *cells])
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
    if compared is None or compared.holm >= LEVEL or MEASURES[metric].higher_is_better is None:
        return f"{mean:.3f}"
    return f"**{mean:.3f}**" if compared.result.gain > 0 else f"_{mean:.3f}_"


def _gap(summary: Summary, name: MapName) -> Array:
    """Insertion minus deletion of a map, on the images that have every map."""
    measured = [set(summary.values[m, n]) for m in _CURVES for n in summary.maps]
    common = sorted(set.intersection(*measured))
    low, high = (summary.values[metric, name] for metric in _CURVES)
    return np.array([high[image] - low[image] for image in common])
