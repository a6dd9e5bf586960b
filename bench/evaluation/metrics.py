"""Accuracy metrics of each user, from the ranks of their ground-truth items.

For a user with ground truth T, ranks r(i) of its items, and a cut-off K, the hits are the items with r(i) <=
K.

All metrics share three rules. A user without ground truth is not in the ranks, so enters no average. Items of
equal score were ranked by lower id first when the ranks were made. A masked ground-truth item is never a hit
but counts in |T|.

Each function takes `Ranks` and returns float64 [n_eval] in the order of `ranks.users`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.evaluation.protocol import EvaluationProtocol
from bench.evaluation.ranking import Ranks

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        name: as in column names, before the @.
        label: as in tables and figures.
        higher_is_better: None for a quantity that describes lists without being good or bad.
    """

    name: str
    label: str
    higher_is_better: bool | None


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("recall", "Recall", True),
        Metric("ndcg", "NDCG", True),
        Metric("precision", "Precision", True),
        Metric("map", "MAP", True),
        Metric("mrr", "MRR", True),
        Metric("hit", "HitRate", True),
        Metric("coverage", "Coverage", True),
        Metric("popularity", "Popularity", None),
    )
}


def _sum_per_user(ranks: Ranks, values: NDArray[np.float64] | NDArray[np.bool_]) -> Values:
    sums: Values = np.bincount(ranks.pair_user, weights=values, minlength=len(ranks.users)).astype(np.float64)
    return sums


def recall(ranks: Ranks, k: int) -> Values:
    """Return Recall@K = hits / |T|.

    The denominator is all of the user's ground truth, not min(K, |T|): with |T| > K it cannot reach 1. Users
    without ground truth are not averaged over; ties rank by lower id first.
    """
    return _sum_per_user(ranks, ranks.hits(k)) / ranks.n_truth


def precision(ranks: Ranks, k: int) -> Values:
    """Return Precision@K = hits / K.

    The denominator is K even where fewer than K candidates exist. Users without ground truth are not averaged
    over; ties rank by lower id first.
    """
    return _sum_per_user(ranks, ranks.hits(k)) / k


def hit(ranks: Ranks, k: int) -> Values:
    """Return HitRate@K = 1 if there is a hit, else 0.

    No denominator. Users without ground truth are not averaged over; ties rank by lower id first.
    """
    return (_sum_per_user(ranks, ranks.hits(k)) > 0).astype(np.float64)


def mrr(ranks: Ranks, k: int) -> Values:
    """Return the reciprocal rank of the first hit within K, 0 without one; its mean over users is MRR@K.

    Users without ground truth are not averaged over; ties rank by lower id first.
    """
    first = ranks.hits(k) & (ranks.order == 1)
    return _sum_per_user(ranks, first / ranks.rank)


def average_precision(ranks: Ranks, k: int) -> Values:
    """Return AP@K = (sum over hits i of hits up to r(i) / r(i)) / min(K, |T|); its mean over users is MAP@K.

    The denominator min(K, |T|) is that of MMRec and RecBole, under which a perfect list gives 1 at every K.
    TREC's tools divide by |T|. Users without ground truth are not averaged over; ties rank by lower id first.
    """
    precision_at_hit = np.where(ranks.hits(k), ranks.order / ranks.rank, 0.0)
    return _sum_per_user(ranks, precision_at_hit) / np.minimum(k, ranks.n_truth)


def ndcg(ranks: Ranks, k: int) -> Values:
    """Return NDCG@K with binary gain: the sum over hits of 1 / log2(r(i) + 1), over its ideal.

    The ideal, IDCG@K, has min(K, |T|) hits at the top (Jarvelin and Kekalainen, 2002). Users without ground
    truth are not averaged over; ties rank by lower id first.
    """
    return _dcg(ranks, k) / _ideal_dcg(np.minimum(k, ranks.n_truth))


def ndcg_over_hits(ranks: Ranks, k: int, list_length: int) -> Values:
    """Return NDCG@K as LATTICE and MMSSL compute it, with the ideal made from the user's own hits.

    The ideal has min(K, c) hits at the top, c being the hits within `list_length`. So this measures how well
    the found items are ordered and is never below `ndcg`; with |T| = 1 the two agree. Without a hit it is 0.
    Users without ground truth are not averaged over; ties rank by lower id first.
    """
    found = _sum_per_user(ranks, ranks.hits(list_length)).astype(np.int64)
    # A user without a hit has a DCG of 0; any ideal above 0 keeps it there.
    return _dcg(ranks, k) / _ideal_dcg(np.maximum(np.minimum(k, found), 1))


def _dcg(ranks: Ranks, k: int) -> Values:
    return _sum_per_user(ranks, np.where(ranks.hits(k), 1.0 / np.log2(ranks.rank + 1.0), 0.0))


def _ideal_dcg(n_hits: NDArray[np.int64]) -> Values:
    """Return the DCG of lists that start with `n_hits` hits."""
    gains = 1.0 / np.log2(np.arange(1, n_hits.max() + 1) + 1.0)
    ideal: Values = np.cumsum(gains)[n_hits - 1]
    return ideal


def per_user_metrics(ranks: Ranks, protocol: EvaluationProtocol) -> pd.DataFrame:
    """Compute every accuracy metric at every cut-off of the protocol.

    Returns:
        One row per evaluated user (index "user") and one float64 column per metric and cut-off, like
        `recall@10`.
    """
    normalized: Callable[[Ranks, int], Values] = ndcg
    if protocol.idcg_list_length is not None:
        normalized = partial(ndcg_over_hits, list_length=protocol.idcg_list_length)
    functions: dict[str, Callable[[Ranks, int], Values]] = {
        "recall": recall,
        "ndcg": normalized,
        "precision": precision,
        "map": average_precision,
        "mrr": mrr,
        "hit": hit,
    }
    columns = {f"{name}@{k}": function(ranks, k) for name, function in functions.items() for k in protocol.ks}
    return pd.DataFrame(columns, index=pd.Index(ranks.users, name="user"))


def mean_metrics(frame: pd.DataFrame) -> dict[str, float]:
    """Return the plain mean over users of each column of `per_user_metrics`, unrounded."""
    return {str(column): float(value) for column, value in frame.mean().items()}
