"""Make item features, [n_items, width] float32, from texts, labels or ready matrices, and check them."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.data.raw.rawfiles import RawFile
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


def tfidf_svd(texts: Sequence[str], width: int, units: Literal["words", "characters"] = "words") -> Matrix:
    """Encode texts by TF-IDF and a truncated singular value decomposition (latent semantic analysis).

    Words are runs of letters and digits in lower case, also of one character. Term counts enter as 1 + log(count). For
    languages written without blanks, where such a run is a whole sentence, the units "characters" stand for words: the
    single characters of every run, and the pairs of neighbours in it.

    The result may be narrower than asked: it never has more than min(n_items, number of different words) columns, the
    highest rank the word matrix can have, and columns that come out as zero for every item, because the rank is lower
    still, are left out.

    The same texts give the same bytes: the decomposition starts from a fixed seed, the largest word weight of each
    component is made positive, and values are rounded to 5 decimals, which hides the last bits in which linear algebra
    libraries differ.

    Args:
        texts: one per item; an empty text becomes a zero row.
        width: number of columns asked for, at least 1.
        units: what is counted.

    Returns:
        float32 [n_items, at most width], columns by falling singular value.

    Raises:
        DataError: no text holds a word.
    """
    # Loaded here because whoever only reads prepared data should not wait for it.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    analyzer, pattern = ("word", r"(?u)\b\w+\b") if units == "words" else (_characters, None)
    vectorizer = TfidfVectorizer(analyzer=analyzer, token_pattern=pattern, sublinear_tf=True)
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


def matrix_shape(file: RawFile) -> tuple[int, int]:
    """Return the numbers of rows and columns of a `.npy` matrix; only its header is read.

    Raises:
        DataError: the file cannot be read, is no `.npy` file, or holds objects, text or another number of dimensions.
    """
    with _refusing(file), file.open() as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(stream)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
    if dtype.kind not in "fiub" or len(shape) != 2:
        raise DataError(
            f"The feature file {file.shown} should hold one number per item and feature, [n_items, width], but holds: "
            f"shape {shape}, type {dtype}."
        )
    return shape[0], shape[1]


def load_matrix(file: RawFile, rows: NDArray[np.int64]) -> Matrix:
    """Read the given rows of a `.npy` matrix; the others are left on the disk, unless the file lies packed.

    Args:
        file: holds a two-dimensional array of numbers; whatever their type, the result is float32.
        rows: row numbers from 0, int64 [n_items].

    Returns:
        float32 [n_items, width].

    Raises:
        DataError: as `matrix_shape`, or the matrix has fewer rows than asked for or than its header says.
    """
    n_rows, _ = matrix_shape(file)
    if len(rows) and (rows.max() >= n_rows or rows.min() < 0):
        raise DataError(
            f"The feature file {file.shown} has {n_rows:,} rows, numbered from 0, but the items ask for rows "
            f"{rows.min():,} to {rows.max():,}. Check that the file belongs to this dataset, and which row the recipe "
            f"gives to which item."
        )
    with _refusing(file):
        if _is_packed(file):
            with file.open() as stream:
                matrix = np.lib.format.read_array(stream, allow_pickle=False)
        else:
            matrix = np.load(file.path, mmap_mode="r", allow_pickle=False)
    return np.asarray(matrix[rows], dtype=np.float32)


def _is_packed(file: RawFile) -> bool:
    return file.member is not None or file.path.suffix.lower() == ".gz"


@contextmanager
def _refusing(file: RawFile) -> Iterator[None]:
    """Say of a file that NumPy cannot read which one it is, and what it should be."""
    try:
        yield
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"The feature file {file.shown} cannot be read as a plain .npy array of numbers: {error}. Pickled and "
            f"object arrays are refused, because loading them can run code, and so are archives of arrays (.npz). If "
            f"the file was downloaded, delete it and fetch it again; if it is your own, save the matrix with "
            f"numpy.save(path, array.astype('float32'))."
        ) from error


def standardise(matrix: Matrix) -> Matrix:
    """Bring every column to mean 0 and standard deviation 1; a column of equal numbers becomes 0.

    Computed in float64 and rounded to 5 decimals, which hides the last bits in which machines differ.

    Args:
        matrix: [n_items, width], at least one row.

    Returns:
        float32 [n_items, width].
    """
    constant = matrix.max(axis=0) == matrix.min(axis=0)
    values = matrix.astype(np.float64)
    values -= values.mean(axis=0)
    # Not told by a deviation of 0, which rounding can turn into a tiny number.
    values /= np.where(constant, np.inf, values.std(axis=0))
    return (values.round(5) + 0.0).astype(np.float32)


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
    refuse_not_finite(modality, matrix, source)
    zero = ~matrix.any(axis=1)
    filled = np.ascontiguousarray(matrix[~zero]) + matrix.dtype.type(0)  # adding 0 turns -0.0 into 0.0
    as_bytes = filled.view(np.dtype((np.void, filled.dtype.itemsize * filled.shape[1]))).ravel()
    return FeatureReport(
        modality=modality,
        width=matrix.shape[1],
        n_zero_rows=int(zero.sum()),
        n_duplicate_rows=len(as_bytes) - len(np.unique(as_bytes)),
    )


def refuse_not_finite(
    modality: str, matrix: NDArray[np.floating], source: str, ids: Sequence[str] | None = None
) -> None:
    """Refuse a matrix [n_items, width] that holds a value that is NaN or infinite.

    Raises:
        DataError: naming the first item that has one, or its row where the `ids` [n_items] are not given.
    """
    finite = np.isfinite(matrix)
    if not finite.all():
        bad = ~finite.all(axis=1)
        first = int(bad.argmax())
        # Items come in another order than the rows of a file, where this row's number would lead astray.
        shown = f"in row {first:,} (counted from 0)" if ids is None else f"for item '{ids[first]}'"
        raise DataError(
            f"The '{modality}' features ({source}) have {finite.size - np.count_nonzero(finite):,} values that are NaN "
            f"or infinite, in {bad.sum():,} of {len(matrix):,} rows, first {shown}. Repair the source, or "
            f"drop the items without features."
        )


def _rounded(scores: NDArray[np.float64]) -> Matrix:
    """Round to 5 decimals, leave out columns of zeros, and keep no negative zero."""
    rounded = scores.round(5) + 0.0
    return rounded[:, rounded.any(axis=0)].astype(np.float32)


def _characters(text: str) -> list[str]:
    runs = re.findall(r"\w+", text.lower())
    return [run[start : start + length] for run in runs for length in (1, 2) for start in range(len(run) - length + 1)]
