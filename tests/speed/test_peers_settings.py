"""The same hyper-parameters on both sides, none forgotten."""

from pathlib import Path

import pytest

from bench.errors import UsageError
from bench.experiments.plan import configure
from bench.models import REGISTRY
from bench.speed.peers.peer import match
from bench.speed.peers.registry import PEERS, find_peer

MODELS = [(peer, model) for peer in PEERS.values() for model in peer.counterparts]


class Asked(dict):
    """Remembers which of its keys were read."""

    def __init__(self, values):
        super().__init__(values)
        self.keys_read = set()

    def __getitem__(self, key):
        self.keys_read.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.keys_read.add(key)
        return super().get(key, default)


@pytest.mark.parametrize(("peer", "model"), MODELS, ids=[f"{peer.name}-{model}" for peer, model in MODELS])
def test_every_hyperparameter_is_translated_or_the_peer_has_no_choice_in_it(peer, model):
    assert model in REGISTRY
    (configuration,) = configure([model], [], "none", use_presets=False)
    counterpart = peer.counterparts[model]
    asked = Asked(configuration.hyperparameters)
    counterpart.parameters(asked)
    apart = set(counterpart.fixed) | set(counterpart.without_cost)
    assert asked.keys_read & set(asked) | apart == set(asked)


def test_both_sides_get_what_is_set_and_ours_what_the_peer_cannot_change():
    (found,) = match(PEERS["mmrec"], ["lightgcn"], ["lightgcn.n_layers=1", "lightgcn.embedding_dim=32"], "none")
    assert found.theirs == "LightGCN"
    assert found.parameters["n_layers"] == 1
    assert found.parameters["embedding_size"] == 32
    assert found.parameters["train_batch_size"] == 2048
    ours = found.ours.hyperparameters
    assert (ours["n_layers"], ours["embedding_dim"], ours["reg"], ours["init"]) == (1, 32, "norm", "xavier")
    (again,) = configure(["lightgcn"], found.settings, "none", use_presets=False)
    assert again.hyperparameters == ours


def test_lists_reach_the_process_of_ours():
    (found,) = match(PEERS["recbole"], ["diffrec"], ["diffrec.hidden_dims=[30, 20]"], "none")
    assert found.parameters["dims_dnn"] == [30, 20]
    (again,) = configure(["diffrec"], found.settings, "none", use_presets=False)
    assert again.hyperparameters["hidden_dims"] == (30, 20)


def test_settings_may_name_a_model_by_another_name():
    (found,) = match(PEERS["mmrec"], ["bpr"], ["bpr.reg_weight=0.5"], "none")
    assert (found.ours.spec.name, found.parameters["reg_weight"]) == ("mf-bpr", 0.5)


def test_special_parameters():
    given = ["lattice.n_layers=3", "lattice.embedding_dim=8", "mgcn.learning_rate_decay=0.5"]
    lattice, mgcn = match(PEERS["mmrec"], ["lattice", "mgcn"], given, "none")
    assert lattice.parameters["weight_size"] == [8, 8, 8]
    assert mgcn.parameters["learning_rate_scheduler"] == [0.5, 50]


def test_mistakes():
    mmrec = PEERS["mmrec"]
    with pytest.raises(UsageError, match=r"MMRec has no counterpart of ld4mrec, ease here.*bm3"):
        match(mmrec, ["bm3", "ld4mrec", "ease"], [], "none")
    with pytest.raises(UsageError, match=r"bm3\.reg=squared: MMRec's BM3 has reg=norm and no other"):
        match(mmrec, ["bm3"], ["bm3.reg=squared"], "none")
    with pytest.raises(UsageError, match="Did you mean n_layers"):
        match(mmrec, ["bm3"], ["bm3.n_layer=2"], "none")
    with pytest.raises(UsageError, match="Unknown peer 'mmrek'. Did you mean mmrec"):
        find_peer("mmrek")


def test_a_peer_that_is_not_there(tmp_path, monkeypatch):
    mmrec, recbole = PEERS["mmrec"], PEERS["recbole"]
    with pytest.raises(UsageError, match="git clone"):
        mmrec.locate(None)
    with pytest.raises(UsageError, match=r"expected a checkout of MMRec, but there is no src/common/trainer.py in"):
        mmrec.locate(tmp_path)
    with pytest.raises(UsageError, match=r"expected a checkout of DiffMM, but there is no Main.py in"):
        PEERS["diffmm"].locate(tmp_path)
    with pytest.raises(UsageError, match="Leave --checkout out"):
        recbole.locate(Path("here"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install recbole"):
        recbole.locate(None)
