"""The switches that change a published number, named, and the four settings of them that the field uses.

Programs that all report "Recall@20" differ in what they mask, in how they normalize NDCG, in whom they
average over and in the split that chooses the epoch. Here each such difference is one field, so a result says
which reading it follows.

Two known differences have no switch:

- repeated items in a user's ground truth (counted twice by MMRec, once by RecBole): prepared data hold no
  user-item pair twice, within a split or across splits, so both readings give the same number;
- scoring with embeddings left over from the last training step (MMGCN, DualGNN and SLMRec in MMRec): a matter
  of the model, not of the evaluator; here every model is scored as it stands.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from bench.errors import UsageError, unknown_name

DEFAULT_KS = (10, 20, 50)


@dataclass(frozen=True)
class EvaluationProtocol:
    """How a ranking is turned into numbers, and which split decides what is kept.

    Candidates are always all items but the masked ones, never a sample. Items with equal scores rank by lower
    id first.

    Attributes:
        name: the preset it came from.
        ks: the cut-offs K, ascending.
        mask: what cannot be recommended at test time: the user's "train" items, or "train+valid". At
            validation time only training items are masked under either.
        idcg: the ideal that NDCG@K divides by. "truth" is the standard: min(K, |T|) hits at the top, T the
            ground truth. "hits" takes min(K, c) for it, c the hits found in a longer list; it is never below
            the standard.
        idcg_list_length: the length of that longer list for "hits", at least the largest K; None for "truth".
        cold_users: users without a training item are left out ("drop") or averaged over like all others
            ("keep").
        select_on: the split whose metric chooses the epoch and the configuration.
        round_before_select: decimals the choosing metric is rounded to before comparison; None compares it
            unrounded.
        selection_tie: which of two epochs of the same value is kept.
    """

    name: str = "mmrec"
    ks: tuple[int, ...] = DEFAULT_KS
    mask: Literal["train", "train+valid"] = "train"
    idcg: Literal["truth", "hits"] = "truth"
    idcg_list_length: int | None = None
    cold_users: Literal["drop", "keep"] = "drop"
    select_on: Literal["valid", "test"] = "valid"
    round_before_select: int | None = None
    selection_tie: Literal["first", "last"] = "first"

    def __post_init__(self) -> None:
        """Check the fields against each other.

        Raises:
            UsageError: the cut-offs are not positive, ascending and distinct, or the list length does not fit
            them.
        """
        ks = self.ks
        if not ks or any(k < 1 for k in ks) or any(a >= b for a, b in pairwise(ks)):
            raise UsageError(f"Cut-offs must be positive, ascending and distinct, like 10, 20, 50; found {list(ks)}.")
        length = self.idcg_list_length
        if self.idcg == "truth" and length is not None:
            raise UsageError(
                f"idcg_list_length is for idcg='hits' only, found {length} with idcg='truth'. Leave it out."
            )
        if self.idcg == "hits" and (length is None or length < ks[-1]):
            raise UsageError(
                f"idcg='hits' needs an idcg_list_length no smaller than the largest cut-off, {ks[-1]}; found {length}."
            )

    @property
    def masks_validation(self) -> bool:
        """Whether validation positives are masked at test time."""
        return self.mask == "train+valid"

    @property
    def warning(self) -> str | None:
        """What a reader must be told beside every number made under this protocol, if anything."""
        if self.select_on == "valid":
            return None
        return (
            f"Protocol '{self.name}' chooses the epoch on the TEST split, so its numbers are optimistic. "
            "It is here to reproduce published tables; use 'mmrec' for a fair comparison."
        )

    def selection_value(self, value: float) -> float:
        """Return the choosing metric as it enters a comparison: rounded where the protocol rounds."""
        return value if self.round_before_select is None else round(value, self.round_before_select)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, for a run's record and key."""
        return asdict(self) | {"ks": list(self.ks)}


PROTOCOLS: dict[str, EvaluationProtocol] = {
    protocol.name: protocol
    for protocol in (
        # MMRec (Zhou, 2023), with two deliberate deviations: it rounds to 4 decimals before it chooses an
        # epoch, and it chooses among configurations on test. Here unrounded validation values drive every
        # decision.
        EvaluationProtocol(name="mmrec"),
        # RecBole 1.2 (Zhao et al., 2021). Its default choosing metric, MRR@10, belongs to the training
        # protocol.
        EvaluationProtocol(
            name="recbole",
            mask="train+valid",
            cold_users="keep",
            round_before_select=4,
            selection_tie="last",
        ),
        # LATTICE (Zhang et al., 2021) and MMSSL (Wei et al., 2023). The list is MMSSL's; LATTICE has 20 and
        # no K of 50.
        EvaluationProtocol(name="lattice_mmssl", idcg="hits", idcg_list_length=50, cold_users="keep"),
        # DiffMM (Jiang et al., 2024) reads no validation split.
        EvaluationProtocol(name="diffmm", cold_users="keep", select_on="test"),
    )
}


def evaluation_protocol(name: str, *, ks: Sequence[int] | None = None) -> EvaluationProtocol:
    """Return the preset `name`, with cut-offs of one's own where given.

    Args:
        name: one of `PROTOCOLS`.
        ks: cut-offs in place of the preset's.

    Raises:
        UsageError: the name is unknown, or the cut-offs do not fit the protocol.
    """
    if name not in PROTOCOLS:
        raise unknown_name("evaluation protocol", name, PROTOCOLS)
    preset = PROTOCOLS[name]
    return preset if ks is None else replace(preset, ks=tuple(ks))
