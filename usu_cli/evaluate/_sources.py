"""Attribution methods by name, as functions from an image to maps, coarse or fine."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import usu_captum
import usu_gradcam
from usu_captum import METHODS, ImageSpace
from usu_cli._cells import coarse_map
from usu_cli._errors import in_one_line, unknown
from usu_cli.evaluate._rise import rise
from usu_core import Slic
from usu_core.scoring import ModelScore, fill_images

LAYER = (
    "LayerGradCam",
    "LayerGradientXActivation",
    "LayerActivation",
    "LayerConductance",
    "LayerIntegratedGradients",
    "InternalInfluence",
    "LayerDeepLift",
)
STEPPED = ("LayerConductance", "LayerIntegratedGradients", "InternalInfluence")
PATHS = ("IntegratedGradients", "BlurIG", "GuidedIG", "SpectralIG", "SAMP", "SAMPPlusPlus")
PERTURBATIONS = ("RISE", "Lime", "KernelShap", "ShapleyValueSampling", "Occlusion")
# Those that wrap another CAM, or give no map of one class.
_OTHER_CAMS = ("DeepFeatureFactorization", "RefineCAM", "SESS")
CAMS = tuple(name for name in usu_gradcam.CAMS if name not in _OTHER_CAMS)
SEGMENTS = 64


@dataclass(frozen=True)
class Subject:
    """One image as the model sees it, and what is to be explained.

    Args:
        inputs: (1, C, H, W).
        target: The class.
        score: Its score.
        black: The value of black in the model's space, (C, 1, 1).
        seed: Of what is random about this image; the same in every run.
        mask: (H, W) bool, the object, if known.
        first: Whether the class is the model's first.
    """

    inputs: Tensor
    target: int
    score: ModelScore
    black: Tensor
    seed: int
    mask: Tensor | None = None
    first: bool = True


@dataclass(frozen=True)
class Explanation:
    """Coarse maps, to be upsampled and added to a fine one; or a fine map alone.

    Args:
        cells: Each (1, 1, h, w), density.
        fine: (1, H, W), or ``None`` for zeros.
        evaluations: Model evaluations spent by a perturbation method.
    """

    cells: tuple[Tensor, ...] = ()
    fine: Tensor | None = None
    evaluations: int = 0


Method = Callable[[Subject], Explanation]


@dataclass(frozen=True)
class Setting:
    """What methods have in common: the model, its layer, the inputs' space, and bounds."""

    model: nn.Module
    layer: nn.Module
    space: ImageSpace
    evaluations: int
    batch_size: int


def known_methods() -> tuple[str, ...]:
    """Return the names that ``--methods`` takes.

    Those of ``usu_captum.METHODS`` that explain a layer by default settings, path methods,
    perturbation methods at a given number of model evaluations, the CAMs of the installed
    pytorch-grad-cam, and ``random``.
    """
    captum = [name for name in (*LAYER, *PATHS) if name in METHODS]
    return (*captum, *PERTURBATIONS, *CAMS, "random")


def is_coarse(name: str) -> bool:
    """Whether a method gives coarse maps, which have to be upsampled."""
    return name in LAYER or name in CAMS


def build_methods(names: Iterable[str], setting: Setting) -> dict[str, Method]:
    """Return a function per name.

    A method that the model does not allow raises when called: see :func:`explain`.

    Raises:
        UsageError: If a name is unknown.
    """
    makers: Mapping[str, Callable[..., Explanation]] = {
        **dict.fromkeys(LAYER, _layer_map),
        **dict.fromkeys(PATHS, _path_map),
        **dict.fromkeys(CAMS, _cam),
        **dict.fromkeys(PERTURBATIONS[1:], _patches),
        "RISE": _rise,
        "random": _random,
    }
    known = known_methods()
    for name in names:
        if name not in known:
            raise unknown("method", name, known)
    return {name: partial(makers[name], name, setting) for name in names}


def explain(name: str, method: Method, subject: Subject) -> Explanation:
    """Run a method, leaving no random state behind.

    Raises:
        UsageError: If the model, or the class, is none for this method.
    """
    device = subject.inputs.device
    with (
        in_one_line(f"method {name!r} cannot explain this"),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        torch.manual_seed(subject.seed)
        return method(subject)


def _layer_map(name: str, setting: Setting, subject: Subject) -> Explanation:
    arguments: dict[str, Any] = {"target": subject.target}
    if name == "LayerGradCam":
        arguments["relu_attributions"] = True
    if name in STEPPED:
        arguments["internal_batch_size"] = setting.batch_size
    method: Any = METHODS[name](setting.model, setting.layer)
    return Explanation(cells=(coarse_map(method, subject.inputs, **arguments),))


def _path_map(name: str, setting: Setting, subject: Subject) -> Explanation:
    arguments: dict[str, Any] = {"target": subject.target}
    if name in ("IntegratedGradients", "GuidedIG", "SpectralIG"):
        arguments["baselines"] = "black"
    where = {} if name == "BlurIG" else {"space": setting.space}
    method: Any = METHODS[name](setting.model, **where)
    found: Tensor = method.attribute(subject.inputs, **arguments)
    return Explanation(fine=found.detach().sum(1))


def _cam(name: str, setting: Setting, subject: Subject) -> Explanation:
    cells: list[Tensor] = []

    def take(given: Tensor, **_: Any) -> Tensor:
        cells.append(given.detach().clamp(min=0))  # the library's own ReLU
        return given.new_zeros(*given.shape[:2], *subject.inputs.shape[2:])

    # FinerCAM chooses by itself which classes to tell apart from the first.
    chooses = name == "FinerCAM"
    if chooses and not subject.first:
        raise ValueError("it explains the model's first class only")
    layers = [] if name == "FullGrad" else [setting.layer]
    targets = None if chooses else [ClassifierOutputTarget(subject.target)]
    with getattr(usu_gradcam, name)(setting.model, layers, upsampler=take, raw=True) as cam:
        rest = torch.from_numpy(cam(subject.inputs, targets)).to(subject.inputs.device)
    return Explanation(cells=tuple(cells), fine=rest)


def _rise(name: str, setting: Setting, subject: Subject) -> Explanation:
    found = rise(
        subject.score,
        subject.inputs,
        setting.evaluations,
        fill=_mean_colour(subject.inputs),
        seed=subject.seed,
        chunk_size=setting.batch_size,
    )
    return Explanation(fine=found, evaluations=setting.evaluations)


def _patches(name: str, setting: Setting, subject: Subject) -> Explanation:
    """Captum's perturbation methods, on patches, within the number of evaluations."""
    spend, inputs = setting.evaluations, subject.inputs
    arguments: dict[str, Any] = {
        "target": subject.target,
        "baselines": _mean_colour(inputs),
        "perturbations_per_eval": 1 if name == "ShapleyValueSampling" else setting.batch_size,
    }
    if name == "Occlusion":
        # The finest windows that can be paid for; of twice the stride, they overlap by half.
        stride, spent = next(
            (s, count)
            for s in range(1, min(inputs.shape[2:]) + 1)
            if (count := _windows(inputs, s)) <= spend or 2 * s > min(inputs.shape[2:])
        )
        arguments["strides"] = (inputs.shape[1], stride, stride)
        arguments["sliding_window_shapes"] = (inputs.shape[1], 2 * stride, 2 * stride)
    else:
        (segments,) = Slic((SEGMENTS,))(inputs)
        count = int(segments.max()) + 1
        arguments["feature_mask"] = segments[:, None]
        arguments["n_samples"] = spend
        spent = spend
        if name == "ShapleyValueSampling":
            arguments["n_samples"] = max(1, spend // count)
            arguments["perturbations_per_eval"] = min(setting.batch_size, count)
            spent = count * arguments["n_samples"]
    method: Any = getattr(usu_captum, name)(setting.model)
    with torch.no_grad():
        found: Tensor = method.attribute(inputs, **arguments)
    return Explanation(fine=found.detach().mean(1), evaluations=spent)


def _windows(inputs: Tensor, stride: int) -> int:
    """Number of windows of twice the stride; the last may reach beyond the border."""
    rows, columns = (-(-max(0, n - 2 * stride) // stride) + 1 for n in inputs.shape[2:])
    return rows * columns


def _mean_colour(inputs: Tensor) -> Tensor:
    return fill_images(inputs, "mean")


def _random(name: str, setting: Setting, subject: Subject) -> Explanation:
    size = subject.inputs.shape[2:]
    return Explanation(fine=torch.rand((1, *size)).to(subject.inputs))
