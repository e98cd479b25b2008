"""Metrics by name against the functions they stand for."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from usu_cli.evaluate import MEASURES
from usu_cli.evaluate._again import Again
from usu_cli.evaluate._judged import Judged
from usu_cli.evaluate._sources import LAYER, PATHS, PERTURBATIONS
from usu_core import metrics


def judged(mask: bool = True, again: bool = True) -> Judged:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.rand(3, 3 * 32 * 32, generator=generator) / 500)
    made_of = torch.rand(2, 1, 1, generator=generator)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[4:20, 8:24] = True
    ties = torch.rand(32, 32, generator=generator)
    return Judged(
        maps=torch.rand(2, 32, 32, generator=generator),
        inputs=torch.rand(1, 3, 32, 32, generator=generator),
        model=model,
        target=1,
        black=torch.zeros(3, 1, 1),
        find_ties=lambda: ties,
        again=Again(
            model,
            lambda images: model[1].weight[1].view(3, 32, 32).sum(0) * made_of + images[0].sum(0),
        )
        if again
        else None,
        mask=inside if mask else None,
        steps=4,
        samples=12,
        batch_size=16,
        seed=0,
    )


@pytest.mark.parametrize("name", [n for n, m in MEASURES.items() if m.run is not None])
def test_every_metric_gives_a_value_per_map(name: str) -> None:
    run = MEASURES[name].run
    assert run is not None
    found = run(judged())
    assert found.values.shape == (2,)
    assert bool(found.values.isfinite().all())
    if found.curves is not None:
        assert len(found.curves) == 2


@pytest.mark.parametrize("name", ["deletion", "insertion"])
def test_curves_are_means_over_references(name: str) -> None:
    given = judged()
    run = MEASURES[name].run
    assert run is not None
    found = run(given)
    each = [
        getattr(metrics, name)(
            given.score, given.images, given.maps, reference=reference, black=given.black, steps=4,
            ties=given.ties,
        )
        for reference in ("black", "mean", "blur")
    ]  # fmt: skip
    torch.testing.assert_close(found.values, sum(curve.auc for curve in each) / 3)
    assert found.curves is not None
    torch.testing.assert_close(found.curves, sum(curve.scores for curve in each) / 3)


def test_a_metric_that_needs_a_mask_says_so() -> None:
    run = MEASURES["iou"].run
    assert run is not None
    with pytest.raises(ValueError, match="no mask"):
        run(judged(mask=False))


def test_a_metric_that_explains_again_says_so() -> None:
    for name in (n for n, m in MEASURES.items() if m.explains_again):
        run = MEASURES[name].run
        assert run is not None
        with pytest.raises(ValueError, match="cannot be made again"):
            run(judged(again=False))


def test_the_direction_of_every_metric_is_the_fields() -> None:
    lower = {n for n, m in MEASURES.items() if m.higher_is_better is False}
    assert lower == {
        "deletion", "infidelity", "quantus-infidelity", "road", "mass-error",
        "deletion-rise", "deletion-samp", "deletion-aha", "max-sensitivity",
        "model-randomisation",
    }  # fmt: skip


def test_the_page_names_every_metric_and_method() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    for name in (*MEASURES, *LAYER, *PATHS, *PERTURBATIONS, "random"):
        assert f"`{name}`" in page, name


def test_diffid_keeps_the_explained_class_and_orders_ties() -> None:
    # Class 1 is seen in the lower half alone, and the map says nothing: the ties say it all.
    lower = torch.zeros(32, 32)
    lower[16:] = 1
    given = judged()
    model = lambda images: torch.stack(  # noqa: E731
        [images.new_zeros(len(images)), ((images - 0.5) * lower).sum((1, 2, 3))], 1
    )
    evidence = replace(
        given,
        maps=torch.ones(1, 32, 32),
        inputs=(lower + 0.2 * (1 - lower)).expand(1, 3, 32, 32),
        model=model,
        find_ties=lambda: lower,
    )
    run = MEASURES["diffid"].run
    assert run is not None
    assert float(run(evidence).values) > 0.3
    misled = replace(evidence, find_ties=lambda: -lower)
    assert float(run(misled).values) < -0.3
    assert float(run(replace(evidence, target=0)).values) < -0.3
