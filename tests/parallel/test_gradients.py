"""Sums of gradients in 16 bits, by a collective that adds up what two devices send."""

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from ms_codegeex.parallel import gradients
from ms_codegeex.parallel.gradients import narrow_sum

FP16_LARGEST = 65504.0


def total(own, other, half, sent):
    """The sum on a device that holds `own`, with what was sent."""
    seen = []

    def reduce(tensor):
        seen.append(tensor)
        share = ms.ops.cast(Tensor(np.array(other, np.float32) / 2), half)
        return tensor + ms.ops.cast(share, sent)

    found = narrow_sum(reduce, 2, half, sent)(Tensor(np.array(own, np.float32)))
    assert found.dtype == ms.float32 and [x.dtype for x in seen] == [sent]
    return found.asnumpy()


@pytest.mark.parametrize(
    ("half", "sent", "bits"),
    [
        pytest.param(ms.float16, ms.float16, 11, id="fp16"),
        pytest.param(ms.bfloat16, ms.float32, 8, id="bf16, which a CPU cannot send"),
    ],
)
def test_a_sum_is_rounded_to_sixteen_bits(half, sent, bits):
    own, other = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    found, exact = total(own, other, half, sent), own + other
    error = np.abs(found - exact)
    assert error.max() > 0
    assert np.all(error <= (np.abs(own) + np.abs(other) + np.abs(exact)) * 2.0**-bits)  # two addends and the result
    half_numbers = (found / 2).astype(np.float32)  # a mean of two, as it was sent
    kept = half_numbers.astype(np.float16) if half == ms.float16 else half_numbers.view(np.uint32) & 0xFFFF
    assert np.array_equal(kept, half_numbers) if half == ms.float16 else not kept.any()


def test_a_sum_is_infinite_only_where_a_device_overflows():
    found = total([FP16_LARGEST, 3 * FP16_LARGEST, np.inf], [FP16_LARGEST, 0.0, 0.0], ms.float16, ms.float16)
    assert found[0] == 2 * FP16_LARGEST and np.isinf(found[1:]).all()


def test_only_the_gradients_of_weights_are_narrowed(monkeypatch):
    """`test_gradients_travel_in_sixteen_bits_as_planned` meets the engine's own gathers, of weights and activations."""
    halves = []
    monkeypatch.setattr(gradients, "_named", lambda operator, prefix, collective, half, devices: halves.append(half))
    monkeypatch.setattr(gradients, "ReduceScatter", lambda op, group: None)
    for names in ({"mirror_user_id": "blocks.0.attention.key.weight"}, {}):
        attributes = {"group": "0-1", "rank_size": 2, "fusion": 0, **names}
        gradients._all_gather(SimpleNamespace(get_attr_dict=attributes.copy), ms.float16)
    assert halves == [ms.float16, None]
