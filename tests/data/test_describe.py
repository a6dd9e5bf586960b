import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.describe import degrees, describe, step_counts
from bench.data.glance import glance
from bench.data.prepared import write_prepared

ROWS = [
    # user, item, split, timestamp; user 3 has no train row, item 3 is never in train
    (0, 0, "train", 10),
    (0, 1, "train", 20),
    (0, 3, "test", 90),
    (1, 0, "train", 30),
    (1, 1, "valid", 40),
    (1, 2, "test", 95),
    (2, 0, "train", 15),
    (2, 2, "train", 25),
    (2, 3, "valid", 50),
    (3, 0, "test", 99),
]


def write(folder, metadata=None, timestamps=True, features=None):
    frame = pd.DataFrame(ROWS, columns=["user", "item", "split", "timestamp"])
    visual = np.array([[1, 0], [1, 0], [0, 0], [0, 2]], dtype=np.float32)
    return write_prepared(
        folder,
        name=folder.name,
        interactions=frame if timestamps else frame.drop(columns="timestamp"),
        users=pd.DataFrame({"id": list("abcd")}),
        items=pd.DataFrame({"id": list("wxyz")}),
        features={"visual": visual} if features is None else features,
        metadata=metadata or {},
    )


@pytest.fixture
def plain(tmp_path):
    return describe(write(tmp_path / "mine"))


def test_cold_users_and_items_are_counted_with_what_goes_to_them(plain):
    assert plain.users_without_train == 1
    assert plain.items_never_in_train == 1
    assert {part.part: (part.with_cold_item, part.with_cold_user) for part in plain.parts} == {
        "train": (0, 0),
        "valid": (1, 0),
        "test": (1, 1),
    }


def test_the_parts_of_the_split_have_sizes_users_items_and_a_time_range(plain):
    train, valid, test = plain.parts
    assert (train.interactions, train.share, train.users, train.items) == (5, 0.5, 3, 3)
    assert (valid.interactions, valid.users, valid.items) == (2, 2, 2)
    assert (test.interactions, test.users, test.items) == (3, 3, 3)
    assert [(part.first, part.last) for part in plain.parts] == [(10, 30), (40, 50), (90, 99)]
    assert plain.time == "seconds"


def test_without_times_there_is_no_time_range(tmp_path):
    found = describe(write(tmp_path / "mine", timestamps=False))
    assert found.time == "none"
    assert {(part.first, part.last) for part in found.parts} == {(None, None)}


def test_ranks_are_told_apart_from_times(tmp_path):
    assert describe(write(tmp_path / "mine", {"time": "order"})).time == "order"


def test_degrees_are_of_all_interactions_and_of_train_and_count_those_without(plain):
    found = {(each.whose, each.part): each for each in plain.degrees}
    assert list(found) == [("users", "all"), ("items", "all"), ("users", "train"), ("items", "train")]
    # Users have 3, 3, 3 and 1 interactions, in train 2, 1, 2 and 0; items 4, 2, 2 and 2, in train 3, 1, 1 and 0.
    assert (found["users", "all"].least, found["users", "all"].most, found["users", "all"].mean) == (1, 3, 2.5)
    assert (found["users", "train"].least, found["users", "train"].median) == (0, 1.5)
    assert found["users", "train"].histogram == (1, 1, 2)
    assert found["items", "train"].histogram == (1, 2, 1)
    assert found["items", "all"].histogram == (0, 0, 3, 1)


def test_degrees_by_hand():
    found = degrees("items", "all", np.array([0, 1, 2, 3, 4, 7, 8, 15]))
    assert found.histogram == (1, 1, 2, 2, 2)
    assert (found.least, found.quarter, found.median, found.three_quarters) == (0, 1.75, 3.5, 7.25)
    assert (found.most, found.mean, found.count) == (15, 5.0, 8)
    assert found.p90 == pytest.approx(10.1)


@pytest.mark.parametrize(
    ("numbers", "gini"),
    [([5, 5, 5, 5], 0.0), ([0, 0, 0, 8], 0.75), ([1, 3], 0.25), ([0, 0], 0.0), ([7], 0.0)],
)
def test_the_gini_coefficient(numbers, gini):
    assert degrees("users", "all", np.array(numbers)).gini == pytest.approx(gini)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30))
def test_degrees_hang_together(numbers):
    found = degrees("users", "all", np.array(numbers))
    differences = np.abs(np.subtract.outer(numbers, numbers)).sum()
    if sum(numbers):
        assert found.gini == pytest.approx(differences / (2 * len(numbers) * sum(numbers)))
    assert sum(found.histogram) == found.count == len(numbers)
    for place, size in enumerate(found.histogram[1:]):
        assert size == sum(2**place <= number < 2 ** (place + 1) for number in numbers)
    assert found.least <= found.quarter <= found.median <= found.p90 <= found.p95 <= found.p99 <= found.most


def test_features_are_counted_from_the_matrix_where_nothing_is_written_down(plain):
    (visual,) = plain.modalities
    assert (visual.modality, visual.encoder, visual.width, visual.items) == ("visual", "", 2, 4)
    assert (visual.own, visual.zero_rows, visual.duplicate_rows, visual.missing_rows) == (3, 1, 1, None)
    assert visual.lift.n_items == 2


def test_rows_filled_with_the_mean_are_not_the_items_own(tmp_path):
    about = {"encoder": "image", "missing": "mean", "zero_rows": 0, "duplicate_rows": 1, "missing_rows": 2}
    (visual,) = describe(write(tmp_path / "mine", {"modalities": {"visual": about}})).modalities
    assert (visual.own, visual.missing_rows, visual.encoder) == (2, 2, "image")


def test_rows_filled_with_zero_are_not_counted_twice(tmp_path):
    about = {"encoder": "image", "missing": "zero", "zero_rows": 1, "duplicate_rows": 0, "missing_rows": 1}
    (visual,) = describe(write(tmp_path / "mine", {"modalities": {"visual": about}})).modalities
    assert visual.own == 3


def test_a_dataset_without_features_has_no_modalities(tmp_path):
    assert describe(write(tmp_path / "mine", features={})).modalities == ()


def test_steps_are_those_written_down():
    steps = [
        {"step": "read", "words": "", "users": None, "users_more_than": 3_000_000, "items": 10, "interactions": 500},
        {"step": "core", "words": "users >= 5, items >= 5", "users": 20, "items": 5, "interactions": 50},
    ]
    read, core = step_counts({"steps": steps, "raw": {}, "prepared": {}})
    assert (read.step, read.users, read.users_more_than, read.density, read.per_user) == (
        "read",
        None,
        3_000_000,
        None,
        None,
    )
    assert read.per_item == 50
    assert (core.words, core.density, core.per_user, core.per_item) == ("users >= 5, items >= 5", 0.5, 2.5, 10)


def test_older_datasets_tell_of_raw_and_prepared_rows():
    counts = {"users": 4, "items": 5, "interactions": 10}
    read, prepared = step_counts({"raw": counts, "prepared": {**counts, "interactions": 8}})
    assert (read.step, read.interactions, prepared.step, prepared.interactions) == ("read", 10, "prepared", 8)
    assert step_counts({}) == ()


def test_published_counts_are_handed_on_and_all_of_it_is_json(tmp_path):
    rows = [{"name": name, "users": 4, "items": 4, "interactions": 10} for name in ("ours", "a paper")]
    found = describe(write(tmp_path / "mine", {"comparison": rows, "closest": "Ours is closest."}))
    assert found.closest == "Ours is closest."
    document = json.loads(json.dumps(asdict(found), allow_nan=False))
    assert document["comparison"] == rows
    assert document["modalities"][0]["lift"]["n_items"] == 2


def test_a_glance_reads_counts_and_size_only(tmp_path):
    folder = write(tmp_path / "mine").folder
    (folder / "interactions.parquet").write_bytes(b"12345")
    found = glance(folder)
    assert (found.name, found.users, found.items, found.interactions, found.problem) == ("mine", 4, 4, 10, "")
    assert found.size_bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"schema_version": 1}', "damaged"),
        ('{"schema_version": 0, "n_users": 1, "n_items": 1, "n_interactions": {}}', "of schema version 0"),
    ],
)
def test_a_glance_says_what_is_wrong_instead_of_failing(tmp_path, text, problem):
    (tmp_path / "dataset.json").write_text(text)
    assert glance(tmp_path).problem == problem


def test_a_glance_at_nothing_is_no_error(tmp_path):
    assert glance(tmp_path / "none").problem == "damaged"
