"""What comes in: tuples, further arguments, functions, modes, dtypes, devices; and what goes out
to Captum's own metrics."""

import inspect
from functools import partial
from typing import Any

import pytest
import torch
from captum import attr as captum_attr
from captum.attr import LayerAttribution
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

from usu_captum import (
    ForwardScore,
    GuidedGradCam,
    LayerActivation,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    interpolate,
)
from usu_captum._methods import WITH_UPSAMPLER
from usu_core import USU, CellGrid, available


def fine_map(method: Any, images: Any, upsampler: Any = "nearest", **arguments: Any) -> Tensor:
    result: Tensor = method.attribute(images, target=1, upsampler=upsampler, **arguments)
    return result


class Both(nn.Module):
    """A picture and a table in, either first."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, table: Tensor, images: Tensor, scale: Tensor | float = 1.0) -> Tensor:
        result: Tensor = self.net(images) * table.sum(1, keepdim=True)
        return result * (scale.view(-1, 1) if isinstance(scale, Tensor) else scale)


def test_one_image_among_several_inputs(net: Any, guided: Any) -> None:
    table, images = torch.rand(3, 5) + 1, torch.rand(3, 3, 16, 12)
    method = LayerGradCam(Both(net), net.relu2)
    scale = torch.tensor([1.0, 2.0, 3.0])
    fine = fine_map(method, (table, images), guided, image_input=1, additional_forward_args=scale)
    for i in range(3):
        part = slice(i, i + 1)
        alone = fine_map(
            method, (table[part], images[part]), guided,
            image_input=-1, additional_forward_args=(scale[part],),
        )  # fmt: skip
        torch.testing.assert_close(fine[part], alone, atol=1e-6, rtol=1e-4)
    with pytest.raises(ValueError, match="one spatial map of the image's rank"):
        fine_map(method, (table, images))
    with pytest.raises(ValueError, match="image_input must name one of 2 inputs, got 2"):
        fine_map(method, (table, images), image_input=2)


# The others draw for the batch as a whole.
@pytest.mark.parametrize(
    "name",
    [n for n in WITH_UPSAMPLER if not any(kind in n for kind in ("Lime", "Shap", "Permutation"))],
)
def test_a_batch_equals_its_examples(name: str, case: Any, guided: Any, seed: Any) -> None:
    it = case(name)
    if name == "LayerActivation":
        it.arguments["target"] = torch.tensor([1, 3])
    seed()
    whole = it.ours.attribute(it.images, **it.arguments, upsampler=guided)
    for i in range(2):
        seed()
        arguments = dict(it.arguments, target=[1, 3][i])
        alone = it.ours.attribute(it.images[i : i + 1], **arguments, upsampler=guided)
        torch.testing.assert_close(whole[i : i + 1], alone, atol=1e-5, rtol=1e-3)


def test_further_arguments_follow_their_examples_or_nobody(net: Any) -> None:
    images = torch.rand(1, 3, 4, 4)
    weights = torch.rand(7)  # Not one per example: a batch of one must not pick its first.

    def forward(images: Tensor, weights: Tensor, flag: bool) -> Tensor:
        assert flag
        return images.sum((1, 2, 3)) * weights.sum()

    score = ForwardScore(forward, None, (weights, True), (images,))
    several = images.expand(3, -1, -1, -1)
    values = score.evaluate(several, torch.zeros(3, dtype=torch.long), "logit")
    torch.testing.assert_close(values, images.sum().expand(3) * weights.sum())


def test_a_score_needs_one_value_per_example(net: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    with pytest.raises(ValueError, match="target must select one value per example, got None"):
        LayerActivation(net, net.relu2).attribute(images, upsampler="usu")
    with pytest.raises(TypeError, match="forward_func must return a tensor"):
        ForwardScore(lambda x: [x]).evaluate(images, torch.arange(2), "logit")


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ([1], ValueError, "one entry for each of 2 examples, got 1"),
        ([1, 2, 3], ValueError, "one entry for each of 2 examples, got 3"),
        (torch.tensor([1, 2, 3]), ValueError, "one entry for each of 2 examples, got 3"),
        (4, ValueError, r"target must lie in \[0, 3\], as outputs have shape \(4,\) .* got 4"),
        (-5, ValueError, r"target must lie in \[0, 3\]"),
        (torch.tensor(4), ValueError, r"target must lie in \[0, 3\]"),
        ([0, 4], ValueError, r"target must lie in \[0, 3\]"),
        ([0, -1], ValueError, r"target must lie in \[0, 3\]"),
        ((1, 2), ValueError, r"fit outputs of shape \(4,\) .* got \(1, 2\)"),
        ([(1,), (4,)], ValueError, r"target must lie in \[0, 3\]"),
        ("cat", TypeError, "target must be an integer, .* got str"),
        (["cat", "dog"], TypeError, "target must hold integers, got 'cat'"),
        (None, ValueError, r"got None for outputs of shape \(4,\) for each example"),
    ],
)
def test_targets_that_do_not_fit(
    target: Any, error: type[Exception], message: str, net: Any
) -> None:
    images = torch.rand(2, 3, 16, 12)
    with pytest.raises(error, match=message):
        LayerActivation(net, net.relu2).attribute(images, target=target, upsampler="usu")


def test_targets_of_other_outputs() -> None:
    images, both = torch.arange(24.0).view(2, 3, 2, 2), torch.tensor([0, 1])
    score = ForwardScore(lambda x: x, -1)
    with pytest.raises(ValueError, match="target must select one value per example, got -1"):
        score.evaluate(images, both, "logit")
    with pytest.raises(ValueError, match="Try a tuple with an index for each of 3 dimensions"):
        ForwardScore(lambda x: x, [0, 1]).evaluate(images, both, "logit")
    with pytest.raises(ValueError, match="Try target=None"):
        ForwardScore(lambda x: x.sum((1, 2, 3)), 0).evaluate(images, both, "logit")
    found = ForwardScore(lambda x: x, [(0, 0, 1), (2, -1, -1)]).evaluate(images, both, "logit")
    assert found.tolist() == [1.0, 23.0]
    last = ForwardScore(lambda x: x.flatten(1), -1).evaluate(images, both, "logit")
    assert last.tolist() == [11.0, 23.0]


def test_any_forward_function(net: Any, guided: Any) -> None:
    images = torch.rand(1, 3, 16, 12)
    expected = fine_map(LayerGradCam(net, net.relu2), images, guided)
    forms = [net.forward, lambda x: net(x), partial(net, shift=0.0)]
    if not torch.cuda.is_available():  # It would take the network to the GPU.
        forms.append(nn.DataParallel(net))
    for forward in forms:
        torch.testing.assert_close(
            fine_map(LayerGradCam(forward, net.relu2), images, guided), expected
        )

    def no_target(x: Tensor) -> Tensor:
        result: Tensor = net(x).softmax(1)[:, 1]
        return result

    scalar = LayerGradCam(no_target, net.relu2).attribute(images, upsampler=guided)
    assert scalar.shape == expected.shape


def test_segmentation_targets(guided: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Upsample(scale_factor=2))
    fine = LayerGradCam(model, model[1]).attribute(
        torch.rand(2, 3, 8, 8), target=[(1, 2, 2), (3, 7, 7)], upsampler=guided
    )
    assert fine.shape == (2, 1, 8, 8)


def test_without_gradients_and_with_autocast(net: Any, guided: Any) -> None:
    images = torch.rand(1, 3, 16, 12)
    expected = fine_map(LayerGradCam(net, net.relu2), images, guided)
    with torch.no_grad():
        quiet = fine_map(LayerGradCam(net, net.relu2), images, guided)
    torch.testing.assert_close(quiet, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = fine_map(LayerGradCam(net, net.relu2), images, guided)
    assert rough.shape == expected.shape
    assert torch.isfinite(rough).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["usu", "usu-fast", "bilinear", "iwmr-mass"])
def test_other_precisions(dtype: torch.dtype, name: str, net: Any) -> None:
    net, images = net.to(dtype), torch.rand(1, 3, 16, 12, dtype=dtype)
    fine = fine_map(LayerGradCam(net, net.relu2), images, name)
    assert fine.dtype in (dtype, torch.promote_types(dtype, torch.float32))
    assert torch.isfinite(fine).all()


def test_channels_last_memory(net: Any, guided: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    expected = fine_map(LayerGradCam(net, net.relu2), images, guided)
    net = net.to(memory_format=torch.channels_last)
    turned = images.contiguous(memory_format=torch.channels_last)
    found = fine_map(LayerGradCam(net, net.relu2), turned, guided)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name",
    ["LayerGradCam", "LayerIntegratedGradients", "LayerDeepLift", "LayerLRP", "FeatureAblation",
     "GuidedGradCam"],
)  # fmt: skip
def test_compiled_models(name: str, net: Any, case: Any, guided: Any, hooks: Any) -> None:
    it = case(name, net)
    expected = it.ours.attribute(it.images, **it.arguments, upsampler=guided)
    torch.compiler.reset()
    compiled = torch.compile(net, backend="eager")
    with torch.no_grad():
        compiled(it.images)
    cls = WITH_UPSAMPLER[name]
    layer = net.first if name == "LayerLRP" else net.relu2
    method = cls(compiled) if name == "FeatureAblation" else cls(compiled, layer)
    found = method.attribute(it.images, **it.arguments, upsampler=guided)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert hooks(net) == 0
    torch.compiler.reset()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", WITH_UPSAMPLER)
def test_on_a_gpu(name: str, case: Any, guided: Any, seed: Any) -> None:
    it = case(name)
    target = {"target": 1} if name == "LayerActivation" else {}
    it.model.cuda()
    arguments = {k: v.cuda() if isinstance(v, Tensor) else v for k, v in it.arguments.items()}
    fine = it.ours.attribute(it.images.cuda(), **arguments, **target, upsampler=guided)
    assert fine.is_cuda


def test_the_graph_is_kept(net: Any, guided: Any) -> None:
    images = torch.rand(1, 3, 16, 12)
    fine = fine_map(LayerGradCam(net, net.relu2), images, guided)
    (gradient,) = torch.autograd.grad(fine.abs().sum(), net.second.weight)
    assert gradient.any()


@pytest.mark.parametrize("convention", ["density", "total"])
def test_captums_metrics_accept_expanded_maps(convention: str, net: Any, guided: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    options = {"upsampler": guided, "convention": convention}
    plain = fine_map(LayerGradCam(net, net.relu2), images, **options)
    options["expand_to_input"] = True
    fine = fine_map(LayerGradCam(net, net.relu2), images, **options)
    assert fine.shape == images.shape
    share = 3 if convention == "total" else 1
    torch.testing.assert_close(fine * share, plain.expand_as(images))

    def noise(inputs: Tensor) -> tuple[Tensor, Tensor]:
        step = torch.randn_like(inputs) * 0.1
        return step, inputs - step

    assert infidelity(net, noise, images, fine.detach(), target=1).shape == (2,)
    with pytest.raises(AssertionError):
        infidelity(net, noise, images, plain.detach(), target=1)
    explain = LayerGradCam(net, net.relu2).attribute
    found = sensitivity_max(explain, images, n_perturb_samples=2, target=1, **options)
    assert found.shape == (2,)
    table = torch.rand(2, 5)
    both = LayerGradCam(Both(net), net.relu2)
    nothing, mirrored = both.attribute((table, images), target=1, image_input=1, **options)
    assert nothing.shape == table.shape
    assert not nothing.any()
    assert mirrored.shape == images.shape
    kept = LayerGradientXActivation(net, net.relu2)
    with pytest.raises(ValueError, match="expand_to_input needs one channel or 3, got 5"):
        fine_map(kept, images, reduce=None, expand_to_input=True)


def test_options_are_checked_before_the_model_runs(net: Any) -> None:
    def never(images: Tensor) -> Tensor:
        raise AssertionError

    method, images = LayerGradCam(never, net.relu2), torch.rand(1, 3, 16, 12)
    for options, message in (
        ({"upsampler": "uso"}, "upsampler must be one of .*Did you mean usu|upsampler must be"),
        ({"upsampler": "usu", "reduce": "mean"}, "reduce must be 'sum' or None, got 'mean'"),
        ({"upsampler": "usu", "convention": "mass"}, "convention must be 'density', 'total'"),
    ):
        with pytest.raises(ValueError, match=message):
            method.attribute(images, target=1, **options)
    with pytest.raises(TypeError, match="grid must be a TokenGrid or a CellGrid, got tuple"):
        method.attribute(images, target=1, upsampler="usu", grid=(4, 4))
    with pytest.raises(TypeError, match="upsampler must be a name or an object"):
        method.attribute(images, target=1, upsampler=USU)
    with pytest.raises(TypeError, match="image_input must be an integer, got str"):
        method.attribute(images, target=1, upsampler="usu", image_input="a")


def test_a_content_box_says_where_cells_lie(net: Any, guided: Any) -> None:
    images = torch.rand(1, 3, 16, 12)
    grid = CellGrid.box((8, 6), (16, 12), (0, 0, 8, 12))
    fine = fine_map(LayerGradCam(net, net.relu2), images, guided, grid=grid)
    assert not fine[:, :, 8:].any()
    assert fine[:, :, :8].any()


@pytest.mark.parametrize("options", [{"convention": "total"}, {"return_convergence_delta": True}])
def test_totals_of_a_box_beyond_the_image_are_refused(net: Any, guided: Any, options: Any) -> None:
    """What the cells outside should get would vanish, and with it what the delta says."""
    images = torch.rand(1, 3, 16, 12)
    grid = CellGrid.box((8, 6), (16, 12), (0, 0, 32, 24))
    method = LayerIntegratedGradients(net, net.relu2)
    with pytest.raises(ValueError, match="grid must give every cell a pixel under convention='t"):
        method.attribute(images, target=1, upsampler=guided, grid=grid, **options)


@pytest.mark.parametrize("rank", [1, 3])
def test_signals_and_volumes(rank: int) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
    model = nn.Sequential(kind(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten())
    images = torch.rand(2, 2, *(8,) * rank)
    for name in ("nearest", "bilinear"):
        fine = fine_map(LayerGradCam(model, model[1]), images, name)
        assert fine.shape == (2, 1, *(8,) * rank)


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic", "area"])
def test_interpolate_is_captums(mode: str) -> None:
    cells = torch.rand(2, 3, 4, 6)
    expected = LayerAttribution.interpolate(cells, (16, 12), mode)
    assert torch.equal(interpolate(cells, (16, 12), mode), expected)
    assert torch.equal(interpolate(cells, torch.Size((16, 12)), interpolate_mode=mode), expected)
    names = list(inspect.signature(LayerAttribution.interpolate).parameters)
    assert list(inspect.signature(interpolate).parameters)[: len(names)] == names


def test_interpolate_redistributes(net: Any, guided: Any) -> None:
    images = torch.rand(2, 3, 16, 12)
    coarse = captum_attr.LayerGradCam(net, net.relu2).attribute(images, target=1)
    fine = interpolate(coarse, (16, 12), guided, image=images, forward_func=net, target=1)
    torch.testing.assert_close(fine, fine_map(LayerGradCam(net, net.relu2), images, guided))
    conserving = interpolate(coarse, (16, 12), "bilinear-conserving")
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(conserving, 2), coarse)
    with pytest.raises(ValueError, match="image must be given"):
        interpolate(coarse, (16, 12), "usu")
    with pytest.raises(ValueError, match="forward_func must be given"):
        interpolate(coarse, (16, 12), "usu", image=images)
    with pytest.raises(ValueError, match=r"image must hold the 2 examples of .* got 3"):
        interpolate(coarse, (16, 12), "usu", image=torch.rand(3, 3, 16, 12), forward_func=net)
    with pytest.raises(ValueError, match="interpolate_dims must be the image's size"):
        interpolate(coarse, (32, 24), "usu", image=images, forward_func=net, target=1)
    with pytest.raises(ValueError, match="upsampler must be one of"):
        interpolate(coarse, (16, 12), "trilinaer")


def test_every_name_upsamples(net: Any) -> None:
    images = torch.rand(1, 3, 16, 12)
    for name in available():
        assert fine_map(LayerGradCam(net, net.relu2), images, name).shape == (1, 1, 16, 12)


def test_guided_grad_cam_of_several_inputs(net: Any) -> None:
    table, images = torch.rand(2, 5), torch.rand(2, 3, 16, 12)
    method = GuidedGradCam(Both(net), net.relu2)
    first, second = method.attribute((table, images), target=1, upsampler="nearest")
    assert first.numel() == 0
    assert second.shape == images.shape


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("upsampler", ["nearest", "guided"])
def test_half_precision_holds_neither_masses_nor_sums(
    upsampler: str, dtype: torch.dtype, guided: Any
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 64, 6, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    nn.init.constant_(model[0].bias, 2000.0)
    model, images = model.to(dtype), torch.rand(1, 3, 36, 30).to(dtype)
    exact = model[0](images).double().sum(1, keepdim=True)  # 128,000, where float16 ends at 65,504.
    activation = LayerActivation(model, model[0])
    chosen = guided if upsampler == "guided" else upsampler
    fine = activation.attribute(images, target=1, upsampler=chosen, convention="total").double()
    sums = CellGrid.even((6, 5), (36, 30)).sum(fine)
    torch.testing.assert_close(sums, exact, rtol=5e-7, atol=0)


def test_a_service_may_answer_on_another_device() -> None:
    score = ForwardScore(lambda images: torch.ones(len(images), 2), 1)
    values = score.evaluate(torch.empty(3, 1, 4, 4, device="meta"), torch.arange(3), "logit")
    assert values.device.type == "meta"


def test_upsamplers_get_the_image_without_a_graph(net: Any) -> None:
    flags: list[bool] = []

    def plain(cells: Tensor, *, image: Tensor, score: Any) -> Tensor:
        flags.append(image.requires_grad)
        return cells.repeat_interleave(2, 2).repeat_interleave(2, 3)

    images = torch.rand(1, 3, 16, 12, requires_grad=True)
    fine_map(LayerGradCam(net, net.relu2), images, plain)
    assert flags == [False]


def test_further_arguments_follow_examples_of_an_unknown_batch() -> None:
    scale, flag = torch.tensor([1.0, 10.0]), torch.tensor([3.0])
    score = ForwardScore(lambda x, s, f: x.sum((1, 2, 3)) * s * f, None, (scale, flag))
    values = score.evaluate(torch.ones(3, 1, 2, 2), torch.tensor([1, 0, 1]), "logit")
    assert values.tolist() == [120.0, 12.0, 120.0]


def test_a_tensor_of_one_target_is_for_all(net: Any, guided: Any) -> None:
    images = torch.rand(3, 3, 16, 12)
    method = LayerGradCam(net, net.relu2)
    expected = method.attribute(images, target=2, upsampler=guided)
    for target in (torch.tensor(2), torch.tensor([2])):
        found = method.attribute(images, target=target, upsampler=guided)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("of_the_input", [False, True])
def test_guided_grad_cam_of_a_layers_input(net: Any, of_the_input: bool) -> None:
    images = torch.rand(2, 3, 16, 12, requires_grad=True)
    arguments = {"target": 1, "attribute_to_layer_input": of_the_input}
    plain = captum_attr.GuidedGradCam(net, net.second).attribute(
        images, interpolate_mode="nearest", **arguments
    )
    found = GuidedGradCam(net, net.second).attribute(images, upsampler="nearest", **arguments)
    assert plain.any()
    torch.testing.assert_close(found, plain, atol=0, rtol=1e-5)  # values are near 1e-7


def test_interpolate_keeps_channels() -> None:
    cells, image = torch.rand(2, 3, 4, 3), torch.rand(2, 1, 16, 12)
    fine = interpolate(cells, (16, 12), "bilinear-conserving", image=image)
    assert fine.shape == (2, 3, 16, 12)
    torch.testing.assert_close(CellGrid.even((4, 3), (16, 12)).mean(fine), cells)
