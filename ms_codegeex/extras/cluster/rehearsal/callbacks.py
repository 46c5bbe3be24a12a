"""Operators of a rehearsal's graph that call Python functions.

MindSpore 2.10 refuses the operator PyFunc in a MindIR file. 2.9 and 2.10 take a `Custom` operator whose function is in
a compiled library. That function hands its tensors to Python; the first of them is the number of what to call.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ms_codegeex.base.cache import cached_folder
from ms_codegeex.extras.cluster.rehearsal.stubs import compile_library

WHAT = "the operator that calls Python"
FAILED = 1  # the status that tells MindSpore so
# MindSpore's interface of such functions: the inputs and then the output.
SOURCE = """
#include <stdint.h>

typedef int (*python_function)(int, void **, int *, int64_t **, const char **);
static python_function python;

void use_python(python_function function) { python = function; }

int call(int count, void **tensors, int *ranks, int64_t **sizes, const char **types, void *stream, void *extra) {
    return python ? python(count, tensors, ranks, sizes, types) : -1;
}
"""


def library() -> Path:
    """The compiled library, made on the first call; many processes may call it at once. `UserError` without a C
    compiler, `RunFailure` if it does not compile."""

    def fill(folder: Path) -> None:
        source = folder / "calls.c"
        source.write_text(SOURCE)
        compile_library(source, folder / "calls.so", WHAT)

    content = hashlib.sha256(f"{SOURCE}{platform.machine()}".encode()).hexdigest()
    return cached_folder(f"calls-{content[:16]}", WHAT, fill) / "calls.so"


class Callbacks:
    """Python functions by number, for the operators of this process's graphs; to be kept until the last of them has
    run. A function takes the operator's inputs as arrays that are valid during the call, and returns the output, whose
    shape and element type the graph says. bfloat16 comes and goes as its bits, uint16."""

    def __init__(self, functions: Mapping[int, Callable[..., np.ndarray]]):
        self._functions = functions
        self._error: BaseException | None = None
        pointers = (ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(ctypes.c_int64), ctypes.c_char_p)
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, *map(ctypes.POINTER, pointers))
        self._called = kind(self._call)  # the library holds only its address
        ctypes.CDLL(str(library())).use_python(self._called)

    def _call(self, count: int, tensors: Any, ranks: Any, sizes: Any, types: Any) -> int:
        """Call a function, which must not raise into C: its first error is kept."""
        try:
            arrays = (_array(tensors[i], sizes[i][: ranks[i]], types[i].decode()) for i in range(count))
            number, *given, output = arrays
            output[...] = self._functions[number.item()](*given)
        except BaseException as error:
            self._error = self._error or error
            return FAILED
        return 0

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raises a function's error in place of MindSpore's, which does not know it."""
        try:
            yield
        except RuntimeError:
            if self._error is None:
                raise
            raise self._error from None


def _array(address: int | None, shape: list[int], dtype: str) -> np.ndarray:
    """A tensor of MindSpore, not copied."""
    kind = np.dtype("uint16" if dtype == "bfloat16" else dtype)
    content = ctypes.c_char * (math.prod(shape) * kind.itemsize)
    return np.frombuffer(content.from_address(address) if address else content(), kind).reshape(shape)
