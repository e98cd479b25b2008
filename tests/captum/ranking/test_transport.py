"""Transport to rank bins gives the masks of a sort in a fraction of its memory."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from usu_captum.ranking._sorter import Sorter
from usu_captum.ranking._transport import RankTransport

FRACTIONS = torch.linspace(0, 1, 6, dtype=torch.float64)


def scores(d: int = 10, size: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, d, dtype=torch.float64, generator=generator)


def plain(places: Tensor, borders: Tensor, softness: float, n_iterations: int) -> Tensor:
    """Masks by the textbook loop on the plan (bins, items), in the plain domain."""
    widths, centres = borders.diff(), 1 - (borders[1:] + borders[:-1]) / 2
    plan = torch.exp(-((places[:, None] - centres[:, None]) ** 2) / softness)
    for _ in range(n_iterations):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(2, keepdim=True) * widths[:, None] * places.shape[1]
    return torch.cat([torch.zeros_like(plan[:, :1]), plan.cumsum(1)], 1)


@pytest.mark.parametrize("normalise", ["range", "rank"])
def test_agrees_with_the_plain_loop(normalise: str) -> None:
    s = scores().requires_grad_()
    sorter = RankTransport(0.05, n_iterations=300, normalise=normalise)
    ours = sorter.top_masks(s, FRACTIONS)
    spread = s.amax(1, True) - s.amin(1, True)
    places = (s - s.amin(1, True)) / spread
    if normalise == "rank":
        places = (s.argsort(1).argsort(1) + 0.5) / 10 + (s - s.detach()) / spread.detach()
    theirs = plain(places, FRACTIONS, 0.05, 2000)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    weights = torch.randn(ours.shape, dtype=ours.dtype)
    (mine,) = torch.autograd.grad((ours * weights).sum(), s, retain_graph=True)
    (other,) = torch.autograd.grad((theirs * weights).sum(), s)
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_gradients() -> None:
    sorter = RankTransport(0.1, normalise="range", n_iterations=5, tolerance=99.0)
    assert torch.autograd.gradcheck(
        lambda s: sorter.top_masks(s, FRACTIONS), scores(7).requires_grad_()
    )


def test_agrees_with_pot() -> None:
    ot = pytest.importorskip("ot")
    s = scores(12, 1)
    places = ((s - s.min()) / (s.max() - s.min()))[0]
    borders = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=s.dtype)
    centres = 1 - (borders[1:] + borders[:-1]) / 2
    plan = ot.sinkhorn(
        borders.diff().numpy(),
        torch.full((12,), 1 / 12, dtype=s.dtype).numpy(),
        ((places - centres[:, None]) ** 2).numpy(),
        0.05,
        method="sinkhorn_log",
        stopThr=1e-13,
    )
    sorter = RankTransport(0.05, normalise="range", tolerance=1e-10)
    ours = sorter.top_masks(s, torch.tensor([0.2, 0.5]))[0]
    theirs = 12 * torch.from_numpy(plan).cumsum(0)[:2]
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.0005, 0.1))
def test_masks_are_masks(seed: int, d: int, softness: float) -> None:
    s = scores(d, 1, seed)
    masks = RankTransport(softness).top_masks(s, FRACTIONS)
    torch.testing.assert_close(masks.sum(2), (FRACTIONS * d)[None], atol=1e-9, rtol=1e-9)
    assert masks.min() >= 0
    assert masks.max() <= 1.05
    assert masks.diff(dim=1).min() >= 0
    order = torch.randperm(d, generator=torch.Generator().manual_seed(seed))
    permuted = RankTransport(softness).top_masks(s[:, order], FRACTIONS)
    torch.testing.assert_close(permuted, masks[:, :, order])
    lowest = RankTransport(softness).top_masks(-s, FRACTIONS)
    torch.testing.assert_close(lowest, 1 - masks.flip(1), atol=0.06, rtol=0)


def test_masks_are_nearly_hard_and_do_not_care_how_scores_are_spread() -> None:
    s = scores(784, 1)
    masks = RankTransport().top_masks(s, torch.linspace(0, 1, 17))
    found = masks[0, 4][s.topk(196).indices[0]].sum() / 196
    assert found > 0.97  # papers.md P9
    stretched = RankTransport().top_masks(s.mul(3).exp(), torch.linspace(0, 1, 17))
    torch.testing.assert_close(stretched, masks)


def test_ties_share() -> None:
    s = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 2.0, 2.0]])
    mask = RankTransport().top_masks(s, torch.tensor([0.5]))[0, 0]
    torch.testing.assert_close(mask, torch.tensor([0.5, 0.5, 0.5, 0.5, 0, 0, 1, 1]).float())


def test_ties_stand_in_the_middle_of_their_ranks() -> None:
    s = torch.tensor([[0.0, 0.0, 0.0, 0.0, 1.0, 2.0]], dtype=torch.float64)
    sorter = RankTransport(0.1, tolerance=1e-8)
    torch.testing.assert_close(
        sorter.top_masks(-s, FRACTIONS), 1 - sorter.top_masks(s, FRACTIONS).flip(1)
    )


def test_flat_scores_have_a_gradient() -> None:
    s = torch.zeros(1, 16, requires_grad=True)
    masks = RankTransport().top_masks(s, torch.tensor([0.25, 0.5]))
    (grad,) = torch.autograd.grad(masks[0, 1, 3], s)
    assert torch.isfinite(grad).all()
    assert grad[0, 3] > 0


def test_every_pixel_of_a_photograph() -> None:
    s = torch.rand(1, 50_176, generator=torch.Generator().manual_seed(0)).requires_grad_()
    held: list[int] = []

    def pack(value: Tensor) -> Tensor:
        held.append(value.numel())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        masks = RankTransport().top_masks(s, torch.linspace(0, 1, 16)[1:-1])
    assert masks.shape == (1, 14, 50_176)
    assert sum(held) < 10 * 15 * 50_176
    torch.testing.assert_close(
        masks.sum(2), torch.linspace(0, 1, 16)[None, 1:-1] * 50_176, atol=1.0, rtol=0
    )
    (grad,) = torch.autograd.grad(masks[0, 7, 0], s)
    assert torch.isfinite(grad).all()


def test_temperature_and_noise_are_on_the_scale_of_the_other_sorter() -> None:
    s = scores(50)
    fractions = torch.tensor([0.3])
    expected = RankTransport(0.2).top_masks(s, fractions)
    torch.testing.assert_close(
        RankTransport(0.1).top_masks(s, fractions, temperature=0.6), expected
    )
    noisy = RankTransport().top_masks(
        s, fractions, noise_scale=1.0, generator=torch.Generator().manual_seed(0)
    )
    clean = RankTransport().top_masks(s, fractions)
    correlation = torch.corrcoef(torch.stack([noisy.flatten(), clean.flatten()]))[0, 1]
    assert 0.5 < float(correlation) < 0.98


def test_stays_in_single_precision_inside_autocast() -> None:
    s = scores(50).float()
    expected = RankTransport().top_masks(s, FRACTIONS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(RankTransport().top_masks(s, FRACTIONS), expected)
        assert RankTransport().top_masks(s.bfloat16(), FRACTIONS).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"regularisation": 0.0}, ValueError, "regularisation must be finite and above 0, got 0.0"),
        ({"noise_scale": -1.0}, ValueError, "noise_scale must be finite and at least 0, got -1.0"),
        ({"n_iterations": 0}, ValueError, "n_iterations must be at least 1, got 0"),
        ({"normalise": "ranks"}, ValueError, "normalise must be one of rank, range, got 'ranks'"),
        ({"score_range": "x"}, TypeError, "score_range must be a number, got str"),
    ],
)
def test_bad_numbers(change: dict[str, Any], error: type[Exception], message: str) -> None:
    assert isinstance(RankTransport(), Sorter)
    with pytest.raises(error, match=message):
        RankTransport(**change)


def test_bad_overrides() -> None:
    with pytest.raises(ValueError, match="temperature must be finite and above 0, got -1"):
        RankTransport().top_masks(scores(), FRACTIONS, temperature=-1.0)
    with pytest.raises(ValueError, match="noise_scale must be finite and at least 0, got -1"):
        RankTransport().top_masks(scores(), FRACTIONS, noise_scale=-1.0)
    with pytest.warns(RuntimeWarning, match="Try n_iterations=None or a higher regularisation"):
        RankTransport(n_iterations=1, tolerance=1e-6, normalise="range").top_masks(
            scores(), FRACTIONS
        )
