"""Draw recipes on a terminal: which there are, where their data comes from, what is done with it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from bench.data import Recipe
    from bench.data.glance import Glance
    from bench.data.recipes.modalities import Encoder
    from bench.data.recipes.sources import AnySource, Expected

TEXTS = ("title", "homepage", "licence", "citation")
SHORT_LICENCE = 40


def listing_table(
    recipes: Sequence["Recipe"], families: Mapping[str, Sequence["Glance"]], strays: Sequence["Glance"]
) -> Table:
    """Return one row per recipe, below it one per variant that is prepared, and the datasets without a recipe last.

    Args:
        recipes: in the order of the rows.
        families: recipe's name -> what is prepared of it, variants included.
        strays: prepared datasets whose recipe is gone.
    """
    table = Table(title="Datasets", title_justify="left")
    for column in ("dataset", "aliases", "sources", "modalities", "state", "licence"):
        table.add_column(column, overflow="fold", no_wrap=column == "dataset")
    for recipe in recipes:
        own = [each for each in families[recipe.name] if each.name == recipe.name]
        named = (each.name if each.name == each.kind else f"{each.name} ({each.kind})" for each in recipe.sources)
        table.add_row(
            recipe.name,
            escape(", ".join(recipe.aliases) or "none"),
            ", ".join(named),
            ", ".join(recipe.features) or "none",
            _state(own[0]) if own else "not prepared",
            escape(_short(recipe.licence.partition(";")[0] or "not stated")),
        )
        for each in families[recipe.name]:
            if each not in own:
                table.add_row(f"  {escape(each.name)}", "", "", "", _state(each), "")
    for each in strays:
        table.add_row(escape(each.name), "", "no recipe", "", _state(each), "")
    return table


def _state(prepared: "Glance") -> str:
    if prepared.problem:
        return f"prepared, but {prepared.problem}"
    counts = f"{prepared.users:,} x {prepared.items:,}, {prepared.interactions:,} interactions"
    return f"prepared: {counts}, {_megabytes(prepared.size_bytes)}"


def _short(text: str) -> str:
    return text if len(text) <= SHORT_LICENCE else text[: SHORT_LICENCE - 3].rstrip() + "..."


def recipe_table(recipe: "Recipe") -> Table:
    """Return everything a user wants to know of a recipe before preparing it."""
    table = Table(title=escape(recipe.name), title_justify="left", show_header=False, caption=f"recipe {recipe.path}")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key in TEXTS:
        table.add_row(key, escape(getattr(recipe, key) or "not stated"))
    table.add_row("aliases", escape(", ".join(recipe.aliases) or "none"))
    table.add_section()
    for source in recipe.sources:
        table.add_row(f"source {source.name}", escape("\n".join(_source_lines(recipe, source))))
    table.add_section()
    _add_making(table, recipe)
    expected = list(_expected_lines(recipe.expected))
    if expected:
        table.add_section()
        table.add_row("should have", "\n".join(expected))
    table.add_section()
    table.add_row("to prepare it", escape("\n".join(_commands(recipe))))
    return table


def _add_making(table: Table, recipe: "Recipe") -> None:
    steps = [f"{number}. {step.kind} ({step.words})" for number, step in enumerate(recipe.steps, start=1)]
    table.add_row("steps", escape("\n".join(steps) or "none"))
    split = recipe.split
    table.add_row("split", split.method + (f", split_seed {split.split_seed}" if split.method == "random" else ""))
    for modality in {**recipe.features, **recipe.alternatives}:
        if modality in recipe.features:
            table.add_row(f"modality {modality}", escape(encoder_words(recipe.features[modality])))
        for name, feature in recipe.alternatives.get(modality, {}).items():
            table.add_row(f"  or {name}", escape(f"{encoder_words(feature)}: --feature {modality}={name}"))
    if not recipe.features:
        table.add_row("modalities", "none")


def encoder_words(feature: "Encoder") -> str:
    """Return how a modality is made: the encoder, and what the recipe says beyond its defaults."""
    settings = feature.model_dump(mode="json", exclude_defaults=True)
    encoder = settings.pop("encoder")
    parts = [f"{key} {_value(value)}" for key, value in settings.items()]
    return f"{encoder} ({'; '.join(parts)})" if parts else str(encoder)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(_value(part) for part in value)
    return repr(value) if isinstance(value, str) and not value.strip() else str(value)


def _source_lines(recipe: "Recipe", source: "AnySource") -> Iterator[str]:
    """Say what a source needs, and what it does differently."""
    yield _needs(source)
    if source.own_name:
        yield f"makes a dataset of its own: {recipe.name}@{source.name}"
    if source.steps is not None:
        yield f"own steps: {', '.join(f'{step.kind} ({step.words})' for step in source.steps) or 'none'}"
    if source.split is not None:
        yield f"own split: {source.split.method}"
    if source.features is not None:
        own = (f"{modality}: {encoder_words(feature)}" for modality, feature in source.features.items())
        yield f"own modalities: {', '.join(own) or 'none'}"


def _needs(source: "AnySource") -> str:
    match source.kind:
        case "package":
            return f"reads files of the installed Python package {source.package}"
        case "http":
            known = [download.size for download in source.downloads if download.size]
            some = "" if len(known) == len(source.downloads) else "at least "
            size = f", {some}{_megabytes(sum(known))}" if known else ""
            names = ", ".join(download.filename for download in source.downloads)
            return f"downloads {names}{size}"
        case "local":
            return f"reads the folder {source.folder}"
        case "manual":
            return f"needs files that only you can fetch. {source.how} {source.page}"
        case "kaggle":
            what = f"the competition {source.competition}" if source.competition else f"the dataset {source.handle}"
            rules = ", whose rules you accept on its page first," if source.competition else ""
            return f"downloads {what}{rules} with your Kaggle token: {source.page}"
        case "drive":
            return f"downloads the public Google Drive folder {source.folder_id}"
        case "generated":
            return "generates the data; needs nothing"


def _expected_lines(expected: "Expected") -> Iterator[str]:
    for what, counts in (("raw", expected.raw), ("prepared", expected.prepared)):
        if counts is not None:
            known = counts.model_dump(exclude={"target"}, exclude_none=True)
            yield f"{what}: {_counted(known)}{' (wished for, not demanded)' if counts.target else ''}"
    for core in expected.cores:
        counted = _counted({key: getattr(core, key) for key in ("users", "items", "interactions")})
        yield f"with users >= {core.user_core}, items >= {core.item_core}: {counted}"
    for paper in expected.published:
        counted = _counted({key: getattr(paper, key) for key in ("users", "items", "interactions")})
        yield escape(f"{paper.name} prints: {counted}")


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())


def _commands(recipe: "Recipe") -> Iterator[str]:
    """Say which commands prepare it, the plain one first."""
    yield f"bench prepare {recipe.name}"
    if any(source.kind in ("manual", "http", "kaggle", "drive") for source in recipe.sources):
        yield f"bench prepare {recipe.name} --from DIR   (with the raw files in a folder of yours)"
    for source in recipe.sources[1:]:
        yield f"bench prepare {recipe.name} --source {source.name}"


def _megabytes(size_bytes: int) -> str:
    """Write a size in MB of a million bytes, with one decimal below ten."""
    size = size_bytes / 1e6
    return f"{size:,.0f} MB" if size >= 10 else f"{size:.1f} MB"
