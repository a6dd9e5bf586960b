import gzip
import sys
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.features.align import available, build_features, describe_items, order_ids
from bench.data.features.ingredients import Raw
from bench.data.raw.rawfiles import RawFiles
from bench.data.reading.items import Items
from bench.data.recipes.recipe import Recipe
from bench.errors import DataError

TITLES = {"1": "red fox", "2": "blue fox", "3": "--", "4": ""}


class Desk:
    """Raw files, a recipe with one feature called `f`, and the items in question."""

    def __init__(self, folder):
        self.folder = folder
        self.lines = []
        self.table = None

    def items(self, **fields):
        """Take these as the items table; rows lie in it as in the file."""
        frame = pd.DataFrame(fields, dtype="str")
        self.table = Items(frame, len(frame))

    def raw(self, feature):
        source = {"kind": "local", "folder": ".", "interactions": {"file": "pairs.csv"}, "items": {"file": "items.csv"}}
        steps = [{"kind": "available", "modalities": ["f"]}] if feature.get("missing") == "drop" else []
        document = {"name": "mine", "sources": [source], "steps": steps, "features": {"f": feature}}
        recipe = Recipe.model_validate(document)
        return Raw(recipe, RawFiles(self.folder), self.table, self.folder / "cache", self.folder, "cpu")

    def available(self, ids, **feature):
        return available(self.raw(feature), "f", pd.Series(ids, dtype="str"), self.lines.append).tolist()

    def build(self, ids, **feature):
        self.lines.clear()
        described = describe_items(pd.Series(ids, dtype="str", name="id"), self.table, lambda line: None)
        matrices, about = build_features(self.raw(feature), described, self.lines.append)
        assert matrices["f"].dtype == np.float32
        return matrices["f"].tolist(), about["f"]

    def refusal(self, ids, **feature):
        with pytest.raises(DataError) as caught:
            self.build(ids, **feature)
        return str(caught.value)


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def test_ids_are_ordered_by_value_or_as_text():
    assert order_ids(pd.Series(["10", "9", "010", "9"])).tolist() == ["9", "010", "10"]
    assert order_ids(pd.Series(["10", "9", "x"])).tolist() == ["10", "9", "x"]


@given(st.lists(st.text("019x", min_size=1, max_size=3), min_size=1))
def test_categories_are_ordered_as_their_texts(ids):
    texts = pd.Series(ids, dtype="str")
    ordered = order_ids(texts.astype(pd.CategoricalDtype([*sorted(set(ids), reverse=True), "unused"])))
    pd.testing.assert_series_equal(ordered, order_ids(texts))


def test_descriptions_in_the_order_of_the_items(desk):
    desk.items(id=["2", "9", "1"], title=["two", "nine", "one"])
    lines = []
    described = describe_items(pd.Series(["1", "3", "2"]), desk.table, lines.append)
    assert described.to_dict("list") == {"id": ["1", "3", "2"], "title": ["one", "", "two"]}
    assert lines == ["items: 1 of 3 have no description; their fields are empty"]
    assert describe_items(pd.Series(["1"]), None, lines.append).to_dict("list") == {"id": ["1"]}


def test_texts_without_a_word_are_missing(desk):
    desk.items(id=list(TITLES), title=list(TITLES.values()), more=["", "", " ! ", "中文"])
    tfidf = {"encoder": "tfidf-svd", "fields": ["title"], "width": 2}
    assert desk.available(["4", "3", "2", "1", "unknown"], **tfidf) == [False, False, True, True, False]
    both = tfidf | {"fields": ["title", "more"]}
    assert desk.available(["4", "3"], **both) == [True, False], "words are words in every script"
    matrix, about = desk.build(["1", "2", "3", "4"], **tfidf)
    assert desk.lines == ["features.f: 2 of 4 items have no text"]
    assert matrix[2] == matrix[3] == [0, 0]
    assert {key: about[key] for key in ("width", "missing_rows", "zero_rows", "encoder", "missing")} == {
        "width": 2, "missing_rows": 2, "zero_rows": 2, "encoder": "tfidf-svd", "missing": "zero"
    }  # fmt: skip


def test_texts_by_characters(desk):
    desk.items(id=["1", "2"], title=["红茶", "绿茶"])
    tfidf = {"encoder": "tfidf-svd", "fields": ["title"], "width": 2}
    words, characters = (np.array(desk.build(["1", "2"], **tfidf, units=units)[0]) for units in ("words", "characters"))
    assert words[0] @ words[1] == pytest.approx(0, abs=1e-4)
    assert characters[0] @ characters[1] > 0.1


def test_tfidf_has_nothing_from_items_outside_of_the_dataset(desk):
    desk.items(id=["1", "2"], title=["red fox", "blue fox"])
    tfidf = {"encoder": "tfidf-svd", "fields": ["title"], "width": 2}
    alone = desk.build(["1", "2"], **tfidf)
    desk.items(id=["7", "1", "2"], title=["red hare", "red fox", "blue fox"])
    assert desk.build(["1", "2"], **tfidf) == alone


def test_missing_texts_get_the_mean_or_are_refused(desk):
    desk.items(id=list(TITLES), title=list(TITLES.values()))
    tfidf = {"encoder": "tfidf-svd", "fields": ["title"], "width": 2}
    matrix, about = desk.build(["1", "2", "4"], **tfidf, missing="mean")
    np.testing.assert_allclose(matrix[2], np.mean(matrix[:2], axis=0), rtol=1e-6)
    assert desk.lines == ["features.f: 1 of 3 items have no text; they get the mean of the others"]
    assert about["missing_rows"] == 1
    assert about["zero_rows"] == 0
    message = desk.refusal(["1", "3", "4"], **tfidf, missing="refuse")
    assert message.startswith("features.f: 2 of 3 items have no text; for example item '3', '4'. Add what is missing, ")
    message = desk.refusal(["1", "4"], **tfidf, missing="drop")
    assert "1 of 2 items have no text, although the step of kind 'available' was to drop such items" in message
    assert desk.refusal(["3", "4"], **tfidf) == "features.f: no item has any text. Check the items table in the recipe."
    assert "reads the field 'titel' (did you mean 'title'?)" in desk.refusal(
        ["1"], encoder="tfidf-svd", fields=["titel"]
    )


def test_labels(desk):
    desk.items(id=["1", "2", "3"], genres=["war| drama", "", " |"], year=["1994", "2001", "soon"])
    labels = {"encoder": "multi-hot", "fields": ["genres"]}
    assert desk.available(["3", "2", "1"], **labels) == [False, False, True]
    assert desk.available(["3", "2", "1"], **labels, decade="year") == [False, True, True]
    matrix, about = desk.build(["1", "2", "3"], **labels, decade="year")
    assert about["labels"] == ["1990s", "2000s", "drama", "war"]
    assert matrix == [[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert desk.lines == ["features.f: 1 of 3 items have no label"]
    assert desk.build(["1", "2", "3"], **labels, decade="year", missing="mean")[0][2] == [0.5, 0.5, 0.5, 0.5]
    assert "1 of 1 items have no label" in desk.refusal(["3"], **labels, missing="refuse")


def test_rows_by_id(desk):
    np.save(desk.folder / "f.npy", np.arange(8, dtype=np.float16).reshape(4, 2))
    given = {"encoder": "file", "file": "f.npy", "first_id": 10}
    assert desk.available(["9", "10", "13", "14"], **given) == [False, True, True, False]
    assert desk.build(["13", "10"], **given)[0] == [[6, 7], [0, 1]]
    assert "f.npy has 4 rows, numbered from 0, but the items ask for rows -1 to 4" in desk.refusal(["9", "14"], **given)
    matrix, about = desk.build(["9", "10", "13"], **given, missing="mean")
    assert matrix == [[3, 4], [0, 1], [6, 7]]
    (line,) = desk.lines
    assert line.startswith("features.f: 1 of 3 items have no row in ")
    assert line.endswith("f.npy; they get the mean of the others")
    assert about["missing_rows"] == 1
    assert desk.build(["9", "10"], **given, missing="zero")[0] == [[0, 0], [0, 1]]
    assert desk.lines[0].endswith("f.npy; their rows are zero")
    for ids in (["10", "x10"], ["10", "1" * 19]):
        with pytest.raises(DataError, match=r"need item ids that are whole numbers, but 1 of 2 are not, for example"):
            desk.available(ids, **given)


def test_a_packed_matrix(desk):
    np.save(desk.folder / "plain.npy", np.arange(8).reshape(4, 2))
    (desk.folder / "f.npy.gz").write_bytes(gzip.compress((desk.folder / "plain.npy").read_bytes()))
    assert desk.build(["3", "1"], encoder="file", file="f.npy")[0] == [[6, 7], [2, 3]]


def test_a_matrix_that_is_not_there(desk):
    message = desk.refusal(["1"], encoder="file", file="f.npy")
    assert message.startswith("features.f: ")
    assert "f.npy" in message


def test_rows_in_the_order_of_the_items_file(desk):
    np.save(desk.folder / "f.npy", np.arange(5.0).reshape(5, 1))
    given = {"encoder": "file", "file": "f.npy", "rows": "order"}
    # Only some rows of the file are known here: its index says which.
    desk.table = Items(pd.DataFrame({"id": ["x", "z", "y"]}, index=[1, 2, 4]), 5)
    assert desk.available(["y", "q", "x"], **given) == [True, False, True]
    assert desk.build(["y", "x"], **given)[0] == [[4], [1]]
    message = desk.refusal(["y", "q", "x"], **given)
    assert "1 of 3 items are not in the items file, whose order the rows of" in message
    assert "for example item 'q'" in message
    assert desk.build(["y", "q", "x"], **given, missing="mean")[0] == [[4], [2.5], [1]]
    desk.table = Items(desk.table.frame, 6)
    assert "f.npy has 5 rows, but the items file has 6. The rows 'order' need the same" in desk.refusal(["y"], **given)
    desk.table = None
    assert "the rows 'order' need an items table" in desk.refusal(["y"], **given)


def test_standardised_columns_know_nothing_of_missing_rows(desk):
    np.save(desk.folder / "f.npy", np.array([[1.0, 7, 0], [3, 7, 0], [100, 9, 1]]))
    given = {"encoder": "file", "file": "f.npy", "standardise": True}
    assert desk.build(["0", "1"], **given)[0] == [[-1, 0, 0], [1, 0, 0]]
    assert desk.build(["0", "1", "5"], **given, missing="zero")[0] == [[-1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert desk.build(["0", "1", "5"], **given, missing="mean")[0] == [[-1, 0, 0], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("options", [{}, {"missing": "mean"}, {"standardise": True}])
def test_a_value_that_is_not_finite_is_named_by_its_item(desk, options):
    matrix = np.ones((4, 2))
    matrix[3, 0] = np.nan
    np.save(desk.folder / "f.npy", matrix)
    ids = ["9", "3", "1"] if "missing" in options else ["0", "3", "1"]
    message = desk.refusal(ids, encoder="file", file="f.npy", **options)
    assert "have 1 values that are NaN or infinite, in 1 of 3 rows, first for item '3'." in message
    assert desk.build(["0", "1"], encoder="file", file="f.npy", **options), "rows of others do not matter"


def same(share=0.9, field="title"):
    return {"items": {"file": "other.csv", "id": "id"}, "share": share, "field": field}


def other(desk, **titles):
    lines = [f"{id_.lstrip('i')},{title}" for id_, title in titles.items()]
    (desk.folder / "other.csv").write_text("id,title\n" + "\n".join(lines) + "\n", encoding="utf-8")


def test_a_matrix_of_the_same_items(desk):
    np.save(desk.folder / "f.npy", np.arange(4.0).reshape(4, 1))
    desk.items(id=["1", "2", "3"], title=["Red  Fox", "STRASSE", ""])
    other(desk, i9="nine", i2="straße", i1=" red fox ", i3="unknown to us")
    by_order = {"encoder": "file", "file": "f.npy", "rows": "order", "same_items": same(1)}
    assert desk.build(["1", "2", "3"], **by_order)[0] == [[2], [1], [3]], "rows are those of the other table"
    assert desk.lines == ["features.f: 2 of 2 titles agree between the source's items and other.csv"]
    assert desk.build(["1", "2", "3"], **by_order | {"rows": "id"})[0] == [[1], [2], [3]], "rows by id stay so"
    other(desk, i9="nine", i2="straße", i1="red fox")
    assert desk.available(["1", "2", "3"], **by_order) == [True, True, False]
    assert "has 4 rows, but the items file has 3" in desk.refusal(["1", "2"], **by_order)


def test_a_matrix_of_other_items(desk):
    np.save(desk.folder / "f.npy", np.arange(4.0).reshape(4, 1))
    desk.items(id=["1", "2", "3"], title=["one", "two", "three"])
    other(desk, i0="", i1="one", i2="deux", i3="trois")
    given = {"encoder": "file", "file": "f.npy", "rows": "order"}
    message = desk.refusal(["1", "2", "3"], **given, same_items=same())
    assert message.endswith(
        "f.npy belongs to other items: 1 of 3 titles agree (33.3 %), at least 90 % expected; e.g. id 2: 'two' against "
        "'deux'."
    )
    assert desk.build(["1", "2", "3"], **given, same_items=same(1 / 3)), "exactly the share is enough"
    assert "compares the field 'name', but the items of other.csv have: title" in desk.refusal(
        ["1"], **given, same_items=same(field="name")
    )
    other(desk, i1="", i7="seven")
    message = desk.refusal(["1", "2", "3"], **given, same_items=same())
    assert "no item has a title both in the source's items and in other.csv" in message


def test_records(desk):
    rows = {"B1": [1, 2], "B2": [5, 6]}
    (desk.folder / "f.b").write_bytes(
        b"".join(id_.encode().ljust(4, b" ") + np.array(row, dtype="<f4").tobytes() for id_, row in rows.items())
    )
    given = {"encoder": "records", "file": "f.b", "id_bytes": 4, "width": 2}
    assert desk.available(["B2", "none", "B1", "é"], **given) == [True, False, True, False]
    matrix, about = desk.build(["B2", "none", "B1"], **given, missing="mean")
    assert matrix == [[5, 6], [3, 4], [1, 2]]
    assert about["missing_rows"] == 1
    assert desk.build(["B2", "none"], **given)[0] == [[5, 6], [0, 0]]
    (line,) = desk.lines
    assert line.startswith("features.f: 1 of 2 items have no record in ")
    assert line.endswith("f.b; their rows are zero")
    assert "no item has any record. Check the feature in the recipe" in desk.refusal(["none"], **given)
    assert "1 of 2 items have no record in" in desk.refusal(["none", "B1"], **given, missing="refuse")


@pytest.fixture
def encoders(desk, monkeypatch):
    """Stand-ins for the neural encoders: a text is as long as it is, a picture is the numbers it holds."""
    seen = []

    def encode_texts(feature, texts, cache, device, report):
        seen.append(("texts", feature.model, list(texts), cache, device))
        return np.array([[len(text), 1] for text in texts], dtype=np.float32)

    def encode_pictures(feature, pictures, cache, device, report):
        seen.append(("pictures", feature.model, [picture.path.name for picture in pictures], cache, device))
        contents = [picture.read_bytes().decode() for picture in pictures]
        good = np.array([content.isdigit() for content in contents], dtype=bool)
        rows = [[int(content)] if is_good else [99] for content, is_good in zip(contents, good, strict=True)]
        return np.array(rows, dtype=np.float32), good

    module = ModuleType("bench.data.features.neural")
    vars(module).update(encode_texts=encode_texts, encode_pictures=encode_pictures)
    monkeypatch.setitem(sys.modules, "bench.data.features.neural", module)
    return seen


def test_texts_through_a_model(desk, encoders):
    desk.items(id=list(TITLES), title=list(TITLES.values()), more=["!", "?", "", ""])
    given = {"encoder": "sentence-transformers:tiny", "fields": ["title", "more"]}
    assert desk.available(["3", "1"], **given) == [False, True]
    assert encoders == [], "nothing is encoded to see what could be"
    assert desk.build(["3", "1", "2"], **given, missing="mean")[0] == [[9.5, 1], [9, 1], [10, 1]]
    assert encoders == [("texts", "tiny", ["red fox !", "blue fox ?"], desk.folder / "cache", "cpu")]
    assert "1 of 2 items have no text" in desk.refusal(["3", "1"], **given, missing="refuse")
    assert len(encoders) == 1, "refused before anything is encoded"


PICTURES = {"encoder": "image:tiny", "images": ["covers/{id}.jpg"]}


def pictures(desk, **contents):
    for name, content in contents.items():
        (desk.folder / "covers" / f"{name.lstrip('i')}.jpg").parent.mkdir(exist_ok=True)
        (desk.folder / "covers" / f"{name.lstrip('i')}.jpg").write_text(content)


def test_pictures_through_a_model(desk, encoders):
    pictures(desk, i1="10", i2="20")
    assert desk.available(["3", "2", "1"], **PICTURES) == [False, True, True]
    assert encoders == []
    assert desk.build(["3", "2", "1"], **PICTURES, missing="mean")[0] == [[15], [20], [10]]
    assert desk.lines == ["features.f: 1 of 3 items have no picture; they get the mean of the others"]
    assert encoders == [("pictures", "tiny", ["2.jpg", "1.jpg"], desk.folder / "cache", "cpu")]
    assert "1 of 2 items have no picture" in desk.refusal(["3", "1"], **PICTURES, missing="refuse")
    assert len(encoders) == 1, "refused before anything is encoded"


def test_pictures_that_cannot_be_decoded(desk, encoders):
    pictures(desk, i1="10", i2="broken", i3="30")
    matrix, about = desk.build(["1", "2", "3", "4"], **PICTURES, missing="mean")
    assert matrix == [[10], [20], [30], [20]]
    assert desk.lines == ["features.f: 2 of 4 items have no picture; they get the mean of the others"]
    assert about["missing_rows"] == 2
    assert desk.build(["2", "3"], **PICTURES)[0] == [[0], [30]]
    for missing in ("drop", "refuse"):
        message = desk.refusal(["1", "2", "3"], **PICTURES, missing=missing)
        assert message.startswith("features.f: 1 of 3 pictures cannot be decoded: '")
        assert message.endswith("covers/2.jpg'. Delete them, or put whole ones in their place, and prepare again.")
    assert "no item has any picture" in desk.refusal(["2"], **PICTURES)


def test_pictures_are_fetched_where_the_recipe_says_so(desk, encoders, monkeypatch):
    calls = []

    def fetch_pictures(rules, ids, addresses, folder, report):
        calls.append((list(ids), list(addresses), folder, rules.delay_s))
        folder.mkdir(exist_ok=True)
        (folder / "2.jpg").write_text("20")
        report("pictures: 1 of 2 there, 1 gone")

    monkeypatch.setattr("bench.data.features.pictures.fetch_pictures", fetch_pictures)
    desk.items(id=["1", "2", "3"], cover=["http://one", "http://two", ""])
    pictures(desk, i1="10")
    given = PICTURES | {"images": ["covers/{id}.jpg", "got/{id}.jpg"]}
    given["download"] = {"field": "cover", "folder": "got", "delay_s": 0}
    assert desk.available(["1", "2", "3"], **given) == [True, True, False]
    assert calls == [(["2", "3"], ["http://two", ""], desk.folder / "got", 0)], "the raw files' own are not fetched"
    assert desk.lines == ["pictures: 1 of 2 there, 1 gone"]
    assert desk.build(["1", "2"], **given)[0] == [[10], [20]]
    assert len(calls) == 1, "all are there now"
    assert desk.available(["3", "1", "2"], **given) == [False, True, True]
    assert calls[1][:2] == (["3", "2"], ["", "http://two"]), "those fetched before are counted again"
    given["download"] = {"field": "covr"}
    assert "reads the field 'covr' (did you mean 'cover'?)" in desk.refusal(["3"], **given)
