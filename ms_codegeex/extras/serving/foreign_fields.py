"""Fields of other servers' requests that this server does not have.

A field that would change the answer is refused, because its client would take the answer for something that it is not.
The tables list the others with the programs that have them: fields that never change an answer, by the reason, and
fields with the values that leave it unchanged. Null stands for a field's absence.

Defaults are those of llama.cpp's server (tools/server/README.md), vLLM (SamplingParams, the protocols of its OpenAI
routes), TGI (GenerateParameters), Ollama (docs/api.md) and the API references of OpenAI and Mistral.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NOTHING = (False, 0, "", [], {})  # a feature that is not wanted


@dataclass(frozen=True)
class OpenRange:
    """All numbers above a limit, or `below` it."""

    limit: float
    below: bool = False


@dataclass(frozen=True)
class ForeignField:
    """A field that changes nothing. `source`: the programs that have it, with their default. `reason`: why no value
    changes anything; without one, only `values` do not. `unused`: values of other fields; where all of these have such
    a value, this one has no effect. `instead`: what to do rather than leave it out."""

    source: str
    reason: str = ""
    instead: str = ""
    values: Sequence[Any] = ()
    unused: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def accepted(self, value: Any, body: Mapping[str, Any]) -> bool:
        """Whether this value changes nothing in a request."""
        if value is None or self.reason or _among(value, self.values):
            return True
        return bool(self.unused) and not self.needed(body)

    def needed(self, body: Mapping[str, Any]) -> list[str]:
        """The fields of a request with which this one has an effect."""
        return [name for name, values in self.unused.items() if not _among(body.get(name), values)]

    def refusal(self, body: Mapping[str, Any]) -> str:
        """Why a value is not accepted, and what to do."""
        needed = "".join(f" with {name}" for name in self.needed(body)[:1] if body.get(name) is not None)
        shown = "".join(f", or send {json.dumps(value)}" for value in self.values[:1] if self.values != NOTHING)
        return f"not supported{needed}; {self.instead or f'leave it out{shown}'}"

    @property
    def description(self) -> str:
        """For the description of the API."""
        return f"no effect: {self.reason or 'this server does not have other values'} ({self.source})"


def _among(value: Any, known: Sequence[Any]) -> bool:
    return any(_same(value, each) for each in known)


def _same(value: Any, other: Any) -> bool:
    if isinstance(other, OpenRange):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and (value < other.limit if other.below else value > other.limit)
    return value == other and isinstance(value, bool) == isinstance(other, bool)


Fields = Mapping[str, ForeignField]


def _each(names: str, *described: Any, **more: Any) -> Fields:
    return dict.fromkeys(names.split(), ForeignField(*described, **more))


_NO_PENALTY = {
    **dict.fromkeys(("repetition_penalty", "repeat_penalty"), (None, 1)),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), (None, 0)),
}
SCORES, NO_TOOLS = "send logprobs to /v1/completions", "leave out messages of tools"
SCHEMAS = "send it in response_format to /v1/completions or /v1/chat/completions"
_NO_LOGPROBS = {"logprobs": (None, False), "n_probs": (None, False, 0)}
GENERATION: Fields = {
    # how tokens are chosen
    **_each("mirostat dynatemp_range", "llama.cpp: 0", values=NOTHING),
    **_each("mirostat_tau mirostat_eta", "llama.cpp: 5, 0.1", "only used with mirostat"),
    **_each("dynatemp_exponent", "llama.cpp: 1", "only used with dynatemp_range"),
    **_each("dry_multiplier", "llama.cpp: 0", values=NOTHING, unused={"dry_penalty_last_n": (0,)}),
    **_each(
        "dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers",
        "llama.cpp: 1.75, 2, 64, a list",
        "only used with dry_multiplier",
    ),
    **_each("xtc_probability", "llama.cpp: 0", values=NOTHING, unused={"xtc_threshold": (OpenRange(0.5),)}),
    **_each("xtc_threshold", "llama.cpp: 0.1", "only used with xtc_probability"),
    **_each("typical_p typ_p tfs_z", "llama.cpp, TGI: 1", values=(1,)),
    **_each("top_a no_repeat_ngram_size", "text-generation-webui: 0", values=NOTHING),
    **_each("top_n_sigma adaptive_target", "llama.cpp: -1", values=(-1, OpenRange(0, below=True))),
    **_each("adaptive_decay", "llama.cpp: 0.9", "only used with adaptive_target"),
    **_each("repeat_last_n", "llama.cpp: 64", values=(-1,), unused=_NO_PENALTY),
    **_each("penalize_nl penalty_prompt", "llama.cpp before 2025: false, null", unused=_NO_PENALTY),
    **_each("num_beams best_of", "transformers, OpenAI: 1", values=(1,)),
    **_each("use_beam_search", "vLLM: false", values=NOTHING),
    **_each("length_penalty early_stopping", "vLLM: 1, false", "only used with use_beam_search"),
    **_each("min_tokens min_keep", "vLLM, Mistral, llama.cpp: 0", values=NOTHING),
    **_each("bad_words logits_processors logit_processors", "vLLM: []", values=NOTHING),
    **_each("watermark watermarking", "TGI, vLLM: false", values=NOTHING),
    # where an answer ends
    **_each("ignore_eos include_stop_str_in_output", "vLLM, llama.cpp: false", values=NOTHING),
    **_each("stop_token_ids", "vLLM: []", values=NOTHING),
    # what is in an answer
    **_each("response_format", 'OpenAI: {"type": "text"}', values=({"type": "text"}, *NOTHING)),
    **_each("grammar", "llama.cpp: none", values=(False, 0, "", []), instead="send it to /completion"),
    **_each("json_schema", "llama.cpp: none", values=(False, 0, "", []), instead=SCHEMAS),
    **_each("grammar_lazy", "llama.cpp: false", values=NOTHING),
    **_each("guided_json", "vLLM: null", values=NOTHING, instead=SCHEMAS),
    **_each("guided_regex guided_choice guided_grammar structured_outputs", "vLLM: null", values=NOTHING),
    **_each("guided_decoding_backend guided_whitespace_pattern", "vLLM: null", "only used with the guided_ fields"),
    **_each("tools functions", "OpenAI: none", values=NOTHING),
    **_each("tool_choice function_call", "OpenAI: none, auto", values=("none", "auto", *NOTHING)),
    **_each("parallel_tool_calls", "OpenAI: true", "only used with tools"),
    **_each("modalities", 'OpenAI: ["text"]', values=(["text"], *NOTHING)),
    **_each("verbosity", "OpenAI: medium", values=("medium",)),
    **_each("reasoning_effort", "OpenAI, vLLM", values=("none", *NOTHING)),
    **_each("think enable_thinking reasoning", "Ollama, Qwen, OpenRouter: false", values=NOTHING),
    **_each("thinking", "Anthropic, GLM", values=({"type": "disabled"}, *NOTHING)),
    **_each(
        "reasoning_format include_reasoning thinking_token_budget thinking_budget_tokens reasoning_budget",
        "llama.cpp, vLLM",
        "the models do not reason before they answer",
    ),
    **_each("logprobs", "OpenAI: false", values=NOTHING),
    **_each("top_logprobs n_probs top_n_tokens", "vLLM, llama.cpp, TGI: 0", values=NOTHING, instead=SCORES),
    **_each(
        "post_sampling_probs return_tokens_as_token_ids", "llama.cpp, vLLM: false", values=NOTHING, unused=_NO_LOGPROBS
    ),
    **_each("echo suffix", 'OpenAI: false, ""', values=NOTHING),
    **_each("skip_special_tokens spaces_between_special_tokens detokenize", "vLLM: true", values=(True,)),
    **_each("return_full_text details decoder_input_details", "TGI: false", values=NOTHING),
    **_each("return_token_ids return_token_offsets return_prompt_text", "vLLM: false", values=NOTHING),
    **_each("no_stop_trim return_hidden_states", "SGLang: false", values=NOTHING),
    **_each("return_progress timings_per_token verbose", "llama.cpp: false", values=NOTHING),
    # the prompt
    **_each("lora image_data images", "llama.cpp, Ollama: []", values=NOTHING),
    **_each("add_special_tokens add_generation_prompt", "vLLM: true", values=(True,)),
    **_each("chat_template_kwargs", "vLLM: {}", values=({"enable_thinking": False}, {"thinking": False}, *NOTHING)),
    **_each("continue_final_message", "vLLM: false", values=NOTHING),
    **_each("documents transforms plugins", "vLLM, OpenRouter: []", values=NOTHING),
    **_each("safe_prompt prompt_mode", "Mistral: false, null", values=NOTHING),
    **_each("raw template system context format options", "Ollama: none", values=NOTHING),
    **_each("mm_processor_kwargs media_io_kwargs vllm_xargs extra_body extra", "vLLM, Copilot: {}", values=NOTHING),
    **_each("kv_transfer_params ec_transfer_params", "vLLM: null", values=NOTHING),
    **_each("truncation_side", "vLLM: null", "only used with truncate_prompt_tokens"),
    # how the server works
    **_each("cache_prompt", "llama.cpp: true", "prompts are always cached"),
    **_each("prompt_cache_key", "OpenAI", "cached prompts are found by their content"),
    **_each("prompt_cache_retention", "OpenAI", "cached prompts stay until the place is needed"),
    **_each("n_cache_reuse", "llama.cpp: 0", "a cached prompt is reused as far as it is the same"),
    **_each("id_slot slot_id", "llama.cpp: -1", "the server chooses the slot"),
    **_each("backend_sampling", "llama.cpp: false", "where tokens are chosen makes no difference"),
    **_each("prediction draft_model", "OpenAI, LM Studio", "a hint that makes answers faster"),
    **_each(
        "speculative.n_max speculative.n_min speculative.p_min",
        "llama.cpp: 16, 0, 0.75",
        "only the speed depends on it",
    ),
    **_each("stream_interval", "vLLM: null", "an event is sent as soon as there is text"),
    **_each("keep_alive ttl", "Ollama, LM Studio", "the model is always loaded"),
    **_each("service_tier", "OpenAI: auto", "there is one"),
    **_each("priority", "vLLM: 0", "clients take turns"),
    **_each(
        "metadata safety_identifier session_id request_id rid nwo",
        "OpenAI, vLLM, SGLang, Copilot",
        "for the provider's records, of which there are none",
    ),
    **_each("store", "OpenAI: false", "answers are never stored"),
}
COMPLETIONS: Fields = {
    **GENERATION,
    **_each("messages", "OpenAI's chats: none", values=NOTHING, instead="send them to /v1/chat/completions"),
}
CHAT: Fields = {**GENERATION, **_each("add_special_tokens", "vLLM: false", values=(False,))}
LLAMA_CPP: Fields = {
    **GENERATION,
    **_each("n_keep n_discard", "llama.cpp: 0", "nothing is dropped from a prompt during an answer"),
    **_each("penalty_last_n", "Tabby: 0", "llama.cpp's server does not have it either"),
    **_each("sse_ping_interval", "llama.cpp: 30", "a stream has no pings"),
    **_each("samplers", "llama.cpp", "a choice or order of samplers; each sampler is used by its own field"),
    **_each("t_max_prompt_ms", "llama.cpp", "a prompt is always read to its end"),
    **_each("system_prompt api_key", "llama.cpp before 2025", values=NOTHING),
}
PROMPT_OBJECT: Fields = _each("multimodal_data", "llama.cpp: []", values=NOTHING)
EXTRA_FILE: Fields = _each("time", "llama.vim", "the files stand in the order in which they are given")
STREAM_OPTIONS: Fields = {
    **_each("include_obfuscation", "OpenAI: true", "events have no padding"),
    **_each("continuous_usage_stats", "vLLM: false", values=NOTHING),
}
CONTENT_PART: Fields = {
    **_each("cache_control", "Anthropic", GENERATION["cache_prompt"].reason),
    **_each("annotations", "OpenAI: []", values=NOTHING),
}
MESSAGE: Fields = {
    **CONTENT_PART,
    **_each("name", "OpenAI", "no chat format has a place for names"),
    **_each("tool_calls function_call tool_call_id", "OpenAI: none", values=NOTHING, instead=NO_TOOLS),
    **_each("images audio refusal prefix", "Ollama, OpenAI, Mistral: none", values=NOTHING),
    **_each("reasoning reasoning_content thinking", "vLLM, DeepSeek, Ollama: none", values=NOTHING),
}
TRANSLATION: Fields = {**GENERATION, **_each("locale", "our other tasks", "the answer is code")}
TOKENS: Fields = {
    **_each("model", "vLLM", "adapters have the model's tokenizer"),
    **_each("return_token_strs", "vLLM: false", values=NOTHING),
}
