"""Hold the counts of a prepared dataset against those that are known: by the recipe, and by papers."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from bench.data.recipes.recipe import Recipe
from bench.data.recipes.sources import CoreCounts, Counts, PublishedCounts
from bench.data.recipes.steps import CoreStep
from bench.data.recipes.variants import Cores
from bench.errors import DataError

Report = Callable[[str], None]
WHAT = ("users", "items", "interactions")


def check_raw(recipe: Recipe, found: Mapping[str, int | None], report: Report) -> None:
    """Compare what was read with the counts the recipe knows; a count of None is not known and not compared.

    Raises:
        DataError: they differ, and the recipe does not call them a target.
    """
    _compare("raw files", recipe.expected.raw, found, report)


def check_prepared(recipe: Recipe, found: Mapping[str, int], report: Report) -> None:
    """Compare what is left after all steps with the counts the recipe knows for its k-core.

    Raises:
        DataError: they differ, and the recipe does not call them a target.
    """
    _compare("prepared data", recipe.expected.prepared, found, report)
    known = _known_for(recipe)
    if known is not None and {what: getattr(known, what) for what in WHAT} != dict(found):
        report(
            f"warning: at this k-core the recipe knows {_words({what: getattr(known, what) for what in WHAT})}, but "
            f"there are {_words(found)}; the files differ from those it was measured on"
        )


def beside_published(recipe: Recipe, found: Mapping[str, int]) -> tuple[list[dict[str, Any]], str]:
    """Return our counts followed by the published ones, and a sentence about the setting that comes closest.

    Both are empty where the recipe knows no published counts.
    """
    published = recipe.expected.published
    if not published:
        return [], ""
    rows: list[dict[str, Any]] = [{"name": recipe.name, **found}]
    rows += [{"name": each.name, **{what: getattr(each, what) for what in WHAT}} for each in published]
    return rows, _closest(recipe, published[0], found)


def _closest(recipe: Recipe, published: PublishedCounts, found: Mapping[str, int]) -> str:
    """Say which known setting is nearest to what is published, by the sum of absolute log ratios."""
    ours = current_cores(recipe)
    known = {
        Cores(each.user_core, each.item_core): {what: getattr(each, what) for what in WHAT}
        for each in recipe.expected.cores
    }
    known[ours] = dict(found)
    target = {what: getattr(published, what) for what in WHAT}
    distance = {
        cores: sum(abs(math.log(counts[what] / target[what])) for what in WHAT) for cores, counts in known.items()
    }
    best = min(distance, key=lambda cores: distance[cores])
    counts = known[best]
    differences = ", ".join(f"{what} {_difference(counts[what], target[what])}" for what in WHAT)
    if best == ours:
        return f"Of the known settings this one comes closest to {published.name}: {differences}."
    base = recipe.name.partition("@")[0]
    return (
        f"Of the known settings --core {best.option} comes closest to {published.name}, with {_words(counts)} "
        f"({differences}): bench prepare {base} --core {best.option}"
    )


def current_cores(recipe: Recipe) -> Cores:
    """Return the k-core of the recipe's steps: the last one; without any, no filter."""
    cores = [step.cores for step in recipe.steps if isinstance(step, CoreStep)]
    return Cores(*cores[-1]) if cores else Cores(1, 1)


def _known_for(recipe: Recipe) -> CoreCounts | None:
    ours = current_cores(recipe)
    for each in recipe.expected.cores:
        if Cores(each.user_core, each.item_core) == ours:
            return each
    return None


def _compare(what: str, expected: Counts | None, found: Mapping[str, int | None], report: Report) -> None:
    known = {} if expected is None else expected.model_dump(exclude={"target"}, exclude_none=True)
    wrong = {key: count for key, count in known.items() if found[key] is not None and count != found[key]}
    if not wrong:
        return
    words = f"the {what} should have {_words(wrong)}, but have {_words({key: found[key] for key in wrong})}"
    if expected is None or not expected.target:
        raise DataError(
            f"By the recipe, {words}. Either the files are not the ones it means, or its table `expected` is wrong."
        )
    report(f"warning: {words}")


def _words(counts: Mapping[str, int | None]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in counts.items())


def _difference(ours: int, theirs: int) -> str:
    return "equal" if ours == theirs else f"{(ours - theirs) / theirs:+.1%}"
