"""Tell whether raw files are the copies that a recipe knows; another copy is reported, not refused."""

import hashlib
from collections.abc import Callable, Sequence

from bench.data.raw.checksums import wrong_with
from bench.data.raw.rawfiles import RawFile, RawFiles
from bench.data.recipes.sources import HttpSource, Source

Report = Callable[[str], None]


def report_other_copies(files: RawFiles, source: Source, names: Sequence[str], report: Report) -> None:
    """Report every file whose content is another than that of the known copy.

    Args:
        files: of the source.
        source: knows checksums of its files, or of its downloads.
        names: files to look at, as the recipe names them; those of unknown checksum are passed over.
        report: called with one line per such file.
    """
    downloads = {each.filename: each for each in source.downloads} if isinstance(source, HttpSource) else {}
    for name in names:
        file = files.find(name)
        known = source.checksums.get(name)
        if known is not None and (found := _content_checksum(file)) != known:
            report(f"warning: {file.shown} is another than the known copy: its SHA-256 is {found}, not {known}")
        if file.path.name in downloads and (wrong := wrong_with(file.path, downloads.pop(file.path.name))):
            report(f"warning: {file.path} is another than the known copy: {wrong}")


def _content_checksum(file: RawFile) -> str:
    """Return the SHA-256 of what a file holds, unpacked."""
    digest = hashlib.sha256()
    with file.open() as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
