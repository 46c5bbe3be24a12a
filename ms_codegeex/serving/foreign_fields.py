"""Fields of OpenAI's, llama.cpp's and vLLM's requests that this server does not have.

A field that would change the answer is refused, because its client would take the answer for something that it is not.
Two kinds of fields are accepted: those that change no answer whatever their value is, by the reason, and those with the
value that leaves the answer as it is. Null stands for a field's absence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WithoutEffect = Mapping[str, str]  # the reason by the field
Neutral = Mapping[str, Sequence[Any]]  # values by the field

GENERATION: WithoutEffect = {
    # details of samplers, each of which is refused by its main field
    **dict.fromkeys(("mirostat_tau", "mirostat_eta"), "only used with mirostat"),
    **dict.fromkeys(
        ("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
        "only used with dry_multiplier",
    ),
    "xtc_threshold": "only used with xtc_probability",
    "dynatemp_exponent": "only used with dynatemp_range",
    "cache_prompt": "prompts are always cached",
    "prompt_cache_key": "cached prompts are found by their content",
    "prompt_cache_retention": "cached prompts stay until the place is needed",
    "n_cache_reuse": "a cached prompt is reused as far as it is the same",
    "id_slot": "the server chooses the slot",
    "slot_id": "the server chooses the slot",
    "metadata": "for the provider's records, of which there are none",
    "store": "answers are never stored",
    "safety_identifier": "for the provider's records, of which there are none",
    "service_tier": "there is one",
    "priority": "clients take turns",
    "prediction": "a hint that makes answers faster",
    "parallel_tool_calls": "only used with tools",
}
NEUTRAL: Neutral = {
    "response_format": ({"type": "text"},),
    "grammar": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "logprobs": (False, 0),
    **dict.fromkeys(("top_logprobs", "n_probs"), (0,)),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    **dict.fromkeys(("min_tokens", "min_keep"), (0,)),
    "typical_p": (1,),
    "top_n_sigma": (-1,),
    **dict.fromkeys(("mirostat", "dry_multiplier", "xtc_probability", "dynatemp_range"), (0,)),
    "repeat_last_n": (-1,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    **dict.fromkeys(("skip_special_tokens", "spaces_between_special_tokens", "detokenize"), (True,)),
    **dict.fromkeys(("bad_words", "lora", "image_data"), ([],)),
    "chat_template_kwargs": ({},),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    **dict.fromkeys(("return_token_ids", "return_progress", "timings_per_token", "post_sampling_probs"), (False,)),
}
LLAMA_CPP: WithoutEffect = {
    **GENERATION,
    "n_keep": "nothing is dropped from a prompt during an answer",
    "penalty_last_n": "llama.cpp's server does not have it either; Tabby sends it",
    "sse_ping_interval": "a stream has no pings",
    "samplers": "a choice or order of samplers; each sampler is used by its own field",
    "t_max_prompt_ms": "a prompt is always read to its end",
}
EXTRA_FILE: WithoutEffect = {"time": "the files stand in the order in which they are given"}
STREAM_OPTIONS: WithoutEffect = {"include_obfuscation": "events have no padding"}
CONTENT_PART: WithoutEffect = {"cache_control": GENERATION["cache_prompt"]}
MESSAGE: WithoutEffect = {**CONTENT_PART, "name": "no chat format has a place for names"}
MESSAGE_NEUTRAL: Neutral = {
    "tool_calls": ([],),
    "annotations": ([],),
    "prefix": (False,),
    "refusal": ("",),
    "reasoning_content": ("",),
}


def accepted(name: str, value: Any, without_effect: WithoutEffect, neutral: Neutral) -> bool:
    """Whether a field that a body does not have changes nothing."""
    return value is None or name in without_effect or any(_same(value, each) for each in neutral.get(name, ()))


def _same(value: Any, other: Any) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def described(without_effect: WithoutEffect, neutral: Neutral) -> dict[str, Any]:
    """These fields as properties of a JSON schema."""
    return {
        **{name: {"description": f"no effect: {reason}"} for name, reason in without_effect.items()},
        **{
            name: {"enum": [*values, None], "description": "no effect; this server does not have other values"}
            for name, values in neutral.items()
        },
    }
