import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import svd
from sklearn.feature_extraction.text import TfidfVectorizer

from bench.data.features import FeatureReport, _rounded, check_features, load_matrix, multi_hot, tfidf_svd
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
    path = tmp_path / "features.npy"
    np.save(path, array, **options)
    return path


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "int64", "uint8", "bool"])
def test_load_matrix_reads_rows_as_float32(tmp_path, kind):
    array = np.arange(12).reshape(4, 3).astype(kind)
    matrix = load_matrix(saved(tmp_path, array), np.array([3, 0, 3]))
    assert matrix.dtype == np.float32
    assert matrix.tolist() == array[[3, 0, 3]].astype("float32").tolist()
    assert not isinstance(matrix, np.memmap)


def test_load_matrix_names_rows_that_are_not_there(tmp_path):
    path = saved(tmp_path, np.zeros((4, 3)))
    with pytest.raises(DataError, match=r"has 4 rows, numbered from 0, but the items ask for rows 1 to 4\."):
        load_matrix(path, np.array([1, 4]))
    with pytest.raises(DataError, match="ask for rows -1 to 2"):
        load_matrix(path, np.array([2, -1]))


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
    with pytest.raises(DataError, match="object arrays are refused"):
        load_matrix(objects, np.array([0]))
    bare = tmp_path / "bare.npy"
    bare.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="bare.npy cannot be read as a plain .npy array"):
        load_matrix(bare, np.array([0]))
    assert not (tmp_path / "trapped").exists()


def test_load_matrix_refuses_other_files(tmp_path):
    with pytest.raises(DataError, match="nowhere.npy is missing"):
        load_matrix(tmp_path / "nowhere.npy", np.array([0]))
    for content in (b"", b"<html>login</html>", b"\x93NUMPY\x01\x00"):
        path = tmp_path / "page.npy"
        path.write_bytes(content)
        with pytest.raises(DataError, match="page.npy cannot be read as a plain .npy array"):
            load_matrix(path, np.array([0]))
    np.savez(tmp_path / "archive.npz", a=np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"an archive \(\.npz\)"):
        load_matrix(tmp_path / "archive.npz", np.array([0]))


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
