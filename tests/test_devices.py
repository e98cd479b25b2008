"""What is public works on a GPU, gives what it gives on the CPU, and answers where it is asked.

In double precision but for the ranking network: convolutions of float32 are rounded on a GPU.
"""

from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_grad_cam
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import usu_captum
import usu_core
import usu_gradcam
from usu_captum import ranking
from usu_core import IWMR, USU, CellGrid, MaskedPerturbation, Quadtree, Refinement, metrics
from usu_core.scoring import OUTPUTS
from usu_core.scoring._perturbation import MODES

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS"),  # in a backward pass's thread
    pytest.mark.filterwarnings("ignore:Maximum number of iterations"),
]


def rand(*shape: int, seed: int = 0) -> Tensor:
    """Draw on the CPU: a seed means something else on each device."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SHAPE, CELLS, MAPS = (3, 24, 32), rand(2, 1, 6, 8, seed=1) - 0.3, rand(2, 24, 32, seed=2)
TARGETS, CLASSES = [ClassifierOutputTarget(1), ClassifierOutputTarget(3)], torch.tensor([1, 3])
LABELS, BLACK = torch.arange(768).view(24, 32), torch.tensor([-2.1, -2, -1.8]).view(3, 1, 1)
QUICK = USU(segmenter=Quadtree((2, 4)), scorer=MaskedPerturbation(mode="drop", fill="mean"))


@pytest.fixture(autouse=True)
def _random_states() -> Iterator[None]:
    """Check that neither device's global generator moves."""
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    yield
    assert all(map(torch.equal, before, (torch.get_rng_state(), torch.cuda.get_rng_state())))


def case(device: str) -> Any:
    """Make a model and what it is asked about, the same on every device."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = [
            nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh(), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, 2, 1),
            nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        ]  # fmt: skip
    model = nn.Sequential(*layers).double().eval().to(device)
    maps, images, cells = (x.to(device) for x in (MAPS, rand(2, *SHAPE), CELLS))
    score, masks, rounded = usu_captum.ForwardScore(model, [1, 3]), maps > 0.6, maps.round()
    return SimpleNamespace(**locals())


def assert_same(call: Callable[[Any], Any], *, follows: bool = True, atol: float = 1e-6) -> None:
    """Compare what a call gives on both devices, in order if it gives several arrays."""
    results = [call(case(device)) for device in ("cpu", DEVICE)]
    expected, found = ([one] if hasattr(one, "shape") else list(one) for one in results)
    assert any(bool(one.any()) for one in expected)
    for one, other in zip(expected, found, strict=True):
        assert not follows or other.device.type == DEVICE
        other = torch.as_tensor(np.asarray(other) if not follows else other).cpu()
        torch.testing.assert_close(other, torch.as_tensor(one), atol=atol, rtol=1e-5)


@pytest.mark.parametrize("layers", [(3,), (0, 3)], ids=["one", "several"])
@pytest.mark.parametrize("name", usu_gradcam.CAMS)
def test_cams(name: str, layers: tuple[int, ...]) -> None:
    def cam(c: Any) -> Any:
        np.random.seed(0)  # noqa: NPY002 # RandomCAM draws from the global generator
        make, chosen = usu_gradcam.CAMS[name], [c.model[i] for i in layers]
        if name == "DeepFeatureFactorization":
            last: Any = lambda vectors: c.model[7](vectors.double())  # noqa: E731
            factorize = make(c.model, chosen[-1], None, last, upsampler=QUICK)
            return map(np.asarray, factorize(c.images.cpu(), 3))
        options: dict[str, Any] = {"num_scales": 2} if name == "SESS" else {}
        return make(c.model, chosen, upsampler=QUICK, **options)(c.images, TARGETS)

    assert_same(cam, follows=False, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"aug_smooth": True}, {"eigen_smooth": True}])
@pytest.mark.parametrize("upsampler", ["usu", "usu-fast", "bilinear"])
def test_a_patched_cam_and_images_that_are_elsewhere(upsampler: str, options: Any) -> None:
    def cam(c: Any) -> Any:
        with usu_gradcam.patched(upsampler):
            return pytorch_grad_cam.GradCAM(c.model, [c.model[3]])(c.images.cpu(), None, **options)

    assert_same(cam, follows=False, atol=1e-5)


SCORERS: dict[str, Any] = {
    "gradient": usu_core.GradientScorer, "shapley": partial(usu_core.ShapleyRegression, 64),
    **{m: partial(MaskedPerturbation, mode=m, samples=16) for m in MODES},
}  # fmt: skip
SEGMENTERS: tuple[Any, ...] = (
    usu_core.Slic((6, 18)), Quadtree((2, 4, 8)), usu_core.GivenLabels([LABELS // 192, LABELS // 48])
)  # fmt: skip
REFINEMENTS = {m: Refinement(mixing=m) for m in ("average", "segment", "pixel")}
REFINEMENTS |= {"rank": Refinement(scale="rank"), "paper": Refinement.paper()}
UPSAMPLERS: dict[str, Any] = {
    **{name: usu_core.resolve(name) for name in usu_core.available()},
    **{f"{name}-{output}": replace(QUICK, scorer=make(output=output))
       for name, make in SCORERS.items() for output in OUTPUTS},
    **{f"{type(segmenter).__name__}-{name}": USU(segmenter=segmenter, refinement=refinement)
       for segmenter in SEGMENTERS for name, refinement in REFINEMENTS.items()},
}  # fmt: skip


def upsampled(upsampler: Any, c: Any, **options: Any) -> list[Tensor]:
    found = upsampler(c.cells, image=c.images, score=c.score, details=True, **options)
    return [one for one in (found.attribution, found.score_map, *found.segments) if one is not None]


def in_a_grid(convention: str, of_labels: bool, c: Any) -> list[Tensor]:
    labels = (LABELS // 16).roll(5, 1).to(c.device).masked_fill(c.maps[0] < 0.1, -1)
    box = CellGrid.box((6, 8), (24, 32), (2.5, 1, 21, 30))
    grid = CellGrid.from_labels(labels, (6, 8)) if of_labels else box
    return upsampled(replace(QUICK, convention=convention), c, grid=grid)


def gradient(model: nn.Module, images: Tensor) -> Tensor:
    inputs = images.detach().clone().requires_grad_()
    return torch.autograd.grad(model(inputs)[:, 1].sum(), inputs)[0].abs().sum(1)


def boxes(metric: Any, c: Any, **options: Any) -> Tensor:
    drawn = metrics.random_boxes(16, (24, 32))
    effects = metrics.box_effects(c.score, c.images, drawn, black=BLACK, **options)
    return torch.as_tensor(metric(effects, metrics.box_sums(c.maps, drawn)))


def sort(sorter: Any, c: Any) -> Any:
    """Noise comes from a generator on the CPU; gradients go where the scores are."""
    scores = c.cells.flatten(1).requires_grad_()
    found = sorter(scores, torch.Generator().manual_seed(3)).flatten()
    weights = torch.linspace(-1, 1, len(found), dtype=found.dtype, device=c.device)
    return found.detach(), *torch.autograd.grad(found @ weights, scores)


STEPS: dict[str, Any] = {
    "references": ("black", "mean", "blur", BLACK), "grids": (4, (3, 5)),
    "objective": ranking.RankingObjective(n_percentiles=5, smoothing=0.5),
}  # fmt: skip
SPACE, SHARES = usu_captum.ImageSpace((0.5,), (0.25,)), torch.linspace(0, 1, 6)
SORTERS: dict[str, Any] = {
    "plan": lambda s, g: ranking.gumbel_sinkhorn(s, noise_scale=0.5, generator=g),
    "masks": lambda s, g: ranking.GumbelSinkhorn().top_masks(s, SHARES),
    "transport": lambda s, g: ranking.RankTransport(0.05, 0.5).top_masks(s, SHARES, generator=g),
    "pixels": lambda s, g: ranking.masks_to_pixels(s[:, None], (6, 8), (24, 32)),
}
RISE, SAMP = (replace(p, pixels_per_step=100) for p in (metrics.RISE, metrics.SAMP))
PROTOCOLS = {"RISE": RISE, "SAMP": replace(SAMP, output="logit"), "AHA": metrics.AHA}
CALLS: dict[str, Callable[[Any], Any]] = {
    **{name: partial(upsampled, upsampler) for name, upsampler in UPSAMPLERS.items()},
    **{f"{a}-{b}": partial(in_a_grid, a, b) for a in ("density", "total") for b in (False, True)},
    "desiderata": lambda c: torch.tensor(
        astuple(usu_core.desiderata(IWMR(), c.cells.abs(), c.maps)), device=c.device),
    **{f"sort-{name}": partial(sort, sorter) for name, sorter in SORTERS.items()},
    **{f"refine-{scale}": partial(lambda scale, c: astuple(ranking.refine(
           c.model, c.images, MAPS[:, None], target=[1, 3], space=SPACE, scale=scale, **STEPS,
       )), scale) for scale in ("element", "example")},
    **{f"{curve.__name__}-{name}": partial(lambda curve, protocol, c: astuple(curve(
           c.score, c.images, MAPS, black=BLACK, protocol=protocol,
       )), curve, protocol)
       for curve in (metrics.deletion, metrics.insertion) for name, protocol in PROTOCOLS.items()},
    **{call.replace(" ", "-"): partial(lambda call, c: getattr(metrics, call[0])(
           *(getattr(c, one) for one in call[1:])), call.split()) for call in (
        "spearman rounded maps", "sparseness maps", "complexity maps", "threshold_iou maps masks",
        "pointing_game rounded masks", "matched_area_iou maps masks", "concentration maps masks",
        "noisy_linear_imputation images masks")},
    "box_effects": partial(boxes, lambda effects, _: effects, reference="black", output="logit"),
    "box_correlation": partial(boxes, metrics.box_correlation),
    "infidelity": partial(boxes, metrics.scale_optimised_infidelity),
    "sensitivity": lambda c: metrics.max_sensitivity(partial(gradient, c.model), c.images),
    "accuracy": lambda c: astuple(metrics.diffid(c.model, c.images, MAPS, CLASSES)),
    "retention": lambda c: astuple(metrics.diffid(
        c.model, c.images, MAPS, CLASSES, unit="pixel", measure="retention")),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_same_as_on_the_cpu(call: Callable[[Any], Any]) -> None:
    assert_same(call, atol=1e-5)


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_randomisation(order: str) -> None:
    c = case(DEVICE)
    before = [value.clone() for value in c.model.state_dict().values()]
    found = metrics.model_randomisation(lambda m: gradient(m, c.images), c.model, order=order)
    assert found.similarity.device.type == DEVICE
    assert float(found.similarity.mean(0).min()) < 0.99
    assert all(map(torch.equal, before, c.model.state_dict().values()))


@pytest.mark.parametrize("gradients", [False, True], ids=["features", "gradients"])
def test_ranking(gradients: bool, tmp_path: Path) -> None:
    """Trained on the GPU and read back to either device, a network ranks alike there."""
    c, images = case(DEVICE), ranking.DatasetImages(rand(6, *SHAPE, seed=4).float(), SHAPE)
    config = ranking.NetworkConfig(4, SHAPE, gradients=gradients)
    settings = ranking.TrainingConfig(3, 2, grids=(4,), objective=STEPS["objective"])
    with torch.random.fork_rng():
        network = ranking.build_network(config, c.model)
    result = ranking.train_explainer(
        c.model, network, images, settings, tmp_path, space=SPACE, held_out=images, progress=False
    )
    assert {p.device.type for part in (network, c.model) for p in part.parameters()} == {DEVICE}
    for steps, how in ((0, "pixels"), (2, "pixels"), (2, "decoder")):
        maps = []
        for c in map(case, ("cpu", DEVICE)):
            with torch.random.fork_rng():
                network = ranking.load_network(result.path, c.model)
            explainer = ranking.RankingExplainer(c.model, network, space=SPACE)
            options: dict[str, Any] = {"refinement_steps": steps, "refine": how, **STEPS}
            maps.append(explainer.attribute(c.images, CLASSES, **options))
            assert maps[-1].device.type == c.device
        assert float(metrics.spearman(*(one.cpu() for one in maps)).min()) > 0.95
