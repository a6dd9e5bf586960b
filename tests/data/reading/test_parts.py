import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from bench.data.raw.rawfiles import RawFiles
from bench.data.reading.batch import Batch
from bench.data.reading.parts import read_matrix
from bench.data.reading.read import interaction_batches
from bench.data.recipes.tables import PartFiles
from bench.errors import DataError

PARTS = {"train": "trn", "valid": "val", "test": "tst"}


def batches(tmp_path: Path, contents: list[bytes], format_: str) -> list[Batch]:
    for name, content in zip(PARTS.values(), contents, strict=True):
        (tmp_path / name).write_bytes(content)
    return list(interaction_batches(RawFiles(tmp_path), PartFiles(format=format_, parts=PARTS)))


def pairs(found: list[Batch]) -> list[tuple[str, str, str]]:
    columns = [zip(b.users().to_pylist(), b.items().to_pylist(), b.splits().to_pylist(), strict=True) for b in found]
    return [pair for column in columns for pair in column]


def lists(tmp_path: Path, *documents: object) -> list[Batch]:
    return batches(tmp_path, [json.dumps(document).encode() for document in documents], "user-lists")


def matrices(tmp_path: Path, *contents: object) -> list[Batch]:
    packed = [content if isinstance(content, bytes) else pickle.dumps(content) for content in contents]
    return batches(tmp_path, packed, "matrices")


def list_refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(DataError) as caught:
        batches(tmp_path, [b'{"0": [1]}', content, b"{}"], "user-lists")
    assert str(tmp_path / "val") in str(caught.value)
    return str(caught.value)


def matrix_refusal(tmp_path: Path, content: bytes) -> str:
    (tmp_path / "mat.pkl").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_matrix(RawFiles(tmp_path).find("mat.pkl"))
    assert str(tmp_path / "mat.pkl") in str(caught.value)
    return str(caught.value)


def test_lists_of_users(tmp_path):
    found = lists(tmp_path, {"0": [4, 2], "1": []}, {"1": [4]}, {"0": ["007"]})
    assert pairs(found) == [("0", "4", "train"), ("0", "2", "train"), ("1", "4", "valid"), ("0", "007", "test")]
    assert np.concatenate([batch.rows() for batch in found]).tolist() == [0, 1, 2, 3]
    kept = found[0].filter(np.array([False, True]))
    assert pairs([kept]) == [("0", "2", "train")]


def test_lists_that_are_none(tmp_path):
    assert "line 2, column 1: this is no JSON" in list_refusal(tmp_path, b'{"0": [1],\n')
    assert "should hold one object of users with lists of items" in list_refusal(tmp_path, b"[[0, 1]]")
    assert "should hold one object" in list_refusal(tmp_path, b'"x"')
    assert "but user '7' has \"4\"" in list_refusal(tmp_path, b'{"7": 4}')
    assert "but user '7' has [[\"4\"]]" in list_refusal(tmp_path, b'{"7": [[4]]}')
    assert "but user '7' has [1.5]" in list_refusal(tmp_path, b'{"7": [1.5]}')
    assert "has the user '7' twice" in list_refusal(tmp_path, b'{"7": [1], "7": [2]}')
    assert "an id of item number 2 is empty" in list_refusal(tmp_path, b'{"7": [1, " "]}')
    assert "is not UTF-8 text" in list_refusal(tmp_path, b'{"\xe9": [1]}')
    assert "nested too deeply" in list_refusal(tmp_path, b"[" * 100_000)
    with pytest.raises(DataError, match=r"tst hold no interactions"):
        lists(tmp_path, {}, {"1": []}, {})


@pytest.mark.parametrize(
    "build", [sparse.coo_matrix, sparse.csr_matrix, sparse.csc_matrix, sparse.coo_array, sparse.csr_array]
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_matrices(tmp_path, build, protocol):
    entries = [([2, 0, 0], [1, 3, 0]), ([1], [1]), ([], [])]
    packed = [
        pickle.dumps(build((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(3, 4)), protocol)
        for rows, columns in entries
    ]
    found = matrices(tmp_path, *packed)
    assert pairs(found) == [("0", "0", "train"), ("0", "3", "train"), ("2", "1", "train"), ("1", "1", "valid")]
    assert [len(batch) for batch in found] == [3, 1, 0]


def test_zeros_are_no_interactions_and_repeated_entries_one(tmp_path):
    matrix = sparse.coo_matrix(([1, 0, 1, 1], ([0, 0, 1, 1], [0, 1, 1, 1])), shape=(2, 2))
    empty = sparse.coo_matrix((2, 2))
    assert pairs(matrices(tmp_path, matrix, empty, empty)) == [("0", "0", "train"), ("1", "1", "train")]


def test_matrices_of_old_libraries(tmp_path):
    packed = pickle.dumps(sparse.coo_matrix(([1.0], ([1], [0])), shape=(2, 2)), 2)
    for new, old in (
        (b"scipy.sparse._coo", b"scipy.sparse.coo"),
        (b"numpy._core.multiarray", b"numpy.core.multiarray"),
    ):
        packed = packed.replace(b"c" + new, b"c" + old)
    assert b"scipy.sparse.coo\n" in packed
    state = pickle.dumps({"row": np.array([1]), "col": np.array([0]), "data": np.array([1.0]), "_shape": (2, 2)}, 2)
    older = b"\x80\x02cscipy.sparse.coo\ncoo_matrix\n)\x81" + state[2:-1] + b"b."
    for content in (packed, older):
        (tmp_path / "mat.pkl").write_bytes(content)
        matrix = read_matrix(RawFiles(tmp_path).find("mat.pkl"))
        assert matrix.toarray().tolist() == [[0, 0], [1, 0]]


def test_matrices_of_other_shapes(tmp_path):
    shapes = [sparse.coo_matrix(np.ones(shape)) for shape in ((2, 3), (2, 3), (3, 3))]
    with pytest.raises(DataError, match=r"trn has 2 x 3, .*val has 2 x 3, .*tst has 3 x 3"):
        matrices(tmp_path, *shapes)
    empty = sparse.coo_matrix((2, 2))
    with pytest.raises(DataError, match="hold no interactions"):
        matrices(tmp_path, empty, empty, empty)


class Hostile:
    def __init__(self, call, *arguments) -> None:
        self.reduced = (call, arguments)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_before_it_runs(tmp_path, protocol):
    mark = tmp_path / "mark"
    message = matrix_refusal(tmp_path, pickle.dumps(Hostile(os.system, f"touch {mark}"), protocol))
    assert "asks for posix.system" in message or "asks for nt.system" in message
    assert "was not loaded" in message
    matrix = sparse.coo_matrix((2, 2))
    matrix.data = Hostile(os.system, f"touch {mark}")
    assert "system" in matrix_refusal(tmp_path, pickle.dumps(matrix, protocol))
    assert not mark.exists()


@pytest.mark.parametrize("call", [eval, getattr, np.load, sparse.load_npz, np.save])
def test_nothing_but_matrices_is_built(tmp_path, call):
    assert "which no sparse matrix needs" in matrix_refusal(tmp_path, pickle.dumps(Hostile(call, "1")))


def tampered(**values: object) -> bytes:
    matrix = sparse.csr_matrix(np.eye(2))
    vars(matrix).update(values)
    return pickle.dumps(matrix)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no pickle", "is no pickle of a sparse matrix"),
        (b"", "is no pickle of a sparse matrix"),
        (pickle.dumps(sparse.eye(3).tocoo())[:-20], "is no pickle of a sparse matrix"),
        (pickle.dumps(np.eye(2)), "holds no sparse matrix of numbers: it holds ndarray instead"),
        (tampered(indices=np.array([0, 7])), "holds no sparse matrix"),
        (tampered(indices=np.array([0, -1])), "holds no sparse matrix"),
        (tampered(indptr=np.array([0, 1, 9])), "holds no sparse matrix"),
        (tampered(data=np.array(["a", "b"])), "not a row of numbers"),
        (tampered(data=np.array([None, {}])), "not a row of numbers"),
        (tampered(data=[1, 2]), "not a row of numbers"),
        (tampered(_shape=(2,)), "holds no sparse matrix"),
        (tampered(_shape=(2**80, 2)), "holds no sparse matrix"),
        (tampered(data=np.array([1, np.nan])), "values that are no finite numbers"),
    ],
)
def test_pickles_that_hold_no_matrix(tmp_path, content, words):
    assert words in matrix_refusal(tmp_path, content)


def test_stand_ins_do_only_what_old_pickles_need(tmp_path):
    content = pickle.dumps(np.eye(2), 2)
    assert b"latin1" in content
    assert "bytes stored as idna" in matrix_refusal(
        tmp_path, content.replace(b"X\x06\x00\x00\x00latin1", b"X\x04\x00\x00\x00idna")
    )
    assert "is no pickle" in matrix_refusal(tmp_path, b"c__builtin__\nbytes\n(I9999999999999\ntR.")
    assert "an object of <class 'object'>" in matrix_refusal(
        tmp_path, b"ccopy_reg\n_reconstructor\n(c__builtin__\nobject\nc__builtin__\nobject\nNtR."
    )
