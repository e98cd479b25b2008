"""Metrics that explain again: their values, their bill, and that they leave no trace."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from usu_captum import ForwardScore, LayerGradCam
from usu_cli._models import Classifier, load_classifier
from usu_cli.evaluate import Plan, Record, evaluate, list_items, read_records
from usu_cli.evaluate._judges import Judges, judged_together, records_of
from usu_cli.evaluate._maps import FineMap
from usu_cli.evaluate._sources import Explanation, Subject
from usu_core import metrics, resolve

AGAIN = ("max-sensitivity", "model-randomisation")
WAYS = ("nearest", "usu")


@pytest.fixture
def classifier(work: Path) -> Classifier:
    loaded = load_classifier(str(work / "tiny.safetensors"), arch="timm:test_resnet")
    return replace(loaded, preprocessing=loaded.preprocessing.changed(size=64))


def plan(methods: tuple[str, ...], ways: tuple[str, ...] = WAYS, chosen: tuple[str, ...] = AGAIN,
         seed: int = 3) -> Plan:  # fmt: skip
    return Plan(
        methods=methods,
        upsamplers={way: resolve(way) for way in ways},
        metrics=chosen,
        layer="layer3",
        seed=seed,
    )


def measured(classifier: Classifier, work: Path, out: Path, given: Plan) -> dict[str, Record]:
    out.mkdir(exist_ok=True)
    evaluate(classifier, list_items(work / "images", count=1), given, out)
    records = read_records(out)
    found = {f"{r.method} {r.upsampler} {r.metric}": r for r in records}
    assert len(found) == len(records)
    return found


@pytest.fixture
def inputs(classifier: Classifier, work: Path) -> Tensor:
    from usu_cli._images import read_image

    look = classifier.preprocessing
    (item,) = list_items(work / "images", count=1)
    return look.normalise(look.crop(read_image(item.path)))


def test_values_are_those_of_the_library(
    classifier: Classifier, work: Path, tmp_path: Path, inputs: Tensor
) -> None:
    chosen = (*AGAIN, "diffid")
    found = measured(classifier, work, tmp_path, plan(("LayerGradCam", "random"), WAYS, chosen))
    model = classifier.model
    target = int(model(inputs).argmax(1))
    method = LayerGradCam(model, model.get_submodule("layer3"))
    for way in WAYS:

        def explain(images: Tensor, way: str = way) -> Tensor:
            return method.attribute(images, target, relu_attributions=True, upsampler=way)[:, 0]

        sensitivity = metrics.max_sensitivity(explain, inputs, seed=3)
        similarity = metrics.model_randomisation(
            lambda _, explain=explain: explain(inputs),  # type: ignore[misc]
            model, layers=[""], seed=3,
        ).similarity  # fmt: skip
        ties = resolve("usu").score_map(inputs, ForwardScore(model, target)).values
        difference = metrics.diffid(
            model, inputs, explain(inputs).detach(), torch.tensor([target]), unit="pixel", ties=ties
        ).difference
        for metric, value in zip(chosen, (sensitivity, similarity, difference), strict=True):
            record = found[f"LayerGradCam {way} {metric}"]
            assert record.value == pytest.approx(float(value), abs=1e-6), (way, metric)
            assert record.target == target
        assert float(sensitivity) > 0
        assert float(similarity) < 0.999
    assert found["random - max-sensitivity"].value == 0, "it does not look at the image"
    assert found["random - model-randomisation"].value == pytest.approx(1), "nor at the model"


def test_no_trace_is_left(classifier: Classifier, work: Path, tmp_path: Path) -> None:
    model = classifier.model
    first = next(model.parameters())
    first.requires_grad_(False)
    last = list(model.parameters())[-1]
    last.grad = torch.ones_like(last)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    flags = [parameter.requires_grad for parameter in model.parameters()]
    random = torch.get_rng_state()
    found = measured(classifier, work, tmp_path, plan(("GradCAM", "IntegratedGradients")))
    assert all(record.value is not None for record in found.values())
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert torch.equal(last.grad, torch.ones_like(last))
    assert all(p.grad is None for p in model.parameters() if p is not last)
    assert not any(module._forward_hooks for module in model.modules())


def test_maps_added_later_have_the_values_of_a_run_of_all(
    classifier: Classifier, work: Path, tmp_path: Path
) -> None:
    both = ("LayerGradCam", "HiResCAM")
    together = measured(classifier, work, tmp_path / "together", plan(both))
    out = tmp_path / "apart"
    measured(classifier, work, out, plan(both[:1], WAYS[:1]))
    measured(classifier, work, out, plan(both[1:], WAYS[1:], AGAIN[:1]))
    apart = measured(classifier, work, out, plan(both))
    assert len(apart) == 2 * 2 * 2
    assert apart.keys() == together.keys()
    for key, record in together.items():
        assert apart[key].value == pytest.approx(record.value, abs=1e-6), key


def test_scores_are_found_once_per_change_for_all_methods(
    classifier: Classifier, work: Path, tmp_path: Path
) -> None:
    seen: list[int] = []
    classifier.model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))

    def spent(name: str, methods: tuple[str, ...], chosen: tuple[str, ...]) -> int:
        seen.clear()
        measured(classifier, work, tmp_path / name, plan(methods, ("usu",), chosen))
        return sum(seen)

    for metric, changes in zip(AGAIN, (11, 2), strict=True):
        plain = spent(f"{metric} plain", ("LayerGradCam",), ("sparseness",))
        one = spent(f"{metric} one", ("LayerGradCam",), (metric,))
        two = spent(f"{metric} two", ("LayerGradCam", "HiResCAM"), (metric,))
        assert one - plain > 100 * changes, "new images and weights need new scores"
        assert two - one <= 5 * (changes + 1), "scores were found for each method"


class _Stub(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2]


def test_a_method_that_fails_does_not_cost_others_their_values() -> None:
    inputs = torch.rand(1, 3, 4, 4)
    model = _Stub()

    def failing(subject: Subject) -> Explanation:
        raise RuntimeError("no such image")

    methods: dict[str, Callable[[Subject], Explanation]] = {
        "failing": failing,
        "fine": lambda subject: Explanation(fine=subject.inputs.sum(1)),
    }
    subject = Subject(inputs, 1, ForwardScore(model, 1), torch.zeros(3, 1, 1), 0)
    maps = [FineMap(name, "-", inputs[0].sum(0), 0) for name in methods]
    judges = Judges(subject, plan((), ()), model, {}, methods)
    groups = judged_together("max-sensitivity", maps)
    assert groups == [maps[:1], maps[1:]]
    (bad,), (good,) = (records_of("i", subject, "max-sensitivity", g, judges) for g in groups)
    assert bad.value is None
    assert "'failing' cannot explain this: no such image" in (bad.error or "")
    assert good.value is not None
    assert good.value > 0
    assert judged_together("deletion", maps) == [maps]


def test_chance_is_of_the_run_and_of_the_images_name(classifier: Classifier, work: Path) -> None:
    from usu_cli.evaluate._subjects import make_subject

    one, two = list_items(work / "images", count=2)
    seeds = [
        make_subject(item, None, classifier, seed).seed for item in (one, two) for seed in (0, 5)
    ]
    assert seeds[1] - seeds[0] == seeds[3] - seeds[2] == 5
    assert seeds[0] != seeds[2]
    renamed = replace(one, name="another")
    assert make_subject(renamed, None, classifier, 0).seed != seeds[0]


def test_a_map_without_a_value_has_no_curve() -> None:
    class Judging:
        def run(self, metric: str, maps: object) -> tuple[Tensor, Tensor]:
            curves = torch.tensor([[1.0, torch.nan], [1.0, 0.0]])
            return torch.tensor([torch.nan, 0.5]), curves

    subject = Subject(torch.rand(1, 3, 4, 4), 1, None, torch.zeros(3, 1, 1), 0)  # type: ignore[arg-type]
    maps = [FineMap("m", way, torch.zeros(4, 4), 0) for way in ("a", "b")]
    bad, good = records_of("i", subject, "deletion", maps, Judging())  # type: ignore[arg-type]
    assert (bad.value, bad.curve, bad.error) == (None, None, "the value is not finite")
    assert (good.value, good.curve) == (0.5, (1.0, 0.0))
    assert bad.line()
