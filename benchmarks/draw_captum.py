"""Draw the pictures of docs/captum.md.

Needs the weights of a ResNet-18 (torchvision) and a DeiT-tiny (timm) in the data folder:
``USU_DATA``, or ``../shared/data`` beside the repository. The photograph is scikit-image's Chelsea
(CC0), so the pictures may be published.

    python -m benchmarks.draw_captum
"""

import numpy as np
import skimage.data
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks._common import ROOT, data_folder
from usu_captum import LayerGradCam, default_layer
from usu_cli._pictures import Panel, Picture, overlay, panel_png

IMAGES = ROOT / "docs" / "images"
SHOWN = {
    "nearest": "Captum's map as it is: one value per cell",
    "bilinear": "What resizing makes of it",
    "usu": "Each cell's mass, moved within the cell",
    "iwmr-mass": "Mass moved between cells too",
}


def chelsea() -> tuple[Picture, Tensor]:
    """The photograph, cropped to its face, and as an ImageNet model sees it."""
    crop = skimage.data.chelsea()[:, 75:375]
    small = torch.nn.functional.interpolate(
        torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255,
        (224, 224), mode="bilinear", antialias=True,
    )  # fmt: skip
    mean, deviation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    image = (small - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(deviation).view(3, 1, 1)
    return np.rint(small[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8), image


def weights(name: str) -> dict[str, Tensor]:
    return {key: value.float() for key, value in load_file(data_folder() / name).items()}


def draw(name: str, title: str, model: nn.Module) -> None:
    picture, image = chelsea()
    layer_name, layer = default_layer(model, image)
    target = int(model(image).argmax())
    panels = [Panel("photograph", "Chelsea, CC0, scikit-image", picture)]
    for upsampler, caption in SHOWN.items():
        fine = LayerGradCam(model, layer).attribute(image, target=target, upsampler=upsampler)
        values = fine[0, 0].detach().clamp(min=0).numpy()
        panels.append(Panel(upsampler, caption, overlay(values, picture)))
    (IMAGES / name).write_bytes(panel_png(f"{title}, {layer_name}, class {target}", panels))
    print(IMAGES / name)


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    resnet = torchvision.models.resnet18(weights=None)
    resnet.load_state_dict(weights("imagenet/resnet18.safetensors"))
    draw("captum-chelsea.png", "LayerGradCam of ResNet-18", resnet.eval())
    deit = timm.create_model("deit_tiny_patch16_224", pretrained=False)
    deit.load_state_dict(weights("vit/deit_tiny_patch16_224.safetensors"))
    draw("captum-tokens.png", "LayerGradCam of DeiT-tiny", deit.eval())


if __name__ == "__main__":
    main()
