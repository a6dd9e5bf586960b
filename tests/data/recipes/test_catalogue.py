from pathlib import Path

import pytest

import bench.data.recipes.catalogue
from bench.data.recipes.catalogue import find_recipe, list_recipes
from bench.data.recipes.variants import Variant
from bench.errors import RecipeError, UsageError
from bench.workspace import Workspace, builtin_recipes


def recipe(folder: Path, name: str, extra: str = "", file: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / (file or f"{name}.toml")
    source = '{ kind = "local", folder = "x", interactions = { file = "p.csv" } }'
    path.write_text(f'name = "{name}"\n{extra}\nsources = [{source}]\n')
    return path


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    recipe(tmp_path / "builtin", "movies", 'aliases = ["films"]')
    recipe(tmp_path / "builtin", "toy")
    monkeypatch.setattr(bench.data.recipes.catalogue, "builtin_recipes", lambda: tmp_path / "builtin")
    return Workspace(tmp_path / "datasets", tmp_path / "results")


def test_without_a_folder_of_ones_own_there_are_the_builtin_ones(workspace):
    assert [each.name for each in list_recipes(workspace)] == ["movies", "toy"]


def test_ones_own_recipe_wins(workspace):
    own = recipe(workspace.datasets, "toy", 'title = "My toy"')
    recipe(workspace.datasets, "hm", 'aliases = ["H&M", "h-and-m", "h"]')
    assert [each.name for each in list_recipes(workspace)] == ["hm", "movies", "toy"]
    assert find_recipe("toy", workspace).path == own


@pytest.mark.parametrize("name", ["hm", "HM", "h&m", "H&M", "H-and-M", "h"])
def test_names_and_aliases_in_any_case(workspace, name):
    recipe(workspace.datasets, "hm", 'aliases = ["H&M", "h-and-m", "h"]')
    assert find_recipe(name, workspace).name == "hm"


def test_unknown_name_suggests_near_ones(workspace):
    with pytest.raises(UsageError, match=r"Unknown dataset 'movise'\. Did you mean movies.*recipe in .*NAME\.toml"):
        find_recipe("movise", workspace)


def test_a_name_that_two_recipes_answer_to_is_refused(workspace):
    recipe(workspace.datasets, "cinema", 'aliases = ["Films"]')
    with pytest.raises(RecipeError, match=r"alias 'films' in .*movies\.toml also means the dataset 'cinema'"):
        list_recipes(workspace)


def test_an_alias_that_is_another_ones_name_is_refused(workspace):
    recipe(workspace.datasets, "cinema", 'aliases = ["toy"]')
    with pytest.raises(RecipeError, match="alias 'toy'"):
        find_recipe("movies", workspace)


def test_the_same_name_twice_in_a_folder_is_refused(workspace):
    recipe(workspace.datasets, "a", file="one.toml")
    recipe(workspace.datasets, "a", file="two.toml")
    with pytest.raises(RecipeError, match=r"one\.toml and .*two\.toml both have name = 'a'"):
        list_recipes(workspace)


def test_a_recipe_can_be_given_by_its_file(workspace, tmp_path):
    path = recipe(tmp_path / "elsewhere", "mine")
    assert find_recipe(str(path), workspace).name == "mine"


def test_every_builtin_recipe_is_valid_and_described(tmp_path):
    shipped = list_recipes(Workspace(builtin_recipes(), tmp_path))
    assert {"ml-100k", "toy"} <= {each.name for each in shipped}
    for each in shipped:
        assert each.path.stem == each.name
        assert each.title
        assert each.licence


def test_a_variant_is_found_by_its_name(tmp_path):
    workspace = Workspace(tmp_path / "datasets")
    assert find_recipe("toy@7core", workspace).name == "toy@7core"
    assert find_recipe("TOY@7CORE", workspace).name == "toy@7core"
    assert find_recipe("microlens-50k@5core+visual=none", workspace).name == "microlens@5core+visual=none"
    assert find_recipe("microlens@10core", workspace).name == "microlens", "what the recipe does anyway"
    assert find_recipe("baby@mmrec", workspace).sources[0].name == "mmrec"
    with pytest.raises(UsageError, match=r"Unknown source of toy '6cor'.*5core, user5item10core or nocore"):
        find_recipe("toy@6cor", workspace)


@pytest.mark.parametrize("recipe", list_recipes(Workspace(Path("nowhere"))), ids=lambda recipe: recipe.name)
def test_every_variant_that_a_shipped_recipe_allows_fits_together(recipe):
    for modality, ways in recipe.alternatives.items():
        for way in ways:
            assert Variant.parse(f"{modality}={way}").apply(recipe).name == f"{recipe.name}@{modality}={way}"
    for modality in recipe.features:
        assert modality not in Variant.parse(f"{modality}=none").apply(recipe).features
    for source in recipe.sources:
        if source.own_name:
            assert Variant.parse(source.name).apply(recipe).name == f"{recipe.name}@{source.name}"
    assert Variant.parse("nocore").apply(recipe).name in (recipe.name, f"{recipe.name}@nocore")
