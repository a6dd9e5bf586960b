import json
from dataclasses import replace

import pytest

from bench.errors import UsageError
from bench.evaluation import PROTOCOLS, EvaluationProtocol, evaluation_protocol


def test_the_default_is_mmrec_chosen_on_unrounded_validation_values():
    protocol = evaluation_protocol("mmrec")
    assert protocol == EvaluationProtocol()
    assert protocol.ks == (10, 20, 50)
    assert (protocol.mask, protocol.idcg, protocol.cold_users) == ("train", "truth", "drop")
    assert (protocol.select_on, protocol.selection_tie) == ("valid", "first")
    assert protocol.selection_value(0.123456789) == 0.123456789


def test_presets_differ_where_the_programs_do():
    recbole, lattice, diffmm = (PROTOCOLS[name] for name in ("recbole", "lattice_mmssl", "diffmm"))
    assert recbole.masks_validation
    assert recbole.selection_tie == "last"
    assert recbole.selection_value(0.12344999) == 0.1234
    assert (lattice.idcg, lattice.idcg_list_length, lattice.masks_validation) == ("hits", 50, False)
    assert diffmm.select_on == "test"
    assert {protocol.cold_users for protocol in (recbole, lattice, diffmm)} == {"keep"}


def test_only_protocols_that_choose_on_test_carry_a_warning():
    warned = {name for name, protocol in PROTOCOLS.items() if protocol.warning}
    assert warned == {"diffmm"}
    assert "TEST split" in str(PROTOCOLS["diffmm"].warning)
    assert replace(PROTOCOLS["mmrec"], select_on="test").warning


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_survives_json(name):
    written = json.loads(json.dumps(PROTOCOLS[name].to_dict()))
    assert written["name"] == name
    assert EvaluationProtocol(**written | {"ks": tuple(written["ks"])}) == PROTOCOLS[name]


def test_own_cutoffs_replace_the_presets():
    assert evaluation_protocol("recbole", ks=[5, 10]) == replace(PROTOCOLS["recbole"], ks=(5, 10))


@pytest.mark.parametrize("ks", [(), (0, 10), (-5,), (20, 10), (10, 10)])
def test_bad_cutoffs_are_refused(ks):
    with pytest.raises(UsageError, match="positive, ascending and distinct"):
        evaluation_protocol("mmrec", ks=ks)


def test_the_list_length_must_fit_the_ideal():
    with pytest.raises(UsageError, match="largest cut-off, 100; found 50"):
        evaluation_protocol("lattice_mmssl", ks=(10, 100))
    with pytest.raises(UsageError, match="largest cut-off, 50; found None"):
        EvaluationProtocol(idcg="hits")
    with pytest.raises(UsageError, match="idcg='hits' only, found 20"):
        EvaluationProtocol(idcg_list_length=20)


def test_an_unknown_preset_is_named_with_its_neighbors():
    with pytest.raises(UsageError, match="Unknown evaluation protocol 'mmrek'. Did you mean mmrec"):
        evaluation_protocol("mmrek")
