"""Any of RecBole's general recommenders as a model of this program.

Reference: Zhao et al., "RecBole: Towards a Unified, Comprehensive and Efficient Framework for Recommendation
Algorithms", CIKM 2021, version 1.2.1. The papers of the models are named in RecBole's own modules.

RecBole gives the class, its loss, its scores and the defaults of its hyper-parameters. Batches, stopping, evaluation
and clock are this program's; RecBole's trainer, evaluator and checkpoints are not used.

Readings taken:

- An epoch is one pass over the training interactions with fresh negatives, or over all users who have any.
- `train_batch_size` counts rows of RecBole's batches, in which an interaction takes as many as it has negatives, and
  one more where points are labelled one by one: NeuMF's 2048 are 1024 interactions.
- Losses that come in parts are added up, as RecBole's trainer does.
- What a model keeps between scorings (propagated embeddings) is dropped before every pass: RecBole drops it in the
  next training step, which is too late once the best epoch's weights have been put back.
- Draws during scoring start from the same seed for the same user, so that a pass can be repeated.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from baselines.recbole import layouts
from baselines.recbole.catalogue import Batches, Entry
from baselines.recbole.compatibility import surroundings
from baselines.recbole.defaults import NEGATIVES, rows_per_positive
from baselines.recbole.randomness import HostRandomness, torch_seeded

# User-item pairs scored at once by models that know no other way; RecBole's own eval_batch_size.
PAIRS_AT_ONCE = 4096
# Scores at once of models that hold an embedding for each of them.
SCORES_AT_ONCE = 2**18
KEPT_BETWEEN_SCORINGS = ("restore_user_e", "restore_item_e", "i_embedding")
# RecBole's trainer asks even a closed form for a parameter.
PLACEHOLDERS = ("fake_loss", "dummy_param")
BATCHING: Mapping[Batches, str] = {"triples": "pairs", "points": "pairs", "users": "users", "none": "none"}
LEARNERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
}


class RecBoleModel(nn.Module):
    """Train and score by a model of RecBole's; one subclass for each, made by `baselines.recbole`.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: ignored.
        hyperparameters: all that RecBole's defaults name, by their names there.
    """

    batching: ClassVar[str]
    entry: ClassVar[Entry]

    def __init__(self, interactions: csr_array, features: Mapping[str, Tensor], **hyperparameters: Any) -> None:
        super().__init__()
        self.n_users, self.n_items = interactions.shape
        self.sample_num: int = hyperparameters.get(NEGATIVES, 1)
        if self.entry.batches != "none":
            rows = rows_per_positive(self.entry.batches, self.sample_num)
            self.batch_size = max(hyperparameters["train_batch_size"] // rows, 1)
            self.learning_rate, self.weight_decay, self.learner = (
                hyperparameters[name] for name in ("learning_rate", "weight_decay", "learner")
            )
        self.negatives = layouts.Negatives(interactions) if self.entry.batches in ("triples", "points") else None
        self.seed = int(torch.randint(2**31 - 1, ()))
        self.host = HostRandomness(self.seed)
        with surroundings(), self.host.lent(), torch_seeded(self.seed):
            from baselines.recbole.construction import batch_of, construct

            self.batch_of = batch_of
            self.model = construct(self.entry.name, interactions, self._settings(hyperparameters))
        for name in PLACEHOLDERS:
            if hasattr(self.model, name):
                delattr(self.model, name)
        for name in self.entry.drawn:
            value = getattr(self.model, name)
            delattr(self.model, name)
            self.model.register_buffer(name, value)
        self.register_state_dict_post_hook(_unshare)  # type: ignore[no-untyped-call]

    def _settings(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the hyper-parameters as RecBole's `Config` takes them, with its seed and its negatives."""
        settings = {name: list(v) if isinstance(v, tuple) else v for name, v in hyperparameters.items()}
        sample_num = settings.pop(NEGATIVES, None)
        negatives = None if sample_num is None else {"distribution": "uniform", NEGATIVES: sample_num}
        return settings | {"seed": self.seed, "train_neg_sample_args": negatives}

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the one optimizer of RecBole's trainer."""
        return [self._optimizer(self.model)]

    def _optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        settings = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        return LEARNERS[self.learner](module.parameters(), **settings)

    def train(self, mode: bool = True) -> "RecBoleModel":
        """Turn training on or off; SGL draws its two graphs anew each time it is turned on."""
        with self.host.lent():
            super().train(mode)
        return self

    def loss(self, batch: Any) -> Tensor:
        """Return the model's own loss of the batch, all its parts added up, a scalar."""
        return self._sum(self._losses(batch))

    def _losses(self, batch: Any, **arguments: Any) -> tuple[Tensor, ...]:
        with surroundings(), self.host.lent() if self.entry.draws_on_host else nullcontext():
            losses = self.model.calculate_loss(self.batch_of(self._lay_out(batch)), **arguments)  # type: ignore[operator]
        return losses if isinstance(losses, tuple) else (losses,)

    @staticmethod
    def _sum(losses: tuple[Tensor, ...]) -> Tensor:
        # Some losses are vectors of one entry.
        return torch.stack([loss.squeeze() for loss in losses]).sum()

    def _lay_out(self, batch: Any) -> Mapping[str, Tensor]:
        if self.negatives is None:
            return layouts.users_only(batch.users)
        lay_out = layouts.triples if self.entry.batches == "triples" else layouts.points
        return lay_out(batch, self.sample_num, self.negatives)

    def begin_scoring(self) -> None:
        """Drop what the model kept from an earlier scoring."""
        for name in KEPT_BETWEEN_SCORINGS:
            if hasattr(self.model, name):
                setattr(self.model, name, None)

    def score(self, users: Tensor) -> Tensor:
        """Return the model's scores of all items, [len(users), n_items]."""
        if self.entry.scoring == "pairs":
            return self._score_pairs(users)
        size = {"few rows": max(SCORES_AT_ONCE // self.n_items, 1), "one row": 1}.get(self.entry.scoring, len(users))
        return torch.cat([self._score_rows(few) for few in torch.split(users, size)])

    def _score_rows(self, users: Tensor) -> Tensor:
        batch = self.batch_of(layouts.users_only(users))
        with surroundings(), torch_seeded(self.seed + int(users[0])):
            scores: Tensor = self.model.full_sort_predict(batch)  # type: ignore[operator]
        # The first column is the padding.
        return scores.view(len(users), self.n_items + 1)[:, 1:].to(users.device, torch.float32)

    def _score_pairs(self, users: Tensor) -> Tensor:
        blocks = []
        for items in torch.split(torch.arange(self.n_items, device=users.device), max(PAIRS_AT_ONCE // len(users), 1)):
            batch = self.batch_of(layouts.user_item_pairs(users, items))
            with surroundings():
                scores: Tensor = self.model.predict(batch)  # type: ignore[operator]
            blocks.append(scores.view(len(users), len(items)))
        return torch.cat(blocks, dim=1)

    def _apply(self, fn: Any, recurse: bool = True) -> "RecBoleModel":
        """Move what PyTorch does not know of too: RecBole keeps graphs and histories as plain attributes."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        device = fn(torch.empty(0)).device
        for module in self.model.modules():
            for name, value in vars(module).items():
                if isinstance(value, Tensor):
                    setattr(module, name, fn(value))
                elif isinstance(value, list | tuple) and value and all(isinstance(each, Tensor) for each in value):
                    setattr(module, name, type(value)([fn(each) for each in value]))
                elif isinstance(value, torch.device):
                    setattr(module, name, device)
        return self


def _unshare(module: nn.Module, weights: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Give weights that a model knows by two names, as GCMC does, a tensor of their own for each: files need that."""
    seen = set()
    for name, weight in weights.items():
        if weight.data_ptr() in seen and weight.numel():
            weights[name] = weight.clone()
        seen.add(weight.data_ptr())
