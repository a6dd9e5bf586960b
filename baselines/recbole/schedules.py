"""Models whose trainer does more than a step a batch, one whose fit is a count, and two that not all data suit."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from baselines.recbole.layouts import ITEM
from baselines.recbole.model import RecBoleModel


class UserBatch:
    """Whole users, int64 [B], as the models' own passes take them."""

    def __init__(self, users: Tensor) -> None:
        self.users = users


class PopModel(RecBoleModel):
    """Pop, its counts taken from the training matrix.

    RecBole's trainer shows it shuffled batches, of which it counts each item once a batch, negatives among them. It is
    shown one user at a time here, which counts every training interaction once.
    """

    def __init__(self, interactions: csr_array, features: Mapping[str, Tensor], **hyperparameters: Any) -> None:
        super().__init__(interactions, features, **hyperparameters)
        items = torch.from_numpy(interactions.indices.astype(np.int64))
        for of_user in torch.split(items, np.diff(interactions.indptr).tolist()):
            self.model.calculate_loss(self.batch_of({ITEM: of_user + 1}))  # type: ignore[operator]


class DGCFModel(RecBoleModel):
    """DGCF, which decorrelates a sample of users and one of items, both as large as the larger side over the batches.

    Raises:
        ValueError: so few batches make an epoch that the sample exceeds the smaller side.
    """

    def __init__(self, interactions: csr_array, features: Mapping[str, Tensor], **hyperparameters: Any) -> None:
        fewer, more = sorted(n + 1 for n in interactions.shape)
        n_batches = interactions.nnz // hyperparameters["train_batch_size"] + 1
        if more // n_batches > fewer:
            raise ValueError(
                f"DGCF samples {more // n_batches} users and items each, found {fewer} of one kind. Set "
                f"recbole:DGCF.train_batch_size to {interactions.nnz * fewer // more} or less."
            )
        super().__init__(interactions, features, **hyperparameters)


class NCLModel(RecBoleModel):
    """NCL: users and items are clustered every `m_step` epochs, and the clusters count after `warm_up_step` epochs.

    Raises:
        ValueError: more clusters are asked for than there are users or items.
    """

    def __init__(self, interactions: csr_array, features: Mapping[str, Tensor], **hyperparameters: Any) -> None:
        n_clusters, fewest = hyperparameters["num_clusters"], min(interactions.shape) + 1
        if n_clusters > fewest:
            raise ValueError(
                f"NCL expects num_clusters of at most {fewest} here, one more than the fewer of users and items, found "
                f"{n_clusters}. Set recbole:NCL.num_clusters to less; well below is usual."
            )
        super().__init__(interactions, features, **hyperparameters)
        self.m_step, self.warm_up_step = hyperparameters["m_step"], hyperparameters["warm_up_step"]
        self.epoch = 0

    def begin_epoch(self, epoch: int) -> None:
        """Cluster the embeddings where it is their turn; epochs count from 1."""
        self.epoch = epoch
        if (epoch - 1) % self.m_step == 0:
            with self.host.lent():
                self.model.e_step()  # type: ignore[operator]

    def loss(self, batch: Any) -> Tensor:
        """Return the loss of the batch, without the part of the clusters during the warm-up, a scalar."""
        losses = self._losses(batch)
        return self._sum(losses[:-1] if self.epoch <= self.warm_up_step else losses)


class RecVAEModel(RecBoleModel):
    """RecVAE: in every epoch `n_enc_epochs` passes for the encoder, a new prior, `n_dec_epochs` for the decoder.

    All passes but the last are made when the epoch begins; the last one's batches are the epoch's, and so is its loss.
    """

    def __init__(self, interactions: csr_array, features: Mapping[str, Tensor], **hyperparameters: Any) -> None:
        super().__init__(interactions, features, **hyperparameters)
        active = torch.from_numpy(np.flatnonzero(np.diff(interactions.indptr)))
        self.register_buffer("active", active, persistent=False)
        self.n_enc_epochs, self.n_dec_epochs = hyperparameters["n_enc_epochs"], hyperparameters["n_dec_epochs"]
        self.pair: list[torch.optim.Optimizer] = []

    active: Tensor

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one optimizer for the encoder and one for the decoder."""
        self.pair = [self._optimizer(self.model.encoder), self._optimizer(self.model.decoder)]  # type: ignore[arg-type]
        return self.pair

    def begin_epoch(self, epoch: int) -> None:
        """Make all passes of the epoch but the last."""
        for _ in range(self.n_enc_epochs):
            for batch in self._pass():
                self._step(batch, encoder=True)
        self.model.update_prior()  # type: ignore[operator]
        for _ in range(self.n_dec_epochs - 1):
            for batch in self._pass():
                self._step(batch, encoder=False)

    def training_step(self, batch: Any, optimizers: Sequence[torch.optim.Optimizer]) -> Tensor:
        """Take one step of the decoder and return its loss."""
        return self._step(batch, encoder=False)

    def _pass(self) -> Iterator[UserBatch]:
        order = torch.randperm(len(self.active), device=self.active.device)
        return (UserBatch(users) for users in torch.split(self.active[order], self.batch_size))

    def _step(self, batch: Any, *, encoder: bool) -> Tensor:
        optimizer = self.pair[0 if encoder else 1]
        optimizer.zero_grad()
        loss = self._sum(self._losses(batch, encoder_flag=encoder))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()
