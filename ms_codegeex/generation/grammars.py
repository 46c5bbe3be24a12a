"""JSON schemas and grammars of answers, by llguidance, which is imported when it is first needed. Clients
send them, so their size and the work for each token are limited. `constraints.py` lets an answer follow one."""

from __future__ import annotations

from types import ModuleType

from ms_codegeex.base.errors import UserError, first_line
from ms_codegeex.generation.sampling import SamplingSettings

MAX_GRAMMAR_CHARACTERS = 16384
# llguidance's: at most about 20 ms for the start, and 4 ms for a token; its states are 1 to 2 kB each
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
        raise UserError("needs the package llguidance; run `pip install llguidance` where the server runs") from None
    return llguidance


def prepared(settings: SamplingSettings) -> str:
    """A checked schema or grammar as the library takes it. In a thread: takes up to a second. `UserError`, which begins
    with the setting's name, for a bad one."""
    text, field = (settings.grammar, "grammar") if settings.grammar else (settings.json_schema, "json_schema")
    try:
        guidance = library()
        if len(text) > MAX_GRAMMAR_CHARACTERS:
            raise UserError(f"{len(text)} characters; give {MAX_GRAMMAR_CHARACTERS} at most")
        if settings.grammar:
            found = guidance.LLMatcher.grammar_from_lark(guidance.gbnf_to_lark.any_to_lark(text))
        else:
            found = guidance.LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": SPACE})
        limits = guidance.LLParserLimits(**LIMITS)
        wrong, messages = guidance.LLMatcher.validate_grammar_with_warnings(found, limits=limits)
    except UserError as error:
        raise UserError(f"{field}: {error}") from None
    except Exception as error:  # the library's converter raises errors of many classes, a RecursionError too
        wrong, messages = True, [first_line(error)]
    if wrong:
        raise UserError(f"{field}: cannot be used ({first_line(messages[0])[:200]}); correct it")
    return found
