"""Where RecBole lies, and what to say where it does not.

RecBole pins a version of ray, for its hyper-parameter search, that has no wheels for Python 3.12 and later. Its models
need no ray, so it runs there too once it is installed without what it asks for.
"""

import importlib.util
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType

from baselines.recbole.catalogue import Entry

VERSION = "1.2.1"
# Import name to name on the package index: all that the modules used here import and this program does not bring.
IMPORTED: Mapping[str, str] = MappingProxyType(
    {
        "colorama": "colorama",
        "colorlog": "colorlog",
        "tensorboard": "tensorboard",
        "texttable": "texttable",
        "tqdm": "tqdm",
        "yaml": "pyyaml",
    }
)
INSTALL = f"pip install --no-deps recbole=={VERSION} && pip install {' '.join(IMPORTED.values())}"


class RecBoleUnavailableError(ImportError):
    """RecBole, or something it imports, is not there; the message says what to install."""


def package_folder() -> Path:
    """Return the folder of the installed RecBole without importing it.

    Raises:
        RecBoleUnavailableError: it is absent, of another version, or lacks a package that it imports.
    """
    found = importlib.util.find_spec("recbole")
    # A folder of this name on the path is found too, but without a file of its own.
    if found is None or found.origin is None:
        raise RecBoleUnavailableError(
            f"RecBole is not installed (this is Python {platform.python_version()}). It pins a ray that has no wheels "
            "for Python 3.12 and later, so an ordinary install leaves it out there. Its models need no ray: "
            f"{INSTALL}"
        )
    installed = installed_version()
    if installed != VERSION:
        raise RecBoleUnavailableError(
            f"RecBole {VERSION} is expected, found {installed or 'one of unknown version'}. Its models are used by "
            f"their inner names, so no other version will do: pip install --no-deps recbole=={VERSION}"
        )
    check_packages(IMPORTED, "RecBole")
    return Path(found.origin).parent


def installed_version() -> str | None:
    """Return the version of the installed RecBole, None where it is absent."""
    try:
        return version("recbole")
    except PackageNotFoundError:
        return None


def check_packages(packages: Mapping[str, str], user: str) -> None:
    """Refuse to go on where a package is missing.

    Args:
        packages: import name to name on the package index.
        user: what needs them, for the message.

    Raises:
        RecBoleUnavailableError: with all that are missing and how to install them.
    """
    missing = [name for module, name in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise RecBoleUnavailableError(f"{user} needs {', '.join(missing)}: pip install {' '.join(missing)}")


def check_available(entry: Entry) -> Path:
    """Return RecBole's folder when this model can run on this machine.

    Raises:
        RecBoleUnavailableError: RecBole or a package of this model's own is missing, or the model cannot run.
    """
    if entry.status == "cannot":
        raise RecBoleUnavailableError(f"RecBole's {entry.name} cannot run here: {entry.reason}.")
    folder = package_folder()
    check_packages(entry.packages, f"RecBole's {entry.name}")
    return folder


def model_file(entry: Entry, folder: Path) -> Path:
    """Return the file that defines a model, below RecBole's folder."""
    return folder / "model" / "general_recommender" / f"{entry.name.lower()}.py"
