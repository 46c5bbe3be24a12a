"""A tensor some rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ms_codegeex.formats.tensors import BLOCK_BYTES, NUMPY_DTYPES, LazyTensor


def pieces(tensor: LazyTensor, nbytes: int) -> Iterator[np.ndarray]:
    """The numbers in order, some rows at a time: at most `nbytes`, at least one row. Nobody writes to a piece. Damage
    may be found with the last one only: use nothing of them before."""
    length, width = (tensor.shape or (1,))[0], NUMPY_DTYPES[tensor.dtype].itemsize
    count = max(1, nbytes // max(1, math.prod(tensor.shape[1:]) * width))
    if tensor.rows is not None:
        yield from tensor.rows(count)
    elif tensor.part is not None and tensor.nbytes > BLOCK_BYTES:
        step = count * max(1, BLOCK_BYTES // nbytes)
        for start in range(0, length, step):
            window = (slice(start, start + step), *(slice(None),) * (len(tensor.shape) - 1))
            yield from pieces(tensor.window(window), nbytes)
    else:
        array = np.atleast_1d(tensor.array())
        for start in range(0, length, count):
            yield array[start : start + count]
