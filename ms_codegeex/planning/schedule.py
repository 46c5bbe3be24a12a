"""The order in which a stage of a pipeline runs its micro-batches, and how many of them it has open.

1F1B, and with several virtual stages interleaved 1F1B (Narayanan et al., Efficient large-scale language model training
on GPU clusters using Megatron-LM, arXiv:2104.04473, section 2.2).
"""

from __future__ import annotations

from functools import lru_cache


def passes(stages: int, virtual_stages: int, micro_batches: int, backward: bool = False) -> list[tuple[int, int]]:
    """Micro-batch and virtual stage of every forward (or `backward`) pass of a stage, in their order: as many
    micro-batches as there are stages go through one virtual stage, then through the next one."""
    numbers = range(virtual_stages)
    return [
        (micro, number)
        for first in range(0, micro_batches, stages)
        for number in (reversed(numbers) if backward else numbers)
        for micro in range(first, min(first + stages, micro_batches))
    ]


def warm_up(stages: int, virtual_stages: int, stage: int) -> int:
    """How many forward passes a stage runs before forward and backward passes alternate, if there are as many."""
    later = stages - 1 - stage
    return later if virtual_stages == 1 else 2 * later + stages * (virtual_stages - 1)


@lru_cache(maxsize=512)
def open_passes(stages: int, virtual_stages: int, micro_batches: int, stage: int) -> tuple[tuple[int, ...], ...]:
    """What a stage has open at its peaks: for each virtual stage, how many micro-batches have run forward but not
    backward. The peaks are the times after each forward pass, without repetitions."""
    if virtual_stages == 1:
        return ((min(micro_batches, stages - stage),),)
    forward = passes(stages, virtual_stages, micro_batches)
    backward = passes(stages, virtual_stages, micro_batches, backward=True)
    ahead, counts, peaks = warm_up(stages, virtual_stages, stage), [0] * virtual_stages, {}
    for done, (_, number) in enumerate(forward):
        counts[number] += 1
        peaks[tuple(counts)] = None
        if done >= ahead:
            counts[backward[done - ahead][1]] -= 1
    return tuple(peaks)
