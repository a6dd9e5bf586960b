"""Full ranking: the exact rank of each ground-truth item among all items, and the lists a user would see.

Every metric at every K follows from the integer ranks, so they are computed once. Users are scored in blocks;
what a block needs (its users, the coordinates it masks, its ground truth) is laid on the device at
construction, and no step loops over users.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from bench.errors import DataError, TrainingError
from bench.evaluation.protocol import EvaluationProtocol

Score = Callable[[Tensor], Tensor]

BLOCK_BYTES = 64 * 2**20
# A comparison is read several times: on a CPU it should stay in the cache, on a GPU it should fill the
# device.
CHUNK_BYTES = {"cpu": 2**20}
DEVICE_CHUNK_BYTES = 64 * 2**20
# Items are counted and compared in float32, several times faster than integers and exact up to here.
MAX_ITEMS = 2**24


@dataclass(frozen=True, eq=False)
class Ranks:
    """The ranks of all ground-truth items.

    Attributes:
        users: evaluated users, int64 [n_eval], ascending.
        n_truth: their numbers of ground-truth items, each at least 1, int64 [n_eval].
        pair_user: per (user, ground-truth item) pair the position of its user in `users`, int64 [n_pairs],
            ascending.
        rank: per pair the rank of its item, 1 the best, int64 [n_pairs]; n_items + 1 where the item was
            masked.
        n_items: the size of the catalogue.
    """

    users: NDArray[np.int64]
    n_truth: NDArray[np.int64]
    pair_user: NDArray[np.int64]
    rank: NDArray[np.int64]
    n_items: int

    def hits(self, k: int) -> NDArray[np.bool_]:
        """Return per pair whether its item is in the user's top k; a masked item never is, whatever the k."""
        return self.rank <= min(k, self.n_items)

    @cached_property
    def order(self) -> NDArray[np.int64]:
        """Per pair, its place among the same user's pairs sorted by rank, 1 the best, int64 [n_pairs]."""
        by_rank = np.lexsort((self.rank, self.pair_user))
        starts = np.cumsum(self.n_truth) - self.n_truth
        order = np.empty(len(self.rank), dtype=np.int64)
        order[by_rank] = np.arange(1, len(self.rank) + 1) - starts[self.pair_user]
        return order


@dataclass(frozen=True, eq=False)
class _Block:
    """A run of evaluated users, on the device.

    Attributes:
        users: int64 [B].
        masked: positions in the flattened [B, I] scores, int64.
        pair_row: row of each ground-truth pair, int64 [P], ascending.
        pair_item: its item, int64 [P].
    """

    users: Tensor
    masked: Tensor
    pair_row: Tensor
    pair_item: Tensor


class RankingEvaluator:
    """Rank all items for every user who has ground truth in one split.

    Evaluated users are those with at least one target item, less those without a training item where the
    protocol drops cold users. Items of equal score rank by lower id first. Scores are read as float32 and
    copied: a model's own tensors are never written to, even where `score` returns one of them.

    A score of -inf is a model's way to rank an item last; NaN and +inf are errors.

    Args:
        train: training positives [U, I]; masked.
        target: ground truth [U, I].
        exclude: further positives [U, I] to mask: the validation split, when testing under a "train+valid"
            protocol.
        protocol: the switches; `cold_users` and `mask` are read here.
        device: where the model scores.
        block_size: users scored at once; by default as many as fill about 64 MiB with scores.

    Attributes:
        users: the evaluated users, int64 [n_eval], ascending; the row order of all results.
        n_items: the size of the catalogue.

    Raises:
        DataError: no user can be evaluated, or there are more than 16,777,216 items.
        ValueError: the matrices differ in shape, or `exclude` contradicts the protocol's mask.
    """

    def __init__(
        self,
        train: csr_array,
        target: csr_array,
        *,
        exclude: csr_array | None,
        protocol: EvaluationProtocol,
        device: torch.device,
        block_size: int | None = None,
    ) -> None:
        if exclude is not None and not protocol.masks_validation:
            raise ValueError(f"protocol '{protocol.name}' masks training items only, but exclude was given")
        shapes = {matrix.shape for matrix in (train, target, exclude) if matrix is not None}
        if len(shapes) > 1:
            raise ValueError(f"train, target and exclude must have one shape, found {sorted(shapes)}")
        if train.shape[1] > MAX_ITEMS:
            raise DataError(f"At most {MAX_ITEMS:,} items can be ranked exactly, found {train.shape[1]:,}.")
        train, target = _positives(train), _positives(target)
        masked = train if exclude is None else _positives(train + _positives(exclude))
        evaluated = np.diff(target.indptr) > 0
        if protocol.cold_users == "drop":
            evaluated &= np.diff(train.indptr) > 0
        if not evaluated.any():
            n_target, n_train = ((np.diff(matrix.indptr) > 0).sum() for matrix in (target, train))
            raise DataError(
                f"No user can be evaluated: of {target.shape[0]} users, {n_target} have a ground-truth "
                f"item and {n_train} a training item, but none has both. "
                "Check the split, or keep more interactions per user."
            )
        self.users: NDArray[np.int64] = np.flatnonzero(evaluated).astype(np.int64)
        self.n_items: int = train.shape[1]
        self.device = device
        self._block_size = block_size or max(1, BLOCK_BYTES // (4 * self.n_items))
        self._chunk = max(1, CHUNK_BYTES.get(device.type, DEVICE_CHUNK_BYTES) // (4 * self.n_items))
        self._ids = torch.arange(self.n_items, device=device)
        self._lay_out(masked[self.users], target[self.users])

    def _lay_out(self, masked: csr_array, target: csr_array) -> None:
        """Build the blocks from the evaluated users' rows."""
        self._n_truth = np.diff(target.indptr).astype(np.int64)
        self._pair_user = np.repeat(np.arange(len(self.users)), self._n_truth)
        truth_keys = self._pair_user * self.n_items + target.indices
        mask_rows = np.repeat(np.arange(len(self.users)), np.diff(masked.indptr))
        mask_keys = mask_rows * self.n_items + masked.indices
        self._unreachable = np.isin(truth_keys, mask_keys, assume_unique=True)
        self._blocks = []
        for start in range(0, len(self.users), self._block_size):
            stop = min(start + self._block_size, len(self.users))
            pairs = slice(target.indptr[start], target.indptr[stop])
            mask = slice(masked.indptr[start], masked.indptr[stop])
            self._blocks.append(
                _Block(
                    self._on_device(self.users[start:stop]),
                    self._on_device(mask_keys[mask] - start * self.n_items),
                    self._on_device(self._pair_user[pairs] - start),
                    self._on_device(target.indices[pairs]),
                )
            )

    def _on_device(self, values: NDArray[Any]) -> Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self.device)

    @torch.no_grad()
    def ranks(self, score: Score) -> Ranks:
        """Return the exact rank of every ground-truth item.

        The rank is 1 + the unmasked items with a larger score + the unmasked items with an equal score and a
        lower id. A ground-truth item that is masked can never be found: its rank is n_items + 1, and it stays
        in the denominators.

        Args:
            score: takes users, int64 [B], and returns the scores of all items, [B, n_items].

        Raises:
            TrainingError: a score is NaN or +inf, or the scores have another shape.
        """
        found = [self._block_ranks(scores, block) for block, scores in self._scored(score)]
        rank = torch.cat(found).cpu().numpy()
        rank[self._unreachable] = self.n_items + 1
        return Ranks(self.users, self._n_truth, self._pair_user, rank, self.n_items)

    @torch.no_grad()
    def top_k(self, score: Score, k: int) -> Tensor:
        """Return the k best unmasked items of every evaluated user, best first, int64 [n_eval, k].

        The order is that of `ranks`. A user with fewer than k candidates has -1 in the places left over.

        Args:
            score: as for `ranks`.
            k: length of the lists.

        Raises:
            TrainingError: a score is NaN or +inf, or the scores have another shape.
        """
        found = [self._block_top_k(scores, min(k, self.n_items)) for _, scores in self._scored(score)]
        lists = torch.cat(found)
        return torch.nn.functional.pad(lists, (0, k - lists.shape[1]), value=-1)

    def _scored(self, score: Score) -> Iterator[tuple[_Block, Tensor]]:
        """Yield each block with its scores, a copy, float32 [B, I], in which masked items are NaN.

        The copy is overwritten by the next block's.
        """
        # One buffer a pass: fresh pages for every block would cost more than the comparisons.
        buffer = torch.empty(len(self._blocks[0].users), self.n_items, device=self.device)
        for block in self._blocks:
            raw = score(block.users)
            expected = (len(block.users), self.n_items)
            if tuple(raw.shape) != expected:
                raise TrainingError(
                    f"score(users) must return [len(users), n_items], here {list(expected)}, and returned "
                    f"{list(raw.shape)}. Score all items, in the order of the columns of `interactions`."
                )
            scores = buffer[: len(block.users)].copy_(raw)
            _check_scores(scores, block.users)
            # NaN is neither above nor equal to anything, so no later comparison counts a masked item.
            scores.view(-1).index_fill_(0, block.masked, torch.nan)
            yield block, scores

    def _block_ranks(self, scores: Tensor, block: _Block) -> Tensor:
        one_each = len(block.pair_row) == len(block.users)
        buffer = torch.empty(self._chunk, self.n_items, device=self.device)
        ranks = []
        for start in range(0, len(block.pair_row), self._chunk):
            stop = start + self._chunk
            # With one pair per user the pairs' rows are the block's rows, and a view spares the copy.
            rows = scores[start:stop] if one_each else scores[block.pair_row[start:stop]]
            ranks.append(self._pair_ranks(rows, block.pair_item[start:stop], buffer[: len(rows)]))
        return torch.cat(ranks)

    def _pair_ranks(self, rows: Tensor, items: Tensor, buffer: Tensor) -> Tensor:
        """Return the rank of items[p] in rows[p], int64 [P]; `buffer` is scratch of the shape of `rows`."""
        own = rows.gather(1, items[:, None])
        larger = torch.gt(rows, own, out=buffer).sum(1)
        equal = torch.eq(rows, own, out=buffer).sum(1)
        rank = larger.long() + 1
        # Each item equals itself; only pairs with a second equal item pay for looking at ids.
        tied = (equal > 1).nonzero().squeeze(1)
        if len(tied):
            equals = buffer[tied]
            ids = self._ids.float()
            lower = torch.lt(ids, ids[items[tied], None], out=torch.empty_like(equals))
            rank[tied] += lower.mul_(equals).sum(1).long()
        return rank

    def _block_top_k(self, scores: Tensor, k: int) -> Tensor:
        lists = []
        for rows in torch.split(scores, self._chunk):
            best, items = rows.nan_to_num(nan=-torch.inf, neginf=-torch.inf).topk(min(k + 1, self.n_items), dim=1)
            # Strictly falling scores, one past the cut included, leave no tie to settle; most rows end here.
            clear = (best[:, :-1] > best[:, 1:]).all(1) & (best[:, k - 1] > -torch.inf)
            items = items[:, :k]
            tied = (~clear).nonzero().squeeze(1)
            if len(tied):
                items[tied] = self._top_k_by_key(rows[tied], k)
            lists.append(items)
        return torch.cat(lists)

    def _top_k_by_key(self, rows: Tensor, k: int) -> Tensor:
        """Return the top items of rows with ties or too few candidates, from one integer key per item."""
        # The bits of a float32 sort like the number once those of a negative are flipped; the id goes below them,
        # so the key orders by score, then lower id. Adding 0 turns -0 into 0.
        bits = rows.add(0.0).view(torch.int32)
        ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
        keys = (ordered << 32) | (self.n_items - 1 - self._ids)
        masked = torch.iinfo(torch.int64).min
        best = keys.masked_fill_(rows.isnan(), masked).topk(k, dim=1).values
        items = self.n_items - 1 - (best & 0xFFFFFFFF)
        return items.masked_fill_(best == masked, -1)


def _positives(matrix: csr_array) -> csr_array:
    """Return the matrix with each nonzero stored once, in ascending order."""
    matrix = csr_array(matrix, copy=True)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def _check_scores(scores: Tensor, users: Tensor) -> None:
    """Refuse NaN and +inf; the largest score of a row shows either, so good scores are read only once."""
    if bool((scores.amax(1) < torch.inf).all()):
        return
    counts = (~(scores < torch.inf)).sum(1)
    affected = counts.nonzero().squeeze(1)
    first = int(affected[0])
    raise TrainingError(
        f"Scores must be numbers below infinity, but {int(counts[first])} of the {scores.shape[1]} scores of "
        f"user {int(users[first])} are NaN or +inf; {len(affected)} of the {len(users)} users in this block have "
        "some. The model's parameters have most likely diverged; a smaller learning_rate usually helps."
    )
