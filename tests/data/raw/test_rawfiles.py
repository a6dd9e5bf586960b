import gzip
import io
import os
import string
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.raw import archives, rawfiles
from bench.data.raw.rawfiles import RawFile, RawFiles
from bench.data.raw.unavailable import UnavailableError
from bench.errors import DataError

TEXT = b"user,item\n1,2\n"
OTHER = b"something else\n"


def put(path: Path, content: bytes = TEXT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def zipped(path: Path, *names: str, content: bytes = TEXT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content)
    return path


def tarred(path: Path, *names: str, content: bytes = TEXT) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def refusal(folder: Path, name: str) -> str:
    with pytest.raises(UnavailableError) as caught:
        RawFiles(folder).find(name)
    return str(caught.value)


def test_a_file_at_its_own_path(tmp_path):
    path = put(tmp_path / "set/pairs.csv")
    put(tmp_path / "pairs.csv", OTHER)
    found = RawFiles(tmp_path).find("set/pairs.csv")
    assert found == RawFile("set/pairs.csv", path, None, str(path))
    assert found.read_bytes() == TEXT
    with found.open() as stream:
        assert stream.readline() == b"user,item\n"


def test_an_exact_path_needs_no_look_at_the_folder(tmp_path, monkeypatch):
    put(tmp_path / "pairs.csv")
    put(tmp_path / "broken.zip")
    monkeypatch.setattr(rawfiles, "_walk", lambda folder: pytest.fail("looked through the folder"))
    assert RawFiles(tmp_path).find("pairs.csv").read_bytes() == TEXT


LADDER = [
    "set/pairs.csv",
    "Set/PAIRS.csv",
    "set/Pairs.csv.GZ",
    "deep/set/pairs.CSV",
    "elsewhere/pairs.csv",
    "elsewhere/pairs.csv.gz",
    "a.zip!set/pairs.csv",
    "b.zip!SET/pairs.csv",
    "c.zip!set/pairs.csv.gz",
    "d.tgz!top/set/pairs.csv",
    "e.zip!pairs.csv",
    "f.zip!top/pairs.csv.gz",
]


@pytest.mark.parametrize("step", range(len(LADDER)))
def test_the_strictest_way_that_finds_something_decides(tmp_path, step):
    for number, place in enumerate(LADDER[step:], step):
        content = str(number).encode()
        content = gzip.compress(content) if place.lower().endswith(".gz") else content
        file, _, member = place.partition("!")
        if file.endswith("zip"):
            zipped(tmp_path / file, member, content=content)
        elif member:
            tarred(tmp_path / file, member, content=content)
        else:
            put(tmp_path / file, content)
    found = RawFiles(tmp_path).find("set/pairs.csv")
    assert found.read_bytes() == str(step).encode()
    file, _, member = LADDER[step].partition("!")
    assert (found.path, found.member) == (tmp_path / file, member or None)
    assert found.shown == str(tmp_path / file) + (f": {member}" if member else "")


def test_a_file_whose_gzip_packing_was_taken_off_by_hand(tmp_path):
    put(tmp_path / "meta.json")
    assert RawFiles(tmp_path).find("meta.json.gz").read_bytes() == TEXT
    put(tmp_path / "meta.json.gz", gzip.compress(OTHER))
    assert RawFiles(tmp_path).find("meta.json.gz").read_bytes() == OTHER


LOGS = [f"tianchi_2014002_rec_tmall_log_part{part}.txt" for part in "abc"]


@pytest.mark.parametrize("folder", ["", "log/"])
def test_the_layouts_of_tmall(tmp_path, folder):
    old = "Tianchi_2014002_Rec_Tmall_Log.tar.gz"
    (tmp_path / folder).mkdir(exist_ok=True)
    whole = tarred(tmp_path / folder / old, *(f"log/{log.title()}" for log in LOGS), content=OTHER)
    data = whole.read_bytes()
    whole.unlink()
    for number, start in enumerate(range(0, len(data), len(data) // 3 + 1), 1):
        put(tmp_path / folder / f"{old}.{number:03}", data[start : start + len(data) // 3 + 1])
    files = RawFiles(tmp_path)
    assert files.missing(LOGS) == []
    found = files.find(LOGS[1])
    assert found.read_bytes() == OTHER
    assert found.path == tmp_path / folder / f"{old}.001"
    assert found.member == f"log/{LOGS[1].title()}"

    for part, log in zip("abc", LOGS, strict=True):
        zipped(tmp_path / folder / f"tianchi_2014002_rec_tmall_log.part{part}.zip", log)
    assert [RawFiles(tmp_path).find(log).read_bytes() for log in LOGS] == [TEXT] * 3, "the same case goes before"

    put(tmp_path / "unpacked" / LOGS[0], b"raw")
    assert RawFiles(tmp_path).find(LOGS[0]).read_bytes() == b"raw"


def test_a_split_archive_that_lacks_a_part(tmp_path):
    for number in ("001", "002", "004", "006"):
        put(tmp_path / f"set.tar.gz.{number}")
    assert f"The split archive {tmp_path / 'set.tar.gz.001'} lacks its part .003, .005." in refusal(tmp_path, "x")


def test_parts_are_ordered_by_number_and_give_way_to_the_whole(tmp_path):
    data = tarred(tmp_path / "set.tar.gz", "pairs.csv").read_bytes()
    for number in range(len(data)):
        put(tmp_path / f"set.tar.gz.{number:02}", data[number : number + 1])
    found = RawFiles(tmp_path).find("pairs.csv")
    assert found.path == tmp_path / "set.tar.gz"
    found.path.unlink()
    found = RawFiles(tmp_path).find("pairs.csv")
    assert (found.path, found.read_bytes()) == (tmp_path / "set.tar.gz.00", TEXT)


@pytest.mark.parametrize(
    ("places", "name"),
    [
        (["a/pairs.csv", "b/pairs.csv"], "pairs.csv"),
        (["Pairs.csv", "PAIRS.csv"], "pairs.csv"),
        (["a/pairs.csv.gz", "b/pairs.csv.gz"], "pairs.csv"),
    ],
)
def test_two_files_that_could_be_meant(tmp_path, places, name):
    for place in places:
        put(tmp_path / place)
    message = refusal(tmp_path, name)
    first, second = (str(tmp_path / place) for place in sorted(places))
    assert message == (
        f"more than one file could be {name}: {first} and {second}. Keep the right one in {tmp_path} and move the "
        f"others out."
    )
    with pytest.raises(UnavailableError, match="more than one file could be"):
        RawFiles(tmp_path).missing([name])


def test_two_members_that_could_be_meant(tmp_path):
    zipped(tmp_path / "a.zip", "pairs.csv")
    zipped(tmp_path / "b.zip", "pairs.csv", "other.csv")
    message = refusal(tmp_path, "pairs.csv")
    assert f"{tmp_path / 'a.zip'}: pairs.csv and {tmp_path / 'b.zip'}: pairs.csv." in message
    assert RawFiles(tmp_path).find("other.csv").read_bytes() == TEXT


def test_hidden_and_unfinished_files_do_not_count(tmp_path):
    for place in (".cache/pairs.csv", "set/.pairs.csv", "pairs.csv.part", "pairs.csv.part.json"):
        put(tmp_path / place)
    files = RawFiles(tmp_path)
    assert files.names() == []
    assert refusal(tmp_path, "pairs.csv") == f"{tmp_path} lacks pairs.csv. It holds no files."


def test_what_is_missing_and_what_is_there(tmp_path):
    put(tmp_path / "pairs.csv")
    zipped(tmp_path / "set.zip", "set/titles.csv")
    files = RawFiles(tmp_path)
    assert files.missing(["pairs.csv", "x.npy", "TITLES.csv", "y.npy"]) == ["x.npy", "y.npy"]
    held = "pairs.csv, set.zip, set.zip/set/titles.csv"
    assert files.lacks(["x.npy", "y.npy"]) == f"{tmp_path} lacks x.npy, y.npy. It holds {held}."
    for number in range(1000, 2009):
        put(tmp_path / f"{number}.jpg")
    assert refusal(tmp_path, "x.npy").endswith("1008.jpg, 1009.jpg and 1,002 more.")
    assert RawFiles(tmp_path / "nowhere").missing(["x.npy"]) == ["x.npy"]


def test_a_damaged_archive_is_named_only_when_something_is_missing(tmp_path):
    put(tmp_path / "broken.zip")
    zipped(tmp_path / "set.zip", "pairs.csv")
    assert RawFiles(tmp_path).find("pairs.csv").read_bytes() == TEXT
    message = refusal(tmp_path, "titles.csv")
    assert message.startswith(f"{tmp_path} lacks titles.csv. It holds broken.zip, set.zip, set.zip/pairs.csv.")
    assert message.endswith(
        f"{tmp_path / 'broken.zip'} is damaged or not complete (File is not a zip file). Delete it and fetch it again."
    )
    for look in (RawFiles(tmp_path).names, lambda: RawFiles(tmp_path).lookup("pairs.csv")):
        with pytest.raises(DataError, match="broken.zip is damaged or not complete"):
            look()


def test_a_locked_member_is_no_use(tmp_path):
    path = zipped(tmp_path / "set.zip", "pairs.csv")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert refusal(tmp_path, "pairs.csv").startswith(f"{path}: pairs.csv is locked with a password. Unpack it by hand")


def test_names_and_lookups_reach_into_archives(tmp_path):
    put(tmp_path / "covers/1.jpg", b"one")
    zipped(tmp_path / "packed/covers.zip", "covers/2.jpg", content=b"two")
    files = RawFiles(tmp_path)
    names = ["covers/1.jpg", "packed/covers.zip", "packed/covers.zip/covers/2.jpg"]
    assert files.names() == names
    assert files.lookup("covers/1.jpg").read_bytes() == b"one"
    found = files.lookup("packed/covers.zip/covers/2.jpg")
    assert found.read_bytes() == b"two"
    assert found.shown == f"{tmp_path / 'packed/covers.zip'}: covers/2.jpg"
    assert [files.lookup(path) for path in ("covers/2.jpg", "Covers/1.jpg", "packed", "")] == [None] * 4


def test_many_pictures_are_listed_once_and_share_one_handle(tmp_path, monkeypatch):
    zipped(tmp_path / "covers.zip", *(f"covers/{number}.jpg" for number in range(3000)))
    walks, handles = [], []
    walk, whole = rawfiles._walk, zipfile.ZipFile
    monkeypatch.setattr(rawfiles, "_walk", lambda folder: walks.append(folder) or walk(folder))
    monkeypatch.setattr(archives.zipfile, "ZipFile", lambda path: handles.append(path) or whole(path))
    files = RawFiles(tmp_path)
    for number in range(0, 3000, 10):
        assert files.lookup(f"covers.zip/covers/{number}.jpg").read_bytes() == TEXT
    assert (len(walks), len(handles)) == (1, 1)


def test_gzip_is_taken_off_wherever_it_is(tmp_path):
    packed = gzip.compress(b"first\n") + gzip.compress(b"second\n")
    put(tmp_path / "a.txt.gz", packed)
    zipped(tmp_path / "set.zip", "b.txt.GZ", content=packed)
    files = RawFiles(tmp_path)
    for name in ("a.txt", "a.txt.gz", "b.txt"):
        with files.find(name).open() as stream:
            assert list(stream) == [b"first\n", b"second\n"]
        assert stream.closed


def test_what_was_opened_is_closed(tmp_path, monkeypatch):
    put(tmp_path / "a.txt.gz", gzip.compress(TEXT))
    whole = tarred(tmp_path / "c.tar.gz", "b.txt")
    data = whole.read_bytes()
    whole.unlink()
    put(tmp_path / "c.tar.gz.001", data[:50])
    put(tmp_path / "c.tar.gz.002", data[50:])
    opened, plain = [], Path.open

    def note(path, *arguments):
        opened.append(plain(path, *arguments))
        return opened[-1]

    monkeypatch.setattr(Path, "open", note)
    files = RawFiles(tmp_path)
    streams = [files.find(name).open() for name in ("a.txt", "b.txt")]
    for stream in streams:
        assert stream.read() == TEXT
        stream.close()
    assert len(opened) == 5, "the parts twice: once to list them"
    assert all(file.closed for file in opened)


@pytest.mark.parametrize(
    "bad",
    # Named, as the packed bytes hold the time at which they were made: two test processes would name them otherwise.
    [
        pytest.param(b"no gzip", id="no gzip"),
        pytest.param(gzip.compress(TEXT * 50)[:-9], id="cut short"),
        pytest.param(gzip.compress(TEXT)[:-8] + bytes(8), id="wrong checksum"),
    ],
)
def test_a_damaged_gzip_file(tmp_path, bad):
    path = put(tmp_path / "pairs.csv.gz", bad)
    with pytest.raises(DataError) as caught:
        RawFiles(tmp_path).find("pairs.csv").read_bytes()
    assert str(caught.value).startswith(f"{path} is damaged or not complete (")


def test_a_gzip_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.data.raw.unpack.FREE_BYTES", 1_000_000)
    monkeypatch.setattr("bench.data.raw.unpack.MAX_EXPANSION", 100)
    put(tmp_path / "pairs.csv.gz", gzip.compress(bytes(3_000_000)))
    with pytest.raises(DataError, match="pairs.csv.gz unpacks to more than 100 times its packed size"):
        RawFiles(tmp_path).find("pairs.csv").read_bytes()


@pytest.mark.parametrize("make", [zipped, tarred])
def test_matrices_can_be_read_from_archives(tmp_path, make):
    matrix, buffer = np.arange(12, dtype=np.float16).reshape(4, 3), io.BytesIO()
    np.save(buffer, matrix)
    make(tmp_path / f"set.{'zip' if make is zipped else 'tgz'}", "set/image.npy", content=buffer.getvalue())
    with RawFiles(tmp_path).find("image.npy").open() as stream:
        np.testing.assert_array_equal(np.load(stream, allow_pickle=False), matrix)


def test_a_file_that_vanished(tmp_path):
    path = put(tmp_path / "pairs.csv")
    found = RawFiles(tmp_path).find("pairs.csv")
    path.unlink()
    with pytest.raises(DataError, match="pairs.csv cannot be read: No such file or directory"):
        found.open()


def test_a_raw_file_can_be_made_by_hand(tmp_path):
    path = zipped(tmp_path / "a.zip", "x")
    assert RawFile("x", path, "x", "x").read_bytes() == TEXT
    with pytest.raises(DataError, match="gone.zip cannot be read"):
        RawFile("x", tmp_path / "gone.zip", "x", "x").open()


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    put(tmp_path / "disk/pairs.csv")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/log").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(tmp_path / "raw")
    assert RawFiles(tmp_path / "raw").names() == ["log/pairs.csv"]
    assert RawFiles(tmp_path / "raw").find("pairs.csv").path == tmp_path / "raw/log/pairs.csv"


def test_nothing_is_written(tmp_path):
    zipped(tmp_path / "a.zip", "../up.csv", "pairs.csv")
    tarred(tmp_path / "b.tar.gz", "../up.csv", "titles.csv")
    files = RawFiles(tmp_path)
    before = sorted(os.walk(tmp_path.parent))
    assert files.find("pairs.csv").read_bytes() + files.find("titles.csv").read_bytes() == TEXT + TEXT
    assert files.missing(["up.csv"]) == ["up.csv"]
    assert sorted(os.walk(tmp_path.parent)) == before


PART = st.text(string.ascii_letters[:3] + "AB._", min_size=1, max_size=3).filter(lambda part: not part.startswith("."))
PATHS = st.lists(st.lists(PART, min_size=1, max_size=3).map("/".join), min_size=1, max_size=6, unique=True)


@given(PATHS)
def test_every_member_is_found_by_its_own_path(paths):
    places = [rawfiles._Place("a.zip", path) for path in paths]
    index = rawfiles._by_last_part(places)
    for path, place in zip(paths, places, strict=True):
        first = next(found for found in rawfiles._matches(path, index) if found)
        assert first == [place]
