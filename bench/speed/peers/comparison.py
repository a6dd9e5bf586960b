"""Our models and a peer's, turn by turn on the same data: seconds, ratios with their range, peak memory."""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.data import PreparedDataset
from bench.experiments.cost import WARM_UP_EPOCHS
from bench.speed.peers.peer import Match, Peer, match
from bench.speed.peers.process import DriverError, run_driver
from bench.speed.peers.readings import Readings

OWN_DRIVER = "bench.speed.peers.own_driver"

Report = Callable[[str], None]
Seconds = Callable[[Readings], float]


@dataclass(frozen=True)
class Ratio:
    """The same work in both programs.

    Attributes:
        theirs_s: median seconds over the rounds.
        ours_s: the same of ours.
        ratio: theirs by ours, the median over the rounds; above 1 ours is faster.
        low: the smallest of a round.
        high: the largest of a round.
    """

    theirs_s: float
    ours_s: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Compared:
    """One of our models beside the peer's.

    Attributes:
        model: our label.
        theirs: the peer's name of it.
        trained: what the training time is of, one "epoch" or the whole "fit" of a closed form.
        training: that time.
        validation: one evaluation of the validation split.
        theirs_mib: growth of the process's memory at its peak, the most of all rounds.
        ours_mib: the same of ours.
        error: why there are no numbers.
        readings: all that was measured, ours and theirs by round.
    """

    model: str
    theirs: str
    trained: Literal["epoch", "fit"] = "epoch"
    training: Ratio | None = None
    validation: Ratio | None = None
    theirs_mib: float | None = None
    ours_mib: float | None = None
    error: str | None = None
    readings: dict[str, list[Readings]] = field(default_factory=dict)


def compare(
    peer: Peer,
    dataset: PreparedDataset,
    models: Sequence[str],
    settings: Sequence[str],
    *,
    checkout: Path | None,
    epochs: int,
    rounds: int,
    report: Report,
) -> list[Compared]:
    """Measure each model in both programs, in turn, every time in a process of its own.

    Args:
        peer: the other project.
        dataset: to train on.
        models: ours, as the user named them.
        settings: `model.name=value` texts.
        checkout: where the peer's code lies, for one that is not installed.
        epochs: to train in each process; the first is a warm-up where there are more.
        rounds: how often each program has its turn.
        report: called with a line before every process and after every model.

    Raises:
        UsageError: the peer is not there, lacks a model, or a setting is wrong.
    """
    matches = match(peer, models, settings, dataset.name)
    source = peer.locate(checkout)
    compared = []
    for each in matches:
        turns = _Turns(peer, source, dataset, each, epochs)
        compared.append(_compare(turns, rounds, report))
        report(f"{each.ours.label}: {_words(compared[-1])}")
    return compared


@dataclass(frozen=True)
class _Turns:
    """How either program is run on one model."""

    peer: Peer
    source: str
    dataset: PreparedDataset
    match: Match
    epochs: int

    def ours(self) -> Readings:
        job = {
            "dataset": str(self.dataset.folder.resolve()),
            "modalities": self.peer.places(self.dataset),
            "model": self.match.ours.spec.name,
            "settings": self.match.settings,
            "epochs": self.epochs,
        }
        return run_driver(OWN_DRIVER, job)

    def theirs(self) -> Readings:
        # Files that the peer keeps beside the data must not make a later round cheaper.
        with tempfile.TemporaryDirectory(prefix="bench-peers-") as folder:
            self.peer.write(self.dataset, Path(folder), self.match.theirs)
            job: dict[str, Any] = {
                "source": self.source,
                "data": folder,
                "n_items": self.dataset.n_items,
                "model": self.match.theirs,
                "parameters": self.match.parameters,
                "epochs": self.epochs,
            }
            return run_driver(self.peer.driver, job)


def _compare(turns: _Turns, rounds: int, report: Report) -> Compared:
    label, theirs = turns.match.ours.label, turns.match.theirs
    found: dict[str, list[Readings]] = {"ours": [], "theirs": []}
    for number in range(1, rounds + 1):
        for side, title, run in (("ours", "ours", turns.ours), ("theirs", turns.peer.title, turns.theirs)):
            report(f"{label}, {title}, round {number} of {rounds}")
            try:
                found[side].append(run())
            except DriverError as error:
                return Compared(label, theirs, error=f"{title}: {error}", readings=found)
    closed_form = not found["ours"][0].epoch_s
    return Compared(
        label,
        theirs,
        "fit" if closed_form else "epoch",
        _ratio(found, (lambda each: each.build_s) if closed_form else (lambda each: _typical(each.epoch_s))),
        _ratio(found, lambda each: _typical(each.valid_s)),
        max(each.peak_mib for each in found["theirs"]),
        max(each.peak_mib for each in found["ours"]),
        readings=found,
    )


def _typical(seconds: list[float]) -> float:
    return statistics.median(seconds[WARM_UP_EPOCHS:] or seconds)


def _ratio(found: dict[str, list[Readings]], seconds: Seconds) -> Ratio:
    """Compare round by round, so that a machine that slows down slows both sides of a ratio."""
    ours, theirs = ([seconds(each) for each in found[side]] for side in ("ours", "theirs"))
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return Ratio(
        statistics.median(theirs), statistics.median(ours), statistics.median(ratios), min(ratios), max(ratios)
    )


def _words(compared: Compared) -> str:
    training, validation = compared.training, compared.validation
    if compared.error or training is None or validation is None:
        return f"FAILED, {compared.error}"
    return "; ".join(
        f"{name} {part.ours_s:.3f} s, theirs {part.theirs_s:.3f} s, {part.ratio:.1f} times as long"
        for name, part in ((compared.trained, training), ("validation", validation))
    )
