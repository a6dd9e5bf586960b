"""A working folder that the tests of preparation share."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from webserver import Web, serving

from bench.data import PreparedDataset, find_recipe, prepare
from bench.errors import DataError
from bench.workspace import Workspace

GIVEN = """
name = "mine"
sources = [{ kind = "local", folder = "raw", interactions = { file = "pairs.csv", split = "part" } }]

[split]
method = "given"

[features]
image = { encoder = "file", file = "image.npy" }
"""

PAIRS = """user,item,part
10,3,0
2,10,0
2,3,1
10,4,2
2,4,0
"""


class Desk:
    """A user's working folder with one recipe and its raw files."""

    given = GIVEN
    pairs = PAIRS

    def __init__(self, folder: Path) -> None:
        self.raw = folder / "datasets" / "raw"
        self.raw.mkdir(parents=True)
        self.workspace = Workspace(folder / "datasets", folder / "results")
        self.target = self.workspace.prepared("mine")
        self.recipe(GIVEN)
        self.write(PAIRS)
        np.save(self.raw / "image.npy", np.arange(44, dtype=np.float16).reshape(11, 4))

    def recipe(self, text: str) -> None:
        (self.workspace.datasets / "mine.toml").write_text(text)

    def write(self, text: str, file: str = "pairs.csv") -> None:
        (self.raw / file).write_text(text)

    def prepare(self, **options: object) -> tuple[PreparedDataset, list[str]]:
        lines: list[str] = []
        recipe = find_recipe("mine", self.workspace)
        return prepare(recipe, self.workspace, report=lines.append, **options), lines

    def refusal(self, **options: object) -> str:
        with pytest.raises(DataError) as caught:
            self.prepare(**options)
        assert not self.target.exists()
        return str(caught.value)

    def leftovers(self) -> list[str]:
        folder = self.target.parent
        return sorted(path.name for path in folder.iterdir() if path != self.target) if folder.is_dir() else []


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    """A web server on this machine; failed requests are repeated without a pause."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("bench.data.raw.http_session.BACKOFF_S", 0.0)
    with serving() as web:
        yield web
