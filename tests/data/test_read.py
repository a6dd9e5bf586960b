import gzip
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.read import read_interactions, read_items
from bench.data.sources import InteractionsTable, ItemsTable
from bench.errors import DataError


def interactions(tmp_path: Path, content: str | bytes, file: str = "pairs.csv", **keys) -> pd.DataFrame:
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_interactions(tmp_path, InteractionsTable(file=file, **keys))


def refusal(tmp_path: Path, content: str | bytes, file: str = "pairs.csv", **keys) -> str:
    with pytest.raises(DataError) as caught:
        interactions(tmp_path, content, file, **keys)
    assert str(tmp_path / file) in str(caught.value)
    return str(caught.value)


def items(tmp_path: Path, content: str | bytes, file: str = "items.csv", **keys) -> pd.DataFrame:
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_items(tmp_path, ItemsTable(file=file, **keys))


def test_ids_stay_text(tmp_path):
    frame = interactions(tmp_path, "user,item\nNA,0108775015\n null ,1e3\n1.0,007\n")
    assert frame["user"].tolist() == ["NA", "null", "1.0"]
    assert frame["item"].tolist() == ["0108775015", "1e3", "007"]
    assert list(frame) == ["user", "item"]


def test_columns_by_name_and_other_columns_left_out(tmp_path):
    keys = {"user": "u", "item": "i", "rating": "r", "timestamp": "t", "timestamp_unit": "ms", "split": "part"}
    frame = interactions(tmp_path, "x,i,u,r,t,part\n9,a,b,3.5,1583378629552,0\n", **keys)
    assert list(frame) == ["user", "item", "rating", "timestamp", "split"]
    assert frame.iloc[0].tolist() == ["b", "a", 3.5, 1583378629, "0"]
    assert frame["timestamp"].dtype == "int64"


@pytest.mark.parametrize(
    ("file", "separator", "text"),
    [
        ("p.csv", None, "user,item\n1,2\n"),
        ("p.tsv", None, "user\titem\n1\t2\n"),
        ("p.inter", None, "user\titem\n1\t2\n"),
        ("p.csv", ";", "user;item\n1;2\n"),
        ("p.dat", "::", "user::item\n1::2\n"),
        ("p.csv", None, "\ufeffuser,item\r\n1,2\r\n\r\n"),
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


def test_dates(tmp_path):
    keys = {"timestamp": "t", "timestamp_unit": "iso"}
    frame = interactions(tmp_path, "user,item,t\n1,2,1970-01-02\n1,3,2020-09-22T10:00:00\n", **keys)
    assert frame["timestamp"].tolist() == [86400, 1600768800]
    message = refusal(tmp_path, "user,item,t\n1,2,1970-01-02\n1,3,soon\n", **keys)
    assert "line 3: the column 't' should hold a date such as 2020-09-22" in message


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


def test_rows_that_do_not_fit(tmp_path):
    assert "Expected 2 fields in line 3, saw 3" in refusal(tmp_path, "user,item\n1,2\n1,2,3\n")
    assert "line 3: the column 'item' should hold an id, but holds ''" in refusal(tmp_path, "user,item\n1,2\n1\n")
    assert "declares 3 columns, but line 1 has 2" in refusal(tmp_path, "1,2\n", columns=["user", "item", "x"])


def test_values_that_are_no_numbers_come_with_their_line(tmp_path):
    message = refusal(tmp_path, "user,item,r\n1,2,5\n\n1,3,five\n1,4,\n", rating="r")
    assert "line 4: the column 'r' should hold a number, but holds 'five' (2 such lines of 3)" in message
    message = refusal(tmp_path, "user,item,r\n1,2,inf\n", rating="r")
    assert "line 2" in message
    message = refusal(tmp_path, "user,item,t\n1,2,1583378629552\n", timestamp="t")
    assert "line 2: the column 't' should hold a time in seconds since 1970 (see timestamp_unit)" in message


def test_empty_ids_come_with_their_line(tmp_path):
    message = refusal(tmp_path, "user,item\n1,2\n ,3\n")
    assert "line 3: the column 'user' should hold an id, but holds ''" in message


def test_files_that_hold_nothing(tmp_path):
    assert "is empty" in refusal(tmp_path, "")
    assert "has a header but no interactions" in refusal(tmp_path, "user,item\n")


def test_bytes_that_are_not_the_encoding(tmp_path):
    table = "user,item\n1,caf\u00e9\n"
    message = refusal(tmp_path, table.encode("latin-1"))
    assert "is not utf-8 text: line 2 holds the byte 0xe9" in message
    assert 'encoding = "latin-1"' in message
    assert "line 2 holds" in refusal(tmp_path, gzip.compress(table.encode("latin-1")), "pairs.csv.gz")
    assert interactions(tmp_path, table.encode("latin-1"), encoding="latin-1")["item"].tolist() == ["caf\u00e9"]
    assert "knows no encoding 'latin-17'" in refusal(tmp_path, table, encoding="latin-17")


def test_damaged_gzip(tmp_path):
    assert "cannot be read" in refusal(tmp_path, gzip.compress(b"user,item\n1,2\n" * 100)[:-20], "pairs.csv.gz")


def test_items_keep_every_column_or_the_named_ones(tmp_path):
    text = 'item,name,year\n7,"Dogs, and cats",1995\n8,,\n'
    frame = items(tmp_path, text)
    assert frame.to_dict("list") == {"id": ["7", "8"], "name": ["Dogs, and cats", ""], "year": ["1995", ""]}
    assert list(items(tmp_path, text, fields={"title": "name"})) == ["id", "title"]


def test_quotes_are_letters_where_the_separator_is_no_comma(tmp_path):
    frame = items(tmp_path, 'item|title\n1|"Weird Al\n2|12" record\n', separator="|")
    assert frame["title"].tolist() == ['"Weird Al', '12" record']


def test_flags_join_and_patterns_split(tmp_path):
    frame = items(
        tmp_path,
        "1|Toy Story (1995)|0|1|1\n2|unknown|1|0|0\n3|Heat (II) (1995)|0|0|0\n",
        separator="|",
        columns=["item", "title", "none", "Drama", "War"],
        fields={"title": "title", "genres": {"flags": ["none", "Drama", "War"], "separator": "/"}},
        patterns={"title": r"(?P<title>.*?) *\((?P<year>[0-9]{4})\)"},
    )
    assert frame["title"].tolist() == ["Toy Story", "unknown", "Heat (II)"]
    assert frame["year"].tolist() == ["1995", "", "1995"]
    assert frame["genres"].tolist() == ["Drama/War", "none", ""]


def test_items_that_are_not_as_declared(tmp_path):
    with pytest.raises(DataError, match=r"line 3: the column 'item' should hold an id that no line before has, .*'7'"):
        items(tmp_path, "item,name\n7,a\n7,b\n")
    with pytest.raises(DataError, match="should hold a flag, 0 or 1, but holds 'yes'"):
        items(tmp_path, "item,War\n7,yes\n", fields={"genres": {"flags": ["War"]}})
    with pytest.raises(DataError, match=r"'titel' \(did you mean 'title'\?\)"):
        items(tmp_path, "item,title\n7,a\n", patterns={"titel": "(?P<year>.*)"})


@given(
    rows=st.lists(
        st.tuples(*[st.text("abAB01_-.é ", min_size=1).filter(lambda text: text.strip() == text)] * 2), min_size=1
    )
)
def test_any_ids_survive(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("ids")
    frame = interactions(folder, "user\titem\n" + "".join(f"{user}\t{item}\n" for user, item in rows), "p.tsv")
    assert list(frame.itertuples(index=False, name=None)) == rows
