from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from bench.errors import DataError, TrainingError
from bench.evaluation import RankingEvaluator, evaluation_protocol, ranking

CPU = torch.device("cpu")
MMREC, RECBOLE = evaluation_protocol("mmrec"), evaluation_protocol("recbole")


def matrix(rows, n_items):
    """Build a binary matrix from one collection of items per user."""
    dense = np.zeros((len(rows), n_items), dtype=np.float32)
    for user, items in enumerate(rows):
        dense[user, list(items)] = 1.0
    return csr_array(dense)


def scorer(scores):
    scores = torch.as_tensor(scores)
    return lambda users: scores[users]


def evaluator(train, target, *, exclude=None, protocol=MMREC, **options):
    return RankingEvaluator(train, target, exclude=exclude, protocol=protocol, device=CPU, **options)


def candidates(scores, masked):
    """Rank one user's items by the definition: higher score first, then lower id."""
    return sorted((item for item in range(len(scores)) if item not in masked), key=lambda i: (-scores[i], i))


def random_case(n_users=40, n_items=30, seed=0):
    random = np.random.default_rng(seed)
    role = random.choice(4, size=(n_users, n_items), p=[0.6, 0.2, 0.1, 0.1])
    train, valid, test = (csr_array((role == part).astype(np.float32)) for part in (1, 2, 3))
    return train, valid, test, random


def test_ranks_by_hand():
    train = matrix([{0}, {4}, {1}, {2}], 5)
    target = matrix([{1, 3}, {2}, {0, 1}, set()], 5)
    scores = [[9.0, 5, 4, 3, 1], [1, 2, 3, 4, 9], [3, 9, 5, 3, 2], [0, 0, 0, 0, 0]]
    ranks = evaluator(train, target).ranks(scorer(scores))
    assert ranks.users.tolist() == [0, 1, 2]
    assert ranks.n_truth.tolist() == [2, 1, 2]
    assert ranks.pair_user.tolist() == [0, 0, 1, 2, 2]
    # User 2's item 1 is a training item: out of reach, one past the catalogue.
    assert ranks.rank.tolist() == [1, 3, 2, 2, 6]
    assert ranks.n_items == 5


def test_top_k_by_hand():
    train = matrix([{0}, {1, 2, 3}], 5)
    target = matrix([{1}, {0}], 5)
    scores = [[9.0, 5, 4, 5, 1], [1, 1, 1, 1, 1]]
    lists = evaluator(train, target).top_k(scorer(scores), 3)
    assert lists.dtype == torch.int64
    assert lists.tolist() == [[1, 3, 2], [0, 4, -1]]


def test_lists_longer_than_the_catalogue_are_padded():
    lists = evaluator(matrix([{0}], 3), matrix([{1}], 3)).top_k(scorer([[3.0, 2, 1]]), 6)
    assert lists.tolist() == [[1, 2, -1, -1, -1, -1]]


@st.composite
def cases(draw):
    n_users, n_items = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    values = st.sampled_from([-float("inf"), -2.5, -1.0, -0.0, 0.0, 1e-40, 1.0, 3.0])
    scores = draw(st.lists(st.lists(values, min_size=n_items, max_size=n_items), min_size=n_users, max_size=n_users))
    sets = st.lists(st.sets(st.integers(0, n_items - 1)), min_size=n_users, max_size=n_users)
    train, valid, target = draw(sets), draw(sets), draw(sets)
    target[0].add(0)
    return n_items, scores, train, valid, target


@given(cases(), st.integers(1, 7), st.integers(1, 12))
def test_ranks_and_lists_follow_the_definition_under_many_ties(case, block_size, k):
    n_items, scores, train, valid, target = case
    subject = evaluator(
        matrix(train, n_items),
        matrix(target, n_items),
        exclude=matrix(valid, n_items),
        protocol=RECBOLE,
        block_size=block_size,
    )
    ranks = subject.ranks(scorer(scores))
    lists = subject.top_k(scorer(scores), k).tolist()
    expected_ranks, expected_lists = [], []
    for user, truth in enumerate(target):
        if not truth:
            continue
        order = candidates(scores[user], train[user] | valid[user])
        expected_ranks += [order.index(i) + 1 if i in order else n_items + 1 for i in sorted(truth)]
        expected_lists.append((order + [-1] * k)[:k])
    assert ranks.rank.tolist() == expected_ranks
    assert lists == expected_lists


@pytest.mark.parametrize("n_levels", [3, 10**6])
def test_blocks_and_chunks_do_not_change_the_result(monkeypatch, n_levels):
    train, _, test, random = random_case()
    score = scorer(random.integers(0, n_levels, train.shape).astype(np.float32))
    whole = evaluator(train, test)
    reference, lists = whole.ranks(score).rank, whole.top_k(score, 20)
    for block_size, rows in [(1, 1), (7, 3), (39, 2), (1000, 5)]:
        monkeypatch.setitem(ranking.CHUNK_BYTES, "cpu", 4 * train.shape[1] * rows)
        parts = evaluator(train, test, block_size=block_size)
        np.testing.assert_array_equal(parts.ranks(score).rank, reference)
        assert torch.equal(parts.top_k(score, 20), lists)


def test_one_truth_each_ranks_the_same_across_chunks(monkeypatch):
    train, _, _, random = random_case(50)
    target = matrix([{int(i)} for i in random.integers(0, 30, 50)], 30)
    scores = random.integers(0, 5, train.shape).astype(np.float32)
    monkeypatch.setitem(ranking.CHUNK_BYTES, "cpu", 4 * 30 * 3)
    subject = evaluator(train, target, protocol=RECBOLE, block_size=20)
    expected = []
    for user in range(50):
        order = candidates(scores[user], set(train[[user]].indices))
        item = int(target[[user]].indices[0])
        expected.append(order.index(item) + 1 if item in order else 31)
    assert subject.ranks(scorer(scores)).rank.tolist() == expected


def test_default_blocks_hold_about_64_mib_of_scores():
    n_items = 2**20
    train = csr_array((np.ones(40), (np.arange(40), np.arange(40))), shape=(40, n_items))
    target = csr_array((np.ones(40), (np.arange(40), np.arange(1, 41))), shape=(40, n_items))
    asked = []

    def score(users):
        asked.append(len(users))
        return torch.zeros(1, 1).expand(len(users), n_items)

    evaluator(train, target).ranks(score)
    assert asked == [16, 16, 8]


def test_masked_items_are_never_recommended():
    train, valid, test, random = random_case()
    scores = random.random(train.shape) + 10 * train.toarray() + 5 * valid.toarray()
    dense = train.toarray()
    under_train = evaluator(train, test)
    lists = under_train.top_k(scorer(scores), 10).numpy()
    assert not dense[under_train.users[:, None], lists].any()
    # Validation items carry the next-highest scores and are candidates here.
    assert valid.toarray()[under_train.users[:, None], lists].any()
    under_both = evaluator(train, test, exclude=valid, protocol=RECBOLE)
    lists = under_both.top_k(scorer(scores), 10).numpy()
    assert not (dense + valid.toarray())[under_both.users[:, None], lists].any()


def test_masking_validation_moves_ranks_up_by_the_validation_items_ahead():
    train, valid, target = matrix([{0}], 5), matrix([{1, 4}], 5), matrix([{3}], 5)
    score = scorer([[9.0, 8, 7, 6, 5]])
    assert evaluator(train, target).ranks(score).rank.tolist() == [3]
    assert evaluator(train, target, protocol=RECBOLE).ranks(score).rank.tolist() == [3]
    both = evaluator(train, target, exclude=valid, protocol=RECBOLE)
    assert both.ranks(score).rank.tolist() == [2]


def test_cold_users_are_dropped_or_kept():
    train, target = matrix([{0}, set(), {1}], 3), matrix([{1}, {0}, set()], 3)
    assert evaluator(train, target).users.tolist() == [0]
    assert evaluator(train, target, protocol=RECBOLE).users.tolist() == [0, 1]


def test_stored_zeros_and_unsorted_rows_are_read_as_a_set():
    stored = csr_array((np.array([1.0, 0.0, 1.0]), np.array([3, 2, 1]), np.array([0, 3])), shape=(1, 4))
    ranks = evaluator(matrix([{0}], 4), stored).ranks(scorer([[4.0, 3, 2, 1]]))
    assert ranks.rank.tolist() == [1, 3]
    assert stored.nnz == 3


@pytest.mark.parametrize(("bad", "n_bad"), [(float("nan"), 2), (float("inf"), 1), (1e300, 1)])
def test_scores_that_are_no_numbers_name_the_user(bad, n_bad):
    train, target = matrix([{0}, {0}, {1}, {0}], 4), matrix([set(), {1}, {2}, {3}], 4)
    scores = np.ones((4, 4))
    scores[2, :n_bad] = bad
    subject = evaluator(train, target)
    message = rf"{n_bad} of the 4 scores of user 2 are NaN or \+inf; 1 of the 3 users"
    with pytest.raises(TrainingError, match=message):
        subject.ranks(scorer(scores))
    with pytest.raises(TrainingError, match=message):
        subject.top_k(scorer(scores), 2)


def test_scores_of_another_shape_are_refused():
    subject = evaluator(matrix([{0}], 4), matrix([{1}], 4))
    with pytest.raises(TrainingError, match=r"here \[1, 4\], and returned \[1, 3\]"):
        subject.ranks(lambda users: torch.zeros(len(users), 3))


def test_a_models_own_tensors_stay_as_they_are():
    train, _, test, random = random_case()
    subject = evaluator(train, test)
    shape = len(subject.users), subject.n_items
    everything = torch.from_numpy(random.random(shape).astype(np.float32)).requires_grad_()
    popularity = everything.detach()[0].clone()
    before = everything.detach().clone(), popularity.clone()
    for score in (lambda users: everything, lambda users: popularity.expand(len(users), -1)):
        subject.ranks(score)
        subject.top_k(score, 5)
    assert torch.equal(everything, before[0])
    assert torch.equal(popularity, before[1])


def test_scoring_records_no_gradients():
    recorded = []

    def score(users):
        recorded.append(torch.is_grad_enabled())
        return torch.ones(len(users), 3, requires_grad=True)

    subject = evaluator(matrix([{0}], 3), matrix([{2}], 3))
    subject.ranks(score)
    subject.top_k(score, 2)
    assert recorded == [False, False]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_float_types_and_layouts_rank_alike(dtype):
    train, _, test, random = random_case()
    scores = torch.from_numpy(random.integers(-60, 60, train.shape)).float()
    subject = evaluator(train, test)
    expected = subject.ranks(scorer(scores)).rank
    np.testing.assert_array_equal(subject.ranks(scorer(scores.to(dtype))).rank, expected)
    transposed = scores.to(dtype).T.contiguous()
    np.testing.assert_array_equal(subject.ranks(lambda users: transposed.T[users]).rank, expected)


def test_order_counts_a_users_pairs_by_rank():
    train, _, test, random = random_case()
    ranks = evaluator(train, test).ranks(scorer(random.random(train.shape)))
    for position in range(len(ranks.users)):
        mine = ranks.pair_user == position
        by_order = ranks.rank[mine][np.argsort(ranks.order[mine])]
        assert all(a < b for a, b in pairwise(by_order))
        assert sorted(ranks.order[mine]) == list(range(1, int(ranks.n_truth[position]) + 1))


def test_nobody_to_evaluate_is_an_error_with_counts():
    with pytest.raises(DataError, match="of 2 users, 1 have a ground-truth item and 1 a training item"):
        evaluator(matrix([{0}, set()], 3), matrix([set(), {1}], 3))


def test_contradicting_inputs_are_refused():
    small, large = matrix([{0}], 3), matrix([{1}], 4)
    with pytest.raises(ValueError, match="one shape"):
        evaluator(small, large)
    with pytest.raises(ValueError, match="'mmrec' masks training items only"):
        evaluator(small, small, exclude=small)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_gpu_agree():
    train, valid, test, random = random_case(300, 200)
    scores = torch.from_numpy(random.integers(0, 40, train.shape).astype(np.float32))
    on_cpu = evaluator(train, test, exclude=valid, protocol=RECBOLE)
    gpu = torch.device("cuda")
    on_gpu = RankingEvaluator(train, test, exclude=valid, protocol=RECBOLE, device=gpu, block_size=70)
    there = scores.to(gpu)
    np.testing.assert_array_equal(on_gpu.ranks(lambda users: there[users]).rank, on_cpu.ranks(scorer(scores)).rank)
    assert torch.equal(on_gpu.top_k(lambda users: there[users], 50).cpu(), on_cpu.top_k(scorer(scores), 50))
