"""The settings that `finetune` chooses: whatever the model, the lengths and the memory, they fit, and more memory never
gives slower ones."""

from functools import cache

import numpy as np
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from ms_codegeex.config.loading import load_config
from ms_codegeex.runs.fitting import (
    LONGER,
    ROUNDED,
    evaluations_every,
    first_that_fits,
    length_of,
    passes_over,
    settings,
)
from ms_codegeex.runs.memory_check import required_memory

PRESETS = (("codegen", "350m-multi"), ("codegeex2", "6b"))


@hypothesis_settings(max_examples=50)
@given(st.lists(st.integers(2, 3000), min_size=1, max_size=400), st.integers(2, 2048))
def test_at_most_one_example_in_a_hundred_is_longer(sizes, limit):
    length = length_of(np.array(sizes), limit)
    longer = sum(size > length for size in sizes)
    assert length <= limit and (length == limit or length % ROUNDED == 0)
    if length < limit:
        assert longer * LONGER <= len(sizes)
    if length > ROUNDED:  # and no shorter one would do
        shorter = (length - 1) // ROUNDED * ROUNDED
        assert sum(size > shorter for size in sizes) * LONGER > len(sizes)


@cache
def candidates(family, preset, file, length):
    """All configurations for a model, and what they need."""
    model = [f"model.family={family}", f"model.preset={preset}"]
    found = []
    for choice in settings((length,), (2, 1) if file == "finetune_full" else (1,), ("none", "full"), 8):
        config = load_config(file, [*model, *choice.words()])
        found.append((config, required_memory(config, compiled=True)))
    return found


@hypothesis_settings(max_examples=40)
@given(
    st.sampled_from(PRESETS),
    st.sampled_from(["finetune_full", "finetune_lora"]),
    st.sampled_from([64, 512]),
    st.integers(10**8, 10**11),
    st.integers(0, 10**10),
)
def test_what_is_chosen_fits_and_more_memory_gives_no_slower_settings(model, file, length, budget, more):
    listed = candidates(*model, file, length)
    needs = {id(config): needed for config, needed in listed}
    order = [id(config) for config, _ in listed]
    places = []
    for size in (budget, budget + more):
        found, least = first_that_fits([config for config, _ in listed], lambda c: needs[id(c)], size)
        if found is None:
            assert least.needed == min(needs.values()) > size
            places.append(len(order))
        else:
            assert found.needed <= size
            places.append(order.index(id(found.config)))
            assert all(needs[other] > size for other in order[: places[-1]])
    assert places[1] <= places[0]


def test_the_order_in_which_settings_are_wanted():
    listed = [choice.words() for choice in settings((256,), (2, 1), ("none", "full"), 8)]
    first, last = listed[0], listed[-1]
    assert first == ["data.seq_length=256", "devices=2", "training.recompute=none", "training.micro_batch=2"]
    assert last == ["data.seq_length=256", "devices=1", "training.recompute=full", "training.micro_batch=1"]
    held = [choice.frozen for choice in settings((256,), (1,), ("none", "full"), 2, frozen=("fp32", "fp16"))]
    assert held == sorted(held, reverse=True) and len(held) == 8  # rounded only if nothing else fits
    stated = list(settings((None,), (None,), (None,), None))
    assert [choice.words() for choice in stated] == [[]]


@given(st.integers(1, 10**7))
def test_little_data_is_passed_over_more_often_but_not_for_ever(examples):
    passes = passes_over(examples)
    assert 3 <= passes <= 10 and passes >= passes_over(examples + 1)


@given(st.integers(1, 10**5), st.integers(1, 100))
def test_a_run_is_evaluated_often_enough_to_stop_early(steps, at_most):
    every = evaluations_every(steps, at_most)
    assert 1 <= every <= at_most and (every == 1 or steps // every >= 6)
