"""Measure time and memory of preparing the large datasets up to the split, on synthetic files of their raw format.

Each measurement is a process of its own, so that its peak memory is that of the preparation alone.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.speed.peak import peak_mib

Report = Callable[[str], None]
# Rows by default: all of H&M's; a hundredth of REC-TMALL's, whose memory does not depend on them.
FORMATS = {"hm": 31_788_324, "tmall": 13_000_000}

# Everything the real recipes do to rows; nothing that needs pictures or descriptions. For H&M without the window, so
# that all rows go through deduplication, k-core and split.
STEPS = {
    "hm": '[{ kind = "dedupe" }, { kind = "core", k = 10 }]',
    "tmall": '[{ kind = "positive", actions = ["alipay"] }, { kind = "sample", share = 0.2 }, { kind = "dedupe" }, '
    '{ kind = "core", user_core = 3 }]',
}
TABLES = {
    "hm": 'file = "transactions_train.csv", user = "customer_id", item = "article_id", item_digits = 10, '
    'timestamp = "t_dat", timestamp_unit = "iso"',
    "tmall": 'file = ["tianchi_2014002_rec_tmall_log_parta.txt", "tianchi_2014002_rec_tmall_log_partb.txt", '
    '"tianchi_2014002_rec_tmall_log_partc.txt"], separator = "\\u0001", '
    'columns = ["item", "user", "action", "vtime"], action = "action", timestamp = "vtime", '
    'timestamp_unit = "iso", utc_offset = "+08:00", undecodable = "replace"',
}


@dataclass(frozen=True)
class Measured:
    """What one preparation took.

    Attributes:
        format: "hm" or "tmall".
        rows: of the raw files.
        raw_mib: size of the raw files.
        seconds: from opening the first file to the assigned split.
        rows_per_s: raw rows by seconds.
        peak_mib: most memory of the whole process, the interpreter and its libraries included.
        left: interactions after all steps.
    """

    format: str
    rows: int
    raw_mib: float
    seconds: float
    rows_per_s: float
    peak_mib: float
    left: int


def measure(kind: str, n_rows: int, folder: Path | None, report: Report) -> Measured:
    """Write files of this format and prepare them up to the split, in a process of its own.

    Args:
        kind: "hm" or "tmall".
        n_rows: how many rows to write.
        folder: for the files, which are removed afterwards; None: the system's temporary folder.
        report: called with one line of progress at a time.

    Raises:
        BenchError: the preparation failed; the message is its own.
    """
    from bench.speed.rawlike import write_hm, write_tmall

    with tempfile.TemporaryDirectory(dir=folder, prefix="bench-speed-") as scratch:
        raw = Path(scratch) / "raw"
        raw.mkdir()
        started = time.monotonic()
        (write_hm if kind == "hm" else write_tmall)(raw, n_rows)
        raw_bytes = sum(path.stat().st_size for path in raw.iterdir())
        report(f"wrote {n_rows:,} rows, {raw_bytes / 2**20:,.0f} MiB, in {time.monotonic() - started:.0f} s")
        recipe = Path(scratch) / "speed.toml"
        recipe.write_text(
            f'name = "speed"\nsteps = {STEPS[kind]}\n'
            f'sources = [{{ kind = "local", folder = "raw", interactions = {{ {TABLES[kind]} }} }}]\n'
        )
        # Its stderr is ours: the lines of the preparation are seen while it runs.
        done = subprocess.run(
            [sys.executable, "-m", "bench.speed.preparation", str(recipe)], stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            raise BenchError(f"The preparation of {n_rows:,} rows in the format '{kind}' failed; see the lines above.")
        found = json.loads(done.stdout)
    seconds = found["seconds"]
    return Measured(
        kind, n_rows, raw_bytes / 2**20, seconds, n_rows / seconds, found["peak_mib"], found["interactions"]
    )


def _prepare_up_to_the_split(recipe_path: Path) -> dict[str, float]:
    from bench.data.apply import Steps
    from bench.data.raw.fetch import locate
    from bench.data.recipes.recipe import load_recipe
    from bench.data.split import assign_split
    from bench.workspace import Workspace

    def report(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:6.1f} s  {line}\n")

    started = time.monotonic()
    recipe = load_recipe(recipe_path)
    space = Workspace(recipe_path.parent / "datasets")
    located = locate(recipe, space, source=None, folder=None, base=None, report=report)
    frame = Steps(located, space, "cpu", report).apply()
    frame["split"] = assign_split(frame, "random", 2023, None)
    report("split assigned")
    return {
        "seconds": time.monotonic() - started,
        "peak_mib": peak_mib(),
        "interactions": len(frame),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_prepare_up_to_the_split(Path(sys.argv[1]))))
