"""Read interactions that come in one file per part of the split: JSON lists of items, or pickled sparse matrices."""

import codecs
import json
import pickle
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import sparse

from bench.data.raw.rawfiles import RawFile, RawFiles
from bench.data.reading.batch import Batch, tidy, unfit
from bench.data.reading.stream import ENCODED
from bench.data.reading.utf8 import found
from bench.data.recipes.tables import PartFiles
from bench.errors import DataError

NUMPY_HOMES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")
PYTHON_2_NAMES = {"copy_reg": "copyreg", "__builtin__": "builtins"}
FORMATS = ("coo", "csr", "csc")


def part_batches(files: RawFiles, table: PartFiles) -> Iterator[Batch]:
    """Read the parts one after the other, each as one batch whose `split` is the part's name.

    Users and items of matrices are the numbers of rows and columns, from 0; an entry that is zero is no interaction.

    Raises:
        DataError: a file is not what the recipe says, the matrices differ in shape, or there is no interaction.
    """
    row, shapes = 0, dict[str, tuple[int, int]]()
    for part, name in table.parts.items():
        file = found(files, name)
        if table.format == "matrices":
            users, items, shapes[file.shown] = _matrix_pairs(file)
            _refuse_other_shape(shapes)
        else:
            users, items = _list_pairs(file)
        rows = np.arange(row, row + len(users), dtype=np.int64)
        parts = pa.DictionaryArray.from_arrays(np.zeros(len(users), dtype=np.int32), pa.array([part]))
        yield Batch(pa.table({"user": users, "item": items, "split": parts, "row": rows}))
        row += len(users)
    if not row:
        raise DataError(f"{', '.join(found(files, name).shown for name in table.files)} hold no interactions.")


def _refuse_other_shape(shapes: dict[str, tuple[int, int]]) -> None:
    if len(set(shapes.values())) > 1:
        found_shapes = ", ".join(f"{shown} has {U:,} x {items:,}" for shown, (U, items) in shapes.items())
        raise DataError(f"The matrices should have one shape, users x items: {found_shapes}. Are they of one dataset?")


def _list_pairs(file: RawFile) -> tuple[pa.DictionaryArray, pa.DictionaryArray]:
    """Read `{"user": [items]}`."""
    try:
        lists = json.loads(file.read_bytes().decode("utf-8-sig"), parse_int=str, object_pairs_hook=list)
    except UnicodeDecodeError as error:
        raise DataError(f"{file.shown} is not UTF-8 text, as JSON is: byte {error.start:,}.") from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{file.shown}, line {error.lineno}, column {error.colno}: this is no JSON: {error.msg}."
        ) from error
    except RecursionError as error:
        raise DataError(f"{file.shown} is nested too deeply to be lists of items by user.") from error
    # Pairs instead of a dictionary: of a user named twice, a dictionary would keep the second list only.
    wish = 'should hold one object of users with lists of items, such as {"0": [4, 2]}'
    if not isinstance(lists, list) or not all(isinstance(pair, tuple) for pair in lists):
        raise DataError(f"{file.shown} {wish}.")
    users: list[str] = []
    items: list[str] = []
    seen: set[str] = set()
    for user, ids in lists:
        if not isinstance(ids, list) or not all(isinstance(item, str) for item in ids):
            raise DataError(f"{file.shown} {wish}, but user '{user}' has {json.dumps(ids)[:80]}.")
        if user in seen:
            raise DataError(f"{file.shown} has the user '{user}' twice.")
        seen.add(user)
        users += [user] * len(ids)
        items += ids
    pairs = tuple(tidy(pa.array(texts, pa.string()).dictionary_encode()) for texts in (users, items))
    for what, column in zip(("user", "item"), pairs, strict=True):
        if unfit(column).any():
            raise DataError(f"{file.shown}: an id of {what} number {int(unfit(column).argmax()) + 1:,} is empty.")
    return pairs[0], pairs[1]


def _matrix_pairs(file: RawFile) -> tuple[pa.DictionaryArray, pa.DictionaryArray, tuple[int, int]]:
    """Read the positions of what is not zero, by row and then column, and the shape of a pickled matrix."""
    matrix = read_matrix(file)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    rows, columns = matrix.tocoo().coords
    return _numbered(rows, matrix.shape[0]), _numbered(columns, matrix.shape[1]), matrix.shape


def _numbered(codes: NDArray[np.int32], n: int) -> pa.DictionaryArray:
    ids = pa.array(np.arange(n)).cast(pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), ids).cast(ENCODED)


def read_matrix(file: RawFile) -> "sparse.csr_array":
    """Read a pickled SciPy matrix [U, I] in COO, CSR or CSC form, and build nothing else that the file asks for.

    The matrix is built anew from the arrays in the file, so that one whose indices point outside is refused.

    Raises:
        DataError: the file is no pickle, asks for another class, or holds no matrix of numbers.
    """
    with file.open() as stream:
        try:
            state = _MatrixUnpickler(stream).load()
        except DataError as error:
            raise DataError(f"{file.shown}: {error}") from error
        except Exception as error:
            # Unpickling bytes that make no sense can raise anything.
            raise DataError(f"{file.shown} is no pickle of a sparse matrix ({error}). Fetch it again.") from error
    try:
        matrix = _rebuilt(state)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, MemoryError) as error:
        raise DataError(f"{file.shown} holds no sparse matrix of numbers: {error}.") from error
    if not np.isfinite(matrix.data).all():
        raise DataError(f"{file.shown} holds values that are no finite numbers.")
    return matrix


class _State:
    """Stands in for a SciPy matrix while a pickle is read: the values it would have, and no code of SciPy's."""

    format = ""


STATES = {name: type(f"_{name}", (_State,), {"format": name}) for name in FORMATS}


def _rebuilt(state: Any) -> "sparse.csr_array":
    if not isinstance(state, _State):
        raise TypeError(f"it holds {type(state).__name__} instead")
    values = vars(state)
    n_users, n_items = (int(n) for n in values.get("_shape", values.get("shape", ())))
    data = _plain(values["data"], "biuf").astype(np.float64)
    names = ("row", "col") if state.format == "coo" else ("indices", "indptr")
    arrays = values["coords"] if "coords" in values else [values[name] for name in names]
    first, second = (_plain(array, "iu") for array in arrays)
    if state.format == "coo":
        return sparse.coo_array((data, (first, second)), shape=(n_users, n_items)).tocsr()
    build = sparse.csr_array if state.format == "csr" else sparse.csc_array
    matrix = build((data, first, second), shape=(n_users, n_items))
    matrix.check_format(full_check=True)
    return matrix.tocsr()


def _plain(array: Any, kinds: str) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in kinds:
        raise TypeError("one of its arrays is not a row of numbers")
    return array


def _latin1(text: str, encoding: str) -> bytes:
    """Stand in for what old pickles call to store bytes, which could be asked for any codec."""
    if codecs.lookup(encoding).name != "iso8859-1":
        raise pickle.UnpicklingError(f"bytes stored as {encoding}")
    return text.encode("latin-1")


def _reconstructor(class_: Any, *_: object) -> _State:
    """Stand in for what pickles of the oldest kind call to make an object."""
    if not (isinstance(class_, type) and issubclass(class_, _State)):
        raise pickle.UnpicklingError(f"an object of {class_!r}")
    return class_()


def _no_bytes() -> bytes:
    """Stand in for what old pickles call where bytes are empty, which could be asked for any number of them."""
    return b""


PLAIN: dict[str, Any] = {
    "_codecs.encode": _latin1,
    "copyreg._reconstructor": _reconstructor,
    "builtins.bytes": _no_bytes,
    "builtins.object": object,
}
# NumPy keeps some of these where it likes; arrays know them.
ARRAYS: dict[str, Any] = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.zeros(1).__reduce__()[0],
    "scalar": np.float64(1).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
}


class _MatrixUnpickler(pickle.Unpickler):
    """Build NumPy arrays and stand-ins for SciPy's matrices; refuse everything else before it runs."""

    def __init__(self, stream: BinaryIO) -> None:
        # Latin-1 is how NumPy's bytes come out of pickles written by Python 2.
        super().__init__(stream, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle means by a name.

        Raises:
            DataError: it is none of the few that a matrix needs.
        """
        if module in NUMPY_HOMES and name in ARRAYS:
            return ARRAYS[name]
        kind, _, form = name.partition("_")
        if module.startswith("scipy.sparse") and kind in STATES and form in ("matrix", "array"):
            return STATES[kind]
        if (plain := f"{PYTHON_2_NAMES.get(module, module)}.{name}") in PLAIN:
            return PLAIN[plain]
        raise DataError(
            f"this pickle asks for {module}.{name}, which no sparse matrix needs; it was not loaded. Convert the file "
            f"if you trust it."
        )
