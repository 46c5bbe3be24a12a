"""From the prompts of a test case to a program: turn by turn in one growing context, or as one specification."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ms_codegeex.base.errors import PromptTooLong
from ms_codegeex.evaluation.benchmarks import truncation
from ms_codegeex.evaluation.replies import python
from ms_codegeex.evaluation.replies.blocks import Asked
from ms_codegeex.evaluation.replies.code import code_of
from ms_codegeex.evaluation.task import Complete, SampledAnswer

HISTORY = "# Import libraries.\n\nimport numpy as np\n\n"  # the first lines of every program


def turn_seed(seed: int, turn: int) -> int:
    """The seed of a turn, 31 bits, derived from the sample's, so that turns use different random numbers."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{turn}".encode(), digest_size=4).digest(), "big") >> 1


def comment(prompt: str) -> str:
    """A prompt as the model reads it."""
    return f"# {prompt}\n"


def multi_turn(prompts: Sequence[str], length: int, seed: int, complete: Complete) -> list[dict[str, Any]]:
    """The turns. Each has its prompt, the truncated answer and the reason the answer ended.

    A turn whose context leaves the model no room ends the sample: it has finish "length", no text and a "reason".
    If it is the first one, the model is too small for the benchmark: `PromptTooLong`.
    """
    history, turns = HISTORY, []
    for number, prompt in enumerate(prompts):
        history += comment(prompt)
        turn = {"prompt": prompt, "text": "", "finish": "length"}
        turns.append(turn)
        try:
            answer = complete(history, seed=turn_seed(seed, number), stop=truncation.stop(), max_new_tokens=length)
        except PromptTooLong as error:
            if number == 0:
                raise
            turn["reason"] = f"turn {number + 1} of {len(prompts)}: {error}"
            return turns
        turn |= _read(answer, history)
        history += turn["text"] + "\n\n"
    return turns


def single_turn(prompts: Sequence[str], length: int, seed: int, complete: Complete) -> list[dict[str, Any]]:
    """One turn that combines all prompts, with the limits on tokens, `print` lines and `def` lines of all turns.

    The release has no such variant. This follows the paper's description and applies the multi-turn rule to the
    complete text.
    """
    text, count = "".join(map(comment, prompts)), len(prompts)
    seed = turn_seed(seed, 0)
    answer = complete(HISTORY + text, seed=seed, stop=truncation.stop(count), max_new_tokens=length * count)
    return [{"prompt": text, **_read(answer, HISTORY + text, count)}]


def _read(answer: SampledAnswer, prompt: str, limit: int = 1) -> dict[str, str]:
    """The text of a turn and why it ended: of a completion what comes before its cut, of a reply the code that goes
    beyond the earlier turns, or why there is none."""
    if not answer.is_reply:
        return {"text": truncation.truncated(answer.text, limit), "finish": answer.finish}
    code = code_of(answer.text, Asked("python", "", finished=answer.finish != "length"))
    found = {"text": python.beyond(code.text, prompt), "finish": answer.finish}
    return {**found, "lacking": code.lacking} if code.lacking else found


def parts(turns: Sequence[dict[str, Any]], multi: bool) -> list[tuple[str, str]]:
    """What follows `HISTORY` in a program: each turn's prompt, as the model reads it, and its answer. The release
    executes all turns, one after the other."""
    return [(comment(turn["prompt"]) if multi else turn["prompt"], f"{turn['text']}\n\n") for turn in turns]
