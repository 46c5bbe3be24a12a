"""Gradient functions for the communication of weights, which replace MindSpore's.

MindSpore inserts an operator for every weight that is gathered or whose gradient is reduced, and parses the Python
source of its gradient once for each of them. These functions contain branches for averaged gradients, sparse gradients
and the monitoring of norms, which parsing keeps in memory until they turn out not to be taken: with all 40 layers of
the 13B inlined, they are more than half of MindSpore's memory. The functions below contain only what a run takes.

- A rehearsal compiles large graphs with them in less memory. The compiled graph is the same (a test compares all
  operators).
- With `parallel.short_gradients`, which MindSpore does not have for sums of micro-batches, every rank uses them, and
  gradients travel in 16 bits. Other runs use MindSpore's functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import mindspore as ms
from mindspore import Tensor
from mindspore.common import dtype as mstype
from mindspore.ops import functional as F
from mindspore.ops import operations as P
from mindspore.ops._grad_experimental.grad_base import bprop_getters
from mindspore.ops.operations.comm_ops import (
    AllGather,
    AllReduce,
    ReduceOp,
    ReduceScatter,
    _MicroStepAllGather,
    _MirrorMicroStepOperator,
    _MirrorOperator,
)
from mindspore.parallel._utils import _get_enable_parallel_optimizer
from mindspore.tools.sdc_detect import _sdc_detector

if TYPE_CHECKING:
    from ms_codegeex.config import RunConfig

MONITORS = ("dump_local_norm", "dump_local_norm_path", "dump_device_local_norm")


def narrow_sum(reduce: Any, devices: int, half: ms.Type, sent: ms.Type) -> Callable[[Tensor], Tensor]:
    """Return a function that sums an FP32 gradient over `devices` in 16 bits (`half`) by a collective of type `sent`.
    Each device sends its share of the mean, so an FP16 sum overflows only where a device's own gradient does."""
    cast, scale, dtype = P.Cast(), P.Mul(), P.DType()
    share, whole = (Tensor(x, mstype.float32) for x in (1 / devices, float(devices)))

    def total(gradient: Tensor) -> Tensor:
        part = cast(scale(cast(gradient, mstype.float32), share), half)
        mean = cast(reduce(cast(part, sent)), half)
        return cast(scale(cast(mean, mstype.float32), whole), dtype(gradient))

    return total


def sixteen_bits(config: RunConfig) -> ms.Type | None:
    """Return the 16-bit type in which a run sends gradients; None: they are sent in FP32."""
    types = {"fp16": ms.float16, "bf16": ms.bfloat16}
    return types[config.training.precision] if config.parallel.short_gradients else None


def use_gradient_functions(half: ms.Type | None = None) -> None:
    """Register the functions of this file with MindSpore in this process. Call it before a graph is compiled. `half`:
    the 16-bit type in which gradients are sent; None: their own type."""
    for operator, function in FUNCTIONS.items():
        bprop_getters.register(operator)(_getter(partial(function, half=half), bprop_getters[operator.__name__]))


def _getter(short: Callable[[Any], Callable], engine: Callable[[Any], Callable]) -> Callable[[Any], Callable]:
    """Return a function from an operator to its gradient function: ours, or MindSpore's where ours does too little."""

    def get(operator: Any) -> Callable:
        monitored = any(map(ms.get_auto_parallel_context, MONITORS)) or _sdc_detector.need_sample()
        mean = operator.get_attr_dict().get("mean_flag")
        return engine(operator) if monitored or mean else short(operator)

    return get


def _named(operator: Any, prefix: str, collective: Any, half: ms.Type | None, devices: int) -> Any:
    attributes = operator.get_attr_dict()
    collective.add_prim_attr("fusion", attributes["fusion"])
    if "segment" in attributes and not isinstance(operator, AllGather | _MirrorOperator):
        collective.add_prim_attr("segment", attributes["segment"])
    if isinstance(collective, AllReduce) and hasattr(operator, "parameter"):
        collective.add_prim_attr("parameter", operator.parameter)
    if getattr(operator, "instance_name", None):
        collective.set_prim_instance_name(prefix + operator.instance_name)
    return collective if half is None else narrow_sum(collective, devices, half, half)


def _kept(x: Any, out: Any, dout: Any) -> tuple[Any]:
    return (dout,)


def _sent(collective: Any) -> Callable:
    def bprop(x: Any, out: Any, dout: Any) -> tuple[Any]:
        return (collective(dout),)

    return bprop


def _sent_last(collective: Any | None) -> Callable:
    cast, dtype, one = P.Cast(), P.DType(), Tensor(1.0, mstype.float16)

    def alone(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
        z = F.depend(z, dout)
        return (z, cast(one, dtype(z)))

    def sent(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
        z = F.depend(z, dout)
        return (collective(z), cast(one, dtype(z)))

    return sent if collective else alone


def _all_gather(operator: Any, half: ms.Type | None) -> Callable:
    half = half if "mirror_user_id" in operator.get_attr_dict() else None
    operator.group, operator.rank_size = (operator.get_attr_dict()[key] for key in ("group", "rank_size"))
    collective = ReduceScatter(ReduceOp.SUM, operator.group)
    return _sent(_named(operator, "grad_", collective, half, operator.rank_size))


def _mirror(operator: Any, half: ms.Type | None) -> Callable:
    attributes = operator.get_attr_dict()
    if attributes["dev_num"] == 1:
        return _kept
    collective = AllReduce(group=attributes["group"])
    return _sent(_named(operator, "grad_mirror", collective, half, attributes["dev_num"]))


def _micro_all_gather(operator: Any, half: ms.Type | None) -> Callable:
    attributes = operator.get_attr_dict()
    cast, dtype, one = P.Cast(), P.DType(), Tensor(1.0, mstype.float16)
    if not (operator.group != "" and attributes["do_mirror"]):

        def passed(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
            return (dout, cast(one, dtype(z)))

        return passed if attributes["with_mirror_operator"] else _sent_last(None)
    collective = ReduceScatter(ReduceOp.SUM, operator.group)
    reduce_scatter = _named(operator, "grad_", collective, half, collective.rank_size)

    def at_once(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
        return (reduce_scatter(cast(dout, dtype(z))), cast(one, dtype(z)))

    return at_once if attributes["with_mirror_operator"] else _sent_last(reduce_scatter)


def _micro_mirror(operator: Any, half: ms.Type | None) -> Callable:
    cast, dtype, one = P.Cast(), P.DType(), Tensor(1.0, mstype.float16)
    assign = P.Assign()
    if "parameter_micro" in operator.get_attr_dict():
        assign.add_prim_attr("parameter_micro", 0)
    all_reduce = _named(operator, "grad_mirror", AllReduce(group=operator.group), half, operator.dev_num)

    if _get_enable_parallel_optimizer():
        return _sent_last(all_reduce if operator.dev_num > 1 else None)

    def assigned(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
        z = F.depend(z, dout)
        return F.depend((cast(one, dtype(x)), cast(one, dtype(z))), assign(z, all_reduce(z)))

    def assigned_alone(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
        z = F.depend(z, dout)
        return F.depend((cast(one, dtype(x)), cast(one, dtype(z))), assign(z, z))

    return assigned if operator.dev_num > 1 else assigned_alone


FUNCTIONS = {
    AllGather: _all_gather,
    _MirrorOperator: _mirror,
    _MicroStepAllGather: _micro_all_gather,
    _MirrorMicroStepOperator: _micro_mirror,
}
