"""The steps in the order the recipe declares, over streamed batches and over what stayed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.collect import in_sample
from bench.data.filters import deduplicate, id_codes, keep_days
from bench.data.recipes.steps import WindowStep

LOG = """user,item,what,time
a,1,click,2020-01-01 23:59:59
a,2,buy,2020-01-02 00:00:00
b,1,buy,2020-01-02 12:00:00
a,2,buy,2020-01-03 00:00:00
b,2,cart,2020-01-03 23:59:59
b,3,buy,2020-01-04 00:00:00
"""
RECIPE = """
name = "mine"

[[sources]]
kind = "local"
folder = "raw"
interactions = { file = "pairs.csv", action = "what", timestamp = "time", timestamp_unit = "iso" OFFSET }

[split]
method = "random"
"""


def steps(desk, text: str, offset: str = "") -> list[dict]:
    """Apply steps to the log; returns the counts after each."""
    from bench.data import find_recipe
    from bench.data.apply import Steps
    from bench.data.raw.fetch import locate

    desk.write(LOG)
    desk.recipe(RECIPE.replace("OFFSET", offset) + text)
    recipe = find_recipe("mine", desk.workspace)
    located = locate(recipe, desk.workspace, source=None, folder=None, base=None, report=lambda line: None)
    work = Steps(located, desk.workspace, "cpu", lambda line: None)
    work.apply()
    return [each.as_dict() for each in work.counts]


BUY = '[[steps]]\nkind = "positive"\nactions = ["buy"]\n'
FIRST = '[[steps]]\nkind = "dedupe"\n'
DAYS = '[[steps]]\nkind = "window"\nstart = "2020-01-02"\nend = "2020-01-03"\n'
LAST = '[[steps]]\nkind = "window"\nlast_days = 2\n'


def rows(counts: list[dict]) -> list[int]:
    return [each["interactions"] for each in counts]


def test_actions_and_a_window_stream(desk):
    counts = steps(desk, BUY + DAYS + FIRST)
    assert [each["step"] for each in counts] == ["read", "positive", "window", "dedupe"]
    assert rows(counts) == [6, 4, 3, 2]
    assert [each["words"] for each in counts[1:3]] == ["action is buy", "from 2020-01-02 to 2020-01-03"]
    assert (counts[0]["users"], counts[0]["items"]) == (2, 3)


def test_the_same_steps_after_a_dedupe_give_what_their_order_says(desk):
    # The first of (a, 2) is the purchase of 2 January, so the order of these steps does not matter to it ...
    assert rows(steps(desk, FIRST + BUY + DAYS)) == [6, 5, 3, 2]
    # ... but a window that begins after it does.
    late = DAYS.replace("2020-01-02", "2020-01-03")
    assert rows(steps(desk, BUY + late + FIRST))[-1] == 1
    with pytest.raises(Exception, match="Nothing is left after the step 'window'"):
        steps(desk, FIRST + BUY + late)


def test_the_last_days_count_from_the_latest_of_what_is_left(desk):
    assert rows(steps(desk, LAST + FIRST)) == [6, 3, 3]
    assert rows(steps(desk, BUY.replace("buy", "click") + LAST.replace("2", "1", 1) + FIRST)) == [6, 1, 1, 1]


def test_days_are_local(desk):
    # 23:59:59 and 00:00:00 of the table's own clock, whatever its offset.
    assert rows(steps(desk, DAYS + FIRST, ', utc_offset = "+08:00"')) == rows(steps(desk, DAYS + FIRST))
    assert rows(steps(desk, LAST + FIRST, ', utc_offset = "-11:00"')) == [6, 3, 3]


def test_a_sample_of_users_streams_and_comes_later_alike(desk):
    sample = '[[steps]]\nkind = "sample"\nshare = 0.5\nsalt = "SALT"\n'
    # A salt that keeps one of the two.
    salt = next(str(n) for n in range(100) if in_sample("a", 0.5, str(n)) and not in_sample("b", 0.5, str(n)))
    early, late = (steps(desk, text.replace("SALT", salt)) for text in (sample + FIRST, FIRST + sample))
    assert (early[1]["users"], early[1]["interactions"]) == (1, 3)
    assert early[-1]["interactions"] == late[-1]["interactions"] == 2
    assert early[1]["words"] == "50% of users by hash"


def test_a_sample_keeps_its_share_and_is_the_same_everywhere():
    kept = [in_sample(f"u{number}", 0.2, "salt") for number in range(5000)]
    assert 0.18 < np.mean(kept) < 0.22
    assert [number for number in range(40) if kept[number]] == [4, 5, 10, 13, 18, 20, 21, 23, 30, 31], (
        "fixed by the hash"
    )
    assert {in_sample("u1", share, "x") for share in (0.001, 0.999)} == {False, True}


def test_items_without_text_go_where_the_recipe_says(desk):
    desk.write("item,title\n1,red fox\n2,...\n3,\n", "items.csv")
    text = (
        '[[steps]]\nkind = "available"\nmodalities = ["text"]\n' + FIRST + '[features.text]\nencoder = "tfidf-svd"\n'
        'fields = ["title"]\nmissing = "drop"\n'
    )
    with_items = ' }\nitems = { file = "items.csv", fields = { title = "title" }'
    counts = steps(desk, text, with_items)
    assert [(each["items"], each["interactions"]) for each in counts] == [(3, 6), (1, 2), (1, 2)]


@pytest.mark.parametrize("merged", [1, 5, 1000])
def test_batches_are_joined_whatever_their_size(merged, desk, monkeypatch):
    from bench.data import collect as module
    from bench.data.raw.rawfiles import RawFiles
    from bench.data.reading import stream
    from bench.data.reading.read import interaction_batches
    from bench.data.recipes.tables import InteractionsTable

    rng = np.random.default_rng(0)
    rows = [(f"u{rng.integers(40)}", f"i{rng.integers(30)}", int(t)) for t in rng.integers(0, 10**6, 300)]
    desk.write("user,item,time\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows))
    monkeypatch.setattr(stream, "BLOCK_BYTES", 200)
    monkeypatch.setattr(module, "ROWS_MERGED", merged)
    table = InteractionsTable(file=("pairs.csv",), timestamp="time")
    batches = list(interaction_batches(RawFiles(desk.raw), table))
    assert len(batches) > 5
    frame, (counts,) = module.collect(batches, table, [], lambda line: None)
    assert list(frame.astype({"user": str, "item": str}).itertuples(index=False, name=None)) == rows
    for column, place in (("user", 0), ("item", 1)):
        assert frame[column].cat.categories.tolist() == sorted({row[place] for row in rows})
    assert (counts.users, counts.items, counts.interactions) == (
        len({row[0] for row in rows}),
        len({row[1] for row in rows}),
        300,
    )


def test_beyond_a_limit_ids_are_no_longer_told_apart(desk, monkeypatch):
    from bench.data import collect as module

    monkeypatch.setattr(module, "MOST_IDS_COUNTED", 2)
    counts = steps(desk, FIRST)
    assert counts[0] == {
        "step": "read",
        "words": "raw",
        "users": 2,
        "items": None,
        "items_more_than": 2,
        "interactions": 6,
    }


@given(
    pairs=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=40),
    keep=st.sampled_from(["first", "last"]),
    timed=st.booleans(),
)
@settings(max_examples=150)
def test_deduplicate_agrees_with_pandas(pairs, keep, timed):
    frame = pd.DataFrame(pairs, columns=["user", "item", "timestamp"]).astype({"user": str, "item": str})
    if not timed:
        frame = frame.drop(columns="timestamp")
    frame["row"] = range(len(frame))
    ordered = frame.sort_values("timestamp", kind="stable") if timed else frame
    expected = ordered.drop_duplicates(["user", "item"], keep=keep).sort_values("row")
    for shape in (frame, frame.astype({"user": "category", "item": "category"})):
        assert deduplicate(shape, keep)["row"].tolist() == expected["row"].tolist()


@given(ids=st.lists(st.sampled_from(["b", "a", "10", "9", "x"]), min_size=1))
def test_categorical_ids_are_numbered_like_texts(ids):
    text = pd.DataFrame({"user": ids})
    wide = pd.Categorical(ids, categories=["x", "unused", "10", "9", "a", "b"])
    assert id_codes(pd.DataFrame({"user": wide}), "user").tolist() == id_codes(text, "user").tolist()


def test_a_window_of_an_empty_frame_is_empty():
    frame = pd.DataFrame({"user": [], "item": [], "timestamp": []})
    assert keep_days(frame, WindowStep(kind="window", last_days=3), 0).empty
