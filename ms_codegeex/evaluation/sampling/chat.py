"""Chat models as completers: the message that asks for a text's continuation, and the continuation in the reply.

A chat model mostly repeats the function that it was asked to complete. Tasks put an answer after their own prompt, so
the repeated part is removed: what remains is the body, with imports and helper functions moved to where they work.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent, indent

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.reading import given_text
from ms_codegeex.evaluation.benchmarks import blocks

PLACE = "{prompt}"
TEMPLATE = f"""Complete the code below. Answer with one code block: the complete function, with the imports and helper
functions that it needs, and nothing else. No tests, no examples, no main function.

```
{PLACE}
```"""
THOUGHTS = re.compile(r"\A\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
FENCE = re.compile(r"^[ \t]*(?P<mark>```+|~~~+)[^\n`]*\n(?P<code>.*?)(?:^[ \t]*(?P=mark)[ \t]*$|\Z)", re.M | re.S)
PYTHON_SIGNATURE = re.compile(r"^[ \t]*(?:async )?def (\w+)\s*\(", re.MULTILINE)
# a line that ends with the brace of a function: `int f(int x) {`, `const f = (x) => {`
SIGNATURE = re.compile(r"^[^\n#/*]*?\b(?:(\w+)\s*=\s*(?:async\s*)?(?:function\s*)?)?(\w+)?\s*\([^\n]*\{[ \t]*$", re.M)
IMPORT = re.compile(r"#\s*include\b|import [\w.*]+;|use\b[^;]*;")
MAIN = re.compile(r"(?:[\w<>\[\]]+\s+)*main\s*\(|package\b|import\b|using namespace\b")
CLASS = re.compile(r"(?:public )?class Solution\s*\{")
CLASS_END, COMMENT = re.compile(r"\n\}\s*\Z"), re.compile(r"/\*.*?\*/|^\s*//[^\n]*", re.DOTALL | re.MULTILINE)
DOCSTRING = re.compile(r"""\A\s*[rR]?(\"{3}|'{3}).*?\1[ \t]*\n""", re.DOTALL)  # the prompt has it
RUST = re.compile(r"\bfn \w+")
DEFINITION = re.compile(r"(?:async\s+)?(?:def|class|import|from)\b|@")  # of Python: what an answer may need
CPP_FUNCTION = re.compile(r"^(?!static\b|template\b)([A-Za-z_][\w<>:,&* ]*?[ &*>]\w+\s*\([^;{}=]*\))\s*\{")


def read_template(path: Path | None) -> str:
    """The text of a message, with `{prompt}` for the text to be continued; `TEMPLATE` without a file."""
    if path is None:
        return TEMPLATE
    text = given_text(str(path), "--chat-template")
    if PLACE not in text:
        raise UserError(f"--chat-template: {path} lacks {PLACE}; put it where the code to be completed belongs")
    return text


def message(template: str, prompt: str) -> str:
    """What a model is asked."""
    return template.replace(PLACE, prompt)


def code_of(reply: str, prompt: str = "") -> str:
    """The code in a reply: the block with the prompt's function, else the longest, else the reply without thoughts."""
    reply = THOUGHTS.sub("", reply, count=1)
    codes = [found["code"] for found in FENCE.finditer(reply)]
    if not codes:
        return reply
    name = _name(prompt)
    return next((code for code in codes if name and _signature(code, name)), max(codes, key=len))


def continuation(reply: str, prompt: str) -> str:
    """What follows the prompt, according to a reply."""
    code, name = code_of(reply, prompt), _name(prompt)
    found = _signature(code, name) if name else None
    if found is None:
        return _after(code, prompt)
    start, end = found
    before, level = code[:start], _indentation(code[start:])
    if PYTHON_SIGNATURE.match(code, start):
        return _python(before, code[end:], level, prompt)
    return _braced(before, code[end:], level, prompt)


def _after(code: str, prompt: str) -> str:
    """The code without its beginning as far as this is the prompt's end."""
    given = prompt.rstrip()
    for length in range(min(len(given), len(code)), 0, -1):
        if given.endswith(code[:length]) and (length > 3 or "\n" not in code):
            return code[length:]
    return code


def _name(prompt: str) -> str:
    """The function that the prompt leaves open; empty if it is none."""
    code = COMMENT.sub("", prompt).rstrip()
    if code.endswith("{"):
        found = list(SIGNATURE.finditer(code))
        return (found[-1][1] or found[-1][2] or "") if found else ""
    found = list(PYTHON_SIGNATURE.finditer(prompt))
    return found[-1][1] if found else ""


def _signature(code: str, name: str) -> tuple[int, int] | None:
    """Where the line of the function's signature begins, and where its body begins."""
    for match in PYTHON_SIGNATURE.finditer(code):
        if match[1] == name:
            depth = 0
            for place in range(match.end() - 1, len(code)):
                depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(code[place], 0)
                if depth == 0 and code[place] == ":":
                    return match.start(), place + 1
    masked = COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), code)
    pattern = rf"^[^\n#]*\b{re.escape(name)}\b\s*(?:=[^\n]*?)?[(<][^;{{}}]*\{{(?:[^\n]*\{{(?=[ \t]*$))?"
    found = re.search(pattern, masked, re.MULTILINE)
    return found and found.span()


def _closed(text: str) -> int:
    """Where the block that is open at the text's beginning has ended; the whole text if it does not."""
    depth = 1
    for token in blocks.TOKENS.finditer(text):
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if depth == 0:
            return token.end()
    return len(text)


def _chunks(text: str, level: int) -> list[str]:
    """The parts that begin at this indentation, each with what is further in and with its closing line."""
    chunks: list[list[str]] = [[]]
    for line in text.splitlines():
        begins = line.strip() and _indentation(line) <= level and line.strip()[0] not in ")]}{"
        if begins and any(chunks[-1]) and not chunks[-1][-1].lstrip().startswith("@"):
            chunks.append([])
        chunks[-1].append(line)
    return ["\n".join(lines) for lines in chunks]


def _python(before: str, rest: str, level: int, prompt: str) -> str:
    """The body; what stood around it moves to its beginning."""
    first, *after = _chunks(rest, level)
    if not first.startswith("\n") and first.strip():  # `def f(x): return x`
        first = " " * (level + 4) + first.lstrip()
    wanted = _indentation(prompt.rstrip().rpartition("\n")[2]) or 4
    body = DOCSTRING.sub("", first, count=1).strip("\n").rstrip()
    if _indentation(body) != wanted:
        body = indent(dedent(body), " " * wanted)
    around = [each for each in _chunks(before, 0) if not each.startswith(("#", "if __name__"))]
    around += [each for each in after if DEFINITION.match(each)]
    if level:  # a method: of what is around it only imports work without its class
        around = [each for each in around if each.startswith(("import ", "from "))]
    known = prompt.splitlines()
    moved = [indent(each.rstrip(), " " * wanted) for each in around if each.strip() and each.strip() not in known]
    return ("" if prompt.endswith("\n") else "\n") + "\n".join([*moved, body, ""])


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _braced(before: str, rest: str, level: int, prompt: str) -> str:
    """The body and its closing brace, with imports before it, which benchmarks put where their language has them. Other
    code around it follows; in Rust what came before moves into the body, in C++ functions are also declared there."""
    if level:  # a method: the brace of its class follows what is kept
        rest = CLASS_END.sub("", rest)
    end = _closed(rest)
    body, known = rest[:end], {line.strip() for line in prompt.splitlines()}
    front, back = (_chunks(COMMENT.sub("", text), level) for text in (before, rest[end:]))
    first, last = ([each.strip("\n") for each in chunks if _kept(each.strip(), known)] for chunks in (front, back))
    lines = [line.strip() for each in front for line in each.splitlines() if IMPORT.match(line.strip())]
    head, kept = [line for line in dict.fromkeys(lines) if line not in known], [*first, *last]
    if RUST.search(prompt):
        head, kept = [*head, *first], last
    elif "#include" in prompt:
        head += [f"{found[1]};" for each in kept if (found := CPP_FUNCTION.match(each))]
    parts = ["".join(f"\n{each}" for each in head) + body.rstrip(), *kept, *(["}"] if level else [])]
    return "\n\n".join(parts) + "\n"


def _kept(chunk: str, known: set[str]) -> bool:
    """Whether an answer may need this: not what the prompt has, no import, main function or enclosing class."""
    first = chunk.partition("\n")[0].strip()
    return bool(chunk) and first not in known and not (IMPORT.match(chunk) or MAIN.match(first) or CLASS.match(chunk))
