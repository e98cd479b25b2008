"""Draw the pictures of docs/gradcam.md from the shapes and the network of ``usu demo``.

python benchmarks/draw_gradcam.py
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import usu_gradcam
from usu_cli._shapes import CLASSES, draw_shapes, load_shapes_cnn
from usu_core import USU

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
SEED = 7
COLUMNS: dict[str, dict[str, Any]] = {
    "pytorch-grad-cam": {"upsampler": None},
    "one import: usu": {"upsampler": "usu"},
    "usu-fast": {"upsampler": "usu-fast"},
    "iwmr-mass": {"upsampler": "iwmr-mass"},
}
SHARP = USU(temperature=0.1)
SCALINGS: dict[str, dict[str, Any]] = {
    "temperature 0.1, robust": {"upsampler": SHARP},
    "temperature 0.1, min-max": {"upsampler": SHARP, "scaling": "min-max"},
}


def main() -> None:
    """Write both pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    draw(COLUMNS, IMAGES / "gradcam-upsamplers.png")
    draw(SCALINGS, IMAGES / "gradcam-scalings.png")


def draw(columns: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw one row per shape: the picture, and the map each choice gives on top of it."""
    model = load_shapes_cnn()
    labels = np.arange(3)
    shapes = draw_shapes(labels, np.random.default_rng(SEED))
    images = torch.from_numpy(shapes.images)
    targets = [ClassifierOutputTarget(int(label)) for label in labels]
    rgb = np.repeat(shapes.images[:, 0, :, :, None], 3, axis=3)
    shown: dict[str, list[Any]] = {"picture": list((255 * rgb).astype(np.uint8))}
    for title, options in columns.items():
        # The layer in front of the classifier: 4 by 4 cells of 56 by 56 pixels.
        with usu_gradcam.GradCAM(model, [model.pool], **options) as cam:
            maps = cam(images, targets)
        pairs = zip(rgb, maps, strict=True)
        shown[title] = [show_cam_on_image(one, cam_map, use_rgb=True) for one, cam_map in pairs]
    figure = Figure(figsize=(1.9 * len(shown), 6), layout="constrained")
    axes: Any = figure.subplots(3, len(shown))
    for column, (title, pictures) in enumerate(shown.items()):
        axes[0, column].set_title(title, fontsize=9)
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture)
            axes[row, column].set(xticks=[], yticks=[])
    for row, label in enumerate(CLASSES):
        axes[row, 0].set_ylabel(label, fontsize=9)
    figure.savefig(path, dpi=90, metadata={"Software": None})


if __name__ == "__main__":
    main()
