"""`bench datasets` on recipes and prepared folders written here."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.cli import main
from bench.cli.dataset_tables import bars
from bench.data.prepared import write_prepared

pytestmark = pytest.mark.usefixtures("in_empty_folder")

RECIPE = """
name = "mine"
title = "My own data"
aliases = ["own"]
homepage = "https://example.org/mine"
licence = "Research only; ask before you pass it on"
citation = "A. Author: My Data, 2020"

[[sources]]
kind = "http"
name = "web"
downloads = [{ url = "https://example.org/pairs.csv", size = 12000000 }, { url = "https://example.org/items.csv" }]
interactions = { file = "pairs.csv", rating = "stars", timestamp = "time" }
items = { file = "items.csv", fields = { title = "name" } }

[[sources]]
kind = "manual"
name = "by-hand"
page = "https://example.org/login"
how = "Log in and fetch pairs.csv."
own_name = true
steps = []
interactions = { file = "pairs.csv", rating = "stars", timestamp = "time" }
items = { file = "items.csv", fields = { title = "name" } }

[[steps]]
kind = "positive"
minimum = 4

[[steps]]
kind = "core"
k = 10

[features]
text = { encoder = "tfidf-svd", fields = ["title"], width = 32 }

[alternatives.text]
labels = { encoder = "multi-hot", fields = ["title"], separator = " " }

[expected.raw]
interactions = 1234

[[expected.published]]
name = "A paper"
users = 46420
items = 14193
interactions = 330683
"""

METADATA = {
    "recipe": {"name": "mine", "title": "My own data", "licence": "Research only"},
    "source": {"name": "web", "kind": "http"},
    "split": {"method": "random", "split_seed": 2023},
    "summary": {
        "steps": [
            {"step": "read", "words": "", "users": None, "users_more_than": 3000000, "items": 9, "interactions": 77000},
            {"step": "core", "words": "users >= 5, items >= 5", "users": 30, "items": 20, "interactions": 240},
        ]
    },
    "modalities": {"visual": {"encoder": "image", "missing": "mean", "missing_rows": 3}},
    "comparison": [
        {"name": "prepared here", "users": 30, "items": 20, "interactions": 240},
        {"name": "A paper", "users": 46420, "items": 14193, "interactions": 330683},
    ],
    "closest": "Closest to the paper is users >= 5, items >= 5.",
}


def bench(*arguments, code=0):
    """Run a command in this process and hold it to its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code


def shown(capsys, *arguments):
    """Run `bench datasets ...` and return what it printed, blanks and frames collapsed."""
    bench("datasets", *arguments)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 120
    return " ".join(text.replace("│", " ").split())


def prepared(name, metadata=METADATA):
    rng = np.random.default_rng(0)
    rows = [(user, item) for user in range(30) for item in rng.permutation(20)[:8]]
    frame = pd.DataFrame(rows, columns=["user", "item"])
    frame["split"] = (["train"] * 6 + ["valid", "test"]) * 30
    frame["timestamp"] = 1_600_000_000 + np.arange(len(frame)) * 86_400
    return write_prepared(
        Path("datasets/prepared") / name,
        name=name,
        interactions=frame,
        users=pd.DataFrame({"id": [f"u{user}" for user in range(30)]}),
        items=pd.DataFrame({"id": [f"i{item}" for item in range(20)]}),
        features={"visual": rng.normal(size=(20, 4)).astype(np.float32)},
        metadata=metadata,
    )


@pytest.fixture(autouse=True)
def recipes(in_empty_folder, monkeypatch):
    # The recipes that ship with the program would decide how wide the columns are.
    monkeypatch.setattr("bench.data.recipes.catalogue.builtin_recipes", lambda: Path("none"))
    Path("datasets").mkdir()
    Path("datasets/mine.toml").write_text(RECIPE)
    Path("datasets/other.toml").write_text(RECIPE.replace('"mine"', '"other"').replace('["own"]', "[]"))


def test_the_list_says_where_data_comes_from_and_what_is_prepared(capsys):
    before = shown(capsys)
    assert "mine own web (http), by-hand (manual) text not prepared Research only" in before
    prepared("mine")
    prepared("mine@5core")
    prepared("gone@5core")
    after = shown(capsys)
    assert after.count("not prepared") == before.count("not prepared") - 1
    assert after.count("30 x 20, 240") == 3
    assert after.index("mine own") < after.index("mine@5core") < after.index("gone@5core no recipe")


def test_the_list_for_machines_has_counts_and_size(capsys):
    folder = prepared("mine@5core").folder
    prepared("gone")
    bench("datasets", "--json")
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    (found,) = listed["mine"]["prepared"]
    assert (found["name"], found["users"], found["items"], found["interactions"]) == ("mine@5core", 30, 20, 240)
    assert found["size_bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert listed["other"]["prepared"] == []
    assert listed["gone"]["sources"] == []


def test_a_damaged_dataset_does_not_spoil_the_list(capsys):
    folder = prepared("mine").folder
    (folder / "dataset.json").write_text("{")
    assert "prepared, but damaged" in shown(capsys)
    bench("datasets", "show", "mine", code=2)
    assert "bench prepare mine --force" in " ".join(capsys.readouterr().err.split())


def test_the_list_reads_no_tables(capsys):
    folder = prepared("mine").folder
    for file in folder.glob("*.parquet"):
        file.write_bytes(b"nothing")
    assert "30 x 20" in shown(capsys)


def test_a_recipe_is_shown_before_it_is_prepared(capsys):
    text = shown(capsys, "show", "OWN")
    for words in (
        "My own data",
        "https://example.org/mine",
        "Research only; ask before you pass it on",
        "A. Author: My Data, 2020",
        "source web downloads pairs.csv, items.csv, at least 12 MB",
        "needs files that only you can fetch. Log in and fetch pairs.csv. https://example.org/login",
        "makes a dataset of its own: mine@by-hand",
        "own steps: none",
        "1. positive (rating >= 4) 2. core (users >= 10, items >= 10)",
        "split random, split_seed 2023",
        "modality text tfidf-svd (fields title; width 32)",
        "multi-hot (fields title; separator ' '): --feature text=labels",
        "raw: 1,234 interactions",
        "A paper prints: 46,420 users, 14,193 items, 330,683 interactions",
        "bench prepare mine --from DIR",
        "bench prepare mine --source by-hand",
    ):
        assert words in text


def test_a_variant_is_shown_with_its_own_steps_before_it_is_prepared(capsys):
    prepared("mine")
    text = shown(capsys, "show", "own@5core")
    assert "core (users >= 5, items >= 5)" in text
    assert "bench prepare mine@5core" in text


def test_a_prepared_dataset_is_shown_in_full(capsys):
    prepared("mine@5core")
    text = shown(capsys, "show", "mine@5core")
    for words in (
        "mine@5core (fingerprint ",
        "licence: Research only",
        "source: web (http)",
        "split: random, seed 2023",
        "read > 3,000,000 9 77,000 - - 8,555.6",
        "core users >= 5, items >= 5 30 20 240 40.0000% 8.0 12.0",
        "users all 8 8 8 8 8 8 8 8 8.0 0.00 █",
        "train 180 75.0% 30 20 0 0 2020-09-13",
        "Cold users have no train row: 0. Cold items are never in train: 0.",
        "visual image 4 17 20 0 0 3",
        "Signal",
        "A paper 46,420 14,193 330,683",
        "Closest to the paper is users >= 5, items >= 5.",
    ):
        assert words in text


def test_everything_is_there_for_machines(capsys):
    prepared("mine")
    bench("datasets", "show", "mine", "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["recipe"]["name"] == document["name"] == "mine"
    assert document["metadata"]["closest"] == METADATA["closest"]
    assert document["description"]["parts"][0]["interactions"] == 180
    assert document["description"]["modalities"][0]["lift"]["n_items"] == 20


def test_a_recipe_is_there_for_machines_before_it_is_prepared(capsys):
    bench("datasets", "show", "mine", "--json")
    document = json.loads(capsys.readouterr().out)
    assert document["recipe"]["expected"]["raw"]["interactions"] == 1234
    assert document["folder"] is document["description"] is document["metadata"] is None


def test_a_prepared_dataset_outlives_its_recipe(capsys):
    prepared("mine")
    Path("datasets/mine.toml").unlink()
    assert "Interactions of each" in shown(capsys, "show", "mine")


@pytest.mark.parametrize(
    ("name", "words"),
    [("mien", "Did you mean mine"), ("mine@5cor!", "behind the @"), ("mine@elsewhere", "by-hand, web")],
)
def test_an_unknown_name_is_explained(name, words, capsys):
    bench("datasets", "show", name, code=2)
    message = " ".join(capsys.readouterr().err.split())
    assert words in message
    assert "Traceback" not in message


def test_ranks_are_not_shown_as_days(capsys):
    prepared("mine", {**METADATA, "time": "order"})
    assert "rank 1,600,000,000" in shown(capsys, "show", "mine")


def test_long_work_is_announced_on_stderr(capsys, monkeypatch):
    prepared("mine")
    bench("datasets", "show", "mine")
    assert not capsys.readouterr().err
    monkeypatch.setattr("bench.cli.datasets.MANY_INTERACTIONS", 100)
    bench("datasets", "show", "mine")
    captured = capsys.readouterr()
    assert "counting 240 interactions" in captured.err
    assert "counting" not in captured.out


@pytest.mark.parametrize(
    ("histogram", "drawn"),
    [((), ""), ((0, 8, 1, 0, 4), " █▁ ▄"), ((1, 1), "██"), ((0, 1, 100_000), " ▁█"), ((0,), " ")],
)
def test_histograms_in_one_line(histogram, drawn):
    assert bars(histogram) == drawn


def test_histograms_for_an_output_without_blocks():
    assert bars((0, 8, 1), "12345678") == " 81"
