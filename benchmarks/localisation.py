"""Do maps lie on the object? COCO masks and VOC boxes, where the model names the right class.

    python -m benchmarks.localisation --images 30

Only objects of 2 to 60 % of the image, of a class that the model's first prediction belongs to.
Boxes are filled: a perfect map of the object does not fill its box, so VOC figures compare maps
and say little of themselves. A run that was stopped goes on.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks._common import MODELS, RESULTS
from benchmarks._grid import cams, data, plan, publish, run
from usu_cli.evaluate import Item

METRICS = ("pointing-game", "concentration", "iou")
SIDE = 256
AREA = (0.02, 0.6)


def main() -> None:
    """Measure what is missing, and publish what there is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--images", type=int, default=30, help="at most, of each set and model")
    parser.add_argument("--records", type=Path, default=RESULTS / "localisation")
    parser.add_argument("--out", type=Path, default=RESULTS / "localisation.json")
    options = parser.parse_args()
    folders = {}
    for kind, find in (("coco", coco_items), ("voc", _voc)):
        for name in MODELS:
            key = f"{kind}, {name}"
            folders[key] = options.records / kind / name
            items = find(name, options.records / "masks")[: options.images]
            if name in options.models:
                methods = cams(name) if kind == "coco" else ("GradCAM", "LayerCAM")
                chosen = plan(name, (*methods, "random"), METRICS)
                run(name, items, chosen, folders[key])
    publish(folders, ("bilinear",), options.out)


def coco_items(model: str, masks: Path) -> list[Item]:
    with np.load(data("masks", "coco_masks.npz")) as arrays:
        drawn = np.unpackbits(arrays["masks"], axis=1).reshape(-1, SIDE, SIDE)
    items = []
    for row in _rows("coco_annotations.csv", "coco_images", model):
        name = f"{Path(row['file']).stem}-{row['coco_class']}"
        mask = _write(masks / "coco" / f"{name}.png", drawn[int(row["row"])])
        items.append(Item(name, data("masks", "coco_images", row["file"]), mask=mask))
    return items


def _voc(model: str, masks: Path) -> list[Item]:
    found: dict[str, np.ndarray] = {}
    for row in _rows("voc_boxes.csv", "voc_images", model):
        drawn = found.setdefault(row["file"], np.zeros((SIDE, SIDE), np.uint8))
        left, top, right, bottom = (round(float(row[k])) for k in ("xmin", "ymin", "xmax", "ymax"))
        drawn[top:bottom, left:right] = 1
    return [
        Item(
            Path(file).stem,
            data("masks", "voc_images", file),
            mask=_write(masks / "voc" / model / f"{Path(file).stem}.png", drawn),
        )
        for file, drawn in found.items()
    ]


def _rows(table: str, images: str, model: str) -> list[dict[str, str]]:
    with data("masks", table).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [
        row
        for row in rows
        if row[f"{model}_hit"] == "1"
        and AREA[0] < float(row["area_fraction"]) < AREA[1]
        and data("masks", images, row["file"]).is_file()
    ]


def _write(path: Path, mask: np.ndarray) -> Path:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask * np.uint8(255)).save(path)
    return path


if __name__ == "__main__":
    main()
