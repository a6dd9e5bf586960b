"""From a user's own recipe and files to a prepared dataset, and what happens when something is wrong or breaks off."""

import json
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from bench.data import find_recipe, load_recipe, prepare, prepared_names
from bench.errors import DataError, UsageError
from bench.workspace import Workspace

RANDOM = """
name = "mine"
sources = [{ kind = "local", folder = "raw", interactions = { file = "pairs.csv", rating = "rating" } }]
"""


def many(seed: int = 0, n_users: int = 30, n_items: int = 20, per_user: int = 8) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    items = np.concatenate([rng.permutation(n_items)[:per_user] for _ in range(n_users)])
    users = np.repeat(np.arange(n_users), per_user)
    return pd.DataFrame({"user": users, "item": items, "rating": rng.integers(1, 6, len(users))})


def test_a_short_recipe_with_a_given_split(desk):
    dataset, lines = desk.prepare()
    assert (dataset.name, dataset.n_users, dataset.n_items) == ("mine", 2, 3)
    users, items = (pd.read_parquet(desk.target / f"{table}.parquet")["id"].tolist() for table in ("users", "items"))
    assert (users, items) == (["2", "10"], ["3", "4", "10"]), "by value, not as text"
    rows = dataset.interactions[["user", "item", "split"]].to_numpy().tolist()
    assert rows == [[0, 0, "valid"], [0, 1, "train"], [0, 2, "train"], [1, 0, "train"], [1, 1, "test"]]
    assert dataset.features["image"].tolist() == [[12, 13, 14, 15], [16, 17, 18, 19], [40, 41, 42, 43]]
    assert dataset.features["image"].dtype == np.float32
    assert dataset.matrix("train").toarray().tolist() == [[0, 1, 1], [1, 0, 0]]
    assert any(line == "read pairs.csv: 2 users, 3 items, 5 interactions" for line in lines)
    assert prepared_names(desk.workspace) == ["mine"]
    assert desk.leftovers() == []


def test_the_summary_and_where_it_all_came_from(desk):
    dataset, _ = desk.prepare()
    metadata = dataset.metadata
    assert metadata["summary"] == {
        "raw": {"users": 2, "items": 3, "interactions": 5},
        "prepared": {"users": 2, "items": 3, "interactions": 5},
        "steps": [{"step": "read", "words": "raw", "users": 2, "items": 3, "interactions": 5}],
        "density": 5 / 6,
        "split": {"train": 3, "valid": 1, "test": 1},
        "users_without_train": 0,
        "items_never_in_train": 0,
        "modalities": {"image": {"width": 4, "zero_rows": 0, "duplicate_rows": 0}},
    }
    assert metadata["recipe"]["hash"] == find_recipe("mine", desk.workspace).hash
    assert metadata["source"]["name"] == "local"
    assert [file["file"] for file in metadata["source"]["files"]] == ["pairs.csv", "image.npy"]
    assert metadata["source"]["files"][0]["bytes"] == len(desk.pairs)
    assert metadata["split"]["method"] == "given"
    assert metadata["modalities"]["image"]["encoder"] == "file"
    assert {"python", "numpy", "pandas"} <= set(metadata["versions"])
    json.dumps(metadata)


def test_cold_users_and_items_are_kept_and_counted(desk):
    desk.write(desk.pairs + "5,9,2\n")
    dataset, _ = desk.prepare()
    assert (dataset.n_users, dataset.n_items) == (3, 4)
    assert dataset.metadata["summary"]["users_without_train"] == 1
    assert dataset.metadata["summary"]["items_never_in_train"] == 1


def test_a_second_call_finds_it_there(desk):
    first, _ = desk.prepare()
    written = (desk.target / "dataset.json").stat().st_mtime_ns
    desk.write("")
    again, lines = desk.prepare()
    assert lines == [f"mine is already prepared: {desk.target}"]
    assert again.fingerprint == first.fingerprint
    assert (desk.target / "dataset.json").stat().st_mtime_ns == written


def test_another_recipe_under_the_same_name_needs_force(desk):
    first, _ = desk.prepare()
    desk.recipe(desk.given.replace('file = "image.npy"', 'file = "image.npy", first_id = 1'))
    with pytest.raises(DataError, match=r"was prepared from other content of the recipe .*mine\.toml\. Use --force"):
        desk.prepare()
    second, _ = desk.prepare(force=True)
    assert second.features["image"][0].tolist() == [8, 9, 10, 11]
    assert second.fingerprint != first.fingerprint
    assert desk.leftovers() == []


def test_new_words_in_a_recipe_change_nothing(desk):
    desk.prepare()
    desk.recipe('title = "My data"\n' + desk.given)
    assert "already prepared" in desk.prepare()[1][0]


def test_another_source_needs_force(desk):
    copy = '{ name = "copy", kind = "local", folder = "raw", interactions = { file = "pairs.csv", split = "part" } }'
    desk.recipe(desk.given.replace("sources = [", f"sources = [{copy}, "))
    dataset, _ = desk.prepare()
    assert dataset.metadata["source"]["name"] == "copy", "the first one"
    with pytest.raises(DataError, match="was prepared from the source 'copy', not from 'local'. Use --force"):
        desk.prepare(source="local")
    assert desk.prepare(source="local", force=True)[0].fingerprint == dataset.fingerprint, "same content"
    with pytest.raises(UsageError, match="Unknown source of mine 'paper'"):
        desk.prepare(source="paper", force=True)


def test_steps_run_in_their_declared_order_and_are_reported(desk):
    many().assign(rating=1).to_csv(desk.raw / "pairs.csv", index=False)
    frame = pd.read_csv(desk.raw / "pairs.csv")
    twice = pd.concat([frame, frame.assign(rating=5)])
    twice.to_csv(desk.raw / "pairs.csv", index=False)
    first = "\n[[steps]]\nkind = 'positive'\nminimum = 4\n[[steps]]\nkind = 'dedupe'\n[[steps]]\nkind = 'core'\nk = 3\n"
    desk.recipe(RANDOM + first)
    dataset, lines = desk.prepare()
    steps = [line for line in lines if line.startswith("step")]
    assert steps[0].startswith("step positive (rating >= 4): 30 -> 30 users, 20 -> 20 items, 480 -> 240 interactions")
    assert steps[1].endswith("240 -> 240 interactions")
    assert steps[1].startswith("step dedupe (first of each user and item): ")
    assert steps[2].startswith("step core (users >= 3, items >= 3): 30 -> ")
    assert any("round 1" in line for line in lines)
    assert [step["kind"] for step in dataset.metadata["steps"]] == ["positive", "dedupe", "core"]
    # The other way round, the first of each pair has rating 1, and nothing is left.
    desk.recipe(RANDOM + "\n[[steps]]\nkind = 'dedupe'\n[[steps]]\nkind = 'positive'\nminimum = 4\n")
    with pytest.raises(DataError, match=r"Nothing is left after the step 'positive' \(rating >= 4\)"):
        desk.prepare(force=True)


def test_ratings_without_a_rule_are_mentioned(desk):
    many().to_csv(desk.raw / "pairs.csv", index=False)
    desk.recipe(RANDOM)
    assert any("every rating counts as a positive interaction" in line for line in desk.prepare()[1])


def test_repeated_interactions_need_a_rule(desk):
    desk.write(desk.pairs + "2,10,1\n")
    message = desk.refusal()
    assert "1 interactions repeat an earlier user and item, for example user '2' and item '10'" in message
    assert "Add a step of kind 'dedupe'" in message


@pytest.mark.parametrize("method", ["random", "chronological"])
def test_the_order_of_the_rows_has_no_part_in_the_fingerprint(desk, method):
    time = ', timestamp = "time"' if method == "chronological" else ""
    desk.recipe(RANDOM.replace(', rating = "rating"', time) + f'[split]\nmethod = "{method}"\n')
    frame = many().assign(time=lambda rows: np.arange(len(rows)) // 3)
    fingerprints = set()
    for seed in range(3):
        frame.sample(frac=1, random_state=seed).to_csv(desk.raw / "pairs.csv", index=False)
        fingerprints.add(desk.prepare(force=True)[0].fingerprint)
    assert len(fingerprints) == 1


def test_the_split_seed_decides_a_random_split(desk):
    many().to_csv(desk.raw / "pairs.csv", index=False)
    fingerprints = set()
    for seed in (1, 2):
        desk.recipe(RANDOM + f"[split]\nsplit_seed = {seed}\n")
        fingerprints.add(desk.prepare(force=True)[0].fingerprint)
    assert len(fingerprints) == 2


def test_expected_counts(desk):
    desk.recipe(desk.given + "[expected.raw]\nusers = 2\nitems = 3\ninteractions = 5\n")
    assert not any("warning" in line for line in desk.prepare()[1])
    desk.recipe(desk.given + "[expected.prepared]\nusers = 2\nitems = 4\n")
    with pytest.raises(DataError, match="the prepared data should have 4 items, but have 3 items"):
        desk.prepare(force=True)
    desk.recipe(desk.given + "[expected.prepared]\nusers = 2\nitems = 4\ntarget = true\n")
    assert "warning: the prepared data should have 4 items, but have 3 items" in desk.prepare(force=True)[1]


def with_items(desk) -> str:
    return desk.given.replace(
        "} }]", '}, items = { file = "items.csv", fields = { title = "name", year = "year", genres = "genres" } } }]'
    )


def test_text_and_labels_from_the_items_table(desk):
    rows = "10,red fox,1994,War|Drama\n3,blue fox,2001,Drama\n99,never seen,1900,Epic\n"
    desk.write(f"item,name,year,genres\n{rows}", "items.csv")
    features = """
text = { encoder = "tfidf-svd", fields = ["title"], width = 8 }
genre = { encoder = "multi-hot", fields = ["genres"], decade = "year" }
"""
    desk.recipe(with_items(desk) + features)
    dataset, lines = desk.prepare()
    assert "items: 1 of 3 have no description; their fields are empty" in lines
    assert "features.text: 1 of 3 items have no text" in lines
    assert "features.genre: 1 of 3 items have no label" in lines
    assert dataset.metadata["modalities"]["genre"]["labels"] == ["1990s", "2000s", "Drama", "War"]
    assert dataset.features["genre"].tolist() == [[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]]
    assert dataset.features["text"].shape == (3, 2), "two items with text, so rank 2"
    assert dataset.metadata["summary"]["modalities"]["text"] == {"width": 2, "zero_rows": 1, "duplicate_rows": 0}
    items = pd.read_parquet(desk.target / "items.parquet")
    assert items["title"].tolist() == ["blue fox", "", "red fox"]


def test_features_by_the_order_of_the_items_file(desk):
    desk.write(desk.pairs.replace("\n10,", "\nten,").replace(",10,", ",x,").replace(",3,", ",y,").replace(",4,", ",z,"))
    desk.write("item,name,year,genres\nz,,,\nunused,,,\nx,,,\ny,,,\n", "items.csv")
    desk.recipe(with_items(desk).replace('file = "image.npy"', 'file = "image.npy", rows = "order"'))
    np.save(desk.raw / "image.npy", np.array([[0.0], [1], [2], [3]]))
    assert desk.prepare()[0].features["image"].ravel().tolist() == [2, 3, 0]
    np.save(desk.raw / "image.npy", np.zeros((5, 1)))
    with pytest.raises(DataError, match=r"image\.npy has 5 rows, but the items file has 4"):
        desk.prepare(force=True)
    desk.write("item,name,year,genres\nz,,,\nx,,,\n", "items.csv")
    with pytest.raises(DataError, match="1 of 3 items are not in the items file.*for example item 'y'"):
        desk.prepare(force=True)


def test_feature_files_that_do_not_fit(desk):
    np.save(desk.raw / "image.npy", np.zeros((10, 4)))
    assert "has 10 rows" in desk.refusal()
    matrix = np.zeros((11, 4))
    matrix[4, 1] = np.nan
    np.save(desk.raw / "image.npy", matrix)
    message = desk.refusal()
    assert "image" in message
    assert "NaN or infinite" in message
    np.save(desk.raw / "image.npy", np.zeros(11))
    assert "image.npy" in desk.refusal()
    np.save(desk.raw / "image.npy", np.array([[{}]]), allow_pickle=True)
    assert "Pickled and object arrays are refused" in desk.refusal()
    desk.write("not a matrix", "image.npy")
    assert "image.npy cannot be read" in desk.refusal()


def test_item_ids_that_cannot_name_a_row(desk):
    desk.write(desk.pairs.replace(",10,", ",x10,"))
    message = desk.refusal()
    assert "the rows 'id' need item ids that are whole numbers, but 1 of 3 are not, for example 'x10'" in message
    desk.recipe(desk.given.replace('file = "image.npy"', 'file = "image.npy", first_id = 4'))
    desk.write(desk.pairs)
    assert "image.npy" in desk.refusal()


def test_tables_that_are_not_as_declared(desk):
    desk.write(desk.pairs.replace("part", "split"))
    assert "the column 'part'" in desk.refusal()
    desk.write(desk.pairs.replace(",2\n", ",test2\n"))
    assert "test2" in desk.refusal()
    (desk.raw / "pairs.csv").unlink()
    assert "lacks pairs.csv" in desk.refusal()


def test_users_with_too_few_interactions_for_a_split(desk):
    desk.recipe(desk.given.replace(', split = "part"', "").replace("given", "random"))
    message = desk.refusal()
    assert "fewer than 3 interactions" in message
    assert "user '10' with 2" in message


def test_the_builtin_toy(tmp_path):
    workspace = Workspace(tmp_path / "datasets", tmp_path / "results")
    dataset = prepare(find_recipe("toy", workspace), workspace, report=lambda line: None)
    assert 300 <= dataset.n_users <= 500
    assert 200 <= dataset.n_items <= 500
    assert set(dataset.features) == {"text", "visual"}
    again = prepare(find_recipe("toy", workspace), workspace, force=True, report=lambda line: None)
    assert again.fingerprint == dataset.fingerprint


@pytest.mark.skipif(find_spec("recbole") is None, reason="RecBole carries the files along")
def test_the_builtin_ml_100k(tmp_path):
    workspace = Workspace(tmp_path / "datasets", tmp_path / "results")
    dataset = prepare(find_recipe("MovieLens-100K", workspace), workspace, source="recbole", report=lambda line: None)
    summary = dataset.metadata["summary"]
    assert summary["raw"] == {"users": 943, "items": 1682, "interactions": 100_000}
    assert summary["prepared"] == {"users": 943, "items": 1152, "interactions": 97_953}
    per_user = dataset.interactions.groupby("user").size()
    held_out = np.where(per_user < 10, 2, per_user // 5)
    n_test = held_out.sum() - (held_out // 2).sum()
    assert summary["split"] == {"train": 97_953 - held_out.sum(), "valid": (held_out // 2).sum(), "test": n_test}
    labels = dataset.metadata["modalities"]["genre"]["labels"]
    assert [label for label in labels if label.endswith("0s")] == [f"19{decade}0s" for decade in range(2, 10)]
    assert len(labels) - 8 == 19 - 1, "no film of the 19th genre, unknown, has ten ratings"
    assert dataset.features["text"].shape == (1152, 64)


def test_generator_params_are_checked(desk):
    text = 'name = "mine"\nsources = [{ kind = "generated", generator = "planted", params = { PARAM } }]\n'
    desk.recipe(text.replace("PARAM", "n_user = 3"))
    assert "the generator 'planted' refuses its params" in desk.refusal()
    desk.recipe(text.replace("PARAM", "n_items = 3"))
    assert "n_items = 3" in desk.refusal()


def test_a_recipe_outside_the_workspace(desk, tmp_path):
    path = tmp_path / "datasets" / "mine.toml"
    dataset = prepare(load_recipe(path), Workspace(tmp_path / "other"), report=lambda line: None)
    assert dataset.folder == tmp_path / "other" / "prepared" / "mine"


def test_a_damaged_dataset_asks_for_force(desk):
    desk.prepare()
    (desk.target / "interactions.parquet").unlink()
    with pytest.raises(DataError, match="--force"):
        desk.prepare()
    assert desk.prepare(force=True)[0].n_users == 2


def test_a_dataset_made_without_a_recipe_is_not_taken_for_it(desk):
    desk.prepare()
    about = json.loads((desk.target / "dataset.json").read_text())
    about["metadata"] = {}
    (desk.target / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="was prepared from other content of the recipe"):
        desk.prepare()
