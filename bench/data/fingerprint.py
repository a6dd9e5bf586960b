"""Name a prepared dataset by its content."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.data.split import SPLITS

ROWS_AT_ONCE = 65_536


def content_fingerprint(
    interactions: pd.DataFrame,
    user_ids: Iterable[str],
    item_ids: Iterable[str],
    features: Mapping[str, NDArray[np.float32]],
) -> str:
    """Return the SHA-256 of everything a result can depend on, as 64 hexadecimal digits.

    That is: the interactions by user and item with their part and, where known, their time; the original ids in row
    order; the features with their names. Names, titles and other descriptions have no part in it. The hash is taken of
    the values themselves, little-endian, in a fixed order, so it does not depend on the order of rows, on column types,
    or on the version of a file format.

    Args:
        interactions: columns `user`, `item`, `split` and perhaps `timestamp`, in any order of rows.
        user_ids: original ids of users 0, 1, ...
        item_ids: original ids of items 0, 1, ...
        features: modality -> float32 [n_items, width].
    """
    digest = hashlib.sha256()

    def add(name: str, values: NDArray[np.generic], kind: str) -> None:
        # The heading fixes how many bytes follow, so no two contents run together into the same bytes.
        digest.update(f"{name} {kind} {list(values.shape)}\n".encode())
        for start in range(0, len(values), ROWS_AT_ONCE):
            digest.update(np.ascontiguousarray(values[start : start + ROWS_AT_ONCE], dtype=kind).tobytes())

    users = interactions["user"].to_numpy(dtype=np.int64)
    items = interactions["item"].to_numpy(dtype=np.int64)
    order = np.lexsort((items, users))
    add("user", users[order], "<i4")
    add("item", items[order], "<i4")
    split = interactions["split"].map({name: code for code, name in enumerate(SPLITS)}).to_numpy(dtype=np.int64)
    add("split", split[order], "<u1")
    if "timestamp" in interactions.columns:
        add("timestamp", interactions["timestamp"].to_numpy(dtype=np.int64)[order], "<i8")
    for name, ids in (("user ids", user_ids), ("item ids", item_ids)):
        text = json.dumps([str(one) for one in ids]).encode()
        add(name, np.frombuffer(text, dtype=np.uint8), "<u1")
    for modality in sorted(features):
        add(f"features {json.dumps(modality)}", features[modality], "<f4")
    return digest.hexdigest()
