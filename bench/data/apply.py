"""Apply the steps of a recipe in their declared order: first while the rows stream by, then to those that stayed."""

import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa

from bench.data.collect import StepCounts, collect, sampled
from bench.data.comparison import check_raw
from bench.data.features.align import available
from bench.data.features.ingredients import Raw
from bench.data.filters import count, deduplicate, k_core, keep_actions, keep_days, keep_positive, pair_codes
from bench.data.raw.fetch import Located
from bench.data.reading.items import Items, read_items
from bench.data.reading.read import interaction_batches
from bench.data.recipes.recipe import Recipe
from bench.data.recipes.steps import (
    AvailableStep,
    CoreStep,
    DedupeStep,
    PositiveStep,
    SampleStep,
    Step,
    WindowStep,
)
from bench.errors import DataError
from bench.workspace import Workspace

Report = Callable[[str], None]


class Steps:
    """The steps of a recipe at one source, and the items that they ask about.

    Attributes:
        counts: after reading and after each step so far.
    """

    def __init__(self, located: Located, workspace: Workspace, device: str, report: Report) -> None:
        self.located, self.recipe, self.report = located, located.recipe, report
        self.device = device
        self.cache = workspace.datasets / "encoded"
        self.pictures = workspace.raw(located.recipe.name.partition("@")[0])
        self.counts: list[StepCounts] = []
        self._items: Items | None = None

    def apply(self) -> pd.DataFrame:
        """Read the interactions and apply the steps in their declared order, reporting the counts after each.

        Returns:
            The rows that stay, in file order: `user`, `item` (categorical) and, where known, `timestamp` and `split`.

        Raises:
            DataError: nothing is left, or a user and an item still meet more than once.
        """
        recipe, table = self.recipe, self.located.source.interactions
        started = time.monotonic()
        frame, self.counts = collect(interaction_batches(self.located.files, table), table, recipe.steps, self.report)
        took = time.monotonic() - started
        speed = f" ({took:.0f} s)" if took >= 5 else ""
        self.report(f"read {', '.join(table.files)}: {self.counts[0]}{speed}")
        check_raw(recipe, self.counts[0].known, self.report)
        if table.rating is not None and not any(isinstance(step, PositiveStep) for step in recipe.steps):
            self.report("every rating counts as a positive interaction: the recipe has no step of kind 'positive'")
        for before, after in zip(self.counts, self.counts[1:], strict=False):
            self._report_step(before, after)
        for step in recipe.steps[len(self.counts) - 1 :]:
            frame = self._apply(step, frame)
            after = StepCounts(step.kind, step.words, **count(frame))
            self._report_step(self.counts[-1], after)
            self.counts.append(after)
        _refuse_repeated(frame, recipe)
        return frame

    def raw(self, ids: "pd.Series[str]") -> Raw:
        """Return what features of these items are made from; the items table is read when first asked for."""
        table = self.located.source.items
        if table is not None and self._items is None:
            self._items = read_items(self.located.files, table, set(ids))
            fields = ", ".join(self._items.frame.columns[1:]) or "none"
            self.report(
                f"read {', '.join(table.files)}: {self._items.n_rows:,} items, {len(self._items.frame):,} of them "
                f"wanted, fields {fields}"
            )
        return Raw(self.recipe, self.located.files, self._items, self.cache, self.pictures, self.device)

    def _apply(self, step: Step, frame: pd.DataFrame) -> pd.DataFrame:
        match step:
            case PositiveStep(actions=actions) if actions:
                return keep_actions(frame, actions)
            case PositiveStep(minimum=float(minimum)):
                return keep_positive(frame, minimum, step.column)
            case WindowStep():
                return keep_days(frame, step, self.located.source.interactions.offset_s)
            case SampleStep():
                return self._sampled(step, frame)
            case DedupeStep():
                return deduplicate(frame, step.keep)
            case AvailableStep():
                return self._with_available(step, frame)
            case CoreStep():
                return k_core(frame, *step.cores, self.report)
        raise AssertionError(f"no rule for a step of kind '{step.kind}'")

    def _sampled(self, step: SampleStep, frame: pd.DataFrame) -> pd.DataFrame:
        users = frame["user"].cat.categories
        kept = sampled(pa.array(users, pa.string()), step.share, step.salt)
        return frame[kept[frame["user"].cat.codes]].reset_index(drop=True)

    def _with_available(self, step: AvailableStep, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep interactions with items that have something in every modality the step names."""
        items = frame["item"].cat.remove_unused_categories()
        ids = pd.Series(items.cat.categories, dtype="str", name="id")
        raw, kept = self.raw(ids), np.ones(len(ids), dtype=np.bool_)
        for modality in step.modalities:
            there = available(raw, modality, ids, self.report)
            self.report(f"  {modality}: {int(there.sum()):,} of {len(ids):,} items have it")
            kept &= there
        return frame[kept[items.cat.codes]].reset_index(drop=True)

    def _report_step(self, before: StepCounts, after: StepCounts) -> None:
        changes = ", ".join(
            f"{_number(getattr(before, what))} -> {_number(getattr(after, what))} {what}"
            for what in ("users", "items", "interactions")
        )
        self.report(f"step {after.step} ({after.words}): {changes}")
        if not after.interactions:
            why = " The lines above say what each item lacks." if after.step == "available" else ""
            raise DataError(
                f"Nothing is left after the step '{after.step}' ({after.words}) of {self.recipe.path}.{why} Loosen it."
            )


def _refuse_repeated(frame: pd.DataFrame, recipe: Recipe) -> None:
    pairs = np.sort(pair_codes(frame))
    repeated = int(np.count_nonzero(np.diff(pairs) == 0))
    if repeated:
        first = frame[frame.duplicated(["user", "item"])].iloc[0]
        raise DataError(
            f"{repeated:,} interactions repeat an earlier user and item, for example user '{first['user']}' and item "
            f"'{first['item']}'. Add a step of kind 'dedupe' to {recipe.path}, before any step of kind 'core'."
        )


def _number(value: int | None) -> str:
    return "many" if value is None else f"{value:,}"
