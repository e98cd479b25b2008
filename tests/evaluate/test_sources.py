"""Every method that the command knows."""

from dataclasses import replace
from pathlib import Path

import captum.attr
import pytest
import timm
import torch
from torch import nn

from usu_captum import ForwardScore, ImageSpace
from usu_cli._errors import UsageError
from usu_cli.evaluate._sources import (
    CAMS,
    PERTURBATIONS,
    Explanation,
    Setting,
    Subject,
    build_methods,
    explain,
    is_coarse,
    known_methods,
)

# These run the model per channel, or fit to activations; the others show the pattern.
SLOW = ("AblationCAM", "ScoreCAM", "SAMP", "SAMPPlusPlus")
SPACE = ImageSpace((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


class Counting(nn.Module):
    """Counts the images it is run on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.images += len(images)
        result: torch.Tensor = self.model(images)
        return result


@pytest.fixture(scope="module")
def model() -> Counting:
    torch.manual_seed(0)
    return Counting(timm.create_model("test_resnet", num_classes=5)).eval()


@pytest.fixture(scope="module")
def setting(model: Counting) -> Setting:
    return Setting(model, model.model.layer3, SPACE, evaluations=20, batch_size=8)


@pytest.fixture
def subject(model: Counting) -> Subject:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    target = int(model(images).argmax(1))
    return Subject(
        images, target, ForwardScore(model, target), SPACE.black(images)[0, :, :1, :1], 7
    )


@pytest.mark.parametrize("name", [n for n in known_methods() if n not in SLOW])
def test_every_method_gives_a_finite_map(name: str, setting: Setting, subject: Subject) -> None:
    found = explain(name, build_methods([name], setting)[name], subject)
    assert bool(found.cells) == is_coarse(name)
    for cells in found.cells:
        assert cells.shape[:2] == (1, 1)
        assert cells.shape[2] <= 64
        assert bool(cells.isfinite().all())
        # The library's CAMs show what speaks for the class; Captum's layers are signed.
        assert name not in CAMS or float(cells.min()) >= 0
    if found.fine is not None:
        assert found.fine.shape == (1, 64, 64)
        assert bool(found.fine.isfinite().all())
    assert found.cells or found.fine is not None


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturbations_spend_what_they_may(
    name: str, setting: Setting, subject: Subject, model: Counting
) -> None:
    method = build_methods([name], setting)[name]
    before = model.images
    found = explain(name, method, subject)
    spent = model.images - before
    # Shapley sampling takes a whole permutation at least; Captum adds the image and its baseline.
    if name != "ShapleyValueSampling":
        assert found.evaluations <= setting.evaluations
    assert spent <= found.evaluations + 2


def test_grad_cam_is_captums(setting: Setting, subject: Subject) -> None:
    found = explain("x", build_methods(["LayerGradCam"], setting)["LayerGradCam"], subject)
    theirs = captum.attr.LayerGradCam(setting.model, setting.layer).attribute(
        subject.inputs, subject.target, relu_attributions=True
    )
    torch.testing.assert_close(found.cells[0], theirs)


@pytest.mark.parametrize("name", ["RISE", "random", "KernelShap"])
def test_chance_is_the_images_own(name: str, setting: Setting, subject: Subject) -> None:
    method = build_methods([name], setting)[name]
    state = torch.get_rng_state()
    first, second = explain(name, method, subject).fine, explain(name, method, subject).fine
    assert torch.equal(torch.get_rng_state(), state)
    assert first is not None
    assert second is not None
    assert torch.equal(first, second)
    other = Subject(subject.inputs, subject.target, subject.score, subject.black, seed=8)
    third = explain(name, method, other).fine
    assert third is not None
    assert not torch.equal(first, third)


def test_a_model_that_a_method_cannot_explain_is_one_line(
    setting: Setting, subject: Subject
) -> None:
    flat = Setting(setting.model, setting.model.model.fc, SPACE, 20, 8)  # type: ignore[union-attr, arg-type]
    with pytest.raises(UsageError, match="'LayerGradCam' cannot explain this"):
        explain("LayerGradCam", build_methods(["LayerGradCam"], flat)["LayerGradCam"], subject)


@pytest.mark.parametrize("error", [AssertionError, AttributeError, IndexError, RuntimeError])
def test_whatever_a_library_raises_is_one_line(error: type[Exception], subject: Subject) -> None:
    def method(_: Subject) -> Explanation:
        raise error("not this one")

    with pytest.raises(UsageError, match="'x' cannot explain this: not this one"):
        explain("x", method, subject)


def test_finer_cam_explains_the_first_class_only(setting: Setting, subject: Subject) -> None:
    if "FinerCAM" not in CAMS:
        pytest.skip("this release of pytorch-grad-cam has no FinerCAM")
    other = Subject(
        subject.inputs, (subject.target + 1) % 5, subject.score, subject.black, 0, first=False
    )
    with pytest.raises(UsageError, match="first class only"):
        explain("FinerCAM", build_methods(["FinerCAM"], setting)["FinerCAM"], other)


def test_an_unknown_method_names_the_nearest(setting: Setting, work: Path) -> None:
    with pytest.raises(UsageError, match="did you mean LayerGradCam"):
        build_methods(["LayerGradCAM"], setting)


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_what_is_drawn_does_not_depend_on_how_many_images_go_through_at_once(
    name: str, setting: Setting, subject: Subject
) -> None:
    wide = replace(setting, evaluations=70, batch_size=64)
    narrow = replace(wide, batch_size=7)
    first, second = (
        explain(name, build_methods([name], s)[name], subject).fine for s in (wide, narrow)
    )
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_rise_equals_a_loop_on_an_oblong_image() -> None:
    from usu_cli.evaluate._rise import rise

    generator = torch.Generator().manual_seed(0)
    image, fill, weights = torch.rand(3, 1, 2, 10, 17, generator=generator)
    asked: list[int] = []

    class Score:
        def evaluate(
            self, images: torch.Tensor, example: torch.Tensor, output: str
        ) -> torch.Tensor:
            assert output == "probability"
            assert not torch.is_grad_enabled()
            asked.append(len(images))
            return (images * weights).flatten(1).sum(1).square()

    found = rise(Score(), image, 70, fill=fill, grid=3, keep=0.3, seed=5, chunk_size=9)
    assert sum(asked) == 70
    assert max(asked) == 9
    draw = torch.Generator().manual_seed(5)
    total, seen = torch.zeros(10, 17), torch.zeros(10, 17)
    for count in (64, 6):  # cells of 4 x 6 pixels
        coarse = (torch.rand(count, 1, 4, 4, generator=draw) < 0.3).float()
        rows = torch.randint(0, 4, (count,), generator=draw).tolist()
        columns = torch.randint(0, 6, (count,), generator=draw).tolist()
        large = nn.functional.interpolate(coarse, (16, 24), mode="bilinear")
        for i, (r, c) in enumerate(zip(rows, columns, strict=True)):
            mask = large[i, 0, r : r + 10, c : c + 17]
            value = ((mask * image + (1 - mask) * fill) * weights).sum().square()
            total, seen = total + value * mask, seen + mask
    torch.testing.assert_close(found[0], total / seen, rtol=1e-4, atol=1e-5)
