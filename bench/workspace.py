"""Where things lie: the user's working folder, and what ships with the program."""

from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Workspace:
    """The folders of one working directory.

    Nothing is created here: a command that writes makes its own folder.

    Attributes:
        datasets: recipes of the user's own (`*.toml`), downloads under `raw/`, prepared data under `prepared/`.
        results: run results, reports and references.
    """

    datasets: Path = Path("datasets")
    results: Path = Path("results")

    def raw(self, name: str) -> Path:
        """Return the folder of a dataset's downloaded files."""
        return self.datasets / "raw" / name

    def prepared(self, name: str) -> Path:
        """Return the folder of a dataset's prepared form."""
        return self.datasets / "prepared" / name


def builtin_recipes() -> Path:
    """Return the folder of the recipes that ship with the program.

    In a wheel they lie inside the package; in a source checkout they are the top-level `datasets/` folder.
    """
    installed = PACKAGE / "recipes"
    return installed if installed.is_dir() else PACKAGE.parent / "datasets"


def builtin_presets() -> Path:
    """Return the folder of the tuned hyper-parameters that ship with the program."""
    return PACKAGE / "presets"
