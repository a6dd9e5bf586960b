import importlib
import inspect
import json
import os
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import requests

from bench.data.raw.hosted import from_drive, from_kaggle
from bench.data.raw.unavailable import UnavailableError
from bench.data.recipes.sources import DriveSource, KaggleSource

PAGE = "https://www.kaggle.example/c/fashion"
DRIVE_ID = "0123456789abcdef"
TABLE = {"file": "pairs.csv"}
HTML = b"<!DOCTYPE html><title>Quota exceeded</title>"
NPY = b"\x93NUMPY\x01\x00"
Listed = namedtuple("Listed", ("id", "path", "local_path"))


def competition(*files: str) -> KaggleSource:
    return KaggleSource(name="kaggle", kind="kaggle", competition="fashion", files=files, page=PAGE, interactions=TABLE)


def kaggle_dataset(*files: str) -> KaggleSource:
    return KaggleSource(name="small", kind="kaggle", handle="owner/small", files=files, page=PAGE, interactions=TABLE)


def drive(folder: str | None = None) -> DriveSource:
    return DriveSource(name="drive", kind="drive", folder_id=DRIVE_ID, folder=folder, interactions=TABLE)


def answered(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} of some kind", response=response)


class Hub:
    """What a test needs of kagglehub; `fails` is raised by the next call."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.asked: list[tuple[str, str | None]] = []
        self.fails: Exception | None = None
        self.exceptions = {
            name: type(name, (Exception,), {})
            for name in ("UnauthenticatedError", "CredentialError", "DataCorruptionError")
        }

    def competition_download(self, handle: str, path: str | None = None) -> str:
        return self._give("competitions", handle, path)

    def dataset_download(self, handle: str, path: str | None = None) -> str:
        return self._give("datasets", handle, path)

    def _give(self, kind: str, handle: str, path: str | None) -> str:
        sys.stdout.write("a library that talks")
        self.asked.append((handle, path))
        if self.fails is not None:
            raise self.fails
        place = self.cache / kind / handle
        file = place / (path or "everything.csv")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"content of {path}".encode())
        return str(file if path else place)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    hub = Hub(tmp_path / "cache")
    module, exceptions = ModuleType("kagglehub"), ModuleType("kagglehub.exceptions")
    module.competition_download, module.dataset_download = hub.competition_download, hub.dataset_download
    vars(exceptions).update(hub.exceptions)
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    monkeypatch.setitem(sys.modules, "kagglehub.exceptions", exceptions)
    return hub


class Drive:
    """What a test needs of gdown; `files` maps a path on Drive to its content or to what its download raises."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | Exception] = {}
        self.listed = 0
        self.asked: list[str] = []
        self.unlisted: Exception | None = None
        self.download_error = type("DownloadError", (Exception,), {})

    def download_folder(self, *, id: str, output: str, skip_download: bool, **options: object) -> list[Listed]:
        assert (id, skip_download, options["use_cookies"]) == (DRIVE_ID, True, False)
        self.listed += 1
        if self.unlisted is not None:
            raise self.unlisted
        return [Listed(f"id of {path}", path, str(Path(output) / path)) for path in self.files]

    def download(self, *, id: str, output: str, resume: bool, **options: object) -> str:
        sys.stdout.write("a library that talks")
        assert (resume, options["use_cookies"]) == (True, False)
        path = id.removeprefix("id of ")
        self.asked.append(path)
        content = self.files[path]
        if isinstance(content, Exception):
            raise content
        if not Path(output).exists():
            Path(output).write_bytes(content)
        return output


@pytest.fixture
def gdown(monkeypatch) -> Drive:
    fake = Drive()
    module = ModuleType("gdown")
    module.download, module.download_folder = fake.download, fake.download_folder
    module.exceptions = SimpleNamespace(DownloadError=fake.download_error)
    monkeypatch.setitem(sys.modules, "gdown", module)
    return fake


@pytest.fixture
def raw(tmp_path) -> Path:
    return tmp_path / "raw"


def refusal(fetch, source, raw: Path) -> str:
    with pytest.raises(UnavailableError) as caught:
        fetch(source, raw, print)
    return str(caught.value)


def test_files_of_a_competition_come_one_by_one(hub, raw, capsys):
    lines: list[str] = []
    assert from_kaggle(competition("log.csv", "images/1.jpg"), raw, lines.append) == raw
    assert hub.asked == [("fashion", "log.csv"), ("fashion", "images/1.jpg")]
    assert (raw / "images/1.jpg").read_bytes() == b"content of images/1.jpg"
    assert lines == [f"fetching log.csv from {PAGE}", f"fetching images/1.jpg from {PAGE}"]
    assert capsys.readouterr().out == "", "stdout is for results"
    from_kaggle(competition("log.csv", "images/1.jpg"), raw, lines.append)
    assert len(hub.asked) == 2, "nothing is fetched again"


@pytest.mark.parametrize("there", ["log.csv", "log.csv.zip", "log.csv.gz"])
def test_files_that_are_there_need_no_library(raw, monkeypatch, there):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    raw.mkdir()
    (raw / there).write_bytes(b"mine")
    assert from_kaggle(competition("log.csv"), raw, print) == raw
    assert (raw / there).read_bytes() == b"mine"


def test_files_of_a_dataset(hub, raw):
    assert from_kaggle(kaggle_dataset("log.csv"), raw, print) == raw
    assert hub.asked == [("owner/small", "log.csv")]
    assert (raw / "log.csv").read_bytes() == b"content of log.csv"


def test_the_whole_stays_in_the_cache(hub, raw):
    assert from_kaggle(kaggle_dataset(), raw, print) == hub.cache / "datasets" / "owner" / "small"
    assert from_kaggle(competition(), raw, print) == hub.cache / "competitions" / "fashion"
    assert hub.asked == [("owner/small", None), ("fashion", None)]


def test_where_links_are_not_possible_files_are_copied(hub, raw, monkeypatch):
    from_kaggle(competition("log.csv"), raw, print)
    assert (raw / "log.csv").samefile(hub.cache / "competitions/fashion/log.csv"), "linked"

    def refuse(*arguments: object) -> None:
        raise OSError("another disk")

    monkeypatch.setattr(os, "link", refuse)
    from_kaggle(competition("other.csv"), raw, print)
    assert (raw / "other.csv").read_bytes() == b"content of other.csv"
    assert not (raw / "other.csv").samefile(hub.cache / "competitions/fashion/other.csv")
    assert sorted(path.name for path in raw.iterdir()) == ["log.csv", "other.csv"]


def test_a_cache_of_symbolic_links(hub, raw, tmp_path):
    (tmp_path / "mounted").mkdir()
    hub.cache.mkdir()
    (hub.cache / "competitions").symlink_to(tmp_path / "mounted")
    (tmp_path / "mounted" / "fashion").mkdir()
    (tmp_path / "mounted" / "fashion" / "log.csv").symlink_to(tmp_path / "blob")
    from_kaggle(competition("log.csv"), raw, print)
    assert not (raw / "log.csv").is_symlink()
    assert (raw / "log.csv").samefile(tmp_path / "blob")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "Kaggle does not accept the token (401): create a token at https://www.kaggle.com/settings"),
        (403, f"accept the rules of the competition in a browser, at {PAGE}, with the account the token belongs to"),
        (404, f"Kaggle does not have log.csv any more (404); see {PAGE}"),
        (429, "Kaggle had too many requests (429); try again in an hour"),
        (503, "Kaggle answered with the error 503; try again later"),
    ],
)
def test_refusals_of_kaggle(hub, raw, status, words):
    hub.fails = answered(status)
    message = refusal(from_kaggle, competition("log.csv"), raw)
    assert words in message
    assert f"put them into {raw}, or use --from DIR" in message
    assert not raw.exists()


def test_a_dataset_has_no_rules_to_accept(hub, raw):
    hub.fails = answered(403)
    message = refusal(from_kaggle, kaggle_dataset("log.csv"), raw)
    assert f"open {PAGE} in a browser to see what it asks for, and create a token" in message


@pytest.mark.parametrize("name", ["UnauthenticatedError", "CredentialError"])
def test_no_token(hub, raw, name):
    hub.fails = hub.exceptions[name]()
    message = refusal(from_kaggle, competition("log.csv"), raw)
    assert "put it into ~/.kaggle/kaggle.json, or set KAGGLE_USERNAME and KAGGLE_KEY" in message


def test_other_troubles_with_kaggle(hub, raw):
    source = competition("log.csv")
    hub.fails = requests.ConnectionError("no route")
    assert "Kaggle cannot be reached, or broke off: this machine is offline" in refusal(from_kaggle, source, raw)
    hub.fails = requests.ReadTimeout("late")
    assert "Kaggle did not answer in time" in refusal(from_kaggle, source, raw)
    hub.fails = hub.exceptions["DataCorruptionError"]()
    assert "log.csv came damaged from Kaggle and was not kept" in refusal(from_kaggle, source, raw)
    hub.fails = ValueError("Invalid Kaggle credentials file at /home/me/.kaggle/kaggle.json")
    message = refusal(from_kaggle, source, raw)
    assert "kagglehub refuses: Invalid Kaggle credentials file at /home/me/.kaggle/kaggle.json. If that" in message
    hub.fails = OSError(28, "No space left on device")
    assert "kagglehub cannot write log.csv: [Errno 28] No space left" in refusal(from_kaggle, source, raw)


def test_a_folder_that_cannot_be_written(hub, gdown, raw):
    raw.write_text("a file where a folder should be")
    assert f"{raw / 'log.csv'} cannot be written" in refusal(from_kaggle, competition("log.csv"), raw)
    gdown.files = {"a.csv": b"1"}
    assert f"{raw} cannot be written" in refusal(from_drive, drive(), raw)
    assert raw.read_text() == "a file where a folder should be"


def test_libraries_that_are_not_installed(raw, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    monkeypatch.setitem(sys.modules, "gdown", None)
    message = refusal(from_kaggle, competition("log.csv"), raw)
    assert "the Python package kagglehub is not installed: pip install 'ld4mrec-bench[downloads]'" in message
    message = refusal(from_drive, drive(), raw)
    assert "the Python package gdown is not installed: pip install 'ld4mrec-bench[downloads]'" in message


def test_a_folder_of_drive(gdown, raw, capsys):
    gdown.files = {"baby/baby.inter": b"a\tb", "baby/image.npy": NPY, "sports/image.npy": NPY, "baby.txt": b"x"}
    lines: list[str] = []
    assert from_drive(drive("baby"), raw, lines.append) == raw / "baby"
    assert gdown.asked == ["baby/baby.inter", "baby/image.npy"], "only what lies there"
    assert (raw / "baby" / "image.npy").read_bytes() == NPY
    assert lines[0] == f"fetching baby/baby.inter from https://drive.google.com/drive/folders/{DRIVE_ID}"
    assert capsys.readouterr().out == "", "stdout is for results"
    assert from_drive(drive(), raw, lines.append) == raw
    assert gdown.asked[2:] == ["sports/image.npy", "baby.txt"]


def test_what_is_there_is_not_asked_for_again(gdown, raw, monkeypatch):
    gdown.files = {"a.csv": b"1", "b.csv": b"2"}
    from_drive(drive(), raw, print)
    (raw / "b.csv").unlink()
    from_drive(drive(), raw, print)
    assert gdown.asked == ["a.csv", "b.csv", "b.csv"]
    monkeypatch.setitem(sys.modules, "gdown", None)
    assert from_drive(drive(), raw, print) == raw
    assert gdown.listed == 2


@pytest.mark.parametrize("noted", ["", "[1, 2]", "3"])
def test_a_note_that_cannot_be_read_is_made_anew(gdown, raw, noted):
    gdown.files = {"a.csv": b"1"}
    (raw / ".drive").mkdir(parents=True)
    (raw / ".drive" / f"{DRIVE_ID}.json").write_text(noted)
    from_drive(drive(), raw, print)
    assert json.loads((raw / ".drive" / f"{DRIVE_ID}.json").read_text()) == {"a.csv": "id of a.csv"}


@pytest.mark.parametrize("name", ["image.npy", "pairs.csv"])
def test_a_quota_page_is_no_file(gdown, raw, name):
    gdown.files = {"first.csv": b"1", name: HTML}
    message = refusal(from_drive, drive(), raw)
    assert (
        f"Google Drive does not give {name} now. Mostly its quota for the day is used up: try again tomorrow" in message
    )
    assert f"open https://drive.google.com/drive/folders/{DRIVE_ID} in a browser" in message
    assert "use --from DIR" in message
    assert (raw / "first.csv").exists()
    assert not (raw / name).exists()


def test_a_quota_page_of_an_earlier_day_is_replaced(gdown, raw):
    raw.mkdir()
    (raw / "image.npy").write_bytes(HTML)
    gdown.files = {"image.npy": NPY}
    from_drive(drive(), raw, print)
    assert (raw / "image.npy").read_bytes() == NPY


def test_refusals_of_drive(gdown, raw):
    gdown.files = {"a.csv": gdown.download_error("Too many users have\n viewed this file")}
    message = refusal(from_drive, drive(), raw)
    assert "Mostly its quota" in message
    assert "What Drive says: Too many users have viewed this file" in message
    gdown.files = {"a.csv": requests.ConnectionError("no route")}
    assert "Google Drive cannot be reached: this machine is offline" in refusal(from_drive, drive(), raw)
    gdown.files = {"a.csv": answered(404)}
    assert "Google Drive does not have a.csv any more (404)" in refusal(from_drive, drive(), raw)
    gdown.unlisted = gdown.download_error("Failed to retrieve folder contents")
    assert "Google Drive does not give its list of files now" in refusal(from_drive, drive(), raw)


def test_a_folder_that_drive_lacks(gdown, raw):
    gdown.files = {"sports/a.csv": b"1"}
    assert f"folders/{DRIVE_ID} has no files in 'baby'" in refusal(from_drive, drive("baby"), raw)


@pytest.mark.parametrize(
    ("library", "function", "keywords"),
    [
        ("kagglehub", "competition_download", {"handle", "path"}),
        ("kagglehub", "dataset_download", {"handle", "path"}),
        ("gdown", "download_folder", {"id", "output", "quiet", "use_cookies", "skip_download", "timeout"}),
        ("gdown", "download", {"id", "output", "quiet", "use_cookies", "resume", "timeout", "retries"}),
    ],
)
def test_the_libraries_take_what_they_are_given(library, function, keywords):
    module = pytest.importorskip(library)
    assert keywords <= set(inspect.signature(getattr(module, function)).parameters)


def test_the_libraries_raise_what_is_caught():
    pytest.importorskip("kagglehub")
    failures = importlib.import_module("kagglehub.exceptions")
    for name in ("UnauthenticatedError", "CredentialError", "DataCorruptionError"):
        assert issubclass(getattr(failures, name), Exception)
    gdown = pytest.importorskip("gdown")
    assert issubclass(gdown.exceptions.FileURLRetrievalError, gdown.exceptions.DownloadError)
