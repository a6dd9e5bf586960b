"""What is written for a peer to read: hand-checked files and neighbors counted one pair at a time."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix, csr_array

from bench.data import PreparedDataset
from bench.speed.peers import diffmm, mmrec_files, recbole_files
from bench.speed.peers.places import places


@pytest.fixture
def small() -> PreparedDataset:
    """Three users, four items, one interaction of validation and one of test."""
    columns = {
        "user": [0, 0, 0, 1, 2, 2],
        "item": [0, 2, 3, 2, 1, 3],
        "split": ["train", "train", "test", "train", "valid", "train"],
    }
    features = {
        "visual": np.arange(8, dtype=np.float32).reshape(4, 2),
        "acoustic": np.ones((4, 1), dtype=np.float32),
    }
    return PreparedDataset(
        folder=Path("small"),
        name="small",
        fingerprint="0",
        n_users=3,
        n_items=4,
        metadata={},
        interactions=pd.DataFrame(columns),
        users=pd.DataFrame({"id": ["a", "b", "c"]}),
        items=pd.DataFrame({"id": ["w", "x", "y", "z"]}),
        features=features,
    )


def test_mmrec_gets_one_table_and_a_matrix_for_each_of_its_places(small, tmp_path):
    mmrec_files.write(small, tmp_path)
    folder = tmp_path / "prepared"
    assert (folder / "prepared.inter").read_text() == (
        "userID\titemID\tx_label\n0\t0\t0\n0\t2\t0\n0\t3\t2\n1\t2\t0\n2\t1\t1\n2\t3\t0\n"
    )
    assert np.load(folder / "image_feat.npy").tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert np.load(folder / "text_feat.npy").tolist() == [[1], [1], [1], [1]]
    assert sorted(path.name for path in folder.iterdir()) == ["image_feat.npy", "prepared.inter", "text_feat.npy"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["acoustic", "visual"], {"visual": "visual", "text": "acoustic"}),
        (["visual", "text", "acoustic"], {"visual": "visual", "text": "text"}),
        (["text", "audio", "cover"], {"visual": "audio", "text": "text"}),
        (["b", "a"], {"visual": "a", "text": "b"}),
        (["text"], {"text": "text"}),
        (["acoustic"], {"visual": "acoustic"}),
        ([], {}),
    ],
)
def test_modalities_take_the_place_of_their_name_and_others_what_is_left(small, names, expected):
    features = {name: np.zeros((4, 1), dtype=np.float32) for name in names}
    assert places(replace(small, features=features)) == expected


def test_one_modality_leaves_the_other_place_without_a_file(small, tmp_path):
    mmrec_files.write(replace(small, features={"visual": small.features["visual"]}), tmp_path)
    assert not (tmp_path / "prepared" / "text_feat.npy").exists()


def test_the_user_graph_is_written_where_it_is_asked_for(small, tmp_path):
    mmrec_files.write(small, tmp_path, user_graph=True)
    graph = np.load(tmp_path / "prepared" / "user_graph_dict.npy", allow_pickle=True).item()
    # Users 0 and 1 share item 2 in train; user 2 shares item 3 with user 0 in test only.
    assert graph == {0: [[1], [1.0]], 1: [[0], [1.0]], 2: [[], []]}


@settings(max_examples=30)
@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=7), st.integers(1, 3))
def test_neighbors_are_the_users_with_the_most_items_in_common(rows, most):
    dense = np.array(rows, dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmrec_files, "MOST_NEIGHBORS", most)
        patch.setattr(mmrec_files, "BLOCK_USERS", 2)
        found = mmrec_files.neighbors_of_users(csr_array(dense))
    for user, row in enumerate(dense):
        common = {other: int((row * dense[other]).sum()) for other in range(len(dense)) if other != user}
        ranked = sorted((other for other in common if common[other]), key=lambda other: (-common[other], other))
        assert found[user] == [ranked[:most], [common[other] for other in ranked[:most]]]


def test_recbole_gets_one_file_for_each_split(small, tmp_path):
    recbole_files.write(small, tmp_path)
    texts = {path.name: path.read_text() for path in (tmp_path / "prepared").iterdir()}
    head = "user_id:token\titem_id:token\n"
    assert texts == {
        "prepared.train.inter": f"{head}0\t0\n0\t2\n1\t2\n2\t3\n",
        "prepared.valid.inter": f"{head}2\t1\n",
        "prepared.test.inter": f"{head}0\t3\n",
    }


def test_diffmm_gets_a_matrix_for_each_split_and_each_place(small, tmp_path):
    diffmm.write(small, tmp_path, "DiffMM")
    folder = tmp_path / "Datasets" / "baby"
    train, valid = (pickle.loads((folder / name).read_bytes()) for name in ("trnMat.pkl", "tstMat.pkl"))
    assert train.toarray().tolist() == [[1, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert valid.toarray().tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    # DiffMM asks for this very type, which its own files hold.
    assert type(train) is type(valid) is coo_matrix
    assert np.load(folder / "text_feat.npy").tolist() == [[1], [1], [1], [1]]
