"""What another project is to this program: which of our models it has, and the settings that make them the same."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.data import PreparedDataset
from bench.errors import UsageError
from bench.experiments.plan import Configuration, configure
from bench.models import find_model

Hyperparameters = Mapping[str, Any]


@dataclass(frozen=True)
class Counterpart:
    """The peer's model that does what one of ours does.

    Attributes:
        theirs: the peer's name for it.
        parameters: from our hyper-parameters to the peer's.
        fixed: those of ours where the peer has one way only, with that way.
        without_cost: those of ours that the peer has no word for and that cost no time.
    """

    theirs: str
    parameters: Callable[[Hyperparameters], dict[str, Any]]
    fixed: Hyperparameters = field(default_factory=dict)
    without_cost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Peer:
    """Another project.

    Attributes:
        name: what the user writes.
        title: what the project calls itself.
        driver: import path of our module that runs it.
        counterparts: by our models' names.
        locate: checks that the project is there and returns where its driver finds it; raises UsageError otherwise.
        write: writes a data set for one of the project's models as its files, into a folder.
        places: the modalities that the project can hold, by the name ours gives them then; None: as they are.
    """

    name: str
    title: str
    driver: str
    counterparts: Mapping[str, Counterpart]
    locate: Callable[[Path | None], str]
    write: Callable[[PreparedDataset, Path, str], None]
    places: Callable[[PreparedDataset], dict[str, str] | None]


def locate_checkout(title: str, repository: str, parts: Sequence[str], checkout: Path | None) -> str:
    """Check that a folder is a checkout of a project and return its full path.

    Args:
        title: what the project calls itself.
        repository: where it can be had.
        parts: files by which it is known.
        checkout: the folder, if the user named one.

    Raises:
        UsageError: no folder was given, or it is another one.
    """
    if checkout is None:
        raise UsageError(
            f"{title} runs from a checkout of yours. Get one (git clone {repository}) and name its folder: "
            f"--checkout {repository.rpartition('/')[2]}."
        )
    missing = [part for part in parts if not (checkout / part).is_file()]
    if missing:
        raise UsageError(
            f"--checkout {checkout}: expected a checkout of {title}, but there is no {missing[0]} in that folder."
        )
    return str(checkout.resolve())


@dataclass(frozen=True)
class Match:
    """One of our models, settled, with the peer's beside it.

    Attributes:
        ours: the model with every hyper-parameter.
        theirs: the peer's name of it.
        parameters: the same hyper-parameters in the peer's words.
    """

    ours: Configuration
    theirs: str
    parameters: dict[str, Any]

    @property
    def settings(self) -> list[str]:
        """The `model.name=value` texts that make the model from its defaults."""
        return [_as_setting(self.ours.spec.name, name, value) for name, value in self.ours.overrides.items()]


def match(peer: Peer, models: Sequence[str], settings: Sequence[str], dataset: str) -> list[Match]:
    """Settle the hyper-parameters of our models, at their defaults where nothing is set, and find the peer's for them.

    Args:
        peer: the other project.
        models: names as the user gave them.
        settings: the user's `model.name=value` texts.
        dataset: name of the data set.

    Raises:
        UsageError: a model that the peer lacks, or a setting that is wrong or that the peer has no choice in.
    """
    names = [find_model(name).name for name in models]
    lacking = [name for name in names if name not in peer.counterparts]
    if lacking:
        raise UsageError(
            f"{peer.title} has no counterpart of {', '.join(lacking)} here. Models to compare with it: "
            f"{', '.join(peer.counterparts)}."
        )
    fixed = [_as_setting(model, *item) for model in names for item in peer.counterparts[model].fixed.items()]
    configurations = configure(names, [*fixed, *settings], dataset, use_presets=False)
    return [_match(peer, configuration) for configuration in configurations]


def _as_setting(model: str, name: str, value: Any) -> str:
    # Settings are read as TOML, which writes plain values as JSON does.
    return f"{model}.{name}={json.dumps(value)}"


def _match(peer: Peer, configuration: Configuration) -> Match:
    model, values = configuration.spec.name, configuration.hyperparameters
    counterpart = peer.counterparts[model]
    for name, only in counterpart.fixed.items():
        if values[name] != only:
            raise UsageError(
                f"--set {model}.{name}={values[name]}: {peer.title}'s {counterpart.theirs} has {name}={only} and no "
                "other, so the two would not do the same work. Leave the setting out."
            )
    return Match(configuration, counterpart.theirs, counterpart.parameters(values))
