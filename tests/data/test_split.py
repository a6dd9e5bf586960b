import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.split import SPLITS, assign_split
from bench.errors import DataError

# n interactions -> training, validation, test; worked out by hand from the rule.
BY_HAND = {
    3: (1, 1, 1),
    5: (3, 1, 1),
    9: (7, 1, 1),
    10: (8, 1, 1),
    14: (12, 1, 1),
    15: (12, 1, 2),
    19: (16, 1, 2),
    20: (16, 2, 2),
    25: (20, 2, 3),
}


def history(counts, seed=0):
    """Return users u0, u1, ... with the given numbers of interactions, all of different items, in shuffled rows."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(len(counts)), counts)
    position = np.concatenate([rng.permutation(count) for count in counts])
    table = pd.DataFrame(
        {
            "user": [f"u{user}" for user in users],
            "item": [f"i{item}" for item in position],
            "timestamp": rng.integers(0, max(counts), len(users)),
        }
    )
    return table.sample(frac=1, random_state=seed, ignore_index=True)


def counts_of(table, labels, user):
    return tuple(int(((table["user"] == user) & (labels == part)).sum()) for part in SPLITS)


@pytest.mark.parametrize("method", ["random", "chronological"])
@pytest.mark.parametrize(("n", "expected"), BY_HAND.items())
def test_counts_by_hand(method, n, expected):
    table = history([n, 4])
    labels = assign_split(table, method, 1, None)
    assert counts_of(table, labels, "u0") == expected
    assert counts_of(table, labels, "u1") == (2, 1, 1)


@pytest.mark.parametrize("method", ["random", "chronological"])
def test_the_rule_holds_for_every_count(method):
    counts = list(range(3, 130))
    table = history(counts)
    labels = assign_split(table, method, 7, None)
    assert labels.shape == (len(table),)
    for user, n in enumerate(counts):
        held_out = 2 if n < 10 else int(0.2 * n)
        valid = 1 if n < 10 else held_out // 2
        assert counts_of(table, labels, f"u{user}") == (n - held_out, valid, held_out - valid)


@given(
    st.lists(st.integers(3, 24), min_size=1, max_size=6),
    st.integers(0, 2**32),
    st.integers(0, 1000),
    st.sampled_from(["random", "chronological"]),
)
def test_row_order_has_no_part_in_the_split(counts, split_seed, shuffle_seed, method):
    table = history(counts)
    labels = assign_split(table, method, split_seed, None)
    order = np.random.default_rng(shuffle_seed).permutation(len(table))
    shuffled = table.iloc[order]  # keeps its index out of order, which must not matter either
    assert (assign_split(shuffled, method, split_seed, None) == labels[order]).all()


def test_the_seed_decides():
    table = history([30] * 20)
    first = assign_split(table, "random", 1, None)
    assert (assign_split(table, "random", 1, None) == first).all()
    assert (assign_split(table, "random", 2, None) != first).mean() > 0.1
    np.random.seed(0)  # noqa: NPY002 -- the global generator must be neither read nor moved
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assign_split(table, "random", 1, None)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_random_is_uniform_within_a_user():
    # 3000 users with the items i0 ... i9: each item is validation and is test for one in ten. The bound is more than
    # five standard deviations (16.4) wide.
    table = history([10] * 3000)
    labels = assign_split(table, "random", 3, None)
    for part in ("valid", "test"):
        counts = table["item"][labels == part].value_counts()
        assert len(counts) == 10
        assert counts.between(300 - 85, 300 + 85).all()


def test_users_draw_independently():
    table = history([10] * 400)
    test_items = table[assign_split(table, "random", 3, None) == "test"].set_index("user")["item"]
    same_as_next = (test_items.to_numpy()[1:] == test_items.to_numpy()[:-1]).mean()
    assert same_as_next < 0.2


def test_chronological_by_hand_with_ties():
    table = pd.DataFrame(
        {
            "user": ["a"] * 5,
            "item": ["p", "q", "r", "s", "t"],
            "timestamp": [50, 9, 50, 10, 50],
        }
    )
    # In time: q (9), s (10), then p, r, t at 50 by item id.
    assert assign_split(table, "chronological", 1, None).tolist() == ["train", "train", "valid", "train", "test"]
    assert assign_split(table, "chronological", 2, None).tolist() == ["train", "train", "valid", "train", "test"]


@given(st.lists(st.integers(3, 40), min_size=1, max_size=5), st.integers(0, 1000))
def test_chronological_never_trains_on_the_future(counts, seed):
    table = history(counts, seed)
    table["part"] = assign_split(table, "chronological", 0, None)
    for _, rows in table.groupby("user"):
        times = {part: rows.loc[rows["part"] == part, "timestamp"] for part in SPLITS}
        assert times["train"].max() <= times["valid"].min()
        assert times["valid"].max() <= times["test"].min()


def test_too_few_interactions_are_refused():
    table = history([2, 5, 1, 3])
    for method in ("random", "chronological"):
        expected = rf"2 of 4 users have fewer than 3 .*user 'u2' with 1\), but a {method} split .*Raise user_core to 3"
        with pytest.raises(DataError, match=expected):
            assign_split(table, method, 1, None)


def test_chronological_needs_a_time_for_every_row():
    table = history([4])
    with pytest.raises(DataError, match="needs a column 'timestamp', but the interactions have only: user, item"):
        assign_split(table.drop(columns="timestamp"), "chronological", 1, None)
    table["timestamp"] = [1.0, 2.0, np.nan, 4.0]
    with pytest.raises(DataError, match="1 of 4 have none"):
        assign_split(table, "chronological", 1, None)


def given_table(labels):
    return history([len(labels)]).assign(split=labels)


def test_given_maps_the_usual_labels():
    raw = ["0", "1", "2", "train", "valid", "validation", "val", "test"]
    expected = ["train", "valid", "test", "train", "valid", "valid", "valid", "test"]
    assert assign_split(given_table(raw), "given", 1, None).tolist() == expected
    assert assign_split(given_table([0, 1, 2]), "given", 1, None).tolist() == list(SPLITS), "whole numbers as well"


def test_given_serves_users_with_few_interactions():
    table = pd.DataFrame({"user": ["a", "a", "b"], "item": ["1", "2", "1"], "split": ["train", "test", "valid"]})
    assert assign_split(table, "given", 1, None).tolist() == ["train", "test", "valid"]


def test_given_with_labels_of_the_recipe():
    labels = {"tr": "train", "dev": "valid", "te": "test"}
    assert assign_split(given_table(["te", "tr", "dev"]), "given", 1, labels).tolist() == ["test", "train", "valid"]
    with pytest.raises(DataError, match=r"labels that lead to no part: '0' \(2 rows\), 'train' \(1 rows\)\. Known"):
        assign_split(given_table(["0", "train", "0", "te"]), "given", 1, labels)
    with pytest.raises(DataError, match="lead to 'dev'; the only parts are 'train', 'valid', 'test'"):
        assign_split(given_table(["te"]), "given", 1, {"te": "dev"})


def test_given_refuses_what_leads_nowhere():
    with pytest.raises(DataError, match="needs a column 'split'"):
        assign_split(history([3]), "given", 1, None)
    with pytest.raises(DataError, match=r"no part: '' \(1 rows\)"):
        assign_split(given_table(["0", "1", "2", None]), "given", 1, None)
    many = [f"label{number:02d}" for number in range(13)]
    with pytest.raises(DataError, match=r"'label09' \(1 rows\) and 3 more"):
        assign_split(given_table(many), "given", 1, None)


@pytest.mark.parametrize(
    ("raw", "empty"), [(["1", "2"], "train"), (["0", "2"], "valid"), (["0", "1"], "test"), (["0"], "valid and no test")]
)
def test_given_needs_every_part(raw, empty):
    with pytest.raises(DataError, match=f"has no {empty} interactions: .*labels '{raw[0]}'"):
        assign_split(given_table(raw), "given", 1, None)


def test_nothing_to_split():
    for method in ("random", "chronological", "given"):
        with pytest.raises(DataError, match="no interactions to split"):
            assign_split(history([3]).iloc[:0], method, 1, None)
