"""Draw the description of a prepared dataset on a terminal."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from bench.data import PreparedDataset
    from bench.data.describe import Coverage, Degrees, Description, Part, StepCounts

BLOCKS, DIGITS = "▁▂▃▄▅▆▇█", "12345678"
QUANTILES = ("least", "quarter", "median", "three_quarters", "p90", "p95", "p99", "most")
UNKNOWN = "-"


def heading_lines(dataset: "PreparedDataset") -> Iterator[str]:
    """Yield what stands above the tables: the dataset's name, and where it comes from."""
    yield f"{dataset.name}  (fingerprint {dataset.fingerprint[:12]})"
    yield f"in {dataset.folder}"
    metadata = dataset.metadata
    for key in ("title", "homepage", "licence", "citation"):
        if metadata.get("recipe", {}).get(key):
            yield f"{key}: {metadata['recipe'][key]}"
    if "source" in metadata:
        yield f"source: {metadata['source']['name']} ({metadata['source']['kind']})"
    if "split" in metadata:
        split = metadata["split"]
        yield f"split: {split['method']}" + (f", seed {split['split_seed']}" if split["method"] == "random" else "")


def description_tables(description: "Description", *, plain: bool = False) -> Iterator[Table]:
    """Yield the tables of a description, in the order they are read; those with nothing to say are left out.

    Args:
        description: of a prepared dataset.
        plain: draw histograms with digits, for an output that cannot write blocks.
    """
    yield steps_table(description.steps)
    yield _degrees_table(description.degrees, DIGITS if plain else BLOCKS)
    yield _split_table(description)
    if description.modalities:
        yield _modalities_table(description.modalities)
        yield _signal_table(description.modalities)
    if description.comparison:
        yield _comparison_table(description)


def summary_table(dataset: "PreparedDataset") -> Table:
    """Return the counts of a prepared dataset after each step, and where it lies."""
    from bench.data.describe import step_counts
    from bench.data.split import SPLITS

    table = steps_table(step_counts(dataset.metadata.get("summary", {})))
    table.title = escape(f"{dataset.name}  (fingerprint {dataset.fingerprint[:12]})")
    summary = dataset.metadata.get("summary", {})
    lines = []
    if "split" in summary:
        lines.append("split " + ", ".join(f"{summary['split'][part]:,} {part}" for part in SPLITS))
    if dataset.features:
        lines.append("features " + ", ".join(f"{name} {matrix.shape[1]}" for name, matrix in dataset.features.items()))
    table.caption = escape("\n".join([*lines, f"prepared in {dataset.folder}"]))
    return table


def steps_table(steps: Sequence["StepCounts"]) -> Table:
    """Return the counts of the raw rows and after each step."""
    table = _table("Steps", ("after", "rule"), ("users", "items", "interactions", "density", "per user", "per item"))
    for step in steps:
        table.add_row(
            step.step,
            escape(step.words),
            _count(step.users, step.users_more_than),
            _count(step.items, step.items_more_than),
            _count(step.interactions),
            UNKNOWN if step.density is None else f"{step.density:.4%}",
            _mean(step.per_user),
            _mean(step.per_item),
        )
    return table


def _degrees_table(degrees: Sequence["Degrees"], blocks: str) -> Table:
    heads = ("min", "25 %", "median", "75 %", "P90", "P95", "P99", "max", "mean", "Gini")
    table = _table("Interactions of each", ("", "of"), heads)
    table.add_column("0, 1, 2-3, 4-7, 8-15, ...", no_wrap=True)
    for each in degrees:
        numbers = [_quantile(getattr(each, name)) for name in QUANTILES]
        table.add_row(
            each.whose, each.part, *numbers, _mean(each.mean), f"{each.gini:.2f}", bars(each.histogram, blocks)
        )
    return table


def bars(histogram: Sequence[int], blocks: str = BLOCKS) -> str:
    """Draw a histogram in one line: one of eight blocks per bin, a blank where a bin is empty.

    The largest bin is a full block, and no bin that holds anything is invisible.
    """
    most = max(histogram, default=0)
    return "".join(blocks[(8 * size - 1) // most] if size else " " for size in histogram)


def _split_table(description: "Description") -> Table:
    timed = description.time != "none"
    heads = ("interactions", "share", "users", "items", "with a cold item", "of a cold user")
    table = _table("Split", ("part",), (*heads, *(("from", "to") if timed else ())))
    for part in description.parts:
        table.add_row(*_part(part, description.time))
    table.caption = (
        f"Cold users have no train row: {description.users_without_train:,}. "
        f"Cold items are never in train: {description.items_never_in_train:,}."
    )
    return table


def _part(part: "Part", time: str) -> Iterator[str]:
    yield from (part.part, _count(part.interactions), f"{part.share:.1%}", _count(part.users), _count(part.items))
    yield from (_count(part.with_cold_item), _count(part.with_cold_user))
    if time != "none":
        yield from (_moment(part.first, time), _moment(part.last, time))


def _moment(timestamp: int | None, time: str) -> str:
    if timestamp is None:
        return UNKNOWN
    if time == "order":
        return f"rank {timestamp:,}"
    try:
        return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d}"
    except (OverflowError, ValueError, OSError):
        # Milliseconds read as seconds lie beyond the calendar; the number itself shows what happened.
        return f"{timestamp} s"


def _modalities_table(modalities: Sequence["Coverage"]) -> Table:
    heads = ("width", "with own features", "of", "zero rows", "repeated rows", "missing")
    table = _table("Modalities", ("modality", "encoder"), heads)
    for each in modalities:
        numbers = (each.width, each.own, each.items, each.zero_rows, each.duplicate_rows, each.missing_rows)
        table.add_row(each.modality, escape(each.encoder or UNKNOWN), *map(_count, numbers))
    return table


def _signal_table(modalities: Sequence["Coverage"]) -> Table:
    heads = ("lift", "95 % interval", "neighbours", "random pairs", "k", "items looked up", "of")
    table = _table("Signal", ("modality",), heads)
    for each in modalities:
        found = each.lift
        known = found.ratio is not None and found.low is not None and found.high is not None
        table.add_row(
            each.modality,
            f"{found.ratio:.2f}" if known else UNKNOWN,
            f"{found.low:.2f} to {found.high:.2f}" if known else UNKNOWN,
            f"{found.neighbour_rate:.4f}",
            f"{found.random_rate:.4f}",
            *map(_count, (found.k, found.n_queries, found.n_items)),
        )
    table.caption = (
        "How many times more strongly the nearest neighbours by features are consumed together in train than random "
        "pairs: the mean over pairs of (shared users) / sqrt(users of one x users of the other). 1 means no signal."
    )
    return table


def _comparison_table(description: "Description") -> Table:
    table = _table("Beside published counts", ("",), ("users", "items", "interactions"))
    for row in description.comparison:
        table.add_row(escape(str(row["name"])), *(_count(row.get(key)) for key in ("users", "items", "interactions")))
    table.caption = escape(description.closest) or None
    return table


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", padding=(0, 1))
    for head in texts:
        table.add_column(head, overflow="fold")
    for head in numbers:
        table.add_column(head, justify="right")
    return table


def _count(count: int | None, more_than: int | None = None) -> str:
    if count is None:
        return UNKNOWN if more_than is None else f"> {more_than:,}"
    return f"{count:,}"


def _quantile(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def _mean(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.1f}"
