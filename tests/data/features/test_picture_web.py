import csv
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.data.features import picture_web, pictures
from bench.data.features.picture_web import looks_like_picture, split_address
from bench.data.features.pictures import fetch_pictures
from bench.data.recipes.modalities import Pictures
from bench.errors import DataError

JPEG = b"\xff\xd8\xff\xe0 a picture"
PNG = b"\x89PNG\r\n\x1a\n another"


def keep(folder, name):
    """Put a file among the pictures as if it had been there before."""
    (folder / "pictures").mkdir()
    (folder / "pictures" / name).write_bytes(JPEG)


class Host:
    """A web server on this machine: `files` maps a path to the answers (status, headers, body), the last repeated."""

    def __init__(self):
        self.files = {}
        self.asked = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                host.asked.append(self.path)
                answers = host.files.get(self.path, [(404, {}, b"not here")])
                status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                """Stay silent."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.name = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.name}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def give(self, path, *bodies):
        self.files[path] = [body if isinstance(body, tuple) else (200, {}, body) for body in bodies]

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    host = Host()
    yield host
    host.stop()


@pytest.fixture
def second(host):
    second = Host()
    yield second
    second.stop()


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that were asked for; none is kept."""
    pauses = []
    monkeypatch.setattr(picture_web.time, "sleep", pauses.append)
    return pauses


@pytest.fixture
def fetch(tmp_path, pauses):
    """Fetch {id: address} into a folder; returns the report's lines."""

    def run(addresses, hosts=(), delay_s=0.0):
        lines = []
        settings = Pictures(hosts=hosts, delay_s=delay_s)
        fetch_pictures(settings, list(addresses), list(addresses.values()), tmp_path / "pictures", lines.append)
        return lines

    return run


def coverage(tmp_path):
    with (tmp_path / "pictures" / "coverage.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "status", "url"]
    return {one: (status, url) for one, status, url in rows}


def test_pictures_are_kept_as_they_come_under_the_items_id(tmp_path, host, fetch):
    host.give("/a/one.jpg", JPEG)
    host.give("/a/two.png?size=1", PNG)
    lines = fetch({"1": f"{host.url}/a/one.jpg", "x y": f"{host.url}/a/two.png?size=1"})
    folder = tmp_path / "pictures"
    assert (folder / "1.jpg").read_bytes() == JPEG
    assert (folder / "x y.jpg").read_bytes() == PNG
    assert sorted(path.name for path in folder.iterdir()) == ["1.jpg", "coverage.csv", "x y.jpg"]
    assert lines == ["pictures: 2 of 2 there, 0 gone, 0 to try again"]
    assert coverage(tmp_path)["1"] == ("there", f"{host.url}/a/one.jpg")


def test_other_hosts_are_asked_for_the_same_path(tmp_path, host, second, fetch):
    second.give("/deep/1.jpg?v=2", JPEG)
    lines = fetch({"1": f"{host.url}/deep/1.jpg?v=2"}, hosts=(second.name,))
    assert (tmp_path / "pictures" / "1.jpg").read_bytes() == JPEG
    assert (host.asked, second.asked) == (["/deep/1.jpg?v=2"], ["/deep/1.jpg?v=2"])
    assert coverage(tmp_path) == {"1": ("there", f"{second.url}/deep/1.jpg?v=2")}
    assert lines[-1] == "pictures: 1 of 1 there, 0 gone, 0 to try again"


def test_a_picture_that_no_host_has_is_gone_and_not_asked_for_again(tmp_path, host, second, fetch):
    second.give("/1.jpg", (410, {}, b""))
    address = {"1": f"{host.url}/1.jpg"}
    assert fetch(address, hosts=(second.name,)) == ["pictures: 0 of 1 there, 1 gone, 0 to try again"]
    assert fetch(address, hosts=(second.name,)) == ["pictures: 0 of 1 there, 1 gone, 0 to try again"]
    assert (len(host.asked), len(second.asked)) == (1, 1)

    host.give("/moved.jpg", JPEG)
    fetch({"1": f"{host.url}/moved.jpg"})
    assert coverage(tmp_path) == {"1": ("there", f"{host.url}/moved.jpg")}


def test_the_second_call_asks_only_for_what_is_unknown(tmp_path, host, fetch):
    host.give("/1.jpg", JPEG)
    host.give("/2.jpg", (403, {}, b"no"))
    addresses = {one: f"{host.url}/{one}.jpg" for one in ("1", "2", "3")}
    assert fetch(addresses) == ["pictures: 1 of 3 there, 1 gone, 1 to try again"]
    assert coverage(tmp_path)["2"] == ("again", f"{host.url}/2.jpg")
    host.asked.clear()
    host.give("/2.jpg", JPEG)
    host.give("/4.jpg", JPEG)
    lines = fetch(addresses | {"4": f"{host.url}/4.jpg"})
    assert lines == ["pictures: 3 of 4 there, 1 gone, 0 to try again"]
    assert sorted(host.asked) == ["/2.jpg", "/4.jpg"]
    assert coverage(tmp_path)["1"] == ("there", f"{host.url}/1.jpg")


def test_a_picture_of_the_users_own_is_not_asked_for(tmp_path, host, fetch):
    keep(tmp_path, "1.jpg")
    (tmp_path / "pictures" / "2.jpg").write_bytes(b"")
    assert fetch({"1": f"{host.url}/1.jpg", "2": ""})[-1] == (
        "pictures: 1 of 2 there, 0 gone, 0 to try again, 1 without a usable address"
    )
    assert host.asked == []
    assert coverage(tmp_path) == {"1": ("there", ""), "2": ("unusable", "")}


def test_what_was_known_of_other_items_is_kept(tmp_path, host, fetch):
    fetch({"1": f"{host.url}/1.jpg"})
    assert fetch({"2": f"{host.url}/2.jpg"}) == ["pictures: 0 of 1 there, 1 gone, 0 to try again"]
    assert list(coverage(tmp_path)) == ["1", "2"]


def test_the_first_address_of_a_repeated_item_counts(tmp_path, host, fetch, pauses):
    host.give("/a.jpg", JPEG)
    addresses = [f"{host.url}/a.jpg", f"{host.url}/b.jpg"]
    lines = []
    fetch_pictures(Pictures(), ["1", "1"], addresses, tmp_path / "pictures", lines.append)
    assert host.asked == ["/a.jpg"]
    assert lines == ["pictures: 1 of 1 there, 0 gone, 0 to try again"]


@pytest.mark.parametrize("answer", [(429, {}, b""), (503, {}, b""), (200, {"Content-Length": "99"}, JPEG)])
def test_a_busy_host_is_asked_again_after_growing_pauses(tmp_path, host, fetch, pauses, answer):
    host.give("/1.jpg", answer, answer, JPEG)
    fetch({"1": f"{host.url}/1.jpg"})
    assert (tmp_path / "pictures" / "1.jpg").read_bytes() == JPEG
    assert pauses == pytest.approx([2, 4], abs=0.5)


def test_a_host_may_say_how_long_to_pause_within_reason(host, fetch, pauses):
    host.give("/1.jpg", (429, {"Retry-After": "17"}, b""), (429, {"Retry-After": "99999"}, b""), JPEG)
    fetch({"1": f"{host.url}/1.jpg"})
    assert pauses == pytest.approx([17, 60], abs=0.5)


def test_a_picture_is_not_gone_while_a_host_is_busy(tmp_path, host, second, fetch):
    second.give("/1.jpg", (503, {}, b""))
    assert fetch({"1": f"{host.url}/1.jpg"}, hosts=(second.name,))[-1].endswith("0 gone, 1 to try again")
    assert (len(host.asked), len(second.asked)) == (1, 3)


def test_a_picture_is_gone_when_the_one_host_that_can_be_spoken_to_says_so(host, fetch):
    lines = fetch({"1": "http://127.0.0.1:9/1.jpg"}, hosts=(host.name,))
    assert lines == ["pictures: 0 of 1 there, 1 gone, 0 to try again"]


def test_without_any_answer_a_picture_is_to_try_again(fetch, host):
    assert fetch({"1": "http://127.0.0.1:9/1.jpg"}) == ["pictures: 0 of 1 there, 0 gone, 1 to try again"]


def test_a_host_that_does_not_answer_in_time_is_busy(host, fetch, pauses, monkeypatch):
    def slow(*args, **options):
        raise picture_web.requests.ReadTimeout

    monkeypatch.setattr(picture_web.requests.Session, "get", slow)
    assert fetch({"1": f"{host.url}/1.jpg"}) == ["pictures: 0 of 1 there, 0 gone, 1 to try again"]
    assert pauses == pytest.approx([2, 4], abs=0.5)


def test_the_other_protocol_is_tried_where_the_first_gives_nothing(host, fetch, tmp_path):
    host.give("/1.jpg", JPEG)
    fetch({"1": f"https://{host.name}/1.jpg", "2": f"//{host.name}/1.jpg"})
    assert coverage(tmp_path) == {"1": ("there", f"{host.url}/1.jpg"), "2": ("there", f"{host.url}/1.jpg")}


@pytest.mark.parametrize("body", [b"<!doctype html><p>Log in", b"", b"\xff\xd8"])
def test_what_is_no_picture_is_not_kept(tmp_path, host, fetch, body):
    host.give("/1.jpg", body)
    assert fetch({"1": f"{host.url}/1.jpg"}) == ["pictures: 0 of 1 there, 0 gone, 1 to try again"]
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["coverage.csv"]


def test_an_endless_answer_is_no_picture(host, fetch, monkeypatch):
    monkeypatch.setattr(picture_web, "MAX_BYTES", 1000)
    host.give("/1.jpg", JPEG + bytes(2000))
    assert fetch({"1": f"{host.url}/1.jpg"}) == ["pictures: 0 of 1 there, 0 gone, 1 to try again"]


@pytest.mark.parametrize("one", ["../1", "a/b", ".hidden", "a\\b", "x" * 201])
def test_an_id_cannot_lead_out_of_the_folder(tmp_path, host, fetch, one):
    host.give("/1.jpg", JPEG)
    lines = fetch({one: f"{host.url}/1.jpg"})
    assert lines == ["pictures: 0 of 1 there, 0 gone, 0 to try again, 1 without a usable address"]
    assert host.asked == []
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["coverage.csv"]


@pytest.mark.parametrize("address", ["", "null", "ftp://a.b/1.jpg", "file:///etc/hosts", "http://", "http://[1/a.jpg"])
def test_an_address_that_cannot_be_asked_for_is_unusable(tmp_path, fetch, address):
    fetch({"1": address})
    assert coverage(tmp_path) == {"1": ("unusable", address)}


def test_a_host_that_keeps_failing_is_left_alone(host, second, fetch, monkeypatch):
    monkeypatch.setattr(pictures, "THREADS", 1)
    for number in range(30):
        host.give(f"/{number}.jpg", (403, {}, b""))
        second.give(f"/{number}.jpg", JPEG)
    addresses = {str(number): f"{host.url}/{number}.jpg" for number in range(30)}
    lines = fetch(addresses, hosts=(second.name,))
    assert len(host.asked) <= picture_web.FAILURES_IN_A_ROW
    assert lines == [
        f"pictures: {host.name} failed 8 times in a row and was not asked any more",
        "pictures: 30 of 30 there, 0 gone, 0 to try again",
    ]


def test_a_gone_picture_is_no_failure_of_its_host(host, fetch):
    addresses = {str(number): f"{host.url}/{number}.jpg" for number in range(20)}
    assert fetch(addresses) == ["pictures: 0 of 20 there, 20 gone, 0 to try again"]


def test_requests_to_one_host_keep_their_distance(host, second, fetch, pauses, monkeypatch):
    monkeypatch.setattr(pictures, "THREADS", 1)
    fetch({"1": f"{host.url}/1.jpg", "2": f"{second.url}/2.jpg", "3": f"{host.url}/3.jpg"}, delay_s=50)
    assert pauses == pytest.approx([50], abs=1)


def test_the_state_is_saved_and_told_along_the_way(tmp_path, host, fetch, monkeypatch):
    monkeypatch.setattr(pictures, "SAVE_EVERY", 2)
    monkeypatch.setattr(pictures, "THREADS", 1)
    seen = []
    save = pictures._Coverage.save
    monkeypatch.setattr(pictures._Coverage, "save", lambda self: (save(self), seen.append(coverage(tmp_path))))
    lines = fetch({str(number): f"{host.url}/{number}.jpg" for number in range(5)})
    assert [sum(status == "gone" for status, _ in rows.values()) for rows in seen] == [2, 4, 5]
    assert lines[0] == "pictures: 0 of 5 there, 2 gone, 3 to try again"
    assert len(lines) == 3


def test_an_interruption_keeps_what_was_learnt(tmp_path, host, monkeypatch, pauses):
    monkeypatch.setattr(pictures, "SAVE_EVERY", 2)
    monkeypatch.setattr(pictures, "THREADS", 1)
    host.give("/1.jpg", JPEG)
    addresses = [f"{host.url}/{number}.jpg" for number in range(50)]

    def interrupt(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_pictures(Pictures(), [str(n) for n in range(50)], addresses, tmp_path / "pictures", interrupt)
    assert sum(status == "again" for status, _ in coverage(tmp_path).values()) == 48
    assert len(host.asked) < 10
    assert threading.active_count() < 10


def test_a_half_written_picture_of_a_killed_call_is_removed(tmp_path, host, fetch):
    keep(tmp_path, ".7.jpg.part")
    host.give("/7.jpg", JPEG)
    fetch({"7": f"{host.url}/7.jpg"})
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["7.jpg", "coverage.csv"]


@pytest.mark.parametrize("text", ["", "id,url\n", "id,status,url\n1,there\n", "id,status,url\n1,lost,x\n", "\xff"])
def test_a_coverage_list_that_is_not_ours_is_refused(tmp_path, host, fetch, text):
    keep(tmp_path, "1.jpg")
    path = tmp_path / "pictures" / "coverage.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"coverage\.csv should list id, status, url .* Delete it; pictures that are"):
        fetch({"2": f"{host.url}/2.jpg"})
    assert path.read_bytes() == text.encode("latin-1")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, host, fetch):
    (tmp_path / "pictures").write_text("a file")
    with pytest.raises(DataError, match=r"Pictures cannot be kept in .*pictures.* Check free space and permissions"):
        fetch({"1": f"{host.url}/1.jpg"})


def test_a_full_disk_stops_with_a_word_and_without_half_a_picture(tmp_path, host, fetch, monkeypatch):
    host.give("/1.jpg", JPEG)

    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pictures.Path, "write_bytes", full)
    with pytest.raises(DataError, match="No space left on device"):
        fetch({"1": f"{host.url}/1.jpg"})
    assert coverage(tmp_path) == {"1": ("again", f"{host.url}/1.jpg")}


@pytest.mark.parametrize(
    ("start", "is_picture"),
    [
        (b"\xff\xd8\xff\xdb", True),
        (b"\x89PNG\r\n\x1a\n", True),
        (b"GIF87a", True),
        (b"GIF89a", True),
        (b"RIFF\0\0\0\0WEBP", True),
        (b"BM", True),
        (b"RIFF\0\0\0\0WAVE", False),
        (b"<svg", False),
        (b"%PDF", False),
        (b"", False),
    ],
)
def test_pictures_are_known_by_their_first_bytes(start, is_picture):
    assert looks_like_picture(start) == is_picture


def test_addresses_are_taken_apart():
    assert split_address(" //img01.example.com/a b.jpg?x=1#top ") == ("http", "img01.example.com", "/a b.jpg?x=1")
    assert split_address("https://a:8080/x") == ("https", "a:8080", "/x")
    assert split_address("http://a:99999/x") is None
