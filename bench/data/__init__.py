"""What data is there, where does it come from, and what was done with it before a model saw it?

A recipe (`datasets/*.toml`) says where the raw files lie and which steps lead to the prepared dataset; `prepare`
follows it and writes a folder that every run refers to by its fingerprint.
"""

from bench.data.prepare import prepare
from bench.data.prepared import PreparedDataset
from bench.data.recipes.catalogue import find_recipe, list_recipes, prepared_names
from bench.data.recipes.recipe import Recipe, load_recipe
from bench.data.recipes.variants import Cores, Variant, features_from_options

__all__ = [
    "Cores",
    "PreparedDataset",
    "Recipe",
    "Variant",
    "features_from_options",
    "find_recipe",
    "list_recipes",
    "load_recipe",
    "prepare",
    "prepared_names",
]
