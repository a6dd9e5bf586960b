"""Make the features of the prepared items: bring what the raw files hold into their order, and see what is missing."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.features.ingredients import (
    Raw,
    Task,
    find_all_pictures,
    find_file,
    have_words,
    items_table,
    labels_of,
    matrix_rows,
    texts_of,
)
from bench.data.features.matrices import (
    Matrix,
    check_features,
    load_matrix,
    matrix_shape,
    multi_hot,
    refuse_not_finite,
    standardise,
    tfidf_svd,
)
from bench.data.features.missing import fill_with_mean, refuse_missing, settle_missing, some, spread
from bench.data.features.records import read_records, record_ids
from bench.data.features.same_items import check_same_items, other_items
from bench.data.reading.items import Items
from bench.data.recipes.modalities import (
    Feature,
    FileFeature,
    ImageModel,
    MultiHot,
    Records,
    SentenceTransformer,
    TfidfSvd,
    feature_fields,
)
from bench.errors import DataError

Report = Callable[[str], None]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Made:
    """A matrix [n_items, width] whose rows are zero where `present` is false, and where it is from."""

    matrix: Matrix
    present: Mask
    source: str
    labels: list[str] | None = None


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


def describe_items(ids: "pd.Series[str]", items: Items | None, report: Report) -> pd.DataFrame:
    """Return the column `id` and the description fields of the items `ids`, in that order; "" where none is known."""
    if items is None:
        return pd.DataFrame({"id": ids})
    unknown = int((~ids.isin(items.frame["id"])).sum())
    if unknown:
        report(f"items: {unknown:,} of {len(ids):,} have no description; their fields are empty")
    return items.frame.set_index("id").reindex(ids, fill_value="").rename_axis("id").reset_index()


def available(raw: Raw, modality: str, ids: "pd.Series[str]", report: Report) -> Mask:
    """Say which items have something that the encoder of `modality` can encode.

    Pictures that the recipe lets download are fetched for that; whether they can be decoded shows when they are.

    Args:
        raw: what features are made from.
        modality: name of a feature of the recipe.
        ids: of the items, each once.
        report: called with one line per finding.

    Returns:
        bool [n_items].

    Raises:
        DataError: a file or field is missing or not what it should be, or an id cannot stand for a row.
    """
    feature = raw.recipe.features[modality]
    items = raw.items
    if items is not None:
        fields = [column for column in items.frame.columns if column in feature_fields(feature)]
        items = Items(items.frame[["id", *fields]], items.n_rows)
    task = Task(raw, modality, describe_items(ids.astype("str"), items, lambda line: None), report)
    match feature:
        case TfidfSvd() | SentenceTransformer():
            return have_words(texts_of(task, feature.fields))
        case MultiHot():
            return np.array([bool(each) for each in labels_of(task, feature)], dtype=np.bool_)
        case FileFeature():
            return matrix_rows(task, feature, other_items(task, feature))[1]
        case Records():
            known = record_ids(find_file(task, feature.file), feature.id_bytes, feature.width)
            return np.asarray(task.ids.isin(known), dtype=np.bool_)
        case ImageModel():
            return np.array([picture is not None for picture in find_all_pictures(task, feature)], dtype=np.bool_)


def build_features(
    raw: Raw, items: pd.DataFrame, report: Report
) -> tuple[dict[str, Matrix], dict[str, dict[str, Any]]]:
    """Make every modality's matrix, float32 [n_items, width], and what is worth knowing about it.

    Args:
        raw: what features are made from; its recipe names the modalities and their encoders.
        items: prepared items in row order, as `describe_items` returns them.
        report: called with one line per finding.

    Raises:
        DataError: a file, field or row is missing, items have nothing to encode although the recipe refuses or should
            have dropped those, or a matrix is not finite or has the wrong shape.
    """
    matrices: dict[str, Matrix] = {}
    about: dict[str, dict[str, Any]] = {}
    for modality, feature in raw.recipe.features.items():
        made = _encode(Task(raw, modality, items, report), feature)
        matrix = made.matrix
        is_standardised = isinstance(feature, FileFeature) and feature.standardise
        # Before one bad value spreads over a column.
        refuse_not_finite(modality, matrix, made.source, list(items["id"]))
        if is_standardised:
            matrix = spread(standardise(matrix[made.present]), made.present)
        if feature.missing == "mean":
            matrix = fill_with_mean(matrix, made.present)
        found = check_features(modality, matrix, len(items), made.source)
        about[modality] = feature.model_dump(mode="json") | ({} if made.labels is None else {"labels": made.labels})
        about[modality] |= {"width": found.width, "missing_rows": int((~made.present).sum())}
        about[modality] |= {"zero_rows": found.n_zero_rows, "duplicate_rows": found.n_duplicate_rows}
        matrices[modality] = matrix
    return matrices, about


def _encode(task: Task, feature: Feature) -> _Made:
    match feature:
        case TfidfSvd() | SentenceTransformer():
            return _from_texts(task, feature)
        case MultiHot():
            labels = labels_of(task, feature)
            present = np.array([bool(each) for each in labels], dtype=np.bool_)
            settle_missing(task.modality, feature.missing, task.ids, present, "label", task.report)
            matrix, names = multi_hot(labels)
            return _Made(matrix, present, f"encoder '{feature.encoder}'", names)
        case FileFeature():
            return _from_file(task, feature)
        case Records():
            file, ids = find_file(task, feature.file), list(task.ids)
            matrix, present = read_records(file, ids, feature.id_bytes, feature.width, task.report)
            lack = f"have no record in {file.shown}"
            settle_missing(task.modality, feature.missing, task.ids, present, "record", task.report, lack)
            return _Made(matrix, present, file.shown)
        case ImageModel():
            return _from_pictures(task, feature)


def _from_texts(task: Task, feature: TfidfSvd | SentenceTransformer) -> _Made:
    texts = texts_of(task, feature.fields)
    present = have_words(texts)
    settle_missing(task.modality, feature.missing, task.ids, present, "text", task.report)
    source = f"encoder '{feature.encoder}'"
    if isinstance(feature, TfidfSvd):
        return _Made(tfidf_svd(texts, feature.width, feature.units), present, source)
    from bench.data.features.neural import encode_texts

    matrix = encode_texts(feature, list(compress(texts, present)), task.raw.cache, task.raw.device, task.report)
    return _Made(spread(matrix, present), present, source)


def _from_file(task: Task, feature: FileFeature) -> _Made:
    file, other = find_file(task, feature.file), other_items(task, feature)
    if feature.same_items is not None and other is not None:
        check_same_items(task, feature.same_items, other, file)
    rows, present = matrix_rows(task, feature, other)
    if feature.rows == "id" and feature.missing == "refuse":
        return _Made(load_matrix(file, rows), np.ones(len(rows), dtype=np.bool_), file.shown)
    by_order = f"are not in the items file, whose order the rows of {file.shown} follow"
    lack = by_order if feature.rows == "order" else f"have no row in {file.shown}"
    settle_missing(task.modality, feature.missing, task.ids, present, "row", task.report, lack)
    if feature.rows == "order":
        n_rows, n_items = matrix_shape(file)[0], items_table(task, other).n_rows
        if n_rows != n_items:
            raise DataError(
                f"features.{task.modality}: {file.shown} has {n_rows:,} rows, but the items file has {n_items:,}. The "
                f"rows 'order' need the same items in the same order."
            )
    return _Made(spread(load_matrix(file, rows[present]), present), present, file.shown)


def _from_pictures(task: Task, feature: ImageModel) -> _Made:
    from bench.data.features.neural import encode_pictures

    found = find_all_pictures(task, feature)
    present = np.array([picture is not None for picture in found], dtype=np.bool_)
    refuse_missing(task.modality, feature.missing, task.ids, present, "picture")
    pictures = [picture for picture in found if picture is not None]
    matrix, decoded = encode_pictures(feature, pictures, task.raw.cache, task.raw.device, task.report)
    if not decoded.all() and feature.missing in ("refuse", "drop"):
        bad = [picture.shown for picture in compress(pictures, ~decoded)]
        raise DataError(
            f"features.{task.modality}: {len(bad):,} of {len(pictures):,} pictures cannot be decoded: {some(bad)}. "
            f"Delete them, or put whole ones in their place, and prepare again."
        )
    present[present] = decoded
    settle_missing(task.modality, feature.missing, task.ids, present, "picture", task.report)
    return _Made(spread(matrix[decoded], present), present, f"encoder '{feature.encoder}'")
