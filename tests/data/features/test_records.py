import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.features.records import BLOCK_BYTES, read_records, record_ids
from bench.data.raw.rawfiles import RawFile, RawFiles
from bench.errors import DataError


def record(id_, values, id_bytes=4):
    return id_.encode("latin-1").ljust(id_bytes, b"\0") + np.array(values, dtype="<f4").tobytes()


THREE = [record("B001", [1, 2]), record("B2", [3, 4]), record("B003", [5, 6])]


def raw_file(folder, content, name="features.b"):
    (folder / name).write_bytes(content)
    return RawFiles(folder).find(name)


def read(file, wanted, id_bytes=4, width=2):
    lines = []
    matrix, present = read_records(file, wanted, id_bytes, width, lines.append)
    return matrix, present, lines


def test_records_come_in_the_wanted_order(tmp_path):
    matrix, present, lines = read(raw_file(tmp_path, b"".join(THREE)), ["B003", "none", "B001", "B2"])
    assert matrix.dtype == np.float32
    assert matrix.tolist() == [[5, 6], [0, 0], [1, 2], [3, 4]]
    assert present.tolist() == [True, False, True, True]
    assert lines == []


def test_records_of_the_published_size(tmp_path):
    # Ten bytes of id and 4096 numbers make 16,394 bytes; a block ends between two records.
    n_records = BLOCK_BYTES // 16_394 + 2
    rng = np.random.default_rng(0)
    vectors = rng.random((3, 4096), dtype=np.float32)
    ids = [f"{number:010}" for number in range(n_records)]
    content = b"".join(record(id_, vectors[row % 3], 10) for row, id_ in enumerate(ids))
    assert len(content) == n_records * 16_394
    file = raw_file(tmp_path, content)
    matrix, present, _ = read(file, [ids[-1], ids[0], "B00ABSENT0"], 10, 4096)
    assert (matrix[0] == vectors[(n_records - 1) % 3]).all()
    assert (matrix[1] == vectors[0]).all()
    assert present.tolist() == [True, True, False]
    assert record_ids(file, 10, 4096) == set(ids)


def packed(folder, content, kind):
    if kind == "gz":
        (folder / "features.b.gz").write_bytes(gzip.compress(content))
    else:
        with zipfile.ZipFile(folder / "features.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("deep/features.b", content)
    return RawFiles(folder).find("features.b")


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_packed_records(tmp_path, kind):
    file = packed(tmp_path, b"".join(THREE), kind)
    assert read(file, ["B2"])[0].tolist() == [[3, 4]]
    assert record_ids(file, 4, 2) == {"B001", "B2", "B003"}


class Pipe(io.BytesIO):
    def seekable(self):
        return False

    def seek(self, *where):
        raise OSError("cannot seek")


@pytest.mark.parametrize("content", [b"".join(THREE), b"", b"".join(THREE)[:-1], b"".join(THREE) + b"B0"])
def test_ids_are_the_same_with_and_without_jumping(tmp_path, monkeypatch, content):
    file = raw_file(tmp_path, content)
    answers = [outcome(file)]
    monkeypatch.setattr(RawFile, "open", lambda self: Pipe(content))
    answers.append(outcome(file))
    assert answers[0] == answers[1]


def outcome(file):
    try:
        return record_ids(file, 4, 2)
    except DataError as error:
        return str(error)


class Counting(io.BytesIO):
    n_read = 0

    def read(self, size=-1):
        data = super().read(size)
        Counting.n_read += len(data)
        return data


def test_ids_are_read_without_the_vectors(tmp_path, monkeypatch):
    file = raw_file(tmp_path, b"")
    content = b"".join(record(f"{number:04}", np.zeros(1000)) for number in range(20))
    monkeypatch.setattr(RawFile, "open", lambda self: Counting(content))
    assert len(record_ids(file, 4, 1000)) == 20
    assert Counting.n_read <= 20 * (4 + 1)


@pytest.mark.parametrize(("cut", "n_records", "rest"), [(1, 2, 11), (8, 2, 4), (9, 2, 3), (12, 2, 0), (20, 1, 4)])
def test_a_file_that_ends_within_a_record(tmp_path, cut, n_records, rest):
    file = raw_file(tmp_path, b"".join(THREE)[:-cut])
    if rest == 0:
        assert record_ids(file, 4, 2) == {"B001", "B2"}
        return
    wish = rf"features\.b is truncated: {n_records} records and {rest} bytes, where each record should have 12 bytes"
    with pytest.raises(DataError, match=wish):
        read(file, ["B001"])
    with pytest.raises(DataError, match=wish):
        record_ids(file, 4, 2)


def test_truncation_is_counted_over_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.data.features.records.BLOCK_BYTES", 12)
    with pytest.raises(DataError, match="truncated: 3 records and 2 bytes"):
        read(raw_file(tmp_path, b"".join(THREE) + b"B0"), ["B001"])


def test_an_id_that_is_no_ascii(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.data.features.records.BLOCK_BYTES", 24)
    file = raw_file(tmp_path, b"".join([*THREE, record("B\xe94", [0, 0])]))
    with pytest.raises(DataError, match=r"Record 3 \(counted from 0\) of .*features\.b should start with an item id"):
        read(file, ["B001"])
    with pytest.raises(DataError, match=r"Record 3 .*Check 'id_bytes' and 'width'"):
        record_ids(file, 4, 2)


def test_the_first_of_several_records_counts(tmp_path):
    content = b"".join([*THREE, record("B2", [8, 8]), record("B2", [9, 9]), record("B001", [7, 7])])
    matrix, _, lines = read(raw_file(tmp_path, content), ["B2", "B003"])
    assert matrix.tolist() == [[3, 4], [5, 6]]
    (line,) = lines
    assert line.endswith("features.b: 1 of 2 items have more than one record, for example 'B2'; the first counts")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite(tmp_path, value):
    file = raw_file(tmp_path, b"".join([*THREE, record("bad", [0, value])]))
    with pytest.raises(DataError, match=r"Record 3 \(counted from 0\) of .*features\.b, of item 'bad', holds numbers"):
        read(file, ["bad"])
    assert read(file, ["B2"])[1].all(), "an unwanted record may be bad"


@given(
    st.lists(st.text("AB01", min_size=1, max_size=3), max_size=8),
    st.lists(st.text("AB01", min_size=1, max_size=3), max_size=8, unique=True),
)
def test_every_wanted_id_gets_its_first_record(tmp_path_factory, stored, wanted):
    content = b"".join(record(id_, [place, -place]) for place, id_ in enumerate(stored))
    file = raw_file(Path(tmp_path_factory.getbasetemp()), content, "drawn.b")
    matrix, present, _ = read(file, wanted)
    assert present.tolist() == [id_ in stored for id_ in wanted]
    firsts = [stored.index(id_) if id_ in stored else 0 for id_ in wanted]
    assert matrix.tolist() == [[first, -first] for first in firsts]
    assert record_ids(file, 4, 2) == set(stored)
