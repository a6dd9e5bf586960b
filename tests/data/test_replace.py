import os
from pathlib import Path

import pytest

from bench.data.replace import clean_partials, replace_folder
from bench.errors import DataError

NOBODY = 2**22 + 1  # above the highest process id that Linux gives out


def filler(text):
    def fill(folder):
        (folder / "marker").write_text(text)
        (folder / "inner").mkdir()
        (folder / "inner" / "more").write_text(text * 2)

    return fill


def content(folder):
    return (folder / "marker").read_text(), (folder / "inner" / "more").read_text()


def write(folder, text):
    replace_folder(folder, filler(text), marker="marker")


def test_creates_and_replaces(tmp_path):
    folder = tmp_path / "a" / "b" / "data"
    write(folder, "one")
    assert content(folder) == ("one", "oneone")
    (folder / "stray").write_text("of the old one")
    write(folder, "two")
    assert content(folder) == ("two", "twotwo")
    assert sorted(path.name for path in folder.iterdir()) == ["inner", "marker"]
    assert list(folder.parent.iterdir()) == [folder]


def test_an_empty_folder_is_used_but_somebody_elses_is_not(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder, "one")
    assert content(folder) == ("one", "oneone")
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="has no marker, so it was not written by this program"):
        write(own, "one")
    with pytest.raises(DataError, match="not written by this program"):
        write(own / "thesis.txt", "one")
    assert (own / "thesis.txt").read_text() == "years of work"


class Failure:
    """Lets `function` work a few times and then fail once, and counts the calls."""

    def __init__(self, function, after, error):
        self.function, self.after, self.error, self.calls = function, after, error, 0

    def __call__(self, *arguments, **options):
        self.calls += 1
        if self.calls == self.after + 1:
            raise self.error
        return self.function(*arguments, **options)


def steps(function, tmp_path, monkeypatch):
    """Count how often a whole replacement calls `os.<function>`."""
    with monkeypatch.context() as patch:
        counter = Failure(getattr(os, function), 10**6, OSError())
        patch.setattr(os, function, counter)
        write(tmp_path / "count", "one")
        before = counter.calls
        write(tmp_path / "count", "two")
        return counter.calls - before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_failure_at_any_step_keeps_the_old_folder(function, error, tmp_path, monkeypatch):
    count = steps(function, tmp_path, monkeypatch)
    assert count >= 2, "the replacement goes through this function"
    for step in range(count):
        folder = tmp_path / f"data{step}"
        write(folder, "old")
        with monkeypatch.context() as patch:
            patch.setattr(os, function, Failure(getattr(os, function), step, error))
            with pytest.raises((DataError, KeyboardInterrupt)):
                write(folder, "new")
        # After the last rename only the sync of the parent folder is left: then the new one is in place.
        in_place = "new" if function == "fsync" and step == count - 1 else "old"
        assert content(folder) == (in_place, in_place * 2)
        write(folder, "next")
        assert content(folder) == ("next", "nextnext")
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_message_of_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", Failure(os.fsync, 0, OSError(28, "No space left on device")))
    with pytest.raises(DataError, match=r"data cannot be written: .*No space left on device\. Nothing half-written"):
        write(tmp_path / "data", "one")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_fill_leaves_nothing(tmp_path):
    folder = tmp_path / "data"
    write(folder, "old")

    def fill(partial):
        filler("new")(partial)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replace_folder(folder, fill, marker="marker")
    assert content(folder) == ("old", "oldold")
    assert list(tmp_path.iterdir()) == [folder]


def test_at_no_moment_is_there_a_half(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    write(folder, "old")
    seen = []
    for function in ("replace", "fsync", "rmdir", "unlink"):
        real = getattr(os, function)

        def watched(*arguments, real=real, **options):
            seen.append(content(folder) if folder.exists() else None)
            return real(*arguments, **options)

        monkeypatch.setattr(os, function, watched)
    write(folder, "new")
    old, new = ("old", "oldold"), ("new", "newnew")
    assert set(seen) == {old, None, new}
    assert seen.count(None) == 1, "only between the two renames"
    assert seen == sorted(seen, key=[old, None, new].index)


def test_leftovers_of_the_dead_are_cleaned(tmp_path):
    folder = tmp_path / "data"
    write(folder, "now")
    for kind in ("partial", "old"):
        filler("gone")(make(tmp_path / f".data.{kind}-{NOBODY}"))
    filler("other")(make(tmp_path / f".other.partial-{NOBODY}"))
    filler("own")(make(tmp_path / ".data.partial-mine"))
    clean_partials(folder)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [".data.partial-mine", f".other.partial-{NOBODY}", "data"]
    assert content(folder) == ("now", "nownow")


def test_a_folder_caught_between_the_renames_comes_back(tmp_path):
    folder = tmp_path / "data"
    write(folder, "kept")
    folder.rename(tmp_path / f".data.old-{NOBODY}")
    clean_partials(folder)
    assert content(folder) == ("kept", "keptkept")
    assert list(tmp_path.iterdir()) == [folder]


def test_the_living_are_left_alone(tmp_path):
    folder = tmp_path / "data"
    theirs = make(tmp_path / f".data.partial-{os.getppid()}")
    write(folder, "one")
    assert theirs.is_dir()
    clean_partials(tmp_path / "nowhere" / "data")


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder
