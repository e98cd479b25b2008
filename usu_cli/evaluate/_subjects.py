"""From a picture to what is explained: the model's input, the class, its score."""

import zlib
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from usu_captum import ForwardScore, ImageSpace
from usu_cli._errors import UsageError, in_one_line
from usu_cli._images import read_image
from usu_cli._models import Classifier
from usu_cli.evaluate._items import Item, read_mask
from usu_cli.evaluate._plan import Plan
from usu_cli.evaluate._sources import Method, Setting, Subject, build_methods
from usu_core._devices import device_of


class UnreadableError(UsageError):
    """An item whose picture or mask cannot be read."""


def make_methods(classifier: Classifier, plan: Plan) -> dict[str, Method]:
    """Return the plan's methods for a model, by name.

    Raises:
        UsageError: If a name is unknown.
    """
    layer = dict(classifier.model.named_modules())[plan.layer]
    return build_methods(
        plan.methods,
        Setting(classifier.model, layer, _space(classifier), plan.evaluations, plan.batch_size),
    )


def make_subject(item: Item, target: int | None, classifier: Classifier, seed: int) -> Subject:
    """Read an item, and ask the model for the class if none is given.

    Args:
        item: The image.
        target: The class, or ``None`` for the model's first.
        classifier: The model; it decides the device.
        seed: Of the run; the subject's own depends on the item's name too.

    Raises:
        UnreadableError: If the picture or its mask cannot be read.
    """
    look = classifier.preprocessing
    device = device_of([classifier.model])
    mask = None
    try:
        image = read_image(item.path)
        if item.mask is not None:
            grey = np.asarray(look.crop(read_mask(item.mask, image.size)))
            mask = torch.from_numpy(grey >= 128).to(device)
    except UsageError as error:
        raise UnreadableError(str(error)) from error
    inputs = look.normalise(look.crop(image)).to(device)
    with in_one_line(f"{classifier.name} failed on {item.name!r}"), torch.no_grad():
        first = int(classifier.model(inputs).argmax(1))
    target = first if target is None else target
    return Subject(
        inputs=inputs,
        target=target,
        score=ForwardScore(classifier.model, target),
        black=_space(classifier).black(inputs[..., :1, :1])[0],
        seed=seed + zlib.crc32(item.name.encode()),
        mask=mask,
        first=target == first,
    )


def noise_like(subject: Subject, model: nn.Module) -> Subject:
    """Return a picture of noise of the same size, its class the model's first: a harmless one."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(subject.inputs.shape, generator=generator).to(subject.inputs)
    with torch.no_grad():
        first = int(model(inputs).argmax(1))
    score = ForwardScore(model, first)
    return replace(subject, inputs=inputs, target=first, score=score, mask=None, first=True)


def _space(classifier: Classifier) -> ImageSpace:
    return ImageSpace(classifier.preprocessing.mean, classifier.preprocessing.std)
