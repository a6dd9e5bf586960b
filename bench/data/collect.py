"""Bring the interactions of a source into memory, row by row through the steps that need no more than the row.

What those steps drop is never held, so that a log of a billion rows takes the memory of the rows that stay.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bench.data.reading.read import Batch
from bench.data.recipes.steps import PositiveStep, SampleStep, Step, WindowStep
from bench.data.recipes.tables import InteractionsTable, PartFiles

Report = Callable[[str], None]

# Beyond this many, ids are no longer told apart while they stream by; the sets would outgrow the data that stay.
MOST_IDS_COUNTED = 3_000_000
REPORT_EVERY_S = 15.0
# Every batch brings a dictionary of its own ids; so many rows are brought together to share one.
ROWS_MERGED = 2_000_000


@dataclass(frozen=True)
class StepCounts:
    """How much is there after a step.

    Attributes:
        step: "read" or the step's kind.
        words: the rule in words.
        interactions: rows.
        users: distinct users; None: more than `MOST_IDS_COUNTED`.
        items: distinct items; None: more than `MOST_IDS_COUNTED`.
    """

    step: str
    words: str
    interactions: int
    users: int | None
    items: int | None

    @property
    def known(self) -> dict[str, int | None]:
        """The three numbers by name."""
        return {"users": self.users, "items": self.items, "interactions": self.interactions}

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for `dataset.json`."""
        more = {f"{what}_more_than": MOST_IDS_COUNTED for what in ("users", "items") if getattr(self, what) is None}
        return {"step": self.step, "words": self.words, **self.known, **more}

    def __str__(self) -> str:
        users, items = (f"over {MOST_IDS_COUNTED:,}" if n is None else f"{n:,}" for n in (self.users, self.items))
        return f"{users} users, {items} items, {self.interactions:,} interactions"


@dataclass
class _Distinct:
    """The ids seen so far, as long as they are not too many."""

    seen: set[str] | None = field(default_factory=set)

    def add(self, ids: pa.DictionaryArray) -> None:
        if self.seen is not None:
            self.seen.update(_used(ids).to_pylist())
            if len(self.seen) > MOST_IDS_COUNTED:
                self.seen = None

    @property
    def count(self) -> int | None:
        return None if self.seen is None else len(self.seen)


@dataclass
class _Tally:
    """Counts after one step."""

    step: str
    words: str
    rows: int = 0
    users: _Distinct = field(default_factory=_Distinct)
    items: _Distinct = field(default_factory=_Distinct)

    def add(self, batch: Batch) -> None:
        self.rows += len(batch)
        self.users.add(batch.users())
        self.items.add(batch.items())

    def counts(self) -> StepCounts:
        return StepCounts(self.step, self.words, self.rows, self.users.count, self.items.count)


def collect(
    batches: Iterable[Batch], table: InteractionsTable | PartFiles, steps: Sequence[Step], report: Report
) -> tuple[pd.DataFrame, list[StepCounts]]:
    """Read all batches through those of the first `steps` that look at one row at a time.

    Args:
        batches: interactions in file order.
        table: how they are laid out.
        steps: of the recipe, in order.
        report: called with a line from time to time.

    Returns:
        The rows that stay, in file order, with the columns `user` and `item` (categorical, the categories sorted as
        text) and, where known, `timestamp` (int64), `split` (text), and `rating` or `action` if a later step asks for
        them; and the counts after reading and after each step that was applied. The remaining steps are
        `steps[len(counts) - 1 :]`.

    Raises:
        DataError: a value is not what the recipe says.
    """
    first = streamed(steps)
    later = {step.compares for step in steps[len(first) :] if isinstance(step, PositiveStep)}
    tallies = [_Tally("read", "raw"), *(_Tally(step.kind, step.words) for step in first)]
    kept: dict[str, list[Any]] = {}
    n_pending, last = 0, time.monotonic()
    for batch in batches:
        tallies[0].add(batch)
        for step, tally in zip(first, tallies[1:], strict=True):
            batch = batch.filter(_stays(step, batch, table.offset_s))
            tally.add(batch)
        for name, values in _columns(batch, table, later).items():
            kept.setdefault(name, []).append(values)
        n_pending += len(batch)
        if n_pending > ROWS_MERGED:
            n_pending = 0
            for parts in kept.values():
                _merge_ids(parts)
        if time.monotonic() - last > REPORT_EVERY_S:
            last = time.monotonic()
            report(f"  {tallies[0].rows:,} rows read, {tallies[-1].rows:,} stay")
    return _frame(kept), [tally.counts() for tally in tallies]


def streamed(steps: Sequence[Step]) -> list[Step]:
    """Return the first steps that look at one row at a time."""
    first: list[Step] = []
    for step in steps:
        if not isinstance(step, PositiveStep | SampleStep | WindowStep):
            break
        if isinstance(step, WindowStep) and step.last_days is not None:
            break
        first.append(step)
    return first


def in_sample(user: str, share: float, salt: str) -> bool:
    """Say whether a user belongs to a sample: decided by the id alone, the same on every machine."""
    digest = hashlib.blake2b(f"{salt}\0{user}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def sampled(ids: pa.Array, share: float, salt: str) -> NDArray[np.bool_]:
    """Say of each of these distinct ids whether it belongs to the sample."""
    return np.fromiter((in_sample(user, share, salt) for user in ids.to_pylist()), np.bool_, len(ids))


def _stays(step: Step, batch: Batch, offset_s: int) -> NDArray[np.bool_]:
    """Say of each row whether the step keeps it, bool [n_rows]."""
    match step:
        case PositiveStep(actions=actions) if actions:
            found = batch.actions()
            chosen = pc.is_in(found.dictionary, pa.array(actions, found.dictionary.type)).to_numpy(zero_copy_only=False)
            return np.asarray(chosen[_codes(found)], dtype=np.bool_)
        case PositiveStep(minimum=float(minimum)):
            values = batch.ratings() if step.column == "rating" else batch.seconds()
            return np.asarray(np.asarray(values) >= minimum)
        case SampleStep():
            users = _compact(batch.users())
            return np.asarray(sampled(users.dictionary, step.share, step.salt)[_codes(users)])
        case WindowStep():
            first, after = step.bounds_s
            local = batch.seconds() + offset_s
            return (local >= first) & (local < after)
    raise AssertionError(f"a step of kind '{step.kind}' looks at more than one row")


def _columns(batch: Batch, table: InteractionsTable | PartFiles, later: set[str]) -> dict[str, Any]:
    """Return the columns of a batch that are worth keeping."""
    columns: dict[str, Any] = {"user": _compact(batch.users()), "item": _compact(batch.items())}
    if table.has_time:
        columns["timestamp"] = batch.seconds()
    if table.has_split:
        columns["split"] = _compact(batch.splits())
    if "rating" in later:
        columns["rating"] = batch.ratings()
    if "action" in later:
        columns["action"] = _compact(batch.actions())
    return columns


def _frame(kept: dict[str, list[Any]]) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for name in list(kept):
        # Popped one by one: the parts of a column go before the next one is joined.
        parts = kept.pop(name)
        columns[name] = _categorical(parts) if isinstance(parts[0], pa.DictionaryArray) else np.concatenate(parts)
    return pd.DataFrame(columns)


def _merge_ids(parts: list[Any]) -> None:
    """Join the small parts of an id column at the end of the list into one part."""
    if not isinstance(parts[0], pa.DictionaryArray):
        return
    small = len(parts)
    while small and len(parts[small - 1]) <= ROWS_MERGED:
        small -= 1
    if len(parts) - small > 1:
        parts[small:] = [pa.chunked_array(parts[small:]).unify_dictionaries().combine_chunks()]


def _categorical(parts: list[pa.DictionaryArray]) -> pd.Categorical:
    """Join dictionary arrays; the categories are the ids in use, sorted as text."""
    joined = pa.chunked_array(parts).unify_dictionaries()
    ids = np.asarray(joined.chunk(0).dictionary.to_numpy(zero_copy_only=False), dtype=object)
    codes = np.concatenate([_codes(chunk) for chunk in joined.chunks])
    order = np.argsort(ids)
    rank = np.empty(len(ids), dtype=np.int32)
    rank[order] = np.arange(len(ids), dtype=np.int32)
    return pd.Categorical.from_codes(rank[codes], categories=pd.Index(ids[order], dtype="str"))


def _codes(ids: pa.DictionaryArray) -> NDArray[np.int32]:
    return np.asarray(ids.indices.to_numpy(zero_copy_only=False), dtype=np.int32)


def _seen(ids: pa.DictionaryArray) -> NDArray[np.bool_]:
    seen = np.zeros(len(ids.dictionary), dtype=np.bool_)
    seen[_codes(ids)] = True
    return seen


def _used(ids: pa.DictionaryArray) -> pa.Array:
    """Return the dictionary's values that occur."""
    seen = _seen(ids)
    return ids.dictionary if seen.all() else ids.dictionary.filter(pa.array(seen))


def _compact(ids: pa.DictionaryArray) -> pa.DictionaryArray:
    """Leave out of the dictionary what does not occur: a batch of few rows should not hold the ids of all."""
    seen = _seen(ids)
    if seen.all():
        return ids
    renumbered = (np.cumsum(seen) - 1).astype(np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(renumbered[_codes(ids)]), ids.dictionary.filter(pa.array(seen)))
