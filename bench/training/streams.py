"""Independent streams of randomness, each derived from the run's seed and a purpose.

Two runs that differ in one stream share all the others: drawing more negatives never changes the shuffle. Model code
draws from torch's global generator (initialisation, dropout, noise); `borrowed` lends it a stream for a while and puts
the former state back, so nothing outside is disturbed.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, purpose: str) -> int:
    """Return the 63-bit seed of one purpose ("init", "shuffle", "negatives", "noise") of a run's seed."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, purpose: str, device: torch.device) -> torch.Generator:
    """Return a generator on `device` for one purpose of a run's seed."""
    return torch.Generator(device=device).manual_seed(derive(seed, purpose))


@contextmanager
def borrowed(seed: int, purpose: str, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for one purpose inside the block and restore them after it."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(seed, purpose))
        yield
