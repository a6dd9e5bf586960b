from pathlib import Path

import pytest

from bench.data.recipes.recipe import load_recipe
from bench.data.recipes.steps import CoreStep
from bench.errors import RecipeError

SHORT = """
name = "mine"

[[sources]]
kind = "local"
folder = "raw"
interactions = { file = "pairs.csv", split = "split" }

[split]
method = "given"

[features.image]
encoder = "file"
file = "image.npy"
"""
SECOND_SOURCE = "[[sources]]\nkind = 'local'\nfolder = 'b'\ninteractions = { file = 'b.csv', split = 's' }\n"


@pytest.fixture
def refusal(tmp_path: Path):
    """Load a recipe text that must be refused and return the message."""

    def load(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    return load


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_short_recipe_gets_its_defaults(tmp_path):
    recipe = load_recipe(write(tmp_path, SHORT))
    (source,) = recipe.sources
    assert (source.name, source.kind, source.items) == ("local", "local", None)
    assert (source.interactions.user, source.interactions.item) == ("user", "item")
    assert (recipe.steps, recipe.split.labels) == ((), None)
    assert (recipe.features["image"].rows, recipe.features["image"].first_id) == ("id", 0)
    assert recipe.path == tmp_path / "mine.toml"


def test_hash_follows_content_and_not_the_words(tmp_path):
    def digest(text: str) -> str:
        return load_recipe(write(tmp_path, text)).hash

    same = digest(SHORT)
    assert digest("# a comment\n" + SHORT) == same
    assert digest('title = "Mine"\naliases = ["m"]\ncitation = "Me"\n' + SHORT) == same
    assert digest(SHORT.replace('method = "given"', 'method = "given"\nsplit_seed = 2023')) == same, "the default"
    assert digest(SHORT.replace("image.npy", "picture.npy")) != same
    assert digest(SHORT + "\n[[steps]]\nkind = 'dedupe'") != same


def test_order_of_steps_is_kept_and_hashed(tmp_path):
    dedupe, core = "[[steps]]\nkind = 'dedupe'\n", "[[steps]]\nkind = 'core'\nk = 5\n"
    one, other = (load_recipe(write(tmp_path, SHORT + steps)) for steps in (dedupe + core, core + dedupe))
    assert [step.kind for step in one.steps] == ["dedupe", "core"]
    assert [step.kind for step in other.steps] == ["core", "dedupe"]
    assert one.hash != other.hash


def test_core_asks_for_both_sides_or_one():
    assert CoreStep(kind="core", k=10).cores == (10, 10)
    assert CoreStep(kind="core", user_core=5).cores == (5, 1)
    assert CoreStep(kind="core", item_core=7).cores == (1, 7)
    assert CoreStep(kind="core", user_core=5, item_core=7).cores == (5, 7)


# fmt: off
MISTAKES = [
    ('file = "pairs.csv"', 'fil = "pairs.csv"', "sources[0].interactions: unknown key 'fil' (did you mean 'file'?"),
    ('name = "mine"', 'name = "mine"\nalias = ["m"]', "recipe: unknown key 'alias' (did you mean 'aliases'?)"),
    ('name = "mine"', "", "name: this key is required"),
    ('name = "mine"', 'name = "Mine!"', "name: expected a name of lower-case letters"),
    ('name = "mine"', "name = 5", "name: expected a valid string, found 5"),
    ('folder = "raw"', "", "sources[0].folder: this key is required"),
    ('kind = "local"', "", "sources[0]: expected a table with the key 'kind'"),
    ('kind = "local"', 'kind = "locla"', "found 'locla' (did you mean 'local'?)"),
    ('method = "given"', 'method = "givn"', "method: expected 'random', 'chronological' or 'given', found 'givn'"),
    ('method = "given"', 'method = "given"\nsplit_seed = "7"', "split.split_seed: expected a valid integer,"),
    ('method = "given"', 'method = "given"\nlabels = { 0 = "trian" }', "split.labels.0: expected 'train', 'valid'"),
    ('encoder = "file"', 'encoder = "npy"', "features.image: expected 'encoder' to be one of"),
    ("[features.image]", "[features.Image-1]", "expected a modality name of lower-case letters"),
    ('file = "image.npy"', 'file = "../image.npy"', "features.image.file: expected a path inside the source's"),
    ('file = "image.npy"', 'file = "image.npy"\nrows = "order"', "needs an items table, but source 'local'"),
    ('encoder = "file"\nfile = "image.npy"', 'encoder = "multi-hot"', "at least one of 'fields' and 'decade'"),
    (', split = "split"', "", "lacks the key 'split', which the split method 'given' needs"),
    ('method = "given"', 'method = "random"', "has the key 'split', which the split method 'random' does not use"),
    ('method = "given"', 'method = "chronological"', "lacks the key 'timestamp'"),
    ("[split]", "[[steps]]\nkind = 'positive'\nminimum = 4\n[split]", "lacks the key 'rating'"),
    ("[split]", "[[steps]]\nkind = 'core'\n[split]", "steps[0]: expected either 'k'"),
    ("[split]", "[[steps]]\nkind = 'core'\nk = 0\n[split]", "steps[0].k: expected"),
    ("[split]", "[[steps]]\nkind = 'core'\nk = 5\nuser_core = 5\n[split]", "steps[0]: expected either 'k'"),
    ("[split]", SECOND_SOURCE + "[split]", "2 sources are named 'local'"),
    ("[split]", "[split", "is not valid TOML"),
]
# fmt: on


@pytest.mark.parametrize(("before", "after", "expected"), MISTAKES)
def test_mistakes_are_named_with_their_place(refusal, before, after, expected):
    assert before in SHORT
    assert expected in refusal(SHORT.replace(before, after))


def test_all_mistakes_come_at_once(refusal):
    message = refusal(SHORT.replace("image.npy", "/image.npy").replace('"mine"', '"!"').replace("given", "fix"))
    assert len(message.splitlines()) == 4
    places = [line.split(":")[0].strip() for line in message.splitlines()[1:]]
    assert places == ["name", "split.method", "features.image.file"]


def test_a_recipe_needs_a_source(refusal):
    message = refusal('name = "mine"\nsources = []')
    assert message.splitlines()[1:] == ["  sources: expected at least one entry, found a list of 0"]


def test_one_mistake_is_told_once(refusal):
    assert len(refusal(SHORT.replace('file = "pairs.csv"', "file = 3")).splitlines()) == 2


def test_features_must_read_fields_that_the_items_have(refusal):
    items = 'items = { file = "items.csv", fields = { title = "name" } }\n\n[split]'
    text = SHORT.replace("\n[split]", items) + '\n[features.text]\nencoder = "tfidf-svd"\nfields = ["titel"]\n'
    assert "features.text reads the field 'titel', but source 'local' has: title" in refusal(text)


def test_patterns_can_make_the_fields_that_features_read(tmp_path):
    pattern = "(?P<title>.*) (?P<year>[0-9]+)"
    items = f"items = {{ file = 'i.csv', fields = {{ title = 'name' }}, patterns = {{ title = '{pattern}' }} }}"
    genre = '\n[features.genre]\nencoder = "multi-hot"\ndecade = "year"\n'
    assert load_recipe(write(tmp_path, SHORT.replace("\n[split]", f"{items}\n\n[split]") + genre)).features["genre"]


@pytest.mark.parametrize("pattern", ["(?P<title>", "no groups"])
def test_patterns_must_be_regular_expressions_with_names(refusal, pattern):
    items = f"items = {{ file = 'i.csv', patterns = {{ title = '{pattern}' }} }}\n\n[split]"
    message = refusal(SHORT.replace("\n[split]", items))
    assert "sources[0].items.patterns.title: expected a regular expression with named groups" in message


def test_downloads_need_a_web_address_and_a_file_name(refusal):
    http = SHORT.replace('kind = "local"\nfolder = "raw"', 'kind = "http"\ndownloads = [{ url = "URL" }]')
    assert "expected a web address" in refusal(http.replace("URL", "ftp://example.org/a.csv"))
    assert "expected a 'url' that ends in a file name" in refusal(http.replace("URL", "https://example.org/a/"))


def test_unreadable_files(refusal, tmp_path):
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        load_recipe(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes('title = "é"'.encode("latin-1"))
    with pytest.raises(RecipeError, match="not UTF-8"):
        load_recipe(tmp_path / "latin.toml")
