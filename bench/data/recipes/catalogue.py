"""Which datasets there are: the user's own recipes first, then those that ship with the program."""

from pathlib import Path

from bench.data.recipes.recipe import Recipe, load_recipe
from bench.data.recipes.variants import Variant
from bench.errors import RecipeError, unknown_name
from bench.workspace import Workspace, builtin_recipes


def list_recipes(workspace: Workspace) -> list[Recipe]:
    """Return all recipes by name; one in the workspace hides a built-in one of the same name.

    Raises:
        RecipeError: a recipe is not valid, or two of them answer to the same name.
    """
    own = _in_folder(workspace.datasets)
    recipes = {recipe.name: recipe for recipe in _in_folder(builtin_recipes())}
    recipes.update((recipe.name, recipe) for recipe in own)
    listed = sorted(recipes.values(), key=lambda recipe: recipe.name)
    _by_any_name(listed)
    return listed


def find_recipe(name: str, workspace: Workspace) -> Recipe:
    """Return the recipe with this name or alias in any case, or in this `.toml` file.

    A name may end in a variant, as in `microlens@5core`; the recipe that is returned is that of the variant.

    Raises:
        UsageError: nothing answers to the name; near matches are suggested.
        RecipeError: a recipe is not valid, or two of them answer to the same name.
    """
    if name.endswith(".toml"):
        return load_recipe(Path(name).expanduser())
    name, at, suffix = name.partition("@")
    if at:
        return Variant.parse(suffix.lower()).apply(find_recipe(name, workspace))
    recipes = list_recipes(workspace)
    known = _by_any_name(recipes)
    if name.casefold() not in known:
        hint = f"A dataset of your own needs a recipe in {workspace.datasets / 'NAME.toml'}."
        raise unknown_name("dataset", name, known, hint)
    return known[name.casefold()]


def prepared_names(workspace: Workspace) -> list[str]:
    """Return the names of the datasets that are prepared in this workspace."""
    found = workspace.prepared("x").parent.glob("*/dataset.json")
    return sorted(path.parent.name for path in found if not path.parent.name.startswith("."))


def _in_folder(folder: Path) -> list[Recipe]:
    recipes = [load_recipe(path) for path in sorted(folder.glob("*.toml"))]
    first: dict[str, Path] = {}
    for recipe in recipes:
        if recipe.name in first:
            raise RecipeError(
                f"{first[recipe.name]} and {recipe.path} both have name = '{recipe.name}'. Rename one of them."
            )
        first[recipe.name] = recipe.path
    return recipes


def _by_any_name(recipes: list[Recipe]) -> dict[str, Recipe]:
    """Map every name and alias, case folded, to its recipe."""
    known = {recipe.name.casefold(): recipe for recipe in recipes}
    for recipe in recipes:
        for alias in recipe.aliases:
            other = known.setdefault(alias.casefold(), recipe)
            if other is not recipe:
                raise RecipeError(
                    f"The alias '{alias}' in {recipe.path} also means the dataset '{other.name}' ({other.path}). "
                    f"Remove it from one of them."
                )
    return known
