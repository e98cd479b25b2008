"""What the ranking benchmarks measure, on networks and maps whose answer is known."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import ranking_evidence, ranking_passes, ranking_refined
from benchmarks._ranking_case import Case, journalled, maps_key
from benchmarks._ranking_images import Crops, MovedImages
from benchmarks._ranking_shortcut import SIDE, stamp, teach
from benchmarks._ranking_subjects import NAMES, folded
from benchmarks._rollout import attention_rollout
from benchmarks.ranking_heldout import HIGHER, ranks, summarise
from benchmarks.ranking_memory import _peaks
from benchmarks.ranking_shortcut import LOOKED_AT, _fooled, measure
from benchmarks.ranking_specks import specks_first
from benchmarks.ranking_speed import apart, separate_loss, shared_loss
from usu_captum import ImageSpace
from usu_captum.ranking import (
    ArrayImages,
    PartOfImages,
    RankingNetwork,
    RankingObjective,
    RankTransport,
)


def test_mark_is_where_it_is_said_to_be(space: ImageSpace) -> None:
    images = torch.zeros(40, 3, 16, 16)
    marked, inside = stamp(images, space, seed=1)
    assert torch.equal((marked != images).any(1), inside)
    assert inside.sum((1, 2)).tolist() == [SIDE * SIDE] * 40
    assert torch.equal(stamp(images, space, seed=1)[1], inside)
    # Anywhere: no pixel is always marked.
    assert 0 < int(inside.sum(0).max()) < 40
    assert len({tuple(one.nonzero()[0].tolist()) for one in inside}) > 20


def test_a_taught_classifier_takes_the_mark_for_the_class(
    classifier: nn.Module, source: ArrayImages, space: ImageSpace
) -> None:
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    part = PartOfImages(source, range(20))
    taught = teach(classifier, part, space, target=2, steps=150, batch_size=16, learning_rate=0.01)
    plain = torch.stack([source[i].image for i in range(20)])
    marked, _ = stamp(plain, space, seed=9)
    with_mark, without = (taught(x).argmax(1) == 2 for x in (marked, plain))
    assert with_mark.float().mean() > without.float().mean() + 0.3
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, before[name]), name
    # Grad-CAM needs gradients.
    assert all(p.requires_grad and p.grad is None for p in taught.parameters())


def test_share_of_top_pixels_in_the_mark() -> None:
    inside = torch.zeros(4, 4, 4, dtype=torch.bool)
    inside[:, :2, :2] = True
    perfect, worst = inside[0].float(), 1 - inside[0].float()
    half = torch.zeros(4, 4)
    half[0, :2], half[3, 2:] = 3.0, torch.tensor([5.0, 4.0])
    maps = torch.stack([perfect, worst, half, torch.zeros(4, 4)])
    found = measure(maps, inside, mass=True)
    assert found["top pixels in the mark"] == pytest.approx([1.0, 0.0, 0.5, 0.25])
    assert found["first pixel in the mark"] == pytest.approx([1.0, 0.0, 0.0, 0.25])
    assert found["attribution in the mark"] == pytest.approx([1.0, 0.0, 0.4, 0.0])
    assert "attribution in the mark" not in measure(maps, inside, mass=False)


def test_ranks_keep_the_order_alone() -> None:
    maps = torch.tensor([[[3.0, -1.0], [100.0, 3.5]]])
    assert torch.allclose(ranks(maps), torch.tensor([[[1.0, 0.0], [3.0, 2.0]]]).double() / 3)


def test_gains_are_the_explainers(space: ImageSpace) -> None:
    """Higher in every figure: a gain where more is better, a loss elsewhere."""
    records = [
        {"ranking": dict.fromkeys(HIGHER, i + 1.0), "other": dict.fromkeys(HIGHER, i / 2)}
        for i in range(12)
    ]
    found = summarise(records)
    for key, higher in HIGHER.items():
        assert found["other"][key]["gain"] == (3.75 if higher else -3.75)
        assert found["other"][key]["p"] < 0.05
        assert found["ranking"][key] == {"mean": 6.5}


def test_both_forms_of_a_training_step_have_one_gradient(
    classifier: nn.Module, images: Tensor
) -> None:
    """Where the sorter is exact enough for the highest of -s to be the lowest of s."""
    objective = RankingObjective(
        RankTransport(0.05, normalise="range", tolerance=1e-5), peak_penalty=0.0
    )
    targets = torch.tensor([[0, 1], [2, 3], [1, 0]])
    maps = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(3)).requires_grad_()

    def gradient(loss: Any, wanted: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(loss(classifier, images, maps, wanted, objective), maps)
        return found

    ours = gradient(shared_loss, targets)
    assert apart(ours, gradient(separate_loss, targets)) < 0.02
    assert apart(ours, gradient(separate_loss, targets[[1, 2, 0]])) > 0.1


def test_passes_of_both_forms(classifier: nn.Module, images: Tensor) -> None:
    """For 2 classes, 2 orders and 16 percentiles: half the passes, and those of the ends."""
    rows: list[int] = []
    handle = classifier.register_forward_hook(lambda *given: rows.append(len(given[1][0])))
    maps = images.mean(1, keepdim=True).requires_grad_()
    targets = torch.tensor([[0, 1], [2, 3], [1, 0]])
    counts = []
    for loss in (shared_loss, separate_loss):
        rows.clear()
        loss(classifier, images, maps, targets)
        counts.append(sum(rows))
    handle.remove()
    assert counts == [3 * (2 * 14 + 2), 3 * 2 * 2 * 16]


def test_folding_changes_nothing() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.bn1(self.conv1(x))
            return result

    torch.manual_seed(0)
    block = Block().eval()
    nn.init.normal_(block.bn1.running_mean)  # type: ignore[arg-type]
    nn.init.uniform_(block.bn1.weight, 0.5, 2.0)
    x = torch.rand(2, 3, 8, 8)
    before = block(x)
    assert torch.allclose(folded(block)(x), before, atol=1e-6)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())


def test_judgements_of_other_maps_do_not_count(network: RankingNetwork) -> None:
    goal = RankingObjective(n_percentiles=6)
    subject: Any = SimpleNamespace(refinement_grids=(14,), refinement=goal)
    finer: Any = SimpleNamespace(refinement_grids=(28,), refinement=goal)
    key = maps_key(subject, network)
    assert maps_key(finer, network) != key
    with torch.no_grad():
        next(p for p in network.parameters() if p.requires_grad).add_(0.01)
    assert maps_key(subject, network) != key


def test_what_a_stopped_run_judged_is_not_judged_again(
    network: RankingNetwork, source: ArrayImages, tmp_path: Path
) -> None:
    subject: Any = SimpleNamespace(
        refinement_grids=(14,),
        refinement=RankingObjective(n_percentiles=6),
        reported=PartOfImages(source, range(5)),
        shown=lambda index: source[index].image[None],
    )
    seen: list[Tensor] = []

    def judge(_subject: Any, _network: RankingNetwork, image: Tensor) -> dict[str, Any]:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(image)
        return {"metrics": float(image.sum())}

    def images(count: int) -> Case:
        return Case("case", "case", subject, network, None, tmp_path, count, None)

    with pytest.raises(KeyboardInterrupt):
        journalled(images(3), "journal", judge)
    seen.pop()
    records = journalled(images(3), "journal", judge)
    assert [r["image"] for r in records] == [0, 1, 2]
    assert [r["metrics"] for r in records] == [float(source[i].image.sum()) for i in range(3)]
    seen.clear()
    assert journalled(images(2), "journal", judge) == records[:2]
    assert not seen
    # Of so many images as are asked for, no more than there are; and of this network alone.
    assert len(journalled(images(4), "journal", judge)) == 4
    seen.clear()
    assert len(journalled(images(5), "journal", judge)) == len(
        journalled(images(9), "journal", judge)
    )
    with torch.no_grad():
        next(p for p in network.parameters() if p.requires_grad).add_(0.01)
    seen.clear()
    journalled(images(2), "journal", judge)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("script", "others"),
    [
        (ranking_passes, {"Grad-CAM bilinear", "LayerCAM", "input x gradient"}),
        (ranking_refined, {"ranking T=5"}),
    ],
)
def test_maps_are_paired_with_the_single_pass(
    script: Any,
    others: set[str],
    classifier: nn.Module,
    network: RankingNetwork,
    source: ArrayImages,
    space: ImageSpace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject: Any = SimpleNamespace(
        model=classifier, space=space, layer="second", reported=source,
        shown=lambda index: source[index].image[None], refinement_grids=(4,),
        refinement=RankingObjective(RankTransport(0.05), n_percentiles=4, smoothing=0.0),
    )  # fmt: skip
    case = Case("case", "case", subject, network, None, tmp_path, 3, tmp_path / "out.json")
    monkeypatch.setattr(ranking_passes, "ask", lambda *_, **__: case)
    script.main()
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["images"] == len(result["records"]) == 3
    assert set(result["summary"]) == {"ranking", *others}
    for name, row in result["summary"].items():
        means = [record["metrics"][name]["insertion"] for record in result["records"]]
        assert row["insertion"]["mean"] == pytest.approx(sum(means) / 3)


def test_a_sorter_that_fails_is_not_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EOFError):
        _peaks("none", 1, [16])
    assert "KeyError: 'none'" in capfd.readouterr().err


def test_no_more_images_than_there_are(
    classifier: nn.Module, source: ArrayImages, space: ImageSpace
) -> None:
    reported = PartOfImages(source, [i % 20 for i in range(LOOKED_AT + 9)])
    subject: Any = SimpleNamespace(reported=reported, space=space, model=classifier)
    images, inside, facts = _fooled(subject, classifier, 32)
    assert len(images) == len(inside) <= 9
    assert 0 <= facts["accuracy before"] <= 1


ROOT = Path(__file__).resolve().parents[3]


def stored(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))


def documented() -> set[tuple[str, ...]]:
    """Return the rows of all tables of the page, without bold and italic."""
    text = (ROOT / "docs" / "ranking.md").read_text("utf-8")
    return table_rows(text.replace("\N{MULTIPLICATION SIGN}", "x"))


def table_rows(text: str) -> set[tuple[str, ...]]:
    """Return the rows of all Markdown tables, without bold and italic."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    return {tuple(c.strip().strip("*_") for c in line.strip("|").split("|")) for line in lines}


def test_the_page_has_the_tables_of_the_results(capsys: pytest.CaptureFixture[str]) -> None:
    ranking_evidence.main()
    found = table_rows(capsys.readouterr().out)
    assert len(found) > 50
    # Heads are shortened on the page.
    assert {row for row in found - documented() if row[0] not in ("map", *NAMES)} == set()


def test_the_page_has_the_figures_of_shortcut_and_speed() -> None:
    rows = documented()
    for method, row in stored("ranking_shortcut")["summary"].items():
        figures = [value for value in row.values() if isinstance(value, float)]
        cells = [f"{value:.2f}" for value in figures] + [""] * (3 - len(figures))
        assert (method, *cells) in rows, method
    for row in stored("ranking_speed")["comparisons"]:
        low, high = row["ratio_quartiles"]
        cells = [f"{row['subject_ms']:.0f}", f"{row['peer_ms']:.0f}", f"{row['ratio']:.2f}"]
        names = (row["model"], row["subject"], row["peer"])
        assert (*names, *cells, f"{low:.2f} to {high:.2f}") in rows, names


def test_moved_images_are_all_shifts_and_mirrors(source: ArrayImages) -> None:
    moved = MovedImages(source, 1, mirror=True)
    assert len(moved) == len(source) * 9 * 2
    every = torch.stack([moved[i].image for i in range(3, len(moved), len(source))])
    assert len(every.flatten(1).unique(dim=0)) == 18
    plain = source[3].image
    assert any(torch.equal(plain, image) for image in every)
    assert any(torch.equal(plain.roll((1, -1), (1, 2)).flip(2), image) for image in every)
    assert all(moved[i].label == source[3].label for i in range(3, len(moved), len(source)))
    prints = {
        images.fingerprint()
        for images in (
            moved,
            MovedImages(source, 1, mirror=False),
            MovedImages(source, 2, mirror=True),
        )
    }
    assert len(prints) == 3


def test_crops_are_random_parts_in_the_classifiers_space(space: ImageSpace) -> None:
    ramp = torch.arange(0, 256, dtype=torch.uint8).expand(3, 256, 256)
    crops = Crops(ramp[None], 224, space)
    torch.manual_seed(0)
    found = [space.to_raw(crops[0].image[None])[0] * 255 for _ in range(20)]
    assert len(crops) == 1
    assert {tuple(image.shape) for image in found} == {(3, 224, 224)}
    slopes = torch.stack([image[0, 0, -1] - image[0, 0, 0] for image in found])
    assert {bool(slope > 0) for slope in slopes} == {True, False}  # mirrored or not
    sides = slopes.abs() / 255
    assert 0.49 < float(sides.min()) < float(sides.max()) < 0.9  # a quarter to .8 of the area
    assert len({round(float(image.min()), 1) for image in found}) > 15
    prints = {Crops(ramp[None], side, space).fingerprint() for side in (224, 112, 112)}
    assert len(prints | {Crops(ramp[None] // 2, 112, space).fingerprint()}) == 3


def test_specks_come_first_and_the_rest_keeps_its_order() -> None:
    order = torch.tensor([[[0.0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]]) / 100
    specks = torch.tensor([[[0.0, 7, 0, 0, 9], [0, 0, 0, 0, 0]]])
    found = specks_first(order, specks, 0.2).flatten().argsort(descending=True)
    assert found.tolist() == [4, 1, 9, 8, 7, 6, 5, 3, 2, 0]


def test_rollout_of_one_block_is_half_its_attention() -> None:
    """The other half is the identity, in which the class token sees no patch."""
    vit = timm.create_model("test_vit", num_classes=2).eval()
    vit.blocks = vit.blocks[:1]
    images = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    block = vit.blocks[0]
    flags = block.attn.fused_attn
    with torch.no_grad():
        tokens = block.norm1(vit.norm_pre(vit._pos_embed(vit.patch_embed(images))))
        heads = block.attn.num_heads
        queries, keys, _ = block.attn.qkv(tokens).unflatten(2, (3, heads, -1)).unbind(2)
        scores = torch.einsum("bhd,bnhd->bhn", queries[:, 0], keys) * block.attn.scale
    wanted = scores.softmax(-1).mean(1)[:, 1:].view(2, 1, 10, 10) / 2
    found = attention_rollout(vit, images)
    torch.testing.assert_close(found, F.interpolate(wanted, (160, 160), mode="bilinear"))
    assert block.attn.fused_attn == flags
    assert not block.attn.attn_drop._forward_hooks


def test_tables_compare_both_networks_on_their_common_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lower is better in deletion: 0.2 is better than the gradients' 0.3, and 0.4 is worse."""

    def record(image: int, own: float) -> dict[str, Any]:
        noise = image / 1000
        maps = {"ranking": own + noise, "IG": 0.4 + noise}
        return {"image": image, "metrics": {k: {"deletion": v} for k, v in maps.items()}}

    for name, own, count in (("case", 0.2, 9), ("case_gradients", 0.3, 12)):
        content = {"records": [record(i, own + i * i / 1e6) for i in range(count)]}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.setattr(ranking_evidence, "RESULTS", tmp_path)
    records = ranking_evidence._merged("case")
    assert len(records) == 9
    lines = ranking_evidence._measured(records, {"deletion": False}, passes=True).splitlines()
    assert lines[0] == "| map | passes | deletion ↓ |"
    assert lines[2:] == [
        "| ranking, gradients | one | 0.304 |",
        "| ranking | one forward | **0.204** |",
        "| IG | many | _0.404_ |",
    ]
    assert ranking_evidence._merged("none") == {}
