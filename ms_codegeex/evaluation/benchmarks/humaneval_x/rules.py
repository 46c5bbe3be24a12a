"""Where an answer ends: the stop rules and the clean-up of the two releases.

`codegeex` is CodeGeeX's evaluation, `codegeex2` that of CodeGeeX2. A stop rule only saves time; the clean-up decides.
"""

from __future__ import annotations

from collections.abc import Callable

from ms_codegeex.base.errors import UserError
from ms_codegeex.evaluation.task import Stop
from ms_codegeex.generation import stopping

RULES = ("codegeex", "codegeex2")
PYTHON_STOPS = ("\ndef", "\nclass", "\nif", "\n#", "\nprint")
PYTHON_ENDS = (*PYTHON_STOPS, "\nassert")
JAVA_MAIN = "public static void main"
MAINS = {"go": "\nfunc main(", "cpp": "\nint main(", "rust": "\nfn main("}


def check(rules: str) -> str:
    """The name of a rule set, or a `UserError`."""
    if rules not in RULES:
        raise UserError(f"rules: {rules!r} is none of {', '.join(RULES)}")
    return rules


def stop(language: str, rules: str) -> Stop | None:
    """The stop rule of a language; None: decoding ends at the end of the text or the token limit only."""
    if language == "python":
        return python_stop
    if rules == "codegeex":
        return None if language == "rust" else stopping.closed
    main = MAINS.get(language)
    return stopping.closed if main is None else stopping.first_of(stopping.closed, stopping.words([main]))


# A line starts in the first column, or there is a stop word.
python_stop = stopping.first_of(stopping.unindented, stopping.words(PYTHON_STOPS))


def clean(text: str, language: str, rules: str) -> str:
    """The answer in the text that a model wrote."""
    return CLEAN_UPS[rules][language](text)


def through_last_brace(text: str) -> str:
    """The text through the last closing brace, or all of it if there is none."""
    return text[: text.rfind("}") + 1] or text


def before(text: str, word: str) -> str:
    """The text before a word's first occurrence."""
    return text.split(word, 1)[0]


def python_codegeex(text: str) -> str:
    """Cut at the last occurrence of each word, one word after the other. CodeGeeX's test program drops more, see
    `programs`."""
    for word in PYTHON_ENDS:
        if (place := text.rfind(word)) >= 0:
            text = text[:place]
    return text


def python_codegeex2(text: str) -> str:
    """Cut at the first line that starts in the first column, else at a stop word."""
    place = stopping.first_unindented(text)
    if place is not None:
        return text[:place]
    for word in PYTHON_STOPS:
        text = before(text, word)
    return text


def java(text: str) -> str:
    """No main, nothing after the last brace, and the class closed if only the method is."""
    text = through_last_brace(before(text, JAVA_MAIN))
    return text + "\n}" if text.count("}") == text.count("{") + 1 else text


def go_codegeex(text: str) -> str:
    """The text without the comment or main that a model appends."""
    for word in ("\n//", MAINS["go"]):
        if (place := text.rfind(word)) >= 0:
            text = text[:place]
    return through_last_brace(text)


def without_main(language: str) -> Callable[[str], str]:
    """A function that cuts at a main function, then after the last brace."""
    return lambda text: through_last_brace(before(text, MAINS[language]))


CLEAN_UPS: dict[str, dict[str, Callable[[str], str]]] = {
    "codegeex": {
        "python": python_codegeex,
        "cpp": through_last_brace,
        "java": java,
        "js": through_last_brace,
        "go": go_codegeex,
        "rust": str,
    },
    "codegeex2": {
        "python": python_codegeex2,
        "cpp": without_main("cpp"),
        "java": java,
        "js": through_last_brace,
        "go": without_main("go"),
        "rust": through_last_brace,
    },
}
