"""`bench prepare` of MovieLens: small files in the real formats, through the shipped recipes and the command line."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest
from lens_files import (
    CORE_5,
    CORE_10,
    NICHE,
    POPULAR,
    RAW,
    bench,
    films,
    lay,
    ml_1m_files,
    ml_100k_atomic_files,
    ml_100k_files,
    ratings,
    serve,
    with_facts,
    zipped,
)
from published import without_facts

from bench.data import PreparedDataset
from bench.workspace import Workspace

pytestmark = pytest.mark.usefixtures("in_empty_folder")

SIZE_100K, SHA_100K = 4924029, "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
SHA_1M = "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"
DECADES = ["1930s", "1940s", "1950s", "1960s", "1990s"]


def counts(dataset):
    return {step["step"]: {what: step[what] for what in RAW} for step in dataset.metadata["summary"]["steps"]}


def prepared(name, folder="datasets"):
    return PreparedDataset.load(Path(folder) / "prepared" / name)


def check_films(dataset, stay, labels):
    """Hold ids, descriptions, times and both modalities against the raw files."""
    assert dataset.items["id"].tolist() == [str(film) for film in stay]
    assert dataset.items["title"].tolist() == [films()[film][0] for film in stay]
    assert dataset.items["year"].tolist() == [films()[film][1] for film in stay]
    assert dataset.metadata["modalities"]["genre"]["labels"] == labels
    has = [{f"{films()[film][1][:3]}0s", *films()[film][2]} for film in stay]
    assert dataset.features["genre"].tolist() == [[float(label in each) for label in labels] for each in has]

    rows = dataset.interactions
    users, items = dataset.users["id"].to_numpy()[rows["user"]], dataset.items["id"].to_numpy()[rows["item"]]
    times = {(str(user), str(film)): time for user, film, _, time in ratings()}
    assert rows["timestamp"].tolist() == [times[pair] for pair in zip(users, items, strict=True)]

    text = np.asarray(dataset.features["text"])
    row = {film: at for at, film in enumerate(stay)}
    assert text.shape[1] <= min(64, len(stay))
    assert abs(text[row[3]] @ text[row[1]]) < 1e-4, "no word in common"
    assert text[row[7]] @ text[row[1]] > 0.1, "'Story' and 'The' in common"


def test_ml_1m_from_the_archive_as_it_is_published(web, capsys):
    content = zipped(ml_1m_files())
    facts = {6040: RAW["users"], 3706: RAW["items"], 1000209: RAW["interactions"]}
    with_facts("ml-1m", Path("datasets"), facts | {SHA_1M: hashlib.sha256(content).hexdigest()})
    serve(web, {"ml-1m.zip": content})
    bench("prepare", "movielens-1m", "--url", web.url)
    assert web.asked == ["/ml-1m.zip"]
    said = capsys.readouterr().err
    assert "read ratings.dat" in said or "read ml-1m/ratings.dat" in said
    assert "warning" not in said

    dataset = prepared("ml-1m")
    assert counts(dataset) == {"read": RAW, "positive": RAW, "dedupe": RAW, "core": CORE_5}
    assert dataset.metadata["summary"]["split"] == {"train": 12 * 10 + 6 * 4, "valid": 18, "test": 18}
    # The niche has stories of the seventies, of which every third is a comedy, too.
    check_films(
        dataset,
        POPULAR + NICHE,
        ["1930s", "1940s", "1950s", "1960s", "1970s", "1990s", "Children's", "Comedy", "Drama", "Romance", "Sci-Fi"],
    )


def test_liked_films_only(tmp_path, capsys):
    """What the comments of the recipe suggest: a copy under another name, where four stars and more count."""
    recipe = without_facts("ml-1m", Workspace())
    text = recipe.read_text().replace('name = "ml-1m"', 'name = "liked"').replace("minimum = 1", "minimum = 4")
    recipe.unlink()
    text = text.replace('aliases = ["movielens-1m", "ml1m"]', "")
    (Path("datasets") / "liked.toml").write_text(text)
    files = lay(tmp_path / "have", {"ml-1m.zip": zipped(ml_1m_files())})
    bench("prepare", "liked", "--core", "3", "--from", str(files))
    liked = [(user, film) for user, film, rating, _ in ratings() if rating >= 4]
    assert counts(prepared("liked@3core"))["positive"]["interactions"] == len(liked) < 192
    assert f"192 -> {len(liked)} interactions" in capsys.readouterr().err


@pytest.fixture
def recbole(tmp_path, monkeypatch):
    """A package of RecBole's name, with its copy of the data."""
    folder = tmp_path / "site" / "recbole"
    lay(folder / "dataset_example" / "ml-100k", ml_100k_atomic_files())
    (folder / "__init__.py").write_text("raise AssertionError('looked up, never run')\n")
    monkeypatch.delitem(sys.modules, "recbole", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return folder / "dataset_example" / "ml-100k"


def facts_100k(content):
    counted = {943: RAW["users"], 1682: RAW["items"], 100000: RAW["interactions"]}
    return counted | {SIZE_100K: len(content), SHA_100K: hashlib.sha256(content).hexdigest()}


def test_ml_100k_is_the_same_from_both_sources(web, recbole, capsys):
    content = zipped(ml_100k_files())
    serve(web, {"ml-100k.zip": content})
    for folder in ("one", "two"):
        with_facts("ml-100k", Path(folder), facts_100k(content))
    bench("prepare", "ml-100k", "--data-dir", "one")
    assert web.asked == [], "the copy in the package needs no download"
    bench("prepare", "ml-100k", "--data-dir", "two", "--url", web.url)
    capsys.readouterr()

    package, archive = prepared("ml-100k", "one"), prepared("ml-100k", "two")
    assert [each.metadata["source"]["name"] for each in (package, archive)] == ["recbole", "grouplens"]
    assert package.fingerprint == archive.fingerprint
    for dataset in (package, archive):
        assert counts(dataset) == {"read": RAW, "positive": RAW, "dedupe": RAW, "core": CORE_10}
        assert dataset.metadata["summary"]["split"] == {"train": 120, "valid": 12, "test": 12}
        check_films(dataset, POPULAR, [*DECADES, "Children's", "Comedy", "Drama", "Romance", "Sci-Fi"])

    bench("prepare", "ml-100k", "--data-dir", "one", "--source", "grouplens", "--url", web.url, code=2)
    assert "was prepared from the source 'recbole', not from 'grouplens'" in capsys.readouterr().err


def test_ml_100k_from_grouplens_where_the_package_is_older(web, recbole, capsys):
    content = zipped(ml_100k_files())
    serve(web, {"ml-100k.zip": content})
    text = with_facts("ml-100k", Path("datasets"), facts_100k(content)).read_text()
    (Path("datasets") / "ml-100k.toml").write_text(text.replace("https://files.grouplens.org/", f"{web.url}/"))
    serve(web, {"datasets/movielens/ml-100k.zip": content})
    (recbole / "ml-100k.item").unlink()
    bench("prepare", "ml-100k")
    said = capsys.readouterr().err
    assert f"source 'recbole': {recbole} lacks ml-100k.item. It holds ml-100k.inter." in said
    assert prepared("ml-100k").metadata["source"]["name"] == "grouplens"


BROKEN = {
    "a rating cut short": ("ml-1m/ratings.dat", lambda was: was + b"1::3\n", "declares 4 columns, but line 193 has 2"),
    "another separator": (
        *("ml-1m/ratings.dat", lambda was: was.replace(b"::", b"\t")),
        "the recipe declares 4 columns, but line 1 has 1 when split at two colons. It looks split at a tab",
    ),
    "a header": (
        *("ml-1m/ratings.dat", lambda was: b"user::item::rating::timestamp\n" + was),
        "the recipe declares the columns of a file without a header line, but line 1 is one.",
    ),
    "a word for a rating": (
        *("ml-1m/ratings.dat", lambda was: was.replace(b"::5::87", b"::five::87", 1)),
        "the column 'rating' should hold a number, but holds 'five'.",
    ),
    "a film twice": (
        *("ml-1m/movies.dat", lambda was: was + b"3::Again (1990)::Drama\n"),
        "line 21: the column 'item' should hold an id that no line before has, but holds '3'.",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_damaged_members_of_the_archive(tmp_path, capsys, case):
    name, broken, finding = BROKEN[case]
    without_facts("ml-1m", Workspace())
    files = ml_1m_files()
    command = ("prepare", "ml-1m", "--from", str(tmp_path / "have"))
    lay(tmp_path / "have", {"ml-1m.zip": zipped(files | {name: broken(files[name])})})
    bench(*command, code=2)
    said = capsys.readouterr()
    assert finding in said.err
    assert f"ml-1m.zip: {name}" in said.err, "the archive and the file in it are named"
    assert "Traceback" not in said.err + said.out
    assert not list(Path("datasets").glob("prepared/*"))

    lay(tmp_path / "have", {"ml-1m.zip": zipped(files)})
    bench(*command)
    assert counts(prepared("ml-1m"))["core"] == CORE_5


def test_damaged_archives(web, capsys):
    """The shipped recipe as it is: it knows the real archive, and this is another."""
    content = zipped(ml_1m_files())
    serve(web, {"ml-1m.zip": content})
    bench("prepare", "ml-1m", "--url", web.url, code=2)
    finding = f"gave content with the sha256 {hashlib.sha256(content).hexdigest()}, but the recipe expects {SHA_1M}"
    assert finding in capsys.readouterr().err

    without_facts("ml-1m", Workspace())
    web.file("/ml-1m.zip", content[: len(content) // 2])
    bench("prepare", "ml-1m", "--url", web.url, code=2)
    said = capsys.readouterr().err
    error = said.partition("Error: ")[2]
    assert "datasets/raw/ml-1m/ml-1m.zip is damaged or not complete" in error
    assert "Delete it and fetch it again." in error
    assert "Traceback" not in said
    assert not list(Path("datasets").glob("prepared/*"))

    Path("datasets/raw/ml-1m/ml-1m.zip").unlink()
    web.file("/ml-1m.zip", content)
    bench("prepare", "ml-1m", "--url", web.url)
    assert counts(prepared("ml-1m"))["core"] == CORE_5
