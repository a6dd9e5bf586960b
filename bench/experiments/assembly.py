"""Put the parts of a cell together: its protocols, its evaluators, its model, and the model as a scorer."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.data import PreparedDataset
from bench.evaluation import EvaluationProtocol, RankingEvaluator
from bench.experiments.plan import Cell
from bench.models import load_class
from bench.training import TrainingProtocol, begin_scoring, borrowed


def protocols(cell: Cell) -> tuple[EvaluationProtocol, TrainingProtocol]:
    """Return the cell's evaluation and training protocols from their plain values."""
    evaluation = dict(cell.protocol["evaluation"])
    evaluation["ks"] = tuple(evaluation["ks"])
    return EvaluationProtocol(**evaluation), TrainingProtocol(**cell.protocol["training"])


@dataclass(frozen=True)
class Splits:
    """A dataset's evaluators on the training device."""

    valid: RankingEvaluator
    test: RankingEvaluator


def evaluators(dataset: PreparedDataset, protocol: EvaluationProtocol, device: torch.device) -> Splits:
    """Lay both evaluators of a dataset on the training device."""
    train, valid, test = (dataset.matrix(part) for part in ("train", "valid", "test"))
    exclude = valid if protocol.masks_validation else None
    return Splits(
        valid=RankingEvaluator(train, valid, exclude=None, protocol=protocol, device=device),
        test=RankingEvaluator(train, test, exclude=exclude, protocol=protocol, device=device),
    )


def build_model(cell: Cell, dataset: PreparedDataset, device: torch.device) -> nn.Module:
    """Construct the cell's model on the host, from its own stream of randomness, and move it to `device`.

    Weights are drawn on the host on purpose: the same seed starts from the same weights on every device.
    """
    cls = load_class(cell.configuration.spec)
    features = {name: torch.from_numpy(matrix[:].copy()) for name, matrix in dataset.features.items()}
    with borrowed(cell.seed, "init", torch.device("cpu")):
        model: nn.Module = cls(dataset.matrix("train"), features, **cell.configuration.hyperparameters)
    return model.to(device)


@contextmanager
def scoring(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Put the model into scoring and lend its `score`: no gradients, no dropout, hooks called once."""
    model.eval()
    with torch.no_grad():
        begin_scoring(model)
        yield model.score  # type: ignore[misc]
