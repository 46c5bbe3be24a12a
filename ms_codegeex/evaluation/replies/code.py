"""A chat model's reply as a program, or as what continues the prompt."""

from __future__ import annotations

from ms_codegeex.evaluation.replies import python, trees
from ms_codegeex.evaluation.replies.blocks import Asked, ReplyCode, blocks, without_thoughts

# the names that models give a language's blocks; blocks with other languages' names are not read
NAMES = {
    "python": "python py python3 py3 ipython pycon python-repl",
    "cpp": "cpp c++ cc cxx c hpp",
    "java": "java",
    "js": "js javascript node jsx mjs",
    "ts": "ts typescript tsx",
    "go": "go golang",
    "rust": "rust rs",
    "bash": "bash sh shell zsh",
    "lua": "lua",
    "sql": "sql sqlite sqlite3 postgresql mysql",
}
OTHERS = "text txt plaintext output console json yaml toml markdown md diff"


def code_of(reply: str, asked: Asked) -> ReplyCode:
    """The program of a reply: the last whole one that defines the entry point, or the blocks that belong together. If
    there is none, `lacking` says why."""
    found = blocks(reply, asked.finished)
    ours = set(NAMES.get(asked.language, "").split())
    others = set(" ".join([OTHERS, *NAMES.values()]).split()) - ours
    codes = [each.code for each in found if each.tag.partition(" ")[0] not in others] or [each.code for each in found]
    language = python if asked.language == "python" else trees
    code = language.program(codes, asked)
    if code is None and found[0].fenced:  # the fence began late, or ended early
        code = language.program([without_thoughts(reply, asked.finished)], asked)
    if code is not None:
        return code
    return ReplyCode("", False, _reason(reply, asked))


def _reason(reply: str, asked: Asked) -> str:
    """Why a reply has no code."""
    if not asked.finished:
        return "cut off by the limit of tokens"
    if not reply.strip():
        return "empty"
    return "no code" if without_thoughts(reply).strip() else "only thoughts"
