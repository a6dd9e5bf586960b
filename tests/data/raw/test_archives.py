import bz2
import gzip
import io
import lzma
import os
import tarfile
import threading
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.data.raw import archives, unpack
from bench.data.raw.archives import Archive, is_archive, open_archive
from bench.data.raw.unavailable import UnavailableError
from bench.errors import DataError

TEXT = b"user,item\n1,2\n"


def zipped(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def content(archive: Archive, path: str) -> bytes:
    with archive.open(archive.members[path]) as stream:
        return stream.read()


def refusal(archive: Archive, path: str) -> str:
    with pytest.raises(DataError) as caught:
        content(archive, path)
    return str(caught.value)


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_members_are_listed_and_read(tmp_path, method):
    archive = open_archive(zipped(tmp_path / "set.zip", {"set/pairs.csv": TEXT, "readme": b"", "set/": b""}, method))
    assert {path: member.size for path, member in archive.members.items()} == {"set/pairs.csv": len(TEXT), "readme": 0}
    assert content(archive, "set/pairs.csv") == TEXT
    assert content(archive, "readme") == b""


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.TGZ", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.txz", "w:xz")],
)
def test_tar_members_are_listed_and_read(tmp_path, name, mode):
    big = noise(700_000)
    archive = open_archive(tarred(tmp_path / name, {"./first": b"1" * 600, "set/big": big, "last": TEXT}, mode))
    assert {path: member.size for path, member in archive.members.items()} == {
        "first": 600,
        "set/big": len(big),
        "last": len(TEXT),
    }
    assert content(archive, "last") == TEXT
    assert content(archive, "set/big") == big
    assert content(archive, "first") == b"1" * 600


@pytest.mark.parametrize(("name", "mode"), [("really.tar.gz", "w"), ("really.tar", "w:gz")])
def test_the_first_badof_a_tar_decide_about_its_packing(tmp_path, name, mode):
    assert content(open_archive(tarred(tmp_path / name, {"pairs.csv": TEXT}, mode)), "pairs.csv") == TEXT


def test_names_of_archives():
    assert all(is_archive(name) for name in ("a.zip", "b/A.ZIP", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.b.tbz2"))
    assert not any(is_archive(name) for name in ("a.gz", "zip", "a.zip.part", "tar.gz", "a.tar.gz.001", "a.csv"))


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", "C:/windows", "\\\\share\\x", "..\\up"])
def test_paths_that_lead_out_are_passed_over(tmp_path, name):
    assert list(open_archive(zipped(tmp_path / "a.zip", {name: b"no", "kept": b"yes"})).members) == ["kept"]
    assert list(open_archive(tarred(tmp_path / "a.tar", {name: b"no", "kept": b"yes"}, "w")).members) == ["kept"]


def test_hidden_members_are_passed_over_and_backslashes_are_folders(tmp_path):
    files = {"__MACOSX/._pairs.csv": b"no", ".git/config": b"no", "set\\pairs.csv": TEXT}
    archive = open_archive(zipped(tmp_path / "a.zip", files))
    assert list(archive.members) == ["set/pairs.csv"]
    assert content(archive, "set/pairs.csv") == TEXT


def test_links_and_devices_are_passed_over(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo(f"odd{kind.decode()}")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert open_archive(tmp_path / "a.tar").members == {}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert open_archive(tmp_path / "a.zip").members == {}


def test_of_two_members_of_one_name_the_last_counts(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for text in (b"old", b"newer"):
            member = tarfile.TarInfo("x")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    assert content(open_archive(tmp_path / "a.tar.gz"), "x") == b"newer"


def flagged(path: Path, offset: int, value: int) -> Path:
    """Set two bytes of the only entry of a zip, in its table of contents."""
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\x01\x02") + offset
    data[at : at + 2] = value.to_bytes(2, "little")
    path.write_bytes(data)
    return path


def test_a_locked_member(tmp_path):
    archive = open_archive(flagged(zipped(tmp_path / "a.zip", {"pairs.csv": TEXT}), 8, 0x1))
    message = refusal(archive, "pairs.csv")
    assert message.startswith(f"{tmp_path / 'a.zip'}: pairs.csv is locked with a password. Unpack it by hand")


@pytest.mark.parametrize(("method", "words"), [(9, "(deflate64)"), (77, "(number 77)")])
def test_a_method_that_python_cannot_read(tmp_path, method, words):
    archive = open_archive(flagged(zipped(tmp_path / "a.zip", {"pairs.csv": TEXT}), 10, method))
    assert f"is packed by a method that Python cannot read {words}. Unpack it by hand" in refusal(archive, "pairs.csv")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("bad", [b"", b"<!DOCTYPE html><title>Quota</title>" * 30, b"\x1f\x8b\x08\x00garbage"])
def test_no_archive_at_all(tmp_path, name, bad):
    (tmp_path / name).write_bytes(bad)
    with pytest.raises(UnavailableError) as caught:
        open_archive(tmp_path / name).members  # noqa: B018
    assert str(caught.value).startswith(f"{tmp_path / name} is damaged or not complete (")
    assert str(caught.value).endswith("Delete it and fetch it again.")


def test_an_archive_that_is_not_there(tmp_path):
    with pytest.raises(UnavailableError, match="gone.zip cannot be read: No such file"):
        open_archive(tmp_path / "gone.zip")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_broke_off(tmp_path, mode):
    path = tarred(tmp_path / "a.tar", {"x": noise(50_000), "y": noise(50_000, 1)}, mode)
    path.write_bytes(path.read_bytes()[:80_000])
    with pytest.raises(UnavailableError, match="damaged or not complete"):
        open_archive(path).members  # noqa: B018


def test_a_flipped_bit_in_a_tar_is_found_by_its_checksum(tmp_path):
    path = tarred(tmp_path / "a.tar.gz", {"x": noise(50_000), "y": TEXT})
    data = bytearray(path.read_bytes())
    data[20_000] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnavailableError, match=r"damaged or not complete \(CRC check failed"):
        open_archive(path).members  # noqa: B018


def test_the_checksum_of_a_tar_is_checked_far_behind_its_members(tmp_path):
    data = bytearray(gzip.compress(tarred(tmp_path / "a.tar", {"x": TEXT}, "w").read_bytes() + bytes(3_000_000)))
    data[-8] ^= 1
    (tmp_path / "a.tar.gz").write_bytes(data)
    with pytest.raises(UnavailableError, match=r"damaged or not complete \(CRC check failed"):
        open_archive(tmp_path / "a.tar.gz").members  # noqa: B018


def test_a_flipped_bit_in_a_zip_is_found_while_reading(tmp_path):
    path = zipped(tmp_path / "a.zip", {"x": noise(50_000)}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[20_000] ^= 1
    path.write_bytes(data)
    assert "a.zip: x is damaged or not complete (Bad CRC-32" in refusal(open_archive(path), "x")


def test_a_member_that_is_larger_or_smaller_than_it_says(tmp_path):
    large = flagged(zipped(tmp_path / "large.zip", {"x": b"ab" * 5000}), 24, 9_000)
    archive = open_archive(large)
    with archive.open(archive.members["x"]) as stream, pytest.raises(DataError, match="damaged or not complete"):
        assert len(stream.read()) <= 9_000
    small = flagged(zipped(tmp_path / "small.zip", {"x": b"ab" * 5000}), 24, 20_000)
    assert "it ends after 10,000 of 20,000 bytes" in refusal(open_archive(small), "x")


def test_an_archive_cut_off_after_it_was_listed(tmp_path):
    path = tarred(tmp_path / "a.tar", {"x": noise(50_000)}, "w")
    archive = open_archive(path)
    assert list(archive.members) == ["x"]
    path.write_bytes(path.read_bytes()[:30_000])
    assert "it ends after 29,488 of 50,000 bytes" in refusal(archive, "x")


BOMB = bytes(3_000_000)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_zip_bomb_is_stopped_while_reading(tmp_path, monkeypatch, method):
    archive = open_archive(zipped(tmp_path / "a.zip", {"zeros": BOMB}, method))
    assert content(archive, "zeros") == BOMB, "small ones are nobody's harm"
    monkeypatch.setattr(unpack, "FREE_BYTES", 1_000_000)
    monkeypatch.setattr(unpack, "MAX_EXPANSION", 10**6)
    assert content(archive, "zeros") == BOMB, "this much is allowed"
    monkeypatch.setattr(unpack, "MAX_EXPANSION", 100)
    message = refusal(archive, "zeros")
    assert "a.zip: zeros unpacks to more than 100 times its packed size (" in message
    assert "Delete it and fetch it again from its publisher." in message
    with archive.open(archive.members["zeros"]) as stream:
        assert len(stream.read(500_000)) == 500_000, "up to the limit all is well"


def test_a_tar_bomb_is_stopped_while_listing_and_behind_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "FREE_BYTES", 1_000_000)
    monkeypatch.setattr(unpack, "MAX_EXPANSION", 100)
    inside = tarred(tmp_path / "inside.tar.gz", {"zeros": BOMB, "x": TEXT})
    behind = tarred(tmp_path / "behind.tar.gz", {"x": TEXT})
    behind.write_bytes(gzip.compress(gzip.decompress(behind.read_bytes()) + BOMB))
    for path in (inside, behind):
        with pytest.raises(UnavailableError, match="unpacks to more than 100 times its packed size"):
            open_archive(path).members  # noqa: B018


def cut(path: Path, *ends: int) -> list[Path]:
    """Cut a file into numbered parts at these positions and remove it."""
    data = path.read_bytes()
    parts = []
    for number, (start, end) in enumerate(zip((0, *ends), (*ends, len(data)), strict=True), 1):
        parts.append(path.with_name(f"{path.name}.{number:03}"))
        parts[-1].write_bytes(data[start:end])
    path.unlink()
    return parts


@pytest.mark.parametrize("make", [zipped, tarred])
def test_split_archives_are_read_as_one(tmp_path, make):
    files = {"x": noise(200_000), "set/y": TEXT, "z": noise(100_000, 1)}
    name = "a.zip" if make is zipped else "a.tar.gz"
    archive = open_archive(*cut(make(tmp_path / name, files), 1, 150_000, 150_000, 200_003))
    assert {path: content(archive, path) for path in archive.members} == files


def test_a_split_archive_without_its_end(tmp_path):
    parts = cut(tarred(tmp_path / "a.tar.gz", {"x": noise(200_000)}), 100_000)
    with pytest.raises(UnavailableError, match=r"a\.tar\.gz\.001 is damaged or not complete"):
        open_archive(parts[0]).members  # noqa: B018


@pytest.mark.parametrize("make", [zipped, tarred])
def test_streams_can_be_read_like_files(tmp_path, make):
    matrix = np.arange(60_000, dtype=np.float32).reshape(-1, 3)
    buffer = io.BytesIO()
    np.save(buffer, matrix)
    name = "a.zip" if make is zipped else "a.tar.gz"
    archive = open_archive(make(tmp_path / name, {"first": TEXT, "image.npy": buffer.getvalue()}))
    with archive.open(archive.members["image.npy"]) as stream:
        np.testing.assert_array_equal(np.load(stream, allow_pickle=False), matrix)
        assert stream.seek(0, os.SEEK_END) == len(buffer.getvalue())
        assert stream.seek(-4, os.SEEK_END) == stream.tell() == len(buffer.getvalue()) - 4
        assert stream.read() == buffer.getvalue()[-4:]
        assert stream.seek(1) == 1
        assert stream.read(5) == b"NUMPY"
        assert stream.seek(10**9) == 10**9
        assert stream.read(5) == b""
    with archive.open(archive.members["first"]) as stream:
        assert [line.decode() for line in stream] == ["user,item\n", "1,2\n"]


def test_an_archive_is_listed_once_until_it_changes(tmp_path, monkeypatch):
    path = zipped(tmp_path / "a.zip", {"x": TEXT})
    listed = []
    monkeypatch.setattr(archives, "_obstacle", lambda entry: listed.append(entry.filename) or "")
    assert [len(open_archive(path).members) for _ in range(3)] == [1, 1, 1]
    assert listed == ["x"]
    zipped(path, {"y": TEXT + TEXT})
    assert list(open_archive(path).members) == ["y"]


def test_members_of_one_zip_can_be_read_at_once_by_threads_and_processes(tmp_path):
    files = {f"{number}.jpg": noise(80_000, number) for number in range(6)}
    archive = open_archive(zipped(tmp_path / "a.zip", files))
    wrong = []

    def read(path: str) -> None:
        for _ in range(5):
            wrong.extend([path] if content(archive, path) != files[path] else [])

    threads = [threading.Thread(target=read, args=(path,)) for path in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_process_does_not_share_the_handle_of_another(tmp_path, monkeypatch):
    archive = open_archive(zipped(tmp_path / "a.zip", {"x": TEXT}))
    assert content(archive, "x") == TEXT
    before = archive._zip()
    assert archive._zip() is before
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert archive._zip() is not before
    assert content(archive, "x") == TEXT


def made(kind: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    packers = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}
    return packers[kind](buffer.getvalue())


WHOLE = {kind: made(kind, {"set/x": noise(3000), "y": TEXT * 100}) for kind in ("zip", "tar", "tar.gz", "tar.xz")}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(st.floats(0, 0.9999), st.integers(0, 255)), min_size=1, max_size=4),
    end=st.just(1.0) | st.floats(0.1, 1),
)
def test_whatever_is_wrong_with_an_archive_only_our_errors_come_out(tmp_path, kind, changes, end):
    data = bytearray(WHOLE[kind])
    for where, value in changes:
        data[int(where * len(data))] = value
    path = tmp_path / f"a.{kind}"
    path.write_bytes(data[: int(end * len(data))])
    archive = archives._archive.__wrapped__((path,), ())
    # What the changes leave whole is read; everything else is refused.
    with suppress(UnavailableError, DataError):
        for member in archive.members.values():
            with archive.open(member) as stream:
                assert len(stream.read()) == member.size
