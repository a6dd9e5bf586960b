"""The sample tables of REC-TMALL: another layout than the full files, and a dataset of its own name."""

from pathlib import Path

import pytest
from shop_files import bench, grid, load, none_is_prepared, refused, seconds, steps_of

pytestmark = pytest.mark.usefixtures("in_empty_folder")

LOG = "(sample)sam_tianchi_2014002_rec_tmall_log.csv"
PRODUCTS = "(sample)sam_tianchi_2014001_rec_tmall_product.csv"


def title(number: int) -> str:
    return f"2014 秋装 打底衫 number{number} 女"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Thirty users with 15 items each, one with two; user 1 clicks on an item before buying it."""
    rows = [f"i{item},u{user},click,2014/9/{user} 15:{item:02d}" for user, item in grid()]
    rows += ["i3,u99,click,2014/10/1 0:00", "i4,u99,cart,2014/10/1 0:01", "i2,u1,alipay,2014/12/9 9:05"]
    lines = [f"{number},{title(number)} ,http://127.0.0.1/{number}.jpg,2-7,null,s1" for number in range(1, 26)]
    folder = tmp_path / "sample"
    folder.mkdir()
    (folder / LOG).write_text("\r\n".join(["item_id,user_id,action,vtime", *rows]) + "\r\n", encoding="gb18030")
    header = "item_id,title,pict_url,category,brand_id,seller_id"
    (folder / PRODUCTS).write_text("\r\n".join([header, *lines]) + "\r\n", encoding="gb18030")
    return folder


def test_the_sample_is_another_dataset(raw, capsys):
    bench("prepare", "tmall", "--source", "sample", "--from", str(raw))
    err = capsys.readouterr().err
    assert "warning: the raw files should have 836 users, 4,844 interactions, but have 31 users, 453 inter" in err
    sample = load("tmall@sample")
    assert steps_of(sample) == [("read", 31, 25, 453), ("dedupe", 31, 25, 452), ("core", 30, 25, 450)]
    assert list(sample.items["id"]) == [str(number) for number in range(1, 26)]
    assert list(sample.items["title"]) == [title(number) for number in range(1, 26)]
    assert list(sample.features) == ["text"]
    # 15:02 of 1 September 2014 in China is 07:02 in UTC.
    assert seconds(sample, "u1", "2") == 1_409_554_920
    assert not Path("datasets/prepared/tmall").exists()
    bench("prepare", "tmall@sample")
    assert "tmall@sample is already prepared" in capsys.readouterr().err


def test_the_sample_never_takes_the_place_of_the_dataset(raw, capsys):
    message = refused(capsys, "prepare", "tmall", "--from", str(raw))
    assert "tianchi_2014002_rec_tmall_log_parta.txt" in message
    assert none_is_prepared()


def test_bytes_of_another_encoding_are_explained(raw, capsys):
    whole = (raw / PRODUCTS).read_bytes()
    (raw / PRODUCTS).write_bytes(whole.replace("女".encode("gb18030"), b"\xff", 1))
    message = refused(capsys, "prepare", "tmall@sample", "--from", str(raw))
    assert f"{PRODUCTS} is not gb18030 text: line 2 holds the byte 0xff." in message
    (raw / PRODUCTS).write_bytes(whole)
    bench("prepare", "tmall@sample", "--from", str(raw))
    assert load("tmall@sample").n_items == 25
