"""The other projects whose code can be run beside ours, by name."""

from bench.errors import unknown_name
from bench.speed.peers.diffmm import DIFFMM
from bench.speed.peers.mmrec import MMREC
from bench.speed.peers.peer import Peer
from bench.speed.peers.recbole import RECBOLE

PEERS = {peer.name: peer for peer in (MMREC, RECBOLE, DIFFMM)}


def find_peer(name: str) -> Peer:
    """Return the peer of this name.

    Raises:
        UsageError: no such peer.
    """
    if name not in PEERS:
        raise unknown_name("peer", name, PEERS)
    return PEERS[name]
