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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, PrivateAttr, ValidationError, model_validator

from bench.data.recipes.modalities import Encoder, Feature, FileFeature, feature_fields
from bench.data.recipes.schema import FILLED, Name, Section, Text, explain
from bench.data.recipes.sources import AnySource, Expected, Source
from bench.data.recipes.steps import AvailableStep, ModalityName, PositiveStep, Split, Step, WindowStep
from bench.errors import RecipeError

DESCRIBING = ("title", "aliases", "homepage", "licence", "citation")


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
        alternatives: modality -> name -> another way to make it, which `--feature MODALITY=NAME` takes.
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
    features: dict[ModalityName, Feature] = Field(default_factory=dict)
    alternatives: dict[ModalityName, dict[Name, Feature]] = Field(default_factory=dict)
    expected: Expected = Expected()

    _path: Path = PrivateAttr(default=Path("recipe.toml"))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self.check()
        return self

    def check(self) -> None:
        """Make sure that all parts fit together, for every source.

        Raises:
            ValueError: they do not; the message lists why.
        """
        problems = [*self._name_problems()]
        for source in self.sources:
            problems += self.at(source)._problems(source)
        if problems:
            raise ValueError("keys that fit together:\n    " + "\n    ".join(dict.fromkeys(problems)))

    @property
    def path(self) -> Path:
        """The file the recipe was read from."""
        return self._path

    @property
    def hash(self) -> str:
        """SHA-256 of everything that decides the data: all resolved values except the describing texts."""
        content = self.model_dump(mode="json", exclude=set(DESCRIBING))
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def at(self, source: Source) -> Self:
        """Return the recipe as it is for one of its sources, with what that source says in place of its own."""
        own = {key: getattr(source, key) for key in ("steps", "split", "features", "expected")}
        return self.model_copy(update={key: value for key, value in own.items() if value is not None})

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """Return a recipe with other values under some keys, checked again.

        Raises:
            ValueError: what comes out does not fit together.
        """
        changed = self.model_copy(update=dict(changes))
        changed.check()
        return changed

    def _name_problems(self) -> Iterator[str]:
        names = Counter(source.name for source in self.sources)
        for name in (name for name, count in names.items() if count > 1):
            yield f"{names[name]} sources are named '{name}'; give each its own 'name'"

    def _problems(self, source: Source) -> list[str]:
        """Return what does not fit together when the recipe is followed with `source`."""
        where = f"sources '{source.name}': interactions"
        return [
            *self._step_problems(source, where),
            *self._split_problems(source, where),
            *self._feature_problems(source),
            *self._missing_problems(),
        ]

    def _step_problems(self, source: Source, where: str) -> Iterator[str]:
        table = source.interactions
        compared = {step.compares for step in self.steps if isinstance(step, PositiveStep)}
        for column in sorted(column for column in compared if getattr(table, column, None) is None):
            yield f"{where} lacks the key '{column}', which a step of kind 'positive' compares"
        if any(isinstance(step, WindowStep) for step in self.steps) and not getattr(table, "timestamp", None):
            yield f"{where} lacks the key 'timestamp', which a step of kind 'window' compares"
        for step in self.steps:
            for modality in step.modalities if isinstance(step, AvailableStep) else ():
                if modality not in self.features:
                    known = ", ".join(self.features) or "none"
                    yield f"a step of kind 'available' asks for the modality '{modality}', but 'features' has: {known}"

    def _split_problems(self, source: Source, where: str) -> Iterator[str]:
        table, method = source.interactions, self.split.method
        if method != "given" and self.split.labels is not None:
            yield f"split.labels belongs to the method 'given', but split.method is '{method}'"
        if method == "chronological" and not table.has_time:
            yield f"{where} lacks the key 'timestamp', which the split method 'chronological' needs"
        if method == "given" and not table.has_split:
            yield f"{where} lacks the key 'split', which the split method 'given' needs"
        if method != "given" and table.has_split:
            yield f"{where} has the key 'split', which the split method '{method}' does not use"

    def _feature_problems(self, source: Source) -> Iterator[str]:
        items = source.items
        for modality, feature in self.features.items():
            fields = feature_fields(feature)
            if (fields or reads_items(feature)) and items is None:
                yield f"features.{modality} needs an items table, but source '{source.name}' has none"
            for field in fields:
                if items is not None and not items.may_have(field):
                    known = ", ".join(items.fields)
                    yield f"features.{modality} reads the field '{field}', but source '{source.name}' has: {known}"

    def _missing_problems(self) -> Iterator[str]:
        asked = {name for step in self.steps if isinstance(step, AvailableStep) for name in step.modalities}
        for modality, feature in self.features.items():
            if feature.missing == "drop" and modality not in asked:
                yield (
                    f"features.{modality} has missing = 'drop', but no step of kind 'available' names '{modality}'; "
                    f"add one where the items should go, before the k-core"
                )


def reads_items(feature: Encoder) -> bool:
    """Say whether an encoder needs the source's items table for something else than its fields."""
    return isinstance(feature, FileFeature) and (feature.rows == "order" or feature.same_items is not None)


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
