"""Find what there is to encode of each item: its text, its labels, its row of a matrix, its picture."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from re import search

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.features.matrices import matrix_shape
from bench.data.raw.rawfiles import RawFile, RawFiles
from bench.data.raw.unavailable import UnavailableError
from bench.data.reading.items import Items
from bench.data.recipes.modalities import FileFeature, ImageModel, MultiHot
from bench.data.recipes.recipe import Recipe
from bench.data.recipes.schema import did_you_mean
from bench.errors import DataError

Report = Callable[[str], None]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Raw:
    """What features are made from.

    Attributes:
        recipe: as it is at the chosen source.
        files: of that source.
        items: descriptions, at least of the items in question; None where the source has no items table.
        cache: folder for encoded vectors.
        pictures: raw folder, into which pictures are fetched.
        device: of the encoders that are neural networks.
    """

    recipe: Recipe
    files: RawFiles
    items: Items | None
    cache: Path
    pictures: Path
    device: str = "auto"


@dataclass(frozen=True)
class Task:
    """One modality to be made of these items.

    Attributes:
        raw: what from.
        modality: its name.
        items: the column `id` and the description fields, in the order of the rows to be made.
        report: called with one line per finding.
    """

    raw: Raw
    modality: str
    items: pd.DataFrame
    report: Report

    @property
    def ids(self) -> "pd.Series[str]":
        """The ids of the items, in order."""
        return self.items["id"]


def find_file(task: Task, name: str) -> RawFile:
    """Return a raw file by the name the recipe gives it.

    Raises:
        DataError: it is not there.
    """
    try:
        return task.raw.files.find(name)
    except UnavailableError as error:
        raise DataError(f"features.{task.modality}: {error}") from error


def matrix_rows(task: Task, feature: FileFeature, other: Items | None) -> tuple[NDArray[np.int64], Mask]:
    """Return the row that belongs to each item, and whether there is such a row."""
    if feature.rows == "id":
        rows = _rows_by_id(task.modality, feature, task.ids)
        return rows, (rows >= 0) & (rows < matrix_shape(find_file(task, feature.file))[0])
    frame = items_table(task, other).frame
    places = pd.Index(frame["id"]).get_indexer(pd.Index(task.ids))
    present = np.asarray(places >= 0)
    rows = np.full(len(places), -1, dtype=np.int64)
    rows[present] = frame.index.to_numpy()[places[present]]
    return rows, present


def items_table(task: Task, other: Items | None) -> Items:
    """Return the items table that the rows of a matrix follow."""
    table = task.raw.items if other is None else other
    if table is None:
        raise DataError(f"features.{task.modality}: the rows 'order' need an items table, but the source has none.")
    return table


def _rows_by_id(modality: str, feature: FileFeature, ids: "pd.Series[str]") -> NDArray[np.int64]:
    """Return the row that each item id stands for, int64 [n_items]."""
    words = ids[~ids.str.fullmatch("-?[0-9]{1,18}")]
    if len(words):
        raise DataError(
            f"features.{modality}: the rows 'id' need item ids that are whole numbers, but {len(words):,} of "
            f"{len(ids):,} are not, for example '{words.iloc[0]}'. Bring an items file whose rows follow the matrix, "
            f"and set rows = 'order'."
        )
    return np.asarray(ids.astype("int64")) - feature.first_id


def find_all_pictures(task: Task, feature: ImageModel) -> list[RawFile | None]:
    """Find the picture of every item, after fetching those that are not there."""
    from bench.data.features.pictures import fetch_pictures, find_pictures

    ids = list(task.ids)
    found: list[RawFile | None] = find_pictures(task.raw.files, feature.images, ids)
    if feature.download is None or None not in found:
        return found
    addresses = field_of(task.modality, feature.download.field, task.items)
    folder = task.raw.pictures / feature.download.folder
    # Those fetched before are asked for again, which costs nothing, so that the report counts them.
    places = [at for at, picture in enumerate(found) if picture is None or picture.path == folder / f"{ids[at]}.jpg"]
    asked = [ids[at] for at in places]
    fetch_pictures(feature.download, asked, list(addresses.iloc[places]), folder, task.report)
    # The raw files were listed before these came, and may lie in another folder.
    fetched = find_pictures(RawFiles(task.raw.pictures), feature.images, asked)
    for at, picture in zip(places, fetched, strict=True):
        found[at] = picture
    return found


def field_of(modality: str, field: str, items: pd.DataFrame) -> "pd.Series[str]":
    """Return a description field of the items.

    Raises:
        DataError: the items have no such field.
    """
    if field not in items.columns:
        known = [str(column) for column in items.columns if column != "id"]
        raise DataError(
            f"features.{modality} reads the field {did_you_mean(field, known)}, but the items have: {', '.join(known)}."
        )
    return items[field]


def texts_of(task: Task, fields: Sequence[str]) -> list[str]:
    """Return one text per item, its fields joined by blanks."""
    columns = [field_of(task.modality, field, task.items) for field in fields]
    joined = columns[0].str.cat(columns[1:], sep=" ") if len(columns) > 1 else columns[0]
    return list(joined.str.strip())


def have_words(texts: Sequence[str]) -> Mask:
    """Say which texts hold a letter or a digit."""
    return np.array([search(r"\w", text) is not None for text in texts], dtype=np.bool_)


def labels_of(task: Task, feature: MultiHot) -> list[list[str]]:
    """Return the labels of each item: the split fields, and the decade of the year."""
    columns = [
        field_of(task.modality, field, task.items).str.split(feature.separator, regex=False) for field in feature.fields
    ]
    if feature.decade is not None:
        years = field_of(task.modality, feature.decade, task.items).str.extract("^([0-9]{3})[0-9]$")[0]
        columns.append((years + "0s").fillna("").map(lambda decade: [decade]))
    return [
        [label for part in parts for label in map(str.strip, part) if label] for parts in zip(*columns, strict=True)
    ]
