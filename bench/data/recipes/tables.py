"""The part of a recipe that says how the raw tables of interactions and items are laid out."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from bench.data.recipes.schema import FILLED, File, Files, Pattern, Section, Text, words

Count = Annotated[int, Field(strict=True, ge=1)]
Part = Literal["train", "valid", "test"]
Offset = Annotated[str, words(r"[+-][0-9]{2}:[0-9]{2}", "an offset from UTC such as '+08:00'")]


class Table(Section):
    """How a text file of rows is laid out; packed files (`.gz`, or a member of a zip or tar archive) are read as is.

    Attributes:
        file: path inside the source's folder, or several, whose rows follow one another.
        separator: between columns; unset: a comma for `.csv`, a tab for everything else. Quotes mean something in
            comma-separated files only.
        columns: names of all columns, for a file without a header line.
        encoding: of the text.
        undecodable: bytes that are not of this encoding are an error ("refuse") or become U+FFFD ("replace").
        free_text: column that may itself hold the separator: the columns before it are split off from the left, those
            after it from the right, and quotes are letters.
    """

    file: Files
    separator: Text | None = None
    columns: tuple[Text, ...] = ()
    encoding: Text = "utf-8"
    undecodable: Literal["refuse", "replace"] = "refuse"
    free_text: Text | None = None

    @model_validator(mode="after")
    def _knows_its_free_text(self) -> Self:
        if self.free_text is not None and self.free_text not in self.columns:
            raise ValueError(f"'free_text' to be one of 'columns', but '{self.free_text}' is not among them")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """The files, in the order their rows are read."""
        return self.file

    def separator_of(self, file: str) -> str:
        """Return what stands between the columns of `file`."""
        return self.separator or ("," if re.search(r"\.csv(\.|$)", file.lower()) else "\t")


class InteractionsTable(Table):
    """The table of interactions; `user` to `action` are the names of its columns.

    Attributes:
        user: column of user ids, read as text.
        item: column of item ids, read as text.
        rating: column of numbers that a step of kind "positive" compares.
        timestamp: column of times.
        timestamp_unit: seconds or milliseconds since 1970; "iso" for dates such as 2020-09-22 or 2020-09-22 10:00:00;
            "order" for no column at all, where later rows (or later items of a row) are later.
        timestamp_format: of dates that are not ISO, in the words of Python's strptime: "%Y/%m/%d %H:%M".
        utc_offset: of dates without one of their own.
        split: column that says which part a row belongs to, for the split method "given".
        action: column of what was done, which a step of kind "positive" can choose by.
        item_separator: the item column holds several items, oldest first, with this between them.
        item_prefix: what item ids of this table start with, and the others do not; taken off where it stands.
        item_digits: item ids shorter than this get leading zeros.
    """

    user: Text = "user"
    item: Text = "item"
    rating: Text | None = None
    timestamp: Text | None = None
    timestamp_unit: Literal["s", "ms", "iso", "order"] = "s"
    timestamp_format: Text | None = None
    utc_offset: Offset = "+00:00"
    split: Text | None = None
    action: Text | None = None
    item_separator: Text | None = None
    item_prefix: str = ""
    item_digits: Count | None = None

    @model_validator(mode="after")
    def _tells_one_time(self) -> Self:
        if self.timestamp_unit == "order" and self.timestamp is not None:
            raise ValueError("no 'timestamp' where timestamp_unit = \"order\": the order of the rows is the time")
        if self.timestamp_format is not None and self.timestamp_unit != "iso":
            raise ValueError("timestamp_unit = \"iso\" beside 'timestamp_format'")
        return self

    @property
    def has_time(self) -> bool:
        """Say whether interactions come with a time."""
        return self.timestamp is not None or self.timestamp_unit == "order"

    @property
    def has_split(self) -> bool:
        """Say whether interactions come with a part."""
        return self.split is not None

    @property
    def offset_s(self) -> int:
        """Seconds that local time is ahead of UTC."""
        hours, minutes = self.utc_offset[1:].split(":")
        return (-1 if self.utc_offset[0] == "-" else 1) * (int(hours) * 3600 + int(minutes) * 60)


class PartFiles(Section):
    """Interactions in one file per part of the split, without times or ratings.

    Attributes:
        format: "user-lists": JSON, `{"user": [items]}`; "matrices": pickled SciPy sparse matrices, users x items, read
            by an unpickler that can build nothing else.
        parts: part -> file.
    """

    format: Literal["user-lists", "matrices"]
    parts: Annotated[dict[Part, File], FILLED]

    @model_validator(mode="after")
    def _has_every_part(self) -> Self:
        if len(self.parts) != 3:
            raise ValueError("a file for each of train, valid and test under 'parts'")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """The files, in the order their rows are read."""
        return tuple(self.parts.values())

    rating: None = Field(default=None, exclude=True)
    action: None = Field(default=None, exclude=True)

    @property
    def has_time(self) -> bool:
        """Say whether interactions come with a time."""
        return False

    @property
    def has_split(self) -> bool:
        """Say whether interactions come with a part."""
        return True

    @property
    def offset_s(self) -> int:
        """Seconds that local time is ahead of UTC."""
        return 0


def _which_interactions(value: Any) -> str:
    parts = "parts" in value or "format" in value if isinstance(value, dict) else isinstance(value, PartFiles)
    return "part files" if parts else "table"


Interactions = Annotated[
    Annotated[InteractionsTable, Tag("table")] | Annotated[PartFiles, Tag("part files")],
    Discriminator(_which_interactions),
]


class Flags(Section):
    """A field spread over columns of 0 and 1: the names of the columns holding 1, joined by `separator`."""

    flags: Annotated[tuple[Text, ...], FILLED]
    separator: Text = "|"


class ItemsTable(Table):
    """The table of item descriptions.

    Attributes:
        id: column of item ids.
        fields: wanted field -> column it comes from (or flag columns); unset: every column under its own name.
        patterns: field -> regular expression with named groups; where it matches the whole text of the field, each
            group becomes (or replaces) the field of its name, as in "Toy Story (1995)" -> title and year.
        format: "delimited" text; or one object a line, as JSON or as a Python literal, whose keys are the columns.
            Lists in it are joined by blanks.
        item_digits: item ids shorter than this get leading zeros.
        repeated: an id that stands on several lines is an error, or its first line counts.
    """

    id: Text = "item"
    fields: dict[Text, Text | Flags] = Field(default_factory=dict)
    patterns: dict[Text, Pattern] = Field(default_factory=dict)
    format: Literal["delimited", "json-lines", "python-lines"] = "delimited"
    item_digits: Count | None = None
    repeated: Literal["refuse", "first"] = "refuse"

    @model_validator(mode="after")
    def _names_its_keys(self) -> Self:
        if self.format != "delimited" and not self.fields:
            raise ValueError(
                f"'fields' beside format = \"{self.format}\": which keys of the objects become which field"
            )
        return self

    def may_have(self, field: str) -> bool:
        """Say whether `field` can come out of this table; without named fields only the file itself tells."""
        made = {group for pattern in self.patterns.values() for group in re.compile(pattern).groupindex}
        return not self.fields or field in self.fields or field in made
