"""The ground rules of every table in a recipe: frozen, no unknown keys, and errors worded for people."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from bench.errors import RecipeError


class Section(BaseModel):
    """A table of a recipe. Attributes are its keys; a key it does not know is refused with a near match."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_keys(cls, data: Any) -> Any:
        # Pydantic's own error does not know the other keys, which a near match needs.
        if not isinstance(data, Mapping):
            return data
        unknown = [key for key in data if key not in cls.model_fields]
        if unknown:
            found = "; ".join(f"unknown key {did_you_mean(key, cls.model_fields)}" for key in unknown)
            context = {"found": found, "known": ", ".join(cls.model_fields)}
            raise PydanticCustomError("unknown_key", "{found}. Known keys: {known}", context)
        return data


def words(pattern: str, meaning: str) -> AfterValidator:
    """Check a text against `pattern`; the error says what the pattern means instead of showing it."""

    def check(value: str) -> str:
        if not re.fullmatch(pattern, value):
            raise ValueError(meaning)
        return value

    return AfterValidator(check)


def _inside(value: str) -> str:
    path = Path(value)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError("a path inside the source's folder, without a leading '/' and without '..'")
    return value


def _compiles(pattern: str) -> str:
    wish = "a regular expression with named groups such as (?P<year>[0-9]{4})"
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise ValueError(f"{wish}; Python's re module says: {error}") from error
    if not groups:
        raise ValueError(wish)
    return pattern


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        raise ValueError("a text, or a list of texts")
    return value


def _filled(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("at least one entry")
    return values


# Checked after the entries: pydantic's own minimum also complains of a list whose only entry is wrong.
FILLED = AfterValidator(_filled)
Text = Annotated[str, StringConstraints(min_length=1)]
Name = Annotated[str, words(r"[a-z0-9][a-z0-9._-]*", "a name of lower-case letters, digits, '-', '_' and '.'")]
File = Annotated[str, AfterValidator(_inside)]
Files = Annotated[tuple[File, ...], BeforeValidator(_listed), FILLED]
Pattern = Annotated[str, AfterValidator(_compiles)]


def did_you_mean(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """Quote `word`, followed by the nearest of `known` if one is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"'{word}' (did you mean '{near[0]}'?)" if near else f"'{word}'"


def explain(error: ValidationError, document: Mapping[str, Any], path: Path) -> RecipeError:
    """Turn pydantic's findings about the TOML `document` of file `path` into one error with a line for each."""
    lines = [f"  {_key(details['loc'], document)}: {_finding(details)}" for details in error.errors()]
    return RecipeError(f"The recipe {path} is not valid.\n" + "\n".join(lines))


def _key(location: tuple[int | str, ...], document: Any) -> str:
    """Write a location the way the file is written: `sources[0].interactions.file`."""
    key, here, chosen = "", document, False
    for part in location:
        if not chosen and isinstance(here, Mapping) and _is_choice(part, here):
            # Pydantic names the chosen kind of table in the location; the file does not.
            chosen = True
            continue
        if isinstance(part, int) and isinstance(here, str):
            # One text where a list could be: the file has no index.
            continue
        key += f"[{part}]" if isinstance(part, int) else f".{part}"
        is_there = part in here if isinstance(here, Mapping) else isinstance(here, list)
        here, chosen = here[part] if is_there else None, False
    return key.lstrip(".") or "recipe"


def _is_choice(part: int | str, here: Mapping[str, Any]) -> bool:
    encoder = str(here.get("encoder", "")).partition(":")[0]
    return part in (here.get("kind"), encoder, "table", "part files")


def _finding(details: ErrorDetails) -> str:
    """Say what was expected and what was found."""
    kind, context, found = details["type"], details.get("ctx", {}), details["input"]
    if kind == "unknown_key":
        return details["msg"]
    if kind == "missing":
        return "this key is required, but it is not there"
    if kind == "union_tag_not_found":
        return f"expected a table with the key {context['discriminator']}, which is not there"
    if kind == "union_tag_invalid":
        key, tags = context["discriminator"], context["expected_tags"]
        near = did_you_mean(str(context["tag"]), re.findall(r"'([^']*)'", tags))
        return f"expected {key} to be one of {tags}, found {near}"
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"])
        return f"expected {context['expected']}, found {did_you_mean(str(found), known)}"
    wish = details["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if kind == "value_error" and isinstance(found, Mapping | BaseModel):
        return f"expected {wish}"
    return f"expected {wish}, found {_shown(found)}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    return repr(value)
