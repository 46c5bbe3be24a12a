"""Prompts of the assistant tasks, and rules for where their answers end. The models are not tuned to follow
instructions, so every prompt is a text whose continuation is the answer. Published prompts are used where they exist;
each function names its source. The examples, which were not published, are the same function in five languages. Its
second to fifth line and its return statement have remarks in English and Chinese."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.conversations import translation_name, translation_prompt
from ms_codegeex.data.languages import Language, find_language, tag_line
from ms_codegeex.extras.serving.answering import Filters, TextFilter
from ms_codegeex.generation.stopping import Ending, Rule, scanned

_TAG = re.compile(r"(.*?)\s*language:\s*(.*?)\s*(-->|\*/|\*\)|\})?")
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_TRANSLATED = ("C++", "Python", "Java", "JavaScript", "Go", "Rust")  # a heading with such a name ends a translation
QUOTES = "'''"
LOCALES = ("en", "zh")
SUMMARY = {"en": "Returns the largest of some numbers.", "zh": "返回一组数中最大的数。"}
REMARKS = (
    ("start with the first number", "从第一个数开始"),
    ("look at every number", "逐个查看每个数"),
    ("a larger number was found", "找到了更大的数"),
    ("remember it", "把它记下来"),
    ("return the largest number", "返回最大的数"),
)


def remarked(example: str, sign: str, locale: str) -> str:
    """Return an example with a comment, starting with `sign`, before each line that has a remark."""
    parts, remarks = [], iter(REMARKS)
    for number, line in enumerate(example.split("\n")):
        if 1 <= number <= 4 or "return" in line:
            parts.append(f"{_indent([line])}{sign} {next(remarks)[LOCALES.index(locale)]}")
        parts.append(line)
    return "\n".join(parts)


def _braced(head: str, first: str, loop: str) -> str:
    return f"""\
{head} {{
    {first}
    {loop} {{
        if (number > best) {{
            best = number;
        }}
    }}
    return best;
}}"""


EXAMPLES = {
    "Python": """\
def largest(numbers):
    best = numbers[0]
    for number in numbers:
        if number > best:
            best = number
    return best""",
    "C++": _braced(
        "int largest(const std::vector<int>& numbers)", "int best = numbers[0];", "for (int number : numbers)"
    ),
    "Java": _braced("static int largest(int[] numbers)", "int best = numbers[0];", "for (int number : numbers)"),
    "JavaScript": _braced("function largest(numbers)", "let best = numbers[0];", "for (const number of numbers)"),
    "Go": """\
func largest(numbers []int) int {
\tbest := numbers[0]
\tfor _, number := range numbers {
\t\tif number > best {
\t\t\tbest = number
\t\t}
\t}
\treturn best
}""",
}


@dataclass(frozen=True)
class TaskPrompt:
    """A prompt and how its continuation becomes the answer: `opening`, the continuation, then `closing`. The
    continuation ends before the first text of `stop`, where `rule` ends it, or with the prompt's `comment`."""

    text: str
    stop: tuple[str, ...] = ()
    rule: Rule | None = None
    opening: str = ""
    closing: str = ""
    comment: Comment | None = None

    def text_filter(self) -> TextFilter:
        inner = [CommentText(self.comment)] if self.comment else []
        return Filters(*inner, opening=self.opening, closing=self.closing)


@dataclass(frozen=True)
class Comment:
    """The comment that a prompt has begun. `sign` starts it and `closer` ends it (empty: each line has the sign). If
    `bare`, the answer is its text without the signs."""

    sign: str
    closer: str = ""
    bare: bool = False


@dataclass(frozen=True)
class UserCode:
    """The user's code with its language, the model's family, and the language of explanations: "en" or "zh"."""

    code: str
    language: Language
    family: str
    locale: str = "en"
    comment: Comment = field(init=False)

    def __post_init__(self) -> None:
        match = _TAG.fullmatch(self.language.tag)
        assert match is not None, self.language
        object.__setattr__(self, "comment", Comment(match[1], match[3] or "", bare=True))
        object.__setattr__(self, "code", self.code.strip("\n").rstrip())
        if not self.code:
            raise UserError("code: empty; give some code")

    @property
    def tag(self) -> str:
        """The tag line of the code's language, including the newline; empty if the family has none."""
        return tag_line(self.family, self.language.name)

    def remark(self, english: str, chinese: str) -> str:
        text = chinese if self.locale == "zh" else english
        return " ".join(part for part in (self.comment.sign, text, self.comment.closer) if part)


def translation(source: str, target: str, code: str) -> TaskPrompt:
    """Return the prompt to translate code. Published: CodeGeeX's translation prompt, without a tag line."""
    if not code.strip():
        raise UserError("code: empty; give some code")
    names = [find_language(name).name for name in (source, target)]
    ends = dict.fromkeys([*names, *_TRANSLATED])
    stop = ("\ncode translation", *(f"\n{translation_name(name)}:\n" for name in ends))
    return TaskPrompt(translation_prompt(*names, code.strip("\n")), stop)


def commented(source: UserCode) -> TaskPrompt:
    """Return the prompt to comment each line of the code. Published for Python: the explanation template of CodeGeeX's
    VS Code extension (an example, the code, the example with comments under a heading, the heading, the code's first
    line). Not published: the same for other languages and in Chinese, and without an example where there is none."""
    heading = source.remark("Explain the code line by line", "逐行解释代码")
    example = EXAMPLES.get(source.language.name)
    parts = [source.code]
    if example is not None:
        parts = [example, source.code, f"{heading}\n{remarked(example, source.comment.sign, source.locale)}"]
    lines = [line for line in source.code.split("\n") if line.strip()]
    opening = lines[0] if len(lines) > 1 else ""
    text = f"{source.tag}\n" + "\n\n".join([*parts, heading]) + f"\n{opening}"
    return TaskPrompt(text, (f"\n{heading}",), repeated(lines[bool(opening) :]), opening)


def documented(source: UserCode) -> TaskPrompt:
    """Return the prompt to add a description to the code. Published for Python: the docstring template of CodeGeeX's
    VS Code extension (an example with its docstring, then the code). Not published: the code is repeated up to the
    place of the docstring; in other languages the description is a comment before the code."""
    if source.language.name == "Python":
        return _docstring(source)
    heading = source.remark("The same with a description", "加上说明")
    example, parts = EXAMPLES.get(source.language.name), []
    if source.comment.sign == "//":
        opening, ending, comment = "/**\n", "*/", Comment("", "*/")
        described = f"/**\n * {SUMMARY[source.locale]}\n */"
    else:
        comment = Comment(source.comment.sign, source.comment.closer)
        opening, ending = comment.sign, comment.closer
        described = source.remark(SUMMARY["en"], SUMMARY["zh"])
    if example is not None:
        parts = [example, f"{heading}\n{described}\n{example}"]
    text = source.tag + "\n\n".join([*parts, source.code, f"{heading}\n{opening}"])
    return TaskPrompt(text, (), None, opening, f"{ending}\n{source.code}", comment)


def _docstring(source: UserCode) -> TaskPrompt:
    first, _, body = EXAMPLES["Python"].partition("\n")
    shown = f"{first}\n    {QUOTES}\n    {SUMMARY[source.locale]}\n    {QUOTES}\n{body}"
    lines = source.code.split("\n")
    count = _signature(lines)
    indent = _indent(lines[count:]) or f"{_indent(lines[count - 1 : count])}    " if count else ""
    opening = "".join(f"{line}\n" for line in lines[:count]) + f"{indent}{QUOTES}"
    text = source.tag + "\n\n".join([shown, source.code, opening])
    return TaskPrompt(text, (QUOTES,), None, opening, "\n".join([QUOTES, *lines[count:]]))


def _signature(lines: list[str]) -> int:
    begun = False
    for count, line in enumerate(lines, 1):
        begun = begun or re.match(r"\s*(async\s+def|def|class)\b", line) is not None
        if begun and line.rstrip().endswith(":"):
            return count
        if not begun and line.strip() and not line.lstrip().startswith(("@", "#")):
            return 0
    return 0


def _indent(lines: list[str]) -> str:
    line = next((line for line in lines if line.strip()), "")
    return line[: len(line) - len(line.lstrip())]


def explained(source: UserCode) -> TaskPrompt:
    """Return the prompt to describe the code in words, as the text of a comment after it. It is not a published one:
    the "explanation" of CodeGeeX's extension comments each line instead."""
    sign, closer = source.comment.sign, source.comment.closer
    question = "上面代码的作用:" if source.locale == "zh" else "What the code above does:"
    heading = f"{sign} {question}\n" + ("" if closer else f"{sign} ")
    example = EXAMPLES.get(source.language.name)
    parts = [] if example is None else [example, f"{heading}{SUMMARY[source.locale]}{closer}"]
    text = source.tag + "\n\n".join([*parts, source.code, heading])
    return TaskPrompt(text.rstrip(" "), comment=source.comment)


def fixed(source: UserCode) -> TaskPrompt:
    """Return the prompt to correct a mistake in the code. No prompt was published for this."""
    wrong = source.remark("This code has a mistake", "这段代码有错误")
    right = source.remark("The same code without the mistake", "改正后的代码")
    example, parts = EXAMPLES.get(source.language.name), list[str]()
    if example is not None:
        parts = [f"{wrong}\n{example.replace('number > best', 'number < best')}", f"{right}\n{example}"]
    text = source.tag + "\n\n".join([*parts, f"{wrong}\n{source.code}", f"{right}\n"])
    return TaskPrompt(text, (f"\n{wrong}", f"\n{right}", f"\n\n{wrong}", f"\n\n{right}"))


def sql(source: UserCode) -> TaskPrompt:
    request = "\n".join(f"-- {line.strip()}" for line in source.code.split("\n") if line.strip())
    return TaskPrompt(f"{source.tag}{request}\n", ("\n--", "\n\n"))


TASKS: dict[str, tuple[str, Callable[[UserCode], TaskPrompt]]] = {
    "explain": ("explanation", explained),
    "comment": ("comments", commented),
    "document": ("documentation", documented),
    "fix": ("fix", fixed),
    "sql": ("sql", sql),
}
"""By route: the last part of the answer's `object`, and the prompt. Translation takes two languages."""


def repeated(lines: list[str]) -> Rule:
    """Return a rule that ends an answer once it has repeated all of the code, with additions: when the code's last line
    has occurred, complete, as often as in `lines`."""
    last = lines[-1].strip() if lines else ""
    count = sum(line.strip() == last for line in lines)

    def scan() -> Callable[[str], int | None]:
        line, left = "", count

        def each(piece: str) -> int | None:
            nonlocal line, left
            for match in _LINE.finditer(piece):  # only the piece, because one line may be as long as the answer
                line += match[0]
                if line.endswith("\n"):
                    left, line = left - (line.strip() == last), ""
                    if left == 0:
                        return match.end()
            return None

        return each

    return scanned(scan, dropped=1)


class CommentText(TextFilter):
    """Extracts the text of the comment that the prompt began. `ended` is true once the comment is over."""

    def __init__(self, comment: Comment):
        self._comment, self._held, self._begun = comment, "", False
        self._ending = Ending([comment.closer]) if comment.closer else None

    def feed(self, piece: str) -> str:
        if self.ended:
            return ""
        if self._ending is None:
            self._held += piece
            return self._lines()
        text = self._bared(self._ending.feed(piece))
        self.ended = self._ending.ended
        return text

    def rest(self) -> str:
        return self._ending.rest() if self._ending is not None else ""  # else only the start of a further line is held

    def _bared(self, text: str) -> str:
        if self._begun or not self._comment.bare:
            return text
        text = text.lstrip()
        self._begun = bool(text)
        return text

    def _lines(self) -> str:
        sign, said = self._comment.sign, ""
        while True:
            line, newline, rest = self._held.partition("\n")
            said, self._held = said + self._bared(line), newline + rest
            if not newline:
                return said
            if len(rest) <= len(sign) and f"{sign} ".startswith(rest):
                return said  # the next characters decide
            if not rest.startswith(sign):
                self.ended, self._held = True, ""
                return said
            text = rest[len(sign) :]
            said += "\n" if self._comment.bare else f"\n{sign}"
            self._held = text[1:] if self._comment.bare and text.startswith(" ") else text
