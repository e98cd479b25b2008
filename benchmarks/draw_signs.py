"""Draw what ``negative=`` does to cells below zero: ``python -m benchmarks.draw_signs``."""

import matplotlib.pyplot as plt
import torch

from benchmarks._common import ROOT
from usu_core import CellGrid, usu

PICTURE = ROOT / "docs" / "images" / "signs.png"


def main() -> None:
    """Redistribute one positive and one negative cell over a slope of scores."""
    cells = torch.tensor([[[1.0, -1.0]]])
    scores = torch.linspace(0, 1, 32).expand(1, 32, 32).repeat(1, 1, 2)
    maps = {
        "cells": CellGrid.even((1, 2), (32, 64)).expand(cells),
        "negative='same'": usu(cells, scores, temperature=0.5),
        "negative='invert'": usu(cells, scores, temperature=0.5, negative="invert"),
    }
    figure, axes = plt.subplots(1, 4, figsize=(12, 2.2), layout="constrained")
    axes[0].imshow(scores[0], cmap="viridis", vmin=0, vmax=1)
    axes[0].set_title("scores")
    for axis, (name, fine) in zip(axes[1:], maps.items(), strict=True):
        shown = axis.imshow(fine[0], cmap="RdBu_r", vmin=-2.4, vmax=2.4)
        axis.set_title(name)
    for axis in axes:
        axis.axis("off")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="density")
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
    print(f"drawn: {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
