"""Paired statistics against hand-derived values and other libraries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.multitest import multipletests

from usu_cli.evaluate._statistics import bonferroni, holm, paired

P_VALUES = arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1))


@given(P_VALUES)
def test_corrections_are_those_of_statsmodels(p: np.ndarray) -> None:
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
    np.testing.assert_allclose(bonferroni(p), multipletests(p, method="bonferroni")[1])


def test_by_hand() -> None:
    # Ranks of 0.5, 1, 2, 3 are 1 to 4; the negative one is the smallest: (9 - 1) / 10.
    found = paired(np.array([1.0, 2.0, 3.0, -0.5, 0.0]))
    assert found.images == 5
    assert found.gain == pytest.approx(1.1)
    assert found.cohens_d == pytest.approx(1.1 / np.std([1, 2, 3, -0.5, 0], ddof=1))
    assert found.rank_biserial == pytest.approx(0.8)
    assert found.wins == pytest.approx((3 + 0.5) / 5)


def test_p_and_interval_are_those_of_scipy() -> None:
    gains = np.random.default_rng(1).normal(0.3, 1, 30)
    found = paired(gains, seed=4)
    assert found.p == stats.wilcoxon(gains).pvalue
    theirs = stats.bootstrap(
        (gains,), np.mean, method="BCa", n_resamples=9999, rng=np.random.default_rng(4)
    ).confidence_interval
    assert (found.low, found.high) == (theirs.low, theirs.high)
    assert found.low < found.gain < found.high


@pytest.mark.parametrize("gains", [[0.0, 0.0, 0.0, 0.0], [0.2, 0.2, 0.2, 0.2], [0.2]])
def test_differences_that_do_not_vary_have_a_point_for_an_interval(gains: list[float]) -> None:
    found = paired(np.array(gains))
    assert found.low == found.high == found.gain
    assert found.cohens_d == 0


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="one difference per image"):
        paired(np.array([]))


@settings(deadline=None)  # the interval takes what it takes
@given(arrays(np.float64, st.integers(3, 9), elements=st.floats(-5, 5, width=16)))
def test_turning_the_comparison_round_turns_the_signs(gains: np.ndarray) -> None:
    one, other = paired(gains), paired(-gains)
    assert one.gain == pytest.approx(-other.gain)
    assert one.rank_biserial == pytest.approx(-other.rank_biserial)
    assert one.wins == pytest.approx(1 - other.wins)
    assert one.p == pytest.approx(other.p)


def test_the_test_needs_three_pairs() -> None:
    from usu_cli.evaluate._statistics import signed_rank

    assert signed_rank(np.array([1.0, 2.0])) == 1.0
    assert signed_rank(np.array([1.0, 2.0, 3.0])) == pytest.approx(0.25)
    assert signed_rank(np.zeros(5)) == 1.0


def test_rounding_is_no_variation() -> None:
    found = paired(np.array([0.3, 0.1 + 0.2, 0.3, 0.3]))
    assert found.cohens_d == 0
    assert found.low == found.high == found.gain


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_where_scipy_has_no_interval_it_is_a_point() -> None:
    found = paired(np.array([0.0, 1e-120, 0.0, 0.0]))  # its cubes underflow
    assert found.low == found.high == found.gain
