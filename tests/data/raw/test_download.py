import errno
import hashlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webserver import serving

import bench.data.progress as progress_module
from bench.data.raw import checksums, http_session, transfer, transfer_progress
from bench.data.raw.checksums import digest, is_web_page
from bench.data.raw.download import download
from bench.data.raw.unavailable import UnavailableError
from bench.data.recipes.sources import HttpSource
from bench.errors import UsageError

PAIRS = b"user,item\n1,2\n3,4\n"
LARGE = bytes(range(256)) * 1200  # some chunks
ETAG = '"version-1"'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def source_of(*downloads: dict, **keys: object) -> HttpSource:
    table = {"file": "pairs.csv"}
    return HttpSource.model_validate({"kind": "http", "downloads": downloads, "interactions": table, **keys})


@pytest.fixture
def fetch(web, tmp_path):
    """Download one file of the server; returns the report's lines."""

    def run(path: str = "/pairs.csv", *, base: str | None = None, **known: object) -> list[str]:
        lines: list[str] = []
        source = source_of({"url": web.url + path, **known})
        download(source, tmp_path / "raw", lines.append, base=base)
        return lines

    return run


@pytest.fixture
def raw(tmp_path) -> Path:
    return tmp_path / "raw"


def refusal(fetch, *arguments: object, **known: object) -> str:
    with pytest.raises(UnavailableError) as caught:
        fetch(*arguments, **known)
    return str(caught.value)


def leave_part(raw: Path, content: bytes, **origin: object) -> None:
    """Leave what an interrupted download leaves."""
    raw.mkdir(exist_ok=True)
    (raw / "pairs.csv.part").write_bytes(content)
    known = {"etag": None, "last_modified": None, "size": None, **origin}
    (raw / "pairs.csv.part.json").write_text(json.dumps(known))


def test_a_download_is_checked_and_kept(web, fetch, raw):
    web.file("/pairs.csv", PAIRS)
    lines = fetch(sha256=sha256(PAIRS), size=len(PAIRS))
    assert (raw / "pairs.csv").read_bytes() == PAIRS
    assert lines == [f"downloading {web.url}/pairs.csv ({len(PAIRS)} bytes)"]
    assert fetch(sha256=sha256(PAIRS)) == []
    assert fetch(size=len(PAIRS)) == []
    assert fetch() == []
    assert web.asked == ["/pairs.csv"], "asked once"
    assert [path.name for path in raw.iterdir()] == ["pairs.csv"], "nothing else stays"


def test_a_file_of_another_name(web, fetch, raw):
    web.file("/get?id=7", PAIRS)
    fetch("/get?id=7", file="pairs.csv", md5=hashlib.md5(PAIRS).hexdigest())
    assert (raw / "pairs.csv").read_bytes() == PAIRS


def test_archives_stay_packed(web, fetch, raw):
    web.file("/set.zip", b"PK\x05\x06" + b"\0" * 18)
    fetch("/set.zip")
    assert [path.name for path in raw.iterdir()] == ["set.zip"]


def test_an_empty_file(web, fetch, raw):
    web.file("/pairs.csv", b"")
    fetch(sha256=sha256(b""))
    assert (raw / "pairs.csv").read_bytes() == b""


def test_without_a_checksum_one_is_suggested(web, fetch, raw):
    web.file("/pairs.csv", PAIRS)
    assert fetch()[-1] == f'{raw / "pairs.csv"} has no checksum in the recipe; add sha256 = "{sha256(PAIRS)}"'


def test_wrong_checksum_and_wrong_size_leave_nothing(web, fetch, raw):
    web.file("/pairs.csv", PAIRS)
    message = refusal(fetch, sha256="9" * 64)
    assert f"content with the sha256 {sha256(PAIRS)}, but the recipe expects {'9' * 64}" in message
    assert f"gave {len(PAIRS)} bytes, but the recipe expects 9,999" in refusal(fetch, size=9999)
    found = hashlib.md5(PAIRS).hexdigest()
    assert f"the md5 {found}, but the recipe expects {'0' * 32}: the download is" in refusal(fetch, md5="0" * 32)
    assert list(raw.iterdir()) == []


def test_a_wrong_file_is_fetched_again_and_replaced_by_a_good_one_only(web, fetch, raw):
    raw.mkdir()
    (raw / "pairs.csv").write_bytes(PAIRS[:5])
    web.file("/pairs.csv", b"other")
    refusal(fetch, sha256=sha256(PAIRS))
    assert (raw / "pairs.csv").read_bytes() == PAIRS[:5], "the old one stays"
    web.file("/pairs.csv", PAIRS)
    lines = fetch(size=len(PAIRS))
    assert lines[0] == f"{raw / 'pairs.csv'} holds 5 bytes, but the recipe expects {len(PAIRS)}; fetching it anew"
    assert (raw / "pairs.csv").read_bytes() == PAIRS


@pytest.mark.parametrize("served", ["lf", "crlf"])
@pytest.mark.parametrize("expected", ["lf", "crlf"])
def test_either_line_ends_are_as_good(web, fetch, raw, served, expected):
    texts = {"lf": PAIRS, "crlf": PAIRS.replace(b"\n", b"\r\n")}
    web.file("/pairs.csv", texts[served])
    known = {"sha256": sha256(texts[expected]), "size": len(texts[expected]), "line_ends": expected}
    fetch(**known)
    assert (raw / "pairs.csv").read_bytes() == texts[served], "kept as it came"
    assert fetch(**known) == []
    if served != expected:
        del known["line_ends"]
        assert "but the recipe expects" in refusal(fetch, **known)


@given(text=st.text("a\r\n").map(str.encode), chunk=st.integers(1, 5))
def test_line_ends_do_not_depend_on_where_pieces_end(tmp_path_factory, text, chunk):
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(text)
    lf = text.replace(b"\r\n", b"\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksums, "CHUNK_BYTES", chunk)
        assert digest(path, "sha256", "lf") == (sha256(lf), len(lf))
        crlf = lf.replace(b"\n", b"\r\n")
        assert digest(path, "sha256", "crlf") == (sha256(crlf), len(crlf))
        assert digest(path, "sha256") == (sha256(text), len(text))


PAGES = [
    b"<!DOCTYPE html><title>Quota</title>",
    b"\n <html><body>Log in</body></html>",
    b"\xef\xbb\xbf\r\n<HTML lang='en'>",
    b'<?xml version="1.0"?>\n<!-- a -->\n<!DOCTYPE html PUBLIC>',
]


@pytest.mark.parametrize("page", PAGES)
def test_a_web_page_instead_of_data(web, fetch, raw, page):
    web.file("/pairs.csv", page)
    message = refusal(fetch, sha256=sha256(PAIRS), size=len(PAIRS))
    assert "gave a web page instead of data: a login, a consent or a quota page. Open it in a browser" in message
    assert list(raw.iterdir()) == []
    (raw / "pairs.csv").write_bytes(page)
    web.file("/pairs.csv", PAIRS)
    assert "holds a web page instead of data" in fetch()[0]


def test_a_web_page_that_is_wanted(web, fetch, raw):
    web.file("/index.html", PAGES[0])
    fetch("/index.html")
    assert (raw / "index.html").read_bytes() == PAGES[0]


@pytest.mark.parametrize("content", [b"<htmlish>,1", b"a<html>", b"", b'{"title": "<html>"}', b"<!-- a comment -->1,2"])
def test_data_that_is_no_web_page(tmp_path, content):
    (tmp_path / "data").write_bytes(content)
    assert not is_web_page(tmp_path / "data")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (404, "is not there any more (404); if you know another address, pass it with --url"),
        (410, "is not there any more (410)"),
        (401, "refuses access (401): it wants a login or accepted terms"),
        (403, "refuses access (403): it wants a login or accepted terms"),
        (429, "had too many requests (429); try again in an hour"),
        (500, "answered with the error 500; try again later"),
        (418, "answered with the status 418 instead of a file"),
    ],
)
def test_answers_that_are_no_file(web, fetch, raw, status, words):
    web.files["/pairs.csv"] = (status, b"no")
    message = refusal(fetch)
    assert f"{web.url}/pairs.csv {words}" in message
    assert f"If you have the file, put it at {raw / 'pairs.csv'}, or use --from DIR." in message
    assert len(web.asked) == (http_session.ATTEMPTS if status in http_session.RETRIED else 1)
    assert list(raw.iterdir()) == []


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    """Seconds that retries would have slept."""
    slept: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time", SimpleNamespace(sleep=slept.append, time=lambda: 0.0))
    monkeypatch.setattr("bench.data.raw.transfer.time", SimpleNamespace(sleep=slept.append))
    return slept


def test_a_busy_server_is_asked_again_after_growing_pauses(web, fetch, raw, naps, monkeypatch):
    monkeypatch.setattr(http_session, "BACKOFF_S", 1.0)
    web.file("/pairs.csv", PAIRS)
    web.replies["/pairs.csv"] = [(503, {}), (502, {}), (500, {})]
    fetch(sha256=sha256(PAIRS))
    assert naps == [2.0, 4.0], "the first time at once"
    assert (raw / "pairs.csv").read_bytes() == PAIRS


def test_the_wait_a_server_asks_for_is_kept(web, fetch, naps):
    web.file("/pairs.csv", PAIRS)
    web.replies["/pairs.csv"] = [(429, {"Retry-After": "7"}), (503, {"Retry-After": "some day"})]
    lines = fetch(sha256=sha256(PAIRS))
    assert naps == [7], "and a wait that cannot be read is none"
    assert lines[0] == "the server asks to wait 7 s"


def test_a_wait_that_is_too_long_is_passed_on(web, fetch, naps):
    web.replies["/pairs.csv"] = [(429, {"Retry-After": "5000"})]
    assert "had too many requests (429); it asks to wait: Retry-After 5000" in refusal(fetch)
    assert naps == []
    assert len(web.asked) == 1


def test_offline(web, fetch):
    web.server.shutdown()
    web.server.server_close()
    assert "cannot be reached: this machine is offline or the server is down" in refusal(fetch)


def test_a_server_that_hangs_up(web, fetch, raw):
    web.file("/pairs.csv", PAIRS)
    web.replies["/pairs.csv"] = [(0, {})] * http_session.ATTEMPTS
    assert "broke the connection off before it answered; try again later" in refusal(fetch)
    web.replies["/pairs.csv"] = [(0, {})]
    fetch()
    assert (raw / "pairs.csv").read_bytes() == PAIRS


def test_a_server_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(http_session, "BACKOFF_S", 0.0)
    monkeypatch.setenv("NO_PROXY", "*")

    def unknown(*arguments: object, **keywords: object) -> None:
        raise http_session.broken.NameResolutionError("nowhere.invalid", None, OSError("unknown"))

    monkeypatch.setattr("urllib3.connection.HTTPConnection.connect", unknown)
    with pytest.raises(UnavailableError, match="offline or does not know the name of the server"):
        download(source_of({"url": "http://nowhere.invalid/a.csv"}), tmp_path, print)


def test_a_server_that_does_not_answer(web, fetch, monkeypatch):
    monkeypatch.setattr(http_session, "TIMEOUT_S", (0.01, 0.01))
    monkeypatch.setattr(http_session, "ATTEMPTS", 2)
    # The kernel accepts the connection; nobody reads it.
    web.server.shutdown()
    assert "did not answer within 0 s; try again later" in refusal(fetch)


def test_a_body_that_breaks_off_is_continued(web, fetch, raw):
    web.file("/pairs.csv", LARGE, etag=ETAG)
    web.breaks = [100_000, 50_000]
    lines = fetch(sha256=sha256(LARGE))
    assert (raw / "pairs.csv").read_bytes() == LARGE
    assert [request.get("Range") for request in web.received] == [None, "bytes=100000-", "bytes=150000-"]
    assert web.received[1]["If-Range"] == ETAG
    assert f"{web.url}/pairs.csv broke off after 100.0 kB; trying again" in lines
    assert f"continuing after 150.0 kB: {web.url}/pairs.csv (307.2 kB)" in lines


def test_a_later_call_continues_too(web, fetch, raw, monkeypatch):
    monkeypatch.setattr(http_session, "ATTEMPTS", 1)
    web.file("/pairs.csv", LARGE, last_modified="Mon, 01 Jan 2024 00:00:00 GMT")
    web.breaks = [200_000]
    message = refusal(fetch)
    assert "broke off in the middle, 1 times with little to show" in message
    assert "the 200.0 kB that came are kept and continued" in message
    assert sorted(path.name for path in raw.iterdir()) == ["pairs.csv.part", "pairs.csv.part.json"]
    fetch()
    assert web.received[1]["Range"] == "bytes=200000-"
    assert web.received[1]["If-Range"] == "Mon, 01 Jan 2024 00:00:00 GMT"
    assert (raw / "pairs.csv").read_bytes() == LARGE


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_always_breaks_off_is_no_file(web, fetch, raw, chunked):
    web.file("/pairs.csv", PAIRS)
    web.chunked = chunked
    web.breaks = [5] * 9
    assert "broke off in the middle" in refusal(fetch)
    assert len(web.asked) == http_session.ATTEMPTS
    assert not (raw / "pairs.csv").exists()


def test_a_promise_that_is_not_kept(web, fetch, raw):
    web.file("/pairs.csv", PAIRS)
    web.promised = 1000
    assert "broke off in the middle" in refusal(fetch, size=len(PAIRS))
    assert not (raw / "pairs.csv").exists()


def test_a_slow_transfer_that_gains_is_not_given_up(web, fetch, raw, monkeypatch):
    monkeypatch.setattr(transfer, "PROGRESS_BYTES", 10_000)
    web.file("/pairs.csv", LARGE, etag=ETAG)
    web.breaks = [20_000] * 12
    fetch(sha256=sha256(LARGE))
    assert len(web.asked) == 13
    assert (raw / "pairs.csv").read_bytes() == LARGE


def test_chunks_with_a_clean_end(web, fetch, raw):
    web.file("/pairs.csv", LARGE)
    web.chunked = True
    fetch()
    assert (raw / "pairs.csv").read_bytes() == LARGE


def test_a_body_without_any_end_needs_a_size_or_checksum(web, fetch, raw):
    web.file("/pairs.csv", PAIRS)
    web.unsized = True
    assert "does not say how large it is" in refusal(fetch)
    web.breaks = [5]
    assert "gave 5 bytes, but the recipe expects" in refusal(fetch, size=len(PAIRS))
    fetch(size=len(PAIRS))
    assert (raw / "pairs.csv").read_bytes() == PAIRS


def test_a_server_that_ignores_ranges_starts_over(web, fetch, raw):
    web.file("/pairs.csv", LARGE, etag=ETAG)
    web.ranges = False
    web.breaks = [100_000]
    fetch()
    assert web.received[1]["Range"] == "bytes=100000-"
    assert (raw / "pairs.csv").read_bytes() == LARGE


def test_another_version_starts_over(web, fetch, raw):
    leave_part(raw, b"old" * 99, url=f"{web.url}/pairs.csv", etag='"version-0"', size=99_999)
    web.file("/pairs.csv", LARGE, etag=ETAG)
    fetch()
    assert web.received[0]["If-Range"] == '"version-0"'
    assert (raw / "pairs.csv").read_bytes() == LARGE


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (206, {"Content-Range": "bytes 0-17/18", "ETag": ETAG}),
        (206, {"Content-Range": "bytes 5-17/19", "ETag": ETAG}),
        (206, {"Content-Range": "bytes 5-17/18", "ETag": '"version-2"'}),
        (206, {}),
        (416, {"Content-Range": "bytes */4"}),
        (416, {"Content-Range": "bytes */5", "ETag": '"version-2"'}),
        (416, {"Content-Range": "bytes */5", "ETag": ETAG}),
        (416, {}),
    ],
)
def test_a_range_that_does_not_fit_starts_over(web, fetch, raw, status, headers):
    leave_part(raw, b"wrong", url=f"{web.url}/pairs.csv", etag=ETAG, size=18)
    web.file("/pairs.csv", PAIRS)
    web.replies["/pairs.csv"] = [(status, headers)]
    lines = fetch()
    assert f"{web.url}/pairs.csv does not continue what came before; starting over" in lines
    assert (raw / "pairs.csv").read_bytes() == PAIRS


def test_a_shorter_range_is_not_the_end(web, fetch, raw):
    leave_part(raw, PAIRS[:5], url=f"{web.url}/pairs.csv", etag=ETAG, size=len(PAIRS))
    web.files["/pairs.csv"] = (206, PAIRS[5:10])
    web.headers["/pairs.csv"] = {"Content-Range": f"bytes 5-9/{len(PAIRS)}", "ETag": ETAG}
    refusal(fetch)
    assert web.received[1]["Range"] == "bytes=10-"
    assert not (raw / "pairs.csv").exists()


def test_nothing_more_to_give_is_the_end(web, fetch, raw):
    leave_part(raw, PAIRS, url=f"{web.url}/pairs.csv", etag=ETAG)
    web.file("/pairs.csv", PAIRS, etag=ETAG)
    fetch()
    assert len(web.asked) == 1
    assert (raw / "pairs.csv").read_bytes() == PAIRS


def test_a_part_that_is_whole_needs_no_request(web, fetch, raw):
    leave_part(raw, PAIRS, url=f"{web.url}/pairs.csv", etag=ETAG, size=len(PAIRS))
    fetch(sha256=sha256(PAIRS))
    assert web.asked == []
    assert (raw / "pairs.csv").read_bytes() == PAIRS


@pytest.mark.parametrize("origin", ["", "{", "[1]", '{"url": "http://elsewhere"}'])
def test_a_part_of_unknown_origin_is_not_built_upon(web, fetch, raw, origin):
    raw.mkdir()
    (raw / "pairs.csv.part").write_bytes(b"wrong")
    (raw / "pairs.csv.part.json").write_text(origin)
    web.file("/pairs.csv", PAIRS, etag=ETAG)
    fetch()
    assert "Range" not in web.received[0]
    assert (raw / "pairs.csv").read_bytes() == PAIRS


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_a_part_nobody_vouches_for_needs_a_checksum(web, fetch, raw, etag):
    web.file("/pairs.csv", PAIRS)
    leave_part(raw, PAIRS[:5], url=f"{web.url}/pairs.csv", etag=etag)
    fetch()
    assert "Range" not in web.received[0]
    (raw / "pairs.csv").unlink()
    leave_part(raw, PAIRS[:5], url=f"{web.url}/pairs.csv", etag=etag)
    fetch(sha256=sha256(PAIRS))
    assert web.received[1]["Range"] == "bytes=5-"
    assert "If-Range" not in web.received[1]
    assert (raw / "pairs.csv").read_bytes() == PAIRS


def test_pieces_that_do_not_fit_are_fetched_anew(web, fetch, raw):
    leave_part(raw, b"wrong", url="http://mirror.example/pairs.csv")
    web.file("/pairs.csv", PAIRS)
    lines = fetch(sha256=sha256(PAIRS))
    assert any("the pieces make content with the sha256" in line and "starting over" in line for line in lines)
    assert (raw / "pairs.csv").read_bytes() == PAIRS


def test_an_interrupt_keeps_what_came(web, fetch, raw, monkeypatch):
    web.file("/pairs.csv", LARGE, etag=ETAG)

    def interrupt(self: object, n_bytes: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transfer_progress.TransferProgress, "advance", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch()
    assert (raw / "pairs.csv.part").read_bytes() == LARGE[: transfer.CHUNK_BYTES]
    fetch()
    assert web.received[1]["Range"] == f"bytes={transfer.CHUNK_BYTES}-"
    assert (raw / "pairs.csv").read_bytes() == LARGE


def test_content_that_is_packed_on_the_way(web, fetch, raw):
    web.file("/pairs.csv", b"\x1f\x8b", content_encoding="gzip")
    web.file("/pairs.csv.gz", b"\x1f\x8b", content_encoding="gzip")
    assert "sends its content packed (gzip), although it was asked not to" in refusal(fetch)
    assert web.received[0]["Accept-Encoding"] == "identity"
    fetch("/pairs.csv.gz")
    assert (raw / "pairs.csv.gz").read_bytes() == b"\x1f\x8b", "the file as it is"


def test_a_folder_that_cannot_be_written(web, fetch, raw):
    raw.write_text("a file where a folder should be")
    web.file("/pairs.csv", PAIRS)
    message = refusal(fetch)
    assert f"{raw / 'pairs.csv'} cannot be written" in message
    assert "Check free space and permissions" in message
    assert raw.read_text() == "a file where a folder should be"


def test_a_full_disk_is_not_the_servers_fault(web, raw, monkeypatch):
    web.file("/pairs.csv", PAIRS)

    def full(part: Path, origin: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer, "_save_origin", full)
    source = source_of({"url": "pairs.csv"}, base=web.url, mirrors=[f"{web.url}/mirror"])
    with pytest.raises(UnavailableError, match=r"pairs.csv cannot be written or read: No space left on device\."):
        download(source, raw, print)
    assert web.asked == ["/pairs.csv"], "no mirror helps"


def test_mirrors_are_tried_in_turn(web, raw):
    web.file("/third/pairs.csv", PAIRS)
    web.file("/second/pairs.csv", PAGES[0])
    mirrors = [f"{web.url}/second/", f"{web.url}/third"]
    source = source_of({"url": "pairs.csv", "sha256": sha256(PAIRS)}, base=f"{web.url}/first", mirrors=mirrors)
    lines: list[str] = []
    download(source, raw, lines.append)
    assert web.asked == ["/first/pairs.csv", "/second/pairs.csv", "/third/pairs.csv"]
    assert any("first/pairs.csv is not there any more (404)" in line and "next address" in line for line in lines)
    (raw / "pairs.csv").unlink()
    del web.files["/third/pairs.csv"]
    with pytest.raises(UnavailableError) as caught:
        download(source, raw, lines.append)
    for words in ("first/pairs.csv is not there", "second/pairs.csv gave a web page", "third/pairs.csv is not there"):
        assert words in str(caught.value), "every reason is told"


def test_a_mirror_continues_where_a_checksum_can_tell(web, raw, monkeypatch):
    monkeypatch.setattr(http_session, "ATTEMPTS", 1)
    web.file("/first/pairs.csv", LARGE, etag=ETAG)
    web.file("/second/pairs.csv", LARGE, etag='"other"')
    web.breaks = [100_000]
    source = source_of(
        {"url": "pairs.csv", "sha256": sha256(LARGE)}, base=f"{web.url}/first", mirrors=[f"{web.url}/second"]
    )
    download(source, raw, print)
    assert web.received[1]["Range"] == "bytes=100000-"
    assert "If-Range" not in web.received[1], "its versions are not those of the other server"
    assert (raw / "pairs.csv").read_bytes() == LARGE


def test_another_base_is_the_only_one_tried(web, raw):
    source = source_of({"url": "deep/pairs.csv"}, base=f"{web.url}/first", mirrors=[f"{web.url}/second"])
    with pytest.raises(UnavailableError, match="third/deep/pairs.csv is not there any more"):
        download(source, raw, print, base=f"{web.url}/third")
    assert web.asked == ["/third/deep/pairs.csv"]


def test_absolute_addresses_and_another_base(web, raw):
    web.file("/elsewhere/pairs.csv?v=a/b", PAIRS)
    web.file("/other/pairs.csv?v=a/b", PAIRS)
    address = {"url": f"{web.url}/elsewhere/pairs.csv?v=a/b"}
    download(source_of(address, base=web.url), raw, print, base=f"{web.url}/other")
    (raw / "pairs.csv").unlink()
    download(source_of(address), raw, print, base=f"{web.url}/other/")
    assert web.asked == ["/elsewhere/pairs.csv?v=a/b", "/other/pairs.csv?v=a/b"]


def test_mirrors_of_absolute_addresses(web, raw):
    web.file("/mirror/pairs.csv", PAIRS)
    download(source_of({"url": f"{web.url}/a/b/pairs.csv"}, mirrors=[f"{web.url}/mirror"]), raw, print)
    assert web.asked == ["/a/b/pairs.csv", "/mirror/pairs.csv"]


def test_a_base_that_is_no_address(raw):
    with pytest.raises(UsageError, match="--url expects a web address .* found '/data'"):
        download(source_of({"url": "a.csv"}, base="http://h"), raw, print, base="/data")


def test_a_redirect_is_followed_and_continued(web, fetch, raw):
    web.file("/real", LARGE, etag=ETAG)
    web.replies["/pairs.csv"] = [(302, {"Location": "/real"})] * 2
    web.breaks = [100_000]
    fetch(sha256=sha256(LARGE))
    assert web.asked == ["/pairs.csv", "/real"] * 2
    assert web.received[3]["Range"] == "bytes=100000-"
    assert (raw / "pairs.csv").read_bytes() == LARGE


def test_a_terminal_sees_a_bar(web, fetch, raw, monkeypatch):
    leave_part(raw, LARGE[:100_000], url=f"{web.url}/pairs.csv", etag=ETAG, size=len(LARGE))
    web.file("/pairs.csv", LARGE, etag=ETAG)
    screen = io.StringIO()
    monkeypatch.setattr(screen, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    fetch()
    assert "pairs.csv" in screen.getvalue()
    assert "307.2/307.2 kB" in screen.getvalue()


def test_a_log_gets_a_line_now_and_then(monkeypatch):
    clock = iter([0.0, 100.0, 110.0, 131.0, 140.0, 161.0])
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    lines: list[str] = []
    with transfer_progress.TransferProgress("set.zip", lines.append) as progress:
        progress.begin(3_000_000, 100_000_000)
        for _ in range(4):
            progress.advance(3_100_000)
    # 6.2 MB in 31 s, then 12.4 MB in 61 s; what was there before does not count as speed.
    assert lines == [
        "set.zip: 9 % of 100.0 MB, 200.0 kB/s, 8 min left",
        "set.zip: 15 % of 100.0 MB, 203.3 kB/s, 7 min left",
    ]


def test_servers_of_a_test_do_not_meet():
    with serving() as one, serving() as other:
        assert one.url != other.url
