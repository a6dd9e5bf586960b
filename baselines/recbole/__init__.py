"""RecBole's general recommenders as models of this program, each under the name of its class: `LightGCN`, `EASE`, ...

The classes are made when they are asked for, so that the catalogue can be read without torch and without RecBole.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """Return the class of one of RecBole's models.

    Raises:
        AttributeError: RecBole has no general recommender of this name.
        RecBoleUnavailableError: RecBole or something the model needs is not installed.
    """
    from baselines.recbole.catalogue import ENTRIES

    if name not in ENTRIES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from baselines.recbole.classes import class_of

    return class_of(name)
