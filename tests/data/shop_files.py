"""Purchases, pictures and a stand-in for an image model, for the tests of recipes of shops."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bench.cli import main
from bench.data import PreparedDataset
from bench.data.features.image_model import UnreadableError, open_picture
from bench.data.raw.rawfiles import RawFile
from bench.data.recipes.modalities import ImageModel

Matrix = NDArray[np.float32]
Mask = NDArray[np.bool_]

N_USERS, N_ITEMS, PER_USER = 30, 25, 15


def bench(*arguments: str, code: int = 0) -> None:
    """Run a command in this process and hold it to its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert (ended.value.code or 0) == code


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must end with an error for people, and return its one paragraph."""
    capsys.readouterr()
    bench(*arguments, code=2)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert not shown.out
    _, error, paragraph = shown.err.partition("Error: ")
    assert error
    assert "\n\n" not in paragraph
    return paragraph.strip()


def load(name: str) -> PreparedDataset:
    """Open what a command prepared in the working folder, and make sure that its content is whole."""
    dataset = PreparedDataset.load(Path("datasets/prepared") / name)
    dataset.verify()
    return dataset


def none_is_prepared() -> bool:
    """Say whether there is no dataset in the working folder, nor a part of one."""
    folder = Path("datasets/prepared")
    return not folder.is_dir() or not any(folder.iterdir())


def grid() -> Iterator[tuple[int, int]]:
    """Yield user and item, from 1, of 450 purchases: 15 of each of 30 users, 18 of each of 25 items."""
    for user in range(1, N_USERS + 1):
        for step in range(PER_USER):
            yield user, (user + step) % N_ITEMS + 1


def steps_of(dataset: PreparedDataset) -> list[tuple[str, int, int, int]]:
    """Return name, users, items and interactions after every step."""
    steps = dataset.metadata["summary"]["steps"]
    return [(each["step"], each["users"], each["items"], each["interactions"]) for each in steps]


def seconds(dataset: PreparedDataset, user: str, item: str) -> int:
    """Return the time of one interaction, in seconds since 1970."""
    row = list(dataset.users["id"]).index(user)
    column = list(dataset.items["id"]).index(item)
    frame = dataset.interactions
    [found] = frame.loc[(frame["user"] == row) & (frame["item"] == column), "timestamp"]
    return int(found)


def colour(number: int) -> tuple[int, int, int]:
    """Return the colour of the picture of item `number`, another one for each."""
    return number, 2 * number, 255 - number


def picture(number: int) -> bytes:
    """Return the picture of item `number`: one colour, without loss."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8), colour(number)).save(content, "PNG")
    return content.getvalue()


def mean_colours(feature: ImageModel, pictures: Sequence[RawFile], *_: object) -> tuple[Matrix, Mask]:
    """Stand in for `encode_pictures`: the vector of a picture is its mean colour."""
    matrix, decoded = np.zeros((len(pictures), 3), dtype=np.float32), np.ones(len(pictures), dtype=np.bool_)
    for row, file in enumerate(pictures):
        try:
            matrix[row] = np.asarray(open_picture(file.read_bytes())).mean(axis=(0, 1))
        except UnreadableError:
            decoded[row] = False
    return matrix, decoded


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put mean colours in the place of the vectors of an image model."""
    monkeypatch.setattr("bench.data.features.neural.encode_pictures", mean_colours)
