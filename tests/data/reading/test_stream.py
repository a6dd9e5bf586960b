import io
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from bench.data.raw.rawfiles import RawFiles
from bench.data.reading import stream
from bench.data.reading.layout import Layout
from bench.data.reading.stream import TextFile
from bench.data.reading.utf8 import Utf8Stream
from bench.data.recipes.tables import Table
from bench.errors import DataError


def read(tmp_path: Path, content: str | bytes, wanted: list[str], file: str = "a.csv", **keys) -> list[tuple[str, ...]]:
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with TextFile(RawFiles(tmp_path).find(file), Table(file=file, **keys), file) as text:
        tables = [pa.Table.from_batches([batch]) for batch in text.batches(wanted)]
    return [tuple(row[name] for name in dict.fromkeys(wanted)) for table in tables for row in table.to_pylist()]


def refusal(tmp_path: Path, content: str | bytes, wanted: list[str], file: str = "a.csv", **keys) -> str:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, wanted, file, **keys)
    assert str(tmp_path / file) in str(caught.value)
    return str(caught.value)


def workbook() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    return packed.getvalue()


def test_only_wanted_columns_in_the_asked_order_and_as_they_stand(tmp_path):
    text = 'a,b,c\n1, x ,"say ""hi"", you"\n2,,"two\nlines"\n'
    assert read(tmp_path, text, ["c", "b"]) == [('say "hi", you', " x "), ("two\nlines", "")]
    assert read(tmp_path, text, ["b", "b"]) == [(" x ",), ("",)]


def test_encoded_columns(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,x\n1,x\n")
    with TextFile(RawFiles(tmp_path).find("a.csv"), Table(file="a.csv"), "a.csv") as text:
        (batch,) = text.batches(["a", "b"], {"b"})
    assert batch.schema.types == [pa.string(), pa.dictionary(pa.int32(), pa.string())]
    assert batch.column("b").dictionary.to_pylist() == ["x"]


@pytest.mark.parametrize("separator", [",", "::", "\x01"])
def test_blocks_do_not_matter(tmp_path, monkeypatch, separator):
    rows = [(str(n), "é" * (n % 7)) for n in range(500)]
    text = "".join(f"{a}{separator}{b}{separator}x\r\n" for a, b in rows)
    monkeypatch.setattr(stream, "BLOCK_BYTES", 64)
    assert read(tmp_path, text, ["a", "b"], separator=separator, columns=["a", "b", "c"]) == rows


def test_repeated_names_of_columns_matter_only_when_wanted(tmp_path):
    assert read(tmp_path, "a,b,b\n1,2,3\n", ["a"]) == [("1",)]
    assert "line 1 has the column 'b' 2 times" in refusal(tmp_path, "a,b,b\n1,2,3\n", ["a", "b"])


def test_free_text_may_hold_the_separator(tmp_path):
    keys = {"columns": ["item", "title"], "free_text": "title"}
    text = '1,a, "b\n2,\n3,"c" ,\r\n'
    assert read(tmp_path, text, ["item", "title"], **keys) == [("1", 'a, "b'), ("2", ""), ("3", '"c" ,')]
    assert "declares 2 columns, but line 3 has 1" in refusal(tmp_path, "1,a\n2,b\n3\n", ["item"], **keys)
    middle = {"columns": ["item", "title", "brand", "seller"], "free_text": "title", "separator": "\x01"}
    rows = "1\x01a\x01b1\x01s1\n2\x01a\x01 b\x01b2\x01s2\n"
    expected = [("1", "a", "b1", "s1"), ("2", "a\x01 b", "b2", "s2")]
    assert read(tmp_path, rows, middle["columns"], "a.txt", **middle) == expected
    assert "line 3 has 3 when" in refusal(tmp_path, rows + "3\x01a\x01b3\n", ["item"], "a.txt", **middle)
    last = {"columns": ["a", "b"], "free_text": "a", "separator": "::"}
    assert read(tmp_path, "x::y::z\n", ["a", "b"], **last) == [("x::y", "z")]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-8-sig", "utf-16-le"])
def test_encodings(tmp_path, encoding):
    text = "item,title\n1,2014 秋装\n2,䀀\n"
    assert read(tmp_path, text.encode(encoding), ["title"], encoding=encoding) == [("2014 秋装",), ("䀀",)]


def test_broken_letters_are_refused_or_replaced(tmp_path):
    text = "item,title\n1,a\n2,秋".encode()[:-1] + b"x\n"
    assert "line 3 holds the byte 0xe7" in refusal(tmp_path, text, ["title"])
    assert read(tmp_path, text, ["title"], undecodable="replace") == [("a",), ("\ufffdx",)]
    chinese = "item,title\n1,秋\n".encode("gb18030")[:-2] + b"\n2,b\n"
    assert "is not gb18030 text: line 2 holds" in refusal(tmp_path, chinese, ["title"], encoding="gb18030")
    assert read(tmp_path, chinese, ["title"], encoding="gb18030", undecodable="replace")[1] == ("b",)
    cut = "item,title\n1,秋".encode()[:-1]
    assert read(tmp_path, cut, ["title"], undecodable="replace") == [("\ufffd",)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (workbook(), "an Excel workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 more", "an Excel workbook"),
        (b"PK\x03\x04 something else", "a zip archive"),
        (b"\x1f\x8b\x08 more", "packed by gzip"),
        (b"PAR1 more", "a Parquet file"),
        (b"\n <!DOCTYPE html><html>", "a web page"),
        (b"<HTML>\n", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
    ],
)
def test_files_that_are_no_text(tmp_path, content, words):
    assert f"is {words}" in refusal(tmp_path, content, ["a"])


def test_a_quote_that_is_not_closed(tmp_path, monkeypatch):
    message = refusal(tmp_path, 'a,b\n1,x\n2,"y\n3,z\n', ["a"])
    assert "line 3: a quote opens in this row and is not closed" in message
    assert "'free_text'" in message
    assert read(tmp_path, 'a,b\n1,5" disk\n2,"x"\n', ["b"]) == [('5" disk',), ("x",)]
    assert "line 2: a quote opens" in refusal(tmp_path, 'a,b\n1,"x', ["a"])
    monkeypatch.setattr(stream, "BLOCK_BYTES", 64)
    assert "line 3: a quote opens" in refusal(tmp_path, 'a,b\n1,x\n2,"y\n' + "3,z\n" * 100, ["a"])
    assert "line 3: a quote opens" in refusal(tmp_path, 'a,b\n1,x\n2,"y\n' + "3,z\n" * 50_000, ["a"])


def test_a_quote_in_the_first_row(tmp_path):
    columns = ["item", "title"]
    assert read(tmp_path, '1,5" disk\n2,x\n', columns, columns=columns) == [("1", '5" disk'), ("2", "x")]
    assert read(tmp_path, '1,"5\n\n"\n2,x\n', columns, columns=columns) == [("1", "5\n\n"), ("2", "x")]
    for rest in ("2,x\n", "2,x\n" * 100_000):
        assert "line 2: a quote opens" in refusal(tmp_path, '\n1,"x\n' + rest, columns, columns=columns)
    assert "line 1: a quote opens" in refusal(tmp_path, 'item,"title\n1,x\n', columns)
    assert "its first row has a cell without end" in refusal(tmp_path, "item,title" + "x" * 200_000, columns)


def test_quotes_are_letters_where_the_separator_is_no_comma(tmp_path):
    assert read(tmp_path, 'a|b\n1|"x\n2|y"\n', ["b"], separator="|") == [('"x',), ('y"',)]


def test_a_header_with_a_line_break_in_quotes(tmp_path):
    assert read(tmp_path, "a\u2028,b\n1,2\n", ["b"]) == [("2",)]
    assert read(tmp_path, 'a,"b\nc"\n1,2\n', ["b\nc"]) == [("2",)]


def test_lines_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.data.reading.utf8.MAX_LINE_BYTES", 1 << 16)
    monkeypatch.setattr(stream, "MAX_LINE_BYTES", 1 << 16)
    monkeypatch.setattr(stream, "BLOCK_BYTES", 1 << 12)
    assert "a line of it is longer" in refusal(tmp_path, b"x" * (1 << 18), ["a"])
    assert "a line of it is longer" in refusal(tmp_path, b"a::b\n" + b"x" * (1 << 18), ["a"], separator="::")


def test_giving_up_early_closes_the_file(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n" + "1,2\n" * 100_000)
    with TextFile(RawFiles(tmp_path).find("a.csv"), Table(file="a.csv"), "a.csv") as text:
        rows = text.batches(["a"])
        next(rows)
        rows.close()
    assert text._stream.closed


def test_line_numbers_of_rows(tmp_path):
    (tmp_path / "a.csv").write_text('\na,b\n1,"x\ny"\n\n2,z\n')
    layout = Layout.of(RawFiles(tmp_path).find("a.csv"), Table(file="a.csv"), "a.csv")
    assert [layout.line_of(row) for row in (0, 1)] == [3, 6]
    with pytest.raises(IndexError, match="no data row 2"):
        layout.line_of(2)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_stream_of_bytes(tmp_path, size):
    text = "\ufeffa,b\r\n秋,\r\n"
    (tmp_path / "a.csv").write_bytes(text.encode("utf-16"))
    with Utf8Stream(RawFiles(tmp_path).find("a.csv"), Table(file="a.csv", encoding="utf-16")) as bytes_:
        first = bytes_.take_line(Layout.of(RawFiles(tmp_path).find("a.csv"), Table(file="a.csv"), "a.csv").line_ends)
        assert first == b"a,b\r\n"
        bytes_.give_back(first)
        blocks = iter(lambda: bytes_.read(size), b"")
        assert b"".join(blocks).decode() == text[1:]
        assert bytes_.at_end()
