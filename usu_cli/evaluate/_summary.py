"""From records to means and comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from usu_cli._errors import UsageError, unknown
from usu_cli.evaluate._journal import Record
from usu_cli.evaluate._maps import AS_IS
from usu_cli.evaluate._measures import MEASURES
from usu_cli.evaluate._statistics import Array, Paired, bonferroni, holm, paired

MapName = tuple[str, str]
"""Method and upsampler."""


@dataclass(frozen=True)
class Comparison:
    """One map against another by one metric, on the images that both have.

    Attributes:
        metric: Its name.
        subject: The map.
        peer: What it is compared with.
        result: The statistics.
        holm: The p-value corrected over all comparisons with this peer by this metric.
        bonferroni: Likewise, by the cruder rule.
    """

    metric: str
    subject: MapName
    peer: MapName
    result: Paired
    holm: float
    bonferroni: float


@dataclass(frozen=True)
class Summary:
    """What all records say.

    Attributes:
        images: Number of images with any value.
        metrics: Those with any value, in the order of ``MEASURES``.
        maps: All maps, in the order of the records, those of a method together.
        values: For each metric and map, the values by image.
        curves: For each metric and map, the mean curve, where the metric has one.
        evaluations: For each map, the mean number of model evaluations spent where it was made.
        comparisons: Every map against every peer.
        errors: Records without a value.
    """

    images: int
    metrics: tuple[str, ...]
    maps: tuple[MapName, ...]
    values: Mapping[tuple[str, MapName], Mapping[str, float]]
    curves: Mapping[tuple[str, MapName], Array]
    evaluations: Mapping[MapName, float]
    comparisons: tuple[Comparison, ...]
    errors: tuple[Record, ...]

    def mean(self, metric: str, name: MapName) -> float | None:
        """Return a map's mean, or ``None`` without values."""
        values = self.values.get((metric, name))
        return float(np.mean(list(values.values()))) if values else None


def summarise(records: Sequence[Record], against: Sequence[str] = ("bilinear",)) -> Summary:
    """Average over images, and compare every map with its peers.

    Args:
        records: All there are.
        against: Upsamplers, each compared with the others on the same method; or methods that
            give fine maps, each compared with all other maps.

    Raises:
        UsageError: If there are no records, or a name in ``against`` is not among them.
    """
    if not records:
        raise UsageError("nothing has been measured")
    values: dict[tuple[str, MapName], dict[str, float]] = {}
    curves: dict[tuple[str, MapName], list[tuple[float, ...]]] = {}
    spent: dict[MapName, dict[str, int]] = {}
    for record in records:
        name = (record.method, record.upsampler)
        made = spent.setdefault(name, {})
        if record.value is not None or record.evaluations:  # else there may have been no map
            made[record.image] = record.evaluations
        if record.value is not None:
            values.setdefault((record.metric, name), {})[record.image] = record.value
        if record.curve is not None:
            curves.setdefault((record.metric, name), []).append(record.curve)
    methods = list(dict.fromkeys(method for method, _ in spent))
    maps = tuple(sorted(spent, key=lambda name: methods.index(name[0])))
    measured = {metric for metric, _ in values}
    metrics = tuple(metric for metric in MEASURES if metric in measured)
    return Summary(
        images=len({record.image for record in records if record.value is not None}),
        metrics=metrics,
        maps=maps,
        values=values,
        curves={key: np.mean(rows, axis=0) for key, rows in curves.items()},
        evaluations={name: float(np.mean(list(s.values()) or 0)) for name, s in spent.items()},
        comparisons=_compare(values, metrics, maps, against),
        errors=tuple(record for record in records if record.value is None),
    )


def label(name: MapName) -> str:
    """Return a map's name in words."""
    method, upsampler = name
    return method if upsampler == AS_IS else f"{method}, {upsampler}"


def _compare(
    values: Mapping[tuple[str, MapName], Mapping[str, float]],
    metrics: Sequence[str],
    maps: Sequence[MapName],
    against: Sequence[str],
) -> tuple[Comparison, ...]:
    found: list[Comparison] = []
    for metric in metrics:
        if MEASURES[metric].higher_is_better is None:
            continue
        for peer in against:
            family = [
                (pair, result)
                for pair in _pairs(maps, peer)
                if (result := _paired(values, metric, *pair)) is not None
            ]
            p = np.array([result.p for _, result in family])
            found += [
                Comparison(metric, *pair, result, float(by_holm), float(by_bonferroni))
                for (pair, result), by_holm, by_bonferroni in zip(
                    family, holm(p), bonferroni(p), strict=True
                )
            ]
    return tuple(found)


def _pairs(maps: Sequence[MapName], peer: str) -> list[tuple[MapName, MapName]]:
    """Return every map with what it is compared with: a fine map, or its method's own."""
    if (peer, AS_IS) in maps:
        return [(name, (peer, AS_IS)) for name in maps if name != (peer, AS_IS)]
    if not any(upsampler == peer for _, upsampler in maps):
        fine = [method for method, upsampler in maps if upsampler == AS_IS]
        known = dict.fromkeys([u for _, u in maps if u != AS_IS] + fine)
        raise unknown("peer", peer, known)
    return [
        (name, (name[0], peer))
        for name in maps
        if name[1] not in (AS_IS, peer) and (name[0], peer) in maps
    ]


def _paired(
    values: Mapping[tuple[str, MapName], Mapping[str, float]],
    metric: str,
    subject: MapName,
    peer: MapName,
) -> Paired | None:
    ours, theirs = values.get((metric, subject), {}), values.get((metric, peer), {})
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    difference = np.array([ours[image] - theirs[image] for image in shared])
    return paired(difference if MEASURES[metric].higher_is_better else -difference)
