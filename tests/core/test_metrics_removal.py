"""Pixel flipping, IROF, ROAD, DiffID and parity infidelity: by hand, and against loops."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor

from usu_core.metrics import (
    diffid,
    irof,
    noisy_linear_imputation,
    pixel_flipping,
    quantus_infidelity,
    road,
)

IMAGES = torch.tensor([[[4.0, 3.0, 2.0, 1.0]], [[1.0, 1.0, 5.0, 3.0]]])


def total(images: Tensor) -> Tensor:
    return images.flatten(1).sum(1)


def test_pixel_flipping_by_hand() -> None:
    whole = pixel_flipping(total, IMAGES, IMAGES[:, 0])
    assert whole.scores.tolist() == [[10, 6, 3, 1, 0], [10, 5, 2, 1, 0]]
    assert whole.auc.tolist() == pytest.approx([(4 + 7 + 9 + 10) / 5, (5 + 8 + 9 + 10) / 5])
    some = pixel_flipping(total, IMAGES, IMAGES[:, 0], pixels_per_step=3, steps=9, black=1.0)
    assert some.scores.tolist() == [[10, 4, 4], [10, 4, 4]]
    assert pixel_flipping(total, IMAGES, IMAGES[:, 0], steps=1).scores.shape == (2, 2)


SEGMENTS = torch.tensor([[0, 0, 2, 5], [1, 1, 0, 0]])


def test_irof_by_hand() -> None:
    found = irof(total, IMAGES, IMAGES[:, 0], SEGMENTS, reference=0.0)
    # Means 3.5, 2, 1 and 4, 1; the second image has two segments and keeps its last value.
    torch.testing.assert_close(
        found.scores, torch.tensor([[1.0, 0.3, 0.1, 0.0], [1.0, 0.2, 0.0, 0.0]])
    )
    area = [1 - (0.65 + 0.2 + 0.05) / 3, 1 - (0.6 + 0.1) / 2]
    np.testing.assert_allclose(found.auc.numpy(), area, rtol=1e-6)
    alone = irof(total, IMAGES[1:], IMAGES[1:, 0], SEGMENTS[1:], reference=0.0)
    torch.testing.assert_close(alone.auc[0], found.auc[1])
    # The mean ranks segments, not the sum: 3 pixels of 2 come after 1 pixel of 4.
    image = torch.tensor([[[2.0, 2.0, 2.0, 4.0]]])
    found = irof(total, image, image[:, 0], torch.tensor([[0, 0, 0, 1]]), reference=0.0)
    torch.testing.assert_close(found.scores, torch.tensor([[1.0, 0.6, 0.0]]))
    steady = irof(lambda x: x.new_ones(len(x)), IMAGES, IMAGES[:, 0], SEGMENTS)
    assert steady.auc.tolist() == [0.0, 0.0]


@given(st.integers(0, 99))
def test_numbers_of_segments_do_not_matter(seed: int) -> None:
    generator = torch.manual_seed(seed)
    images, maps = torch.rand(1, 2, 5, 5, generator=generator), torch.rand(1, 5, 5)
    segments = torch.randint(0, 6, (1, 5, 5), generator=generator)
    renamed = torch.randperm(6, generator=generator)[segments]
    one, two = (irof(total, images, maps, labels).auc for labels in (segments, renamed))
    torch.testing.assert_close(one, two)


def dense_imputation(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The imputation as one dense linear system, one image (C, H, W)."""
    C, H, W = image.shape
    weights = {
        (dy, dx): 1 / 6 if dy * dx == 0 else 1 / 12 for dy in (-1, 0, 1) for dx in (-1, 0, 1)
    }
    del weights[0, 0]
    left, right = np.eye(H * W), image.reshape(C, -1).T.copy()
    for y, x in np.argwhere(hidden):
        inside = {
            (y + dy, x + dx): w
            for (dy, dx), w in weights.items()
            if 0 <= y + dy < H and 0 <= x + dx < W
        }
        for (i, j), weight in inside.items():
            left[y * W + x, i * W + j] = -weight / sum(inside.values())
        right[y * W + x] = 0.0
    return np.linalg.solve(left, right).T.reshape(C, H, W)


@given(st.integers(0, 99), st.integers(2, 9), st.integers(1, 9), st.floats(0.0, 0.97))
def test_imputation_solves_its_system(seed: int, height: int, width: int, share: float) -> None:
    generator = torch.manual_seed(seed)
    images = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    hidden = torch.rand(2, height, width, generator=generator) < share
    hidden[:, 0, 0] = False
    found = noisy_linear_imputation(images, hidden, noise=0.0)
    for i in range(2):
        wanted = dense_imputation(images[i].numpy(), hidden[i].numpy())
        np.testing.assert_allclose(found[i].numpy(), wanted, atol=2e-4)
    known = ~hidden[:, None].expand_as(images)
    assert torch.equal(found[known], images[known])


def test_imputation_of_a_large_region_and_of_everything(rand: Any) -> None:
    images = torch.linspace(0, 1, 64).expand(1, 1, 64, 64).clone()
    hidden = torch.zeros(1, 64, 64, dtype=torch.bool)
    hidden[:, 2:-2, 2:-2] = True
    # A plane is its own imputation.
    torch.testing.assert_close(
        noisy_linear_imputation(images, hidden, noise=0.0), images, atol=1e-3, rtol=0
    )
    noisy = rand(2, 3, 5, 5)
    hidden = torch.zeros(2, 5, 5, dtype=torch.bool)
    hidden[0] = True
    found = noisy_linear_imputation(noisy, hidden, noise=0.0)
    torch.testing.assert_close(found[0], noisy[0].mean((1, 2), keepdim=True).expand(3, 5, 5))
    assert torch.equal(found[1], noisy[1])


def sparse_imputation(image: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """The same system solved directly, one image (C, H, W)."""
    size = hidden.shape
    inside = np.argwhere(hidden)
    number = np.full(size, -1)
    number[hidden] = np.arange(len(inside))
    entries, right = [], np.zeros((len(inside), len(image)))
    for step in [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]:
        weight = 1 / 6 if 0 in step else 1 / 12
        near = inside + step
        row = np.flatnonzero(((near >= 0) & (near < size)).all(1))
        y, x = near[row].T
        entries.append((row, row, np.full(len(row), weight)))
        unknown = hidden[y, x]
        entries.append((row[unknown], number[y, x][unknown], np.full(unknown.sum(), -weight)))
        right[row[~unknown]] += weight * image[:, y[~unknown], x[~unknown]].T
    rows, columns, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    left = csc_matrix((values, (rows, columns)), (len(inside), len(inside)))
    result = image.copy()
    result[:, hidden] = spsolve(left, right).reshape(len(inside), -1).T
    return result


def all_but_a_corner(size: int) -> Tensor:
    """Nine tenths of an image, the hardest for the solver, as they reach all borders."""
    place = torch.arange(size)
    return (place[:, None] + place < 1.55 * size)[None]


def test_large_regions_of_large_images_are_solved(rand: Any) -> None:
    hidden = all_but_a_corner(224)
    image = torch.nn.functional.interpolate(rand(1, 1, 4, 4), size=(224, 224), mode="bilinear")
    found = noisy_linear_imputation(image, hidden, noise=0.0)[0].numpy()
    wanted = sparse_imputation(image[0].double().numpy(), hidden[0].numpy())
    assert np.abs(found - wanted).max() < 0.01


def test_too_few_iterations_are_no_secret(rand: Any) -> None:
    images, hidden = rand(2, 3, 32, 32), all_but_a_corner(32).repeat(2, 1, 1)
    hidden[1] = False
    with pytest.warns(RuntimeWarning, match="3 of 6 imputed channels are not solved after 30 iter"):
        noisy_linear_imputation(images, hidden, iterations=30)
    with pytest.warns(RuntimeWarning, match="not solved after 5 iterations. Try more iterations"):
        road(total, images, images[:, 0], iterations=5)


def test_noise_falls_on_hidden_pixels_and_follows_the_generator(rand: Any) -> None:
    images, hidden = rand(1, 3, 40, 40), rand(1, 40, 40) < 0.7
    state = torch.get_rng_state()
    smooth = noisy_linear_imputation(images, hidden, noise=0.0)
    seeded = [
        noisy_linear_imputation(
            images, hidden, noise=0.1, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(seeded[0], seeded[1])
    assert not torch.equal(seeded[0], seeded[2])
    assert torch.equal(seeded[0], noisy_linear_imputation(images, hidden, noise=0.1))
    change = (seeded[0] - smooth)[hidden[:, None].expand_as(images)]
    assert float(change.std()) == pytest.approx(0.1, rel=0.05)
    assert torch.equal(seeded[0].where(hidden[:, None], images), seeded[0])


def test_road_removes_the_most_important_first(rand: Any, linear: Any) -> None:
    images, maps, model = rand(2, 3, 6, 6), rand(2, 6, 6), linear(rand(2, 3, 6, 6))
    found = road(model, images, maps, shares=(0.25, 0.5), noise=0.0, chunk_size=3)
    assert sum(model.asked) == 4
    for i in range(2):
        for j, count in enumerate((9, 18)):
            hidden = torch.zeros(36, dtype=torch.bool)
            hidden[maps[i].flatten().argsort(descending=True)[:count]] = True
            image = dense_imputation(images[i].double().numpy(), hidden.view(6, 6).numpy())
            wanted = float((image * model.weights[i].numpy()).sum())
            assert float(found[i, j]) == pytest.approx(wanted, abs=1e-3)
    noisy = road(model, images, maps, noise=0.5)
    assert torch.equal(noisy, road(model, images, maps, noise=0.5))
    assert not torch.equal(noisy, road(model, images, maps, noise=0.5, seed=1))
    alone = road(total, images[1:], maps[1:], noise=0.5)
    torch.testing.assert_close(alone[0], road(total, images, maps, noise=0.5)[1])


def test_infidelity_accumulates_patches_by_hand() -> None:
    images = torch.tensor([[[[5.0, 2.0, 3.0], [1.0, 4.0, 1.0]]]])
    maps = torch.tensor([[[1.0, 0.0, 2.0], [0.0, 1.0, 5.0]]])
    # Patches of 2 x 2: the left four pixels, then the right two; the fill is 1. The score drops by
    # 4 + 1 + 3 = 8, then 10; the mass is 4 + 3 = 7, then 11.
    found = quantus_infidelity(total, images, maps, patch=2)
    assert float(found) == pytest.approx(((8 - 7) ** 2 + (10 - 11) ** 2) / 2)
    # Three channels of the same: sums over channels.
    found = quantus_infidelity(total, images.expand(1, 3, 2, 3), maps, patch=2)
    assert float(found) == pytest.approx(9 * ((8 - 7) ** 2 + (10 - 11) ** 2) / 2)


def test_infidelity_of_gradients_is_zero_and_scale_rules_it(rand: Any, linear: Any) -> None:
    images, gradient = rand(2, 3, 7, 9).double(), rand(2, 7, 9).double()
    model = linear(gradient[:, None])
    exact = quantus_infidelity(model, images, gradient)
    assert sum(model.asked) == 2 * (1 + 2 * 3)
    assert set(model.outputs) == {"logit"}
    np.testing.assert_allclose(exact.numpy(), 0.0, atol=1e-18)
    twice, thrice = (quantus_infidelity(model, images, s * gradient) for s in (2, 3))
    torch.testing.assert_close(thrice, 4 * twice)


def diffid_loop(model: Any, image: Tensor, size: Tensor, label: int, share: float) -> list[float]:
    """Probability of the label without the least and without the most important elements."""
    order = size.flatten().argsort(descending=True, stable=True)
    count, left = int(share * len(order)), []
    for removed in (order[len(order) - count :], order[:count]):
        keep = torch.ones(len(order), dtype=torch.bool)
        keep[removed] = False
        flat = image.flatten().clone()
        flat[~keep] = flat[keep].mean()
        left.append(float(model(flat.view_as(image)[None]).softmax(1)[0, label]))
    return left


@pytest.mark.parametrize("measure", ["accuracy", "retention"])
def test_diffid_equals_a_loop(rand: Any, measure: str) -> None:
    images, maps, weights = rand(3, 2, 4, 5), rand(3, 2, 4, 5) - 0.5, rand(40, 4) - 0.5
    labels = torch.tensor([0, 3, 1])

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weights

    shares = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    found = diffid(model, images, maps, labels, measure=measure, chunk_size=7)
    for i in range(3):
        label = int(labels[i])
        whole = float(model(images[i][None]).softmax(1)[0, label])
        for j, share in enumerate(shares):
            both = diffid_loop(model, images[i], maps[i].abs(), label, share)
            for value, curve in zip(both, (found.insertion, found.deletion), strict=True):
                if measure == "retention":
                    assert float(curve[i, j]) == pytest.approx(min(1.0, value / whole), abs=1e-5)
                else:
                    assert float(curve[i, j]) in (0.0, 1.0)
    difference = found.insertion.mean(1) - found.deletion.mean(1)
    torch.testing.assert_close(found.difference, difference)


def test_diffid_accuracy_is_of_the_label_and_costs_what_it_says() -> None:
    images = torch.tensor([[[1.0, 0.0, 0.0, 3.0]]])
    asked: list[int] = []

    def halves(x: Tensor) -> Tensor:
        asked.append(len(x))
        return torch.stack([x[:, 0, :2].sum(1), x[:, 0, 2:].sum(1)], 1)

    right = diffid(halves, images, images, torch.tensor([1]), shares=[0.25, 0.5])
    assert sum(asked) == 2 * 2
    assert right.difference.tolist() == [1.0]
    wrong = diffid(halves, images, images, torch.tensor([0]), shares=[0.25, 0.5])
    assert wrong.difference.tolist() == [-1.0]
    asked.clear()
    diffid(halves, images, images, torch.tensor([1]), measure="retention")
    assert sum(asked) == 2 * 9 + 1


@pytest.mark.parametrize("chunk_size", [1, 64])
def test_diffid_reads_all_outputs_as_those_of_the_whole_image(chunk_size: int) -> None:
    """Logits that add up to one by chance, of what is left, are none the less logits."""
    images = torch.tensor([[[[0.9, 0.5]]]])

    def model(x: Tensor) -> Tensor:
        return torch.cat([x.flatten(1), torch.zeros(len(x), 1)], 1)

    found = diffid(
        model, images, images, torch.tensor([0]), shares=[0.5], measure="retention",
        chunk_size=chunk_size,
    )  # fmt: skip
    whole, left = model(images), model(torch.tensor([[[[0.5, 0.5]]]]))
    wanted = left.softmax(1)[:, :1] / whole.softmax(1)[:, :1]
    torch.testing.assert_close(found.deletion, wanted)


def test_diffid_orders_ties_as_it_is_told(rand: Any) -> None:
    images, weights, ties = rand(2, 2, 4, 5), rand(40, 3) - 0.5, rand(2, 4, 5)
    labels = torch.tensor([2, 0])
    maps = (rand(2, 4, 5) * 3).floor()

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weights

    for unit in ("pixel", "element"):
        options: Any = {"unit": unit, "measure": "retention"}
        tied = diffid(model, images, maps, labels, ties=ties, **options)
        apart = diffid(model, images, maps + 1e-3 * ties, labels, **options)
        torch.testing.assert_close(tied, apart)
    assert not torch.equal(tied.deletion, diffid(model, images, maps, labels, **options).deletion)


def test_diffid_by_pixel_removes_all_channels_together(rand: Any) -> None:
    images, maps = rand(2, 3, 4, 4), rand(2, 3, 4, 4) - 0.5
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x)
        return x.flatten(1)[:, :2]

    labels = torch.tensor([0, 1])
    by_pixel = diffid(model, images, maps, labels, unit="pixel", shares=[0.5])
    deleted = seen[0][0]
    removed = (deleted != images[0]).all(0)
    assert int(removed.sum()) == 8
    torch.testing.assert_close(deleted[:, ~removed], images[0][:, ~removed])
    assert float(deleted[:, removed].std()) == pytest.approx(0.0, abs=1e-6)
    assert float(deleted[0, removed][0]) == pytest.approx(float(images[0][:, ~removed].mean()))
    size = maps[0].abs().sum(0)
    assert float(size[removed].min()) >= float(size[~removed].max())
    # A map without channels ranks pixels by itself.
    same = diffid(model, images, maps.abs().sum(1), labels, unit="pixel", shares=[0.5])
    torch.testing.assert_close(same.insertion, by_pixel.insertion)


HIDDEN = torch.zeros(1, 2, 2, dtype=torch.bool)
IMAGE = torch.zeros(1, 1, 2, 2)
LABEL = torch.zeros(1, dtype=torch.int64)


def classes(x: Tensor) -> Tensor:
    return x.flatten(1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pixel_flipping(total, IMAGE, IMAGE), ValueError, "attribution must have shape"),
        (lambda: pixel_flipping(total, IMAGE, IMAGE[0], steps=0), ValueError, "steps must be"),
        (lambda: irof(total, IMAGE, IMAGE[0], IMAGE[0]), TypeError, r"segments must.*Try .long"),
        (lambda: irof(total, IMAGE, IMAGE[0], LABEL[:, None, None]), ValueError, "segments must"),
        (lambda: irof(total, IMAGE, IMAGE[0], HIDDEN.long()), ValueError, "above 0 to divide"),
        (lambda: road(total, IMAGE, IMAGE[0], shares=[]), ValueError, r"shares must lie.*got \(\)"),
        (lambda: road(total, IMAGE, IMAGE[0], shares=[1.0]), ValueError, "shares must lie between"),
        (lambda: noisy_linear_imputation(IMAGE, IMAGE[0]), TypeError, "hidden must be bool"),
        (lambda: noisy_linear_imputation(IMAGE[0], HIDDEN), ValueError, "must have shapes"),
        (lambda: noisy_linear_imputation(IMAGE, HIDDEN, noise=-1.0), ValueError, "got -1.0"),
        (lambda: road(total, IMAGE, IMAGE[0], noise=float("inf")), ValueError, "noise must be fin"),
        (lambda: noisy_linear_imputation(IMAGE, HIDDEN, iterations=0), ValueError, "iterations"),
        (lambda: noisy_linear_imputation(IMAGE / 0, HIDDEN), ValueError, "images must be finite"),
        (lambda: road(total, IMAGE, IMAGE[0], noise="a"), TypeError, "noise must be a number, got"),
        (lambda: quantus_infidelity(total, IMAGE, IMAGE[0], patch=0), ValueError, "patch must be"),
        (
            lambda: quantus_infidelity(total, IMAGE[0], IMAGE[0, :, 0]),
            ValueError,
            "images must have",
        ),
        (lambda: road(total, IMAGE[0], IMAGE[0, :, 0]), ValueError, r"images must.*\(1, 2, 2\)"),
        (lambda: diffid(classes, IMAGE, IMAGE, LABEL, unit="x"), ValueError, "unit must be one"),
        (lambda: diffid(classes, IMAGE, IMAGE, LABEL, ties=IMAGE), ValueError, "ties must have sh"),
        (lambda: diffid(classes, IMAGE, IMAGE, LABEL, ties=IMAGE[0] / 0), ValueError, "ties must"),
        (
            lambda: diffid(classes, IMAGE, IMAGE.char(), LABEL),
            TypeError,
            "attribution must be a fl",
        ),
        (lambda: diffid(classes, IMAGE, IMAGE, LABEL - 1), ValueError, "for labels from -1 to -1"),
        (lambda: diffid(classes, IMAGE, IMAGE, LABEL, measure="x"), ValueError, "measure must"),
        (lambda: diffid(classes, IMAGE, IMAGE, LABEL + 4), ValueError, "class for every label"),
        (lambda: diffid(total, IMAGE, IMAGE, LABEL), ValueError, r"model must return \(N, classes"),
        (lambda: diffid(classes, IMAGE, IMAGE, LABEL[:0]), ValueError, r"labels must be integers"),
        (lambda: diffid(classes, IMAGE, IMAGE[..., 0], LABEL), ValueError, "attribution must have"),
        (lambda: diffid(classes, IMAGE, IMAGE / 0, LABEL), ValueError, "attribution must be fin"),
        (lambda: diffid(classes, IMAGE, IMAGE, LABEL, shares=[0]), ValueError, "shares must lie"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_masks_are_no_segments() -> None:
    with pytest.raises(TypeError, match="segments must be an integer tensor"):
        irof(total, IMAGE, IMAGE[0], HIDDEN)


def test_retention_of_a_label_of_no_probability_is_finite() -> None:
    images = torch.tensor([[[1.0, 0.0, 0.0, 3.0]]])
    sure = lambda x: torch.tensor([[0.0, 500.0]]).expand(len(x), 2)  # noqa: E731
    found = diffid(sure, images, images, torch.tensor([0]), measure="retention")
    assert found.difference.tolist() == [0.0]


def test_negative_labels_are_refused() -> None:
    for measure in ("accuracy", "retention"):
        with pytest.raises(ValueError, match="class for every label"):
            diffid(classes, IMAGE, IMAGE, LABEL - 1, measure=measure)


def test_gaps_between_labels_take_no_step() -> None:
    maps = -IMAGES[:, 0]  # below the 0 that a label without pixels would have
    gaps = torch.tensor([[0, 0, 3, 7], [1, 1, 5, 5]])
    dense = torch.tensor([[0, 0, 1, 2], [0, 0, 1, 1]])
    one, two = (irof(total, IMAGES, maps, labels, reference=0.0) for labels in (gaps, dense))
    torch.testing.assert_close(one.scores, two.scores)
    torch.testing.assert_close(one.auc, two.auc)


@pytest.mark.parametrize(("height", "width"), [(2, 12), (12, 2), (5, 9)])
def test_infidelity_of_planes_that_are_not_square(rand: Any, height: int, width: int) -> None:
    images, maps = rand(1, 2, height, width).double(), rand(1, height, width).double()
    fill, errors = images.min(), []
    mixed, mass = images.clone(), 0.0
    for top in range(0, height, 4):
        for left in range(0, width, 4):
            part = (..., slice(top, top + 4), slice(left, left + 4))
            mass += float((maps[part] * (images[part] - fill)).sum())
            mixed[part] = fill
            errors.append((float(total(images).square() - total(mixed).square()) - mass) ** 2)
    found = quantus_infidelity(lambda x: total(x).square(), images, maps)
    assert float(found) == pytest.approx(np.mean(errors))


def test_shares_of_whole_numbers_of_pixels_are_not_rounded_below() -> None:
    from usu_core.metrics._ranking import share_counts

    assert 0.29 * 100 < 29
    assert share_counts(100, [0.29, 0.57, 0.58]) == [29, 57, 58]
    assert share_counts(10, [0.19, 0.2]) == [1, 2]


def test_noise_is_drawn_for_each_share(rand: Any) -> None:
    seen: list[Tensor] = []

    def score(x: Tensor) -> Tensor:
        seen.append(x)
        return total(x)

    road(score, torch.zeros(1, 1, 8, 8), rand(1, 8, 8), shares=[0.5, 0.9], noise=1.0)
    (mixed,) = seen
    both = (mixed != 0).all(0)  # hidden at either share
    assert int(both.sum()) == 32
    assert not bool((mixed[0][both] == mixed[1][both]).any())


def test_iterations_reach_the_imputation(rand: Any) -> None:
    images, maps = rand(1, 1, 16, 16), rand(1, 16, 16)
    with pytest.warns(RuntimeWarning, match="not solved after 1 iterations"):
        few = road(total, images, maps, shares=[0.9], noise=0.0, iterations=1)
    assert not torch.equal(few, road(total, images, maps, shares=[0.9], noise=0.0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_imputation_keeps_the_dtype(rand: Any, dtype: torch.dtype) -> None:
    images, hidden = rand(1, 2, 5, 5).to(dtype), rand(1, 5, 5) < 0.5
    assert noisy_linear_imputation(images, hidden).dtype == dtype
