"""REC-TMALL from raw files in Tianchi's formats to a prepared dataset, by the shipped recipe.

Thirty users, all of them in the sample, have bought 15 of the items 1 to 25 each. What is added to that must go:

- item 26, whose picture neither server has, item 27 without an address and item 28 without a title; all thirty bought
  each; user 31 bought nine of the others and item 26;
- item 29, bought by five: its picture is not even asked for; item 30, which nobody bought;
- clicks, and a buyer who is not in the sample.
"""

import csv
import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from published import without_facts
from shop_files import bench, colour, colours, grid, load, none_is_prepared, picture, refused, seconds, steps_of
from webserver import Web, serving

from bench.data.features.matrices import tfidf_svd
from bench.workspace import Workspace

__all__ = ["colours"]

pytestmark = pytest.mark.usefixtures("in_empty_folder")

# Users whose ids fall into the sample, with the salt of the recipe; u1 and u2 do not.
SAMPLED = [
    6, 7, 10, 11, 13, 14, 17, 19, 20, 31, 33, 35, 45, 46, 50, 52,
    53, 61, 63, 65, 70, 73, 75, 78, 81, 84, 86, 88, 91, 102, 106,
]  # fmt: skip
LOG = "tianchi_2014002_rec_tmall_log"
PRODUCTS = "tianchi_2014001_rec_tmall_product.txt"
SOH = "\x01"
# Midnight of 26 August 2013 in China.
AUGUST_26_S = 1_377_446_400
STEPS = [
    ("read", 33, 29, 603),
    ("positive", 32, 29, 597),
    ("sample", 31, 29, 557),
    ("dedupe", 31, 29, 555),
    ("core", 31, 28, 550),
    ("available", 31, 25, 459),
    ("core", 30, 25, 450),
]


def user(number: int) -> str:
    return f"u{SAMPLED[number - 1]}"


def rows() -> Iterator[tuple[int, str, str, str]]:
    """Yield item, user, action and time."""
    for number, item in grid():
        yield item, user(number), "alipay", f"2013-08-26 07:{number:02d}:{item:02d}"
    for number in range(1, 31):
        for item in (26, 27, 28):
            yield item, user(number), "alipay", "2013-09-01 12:00:00"
    for item in (*range(1, 10), 26):
        yield item, user(31), "alipay", "2013-09-02 00:00:00"
    for number in range(1, 6):
        yield 29, user(number), "alipay", "2013-09-03 00:00:00"
        yield 3, user(number), ("click", "cart", "collect")[number % 3], "2013-07-01 00:00:00"
    for item in range(1, 41):
        yield item % 9 + 1, "u2", "alipay", "2013-09-04 00:00:00"
    # Bought again, and, by the next part of the log, before.
    yield 2, user(1), "alipay", "2013-12-31 23:59:59"
    yield 2, user(1), "alipay", "2013-08-26 00:00:00"


def log() -> bytes:
    lines = [SOH.join(map(str, row)) for row in rows()]
    # A user's id with a byte that is not of the encoding.
    return "\n".join(lines).encode() + b"\n7\x01u\xff1\x01click\x012014-01-01 00:00:00\n"


def title(number: int) -> str:
    """What a product is called: words set apart by blanks, the last of which nothing follows."""
    return {
        7: f'秋装 新款 stray{SOH}separator "quoted" ',
        8: "bro\ufffdken 女 ",
        28: " ",
    }.get(number, f"2014 秋装 新款 number{number} 女 ")


def products(address: str) -> bytes:
    lines = []
    for number in range(1, 31):
        place = "" if number == 27 else f"{address}/bao/i{number}.jpg"
        cells = (str(number), title(number), place, f"{number % 3}-{number}", "null" if number % 2 else "b12", "s1")
        lines.append(SOH.join(cells).encode().replace("\ufffd".encode(), b"\xd6"))
    return b"\n".join(lines) + b"\n"


@pytest.fixture
def other(web: Web) -> Iterator[Web]:
    """A second server, for what the first does not have."""
    with serving() as other:
        yield other


@pytest.fixture
def raw(in_empty_folder: Path, web: Web, other: Web) -> Path:
    """A folder with the four unpacked files, a recipe that knows the second server, and pictures on both."""
    path = without_facts("tmall", Workspace())
    text = path.read_text().replace("img.alicdn.com", other.url.removeprefix("http://"))
    path.write_text(text.replace("delay_s = 0.1", "delay_s = 0.0"))
    for number in (*range(1, 26), 27, 28, 29, 30):
        server = other if number % 5 == 0 else web
        server.file(f"/bao/i{number}.jpg", picture(number))
    folder = in_empty_folder / "tianchi"
    folder.mkdir()
    (folder / PRODUCTS).write_bytes(products(web.url))
    for part, content in zip("abc", thirds(log()), strict=True):
        (folder / f"{LOG}_part{part}.txt").write_bytes(content)
    return folder


def thirds(content: bytes) -> list[bytes]:
    lines = content.splitlines(keepends=True)
    step = len(lines) // 3
    return [b"".join(lines[:step]), b"".join(lines[step : 2 * step]), b"".join(lines[2 * step :])]


def zipped(folder: Path) -> None:
    """Pack the files as the newer listing of the page does, into a folder of their own."""
    (folder / "downloads").mkdir()
    for path in list(folder.glob("*.txt")):
        name = path.stem.replace("_part", ".part") + ".zip"
        with zipfile.ZipFile(folder / "downloads" / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(path, path.name)
        path.unlink()


def split_up(folder: Path) -> None:
    """Pack the log as the older listing does: one archive in three pieces."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo(f"{LOG}.txt")
        member.size = len(log())
        archive.addfile(member, io.BytesIO(log()))
    for path in folder.glob(f"{LOG}_part*.txt"):
        path.unlink()
    content, step = packed.getvalue(), len(packed.getvalue()) // 3
    for number, start in enumerate((0, step, 2 * step), start=1):
        end = None if number == 3 else start + step
        (folder / f"Tianchi_2014002_Rec_Tmall_Log.tar.gz.{number:03d}").write_bytes(content[start:end])


def test_from_raw_files_to_a_dataset(raw, colours, capsys):
    bench("prepare", "tmall", "--from", str(raw))
    shown = capsys.readouterr()
    tmall = load("tmall")
    assert steps_of(tmall) == STEPS
    assert list(tmall.users["id"]) == sorted(user(number) for number in range(1, 31))
    assert list(tmall.items["id"]) == [str(number) for number in range(1, 26)]
    assert tmall.metadata["summary"]["split"] == {"train": 360, "valid": 30, "test": 60}
    assert tmall.features["visual"].tolist() == [list(colour(number)) for number in range(1, 26)]
    assert (tmall.features["text"] == tfidf_svd([title(number) for number in range(1, 26)], 128)).all()
    assert list(tmall.items["title"]) == [title(number).strip() for number in range(1, 26)]
    assert list(tmall.items["brand"][:2]) == ["null", "b12"]
    assert tmall.items["category"][6] == "1-7"
    assert "step positive (action is alipay): 33 -> 32 users, 29 -> 29 items, 603 -> 597 interactions" in shown.err
    assert "step sample (20% of users by hash): 32 -> 31 users, 29 -> 29 items, 597 -> 557 interactions" in shown.err
    assert "pictures: 26 of 28 there, 1 gone, 0 to try again, 1 without a usable address" in shown.err
    assert "  text: 27 of 28 items have it" in shown.err


def test_times_are_those_of_china_and_the_earliest_counts(raw, colours):
    bench("prepare", "tmall", "--from", str(raw))
    tmall = load("tmall")
    # The grid's purchase of user 2 and item 3 is at 07:02:03; user 1 bought item 2 at midnight already.
    assert seconds(tmall, user(2), "3") == AUGUST_26_S + 7 * 3600 + 2 * 60 + 3
    assert seconds(tmall, user(1), "2") == AUGUST_26_S


def test_pictures_come_from_two_servers_and_are_not_asked_for_again(raw, colours, web, other):
    before = {path.relative_to(raw) for path in raw.rglob("*")}
    bench("prepare", "tmall", "--from", str(raw))
    assert sorted(web.asked) == sorted(f"/bao/i{number}.jpg" for number in (*range(1, 27), 28))
    assert sorted(other.asked) == sorted(f"/bao/i{number}.jpg" for number in (5, 10, 15, 20, 25, 26))
    folder = Path("datasets/raw/tmall/pictures")
    assert (folder / "5.jpg").read_bytes() == picture(5)
    assert {path.name for path in folder.iterdir()} == {"coverage.csv"} | {f"{n}.jpg" for n in (*range(1, 26), 28)}
    with (folder / "coverage.csv").open(newline="") as file:
        lines = {line["id"]: (line["status"], line["url"]) for line in csv.DictReader(file)}
    assert lines["4"] == ("there", f"{web.url}/bao/i4.jpg")
    assert lines["5"] == ("there", f"{other.url}/bao/i5.jpg")
    assert lines["26"] == ("gone", f"{web.url}/bao/i26.jpg")
    assert lines["27"] == ("unusable", "")
    assert len(lines) == 28
    assert {path.relative_to(raw) for path in raw.rglob("*")} == before
    first, n_asked = load("tmall").fingerprint, len(web.asked) + len(other.asked)
    bench("prepare", "tmall", "--from", str(raw), "--force")
    assert len(web.asked) + len(other.asked) == n_asked
    assert load("tmall").fingerprint == first


def test_a_server_that_is_busy_costs_items_until_the_next_call(raw, colours, web, monkeypatch):
    monkeypatch.setattr("bench.data.features.picture_web.BACKOFF_S", 0.0)
    web.replies["/bao/i1.jpg"] = [(503, {})] * 3
    bench("prepare", "tmall", "--from", str(raw))
    assert "1" not in set(load("tmall").items["id"])
    bench("prepare", "tmall", "--from", str(raw), "--force")
    assert steps_of(load("tmall")) == STEPS


@pytest.mark.parametrize(("pack", "source"), [(zipped, "tianchi"), (split_up, "tianchi-split")])
def test_packed_files_give_the_same(raw, colours, pack, source):
    bench("prepare", "tmall", "--from", str(raw))
    first = load("tmall").fingerprint
    pack(raw)
    bench("prepare", "tmall", "--from", str(raw), "--force")
    tmall = load("tmall")
    assert (tmall.fingerprint, tmall.metadata["source"]["name"]) == (first, source)


def test_files_in_the_raw_folder_need_no_option(raw, colours):
    Path("datasets/raw").mkdir()
    raw.rename("datasets/raw/tmall")
    bench("prepare", "rec-tmall")
    assert steps_of(load("tmall")) == STEPS


def test_other_cores_and_modalities_share_the_pictures(raw, colours, web):
    bench("prepare", "tmall", "--from", str(raw), "--feature", "visual=none")
    assert web.asked == []
    # Items 26 and 27 stay, and user 31 with ten purchases.
    assert steps_of(load("tmall@visual=none"))[-1] == ("core", 31, 27, 520)
    bench("prepare", "tmall@5core", "--from", str(raw))
    # Item 29 has its picture and five buyers, who have one purchase more.
    assert steps_of(load("tmall@5core"))[-1] == ("core", 31, 26, 464)
    assert Path("datasets/raw/tmall/pictures/29.jpg").is_file()
    assert not Path("datasets/raw/tmall@5core").exists()


def test_without_files_the_message_says_what_to_fetch_and_where(capsys):
    message = refused(capsys, "prepare", "tmall")
    assert "The raw files of tmall are not available." in message
    assert (
        "source 'tianchi': its files have to be fetched by hand from https://tianchi.aliyun.com/dataset/140281"
        in message
    )
    assert "packed or not, into datasets/raw/tmall, or say with --from DIR where they are." in message
    for name in (*(f"{LOG}_part{part}.txt" for part in "abc"), PRODUCTS, f"{LOG}.txt"):
        assert name in message
    assert none_is_prepared()


def test_without_any_picture_nothing_is_prepared_and_the_next_call_goes_on(raw, colours, capsys, web, other):
    there = {server: dict(server.files) for server in (web, other)}
    for server in there:
        server.files.update({f"/bao/i{number}.jpg": (403, b"no") for number in range(1, 31)})
    message = refused(capsys, "prepare", "tmall", "--from", str(raw))
    assert message.startswith("Nothing is left after the step 'available' (items with text and visual)")
    assert none_is_prepared()
    for server, files in there.items():
        server.files = files
    bench("prepare", "tmall", "--from", str(raw))
    assert steps_of(load("tmall")) == STEPS


def breaks() -> Iterator[tuple[str, str, bytes, str]]:
    """Yield what is wrong, the file, its content, and the words for it."""
    part, third = f"{LOG}_partb.txt", thirds(log())[1]
    yield "cut", part, third[:-25], f"{part}: the recipe declares 4 columns, but line 201 has"
    yield "page", part, b"<html><title>Login</title></html>", f"{part} is a web page, not the file itself"
    commas = third.replace(b"\x01", b",")
    yield "separator", part, commas, f"{part}: the recipe declares 4 columns, but line 1 has 1 when split at"
    day = third.replace(b"2013-", b"2013.", 1)
    yield "day", part, day, f"{part}, line 1: the column 'vtime' should hold a date such as 2020-09-22"
    twice = products("http://127.0.0.1") + products("http://127.0.0.1")[:200].split(b"\n")[0] + b"\n"
    yield "twice", PRODUCTS, twice, f"{PRODUCTS}, line 31: the column 'item' should hold an id that no line before has"


@pytest.mark.parametrize(("file", "content", "words"), [pytest.param(*each[1:], id=each[0]) for each in breaks()])
def test_bad_files_are_explained_and_whole_ones_work(raw, colours, capsys, file, content, words):
    whole = (raw / file).read_bytes()
    (raw / file).write_bytes(content)
    assert words in refused(capsys, "prepare", "tmall", "--from", str(raw))
    assert none_is_prepared()
    (raw / file).write_bytes(whole)
    bench("prepare", "tmall", "--from", str(raw))
    assert steps_of(load("tmall")) == STEPS


def test_an_archive_that_lacks_a_piece_is_named(raw, colours, capsys):
    split_up(raw)
    piece = raw / "Tianchi_2014002_Rec_Tmall_Log.tar.gz.002"
    content = piece.read_bytes()
    piece.unlink()
    message = refused(capsys, "prepare", "tmall", "--from", str(raw), "--source", "tianchi-split")
    assert "Tianchi_2014002_Rec_Tmall_Log.tar.gz.001 lacks its part .002. Fetch that as well." in message
    piece.write_bytes(content)
    bench("prepare", "tmall", "--from", str(raw), "--source", "tianchi-split")
    assert steps_of(load("tmall")) == STEPS
