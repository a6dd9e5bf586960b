"""Find the raw files of a recipe: in an installed package, on the web, in a folder, or by generating them."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.download import UnavailableError, download
from bench.data.recipe import FileFeature, Recipe
from bench.data.sources import AnySource, GeneratedSource, HttpSource, LocalSource, PackageSource
from bench.data.toy import planted
from bench.errors import DataError, unknown_name
from bench.workspace import Workspace

Report = Callable[[str], None]


@dataclass(frozen=True)
class Located:
    """A source whose files are all there.

    Attributes:
        source: the one that was chosen.
        folder: holds the files that the recipe names.
    """

    source: AnySource
    folder: Path


def locate(recipe: Recipe, workspace: Workspace, *, source: str | None, report: Report) -> Located:
    """Return the first source of the recipe that is available, or the one named `source`.

    Raises:
        UsageError: the recipe has no source of that name.
        DataError: no source is available; the message says why, for each.
    """
    candidates = [each for each in recipe.sources if source in (None, each.name)]
    if not candidates:
        raise unknown_name(f"source of {recipe.name}", str(source), [each.name for each in recipe.sources])
    reasons = []
    for candidate in candidates:
        try:
            folder = _folder(candidate, recipe, workspace, report)
            _check_files(folder, candidate, recipe)
        except UnavailableError as reason:
            reasons.append(f"source '{candidate.name}': {reason}")
            report(f"{reasons[-1]}")
        else:
            report(f"source '{candidate.name}': {folder}")
            return Located(candidate, folder)
    raise DataError(f"The raw files of {recipe.name} are not available.\n  " + "\n  ".join(reasons))


def needed_files(source: AnySource, recipe: Recipe) -> list[str]:
    """Return the files of a source that the recipe reads, without repetition."""
    tables = [source.interactions, *([source.items] if source.items else [])]
    matrices = [feature.file for feature in recipe.features.values() if isinstance(feature, FileFeature)]
    return list(dict.fromkeys([*(table.file for table in tables), *matrices]))


def _folder(source: AnySource, recipe: Recipe, workspace: Workspace, report: Report) -> Path:
    match source:
        case PackageSource():
            return _package_folder(source)
        case LocalSource():
            return _local_folder(source, recipe)
        case HttpSource():
            folder = workspace.raw(recipe.name)
            download(source.downloads, folder, needed_files(source, recipe), report)
            return folder
        case GeneratedSource():
            return _generate(source, recipe, workspace.raw(recipe.name))


def _check_files(folder: Path, source: AnySource, recipe: Recipe) -> None:
    missing = [file for file in needed_files(source, recipe) if not (folder / file).is_file()]
    if missing:
        found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        shown = ", ".join(found[:10]) + (f" and {len(found) - 10:,} more" if len(found) > 10 else "")
        raise UnavailableError(f"{folder} lacks {', '.join(missing)}. It holds {shown or 'no files'}.")


def _package_folder(source: PackageSource) -> Path:
    # find_spec only looks a top-level package up: nothing of it runs, and a broken or slow import does not matter.
    spec = importlib.util.find_spec(source.package)
    if spec is None:
        raise UnavailableError(f"the Python package {source.package} is not installed (pip install {source.package}).")
    for location in spec.submodule_search_locations or []:
        folder = Path(location) / source.folder
        if folder.is_dir():
            return folder
    raise UnavailableError(
        f"the installed package {source.package} has no folder {source.folder}; its version may differ."
    )


def _local_folder(source: LocalSource, recipe: Recipe) -> Path:
    folder = recipe.path.parent / Path(source.folder).expanduser()
    if not folder.is_dir():
        raise UnavailableError(
            f"there is no folder {folder.resolve()}. Put {', '.join(needed_files(source, recipe))} there, or change "
            f"'folder' in {recipe.path}."
        )
    return folder


def _generate(source: GeneratedSource, recipe: Recipe, folder: Path) -> Path:
    """Write the generated tables and matrices; made anew each time, so that they follow the parameters."""
    try:
        data = planted(**source.params)  # type: ignore[arg-type]
    except TypeError as error:
        raise DataError(f"{recipe.path}: the generator '{source.generator}' refuses its params: {error}.") from error
    folder.mkdir(parents=True, exist_ok=True)
    data.interactions.to_csv(folder / "interactions.csv", index=False)
    data.items.to_csv(folder / "items.csv", index=False)
    for modality, matrix in data.features.items():
        np.save(folder / f"{modality}.npy", matrix, allow_pickle=False)
    return folder
