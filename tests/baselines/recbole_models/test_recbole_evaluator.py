"""RecBole's own evaluator, from its collector to its metrics, agrees with ours on the same scores."""

import numpy as np
import pytest
import torch
from recbole.evaluator import Collector, Evaluator
from recbole.model.general_recommender import BPR
from scipy.sparse import csr_array

from baselines.recbole.compatibility import surroundings
from baselines.recbole.construction import QuietConfig
from bench.evaluation import RankingEvaluator, evaluation_protocol, mean_metrics, per_user_metrics

KS = (1, 5, 10, 20)
METRICS = {"recall": "Recall", "ndcg": "NDCG", "precision": "Precision", "mrr": "MRR", "map": "MAP", "hit": "Hit"}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def splits():
    """150 users and 90 items: train, valid, test and scores without ties."""
    rng = np.random.default_rng(23)
    role = rng.choice(4, size=(150, 90), p=[0.72, 0.12, 0.06, 0.1])
    matrices = [csr_array((role == part).astype(np.float32)) for part in (1, 2, 3)]
    everything = np.argsort(rng.random(role.shape), axis=1).astype(np.float32)
    return *matrices, torch.from_numpy(everything)


def theirs(scores, masked, target, monkeypatch):
    """What RecBole's evaluator says: items from 1, column 0 and masked items at minus infinity."""
    monkeypatch.setattr(np, "float", float, raising=False)
    settings = {"metrics": list(METRICS.values()), "topk": list(KS), "metric_decimal_place": 12}
    with surroundings():
        config = QuietConfig(BPR, settings | {"valid_metric": "Recall@20"})
        collector, evaluator = Collector(config), Evaluator(config)
    for users in np.array_split(np.flatnonzero(np.diff(target.indptr)), 7):
        block = torch.full((len(users), scores.shape[1] + 1), -torch.inf)
        block[:, 1:] = scores[users].masked_fill(torch.from_numpy(masked[users].toarray() > 0), -torch.inf)
        row, item = target[users].tocoo().coords
        collector.eval_batch_collect(block, None, torch.from_numpy(row.astype(np.int64)), torch.from_numpy(item + 1))
    return evaluator.evaluate(collector.get_data_struct())


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_evaluators_agree(splits, split, monkeypatch):
    train, valid, test, scores = splits
    target, exclude = (valid, None) if split == "valid" else (test, valid)
    protocol = evaluation_protocol("recbole", ks=KS)
    evaluator = RankingEvaluator(train, target, exclude=exclude, protocol=protocol, device=CPU)
    ours = mean_metrics(per_user_metrics(evaluator.ranks(lambda users: scores[users]), protocol))
    masked = train if exclude is None else csr_array(train + exclude)
    found = theirs(scores, masked, target, monkeypatch)
    assert len(found) == len(METRICS) * len(KS)
    for name, value in found.items():
        assert ours[name] == pytest.approx(value, abs=1e-6), name
