"""JSON schemas and grammars that answers follow; `constraints.py` lets an answer follow one.

The library is llguidance, which llama.cpp and vLLM offer too. It is imported when it is first needed. Schemas and
grammars come from strangers, so their size is limited, and the work for each token.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from ms_codegeex.base.errors import UserError, first_line
from ms_codegeex.generation.sampling import SamplingSettings

MAX_CHARACTERS = 16384  # of a schema or grammar
# of llguidance: at most about 20 ms for the start, and 4 ms for a token; its states are 1 to 2 kB each
LIMITS = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 50_000,
    "step_max_items": 20_000,
    "max_lexer_states": 10_000,
    "max_grammar_size": 50_000,
    "precompute_large_lexemes": False,
    "verbose_errors": False,
}
SPACE = r" ?|\n{1,2}[ \t]{0,20}"  # between the parts of JSON: a model could go on with white space for ever


def library() -> ModuleType:
    """llguidance; `UserError` if it is not installed."""
    try:
        import llguidance.gbnf_to_lark
    except ModuleNotFoundError:
        raise UserError(
            "needs the package llguidance, which is not installed where the model runs; run `pip install llguidance`"
        ) from None
    return llguidance


def compiled(settings: SamplingSettings, tokenizer: Any = None) -> Any:
    """The library's matcher for its own `tokenizer`; without one, the settings are only checked. In a thread: takes up
    to a second. `UserError`, which begins with the setting's name, for a bad schema or grammar."""
    text, field = (settings.grammar, "grammar") if settings.grammar else (settings.json_schema, "json_schema")
    try:
        guidance = library()
        if len(text) > MAX_CHARACTERS:
            raise UserError(f"{len(text)} characters; give {MAX_CHARACTERS} at most")
        make, limits = guidance.LLMatcher, guidance.LLParserLimits(**LIMITS)
        if settings.grammar:
            grammar = make.grammar_from_lark(guidance.gbnf_to_lark.any_to_lark(text))
        else:
            grammar = make.grammar_from_json_schema(text, overrides={"whitespace_pattern": SPACE})
        if tokenizer is None:
            wrong, messages = make.validate_grammar_with_warnings(grammar, limits=limits)
            matcher, error = None, messages[0] if wrong else ""
        else:
            matcher = make(tokenizer, grammar, limits=limits, log_level=0)
            error = matcher.get_error()
    except UserError as wrong:
        raise UserError(f"{field}: {wrong}") from None
    except Exception as wrong:  # the library's converter raises errors of many classes, a RecursionError too
        error = first_line(wrong)
    if error:
        raise UserError(f"{field}: cannot be used ({first_line(error)[:200]}); correct it")
    return matcher
