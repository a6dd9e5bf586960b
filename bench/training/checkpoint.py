"""Model weights on disk, in safetensors: data only, nothing that can run."""

from pathlib import Path

import safetensors
from safetensors.torch import load_file, save_file
from torch import nn

from bench.errors import DataError


def save_checkpoint(model: nn.Module, path: Path) -> None:
    """Write the model's state dict."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path)


def load_checkpoint(model: nn.Module, path: Path) -> None:
    """Fill the model from a checkpoint written by `save_checkpoint`.

    Raises:
        DataError: the file is missing, is no checkpoint, or belongs to another model.
    """
    try:
        model.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise DataError(f"There is no checkpoint at {path}. Run the cell again to make one.") from error
    except safetensors.SafetensorError as error:
        raise DataError(f"{path} is not a safetensors checkpoint: {error}.") from error
    except RuntimeError as error:
        raise DataError(f"{path} does not fit {type(model).__name__}: {error}") from error
