"""Draw Figures 3, 4, 7, 8 and 9 of arXiv:2603.16067 anew: ``python -m benchmarks.draw_shapes``.

Shapes and patterns are explained by networks right for the right reasons, which are trained when
absent, and followed with the paper's temperature; photographs (of scikit-image, CC0) by the
classifiers of the data folder named by ``USU_DATA``, with the library's defaults. Every map is
scaled to its own 97th percentile; the line is the true outline.
"""

import numpy as np
import skimage.data
import torch
from skimage.transform import rescale
from torch import Tensor, nn

from benchmarks._common import ROOT, load_model
from benchmarks._shapes_maps import TEMPERATURE, coarse_first_scores, coarse_maps, truth_cells
from benchmarks._shapes_networks import load_network
from benchmarks._shapes_panels import Panel, as_array, draw_panels
from benchmarks._shapes_patterns import PATTERNS, draw_patterns
from benchmarks.shapes_tables import held_out_pictures
from usu_captum import ForwardScore, LayerGradCam, default_layer
from usu_cli._shapes import CLASSES, Shapes
from usu_core import IWMR, USU, AnyUpsampler, resolve

IMAGES = ROOT / "docs" / "images"
MASS = IWMR(TEMPERATURE, importance_temperature=TEMPERATURE)
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos")
SEED = 7  # of the patterns; none was drawn for training


def main() -> None:
    """Draw all five."""
    shapes = held_out_pictures(30)
    patterns = draw_patterns(range(len(PATTERNS)), np.random.default_rng(SEED))
    _figure_3(shapes)
    _figure_4_or_8("shapes-fig4.png", patterns, ("sine", "waves"), (("resnet18", "coffee"),))
    _figure_4_or_8(
        "shapes-fig8.png",
        patterns,
        ("zigzag", "spiral", "moire"),
        (("mobilenet_v2", "chelsea"), ("resnet50", "coffee")),
    )
    _figure_7(shapes, patterns)
    _figure_9(shapes, patterns)


def _figure_3(shapes: Shapes) -> None:
    """Different truths, one interpolated picture."""
    model, _ = load_network("rrr-cnn")
    alike = _alike(shapes)
    maps: dict[str, list[Tensor]] = {"bilinear": [], "usu": [], "truth": []}
    coarse = []
    for index in alike:
        image, mask = _image(shapes, index)
        target = int(shapes.labels[index])
        coarse.append(coarse_maps(model, image, target)["gradient"][4])
        maps["bilinear"].append(resolve("bilinear")(coarse[-1], image=image))
        sharp = coarse_first_scores(model)
        maps["usu"].append(sharp(coarse[-1], image=image, score=ForwardScore(model, target)))
        maps["truth"].append(torch.from_numpy(mask).float())
    like = {name: f"\ncorrelation {_mean_correlation(found):.2f}" for name, found in maps.items()}
    rows = []
    for place, index in enumerate(alike):
        mask = shapes.masks[index]
        fine = [maps[name][place] for name in ("bilinear", "usu")]
        rows.append(
            [
                Panel(shapes.images[index, 0], "picture"),
                *(Panel(as_array(shown), outline=mask) for shown in (coarse[place], *fine)),
                Panel(mask, "picture"),
            ]
        )
    columns = ("input", "coarse, 4 x 4", *(name + note for name, note in like.items()))
    labels = [CLASSES[shapes.labels[index]] for index in alike]
    draw_panels(rows, columns, IMAGES / "shapes-fig3.png", labels=labels)


def _figure_4_or_8(
    name: str,
    patterns: Shapes,
    chosen: tuple[str, ...],
    photographs: tuple[tuple[str, str], ...],
) -> None:
    """Patterns above, photographs below; interpolation, USU and IWMR beside each other."""
    model, _ = load_network("rrr-patterns")
    rows, labels = [], []
    for pattern in chosen:
        index = PATTERNS.index(pattern)
        image, mask = _image(patterns, index)
        cells = coarse_maps(model, image, index)["gradient"][7]
        maps = _upsampled(
            cells, image, ForwardScore(model, index), coarse_first_scores(model), MASS
        )
        rows.append(
            [
                Panel(as_array(image), "picture"),
                Panel(as_array(cells), outline=mask),
                *(Panel(as_array(fine), outline=mask) for fine in maps),
            ]
        )
        labels.append(pattern)
    for network, photograph in photographs:
        picture = _photograph(photograph)
        classifier, prepare = load_model(network)
        image = prepare(picture[None])
        cells, score = _grad_cam(classifier, image)
        maps = _upsampled(cells, image, score, resolve("usu"), resolve("iwmr-mass"))
        rows.append(
            [
                Panel(picture.permute(1, 2, 0).numpy(), "picture"),
                Panel(as_array(cells)),
                *(Panel(as_array(fine)) for fine in maps),
            ]
        )
        labels.append(f"{photograph},\n{network}")
    columns = ("input", "coarse, 7 x 7", *INTERPOLATIONS, "usu", "iwmr-mass")
    draw_panels(rows, columns, IMAGES / name, labels=labels)


def _figure_7(shapes: Shapes, patterns: Shapes) -> None:
    """What averaging a known truth to cells loses, and what it invents."""
    columns = []
    for drawn, index, lost in ((patterns, PATTERNS.index("spiral"), True), (shapes, 1, False)):
        image, mask = _image(drawn, index)
        cells = truth_cells(torch.from_numpy(mask), 7)
        fine = as_array(resolve("bilinear")(cells, image=image))
        loss, spurious = (mask - fine).clip(min=0), (fine - mask).clip(min=0)
        share = (loss if lost else spurious).sum() / mask.sum()
        columns.append(
            [
                Panel(mask, "picture"),
                Panel(as_array(image), "picture"),
                Panel(fine, outline=mask),
                Panel(as_array(cells), outline=mask),
                Panel(loss if lost else spurious, outline=mask, note=f"{share:.0%} of the truth"),
            ]
        )
    rows = [list(row) for row in zip(*columns, strict=True)]
    labels = ("truth", "input", "bilinear", "coarse, 7 x 7", "error")
    titles = ("signal loss, beta", "spurious, alpha")
    draw_panels(rows, titles, IMAGES / "shapes-fig7.png", labels=labels)


def _figure_9(shapes: Shapes, patterns: Shapes) -> None:
    """Nine configurations in every interpolation and USU."""
    networks = {
        "rrr-cnn": load_network("rrr-cnn")[0],
        "rrr-patterns": load_network("rrr-patterns")[0],
    }
    rows_of = [
        ("rrr-cnn", shapes, 0),
        ("rrr-cnn", shapes, 1),
        *(("rrr-patterns", patterns, index) for index in range(len(PATTERNS))),
        ("rrr-cnn", shapes, 2),
        ("rrr-cnn", shapes, 4),
    ]
    rows = []
    for name, drawn, index in rows_of:
        image, mask = _image(drawn, index)
        target = int(drawn.labels[index])
        cells = coarse_maps(networks[name], image, target)["gradient"][7]
        score = ForwardScore(networks[name], target)
        maps = _upsampled(cells, image, score, coarse_first_scores(networks[name]))
        rows.append(
            [
                Panel(mask, "picture"),
                Panel(as_array(image), "picture"),
                Panel(as_array(cells), outline=mask),
                *(Panel(as_array(fine), outline=mask) for fine in maps),
            ]
        )
    columns = ("truth", "input", "coarse, 7 x 7", *INTERPOLATIONS, "usu")
    draw_panels(rows, columns, IMAGES / "shapes-fig9.png", width=0.95, colours=128)


def _upsampled(
    cells: Tensor, image: Tensor, score: ForwardScore, usu: USU, *others: AnyUpsampler
) -> list[Tensor]:
    """Return every interpolation, then ``usu`` and the others by the same scores."""
    phi = usu.score_map(image, score).values
    plain = [resolve(way)(cells, image=image) for way in INTERPOLATIONS]
    ways: tuple[AnyUpsampler, ...] = (usu, *others)
    return plain + [way(cells, image=image, score_map=phi) for way in ways]


def _grad_cam(model: nn.Module, image: Tensor) -> tuple[Tensor, ForwardScore]:
    """Return the coarse map of the first class, and its score."""
    with torch.no_grad():
        target = int(model(image).argmax(1))
    cells = LayerGradCam(model, default_layer(model, image)[1]).attribute(
        image, target=target, relu_attributions=True, upsampler=lambda coarse, **_: coarse
    )
    return cells.detach(), ForwardScore(model, target)


def _photograph(name: str) -> Tensor:
    """Return the central 224 x 224 pixels, at 256 on the shorter side, as uint8 (3, 224, 224)."""
    full = getattr(skimage.data, name)()
    small = rescale(full, 256 / min(full.shape[:2]), channel_axis=-1, anti_aliasing=True)
    top, left = (small.shape[0] - 224) // 2, (small.shape[1] - 224) // 2
    part = np.rint(small[top : top + 224, left : left + 224] * 255).astype(np.uint8)
    return torch.from_numpy(part).permute(2, 0, 1)


def _image(drawn: Shapes, index: int) -> tuple[Tensor, np.ndarray]:
    return torch.from_numpy(drawn.images[index : index + 1]), drawn.masks[index]


def _alike(shapes: Shapes) -> list[int]:
    """Return one picture of each class, with areas close to the median of all."""
    areas = shapes.masks.mean((1, 2))
    order = np.abs(areas - np.median(areas)).argsort().tolist()
    return [next(i for i in order if shapes.labels[i] == label) for label in range(len(CLASSES))]


def _mean_correlation(maps: list[Tensor]) -> float:
    """Return the mean over pairs of the correlation of two maps."""
    matrix = np.corrcoef([as_array(found).ravel() for found in maps])
    return float(matrix[np.triu_indices(len(maps), 1)].mean())


if __name__ == "__main__":
    main()
