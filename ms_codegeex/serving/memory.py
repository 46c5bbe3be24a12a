"""Memory of the HTTP process."""

from __future__ import annotations

import ctypes
import sys

LARGE = 1 << 20  # bytes
ARENAS = 2
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of glibc's malloc.h


def return_large_blocks() -> None:
    """Give the memory of long bodies back to the system as soon as nobody needs it.

    By itself, glibc takes blocks of up to 32 MB from its heaps, one for each thread, once such a block has been freed.
    Smaller ones in between then keep the memory. Other C libraries stay as they are.
    """
    if sys.platform == "linux":
        set_option = getattr(ctypes.CDLL(None), "mallopt", lambda *_: 0)
        set_option(_MMAP_THRESHOLD, LARGE)
        set_option(_ARENA_MAX, ARENAS)
