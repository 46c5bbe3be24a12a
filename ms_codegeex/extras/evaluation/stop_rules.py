"""Rules (`generation/stopping.py`) that end answers of benchmarks: words, braces and lines, whatever the language; and
those of releases: CodeGen's, `truncate` in its scripts, for the answers of a model that never stops, and CodeGeeX's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice

from ms_codegeex.generation.stopping import PartialWord, Rule, Scanner

END_OF_TEXT = "<|endoftext|>"
LINES = ("#", "'''", '"""')  # line beginnings that end a text, by CodeGen's rule
PRINTS, DEFS = re.compile("^print", re.MULTILINE), re.compile("^def", re.MULTILINE)
ENDINGS = re.compile(f"^#|{re.escape(END_OF_TEXT)}|^'''|^\"\"\"|\n\n\n", re.MULTILINE)
BRACE, UNINDENTED = re.compile("[{}]"), re.compile(r"^(?![ \t])[^\n]*?\S", re.MULTILINE)
PYTHON_STOPS = ("\ndef", "\nclass", "\nif", "\n#", "\nprint")
PYTHON_ENDS = (*PYTHON_STOPS, "\nassert")  # HumanEval-X's `programs` drops more
JAVA_MAIN = "public static void main"
MAINS = {"go": "\nfunc main(", "cpp": "\nint main(", "rust": "\nfn main("}


def first_of(*rules: Rule) -> Rule:
    return Rule(lambda text: any(rule(text) for rule in rules), lambda: _earliest([rule.scan() for rule in rules]))


def words(known: Sequence[str]) -> Rule:
    return Rule(
        lambda text: any(word in text for word in known), lambda: _earliest([PartialWord(word).feed for word in known])
    )


def _earliest(scanners: Sequence[Scanner]) -> Scanner:
    return lambda piece: min((end for scan in scanners if (end := scan(piece)) is not None), default=None)


def cut(text: str, known: Iterable[str]) -> str:
    return text[: min((start for word in known if (start := text.find(word)) >= 0), default=len(text))]


def _closed() -> Scanner:
    depth = 0

    def each(piece: str) -> int | None:
        nonlocal depth
        for brace in BRACE.finditer(piece):
            depth += 1 if brace.group() == "{" else -1
            if depth < 0:
                return brace.end()
        return None

    return each


closed = Rule(lambda text: text.count("}") > text.count("{"), _closed)  # the brace that the prompt left open is closed


def _unindented() -> Scanner:
    line_start = ""

    def each(piece: str) -> int | None:
        nonlocal line_start
        for end, character in enumerate(piece, 1):
            if character == "\n":
                line_start = ""
                continue
            line_start = line_start or character
            if line_start not in " \t" and not character.isspace():
                return end
        return None

    return each


def first_unindented(text: str) -> int | None:
    """The start of the first line that is neither blank nor indented, None if there is none."""
    match = UNINDENTED.search(text)
    return None if match is None else match.start()


# a line that is not blank starts in the first column
unindented = Rule(lambda text: first_unindented(text) is not None, _unindented, dropped=1)


def codegen_cut(text: str, limit: int = 1) -> int | None:
    """Where CodeGen truncates newly generated text, None if nowhere; later text never changes it. The first of: the
    line that starts with `print` and exceeds `limit` such lines, the same for `def`, a line that starts with `#` or
    three quotes, the end-of-text token, three line breaks; the release does one after the other."""
    allowed = ((PRINTS, limit), (DEFS, limit), (ENDINGS, 0))
    matches = (match for pattern, count in allowed for match in islice(pattern.finditer(text), count, count + 1))
    return min((match.start() for match in matches), default=None)


def codegen_truncated(text: str, limit: int = 1) -> str:
    return text[: codegen_cut(text, limit)]


def codegen_stop(limit: int = 1) -> Rule:
    """The text has a cut by CodeGen's rule."""
    special = words([END_OF_TEXT, "\n\n\n"])

    def scan() -> Scanner:
        line, counts, ended = "", dict.fromkeys(("print", "def"), 0), special.scan()

        def each(piece: str) -> int | None:
            nonlocal line
            end = ended(piece)
            for position, character in enumerate(piece[:end], 1):
                line = "" if character == "\n" else (line + character)[:6]
                if line in counts:
                    counts[line] += 1
                if line in LINES or any(count > limit for count in counts.values()):
                    return position
            return end

        return each

    return Rule(lambda text: codegen_cut(text, limit) is not None, scan)


def codegeex_stop(language: str, rules: str) -> Rule | None:
    """The stop rule of a language in the evaluation of CodeGeeX ("codegeex") or CodeGeeX2 ("codegeex2"); None: decoding
    ends at the end of the text or the token limit only. It only saves time; the clean-up decides."""
    if language == "python":
        return python_stop
    if rules == "codegeex":
        return None if language == "rust" else closed
    main = MAINS.get(language)
    return closed if main is None else first_of(closed, words([main]))


# A line starts in the first column, or there is a stop word.
python_stop = first_of(unindented, words(PYTHON_STOPS))


def through_last_brace(text: str) -> str:
    """The text through the last closing brace, or all of it if there is none."""
    return text[: text.rfind("}") + 1] or text


def before_last(text: str, words: Sequence[str]) -> str:
    """The text, cut at the last occurrence of each word, one word after the other."""
    for word in words:
        if (position := text.rfind(word)) >= 0:
            text = text[:position]
    return text


python_codegeex = partial(before_last, words=PYTHON_ENDS)


def python_codegeex2(text: str) -> str:
    position = first_unindented(text)
    return cut(text, PYTHON_STOPS) if position is None else text[:position]


def java_class(text: str) -> str:
    text = through_last_brace(cut(text, [JAVA_MAIN]))
    return text + "\n}" if text.count("}") == text.count("{") + 1 else text


def go_codegeex(text: str) -> str:
    return through_last_brace(before_last(text, ("\n//", MAINS["go"])))


def without_main(language: str) -> Callable[[str], str]:
    return lambda text: through_last_brace(cut(text, [MAINS[language]]))


BOTH = {"java": java_class, "js": through_last_brace}
CLEAN_UPS: dict[str, dict[str, Callable[[str], str]]] = {
    "codegeex": {**BOTH, "python": python_codegeex, "cpp": through_last_brace, "go": go_codegeex, "rust": str},
    "codegeex2": {**BOTH, "python": python_codegeex2, **{name: without_main(name) for name in ("cpp", "go")}}
    | {"rust": through_last_brace},
}
