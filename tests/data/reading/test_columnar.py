"""Parquet files as tables of interactions and of items: the same rows as delimited text, and refusals by type."""

import datetime
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.data.raw.rawfiles import RawFiles
from bench.data.reading import columnar
from bench.data.reading.items import read_items
from bench.data.reading.read import interaction_batches
from bench.data.recipes.tables import InteractionsTable, ItemsTable
from bench.errors import DataError


def write(tmp_path, name="a.parquet", **columns):
    pq.write_table(pa.table(columns), tmp_path / name)


def batches(tmp_path, file="a.parquet", **keys):
    return list(interaction_batches(RawFiles(tmp_path), InteractionsTable(file=file, **keys)))


def pairs(found):
    return [pair for each in found for pair in zip(each.users().to_pylist(), each.items().to_pylist(), strict=True)]


def seconds(tmp_path, column, **keys):
    write(tmp_path, user=["u"] * len(column), item=["i"] * len(column), time=column)
    return [int(time) for each in batches(tmp_path, timestamp="time", **keys) for time in each.seconds()]


def refusal(tmp_path, **keys):
    with pytest.raises(DataError) as caught:
        batches(tmp_path, **keys)
    assert str(tmp_path) in str(caught.value)
    return str(caught.value)


def items(tmp_path, wanted=None, **keys):
    read = read_items(RawFiles(tmp_path), ItemsTable(file="a.parquet", **keys), wanted)
    return read.frame.to_dict("records"), list(read.frame.index), read.n_rows


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.string(), pa.large_string(), pa.string_view()])
def test_ids_become_text(tmp_path, kind):
    column = pa.array(["7", "12"], pa.string()).cast(kind)
    write(tmp_path, user=column, item=pa.array([" 007 ", "8"]).dictionary_encode(), other=[1.5, 2.5])
    assert pairs(batches(tmp_path)) == [("7", "007"), ("12", "8")]


def test_any_names_of_columns_and_what_is_not_wanted_may_be_anything(tmp_path):
    blobs = pa.array([b"\xff", b""], pa.binary())
    write(tmp_path, who=[1, 2], what=["a", "b"], stars=[4.5, 2], part=[0, 1], blob=blobs)
    (found,) = batches(tmp_path, user="who", item="what", rating="stars", split="part")
    assert found.ratings().tolist() == [4.5, 2]
    assert found.splits().to_pylist() == ["0", "1"]
    assert found.rows().tolist() == [0, 1]


def test_blocks_and_several_files_do_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr(columnar, "ROWS_AT_ONCE", 3)
    for name, first in (("a.parquet", 0), ("b.parquet", 10)):
        ids = list(range(first, first + 10))
        pq.write_table(pa.table({"user": ids, "item": ids}), tmp_path / name, row_group_size=4)
    found = batches(tmp_path, file=("a.parquet", "b.parquet"))
    assert len(found) > 4, "a few rows at a time"
    assert pairs(found) == [(str(n), str(n)) for n in range(20)]
    assert [row for each in found for row in each.rows()] == list(range(20))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("declared", ["s", "ms", "iso"])
def test_points_in_time_become_seconds_whatever_the_unit(tmp_path, unit, declared):
    times = pa.array([1_600_000_000, -1], pa.timestamp("s")).cast(pa.timestamp(unit))
    assert seconds(tmp_path, times, timestamp_unit=declared) == [1_600_000_000, -1]


def test_parts_of_a_second_are_rounded_down(tmp_path):
    assert seconds(tmp_path, pa.array([1_999, -1], pa.timestamp("ms"))) == [1, -1]


def test_days_and_times_without_a_zone_are_local(tmp_path):
    day = pa.array([datetime.date(1970, 1, 2)])
    assert seconds(tmp_path, day) == [86_400]
    assert seconds(tmp_path, day.cast(pa.date64()), utc_offset="+08:00") == [86_400 - 8 * 3600]
    times = pa.array([86_400], pa.timestamp("s"))
    assert seconds(tmp_path, times, utc_offset="-01:00") == [90_000]
    assert seconds(tmp_path, times.cast(pa.timestamp("s", "Asia/Shanghai")), utc_offset="+08:00") == [86_400]


def test_numbers_and_text_are_times_as_in_text_files(tmp_path):
    assert seconds(tmp_path, [1_500, 2_999], timestamp_unit="ms") == [1, 2]
    assert seconds(tmp_path, [1_600_000_000.0]) == [1_600_000_000]
    assert seconds(tmp_path, ["1970-01-02"], timestamp_unit="iso") == [86_400]
    write(tmp_path, user=["u", "u"], item=["a b", "c"])
    found = batches(tmp_path, item_separator=" ", timestamp_unit="order")
    assert [each.seconds().tolist() for each in found] == [[0, 1, 0]]


def test_a_time_that_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"a.parquet, row 1 \(counted from 0\): the column 'time' should hold a time"):
        seconds(tmp_path, pa.array([1, None, 2], pa.timestamp("s")))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([1.0, 2.0], "column 'item' should hold ids or labels as text or whole numbers, but its type is double, as"),
        (["1", None], "row 1 (counted from 0): the column 'item' should hold an id, but holds ''"),
        ([None, None], "the column 'item' should hold ids or labels as text or whole numbers, but its type is null"),
        ([[1], [2]], "the column 'item' should hold ids or labels as text or whole numbers, but its type is list"),
        ([True, False], "but its type is bool"),
    ],
)
def test_ids_that_are_none(tmp_path, column, words):
    write(tmp_path, user=[1, 2], item=column)
    assert words in refusal(tmp_path)


def test_a_rating_that_is_missing(tmp_path):
    write(tmp_path, user=[1, 2, 3], item=[1, 2, 3], stars=[1.5, None, None])
    (found,) = batches(tmp_path, rating="stars")
    with pytest.raises(DataError, match=r"row 1 .* 'stars' should hold a number, but holds '' \(2 such rows of 3\)"):
        found.ratings()


def test_columns_that_lack_or_come_twice(tmp_path):
    write(tmp_path, usr=[1], item=[1])
    assert "expects the column 'user' (did you mean 'usr'?), but the file has the columns 'usr', 'item'" in refusal(
        tmp_path
    )
    pq.write_table(pa.table([[1], [2], [3]], names=["user", "item", "item"]), tmp_path / "a.parquet")
    assert "has the column 'item' 2 times" in refusal(tmp_path)
    write(tmp_path, user=[1], item=[1])
    assert "names its columns itself. Leave out 'columns'" in refusal(tmp_path, columns=("user", "item"))


def test_files_that_are_no_parquet(tmp_path):
    write(tmp_path, user=list(range(999)), item=list(range(999)))
    whole = (tmp_path / "a.parquet").read_bytes()
    for content in (b"", b"user,item\n1,2\n", whole[:-9], whole[:20] + bytes(40) + whole[60:]):
        (tmp_path / "a.parquet").write_bytes(content)
        assert "is damaged, or no Parquet file although it is called one" in refusal(tmp_path)
    write(tmp_path, user=[], item=[])
    assert "null" in refusal(tmp_path)
    write(tmp_path, user=pa.array([], pa.int64()), item=pa.array([], pa.int64()))
    assert "no interactions" in refusal(tmp_path)


def test_text_that_is_no_utf8(tmp_path):
    raw = pa.array([b"a\xff", b"b"], pa.binary())
    broken = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    write(tmp_path, user=broken, item=[1, 2])
    assert "UTF8" in refusal(tmp_path)


def test_a_parquet_file_without_a_name_that_says_so(tmp_path):
    write(tmp_path, name="a.csv", user=[1], item=[1])
    assert "is a Parquet file, not text: rename it to end in .parquet" in refusal(tmp_path, file="a.csv")


def test_a_packed_file(tmp_path):
    write(tmp_path, user=[1], item=[2])
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(tmp_path / "a.parquet", "deep/a.parquet")
    (tmp_path / "a.parquet").unlink()
    assert pairs(batches(tmp_path)) == [("1", "2")]


def test_descriptions_of_items(tmp_path):
    genres = [["Crime", None, "Drama"], None, []]
    write(tmp_path, item=[3, 4, 5], title=[" Heat ", None, "x"], genres=genres, year=[1995, None, 2000])
    found, index, n_rows = items(tmp_path, wanted={"3", "5"})
    assert found == [
        {"id": "3", "title": "Heat", "genres": "Crime Drama", "year": "1995"},
        {"id": "5", "title": "x", "genres": "", "year": "2000"},
    ]
    assert (index, n_rows) == ([0, 2], 3)
    assert items(tmp_path, fields={"name": "title"})[0][1] == {"id": "4", "name": ""}


def test_descriptions_that_cannot_be_used(tmp_path):
    write(tmp_path, item=["a", "b", "a"], picture=pa.array([b"\xff", b"", b""], pa.binary()))
    with pytest.raises(DataError, match="the column 'picture' should hold text, numbers, times or lists of them, but"):
        items(tmp_path)
    with pytest.raises(DataError, match=r"row 2 \(counted from 0\): the column 'item' should hold an id that no line"):
        items(tmp_path, fields={"title": "item"})
