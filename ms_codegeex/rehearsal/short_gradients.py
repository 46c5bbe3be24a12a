"""Shorter gradient functions for the communication of weights, so that a large graph compiles in less memory.

The engine inserts an operator for every weight that is gathered or whose gradient is reduced, and parses the Python
source of its gradient once for each of them. These functions contain branches for averaged gradients, sparse gradients
and the monitoring of norms, which parsing keeps in memory until they turn out not to be taken: with all 40 layers of
the 13B inlined, they are more than half of the engine's memory. The functions below contain only what a run takes.
The compiled graph is the same (a test compares all operators). Runs themselves use the engine's functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

MONITORS = ("dump_local_norm", "dump_local_norm_path", "dump_device_local_norm")


def use_short_gradients() -> None:
    """Register the functions of this file with the engine, in this process, before a graph is compiled."""
    for operator, short in SHORT.items():
        bprop_getters.register(operator)(_getter(short, bprop_getters[operator.__name__]))


def _getter(short: Callable[[Any], Callable], engine: Callable[[Any], Callable]) -> Callable[[Any], Callable]:
    """A function from an operator to its gradient function: the short one, or the engine's if that would do more."""

    def get(operator: Any) -> Callable:
        monitored = any(map(ms.get_auto_parallel_context, MONITORS)) or _sdc_detector.need_sample()
        mean = operator.get_attr_dict().get("mean_flag")
        return engine(operator) if monitored or mean else short(operator)

    return get


def _named(operator: Any, prefix: str, collective: Any) -> Any:
    """The collective with the bucket and the name that the engine gives it."""
    attributes = operator.get_attr_dict()
    collective.add_prim_attr("fusion", attributes["fusion"])
    if "segment" in attributes and not isinstance(operator, AllGather | _MirrorOperator):
        collective.add_prim_attr("segment", attributes["segment"])
    if isinstance(collective, AllReduce) and hasattr(operator, "parameter"):
        collective.add_prim_attr("parameter", operator.parameter)
    if getattr(operator, "instance_name", None):
        collective.set_prim_instance_name(prefix + operator.instance_name)
    return collective


def _kept(x: Any, out: Any, dout: Any) -> tuple[Any]:
    return (dout,)


def _sent(collective: Any) -> Callable:
    """The gradient is sent."""

    def bprop(x: Any, out: Any, dout: Any) -> tuple[Any]:
        return (collective(dout),)

    return bprop


def _sent_last(collective: Any | None) -> Callable:
    """What all micro-batches have added to `z` is sent after the last one's `dout`; None: it stays here."""
    cast, dtype, one = P.Cast(), P.DType(), Tensor(1.0, mstype.float16)

    def alone(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
        z = F.depend(z, dout)
        return (z, cast(one, dtype(z)))

    def sent(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
        z = F.depend(z, dout)
        return (collective(z), cast(one, dtype(z)))

    return sent if collective else alone


def _all_gather(operator: Any) -> Callable:
    """Scatter the sum of the gradients."""
    operator.group, operator.rank_size = (operator.get_attr_dict()[key] for key in ("group", "rank_size"))
    return _sent(_named(operator, "grad_", ReduceScatter(ReduceOp.SUM, operator.group)))


def _mirror(operator: Any) -> Callable:
    """Sum the gradients of all replicas."""
    attributes = operator.get_attr_dict()
    if attributes["dev_num"] == 1:
        return _kept
    return _sent(_named(operator, "grad_mirror", AllReduce(group=attributes["group"])))


def _micro_all_gather(operator: Any) -> Callable:
    """Scatter the sum of the gradients that all micro-batches have added to `z`, after the last one's `dout`."""
    attributes = operator.get_attr_dict()
    cast, dtype, one = P.Cast(), P.DType(), Tensor(1.0, mstype.float16)
    if not (operator.group != "" and attributes["do_mirror"]):

        def passed(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
            return (dout, cast(one, dtype(z)))

        return passed if attributes["with_mirror_operator"] else _sent_last(None)
    reduce_scatter = _named(operator, "grad_", ReduceScatter(ReduceOp.SUM, operator.group))

    def at_once(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
        return (reduce_scatter(cast(dout, dtype(z))), cast(one, dtype(z)))

    return at_once if attributes["with_mirror_operator"] else _sent_last(reduce_scatter)


def _micro_mirror(operator: Any) -> Callable:
    """Sum over all replicas the gradients that all micro-batches have added to `z`, after the last one's `dout`."""
    cast, dtype, one = P.Cast(), P.DType(), Tensor(1.0, mstype.float16)
    assign = P.Assign()
    if "parameter_micro" in operator.get_attr_dict():
        assign.add_prim_attr("parameter_micro", 0)
    all_reduce = _named(operator, "grad_mirror", AllReduce(group=operator.group))

    if _get_enable_parallel_optimizer():
        return _sent_last(all_reduce if operator.dev_num > 1 else None)

    def assigned(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
        z = F.depend(z, dout)
        return F.depend((cast(one, dtype(x)), cast(one, dtype(z))), assign(z, all_reduce(z)))

    def assigned_alone(x: Any, z: Any, out: Any, dout: Any) -> tuple[Any, Any]:
        z = F.depend(z, dout)
        return F.depend((cast(one, dtype(x)), cast(one, dtype(z))), assign(z, z))

    return assigned if operator.dev_num > 1 else assigned_alone


SHORT = {
    AllGather: _all_gather,
    _MirrorOperator: _mirror,
    _MicroStepAllGather: _micro_all_gather,
    _MirrorMicroStepOperator: _micro_mirror,
}
