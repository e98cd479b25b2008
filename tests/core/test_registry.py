"""Names: built-in ones, plug-ins, and the nearest of what was mistyped."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest
import torch
from torch import Tensor

from usu_core import USU, Interpolation, _registry, available, resolve

BUILT_IN = {
    "nearest", "bilinear", "bicubic", "lanczos", "bilinear-conserving", "usu", "usu-fast", "iwmr",
    "iwmr-mass", "tilted", "score-map",
}  # fmt: skip


class Flat:
    """A third party's upsampler: gives every pixel the mean of the map."""

    def __call__(self, cells: Tensor, *, image: Tensor, **others: Any) -> Tensor:
        mean = cells.mean(tuple(range(2, cells.dim())), keepdim=True)
        return mean.expand(*cells.shape[:2], *image.shape[2:])


FLAT = Flat()


@pytest.fixture
def plug_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three installed plug-ins, one of which takes a built-in name."""
    points = EntryPoints(
        EntryPoint(name, f"{__name__}:{attribute}", "usu.upsamplers")
        for name, attribute in (("flat", "FLAT"), ("flat-class", "Flat"), ("usu", "FLAT"))
    )

    def entry_points(*, group: str) -> EntryPoints:
        return points.select(group=group)

    def load(self: EntryPoint) -> Any:
        return globals()[self.attr]

    monkeypatch.setattr(_registry, "entry_points", entry_points)
    monkeypatch.setattr(EntryPoint, "load", load)
    _registry._plug_ins.cache_clear()
    yield
    _registry._plug_ins.cache_clear()


def test_the_built_in_names_are_there() -> None:
    assert set(available()) >= BUILT_IN


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_names_resolve_to_one_object(name: str) -> None:
    assert callable(resolve(name))
    assert resolve(name) is resolve(name)


def test_the_paper_s_iwmr_and_the_corrected_one() -> None:
    assert resolve("iwmr").prior == "uniform"
    assert resolve("iwmr-mass").prior == "mass"


def test_interpolations_have_their_own_mode() -> None:
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "bilinear-conserving"):
        assert resolve(name) == Interpolation(name)


def test_objects_come_back_as_they_are() -> None:
    upsampler = USU(temperature=0.3)
    assert resolve(upsampler) is upsampler
    assert resolve(FLAT) is FLAT


@pytest.mark.parametrize(
    ("name", "hint"), [("uso", "'usu'"), ("biliner", "'bilinear'"), ("iwmr_mass", "'iwmr-mass'")]
)
def test_unknown_names_suggest_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"upsampler must be one of nearest, .*{name}.* {hint}"):
        resolve(name)


@pytest.mark.parametrize("value", [3, None, USU])
def test_what_is_no_upsampler_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"upsampler must be a name or an object such as USU\(\)"):
        resolve(value)


@pytest.mark.usefixtures("plug_ins")
def test_plug_ins_add_names_and_never_replace_built_in_ones() -> None:
    assert available()[-2:] == ("flat", "flat-class")
    assert available().count("usu") == 1
    assert isinstance(resolve("usu"), USU)
    assert resolve("flat") is FLAT
    assert isinstance(resolve("flat-class"), Flat)
    fine = resolve("flat")(torch.tensor([[[1.0, 3.0]]]), image=torch.zeros(1, 3, 4))
    assert fine.tolist() == [[[2.0] * 4]]
    with pytest.raises(ValueError, match="Did you mean 'flat'"):
        resolve("flatt")
