"""A dataset recipe: one TOML file that says where the raw files lie and what is done with them, in order.

A recipe of one's own can be this short:

```toml
name = "mine"
sources = [{ kind = "local", folder = "~/mine", interactions = { file = "pairs.csv", split = "split" } }]

[split]
method = "given"

[features]
image = { encoder = "file", file = "image.npy" }
```

Every key is checked, an unknown one is refused, and nothing in a recipe is executed.
"""

import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from bench.data.schema import FILLED, File, Name, Section, Text, explain, words
from bench.data.sources import AnySource, Count
from bench.errors import RecipeError

Part = Literal["train", "valid", "test"]
Modality = Annotated[str, words(r"[a-z][a-z0-9_]*", "a modality name of lower-case letters, digits and '_'")]
Whole = Annotated[int, Field(strict=True)]


class PositiveStep(Section):
    """Keep interactions whose `column` is at least `minimum`."""

    kind: Literal["positive"]
    minimum: float
    column: Literal["rating", "timestamp"] = "rating"


class DedupeStep(Section):
    """Keep the first or last interaction of every user and item, by time where known, else by row."""

    kind: Literal["dedupe"]
    keep: Literal["first", "last"] = "first"


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


class Split(Section):
    """Which interactions are for training, validation and test.

    Attributes:
        method: "random" or "chronological" within each user, or "given" by a column.
        split_seed: of the random method.
        labels: raw label -> part, for the given method; unset: 0/1/2 and train/valid/test.
    """

    method: Literal["random", "chronological", "given"] = "random"
    split_seed: Annotated[int, Field(strict=True, ge=0)] = 2023
    labels: dict[str, Part] | None = None


class TfidfSvd(Section):
    """Words of the joined `fields`, TF-IDF weighted, then a truncated SVD to at most `width` dimensions."""

    encoder: Literal["tfidf-svd"]
    fields: Annotated[tuple[Text, ...], FILLED]
    width: Count = 64


class MultiHot(Section):
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


class FileFeature(Section):
    """Rows of a ready `.npy` matrix in the source's folder.

    Attributes:
        file: path inside the source's folder.
        rows: "id": row r belongs to the item whose id is the number first_id + r; "order": to row r of the items file.
        first_id: item id of row 0.
    """

    encoder: Literal["file"]
    file: File
    rows: Literal["id", "order"] = "id"
    first_id: Whole = 0


Step = Annotated[PositiveStep | DedupeStep | CoreStep, Field(discriminator="kind")]
Feature = Annotated[TfidfSvd | MultiHot | FileFeature, Field(discriminator="encoder")]


class Counts(Section):
    """Numbers the data is known to have; other numbers are an error, or only a warning where they are a `target`."""

    users: Count | None = None
    items: Count | None = None
    interactions: Count | None = None
    target: bool = False


class Expected(Section):
    """Known counts of the raw files and of the prepared dataset."""

    raw: Counts | None = None
    prepared: Counts | None = None


class Recipe(Section):
    """A whole recipe.

    Attributes:
        name: of the dataset, and of its folders.
        title: full name.
        aliases: other names it answers to, in any case.
        homepage: where it is described.
        licence: terms of use.
        citation: what to cite.
        sources: tried in this order; the first one available is used.
        steps: filters, in the order they are applied.
        split: into training, validation and test.
        features: modality -> how its matrix is made.
        expected: counts to hold the data against.
    """

    name: Name
    title: str = ""
    aliases: tuple[Text, ...] = ()
    homepage: str = ""
    licence: str = ""
    citation: str = ""
    sources: Annotated[tuple[AnySource, ...], FILLED]
    steps: tuple[Step, ...] = ()
    split: Split = Split()
    features: dict[Modality, Feature] = Field(default_factory=dict)
    expected: Expected = Expected()

    _path: Path = PrivateAttr(default=Path("recipe.toml"))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [*self._source_problems(), *self._feature_problems()]
        if problems:
            raise ValueError("keys that fit together:\n    " + "\n    ".join(problems))
        return self

    @property
    def path(self) -> Path:
        """The file the recipe was read from."""
        return self._path

    @cached_property
    def hash(self) -> str:
        """SHA-256 of everything that decides the data: all resolved values except the describing texts."""
        content = self.model_dump(mode="json", exclude={"title", "aliases", "homepage", "licence", "citation"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _source_problems(self) -> Iterator[str]:
        names = Counter(source.name for source in self.sources)
        for name in (name for name, count in names.items() if count > 1):
            yield f"{names[name]} sources are named '{name}'; give each its own 'name'"
        compared = {step.column for step in self.steps if isinstance(step, PositiveStep)}
        if self.split.method != "given" and self.split.labels is not None:
            yield f"split.labels belongs to the method 'given', but split.method is '{self.split.method}'"
        for source in self.sources:
            table, where = source.interactions, f"sources '{source.name}': interactions"
            for column in sorted(column for column in compared if getattr(table, column) is None):
                yield f"{where} lacks the key '{column}', which a step of kind 'positive' compares"
            if self.split.method == "chronological" and table.timestamp is None:
                yield f"{where} lacks the key 'timestamp', which the split method 'chronological' needs"
            if self.split.method == "given" and table.split is None:
                yield f"{where} lacks the key 'split', which the split method 'given' needs"
            if self.split.method != "given" and table.split is not None:
                yield f"{where} has the key 'split', which the split method '{self.split.method}' does not use"

    def _feature_problems(self) -> Iterator[str]:
        for modality, feature in self.features.items():
            fields = feature_fields(feature)
            needs_items = bool(fields) or (isinstance(feature, FileFeature) and feature.rows == "order")
            for source in self.sources:
                if needs_items and source.items is None:
                    yield f"features.{modality} needs an items table, but source '{source.name}' has none"
                elif source.items is not None:
                    for field in (field for field in fields if not source.items.may_have(field)):
                        known = ", ".join(source.items.fields)
                        yield f"features.{modality} reads the field '{field}', but source '{source.name}' has: {known}"


def feature_fields(feature: TfidfSvd | MultiHot | FileFeature) -> tuple[str, ...]:
    """Return the fields of the items table that an encoder reads."""
    if isinstance(feature, FileFeature):
        return ()
    decade = (feature.decade,) if isinstance(feature, MultiHot) and feature.decade else ()
    return feature.fields + decade


def load_recipe(path: Path) -> Recipe:
    """Read and check the recipe in a TOML file.

    Raises:
        RecipeError: the file cannot be read, is no TOML, or holds keys or values a recipe does not have; the message
            names the file, every key, what was expected and what was found.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"The recipe {path} is not UTF-8 text; save it as UTF-8.") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"The recipe {path} is not valid TOML: {error}.") from error
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        raise explain(error, document, path) from error
    recipe._path = path
    return recipe
