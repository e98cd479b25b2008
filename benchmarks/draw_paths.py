"""Draw the pictures of docs/paths.md: ``python -m benchmarks.draw_paths``.

Needs the weights of a ResNet-18 in the data folder. The photograph is scikit-image's Chelsea (CC0).
For every method, points along its path and the map it gives: sums over channels, signed.
"""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from benchmarks._common import ROOT, load_model
from benchmarks._patch_pca import fit_patch_pca
from benchmarks.draw_captum import chelsea
from usu_captum import IMAGENET
from usu_captum.paths import (
    SAMP,
    BlurIG,
    GuidedIG,
    IntegratedGradients,
    ManifoldGuidedIG,
    SAMPPlusPlus,
    SpectralIG,
)

PICTURE = ROOT / "docs" / "images" / "paths.png"
SHOWN_POINTS = (0.0, 0.25, 0.5, 0.75, 1.0)
STEPS = 64


class Recorder:
    """A model that remembers the images it was asked about."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> Tensor:
        """Run the model."""
        self.seen += [image.detach().clone() for image in images]
        result: Tensor = self.model(images)
        return result


def main() -> None:
    """Attribute with every method, and draw one row for each."""
    model, _ = load_model("resnet18")
    _, image = chelsea()
    target = int(model(image).argmax())
    coder = fit_patch_pca(torch.cat((image, image.flip(3))), 16)
    common: dict[str, Any] = {"objective": "probability", "space": IMAGENET}
    black: dict[str, Any] = {"baselines": "black", "n_steps": STEPS}
    rows: list[tuple[str, Any, dict[str, Any]]] = [
        ("IntegratedGradients", lambda f: IntegratedGradients(f, **common), black),
        ("BlurIG", lambda f: BlurIG(f, objective="probability"), {"n_steps": STEPS}),
        ("GuidedIG", lambda f: GuidedIG(f, **common), black),
        ("SpectralIG", lambda f: SpectralIG(f, **common), black),
        ("ManifoldGuidedIG", lambda f: ManifoldGuidedIG(f, coder, **common), black),
        ("SAMP, deletion", lambda f: SAMP(f, **common), {"directions": "deletion"}),
        ("SAMP++, insertion", lambda f: SAMPPlusPlus(f, **common), {"directions": "insertion"}),
    ]
    figure, axes = plt.subplots(
        len(rows), len(SHOWN_POINTS) + 1, figsize=(11, 1.85 * len(rows)), layout="constrained"
    )
    for row, (name, build, arguments) in zip(axes, rows, strict=True):
        recorder = Recorder(model)
        attribution = build(recorder).attribute(image, target=target, **arguments)
        for axis, share in zip(row, SHOWN_POINTS, strict=False):
            axis.imshow(_pixels(recorder.seen[round(share * (len(recorder.seen) - 1))]))
        values = attribution.sum(1)[0].numpy()
        limit = np.quantile(np.abs(values), 0.995)
        row[-1].imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
        row[0].set_ylabel(name, fontsize=9)
    for axis, title in zip(axes[0], ("start", "25 %", "50 %", "75 %", "end", "map"), strict=True):
        axis.set_title(title)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(PICTURE, dpi=80)
    print(f"drawn: {PICTURE.relative_to(ROOT)}")


def _pixels(image: Tensor) -> Any:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    return (image * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


if __name__ == "__main__":
    main()
