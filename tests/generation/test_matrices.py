"""Where packed matrices and caches lie in memory."""

import numpy as np

from ms_codegeex.generation.matrices import aligned

MB = 1 << 20


def resident():
    """Bytes of this process's memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def test_of_a_sparse_array_only_written_pages_take_memory():
    before = resident()
    cache = aligned((128, 2 * MB), np.uint8, sparse=True)
    cache[:, MB] = 1
    assert resident() - before < 32 * MB and cache.sum(dtype=np.int64) == 128


def test_arrays_are_zeros_at_multiples_of_64_bytes():
    for shape in ((3, 5), (0, 7), (1000, 33)):
        array = aligned(shape, np.float32)
        assert array.shape == shape and array.ctypes.data % 64 == 0 and not array.any()
        array[:] = 1  # may be written
        view = array.view(np.int32)
        del array
        assert (view == 0x3F800000).all()  # a view keeps the memory
