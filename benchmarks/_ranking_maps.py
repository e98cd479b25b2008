"""The maps that a trained ranking explainer is compared with, and its own."""

from collections.abc import Sequence

import torch
from captum.attr import InputXGradient, IntegratedGradients
from pytorch_grad_cam import LayerCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from benchmarks._ranking_subjects import Subject
from benchmarks._rollout import attention_rollout
from usu_captum import ForwardScore, LayerGradCam
from usu_captum.ranking import RankingExplainer, RankingNetwork
from usu_cli.evaluate._rise import rise
from usu_gradcam import reshape_transform_for

REFERENCES = ("black", "mean", "blur")
REFINEMENTS = (3, 5)
RISE_MASKS = 500
PASSES = {
    "ranking": "one forward",
    "Grad-CAM bilinear": "one",
    "LayerCAM": "one",
    "input x gradient": "one",
    "attention rollout": "one forward",
}
"""Methods of a single pass of the classifier, forward or forward and backward."""


def first_class(subject: Subject, image: Tensor) -> int:
    """Return the class that the classifier finds likeliest for one image (1, C, H, W)."""
    with torch.no_grad():
        return int(subject.model(image).argmax(1))


def explain(
    subject: Subject, network: RankingNetwork, image: Tensor, target: int
) -> dict[str, Tensor]:
    """Explain one image (1, C, H, W) with every method; maps (1, 1, H, W) or (1, H, W)."""
    return {
        **refined_maps(subject, network, image, target),
        **single_pass_maps(subject, image, target),
        **many_pass_maps(subject, image, target),
    }


def refined_maps(
    subject: Subject,
    network: RankingNetwork,
    image: Tensor,
    target: int,
    refinements: Sequence[int] = REFINEMENTS,
) -> dict[str, Tensor]:
    """Return the explainer's own map, and its refinements by so many steps."""
    explainer = RankingExplainer(subject.model, network, space=subject.space)
    maps = {"ranking": explainer.attribute(image, target)}
    for steps in refinements:
        maps[f"ranking T={steps}"] = explainer.attribute(
            image,
            target,
            refinement_steps=steps,
            references=REFERENCES,
            grids=subject.refinement_grids,
            objective=subject.refinement,
            learning_rate=0.2,
        )
    return maps


def single_pass_maps(subject: Subject, image: Tensor, target: int) -> dict[str, Tensor]:
    """Return the maps that cost the classifier one pass, forward and backward."""
    model = subject.model
    layer = model.get_submodule(subject.layer)
    grad_cam = LayerGradCam(model, layer)
    with LayerCAM(
        model=model, target_layers=[layer], reshape_transform=reshape_transform_for(model)
    ) as layer_cam:
        found = layer_cam(input_tensor=image, targets=[ClassifierOutputTarget(target)])
    inputs = image.clone().requires_grad_()
    maps = {
        "Grad-CAM bilinear": grad_cam.attribute(
            image, target=target, upsampler="bilinear", relu_attributions=True
        ).detach(),
        "LayerCAM": torch.from_numpy(found).to(image.device),
        "input x gradient": InputXGradient(model).attribute(inputs, target=target).sum(1).detach(),
    }
    if isinstance(model, VisionTransformer):
        maps["attention rollout"] = attention_rollout(model, image)
    return maps


def many_pass_maps(subject: Subject, image: Tensor, target: int) -> dict[str, Tensor]:
    """Return the maps that cost the classifier fifty passes and more."""
    model = subject.model
    grad_cam = LayerGradCam(model, model.get_submodule(subject.layer))
    fill = subject.space.mean_colour(image)
    return {
        "Grad-CAM usu": grad_cam.attribute(
            image, target=target, upsampler="usu", relu_attributions=True
        ).detach(),
        "IG": integrated_gradients(subject, image, target),
        "RISE": rise(ForwardScore(model, target), image, RISE_MASKS, fill=fill),
    }


def integrated_gradients(subject: Subject, image: Tensor, target: int) -> Tensor:
    """Return 50 steps from the mean colour, summed over channels: (1, H, W)."""
    found: Tensor = IntegratedGradients(subject.model).attribute(
        image, target=target, n_steps=50, method="gausslegendre", internal_batch_size=50
    )
    return found.sum(1).detach()
