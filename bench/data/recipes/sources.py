"""The part of a recipe that says where raw files come from, and what is special about one place."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from bench.data.recipes.modalities import Feature
from bench.data.recipes.schema import FILLED, File, Name, Section, Text, words
from bench.data.recipes.steps import ModalityName, Split, Step
from bench.data.recipes.tables import Count, Interactions, InteractionsTable, ItemsTable

FILENAME = r"[\w.][\w.-]*"


def _with_slash(value: str) -> str:
    return value if value.endswith("/") else value + "/"


Url = Annotated[str, words(r"https?://[^/\s]+(/\S*)?", "a web address starting with http:// or https://")]
Base = Annotated[Url, AfterValidator(_with_slash)]


class Counts(Section):
    """Numbers the data is known to have; other numbers are an error, or only a warning where they are a `target`."""

    users: Count | None = None
    items: Count | None = None
    interactions: Count | None = None
    target: bool = False


class CoreCounts(Section):
    """What is left at a known setting of the k-core, everything else being as in the recipe."""

    user_core: Count
    item_core: Count
    users: Count
    items: Count
    interactions: Count


class PublishedCounts(Section):
    """What a paper prints for this dataset."""

    name: Text
    users: Count
    items: Count
    interactions: Count


class Expected(Section):
    """Known counts.

    Attributes:
        raw: of the raw files.
        prepared: of the prepared dataset, whatever its k-core.
        cores: of the prepared dataset at some settings of the k-core.
        published: what papers print, to be held against what comes out.
    """

    raw: Counts | None = None
    prepared: Counts | None = None
    cores: tuple[CoreCounts, ...] = ()
    published: tuple[PublishedCounts, ...] = ()


class Source(Section):
    """One place the raw files can come from.

    Attributes:
        name: what `--source` calls it; unset: its kind.
        layout: "recbole" for atomic files, "mmrec" for MMRec's folder: names the tables after `dataset` and knows their
            columns, so that `interactions` and `items` need to say only what is special.
        dataset: what the files of a `layout` are called, as in `<dataset>.inter`.
        interactions: the table of interactions.
        items: the table of item descriptions.
        steps: in place of the recipe's, for a copy that is filtered already.
        split: in place of the recipe's.
        features: in place of the recipe's.
        expected: in place of the recipe's.
        own_name: the dataset made from here is another one and is called NAME@SOURCE.
        checksums: file -> SHA-256 of a known copy; another one is reported, not refused.
    """

    name: Name
    layout: Literal["recbole", "mmrec"] | None = Field(default=None, exclude=True)
    dataset: Text | None = Field(default=None, exclude=True)
    interactions: Interactions
    items: ItemsTable | None = None
    steps: tuple[Step, ...] | None = None
    split: Split | None = None
    features: dict[ModalityName, Feature] | None = None
    expected: Expected | None = None
    own_name: bool = False
    checksums: dict[File, Annotated[str, words(r"[0-9a-f]{64}", "64 lower-case hexadecimal digits")]] = Field(
        default_factory=dict
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        named = data if "name" in data or "kind" not in data else {"name": data["kind"], **data}
        return _laid_out(named) if named.get("layout") in LAYOUTS else named

    @property
    def table_files(self) -> tuple[str, ...]:
        """The files of its tables."""
        return self.interactions.files + (self.items.files if self.items else ())


LAYOUTS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "recbole": {
        "interactions": {"file": "{}.inter", "separator": "\t", "user": "user_id:token", "item": "item_id:token"},
        "items": {"file": "{}.item", "separator": "\t", "id": "item_id:token"},
    },
    "mmrec": {
        "interactions": {
            "file": "{}.inter", "separator": "\t", "user": "userID", "item": "itemID", "split": "x_label"
        },
    },
}  # fmt: skip


def _laid_out(data: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in the tables of a known layout; what the recipe says itself goes before."""
    name = data.get("dataset")
    if not isinstance(name, str) or not name:
        raise ValueError("the key 'dataset' beside 'layout': what the files are called, as in DATASET.inter")
    filled = dict(data)
    for table, keys in LAYOUTS[data["layout"]].items():
        if table == "items" and table not in data:
            continue
        own = data.get(table, {})
        if isinstance(own, Mapping):
            filled[table] = {key: value.format(name) for key, value in keys.items()} | dict(own)
    return filled


class PackageSource(Source):
    """Files that an installed Python package carries in `folder`; the package is found, never imported."""

    kind: Literal["package"]
    package: Annotated[str, words(r"[A-Za-z_]\w*", "the name of a top-level Python package")]
    folder: File


class Download(Section):
    """One file on a web server.

    Attributes:
        url: where it lies; relative to the source's `base`, if it has one.
        file: name it gets here; unset: the last part of the url.
        sha256: checksum.
        md5: checksum where no SHA-256 is known.
        size: bytes.
        line_ends: of a text file: size and checksum are those of the file with these line ends, and a copy with the
            others is as good.
    """

    url: Annotated[str, words(r"(?!/)\S+", "a web address, or a path below the source's 'base'")]
    file: Annotated[str, words(FILENAME, "a plain file name")] = ""
    sha256: Annotated[str, words(r"[0-9a-f]{64}", "64 lower-case hexadecimal digits")] | None = None
    md5: Annotated[str, words(r"[0-9a-f]{32}", "32 lower-case hexadecimal digits")] | None = None
    size: Count | None = None
    line_ends: Literal["lf", "crlf"] | None = None

    @model_validator(mode="after")
    def _has_a_filename(self) -> Self:
        if not re.fullmatch(FILENAME, self.filename):
            raise ValueError("a 'url' that ends in a file name, or the key 'file' with the name to save it under")
        return self

    @property
    def is_absolute(self) -> bool:
        """Say whether the url stands alone."""
        return re.match("https?://", self.url) is not None

    @property
    def filename(self) -> str:
        """Name of the file in the raw folder."""
        return self.file or re.split(r"[?#]", self.url)[0].rsplit("/", 1)[-1]


class HttpSource(Source):
    """Files fetched over the web into the raw folder.

    Attributes:
        downloads: the files.
        base: address that relative urls continue; `--url` takes another in its place.
        mirrors: other bases, tried in turn where a file cannot be had from the one before.
    """

    kind: Literal["http"]
    downloads: Annotated[tuple[Download, ...], FILLED]
    base: Base | None = None
    mirrors: tuple[Base, ...] = ()

    @model_validator(mode="after")
    def _addresses_are_whole(self) -> Self:
        relative = [each.url for each in self.downloads if not each.is_absolute]
        if relative and self.base is None:
            raise ValueError(
                f"a web address starting with http:// or https:// for every download, or a 'base' that it continues, "
                f"but there is no 'base' and a url is '{relative[0]}'"
            )
        return self


class LocalSource(Source):
    """Files in a folder of the user's own; relative to the recipe's folder, `~` is the home folder."""

    kind: Literal["local"]
    folder: Text


class ManualSource(Source):
    """Files that only the user can fetch, behind a login or terms to accept.

    Attributes:
        page: where.
        how: what to do there, in a sentence or two.
    """

    kind: Literal["manual"]
    page: Url
    how: Text


class KaggleSource(Source):
    """Files of a Kaggle competition or dataset, fetched by kagglehub with the user's token.

    Attributes:
        competition: its name; its rules must have been accepted in a browser.
        handle: of a dataset, as owner/name; one of the two.
        files: to fetch one by one; unset: everything.
        page: for people.
    """

    kind: Literal["kaggle"]
    competition: Text | None = None
    handle: Annotated[str, words(r"[\w.-]+/[\w.-]+", "a Kaggle dataset as owner/name")] | None = None
    files: tuple[File, ...] = ()
    page: Url

    @model_validator(mode="after")
    def _is_one_of_them(self) -> Self:
        if (self.competition is None) == (self.handle is None):
            raise ValueError("either 'competition' or 'handle'")
        return self


class DriveSource(Source):
    """Files of a public Google Drive folder, fetched by gdown.

    Attributes:
        folder_id: of the Drive folder.
        folder: inside it; unset: the top.
    """

    kind: Literal["drive"]
    folder_id: Annotated[str, words(r"[\w-]{10,}", "the id in the folder's address")]
    folder: File | None = None


class GeneratedSource(Source):
    """Files that a generator of this program writes: interactions.csv, items.csv and one `.npy` per modality."""

    kind: Literal["generated"]
    generator: Literal["planted"]
    params: dict[str, int | float] = Field(default_factory=dict)
    interactions: Interactions = InteractionsTable(file=("interactions.csv",), timestamp="timestamp")
    items: ItemsTable | None = ItemsTable(file=("items.csv",), id="id")


AnySource = Annotated[
    PackageSource | HttpSource | LocalSource | ManualSource | KaggleSource | DriveSource | GeneratedSource,
    Field(discriminator="kind"),
]
