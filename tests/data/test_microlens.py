"""`bench prepare microlens`: small files in the real format, through the shipped recipe and the command line."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from lens_files import (
    CORE_5,
    CORE_10,
    NICHE,
    POPULAR,
    RAW,
    UNTITLED,
    bare_titles,
    bench,
    interactions,
    lay,
    matrix,
    microlens_files,
    milliseconds,
    quoted_titles,
    sequences,
    serve,
    titles,
    with_facts,
    zipped,
)
from PIL import Image
from published import without_facts

from bench.data import PreparedDataset
from bench.workspace import Workspace

pytestmark = pytest.mark.usefixtures("in_empty_folder")

PAIRS, SEQUENCES, TITLES, OTHER_TITLES, VISUAL, TEXT = microlens_files()
COVERS = "MicroLens-50k-Dataset/MicroLens-50k_covers.zip"


def counts(dataset):
    return {step["step"]: {what: step[what] for what in RAW} for step in dataset.metadata["summary"]["steps"]}


def prepared(name="microlens", folder="datasets"):
    return PreparedDataset.load(Path(folder) / "prepared" / name)


def frame_of(dataset):
    """Return the interactions under their original ids."""
    rows = dataset.interactions
    users, items = dataset.users["id"].to_numpy()[rows["user"]], dataset.items["id"].to_numpy()[rows["item"]]
    return pd.DataFrame({"user": users, "item": items}).assign(**{name: rows[name] for name in rows.columns[2:]})


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_ten_core_with_the_features_of_the_larger_set(web, capsys, kind):
    without_facts("microlens", Workspace())
    serve(web, microlens_files(kind))
    bench("prepare", "microlens", "--url", web.url)
    assert web.asked == [f"/{file}" for file in (PAIRS, TITLES, OTHER_TITLES, VISUAL, TEXT)]
    said = capsys.readouterr()

    dataset = prepared()
    assert counts(dataset) == {"read": RAW, "dedupe": RAW, "core": CORE_10}
    assert "step core (users >= 10, items >= 10): 23 -> 12 users, 19 -> 12 items, 192 -> 144 interactions" in said.err
    assert dataset.users["id"].tolist() == [str(user) for user in range(1, 13)]
    assert dataset.items["id"].tolist() == [str(item) for item in POPULAR]
    assert dataset.items["title"].tolist() == [titles()[item] for item in POPULAR]
    assert dataset.metadata["summary"]["split"] == {"train": 120, "valid": 12, "test": 12}
    each = dataset.interactions.value_counts(["user", "split"]).to_dict()
    assert each == {(user, part): n for user in range(12) for part, n in (("train", 10), ("valid", 1), ("test", 1))}

    times = {(str(user), str(item)): milliseconds(place) // 1000 for user, item, place in interactions()}
    frame = frame_of(dataset)
    assert frame["timestamp"].tolist() == [times[pair] for pair in zip(frame["user"], frame["item"], strict=True)]

    rows = [item - 1 for item in POPULAR]
    assert dataset.features["visual"].dtype == np.float32
    np.testing.assert_array_equal(dataset.features["visual"], matrix(0)[rows])
    np.testing.assert_array_equal(dataset.features["text"], matrix(30)[rows])
    for modality in ("visual", "text"):
        agree = "11 of 11 titles agree between the source's items and MicroLens-100k_title_en.csv"
        assert f"features.{modality}: {agree}" in said.err
    assert "microlens is ready" in said.err


def test_the_sequences_hold_the_same_interactions(tmp_path):
    files = lay(tmp_path / "have", microlens_files(), flat=True)
    for method, source in [("random", "westlake"), ("random", "sequences"), ("chronological", "sequences")]:
        space = Workspace(Path(method) / source)
        recipe = without_facts("microlens", space)
        recipe.write_text(recipe.read_text().replace('method = "random"', f'method = "{method}"'))
        options = ("--source", source, "--from", str(files), "--data-dir", str(space.datasets))
        bench("prepare", "microlens", *options)

    by_table, by_order = prepared(folder="random/westlake"), prepared(folder="random/sequences")
    assert counts(by_order) == counts(by_table)
    assert [by_table.metadata["time"], by_order.metadata["time"]] == ["seconds", "order"]
    pd.testing.assert_frame_equal(
        frame_of(by_order).drop(columns="timestamp"), frame_of(by_table).drop(columns="timestamp")
    )
    pd.testing.assert_frame_equal(by_order.items, by_table.items)
    frame = frame_of(by_order)
    found = frame.sort_values(["timestamp"]).groupby("user")["item"].agg(list)
    # Items that were dropped leave gaps in the order, but do not change it.
    assert {int(user): list(map(int, items)) for user, items in found.items()} == {
        user: items for user, items in sequences().items() if user <= 12
    }

    last = frame_of(prepared(folder="chronological/sequences")).query("split == 'test'")
    assert dict(zip(last["user"].map(int), last["item"].map(int), strict=True)) == {
        user: items[-1] for user, items in sequences().items() if user <= 12
    }


def test_the_sequences_stand_in_where_the_table_cannot_be_had(web, capsys):
    without_facts("microlens", Workspace())
    serve(web, {path: content for path, content in microlens_files().items() if path != PAIRS})
    bench("prepare", "microlens", "--url", web.url)
    assert prepared().metadata["source"] == prepared().metadata["source"] | {"name": "sequences", "kind": "http"}
    said = capsys.readouterr().err
    assert f"source 'westlake': {web.url}/{PAIRS}" in said
    assert "404" in said


FACTS = {
    **{50000: RAW["users"], 19220: RAW["items"], 359708: RAW["interactions"]},
    **{536: CORE_10["users"], 125: CORE_10["items"], 9159: CORE_10["interactions"]},
    **{46420: CORE_5["users"], 14079: CORE_5["items"], 332730: CORE_5["interactions"]},
    # Users who need 5 and items that need 10 leave what the 10-core leaves.
    **{35550: CORE_10["users"], 8845: CORE_10["items"], 253805: CORE_10["interactions"]},
    **{14193: 19, 330683: 178},
}


def digests(files):
    """Map the shipped sizes and checksums to those of these files."""
    real = {
        PAIRS: (9431093, "7ff8b91bcc84f5434ac2c5be7d0b7d7730f5e84f79f9648b5ae67a7641f97bbd"),
        TITLES: (2392145, "244aad5380cbbe0fb43458cfcda5ebe820f534384602f80a64dbbcd07dd30e49"),
        SEQUENCES: (2295542, "46be22f478aa891b9c2a4b357c1df2ac2478793a99d58d07336e6277b6bf426d"),
    }
    sizes = {size: len(files[path]) for path, (size, _) in real.items()}
    return sizes | {digest: hashlib.sha256(files[path]).hexdigest() for path, (_, digest) in real.items()}


def test_five_core_beside_ten_core(web, capsys):
    files = microlens_files()
    with_facts("microlens", Path("datasets"), FACTS | digests(files))
    serve(web, files)
    bench("prepare", "microlens", "--url", web.url)
    said = capsys.readouterr()
    assert "Beside what is published" in said.out
    assert (
        "Of the known settings --core 5 comes closest to LD4MRec, Table 1, with 18 users, 18 items, 180 interactions "
        "(users equal, items -5.3%, interactions +1.1%): bench prepare microlens --core 5"
    ) in said.out

    fetched = len(web.asked)
    bench("prepare", "microlens", "--core", "5", "--url", web.url)
    said = capsys.readouterr()
    assert len(web.asked) == fetched, "both share the raw files"
    assert "warning" not in said.err
    closest = "Of the known settings this one comes closest to LD4MRec, Table 1: users equal, items -5.3%, interactions"
    assert f"{closest} +1.1%." in said.out
    table = " ".join(said.out.replace("│", " ").split())
    assert "microlens@5core 18 18 180 10.00 10.00 55.556%" in table
    assert "LD4MRec, Table 1 18 19 178 9.89 9.37 52.047%" in table

    five = prepared("microlens@5core")
    assert counts(five) == {"read": RAW, "dedupe": RAW, "core": CORE_5}
    assert five.items["id"].tolist() == [str(item) for item in POPULAR + NICHE]
    # Twelve interactions leave 10 / 1 / 1, six 4 / 1 / 1.
    assert five.metadata["summary"]["split"] == {"train": 12 * 10 + 6 * 4, "valid": 18, "test": 18}
    np.testing.assert_array_equal(five.features["text"], matrix(30)[[item - 1 for item in POPULAR + NICHE]])
    assert "round 2: 18 users, 18 items, 180 interactions left" in said.err, "user 20 goes after the lone item"

    bench("prepare", "microlens", "--core", "user=5,item=10", "--url", web.url)
    assert counts(prepared("microlens@user5item10core"))["core"] == CORE_10
    assert prepared().fingerprint == prepared("microlens@user5item10core").fingerprint != five.fingerprint
    capsys.readouterr()

    bench("datasets", "--json")
    (listed,) = (each for each in json.loads(capsys.readouterr().out) if each["name"] == "microlens")
    there = {each["name"]: [each[what] for what in RAW] for each in listed["prepared"]}
    assert there == {
        "microlens": [12, 12, 144],
        "microlens@5core": [18, 18, 180],
        "microlens@user5item10core": [12, 12, 144],
    }
    bench("datasets")
    listing = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "microlens@5core prepared: 18 x 18, 180 interactions" in listing


def test_counts_other_than_known_are_refused_or_reported(tmp_path, capsys):
    files = lay(tmp_path / "have", microlens_files(), flat=True)
    with_facts("microlens", Path("datasets"), FACTS | {359708: 193})
    bench("prepare", "microlens", "--from", str(files), code=2)
    assert "the raw files should have 193 interactions, but have 192 interactions" in capsys.readouterr().err
    assert not Path("datasets/prepared/microlens").exists()
    with_facts("microlens", Path("datasets"), FACTS | {9159: 145})
    bench("prepare", "microlens", "--from", str(files))
    assert (
        "warning: at this k-core the recipe knows 12 users, 12 items, 145 interactions, but there are 12 users, 12 "
        in (capsys.readouterr().err)
    )


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_titles_with_either_line_end_have_the_same_checksum(web, capsys, line_end):
    files = microlens_files()
    with_facts("microlens", Path("datasets"), FACTS | digests(files))
    serve(web, files | {TITLES: quoted_titles(titles() | {1: titles()[13]}, line_end)})
    bench("prepare", "microlens", "--url", web.url, code=2)
    assert f"the recipe expects {len(files[TITLES]):,}: the download is damaged" in capsys.readouterr().err
    serve(web, {TITLES: quoted_titles(titles(), line_end)})
    bench("prepare", "microlens", "--url", web.url)
    assert prepared().items["title"].tolist() == [titles()[item] for item in POPULAR]
    assert not [line for line in capsys.readouterr().err.splitlines() if "warning" in line or "expects" in line]


def disagreeing(*items):
    """Return the titles of the 100k set, but for other ones of some items."""
    return {OTHER_TITLES: bare_titles(titles() | {UNTITLED: ""} | dict.fromkeys(items, "something else"))}


def test_titles_that_disagree_stop_the_preparation(tmp_path, capsys):
    without_facts("microlens", Workspace())
    command = ("prepare", "microlens", "--from", str(tmp_path / "have"))
    lay(tmp_path / "have", microlens_files() | disagreeing(1, 11), flat=True)
    bench(*command, code=2)
    said = capsys.readouterr().err
    assert "MicroLens-100k_image_features_CLIPRN50.npy belongs to other items: 9 of 11 titles agree (81.8 %)" in said
    assert "at least 90 % expected; e.g. id 1: 'Clip 1, seen by many # pets # fun1' against 'something else'." in said
    assert not Path("datasets/prepared/microlens").exists()

    lay(tmp_path / "have", disagreeing(11), flat=True)
    bench(*command)
    assert "features.visual: 10 of 11 titles agree" in capsys.readouterr().err

    # Where neither matrix is in use there is nothing to compare.
    lay(tmp_path / "have", disagreeing(1, 11), flat=True)
    bench(*command, "--feature", "visual=none", "--feature", "text=tfidf")
    assert "titles agree" not in capsys.readouterr().err
    dataset = prepared("microlens@text=tfidf+visual=none")
    assert list(dataset.features) == ["text"]


def image_model(folder):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.ViTModel(transformers.ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(folder)
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def cover(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_covers_in_place_of_the_published_features(web, tmp_path, capsys):
    recipe = without_facts("microlens", Workspace())
    image_model(tmp_path / "model")
    recipe.write_text(recipe.read_text().replace("image:openai/clip-vit-base-patch32", f"image:{tmp_path / 'model'}"))
    pictures = {f"MicroLens-50k_covers/{item}.jpg": cover(item) for item in [*POPULAR, 30] if item != 5}
    pictures["MicroLens-50k_covers/7.jpg"] = pictures["MicroLens-50k_covers/1.jpg"]
    pictures["MicroLens-50k_covers/9.jpg"] = b"no picture"
    serve(
        web,
        {path: content for path, content in microlens_files().items() if path != VISUAL} | {COVERS: zipped(pictures)},
    )
    bench("prepare", "microlens", "--feature", "visual=covers", "--url", web.url, "--device", "cpu")
    assert web.asked == [f"/{file}" for file in (PAIRS, TITLES, OTHER_TITLES, TEXT, COVERS)]
    said = capsys.readouterr().err
    assert "features.visual: 2 of 12 items have no picture; they get the mean of the others" in said

    dataset = prepared("microlens@visual=covers")
    visual = np.asarray(dataset.features["visual"])
    row = {item: at for at, item in enumerate(POPULAR)}
    assert visual.shape == (12, 16)
    np.testing.assert_array_equal(visual[row[7]], visual[row[1]])
    np.testing.assert_array_equal(visual[row[5]], visual[row[9]])
    seen = [at for item, at in row.items() if item not in (5, 9)]
    np.testing.assert_allclose(visual[row[5]], visual[seen].mean(axis=0), atol=1e-6)
    assert len(np.unique(visual, axis=0)) == 10
    np.testing.assert_array_equal(dataset.features["text"], matrix(30)[[item - 1 for item in POPULAR]])
