"""Make sure that a matrix of another dataset belongs to the same items, by a text that both datasets have of them."""

from bench.data.features.ingredients import Task, field_of
from bench.data.raw.rawfiles import RawFile
from bench.data.reading.items import Items, read_items
from bench.data.recipes.modalities import FileFeature, SameItems
from bench.data.recipes.schema import did_you_mean
from bench.errors import DataError


def other_items(task: Task, feature: FileFeature) -> Items | None:
    """Return the items table that a matrix of another dataset follows; None where it is the source's own matrix."""
    if feature.same_items is None:
        return None
    return read_items(task.raw.files, feature.same_items.items, list(task.ids))


def check_same_items(task: Task, same: SameItems, other: Items, file: RawFile) -> None:
    """Hold a field of the two items tables against each other, for the ids both have."""
    table = ", ".join(same.items.files)
    if same.field not in other.frame.columns:
        known = [str(column) for column in other.frame.columns if column != "id"]
        raise DataError(
            f"features.{task.modality}.same_items compares the field {did_you_mean(same.field, known)}, but the items "
            f"of {table} have: {', '.join(known)}."
        )
    ours = field_of(task.modality, same.field, task.items)
    theirs = other.frame.set_index("id")[same.field].reindex(task.ids, fill_value="")
    pairs = [(id_, a, b) for id_, a, b in zip(task.ids, ours, theirs, strict=True) if _plain(a) and _plain(b)]
    differ = [(id_, a, b) for id_, a, b in pairs if _plain(a) != _plain(b)]
    if not pairs:
        raise DataError(
            f"features.{task.modality}: no item has a {same.field} both in the source's items and in {table}, so "
            f"whether {file.shown} belongs to the same items cannot be told."
        )
    n_agree = len(pairs) - len(differ)
    counts = f"{n_agree:,} of {len(pairs):,} {same.field}s agree"
    if n_agree < same.share * len(pairs):
        id_, a, b = differ[0]
        raise DataError(
            f"features.{task.modality}: {file.shown} belongs to other items: {counts} "
            f"({100 * n_agree / len(pairs):.3g} %), at least {100 * same.share:.3g} % expected; "
            f"e.g. id {id_}: {a!r} against {b!r}."
        )
    task.report(f"features.{task.modality}: {counts} between the source's items and {table}")


def _plain(text: str) -> str:
    # One table may keep the quotes around a title that another takes off.
    return " ".join(text.casefold().replace('"', "").split())
