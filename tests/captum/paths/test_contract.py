"""What every path method owes its caller, for all classes that the package exports."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr import GradientAttribution, NoiseTunnel
from torch import Tensor, nn

from usu_captum import Upsampled, paths
from usu_captum.paths import PathAttribution

CLASSES = [
    cls
    for name in paths.__all__
    if inspect.isclass(cls := getattr(paths, name))
    and issubclass(cls, PathAttribution)
    and cls is not PathAttribution
]

every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)

Run = Callable[..., Any]


@pytest.fixture
def run(build: Run, few: Run, smooth: Any, images: Tensor) -> Run:
    """Attribute the small images with few steps; all of it can be replaced."""

    def call(cls: Any, forward: Any = smooth, inputs: Any = images, **arguments: Any) -> Any:
        explainer = build(cls, forward)
        return explainer.attribute(inputs, **{"target": 1, **few(cls), **arguments})

    return call


def start_of(explainer: Any, images: Tensor) -> Any:
    return explainer.start(images) if hasattr(explainer, "start") else torch.zeros_like(images)


@every_class
def test_result_and_gap(cls: Any, run: Run, build: Run, smooth: Any, images: Tensor) -> None:
    explainer = build(cls, smooth)
    assert isinstance(explainer, GradientAttribution)
    assert explainer.has_convergence_delta()
    assert explainer.multiplies_by_inputs
    found, gap = run(cls, return_convergence_delta=True)
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert not found.requires_grad
    assert gap.shape == (len(images),)
    assert bool(found.isfinite().all() and gap.isfinite().all())
    assert bool((found != 0).any())
    again = explainer.compute_convergence_delta(
        found, start_of(explainer, images), images, target=1
    )
    assert torch.allclose(gap, again, atol=1e-5)
    (alone,) = run(cls, inputs=(images,))
    assert torch.equal(alone, run(cls))


@every_class
def test_float64(cls: Any, run: Run, smooth: Any, images: Tensor) -> None:
    single = run(cls)
    double = run(cls, smooth.double(), images.double())
    assert double.dtype == torch.float64
    assert (single - double).abs().max() < 1e-3 * double.abs().max()


@every_class
def test_linear_models_are_exact(cls: Any, run: Run, images: Tensor) -> None:
    """Whatever the path and the rule: steps add up to the change."""
    slope = torch.randn(images.shape[1:]).double()
    found, gap = run(
        cls,
        lambda x: (x * slope).flatten(1).sum(1),
        images.double(),
        target=None,
        return_convergence_delta=True,
    )
    assert gap.abs().max() < 1e-9 * found.abs().sum()


@every_class
def test_ignored_pixels_get_nothing(cls: Any, run: Run, smooth: Any, images: Tensor) -> None:
    def blind(x: Tensor) -> Tensor:
        seen = torch.zeros_like(x)
        seen[:, 0] = x[:, 0]
        return smooth(seen)  # type: ignore[no-any-return]

    found = run(cls, blind)
    assert torch.equal(found[:, 1:], torch.zeros_like(found[:, 1:]))
    assert bool((found[:, 0] != 0).any())


@every_class
def test_batch_equals_single_images(cls: Any, run: Run, smooth: Any, images: Tensor) -> None:
    target, scale = torch.tensor([2, 0, 3]), torch.tensor([1.0, -2.0, 0.5]).double()
    smooth, images = smooth.double(), images.double()

    def few_rows(at: slice) -> Tensor:
        extra = (scale[at], 1.0)
        return run(  # type: ignore[no-any-return]
            cls, smooth, images[at], target=target[at], additional_forward_args=extra
        )

    together = few_rows(slice(None))
    for i in range(3):
        alone = few_rows(slice(i, i + 1))
        assert torch.allclose(together[i : i + 1], alone, rtol=1e-7, atol=1e-10)
    listed = run(cls, smooth, images, target=target.tolist(), additional_forward_args=(scale, 1.0))
    assert torch.equal(listed, together)


@every_class
@pytest.mark.parametrize("size", [1, 2, 7])
def test_internal_batch_size(cls: Any, run: Run, smooth: Any, images: Tensor, size: int) -> None:
    rows: list[int] = []

    def counted(x: Tensor) -> Tensor:
        rows.append(len(x))
        return smooth(x)  # type: ignore[no-any-return]

    smooth, images = smooth.double(), images.double()
    found, gap = run(cls, counted, images, internal_batch_size=size, return_convergence_delta=True)
    assert max(rows) <= size
    assert gap.shape == (3,)
    assert torch.allclose(found, run(cls, smooth, images), rtol=1e-7, atol=1e-10)


@every_class
def test_rows_per_call_do_not_grow_with_steps(
    cls: Any, run: Run, build: Run, few: Run, smooth: Any, images: Tensor
) -> None:
    rows: list[int] = []

    def counted(x: Tensor) -> Tensor:
        rows.append(len(x))
        return smooth(x)  # type: ignore[no-any-return]

    if "n_steps" not in few(cls):
        pytest.skip(f"{cls.__name__} takes as many steps as its path needs")
    run(cls, counted, n_steps=60, internal_batch_size=6)
    assert max(rows) <= 6
    assert sum(rows) >= 60 * len(images) - 1


@every_class
def test_captum_wrappers(cls: Any, run: Run, build: Run, few: Run, smooth: Any) -> None:
    images = torch.rand(2, 3, 12, 10) - 0.4
    explainer, arguments = build(cls, smooth), {"target": 1, **few(cls)}
    plain = explainer.attribute(images, **arguments)
    assert torch.equal(Upsampled(explainer).attribute(images, **arguments), plain)
    noise: dict[str, Any] = {"nt_type": "smoothgrad", "nt_samples": 2, "stdevs": 0.0}
    tunnel = NoiseTunnel(explainer).attribute(images, **noise, **arguments)
    assert torch.allclose(tunnel, plain, rtol=1e-3, atol=1e-5)
    outside = Upsampled(NoiseTunnel(explainer)).attribute(images, **noise, **arguments)
    inside = NoiseTunnel(Upsampled(explainer)).attribute(images, **noise, **arguments)
    assert torch.equal(outside, tunnel)
    assert torch.equal(inside, tunnel)


class Failing(nn.Module):
    """A module that raises at the n-th call."""

    def __init__(self, inner: nn.Module, error: type[BaseException], at: int) -> None:
        super().__init__()
        self.inner, self.error, self.left = inner, error, at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error("on purpose")
        return self.inner(x)  # type: ignore[no-any-return]


@every_class
@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_leaves_no_trace(
    cls: Any, run: Run, hooks: Run, smooth: Any, images: Tensor, error: type[BaseException] | None
) -> None:
    model = Failing(smooth, error or RuntimeError, 2 if error else -1)
    smooth.first.train(), smooth.second.eval()
    smooth.second.weight.requires_grad_(False)
    smooth.head.weight.grad = torch.ones_like(smooth.head.weight)
    inputs = images.clone().requires_grad_()
    inputs.grad = torch.full_like(images, 3.0)
    modes = [m.training for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    values = [p.detach().clone() for p in model.parameters()]
    random = torch.get_rng_state()
    if error:
        with pytest.raises(error, match="on purpose"):
            run(cls, model, inputs, internal_batch_size=2)
    else:
        run(cls, model, inputs, internal_batch_size=2)
    assert hooks(model) == 0
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), values, strict=True))
    assert [p.grad is None for p in model.parameters()].count(False) == 1
    assert torch.equal(smooth.head.weight.grad, torch.ones_like(smooth.head.weight))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert inputs.requires_grad
    assert torch.equal(inputs.grad, torch.full_like(images, 3.0))
    assert torch.equal(inputs, images)


@every_class
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_grad_mode(cls: Any, run: Run, images: Tensor, mode: Any) -> None:
    gain = torch.full((1, 4), 0.5)
    plain = run(cls, additional_forward_args=(None, gain))
    with mode():
        inside = run(cls, inputs=images.clone(), additional_forward_args=(None, gain * 1))
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert torch.equal(inside, plain)


@every_class
def test_baselines_are_checked(cls: Any, run: Run, images: Tensor) -> None:
    if "baselines" not in inspect.signature(cls.attribute).parameters:
        pytest.skip(f"{cls.__name__} has no baselines")
    with pytest.raises(ValueError, match="baselines must have the shape of the inputs"):
        run(cls, baselines=torch.zeros(3, 3, 5, 5))
    with pytest.raises(ValueError, match=r"baselines must have .* 1 in place of the first"):
        run(cls, baselines=images[:2])
    with pytest.raises(ValueError, match="baselines must be one for each of 1 inputs, got 2"):
        run(cls, baselines=(images, images))
    with pytest.raises(TypeError, match="baselines must be a name, a number"):
        run(cls, baselines=[0.0])
    for bad in (torch.nan, torch.inf, torch.full_like(images[:1], -torch.inf)):
        with pytest.raises(ValueError, match="baselines must be finite, got NaN or infinity"):
            run(cls, baselines=bad)


@every_class
def test_model_is_checked(cls: Any, run: Run, build: Run, smooth: Any) -> None:
    with pytest.raises(TypeError, match="forward_func must be callable, got int"):
        build(cls, 3)
    with pytest.raises(ValueError, match="forward_func must be differentiable in its inputs"):
        run(cls, lambda x: smooth(x).detach())
    with pytest.raises(ValueError, match=r"target must select one value per example, got None"):
        run(cls, target=None)
    for wrong in ([1], [1, 2, 3, 0], torch.tensor([1, 2, 3, 0])):
        with pytest.raises(ValueError, match="target must have one entry for each of 3 examples"):
            run(cls, target=wrong)
    for wrong in (4, [0, 1, 4]):
        with pytest.raises(ValueError, match=r"target must lie in \[0, 3\]"):
            run(cls, target=wrong)
    with pytest.raises(TypeError, match="forward_func must return a tensor, got tuple"):
        run(cls, lambda x: (smooth(x),))
    with pytest.raises(ValueError, match="NaN or infinity at step 0"):
        run(cls, lambda x: smooth(x) * torch.inf)
    with pytest.raises(ValueError, match="objective must be one of logit"):
        build(cls, smooth, objective="loss")


@every_class
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_inputs_are_checked(cls: Any, run: Run, images: Tensor, bad: float) -> None:
    with pytest.raises(TypeError, match=r"inputs must be floating-point tensors, got torch\.int64"):
        run(cls, inputs=images.long())
    with pytest.raises(TypeError, match="inputs must be floating-point tensors, got list"):
        run(cls, inputs=[1.0])
    with pytest.raises(ValueError, match="inputs must have a first dimension"):
        run(cls, inputs=images[:0])
    spoilt = images.clone()
    spoilt[1, 0, 0, 0] = bad
    with pytest.raises(ValueError, match="inputs must be finite"):
        run(cls, inputs=spoilt)
    with pytest.raises(ValueError, match="inputs must not be empty, got an empty tuple"):
        run(cls, inputs=())


@every_class
@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, ValueError, "at least 1, got 0"),
        (-1, ValueError, "at least 1, got -1"),
        (2.5, TypeError, "an integer, got float"),
        (True, TypeError, "an integer, got bool"),
    ],
)
def test_internal_batch_size_is_checked(
    cls: Any, run: Run, size: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"internal_batch_size must be {message}"):
        run(cls, internal_batch_size=size)


@every_class
def test_steps_and_rules_are_checked(cls: Any, run: Run) -> None:
    known = inspect.signature(cls.attribute).parameters
    if "n_steps" in known:
        for number in (0, -2):
            with pytest.raises(ValueError, match=f"n_steps must be at least ., got {number}"):
                run(cls, n_steps=number)
        with pytest.raises(TypeError, match="n_steps must be an integer, got float"):
            run(cls, n_steps=2.0)
    if "method" in known:
        with pytest.raises(ValueError, match=r"method must be .* got 'simpson'"):
            run(cls, method="simpson")
    if not {"n_steps", "method"} & set(known):
        pytest.skip(f"{cls.__name__} has neither steps nor a rule to choose")


@every_class
def test_objectives_change_the_result(cls: Any, build: Run, few: Run, smooth: Any) -> None:
    images = torch.rand(2, 3, 12, 10)
    arguments = {"target": 1, "return_convergence_delta": True, **few(cls)}
    sums = []
    for objective in ("logit", "log-probability", "probability", torch.tanh):
        found, gap = build(cls, smooth, objective=objective).attribute(images, **arguments)
        assert bool(found.isfinite().all() and gap.isfinite().all())
        sums.append(float(found.sum()))
    assert len({round(value, 6) for value in sums}) == 4


@every_class
def test_documented(cls: Any, build: Run, smooth: Any) -> None:
    assert ">>>" in inspect.getdoc(cls)  # type: ignore[operator]
    for section in ("Args:", "Returns:", "Raises:", "Cost:"):
        assert section in inspect.getdoc(cls.attribute)  # type: ignore[operator]
    with pytest.raises(NotImplementedError, match=cls.__name__):
        build(cls, smooth).attribute_future()


@every_class
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda(cls: Any, run: Run, smooth: Any, images: Tensor) -> None:
    expected = run(cls, smooth.double(), images.double())
    found = run(cls, smooth.cuda(), images.double().cuda())
    assert found.is_cuda
    assert torch.allclose(found.cpu(), expected, rtol=1e-6, atol=1e-9)


def test_the_mean_colour_of_raw_pixels_is_itself() -> None:
    from usu_captum import ImageSpace

    images = torch.zeros(1, 3, 2, 2)
    raw = ImageSpace((0.5, 0.4, 0.3), (0.2,), normalised=False)
    assert raw.mean_colour(images)[0, :, 0, 0].tolist() == pytest.approx([0.5, 0.4, 0.3])
    normalised = ImageSpace((0.5, 0.4, 0.3), (0.2,))
    assert not normalised.mean_colour(images).any()


def test_the_blur_of_an_oblong_image_goes_by_its_shorter_side() -> None:
    from usu_captum._image_space import named_baseline
    from usu_core.scoring import gaussian_blur

    images = torch.rand(1, 2, 20, 60)
    assert torch.equal(named_baseline(images, "blur", None), gaussian_blur(images, 1.0))


def test_attributions_keep_no_graph_of_inputs_or_baselines(smooth: Any, images: Tensor) -> None:
    from usu_captum.paths import IntegratedGradients

    method = IntegratedGradients(smooth)
    for inputs, baselines in (
        (images.clone().requires_grad_(), images * 0),
        (images, (images * 0).requires_grad_()),
    ):
        found, delta = method.attribute(
            inputs, baselines, target=1, n_steps=4, return_convergence_delta=True
        )
        assert not found.requires_grad
        assert not delta.requires_grad
