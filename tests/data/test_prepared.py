import json
import os
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.fingerprint import content_fingerprint
from bench.data.prepared import PreparedDataset, write_prepared
from bench.errors import DataError, UsageError


def parts():
    """Return the content of a dataset of 3 users and 4 items, written down by hand."""
    interactions = pd.DataFrame(
        {
            "user": [0, 0, 0, 1, 1, 1, 2, 2, 2],
            "item": [0, 1, 2, 3, 1, 0, 2, 3, 1],
            "split": ["train", "valid", "test", "train", "train", "test", "train", "valid", "test"],
            "timestamp": [10, 20, 30, 11, 12, 13, 3, 2, 1],
        }
    )
    return {
        "interactions": interactions,
        "users": pd.DataFrame({"id": ["007", "b", "ü"]}),
        "items": pd.DataFrame({"id": ["x", "y", "z", "0"], "title": ["X", "Y", "", "Zero"]}),
        "features": {
            "text": np.arange(8, dtype=np.float32).reshape(4, 2),
            "visual": np.ones((4, 3), dtype=np.float32),
        },
    }


def write(folder, **changes):
    return write_prepared(folder, **({"name": "mine", "metadata": {"split": {"method": "given"}}} | parts() | changes))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "prepared" / "mine"


def edit_json(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_is_written_is_read(folder):
    written = write(folder, metadata={"split": {"method": "given"}, "count": np.int64(3), "share": np.float64(0.5)})
    dataset = PreparedDataset.load(folder)
    assert dataset.fingerprint == written.fingerprint
    assert (dataset.name, dataset.folder, dataset.n_users, dataset.n_items) == ("mine", folder, 3, 4)
    assert dataset.metadata == {"split": {"method": "given"}, "count": 3, "share": 0.5}
    assert dataset.users["id"].tolist() == ["007", "b", "ü"]
    assert dataset.items.to_dict("list") == {"id": ["x", "y", "z", "0"], "title": ["X", "Y", "", "Zero"]}
    table = dataset.interactions
    assert list(table.columns) == ["user", "item", "split", "timestamp"]
    assert [str(table[column].dtype) for column in ("user", "item", "timestamp")] == ["int32", "int32", "int64"]
    assert table["user"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert table["item"].tolist() == [0, 1, 2, 0, 1, 3, 1, 2, 3]
    assert table["split"].tolist() == ["train", "valid", "test", "test", "train", "train", "test", "train", "valid"]
    assert table["timestamp"].tolist() == [10, 20, 30, 13, 12, 11, 1, 3, 2]
    assert list(dataset.features) == ["text", "visual"]
    assert isinstance(dataset.features["text"], np.memmap)
    assert dataset.features["text"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.raises(ValueError, match="read-only"):
        dataset.features["text"][0, 0] = 1
    dataset.verify()


def test_the_json_is_plain_and_complete(folder):
    dataset = write(folder, metadata={"n": np.int32(3)})
    text = (folder / "dataset.json").read_text()
    about = json.loads(text)
    assert about == {
        "schema_version": 1,
        "name": "mine",
        "fingerprint": dataset.fingerprint,
        "n_users": 3,
        "n_items": 4,
        "n_interactions": {"train": 4, "valid": 2, "test": 3},
        "density": 0.75,
        "modalities": {"text": 2, "visual": 3},
        "metadata": {"n": 3},
    }
    assert text == json.dumps(about, indent=2, sort_keys=True) + "\n"
    assert re.fullmatch("[0-9a-f]{64}", dataset.fingerprint)


def test_matrix_by_hand(folder):
    dataset = write(folder)
    train = dataset.matrix("train")
    assert train.toarray().tolist() == [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert dataset.matrix("valid").toarray().tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]]
    assert dataset.matrix("test").toarray().tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]
    assert train.dtype == np.float32
    assert train.format == "csr"
    assert train.has_sorted_indices
    assert train.indices.tolist() == [0, 1, 3, 2]
    with pytest.raises(UsageError, match="Unknown split 'vald'. Did you mean valid"):
        dataset.matrix("vald")


def test_matrix_indices_are_sorted_whatever_the_row_order(folder):
    dataset = write(folder)
    backwards = replace(dataset, interactions=dataset.interactions.iloc[::-1])
    for part in ("train", "valid", "test"):
        assert backwards.matrix(part).indices.tolist() == dataset.matrix(part).indices.tolist()


def test_without_times_and_features(folder):
    dataset = write(folder, interactions=parts()["interactions"].drop(columns="timestamp"), features={})
    assert list(dataset.interactions.columns) == ["user", "item", "split"]
    assert dataset.features == {}
    dataset.verify()


def test_other_columns_of_interactions_are_not_kept(folder):
    rated = parts()["interactions"].assign(rating=5.0)
    assert write(folder, interactions=rated).fingerprint == write(folder).fingerprint
    assert "rating" not in PreparedDataset.load(folder).interactions.columns


def test_other_number_types_are_converted(folder):
    given = parts()
    given["interactions"] = given["interactions"].astype({"user": "int64", "item": "uint8", "timestamp": "int32"})
    given["features"]["text"] = given["features"]["text"].astype(np.float64)
    given["users"]["id"] = given["users"]["id"].astype(object)
    dataset = write(folder, **given)
    assert dataset.features["text"].dtype == np.float32
    assert dataset.fingerprint == write(folder).fingerprint


def fingerprint(content):
    return content_fingerprint(
        content["interactions"], content["users"]["id"], content["items"]["id"], content["features"]
    )


def test_the_fingerprint_of_known_content_stays():
    # Runs are filed under it: if this number has to change, earlier results no longer count as the same data.
    assert fingerprint(parts()) == "cbe15446789894630804805c366f022cf169aa900ac3cff207a040603e22efb4"


@given(st.randoms(use_true_random=False))
def test_row_order_and_types_have_no_part_in_the_fingerprint(random):
    content = parts()
    order = random.sample(range(9), 9)
    types = {"user": random.choice(["int32", "int64", "uint8"]), "split": random.choice([object, "str", "category"])}
    content["interactions"] = content["interactions"].iloc[order].astype(types)
    content["features"] = dict(random.sample(list(content["features"].items()), 2))
    content["features"]["text"] = np.asfortranarray(content["features"]["text"].astype(">f4"))
    assert fingerprint(content) == fingerprint(parts())


def change_value(frame, column, row, value):
    changed = frame.copy()
    changed.loc[row, column] = value
    return changed


def change_item(features, modality, where, value):
    changed = {name: matrix.copy() for name, matrix in features.items()}
    changed[modality][where] = value
    return changed


CHANGES = {
    "another item": lambda c: c | {"interactions": change_value(c["interactions"], "item", 0, 3)},
    "another user": lambda c: c | {"interactions": change_value(c["interactions"], "user", 3, 0)},
    "another part": lambda c: c | {"interactions": change_value(c["interactions"], "split", 0, "test")},
    "parts swapped": lambda c: (
        c | {"interactions": c["interactions"].assign(split=c["interactions"]["split"].tolist()[::-1])}
    ),
    "another time": lambda c: c | {"interactions": change_value(c["interactions"], "timestamp", 0, 11)},
    "no times": lambda c: c | {"interactions": c["interactions"].drop(columns="timestamp")},
    "a row less": lambda c: c | {"interactions": c["interactions"].iloc[1:]},
    "another user id": lambda c: c | {"users": change_value(c["users"], "id", 0, "7")},
    "user ids swapped": lambda c: c | {"users": c["users"].iloc[::-1]},
    "another item id": lambda c: c | {"items": change_value(c["items"], "id", 3, "00")},
    "user ids as item ids": lambda c: c | {"users": c["items"], "items": c["users"]},
    "a feature": lambda c: c | {"features": change_item(c["features"], "text", (3, 1), 7.001)},
    "modality renamed": lambda c: c | {"features": {"txt" if n == "text" else n: m for n, m in c["features"].items()}},
    "modality gone": lambda c: c | {"features": {"text": c["features"]["text"]}},
    "feature shape": lambda c: c | {"features": c["features"] | {"text": c["features"]["text"].reshape(2, 4)}},
}


def test_every_change_of_content_changes_the_fingerprint():
    found = {name: fingerprint(change(parts())) for name, change in CHANGES.items()}
    found["unchanged"] = fingerprint(parts())
    assert len(set(found.values())) == len(found)


def test_names_and_titles_have_no_part_in_the_fingerprint(folder):
    content = parts()
    content["items"]["title"] = ["other", "titles", "than", "before"]
    other = write(folder, name="other", metadata={"made": "otherwise"}, **content)
    assert other.fingerprint == write(folder).fingerprint


@pytest.mark.parametrize("row", [0, 65_535, 65_536, 131_071, 131_072, 196_608])
def test_every_row_of_large_features_counts(row):
    features = np.zeros((3 * 65_536 + 1, 3), dtype=np.float32)
    before = fingerprint(parts() | {"features": {"text": features}})
    features[row, 2] = 1
    assert fingerprint(parts() | {"features": {"text": features}}) != before


def interactions_with(**columns):
    return parts()["interactions"].assign(**columns)


REFUSED = [
    ({"interactions": interactions_with(user=[0, 0, 0, 1, 1, 1, 3, 3, 3])}, "all of 0 to 2,.* 3 numbers from 0 to 3"),
    ({"interactions": interactions_with(item=[0, 1, 2, 2, 1, 0, 2, 0, 1])}, "all of 0 to 3,.* 3 numbers from 0 to 2"),
    ({"interactions": interactions_with(user=list("aaabbbccc"))}, "column 'user' of whole row numbers"),
    ({"interactions": interactions_with(item=[0, 1, 2, 3, 1, 3, 2, 3, 1])}, "repeat .* number 1 and item number 3"),
    ({"interactions": interactions_with(split="train")}, r"need the parts train, valid, test, .* but have: train\."),
    ({"interactions": interactions_with(split=list("012012012"))}, "but have: 0, 1, 2"),
    ({"interactions": parts()["interactions"].drop(columns="split")}, "but have: none"),
    ({"interactions": interactions_with(timestamp=0.5)}, "whole seconds since 1970, but their type is float64"),
    ({"interactions": parts()["interactions"].iloc[:0]}, "but are none"),
    ({"users": pd.DataFrame({"id": ["a", "b", "a"]})}, "1 user ids occur more than once, for example 'a'"),
    ({"users": pd.DataFrame({"name": ["a", "b", "c"]})}, "user table needs a column 'id'"),
    ({"items": pd.DataFrame({"id": ["a", "b", "c", None]})}, "item table needs a column 'id' with the original"),
    ({"users": pd.DataFrame({"id": []})}, "has 0 users and 4 items"),
    (
        {"features": {"text": np.zeros((3, 2))}},
        r"'text' features \(dataset 'mine'\) have 3 rows, but the dataset has 4",
    ),
    ({"features": {"text": np.full((4, 2), np.nan)}}, "8 values that are NaN or infinite"),
    ({"features": {"text": np.zeros(4)}}, r"shape \[4\]"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_breaks_a_rule_is_not_written(changes, message, folder):
    with pytest.raises(DataError, match=message):
        write(folder, **changes)
    assert not folder.parent.exists()


def test_metadata_must_be_plain(folder):
    with pytest.raises(TypeError, match="plain values, not set"):
        write(folder, metadata={"modalities": {"text", "visual"}})
    assert not folder.exists()


def test_a_refused_or_failed_write_keeps_the_old_dataset(folder, monkeypatch):
    old = write(folder)
    with pytest.raises(DataError):
        write(folder, features={"text": np.zeros((3, 2))})
    real = os.replace

    def fail(source, target):
        if os.fspath(target) == os.fspath(folder) and ".partial-" in os.fspath(source):
            raise OSError(5, "Input/output error")
        return real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(DataError, match=r"mine cannot be written: .*Input/output error"):
            write(folder, features={})
    dataset = PreparedDataset.load(folder)
    assert dataset.fingerprint == old.fingerprint
    dataset.verify()
    assert list(folder.parent.iterdir()) == [folder]


def test_a_write_replaces_the_old_dataset(folder):
    old = write(folder)
    new = write(folder, features={"text": np.ones((4, 1), dtype=np.float32)})
    assert new.fingerprint != old.fingerprint
    assert [path.name for path in (folder / "features").iterdir()] == ["text.npy"]
    assert old.features["visual"].tolist() == [[1, 1, 1]] * 4, "a dataset in use stays readable"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_missing_dataset_says_how_to_prepare_it(folder):
    with pytest.raises(DataError, match=r"no prepared dataset in .*mine\. Prepare it first: bench prepare mine$"):
        PreparedDataset.load(folder)


def test_another_schema_version_is_refused(folder):
    write(folder)
    edit_json(folder, schema_version=2)
    with pytest.raises(
        DataError, match="schema version 2, but this program reads version 1.*bench prepare mine --force"
    ):
        PreparedDataset.load(folder)


INTERACTIONS = "interactions.parquet"


def rewrite(folder, file, change):
    change(pd.read_parquet(folder / file)).to_parquet(folder / file, index=False)


def save_text(folder, matrix):
    np.save(folder / "features" / "text.npy", matrix)


DAMAGES = [
    (lambda f: (f / "dataset.json").unlink(), "dataset.json cannot be read"),
    (lambda f: (f / "dataset.json").write_text("{"), "dataset.json cannot be read"),
    (lambda f: (f / "dataset.json").write_text('{"schema_version": 1}'), "lacks name, fingerprint, n_users"),
    (lambda f: (f / "users.parquet").unlink(), "users.parquet cannot be read"),
    (lambda f: (f / "items.parquet").write_bytes(b"PAR1"), "items.parquet cannot be read"),
    (lambda f: rewrite(f, "items.parquet", lambda t: t.drop(columns="id")), "items.parquet lacks the column id"),
    (lambda f: rewrite(f, "users.parquet", lambda t: t.iloc[1:]), "says 3 users, but the files have 2"),
    (lambda f: rewrite(f, "items.parquet", lambda t: t.iloc[1:]), "says 4 items, but the files have 3"),
    (lambda f: rewrite(f, INTERACTIONS, lambda t: t.iloc[1:]), "says 9 interactions, but the files have 8"),
    (
        lambda f: rewrite(f, INTERACTIONS, lambda t: t.assign(split="test")),
        "4 train interactions, but the files have 0",
    ),
    (lambda f: rewrite(f, INTERACTIONS, lambda t: t.assign(item=t["item"] + 1)), "item numbers go from 1 to 4"),
    (lambda f: rewrite(f, INTERACTIONS, lambda t: t.assign(user=t["user"] - 1)), "user numbers go from -1 to 1"),
    (lambda f: (f / "features" / "text.npy").unlink(), "features/text.npy cannot be read"),
    (lambda f: save_text(f, np.zeros((3, 2), np.float32)), "4 rows of text features, but .* have 3"),
    (lambda f: save_text(f, np.zeros((4, 5), np.float32)), "2 columns of text features, but .* have 5"),
    (lambda f: save_text(f, np.zeros((4, 2))), "text.npy holds float64"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_dataset_is_refused(damage, message, folder):
    write(folder)
    damage(folder)
    with pytest.raises(DataError, match=f"is damaged: .*{message}.*bench prepare mine --force"):
        PreparedDataset.load(folder)


def test_verify_finds_what_loading_does_not(folder):
    write(folder)
    matrix = np.load(folder / "features" / "text.npy")
    matrix[2, 1] += 1
    save_text(folder, matrix)
    dataset = PreparedDataset.load(folder)
    with pytest.raises(DataError, match=r"has the fingerprint [0-9a-f]{12}, not [0-9a-f]{12} as written"):
        dataset.verify()
