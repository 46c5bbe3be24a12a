"""The code blocks of a chat model's reply, without its thoughts, and the types that the other files share."""

from __future__ import annotations

import html
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class CodeRequest:
    """The function that a model was to write.

    Args:
        language: "python", "cpp", "java", "js", "ts", "go", "rust", "bash", "lua", "sql", or one without a grammar.
        prompt: the code that the model was shown.
        entry_point: the function's name, if the problem says it; otherwise it is found in the prompt.
        finished: False if the limit of tokens cut the reply off.
        variable: what a script without a function was to assign.
    """

    language: str
    prompt: str
    entry_point: str = ""
    finished: bool = True
    variable: str = ""


@dataclass(frozen=True)
class ReplyCode:
    """What is judged. `whole`: a program that stands by itself; otherwise `text` continues the prompt. `lacking`: why
    the reply has no code, empty if it has."""

    text: str
    whole: bool
    lacking: str = ""


@dataclass(frozen=True)
class CodeBlock:
    """A code block: its text, the language that its fence names, and whether there is a fence at all."""

    code: str
    tag: str = ""
    fenced: bool = True


# the tags of thoughts, and what opens and closes them
THOUGHTS = re.compile(
    r"(?P<open><(?:think|thinking|thought|reasoning|reflection|scratchpad)>|\[THINK\]|◁think▷|<\|begin_of_thought\|>"
    r"|<\|channel\|>(?:analysis|commentary)\b[^<\n]{0,80}<\|message\|>)"
    r"|(?P<close></(?:think|thinking|thought|reasoning|reflection|scratchpad)>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>"
    r"|<\|channel\|>final\b[^<\n]{0,80}<\|message\|>)",
    re.IGNORECASE,
)
# a line with a fence alone, a fence that opens after a sentence, and one that closes after the last line of code
LEAD = r"^(?P<lead>(?:[ \t]|>|[-*+][ \t]|\d{1,3}[.)][ \t])*)"
MARK = re.compile(LEAD + r"(?P<mark>`{3,}|~{3,})(?P<info>[^`\n]*)$", re.MULTILINE)
LATE = re.compile(r"^(?P<lead>)[^`\n]*[^`\s](?:[ \t]+|(?=```\w))(?P<mark>```)(?P<info>\w*)[ \t]*$", re.MULTILINE)
ENDING = re.compile(r"^[^`\n]*[^`\s](?P<mark>```)[ \t]*$", re.MULTILINE)
QUOTED = re.compile(r"^'''(?P<tag>python|py|java|cpp|javascript|js|go|rust)\n(?P<code>.*?)^'''[ \t]*$", re.M | re.S)
PAGE = re.compile(r"<pre[^<>]*>\s*<code[^<>]*>(?P<code>[^<]*)</code>")
ESCAPE = re.compile(r"&(?:lt|gt|amp|quot|apos|nbsp|#\d{2,3}|#x[\da-f]{2});")
TEXT = re.compile(r"""(["'])(?:\\.|(?!\1)[^\\\n])*\1""")
REMOVED = re.compile(r"^(?:(?:-|@@|\+\+\+ |diff |index |\\).*\n?|[ +])", re.MULTILINE)  # of a diff
END = re.compile(r"(?:\s*(?:<\|\w+\|>|</s>|<end_of_turn>|<\uff5c[^>\n]{1,30}\uff5c>))+\s*\Z")  # tokens that end a reply
LOOKED_BACK = 80  # characters before a tag in which its line's beginning is looked for


def blocks(reply: str, finished: bool = True) -> list[CodeBlock]:
    """The code blocks of a reply in their order, without its thoughts. A reply without a fence is one block. Fences may
    be nested, indented, in lists and quotations, opened or closed on a line with text, or never closed."""
    text = without_thoughts(reply, finished)
    quoted = [CodeBlock(found["code"], found["tag"]) for found in QUOTED.finditer(text)]
    page = [CodeBlock(found["code"]) for found in PAGE.finditer(text)]
    return [_as_code(each) for each in list(_fenced(text)) or quoted or page or [CodeBlock(text, fenced=False)]]


def _as_code(block: CodeBlock) -> CodeBlock:
    """A block without a page's escapes, if it has some outside of texts and nothing that a page would escape; of a diff
    what the new file has."""
    code = REMOVED.sub("", block.code) if block.tag == "diff" else block.code
    if ESCAPE.search(TEXT.sub("", code)) and not re.search("[<>&]", ESCAPE.sub("", code)):
        code = html.unescape(code)
    return replace(block, code=code)


def without_thoughts(text: str, finished: bool = True) -> str:
    """The text without a model's thoughts. Without their opening tag they begin where the text does. Without their
    closing tag they are the rest of a text that was cut off; a finished text keeps it."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text[:-LOOKED_BACK] + END.sub("", text[-LOOKED_BACK:])
    marks = [mark.start() for mark in MARK.finditer(text)]
    kept: list[str] = []
    start, opened, since = 0, -1, 0  # `opened`: where thoughts began, -1 outside of them
    for tag in THOUGHTS.finditer(text):
        before = text[max(0, tag.start() - LOOKED_BACK) : tag.start()].rpartition("\n")[2]
        in_code = (bisect_left(marks, tag.start()) - bisect_left(marks, since)) % 2 == 1
        if before.strip() and (in_code or before.endswith(("`", '"', "'"))):
            continue
        since = tag.end()
        if tag["open"]:
            opened = tag.start() if opened < 0 else opened
        else:
            if opened < 0:  # they began where the text does
                kept.clear()
            else:
                kept.append(text[start:opened])
            start, opened = tag.end(), -1
    return "".join(kept) + (text[start:opened] if opened >= 0 and not finished else text[start:])


def _fenced(text: str, nested: bool = True) -> Iterator[CodeBlock]:
    found = {mark.start("mark"): mark for pattern in (ENDING, LATE, MARK) for mark in pattern.finditer(text)}
    marks = [found[place] for place in sorted(found)]
    at = 0
    while at < len(marks):
        first = marks[at]
        if first.re is ENDING:
            at += 1
            continue
        at, end = _end(text, marks, at)
        code, tag = text[first.end() + 1 : end], first["info"].strip().strip("{}.").lower()
        inner = list(_fenced(code, False)) if nested and tag in ("", "markdown", "md") and MARK.search(code) else []
        if ">" in first["lead"]:  # a quotation
            code = re.sub(r"^[ \t]*> ?", "", code, flags=re.MULTILINE)
        yield from inner or [CodeBlock(code, tag)]


def _end(text: str, marks: list[re.Match[str]], at: int) -> tuple[int, int]:
    first, loose, inner = marks[at], 0, 0  # `inner`: fences further in, as in a docstring
    for number in range(at + 1, len(marks)):
        mark = marks[number]
        fits = mark["mark"][0] == first["mark"][0] and len(mark["mark"]) >= len(first["mark"])
        deeper = len(mark["lead"].expandtabs(4)) > len(first["lead"].expandtabs(4)) + 3 if mark.re is MARK else False
        if mark.re is not MARK:
            loose = loose or (number if fits and mark.re is ENDING else 0)
        elif fits and deeper and (mark["info"].strip() or inner):
            inner += 1 if mark["info"].strip() else -1
        elif fits and mark["info"].strip():  # another block begins
            if len(mark["mark"]) == len(first["mark"]):
                return (loose + 1, marks[loose].start("mark")) if loose else (number, mark.start())
        elif fits and not deeper:
            return (loose + 1, marks[loose].start("mark")) if loose else (number + 1, mark.start())
        elif fits:
            loose = loose or number
    if loose:
        mark = marks[loose]
        return loose + 1, mark.start("mark") if mark.re is ENDING else mark.start()
    return len(marks), len(text)
