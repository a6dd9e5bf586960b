"""Make item features, [n_items, width] float32, from texts, labels or ready matrices, and check them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError

Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class FeatureReport:
    """What is worth knowing about a sound feature matrix.

    Attributes:
        modality: its name.
        width: number of columns.
        n_zero_rows: items whose features are all zero, so that models learn nothing from them.
        n_duplicate_rows: items with the same non-zero features as an item before them.
    """

    modality: str
    width: int
    n_zero_rows: int
    n_duplicate_rows: int


def tfidf_svd(texts: Sequence[str], width: int) -> Matrix:
    """Encode texts by TF-IDF and a truncated singular value decomposition (latent semantic analysis).

    Words are runs of letters and digits in lower case, also of one character. Term counts enter as 1 + log(count).

    The result may be narrower than asked: it never has more than min(n_items, number of different words) columns, the
    highest rank the word matrix can have, and columns that come out as zero for every item, because the rank is lower
    still, are left out.

    The same texts give the same bytes: the decomposition starts from a fixed seed, the largest word weight of each
    component is made positive, and values are rounded to 5 decimals, which hides the last bits in which linear algebra
    libraries differ.

    Args:
        texts: one per item; an empty text becomes a zero row.
        width: number of columns asked for, at least 1.

    Returns:
        float32 [n_items, at most width], columns by falling singular value.

    Raises:
        DataError: no text holds a word.
    """
    # Loaded here because whoever only reads prepared data should not wait for it.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    vectorizer = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True)
    try:
        weights = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise DataError(
            f"None of the {len(texts):,} item texts holds a word (first: {next(iter(texts), '')!r}), so no text "
            f"features can be made. Check which fields the recipe's text feature reads."
        ) from error
    # Not the class TruncatedSVD, which refuses a matrix of one word.
    left, values, components = randomized_svd(weights, min(width, *weights.shape), n_iter=10, random_state=0)
    # Entries that are as large as the largest but for rounding count as equal, and the first of them decides.
    largest = np.abs(components).round(6).argmax(axis=1)
    signs = np.sign(components[np.arange(len(largest)), largest])
    return _rounded(left * values * signs)


def multi_hot(values: Sequence[Sequence[str]]) -> tuple[Matrix, list[str]]:
    """Encode lists of labels as one 0/1 column per label.

    Args:
        values: the labels of each item, in any order; an empty list becomes a zero row.

    Returns:
        float32 [n_items, n_labels], and the labels in sorted order.

    Raises:
        DataError: no item has a label.
    """
    from sklearn.preprocessing import MultiLabelBinarizer

    binarizer = MultiLabelBinarizer()
    matrix = binarizer.fit_transform(values).astype(np.float32)
    labels = [str(label) for label in binarizer.classes_]
    if not labels:
        raise DataError(
            f"None of the {len(values):,} items has a label, so no label features can be made. Check which fields the "
            f"recipe's label feature reads, and their separator."
        )
    return matrix, labels


def load_matrix(path: Path, rows: NDArray[np.int64]) -> Matrix:
    """Read the given rows of a `.npy` matrix without reading the others.

    Args:
        path: a file with a two-dimensional array of numbers; whatever their type, the result is float32.
        rows: row numbers from 0, int64 [n_items].

    Returns:
        float32 [n_items, width].

    Raises:
        DataError: the file is missing, is no `.npy` file, holds objects, text or another number of dimensions, or has
            fewer rows than asked for.
    """
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(
            f"The feature file {path} is missing. Put it there, or correct its name in the recipe."
        ) from error
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"The feature file {path} cannot be read as a plain .npy array of numbers: {error}. Pickled and object "
            f"arrays are refused, because loading them can run code; save the matrix with "
            f"numpy.save(path, array.astype('float32'))."
        ) from error
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "fiub" or matrix.ndim != 2:
        found = f"shape {matrix.shape}, type {matrix.dtype}" if isinstance(matrix, np.ndarray) else "an archive (.npz)"
        raise DataError(
            f"The feature file {path} should hold one number per item and feature, [n_items, width], but holds: "
            f"{found}."
        )
    if len(rows) and (rows.max() >= len(matrix) or rows.min() < 0):
        raise DataError(
            f"The feature file {path} has {len(matrix):,} rows, numbered from 0, but the items ask for rows "
            f"{rows.min():,} to {rows.max():,}. Check that the file belongs to this dataset, and which row the recipe "
            f"gives to which item."
        )
    return np.asarray(matrix[rows], dtype=np.float32)


def check_features(modality: str, matrix: NDArray[np.floating], n_items: int, source: str) -> FeatureReport:
    """Refuse a feature matrix that is not [n_items, width] of finite numbers, and report what is odd about it.

    Args:
        modality: its name.
        matrix: the features.
        n_items: number of items of the dataset.
        source: where the matrix is from, for the message.

    Raises:
        DataError: wrong number of dimensions or rows, no columns, or a value that is NaN or infinite.
    """
    where = f"The '{modality}' features ({source})"
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise DataError(f"{where} should have the shape [n_items, width], but have the shape {list(matrix.shape)}.")
    if len(matrix) != n_items:
        raise DataError(
            f"{where} have {len(matrix):,} rows, but the dataset has {n_items:,} items. Every item needs exactly one "
            f"row."
        )
    finite = np.isfinite(matrix)
    if not finite.all():
        bad = ~finite.all(axis=1)
        raise DataError(
            f"{where} have {finite.size - np.count_nonzero(finite):,} values that are NaN or infinite, in "
            f"{bad.sum():,} of {n_items:,} rows, first in row {int(bad.argmax()):,} (counted from 0). Repair the "
            f"source, or drop the items without features."
        )
    zero = ~matrix.any(axis=1)
    filled = np.ascontiguousarray(matrix[~zero]) + matrix.dtype.type(0)  # adding 0 turns -0.0 into 0.0
    as_bytes = filled.view(np.dtype((np.void, filled.dtype.itemsize * filled.shape[1]))).ravel()
    return FeatureReport(
        modality=modality,
        width=matrix.shape[1],
        n_zero_rows=int(zero.sum()),
        n_duplicate_rows=len(as_bytes) - len(np.unique(as_bytes)),
    )


def _rounded(scores: NDArray[np.float64]) -> Matrix:
    """Round to 5 decimals, leave out columns of zeros, and keep no negative zero."""
    rounded = scores.round(5) + 0.0
    return rounded[:, rounded.any(axis=0)].astype(np.float32)
