"""The part of a recipe that says where raw files come from and how their tables are laid out."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from bench.data.schema import FILLED, File, Name, Pattern, Section, Text, words

Count = Annotated[int, Field(strict=True, ge=1)]
FILENAME = r"[\w.][\w.-]*"


class Table(Section):
    """How a text file of rows is laid out; a `.gz` file is read as it is.

    Attributes:
        file: path inside the source's folder.
        separator: between columns; unset: a comma for `.csv`, a tab for everything else. Quotes mean something in
            comma-separated files only.
        columns: names of all columns, for a file without a header line.
        encoding: of the text.
    """

    file: File
    separator: Text | None = None
    columns: tuple[Text, ...] = ()
    encoding: Text = "utf-8"


class InteractionsTable(Table):
    """The table of interactions; `user` to `split` are the names of its columns.

    Attributes:
        user: column of user ids, read as text.
        item: column of item ids, read as text.
        rating: column of numbers that a step of kind "positive" compares.
        timestamp: column of times.
        timestamp_unit: seconds or milliseconds since 1970, or "iso" for dates such as 2020-09-22.
        split: column that says which part a row belongs to, for the split method "given".
    """

    user: Text = "user"
    item: Text = "item"
    rating: Text | None = None
    timestamp: Text | None = None
    timestamp_unit: Literal["s", "ms", "iso"] = "s"
    split: Text | None = None


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
    """

    id: Text = "item"
    fields: dict[Text, Text | Flags] = Field(default_factory=dict)
    patterns: dict[Text, Pattern] = Field(default_factory=dict)

    def may_have(self, field: str) -> bool:
        """Say whether `field` can come out of this table; without named fields only the file itself tells."""
        made = {group for pattern in self.patterns.values() for group in re.compile(pattern).groupindex}
        return not self.fields or field in self.fields or field in made


class Source(Section):
    """One place the raw files can come from.

    Attributes:
        name: what `--source` calls it; unset: its kind.
    """

    name: Name
    interactions: InteractionsTable
    items: ItemsTable | None = None

    @model_validator(mode="before")
    @classmethod
    def _named_after_kind(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "name" not in data and "kind" in data:
            return {"name": data["kind"], **data}
        return data


class PackageSource(Source):
    """Files that an installed Python package carries in `folder`; the package is found, never imported."""

    kind: Literal["package"]
    package: Annotated[str, words(r"[A-Za-z_]\w*", "the name of a top-level Python package")]
    folder: File


class Download(Section):
    """One file on a web server; zip and tar archives are unpacked.

    Attributes:
        url: where it lies.
        file: name it gets here; unset: the last part of the url.
        sha256: checksum.
        md5: checksum where no SHA-256 is known.
        size: bytes.
    """

    url: Annotated[str, words(r"https?://[^/\s]+/\S+", "a web address starting with http:// or https://")]
    file: Annotated[str, words(FILENAME, "a plain file name")] = ""
    sha256: Annotated[str, words(r"[0-9a-f]{64}", "64 lower-case hexadecimal digits")] | None = None
    md5: Annotated[str, words(r"[0-9a-f]{32}", "32 lower-case hexadecimal digits")] | None = None
    size: Count | None = None

    @model_validator(mode="after")
    def _has_a_filename(self) -> Self:
        if not re.fullmatch(FILENAME, self.filename):
            raise ValueError("a 'url' that ends in a file name, or the key 'file' with the name to save it under")
        return self

    @property
    def filename(self) -> str:
        """Name of the file in the raw folder."""
        return self.file or re.split(r"[?#]", self.url)[0].rsplit("/", 1)[-1]

    @property
    def known_hash(self) -> str | None:
        """The checksum in the form "algorithm:digest"."""
        if self.sha256:
            return f"sha256:{self.sha256}"
        return f"md5:{self.md5}" if self.md5 else None


class HttpSource(Source):
    """Files fetched over the web into the raw folder."""

    kind: Literal["http"]
    downloads: Annotated[tuple[Download, ...], FILLED]


class LocalSource(Source):
    """Files in a folder of the user's own; relative to the recipe's folder, `~` is the home folder."""

    kind: Literal["local"]
    folder: Text


class GeneratedSource(Source):
    """Files that a generator of this program writes: interactions.csv, items.csv and one `.npy` per modality."""

    kind: Literal["generated"]
    generator: Literal["planted"]
    params: dict[str, int | float] = Field(default_factory=dict)
    interactions: InteractionsTable = InteractionsTable(file="interactions.csv", timestamp="timestamp")
    items: ItemsTable | None = ItemsTable(file="items.csv", id="id")


AnySource = Annotated[
    PackageSource | HttpSource | LocalSource | GeneratedSource,
    Field(discriminator="kind"),
]
