"""Draw what the command shows of an image, for the README and docs/evaluate.md.

    python -m benchmarks.draw_readme

Runs ``usu explain`` on the coffee cup of scikit-image (by Rachel Michetti, CC0) and ``usu compare``
on its cat (by Stéfan van der Walt, CC0), with the ResNet-18 of the data folder.
"""

import shutil
import tempfile
from pathlib import Path

import skimage.data
from PIL import Image

from benchmarks._common import ROOT, data_folder
from usu_cli import main as usu

PICTURES = ROOT / "docs" / "images"
COMPARED = ("--methods", "LayerGradCam,LayerCAM,Occlusion", "--upsamplers", "bilinear,usu,tilted")


def main() -> None:
    """Draw both pictures."""
    _draw(PICTURES / "espresso.png", "explain", "coffee")
    _draw(PICTURES / "compare.png", "compare", "cat", *COMPARED)


def _draw(picture: Path, command: str, name: str, *options: str) -> None:
    weights = data_folder() / "imagenet" / "resnet18.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        image, out = Path(folder) / f"{name}.png", Path(folder) / "report"
        Image.fromarray(getattr(skimage.data, name)()).save(image)
        model = ["--model", "torchvision:resnet18", "--weights", str(weights)]
        usu([command, str(image), *model, *options, "--out", str(out)])
        picture.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(next(out.glob("*.png")), picture)
    print(f"drawn: {picture.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
