"""Find the raw files of a recipe: in a package, on the web, in a folder of the user's, or by generating them."""

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.data.raw.archives import is_archive
from bench.data.raw.copies import report_other_copies
from bench.data.raw.rawfiles import RawFiles
from bench.data.raw.unavailable import UnavailableError
from bench.data.recipes.modalities import Encoder, ImageModel, feature_files
from bench.data.recipes.recipe import Recipe
from bench.data.recipes.sources import (
    AnySource,
    Download,
    DriveSource,
    GeneratedSource,
    HttpSource,
    KaggleSource,
    LocalSource,
    ManualSource,
    PackageSource,
)
from bench.data.toy import planted
from bench.errors import DataError, UsageError, unknown_name
from bench.workspace import Workspace

Report = Callable[[str], None]


@dataclass(frozen=True)
class Located:
    """A source whose files are all there.

    Attributes:
        source: the one that was chosen.
        files: holds the files that the recipe names.
        recipe: as it is for this source.
    """

    source: AnySource
    files: RawFiles
    recipe: Recipe


def locate(
    recipe: Recipe,
    workspace: Workspace,
    *,
    source: str | None,
    folder: Path | None = None,
    base: str | None = None,
    report: Report,
) -> Located:
    """Return the first source of the recipe that is available, or the one named `source`.

    Args:
        recipe: whose sources are tried, in order.
        workspace: where files are fetched to; variants of a dataset share their raw files.
        source: name of the only source to try.
        folder: where the files are already: nothing is fetched, and each source is looked for there.
        base: web address to fetch from, in place of the source's own; only sources on the web are tried then.
        report: called with a line for each source, and with the progress of downloads.

    Raises:
        UsageError: the recipe has no source of that name, or none that `folder` or `base` goes with.
        DataError: no source is available; the message says why, for each.
    """
    reasons = []
    for candidate in _candidates(recipe, source, folder, base):
        own = recipe.at(candidate)
        try:
            files = RawFiles(folder or _folder(candidate, own, workspace, base, report))
            _check_files(files, candidate, own)
        except UnavailableError as reason:
            reasons.append(f"source '{candidate.name}': {reason}")
        else:
            for passed_over in reasons:
                report(passed_over)
            report(f"source '{candidate.name}': {files.folder}")
            if folder is not None:
                report_other_copies(files, candidate, needed_files(own, candidate), report)
            return Located(candidate, files, own)
    raise DataError(f"The raw files of {recipe.name} are not available.\n  " + "\n  ".join(reasons))


def needed_files(recipe: Recipe, source: AnySource) -> list[str]:
    """Return the files of known name that `recipe`, as it is for `source`, reads from there, without repetition."""
    read = [file for feature in recipe.features.values() for file in feature_files(feature)]
    return list(dict.fromkeys([*source.table_files, *read]))


def _candidates(recipe: Recipe, source: str | None, folder: Path | None, base: str | None) -> list[AnySource]:
    """Return the sources to try; never none."""
    # Another dataset must not take the place of this one only because its files can be had.
    own = [each for each in recipe.sources if not each.own_name] or list(recipe.sources)
    named = own if source is None else [each for each in recipe.sources if each.name == source]
    if not named:
        raise unknown_name(f"source of {recipe.name}", str(source), [each.name for each in recipe.sources])
    if folder is not None and base is not None:
        raise UsageError("--from says that the files are there, --url where to fetch them: use one of the two.")
    what = f"the source '{source}'" if source else "every source"
    if base is not None:
        on_the_web = [each for each in named if isinstance(each, HttpSource)]
        if not on_the_web:
            raise UsageError(
                f"--url is for sources of kind 'http', but {what} of {recipe.name} is of another kind: "
                f"{', '.join(dict.fromkeys(each.kind for each in named))}."
            )
        return list(on_the_web)
    if folder is not None:
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder.resolve()}: --from takes the folder that holds the raw files.")
        named = [each for each in named if not isinstance(each, GeneratedSource)]
        if not named:
            raise UsageError(f"--from is for raw files, but {what} of {recipe.name} is generated. Leave --from out.")
    return named


def _folder(source: AnySource, recipe: Recipe, workspace: Workspace, base: str | None, report: Report) -> Path:
    """Return the folder with the files of a source, after fetching them where there is something to fetch."""
    raw = workspace.raw(recipe.name.partition("@")[0])
    match source:
        case PackageSource():
            return _package_folder(source)
        case LocalSource():
            return _local_folder(source, recipe)
        case ManualSource():
            return _manual_folder(source, recipe, raw)
        case GeneratedSource():
            return _generate(source, recipe, raw)
        case HttpSource() | KaggleSource() | DriveSource():
            return _fetched_folder(source, recipe, raw, base, report)


def _fetched_folder(
    source: HttpSource | KaggleSource | DriveSource, recipe: Recipe, folder: Path, base: str | None, report: Report
) -> Path:
    # Imported here, so that a command that fetches nothing does not wait for the libraries of the web.
    if isinstance(source, HttpSource):
        from bench.data.raw.download import download

        wanted = tuple(each for each in source.downloads if _is_wanted(each, source, recipe))
        download(source.model_copy(update={"downloads": wanted}), folder, report, base=base)
        return folder
    from bench.data.raw.hosted import from_drive, from_kaggle

    if isinstance(source, DriveSource):
        return from_drive(source, folder, report)
    pictures = [feature for feature in recipe.features.values() if isinstance(feature, ImageModel)]
    files = RawFiles(folder)
    if not files.missing(needed_files(recipe, source)) and all(_has_pictures(files, each) for each in pictures):
        return folder
    # Pictures are far too many to be fetched file by file.
    return from_kaggle(source.model_copy(update={"files": ()}) if pictures else source, folder, report)


def _has_pictures(files: RawFiles, feature: ImageModel) -> bool:
    """Say whether there is any file called as a picture would be, so that somebody has put the pictures there."""
    endings = [re.escape(rule.rpartition("}")[2]) for rule in feature.images]
    is_picture = re.compile(f"[^/]({'|'.join(endings)})$")
    return any(is_picture.search(name) for name in files.names())


def _is_wanted(download: Download, source: HttpSource, recipe: Recipe) -> bool:
    """Say whether a download is for something that this form of the recipe reads; matrices and pictures are large."""
    name = download.filename.casefold()
    files = {Path(file).name.casefold() for file in needed_files(recipe, source)}
    if name in files or name.removesuffix(".gz") in files:
        return True
    if any(name in _archives(feature) for feature in recipe.features.values()):
        return True
    others = [feature for ways in recipe.alternatives.values() for feature in ways.values()]
    return is_archive(download.filename) and not any(name in _archives(feature) for feature in others)


def _archives(feature: Encoder) -> set[str]:
    return {Path(file).name.casefold() for file in feature.archives} if isinstance(feature, ImageModel) else set()


def _check_files(files: RawFiles, source: AnySource, recipe: Recipe) -> None:
    needed = needed_files(recipe, source)
    missing = files.missing(needed)
    if missing:
        raise UnavailableError(files.lacks(missing))
    for name in needed:
        files.find(name)


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
            f"there is no folder {folder.resolve()}. Put {', '.join(needed_files(recipe, source))} there, or change "
            f"'folder' in {recipe.path}."
        )
    return folder


def _manual_folder(source: ManualSource, recipe: Recipe, folder: Path) -> Path:
    files = RawFiles(folder)
    missing = files.missing(needed_files(recipe, source))
    if missing:
        raise UnavailableError(
            f"its files have to be fetched by hand from {source.page}. {source.how} Put them, packed or not, into "
            f"{folder}, or say with --from DIR where they are. {files.lacks(missing)}"
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
