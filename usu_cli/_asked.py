"""The classifier and the layer that a command line asks for."""

from dataclasses import replace

import torch
from torch import nn

from usu_captum import default_layer
from usu_cli._classes import read_class_names
from usu_cli._errors import in_one_line, unknown
from usu_cli._models import Classifier, load_classifier
from usu_cli._options import ModelOptions


def classifier_as_asked(options: ModelOptions) -> Classifier:
    """Load a classifier, and put what a person gave in place of its own names and preprocessing.

    Raises:
        UsageError: If anything named does not exist or does not fit.
    """
    loaded = load_classifier(
        options.model, arch=options.arch, weights=options.weights, size=options.size
    )
    classes = loaded.classes
    if options.classes is not None:
        classes = read_class_names(options.classes, loaded.outputs)
    look = loaded.preprocessing.changed(mean=options.mean, std=options.std)
    return replace(loaded, preprocessing=look, classes=classes)


def to_device(model: nn.Module) -> torch.device:
    """Move a model to the GPU, if there is one; of several, to this process's own."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    return device


def find_layer(classifier: Classifier, name: str | None) -> tuple[str, nn.Module]:
    """Return the layer of a name, or the one that Grad-CAM is usually taken from.

    Raises:
        UsageError: If there is none.
    """
    if name is None:
        size = classifier.preprocessing.size
        with in_one_line(classifier.name, "give --layer NAME"):
            return default_layer(classifier.model, torch.zeros(1, 3, size, size))
    layers = {key: module for key, module in classifier.model.named_modules() if key}
    if name not in layers:
        raise unknown("layer", name, layers)
    return name, layers[name]
