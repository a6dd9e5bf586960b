"""H&M from a folder of raw files to a prepared dataset, by the shipped recipe."""

import importlib.util
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hm_files import SEPTEMBER_22, STEPS, article, articles, customer, fill, text, transactions
from published import without_facts
from shop_files import bench, colour, colours, load, none_is_prepared, refused, seconds, steps_of

from bench.data.features.matrices import tfidf_svd
from bench.workspace import Workspace

__all__ = ["colours"]

pytestmark = pytest.mark.usefixtures("in_empty_folder")

DAY_S, SEPTEMBER_1_S = 86_400, 1_598_918_400


def pack_pictures(folder: Path) -> None:
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for path in sorted((folder / "images").rglob("*.jpg")):
            archive.write(path, path.relative_to(folder))
            path.unlink()


@pytest.fixture
def raw(in_empty_folder: Path) -> Path:
    """A folder of raw files, in the working folder."""
    return fill(in_empty_folder / "kaggle")


def test_from_raw_files_to_a_dataset(raw, colours, capsys):
    bench("prepare", "h&m", "--from", str(raw))
    shown = capsys.readouterr()
    hm = load("hm")
    assert steps_of(hm) == STEPS
    assert list(hm.users["id"]) == [customer(number) for number in (*range(1, 31), 33)]
    assert list(hm.items["id"]) == [article(number) for number in range(1, 26)]
    assert hm.metadata["summary"]["split"] == {"train": 368, "valid": 31, "test": 61}
    assert hm.features["visual"].tolist() == [list(colour(number)) for number in range(1, 26)]
    assert (hm.features["text"] == tfidf_svd([text(number) for number in range(1, 26)], 128)).all()
    assert hm.items["title"][2] == 'Strap "top", 3'
    assert hm.items["description"][4] == ""
    assert hm.items["description"][5] == 'Fit for a 5" heel, or none'
    assert hm.items["garment"][0] == "Jersey Fancy"
    assert "step window (from 2020-09-01 to 2020-09-22): 34 -> 34 users, 28 -> 27 items, 554 -> 551" in shown.err
    assert "step available (items with text and visual): 34 -> 34 users, 27 -> 25 items, 548 -> 487" in shown.err
    assert "  text: 26 of 27 items have it" in shown.err
    assert "  visual: 26 of 27 items have it" in shown.err
    assert re.search(r"core +│ users >= 10, items >= 10 +│ +31 │ +25 │ +460 │", shown.out)
    assert re.search(r"LD4MRec, Table 1 │ 43,529 │ 16,908 │ +368,381 │", shown.out)
    assert (
        "warning: the raw files should have 1,362,281 users, 104,547 items, 31,788,324 interactions, but" in shown.err
    )


def test_days_are_whole_and_the_first_purchase_in_the_window_counts(raw, colours):
    bench("prepare", "hm", "--from", str(raw))
    hm = load("hm")
    assert seconds(hm, customer(33), article(5)) == SEPTEMBER_1_S
    assert seconds(hm, customer(33), article(6)) == SEPTEMBER_1_S + 21 * DAY_S
    assert seconds(hm, customer(1), article(2)) == SEPTEMBER_1_S
    assert seconds(hm, customer(2), article(3)) == SEPTEMBER_1_S + (1 + 5) * DAY_S
    assert len(hm.interactions) == 460


def test_a_copy_without_leading_zeros_and_with_packed_pictures_is_the_same(raw, colours):
    bench("prepare", "hm", "--from", str(raw))
    first = load("hm").fingerprint
    for name in ("transactions_train.csv", "articles.csv"):
        file = raw / name
        file.write_text(re.sub(r"\b0(1087750\d\d)\b", r"\1", file.read_text()))
        assert not re.search(r"\b01087750\d\d\b", file.read_text())
        assert re.search(r"\b1087750\d\d\b", file.read_text())
    pack_pictures(raw)
    bench("prepare", "hm", "--from", str(raw), "--force")
    assert load("hm").fingerprint == first


@pytest.mark.parametrize("name", ["h", "H-and-M", "HM"])
def test_other_names_find_the_dataset(raw, colours, capsys, name):
    bench("prepare", "hm", "--from", str(raw))
    capsys.readouterr()
    bench("prepare", name)
    assert "hm is already prepared" in capsys.readouterr().err
    bench("datasets", "show", name, "--json")
    assert json.loads(capsys.readouterr().out)["name"] == "hm"


def test_other_cores_and_modalities_stand_beside_it(raw, colours):
    bench("prepare", "hm", "--from", str(raw), "--core", "none")
    bench("prepare", "hm@visual=none", "--from", str(raw))
    assert steps_of(load("hm@nocore")) == STEPS[:4]
    bare = load("hm@visual=none")
    # Without the condition of a picture article 26 stays, and customer 31, who bought it beside nine others.
    assert steps_of(bare)[3:] == [("available", 34, 26, 518), ("core", 32, 26, 500)]
    assert list(bare.features) == ["text"]
    assert not Path("datasets/prepared/hm").exists()


def test_pictures_go_through_the_image_model(raw, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.ViTModel(transformers.ViTConfig(**sizes, image_size=16, patch_size=8)).eval()
    model.save_pretrained(tmp_path / "vit")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(settings))
    recipe = without_facts("hm", Workspace())
    recipe.write_text(recipe.read_text().replace("openai/clip-vit-base-patch32", str(tmp_path / "vit")))
    bench("prepare", "hm", "--from", str(raw), "--device", "cpu")
    found = load("hm").features["visual"]
    # The settings leave mean and deviation at a half: a colour value c enters as c / 127.5 - 1.
    pixels = np.array([colour(1), colour(25)], dtype=np.float32)[:, :, None, None] / 127.5 - 1
    with torch.no_grad():
        expected = model(torch.from_numpy(np.tile(pixels, (1, 1, 16, 16)).astype(np.float32))).pooler_output
    np.testing.assert_allclose(found[[0, 24]], expected.numpy(), atol=1.1e-5)
    assert found.shape == (25, 16)


def test_without_the_extra_nothing_is_fetched_and_two_ways_out_are_named(raw, capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else find(name))
    message = refused(capsys, "prepare", "hm", "--from", str(raw))
    assert "pip install 'ld4mrec-bench[features]'" in message
    assert "--feature visual=none" in message
    assert none_is_prepared()
    bench("prepare", "hm", "--from", str(raw), "--feature", "visual=none")
    assert load("hm@visual=none").n_items == 26


def breaks() -> Iterator[tuple[str, str, bytes, str]]:
    """Yield what is wrong, the file, its content, and the words for it."""
    table, rows = "transactions_train.csv", transactions()
    words = (
        f"{table}: the recipe expects the column 'article_id', but line 1, split at a comma, has the columns 't_dat'"
    )
    yield "column", table, rows.replace("article_id", "item", 1).encode(), words
    page = b"<!DOCTYPE html><html><title>Sign in</title></html>"
    yield "page", table, page, f"{table} is a web page, not the file itself"
    words = f"{table}, line 551: the column 't_dat' should hold a date such as 2020-09-22 or 2020-09-22T10:00:00, but"
    yield "day", table, rows.replace(SEPTEMBER_22, "22.09.2020", 1).encode(), f"{words} holds '22.09.2020'."
    words = f"{table}: the header has 5 columns, but line 555 has 2 when split at a comma."
    yield "short", table, rows.encode()[:-40], words
    latin = articles().replace("Strap", "Träger", 1).encode("latin-1")
    yield "bytes", "articles.csv", latin, "articles.csv is not utf-8 text: line 2 holds the byte 0xe4."
    words = "features.visual: 1 of 25 pictures cannot be decoded: "
    yield "picture", f"images/010/{article(7)}.jpg", b"\xff\xd8\xff\xe0", words


@pytest.mark.parametrize(("file", "content", "words"), [pytest.param(*each[1:], id=each[0]) for each in breaks()])
def test_bad_files_are_explained_and_whole_ones_work(raw, colours, capsys, file, content, words):
    whole = (raw / file).read_bytes()
    (raw / file).write_bytes(content)
    message = refused(capsys, "prepare", "hm", "--from", str(raw))
    assert words in message
    assert file in message
    assert none_is_prepared()
    (raw / file).write_bytes(whole)
    bench("prepare", "hm", "--from", str(raw))
    assert steps_of(load("hm")) == STEPS
