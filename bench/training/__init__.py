"""How a model is trained: the contract it keeps, its batches, the fit loop, the clock and the checkpoint."""

from bench.training.allocator import keep_large_buffers
from bench.training.checkpoint import load_checkpoint, save_checkpoint
from bench.training.fit import Epoch, FitResult, TrainingProtocol, fit
from bench.training.meter import memory_gauge, stopwatch, synchronize
from bench.training.protocol import PairBatch, Recommender, UserBatch, begin_scoring, check_recommender
from bench.training.streams import borrowed, derive, generator

__all__ = [
    "Epoch",
    "FitResult",
    "PairBatch",
    "Recommender",
    "TrainingProtocol",
    "UserBatch",
    "begin_scoring",
    "borrowed",
    "check_recommender",
    "derive",
    "fit",
    "generator",
    "keep_large_buffers",
    "load_checkpoint",
    "memory_gauge",
    "save_checkpoint",
    "stopwatch",
    "synchronize",
]
