"""How a model is trained: the contract it keeps, its batches, the fit loop, the clock and the checkpoint."""

from bench.training.allocator import keep_large_buffers
from bench.training.batches import Batches, make_batches
from bench.training.checkpoint import load_checkpoint, save_checkpoint
from bench.training.fit import Epoch, FitResult, TrainingProtocol, fit, train_epoch
from bench.training.meter import memory_gauge, stopwatch, synchronize
from bench.training.protocol import PairBatch, Recommender, UserBatch, begin_scoring, check_recommender, optimizers_of
from bench.training.streams import borrowed, derive, generator

__all__ = [
    "Batches",
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
    "make_batches",
    "memory_gauge",
    "optimizers_of",
    "save_checkpoint",
    "stopwatch",
    "synchronize",
    "train_epoch",
]
