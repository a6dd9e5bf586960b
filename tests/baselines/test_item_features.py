import pytest
import torch

from baselines.item_features import ItemFeatures


@pytest.fixture
def features():
    torch.manual_seed(3)
    return {"visual": torch.randn(6, 5), "keys": torch.randn(6, 2), "a.b": torch.randn(6, 3)}


def test_modalities_come_by_name_whatever_they_are_called(features):
    tables = ItemFeatures(features, 4, trainable=True)
    assert tables.names == ["a.b", "keys", "visual"]
    assert len(tables) == 3
    for place, name in enumerate(tables.names):
        assert torch.equal(tables.raw(place), features[name])


@pytest.mark.parametrize("trainable", [True, False])
def test_projections_of_some_items_are_rows_of_those_of_all(features, trainable):
    tables = ItemFeatures(features, 4, trainable=trainable)
    items, others = torch.tensor([5, 0, 5]), torch.tensor([1, 2, 0])
    layer = tables.projections[2]
    every = features["visual"] @ layer.weight.T + layer.bias
    assert torch.allclose(tables.project(2), every)
    assert torch.allclose(tables.project(2, items), every[items], atol=1e-6)
    assert torch.allclose(tables.project_difference(2, items, others), every[items] - every[others], atol=1e-6)


def test_learning_features_are_parameters_and_leave_the_given_ones_alone(features):
    before = {name: table.clone() for name, table in features.items()}
    tables = ItemFeatures(features, 4, trainable=True)
    assert {f"tables.table_{m}" for m in range(3)} <= set(tables.state_dict())
    tables.project(0).sum().backward()
    assert tables.raw(0).grad.abs().sum() > 0
    with torch.no_grad():
        tables.raw(0).add_(1.0)
    assert all(torch.equal(features[name], before[name]) for name in features)


def test_frozen_features_are_data(features):
    tables = ItemFeatures(features, 4, trainable=False)
    assert not any("table_" in name for name in tables.state_dict())
    assert not any("table_" in name for name, _ in tables.named_parameters())
    assert not tables.raw(1).requires_grad
