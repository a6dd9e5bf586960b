import pytest
import torch
from torch import nn

from baselines.modalities import FeatureTables, feature_matrices


@pytest.fixture
def matrices():
    torch.manual_seed(0)
    return {"visual": torch.randn(6, 3), "audio": torch.randn(6, 5)}


def test_modalities_come_in_the_order_of_their_names(matrices):
    found = feature_matrices(matrices, 6, "Some")
    assert list(found) == ["audio", "visual"]
    assert found["visual"] is matrices["visual"]


def test_without_features_the_message_says_who_needs_them():
    with pytest.raises(ValueError, match="Some needs the item features of at least one modality, found none"):
        feature_matrices({}, 6, "Some")


@pytest.mark.parametrize("wrong", [torch.zeros(5, 3), torch.zeros(6)])
def test_features_that_do_not_fit_the_items_are_named(matrices, wrong):
    shape = list(wrong.shape)
    with pytest.raises(ValueError, match=rf"'audio' to have shape \[6, width\].*found \[{str(shape)[1:-1]}\]"):
        feature_matrices(matrices | {"audio": wrong}, 6, "Some")


def test_fixed_tables_share_memory_and_are_no_state(matrices):
    tables = FeatureTables(list(matrices.values()), trainable=False)
    assert tables.tables()[0].data_ptr() == matrices["visual"].data_ptr()
    assert not list(tables.parameters())
    assert not tables.state_dict()
    assert tables.widths == [3, 5]


def test_trainable_tables_are_copies_that_get_gradients(matrices):
    before = matrices["audio"].clone()
    tables = FeatureTables(list(matrices.values()), trainable=True)
    assert len(tables.state_dict()) == 2
    sum(rows.sum() for rows in tables.rows(torch.tensor([1, 1, 4]))).backward()
    assert torch.equal(tables.tables()[1].grad[:, 0], torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0, 0.0]))
    with torch.no_grad():
        tables.tables()[1].zero_()
    assert torch.equal(matrices["audio"], before)


def test_rows_are_those_of_the_items(matrices):
    tables = FeatureTables(list(matrices.values()), trainable=False)
    items = torch.tensor([5, 0, 5])
    for rows, matrix in zip(tables.rows(items), matrices.values(), strict=True):
        assert torch.equal(rows, matrix[items])


def test_tables_follow_the_module_to_another_type(matrices):
    tables: nn.Module = FeatureTables(list(matrices.values()), trainable=False)
    assert tables.double().tables()[0].dtype == torch.float64
