"""Read text files with one object a line, as JSON or as a Python literal."""

import ast
import io
import json
import re
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pandas as pd

from bench.data.reading.layout import Layout
from bench.data.reading.utf8 import Utf8Stream, undecodable
from bench.data.recipes.schema import did_you_mean
from bench.data.recipes.tables import ItemsTable
from bench.errors import DataError

BUFFER_BYTES = 1 << 20
# What parsing and evaluating a literal can raise.
NO_OBJECT = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def read_objects(
    layout: Layout, table: ItemsTable, keys: Sequence[str], wanted: Collection[str] | None
) -> tuple[pd.DataFrame, int]:
    """Read some keys of the objects whose ids are `wanted`, or of all.

    Lists, also nested ones, are joined by blanks; numbers become text as they stand in JSON; a missing key, None and
    NaN become "". A line that is not wanted is mostly not parsed.

    Args:
        layout: of a file with one object a line.
        table: its description in the recipe.
        keys: to read; the first is that of the ids.
        wanted: ids.

    Returns:
        The text columns `keys`, indexed by the number of the row without blank lines, from 0; and the number of rows.

    Raises:
        DataError: the file cannot be read, a line is no object, its id is missing or empty, or a value is no text,
            number or list of them.
    """
    may_be_wanted = _prefilter(table, wanted)
    parse = _parse_json if table.format == "json-lines" else ast.literal_eval
    rows: dict[int, list[str]] = {}
    seen: set[str] = set()
    row = -1
    # Old literals hold escapes that newer Pythons warn about.
    with Utf8Stream(layout.file, table) as stream, warnings.catch_warnings(action="ignore"):
        for number, line in enumerate(io.BufferedReader(stream, BUFFER_BYTES), start=1):
            if not (bare := line.rstrip(b"\r\n")):
                continue
            row += 1
            if not may_be_wanted(bare):
                continue
            where = f"{layout.file.shown}, line {number}"
            values = _object(bare, parse, where, layout)
            seen.update(values)
            texts = _texts(values, keys, where)
            texts[0] = texts[0].rjust(table.item_digits or 0, "0")
            if wanted is None or texts[0] in wanted:
                rows[row] = texts
    _refuse_typing_errors(keys, seen, layout)
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(keys), dtype="str")
    return frame, row + 1


def _prefilter(table: ItemsTable, wanted: Collection[str] | None) -> Callable[[bytes], bool]:
    """Return a quick check that is false only of lines whose id is surely not wanted."""
    if wanted is None:
        return lambda _: True
    # Other quotes, escapes and numbers with a point are left to the parser: nothing is then captured.
    value = rb"""(?:u?(['"])([^'"\\]*)\1|([0-9]+)(?![0-9.eE_]))?"""
    pattern = re.compile(re.escape(table.id.encode()) + rb"""['"]\s*:\s*""" + value)
    chosen, digits = {item.encode() for item in wanted}, table.item_digits or 0

    def may_be_wanted(line: bytes) -> bool:
        ids = [match[2] or match[3] for match in pattern.finditer(line)]
        return not ids or any(not item or item.strip().rjust(digits, b"0") in chosen for item in ids)

    return may_be_wanted


def _parse_json(text: str) -> Any:
    return json.loads(text, parse_int=str, parse_float=str, parse_constant=lambda _: None)


def _object(line: bytes, parse: Callable[[str], Any], where: str, layout: Layout) -> dict[str, Any]:
    try:
        value = parse(line.decode().strip())
    except UnicodeDecodeError as error:
        raise undecodable(layout.file, layout.table) from error
    except NO_OBJECT as error:
        # Python names the place of a node in memory, which tells nobody anything.
        reason = re.sub(r"( on line [0-9]+)?: <.* object at .*>", "", str(error))
        raise DataError(f"{where}: this is no {_kind(layout)}: {reason}.") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: each line should be one {_kind(layout)} with keys, but this is {value!r:.80}.")
    return value


def _kind(layout: Layout) -> str:
    is_json = isinstance(layout.table, ItemsTable) and layout.table.format == "json-lines"
    return "JSON object" if is_json else "literal of a Python dictionary"


def _texts(values: dict[str, Any], keys: Sequence[str], where: str) -> list[str]:
    if keys[0] not in values:
        known = ", ".join(map(repr, values)) or "none"
        raise DataError(f"{where}: the recipe expects the key {did_you_mean(keys[0], values)}; the keys are {known}.")
    texts = []
    for key in keys:
        try:
            texts.append(_flat(values.get(key)))
        except TypeError as error:
            raise DataError(f"{where}: the key '{key}' should hold text, a number or a list, but {error}.") from error
    if not texts[0] or re.search(r"[\r\n]", texts[0]):
        raise DataError(f"{where}: the key '{keys[0]}' should hold an id, but holds {texts[0]!r}.")
    return texts


def _flat(value: Any) -> str:
    match value:
        case None:
            return ""
        case str():
            return value.strip()
        case list() | tuple():
            return " ".join(text for text in map(_flat, value) if text)
        case bool() | int() | float():
            return str(value) if value == value else ""
    raise TypeError(f"holds {value!r:.80}")


def _refuse_typing_errors(keys: Sequence[str], seen: set[str], layout: Layout) -> None:
    """Refuse a key that no object has, if the objects have one that is written much like it."""
    for key in keys:
        if key not in seen and "did you mean" in (hint := did_you_mean(key, list(seen))):
            raise DataError(
                f"{layout.file.shown}: the recipe expects the key {hint}, which none of the objects read has."
            )
