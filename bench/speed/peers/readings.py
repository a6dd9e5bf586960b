"""What one process measured of one model, and how it travels to the process that asked for it."""

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Job = Mapping[str, Any]


@dataclass(frozen=True)
class Readings:
    """What training and validating one model took in one process.

    Attributes:
        build_s: seconds to construct the model, which is all the training of a closed form.
        epoch_s: seconds of each training epoch; empty for a closed form.
        valid_s: seconds of each evaluation of the validation split.
        peak_mib: growth of the process's memory at its peak, after imports and with the data set read.
    """

    build_s: float
    epoch_s: list[float]
    valid_s: list[float]
    peak_mib: float


def drive(measure: Callable[[Job], Readings]) -> None:
    """Be a driver: read the job named first on the command line, measure, write the outcome to the second name.

    An exception is written as the outcome, and its traceback goes to stderr.
    """
    job_path, outcome_path = map(Path, sys.argv[1:3])
    # Programs that are driven read the command line too, and know nothing of these two words.
    del sys.argv[1:]
    outcome_path = outcome_path.resolve()
    try:
        outcome: dict[str, Any] = asdict(measure(json.loads(job_path.read_text(encoding="utf-8"))))
    except Exception as error:
        traceback.print_exc()
        outcome = {"error": describe(error)}
    outcome_path.write_text(json.dumps(outcome), encoding="utf-8")


def describe(error: BaseException) -> str:
    """Return what went wrong and where, on one line; for a missing package, what to install."""
    message = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs the Python package '{error.name}', which is not installed beside this program"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{where}" if message else f"{type(error).__name__}{where}"
