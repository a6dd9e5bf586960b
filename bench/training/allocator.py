"""What the C library does with freed memory, set the same for every model.

By default glibc gives every freed large buffer back to the system at once, so a training step pays for fresh pages
again and again, which models of short steps feel most. Other systems need nothing here.
"""

import ctypes
import gc
import sys

# From glibc's malloc.h. Both thresholds are needed: each alone leaves the other way of giving memory back open.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
_NEVER_TRIM = 2**31 - 1


def keep_large_buffers() -> None:
    """Tell glibc to keep freed memory for the next step, up to `return_free_memory`."""
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM)


def return_free_memory() -> None:
    """Collect garbage and hand freed heap back to the system, so one cell's leftovers do not hide the next's peak."""
    gc.collect()
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(function: str) -> "ctypes._NamedFuncPointer | None":
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None
