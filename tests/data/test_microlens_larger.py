"""`bench prepare` of MicroLens-100k and MicroLens-1M: small files in the real formats, through the shipped recipes."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from lens_files import (
    CORE_5,
    CORE_10,
    NICHE,
    POPULAR,
    RAW,
    bare_titles,
    bench,
    interactions,
    lay,
    matrix,
    milliseconds,
    npy,
    pairs_csv,
    serve,
)
from published import without_facts

from bench.data import PreparedDataset
from bench.workspace import Workspace

pytestmark = pytest.mark.usefixtures("in_empty_folder")

STAY = POPULAR + NICHE
TITLES_100K = {
    **{item: f"clip {item}, seen # pets" for item in [*POPULAR, 30, *NICHE, 49]},
    1: '"He said',
    3: 'so", did she, "really?',
    5: "",
    7: "",
    9: " , ",
}


def files_100k():
    features = "extracted_modality_features/MicroLens-100k"
    # Two come again: the first row is the earlier one, the last row is later than both.
    user, item, place = interactions()[0]
    again = f"{user},{item},{milliseconds(place) - 5000}\n{user},{item},{milliseconds(place) + 5000}\n"
    return {
        "MicroLens-100k_pairs.csv": pairs_csv(again),
        "MicroLens-100k_title_en.csv": bare_titles(TITLES_100K),
        f"{features}_image_features_CLIPRN50.npy": npy(matrix(0)),
        f"{features}_title_en_text_features_BgeM3.npy": npy(matrix(30)),
        f"{features}_video_features_VideoMAE.npy": npy(matrix(60)[:, :3]),
    }


def counts(dataset):
    return [{what: step[what] for what in RAW} for step in dataset.metadata["summary"]["steps"]]


def prepared(name):
    return PreparedDataset.load(Path("datasets/prepared") / name)


def test_the_100k_set(web, capsys):
    without_facts("microlens-100k", Workspace())
    files = files_100k()
    serve(web, files)
    bench("prepare", "microlens100k", "--url", web.url)
    assert web.asked == [f"/{file}" for file in files]

    dataset = prepared("microlens-100k")
    assert counts(dataset) == [RAW | {"interactions": 194}, RAW, CORE_5]
    assert dataset.items["id"].tolist() == [str(item) for item in STAY]
    # Blanks around a title go; quotes, commas and empty titles stay what they are.
    assert dataset.items["title"].tolist() == [TITLES_100K[item].strip() for item in STAY]
    first = dataset.interactions.iloc[0]
    place = interactions()[0][2]
    assert [first["user"], first["item"], first["timestamp"]] == [0, 0, (milliseconds(place) - 5000) // 1000]
    for modality, whole in (("visual", matrix(0)), ("text", matrix(30)), ("video", matrix(60)[:, :3])):
        np.testing.assert_array_equal(dataset.features[modality], whole[[item - 1 for item in STAY]])
    assert "step dedupe (first of each user and item): 23 -> 23 users, 19 -> 19 items, 194 -> 192" in (
        capsys.readouterr().err
    )


def test_empty_titles_have_no_words_to_encode(web, capsys):
    without_facts("microlens-100k", Workspace())
    files = files_100k()
    serve(web, files)
    bench("prepare", "microlens-100k", "--feature", "text=tfidf", "--feature", "video=none", "--url", web.url)
    used = [file for file in files if "BgeM3" not in file and "VideoMAE" not in file]
    assert web.asked == [f"/{file}" for file in used], "matrices that are not used are not fetched"
    assert "features.text: 3 of 18 items have no text" in capsys.readouterr().err

    dataset = prepared("microlens-100k@text=tfidf+video=none")
    assert list(dataset.features) == ["text", "visual"]
    zero = ~np.asarray(dataset.features["text"]).any(axis=1)
    assert dataset.items["id"][zero].tolist() == ["5", "7", "9"]


CHINESE = {1: '"猫狗', 3: "猫狗", 5: "狗猫", 7: '龙、说"飞', 9: "火, 水", 11: ""}
TITLES_1M = dict.fromkeys([*POPULAR, 30, *NICHE, 49], "山山山") | CHINESE


def test_the_1m_set_with_chinese_titles(tmp_path, capsys):
    """The shipped recipe as it is: its counts are a target, and other ones only a warning."""
    packed = {
        "MicroLens-1M_pairs.csv.gz": gzip.compress(pairs_csv()),
        "MicroLens-1M_title.csv": bare_titles(TITLES_1M),
    }
    bench("prepare", "microlens-1m", "--from", str(lay(tmp_path / "have", packed)))
    said = capsys.readouterr().err
    warning = "warning: the raw files should have 1,000,000 users, 9,095,620 interactions, but have 23 users, 192 inter"
    assert warning in said
    assert "features.text: 1 of 18 items have no text" in said

    dataset = prepared("microlens-1m")
    assert counts(dataset) == [RAW, RAW, CORE_5]
    assert dataset.items["title"].tolist() == [TITLES_1M[item] for item in STAY]
    text = np.asarray(dataset.features["text"], dtype=np.float64)
    row = {item: at for at, item in enumerate(STAY)}
    # Quotes are no words: the first two titles are the same, and the third shares both characters but not their order.
    np.testing.assert_array_equal(text[row[1]], text[row[3]])
    alike = text @ text.T
    assert 0 < alike[row[3], row[5]] < alike[row[3], row[1]] - 0.1
    np.testing.assert_allclose(alike[row[3], [row[7], row[9], row[13]]], 0, atol=1e-4)
    assert not text[row[11]].any()
    assert len(np.unique(text, axis=0)) == 6, "an encoder of words would tell only few of them apart"


def test_ten_core_of_the_1m_set(tmp_path):
    files = {"MicroLens-1M_pairs.csv": pairs_csv(), "MicroLens-1M_title.csv": bare_titles(TITLES_1M)}
    bench("prepare", "microlens-1m", "--core", "10", "--from", str(lay(tmp_path / "have", files)))
    assert counts(prepared("microlens-1m@10core"))[-1] == CORE_10


@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
def test_line_ends_are_no_part_of_a_title(tmp_path, line_end):
    files = {
        "MicroLens-1M_pairs.csv": pairs_csv(),
        "MicroLens-1M_title.csv": bare_titles(TITLES_1M).replace(b"\n", line_end.encode()),
    }
    bench("prepare", "microlens-1m", "--from", str(lay(tmp_path / "have", files)))
    assert prepared("microlens-1m").items["title"].tolist() == [TITLES_1M[item] for item in STAY]
