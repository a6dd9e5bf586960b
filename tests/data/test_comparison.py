import pytest

from bench.data.comparison import beside_published, check_prepared, check_raw, current_cores
from bench.data.recipes.recipe import Recipe, load_recipe
from bench.data.recipes.variants import Cores, Variant
from bench.errors import DataError

TEXT = """
name = "clips"
sources = [{ kind = "local", folder = "raw", interactions = { file = "pairs.csv" } }]

[[steps]]
kind = "core"
k = 10

[expected.raw]
users = 50
interactions = 400

[[expected.cores]]
user_core = 10
item_core = 10
users = 5
items = 4
interactions = 20

[[expected.cores]]
user_core = 5
item_core = 5
users = 40
items = 30
interactions = 300

[[expected.published]]
name = "The paper"
users = 40
items = 33
interactions = 297
"""


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    (tmp_path / "clips.toml").write_text(TEXT)
    return load_recipe(tmp_path / "clips.toml")


TEN = {"users": 5, "items": 4, "interactions": 20}
FIVE = {"users": 40, "items": 30, "interactions": 300}


def test_the_closest_setting_is_named_with_its_differences(recipe):
    rows, words = beside_published(recipe, TEN)
    assert rows == [
        {"name": "clips", **TEN},
        {"name": "The paper", "users": 40, "items": 33, "interactions": 297},
    ]
    assert words == (
        "Of the known settings --core 5 comes closest to The paper, with 40 users, 30 items, 300 interactions "
        "(users equal, items -9.1%, interactions +1.0%): bench prepare clips --core 5"
    )


def test_the_closest_setting_is_ours(recipe):
    variant = Variant(Cores(5, 5)).apply(recipe)
    assert beside_published(variant, FIVE)[1] == (
        "Of the known settings this one comes closest to The paper: users equal, items -9.1%, interactions +1.0%."
    )
    assert current_cores(variant) == Cores(5, 5)


def test_nothing_published(tmp_path):
    (tmp_path / "clips.toml").write_text(TEXT.split("[[expected.published]]")[0])
    assert beside_published(load_recipe(tmp_path / "clips.toml"), TEN) == ([], "")


def test_counts_of_a_known_core_are_a_warning(recipe):
    lines: list[str] = []
    check_prepared(recipe, TEN, lines.append)
    check_prepared(Variant(Cores(3, 3)).apply(recipe), {"users": 1, "items": 1, "interactions": 1}, lines.append)
    assert lines == []
    check_prepared(recipe, {**TEN, "items": 3}, lines.append)
    assert (
        "at this k-core the recipe knows 5 users, 4 items, 20 interactions, but there are 5 users, 3 items" in lines[0]
    )


def test_raw_counts_that_were_not_counted_are_not_compared(recipe):
    check_raw(recipe, {"users": None, "items": None, "interactions": 400}, pytest.fail)
    with pytest.raises(DataError, match="the raw files should have 400 interactions, but have 399 interactions"):
        check_raw(recipe, {"users": None, "items": None, "interactions": 399}, pytest.fail)
