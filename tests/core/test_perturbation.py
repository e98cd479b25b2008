"""Masked perturbation and gradient scores against a model whose effects are known."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from usu_core import USU, GradientScorer, MaskedPerturbation, Quadtree, ShapleyRegression
from usu_core.scoring import Scorer, fill_images, model_score
from usu_core.scoring._coalitions import Coalitions, balanced_coalitions, banzhaf_values
from usu_core.scoring._model import CountedScore
from usu_core.segments import segment_mean, segment_sum

FILLS = ["blur", "mean", "zero", torch.tensor([0.3, -0.2]).view(2, 1, 1)]


def problem(rand: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Images, weights and labels, with four segments in one image and three in the other."""
    images, weights = rand(2, 2, 6, 8), rand(2, 2, 6, 8) - 0.5
    labels = Quadtree((2,))(images)[0].clone()
    labels[1][labels[1] == 3] = 2
    return images, weights, labels


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("mode", ["drop", "keep", "both"])
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 64])
def test_equals_the_additive_models_own_effects(
    rand: Any, linear: Any, fill: Any, mode: str, chunk_size: int
) -> None:
    images, weights, labels = problem(rand)
    model = linear(weights)
    active = torch.tensor([[True, True, False, True], [True, True, True, False]])
    scorer = MaskedPerturbation(mode=mode, fill=fill, chunk_size=chunk_size)
    values = scorer(images, model)(labels, active)
    # Removing a segment costs what keeping it alone adds: the model has no interactions.
    effect = ((images - fill_images(images, fill)) * weights).sum(1)
    wanted = segment_sum(effect, labels, 4).clamp(min=0) * active
    torch.testing.assert_close(values, wanted, atol=1e-5, rtol=1e-4)
    assert sum(model.asked) == (1 + (mode == "both")) * (2 + int(active.sum()))
    assert max(model.asked) <= chunk_size


def test_the_modes_differ_where_segments_interact() -> None:
    images, labels = torch.tensor([[[2.0, 3.0, 4.0]]]), torch.tensor([[0, 1, 2]])
    score = model_score(lambda x: x[:, 0, 0] * x[:, 0, 1] + x[:, 0, 2])
    wanted = {"drop": [6.0, 6.0, 4.0], "keep": [0.0, 0.0, 4.0], "both": [3.0, 3.0, 4.0]}
    for mode, values in wanted.items():
        scorer = MaskedPerturbation(mode=mode, fill="zero")
        assert scorer(images, score)(labels, torch.ones(1, 3).bool()).tolist() == [values]


def test_coalitions_find_evidence_that_the_whole_image_has_to_spare() -> None:
    """Either of the first two pixels will do, so neither is missed; the last adds a little."""
    images, labels = torch.tensor([[[2.0, 2.0, 0.5, 0.0]]]), torch.arange(4)[None]
    score = model_score(lambda x: x[:, 0, :2].amax(1) + x[:, 0, 2:].sum(1))
    active = torch.ones(1, 4).bool()

    def values(samples: int, seed: int = 0) -> Tensor:
        scorer = MaskedPerturbation("coalitions", "zero", samples=samples, seed=seed)
        return scorer(images, score)(labels, active)

    # The drops are 0, 0, 0.5 and 0. Half of the time the other one of the two is hidden: 2 / 2.
    wanted = torch.tensor([[1.0, 1.0, 0.5, 0.0]])
    torch.testing.assert_close(values(5000), wanted, atol=0.04, rtol=0)
    few, again, others = (values(6, seed) for seed in (0, 0, 1))
    assert torch.equal(few, again)
    assert not torch.equal(few, others)


def test_banzhaf_values_are_differences_of_means_over_the_coalitions_drawn(rand: Any) -> None:
    """Against every coalition in turn, where segments interact and one stays in the image."""
    images = rand(2, 1, 6) + 0.5
    asked: list[Tensor] = []
    answers: list[Tensor] = []
    labels = torch.tensor([[0, 1, 2, 3, 3, 4], [0, 0, 1, 2, 3, 4]])
    active = torch.tensor([[True, True, False, True, True], [False] * 5])

    def remember(x: Tensor) -> Tensor:
        asked.append(x[:, 0])
        answers.append(x[:, 0, :2].prod(1) + x[:, 0, 2:].sum(1))
        return answers[-1]

    found = Coalitions(images, images * 0, model_score(remember), "logit", 7)
    values = banzhaf_values(found, labels, active, samples=50, seed=3)
    shown, outcome = torch.cat(asked) != 0, torch.cat(answers)
    assert len(shown) == 50
    assert shown[:, 2].all()  # The third segment was not asked about.
    for pixel, segment in ((0, 0), (1, 1), (3, 3), (5, 4)):
        member = shown[:, pixel]
        difference = outcome[member].mean() - outcome[~member].mean()
        torch.testing.assert_close(values[0, segment], difference, atol=1e-5, rtol=1e-5)
    assert shown[:, 0].float().mean() == pytest.approx(0.5, abs=0.2)
    assert float(values[0, 2]) == 0
    assert not values[1].any()


def test_what_two_segments_do_together_is_not_taken_for_what_either_does(rand: Any) -> None:
    """Complements cancel it, whatever is drawn."""
    images, labels = rand(1, 1, 9) + 0.1, torch.arange(9)[None]
    pairs = torch.ones(9, 9).triu(1) * 7.0

    def effect(x: Tensor, together: Tensor) -> Tensor:
        sign = 2.0 * (x[:, 0] != 0) - 1
        return (sign * images[0, 0]).sum(1) + torch.einsum("np,pq,nq->n", sign, together, sign)

    found = [
        banzhaf_values(
            Coalitions(images, images * 0, model_score(lambda x, m=m: effect(x, m)), "logit", 99),
            labels, torch.ones(1, 9).bool(), samples=10, seed=2,
        )
        for m in (pairs, 0 * pairs)
    ]  # fmt: skip
    torch.testing.assert_close(*found, atol=1e-4, rtol=0)


@pytest.mark.parametrize("segments", [1, 2, 4, 8, 16, 64])
def test_a_power_of_two_of_segments_measures_additive_models_without_error(
    rand: Any, segments: int
) -> None:
    images, labels = rand(1, 1, segments) + 0.1, torch.arange(segments)[None]
    found = Coalitions(images, images * 0, model_score(lambda x: x.sum((1, 2))), "logit", 99)
    active = torch.ones(1, segments).bool()
    values = banzhaf_values(found, labels, active, None, seed=5)
    torch.testing.assert_close(values, images[:, 0], atol=1e-5, rtol=1e-5)


def test_three_segments_are_asked_in_all_eight_ways(rand: Any) -> None:
    images, asked = rand(1, 1, 3) + 0.1, []

    def remember(x: Tensor) -> Tensor:
        asked.extend((x[:, 0] != 0).tolist())
        return x.prod(2).sum(1)

    found = Coalitions(images, images * 0, model_score(remember), "logit", 99)
    banzhaf_values(found, torch.arange(3)[None], torch.ones(1, 3).bool(), 8, seed=0)
    assert len({tuple(seats) for seats in asked}) == len(asked) == 8


def test_every_image_has_coalitions_for_its_own_segments(rand: Any) -> None:
    """Of the active ones, wherever their numbers lie, and whatever else is in the batch."""
    images = rand(3, 1, 20)
    labels = torch.arange(20).expand(3, -1)
    active = torch.zeros(3, 20).bool()
    active[0, [1, 19]] = active[1, ::2] = active[2, 4] = True
    score = model_score(lambda x: x.square().sum((1, 2)) + x[:, 0, 4] * x[:, 0, 1])
    counted = CountedScore(score)
    found = Coalitions(images, images * 0, counted, "logit", 7)
    together = banzhaf_values(found, labels, active, None, seed=1)
    assert counted.evaluations == 2 * (2 + 16 + 1)
    for i in range(3):
        alone = Coalitions(images[i : i + 1], images[:1] * 0, score, "logit", 99)
        one = slice(i, i + 1)
        values = banzhaf_values(alone, labels[one], active[one], None, seed=1)
        torch.testing.assert_close(values, together[one])


def test_fewer_or_more_pairs_than_a_power_of_two_stay_near_balance() -> None:
    for segments, pairs in ((56, 28), (16, 28), (100, 83), (12, 1500)):
        member = balanced_coalitions(segments, pairs, seed=0).double()
        assert member.shape == (2 * pairs, segments)
        assert torch.equal(member[:pairs], 1 - member[pairs:])
        correlation = torch.corrcoef(member.T) - torch.eye(segments)
        together = correlation.square().sum() / (segments * (segments - 1))
        assert together < (0.5 if segments < pairs else 0.8) / pairs  # independent pairs: 1 / pairs


@pytest.mark.parametrize(("segments", "pairs"), [(100, 64), (200, 64), (64, 28), (12, 6000)])
def test_no_two_segments_go_together_throughout(segments: int, pairs: int) -> None:
    """Each would be taken for the other; not where they outnumber the pairs either."""
    for seed in range(10):
        sign = 2 * balanced_coalitions(segments, pairs, seed).double() - 1
        together = (sign.T @ sign / (2 * pairs)).fill_diagonal_(0)
        assert together.abs().max() < 0.9


def test_more_than_1024_pairs_are_not_the_same_coalitions_again() -> None:
    drawn = balanced_coalitions(40, 3000, seed=0)
    assert len({tuple(seats) for seats in drawn.tolist()}) == 6000


def test_each_coalition_by_itself_is_a_random_half() -> None:
    """So that estimates are unbiased: four patterns of two members are as frequent."""
    drawn = torch.stack([balanced_coalitions(9, 3, seed) for seed in range(2000)])
    assert (drawn.float().mean(0) - 0.5).abs().max() < 0.05
    for one, other in ((0, 1), (2, 8), (7, 8)):  # all of two matrices but the first
        both = (drawn[..., one] & drawn[..., other]).float().mean(0)
        assert (both - 0.25).abs().max() < 0.05


def test_coalitions_of_the_first_segments_do_not_depend_on_how_many_follow() -> None:
    many = balanced_coalitions(90, 12, seed=3)
    for count in (1, 15, 16, 60):
        assert torch.equal(balanced_coalitions(count, 12, seed=3), many[:, :count])


@pytest.mark.parametrize(
    "scorer",
    [MaskedPerturbation(mode="coalitions", samples=16), ShapleyRegression(samples=16)],
    ids=["coalitions", "Shapley"],
)
def test_coalitions_of_an_image_do_not_depend_on_the_batch(rand: Any, scorer: Scorer) -> None:
    images, weights, labels = problem(rand)
    score = model_score(lambda x: (x * weights[:1]).sum((1, 2, 3)).square())
    active = torch.ones(2, 4).bool()
    active[1, 3] = False
    both = scorer(images, score)(labels, active)
    for i in range(2):
        count = 4 - i
        alone = scorer(images[i : i + 1], score)(labels[i : i + 1], active[i : i + 1, :count])
        torch.testing.assert_close(both[i : i + 1, :count], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scorer", [MaskedPerturbation, GradientScorer, ShapleyRegression])
@pytest.mark.parametrize("output", ["probability", "logit", "log-odds"])
def test_the_wanted_output_and_the_example_reach_the_model(
    rand: Any, linear: Any, scorer: Any, output: str
) -> None:
    images, weights, labels = problem(rand)
    model = linear(weights)
    made = scorer(output=output)
    assert isinstance(made, Scorer)
    made(images, model)(labels, torch.tensor([[True] * 4, [True] * 3 + [False]]))
    assert set(model.outputs) == {output}
    assert set(torch.cat(model.examples).tolist()) == {0, 1}


@pytest.mark.parametrize("fill", FILLS)
def test_gradient_scores_equal_their_closed_form(rand: Any, linear: Any, fill: Any) -> None:
    images, weights, labels = problem(rand)
    active = torch.tensor([[True, True, False, True], [True, True, True, False]])
    values = GradientScorer(fill=fill)(images, linear(weights))(labels, active)
    effect = (weights * (images - fill_images(images, fill))).sum(1).abs()
    torch.testing.assert_close(values, segment_mean(effect, labels, 4) * active)


def test_gradient_scores_ask_once_for_all_levels(rand: Any, linear: Any) -> None:
    images, weights, labels = problem(rand)
    model = linear(weights)
    score_level = GradientScorer()(images, model)
    for _ in range(3):
        score_level(labels, torch.ones(2, 4).bool())
    assert model.asked == [2]


def test_gradient_scores_are_found_in_inference_mode(rand: Any, linear: Any) -> None:
    images, weights, labels = problem(rand)
    active = torch.ones(2, 4).bool()
    wanted = GradientScorer()(images, linear(weights))(labels, active)
    with torch.inference_mode():
        values = GradientScorer()(images.clone(), linear(weights))(labels, active)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(values, wanted)


def test_gradients_of_parameters_and_flags_are_left_alone(rand: Any) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    before = {name: p.clone() for name, p in network.named_parameters()}
    images = rand(2, 1, 3, 4).requires_grad_()
    labels = Quadtree((2,))(images)[0]
    for scorer in (MaskedPerturbation(), GradientScorer(), ShapleyRegression(samples=8)):
        score = model_score(lambda x: network(x)[:, 1])
        with torch.no_grad():
            scorer(images, score)(labels, torch.ones(2, 4).bool())
        values = scorer(images, score)(labels, torch.ones(2, 4).bool())
        assert not values.requires_grad
    assert images.grad is None
    for name, p in network.named_parameters():
        assert p.grad is None
        assert p.requires_grad
        assert torch.equal(p, before[name])


@pytest.mark.parametrize(
    "scorer",
    [
        MaskedPerturbation(mode="drop"),
        MaskedPerturbation(mode="coalitions"),
        GradientScorer(),
        ShapleyRegression(),
    ],
)
def test_the_global_generator_is_left_alone(rand: Any, linear: Any, scorer: Scorer) -> None:
    images, weights, labels = problem(rand)
    state = torch.get_rng_state()
    scorer(images, linear(weights))(labels, torch.tensor([[True] * 4, [True] * 3 + [False]]))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "score",
    [
        lambda x: x.detach().sum((1, 2, 3)),
        lambda x: torch.ones(len(x), requires_grad=True) * 2,
    ],
    ids=["detached", "of something else"],
)
def test_scores_that_do_not_depend_differentiably_on_the_images(rand: Any, score: Any) -> None:
    with pytest.raises(ValueError, match=r"score must be differentiable .*MaskedPerturbation"):
        GradientScorer()(rand(2, 1, 4, 4), model_score(score))


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda x: x.sum((2, 3)), r"score must return one number per image, got \(4, 3\) for 4"),
        (lambda x: x.sum(), r"one number per image, got \(\) for 4 images"),
        (lambda x: [1.0] * len(x), "one number per image, got list for 4 images"),
    ],
)
def test_scores_of_another_shape_are_refused(rand: Any, score: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CountedScore(score).evaluate(rand(4, 3, 2, 2), torch.arange(4), "logit")


def test_counted_scores_count_flatten_and_widen() -> None:
    counted = CountedScore(lambda x: x.sum((1, 2)).bfloat16().unsqueeze(1))
    values = counted.evaluate(torch.ones(3, 1, 2), torch.arange(3), "logit")
    assert values.tolist() == [2.0] * 3
    assert values.dtype == torch.float32
    counted.evaluate(torch.ones(2, 1, 2), torch.arange(2), "logit")
    assert counted.evaluations == 5


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: MaskedPerturbation(mode="remove"),
            ValueError,
            "mode must be one of coalitions, d",
        ),
        (lambda: MaskedPerturbation(fill="black"), ValueError, "fill must be one of blur"),
        (lambda: MaskedPerturbation(output="p"), ValueError, "output must be one of"),
        (lambda: MaskedPerturbation(chunk_size=0), ValueError, "chunk_size must be at least 1"),
        (lambda: MaskedPerturbation(chunk_size=1.5), TypeError, "chunk_size must be an integer"),
        (lambda: MaskedPerturbation(samples=1), ValueError, "samples must be at least 2, got 1"),
        (lambda: MaskedPerturbation(seed=-1), ValueError, "seed must be at least 0, got -1"),
        (lambda: GradientScorer(fill="grey"), ValueError, "fill must be one of"),
        (lambda: GradientScorer(output="p"), ValueError, "output must be one of"),
        (lambda: ShapleyRegression(samples=1), ValueError, "samples must be at least 2, got 1"),
        (lambda: ShapleyRegression(chunk_size=0), ValueError, "chunk_size must be at least 1"),
    ],
)
def test_unknown_options_are_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_coalitions_are_made_in_chunks_too(rand: Any, linear: Any, monkeypatch: Any) -> None:
    """Every one of P segments has P places: all at once would be P squared."""
    images, weights, labels = problem(rand)
    sizes, evaluate = [], Coalitions.evaluate

    def counted(self: Coalitions, labels: Tensor, present: Tensor, example: Tensor) -> Tensor:
        sizes.append(len(present))
        return evaluate(self, labels, present, example)

    monkeypatch.setattr(Coalitions, "evaluate", counted)
    scorer = MaskedPerturbation(mode="both", fill="zero", chunk_size=3)
    scorer(images, linear(weights))(labels, torch.ones(2, 4).bool())
    assert max(sizes) == 3


def test_gradient_scores_are_in_single_precision(rand: Any, linear: Any) -> None:
    images, weights, labels = problem(rand)
    for dtype in (torch.bfloat16, torch.float64):
        score_level = GradientScorer()(images.to(dtype), linear(weights.to(dtype)))
        assert score_level(labels, torch.ones(2, 4).bool()).dtype == torch.float32


def test_effects_at_hand_are_counted_once_per_image(rand: Any) -> None:
    class Known:
        def evaluate(self, images: Tensor, example: Tensor, output: str) -> Tensor:
            return images.flatten(1).sum(1)

        def pixel_effects(self, images: Tensor, output: str) -> Tensor | None:
            return images[:, 0].abs() if output == "logit" else None

    counted = CountedScore(Known())
    assert counted.pixel_effects(rand(3, 1, 2, 2), "probability") is None
    assert counted.evaluations == 0
    assert counted.pixel_effects(rand(3, 1, 2, 2), "logit") is not None
    assert counted.evaluations == 3


@pytest.mark.parametrize(("segments", "asked"), [(1, 2), (2, 4), (16, 32), (17, 64), (65, 128)])
def test_finer_segments_do_not_cost_more_than_128_unasked(
    rand: Any, segments: int, asked: int
) -> None:
    counted = CountedScore(model_score(lambda x: x.sum((1, 2))))
    scorer = MaskedPerturbation(fill="zero")
    scorer(rand(1, 1, segments), counted)(
        torch.arange(segments)[None], torch.ones(1, segments).bool()
    )
    assert counted.evaluations == asked


def test_an_odd_number_of_samples_is_rounded_up_to_pairs(rand: Any) -> None:
    counted = CountedScore(model_score(lambda x: x.sum((1, 2))))
    scorer = MaskedPerturbation(fill="zero", samples=7)
    scorer(rand(1, 1, 3), counted)(torch.arange(3)[None], torch.ones(1, 3).bool())
    assert counted.evaluations == 8


def test_segments_that_speak_against_the_class_score_nothing() -> None:
    score = model_score(lambda x: x[:, 0, 0] - x[:, 0, 1])
    scorer = MaskedPerturbation(fill="zero")
    values = scorer(torch.ones(1, 1, 2), score)(torch.arange(2)[None], torch.ones(1, 2).bool())
    assert values.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("mode", ["drop", "keep", "both"])
@pytest.mark.parametrize("chunk_size", [1, 3, 64])
def test_what_batches_of_another_size_round_otherwise_is_no_effect(
    mode: str, chunk_size: int
) -> None:
    """Were it one, the largest of it would become 1, and ``chunk_size`` decide the map."""

    def score(x: Tensor) -> Tensor:
        return torch.full((len(x),), 0.7 + 1e-7 * (len(x) % 3 - 1) * (-1 if mode == "drop" else 1))

    scorer = MaskedPerturbation(mode, chunk_size=chunk_size)
    active = torch.ones(2, 4).bool()
    values = scorer(torch.ones(2, 1, 4), model_score(score))(torch.arange(4).repeat(2, 1), active)
    assert values.dtype == torch.float32
    assert not values.any()


def test_scores_that_are_not_finite_are_no_rounding() -> None:
    for bad in (torch.nan, torch.inf):
        score = model_score(lambda x, bad=bad: x[:, 0, 0].where(x[:, 0, 0] < 1, bad))
        scorer = MaskedPerturbation("drop", "zero")
        values = scorer(torch.ones(1, 1, 2), score)(torch.arange(2)[None], torch.ones(1, 2).bool())
        assert not values.isfinite().any()


@pytest.mark.parametrize("cls", [MaskedPerturbation, GradientScorer, ShapleyRegression])
def test_scorers_compare_by_the_values_of_their_fills(cls: Any) -> None:
    fill = torch.tensor([0.25, 0.5])
    one, same = cls(fill=fill), cls(fill=fill.clone())
    assert one == same
    assert hash(one) == hash(same)
    assert USU(scorer=one) == USU(scorer=same)
    for other in (fill + 1, fill[:1], fill.double(), fill.to("meta"), "blur"):
        assert one != cls(fill=other)
    assert one != cls(fill=fill, output="log-odds")
    assert one != "blur"
    assert cls() == cls()
    assert hash(cls()) == hash(cls())
