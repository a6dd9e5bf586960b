"""The recipes of TikTok and Last.fm from end to end, on small files in the published formats."""

import hashlib
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from published import without_facts
from published_files import (
    LASTFM,
    SHAPE,
    TIKTOK,
    bench,
    fake_drive,
    lastfm,
    loaded,
    npy,
    old_pickle,
    put,
    refused,
    sizes,
    steps,
    tiktok_lists,
    tiktok_pickles,
    tiktok_table,
)

from bench.workspace import Workspace

pytestmark = pytest.mark.usefixtures("in_empty_folder")
SPACE = Workspace()
TRAIN = [(u, i) for u, i, part in TIKTOK if part == 0]
COUNTS = ("read", 8, 6, 20)


@pytest.fixture
def raw() -> Path:
    """A folder with DiffMM's form of the files, and the recipe without the facts of the real ones."""
    without_facts("tiktok", SPACE)
    return put(Path("raw"), tiktok_pickles())


def test_the_matrices_of_diffmm(raw):
    bench("prepare", "tiktok", "--from", raw)
    dataset = loaded("tiktok")
    assert steps(dataset) == [COUNTS]
    assert sizes(dataset) == (16, 2, 2)
    assert dataset.users["id"].tolist() == [str(user) for user in range(8)]
    rows = set(zip(*(dataset.interactions[column] for column in ("user", "item", "split")), strict=True))
    assert rows == {(user, item, ("train", "valid", "test")[part]) for user, item, part in TIKTOK}
    assert sorted(zip(*dataset.matrix("train").nonzero(), strict=True)) == sorted(TRAIN)
    assert dataset.features["visual"].dtype == np.float32
    assert dataset.features["visual"].tolist() == (np.arange(24).reshape(6, 4) / 8).tolist()
    assert dataset.features["acoustic"][5].tolist() == [-21, -22, -23, -24]
    assert dataset.metadata["summary"]["users_without_train"] == 2
    assert dataset.metadata["summary"]["items_never_in_train"] == 2
    assert dataset.metadata["source"]["name"] == "diffmm"


def test_three_forms_of_the_same_data_are_the_same_dataset(raw, monkeypatch):
    without_facts("tiktok", Workspace(Path("lists")))
    without_facts("tiktok", Workspace(Path("table")))
    bench("prepare", "tiktok", "--from", raw)
    asked = fake_drive(monkeypatch, tiktok_lists())
    bench("prepare", "tiktok", "--source", "mmssl", "--data-dir", "lists")
    assert sorted(asked) == sorted(tiktok_lists())
    bench("prepare", "tiktok", "--from", put(Path("copy"), tiktok_table()), "--data-dir", "table")
    found = [loaded("tiktok", folder) for folder in ("datasets", "lists", "table")]
    assert [dataset.metadata["source"]["name"] for dataset in found] == ["diffmm", "mmssl", "table"]
    assert len({dataset.fingerprint for dataset in found}) == 1


def test_the_published_text_is_fetched_only_for_those_who_want_it(web, capsys):
    without_facts("tiktok", SPACE)
    text = np.arange(6 * 768, dtype=np.float32).reshape(6, 768)
    for name, content in {**tiktok_pickles(), "text_feat.npy": npy(text)}.items():
        web.file(f"/{name}", content)
    bench("prepare", "tiktok", "--url", web.url)
    assert "/text_feat.npy" not in web.asked
    bench("prepare", "tiktok", "--feature", "text=published", "--url", web.url)
    assert web.asked.count("/text_feat.npy") == 1
    assert web.asked.count("/trnMat.pkl") == 1, "the others are there"
    both = loaded("tiktok@text=published")
    assert set(both.features) == {"visual", "acoustic", "text"}
    np.testing.assert_array_equal(both.features["text"], text)
    assert set(loaded("tiktok").features) == {"visual", "acoustic"}


class Hostile:
    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def not_finite() -> bytes:
    rows = np.zeros((6, 4), dtype=np.float16)
    rows[2, 1] = np.nan
    return npy(rows)


FAILURES = [
    ("tstMat.pkl", pickle.dumps(Hostile()), r"this pickle asks for pathlib[\w.]*, which no sparse matrix needs; it wa"),
    ("trnMat.pkl", old_pickle(0)[:-40], r"trnMat.pkl is no pickle of a sparse matrix \("),
    ("valMat.pkl", b"<html>quota</html>", r"valMat.pkl is no pickle of a sparse matrix \("),
    ("valMat.pkl", pickle.dumps([1, 2]), r"valMat.pkl holds no sparse matrix of numbers: it holds list instead"),
    (
        "image_feat.npy",
        npy(np.ones((4, 4), np.float16)),
        r"image_feat.npy has 4 rows, .* the items ask for rows 0 to 5",
    ),
    (
        "audio_feat.npy",
        not_finite(),
        r"The 'acoustic' features .* 1 values that are NaN or infinite, .* item '2'",
    ),
    ("audio_feat.npy", tiktok_pickles()["audio_feat.npy"][:-3], r"audio_feat.npy cannot be read as a plain .npy array"),
]


@pytest.mark.parametrize(("name", "content", "words"), FAILURES, ids=[each[2][:20] for each in FAILURES])
def test_a_file_that_is_wrong_and_then_repaired(raw, capsys, name, content, words):
    put(raw, {name: content})
    message = refused(capsys, "prepare", "tiktok", "--from", raw)
    assert re.search(words, message), message
    assert name in message
    assert not Path("harm").exists()
    put(raw, tiktok_pickles())
    bench("prepare", "tiktok", "--from", raw)


def test_other_files_under_the_published_names_are_refused(web, capsys):
    for name, content in tiktok_pickles().items():
        web.file(f"/{name}", content)
    message = refused(capsys, "prepare", "tiktok", "--url", web.url)
    assert re.search(r"trnMat.pkl gave [\d,]+ bytes, but the recipe expects 953,073", message), message
    assert "files have to be fetched by hand" not in message, "only sources on the web are tried with --url"


def test_a_wrong_checksum_and_then_the_right_file(web, capsys):
    files = tiktok_pickles()
    path, checksum = without_facts("tiktok", SPACE), hashlib.sha256(files["valMat.pkl"]).hexdigest()
    path.write_text(path.read_text().replace('url = "valMat.pkl"', f'url = "valMat.pkl"\nsha256 = "{checksum}"'))
    for name, content in {**files, "valMat.pkl": old_pickle(0)}.items():
        web.file(f"/{name}", content)
    message = refused(capsys, "prepare", "tiktok", "--url", web.url)
    assert re.search(rf"valMat.pkl gave content with the sha256 \w+, but the recipe expects {checksum}", message), (
        message
    )
    web.file("/valMat.pkl", files["valMat.pkl"])
    bench("prepare", "tiktok", "--url", web.url)
    assert steps(loaded("tiktok")) == [COUNTS]


def test_a_download_that_breaks_off_goes_on(web, capsys):
    without_facts("tiktok", SPACE)
    for name, content in tiktok_pickles().items():
        web.file(f"/{name}", content, etag=f'"{name}"')
    web.breaks = [200, *[1] * 50]
    message = refused(capsys, "prepare", "tiktok", "--url", web.url)
    assert "trnMat.pkl" in message
    web.breaks = []
    bench("prepare", "tiktok", "--url", web.url)
    assert any(headers.get("Range") for headers in web.received)
    assert steps(loaded("tiktok")) == [COUNTS]


def test_files_that_lack_are_named_for_every_source(capsys):
    Path("raw").mkdir()
    put(Path("raw"), {"trnMat.pkl": old_pickle(0)})
    message = refused(capsys, "prepare", "tiktok", "--from", "raw")
    assert "source 'diffmm': raw lacks valMat.pkl, tstMat.pkl, image_feat.npy, audio_feat.npy" in message
    assert "source 'mmssl': raw lacks train.json" in message
    assert "source 'table': raw lacks interactions.csv.gz, visual.npy, acoustic.npy. It holds trnMat.pkl" in message


def test_lastfm(capsys):
    without_facts("lastfm", SPACE)
    bench("prepare", "LFM2k", "--from", put(Path("raw"), lastfm()))
    dataset = loaded("lastfm")
    assert steps(dataset) == [("read", 4, 4, 12)]
    assert sizes(dataset) == tuple(sum(part == wanted for _, _, part in LASTFM) for wanted in range(3))
    assert "timestamp" not in dataset.interactions.columns
    assert {name: matrix.shape[1] for name, matrix in dataset.features.items()} == {
        "text": 384,
        "audio": 128,
        "speech": 384,
    }
    assert dataset.features["audio"][:, 0].tolist() == [-1, 1, -1, 1], "bytes brought to mean 0 and deviation 1"
    assert not dataset.features["audio"][:, 1].any(), "a column of equal numbers"
    assert dataset.features["text"][3, :2].tolist() == [1152, 1153]
    assert dataset.features["speech"][3, :2].tolist() == [576, 576.5]


def test_lastfm_from_the_web_and_as_a_table(web):
    for folder in ("datasets", "table"):
        without_facts("lastfm", Workspace(Path(folder)))
    files = lastfm()
    for name, content in files.items():
        web.file(f"/{name}", content)
    bench("prepare", "lastfm", "--url", web.url)
    rows = "".join(f"{u},{i},{part}\n" for u, i, part in LASTFM)
    names = {"text.npy": "all-MiniLM-L6-v2.npy", "audio.npy": "vggish.npy", "speech.npy": "whisper.npy"}
    table = {"interactions.csv": f"user,item,split\n{rows}".encode()} | {new: files[old] for new, old in names.items()}
    bench("prepare", "lastfm", "--from", put(Path("copy"), table), "--data-dir", "table")
    assert loaded("lastfm").fingerprint == loaded("lastfm", "table").fingerprint


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (b"x_label", b"label", r"expects the column 'x_label' \(did you mean 'label'\?\)"),
        (b"\t2\n", b"\t3\n", r"labels that lead to no part: '3' \(\d rows\)"),
        (b"0\t1\t1\t1\n", b"0\t1\t1\t1\n0\t1\t1\t1\n", r"1 interactions repeat an earlier user and item"),
        (b"\t", b",", r"looks split at a comma: set separator = \",\" in the recipe"),
        (b"\n0\t", b"\n\xe9\t", r"UTF-8|utf-8"),
    ],
)
def test_a_table_that_is_wrong_and_then_repaired(capsys, before, after, words):
    without_facts("lastfm", SPACE)
    raw = put(Path("raw"), lastfm())
    put(raw, {"lfm2k.inter": lastfm()["lfm2k.inter"].replace(before, after)})
    message = refused(capsys, "prepare", "lastfm", "--from", raw)
    assert re.search(words, message), message
    put(raw, lastfm())
    bench("prepare", "lastfm", "--from", raw)


def test_the_shape_of_the_matrices_is_the_same_in_all_parts(raw, capsys):
    from scipy import sparse

    put(raw, {"tstMat.pkl": pickle.dumps(sparse.coo_matrix((SHAPE[0], SHAPE[1] + 1)))})
    message = refused(capsys, "prepare", "tiktok", "--from", raw)
    assert "The matrices should have one shape, users x items" in message
