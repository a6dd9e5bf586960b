"""The most memory that a process ever held."""

import sys

import psutil


def peak_mib() -> float:
    """Return the most memory that this process ever held, interpreter and libraries included, in MiB."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
