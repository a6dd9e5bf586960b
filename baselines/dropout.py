"""Dropout for wide tables on a CPU, where PyTorch's spends more time on random numbers than a matrix product takes.

Four entries share one random number of 64 bits instead of each taking a draw of its own, which is a fifth of the time.
"""

import torch
from torch import Tensor
from torch.nn.functional import dropout

LEVELS = 1 << 16
# Entries of one block of a table that is changed in place: 1 MiB of float32.
BLOCK_ENTRIES = 1 << 18


def drop(x: Tensor, share: float, training: bool) -> Tensor:
    """Return x with a share of its entries set to zero and the others divided by what is kept.

    On a CPU the share is rounded to a multiple of 2^-16, and the kept entries are divided by the rounded rest, so that
    expected values are those of x.

    Args:
        x: of any shape.
        share: of the entries dropped, at least 0 and below 1.
        training: x itself is returned otherwise.
    """
    if x.device.type != "cpu" or not training or share == 0.0:
        return dropout(x, share, training)
    return x * kept(x.shape, share)


def drop_in_place(x: Tensor, share: float) -> None:
    """Change x to `drop(x, share, training=True)`, without a second table of its size.

    Args:
        x: [n, width], not recorded for autograd.
        share: of the entries dropped, at least 0 and below 1.
    """
    if share == 0.0:
        return
    if x.device.type != "cpu":
        dropout(x, share, training=True, inplace=True)
        return
    for block in torch.split(x, max(1, BLOCK_ENTRIES // max(1, x.shape[1]))):
        block.mul_(kept(block.shape, share))


def kept(shape: torch.Size, share: float) -> Tensor:
    """Return 1 / (1 - share) at each entry that is kept and 0 at the others, float32 on the CPU.

    Args:
        shape: of the result.
        share: of the entries dropped, at least 0 and below 1.
    """
    n_levels = max(1, round((1.0 - share) * LEVELS))
    n_entries = shape.numel()
    words = torch.empty(-(-n_entries // 4), dtype=torch.int64).random_(-(1 << 63), None)
    levels = words.view(torch.int16)[:n_entries].view(shape)
    # The lowest level is -LEVELS / 2. A comparison with more than the largest int16 would wrap around.
    is_kept = torch.le(levels, n_levels - 1 - LEVELS // 2, out=torch.empty(shape))
    return is_kept.mul_(LEVELS / n_levels)
