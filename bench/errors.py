"""Errors a person can act on.

Every `BenchError` is shown as one paragraph, without a traceback. Its message says what was expected, what was
found, where, and what to do next. Anything else that escapes is a bug and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class BenchError(Exception):
    """Base of all errors meant for the user; the command line exits with `exit_code`."""

    exit_code = 2


class UsageError(BenchError):
    """The command's own words are off: an unknown name, an ill-typed value, options that contradict."""


class RecipeError(BenchError):
    """A dataset recipe cannot be read or contradicts itself."""


class DataError(BenchError):
    """Raw or prepared data is not what the recipe says it is."""


class StoreError(BenchError):
    """The results folder cannot be read or written."""


class TrainingError(BenchError):
    """A model could not be trained; recorded as a failed run with the epoch and step it happened at."""

    def __init__(self, message: str, *, epoch: int | None = None, step: int | None = None) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.step = step


def unknown_name(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """Build the error for a `name` that is no known `kind`, with near matches first.

    Args:
        kind: what was looked for, in the singular ("model", "dataset").
        name: what the user wrote.
        known: every name that would have worked.
        hint: a last sentence saying what to do when nothing fits.
    """
    names = sorted(set(known))
    near = get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    message = f"Unknown {kind} '{name}'."
    if near:
        message += f" Did you mean {' or '.join(near)}?"
    message += f" Known: {', '.join(names) if names else 'none'}."
    return UsageError(f"{message} {hint}".strip())
