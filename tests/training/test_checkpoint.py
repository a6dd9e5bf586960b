import pytest
import torch
from torch import nn

from bench.errors import DataError
from bench.training import load_checkpoint, save_checkpoint


def test_weights_come_back_as_they_were(tmp_path):
    saved, loaded = nn.Linear(3, 2), nn.Linear(3, 2)
    save_checkpoint(saved, tmp_path / "model.safetensors")
    load_checkpoint(loaded, tmp_path / "model.safetensors")
    assert torch.equal(saved.weight, loaded.weight)


def test_a_missing_broken_or_foreign_checkpoint_is_explained(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(DataError, match="There is no checkpoint"):
        load_checkpoint(nn.Linear(3, 2), path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(DataError, match="is not a safetensors checkpoint"):
        load_checkpoint(nn.Linear(3, 2), path)
    save_checkpoint(nn.Linear(4, 2), path)
    with pytest.raises(DataError, match="does not fit Linear"):
        load_checkpoint(nn.Linear(3, 2), path)
