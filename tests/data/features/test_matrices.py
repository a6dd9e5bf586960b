import gzip
import io
import os
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.linalg import svd
from sklearn.feature_extraction.text import TfidfVectorizer

from bench.data.features.matrices import (
    FeatureReport,
    _rounded,
    check_features,
    load_matrix,
    matrix_shape,
    multi_hot,
    standardise,
    tfidf_svd,
)
from bench.data.features.missing import fill_with_mean, settle_missing, spread
from bench.data.raw.rawfiles import RawFiles
from bench.errors import DataError

WORDS = [f"word{number}" for number in range(60)]


def texts(n_items, seed=0):
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, len(WORDS) + 1)
    return [" ".join(rng.choice(WORDS, 6, p=chance / chance.sum())) for _ in range(n_items)]


def test_tfidf_svd_is_the_best_approximation_of_its_width():
    corpus = texts(80)
    weights = TfidfVectorizer(sublinear_tf=True).fit_transform(corpus).toarray()
    _, values, _ = svd(weights, full_matrices=False)
    matrix = tfidf_svd(corpus, 12)
    assert matrix.dtype == np.float32
    assert matrix.shape == (80, 12)
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=0), values[:12], rtol=1e-3)
    full = tfidf_svd(corpus, 1000)
    np.testing.assert_allclose(full @ full.T, weights @ weights.T, atol=1e-3)


def test_tfidf_svd_gives_the_same_rounded_bytes_again():
    matrix = tfidf_svd(texts(50), 8)
    assert matrix.tobytes() == tfidf_svd(texts(50), 8).tobytes()
    assert (matrix == matrix.astype(np.float64).round(5).astype(np.float32)).all()


def test_tfidf_svd_fixes_signs():
    # The word weights of a component are in proportion to the products of the TF-IDF columns with its scores.
    corpus = texts(80)
    weights = TfidfVectorizer(sublinear_tf=True).fit_transform(corpus)
    word_weights = weights.T @ tfidf_svd(corpus, 12)
    largest = np.abs(word_weights).argmax(axis=0)
    assert (word_weights[largest, np.arange(12)] > 0).all()


def test_rounding_keeps_no_negative_zero_and_no_empty_column():
    rounded = _rounded(np.array([[-1e-9, 0.123456, 1e-9], [2.0, -1e-9, -1e-9]]))
    assert rounded.tobytes() == np.array([[0.0, 0.12346], [2.0, 0.0]], dtype=np.float32).tobytes()


def test_tfidf_svd_is_capped_at_the_rank():
    assert tfidf_svd(["a b", "b c", "c a"], 50).shape == (3, 3), "words of one letter count"
    assert tfidf_svd(["same words", "same words", "other"], 50).shape == (3, 2), "rank below the number of items"
    assert tfidf_svd(["one"], 50).tolist() == [[1.0]]


def test_tfidf_svd_of_empty_texts():
    matrix = tfidf_svd(["red sun", "", "red moon"], 2)
    assert not matrix[1].any()
    assert matrix[[0, 2]].any(axis=1).all()
    with pytest.raises(DataError, match=r"None of the 2 item texts holds a word \(first: '--'\)"):
        tfidf_svd(["--", ""], 2)


def test_tfidf_svd_of_characters():
    # As words: every title is one of its own, so nothing is alike. As characters: the first two share "a", "b", "ab".
    titles = ["ABc", "abd", "x,y", "y x"]
    assert np.allclose(tfidf_svd(titles[:2], 5) @ tfidf_svd(titles[:2], 5).T, np.eye(2), atol=1e-4)
    likeness = tfidf_svd(titles, 9, "characters")
    likeness = likeness @ likeness.T
    # Of 5 units each, 3 common ones are in 2 of 4 titles: idf log(5 / 3) + 1; the others in one: log(5 / 2) + 1.
    common, own = np.log(5 / 3) + 1, np.log(5 / 2) + 1
    assert likeness[0, 1] == pytest.approx(3 * common**2 / (3 * common**2 + 2 * own**2), abs=1e-3)
    assert likeness[2, 3] == pytest.approx(1, abs=1e-3), "no pair reaches over what stands between words"
    assert likeness[0, 2] == pytest.approx(0, abs=1e-3)
    with pytest.raises(DataError, match="None of the 1 item texts holds a word"):
        tfidf_svd(["?"], 2, "characters")


def test_multi_hot_by_hand():
    matrix, labels = multi_hot([["war", "drama"], [], ["drama"], ["drama", "comedy", "drama"]])
    assert labels == ["comedy", "drama", "war"]
    assert matrix.dtype == np.float32
    assert matrix.tolist() == [[0, 1, 1], [0, 0, 0], [0, 1, 0], [1, 1, 0]]
    with pytest.raises(DataError, match="None of the 2 items has a label"):
        multi_hot([[], []])


@given(st.lists(st.lists(st.sampled_from("abcde"), max_size=5), min_size=1, max_size=8))
def test_multi_hot_says_exactly_what_was_said(values):
    if not any(values):
        return
    matrix, labels = multi_hot(values)
    assert labels == sorted(set().union(*values))
    assert [{labels[column] for column in np.flatnonzero(row)} for row in matrix] == [set(each) for each in values]


def saved(tmp_path, array, **options):
    np.save(tmp_path / "features.npy", array, **options)
    return RawFiles(tmp_path).find("features.npy")


def packed(tmp_path, array, kind):
    buffer = io.BytesIO()
    np.save(buffer, array)
    if kind == "gz":
        (tmp_path / "features.npy.gz").write_bytes(gzip.compress(buffer.getvalue()))
    else:
        with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("deep/features.npy", buffer.getvalue())
    return RawFiles(tmp_path).find("features.npy")


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int64", "uint8", "bool", ">f8"])
def test_load_matrix_reads_rows_as_float32(tmp_path, kind):
    array = np.arange(12).reshape(4, 3).astype(kind)
    file = saved(tmp_path, array)
    matrix = load_matrix(file, np.array([3, 0, 3]))
    assert matrix.dtype == np.float32
    assert matrix.tolist() == array[[3, 0, 3]].astype("float32").tolist()
    assert not isinstance(matrix, np.memmap)
    assert matrix_shape(file) == (4, 3)


@pytest.mark.parametrize("kind", ["gz", "zip"])
def test_load_matrix_reads_packed_files(tmp_path, kind):
    array = np.asfortranarray(np.arange(12, dtype=np.float16).reshape(4, 3))
    file = packed(tmp_path, array, kind)
    assert matrix_shape(file) == (4, 3)
    assert load_matrix(file, np.array([2, 1])).tolist() == [[6, 7, 8], [3, 4, 5]]
    with pytest.raises(DataError, match=r"features\.npy(\.gz)? has 4 rows"):
        load_matrix(file, np.array([4]))


def test_load_matrix_maps_a_file_on_disk(tmp_path, monkeypatch):
    # A file of 1 TB that is nearly all hole: whoever reads it whole fails.
    header = io.BytesIO()
    np.lib.format.write_array_header_2_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**28, 1000)})
    path = tmp_path / "features.npy"
    path.write_bytes(header.getvalue())
    os.truncate(path, len(header.getvalue()) + 2**28 * 4000)
    assert load_matrix(RawFiles(tmp_path).find("features.npy"), np.array([2**28 - 1])).tolist() == [[0.0] * 1000]


def test_load_matrix_names_rows_that_are_not_there(tmp_path):
    file = saved(tmp_path, np.zeros((4, 3)))
    with pytest.raises(DataError, match=r"has 4 rows, numbered from 0, but the items ask for rows 1 to 4\."):
        load_matrix(file, np.array([1, 4]))
    with pytest.raises(DataError, match="ask for rows -1 to 2"):
        load_matrix(file, np.array([2, -1]))


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros(4), r"shape \(4,\), type float64"),
        (np.zeros((4, 2, 2)), r"shape \(4, 2, 2\)"),
        (np.array([["a"]]), "type <U1"),
        (np.zeros((2, 2), dtype=complex), "type complex128"),
    ],
)
def test_load_matrix_refuses_what_is_no_matrix_of_numbers(tmp_path, array, found):
    with pytest.raises(DataError, match=f"features.npy should hold one number per item and feature.*{found}"):
        load_matrix(saved(tmp_path, array), np.array([0]))


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trapped",))


def test_load_matrix_runs_no_code_from_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = saved(tmp_path, np.array([[Trap()]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="it holds Python objects. Pickled and object arrays are refused"):
        load_matrix(objects, np.array([0]))
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="bare.npy cannot be read as a plain .npy array"):
        load_matrix(RawFiles(tmp_path).find("bare.npy"), np.array([0]))
    assert not (tmp_path / "trapped").exists()


def test_load_matrix_refuses_other_files(tmp_path):
    for content in (b"", b"<html>login</html>", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x09\x00" + bytes(64)):
        (tmp_path / "page.npy").write_bytes(content)
        with pytest.raises(DataError, match="page.npy cannot be read as a plain .npy array"):
            load_matrix(RawFiles(tmp_path).find("page.npy"), np.array([0]))
    np.savez(tmp_path / "archive.npz", a=np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"archive\.npz cannot be read.*and so are archives of arrays \(\.npz\)"):
        load_matrix(RawFiles(tmp_path).find("archive.npz"), np.array([0]))


@pytest.mark.parametrize("kind", ["plain", "gz"])
def test_load_matrix_refuses_a_file_that_is_cut_off(tmp_path, kind):
    saved(tmp_path, np.zeros((100, 3)))
    whole = (tmp_path / "features.npy").read_bytes()
    (tmp_path / "features.npy").unlink()
    name, content = ("cut.npy", whole[:-8]) if kind == "plain" else ("cut.npy.gz", gzip.compress(whole[:-8]))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"cut\.npy(\.gz)? cannot be read as a plain .npy array"):
        load_matrix(RawFiles(tmp_path).find(name), np.array([0]))


def test_standardise_by_hand():
    matrix = np.array([[1, 5, 0.1], [3, 5, 0.1], [5, 5, 0.1]], dtype=np.float32)
    spread_of_first = np.sqrt(8 / 3)
    first = np.round(np.array([-2, 0, 2]) / spread_of_first, 5).astype(np.float32)
    standard = standardise(matrix)
    assert standard.dtype == np.float32
    assert standard[:, 0].tolist() == first.tolist()
    assert not standard[:, 1:].any()
    assert not np.signbit(standard[:, 1:]).any()


@given(hnp.arrays(np.float32, (7, 2), elements=st.floats(-100, 100, width=32)))
def test_standardised_columns_have_mean_0_and_deviation_1(matrix):
    standard = standardise(matrix).astype(np.float64)
    for column in range(2):
        if np.ptp(matrix[:, column]) > 1e-3:
            assert abs(standard[:, column].mean()) < 1e-4
            assert abs(standard[:, column].std() - 1) < 1e-4
            # Stays in order.
            order = matrix[:, column].argsort()
            assert (np.diff(standard[order, column]) >= 0).all()
        elif np.ptp(matrix[:, column]) == 0:
            assert not standard[:, column].any()


def test_fill_with_mean_by_hand():
    # In float32 a sum of these would stop growing at 2 ** 24.
    matrix = np.array([[2**24, 1], [0, 0], [1, 2], [1, 6]], dtype=np.float32)
    present = np.array([True, False, True, True])
    filled = fill_with_mean(matrix, present)
    assert filled[1].tolist() == [np.float32((2**24 + 2) / 3), 3]
    assert (filled[present] == matrix[present]).all()
    assert matrix[1].tolist() == [0, 0], "the argument stays as it was"
    assert fill_with_mean(matrix, np.ones(4, dtype=bool)) is matrix


def test_spread_by_hand():
    rows = np.array([[1, 2], [3, 4]], dtype=np.float32)
    assert spread(rows, np.array([False, True, True, False])).tolist() == [[0, 0], [1, 2], [3, 4], [0, 0]]


IDS = pd.Series(["a", "b", "c", "d", "e"])


def settled(policy, present, noun="text", **options):
    lines = []
    settle_missing("m", policy, IDS, np.array(present, dtype=bool), noun, lines.append, **options)
    return lines


def test_what_is_missing_is_reported():
    assert settled("zero", [1, 1, 0, 1, 0]) == ["features.m: 2 of 5 items have no text"]
    assert settled("zero", [1, 1, 0, 1, 0], "record") == [
        "features.m: 2 of 5 items have no record; their rows are zero"
    ]
    assert settled("mean", [0, 1, 1, 1, 1], "picture") == [
        "features.m: 1 of 5 items have no picture; they get the mean of the others"
    ]
    assert settled("mean", [0, 1, 1, 1, 1], "row", lack="are elsewhere") == [
        "features.m: 1 of 5 items are elsewhere; they get the mean of the others"
    ]
    for policy in ("refuse", "drop", "mean", "zero"):
        assert settled(policy, [1, 1, 1, 1, 1]) == []


def test_what_is_missing_is_refused():
    with pytest.raises(
        DataError, match=r"features\.m: 4 of 5 items have no text; for example item 'b', 'c', 'd', \.\.\."
    ):
        settled("refuse", [1, 0, 0, 0, 0])
    with pytest.raises(DataError, match="1 of 5 items have no row, although the step of kind 'available' was to drop"):
        settled("drop", [1, 1, 1, 1, 0], "row")
    with pytest.raises(DataError, match=r"no item has any label\. Check the items table"):
        settled("zero", [0] * 5, "label")
    with pytest.raises(DataError, match=r"no item has any picture\. Check the feature in the recipe"):
        settled("mean", [0] * 5, "picture")


def test_check_features_counts_zero_and_repeated_rows():
    matrix = np.array([[0, 1], [0, 0], [0, 1], [-0.0, 0], [2, 1], [-0.0, 1]], dtype=np.float32)
    assert check_features("text", matrix, 6, "here") == FeatureReport("text", 2, n_zero_rows=2, n_duplicate_rows=2)
    assert check_features("text", matrix[[0, 4]], 2, "here") == FeatureReport("text", 2, 0, 0)
    assert check_features("text", np.zeros((3, 4), dtype=np.float32), 3, "here") == FeatureReport("text", 4, 3, 0)


def test_check_features_refuses_wrong_shapes_and_values():
    matrix = np.ones((5, 3), dtype=np.float32)
    with pytest.raises(DataError, match=r"The 'text' features \(a\.npy\) have 5 rows, but the dataset has 6 items"):
        check_features("text", matrix, 6, "a.npy")
    with pytest.raises(DataError, match=r"should have the shape \[n_items, width\], but have the shape \[5\]"):
        check_features("text", matrix[:, 0], 5, "a.npy")
    with pytest.raises(DataError, match=r"shape \[5, 0\]"):
        check_features("text", matrix[:, :0], 5, "a.npy")
    matrix[3, 1], matrix[3, 2], matrix[4, 0] = np.nan, np.inf, -np.inf
    with pytest.raises(DataError, match="have 3 values that are NaN or infinite, in 2 of 5 rows, first in row 3"):
        check_features("text", matrix, 5, "a.npy")
