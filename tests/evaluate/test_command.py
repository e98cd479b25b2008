"""``usu evaluate``: what it writes, what it adds to, and what it refuses."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from usu_captum import ForwardScore
from usu_cli._errors import UsageError
from usu_cli.evaluate import Journal, Record, _plots, list_items, read_records, summarise
from usu_cli.evaluate._maps import FineMap
from usu_cli.evaluate._plan import Plan
from usu_cli.evaluate._run import evaluate
from usu_cli.evaluate._sources import Subject
from usu_core import metrics, resolve

Run = Callable[..., None]
SMALL = ("--methods", "LayerGradCam,random", "--upsamplers", "nearest,bilinear,usu")


@pytest.fixture(scope="module")
def done(work: Path, arguments: Callable[..., list[str]], tmp_path_factory: object) -> Path:
    """Return the folder of a finished run with masks."""
    from usu_cli import main

    out = work / "done"
    main(arguments(out, *SMALL, "--masks", work / "masks", "--against", "bilinear,random",
                   "--metrics", "deletion,insertion,iou,mass-error,sparseness"))  # fmt: skip
    return out


def test_every_line_is_one_metric_of_one_map_of_one_image(done: Path) -> None:
    keys = {record.key for record in read_records(done)}
    assert len(keys) == len((done / "records-000.jsonl").read_text().splitlines())
    images = [f"{'a' if i % 2 else 'b'}/{i}.png" for i in range(6)]
    maps = [("LayerGradCam", u) for u in ("nearest", "bilinear", "usu")]
    everywhere = {
        (image, *name, metric)
        for image in images
        for name in [*maps, ("random", "-")]
        for metric in ("deletion", "insertion", "sparseness")
    }
    masked = {(image, *name, "iou") for image in images[:4] for name in [*maps, ("random", "-")]}
    mass = {(image, *name, "mass-error") for image in images for name in maps}
    assert keys == everywhere | masked | mass


def test_values_are_those_of_the_metric_functions(done: Path, work: Path) -> None:
    import timm
    from safetensors.torch import load_file

    from usu_captum import LayerGradCam, default_layer
    from usu_cli._models import load_classifier

    model = timm.create_model("test_resnet", num_classes=5)
    model.load_state_dict(load_file(work / "tiny.safetensors"))
    model.eval()
    classifier = load_classifier(str(work / "tiny.safetensors"), arch="timm:test_resnet")
    look = classifier.preprocessing.changed(size=64)
    with Image.open(work / "images" / "b" / "0.png") as picture:
        inputs = look.normalise(look.crop(picture.convert("RGB")))
    target = int(model(inputs).argmax(1))
    layer = default_layer(model, torch.zeros(1, 3, 64, 64))[1]
    fine = LayerGradCam(model, layer).attribute(
        inputs, target, relu_attributions=True, upsampler="usu"
    )[:, 0].detach()  # fmt: skip
    score = ForwardScore(model, target)
    ties = resolve("usu").score_map(inputs, score).values
    black = look.normalise(Image.new("RGB", (1, 1)))[0]
    expected = [
        metrics.deletion(score, inputs, fine, reference=r, black=black, steps=4, ties=ties)
        for r in metrics.REFERENCES
    ]
    (record,) = [
        r for r in read_records(done) if r.key == ("b/0.png", "LayerGradCam", "usu", "deletion")
    ]
    assert record.target == target
    assert record.value == pytest.approx(sum(float(c.auc) for c in expected) / 3, abs=1e-6)
    mean = sum(c.scores[0] for c in expected) / 3
    assert record.curve == pytest.approx(mean.tolist(), abs=2e-6)
    assert record.evaluations > 100


def test_tables_and_page(done: Path) -> None:
    rows = list(csv.DictReader((done / "summary.csv").read_text().splitlines()))
    by_record = [
        r.value for r in read_records(done)
        if (r.method, r.upsampler, r.metric) == ("LayerGradCam", "usu", "deletion")
    ]  # fmt: skip
    (row,) = [
        r for r in rows
        if (r["metric"], r["upsampler"], r["peer method"]) == ("deletion", "usu", "random")
    ]  # fmt: skip
    assert float(row["mean"]) == pytest.approx(sum(v or 0.0 for v in by_record) / 6)
    assert row["pairs"] == "6"
    peers = [r.value for r in read_records(done) if (r.method, r.metric) == ("random", "deletion")]
    lower = sum(v or 0.0 for v in peers) / 6 - float(row["mean"])
    assert float(row["gain"]) == pytest.approx(lower), "less is better in deletion"
    assert {r["peer upsampler"] for r in rows if r["metric"] == "sparseness"} == {""}
    page = (done / "report.html").read_text()
    assert "LayerGradCam" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "<script" not in page
    assert (done / "summary.md").read_text().startswith("| method")
    assert r"\toprule" in (done / "summary.tex").read_text()
    for name in ("curves", "ranks-deletion", "scatter"):
        with Image.open(done / f"{name}.png") as picture:
            assert picture.size[0] > 300


def test_running_again_measures_nothing_and_more_adds_only_that(
    done: Path, work: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    before = (out / "records-000.jsonl").read_bytes()
    run(out, *SMALL, "--metrics", "deletion")
    assert (out / "records-000.jsonl").read_bytes() == before
    run(out, *SMALL[:2], "--upsamplers", "usu,lanczos", "--metrics", "deletion", "--images", "2")
    after = read_records(out)
    added = after[len(before.splitlines()) :]
    assert [(r.upsampler, r.metric) for r in added] == [("lanczos", "deletion")] * 2
    assert "lanczos" in capsys.readouterr().out
    # The map of usu is needed again for a new metric; what was measured of it is not repeated.
    run(out, "--methods", "LayerGradCam", "--upsamplers", "usu", "--images", "1",
        "--metrics", "deletion,infidelity")  # fmt: skip
    added = read_records(out)[len(after) :]
    assert [(r.upsampler, r.metric) for r in added] == [("usu", "infidelity")]


def test_it_says_what_was_asked_for_and_what_else_is_there(
    done: Path, work: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    wanted = ("--methods", "random", "--metrics", "iou", "--masks", work / "masks")
    run(out, *wanted)
    said = capsys.readouterr().out
    assert said.startswith("4 of 6 images have a mask\n")
    assert "\n6 images; tables" in said
    run(out, *wanted, "--images", "2")
    said = capsys.readouterr().out
    assert said.startswith("1 of 2 images has a mask\n")
    assert "\n6 images in this folder, 2 asked for; tables" in said


def test_one_image(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, *SMALL, "--images", "1", "--metrics", "deletion")
    assert "\n1 image; tables" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "summary.csv").read_text().splitlines()))
    (row,) = (row for row in rows if row["upsampler"] == "usu")
    assert row["gain"]
    assert (row["low"], row["high"]) == ("", ""), "one image has no interval"
    assert " to " not in (tmp_path / "summary.md").read_text().partition("95 % interval")[2]
    page = (tmp_path / "report.html").read_text()
    assert ">None<" not in page
    assert "first class" in page
    assert "`" not in page
    assert "1 image. + better and - worse" in page


def test_a_persons_own_files_are_left_alone(
    work: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(out: Path, data: Path | None = None) -> str:
        with pytest.raises(SystemExit):
            run(out, "--methods", "random", "--metrics", "sparseness", data=data)
        return capsys.readouterr().err

    for name in ("report.html", "summary.csv", "ranks-deletion.png"):
        (tmp_path / name).write_text("mine")
        assert f"{name}' exists, and is not of an earlier usu evaluate" in refusal(tmp_path)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
        (tmp_path / name).unlink()
    shutil.copy(work / "images" / "a" / "1.png", tmp_path / "scatter.png")
    (tmp_path / "list.txt").write_text("scatter.png")
    assert "scatter.png' is read, and would be replaced" in refusal(tmp_path, tmp_path / "list.txt")


def test_plots_that_are_not_drawn_again_are_removed(run: Run, done: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(done, out)
    (out / "ranks-road.png").write_text("of an earlier version")
    (out / "mine.png").write_text("mine")
    run(out, "--methods", "random", "--metrics", "sparseness")
    assert not (out / "ranks-road.png").exists()
    assert (out / "mine.png").exists()
    assert (out / "ranks-deletion.png").exists()


def test_the_mass_error_is_the_upsamplings(done: Path) -> None:
    errors = {
        name: [r.value or 0.0 for r in read_records(done)
               if (r.upsampler, r.metric) == (name, "mass-error")]
        for name in ("nearest", "bilinear", "usu")
    }  # fmt: skip
    assert max(errors["nearest"]) == 0
    assert max(errors["usu"]) < 1e-6
    assert min(errors["bilinear"]) > 1e-3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--steps", "5"), "another steps: 4, now 5"),
        (("--seed", "1"), "another seed"),
        (("--target", "3"), "another target"),
        (("--layer", "layer1"), "another layer"),
    ],
)
def test_results_of_other_settings_are_not_mixed(
    done: Path, run: Run, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    before = (done / "records-000.jsonl").read_bytes()
    with pytest.raises(SystemExit) as caught:
        run(done, *SMALL, *more)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert (done / "records-000.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--methods", "GradCamm"), "did you mean GradCAM"),
        (("--upsamplers", "bilinaer"), "did you mean bilinear"),
        (("--metrics", "deletoin"), "did you mean deletion"),
        (("--metrics", "confidence"), "(see usu methods)"),
        (("--against", "usu-fast"), "unknown upsampler or method to compare with 'usu-fast'"),
        (("--metrics", "deletion,iou"), "masks are needed for iou; give --masks DIR"),
        (("--layer", "layer9"), "unknown layer"),
        (("--masks", "."), "no masks in"),
        (("--methods", "random", "--metrics", "sparseness,mass-error"), "mass-error is of coarse"),
        (("--nonsense",), "unrecognized arguments: --nonsense (see usu evaluate --help)"),
        (("--target=--5",), "unknown target '--5'"),
    ],
)
def test_refusals(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str], more: tuple[str, ...],
    message: str,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        run(tmp_path / "out", *more)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_images_that_cannot_be_read_are_named_and_tried_again(
    work: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(work / "images" / "a", data)
    (data / "5.png").write_bytes((data / "5.png").read_bytes()[:40])
    out = tmp_path / "out"
    run(out, "--methods", "random", "--metrics", "deletion", data=data)
    said = capsys.readouterr().out
    assert "1 of 3 images could not be read:" in said
    assert "5.png" in said
    assert {r.image for r in read_records(out)} == {"1.png", "3.png"}
    shutil.copy(work / "images" / "a" / "5.png", data / "5.png")
    run(out, "--methods", "random", "--metrics", "deletion", data=data)
    assert {r.image for r in read_records(out)} == {"1.png", "3.png", "5.png"}


def test_a_metric_without_a_value_is_recorded_with_its_reason(
    work: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The logit of a class that the network thinks impossible is below 0: nothing to divide by.
    out = tmp_path / "out"
    run(out, "--methods", "random", "--metrics", "deletion-samp,sparseness", "--images", "3",
        "--target", str(_unlikeliest(work)))  # fmt: skip
    failed = [r for r in read_records(out) if r.value is None]
    assert failed
    assert all("above 0" in (r.error or "") for r in failed)
    assert "could not be measured" in capsys.readouterr().out


def test_listed_targets_are_explained(work: Path, run: Run, tmp_path: Path) -> None:
    table = work / "images" / "list.csv"
    table.write_text("image,target\nb/0.png,1\nb/0.png,4\na/1.png,\n")
    out = tmp_path / "out"
    run(out, "--methods", "random", "--metrics", "deletion", data=table)
    targets = {r.image: r.target for r in read_records(out)}
    assert targets["b/0.png#1"] == 1
    assert targets["b/0.png#4"] == 4
    assert set(targets) == {"b/0.png#1", "b/0.png#4", "a/1.png"}


def test_equal_maps_are_judged_once(work: Path, tmp_path: Path) -> None:
    from usu_cli._models import load_classifier

    loaded = load_classifier(str(work / "tiny.safetensors"), arch="timm:test_resnet")
    classifier = replace(loaded, preprocessing=loaded.preprocessing.changed(size=64))
    seen: list[int] = []
    loaded.model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))

    def spent(upsamplers: tuple[str, ...], out: Path) -> tuple[int, list[Record]]:
        seen.clear()
        plan = Plan(
            methods=("LayerGradCam",),
            upsamplers={name: resolve("nearest") for name in upsamplers},
            metrics=("deletion",),
            layer="layer3",
            steps=4,
        )
        evaluate(classifier, list_items(work / "images", count=1), plan, out)
        return sum(seen), read_records(out)

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    once, (record,) = spent(("nearest",), tmp_path / "one")
    twice, records = spent(("nearest", "same"), tmp_path / "two")
    assert once == twice
    assert [r.value for r in records] == [record.value] * 2


def test_settings_are_kept_beside_the_records(done: Path) -> None:
    settings = json.loads((done / "settings.json").read_text())
    assert settings["layer"]
    assert settings["upsamplers"]["usu"]["temperature"] == 1.0
    assert len(settings["weights"]) == 64


def _unlikeliest(work: Path) -> int:
    from usu_cli._models import load_classifier

    loaded = load_classifier(str(work / "tiny.safetensors"), arch="timm:test_resnet")
    look = loaded.preprocessing.changed(size=64)
    with Image.open(work / "images" / "a" / "1.png") as picture:
        return int(loaded.model(look.normalise(look.crop(picture.convert("RGB")))).argmin(1))


def test_without_the_extra_it_says_what_to_install(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(name: str) -> object:
        return None if name == "scikit_posthocs" else object()

    monkeypatch.setattr("usu_cli.evaluate._command.find_spec", find)
    with pytest.raises(SystemExit):
        run(tmp_path / "out")
    error = capsys.readouterr().err
    assert error.endswith("evaluate needs scikit_posthocs; try pip install scikit_posthocs\n")


def test_corrections_are_over_the_maps_compared_with_one_peer_by_one_metric(done: Path) -> None:
    rows = list(csv.DictReader((done / "summary.csv").read_text().splitlines()))
    family = [r for r in rows if r["metric"] == "deletion" and r["peer upsampler"] == "bilinear"]
    assert {r["upsampler"] for r in family} == {"nearest", "usu"}
    for row in family:
        assert float(row["bonferroni"]) == pytest.approx(min(1.0, 2 * float(row["p"])))


def test_a_listed_target_that_does_not_exist_is_refused_before_any_work(
    work: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = work / "images" / "wrong.csv"
    table.write_text("image,target\nb/0.png,1\nb/2.png,7\n")
    with pytest.raises(SystemExit):
        run(tmp_path / "out", "--methods", "random", data=table)
    assert "unknown target 7" in capsys.readouterr().err
    assert read_records(tmp_path / "out") == []


def test_ties_are_broken_only_for_metrics_that_rank(work: Path, tmp_path: Path) -> None:
    from usu_cli._models import load_classifier

    loaded = load_classifier(str(work / "tiny.safetensors"), arch="timm:test_resnet")
    classifier = replace(loaded, preprocessing=loaded.preprocessing.changed(size=64))
    seen: list[int] = []
    loaded.model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    plan = Plan(
        methods=("LayerGradCam",),
        upsamplers={"nearest": resolve("nearest")},
        metrics=("sparseness",),
        layer="layer3",
    )
    evaluate(classifier, list_items(work / "images", count=1), plan, tmp_path)
    assert sum(seen) < 10, "scores were found that nothing asked for"


def test_one_map_without_a_value_does_not_cost_the_others_theirs(work: Path) -> None:
    from usu_cli.evaluate._judges import records_of

    class Half:
        def run(self, metric: str, maps: object) -> tuple[torch.Tensor, None]:
            return torch.tensor([0.5, float("inf")]), None

    maps = [FineMap("m", u, torch.zeros(2, 2), 0) for u in ("a", "b")]
    subject = Subject(torch.zeros(1, 3, 2, 2), 1, lambda x: x, torch.zeros(3, 1, 1), 0)  # type: ignore[arg-type]
    first, second = records_of("i", subject, "deletion", maps, Half())  # type: ignore[arg-type]
    assert (first.value, first.error) == (0.5, None)
    assert (second.value, second.error) == (None, "the value is not finite")


def test_a_method_that_explains_the_first_class_only_refuses_another(
    work: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(tmp_path / "out", "--methods", "FinerCAM", "--target", str(_unlikeliest(work)),
            data=work / "images" / "a")  # fmt: skip
    assert "first class only" in capsys.readouterr().err


def test_what_is_not_given_is_left_to_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    from usu_cli import main
    from usu_cli.evaluate import EvaluateOptions

    seen: list[EvaluateOptions] = []
    monkeypatch.setattr("usu_cli.evaluate.run_evaluate", seen.append)
    main(["evaluate", "--data", "a", "--model", "m", "--metrics", "iou, road", "--metrics",
          "deletion,iou", "--mean", "0", "0", "1"])  # fmt: skip
    assert seen == [
        EvaluateOptions(
            data=Path("a"),
            out=Path("usu-evaluate"),
            model="m",
            mean=(0.0, 0.0, 1.0),
            methods=("LayerGradCam",),
            upsamplers=("nearest", "bilinear", "usu", "iwmr-mass", "tilted"),
            metrics=("iou", "road", "deletion"),
        )
    ]


def test_what_is_done_is_read_while_no_one_else_can_write(
    work: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(folder: Path) -> list[Record]:
        with pytest.raises(UsageError, match="another run is writing"), Journal(folder):
            pass
        return []

    monkeypatch.setattr("usu_cli.evaluate._run.read_records", read)
    run(tmp_path, "--methods", "random", "--metrics", "sparseness", "--images", "1")
    assert len(read_records(tmp_path)) == 1


def test_no_name_to_compare_with_is_a_dash(
    done: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(done, *SMALL, "--against", "foo")
    said = capsys.readouterr().err
    assert said.endswith("there are: LayerGradCam, bilinear, nearest, random, usu\n")


@pytest.mark.parametrize("count", [3, 13, 40])
def test_colours_are_the_same_in_all_pictures_and_no_two_alike(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [
        Record(f"{image}", "LayerGradCam", f"way {way}", "deletion", (way * image) % 7 / 7, 0, 0)
        for way in range(count)
        for image in range(1, 5)
    ]
    summary = summarise(records, ())
    drawn: list[dict[str, str]] = []
    monkeypatch.setattr(
        "scikit_posthocs.critical_difference_diagram",
        lambda *_, color_palette, **__: drawn.append(color_palette),
    )
    assert _plots.ranks(summary, "deletion")
    assert drawn == [_plots._colours(summary)]
    assert len(set(drawn[0].values())) == count


def test_a_listed_target_comes_before_that_of_all(work: Path, run: Run, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text(f"image,target\n{work / 'images/a/1.png'},3\n{work / 'images/a/3.png'},\n")
    run(
        tmp_path / "out", "--methods", "LayerGradCam", "--upsamplers", "nearest",
        "--metrics", "sparseness", "--target", "1", data=table,
    )  # fmt: skip
    found = {Path(r.image.split("#")[0]).name: r.target for r in read_records(tmp_path / "out")}
    assert found == {"1.png": 3, "3.png": 1}


def test_what_is_measured_is_not_read_again(
    work: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copy(work / "images/a/1.png", tmp_path / "1.png")
    (tmp_path / "list.txt").write_text("1.png\n")
    options = ("--methods", "LayerGradCam", "--upsamplers", "nearest", "--metrics", "sparseness")
    run(tmp_path / "out", *options, data=tmp_path / "list.txt")
    (tmp_path / "1.png").unlink()
    capsys.readouterr()
    run(tmp_path / "out", *options, data=tmp_path / "list.txt")
    assert "could not be read" not in capsys.readouterr().out
