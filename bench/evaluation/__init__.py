"""How good a ranking is: all items ranked for each user, ranks made metrics, and the switches that matter."""

from bench.evaluation.beyond_accuracy import beyond_accuracy, coverage, mean_popularity
from bench.evaluation.metrics import METRICS, Metric, mean_metrics, per_user_metrics
from bench.evaluation.protocol import PROTOCOLS, EvaluationProtocol, evaluation_protocol
from bench.evaluation.ranking import RankingEvaluator, Ranks, Score

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "EvaluationProtocol",
    "Metric",
    "RankingEvaluator",
    "Ranks",
    "Score",
    "beyond_accuracy",
    "coverage",
    "evaluation_protocol",
    "mean_metrics",
    "mean_popularity",
    "per_user_metrics",
]
