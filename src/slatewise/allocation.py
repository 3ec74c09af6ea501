"""The C allocator: keep memory that was freed instead of handing it back to the system.

A vector step makes arrays of many megabytes and frees them; fetched anew from the system each time, every page of
them costs a fault, which at a million users is a third of the step. For whole processes that simulate or train (the
command line, benchmarks), never on import.
"""

import ctypes
import sys

# Options of glibc's mallopt(3).
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tell glibc to reuse freed memory of any size; return whether it was told (elsewhere nothing happens)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (TOP_PAD, 2**26))
    return all(mallopt(option, value) == 1 for option, value in settings)
