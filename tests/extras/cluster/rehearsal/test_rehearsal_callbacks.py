"""Operators that call Python, in a compiled graph of the engine."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.extras.cluster.rehearsal.callbacks import Callbacks, library

pytestmark = pytest.mark.usefixtures("graph_mode_throughout")


class Calls(nn.Cell):
    """Calls a Python function with tensors."""

    def __init__(self, number: int, shape: tuple[int, ...], dtype: ms.dtype):
        super().__init__()
        self.number = Tensor([number], ms.int64)
        self.call = ops.Custom(f"{library()}:call", lambda *_: shape, lambda *_: dtype, func_type="aot")

    def construct(self, *given):
        return self.call(self.number, *given)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "int64", "bool"])
@pytest.mark.parametrize("shape", [(), (3, 2)], ids=str)
def test_every_type_comes_and_goes(dtype, shape):
    values = np.arange(6, dtype="float32")[: np.prod(shape, dtype=int)].reshape(shape)
    seen = []

    def second(*given):
        seen.append([(each.shape, each.dtype.name) for each in given])
        return given[1]

    calls = Callbacks({7: second, 8: lambda *_: 0})
    kind = getattr(ms, "bool_" if dtype == "bool" else dtype)
    with calls.errors():
        result = Calls(7, shape, kind)(Tensor(values + 1, kind), Tensor(values, kind))
    if shape:  # a graph returns a tensor without axes as a Python number
        result = result.astype(ms.float32).asnumpy()
    np.testing.assert_array_equal(result, values.astype(dtype if dtype[0] == "i" or dtype == "bool" else "f4"))
    assert seen == [[(shape, "uint16" if dtype == "bfloat16" else dtype)] * 2]


def test_an_error_of_a_function_is_raised_in_place_of_the_engines():
    def wrong(value):
        raise RunFailure("rank 1 sent nothing")

    calls = Callbacks({1: wrong, 2: lambda value: np.zeros((3, 3))})
    with pytest.raises(RunFailure, match=r"^rank 1 sent nothing$"), calls.errors():
        Calls(1, (2,), ms.float32)(Tensor([1.0, 2.0])).asnumpy()
    for number, error in ((2, ValueError), (3, KeyError)):  # of another shape; no such function
        calls = Callbacks({2: lambda value: np.zeros((3, 3))})
        with pytest.raises(error), calls.errors():
            Calls(number, (2,), ms.float32)(Tensor([1.0, 2.0])).asnumpy()
    with pytest.raises(RuntimeError, match="not the function's"), calls.errors():
        calls._error = None
        raise RuntimeError("not the function's")
