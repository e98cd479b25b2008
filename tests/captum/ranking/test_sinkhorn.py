"""Soft permutations agree with a plain loop, converge, and do not care what scale scores have."""

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from usu_captum.ranking._sinkhorn import GumbelSinkhorn, gumbel_sinkhorn
from usu_captum.ranking._sorter import Sorter, gumbel, sorted_start, standardise

FRACTIONS = torch.linspace(0, 1, 6, dtype=torch.float64)


def plain(exponent: Tensor, n_iterations: int) -> Tensor:
    """Normalise over ranks, then over items, with nothing clever."""
    log_plan = exponent
    for _ in range(n_iterations):
        log_plan = log_plan.log_softmax(1)
        log_plan = log_plan.log_softmax(2)
    return log_plan.exp()


def scores(d: int = 9, size: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, d, dtype=torch.float64, generator=generator)


def published_exponent(s: Tensor, temperature: float) -> Tensor:
    r = torch.linspace(1, 0, s.shape[1], dtype=s.dtype)
    return -((s[:, None, :] - r[:, None]) ** 2) / temperature


@pytest.mark.parametrize("n_iterations", [1, 7, 30])
def test_the_published_form_is_the_plain_loop(n_iterations: int) -> None:
    s = scores().requires_grad_()
    ours = gumbel_sinkhorn(
        s, n_iterations=n_iterations, score_range=None, warm_start=False, tolerance=10.0
    )
    theirs = plain(published_exponent(s, 0.3), n_iterations)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(ours.shape, dtype=ours.dtype)
    (mine,) = torch.autograd.grad((ours * weights).sum(), s, retain_graph=True)
    (other,) = torch.autograd.grad((theirs * weights).sum(), s)
    torch.testing.assert_close(mine, other)


def test_the_default_is_the_converged_plain_loop_of_stretched_scores() -> None:
    s = scores().requires_grad_()
    ours = gumbel_sinkhorn(s, tolerance=1e-9)
    stretched = (s - s.amin(1, True)) * 10 / (s.amax(1, True) - s.amin(1, True))
    theirs = plain(published_exponent(stretched, 0.3), 2000)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    weights = torch.randn(ours.shape, dtype=ours.dtype)
    (mine,) = torch.autograd.grad((ours * weights).sum(), s, retain_graph=True)
    (other,) = torch.autograd.grad((theirs * weights).sum(), s)
    torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("warm_start", [True, False])
@pytest.mark.parametrize("noise_scale", [0.0, 0.5])
def test_gradients(warm_start: bool, noise_scale: float) -> None:
    def masks(s: Tensor) -> Tensor:
        sorter = GumbelSinkhorn(1.0, n_iterations=6, warm_start=warm_start, tolerance=99.0)
        generator = torch.Generator().manual_seed(3)
        return sorter.top_masks(s, FRACTIONS, noise_scale=noise_scale, generator=generator)

    assert torch.autograd.gradcheck(masks, scores(5).requires_grad_())


def test_gradients_of_examples_that_stop_at_different_steps() -> None:
    # The warm start needs five steps everywhere, so the plain one has to tell examples apart.
    s = torch.stack([torch.linspace(0, 0.1, 5), torch.linspace(0, 9, 5).roll(2)]).double()

    def plan(s: Tensor) -> Tensor:
        return gumbel_sinkhorn(s, score_range=None, warm_start=False, tolerance=1e-3)

    torch.testing.assert_close(plan(s)[:1], plan(s[:1]), atol=0, rtol=0)
    torch.testing.assert_close(plan(s)[1:], plan(s[1:]), atol=0, rtol=0)
    assert torch.autograd.gradcheck(plan, s.requires_grad_())


@pytest.mark.parametrize("ratio", [3, 33, 200, 1000])
@pytest.mark.parametrize("power", [1, 3])
def test_converges_at_any_sharpness(ratio: float, power: int) -> None:
    s = scores(100) ** power
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = gumbel_sinkhorn(s.float(), temperature=1.0, score_range=float(ratio))
    assert (plan.sum(1) - 1).abs().max() < 0.05
    torch.testing.assert_close(plan.sum(2), torch.ones(2, 100), atol=1e-4, rtol=0)
    tight = gumbel_sinkhorn(s, temperature=1.0, score_range=float(ratio), tolerance=1e-6)
    assert (tight.sum(1) - 1).abs().max() < 1e-6


def test_few_published_iterations_warn_and_enough_do_not() -> None:
    s = torch.rand(1, 60) * 120
    options: Any = {"score_range": None, "temperature": 1.0, "warm_start": False}
    with pytest.warns(RuntimeWarning, match=r"did not converge in 30 .* Try n_iterations=None"):
        gumbel_sinkhorn(s, n_iterations=30, **options)
    plan = gumbel_sinkhorn(s, **options)
    assert (plan.sum(1) - 1).abs().max() < 0.05


@pytest.mark.parametrize(
    ("ratio", "n_iterations", "share"),
    [(3, 30, 0.44), (10, 30, 0.63), (30, 30, 0.77), (200, 30, 0.36), (120, 100, 0.87)],
)
def test_published_softness(ratio: float, n_iterations: int, share: float) -> None:
    """Share of the soft top quarter's mass on the true top quarter of 400 uniform scores."""
    s = torch.rand(4, 400, generator=torch.Generator().manual_seed(0)) * ratio
    sorter = GumbelSinkhorn(
        1.0, n_iterations=n_iterations, score_range=None, warm_start=False, tolerance=99.0
    )
    mask = sorter.top_masks(s, torch.tensor([0.25]))[:, 0]
    found = mask.gather(1, s.topk(100).indices).sum(1).mean() / 100
    assert abs(float(found) - share) < 0.06


def test_sharp_masks_follow_the_scores_where_the_published_ones_do_not() -> None:
    s = torch.rand(1, 400, generator=torch.Generator().manual_seed(0)) * 3000
    top = s.topk(100).indices
    options: Any = {"temperature": 1.0, "score_range": None, "tolerance": 1e9}
    for warm, low, high in ((True, 0.97, 1.0), (False, 0.0, 0.3)):
        sorter = GumbelSinkhorn(n_iterations=10, warm_start=warm, **options)
        mask = sorter.top_masks(s, torch.tensor([0.25]))[:, 0]
        assert low < float(mask.gather(1, top).sum()) / 100 < high


def test_scale_and_shift_do_not_matter() -> None:
    s = scores()
    expected = gumbel_sinkhorn(s)
    torch.testing.assert_close(gumbel_sinkhorn(1e-4 * s - 7), expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(gumbel_sinkhorn(1e-20 * s), expected, atol=1e-9, rtol=0)
    raw = gumbel_sinkhorn(s, score_range=None, tolerance=1e-10)
    torch.testing.assert_close(
        gumbel_sinkhorn(s + 5, score_range=None, tolerance=1e-10), raw, atol=1e-8, rtol=0
    )
    # The square and the product differ by terms of one row or one column alone.
    product = 2 * s[:, None, :] * torch.linspace(1, 0, 9, dtype=s.dtype)[:, None] / 0.3
    torch.testing.assert_close(plain(product, 3000), raw, atol=1e-8, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0.05, 2.0))
def test_masks_are_masks(seed: int, d: int, temperature: float) -> None:
    s = scores(d, 1, seed)
    masks = GumbelSinkhorn(temperature).top_masks(s, FRACTIONS)
    torch.testing.assert_close(masks.sum(2), (FRACTIONS * d)[None], atol=1e-9, rtol=1e-9)
    assert masks.min() >= 0
    assert masks.max() <= 1.05
    assert masks.diff(dim=1).min() >= -1e-12
    order = torch.randperm(d, generator=torch.Generator().manual_seed(seed))
    permuted = GumbelSinkhorn(temperature).top_masks(s[:, order], FRACTIONS)
    torch.testing.assert_close(permuted, masks[:, :, order])
    lowest = GumbelSinkhorn(temperature).top_masks(-s, FRACTIONS)
    torch.testing.assert_close(lowest, 1 - masks.flip(1), atol=0.05, rtol=0)


def test_a_fraction_between_two_ranks_interpolates() -> None:
    s = scores(4, 1)
    masks = GumbelSinkhorn().top_masks(s, torch.tensor([0.25, 0.3125, 0.5]).double())[0]
    torch.testing.assert_close(masks[1], 0.75 * masks[0] + 0.25 * masks[2])


def test_cold_masks_are_hard() -> None:
    s = scores(8)
    mask = GumbelSinkhorn(0.001).top_masks(s, torch.tensor([0.5]))[:, 0]
    hard = torch.zeros_like(s).scatter_(1, s.topk(4).indices, 1.0)
    torch.testing.assert_close(mask, hard, atol=0.05, rtol=0)


def test_noise_is_gumbel_and_drawn_from_the_generator() -> None:
    draws = gumbel(torch.empty(200_000, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert abs(float(draws.mean()) - 0.5772) < 0.01
    assert abs(float(draws.var()) - 1.6449) < 0.03
    s, before = scores(), torch.get_rng_state()
    options: Any = {"fractions": FRACTIONS, "noise_scale": 1.0}
    first, second, other = (
        GumbelSinkhorn().top_masks(s, generator=torch.Generator().manual_seed(k), **options)
        for k in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_added_before_the_temperature_divides() -> None:
    s, seed = scores(), 4
    ours = gumbel_sinkhorn(
        s,
        noise_scale=0.7,
        n_iterations=30,
        score_range=None,
        warm_start=False,
        tolerance=99.0,
        generator=torch.Generator().manual_seed(seed),
    )
    noise = gumbel(torch.empty(2, 9, 9, dtype=s.dtype), torch.Generator().manual_seed(seed))
    theirs = plain(published_exponent(s, 0.3) + 0.7 * noise / 0.3, 30)
    torch.testing.assert_close(ours, theirs)


def test_flat_scores_give_even_masks_and_finite_gradients() -> None:
    s = torch.zeros(1, 16, requires_grad=True)
    masks = GumbelSinkhorn().top_masks(s, FRACTIONS)
    torch.testing.assert_close(masks, FRACTIONS.float()[None, :, None].expand(1, 6, 16))
    (grad,) = torch.autograd.grad(masks[0, 2, 3], s)
    assert torch.isfinite(grad).all()
    assert grad[0, 3] > 0


def test_stays_in_single_precision_inside_autocast() -> None:
    s = scores(50).float().requires_grad_()
    expected = GumbelSinkhorn().top_masks(s, FRACTIONS)
    (wanted,) = torch.autograd.grad(expected[0, 2, 3], s)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masks = GumbelSinkhorn().top_masks(s, FRACTIONS)
    (grad,) = torch.autograd.grad(masks[0, 2, 3], s)
    assert masks.dtype == torch.float32
    assert torch.equal(masks, expected)
    torch.testing.assert_close(grad, wanted)
    assert GumbelSinkhorn().top_masks(s.half(), FRACTIONS).dtype == torch.float32


def test_memory_of_the_backward_pass_does_not_grow_with_iterations() -> None:
    sizes = []
    for n_iterations in (2, 40):
        held: list[int] = []

        def pack(value: Tensor, held: list[int] = held) -> Tensor:
            held.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            gumbel_sinkhorn(scores(40).requires_grad_(), n_iterations=n_iterations, tolerance=99.0)
        sizes.append(sum(held))
    assert sizes[1] - sizes[0] == 38 * 2 * 40


def test_the_start_is_the_hard_sorts_potential() -> None:
    s = scores(6, 1)
    anchors = torch.linspace(1, 0, 6, dtype=s.dtype)
    start = sorted_start(s, anchors, torch.arange(1.0, 6))
    ranks = (anchors[:, None] * s[:, None, :] + start[:, :, None])[0].argmax(0)
    assert torch.equal(ranks, s[0].argsort(descending=True).argsort())


def test_agrees_with_pot() -> None:
    ot = pytest.importorskip("ot")
    s = scores(12, 1)
    r = torch.linspace(1, 0, 12, dtype=s.dtype)
    cost = ((s - r[:, None]) ** 2).numpy()
    ours = gumbel_sinkhorn(s, score_range=None, tolerance=1e-10)[0]
    even = torch.full((12,), 1 / 12, dtype=s.dtype).numpy()
    theirs = 12 * ot.sinkhorn(even, even, cost, 0.3, method="sinkhorn_log", stopThr=1e-13)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-8, rtol=0)


def test_standardise_gradient() -> None:
    assert torch.autograd.gradcheck(lambda s: standardise(s, 10.0), scores(4).requires_grad_())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "temperature must be finite and above 0, got 0.0"),
        ({"noise_scale": -1.0}, ValueError, "noise_scale must be finite and at least 0, got -1.0"),
        ({"n_iterations": 0}, ValueError, "n_iterations must be at least 1, got 0"),
        ({"n_iterations": 2.5}, TypeError, "n_iterations must be an integer, got float"),
        ({"score_range": -2.0}, ValueError, "score_range must be finite and above 0"),
        ({"tolerance": float("nan")}, ValueError, "tolerance must be finite and above 0"),
    ],
)
def test_bad_numbers(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GumbelSinkhorn(**change)
    with pytest.raises(error, match=message):
        gumbel_sinkhorn(scores(), **change)


def test_bad_tensors() -> None:
    sorter = GumbelSinkhorn()
    assert isinstance(sorter, Sorter)
    with pytest.raises(ValueError, match=r"scores must have shape \(B, d\).*got \(2, 3, 4\)"):
        sorter.top_masks(torch.zeros(2, 3, 4), FRACTIONS)
    with pytest.raises(ValueError, match="scores must be finite, got 1 NaN"):
        sorter.top_masks(torch.tensor([[float("nan"), 1.0]]), FRACTIONS)
    with pytest.raises(TypeError, match="scores must be a floating-point tensor"):
        sorter.top_masks(torch.zeros(2, 3, dtype=torch.long), FRACTIONS)
    with pytest.raises(ValueError, match=r"fractions must be .* got \[1.5\].* Try torch.linspace"):
        sorter.top_masks(scores(), torch.tensor([1.5]))
