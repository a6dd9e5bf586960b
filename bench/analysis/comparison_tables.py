"""Lay paired comparisons out as tables, and say in plain sentences what they can and cannot show."""

from typing import Any

import pandas as pd

from bench.analysis.display import Table, words
from bench.analysis.layout import metric_title
from bench.analysis.significance import (
    LARGEST_EXACT_N,
    N_RESAMPLES,
    SMALLEST_RELATIVE_DIFFERENCE,
    attainable_floor,
    smallest_n,
)
from bench.analysis.wording import ABSENT, count, fixed, interval, p_equation, p_text, percent, percent_interval

SMALLEST = f"{100 * SMALLEST_RELATIVE_DIFFERENCE:g} %"
QUESTIONS = {
    "seed": "Over seeds: would retraining change the order?",
    "user": "Over users: would other users see the same order from these trained models?",
}
FEW_SEEDS = 10


def comparison_table(rows: pd.DataFrame, unit: str, metric: str, alpha: float) -> Table:
    """Lay out the reference against every other model on one metric over seeds or over users.

    Args:
        rows: the comparisons of that metric and unit, from `compare_models`.
        unit: `seed` or `user`.
        metric: like `recall@20`.
        alpha: family-wise error rate.
    """
    tested = "p_t" in rows.columns
    columns = ["Against", "n", "Difference", "95 % interval", "Relative", "95 % interval, relative", "d_z"]
    columns += ["Won / tied / lost, %"] if unit == "user" else []
    columns += ["p (t)", "p (t), Holm", "p (sign-flip)", "p (sign-flip), Holm"] if tested else []
    columns += [f"Size against {SMALLEST}"]
    body = []
    for _, row in rows.iterrows():
        if row["n"] == 0:
            body.append(words([row["model"], "0", "left out", *[ABSENT] * (len(columns) - 3)]))
            continue
        cells = [
            row["model"],
            f"{row['n']:,}",
            f"{row['difference']:+.4f}",
            interval(row["ci_low"], row["ci_high"]),
            percent(row["relative"]),
            percent_interval(row["relative_ci_low"], row["relative_ci_high"]),
            fixed(row["d_z"], 2),
            *([_shares(row)] if unit == "user" else []),
            *(_p_cells(row, alpha) if tested else []),
            _size(row),
        ]
        body.append(words(cells))
    title = QUESTIONS[unit]
    return Table(title, tuple(columns), tuple(body), caption=_caption(rows, unit, metric, alpha, tested=tested))


def _shares(row: Any) -> str:
    return " / ".join(f"{100 * row[name]:.1f}" for name in ("won", "tied", "lost"))


def _p_cells(row: Any, alpha: float) -> list[str]:
    corrected = p_text(row["p_signflip_holm"])
    if corrected != ABSENT and row["p_signflip"] < 1 and not row["can_reach_alpha_holm"]:
        corrected = f"cannot reach {alpha:g}"
    return [p_text(row["p_t"]), p_text(row["p_t_holm"]), p_text(row["p_signflip"]), corrected]


def _size(row: Any) -> str:
    side = "better" if row["difference"] > 0 else "worse"
    text = {
        "beyond": f"{side} by more than {SMALLEST}",
        "within": f"less than {SMALLEST} either way",
        "undecided": "undecided",
    }
    return text.get(row["versus_smallest"], ABSENT)


def _caption(rows: pd.DataFrame, unit: str, metric: str, alpha: float, *, tested: bool) -> str:
    reference = rows["reference"].iloc[0] if len(rows) else "the reference"
    one_pair = {
        "seed": "One pair is one training seed: the mean test metric of either model's run.",
        "user": "One pair is one test user: the user's test metric of either model, averaged over seeds first.",
    }
    parts = [
        f"{metric_title(metric)} on test, {reference} minus the other model; above zero {reference} is better.",
        one_pair[unit],
        "Intervals: 95 % paired t, each on its own; relative: divided by the other model's mean. "
        "d_z: mean difference over the standard deviation of the differences.",
    ]
    family = int(rows["family_size"].max()) if tested and len(rows) else 0
    if family:
        draws = "all sign patterns" if int(rows["n"].max()) <= LARGEST_EXACT_N else f"{N_RESAMPLES:,} draws"
        parts.append(
            f"Tests: two-sided paired t (primary) and sign-flip randomization of the mean ({draws}); "
            f"Holm over {count(family, 'comparison')}, alpha = {alpha:g}."
        )
    parts.append(
        f"Last column: where the interval lies against ±{SMALLEST} of the other model's mean, the smallest difference "
        "of interest; undecided is not the same as equal."
    )
    return " ".join(parts)


def reasons(rows: pd.DataFrame) -> list[str]:
    """Return why values are missing from a comparison, one line per reason."""
    models: dict[str, list[str]] = {}
    for model, note in zip(rows["model"], rows["note"], strict=True):
        if note:
            models.setdefault(note, []).append(model)
    return [f"{', '.join(names)}: {note}." for note, names in models.items()]


def seed_statements(rows: pd.DataFrame, alpha: float) -> list[str]:
    """Say what the comparison over seeds can and cannot show with as many seeds as it has."""
    n, m = int(rows["n"].max()) if len(rows) else 0, int(rows["family_size"].max()) if len(rows) else 0
    if n == 0:
        return ["No model has all of the reference's seeds finished, so nothing is compared."]
    if n == 1:
        return ["One seed: nothing can be said about retraining. Run more seeds; ten are the default."]
    if m == 0:
        return ["No comparison over seeds has a spread to test with."]
    lines = [_floor_statement(n, m, alpha)]
    if n < FEW_SEEDS:
        lines.append(
            f"The t test leans on the differences being close to normal, with {n - 1} "
            f"degree{'s' if n > 2 else ''} of freedom; {n} values cannot show that they are. Read the interval."
        )
    return lines + _disagreements(rows, alpha)


def _floor_statement(n: int, m: int, alpha: float) -> str:
    floor = attainable_floor(n)
    start = f"With {n} seeds the smallest p that any sign-based test (sign-flip, Wilcoxon) can give is {p_text(floor)}"
    family = f"Holm over {count(m, 'comparison')}"
    needed = smallest_n(alpha, m)
    if floor > alpha:
        return (
            f"{start}, so such a test cannot reach {alpha:g} whatever the models do; it needs {smallest_n(alpha, 1)} "
            f"seeds, and {needed} to survive {family}."
        )
    if floor * m > alpha:
        return f"{start}: enough alone, but it cannot survive {family} at {alpha:g}; that needs {needed} seeds."
    return f"{start}, which leaves room for {alpha:g} after {family}."


def _disagreements(rows: pd.DataFrame, alpha: float) -> list[str]:
    """Name the models on which t and a sign-based test fall on different sides of alpha, after Holm."""
    lines = []
    for column, test in (("p_signflip_holm", "the sign-flip test"), ("p_wilcoxon_holm", "Wilcoxon's test")):
        both = rows[rows["p_t_holm"].notna() & rows[column].notna() & rows["can_reach_alpha_holm"]]
        apart = both[(both["p_t_holm"] < alpha) != (both[column] < alpha)]
        for _, row in apart.iterrows():
            lines.append(
                f"Against {row['model']} the t test and {test} disagree at {alpha:g} after Holm "
                f"({p_equation(row['p_t_holm'])} and {p_equation(row[column])}): make no claim from either alone."
            )
    return lines


def user_statements(rows: pd.DataFrame, n_seeds: int, alpha: float) -> list[str]:
    """Say what the comparison over users can and cannot show."""
    n = int(rows["n"].max()) if len(rows) else 0
    if n == 0:
        return []
    runs = "one training run" if n_seeds == 1 else f"the average of {n_seeds} training runs"
    lines = [
        f"The p over users speaks of these trained models ({runs} each) on further users like these; it says nothing "
        f"about retraining. With {n:,} users a small p comes easily: read the interval against {SMALLEST}."
    ]
    return lines + _disagreements(rows.assign(p_wilcoxon_holm=float("nan")), alpha)
