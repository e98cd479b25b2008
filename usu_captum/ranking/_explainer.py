"""The attribution: one forward pass of a ranking network, and refinement if asked for."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor

from usu_captum._image_space import ImageSpace
from usu_captum._models import evaluating, in_its_dtype
from usu_captum._score import argument_tuple, follow
from usu_captum.ranking._network import Encoded, RankingNetwork
from usu_captum.ranking._objective import RankingObjective
from usu_captum.ranking._refine import GRIDS, NAMES, refine, refine_with
from usu_captum.ranking._refine_inputs import as_targets, stack_references
from usu_core._checks import check_choice, check_count, check_finite, check_float_tensor

REFINE = ("pixels", "decoder")
RATES = {"pixels": 0.1, "decoder": 1e-4}


class RankingExplainer(Attribution):
    """Rank the pixels of an image by a network trained for the classifier.

    One pass of the network gives the order in which deletion and insertion should take the
    pixels. Values are ranking scores, higher for more important: neither mass nor density, so
    sums and means of them say nothing. Works inside ``NoiseTunnel`` and ``Upsampled``, which
    returns maps of the image's size as they are.

    "Learn to Rank: Visual Attribution by Learning Importance Ranking".

    Args:
        forward_func: The classifier: images (B, C, H, W) to logits (B, classes).
        network: Trained for it; see :func:`train_explainer` and :func:`load_network`.
        space: Where the images live; refinement needs it for ``"black"`` and ``"mean"``.

    Raises:
        TypeError: If ``network`` is no ranking network.

    Example:
        >>> from torch import nn
        >>> from usu_captum.ranking import NetworkConfig, build_network
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
        >>> network = build_network(NetworkConfig(2, (1, 8, 8)), net)
        >>> explainer = RankingExplainer(net, network)
        >>> explainer.attribute(torch.rand(3, 1, 8, 8), target=1).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        network: RankingNetwork,
        *,
        space: ImageSpace | None = None,
    ) -> None:
        if not isinstance(network, RankingNetwork):
            raise TypeError(
                f"network must be a RankingNetwork, got {type(network).__name__}. Try "
                "build_network(config, classifier), or load_network(path, classifier)."
            )
        Attribution.__init__(self, forward_func)
        self.network = network
        self.space = space

    @property
    def multiplies_by_inputs(self) -> bool:
        """Scores are not multiplied by the input."""
        return False

    @property
    def is_gradient_method(self) -> bool:
        """Whether the network reads gradients; refinement always takes them."""
        return self.network.config.gradients

    def has_convergence_delta(self) -> bool:
        """An order has no delta."""
        return False

    @log_usage(part_of_slo=True)  # type: ignore[untyped-decorator]
    def attribute(
        self,
        inputs: Any,
        target: int | Sequence[int] | Tensor | None = None,
        additional_forward_args: Any = None,
        *,
        refinement_steps: int = 0,
        refine: str = "pixels",
        references: str | Tensor | Sequence[str | Tensor] = NAMES,
        grids: Sequence[int] = GRIDS,
        objective: RankingObjective | None = None,
        learning_rate: float | None = None,
    ) -> Any:
        """Rank the pixels of images.

        Args:
            inputs: (B, C, H, W) of the shape the network was made for, or a tuple of one; they are
                brought into the classifier's dtype.
            target: The class to explain: an integer, or a list or tensor with one per image.
            additional_forward_args: Passed on to the classifier in refinement.
            refinement_steps: Gradient steps on each image's own deletion and insertion; the best
                iterate is returned. 0 for a single pass.
            refine: ``"pixels"`` steps the map itself, ``"decoder"`` the decoder's weights, image
                by image and on a copy of their values.
            references: What deleted pixels become, for refinement; see :func:`refine`.
            grids: The grids of the steps, likewise.
            objective: What refinement descends, likewise.
            learning_rate: 0.1 standard deviations of the map for pixels, 1e-4 for weights.

        Returns:
            (B, 1, H, W), or a tuple of one if a tuple was given.

        Raises:
            TypeError: If inputs or target are of another type.
            ValueError: If they have another shape or are not finite, or the target is missing or no
                class.

        Cost:
            One pass of the network. Each refinement step adds the passes of :func:`refine`.
        """
        images, as_tuple = _single(inputs)
        self._check_shape(images)
        targets = self._targets(target, images)
        check_count("refinement_steps", refinement_steps, 0)
        check_choice("refine", refine, REFINE)
        check_finite("inputs", images)
        images = in_its_dtype(self.forward_func, images.detach())
        options: dict[str, Any] = {
            "n_steps": refinement_steps,
            "objective": objective,
            "grids": grids,
            "learning_rate": RATES[refine] if learning_rate is None else learning_rate,
            "additional_forward_args": additional_forward_args,
        }
        with evaluating(self.network):
            if refinement_steps == 0:
                with torch.no_grad():
                    maps = self.network(images, targets)
            elif refine == "pixels":
                maps = self._refine_pixels(images, targets, references, options)
            else:
                # Copies of tensors made in inference mode can be differentiated outside it.
                with torch.inference_mode(False):
                    own = images.clone(), targets.clone()
                    maps = self._refine_decoder(*own, references, options)
        return (maps,) if as_tuple else maps

    def attribute_future(self) -> None:
        """Not implemented, as for most of Captum."""
        raise NotImplementedError("attribute_future is not implemented for RankingExplainer.")

    def _refine_pixels(
        self, images: Tensor, targets: Tensor, references: Any, options: dict[str, Any]
    ) -> Tensor:
        with torch.no_grad():
            start = self.network(images, targets)
        return refine(
            self.forward_func,
            images,
            start,
            target=targets,
            references=references,
            space=self.space,
            **options,
        ).maps

    def _refine_decoder(
        self, images: Tensor, targets: Tensor, references: Any, options: dict[str, Any]
    ) -> Tensor:
        stacked = stack_references(images, references, self.space)
        weights = [*self.network.decoder.parameters()]
        maps = []
        for i in range(len(images)):
            own = slice(i, i + 1)
            with torch.no_grad():
                encoded = self.network.encode(images[own], targets[own])

            def make(own: slice = own, encoded: Encoded = encoded) -> Tensor:
                return self.network.decode(encoded, targets[own])

            example = torch.tensor([i])
            args = tuple(
                follow(arg, example, len(images))
                for arg in argument_tuple(options["additional_forward_args"])
            )
            maps.append(
                refine_with(
                    make,
                    weights,
                    self.forward_func,
                    images[own],
                    targets=targets[own],
                    references=stacked[:, own],
                    **{**options, "additional_forward_args": args},
                ).maps
            )
        return torch.cat(maps)

    def _check_shape(self, images: Tensor) -> None:
        wanted = self.network.config.input_shape
        if images.dim() != 4 or tuple(images.shape[1:]) != wanted or len(images) == 0:
            raise ValueError(
                f"inputs must have shape (B, {', '.join(map(str, wanted))}), as the network was "
                f"made for, got {tuple(images.shape)}. Try resizing, or training at that size."
            )

    def _targets(self, target: Any, images: Tensor) -> Tensor:
        if target is None:
            raise ValueError(
                "target must name the class to explain, got None. Try target=model(x).argmax(1)."
            )
        targets = as_targets(target, images)
        if targets.dim() != 1:
            raise ValueError(
                f"target must be one class per image, got shape {tuple(targets.shape)}."
            )
        classes = self.network.config.classes
        if int(targets.min()) < 0 or int(targets.max()) >= classes:
            raise ValueError(
                f"target must lie in [0, {classes - 1}], got {sorted(set(targets.tolist()))}."
            )
        return targets


def _single(inputs: Any) -> tuple[Tensor, bool]:
    several = inputs if isinstance(inputs, tuple) else (inputs,)
    if len(several) != 1:
        raise ValueError(f"inputs must be one tensor of images, got {len(several)} inputs.")
    return check_float_tensor("inputs", several[0]), isinstance(inputs, tuple)
