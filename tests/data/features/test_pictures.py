import zipfile

import pytest

from bench.data.features.pictures import find_pictures
from bench.data.raw.rawfiles import RawFiles


def put(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(path.encode())


def pack(folder, archive, *members):
    (folder / archive).parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / archive, "w") as file:
        for member in members:
            file.writestr(member, f"{archive}/{member}")


def contents(folder, rules, ids):
    """What the found pictures hold: their own paths."""
    found = find_pictures(RawFiles(folder), rules, ids)
    return [picture.read_bytes().decode() if picture else None for picture in found]


def test_a_rule_names_a_path_by_the_id(tmp_path):
    put(tmp_path, "covers/12.jpg", "covers/112.jpg", "covers/7.png")
    assert contents(tmp_path, ["covers/{id}.jpg"], ["112", "12", "7"]) == ["covers/112.jpg", "covers/12.jpg", None]


def test_the_first_characters_of_the_id_name_a_folder_and_leading_zeros_count(tmp_path):
    put(tmp_path, "images/010/0108775015.jpg", "images/108/108775015.jpg")
    rules = ["images/{id:3}/{id}.jpg"]
    assert contents(tmp_path, rules, ["0108775015", "01"]) == ["images/010/0108775015.jpg", None]


def test_a_picture_that_several_items_share(tmp_path):
    put(tmp_path, "brands/abc.jpg")
    assert contents(tmp_path, ["brands/{id:3}.jpg"], ["abc1", "abc2"]) == ["brands/abc.jpg"] * 2


def test_the_first_rule_that_finds_an_items_picture_counts(tmp_path):
    put(tmp_path, "b/1.jpg", "a/1.jpg", "b/2.jpg")
    assert contents(tmp_path, ["a/{id}.jpg", "b/{id}.jpg"], ["1", "2"]) == ["a/1.jpg", "b/2.jpg"]


@pytest.mark.parametrize(
    ("archive", "member"),
    [
        ("covers.zip", "covers/12.jpg"),
        ("covers.zip", "12.jpg"),
        ("Covers.ZIP", "12.jpg"),
        ("deep/er/covers.zip", "12.jpg"),
        ("anything.zip", "covers/12.jpg"),
        ("anything.zip", "top/covers/12.jpg"),
    ],
)
def test_a_rule_finds_pictures_in_an_archive(tmp_path, archive, member):
    pack(tmp_path, archive, member)
    assert contents(tmp_path, ["covers/{id}.jpg"], ["12", "13"]) == [f"{archive}/{member}", None]


def test_an_archive_of_another_name_does_not_stand_for_a_folder(tmp_path):
    pack(tmp_path, "banners.zip", "12.jpg")
    assert contents(tmp_path, ["covers/{id}.jpg"], ["12"]) == [None]


def test_only_the_last_folder_dropped_must_be_the_archive(tmp_path):
    pack(tmp_path, "covers.zip", "012/0123.jpg")
    rules = ["set/covers/{id:3}/{id}.jpg"]
    assert contents(tmp_path, rules, ["0123"]) == ["covers.zip/012/0123.jpg"]


def test_a_rule_finds_pictures_one_folder_deeper(tmp_path):
    put(tmp_path, "unpacked/covers/12.jpg")
    assert contents(tmp_path, ["covers/{id}.jpg"], ["12"]) == ["unpacked/covers/12.jpg"]


def test_the_raw_folder_comes_first_then_the_place_with_most_pictures(tmp_path):
    put(tmp_path, "covers/1.jpg", "a/covers/1.jpg", "a/covers/2.jpg", "b/covers/2.jpg", "b/covers/3.jpg")
    put(tmp_path, "b/covers/4.jpg")
    found = contents(tmp_path, ["covers/{id}.jpg"], ["1", "2", "3"])
    assert found == ["covers/1.jpg", "a/covers/2.jpg", "b/covers/3.jpg"]
    found = contents(tmp_path, ["covers/{id}.jpg"], ["1", "2", "3", "4"])
    assert found == ["covers/1.jpg", "b/covers/2.jpg", "b/covers/3.jpg", "b/covers/4.jpg"]


def test_pictures_may_be_spread_over_archives(tmp_path):
    pack(tmp_path, "one.zip", "covers/1.jpg")
    pack(tmp_path, "two.zip", "covers/2.jpg")
    assert contents(tmp_path, ["covers/{id}.jpg"], ["1", "2"]) == ["one.zip/covers/1.jpg", "two.zip/covers/2.jpg"]


@pytest.mark.parametrize("one", ["../secret", "a/1", "..", ".hidden", "", "a\\1", "a\n1"])
def test_an_id_that_is_no_file_name_has_no_picture(tmp_path, one):
    put(tmp_path, "secret.jpg", "covers/a/1.jpg", "covers/.jpg", "covers/x.jpg")
    assert contents(tmp_path, ["covers/{id}.jpg"], [one, "x"]) == [None, "covers/x.jpg"]
