"""The prepared form of a dataset: a folder that is read as it is, by every model and every run.

`dataset.json` holds the counts, the fingerprint and how the data was made; `interactions.parquet` the columns user and
item (int32 row numbers), split ("train", "valid" or "test") and, where known, timestamp (int64 seconds since 1970);
`users.parquet` and `items.parquet` the original `id` of every row number, and what else is known of an item;
`features/<modality>.npy` one float32 matrix [n_items, width] per modality.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_array

from bench.data.features.matrices import check_features
from bench.data.fingerprint import content_fingerprint
from bench.data.replace import replace_folder
from bench.data.split import SPLITS
from bench.errors import DataError, unknown_name

SCHEMA_VERSION = 1

Features = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class PreparedDataset:
    """A dataset ready for training.

    Attributes:
        folder: where it lies.
        name: of the dataset.
        fingerprint: SHA-256 of its content (see `content_fingerprint`), part of the identity of every run.
        n_users: number of users U.
        n_items: number of items I.
        metadata: how it was made, as the preparation wrote it.
        interactions: columns user, item, split and perhaps timestamp, sorted by user and item.
        users: column `id`, row r is user r.
        items: column `id` and descriptions, row r is item r.
        features: modality -> float32 [I, width], memory-mapped and read-only.
    """

    folder: Path
    name: str
    fingerprint: str
    n_users: int
    n_items: int
    metadata: dict[str, Any]
    interactions: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    features: dict[str, NDArray[np.float32]]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open a prepared dataset and check that its files fit together.

        The content itself is not read in full; `verify` does that.

        Raises:
            DataError: the folder is missing, was written by another version, or its files contradict each other.
        """
        if not folder.is_dir():
            raise DataError(f"There is no prepared dataset in {folder}. Prepare it first: bench prepare {folder.name}")
        about = _read_about(folder)
        dataset = cls(
            folder=folder,
            name=about["name"],
            fingerprint=about["fingerprint"],
            n_users=about["n_users"],
            n_items=about["n_items"],
            metadata=about["metadata"],
            interactions=_read_table(folder, "interactions.parquet", ("user", "item", "split")),
            users=_read_table(folder, "users.parquet", ("id",)),
            items=_read_table(folder, "items.parquet", ("id",)),
            features={name: _open_features(folder, name) for name in about["modalities"]},
        )
        dataset._check_counts(about)
        return dataset

    def matrix(self, split: str) -> csr_array:
        """Return the interactions of a split, [U, I] float32, 1 where there is one, with sorted indices.

        Raises:
            UsageError: `split` is not "train", "valid" or "test".
        """
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        rows = self.interactions[self.interactions["split"] == split]
        ones = np.ones(len(rows), dtype=np.float32)
        coordinates = (rows["user"].to_numpy(), rows["item"].to_numpy())
        matrix = csr_array((ones, coordinates), shape=(self.n_users, self.n_items))
        matrix.sort_indices()
        return matrix

    def verify(self) -> None:
        """Read all content and compare it with the fingerprint.

        Raises:
            DataError: the content is not what was written.
        """
        found = content_fingerprint(self.interactions, self.users["id"], self.items["id"], self.features)
        if found != self.fingerprint:
            raise _damaged(
                self.folder, f"its content has the fingerprint {found[:12]}, not {self.fingerprint[:12]} as written"
            )

    def _check_counts(self, about: dict[str, Any]) -> None:
        n_interactions = {name: int((self.interactions["split"] == name).sum()) for name in SPLITS}
        expected_and_found = {
            "users": (self.n_users, len(self.users)),
            "items": (self.n_items, len(self.items)),
            "interactions": (sum(about["n_interactions"].values()), len(self.interactions)),
            **{f"{name} interactions": (about["n_interactions"][name], n_interactions[name]) for name in SPLITS},
            **{
                f"columns of {name} features": (w, self.features[name].shape[1])
                for name, w in about["modalities"].items()
            },
            **{f"rows of {name} features": (self.n_items, len(matrix)) for name, matrix in self.features.items()},
        }
        for what, (expected, found) in expected_and_found.items():
            if expected != found:
                raise _damaged(self.folder, f"dataset.json says {expected:,} {what}, but the files have {found:,}")
        for column, count in (("user", self.n_users), ("item", self.n_items)):
            numbers = self.interactions[column]
            if numbers.min() < 0 or numbers.max() >= count:
                raise _damaged(
                    self.folder,
                    f"its {column} numbers go from {numbers.min()} to {numbers.max()}, not 0 to {count - 1}",
                )


def write_prepared(
    folder: Path,
    *,
    name: str,
    interactions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    features: Features,
    metadata: Mapping[str, Any],
) -> PreparedDataset:
    """Check a dataset, write it, and only then put it in the place of an older one.

    Until the last moment an older dataset stays as it is; if anything fails, it stays for good.

    Args:
        folder: where it goes.
        name: of the dataset.
        interactions: columns user and item (row numbers of `users` and `items`), split, and perhaps timestamp; other
            columns are not kept. Every user and every item has at least one, and no two rows share both.
        users: column `id`, the original ids.
        items: column `id` and descriptions.
        features: modality -> [n_items, width], finite.
        metadata: how it was made; numbers, texts, lists and dicts.

    Raises:
        DataError: the data breaks one of these rules, or the folder cannot be written.
    """
    if not (len(users) and len(items)):
        raise DataError(f"The dataset '{name}' cannot be written: it has {len(users)} users and {len(items)} items.")
    interactions = _checked_interactions(interactions, len(users), len(items))
    users, items = _checked_ids(users, "user"), _checked_ids(items, "item")
    widths = {
        modality: check_features(modality, matrix, len(items), f"dataset '{name}'").width
        for modality, matrix in features.items()
    }
    single = {modality: np.asarray(matrix, dtype=np.float32) for modality, matrix in features.items()}
    counts = interactions["split"].value_counts()
    about = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "fingerprint": content_fingerprint(interactions, users["id"], items["id"], single),
        "n_users": len(users),
        "n_items": len(items),
        "n_interactions": {part: int(counts[part]) for part in SPLITS},
        "density": len(interactions) / (len(users) * len(items)),
        "modalities": widths,
        "metadata": dict(metadata),
    }
    text = json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"

    def fill(partial: Path) -> None:
        (partial / "features").mkdir()
        for modality, matrix in single.items():
            np.save(partial / "features" / f"{modality}.npy", np.ascontiguousarray(matrix), allow_pickle=False)
        for file, table in (("interactions", interactions), ("users", users), ("items", items)):
            table.to_parquet(partial / f"{file}.parquet", engine="pyarrow", index=False)
        (partial / "dataset.json").write_text(text, encoding="utf-8")

    replace_folder(folder, fill, marker="dataset.json")
    return PreparedDataset.load(folder)


def _checked_interactions(interactions: pd.DataFrame, n_users: int, n_items: int) -> pd.DataFrame:
    """Return the columns to keep, typed and sorted."""
    kept = [column for column in ("user", "item", "split", "timestamp") if column in interactions.columns]
    for column, count in (("user", n_users), ("item", n_items)):
        if column not in kept or not pd.api.types.is_integer_dtype(interactions[column]):
            raise DataError(f"The interactions need a column '{column}' of whole row numbers before they are written.")
        found = np.unique(interactions[column].to_numpy())
        if not np.array_equal(found, np.arange(count)):
            spread = f"{len(found):,} numbers from {found[0]:,} to {found[-1]:,}" if len(found) else "none"
            raise DataError(
                f"The {column} numbers of the interactions should be all of 0 to {count - 1:,}, one for each row of "
                f"the {column} table, but are {spread}. Number the {column}s after all filters."
            )
    duplicated = interactions.duplicated(["user", "item"])
    if duplicated.any():
        first = interactions[duplicated].iloc[0]
        raise DataError(
            f"{int(duplicated.sum()):,} interactions repeat an earlier user and item, for example user number "
            f"{first['user']} and item number {first['item']}. Deduplicate them before the split."
        )
    parts = set(interactions["split"]) if "split" in kept else set()
    if parts != set(SPLITS):
        raise DataError(
            f"The interactions need the parts {', '.join(SPLITS)}, each with at least one row, in a column 'split', "
            f"but have: {', '.join(sorted(map(str, parts))) or 'none'}."
        )
    if "timestamp" in kept and not pd.api.types.is_integer_dtype(interactions["timestamp"]):
        raise DataError(
            f"Timestamps should be whole seconds since 1970, but their type is {interactions['timestamp'].dtype}."
        )
    types = {"user": np.int32, "item": np.int32, "split": str, "timestamp": np.int64}
    typed = interactions[kept].astype({column: types[column] for column in kept})
    return typed.sort_values(["user", "item"], ignore_index=True)


def _checked_ids(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return the table with its ids as text."""
    if "id" not in table.columns or table["id"].isna().any():
        raise DataError(f"The {kind} table needs a column 'id' with the original id in every row.")
    typed = table.assign(id=table["id"].astype(str)).reset_index(drop=True)
    repeated = typed["id"].duplicated()
    if repeated.any():
        raise DataError(
            f"{int(repeated.sum()):,} {kind} ids occur more than once, for example '{typed['id'][repeated].iloc[0]}'. "
            f"Every row of the {kind} table needs an id of its own."
        )
    return typed


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"metadata must be plain values, not {type(value).__name__}")


def _read_about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"dataset.json cannot be read ({error})") from error
    version = about.get("schema_version") if isinstance(about, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"The prepared dataset in {folder} has schema version {version}, but this program reads version "
            f"{SCHEMA_VERSION}. Prepare it again: bench prepare {folder.name} --force"
        )
    needed = ("name", "fingerprint", "n_users", "n_items", "n_interactions", "modalities", "metadata")
    missing = [key for key in needed if key not in about]
    if missing:
        raise _damaged(folder, f"dataset.json lacks {', '.join(missing)}")
    return dict(about)


def _read_table(folder: Path, file: str, needed: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_parquet(folder / file, engine="pyarrow")
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{file} cannot be read ({error})") from error
    missing = [column for column in needed if column not in table.columns]
    if missing:
        raise _damaged(folder, f"{file} lacks the column {', '.join(missing)}")
    return table


def _open_features(folder: Path, modality: str) -> NDArray[np.float32]:
    file = f"features/{modality}.npy"
    try:
        matrix = np.load(folder / file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(folder, f"{file} cannot be read ({error})") from error
    if matrix.ndim != 2 or matrix.dtype != np.float32:
        raise _damaged(folder, f"{file} holds {matrix.dtype} of shape {matrix.shape}, not float32 [n_items, width]")
    return np.asanyarray(matrix)


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(
        f"The prepared dataset in {folder} is damaged: {what}. Prepare it again: bench prepare {folder.name} --force"
    )
