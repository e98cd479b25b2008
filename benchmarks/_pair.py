"""PAIR's ``saliency`` as its users call it: NumPy images with channels last, one at a time."""

import importlib
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def pair_maps(
    name: str, model: nn.Module, images: Tensor, targets: Tensor, **arguments: Any
) -> Tensor:
    """Explain image by image with PAIR's class of that name, as its users do."""
    pair: Any = importlib.import_module("saliency.core")
    if name == "GuidedIG":
        _mend(sys.modules["saliency.core.guided_ig"])
    rows = []
    for image, target in zip(images, targets.tolist(), strict=True):

        def call(
            values: Any,
            call_model_args: Any = None,
            expected_keys: Any = None,
            column: int = target,
        ) -> dict[str, Any]:
            points = torch.from_numpy(np.asarray(values)).to(images.dtype).permute(0, 3, 1, 2)
            points = points.detach().requires_grad_()
            (found,) = torch.autograd.grad(model(points)[:, column].sum(), points)
            return {pair.INPUT_OUTPUT_GRADIENTS: found.permute(0, 2, 3, 1).numpy()}

        value = image.permute(1, 2, 0).double().numpy()
        more = {"x_baseline": np.zeros_like(value)} if name == "GuidedIG" else {}
        rows.append(getattr(pair, name)().GetMask(value, call, **more, **arguments))
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)


def _mend(module: Any) -> None:
    """Give the module a NumPy whose quantile takes the argument that NumPy 2 dropped."""
    if isinstance(module.np, _OldQuantile):
        return
    module.np = _OldQuantile()


class _OldQuantile:
    """NumPy, but for one argument's name."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def quantile(self, values: Any, share: float, interpolation: Any) -> Any:
        return np.quantile(values, share, method=interpolation)
