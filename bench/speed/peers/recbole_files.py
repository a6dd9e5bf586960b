"""A prepared data set as RecBole's atomic files, one for each split."""

from pathlib import Path

from bench.data import PreparedDataset

NAME = "prepared"
SPLITS = ("train", "valid", "test")
USER, ITEM = "user_id", "item_id"


def write(dataset: PreparedDataset, folder: Path) -> None:
    """Write a data set in RecBole's form.

    Args:
        dataset: to write.
        folder: RecBole's data folder; the files go into one named `NAME` inside.
    """
    inside = folder / NAME
    inside.mkdir(parents=True)
    for split in SPLITS:
        rows = dataset.interactions[dataset.interactions["split"] == split]
        table = rows[["user", "item"]].set_axis([f"{USER}:token", f"{ITEM}:token"], axis=1)
        table.to_csv(inside / f"{NAME}.{split}.inter", sep="\t", index=False)
