"""The general recommenders of RecBole 1.2.1: which of them run here, how each learns and how each scores.

Every entry was tried. Nothing of RecBole is imported here, so the list is there where RecBole is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Batches = Literal["triples", "points", "users", "none"]
Scoring = Literal["rows", "few rows", "one row", "pairs"]
Status = Literal["works", "needs", "cannot"]

NEEDS_CHECKPOINT = "it names a file of pre-trained weights, which this program neither writes nor reads"
LATER_STAGE = "its later stages start from a checkpoint of the one before, which this program neither writes nor reads"
NEEDS_TIMES = "it weighs interactions by their time, which models are not given here"
CRITIC = "it belongs to the critic, which learns in a later stage only, from a checkpoint of the first"


@dataclass(frozen=True)
class Entry:
    """One of RecBole's general recommenders.

    Attributes:
        name: its class.
        batches: what it learns from: "triples" of a user, an item of theirs and one drawn from the rest; single
            labelled "points"; whole "users"; or "none", where it is complete once constructed.
        scoring: how it is asked for the scores of a block of users: all "rows" of the block at once, a "few rows"
            at a time or "one row" at a time; or in "pairs" of a user and an item, where it knows no other way.
        switches: names of RecBole's general settings that its formulas read.
        drawn: attributes drawn at random in its constructor that its scores depend on and its checkpoint would lack.
        draws_on_host: whether its loss draws from Python's or NumPy's generators; lending it these takes 0.15 ms.
        refused: settings of its own that cannot be changed here, each with the reason.
        packages: what it needs beside RecBole, import name to name on the package index.
        reason: why it cannot run; empty where it can.
        note: what is different here.
    """

    name: str
    batches: Batches
    scoring: Scoring = "rows"
    switches: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    draws_on_host: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    note: str = ""

    @property
    def status(self) -> Status:
        """Tell whether it works, needs a further package, or cannot run."""
        if self.reason:
            return "cannot"
        return "needs" if self.packages else "works"

    @property
    def remark(self) -> str:
        """What a user should know of it in one line: the reason, the package, or what is different here."""
        needs = f"pip install {' '.join(self.packages.values())}" if self.packages else ""
        return "; ".join(part for part in (self.reason, needs, self.note) if part)


_TIME_AWARE = {"time-aware": NEEDS_TIMES, "w_max": NEEDS_TIMES, "w_min": NEEDS_TIMES}
_PLACEHOLDER = "its other values need packages or fail in RecBole 1.2.1"

ENTRIES: Mapping[str, Entry] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Entry("ADMMSLIM", "none", note="adds noise of 1e-5 to its scores, here the same in every pass"),
            Entry("AsymKNN", "none"),
            Entry("BPR", "triples"),
            Entry("CDAE", "users"),
            Entry(
                "ConvNCF",
                "triples",
                "pairs",
                refused={"train_method": NEEDS_CHECKPOINT, "pre_model_path": NEEDS_CHECKPOINT},
                note="scores pair by pair: slow",
            ),
            Entry("DGCF", "triples", draws_on_host=True, note="needs a few batches an epoch and says how many"),
            Entry("DMF", "points", refused={"inter_matrix_type": "its other value needs ratings"}),
            Entry("DiffRec", "users", refused=_TIME_AWARE),
            Entry("EASE", "none"),
            Entry("ENMF", "users", "few rows"),
            Entry("FISM", "points", note="scores user by user: slow"),
            Entry("GCMC", "triples"),
            Entry("ItemKNN", "none"),
            Entry(
                "LDiffRec",
                "users",
                refused=_TIME_AWARE | {"n_cate": "more than one category needs a file of item embeddings"},
            ),
            Entry("LINE", "triples", draws_on_host=True),
            Entry("LightGCN", "triples", switches=("require_pow",)),
            Entry("MacridVAE", "users"),
            Entry("MultiDAE", "users"),
            Entry("MultiVAE", "users"),
            Entry(
                "NAIS",
                "points",
                refused={"pretrain_path": NEEDS_CHECKPOINT},
                note="scores user by user: slow",
            ),
            Entry("NCEPLRec", "none"),
            Entry(
                "NCL",
                "triples",
                packages={"faiss": "faiss-cpu"},
                note="num_clusters must not exceed the users or the items",
            ),
            Entry("NGCF", "triples"),
            Entry(
                "NNCF",
                "points",
                "pairs",
                drawn=("u_neigh", "i_neigh"),
                refused={"neigh_info_method": _PLACEHOLDER, "resolution": _PLACEHOLDER},
                note="scores pair by pair: slow",
            ),
            Entry(
                "NeuMF",
                "points",
                "pairs",
                refused=dict.fromkeys(("use_pretrain", "mf_pretrain_path", "mlp_pretrain_path"), NEEDS_CHECKPOINT),
                note="scores pair by pair: slow",
            ),
            Entry("Pop", "none", note="counts every training interaction once"),
            Entry(
                "RaCT",
                "users",
                refused=dict.fromkeys(("critic_layers", "metrics_k"), CRITIC)
                | dict.fromkeys(("train_stage", "pretrain_epochs", "save_step", "pre_model_path"), LATER_STAGE),
                note="its first stage only, the actor; the others start from a checkpoint of the one before",
            ),
            Entry("Random", "none", "one row", note="each user gets a list of their own"),
            Entry("RecVAE", "users"),
            Entry("SGL", "triples"),
            Entry("SLIMElastic", "none"),
            Entry("SimpleX", "triples", switches=("require_pow",), drawn=("history_item_id",)),
            Entry("SpectralCF", "triples"),
        )
    }
)
