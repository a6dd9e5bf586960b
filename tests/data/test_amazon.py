"""The Amazon recipes from end to end, on small files in the published formats."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from published import without_facts
from published_files import (
    ASINS,
    RARE,
    USERS,
    bench,
    fake_drive,
    liked,
    loaded,
    meta,
    npy,
    picture,
    put,
    ratings,
    records,
    refused,
    sizes,
    steps,
)

from bench.data import find_recipe
from bench.workspace import Workspace

pytestmark = pytest.mark.usefixtures("in_empty_folder")
SPACE = Workspace()
CATEGORIES = {
    "amazon-baby": ("Baby", "baby"),
    "amazon-sports": ("Sports_and_Outdoors", "sports"),
    "amazon-electronics": ("Electronics", "elec"),
    "amazon-clothing": ("Clothing_Shoes_and_Jewelry", "clothing"),
}


def raw_files(category: str = "Baby") -> dict[str, bytes]:
    return {
        f"ratings_{category}.csv": ratings(),
        f"meta_{category}.json.gz": meta(),
        f"image_features_{category}.b": records(),
    }


@pytest.fixture
def raw() -> Path:
    """A folder with the raw files, and the recipe without the facts of the real ones."""
    without_facts("amazon-baby", SPACE)
    return put(Path("raw"), raw_files())


@pytest.fixture
def baby(raw):
    bench("prepare", "amazon-baby", "--from", raw)
    return loaded("amazon-baby")


def test_counts_after_every_step_and_the_split(baby):
    assert steps(baby) == [("read", 14, 11, 97), ("dedupe", 14, 11, 96), ("core", 12, 10, 84)]
    assert sizes(baby) == (60, 12, 12)
    per_user = pd.crosstab(baby.interactions["user"], baby.interactions["split"])
    assert per_user.eq({"train": 5, "valid": 1, "test": 1}).all(axis=None), "of seven, the rule holds out two"


def test_ids_stay_text_and_pairs_stay_pairs(baby):
    assert baby.items["id"].tolist() == sorted(ASINS), "leading zeros included"
    assert baby.users["id"].tolist() == USERS
    pairs = set(zip(baby.interactions["user"], baby.interactions["item"], strict=True))
    assert pairs == {(user, item) for user in range(12) for item in liked(user)}
    assert baby.interactions["timestamp"].unique().tolist() == [1_388_275_200], "of a repeated rating the first counts"


def test_features_of_given_items(baby):
    visual = baby.features["visual"]
    assert visual.shape == (10, 4096)
    others = [row for row in range(10) if row != 3]
    assert [visual[row, 1] for row in others] == [1 + 2 * row for row in others], "the first of two records counts"
    np.testing.assert_array_equal(visual[9], picture(ASINS[9]))
    mean = np.mean([picture(ASINS[row]) for row in others], axis=0, dtype=np.float64)
    np.testing.assert_array_equal(visual[3], mean.astype(np.float32))
    text = baby.features["text"]
    assert not text[[1, 9]].any(), "no title and no line at all"
    assert text[[0, *range(2, 9)]].any(axis=1).all()


def test_descriptions_come_from_the_literals(baby):
    items = pd.read_parquet(baby.folder / "items.parquet").set_index("id")
    assert items.loc[ASINS[0], ["title", "brand", "categories"]].tolist() == [
        'Baby\'s "first" spoon',
        "Spoons & Söhne",
        "Baby Feeding Gifts",
    ]
    assert items.loc[ASINS[0], "description"] == "line one\nline 'two' \\ {'asin': 'x'}"
    assert items.loc[ASINS[1]].eq("").all()
    assert items.loc[ASINS[2], "title"] == "cup number 2", "the first of two lines counts"


def test_what_is_reported(raw, capsys):
    bench("prepare", "amazon-baby", "--from", raw)
    said = capsys.readouterr().err
    assert "read ratings_Baby.csv: 14 users, 11 items, 97 interactions" in said
    assert "every rating counts as a positive interaction" in said
    assert re.search(r"step core \(users >= 5, items >= 5\): 14 -> 12 users, 11 -> 10 items, 96 -> 84", said)
    assert "round 2" in said, "the cascade"
    assert "read meta_Baby.json.gz: 10 items, 9 of them wanted, fields title, brand, categories, description" in said
    assert "items: 1 of 10 have no description; their fields are empty" in said
    assert re.search(r"features\.visual: 1 of 10 items have no record in .*\.b; they get the mean of the others", said)
    assert re.search(r"1 of 9 items have more than one record, for example '0000031850'; the first counts", said)


def test_from_the_web(web):
    without_facts("amazon-baby", SPACE)
    page = b"<!DOCTYPE html><html>Sign in</html>"
    for name, content in raw_files().items():
        folder = "image_features/categoryFiles" if name.endswith(".b") else "categoryFiles"
        web.file(f"/{folder}/{name}", content)
    good = web.files["/categoryFiles/ratings_Baby.csv"]
    web.file("/categoryFiles/ratings_Baby.csv", page)
    bench("prepare", "baby", "--url", web.url, code=2)
    assert not Path("datasets/prepared").exists()
    web.files["/categoryFiles/ratings_Baby.csv"] = good
    bench("prepare", "baby", "--url", web.url)
    assert loaded("amazon-baby").n_items == 10
    assert web.asked.count("/categoryFiles/ratings_Baby.csv") >= 2


def test_a_web_page_is_told_as_such(web, capsys):
    without_facts("amazon-baby", SPACE)
    for name in ("ratings_Baby.csv", "meta_Baby.json.gz"):
        web.file(f"/categoryFiles/{name}", b"<html><body>Sign in</body></html>")
    assert "a web page instead of data" in refused(capsys, "prepare", "amazon-baby", "--url", web.url)


@pytest.mark.parametrize(("name", "words"), CATEGORIES.items())
def test_all_four_names(name, words):
    category, short = words
    without_facts(name, SPACE)
    bench("prepare", short.upper(), "--from", put(Path("raw"), raw_files(category)))
    assert steps(loaded(name))[-1] == ("core", 12, 10, 84)


def test_the_four_recipes_differ_in_file_names_only():
    def plain(name: str) -> str:
        category, short = CATEGORIES[name]
        about = {"name", "title", "aliases", "expected"}
        dump = find_recipe(name, SPACE).model_dump(mode="json", exclude=about)
        for source in dump["sources"]:
            del source["expected"], source["checksums"]
        return json.dumps(dump).replace(category, "*").replace(f'"{short}', '"*')

    assert len({plain(name) for name in CATEGORIES}) == 1
    assert len({find_recipe(name, SPACE).expected.cores[0].items for name in CATEGORIES}) == 4


@pytest.mark.parametrize("line", ["TOUCH or {'asin': 'ID'}", "{'asin': 'ID', 'title': TOUCH}", "{'asin': TOUCH}"])
def test_literals_are_never_evaluated(raw, capsys, line):
    code = line.replace("TOUCH", "__import__('pathlib').Path('harm').touch()").replace("ID", ASINS[9])
    (raw / "meta_Baby.json.gz").write_bytes(meta(code))
    message = refused(capsys, "prepare", "amazon-baby", "--from", raw)
    assert "meta_Baby.json.gz, line 11: this is no literal of a Python dictionary" in message
    assert " at 0x" not in message
    assert not Path("harm").exists()
    put(raw, raw_files())
    bench("prepare", "amazon-baby", "--from", raw)


def test_a_bad_line_about_a_product_that_goes_does_not_matter(raw):
    line = f"{{'asin': '{RARE}', 'title': __import__('pathlib').Path('harm').touch()}}"
    (raw / "meta_Baby.json.gz").write_bytes(meta(line))
    bench("prepare", "amazon-baby", "--from", raw)
    assert not Path("harm").exists()


def nan_record() -> bytes:
    block = bytearray(records())
    block[10:14] = np.float32("nan").tobytes()
    return bytes(block)


FAILURES = [
    ("image_features_Baby.b", records()[:-7], r"truncated: 10 records and 16,387 bytes, .* have 16,394 bytes"),
    ("image_features_Baby.b", nan_record(), r"Record 0 \(counted from 0\) .*item 'B00000004X', holds .* NaN"),
    ("ratings_Baby.csv", ratings() + b"A1,B1,5.0\n", r"declares 4 columns, but line 98 has 3 when split at a comma"),
    ("ratings_Baby.csv", ratings() + b"A\xff,B1,5.0,1\n", r"UTF-8|utf-8"),
    ("ratings_Baby.csv", ratings() + b"A1,B1,5.0,soon\n", r"line 98: the column 'timestamp' should hold a time in sec"),
    ("ratings_Baby.csv", b"user,item,rating,timestamp\n" + ratings(), r"without a header line, but line 1 is one"),
    ("meta_Baby.json.gz", meta()[:-20], r"meta_Baby.json.gz is damaged or not complete"),
    ("meta_Baby.json.gz", gzip.compress(b"{'Asin': 'x'}\n"), r"expects the key 'asin' \(did you mean 'Asin'\?\)"),
]


@pytest.mark.parametrize(("name", "content", "words"), FAILURES, ids=[words[-25:] for _, _, words in FAILURES])
def test_a_file_that_is_wrong_and_then_repaired(raw, capsys, name, content, words):
    put(raw, {name: content})
    message = refused(capsys, "prepare", "amazon-baby", "--from", raw)
    assert re.search(words, message)
    assert name in message
    put(raw, raw_files())
    bench("prepare", "amazon-baby", "--from", raw)


# The preparation of MMRec, whose ids are numbers and whose split is given.
PAIRS = [(user, item, label) for user in range(3) for item, label in ((user, 0), (user + 1, 1), (5, 2))]


def mmrec_files() -> dict[str, bytes]:
    rows = "".join(f"{user}\t{item}\t5.0\t1328140800\t{label}\n" for user, item, label in PAIRS)
    rng = np.random.default_rng(0)
    return {
        "baby.inter": f"userID\titemID\trating\ttimestamp\tx_label\n{rows}".encode(),
        "image_feat.npy": npy(rng.random((6, 4096))),
        "text_feat.npy": npy(rng.random((6, 384), dtype=np.float32)),
    }


def check_mmrec() -> None:
    dataset = loaded("amazon-baby@mmrec")
    assert sizes(dataset) == (3, 3, 3)
    assert dataset.items["id"].tolist() == ["0", "1", "2", "3", "5"]
    assert {name: matrix.shape for name, matrix in dataset.features.items()} == {"visual": (5, 4096), "text": (5, 384)}
    expected = np.random.default_rng(0).random((6, 4096))[[0, 1, 2, 3, 5]].astype(np.float32)
    np.testing.assert_array_equal(dataset.features["visual"], expected)


def test_the_preparation_of_mmrec_beside_the_own_one(baby, monkeypatch, capsys):
    files = {f"baby/{name}": content for name, content in mmrec_files().items()}
    asked = fake_drive(monkeypatch, {**files, "sports/sports.inter": b"of others"})
    bench("prepare", "amazon-baby", "--source", "mmrec")
    assert sorted(asked) == sorted(files), "one folder of the four"
    check_mmrec()
    assert loaded("amazon-baby").fingerprint == baby.fingerprint
    bench("prepare", "amazon-baby@mmrec")
    assert "amazon-baby@mmrec is already prepared" in capsys.readouterr().err


def test_another_copy_of_mmrec_is_only_a_warning(raw, capsys):
    path, files = SPACE.datasets / "amazon-baby.toml", mmrec_files()
    known = {"baby.inter": hashlib.sha256(files["baby.inter"]).hexdigest(), "image_feat.npy": "0" * 64}
    sums = ", ".join(f'"{name}" = "{sha}"' for name, sha in known.items())
    path.write_text(path.read_text().replace("own_name = true", f"own_name = true\nchecksums = {{ {sums} }}"))
    bench("prepare", "amazon-baby", "--source", "mmrec", "--from", put(Path("mmrec"), files))
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    found = hashlib.sha256(files["image_feat.npy"]).hexdigest()
    assert re.search(rf"image_feat\.npy is another than the known copy: its SHA-256 is {found}, not 0{{64}}", warning)
    check_mmrec()


def test_the_counts_of_the_real_files_are_facts(capsys):
    folder = put(Path("mmrec"), mmrec_files())
    message = refused(capsys, "prepare", "amazon-baby", "--source", "mmrec", "--from", folder)
    assert "the prepared data should have 19,445 users, 7,050 items, 160,792 interactions" in message
