"""Maps made again: of a changed image, or by a changed model."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor, nn

from usu_cli._errors import UsageError
from usu_cli._maps import Scored
from usu_cli.evaluate._maps import AS_IS, FineMap, fine_maps
from usu_cli.evaluate._sources import Method, Subject, explain
from usu_core import AnyUpsampler


@dataclass(frozen=True)
class Again:
    """How chosen maps of one image were made, to be done again.

    Args:
        model: What they explain; a metric may change it in place, if it puts it back.
        make: From an image (1, C, H, W) to its maps (N, H, W), by the model as it is at the call.
            The class stays, but for methods that choose it themselves.
    """

    model: nn.Module
    make: Callable[[Tensor], Tensor]


class Repeats:
    """Makes maps of one image again.

    A metric makes the same changes for every method in turn, so the scores that upsamplers need
    are found once for each change.

    Args:
        subject: The image.
        model: What is explained.
        methods: How, by name.
        upsamplers: What brings coarse maps to the image's size, by name.
    """

    def __init__(
        self,
        subject: Subject,
        model: nn.Module,
        methods: Mapping[str, Method],
        upsamplers: Mapping[str, AnyUpsampler],
    ) -> None:
        self._subject, self._model = subject, model
        self._methods, self._upsamplers = methods, upsamplers
        self._scored: defaultdict[tuple[str, int], Scored] = defaultdict(dict)

    def of(self, metric: str, maps: Sequence[FineMap]) -> Again:
        """Return how to make ``maps``, all of one method, again.

        Args:
            metric: Its n-th call meets the same image and model for every method.
            maps: The maps.
        """
        calls = count()
        method = maps[0].method
        ways = [m.upsampler for m in maps]
        upsamplers = {way: self._upsamplers[way] for way in ways if way != AS_IS}

        def make(inputs: Tensor) -> Tensor:
            scored = self._scored[metric, next(calls)]
            subject = replace(self._subject, inputs=inputs)
            try:
                explanation = explain(method, self._methods[method], subject)
            except UsageError as error:  # it could explain the image as it was
                raise ValueError(str(error)) from error
            made = fine_maps(method, explanation, subject, upsamplers, scored)
            return torch.stack([m.values for m in made])

        return Again(self._model, make)
