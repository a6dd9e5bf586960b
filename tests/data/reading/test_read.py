import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.raw.rawfiles import RawFiles
from bench.data.reading import stream
from bench.data.reading.batch import numbers_of
from bench.data.reading.read import Batch, interaction_batches
from bench.data.recipes.tables import InteractionsTable
from bench.errors import DataError


def frame_of(batch: Batch, table: InteractionsTable) -> pd.DataFrame:
    frame = pd.DataFrame({"user": batch.users().to_pylist(), "item": batch.items().to_pylist()}, dtype=object)
    if table.rating is not None:
        frame["rating"] = batch.ratings()
    if table.has_time:
        frame["timestamp"] = batch.seconds()
    if table.split is not None:
        frame["split"] = batch.splits().to_pylist()
    if table.action is not None:
        frame["action"] = batch.actions().to_pylist()
    return frame


def batches(tmp_path: Path, content: str | bytes, file: str = "pairs.csv", **keys) -> list[Batch]:
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(interaction_batches(RawFiles(tmp_path), InteractionsTable(file=file, **keys)))


def interactions(tmp_path: Path, content: str | bytes, file: str = "pairs.csv", **keys) -> pd.DataFrame:
    table = InteractionsTable(file=file, **keys)
    frames = [frame_of(batch, table) for batch in batches(tmp_path, content, file, **keys)]
    return pd.concat(frames, ignore_index=True)


def refusal(tmp_path: Path, content: str | bytes, file: str = "pairs.csv", **keys) -> str:
    with pytest.raises(DataError) as caught:
        interactions(tmp_path, content, file, **keys)
    assert str(tmp_path / file) in str(caught.value)
    return str(caught.value)


def test_ids_stay_text(tmp_path):
    frame = interactions(tmp_path, "user,item\nNA,0108775015\n null ,1e3\n1.0,007\n")
    assert frame["user"].tolist() == ["NA", "null", "1.0"]
    assert frame["item"].tolist() == ["0108775015", "1e3", "007"]


def test_columns_by_name_and_other_columns_left_out(tmp_path):
    keys = {"user": "u", "item": "i", "rating": "r", "timestamp": "t", "timestamp_unit": "ms", "split": "part"}
    (batch,) = batches(tmp_path, "x,i,u,r,t,part\n9,a,b,3.5,1583378629552,0\n", **keys)
    assert batch.table.column_names == ["user", "item", "rating", "timestamp", "split", "row"]
    frame = frame_of(batch, InteractionsTable(file="pairs.csv", **keys))
    assert frame.iloc[0].tolist() == ["b", "a", 3.5, 1583378629, "0"]
    assert batch.seconds().dtype == np.int64
    assert batch.ratings().dtype == np.float64


@pytest.mark.parametrize(
    ("file", "separator", "text"),
    [
        ("p.csv", None, "user,item\n1,2\n"),
        ("p.tsv", None, "user\titem\n1\t2\n"),
        ("p.inter", None, "user\titem\n1\t2\n"),
        ("p.csv", ";", "user;item\n1;2\n"),
        ("p.dat", "::", "user::item\n1::2\n"),
        ("p.dat", "::", "\r\n\ufeffuser::item\r\n\r\n1::2\r\n"[2:]),
        ("p.txt", "\x01", "user\x01item\n1\x012\n"),
        ("p.csv", None, "\ufeffuser,item\r\n1,2\r\n\r\n"),
        ("p.csv", None, "\n\nuser,item\n\n1,2\n"),
        ("p.csv", None, '"user","item"\n"1","2"\n'),
        ("p.csv", None, "user,item\n1,2"),
    ],
)
def test_layouts(tmp_path, file, separator, text):
    assert interactions(tmp_path, text, file, separator=separator).to_numpy().tolist() == [["1", "2"]]


def test_gzip_and_no_header(tmp_path):
    packed = gzip.compress(b"1,2,0\n3,4,2\n")
    frame = interactions(tmp_path, packed, "pairs.csv.gz", columns=["user", "item", "split"], split="split")
    assert frame.to_numpy().tolist() == [["1", "2", "0"], ["3", "4", "2"]]


def test_one_column_can_serve_twice(tmp_path):
    frame = interactions(tmp_path, "user,item,x\n1,2,0\n", rating="x", split="x", timestamp="x")
    assert frame.to_numpy().tolist() == [["1", "2", 0.0, 0, "0"]]


def test_rows_of_several_files_follow_one_another(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_BYTES", 16)
    (tmp_path / "a.csv").write_text("user,item\n" + "".join(f"{n},1\n" for n in range(40)))
    (tmp_path / "b.csv").write_text("item,user\n\n" + "".join(f"1,{n}\n" for n in range(40, 50)))
    (tmp_path / "c.csv").write_text("user,item\n")
    table = InteractionsTable(file=("a.csv", "b.csv", "c.csv"))
    found = list(interaction_batches(RawFiles(tmp_path), table))
    assert len(found) > 5
    assert [user for batch in found for user in batch.users().to_pylist()] == [str(n) for n in range(50)]
    assert np.concatenate([batch.rows() for batch in found]).tolist() == list(range(50))
    (tmp_path / "b.csv").write_text("item,user\n\n" + "1,2\n" * 9 + "1, \n")
    with pytest.raises(DataError, match=r"b\.csv, line 12: the column 'user' should hold an id, but holds ''\."):
        list(interaction_batches(RawFiles(tmp_path), table))
    (tmp_path / "b.csv").write_text("artikel,user\n1,2\n")
    with pytest.raises(DataError, match=r"b\.csv: the recipe expects the column 'item'"):
        list(interaction_batches(RawFiles(tmp_path), table))


def test_dropped_rows_are_not_converted_and_lines_stay_right(tmp_path):
    text = 'user,item,r\n1,2,5\n\n1,"3\n3",bad\n1,4,worse\n'
    (batch,) = batches(tmp_path, text.replace("3\n3", "33"), rating="r")
    kept = batch.filter(np.array([True, False, False]))
    assert (len(kept), kept.ratings().tolist()) == (1, [5.0])
    with pytest.raises(DataError, match=r"line 5: the column 'r' should hold a number, but holds 'worse'\."):
        batch.filter(np.array([True, False, True])).ratings()
    assert batch.filter(np.zeros(3, dtype=bool)).items().to_pylist() == []


def test_lines_after_a_quoted_line_break(tmp_path):
    text = 'user,item,note,r\n1,2,"a\nb\n",5\n1,3,x,five\n'
    assert "line 5: the column 'r'" in refusal(tmp_path, text, rating="r")


def test_ids_without_prefix_and_with_leading_zeros(tmp_path):
    frame = interactions(tmp_path, "user,item\ni1,i161\ni1, 161\ni1,i\u00e9i7\n", item_prefix="i")
    assert frame["user"].tolist() == ["i1"] * 3
    assert frame["item"].tolist() == ["161", "161", "\u00e9i7"]
    (batch,) = batches(tmp_path, "user,item\n1,108775015\n1,0108775015\n1,10108775015\n", item_digits=10)
    assert batch.items().to_pylist() == ["0108775015", "0108775015", "10108775015"]
    assert sorted(batch.items().dictionary.to_pylist()) == ["0108775015", "10108775015"]
    assert "line 3: the column 'item' should hold an id" in refusal(
        tmp_path, "user,item\n1,i2\n1,i\n", item_prefix="i", item_digits=3
    )


def test_several_items_in_a_row(tmp_path):
    keys = {"columns": ["user", "item"], "item_separator": " ", "timestamp_unit": "order"}
    (batch,) = batches(tmp_path, "1\t19 6 15 \n2\t7\n", "p.tsv", **keys)
    frame = frame_of(batch, InteractionsTable(file="p.tsv", **keys))
    assert frame.to_numpy().tolist() == [["1", "19", 0], ["1", "6", 1], ["1", "15", 2], ["2", "7", 0]]
    assert batch.rows().tolist() == [0, 0, 0, 1]
    assert batch.filter(np.array([False, True, True, True])).seconds().tolist() == [1, 2, 0]
    assert "line 2: the column 'item' should hold an id" in refusal(tmp_path, "1\t2\n2\t\n", "p.tsv", **keys)
    assert "(2 such lines of 5)" in refusal(tmp_path, "1\t2\n2\t1  3 \n4\t\n", "p.tsv", **keys)


def test_order_of_rows_as_time(tmp_path):
    assert interactions(tmp_path, "user,item\n1,2\n1,3\n", timestamp_unit="order")["timestamp"].tolist() == [0, 1]


def test_actions(tmp_path):
    frame = interactions(tmp_path, "user,item,action\n1,2, click\n1,3,alipay\n", action="action")
    assert frame["action"].tolist() == ["click", "alipay"]


def test_dates(tmp_path):
    keys = {"timestamp": "t", "timestamp_unit": "iso"}
    frame = interactions(tmp_path, "user,item,t\n1,2,1970-01-02\n1,3,2020-09-22T10:00:00\n", **keys)
    assert frame["timestamp"].tolist() == [86400, 1600768800]
    message = refusal(tmp_path, "user,item,t\n1,2,1970-01-02\n1,3,soon\n", **keys)
    assert "line 3: the column 't' should hold a date such as 2020-09-22" in message
    assert "should hold a date" in refusal(tmp_path, "user,item,t\n1,2,now\n", **keys)
    assert "should hold a date" in refusal(tmp_path, "user,item,t\n1,2,\n", **keys)


def test_dates_of_local_time(tmp_path):
    keys = {"timestamp": "t", "timestamp_unit": "iso", "utc_offset": "+08:00"}
    text = (
        "user,item,t\n1,1,1970-01-02 08:00:00\n1,2,1970-01-02\n1,3,1970-01-02 00:00:00+00:00\n1,4,1970-01-02T00:00Z\n"
    )
    frame = interactions(tmp_path, text + "1,5,1970-01-01 23:00:00.5-0100\n1,6,1970-01-02 08:00:00.999\n", **keys)
    assert frame["timestamp"].tolist() == [86400, 57600, 86400, 86400, 86400, 86400]


def test_dates_in_a_format_of_their_own(tmp_path):
    keys = {"timestamp": "t", "timestamp_unit": "iso", "timestamp_format": "%Y/%m/%d %H:%M", "utc_offset": "+08:00"}
    frame = interactions(tmp_path, "user,item,t\n1,2,2014/9/18 15:03\n1,2,2014/10/08 15:03\n", **keys)
    assert frame["timestamp"].tolist() == [1411023780, 1412751780]
    message = refusal(tmp_path, "user,item,t\n1,2,2014-09-18\n", **keys)
    assert "line 2: the column 't' should hold a date written as '%Y/%m/%d %H:%M', but holds '2014-09-18'" in message
    assert "should hold a date" in refusal(tmp_path, "user,item,t\n1,2,today\n", **keys)
    with pytest.raises(DataError, match="timestamp_format '%Q' is none"):
        interactions(tmp_path, "user,item,t\n1,2,2014\n", **keys | {"timestamp_format": "%Q"})


@pytest.mark.parametrize(
    ("unit", "text", "seconds"), [("s", "881250949.9", 881250949), ("ms", "-1", -1), ("s", "+5", 5)]
)
def test_times_are_rounded_down(tmp_path, unit, text, seconds):
    keys = {"timestamp": "t", "timestamp_unit": unit}
    assert interactions(tmp_path, f"user,item,t\n1,2, {text}\n", **keys)["timestamp"].tolist() == [seconds]


def test_missing_column_shows_those_there_are(tmp_path):
    message = refusal(tmp_path, "userID,itemID\n1,2\n", user="userId", item="itemID")
    assert "expects the column 'userId' (did you mean 'userID'?)" in message
    assert "has the columns 'userID', 'itemID'" in message


def test_wrong_separator_is_recognised(tmp_path):
    message = refusal(tmp_path, "user\titem\n1\t2\n")
    assert "split at a comma" in message
    assert 'It looks split at a tab: set separator = "\\t"' in message
    message = refusal(tmp_path, "1,2\n", "pairs.tsv", columns=["user", "item"])
    assert "declares 2 columns, but line 1 has 1" in message
    assert 'set separator = ","' in message
    message = refusal(tmp_path, "item,user\n1,2\n", "log.txt", columns=["item", "user"], separator="\x01")
    assert "split at the control character SOH" in message
    assert "It looks split at a comma" in message
    assert 'set separator = "\\u0001"' in refusal(tmp_path, "user\x01item\n1\x012\n")


def test_rows_that_do_not_fit(tmp_path):
    assert "the header has 2 columns, but line 4 has 3" in refusal(tmp_path, "user,item\n\n1,2\n1,2,3\n")
    assert "the header has 2 columns, but line 3 has 1 when split at a comma" in refusal(
        tmp_path, "user,item\n1,2\n1\n"
    )
    assert "declares 3 columns, but line 1 has 2" in refusal(tmp_path, "1,2\n", columns=["user", "item", "x"])
    assert "declares 2 columns, but line 2 has 3" in refusal(tmp_path, "1,2\n1,2,3\n", columns=["user", "item"])
    message = refusal(tmp_path, "user::item\n1::2\n3\n", "p.dat", separator="::")
    assert "the header has 2 columns, but line 3 has 1 when split at two colons" in message


def test_header_where_none_is_declared(tmp_path):
    message = refusal(tmp_path, "user,item\n1,2\n", columns=["user", "item"])
    assert "line 1 is one. Leave out 'columns'" in message


def test_values_that_are_no_numbers_come_with_their_line(tmp_path):
    message = refusal(tmp_path, "user,item,r\n1,2,5\n\n1,3,five\n1,4,\n", rating="r")
    assert "line 4: the column 'r' should hold a number, but holds 'five' (2 such lines of 3)" in message
    assert "line 2" in refusal(tmp_path, "user,item,r\n1,2,inf\n", rating="r")
    assert "holds 'nan'" in refusal(tmp_path, "user,item,r\n1,2,nan\n", rating="r")
    message = refusal(tmp_path, "user,item,t\n1,2,1583378629552\n", timestamp="t")
    assert "line 2: the column 't' should hold a time in seconds since 1970 (see timestamp_unit)" in message
    message = refusal(tmp_path, "user,item,t\n1,2,1583378629552000\n", timestamp="t", timestamp_unit="ms")
    assert "should hold a time in milliseconds since 1970" in message


def test_empty_ids_come_with_their_line(tmp_path):
    message = refusal(tmp_path, "user,item\n1,2\n ,3\n")
    assert "line 3: the column 'user' should hold an id, but holds ''" in message


def test_files_that_hold_nothing(tmp_path):
    assert "is empty" in refusal(tmp_path, "")
    assert "is empty" in refusal(tmp_path, "\n\n", columns=["user", "item"])
    assert "has a header but no interactions" in refusal(tmp_path, "user,item\n")
    assert "has a header but no interactions" in refusal(tmp_path, "user,item\n\n")


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(DataError, match=r"lacks pairs\.csv"):
        list(interaction_batches(RawFiles(tmp_path), InteractionsTable(file="pairs.csv")))


def test_bytes_that_are_not_the_encoding(tmp_path):
    table = "user,item\n1,caf\u00e9\n"
    message = refusal(tmp_path, table.encode("latin-1"))
    assert "is not utf-8 text: line 2 holds the byte 0xe9" in message
    assert 'encoding = "latin-1"' in message
    assert "line 2 holds" in refusal(tmp_path, gzip.compress(table.encode("latin-1")), "pairs.csv.gz")
    assert "line 1 holds" in refusal(tmp_path, table.encode("latin-1").replace(b"r,", b"\xe9,"))
    assert "line 2 holds" in refusal(tmp_path, table.replace(",", "::").encode("latin-1"), "p.dat", separator="::")
    assert interactions(tmp_path, table.encode("latin-1"), encoding="latin-1")["item"].tolist() == ["caf\u00e9"]
    assert "knows no encoding 'latin-17'" in refusal(tmp_path, table, encoding="latin-17")
    assert "knows no encoding 'zlib'" in refusal(tmp_path, table, encoding="zlib")
    assert (
        interactions(tmp_path, "user\x01item\n1\x01\u79cb\n".encode(), "p.txt", separator="\x01")["item"][0] == "\u79cb"
    )


def test_damaged_gzip(tmp_path):
    message = refusal(tmp_path, gzip.compress(b"user,item\n1,2\n" * 100)[:-20], "pairs.csv.gz")
    assert "damaged or not complete" in message


@given(
    rows=st.lists(
        st.tuples(*[st.text("abAB01_-.é\"' ", min_size=1, max_size=12).filter(lambda text: text.strip() == text)] * 2),
        min_size=1,
    ),
    block=st.integers(64, 200),
    separator=st.sampled_from(["\t", "::", "\x01"]),
)
def test_any_ids_survive(tmp_path_factory, rows, block, separator):
    folder = tmp_path_factory.mktemp("ids")
    text = f"user{separator}item\n" + "".join(f"{user}{separator}{item}\n" for user, item in rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "BLOCK_BYTES", block)
        patch.setattr(stream, "MAX_LINE_BYTES", 1 << 20)
        frame = interactions(folder, text, "p.tsv", separator=separator)
    assert list(frame.itertuples(index=False, name=None)) == rows


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)), st.booleans())
def test_numbers_are_read_exactly(numbers, is_slow):
    texts = [repr(number) for number in numbers] + ["five"] * is_slow
    read = numbers_of(stream.pa.array(texts, stream.pa.string()))
    assert read[: len(numbers)].tolist() == numbers
    assert np.isnan(read[len(numbers) :]).all()
