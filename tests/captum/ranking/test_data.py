"""Folders, arrays and data sets of images, and which of them make up a step."""

import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from usu_captum import ImageSpace
from usu_captum.ranking import (
    ArrayImages,
    DatasetImages,
    FolderImages,
    PartOfImages,
    UnreadableImageError,
    open_images,
    split_images,
)
from usu_captum.ranking._labels import Outputs, outputs_of_folders
from usu_captum.ranking._order import BatchOrder, load_batches
from usu_captum.ranking._pictures import read_picture

SHAPE = (3, 16, 16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, name in enumerate(("a/0.png", "a/1.jpg", "b/2.PNG", "b/deep/3.png")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24 + i, 20), (40 * i, 255, 0)).save(path)
    (tmp_path / "pictures" / "a" / "notes.txt").write_text("not a picture")
    return tmp_path / "pictures"


def test_folder(folder: Path, space: ImageSpace) -> None:
    images = FolderImages(folder, SHAPE, space)
    assert [p.name for p in images.files] == ["0.png", "1.jpg", "2.PNG", "3.png"]
    image, label = images[3]
    assert image.shape == SHAPE
    assert label == -1
    torch.testing.assert_close(image[:, 0, 0], (torch.tensor([120 / 255, 1.0, 0.0]) - 0.5) / 0.25)


def test_folder_classes(folder: Path, space: ImageSpace) -> None:
    images = FolderImages(folder, SHAPE, space, labelled=True)
    assert [images[i].label for i in range(4)] == [0, 0, 1, 1]
    Image.new("RGB", (8, 8)).save(folder / "loose.png")
    with pytest.raises(ValueError, match=r"'loose.png'"):
        FolderImages(folder, SHAPE, space, labelled=True)


@pytest.mark.parametrize(
    ("folders", "outputs", "found"),
    [
        (["b", "a"], None, [1, 0]),
        (["b", "a"], 2, [1, 0]),
        (["10", "9"], 11, [10, 9]),
        (["10", "9"], None, [10, 9]),
        (["Dog", "ant"], ["ant", "bee", "dog"], [2, 0]),
        (["n1", "n0"], ["ant", "bee"], [1, 0]),
    ],
)
def test_outputs_of_folders(folders: list[str], outputs: Outputs | None, found: list[int]) -> None:
    assert outputs_of_folders(folders, outputs) == dict(zip(folders, found, strict=True))


@pytest.mark.parametrize(
    ("folders", "outputs", "message"),
    [
        (["a", "b"], 5, "each of the classifier's 5 outputs, got 2: 'a', 'b'"),
        (["a", "b", "c", "d"], 3, "got 4: 'a', 'b', 'c', ..."),
        (["1", "5"], 5, "outputs 0 to 4, got '5'"),
        (["1", "01"], 5, "one for each output"),
        (["ant", "fly"], ["ant", "bee"], "as some have, got 'fly'"),
        (["crane"], ["crane", "Crane", "bee"], "got 'crane'"),
    ],
)
def test_folders_of_no_clear_output(folders: list[str], outputs: Outputs, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outputs_of_folders(folders, outputs)


def test_what_labels_mean_is_part_of_the_data(folder: Path, space: ImageSpace) -> None:
    digests = {
        FolderImages(folder, SHAPE, space, labelled=labelled, outputs=outputs).fingerprint()
        for labelled, outputs in ((False, None), (True, ["a", "b"]), (True, ["b", "a"]))
    }
    assert len(digests) == 3


@pytest.mark.parametrize("part", ["a/1.jpg", "b"])
def test_what_is_left_out(
    folder: Path, space: ImageSpace, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.chdir(folder.parent)
    wanted = {"a/1.jpg": ["a/0.png", "b/2.PNG", "b/deep/3.png"], "b": ["a/0.png", "a/1.jpg"]}
    near = Path("pictures")
    for where, away in ((near, folder / part), (folder, near / part), (folder, folder / part)):
        images = FolderImages(where, SHAPE, space, leave_out=away)
        assert [path.relative_to(where).as_posix() for path in images.files] == wanted[part]


def test_images_below_what_is_left_out_are_data_all_the_same(
    folder: Path, space: ImageSpace
) -> None:
    """A run that keeps its images in a folder of its own results reads them."""
    every = FolderImages(folder / "b", SHAPE, space).files
    assert every
    assert FolderImages(folder / "b", SHAPE, space, leave_out=folder).files == every


def test_what_is_no_data_and_what_links_lead_to(tmp_path: Path, space: ImageSpace) -> None:
    top, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for path in (
        top / "1.png", top / ".2.png", top / ".git" / "3.png", top / "results" / "curves.png",
        top / "report" / "b" / "01_1.png", top / "explainer" / "curves.png",
        top / "my" / "own" / "4.png", elsewhere / "5.png",
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(path)
    for name, text in {
        "results/settings.json": '{"versions": {"usu-attribution": "1"}}',
        "report/manifest.json": '{"versions": {"usu-attribution": "1"}}',
        "explainer/explainer.json": '{"versions": {"usu": "1"}}',
        "my/own/settings.json": '{"versions": 3}',
        "my/own/manifest.json": "[]",
        "manifest.json": '{"versions": {"usu-attribution": "1"}}',  # of the folder that is meant
    }.items():
        (top / name).write_text(text)
    (top / "a").symlink_to(top / "my" / "own")  # seen before what it leads to
    (top / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(top)
    (top / "up").symlink_to(tmp_path)
    names = [path.relative_to(top).as_posix() for path in FolderImages(top, SHAPE, space).files]
    assert names == ["1.png", "linked/5.png", "my/own/4.png"]
    left = FolderImages(top, SHAPE, space, leave_out=top / "my").files
    assert [path.name for path in left] == ["1.png", "5.png"], "nor through a link"


def test_deep_greys_are_scaled(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 12, dtype=np.uint16).reshape(3, 4)
    wanted = np.rint(np.linspace(0, 255, 12)).reshape(3, 4)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    Image.fromarray(ramp).save(tmp_path / "deep.tif")
    (tmp_path / "deep.ppm").write_bytes(b"P5 4 3 65535\n" + ramp.astype(">u2").tobytes())
    (tmp_path / "twelve.ppm").write_bytes(b"P5 4 3 4095\n" + (ramp // 16).astype(">u2").tobytes())
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 4
    raw = ImageSpace((0.5,), normalised=False)
    for path in paths:
        np.testing.assert_allclose(np.asarray(read_picture(path))[..., 0], wanted, atol=1)
    for image, _ in (FolderImages(tmp_path, (1, 3, 4), raw)[i] for i in range(4)):
        np.testing.assert_allclose(image[0] * 255, wanted, atol=1)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_greys_of_no_known_range(tmp_path: Path, space: ImageSpace, dtype: type) -> None:
    Image.fromarray(np.ones((4, 4), dtype=dtype)).save(tmp_path / "x.tif")
    with pytest.raises(UnreadableImageError, match=r"x.tif: picture must not have .* greys"):
        FolderImages(tmp_path, SHAPE, space)[0]


def test_transparency_is_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (40, 40, 40, 0)).save(tmp_path / "clear.png")
    raw = ImageSpace((0.5,), normalised=False)
    for channels in (1, 3):
        assert float(FolderImages(tmp_path, (channels, 4, 4), raw)[0].image.min()) == 1.0


def test_grey_for_one_channel(folder: Path) -> None:
    assert FolderImages(folder, (1, 8, 8), ImageSpace((0.5,)))[0].image.shape == (1, 8, 8)


def test_raw_space(folder: Path) -> None:
    raw = ImageSpace((0.5,), (0.25,), normalised=False)
    assert float(FolderImages(folder, SHAPE, raw)[0].image.max()) == 1.0


def test_empty_folders(tmp_path: Path, space: ImageSpace) -> None:
    with pytest.raises(ValueError, match="must hold images, got none"):
        open_images(tmp_path, SHAPE, space)
    with pytest.raises(ValueError, match=r"folder of images or a \.npz"):
        open_images(tmp_path / "nowhere", SHAPE, space)
    with pytest.raises(ValueError, match="folder of images, got"):
        FolderImages(tmp_path / "nowhere", SHAPE, space)


def test_npz(tmp_path: Path, space: ImageSpace) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", images=pixels, labels=np.arange(5))
    images = open_images(tmp_path / "x.npz", SHAPE, space, labelled=True)
    assert len(images) == 5
    assert images[3].label == 3
    torch.testing.assert_close(
        images[3].image, (torch.tensor(pixels[3]).permute(2, 0, 1) / 255 - 0.5) / 0.25
    )
    assert open_images(tmp_path / "x.npz", SHAPE, space)[3].label == -1
    with pytest.raises(ValueError, match="outputs 0 to 3, or -1 if not known, got 4"):
        open_images(tmp_path / "x.npz", SHAPE, space, labelled=True, outputs=4)
    with pytest.raises(ValueError, match=r"\(N, 8, 8, 3\)"):
        open_images(tmp_path / "x.npz", (3, 8, 8), space)
    np.savez(tmp_path / "y.npz", pictures=pixels)
    with pytest.raises(ValueError, match="'pictures'"):
        open_images(tmp_path / "y.npz", SHAPE, space)
    np.savez(tmp_path / "z.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"readable \.npz"):
        open_images(tmp_path / "z.npz", SHAPE, space)


def test_arrays_are_checked(space: ImageSpace) -> None:
    with pytest.raises(TypeError, match="uint8, got float64"):
        ArrayImages(np.zeros((2, 16, 16, 3)), None, SHAPE, space)
    with pytest.raises(ValueError, match="labels must have shape"):
        ArrayImages(np.zeros((2, 16, 16, 3), dtype=np.uint8), [1], SHAPE, space)
    for labels in ([0.0, 1.0], ["0", "1"], [True, False]):
        with pytest.raises(TypeError, match="labels must be integers, got"):
            ArrayImages(np.zeros((2, 16, 16, 3), dtype=np.uint8), labels, SHAPE, space)


def test_any_dataset() -> None:
    pairs = [(torch.full(SHAPE, float(i)), i) for i in range(3)]
    images = DatasetImages(pairs, SHAPE)
    assert images[2].label == 2
    assert DatasetImages([p[0] for p in pairs], SHAPE)[0].label == -1
    with pytest.raises(ValueError, match=r"got \(3, 16, 16\) for item 1"):
        DatasetImages(pairs, (3, 8, 8))[1]
    with pytest.raises(ValueError, match="got none"):
        DatasetImages([], SHAPE)


def test_fingerprints_change_with_the_data(folder: Path, space: ImageSpace) -> None:
    before = FolderImages(folder, SHAPE, space).fingerprint()
    assert before == FolderImages(folder, SHAPE, space).fingerprint()
    Image.new("RGB", (9, 9)).save(folder / "a" / "9.png")
    assert before != FolderImages(folder, SHAPE, space).fingerprint()
    pixels = np.zeros((4, 16, 16, 3), dtype=np.uint8)
    one = ArrayImages(pixels, None, SHAPE, space)
    digest = one.fingerprint()
    pixels[2, 3, 3, 1] = 1
    assert ArrayImages(pixels, None, SHAPE, space).fingerprint() != digest
    halves = split_images(one, 2)
    assert len({part.fingerprint() for part in halves} | {one.fingerprint()}) == 3


def test_split_is_a_partition(source: ArrayImages) -> None:
    training, held_out = split_images(source, 6, seed=1)
    assert sorted(training.indices + held_out.indices) == list(range(20))
    assert split_images(source, 6, seed=2)[1].indices != held_out.indices
    for count in (0, 20):
        with pytest.raises(ValueError, match="held_out must leave"):
            split_images(source, count)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_unreadable_images_are_named(
    folder: Path, space: ImageSpace, content: bytes | None
) -> None:
    path = folder / "a" / "1.jpg"
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(UnreadableImageError, match=r"^a/1.jpg: "):
        FolderImages(folder, SHAPE, space)[1]


class Broken:
    """Ten images, of which some cannot be read."""

    def __init__(self, bad: set[int]) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        if index in self.bad:
            raise OSError("truncated")
        return torch.full(SHAPE, float(index)), index


def test_unreadable_images_are_replaced_and_reported() -> None:
    source = DatasetImages(Broken({3, 4}), SHAPE)
    order = BatchOrder(10, 5, start=0, stop=2, seed=0)
    batches = list(load_batches(source, order, workers=0, strict=False))
    assert [len(b.images) for b in batches] == [5, 5]
    seen = Counter(torch.cat([b.labels for b in batches]).tolist())
    assert seen[5] == 3  # its own place and those of 3 and 4
    names = [n.partition(":")[0] for b in batches for n in b.unreadable]
    assert sorted(names) == ["item 3", "item 4", "item 4"]
    with pytest.raises(UnreadableImageError, match="truncated"):
        list(load_batches(source, order, workers=0, strict=True))
    hopeless = DatasetImages(Broken(set(range(10))), SHAPE)
    with pytest.raises(ValueError, match="got 10 that cannot"):
        list(load_batches(hopeless, order, workers=0, strict=False))


@pytest.mark.parametrize("count", [7, 8, 3])
def test_every_epoch_sees_every_image_once(count: int) -> None:
    batches = list(BatchOrder(count, 4, start=0, stop=count, seed=5))
    assert {len(b) for b in batches} == {4}
    flat = [i for b in batches for i in b]
    epochs = [flat[i : i + count] for i in range(0, len(flat), count)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_an_order_goes_on_where_it_stopped() -> None:
    whole = list(BatchOrder(10, 3, start=0, stop=9, seed=5))
    assert list(BatchOrder(10, 3, start=4, stop=9, seed=5)) == whole[4:]
    assert list(BatchOrder(10, 3, start=0, stop=9, seed=6)) != whole


def test_processes_share_a_batch() -> None:
    whole = list(BatchOrder(10, 4, start=0, stop=6, seed=5))
    parts = [
        list(BatchOrder(10, 2, start=0, stop=6, seed=5, process=p, processes=2)) for p in (0, 1)
    ]
    assert [a + b for a, b in zip(*parts, strict=True)] == whole


class Flipped:
    """Images that torch, NumPy or Python flip at random, all the same but for that."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self.draw = draw

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.arange(16.0).expand(SHAPE) * (1 if self.draw() < 0.5 else -1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "draw",
    [lambda: float(torch.rand(())), np.random.rand, random.random],
    ids=["torch", "numpy", "python"],
)
def test_what_is_random_follows_from_the_seed_and_the_place(draw: Any, workers: int) -> None:
    source = DatasetImages(Flipped(draw), SHAPE)
    assert source.fingerprint() == source.fingerprint()

    def read(start: int, seed: int = 5) -> list[torch.Tensor]:
        order = BatchOrder(40, 4, start=start, stop=8, seed=seed)
        return [b.images for b in load_batches(source, order, workers=workers, strict=False)]

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    whole = read(0)
    if workers == 0:
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        assert after[1:] == before[1:]
    signs = torch.cat(whole)[:, 0, 0, 1]
    assert 0 < float((signs > 0).float().mean()) < 1
    assert all(torch.equal(a, b) for a, b in zip(read(3), whole[3:], strict=True))
    assert not torch.equal(torch.cat(read(0, seed=6)), torch.cat(whole))


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_come_as_they_are_from_another_process(workers: int) -> None:
    order = BatchOrder(10, 5, start=0, stop=2, seed=0)
    for source, error, message in (
        (Broken({3}), UnreadableImageError, "item 3: truncated"),
        ([torch.zeros(3, 8, 8)] * 10, ValueError, r"dataset must give tensors of shape"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            list(load_batches(DatasetImages(source, SHAPE), order, workers=workers, strict=True))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.zeros(SHAPE, dtype=torch.uint8), r"model's space, got torch\.uint8 for item 0"),
        ((torch.zeros(SHAPE), torch.eye(4)[1]), r"one integer as the label, got \(4,\) for item 0"),
        ((torch.zeros(SHAPE), "cat"), r"one integer as the label, got 'cat' for item 0"),
    ],
)
def test_items_of_another_kind(item: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        DatasetImages([item], SHAPE)[0]
    for label in (np.int64(3), torch.tensor(3), torch.tensor([3])):
        assert DatasetImages([(torch.zeros(SHAPE), label)], SHAPE)[0].label == 3


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), struct.error("no"), Image.DecompressionBombError("no")]
)
def test_what_decoders_raise(error: Exception) -> None:
    class Damaged(Broken):
        def __getitem__(self, index: int) -> Any:
            raise error

    with pytest.raises(UnreadableImageError, match="item 2: no"):
        DatasetImages(Damaged(set()), SHAPE)[2]


def test_a_nan_is_damage() -> None:
    images = torch.zeros(3, *SHAPE)
    images[1, 0, 0, :2] = float("nan")
    with pytest.raises(UnreadableImageError, match="item 1: 2 NaN or infinite values"):
        DatasetImages(images, SHAPE)[1]


def test_paths_counts_and_indices(folder: Path, space: ImageSpace, source: ArrayImages) -> None:
    assert len(open_images(str(folder), SHAPE, space, leave_out=str(folder / "b"))) == 2
    assert len(FolderImages(str(folder), SHAPE, space)) == 4
    with pytest.raises(TypeError, match="held_out must be an integer, got float"):
        split_images(source, 0.2)  # type: ignore[arg-type]
    assert PartOfImages(source, np.arange(3)).indices == [0, 1, 2]
    for indices, wrong in (([0, 20], 20), ([-1], -1)):
        with pytest.raises(ValueError, match=rf"indices must lie in \[0, 19\], got {wrong}"):
            PartOfImages(source, indices)
