import pytest

from bench.data.recipes.recipe import Recipe, load_recipe
from bench.data.recipes.variants import Cores, Variant, features_from_options
from bench.errors import RecipeError, UsageError

TEXT = """
name = "shop"
aliases = ["store"]

[[sources]]
kind = "local"
folder = "raw"
interactions = { file = "pairs.csv" }
items = { file = "items.csv", fields = { title = "name" } }

[[sources]]
name = "ready"
kind = "local"
folder = "ready"
layout = "mmrec"
dataset = "shop"
own_name = true
steps = []
split = { method = "given" }
features = { text = { encoder = "file", file = "text.npy" } }

[[steps]]
kind = "core"
k = 10

[[steps]]
kind = "available"
modalities = ["text", "visual"]

[[steps]]
kind = "core"
k = 10

[features.text]
encoder = "tfidf-svd"
fields = ["title"]

[features.visual]
encoder = "file"
file = "visual.npy"

[alternatives.text.wide]
encoder = "tfidf-svd"
fields = ["title"]
width = 300

[expected.prepared]
users = 7
"""


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    (tmp_path / "shop.toml").write_text(TEXT)
    return load_recipe(tmp_path / "shop.toml")


@pytest.mark.parametrize(
    ("text", "cores", "label"),
    [
        ("5", Cores(5, 5), "5core"),
        ("user=5,item=10", Cores(5, 10), "user5item10core"),
        ("item=4", Cores(1, 4), "user1item4core"),
        (" user=3 , item=3 ", Cores(3, 3), "3core"),
        ("none", Cores(1, 1), "nocore"),
    ],
)
def test_what_core_takes_and_how_it_is_called(text, cores, label):
    assert Cores.parse(text) == cores
    assert cores.label == label
    assert Cores.parse(cores.option) == cores
    assert Variant.parse(label).cores == cores


@pytest.mark.parametrize("text", ["", "0", "-1", "five", "user=5;item=3", "user=5,user=6", "user=5,", "users=5"])
def test_what_core_does_not_take(text):
    with pytest.raises(UsageError, match="expected a number such as 5, user=5,item=10, or none"):
        Cores.parse(text)


def test_another_core_takes_the_place_of_every_core_step(recipe):
    changed = Variant(Cores(5, 3)).apply(recipe)
    assert changed.name == "shop@user5item3core"
    assert [step.kind for step in changed.steps] == ["core", "available", "core"]
    assert [step.cores for step in changed.steps if step.kind == "core"] == [(5, 3), (5, 3)]
    assert changed.expected.prepared is None, "counts of another core"
    assert changed.hash != recipe.hash
    assert changed.aliases == (), "the alias still means the recipe's own form"
    assert changed.sources[1].steps[0].cores == (5, 3), "a source with steps of its own follows"


def test_no_core_and_the_same_core(recipe):
    none = Variant(Cores(1, 1)).apply(recipe)
    assert none.name == "shop@nocore"
    assert [step.kind for step in none.steps] == ["available"]
    same = Variant(Cores(10, 10)).apply(recipe)
    assert same.steps == recipe.steps
    assert same.sources[0] == recipe.sources[0]


def test_the_recipes_own_core_is_no_variant(tmp_path):
    (tmp_path / "plain.toml").write_text(
        'name = "plain"\nsources = [{ kind = "local", folder = "raw", interactions = { file = "p.csv" } }]\n'
        '[[steps]]\nkind = "core"\nk = 10\n'
    )
    plain = load_recipe(tmp_path / "plain.toml")
    assert Variant(Cores(10, 10)).apply(plain) is plain
    assert Variant(Cores(4, 4)).apply(plain).steps[0].cores == (4, 4)


def test_a_core_where_the_recipe_has_none(tmp_path):
    (tmp_path / "bare.toml").write_text(
        'name = "bare"\nsources = [{ kind = "local", folder = "raw", interactions = { file = "p.csv" } }]\n'
        '[[steps]]\nkind = "dedupe"\n'
    )
    bare = load_recipe(tmp_path / "bare.toml")
    assert [step.kind for step in Variant(Cores(4, 4)).apply(bare).steps] == ["dedupe", "core"]
    assert Variant(Cores(1, 1)).apply(bare) is bare, "none is what it has"


def test_features_by_their_alternatives(recipe):
    wide = Variant(features={"text": "wide"}).apply(recipe)
    assert wide.name == "shop@text=wide"
    assert wide.features["text"].width == 300
    assert [source.name for source in wide.sources] == ["local"], "the other has features of its own"
    with pytest.raises(UsageError, match="The source ready of shop has features of its own"):
        Variant(features={"text": "wide"}, source="ready").apply(recipe)
    bare = Variant(features={"visual": "none"}).apply(recipe)
    assert bare.name == "shop@visual=none"
    assert list(bare.features) == ["text"]
    assert [step.modalities for step in bare.steps if step.kind == "available"] == [("text",)]
    both = Variant(Cores(5, 5), {"visual": "none", "text": "wide"}).apply(recipe)
    assert both.name == "shop@5core+text=wide+visual=none"


def test_a_source_with_a_name_of_its_own(recipe):
    ready = Variant(source="ready").apply(recipe)
    assert ready.name == "shop@ready"
    assert [source.name for source in ready.sources] == ["ready"]
    at = ready.at(ready.sources[0])
    assert (at.steps, at.split.method, list(at.features)) == ((), "given", ["text"])
    assert Variant(source="local").apply(recipe) is recipe
    with pytest.raises(UsageError, match=r"Unknown source of shop 'redy'. Did you mean ready\?"):
        Variant(source="redy").apply(recipe)


@pytest.mark.parametrize("suffix", ["5core", "nocore", "ready", "text=wide", "5core+text=wide", "ready+5core"])
def test_the_name_alone_finds_the_variant_again(recipe, suffix):
    changed = Variant.parse(suffix).apply(recipe)
    assert changed.name == f"shop@{suffix}"


def test_names_that_mean_nothing(recipe):
    with pytest.raises(UsageError, match="The part '5 core' behind the @"):
        Variant.parse("5 core")
    with pytest.raises(UsageError, match=r"Unknown alternative for shop's modality text 'wider'. Did you mean wide\?"):
        Variant(features={"text": "wider"}).apply(recipe)
    with pytest.raises(UsageError, match=r"Unknown modality of shop 'vision'. Did you mean visual\?"):
        Variant(features={"vision": "none"}).apply(recipe)


def test_what_does_not_fit_together_any_more(tmp_path):
    (tmp_path / "shop.toml").write_text(
        TEXT.replace("width = 300", 'width = 300\nmissing = "drop"').replace('"text", ', "")
    )
    with pytest.raises(RecipeError, match="no step of kind 'available' names 'text'"):
        Variant(features={"text": "wide"}).apply(load_recipe(tmp_path / "shop.toml"))


def test_feature_options():
    assert features_from_options(["a=b", "c=none"]) == {"a": "b", "c": "none"}
    for options in (["a"], ["a="], ["=b"], ["a=b", "a=c"]):
        with pytest.raises(UsageError, match="expected MODALITY=ALTERNATIVE"):
            features_from_options(options)
