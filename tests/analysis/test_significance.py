import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from bench.analysis.significance import (
    N_RESAMPLES,
    adjust_family,
    attainable_floor,
    compare_paired,
    sign_flip_p,
    smallest_n,
    wilcoxon_p,
)

REFERENCE = np.array([0.31, 0.29, 0.33, 0.30, 0.32])
MODEL = np.array([0.30, 0.27, 0.30, 0.30, 0.29])


def by_hand_sign_flip(differences: np.ndarray) -> float:
    """Count, over all sign patterns, the sums at least as far from zero as the observed one."""
    observed = abs(differences.sum())
    sums = [abs((np.array(signs) * differences).sum()) for signs in product((1, -1), repeat=len(differences))]
    return sum(value >= observed - 1e-12 for value in sums) / len(sums)


def test_a_small_case_by_hand():
    result = compare_paired(REFERENCE, MODEL, "seed")
    # Differences .01 .02 .03 .00 .03: mean .018, squared deviations sum to .00068, so sd = sqrt(.00068 / 4).
    sd = math.sqrt(0.00068 / 4)
    assert result.n == 5
    assert result.difference == pytest.approx(0.018)
    assert result.d_z == pytest.approx(0.018 / sd)
    half = 2.7764451051977987 * sd / math.sqrt(5)
    assert (result.ci_low, result.ci_high) == (pytest.approx(0.018 - half), pytest.approx(0.018 + half))
    assert (result.won, result.tied, result.lost) == (0.8, 0.2, 0.0)
    assert result.relative[0] == pytest.approx(0.018 / 0.292)
    # One of five pairs is tied, so only four can flip: all positive is 2 of 16 patterns.
    assert result.p_signflip == pytest.approx(2 / 16)
    assert result.floor == pytest.approx(2 / 16)


def test_agrees_with_scipys_paired_t():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=40), rng.normal(size=40)
    expected = stats.ttest_rel(a, b)
    result = compare_paired(a, b, "user")
    assert result.p_t == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert (result.ci_low, result.ci_high) == (pytest.approx(interval.low), pytest.approx(interval.high))


def test_patterns_that_tie_but_for_rounding_are_counted():
    # They add up to zero, which hundredths do not as floats: every pattern is as far from zero as what was seen.
    assert sign_flip_p(np.array([-0.02, -0.04, 0.02, -0.03, 0.07])) == 1.0


@settings(max_examples=40)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=9).filter(any))
def test_exact_sign_flip_counts_every_pattern(values: list[int]):
    differences = np.array(values, dtype=float) / 100
    assert sign_flip_p(differences) == pytest.approx(by_hand_sign_flip(differences))


@pytest.mark.parametrize("n", [30, 500])
def test_drawn_sign_flip_agrees_with_scipys_own(n: int):
    rng = np.random.default_rng(n)
    differences = rng.choice([0.0, 0.0, 0.0, 0.1, 0.2, -0.1, -0.15], size=n) + np.zeros(n)
    differences[0] = 0.3
    expected = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=N_RESAMPLES,
        rng=np.random.default_rng(1),
    ).pvalue
    ours = sign_flip_p(differences)
    error = math.sqrt(expected * (1 - expected) / N_RESAMPLES)
    assert ours == pytest.approx(expected, abs=6 * max(error, 1e-3))


def test_drawn_sign_flip_counts_the_observed_labelling_and_repeats():
    differences = np.abs(np.random.default_rng(0).normal(1.0, 0.1, 60))
    assert sign_flip_p(differences) == pytest.approx(2 / (N_RESAMPLES + 1))
    assert sign_flip_p(differences) == sign_flip_p(differences.copy())


def test_tied_users_change_no_p():
    rng = np.random.default_rng(5)
    differences = rng.normal(0.1, 1.0, 100)
    with_ties = np.concatenate([differences, np.zeros(400)])
    assert sign_flip_p(with_ties) == sign_flip_p(differences)


def test_wilcoxon_ties_equal_differences_that_rounding_made_unequal():
    differences = np.array([0.1 + 0.2, 0.3, -0.3, 0.5, 0.7])
    exact = np.array([0.3, 0.3, -0.3, 0.5, 0.7])
    assert wilcoxon_p(differences) == wilcoxon_p(exact) == stats.wilcoxon(exact, zero_method="pratt").pvalue


@pytest.mark.parametrize(
    ("n", "floor"), [(3, 0.25), (4, 0.125), (5, 0.0625), (6, 0.03125), (8, 0.0078125), (10, 0.001953125)]
)
def test_floor_is_what_the_best_case_gives(n: int, floor: float):
    assert attainable_floor(n) == floor
    differences = np.linspace(1.0, 2.0, n)
    assert sign_flip_p(differences) == pytest.approx(floor)
    assert stats.wilcoxon(differences).pvalue == pytest.approx(floor)


def test_floor_of_drawn_flips_is_bounded_by_the_draws():
    assert attainable_floor(13) == 2 / 2**13
    assert attainable_floor(14) == attainable_floor(5000) == 2 / (N_RESAMPLES + 1)


@pytest.mark.parametrize(("family", "seeds"), [(1, 6), (3, 7), (5, 8), (8, 9), (10, 9), (15, 10), (30, 11)])
def test_seeds_needed_for_a_family(family: int, seeds: int):
    assert smallest_n(0.05, family) == seeds


def test_one_seed_is_not_tested():
    result = compare_paired(np.array([0.3]), np.array([0.2]), "seed")
    assert result.difference == pytest.approx(0.1)
    assert math.isnan(result.p_t)
    assert math.isnan(result.ci_low)
    assert "one seed" in result.note
    assert result.versus_smallest == "n/a"


def test_the_same_difference_in_every_seed_has_no_t():
    result = compare_paired(np.full(10, 0.1 + 0.2), np.full(10, 0.1), "seed")
    assert math.isnan(result.p_t)
    assert math.isnan(result.p_signflip)
    assert math.isnan(result.d_z)
    assert "no spread" in result.note


def test_rounding_noise_is_not_a_spread():
    values = np.array([0.3, 0.1 + 0.2, 0.3, 0.1 + 0.2, 0.3])
    assert np.ptp(values) > 0
    result = compare_paired(values, np.full(5, 0.25), "seed")
    assert math.isnan(result.p_t)


def test_identical_results_have_p_one():
    values = np.array([0.1, 0.2, 0.3])
    result = compare_paired(values, np.array([0.1, 0.3 - 0.1, 0.1 + 0.2]), "seed")
    assert result.p_t == result.p_signflip == result.p_wilcoxon == 1.0
    assert result.tied == 1.0
    assert "identical" in result.note


def test_a_constant_baseline_is_tested_against_the_reference_that_varies():
    result = compare_paired(REFERENCE, np.full(5, 0.25), "seed")
    assert result.p_t == pytest.approx(stats.ttest_1samp(REFERENCE, 0.25).pvalue)
    assert result.note == ""


def test_size_against_the_smallest_difference():
    rng = np.random.default_rng(0)
    model = np.full(10, 0.2)
    noise = rng.normal(0, 1e-4, 10)
    assert compare_paired(model + 0.02 + noise, model, "seed").versus_smallest == "beyond"
    assert compare_paired(model - 0.02 + noise, model, "seed").versus_smallest == "beyond"
    assert compare_paired(model + 0.0001 + noise, model, "seed").versus_smallest == "within"
    assert compare_paired(model + 50 * noise, model, "seed").versus_smallest == "undecided"


def test_a_model_at_zero_has_no_relative_change():
    result = compare_paired(REFERENCE, np.zeros(5), "seed")
    assert all(math.isnan(value) for value in result.relative)
    assert result.p_t < 0.001


def test_without_tests_there_are_no_p_values():
    result = compare_paired(REFERENCE, MODEL, "seed", tests=False)
    assert math.isnan(result.p_t)
    assert math.isnan(result.p_signflip)
    assert result.ci_low < result.difference < result.ci_high


@pytest.mark.parametrize("bad", [np.array([0.1]), np.array([0.1, np.nan, 0.2, 0.3, 0.4])])
def test_unpaired_or_missing_values_are_refused(bad: np.ndarray):
    with pytest.raises(ValueError, match="expected"):
        compare_paired(REFERENCE, bad, "user")


def family(p_values: list[float], floor: float, unit: str = "seed") -> pd.DataFrame:
    rows = {"metric": "recall", "k": 20, "unit": unit, "floor": floor, "p_wilcoxon": math.nan}
    return pd.DataFrame({"p_t": p_values, "p_signflip": p_values}).assign(**rows)


def test_holm_by_hand_and_by_statsmodels():
    p = [0.01, 0.04, 0.03, 0.005]
    adjusted = adjust_family(family(p, 0.001))
    # Sorted .005 .01 .03 .04 times 4 3 2 1, made monotone: .02 .03 .06 .06.
    assert adjusted["p_t_holm"].tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted["p_signflip_holm"].tolist() == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert (adjusted["family_size"] == 4).all()


def test_families_are_one_metric_and_one_unit():
    rows = pd.concat([family([0.01, 0.02], 0.001), family([0.01, 0.5, 0.9], 0.0002, "user")], ignore_index=True)
    adjusted = adjust_family(rows)
    assert adjusted["family_size"].tolist() == [2, 2, 3, 3, 3]
    assert adjusted["p_t_holm"].tolist() == pytest.approx([0.02, 0.02, 0.03, 1.0, 1.0])


def test_left_out_models_do_not_enlarge_the_family():
    adjusted = adjust_family(family([0.01, math.nan, 0.02], 0.001))
    assert adjusted["family_size"].tolist() == [2, 2, 2]
    assert math.isnan(adjusted["p_t_holm"][1])


@pytest.mark.parametrize(
    ("floor", "size", "alone", "corrected"),
    [(0.0625, 1, False, False), (0.03125, 1, True, True), (0.03125, 3, True, False), (0.015625, 3, True, True)],
)
def test_reach_flags(floor: float, size: int, *, alone: bool, corrected: bool):
    adjusted = adjust_family(family([0.5] * size, floor))
    assert adjusted["can_reach_alpha"].tolist() == [alone] * size
    assert adjusted["can_reach_alpha_holm"].tolist() == [corrected] * size


def within_binomial(hits: int, n: int, rate: float) -> bool:
    """Tell whether a count is what a rate gives, at a two-sided level of 0.1 %."""
    return bool(stats.binomtest(hits, n, rate).pvalue > 0.001)


def test_identical_models_over_seeds_are_called_different_in_five_percent():
    rng = np.random.default_rng(11)
    n_trials = 1000
    t_hits = flip_hits = 0
    for _ in range(n_trials):
        a, b = rng.normal(0.2, 0.004, (2, 10))
        result = compare_paired(a, b, "seed", tests=False)
        t_hits += result.ci_low > 0 or result.ci_high < 0
        flip_hits += sign_flip_p(a - b) < 0.05
    assert within_binomial(t_hits, n_trials, 0.05)
    # The exact test's own level: the largest multiple of 2 / 1024 below 0.05.
    assert within_binomial(flip_hits, n_trials, 48 / 1024)


def test_identical_models_over_users_are_called_different_in_five_percent():
    rng = np.random.default_rng(12)
    n_trials = 400
    t_hits = flip_hits = 0
    for _ in range(n_trials):
        ability = rng.beta(1, 6, 300)
        a, b = rng.binomial(2, ability, (2, 300)) / 2
        result = compare_paired(a, b, "user")
        t_hits += result.p_t < 0.05
        flip_hits += result.p_signflip < 0.05
    assert within_binomial(t_hits, n_trials, 0.05)
    assert within_binomial(flip_hits, n_trials, 0.05)


def test_the_family_wise_rate_stays_under_alpha_after_holm():
    rng = np.random.default_rng(13)
    n_trials, n_models = 600, 5
    raw = corrected = 0
    for _ in range(n_trials):
        reference = rng.normal(0.2, 0.004, 8)
        models = rng.normal(0.2, 0.004, (n_models, 8))
        p = [stats.ttest_rel(reference, model).pvalue for model in models]
        adjusted = adjust_family(family(p, 0.0078))
        raw += min(p) < 0.05
        corrected += bool((adjusted["p_t_holm"] < 0.05).any())
    assert raw / n_trials > 0.08
    assert stats.binomtest(corrected, n_trials, 0.05, alternative="greater").pvalue > 0.001


def test_a_planted_difference_is_found_in_its_direction():
    rng = np.random.default_rng(14)
    better = compare_paired(rng.normal(0.21, 0.002, 10), rng.normal(0.20, 0.002, 10), "seed")
    assert better.difference > 0
    assert better.ci_low > 0
    assert max(better.p_t, better.p_signflip, better.p_wilcoxon) < 0.05
    worse = compare_paired(rng.normal(0.20, 0.002, 10), rng.normal(0.21, 0.002, 10), "seed")
    assert worse.difference < 0
    assert worse.ci_high < 0
    assert worse.lost > worse.won
