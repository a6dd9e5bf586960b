"""H&M by way of Kaggle, both from the competition and from the dataset with small pictures."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import requests
from hm_files import STEPS, fill
from shop_files import bench, colours, load, refused, steps_of

__all__ = ["colours"]

pytestmark = pytest.mark.usefixtures("in_empty_folder")


@pytest.fixture
def raw(in_empty_folder: Path) -> Path:
    """A folder of raw files, in the working folder."""
    return fill(in_empty_folder / "kaggle")


class Kaggle:
    """What a test needs of kagglehub: `there` maps what is asked for to a folder; anything else is forbidden."""

    def __init__(self) -> None:
        self.there: dict[str, Path] = {}
        self.asked: list[tuple[str, str | None]] = []

    def download(self, handle: str, path: str | None = None) -> str:
        self.asked.append((handle, path))
        if handle not in self.there:
            response = requests.Response()
            response.status_code = 403
            raise requests.HTTPError("403 Client Error", response=response)
        return str(self.there[handle] / path if path else self.there[handle])


COMPETITION, SMALL = "h-and-m-personalized-fashion-recommendations", "odins0n/handm-dataset-128x128"


@pytest.fixture
def kaggle(monkeypatch) -> Kaggle:
    fake, module, exceptions = Kaggle(), ModuleType("kagglehub"), ModuleType("kagglehub.exceptions")
    module.competition_download = module.dataset_download = fake.download
    for name in ("UnauthenticatedError", "CredentialError", "DataCorruptionError"):
        setattr(exceptions, name, type(name, (Exception,), {}))
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    monkeypatch.setitem(sys.modules, "kagglehub.exceptions", exceptions)
    return fake


def test_the_competition_gives_everything(raw, colours, kaggle):
    kaggle.there[COMPETITION] = raw
    bench("prepare", "hm")
    assert kaggle.asked == [(COMPETITION, None)]
    hm = load("hm")
    assert steps_of(hm) == STEPS
    assert hm.metadata["source"]["name"] == "competition"


def test_without_pictures_single_files_do(raw, colours, kaggle):
    kaggle.there[COMPETITION] = raw
    bench("prepare", "hm", "--feature", "visual=none")
    assert kaggle.asked == [(COMPETITION, "transactions_train.csv"), (COMPETITION, "articles.csv")]
    assert steps_of(load("hm@visual=none"))[-1] == ("core", 32, 26, 500)
    bench("prepare", "hm@visual=none", "--force")
    assert len(kaggle.asked) == 2
    bench("prepare", "hm")
    assert kaggle.asked[2:] == [(COMPETITION, None)]
    assert steps_of(load("hm")) == STEPS


def test_the_small_pictures_are_taken_when_the_rules_are_not_accepted(raw, colours, kaggle, capsys):
    kaggle.there[SMALL] = fill(raw.parent / "small", "images_128_128")
    bench("prepare", "hm")
    assert "Kaggle refuses access (403): accept the rules" in capsys.readouterr().err
    assert kaggle.asked == [(COMPETITION, None), (SMALL, None)]
    hm = load("hm")
    assert steps_of(hm) == STEPS
    assert hm.metadata["source"]["name"] == "128x128"
    message = refused(capsys, "prepare", "hm", "--source", "competition")
    assert "was prepared from the source '128x128', not from 'competition'" in message
    bench("prepare", "hm", "--source", "128x128", "--force")
    assert kaggle.asked[2:] == [(SMALL, None)]


def test_files_put_into_the_raw_folder_are_enough(raw, colours, kaggle):
    Path("datasets/raw").mkdir(parents=True)
    raw.rename("datasets/raw/hm")
    bench("prepare", "hm")
    assert kaggle.asked == []
    assert steps_of(load("hm")) == STEPS
