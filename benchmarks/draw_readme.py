"""Draw the picture of the README: ``python -m benchmarks.draw_readme``.

Runs ``usu explain`` on the coffee cup of scikit-image (by Rachel Michetti, CC0) with the ResNet-18
of the data folder, and keeps its picture.
"""

import shutil
import tempfile
from pathlib import Path

import skimage.data
from PIL import Image

from benchmarks._common import ROOT, data_folder
from usu_cli import main as usu

PICTURE = ROOT / "docs" / "images" / "espresso.png"


def main() -> None:
    """Explain the cup and copy the picture."""
    weights = data_folder() / "imagenet" / "resnet18.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        cup = Path(folder) / "coffee.png"
        Image.fromarray(skimage.data.coffee()).save(cup)
        out = Path(folder) / "report"
        model = ["--model", "torchvision:resnet18", "--weights", str(weights)]
        usu(["explain", str(cup), *model, "--out", str(out)])
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(next(out.glob("*coffee.png")), PICTURE)
    print(f"drawn: {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
