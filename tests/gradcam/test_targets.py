"""Every target the library ships, explicit score functions, and clear errors for the rest."""

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam.utils import model_targets as shipped
from torch import nn

import usu_gradcam
from usu_core import USU, GradientScorer, MaskedPerturbation, Quadtree
from usu_core.scoring import class_scores
from usu_gradcam import TargetScore

EVERYONE = torch.arange(2)


@pytest.mark.parametrize(
    "target",
    [
        shipped.ClassifierOutputTarget(1),
        shipped.ClassifierOutputTarget(-1),
        shipped.ClassifierOutputTarget(np.int64(2)),
        shipped.ClassifierOutputSoftmaxTarget(1),
        shipped.ClassifierOutputReST(1),
        shipped.FinerWeightedTarget(1, [0, 2], 1.0),
        lambda output: output[1] - output[0],
        lambda output: output[..., 2].square(),
    ],
)
@pytest.mark.parametrize("name", ["GradCAM", "AblationCAM", "EigenCAM", "FullGrad"])
def test_classifier_targets(
    target: Any, name: str, net: nn.Module, images: torch.Tensor, quick: USU
) -> None:
    fine = getattr(usu_gradcam, name)(net, [net.last], upsampler=quick)(images, [target] * 2)
    assert fine.shape == (2, 24, 32)
    assert 0 <= fine.min() <= fine.max() <= 1
    score = TargetScore(net, [target] * 2)
    wanted = torch.stack([target(output) for output in net(images)])
    torch.testing.assert_close(score.evaluate(images, EVERYONE, "logit"), wanted)


@pytest.mark.parametrize("target", [shipped.RawScoresOutputTarget(), shipped.SoftmaxOutputTarget()])
def test_vector_targets_are_summed(target: Any, net: nn.Module, images: torch.Tensor) -> None:
    score = TargetScore(net, [target] * 2)
    wanted = torch.stack([target(output).sum() for output in net(images)])
    torch.testing.assert_close(score.evaluate(images, EVERYONE, "logit"), wanted)


@pytest.mark.parametrize("category", [0, 1])
def test_binary_targets(category: int, images: torch.Tensor, quick: USU, make_net: Any) -> None:
    net = make_net(classes=1).eval()
    targets = [shipped.BinaryClassifierOutputTarget(category)] * 2
    fine = usu_gradcam.GradCAM(net, [net.last], upsampler=quick)(images, targets)
    assert fine.shape == (2, 24, 32)
    sign = 1 if category == 1 else -1
    found = TargetScore(net, targets).evaluate(images, EVERYONE, "probability")
    torch.testing.assert_close(found, sign * net(images)[:, 0])


def test_class_targets_follow_the_scorer_s_scale_each_for_itself(
    net: nn.Module, images: torch.Tensor
) -> None:
    targets = [shipped.ClassifierOutputTarget(1), shipped.ClassifierOutputTarget(4)]
    score = TargetScore(net, targets)
    for output in ("probability", "logit", "log-odds"):
        wanted = class_scores(net(images), output)[EVERYONE, torch.tensor([1, 4])]
        torch.testing.assert_close(score.evaluate(images, EVERYONE, output), wanted)
    repeated = score.evaluate(images[[1, 0, 1]], torch.tensor([1, 0, 1]), "logit")
    torch.testing.assert_close(repeated, net(images)[[1, 0, 1], [4, 1, 4]])


class Segmenter(nn.Module):
    """Scores per pixel, as a tensor or, as in torchvision, in a dictionary."""

    def __init__(self, wrap: bool) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        self.head = nn.Conv2d(4, 3, 1)
        self.wrap = wrap

    def forward(self, images: torch.Tensor) -> Any:
        coarse = self.head(torch.tanh(self.features(images)))
        out = nn.functional.interpolate(coarse, size=images.shape[2:])
        return {"out": out, "aux": coarse} if self.wrap else out


def test_segmentation(images: torch.Tensor, quick: USU) -> None:
    model = Segmenter(wrap=False)
    mask = np.zeros((24, 32), np.float32)
    mask[4:12, 4:20] = 1
    targets = [shipped.SemanticSegmentationTarget(1, mask)] * 2
    fine = usu_gradcam.GradCAM(model, [model.features], upsampler=quick)(images, targets)
    assert fine.shape == (2, 24, 32)
    wanted = (model(images)[:, 1] * torch.from_numpy(mask)).sum((1, 2))
    found = TargetScore(model, targets).evaluate(images, EVERYONE, "logit")
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    "name", ["GradCAM", "EigenCAM", "ScoreCAM", "AblationCAM", "FullGrad", "ShapleyCAM"]
)
@pytest.mark.parametrize("upsampler", ["quick", None, "bilinear"])
def test_score_functions_replace_outputs_that_are_no_tensors(
    name: str, upsampler: str | None, images: torch.Tensor, quick: USU
) -> None:
    """The dictionary model explained by a function equals the tensor model with a target."""
    model, plain = Segmenter(wrap=True), Segmenter(wrap=False)
    plain.load_state_dict(model.state_dict())
    layer, plain_layer = model.features, plain.features
    chosen = quick if upsampler == "quick" else upsampler
    cls = getattr(usu_gradcam, name)

    def score(batch: torch.Tensor) -> torch.Tensor:
        return model(batch)["out"][:, 1].mean((1, 2))

    by_score = cls(model, [layer], upsampler=chosen, score_fn=score)(images)
    by_target = cls(plain, [plain_layer], upsampler=chosen)(
        images, [lambda output: output[1].mean()] * 2
    )
    tolerance = 1e-5 if name != "AblationCAM" else 1e-3
    np.testing.assert_allclose(by_score, by_target, atol=tolerance)


def test_gradient_scores(net: nn.Module, images: torch.Tensor) -> None:
    quick = USU(segmenter=Quadtree((2, 4)), scorer=GradientScorer())
    for target in (shipped.ClassifierOutputTarget(1), lambda output: output[1]):
        fine = usu_gradcam.GradCAM(net, [net.last], upsampler=quick)(images, [target] * 2)
        assert fine.std() > 0


class Detector(nn.Module):
    """Returns a list of dictionaries, as torchvision's detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, stride=4, padding=1)

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        boxes = torch.tensor([[2.0, 2.0, 20.0, 20.0]])
        strength = torch.sigmoid(self.features(images)).mean((1, 2, 3))
        return [
            {"boxes": boxes, "labels": torch.tensor([1]), "scores": one[None]} for one in strength
        ]


def test_detection_targets(images: torch.Tensor, quick: USU) -> None:
    model = Detector()
    box = np.array([2.0, 2.0, 20.0, 20.0])
    targets = [shipped.FasterRCNNBoxScoreTarget([1], [box])] * 2
    for name in ("GradCAM", "EigenCAM", "AblationCAM"):
        fine = getattr(usu_gradcam, name)(model, [model.features], upsampler=quick)(images, targets)
        assert fine.shape == (2, 24, 32)
    missed = [shipped.FasterRCNNBoxScoreTarget([2], [box])] * 2
    fine = usu_gradcam.EigenCAM(model, [model.features], upsampler=quick)(images, missed)
    assert np.isfinite(fine).all()


class TestErrors:
    """The library returns a zero map, or swallows the error, or fails in its own depths."""

    @pytest.mark.parametrize("count", [1, 3])
    def test_wrong_number_of_targets(
        self, count: int, net: nn.Module, images: torch.Tensor, quick: USU
    ) -> None:
        targets = [shipped.ClassifierOutputTarget(1)] * count
        for name in ("GradCAM", "EigenCAM", "FinerCAM", "RefineCAM", "SESS"):
            cam = getattr(usu_gradcam, name)(net, [net.last], upsampler=quick)
            with pytest.raises(ValueError, match=f"one target per image, got {count} for 2"):
                cam(images, targets)

    def test_not_a_list(self, net: nn.Module, images: torch.Tensor) -> None:
        cam = usu_gradcam.GradCAM(net, [net.last], upsampler="nearest")
        with pytest.raises(TypeError, match=r"Try targets=\[target\]"):
            cam(images, shipped.ClassifierOutputTarget(1))
        with pytest.raises(TypeError, match=r"got 281. Try ClassifierOutputTarget\(281\)"):
            cam(images, [281, 281])

    @pytest.mark.parametrize("name", ["GradCAM", "AblationCAM", "EigenCAM", "FinerCAM"])
    @pytest.mark.parametrize("target", ["class", "lambda"])
    def test_out_of_range(
        self, name: str, target: str, net: nn.Module, images: torch.Tensor, quick: USU
    ) -> None:
        chosen = shipped.ClassifierOutputTarget(7) if target == "class" else lambda out: out[7]
        with (
            pytest.raises(ValueError, match="targets must fit the model's output"),
            getattr(usu_gradcam, name)(net, [net.last], upsampler=quick) as cam,
        ):
            cam(images, [chosen] * 2)

    @pytest.mark.parametrize("name", ["GradCAM", "FinerCAM", "RefineCAM", "SESS"])
    def test_nothing_is_swallowed(self, name: str, net: nn.Module) -> None:
        with pytest.raises(IndexError), getattr(usu_gradcam, name)(net, [net.last]):
            raise IndexError("the user's own")
        assert not net.last._forward_hooks

    @pytest.mark.parametrize("name", ["GradCAM", "EigenCAM"])
    def test_no_targets_for_outputs_without_classes(
        self, name: str, images: torch.Tensor, quick: USU
    ) -> None:
        for model in (Segmenter(wrap=True), Segmenter(wrap=False), Detector()):
            cam = getattr(usu_gradcam, name)(model, [model.features], upsampler=quick)
            with pytest.raises(ValueError, match=r"targets must be given.*score_fn="):
                cam(images)

    def test_dictionaries_with_targets(self, images: torch.Tensor, quick: USU) -> None:
        model = Segmenter(wrap=True)
        cam = usu_gradcam.GradCAM(model, [model.features], upsampler=quick)
        with pytest.raises(TypeError, match=r"one output per image, got a dict of 2.*score_fn="):
            cam(images, [lambda output: output["out"].mean()] * 2)

    def test_both_targets_and_score_function(self, net: nn.Module, images: torch.Tensor) -> None:
        cam = usu_gradcam.GradCAM(net, [net.last], score_fn=lambda batch: net(batch)[:, 0])
        with pytest.raises(ValueError, match="targets must be None with score_fn="):
            cam(images, [shipped.ClassifierOutputTarget(1)] * 2)

    def test_score_function_of_the_wrong_shape(self, net: nn.Module, images: torch.Tensor) -> None:
        cam = usu_gradcam.GradCAM(net, [net.last], score_fn=net)
        with pytest.raises(ValueError, match="score_fn must return one number per image, got"):
            cam(images)

    def test_layer_that_takes_no_part(self, net: nn.Module, images: torch.Tensor) -> None:
        net.idle = nn.Conv2d(3, 3, 1)
        cam = usu_gradcam.GradCAM(net, [net.idle], upsampler="nearest")
        with pytest.raises(ValueError, match=r"target_layers\[0\] \(Conv2d\) must take part"):
            cam(images)

    def test_layer_without_gradient(self, net: nn.Module, images: torch.Tensor) -> None:
        class Cut(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.side = net, nn.Conv2d(3, 3, 1)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.side(x)
                return self.net(x)

        model = Cut().eval()
        cam = usu_gradcam.GradCAM(model, [model.side], upsampler="nearest")
        with pytest.raises(ValueError, match=r"target_layers\[0\] \(Conv2d\) must have a gradient"):
            cam(images)

    def test_black_boxes_have_no_gradient_to_score_by(self, images: torch.Tensor) -> None:
        model = Segmenter(wrap=False)
        quick = USU(segmenter=Quadtree((2,)), scorer=GradientScorer())
        cam = usu_gradcam.EigenCAM(model, [model.features], upsampler=quick)
        with pytest.raises(ValueError, match="score must be differentiable"):
            cam(images, [lambda output: float(output.mean().detach())] * 2)
        masked = USU(segmenter=Quadtree((2,)), scorer=MaskedPerturbation(mode="drop"))
        cam = usu_gradcam.EigenCAM(model, [model.features], upsampler=masked)
        assert cam(images, [lambda output: float(output.mean())] * 2).shape == (2, 24, 32)

    def test_layers_of_several_outputs(self, images: torch.Tensor, quick: USU) -> None:
        class Pair(nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return x, x.mean((2, 3))

        class Paired(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.features, self.pair = nn.Conv2d(3, 5, 4, 4), Pair()

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.pair(self.features(x))[1]

        model = Paired().eval()
        for name in ("GradCAM", "FinerCAM"):
            cam = getattr(usu_gradcam, name)(model, [model.pair], upsampler=quick)
            with pytest.raises(ValueError, match="target_layers must give one tensor each, got a "):
                cam(images)

    @pytest.mark.parametrize("upsampler", ["nearest", None])
    def test_no_images(self, upsampler: Any, net: nn.Module, images: torch.Tensor) -> None:
        cam = usu_gradcam.GradCAM(net, [net.last], upsampler=upsampler)
        with pytest.raises(ValueError, match="input_tensor must hold at least one image, got none"):
            cam(images[:0])


def test_targets_of_any_kind_are_each_for_its_own_image(
    net: nn.Module, images: torch.Tensor
) -> None:
    score = TargetScore(net, [lambda output: output[1], lambda output: -output[4]])
    found = score.evaluate(images[[1, 0, 1]], torch.tensor([1, 0, 1]), "logit")
    outputs = net(images)
    torch.testing.assert_close(found, torch.stack([-outputs[1, 4], outputs[0, 1], -outputs[1, 4]]))


def test_subclasses_of_class_targets_choose_their_own_score(
    net: nn.Module, images: torch.Tensor
) -> None:
    class Less(shipped.ClassifierOutputTarget):
        def __call__(self, output: torch.Tensor) -> torch.Tensor:
            return output[self.category] - output[0]

    found = TargetScore(net, [Less(1), Less(3)]).evaluate(images, EVERYONE, "probability")
    outputs = net(images)
    torch.testing.assert_close(found, outputs[EVERYONE, torch.tensor([1, 3])] - outputs[:, 0])


def test_an_index_error_of_another_cause_is_not_blamed_on_targets(
    net: nn.Module, images: torch.Tensor
) -> None:
    import pytorch_grad_cam as library

    class Broken(library.GradCAM):
        def get_cam_weights(self, *args: Any) -> Any:
            raise IndexError("of the method itself")

    cam = usu_gradcam.redistributing(Broken)(net, [net.last], upsampler="nearest")
    with pytest.raises(IndexError, match="of the method itself"):
        cam(images, [shipped.ClassifierOutputTarget(1)] * 2)


def test_every_image_has_its_own_highest_class() -> None:
    from usu_gradcam._targets import predicted_targets

    found = predicted_targets(torch.tensor([[0.0, 1.0, 0.5], [3.0, 1.0, 2.0], [0.0, 1.0, 4.0]]))
    assert [target.category for target in found] == [1, 0, 2]
