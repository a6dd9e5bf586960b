"""Views of users and items through a graph of each modality, how they are mixed, and how they are contrasted.

Reference: Wei, Huang, Xia, Zhang, "Multi-Modal Self-Supervised Learning for Recommendation", WWW 2023.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding_bag, normalize

from ld4mrec.rows import UserRows

# Scores of one block of users when their best items are looked for: 64 MiB of float32.
BLOCK_ENTRIES = 1 << 24

Attention = Literal["identity", "cross_modal"]


def unit(rows: Tensor) -> Tensor:
    """Return rows divided by their length along the last dimension; rows of zeros stay, with a finite gradient."""
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, 1.0)


def contrast(views: Tensor, users: Tensor, temperature: float) -> Tensor:
    """Return CL_m: each view looks for its user among all users and all other views, a scalar.

    Args:
        views: eu_m of the batch's users, [B, D].
        users: their final embeddings, [B, D].
        temperature: t.
    """
    views, users = normalize(views, dim=1), normalize(users, dim=1)
    others = (views @ views.T).fill_diagonal_(-torch.inf)
    similar = torch.cat((views @ users.T, others), dim=1) / temperature
    return cross_entropy(similar, torch.arange(len(views), device=views.device))


class ModalityAttention(nn.Module):
    """Mix the e_m of a node to one z, [n, M, D] -> [n, D].

    Args:
        embedding_dim: D.
        n_heads: heads; keys have D / n_heads columns, rounded down, values D.
        kind: see the module's text.
    """

    def __init__(self, embedding_dim: int, n_heads: int, kind: Attention) -> None:
        super().__init__()
        self.n_heads, self.key_dim = n_heads, max(1, embedding_dim // n_heads)
        self.mixing = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n_heads * embedding_dim, embedding_dim)))
        if kind == "cross_modal":
            shape = 2, embedding_dim, n_heads * self.key_dim
            self.queries_keys = nn.Parameter(
                torch.stack([nn.init.xavier_uniform_(part) for part in torch.empty(shape)])
            )
        self.kind = kind

    def forward(self, nodes: Tensor) -> Tensor:
        """Return z, [n, D].

        Args:
            nodes: e_m, [n, M, D].
        """
        if self.kind == "identity":
            return nodes.mean(dim=1) @ self.mixing.view(self.n_heads, *self.mixing.shape[1:] * 2).sum(dim=0)
        shape = *nodes.shape[:2], self.n_heads, self.key_dim
        queries, keys = ((nodes @ weight).view(shape) for weight in self.queries_keys)
        weights = torch.einsum("nmhk,nphk->nhmp", queries, keys).div(self.key_dim**0.5).softmax(dim=-1)
        # The mean over m comes first: what follows is linear.
        heads = torch.einsum("nhp,npd->nhd", weights.mean(dim=2), nodes)
        return heads.flatten(1) @ self.mixing


class BestItems(nn.Module):
    """A graph for each modality that links every user to their k best items, normalized on the receiving side.

    The links are part of the state: they were chosen with earlier weights than those they are used with.

    Args:
        n_users: U.
        n_modalities: M.
        n_chosen: k.
    """

    chosen: Tensor

    def __init__(self, n_users: int, n_modalities: int, n_chosen: int) -> None:
        super().__init__()
        self.register_buffer("chosen", torch.zeros(n_users, n_modalities, n_chosen, dtype=torch.int64))

    @torch.no_grad()
    def choose(self, users: Tensor, items: Tensor, interactions: UserRows) -> None:
        """Link every user to the items with the largest inner products; their own items count 0.

        Args:
            users: [U, M, D].
            items: [I, M, D].
            interactions: the users' own items.
        """
        n_users, n_modalities, n_chosen = self.chosen.shape
        block = max(1, BLOCK_ENTRIES // len(items))
        for start in range(0, n_users, block):
            part = torch.arange(start, min(start + block, n_users), device=users.device)
            own = interactions.coordinates(part)
            for modality in range(n_modalities):
                scores = users[part, modality] @ items[:, modality].T
                scores[own] = 0.0
                self.chosen[part, modality] = scores.topk(n_chosen, dim=1).indices

    def smooth(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return D_u^{-1/2} G E_I and D_i^{-1/2} G^T E_U of each modality, [U, M, D] and [I, M, D].

        Args:
            users: E_U, [U, D].
            items: E_I, [I, D].
        """
        (n_users, n_modalities, n_chosen), n_items = self.chosen.shape, len(items)
        of_users = embedding_bag(self.chosen.flatten(0, 1), items, mode="sum") / n_chosen**0.5
        # Item i of modality m is row i M + m.
        places = (self.chosen * n_modalities + torch.arange(n_modalities, device=items.device)[:, None]).flatten()
        n_rows = n_items * n_modalities
        sources = users.repeat_interleave(n_modalities * n_chosen, dim=0)
        sums = torch.zeros(n_rows, users.shape[1], device=users.device).index_add(0, places, sources)
        of_items = sums * torch.bincount(places, minlength=n_rows).clamp_min(1).rsqrt()[:, None]
        return of_users.view(n_users, n_modalities, -1), of_items.view(n_items, n_modalities, -1)
