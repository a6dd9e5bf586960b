"""SimGCL: LightGCN's smoothing with two noisy views of every node that must agree.

Reference: Yu, Yin, Xia, Chen, Cui, Nguyen, "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for
Recommendation", SIGIR 2022, arXiv 2112.08679; where the paper is silent, the authors' code (QRec, SELFRec).

    E^(k) = A~ E^(k-1)                                   A~ = D^{-1/2} A D^{-1/2}, clean view, k = 1..L
    E'^(k) = A~ E'^(k-1) + D^(k)                         noisy view, twice, with fresh noise in every layer
    D^(k) = eps sign(A~ E'^(k-1)) * n / |n|              elementwise, n ~ U[0, 1)^D for each node
    Z = (E^(1) + ... + E^(L)) / L                        layer 0 left out; Z', Z'' alike from the noisy views
    s_ui = z_u . z_i
    l_cl = mean over the batch's users of -log( exp(cos(z'_u, z''_u) / tau) / sum_v exp(cos(z'_u, z''_v) / tau) )
           plus the same over its positive items
    loss = BPR + lambda l_cl + lambda_2 (1 / 2B) sum of |e^(0)|^2   over the batch's nodes

Readings taken:

- Layer 0 is left out of the mean, as in the paper's released code; its maintainer notes that some data prefer it in:
  `include_initial=True`.
- l_cl runs over the different users and the different positive items of the batch, each once, as in the authors' code.
  A node is a negative only of its own kind, and its own partner stands in the denominator.
- The paper and QRec sum BPR and l_cl over the batch, SELFRec takes the mean of both: nearly the same balance, so mean
  it is. RecBole-GNN takes the mean of BPR and the sum of l_cl, for which its lambda near 1e-5 is meant:
  `cl_reduction="sum"`.
- The penalty is LightGCN's, on the batch's layer-0 embeddings. The authors' codes penalize propagated embeddings, QRec
  squared and with the negatives, SELFRec unsquared and without them; RecBole-GNN does as here.
- tau = 0.2, which the authors' codes fix, is a hyper-parameter here.

Noise is added, and sign() has no gradient, so both noisy views have the clean view's gradient: the three are added
before one backward propagation instead of three. The first product A~ E^(0) is shared by all views, the others run
side by side, and the last layer is computed, and its noise drawn, only for the nodes of the batch.

A node without training edges has Z = 0 in every view, and no noise either, since sign(0) = 0: all its scores are 0,
unless layer 0 takes part. Early stopping needs patience: with a large lambda validation gains little at first.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from baselines.contrastive import info_nce
from baselines.graph import SymmetricGraph, bipartite_adjacency, normalize_symmetric
from baselines.losses import REGULARIZERS, Pairs, Regularizer, bpr_loss


class SimGCL(nn.Module):
    """Score by inner products of propagated embeddings trained to be stable under small noise.

    Args:
        interactions: training matrix, [n_users, n_items], binary.
        features: ignored.
        embedding_dim: width D of the embeddings.
        n_layers: propagation layers L.
        noise_scale: eps, the length of the noise added to each embedding in each layer; the paper tries 0 to 1.
        cl_weight: lambda, weight of the contrast; the paper tries 0.01 to 2.
        cl_reduction: "mean" of the contrast over nodes, or "sum".
        temperature: tau.
        include_initial: let layer 0 take part in the mean over layers.
        learning_rate: Adam's step size.
        batch_size: triples per step; it also bounds the negatives of the contrast.
        reg_weight: lambda_2.
        reg: "squared" L2 of the batch's layer-0 embeddings, or their unsquared "norm" as in MMRec.
        init: "xavier" uniform for users and items apart, or "normal" with standard deviation 0.1.
    """

    batching: ClassVar[Literal["pairs"]] = "pairs"
    search_space: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "n_layers": (2, 3),
        "cl_weight": (0.01, 0.05, 0.1, 0.2, 0.5),
        "noise_scale": (0.05, 0.1, 0.2),
        "temperature": (0.1, 0.2, 0.5),
        "learning_rate": (1e-3, 3e-3),
    }

    def __init__(
        self,
        interactions: csr_array,
        features: Mapping[str, Tensor],
        *,
        embedding_dim: Annotated[int, Ge(1)] = 64,
        n_layers: Annotated[int, Ge(1)] = 2,
        noise_scale: Annotated[float, Ge(0)] = 0.1,
        cl_weight: Annotated[float, Ge(0)] = 0.5,
        cl_reduction: Literal["mean", "sum"] = "mean",
        temperature: Annotated[float, Gt(0)] = 0.2,
        include_initial: bool = False,
        learning_rate: Annotated[float, Gt(0)] = 1e-3,
        batch_size: Annotated[int, Ge(1)] = 2048,
        reg_weight: Annotated[float, Ge(0)] = 1e-4,
        reg: Regularizer = "squared",
        init: Literal["xavier", "normal"] = "xavier",
    ) -> None:
        super().__init__()
        self.n_layers, self.noise_scale, self.include_initial = n_layers, noise_scale, include_initial
        self.cl_weight, self.cl_reduction, self.temperature = cl_weight, cl_reduction, temperature
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.reg_weight, self.regularizer = reg_weight, REGULARIZERS[reg]
        self.n_users, self.n_items = interactions.shape
        self.graph = SymmetricGraph(normalize_symmetric(bipartite_adjacency(interactions)))
        self.embedding = nn.Parameter(torch.empty(self.n_users + self.n_items, embedding_dim))
        for table in (self.embedding.data[: self.n_users], self.embedding.data[self.n_users :]):
            if init == "xavier":
                nn.init.xavier_uniform_(table)
            else:
                nn.init.normal_(table, std=0.1)
        self._propagated: Tensor | None = None

    def propagate(self) -> Tensor:
        """Return Z, the clean view of all nodes, users first, [n_users + n_items, D]."""
        return mean_of_layers(self.graph, self.embedding, self.n_layers, self.include_initial)

    def views(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the nodes' rows of Z, Z' and Z'', each [len(nodes), D].

        Args:
            nodes: int64, each node at most once.
        """
        views: Tensor = _Views.apply(  # type: ignore[no-untyped-call]
            self.embedding, self.graph, self.n_layers, self.noise_scale, self.include_initial, nodes
        )
        clean, first, second = views.unbind(dim=1)
        return clean, first, second

    def loss(self, batch: Pairs) -> Tensor:
        """Return BPR on the clean view, the contrast of the noisy ones and the penalty on layer 0, a scalar."""
        self._propagated = None
        users, user_rows = torch.unique(batch.users, return_inverse=True)
        items, item_rows = torch.unique(torch.cat((batch.positives, batch.negatives)), return_inverse=True)
        nodes = torch.cat((users, items + self.n_users))
        clean, first, second = self.views(nodes)
        rows = torch.cat((user_rows, item_rows + len(users)))
        u, i, j = clean.index_select(0, rows).chunk(3)
        ranking = bpr_loss((u * i).sum(dim=1), (u * j).sum(dim=1))
        positive_rows = len(users) + item_rows[: len(batch.positives)].unique()
        contrast = self._contrast(first[: len(users)], second[: len(users)])
        contrast = contrast + self._contrast(first[positive_rows], second[positive_rows])
        initial = self.embedding.index_select(0, nodes).index_select(0, rows)
        return ranking + self.cl_weight * contrast + self.reg_weight * self.regularizer(*initial.chunk(3))

    def _contrast(self, first: Tensor, second: Tensor) -> Tensor:
        mean = info_nce(first, second, self.temperature)
        return mean * len(first) if self.cl_reduction == "sum" else mean

    def begin_scoring(self) -> None:
        """Propagate once for all users that will be scored."""
        self._propagated = self.propagate().detach()

    def score(self, users: Tensor) -> Tensor:
        """Return z_u . z_i for all items, [len(users), n_items]."""
        nodes = self.propagate() if self._propagated is None else self._propagated
        return nodes[users] @ nodes[self.n_users :].T


def mean_of_layers(graph: SymmetricGraph, table: Tensor, n_layers: int, include_initial: bool) -> Tensor:
    """Return the mean of A~ T, ..., A~^L T, with T itself if `include_initial`, [N, D].

    Args:
        graph: A~.
        table: T, [N, D].
        n_layers: L, at least 1.
        include_initial: whether T takes part.
    """
    if include_initial:
        return graph.mean_of_layers(table, n_layers)
    return graph.mean_of_layers(graph.propagate(table), n_layers - 1)


class _Views(torch.autograd.Function):
    """Rows of Z, Z' and Z'', [n, 3, D]; the gradient is that of Z for the sum of the three gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        table: Tensor,
        graph: SymmetricGraph,
        n_layers: int,
        noise_scale: float,
        include_initial: bool,
        nodes: Tensor,
    ) -> Tensor:
        ctx.graph, ctx.n_layers, ctx.include_initial = graph, n_layers, include_initial
        ctx.n_nodes = len(table)
        ctx.save_for_backward(nodes)
        total = table.new_zeros(len(nodes), 3 * table.shape[1])
        if include_initial:
            total += table[nodes].repeat(1, 3)
        layer = table
        for k in range(1, n_layers + 1):
            layer = graph.multiply(layer) if k < n_layers else multiply_rows(graph, nodes, layer)
            if k == 1:
                layer = layer.repeat(1, 3)
            _perturb(layer.view(len(layer), 3, -1)[:, 1:], noise_scale)
            total += layer[nodes] if k < n_layers else layer
        return total.div_(n_layers + include_initial).view(len(nodes), 3, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (nodes,) = ctx.saved_tensors
        table = gradient.new_zeros(ctx.n_nodes, gradient.shape[2])
        table[nodes] = gradient.sum(dim=1)
        return mean_of_layers(ctx.graph, table, ctx.n_layers, ctx.include_initial), None, None, None, None, None


def _perturb(views: Tensor, noise_scale: float) -> None:
    """Add noise of length eps to each embedding, towards the corner of its own orthant, in place.

    Args:
        views: [n, 2, D].
        noise_scale: eps.
    """
    directions = draw_directions(views.shape, views.device)
    views.addcmul_(views.sign(), directions, value=noise_scale)


def draw_directions(shape: torch.Size, device: torch.device) -> Tensor:
    """Return n / |n| with n ~ U[0, 1)^D, of this shape; D is the last dimension."""
    drawn = torch.rand(shape, device=device)
    return drawn.div_(torch.linalg.vector_norm(drawn, dim=-1, keepdim=True).clamp_min_(1e-12))


def multiply_rows(graph: SymmetricGraph, nodes: Tensor, table: Tensor) -> Tensor:
    """Return the nodes' rows of A~ T, [len(nodes), D], without the other rows and without recording for autograd.

    Args:
        graph: A~, [N, N].
        nodes: int64.
        table: T, [N, D].
    """
    starts = graph.starts[nodes]
    counts = graph.starts[nodes + 1] - starts
    ends = counts.cumsum(0)
    offsets = ends - counts
    edges = torch.repeat_interleave(starts - offsets, counts)
    edges += torch.arange(len(edges), device=edges.device)
    return embedding_bag(
        graph.neighbors[edges], table.detach(), offsets, mode="sum", per_sample_weights=graph.weights[edges]
    )
