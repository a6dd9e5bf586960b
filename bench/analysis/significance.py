"""Compare two models on the same units: is the difference more than luck?

Two units answer two questions. Over **seeds** (one mean metric per training run) the claim is about methods:
would retraining change the order? Over **users** (the metric of each user, averaged over seeds first) the
claim is about the trained models: would other users see the same order? The two are never blended.

The paired t test is primary, the sign-flip (Fisher) randomization confirms it without normality, and
Wilcoxon's signed ranks are a sensitivity check. All are two-sided; Holm (1979) corrects the family of one
reference against all other models on one metric.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

Unit = Literal["seed", "user"]
Verdict = Literal["beyond", "within", "undecided", "n/a"]
Values = np.ndarray[tuple[int], np.dtype[np.float64]]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

ALPHA = 0.05
CONFIDENCE = 0.95
SMALLEST_RELATIVE_DIFFERENCE = 0.01
N_RESAMPLES = 9999
LARGEST_EXACT_N = 13
RESAMPLING_SEED = 0
# Below these, relative to the values compared, a difference or a spread is the rounding of a sum, not a
# result.
ROUNDING = 1e-12
NO_SPREAD = 1e-9
ELEMENTS_PER_BATCH = 4_000_000

P_COLUMNS = ("p_t", "p_signflip", "p_wilcoxon")


@dataclass(frozen=True)
class Comparison:
    """A reference against another model on paired units; differences are reference minus model.

    Attributes:
        unit: what one pair is.
        n: number of pairs.
        mean_reference: mean over the units.
        mean_model: mean over the units.
        difference: mean of the paired differences.
        ci_low: lower end of the 95 % t interval of the mean difference; NaN without a spread.
        ci_high: its upper end.
        d_z: standardized paired difference, mean over standard deviation (ddof 1) of the differences.
        won: share of units in which the reference is higher.
        tied: share of units with the same value.
        lost: share of units in which the reference is lower.
        p_t: two-sided paired t test.
        p_signflip: two-sided sign-flip randomization; exact up to 13 pairs, else 9,999 draws.
        p_wilcoxon: Wilcoxon signed ranks with Pratt's zeros; over seeds only.
        floor: the smallest p that the sign-flip test can give with these pairs.
        note: why a value is missing; empty when nothing is.
    """

    unit: Unit
    n: int = 0
    mean_reference: float = math.nan
    mean_model: float = math.nan
    difference: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    d_z: float = math.nan
    won: float = math.nan
    tied: float = math.nan
    lost: float = math.nan
    p_t: float = math.nan
    p_signflip: float = math.nan
    p_wilcoxon: float = math.nan
    floor: float = math.nan
    note: str = ""

    @property
    def relative(self) -> tuple[float, float, float]:
        """The difference and its interval as shares of the model's mean, that mean taken as known."""
        if not abs(self.mean_model) > 0:
            return math.nan, math.nan, math.nan
        scale = abs(self.mean_model)
        return self.difference / scale, self.ci_low / scale, self.ci_high / scale

    @property
    def versus_smallest(self) -> Verdict:
        """Where the interval lies against the smallest difference of interest, 1 % of the model's mean.

        `beyond`: all of it is outside +-1 %; `within`: all of it is inside; `undecided`: it crosses a border.
        """
        _, low, high = self.relative
        if math.isnan(low):
            return "n/a"
        if low > SMALLEST_RELATIVE_DIFFERENCE or high < -SMALLEST_RELATIVE_DIFFERENCE:
            return "beyond"
        inside = low > -SMALLEST_RELATIVE_DIFFERENCE and high < SMALLEST_RELATIVE_DIFFERENCE
        return "within" if inside else "undecided"


def compare_paired(reference: Values, model: Values, unit: Unit, *, tests: bool = True) -> Comparison:
    """Compare two models on paired values.

    Args:
        reference: the reference's value per unit, [n], n > 0, finite.
        model: the other model's value for the same units in the same order, [n].
        unit: what one value belongs to.
        tests: False leaves out the p values and keeps means, interval and effect size.

    Raises:
        ValueError: the values are not paired, or not finite.
    """
    a, b = np.asarray(reference, dtype=np.float64), np.asarray(model, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"expected two paired lists of values, found shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("expected finite values only")
    scale = max(np.abs(a).max(), np.abs(b).max())
    differences = a - b
    differences[np.abs(differences) <= ROUNDING * scale] = 0.0
    n = len(a)
    result = Comparison(
        unit=unit,
        n=n,
        mean_reference=float(a.mean()),
        mean_model=float(b.mean()),
        difference=float(differences.mean()),
        won=float((differences > 0).mean()),
        tied=float((differences == 0).mean()),
        lost=float((differences < 0).mean()),
    )
    if n == 1:
        return replace(result, note=f"one {unit} gives no spread to judge a difference by")
    if np.ptp(differences) <= NO_SPREAD * scale:
        return _without_spread(result, tests=tests)
    spread = float(differences.std(ddof=1))
    paired = stats.ttest_1samp(differences, 0.0)
    low, high = paired.confidence_interval(CONFIDENCE)
    result = replace(result, ci_low=float(low), ci_high=float(high), d_z=result.difference / spread)
    return _with_tests(result, differences, float(paired.pvalue)) if tests else result


def _without_spread(result: Comparison, *, tests: bool) -> Comparison:
    """Word the cases in which every difference is the same, where a t statistic does not exist."""
    if result.tied == 1.0:
        p = 1.0 if tests else math.nan
        note = f"identical in every {result.unit}"
        return replace(result, p_t=p, p_signflip=p, p_wilcoxon=p, floor=p, note=note)
    note = f"the difference is the same in every {result.unit}: no spread, so nothing to test"
    return replace(result, note=note)


def _with_tests(result: Comparison, differences: Values, p_t: float) -> Comparison:
    n_unequal = int((differences != 0).sum())
    return replace(
        result,
        p_t=p_t,
        p_signflip=sign_flip_p(differences),
        p_wilcoxon=wilcoxon_p(differences) if result.unit == "seed" else math.nan,
        floor=attainable_floor(n_unequal),
    )


def attainable_floor(n: int) -> float:
    """Return the smallest two-sided p of the sign-flip test with `n` unequal pairs: 2 / 2^n.

    Beyond 13 pairs the flips are drawn, and 2 / (draws + 1) bounds it too. Exact sign and Wilcoxon tests have
    the same floor.
    """
    exact = 2.0 / 2.0 ** min(n, 1000)
    return min(1.0, exact if n <= LARGEST_EXACT_N else max(exact, 2.0 / (N_RESAMPLES + 1)))


def smallest_n(alpha: float, family_size: int) -> int:
    """Return the fewest pairs with which a sign-based test reaches `alpha` after Holm over `family_size`."""
    n = 1
    while 2.0 / 2.0**n > alpha / family_size:
        n += 1
    return n


def sign_flip_p(differences: Values) -> float:
    """Return the two-sided p of the sign-flip randomization test of a mean difference of zero.

    Up to 13 differences all sign patterns are counted. Beyond, 9,999 are drawn from a fixed stream and the
    observed one counts among them, so that p is never zero (Phipson and Smyth, 2010).
    """
    if len(differences) <= LARGEST_EXACT_N:
        largest = np.abs(differences).max() or 1.0

        def rounded_mean(flipped: Floats, axis: int) -> Floats:
            """Return the mean to twelve digits of the largest, so that patterns that tie are seen to tie."""
            means: Floats = np.round(flipped.mean(axis=axis) / largest, 12)
            return means

        # 2^13 patterns are fewer than the resamples asked for, which makes SciPy enumerate them.
        exact = stats.permutation_test(
            (differences,), rounded_mean, permutation_type="samples", vectorized=True, n_resamples=N_RESAMPLES
        )
        return float(exact.pvalue)
    # A zero keeps its value under a flip and adds nothing to any sum: without the tied users the test is the
    # same.
    unequal = differences[differences != 0]
    sizes = np.abs(unequal)
    rng = np.random.default_rng(RESAMPLING_SEED)

    def positive(size: tuple[int, ...]) -> Floats:
        """Draw which differences are positive, 1 or 0, each with probability one half, [draws, n]."""
        n_bits = math.prod(size)
        packed = np.frombuffer(rng.bytes(-(-n_bits // 8)), dtype=np.uint8)
        return np.unpackbits(packed, count=n_bits).reshape(size).astype(np.float64)

    def sum_of_positive(drawn: Floats, axis: int) -> Floats:
        """Return a statistic that grows with the mean: mean = (2 x this - sum of sizes) / n."""
        total: Floats = np.moveaxis(drawn, axis, -1) @ sizes
        return total

    result = stats.monte_carlo_test(
        (unequal > 0).astype(np.float64),
        positive,
        sum_of_positive,
        vectorized=True,
        n_resamples=N_RESAMPLES,
        batch=max(1, ELEMENTS_PER_BATCH // len(sizes)),
    )
    return float(result.pvalue)


def wilcoxon_p(differences: Values) -> float:
    """Return the two-sided p of Wilcoxon's signed ranks, zeros ranked by Pratt's rule.

    Differences are rounded to twelve digits of the largest before ranking, so that equal ones tie.
    """
    scale = np.abs(differences).max()
    rounded = np.round(differences / scale, 12)
    return float(stats.wilcoxon(rounded, zero_method="pratt").pvalue)


def adjust_family(comparisons: pd.DataFrame, alpha: float = ALPHA) -> pd.DataFrame:
    """Add Holm's correction within each family: the rows of one metric and one unit.

    Args:
        comparisons: rows with `metric`, `k`, `unit`, `n`, `floor` and the p columns, NaN where there was no
            test.
        alpha: family-wise error rate.

    Returns:
        The rows with, for each p, `<p>_holm`; `family_size`, the tests that took part; `can_reach_alpha` and
        `can_reach_alpha_holm`, whether the sign-flip floor leaves room for p < alpha alone and after Holm
        (False where there was no test).
    """
    adjusted = comparisons.copy()
    adjusted["family_size"] = 0
    for name in P_COLUMNS:
        adjusted[f"{name}_holm"] = math.nan
    for _, rows in adjusted.groupby(["metric", "k", "unit"], dropna=False, sort=False):
        for name in P_COLUMNS:
            p = rows[name].dropna()
            if len(p):
                adjusted.loc[p.index, f"{name}_holm"] = multipletests(p, alpha=alpha, method="holm")[1]
        adjusted.loc[rows.index, "family_size"] = int(rows["p_t"].notna().sum())
    adjusted["can_reach_alpha"] = adjusted["floor"] <= alpha
    adjusted["can_reach_alpha_holm"] = adjusted["floor"] * adjusted["family_size"] <= alpha
    return adjusted
