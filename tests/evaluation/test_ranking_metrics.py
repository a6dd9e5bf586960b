"""Metrics by hand, and against two programs written by others."""

from dataclasses import replace
from math import log2

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from bench.evaluation import (
    METRICS,
    RankingEvaluator,
    Ranks,
    evaluation_protocol,
    mean_metrics,
    per_user_metrics,
)
from bench.evaluation.metrics import average_precision, ndcg, ndcg_over_hits, precision, recall

MMREC = evaluation_protocol("mmrec", ks=(1, 2, 4))
D2 = 1 / log2(3)


def ranks_of(rank_lists, n_items):
    """Build ranks from one list of ranks per user."""
    lengths = np.array([len(ranks) for ranks in rank_lists])
    users = np.arange(len(rank_lists))
    return Ranks(users, lengths, np.repeat(users, lengths), np.concatenate(rank_lists).astype(np.int64), n_items)


# Users 3, 5, 8 and 5 items; user 8's second item is masked, so its rank is one past the catalogue.
HAND = Ranks(
    users=np.array([3, 5, 8]),
    n_truth=np.array([2, 1, 2]),
    pair_user=np.array([0, 0, 1, 2, 2]),
    rank=np.array([3, 1, 2, 2, 6]),
    n_items=5,
)
EXPECTED = {
    "recall": [[1 / 2, 1 / 2, 1], [0, 1, 1], [0, 1 / 2, 1 / 2]],
    "ndcg": [[1, 1 / (1 + D2), 1.5 / (1 + D2)], [0, D2, D2], [0, D2 / (1 + D2), D2 / (1 + D2)]],
    "precision": [[1, 1 / 2, 2 / 4], [0, 1 / 2, 1 / 4], [0, 1 / 2, 1 / 4]],
    "map": [[1, 1 / 2, (1 + 2 / 3) / 2], [0, 1 / 2, 1 / 2], [0, 1 / 4, 1 / 4]],
    "mrr": [[1, 1, 1], [0, 1 / 2, 1 / 2], [0, 1 / 2, 1 / 2]],
    "hit": [[1, 1, 1], [0, 1, 1], [0, 1, 1]],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_metrics_by_hand(name):
    frame = per_user_metrics(HAND, MMREC)
    columns = [f"{name}@{k}" for k in MMREC.ks]
    np.testing.assert_allclose(frame[columns].to_numpy(), EXPECTED[name], rtol=0, atol=1e-15)


def test_the_frame_is_indexed_by_user():
    frame = per_user_metrics(HAND, MMREC)
    assert frame.index.name == "user"
    assert frame.index.tolist() == [3, 5, 8]
    assert frame.columns.tolist() == [f"{name}@{k}" for name in EXPECTED for k in (1, 2, 4)]
    assert set(frame.dtypes) == {np.dtype("float64")}
    assert set(EXPECTED) < set(METRICS)


def test_means_are_plain_and_unrounded():
    means = mean_metrics(per_user_metrics(HAND, MMREC))
    assert means["recall@4"] == pytest.approx((1 + 1 + 0.5) / 3, abs=1e-15)
    assert means["recall@1"] == 1 / 6
    assert all(type(value) is float for value in means.values())


def test_a_masked_item_is_no_hit_even_where_the_list_outgrows_the_catalogue():
    assert recall(HAND, 50).tolist() == [1, 1, 0.5]
    assert precision(HAND, 50).tolist() == [2 / 50, 1 / 50, 1 / 50]
    assert average_precision(HAND, 50)[2] == 0.25
    assert ndcg(HAND, 50)[2] == pytest.approx(D2 / (1 + D2))


def test_recall_divides_by_all_ground_truth():
    assert recall(ranks_of([[1, 2, 3, 4]], 10), 2).tolist() == [0.5]


def test_a_perfect_list_gives_one():
    perfect = ranks_of([[1, 2, 3], [1], [4, 2, 1, 3]], 10)
    for k in (1, 2, 3, 10):
        np.testing.assert_allclose(ndcg(perfect, k), 1.0)
        np.testing.assert_allclose(average_precision(perfect, k), 1.0)


def test_ndcg_over_hits_by_hand():
    # Within a list of 6: two of three hits, one of two, none.
    ranks = ranks_of([[2, 5, 60], [3, 80], [70, 90]], 100)
    d3, d5 = 1 / log2(4), 1 / log2(6)
    assert ndcg_over_hits(ranks, 1, 6).tolist() == [0, 0, 0]
    np.testing.assert_allclose(ndcg_over_hits(ranks, 2, 6), [D2 / (1 + D2), 0, 0])
    np.testing.assert_allclose(ndcg_over_hits(ranks, 4, 6), [D2 / (1 + D2), d3, 0])
    np.testing.assert_allclose(ndcg_over_hits(ranks, 6, 6), [(D2 + d5) / (1 + D2), d3, 0])
    # The list's length matters below it too: one hit fewer in the ideal.
    np.testing.assert_allclose(ndcg_over_hits(ranks, 4, 4), [D2, d3, 0])


def test_the_protocol_chooses_the_ideal():
    lattice = replace(evaluation_protocol("lattice_mmssl", ks=(1, 2, 4)), idcg_list_length=4)
    over_hits, standard = per_user_metrics(HAND, lattice), per_user_metrics(HAND, MMREC)
    assert over_hits["ndcg@4"].tolist() == pytest.approx([1.5 / (1 + D2), D2, D2])
    others = [column for column in standard if not column.startswith("ndcg")]
    assert over_hits[others].equals(standard[others])
    assert (over_hits >= standard - 1e-15).all(axis=None)


def test_directions_are_stated():
    assert all(METRICS[name].higher_is_better for name in EXPECTED)
    assert METRICS["popularity"].higher_is_better is None
    assert {name: metric.name for name, metric in METRICS.items()} == {name: name for name in METRICS}


KS = (1, 3, 10, 20, 50)


@pytest.fixture(scope="module")
def random_ranking():
    """Score 80 users and 120 items without ties: evaluator, scorer, score matrix, train, target."""
    random = np.random.default_rng(7)
    role = random.choice(3, size=(80, 120), p=[0.75, 0.15, 0.1])
    train, target = (csr_array((role == part).astype(np.float32)) for part in (1, 2))
    scores = np.argsort(random.random(role.shape), axis=1).astype(np.float32)
    everything = torch.from_numpy(scores)
    protocol = evaluation_protocol("recbole", ks=KS)
    evaluator = RankingEvaluator(train, target, exclude=None, protocol=protocol, device=torch.device("cpu"))
    frame = per_user_metrics(evaluator.ranks(lambda users: everything[users]), protocol)
    lists = evaluator.top_k(lambda users: everything[users], max(KS)).numpy()
    return evaluator.users, lists, frame, scores, train.toarray() > 0, target.toarray() > 0


def test_agreement_with_ir_measures(random_ranking):
    ir_measures = pytest.importorskip("ir_measures")
    users, _, frame, scores, train, target = random_ranking
    truth = {str(u): {str(i): 1 for i in np.flatnonzero(target[u])} for u in users}
    run = {str(u): {str(i): float(scores[u, i]) for i in np.flatnonzero(~train[u])} for u in users}
    names = {"recall": "R", "ndcg": "nDCG", "precision": "P", "map": "AP", "mrr": "RR", "hit": "Success"}
    measures = {ir_measures.parse_measure(f"{theirs}@{k}"): (ours, k) for ours, theirs in names.items() for k in KS}
    seen = 0
    for value in ir_measures.iter_calc(list(measures), truth, run):
        name, k = measures[value.measure]
        user = int(value.query_id)
        n_truth = target[user].sum()
        # trec_eval divides average precision by |T|, this project by min(K, |T|).
        scale = n_truth / min(k, n_truth) if name == "map" else 1.0
        assert frame.loc[user, f"{name}@{k}"] == pytest.approx(value.value * scale, abs=1e-9), (name, k)
        seen += 1
    assert seen == len(users) * len(KS) * len(names)


def test_agreement_with_recbole(random_ranking, monkeypatch):
    theirs = pytest.importorskip("recbole.evaluator.metrics")
    # RecBole 1.2.1 names an alias that NumPy has removed.
    monkeypatch.setattr(np, "float", float, raising=False)
    users, lists, frame, _, _, target = random_ranking
    hits = target[users[:, None], lists]
    n_truth = target[users].sum(axis=1)
    with_lengths = {"recall": theirs.Recall, "ndcg": theirs.NDCG, "map": theirs.MAP}
    without = {"precision": theirs.Precision, "mrr": theirs.MRR, "hit": theirs.Hit}
    for names, arguments in ((with_lengths, (hits, n_truth)), (without, (hits,))):
        for name, metric in names.items():
            table = metric.__new__(metric).metric_info(*arguments)
            for k in KS:
                np.testing.assert_allclose(frame[f"{name}@{k}"], table[:, k - 1], atol=1e-12, err_msg=f"{name}@{k}")
