"""Memory of the HTTP process."""

from __future__ import annotations

import ctypes
import sys

LARGE = 1 << 20  # bytes
ARENAS = 2
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of glibc's malloc.h


def return_large_blocks() -> None:
    """Return the memory of long bodies to the system as soon as it is no longer needed.

    By default, once a block of up to 32 MB has been freed, glibc takes such blocks from its heaps, one for each thread.
    Smaller blocks in between then keep the memory occupied. Other C libraries are not changed.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
        set_option(_MMAP_THRESHOLD, LARGE)
        set_option(_ARENA_MAX, ARENAS)
