import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.raw.rawfiles import RawFiles
from bench.data.reading import stream
from bench.data.reading.items import Items, read_items
from bench.data.recipes.tables import ItemsTable
from bench.errors import DataError

META = {"id": "asin", "fields": {"title": "title", "text": "description", "kinds": "categories"}}


def described(tmp_path: Path, content: str | bytes, file: str = "items.csv", wanted=None, tables=None, **keys) -> Items:
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_items(RawFiles(tmp_path), ItemsTable(**{"file": tables or file} | keys), wanted)


def items(tmp_path: Path, content: str | bytes, file: str = "items.csv", **keys) -> pd.DataFrame:
    return described(tmp_path, content, file, **keys).frame


def refusal(tmp_path: Path, content: str | bytes, file: str = "items.csv", **keys) -> str:
    with pytest.raises(DataError) as caught:
        items(tmp_path, content, file, **keys)
    assert str(tmp_path / file) in str(caught.value)
    return str(caught.value)


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
    message = refusal(tmp_path, "item,name\n7,a\n\n7,b\n")
    assert "line 4: the column 'item' should hold an id that no line before has, but holds '7'" in message
    message = refusal(tmp_path, "item,War\n6,1\n7,yes\n", fields={"genres": {"flags": ["War"]}})
    assert "line 3: the column 'War' should hold a flag, 0 or 1, but holds 'yes'" in message
    message = refusal(tmp_path, "item,title\n7,a\n", patterns={"titel": "(?P<year>.*)"})
    assert "'titel' (did you mean 'title'?)" in message
    assert "line 2: the column 'item' should hold an id, but holds ''" in refusal(tmp_path, "item,title\n ,a\n")
    assert "a field cannot be called 'id'" in refusal(tmp_path, "item,id\n1,2\n")


def test_only_wanted_items_with_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_BYTES", 64)
    text = "item,name\n" + "".join(f"{n:04d}, name {n} \n" for n in range(500))
    found = described(tmp_path, text, wanted=pd.Series(["0499", "0007", "7", "0100"]))
    assert found.n_rows == 500
    assert found.frame.index.tolist() == [7, 100, 499]
    assert found.frame.to_dict("list") == {
        "id": ["0007", "0100", "0499"],
        "name": ["name 7", "name 100", "name 499"],
    }
    none = described(tmp_path, text, wanted=[])
    assert (none.n_rows, list(none.frame), len(none.frame)) == (500, ["id", "name"], 0)
    assert items(tmp_path, "item,name\n").to_dict("list") == {"id": [], "name": []}


def test_what_is_not_wanted_may_repeat(tmp_path):
    text = "item,name\n7,a\n7,b\n8,c\n"
    assert items(tmp_path, text, wanted={"8"})["name"].tolist() == ["c"]
    found = described(tmp_path, text, repeated="first")
    assert (found.frame["name"].tolist(), found.frame.index.tolist(), found.n_rows) == (["a", "c"], [0, 2], 3)


def test_ids_with_leading_zeros(tmp_path):
    found = described(tmp_path, "item,n\n108775015,a\n0108775044,b\n", item_digits=10, wanted={"0108775015"})
    assert found.frame["id"].tolist() == ["0108775015"]


def test_several_files(tmp_path):
    (tmp_path / "b.csv").write_text("item,name\n3,c\n1,d\n")
    keys = {"tables": ("items.csv", "b.csv")}
    with pytest.raises(DataError, match=r"b\.csv, line 3: .* an id that no line before has, but holds '1'"):
        items(tmp_path, "item,name\n1,a\n2,b\n", **keys)
    found = described(tmp_path, "item,name\n1,a\n2,b\n", repeated="first", wanted={"1", "3"}, **keys)
    assert found.frame.index.tolist() == [0, 2]
    assert found.n_rows == 4
    with pytest.raises(DataError, match=r"b\.csv has the columns item, name, but .* has item, title"):
        items(tmp_path, "item,title\n1,a\n", **keys)


def test_titles_with_unbalanced_quotes(tmp_path):
    text = '1,"秋, a\n2,b"" #c\n3,\n'
    frame = items(tmp_path, text, columns=["item", "title"], free_text="title")
    assert frame["title"].tolist() == ['"秋, a', 'b"" #c', ""]


def test_broken_letters_become_marks(tmp_path):
    text = b"1\x01\xe7\xa7 b\x01u\n"
    frame = items(tmp_path, text, "p.txt", columns=["item", "title", "url"], separator="\x01", undecodable="replace")
    assert frame["title"].tolist() == ["\ufffd b"]


def test_python_literals(tmp_path):
    lines = [
        "{'asin': '0031', 'title': 'Dogs\\' \"own\"', 'categories': [['Baby', 'Toys'], ['Baby', ' X ']], 'price': 9}",
        "{'related': {'also_bought': ['0031']}, 'asin': \"B2\", 'description': None}",
        "",
        "{'title': 5, 'asin': 'B3', 'description': ['a', None, 2]}",
    ]
    found = described(tmp_path, "\n".join(lines), **META, format="python-lines")
    assert found.n_rows == 3
    assert found.frame.to_dict("list") == {
        "id": ["0031", "B2", "B3"],
        "title": ['Dogs\' "own"', "", "5"],
        "text": ["", "", "a 2"],
        "kinds": ["Baby Toys Baby X", "", ""],
    }
    assert found.frame.index.tolist() == [0, 1, 2]
    kept = described(tmp_path, "\n".join(lines), **META, format="python-lines", wanted={"B3"})
    assert (kept.frame.index.tolist(), kept.n_rows) == ([2], 3)


def test_json_lines(tmp_path):
    text = (
        '{"asin": "1", "title": "caf\\u00e9", "description": 1.50, "categories": NaN}\n{"asin": 12345678901234567890}\n'
    )
    frame = items(tmp_path, text, **META, format="json-lines")
    assert frame.to_dict("list") == {
        "id": ["1", "12345678901234567890"],
        "title": ["café", ""],
        "text": ["1.50", ""],
        "kinds": ["", ""],
    }


def test_lines_that_are_no_objects(tmp_path):
    python, good = META | {"format": "python-lines"}, "{'asin': '1'}\n\n"
    message = refusal(tmp_path, good + "{'asin': '2', 'title': open('x')}\n", **python)
    assert "line 3: this is no literal of a Python dictionary" in message
    assert "line 3: this is no literal" in refusal(tmp_path, good + "{'asin': '2'\n", **python)
    assert "line 3: this is no literal" in refusal(tmp_path, good + "[" * 100_000 + "\n", **python)
    assert "line 3: each line should be one literal" in refusal(tmp_path, good + "['asin']\n", **python)
    message = refusal(tmp_path, good + "{'asni': '2'}\n", **python)
    assert "line 3: the recipe expects the key 'asin' (did you mean 'asni'?); the keys are 'asni'" in message
    assert "line 3: the key 'asin' should hold an id, but holds ''" in refusal(
        tmp_path, good + "{'asin': ' '}", **python
    )
    message = refusal(tmp_path, good + "{'asin': '2', 'title': {'a': 1}}\n", **python)
    assert "line 3: the key 'title' should hold text, a number or a list, but holds {'a': 1}" in message
    message = refusal(tmp_path, '{"asin": "1"}\n{\n', **META, format="json-lines")
    assert "line 2: this is no JSON object" in message
    assert "'categories' (did you mean 'category'?)" in refusal(tmp_path, "{'asin': '1', 'category': 'a'}\n", **python)
    assert "line 3: the column 'asin' should hold an id that no line before has" in refusal(
        tmp_path, good[:-1] + "\n" + good, **python
    )
    assert "line 1 holds the byte 0xe9" in refusal(tmp_path, b"{'asin': '\xe9'}\n", **python)


def test_a_literal_is_never_run(tmp_path):
    mark = tmp_path / "mark"
    text = f"{{'asin': '1', 'title': __import__('pathlib').Path({str(mark)!r}).touch()}}\n"
    assert "line 1: this is no literal" in refusal(tmp_path, text, **META, format="python-lines")
    assert not mark.exists()


IDS = st.text("aB1'\"\\ é\n", max_size=4) | st.integers(0, 20) | st.floats(0, 20)


@given(
    ids=st.lists(IDS, min_size=1, max_size=8), digits=st.sampled_from([None, 3]), is_json=st.booleans(), data=st.data()
)
def test_the_prefilter_loses_nothing(tmp_path_factory, ids, digits, is_json, data):
    ids = [id_ for id_ in ids if str(id_).strip() and "\n" not in str(id_).strip()]
    rows = [{"related": {"asin": ["x"]}, "title": "'asin': 'B'", "asin": id_} for id_ in ids]
    text = "".join((json.dumps(row) if is_json else repr(row)) + "\n" for row in rows)
    keys = {"format": "json-lines" if is_json else "python-lines", "item_digits": digits, "repeated": "first"}
    folder = tmp_path_factory.mktemp("meta")
    everything = items(folder, text, **META | {"fields": {"title": "title"}}, **keys)
    wanted = set(data.draw(st.lists(st.sampled_from(everything["id"].tolist())))) if len(everything) else set()
    kept = items(folder, text, wanted=wanted, **META | {"fields": {"title": "title"}}, **keys)
    assert kept["id"].tolist() == [id_ for id_ in everything["id"] if id_ in wanted]
