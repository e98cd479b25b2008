"""The maps that ``benchmarks.samp_tables`` compares, in groups that share work."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import DeepLift, LayerGradCam, Lime, NoiseTunnel, Saliency
from torch import Tensor, fx, nn
from torch.nn import functional as F

from usu_captum import ForwardScore
from usu_captum.paths import (
    SAMP,
    BlurIG,
    GuidedIG,
    IntegratedGradients,
    ManipulationPath,
    SAMPDirections,
)
from usu_cli.evaluate._rise import rise
from usu_core import Slic

STEPS = 50
SMOOTHGRAD_SAMPLES, SMOOTHGRAD_NOISE = 25, 0.15
SEGMENTS = 50
PRINTED = " (printed)"


@dataclass(frozen=True)
class Subject:
    """Images and the model that explains them.

    Attributes:
        model: To logits (B, classes).
        layer: Whose maps Grad-CAM weighs.
        images: (B, C, H, W) as the model takes them.
        targets: (B,) int64, the predicted classes.
        rise_masks: Model evaluations per image for RISE.
        lime_samples: Model evaluations per image for LIME.
    """

    model: nn.Module
    layer: nn.Module
    images: Tensor
    targets: Tensor
    rise_masks: int
    lime_samples: int


@dataclass(frozen=True)
class Explained:
    """A map, and what it should add up to where it is a mass.

    Attributes:
        map: (B, H, W).
        change: (B,), the change of the logit that the map should add up to, or ``None``.
        deletion: (B, H, W), the part that should add up to f(x) - f(0), or ``None``.
    """

    map: Tensor
    change: Tensor | None = None
    deletion: Tensor | None = None


Maps = dict[str, Explained]


def _integrated_gradients(subject: Subject) -> Maps:
    images = subject.images
    found = IntegratedGradients(subject.model).attribute(
        images, target=subject.targets, n_steps=STEPS, method="gausslegendre"
    )
    pixels = found.sum(1)
    return {"IG": Explained(pixels, _change(subject, torch.zeros_like(images)), pixels)}


def _guided(subject: Subject) -> Maps:
    images = subject.images
    found = GuidedIG(subject.model).attribute(images, target=subject.targets, n_steps=STEPS)
    pixels = found.sum(1)
    return {"Guided IG": Explained(pixels, _change(subject, torch.zeros_like(images)), pixels)}


def _blur(subject: Subject) -> Maps:
    explainer = BlurIG(subject.model)
    found = explainer.attribute(subject.images, target=subject.targets, n_steps=STEPS)
    return {"Blur IG": Explained(found.sum(1), _change(subject, explainer.start(subject.images)))}


def _smoothgrad(subject: Subject) -> Maps:
    """The mean signed gradient, summed over channels; noise of 0.15 of the image's range."""
    images, total = subject.images, torch.zeros_like(subject.images)
    for i, image in enumerate(images.split(1)):
        torch.manual_seed(0)
        total[i] = NoiseTunnel(Saliency(subject.model)).attribute(
            image,
            nt_type="smoothgrad",
            nt_samples=SMOOTHGRAD_SAMPLES,
            nt_samples_batch_size=SMOOTHGRAD_SAMPLES,
            stdevs=SMOOTHGRAD_NOISE * float(image.max() - image.min()),
            target=subject.targets[i : i + 1],
            abs=False,
        )[0]
    return {"SmoothGrad": Explained(total.sum(1))}


def _deep_lift(subject: Subject) -> Maps:
    zero = torch.zeros_like(subject.images)
    with warnings.catch_warnings():
        for message in ("Setting forward, backward hooks", "Input Tensor 0 did not already"):
            warnings.filterwarnings("ignore", message=message)
        found = DeepLift(_separate_relus(subject.model)).attribute(
            subject.images, baselines=zero, target=subject.targets
        )
    pixels = found.detach().sum(1)
    return {"DeepLIFT": Explained(pixels, _change(subject, zero), pixels)}


def _grad_cam(subject: Subject) -> Maps:
    found = LayerGradCam(subject.model, subject.layer).attribute(
        subject.images, target=subject.targets, relu_attributions=True
    )
    size = list(subject.images.shape[2:])
    return {"Grad-CAM": Explained(F.interpolate(found.detach(), size, mode="bilinear")[:, 0])}


def _rise(subject: Subject) -> Maps:
    maps = [
        rise(
            ForwardScore(subject.model, int(target)),
            image,
            subject.rise_masks,
            fill=torch.zeros_like(image),
        )
        for image, target in zip(subject.images.split(1), subject.targets, strict=True)
    ]
    return {"RISE": Explained(torch.cat(maps))}


def _lime(subject: Subject) -> Maps:
    maps = []
    (segments,) = Slic((SEGMENTS,))(subject.images)
    for i, image in enumerate(subject.images.split(1)):
        torch.manual_seed(0)
        found = Lime(subject.model).attribute(
            image,
            baselines=0,
            target=subject.targets[i : i + 1],
            feature_mask=segments[i][None, None],
            n_samples=subject.lime_samples,
            perturbations_per_eval=25,
        )
        maps.append(found.detach()[:, 0])
    return {"LIME": Explained(torch.cat(maps))}


def _random(subject: Subject) -> Maps:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((1, *subject.images.shape[2:]), generator=generator)
    return {"random": Explained(noise.repeat(len(subject.images), 1, 1))}


def _ablation(accumulate: str) -> Callable[[Subject], Maps]:
    """Tables 2 and 4: with and without the bound and momentum; each direction alone."""

    def explain(subject: Subject) -> Maps:
        suffix = PRINTED if accumulate == "momentum" else ""
        maps = {}
        for name, bound, momentum in (
            ("SAMP", None, 0.0),
            ("SAMP +MS", None, 0.5),
            ("SAMP +IC", 0.1, 0.0),
            ("SAMP++", 0.1, 0.5),
        ):
            explainer = SAMP(
                subject.model, step_bound=bound, momentum=momentum, accumulate=accumulate
            )
            paths = explainer.attribute_directions(subject.images, target=subject.targets)
            maps[name + suffix] = _both(paths)
            if name == "SAMP +IC":
                deletion, insertion = _each(paths)
                maps["deletion path" + suffix] = _one(deletion, deletes=True)
                maps["insertion path" + suffix] = _one(insertion, deletes=False)
        return maps

    return explain


def _bounds(accumulate: str) -> Callable[[Subject], Maps]:
    """Table 3: ever shorter steps, without momentum. A bound of 1/10 is SAMP +IC."""

    def explain(subject: Subject) -> Maps:
        suffix = PRINTED if accumulate == "momentum" else ""
        maps = {}
        for count in (50, 100, 200):
            explainer = SAMP(subject.model, step_bound=1 / count, accumulate=accumulate)
            paths = explainer.attribute_directions(subject.images, target=subject.targets)
            maps[f"bound 1/{count}{suffix}"] = _both(paths)
        return maps

    return explain


def _baselines(subject: Subject) -> Maps:
    """Table 6, as printed, at a bound of 1/50; blur as the second is the bound's own row."""
    images = subject.images
    generator = torch.Generator().manual_seed(0)
    seconds = {
        "zero + zero": torch.zeros_like(images),
        "zero + one": torch.ones_like(images),
        "zero + uniform": torch.rand(images[:1].shape, generator=generator),
    }
    explainer = SAMP(subject.model, step_bound=1 / 50, accumulate="momentum")
    deletion = explainer.attribute_directions(
        images, target=subject.targets, directions="deletion"
    ).deletion
    maps = {}
    for name, second in seconds.items():
        insertion = explainer.attribute_directions(
            images, target=subject.targets, insertion_baselines=second, directions="insertion"
        ).insertion
        maps[name + PRINTED] = _both(SAMPDirections(deletion, insertion))
    return maps


GROUPS: dict[str, Callable[[Subject], Maps]] = {
    "LIME": _lime,
    "Grad-CAM": _grad_cam,
    "IG": _integrated_gradients,
    "SmoothGrad": _smoothgrad,
    "DeepLIFT": _deep_lift,
    "RISE": _rise,
    "Blur IG": _blur,
    "Guided IG": _guided,
    "random": _random,
    "ablation": _ablation("gradient"),
    "ablation, printed": _ablation("momentum"),
    "bounds": _bounds("gradient"),
    "bounds, printed": _bounds("momentum"),
    "baselines": _baselines,
}
"""Name to maps. Seeds are fixed and images independent, so batches give what single ones do."""


def _each(paths: SAMPDirections) -> tuple[ManipulationPath, ManipulationPath]:
    if paths.deletion is None or paths.insertion is None:
        raise ValueError("both directions are needed")
    return paths.deletion, paths.insertion


def _one(path: ManipulationPath, *, deletes: bool) -> Explained:
    pixels = path.attribution.sum(1)
    return Explained(pixels, pixels.flatten(1).sum(1) - path.gap, pixels if deletes else None)


def _both(paths: SAMPDirections) -> Explained:
    first, second = (
        _one(path, deletes=deletes)
        for path, deletes in zip(_each(paths), (True, False), strict=True)
    )
    if first.change is None or second.change is None:
        raise ValueError("paths have changes")
    return Explained(first.map + second.map, first.change + second.change, first.map)


def _change(subject: Subject, start: Tensor) -> Tensor:
    with torch.no_grad():
        both = subject.model(torch.cat((subject.images, start)))
    logits: Tensor = both.gather(1, subject.targets.repeat(2)[:, None])[:, 0]
    count = len(subject.images)
    return logits[:count] - logits[count:]


def _separate_relus(model: nn.Module) -> nn.Module:
    """Give every call of a ReLU a module of its own, which DeepLIFT's rule needs."""
    traced: Any = fx.symbolic_trace(model)
    modules = dict(traced.named_modules())
    for number, node in enumerate(traced.graph.nodes):
        if node.op == "call_module" and isinstance(modules[node.target], nn.ReLU):
            name = f"separate_relu_{number}"
            traced.add_module(name, nn.ReLU())
            node.target = name
    traced.recompile()
    separate: nn.Module = traced.eval()
    return separate
