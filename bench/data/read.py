"""Read raw tables into frames, and say precisely what is wrong with a table that is not what the recipe says."""

import gzip
import re
import warnings
from pathlib import Path

import pandas as pd

from bench.data.schema import did_you_mean
from bench.data.sources import Flags, InteractionsTable, ItemsTable, Table
from bench.errors import DataError

SEPARATORS = {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar", "::": "two colons", " ": "a space"}


def read_interactions(folder: Path, table: InteractionsTable) -> pd.DataFrame:
    """Read interactions.

    The columns are `user`, `item` (text) and, where the recipe names them, `rating` (float64), `timestamp` (int64,
    seconds since 1970) and `split` (text). Ids stay text, so leading zeros survive; blanks around them go.

    Raises:
        DataError: the file, its columns, its encoding or one of its values is not what the recipe says.
    """
    wanted = {name: getattr(table, name) for name in ("user", "item", "rating", "timestamp", "split")}
    raw = _read_text(folder, table, [column for column in wanted.values() if column is not None])
    path = folder / table.file
    frame = pd.DataFrame({name: raw[column].str.strip() for name, column in wanted.items() if column is not None})
    for name in ("user", "item"):
        _refuse(frame[name].eq(""), frame[name], path, wanted[name], "an id")
    if table.rating is not None:
        numbers = pd.to_numeric(frame["rating"], errors="coerce").astype("float64")
        _refuse(~numbers.abs().lt(float("inf")), frame["rating"], path, table.rating, "a number")
        frame["rating"] = numbers
    if table.timestamp is not None:
        frame["timestamp"] = _seconds(frame["timestamp"], table, path)
    if frame.empty:
        raise DataError(f"{path} has a header but no interactions.")
    return frame.reset_index(drop=True)


def read_items(folder: Path, table: ItemsTable) -> pd.DataFrame:
    """Read item descriptions: the column `id` and one text column per field, "" where nothing is known.

    Raises:
        DataError: the file, its columns or its encoding is not what the recipe says, or an id is empty or repeated.
    """
    columns = [table.id]
    for made_of in table.fields.values():
        columns += made_of.flags if isinstance(made_of, Flags) else [made_of]
    raw = _read_text(folder, table, columns)
    path = folder / table.file
    ids = raw[table.id].str.strip()
    _refuse(ids.eq(""), ids, path, table.id, "an id")
    _refuse(ids.duplicated(), ids, path, table.id, "an id that no line before has")
    frame = pd.DataFrame({"id": ids})
    for field, made_of in (table.fields or {name: name for name in raw.columns if name != table.id}).items():
        frame[field] = _joined_flags(raw, made_of, path) if isinstance(made_of, Flags) else raw[made_of].str.strip()
    for field, pattern in table.patterns.items():
        _extract(frame, field, pattern, path)
    return frame.reset_index(drop=True)


def _read_text(folder: Path, table: Table, wanted: list[str]) -> pd.DataFrame:
    """Read all columns as text; the index holds line numbers, counted from 1.

    The line numbers are off after a quoted line break, which only free text in comma-separated files has.
    """
    path = folder / table.file
    separator = table.separator or ("," if ".csv" in path.suffixes else "\t")
    lines = _parse(path, separator, table.encoding)
    header = list(table.columns) or [str(name).strip() for name in lines.iloc[0]]
    if not table.columns:
        lines = lines.iloc[1:]
    elif lines.shape[1] != len(header):
        raise DataError(
            f"{path}: the recipe declares {len(header)} columns, but line 1 has {lines.shape[1]} when split at "
            f"{_named(separator)}.{_other_separator(str(lines.iloc[0, 0]), separator)}"
        )
    missing = [column for column in wanted if column not in header]
    if missing:
        hint = _other_separator(header[0], separator) if len(header) == 1 else ""
        raise DataError(
            f"{path}: the recipe expects the column {', '.join(did_you_mean(name, header) for name in missing)}, but "
            f"line 1, split at {_named(separator)}, has the columns {', '.join(map(repr, header))}.{hint}"
        )
    repeated = sorted({column for column in wanted if header.count(column) > 1})
    if repeated:
        raise DataError(f"{path}: line 1 has the column '{repeated[0]}' {header.count(repeated[0])} times.")
    lines.columns = pd.Index(header)
    return lines[~lines.eq("").all(axis=1)]


def _parse(path: Path, separator: str, encoding: str) -> pd.DataFrame:
    # Pandas' C parser keeps every field as text; its pyarrow engine guesses types first, which loses leading zeros.
    # Blank lines are kept so that row n is line n + 1, and the caller drops them.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            lines = pd.read_csv(
                path,
                sep=re.escape(separator) if len(separator) > 1 else separator,
                engine="python" if len(separator) > 1 else "c",
                header=None,
                index_col=False,
                dtype=str,
                na_filter=False,
                skip_blank_lines=False,
                quoting=0 if separator == "," else 3,
                encoding="utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding,
            )
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty.") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        words = str(error).removeprefix("Error tokenizing data. C error: ").strip()
        raise DataError(
            f"{path} does not split into columns at {_named(separator)}: {words}. Check the separator in the recipe, "
            f"and that line."
        ) from error
    except UnicodeError as error:
        raise DataError(_undecodable(path, encoding)) from error
    except LookupError as error:
        raise DataError(f"{path}: Python knows no encoding '{encoding}'; usual ones are utf-8 and latin-1.") from error
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    lines.index += 1
    return lines


def _seconds(texts: "pd.Series[str]", table: InteractionsTable, path: Path) -> "pd.Series[int]":
    """Convert times to whole seconds since 1970, rounded down."""
    if table.timestamp_unit == "iso":
        times = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
        _refuse(times.isna(), texts, path, str(table.timestamp), "a date such as 2020-09-22 or 2020-09-22T10:00:00")
        return (times - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(seconds=1)
    numbers = pd.to_numeric(texts, errors="coerce").astype("float64")
    if table.timestamp_unit == "ms":
        numbers = numbers / 1000
    # Times past the year 5000 are milliseconds read as seconds, not a future to be split by.
    wish = f"a time in {'seconds' if table.timestamp_unit == 's' else 'milliseconds'} since 1970"
    _refuse(~numbers.abs().lt(1e11), texts, path, str(table.timestamp), f"{wish} (see timestamp_unit)")
    return numbers.floordiv(1).astype("int64")


def _joined_flags(raw: pd.DataFrame, made_of: Flags, path: Path) -> "pd.Series[str]":
    """Join the names of the flag columns that hold 1, row by row."""
    joined = pd.Series("", index=raw.index)
    for column in made_of.flags:
        flag = raw[column].str.strip()
        _refuse(~flag.isin(["0", "1"]), flag, path, column, "a flag, 0 or 1")
        on = flag.eq("1")
        joined = joined.where(~on, joined + joined.map(lambda text: made_of.separator if text else "") + column)
    return joined


def _extract(frame: pd.DataFrame, field: str, pattern: str, path: Path) -> None:
    """Fill the fields named by the groups of `pattern` where it matches the whole text of `field`."""
    if field not in frame.columns:
        raise DataError(
            f"{path}: the recipe's patterns look into the field {did_you_mean(field, list(frame.columns))}, but the "
            f"fields are {', '.join(frame.columns)}."
        )
    found = frame[field].str.extract(f"^(?:{pattern})$")
    for group in found.columns:
        before = frame[group] if group in frame.columns else ""
        frame[group] = found[group].where(found[group].notna(), before)


def _refuse(bad: "pd.Series[bool]", texts: "pd.Series[str]", path: Path, column: str, wish: str) -> None:
    if bad.any():
        line = texts.index[bad.to_numpy().argmax()]
        more = f" ({int(bad.sum()):,} such lines of {len(texts):,})" if bad.sum() > 1 else ""
        raise DataError(
            f"{path}, line {line}: the column '{column}' should hold {wish}, but holds {str(texts[line])!r}{more}."
        )


def _undecodable(path: Path, encoding: str) -> str:
    """Find the line whose bytes do not fit the encoding."""
    message = f"{path} is not {encoding} text"
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as error:
                message += f": line {number} holds the byte 0x{line[error.start]:02x}"
                break
    return f"{message}. Set the table's 'encoding' in the recipe, for example encoding = \"latin-1\"."


def _named(separator: str) -> str:
    return SEPARATORS.get(separator, repr(separator))


def _other_separator(line: str, separator: str) -> str:
    """Suggest the separator that splits a line which came out as one column."""
    for other, name in SEPARATORS.items():
        if other != separator and other in line:
            return f" It looks split at {name}: set separator = {other!r} in the recipe.".replace("'", '"')
    return ""
