from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.filters import deduplicate, id_codes, k_core, keep_positive
from bench.errors import DataError


def frame(pairs, **columns):
    users, items = zip(*pairs, strict=True) if pairs else ((), ())
    return pd.DataFrame({"user": list(users), "item": list(items), **columns})


def pairs_of(table):
    return list(zip(table["user"], table["item"], strict=True))


def quiet(line):
    del line


def naive_core(pairs, user_core, item_core):
    """Drop one offending user or item at a time, in any order: the definition, slowly."""
    left = set(pairs)
    while True:
        users, items = Counter(user for user, _ in left), Counter(item for _, item in left)
        few_users = [user for user, count in users.items() if count < user_core]
        few_items = [item for item, count in items.items() if count < item_core]
        if few_users:
            left = {pair for pair in left if pair[0] != few_users[0]}
        elif few_items:
            left = {pair for pair in left if pair[1] != few_items[0]}
        else:
            return left


sparse_pairs = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("0123456")), unique=True, min_size=1, max_size=45
)
cores = st.integers(min_value=0, max_value=4)


def test_keep_positive_keeps_the_boundary_and_all_columns():
    table = frame([("a", "1"), ("a", "2"), ("b", "1")], rating=[4.0, 3.9, 5.0], timestamp=[1, 2, 3])
    kept = keep_positive(table, 4)
    assert pairs_of(kept) == [("a", "1"), ("b", "1")]
    assert list(kept.index) == [0, 1]
    assert list(kept["timestamp"]) == [1, 3]
    assert keep_positive(table, 2, "timestamp")["rating"].tolist() == [3.9, 5.0]


def test_keep_positive_names_what_is_wrong_with_the_column():
    table = frame([("a", "1"), ("b", "2"), ("b", "3")], rating=[4.0, np.nan, np.nan], words=["x", "y", "z"])
    with pytest.raises(DataError, match=r"column 'stars', but the interactions have only: user, item, rating, words"):
        keep_positive(table, 4, "stars")
    with pytest.raises(DataError, match=r"'rating' is empty in 2 of 3 interactions, first in row 1 .*at least 4"):
        keep_positive(table, 4)
    with pytest.raises(DataError, match=r"column 'words' with 4, but the column holds \w+ values, not numbers"):
        keep_positive(table, 4, "words")


def test_deduplicate_goes_by_time_then_by_row():
    table = frame(
        [("a", "1"), ("b", "1"), ("a", "1"), ("a", "1"), ("a", "2")],
        timestamp=[20, 5, 10, 10, 7],
        rating=[1, 2, 3, 4, 5],
    )
    assert deduplicate(table)["rating"].tolist() == [2, 3, 5], "earliest; of equal times the first row"
    assert deduplicate(table, "last")["rating"].tolist() == [1, 2, 5]
    ties = table.assign(timestamp=0)
    assert deduplicate(ties, "last")["rating"].tolist() == [2, 4, 5], "of equal times the last row"


def test_deduplicate_without_times_goes_by_row():
    table = frame([("a", "1"), ("b", "1"), ("a", "1")], rating=[1, 2, 3])
    assert deduplicate(table)["rating"].tolist() == [1, 2]
    assert deduplicate(table, "last")["rating"].tolist() == [2, 3]
    assert list(deduplicate(table, "last").index) == [0, 1]


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("12"), st.integers(0, 3)), min_size=1, max_size=12),
    st.sampled_from(["first", "last"]),
)
def test_deduplicate_against_a_dictionary(rows, keep):
    table = frame([row[:2] for row in rows], timestamp=[row[2] for row in rows])
    expected = {}
    for number, (user, item, time) in enumerate(rows):
        old = expected.get((user, item))
        if old is None or (time < old[0] if keep == "first" else time >= old[0]):
            expected[user, item] = (time, number)
    numbers = sorted(number for _, number in expected.values())
    pd.testing.assert_frame_equal(deduplicate(table, keep), table.iloc[numbers].reset_index(drop=True))


def test_k_core_by_hand():
    # a, b and the items 1, 2 support one another. c falls first; that takes item 3 below 2, and then d falls.
    pairs = [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2"), ("d", "1"), ("d", "3"), ("c", "3")]
    lines = []
    kept = k_core(frame(pairs), 2, 2, lines.append)
    assert pairs_of(kept) == pairs[:4]
    start = "k-core (users >= 2, items >= 2), round "
    assert lines == [
        start + "1: 3 users, 3 items, 6 interactions left",
        start + "2: 3 users, 2 items, 5 interactions left",
        start + "3: 2 users, 2 items, 4 interactions left",
        start + "4: 2 users, 2 items, 4 interactions left (nothing to drop)",
    ]


def test_k_core_filters_only_the_side_it_is_asked_to():
    pairs = [("a", "1"), ("a", "2"), ("a", "3"), ("b", "1")]
    assert pairs_of(k_core(frame(pairs), 2, 0, quiet)) == pairs[:3]
    assert pairs_of(k_core(frame(pairs), 1, 2, quiet)) == [pairs[0], pairs[3]]
    for none in (0, 1):
        assert pairs_of(k_core(frame(pairs), none, none, quiet)) == pairs


def test_k_core_keeps_columns_and_row_order():
    table = frame([("b", "2"), ("z", "9"), ("a", "2"), ("b", "1"), ("a", "1")], rating=[1.0, 2.0, 3.0, 4.0, 5.0])
    assert k_core(table, 2, 2, quiet)["rating"].tolist() == [1.0, 3.0, 4.0, 5.0]


@given(sparse_pairs, cores, cores)
def test_k_core_is_the_largest_one(pairs, user_core, item_core):
    expected = naive_core(pairs, user_core, item_core)
    if not expected:
        with pytest.raises(DataError, match="Nothing is left"):
            k_core(frame(pairs), user_core, item_core, quiet)
        return
    kept = k_core(frame(pairs), user_core, item_core, quiet)
    assert pairs_of(kept) == [pair for pair in pairs if pair in expected]
    assert kept["user"].value_counts().min() >= user_core
    assert kept["item"].value_counts().min() >= item_core
    pd.testing.assert_frame_equal(k_core(kept, user_core, item_core, quiet), kept)


@given(sparse_pairs, st.randoms(use_true_random=False))
def test_k_core_does_not_depend_on_the_row_order(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    if naive_core(pairs, 2, 2):
        assert set(pairs_of(k_core(frame(pairs), 2, 2, quiet))) == set(pairs_of(k_core(frame(shuffled), 2, 2, quiet)))


def test_an_empty_core_names_the_sizes_and_the_highest_core_that_is_not():
    # A complete 3 x 3 block has a 3-core, and the stray users do not raise it.
    pairs = [(user, item) for user in "abc" for item in "123"] + [("d", "1"), ("e", "4")]
    expected = (
        r"the 5 users, 4 items and 11 interactions before it .* every user has at least 20 and every item at least 2 "
        r".* user_core = 3, item_core = 2; ask for that or less"
    )
    with pytest.raises(DataError, match=expected):
        k_core(frame(pairs), 20, 2, quiet)


@given(sparse_pairs, st.integers(2, 9), st.integers(2, 9))
def test_the_suggested_core_exists_and_is_the_highest(pairs, user_core, item_core):
    if naive_core(pairs, user_core, item_core):
        return
    with pytest.raises(DataError) as caught:
        k_core(frame(pairs), user_core, item_core, quiet)
    fitting = [k for k in range(1, 9) if naive_core(pairs, min(k, user_core), min(k, item_core))]
    best = max(fitting)
    assert f"user_core = {min(best, user_core)}, item_core = {min(best, item_core)};" in str(caught.value)


def test_k_core_of_nothing_and_of_missing_ids():
    with pytest.raises(DataError, match="no interactions left to take a k-core of"):
        k_core(frame([]), 5, 5, quiet)
    with pytest.raises(DataError, match="1 of 2 interactions have no item id, first in row 1"):
        k_core(frame([("a", "1"), ("a", None)]), 0, 0, quiet)


def test_id_codes_follow_the_sorted_ids():
    assert id_codes(frame([("b", "1"), ("a", "1"), ("b", "2")]), "user").tolist() == [1, 0, 1]
