"""The part of a recipe that says which interactions stay, and how they are split."""

from datetime import date, timedelta
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from bench.data.recipes.schema import FILLED, Section, Text, words
from bench.data.recipes.tables import Count, Part

ModalityName = Annotated[str, words(r"[a-z][a-z0-9_]*", "a modality name of lower-case letters, digits and '_'")]
Day = Annotated[date, Field(strict=False)]


class PositiveStep(Section):
    """Keep interactions whose `column` is at least `minimum`, or whose action is one of `actions`."""

    kind: Literal["positive"]
    minimum: float | None = None
    column: Literal["rating", "timestamp"] = "rating"
    actions: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _asks_once(self) -> Self:
        if (self.minimum is None) == (not self.actions):
            raise ValueError("either 'minimum' (with 'column') or 'actions'")
        return self

    @property
    def compares(self) -> str:
        """The key of the interactions table that names the column in question."""
        return "action" if self.actions else self.column

    @property
    def words(self) -> str:
        """The rule in words."""
        return f"action is {' or '.join(self.actions)}" if self.actions else f"{self.column} >= {self.minimum:g}"


class WindowStep(Section):
    """Keep interactions of whole days, local to the source's `utc_offset`.

    Attributes:
        start: first day.
        end: last day, included.
        last_days: the latest day of the data and those before it, this many in all.
    """

    kind: Literal["window"]
    start: Day | None = None
    end: Day | None = None
    last_days: Count | None = None

    @model_validator(mode="after")
    def _asks_once(self) -> Self:
        if (self.start is None and self.end is None) == (self.last_days is None):
            raise ValueError("either 'start', 'end' or both, or 'last_days'")
        if self.start and self.end and self.end < self.start:
            raise ValueError(f"an 'end' that is not before the 'start', but {self.end} is before {self.start}")
        return self

    @property
    def bounds_s(self) -> tuple[float, float]:
        """First second of the window and first one after it, of local time as if it were UTC."""
        day = timedelta(days=1)
        first = float("-inf") if self.start is None else (self.start - date(1970, 1, 1)) / timedelta(seconds=1)
        after = float("inf") if self.end is None else (self.end + day - date(1970, 1, 1)) / timedelta(seconds=1)
        return first, after

    @property
    def words(self) -> str:
        """The rule in words."""
        if self.last_days is not None:
            return f"the last {self.last_days} days"
        ends = [f"from {self.start}"] if self.start else []
        return " ".join([*ends, *([f"to {self.end}"] if self.end else [])])


class SampleStep(Section):
    """Keep a share of the users, chosen by a hash of their ids: the same users whatever else is in the data.

    Attributes:
        share: of the users, above 0 and below 1.
        salt: other salts choose other users.
    """

    kind: Literal["sample"]
    share: Annotated[float, Field(gt=0, lt=1)]
    salt: str = ""

    @property
    def words(self) -> str:
        """The rule in words."""
        return f"{100 * self.share:.6g}% of users by hash"


class DedupeStep(Section):
    """Keep the first or last interaction of every user and item, by time where known, else by row."""

    kind: Literal["dedupe"]
    keep: Literal["first", "last"] = "first"

    @property
    def words(self) -> str:
        """The rule in words."""
        return f"{self.keep} of each user and item"


class AvailableStep(Section):
    """Keep interactions with items that have something in every one of `modalities`."""

    kind: Literal["available"]
    modalities: Annotated[tuple[ModalityName, ...], FILLED]

    @property
    def words(self) -> str:
        """The rule in words."""
        return f"items with {' and '.join(self.modalities)}"


class CoreStep(Section):
    """Keep users and items with enough interactions, again and again until nothing changes.

    Attributes:
        k: fewest interactions of users and items alike.
        user_core: fewest interactions of a user; unset beside item_core: any number.
        item_core: fewest interactions of an item; unset beside user_core: any number.
    """

    kind: Literal["core"]
    k: Count | None = None
    user_core: Count | None = None
    item_core: Count | None = None

    @model_validator(mode="after")
    def _asks_once(self) -> Self:
        one_sided = self.user_core is not None or self.item_core is not None
        if one_sided == (self.k is not None):
            raise ValueError("either 'k' for users and items alike, or 'user_core', 'item_core' or both")
        return self

    @property
    def cores(self) -> tuple[int, int]:
        """Fewest interactions per user and per item; 1 does not filter."""
        return self.k or self.user_core or 1, self.k or self.item_core or 1

    @property
    def words(self) -> str:
        """The rule in words."""
        return f"users >= {self.cores[0]}, items >= {self.cores[1]}"


class Split(Section):
    """Which interactions are for training, validation and test.

    Attributes:
        method: "random" or "chronological" within each user, or "given" by a column or by files.
        split_seed: of the random method.
        labels: raw label -> part, for the given method; unset: 0/1/2 and train/valid/test.
    """

    method: Literal["random", "chronological", "given"] = "random"
    split_seed: Annotated[int, Field(strict=True, ge=0)] = 2023
    labels: dict[str, Part] | None = None


Step = Annotated[
    PositiveStep | WindowStep | SampleStep | DedupeStep | AvailableStep | CoreStep, Field(discriminator="kind")
]
