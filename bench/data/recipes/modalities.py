"""The part of a recipe that says how the feature matrix of each modality is made."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from bench.data.recipes.schema import FILLED, File, Section, Text, words
from bench.data.recipes.tables import Count, ItemsTable

Missing = Literal["refuse", "drop", "mean", "zero"]
PathRule = Annotated[
    str,
    words(
        r"(?!/)(?!.*\.\.)[^{}]*(\{id(:[1-9][0-9]?)?\}[^{}]*)+",
        "a path with {id} for the item's id, or {id:3} for its first three characters, such as covers/{id}.jpg",
    ),
]


class Encoder(Section):
    """What every encoder's table has.

    Attributes:
        missing: of items that have nothing to encode: "refuse" them with an error, "drop" them by the recipe's step of
            kind "available", or give them the "mean" of the others' rows or a row of "zero"; the last two are reported.
    """

    missing: Missing = "zero"


class TfidfSvd(Encoder):
    """Words of the joined `fields`, TF-IDF weighted, then a truncated SVD to at most `width` dimensions.

    Attributes:
        fields: of the items table, joined by blanks.
        width: most dimensions.
        units: what is counted: words, or single characters and pairs of them, for languages written without blanks.
    """

    encoder: Literal["tfidf-svd"]
    fields: Annotated[tuple[Text, ...], FILLED]
    width: Count = 64
    units: Literal["words", "characters"] = "words"


class MultiHot(Encoder):
    """One dimension per label in `fields`, and one per decade of the year in the field `decade`."""

    encoder: Literal["multi-hot"]
    fields: tuple[Text, ...] = ()
    separator: Text = "|"
    decade: Text | None = None

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if not self.fields and self.decade is None:
            raise ValueError("at least one of 'fields' and 'decade'")
        return self


class SameItems(Section):
    """A second items table that a matrix belongs to; it must tell of the same items as the source's own.

    Attributes:
        items: the table that the rows of the matrix follow.
        field: compared between the two, for the ids both have.
        share: of the compared ids that must agree, blanks and case aside.
    """

    items: ItemsTable
    field: Text = "title"
    share: Annotated[float, Field(gt=0, le=1)] = 0.9


class FileFeature(Encoder):
    """Rows of a ready `.npy` matrix in the source's folder.

    Attributes:
        file: path inside the source's folder.
        rows: "id": row r belongs to the item whose id is the number first_id + r; "order": to row r of the items file.
        first_id: item id of row 0.
        standardise: bring every column to mean 0 and standard deviation 1 over the items that have a row.
        same_items: for a matrix of another dataset with the same item ids: how to make sure of that.
    """

    encoder: Literal["file"]
    missing: Missing = "refuse"
    file: File
    rows: Literal["id", "order"] = "id"
    first_id: Annotated[int, Field(strict=True)] = 0
    standardise: bool = False
    same_items: SameItems | None = None


class Records(Encoder):
    """A binary file of records: an item id in `id_bytes` ASCII bytes, then `width` little-endian float32 numbers."""

    encoder: Literal["records"]
    file: File
    id_bytes: Count = 10
    width: Count = 4096


class SentenceTransformer(Encoder):
    """The joined `fields` through a model of the sentence-transformers library; needs the extra `features`.

    Attributes:
        model: name on the Hugging Face hub, or a folder.
        fields: of the items table, joined by blanks.
        batch_size: texts at once.
    """

    encoder: Literal["sentence-transformers"]
    model: Text
    fields: Annotated[tuple[Text, ...], FILLED]
    batch_size: Count = 64


class Pictures(Section):
    """Where pictures can be had that no archive holds.

    Attributes:
        field: of the items table, with the address of the picture.
        hosts: tried after the address's own, with the same path.
        delay_s: least time between two requests to one host.
        folder: inside the raw folder, for `<item id>.jpg` and the coverage report.
    """

    field: Text = "picture"
    hosts: tuple[Annotated[str, words(r"[A-Za-z0-9.-]+(:[0-9]+)?", "a host name")], ...] = ()
    delay_s: Annotated[float, Field(ge=0)] = 0.1
    folder: File = "pictures"


class ImageModel(Encoder):
    """Pictures through an image model of the transformers library; needs the extra `features`.

    Attributes:
        model: name on the Hugging Face hub, or a folder.
        images: where the picture of an item lies, in a folder or an archive; the first rule that finds one counts.
        archives: files of the source that hold them; downloaded only where this encoder is in use.
        download: how to fetch them one by one first.
        batch_size: pictures at once.
    """

    encoder: Literal["image"]
    model: Text
    images: Annotated[tuple[PathRule, ...], FILLED]
    archives: tuple[File, ...] = ()
    download: Pictures | None = None
    batch_size: Count = 32


NEURAL = ("sentence-transformers", "image")


def _model_apart(value: Any) -> Any:
    """Read `encoder = "image:MODEL"` as the encoder "image" with the key `model`."""
    if isinstance(value, Mapping) and isinstance(value.get("encoder"), str):
        encoder, colon, model = value["encoder"].partition(":")
        if colon and encoder in NEURAL and "model" not in value:
            return {**value, "encoder": encoder, "model": model}
    return value


Feature = Annotated[
    Annotated[
        TfidfSvd | MultiHot | FileFeature | Records | SentenceTransformer | ImageModel, Field(discriminator="encoder")
    ],
    BeforeValidator(_model_apart),
]


def feature_fields(feature: Encoder) -> tuple[str, ...]:
    """Return the fields of the items table that an encoder reads."""
    if isinstance(feature, ImageModel):
        return (feature.download.field,) if feature.download else ()
    if isinstance(feature, MultiHot):
        return feature.fields + ((feature.decade,) if feature.decade else ())
    return feature.fields if isinstance(feature, TfidfSvd | SentenceTransformer) else ()


def feature_files(feature: Encoder) -> tuple[str, ...]:
    """Return the raw files of known name that an encoder reads, besides the source's tables."""
    if isinstance(feature, FileFeature):
        return (feature.file, *(feature.same_items.items.files if feature.same_items else ()))
    return (feature.file,) if isinstance(feature, Records) else ()
