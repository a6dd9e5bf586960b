"""Make the class of one of RecBole's models, with a constructor that names all of its hyper-parameters."""

import importlib
import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any

from scipy.sparse import csr_array
from torch import Tensor

from baselines.recbole.catalogue import ENTRIES
from baselines.recbole.compatibility import surroundings
from baselines.recbole.defaults import Setting, read_refused, read_settings
from baselines.recbole.installation import check_available
from baselines.recbole.model import BATCHING, RecBoleModel
from baselines.recbole.randomness import HostRandomness
from baselines.recbole.schedules import DGCFModel, NCLModel, PopModel, RecVAEModel

BASES: Mapping[str, type[RecBoleModel]] = {
    "DGCF": DGCFModel,
    "NCL": NCLModel,
    "Pop": PopModel,
    "RecVAE": RecVAEModel,
}


@cache
def class_of(name: str) -> type[RecBoleModel]:
    """Return the class of one of RecBole's general recommenders.

    Its attribute `refused` names what RecBole lets a user set and this program does not, each with the reason.

    Raises:
        RecBoleUnavailableError: RecBole or something the model needs is not installed.
    """
    entry = ENTRIES[name]
    folder = check_available(entry)
    _import_recbole()
    attributes = {
        "__doc__": f"RecBole's {name}, with the hyper-parameters of its defaults.",
        "__module__": "baselines.recbole",
        "__init__": _constructor(BASES.get(name, RecBoleModel), read_settings(entry, folder)),
        "entry": entry,
        "batching": BATCHING[entry.batches],
        "refused": read_refused(entry, folder),
    }
    return type(name, (BASES.get(name, RecBoleModel),), attributes)


def _import_recbole() -> None:
    """Import RecBole now, so that a broken one shows at once and its import is no part of a model's fit time."""
    with surroundings(), HostRandomness(0).lent():
        importlib.import_module("baselines.recbole.construction")


def _constructor(base: type[RecBoleModel], settings: Mapping[str, Setting]) -> Any:
    """Return a constructor whose signature names the hyper-parameters with their types and defaults."""

    def construct(self: RecBoleModel, interactions: csr_array, features: Mapping[str, Tensor], **given: Any) -> None:
        defaults = {name: setting.default for name, setting in settings.items()}
        if unknown := given.keys() - defaults.keys():
            raise TypeError(f"unknown hyper-parameters {sorted(unknown)}; known: {sorted(defaults)}")
        base.__init__(self, interactions, features, **defaults | given)

    kind = inspect.Parameter
    parameters = [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in ("self", "interactions", "features")]
    parameters += [
        kind(name, kind.KEYWORD_ONLY, default=setting.default, annotation=setting.annotation)
        for name, setting in settings.items()
    ]
    construct.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    construct.__annotations__ = {name: setting.annotation for name, setting in settings.items()}
    return construct
