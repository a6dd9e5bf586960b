"""Write result files in one step, so that a reader never meets half of one."""

import os
from pathlib import Path

from bench.errors import StoreError


def write_atomically(path: Path, text: str) -> None:
    """Write `text` as UTF-8 beside `path` and rename it into place; parent folders are made.

    Raises:
        StoreError: the folder or file cannot be written.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    except OSError as error:
        _discard(partial)
        raise StoreError(
            f"{path.resolve()} cannot be written ({error.strerror or error}). "
            "Make its folder writable, or name another results folder."
        ) from error


def _discard(partial: Path) -> None:
    try:
        partial.unlink(missing_ok=True)
    except OSError:
        # The write's own error is the one the user needs; where it failed, there is nothing to clean up.
        return
