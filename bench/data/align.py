"""Bring item descriptions and feature matrices into the row order of the prepared items."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.data.features import check_features, load_matrix, multi_hot, tfidf_svd
from bench.data.recipe import FileFeature, MultiHot, Recipe, TfidfSvd
from bench.data.schema import did_you_mean
from bench.errors import DataError

Report = Callable[[str], None]


def order_ids(ids: "pd.Series[str]") -> "pd.Series[str]":
    """Return the distinct ids in the order of their new numbers: by value if all are whole numbers, else as text.

    The order depends on nothing but the ids, so the same interactions in another row order give the same numbers.
    """
    distinct = pd.Series(ids.unique(), dtype="str", name="id")
    if distinct.str.fullmatch("[0-9]+").all():
        # More digits, larger number; equally many compare as text. No conversion, so ids of any length are exact.
        digits = distinct.str.lstrip("0")
        keys = pd.DataFrame({"length": digits.str.len(), "digits": digits, "id": distinct})
        distinct = keys.sort_values(["length", "digits", "id"])["id"]
    else:
        distinct = distinct.sort_values()
    return distinct.reset_index(drop=True)


def describe_items(ids: "pd.Series[str]", descriptions: pd.DataFrame | None, report: Report) -> pd.DataFrame:
    """Return the column `id` and the description fields of the items `ids`, in that order; "" where none is known."""
    if descriptions is None:
        return pd.DataFrame({"id": ids})
    unknown = int((~ids.isin(descriptions["id"])).sum())
    if unknown:
        report(f"items: {unknown:,} of {len(ids):,} have no description; their fields are empty")
    return descriptions.set_index("id").reindex(ids, fill_value="").rename_axis("id").reset_index()


def build_features(
    recipe: Recipe, folder: Path, items: pd.DataFrame, descriptions: pd.DataFrame | None, report: Report
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
    """Make every modality's matrix, float32 [n_items, width], and what is worth knowing about it.

    Args:
        recipe: names the modalities and their encoders.
        folder: of the raw files.
        items: prepared items in row order, as `describe_items` returns them.
        descriptions: the raw items table in file order.
        report: called with one line per finding.

    Raises:
        DataError: a field or a row is missing, or a matrix is not finite or has the wrong shape.
    """
    matrices: dict[str, np.ndarray] = {}
    about: dict[str, dict[str, Any]] = {}
    for modality, feature in recipe.features.items():
        about[modality] = feature.model_dump(mode="json")
        source = f"encoder '{feature.encoder}'"
        if isinstance(feature, FileFeature):
            path = folder / feature.file
            source = str(path)
            matrix = _ready_matrix(modality, feature, path, items["id"], descriptions)
        elif isinstance(feature, TfidfSvd):
            matrix = tfidf_svd(_texts(modality, feature, items, report), feature.width)
        else:
            matrix, about[modality]["labels"] = multi_hot(_labels(modality, feature, items, report))
        found = check_features(modality, matrix, len(items), source)
        about[modality]["width"] = found.width
        about[modality] |= {"zero_rows": found.n_zero_rows, "duplicate_rows": found.n_duplicate_rows}
        matrices[modality] = matrix
    return matrices, about


def _ready_matrix(
    modality: str, feature: FileFeature, path: Path, ids: "pd.Series[str]", descriptions: pd.DataFrame | None
) -> np.ndarray:
    """Return the rows of the matrix in `path` that belong to the items, float32 [n_items, width]."""
    if feature.rows == "id" or descriptions is None:
        return load_matrix(path, _rows_by_id(modality, feature, ids))
    rows = pd.Index(descriptions["id"]).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        raise DataError(
            f"features.{modality}: {int((rows < 0).sum()):,} of {len(ids):,} items are not in the items file, whose "
            f"order the rows of {path} follow; for example item '{ids.iloc[int((rows < 0).argmax())]}'. Add them there."
        )
    matrix = load_matrix(path, rows.astype(np.int64))
    n_rows = len(np.load(path, mmap_mode="r", allow_pickle=False))
    if n_rows != len(descriptions):
        raise DataError(
            f"features.{modality}: {path} has {n_rows:,} rows, but the items file has {len(descriptions):,}. The rows "
            f"'order' need the same items in the same order."
        )
    return matrix


def _rows_by_id(modality: str, feature: FileFeature, ids: "pd.Series[str]") -> np.ndarray:
    """Return the row that each item id stands for, int64 [n_items]."""
    words = ids[~ids.str.fullmatch("-?[0-9]{1,18}")]
    if len(words):
        raise DataError(
            f"features.{modality}: the rows 'id' need item ids that are whole numbers, but {len(words):,} of "
            f"{len(ids):,} are not, for example '{words.iloc[0]}'. Bring an items file whose rows follow the matrix, "
            f"and set rows = 'order'."
        )
    return np.asarray(ids.astype("int64")) - feature.first_id


def _field(modality: str, field: str, items: pd.DataFrame) -> "pd.Series[str]":
    if field not in items.columns:
        known = [str(column) for column in items.columns if column != "id"]
        raise DataError(
            f"features.{modality} reads the field {did_you_mean(field, known)}, but the items have: {', '.join(known)}."
        )
    return items[field]


def _texts(modality: str, feature: TfidfSvd, items: pd.DataFrame, report: Report) -> list[str]:
    """Return one text per item, its fields joined by blanks."""
    columns = [_field(modality, field, items) for field in feature.fields]
    texts = columns[0].str.cat(columns[1:], sep=" ").str.strip() if len(columns) > 1 else columns[0].str.strip()
    _report_empty(modality, int(texts.eq("").sum()), len(items), "text", report)
    return list(texts)


def _labels(modality: str, feature: MultiHot, items: pd.DataFrame, report: Report) -> list[list[str]]:
    """Return the labels of each item: the split fields, and the decade of the year."""
    columns = [_field(modality, field, items).str.split(feature.separator, regex=False) for field in feature.fields]
    if feature.decade is not None:
        years = _field(modality, feature.decade, items).str.extract("^([0-9]{3})[0-9]$")[0]
        columns.append((years + "0s").fillna("").map(lambda decade: [decade]))
    labels = [
        [label for part in parts for label in map(str.strip, part) if label] for parts in zip(*columns, strict=True)
    ]
    _report_empty(modality, sum(not each for each in labels), len(items), "label", report)
    return labels


def _report_empty(modality: str, n_empty: int, n_items: int, what: str, report: Report) -> None:
    if n_empty == n_items:
        raise DataError(f"features.{modality}: no item has any {what}. Check the items table in the recipe.")
    if n_empty:
        report(f"features.{modality}: {n_empty:,} of {n_items:,} items have no {what}")
