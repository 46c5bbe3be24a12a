"""Where an answer ends: the stop rules and the clean-up of the two releases.

`codegeex` is CodeGeeX's evaluation, `codegeex2` that of CodeGeeX2. A stop rule only saves time; the clean-up decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ms_codegeex.evaluation import stop_rules
from ms_codegeex.evaluation.task import Stop

PYTHON_STOPS = ("\ndef", "\nclass", "\nif", "\n#", "\nprint")
PYTHON_ENDS = (*PYTHON_STOPS, "\nassert")
JAVA_MAIN = "public static void main"
MAINS = {"go": "\nfunc main(", "cpp": "\nint main(", "rust": "\nfn main("}


def stop(language: str, rules: str) -> Stop | None:
    """The stop rule of a language; None: decoding ends at the end of the text or the token limit only."""
    if language == "python":
        return python_stop
    if rules == "codegeex":
        return None if language == "rust" else stop_rules.closed
    main = MAINS.get(language)
    return stop_rules.closed if main is None else stop_rules.first_of(stop_rules.closed, stop_rules.words([main]))


# A line starts in the first column, or there is a stop word.
python_stop = stop_rules.first_of(stop_rules.unindented, stop_rules.words(PYTHON_STOPS))


def clean(text: str, language: str, rules: str) -> str:
    """The answer in the text that a model wrote."""
    return CLEAN_UPS[rules][language](text)


def through_last_brace(text: str) -> str:
    """The text through the last closing brace, or all of it if there is none."""
    return text[: text.rfind("}") + 1] or text


def before_last(text: str, words: Sequence[str]) -> str:
    """The text, cut at the last occurrence of each word, one word after the other."""
    for word in words:
        if (position := text.rfind(word)) >= 0:
            text = text[:position]
    return text


def python_codegeex(text: str) -> str:
    """CodeGeeX's test program drops more, see `programs`."""
    return before_last(text, PYTHON_ENDS)


def python_codegeex2(text: str) -> str:
    """Cut at the first line that starts in the first column, else at a stop word."""
    position = stop_rules.first_unindented(text)
    return stop_rules.cut(text, PYTHON_STOPS) if position is None else text[:position]


def java(text: str) -> str:
    """No main, nothing after the last brace, and the class closed if only the method is."""
    text = through_last_brace(stop_rules.cut(text, [JAVA_MAIN]))
    return text + "\n}" if text.count("}") == text.count("{") + 1 else text


def go_codegeex(text: str) -> str:
    """The text without the comment or main that a model appends."""
    return through_last_brace(before_last(text, ("\n//", MAINS["go"])))


def without_main(language: str) -> Callable[[str], str]:
    """A function that cuts at a main function, then after the last brace."""
    return lambda text: through_last_brace(stop_rules.cut(text, [MAINS[language]]))


BOTH = {"java": java, "js": through_last_brace}
CLEAN_UPS: dict[str, dict[str, Callable[[str], str]]] = {
    "codegeex": {**BOTH, "python": python_codegeex, "cpp": through_last_brace, "go": go_codegeex, "rust": str},
    "codegeex2": {**BOTH, "python": python_codegeex2, **{name: without_main(name) for name in ("cpp", "go")}}
    | {"rust": through_last_brace},
}
