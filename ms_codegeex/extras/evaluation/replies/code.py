"""The code in a chat model's reply: a program, or a text that continues the prompt."""

from __future__ import annotations

import re

from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.extras.evaluation.replies import python, trees
from ms_codegeex.extras.evaluation.replies.blocks import MARK, CodeRequest, ReplyCode, blocks, without_thoughts

MAX_CHARACTERS = 60_000  # without the thoughts; no function is that long
MAX_BLOCKS = 40  # the last ones count
TICKS = re.compile(
    r"^[ \t]*`{1,3}(?:python|py)?(?=\S| \S)[ \t]*|`{1,3}[ \t]*$|^[ \t]*</?(?:code|answer|solution|pre)>[ \t]*$",
    re.MULTILINE,
)


def code_of(reply: str, request: CodeRequest) -> ReplyCode:
    """The program of a reply: the last whole one that defines the entry point, or the blocks that belong together."""
    text = without_thoughts(reply, request.finished)
    if len(text) > MAX_CHARACTERS:
        return ReplyCode("", False, f"longer than {MAX_CHARACTERS} characters")
    found = [each for each in blocks(text) if each.code.strip()]
    tags = shipped_table(trees.FILE)["tags"]
    others = {*" ".join(tags.values()).split()} - {*tags.get(request.language, "").split()}
    codes = [each.code for each in found if each.tag.partition(" ")[0] not in others] or [each.code for each in found]
    codes = codes[-MAX_BLOCKS:]
    language = python if request.language == "python" else trees
    loose = TICKS.sub("", MARK.sub("", text))  # if a fence began late or ended early
    first: ReplyCode | None = None
    for candidates in (codes, [loose]):
        code = language.program(candidates, request)
        if code is not None and (code.whole or code.lacking):
            return code
        first = first or code
    broken = codes and (found[0].fenced or re.search(r"^(?:async +)?def \w", codes[-1], re.MULTILINE))
    if first is None and broken and request.finished:
        first = ReplyCode(codes[-1], True)  # its error is reported
    return first or ReplyCode("", False, reason(reply, request.finished))


def reason(reply: str, finished: bool = True) -> str:
    """Why a reply has no code."""
    if not finished:
        return "cut off by the limit of tokens"
    if not reply.strip():
        return "empty"
    return "prose only" if without_thoughts(reply).strip() else "only thoughts"
