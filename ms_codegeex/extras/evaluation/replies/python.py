"""Python programs in a chat model's reply, read by `ast` and `symtable`. Nothing of a reply is executed here."""

from __future__ import annotations

import ast
import re
import symtable
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from textwrap import dedent

from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest, ReplyCode

UNPARSED = (SyntaxError, ValueError, RecursionError, MemoryError)  # the last two if it is nested too deeply
MAX_PARSED_CHARACTERS = 300_000  # of a reply, all tries together
UNFINISHED = re.compile("never closed|unterminated triple|unexpected EOF|'except' or 'finally'")  # errors
MAX_ROUNDS = 50  # in which names are followed from function to function
MAX_PIECES_OF_STATEMENT = 40
# outside of functions, a statement with one of these names reads input, leaves the program or runs tests
DRIVERS = frozenset(
    ["input", "print", "exit", "quit", "SystemExit", "__name__", "doctest", "unittest", "pytest", "argparse"]
)
LEAVING = {"exit", "_exit", "abort", "stdin"}  # attributes of modules
TESTING = {"doctest", "unittest", "pytest", "hypothesis", "timeit"}
INLINE = {"listcomp", "setcomp", "dictcomp", "genexpr", "lambda"}  # scopes that belong to their statement
# how a line of code begins, and a line that goes on with the statement before it although it is not indented
CODE_LINE = re.compile(
    r"(?:(?:async|def|class|import|from|if|for|while|try|with|return|raise|global)\b|@|[\w.\[\]\"', ]+ ?[-+*/|&]?=)"
)
GOES_ON = re.compile(r"[ \t)\]}]|$|(?:else|elif|except|finally)\b")
OPENED = re.compile(r"^[ \t]+(?:async +)?def ", re.MULTILINE)  # a method, which the prompt may leave open
ODD_SPACES = {ord(each): " " for each in "\xa0\u2002\u2003\u2009\u202f\u3000"} | dict.fromkeys(map(ord, "\u200b\ufeff"))


@dataclass(frozen=True)
class CodePart:
    """Statements that share lines, with the comments before them.

    Args:
        bound: names of the module that the part assigns.
        now: names that it uses when it runs.
        later: names that its functions and classes use.
    """

    text: str
    nodes: tuple[ast.stmt, ...]
    bound: frozenset[str] = field(default=frozenset())
    now: frozenset[str] = field(default=frozenset())
    later: frozenset[str] = field(default=frozenset())

    @property
    def names(self) -> frozenset[str]:
        return self.now | self.later

    def only(self, *kinds: type[ast.stmt]) -> bool:
        return all(isinstance(node, kinds) for node in self.nodes)


DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
ASSIGNMENTS = (ast.Assign, ast.AnnAssign, ast.AugAssign)


class PythonReader:
    """Parses texts until `MAX_PARSED_CHARACTERS` characters have been read."""

    def __init__(self) -> None:
        self.left = MAX_PARSED_CHARACTERS
        self.unfinished = False  # the last text did not parse, but may be the beginning of one that does

    def parsed(self, code: str) -> ast.Module | None:
        """The tree; None if the text does not parse."""
        self.left -= len(code)
        self.unfinished = False
        if self.left < 0:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as of escapes that a later Python refuses
                return ast.parse(code)
        except UNPARSED as error:
            self.unfinished = bool(UNFINISHED.search(str(error))) or code.startswith("@")
            return None

    def parts(self, code: str) -> list[CodePart]:
        """The statements of a text without prose; if the whole does not parse, those that do."""
        code = _without_prompts(code)
        code = dedent(code) if code.strip("\n")[:1] in (" ", "\t") else code
        plain = code.translate(ODD_SPACES)
        for text in dict.fromkeys((code, plain, plain.expandtabs(8))):
            if (tree := self.parsed(text)) is not None:
                return [part for part in _parts(tree, text) if not _is_prose(part)]
        return [part for piece in self._pieces(plain) for part in piece]

    def _pieces(self, code: str) -> Iterator[list[CodePart]]:
        pieces = list[str]()
        for line in code.split("\n"):
            if pieces and GOES_ON.match(line):
                pieces[-1] += f"\n{line}"
            else:
                pieces.append(line)
        at = 0
        while at < len(pieces) and self.left > 0:
            for end in range(at + 1, min(len(pieces), at + MAX_PIECES_OF_STATEMENT) + 1):
                text = dedent("\n".join(pieces[at:end]))
                if (tree := self.parsed(text)) is not None or not self.unfinished:
                    break
            if tree is None:
                end, text = at + 1, dedent(pieces[at].partition("\n")[2])  # a sentence, then code that is indented
                tree = None if CODE_LINE.match(pieces[at]) else self.parsed(text)
            if tree is not None:
                yield [part for part in _parts(tree, text) if not _is_prose(part)]
            at = end


def _without_prompts(code: str) -> str:
    typed = (re.match(r"\s*(?:>>>|\.\.\.)(?: (.*)|$)", line) for line in code.split("\n"))
    return "\n".join(found[1] or "" for found in typed if found) if re.match(r"\s*>>> ", code) else code


def _is_prose(part: CodePart) -> bool:
    node = part.nodes[0]
    words = (ast.Name, ast.Constant, ast.Starred, ast.Tuple, ast.List, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp)
    is_words = isinstance(node, ast.Expr) and isinstance(node.value, words)
    return len(part.nodes) == 1 and (is_words or (isinstance(node, ast.AnnAssign) and node.value is None))


def _parts(tree: ast.Module, code: str) -> Iterator[CodePart]:
    lines, groups = code.split("\n"), list[list[ast.stmt]]()
    for node in tree.body:
        if groups and _first(node) <= (groups[-1][-1].end_lineno or 0):
            groups[-1].append(node)
        else:
            groups.append([node])
    before = 0
    for group in groups:
        end = group[-1].end_lineno or 0
        yield _part("\n".join(lines[before:end]), group)
        before = end


def _first(node: ast.stmt) -> int:
    return min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])


def _part(text: str, nodes: Sequence[ast.stmt]) -> CodePart:
    bound, now, later = set[str](), set[str](), set[str]()

    def scope(table: symtable.SymbolTable, names: set[str]) -> None:
        for symbol in table.get_symbols():
            at_top = table.get_type() == "module"
            if (at_top or symbol.is_global()) and symbol.is_referenced():
                names.add(symbol.get_name())
            if (at_top or symbol.is_declared_global()) and (symbol.is_assigned() or symbol.is_imported()):
                bound.add(symbol.get_name())
        for child in table.get_children():
            scope(child, names if child.get_name() in INLINE else later)

    with suppress(*UNPARSED):
        scope(symtable.symtable(text, "reply", "exec"), now)
    return CodePart(text, tuple(nodes), frozenset(bound), frozenset(now), frozenset(later))


def entry_point(request: CodeRequest) -> str:
    found = re.findall(r"^(?:async +)?def +(\w+)", request.prompt, re.MULTILINE)
    return request.entry_point or (found[-1] if found else "")


def defines(parts: Iterable[CodePart], name: str) -> bool:
    return any(name in part.bound and any(map(_is_real, part.nodes)) for part in parts)


def _is_real(node: ast.stmt) -> bool:
    if isinstance(node, IMPORTS):
        module = getattr(node, "module", None) or node.names[0].name
        return module.partition(".")[0] in sys.stdlib_module_names
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return True
    values = [each.value if isinstance(each, ast.Expr) else each for each in node.body]
    left_out = any(isinstance(each, ast.Constant) and each.value is ... for each in values)
    raised = (getattr(getattr(each, "exc", None), "func", getattr(each, "exc", None)) for each in values)
    stub = any(getattr(each, "id", "") == "NotImplementedError" for each in raised)
    return not (left_out or stub or all(isinstance(each, (ast.Constant, ast.Pass)) for each in values))


def _has_function(part: CodePart) -> bool:
    kinds = (ast.Lambda, ast.Name, ast.Attribute)
    return any(not isinstance(each, ASSIGNMENTS) or isinstance(each.value, kinds) for each in part.nodes)


def program(codes: Sequence[str], request: CodeRequest) -> ReplyCode | None:
    """The program of a reply's blocks: the last one that defines the entry point, with what it lacks from the other
    blocks and from the prompt, without tests and examples. None if there is no Python."""
    reader = PythonReader()
    codes = _rejoined(codes)
    blocks, name = [reader.parts(code) for code in codes], entry_point(request)
    chosen = [at for at, parts in enumerate(blocks) if parts and (not name or defines(parts, name))]
    given = reader.parts(request.prompt)
    if not chosen or (not name and OPENED.search(request.prompt)):
        for code in [*reversed(codes), *(_text(parts) for parts in reversed(blocks))]:
            if (found := _continuation(code, request.prompt, name, reader)) is not None:
                return found
    if not name:  # a script: its last block that assigns something
        assigning = [at for at in chosen if any(part.bound and not part.only(*IMPORTS) for part in blocks[at])]
        wanted = [at for at in assigning if any(request.variable in part.bound for part in blocks[at])]
        joined = _joined(blocks, (wanted or assigning or chosen)[-1]) if chosen else []
        return ReplyCode(_text(_with_given(joined, given)), True) if joined else None
    methods = [at for at, parts in enumerate(blocks) if _class_with(parts, name)]
    functions = [at for at in chosen if any(name in part.bound and _has_function(part) for part in blocks[at])]
    if not (some := functions or chosen or methods):
        return None
    parts = _joined(blocks, some[-1])
    if not chosen and (owner := _class_with(parts, name)):  # as on LeetCode
        parts = [*parts, *reader.parts(f"def {name}(*given, **named):\n    return {owner}().{name}(*given, **named)\n")]
    return ReplyCode(_text(_with_given(_undriven(parts, name), given, name)), True)


def _rejoined(codes: Sequence[str]) -> list[str]:
    joined = list[str]()
    for code in codes:
        last = joined[-1].strip("\n").rstrip() if joined else ""
        line = last.rpartition("\n")[2]
        within = line.endswith(":") or (line[:1].isspace() and not line.strip().startswith(("return", "raise")))
        if code.strip("\n")[:1].isspace() and not last[:1].isspace() and within:
            joined[-1] = f"{last}\n{code}"
        else:
            joined.append(code)
    return joined


def _class_with(parts: Iterable[CodePart], method: str) -> str:
    classes = (node for part in parts for node in part.nodes if isinstance(node, ast.ClassDef))
    return next((each.name for each in classes if any(getattr(one, "name", "") == method for one in each.body)), "")


def _joined(blocks: Sequence[list[CodePart]], chosen: int) -> list[CodePart]:
    parts = blocks[chosen]
    for at in [*reversed(range(chosen)), *range(chosen + 1, len(blocks))]:
        known = frozenset().union(*(part.bound for part in parts))
        lacking = frozenset().union(*(part.names for part in parts)) - known
        if all(part.only(*IMPORTS) for part in blocks[at]) or any(part.bound & lacking for part in blocks[at]):
            further = [part for part in blocks[at] if part.only(*IMPORTS) or (part.bound and not part.bound & known)]
            parts = [*further, *parts]
    return parts


def _undriven(parts: Sequence[CodePart], name: str) -> list[CodePart]:
    needed, drivers = {name}, {*DRIVERS, name}

    def grown(names: set[str], more: Callable[[CodePart], frozenset[str]]) -> None:
        for _ in range(MAX_ROUNDS):
            size = len(names)
            for part in parts:
                names |= more(part)
            if size == len(names):
                break

    none = frozenset[str]()
    grown(needed, lambda part: part.names if part.bound & needed else none)
    grown(drivers, lambda part: none if part.bound & needed or not _drives(part, drivers) else part.bound)
    kept = [
        part for part in parts if not _drives(part, drivers) or (part.bound & needed and not _is_result(part, name))
    ]
    used, unused = (none.union(*(part.names for part in some)) for some in (kept, [p for p in parts if p not in kept]))
    return [part for part in kept if not (part.only(*IMPORTS) and part.bound & (unused - used))]


def _is_result(part: CodePart, name: str) -> bool:
    calls = (getattr(getattr(getattr(each, "value", None), "func", None), "id", "") for each in part.nodes)
    return part.bound == {name} and name in calls


def _drives(part: CodePart, drivers: set[str]) -> bool:
    if part.only(*IMPORTS):
        names = {(getattr(node, "module", None) or node.names[0].name).partition(".")[0] for node in part.nodes}
        return bool(names & TESTING)
    if part.only(*DEFINITIONS):
        return bool(part.names & (drivers - {"print"}))
    nodes = [each for node in part.nodes if not isinstance(node, DEFINITIONS) for each in ast.walk(node)]
    leaves = any(isinstance(each, ast.Assert) or getattr(each, "attr", "") in LEAVING for each in nodes)
    stored = (each for each in nodes if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store))
    given = {getattr(each.value, "id", "") for each in stored}  # as a function that counts its calls
    return leaves or bool((part.now - given) & drivers)


def _with_given(parts: list[CodePart], given: Sequence[CodePart], name: str = "") -> list[CodePart]:
    before = next((at for at in reversed(range(len(given))) if name in given[at].bound), len(given))
    known = frozenset().union(*(part.bound for part in given[:before] if any(map(_is_real, part.nodes))))
    parts = [part for part in parts if not part.bound or part.bound - known or any(map(_is_real, part.nodes))]  # stubs
    bound = frozenset().union(*(part.bound for part in parts))
    texts = {part.text.strip() for part in parts}
    lacks = any(part.bound - bound or (not part.bound and part.text.strip() not in texts) for part in given[:before])
    return [*given[:before], *parts] if lacks else parts


def _text(parts: Sequence[CodePart]) -> str:
    first = [part for part in parts if any(getattr(node, "module", "") == "__future__" for node in part.nodes)]
    return "".join(f"{part.text}\n" for part in [*first, *(part for part in parts if part not in first)]).lstrip("\n")


def _continuation(code: str, prompt: str, name: str, reader: PythonReader) -> ReplyCode | None:
    opened, last = reader.parsed(prompt), prompt.rstrip().rpartition("\n")[2]
    begun = not prompt.endswith(("\n", ":", '"""', "'''")) and not last.strip().startswith("#")  # a statement
    body = _beyond_lines(code.translate(ODD_SPACES).strip("\n"), prompt).rstrip()
    if begun and body.lstrip().startswith(last.strip()):
        body = body.lstrip()[len(last.strip()) :]
    alone = reader.parsed(dedent(body))
    if not body.strip() or (alone and not begun and not body[0].isspace() and not _returns(alone)):
        return None
    known = _last_function(opened) if opened else None
    width = known.body[0].col_offset if known else len(last) - len(last.lstrip()) + 4 * last.endswith(":")
    first, _, rest = body.lstrip().partition("\n")
    shapes = [body, _indented(dedent(body), " " * width), " " * width + f"{first}\n{rest}"]
    shapes += [_indented(f"{first}\n{dedent(rest)}", " " * width)]
    start = "" if prompt.endswith("\n") else "\n"
    for shape in [*([body.lstrip()] if begun else []), *(start + each for each in shapes)]:
        joined = f"{prompt}{shape}\n"
        if (tree := reader.parsed(joined)) is None or not (function := _last_function(tree, known)):
            continue
        if len(function.body) > (len(known.body) - begun if known else 0):
            below = [node for node in tree.body if node.lineno > (function.end_lineno or 0)]
            if any(isinstance(node, DEFINITIONS) for node in below):
                return ReplyCode(_text(_undriven(list(_parts(tree, joined)), name)), True)
            return ReplyCode(f"{shape}\n", False)
    return None


def _returns(tree: ast.Module) -> bool:
    """Whether statements return something outside of functions, so that they are a body."""
    outside = (node for each in tree.body if not isinstance(each, DEFINITIONS) for node in ast.walk(each))
    return any(isinstance(node, (ast.Return, ast.Yield)) for node in outside)


def _last_function(tree: ast.Module, known: ast.stmt | None = None) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    if known is not None:
        return next((node for node in functions if node.lineno == known.lineno), None)
    return max(functions, key=lambda node: node.lineno, default=None)


def _beyond_lines(body: str, prompt: str) -> str:
    lines, known = body.split("\n"), [line.strip() for line in prompt.rstrip().split("\n")]
    for length in range(min(len(lines), len(known)), 0, -1):
        if [line.strip() for line in lines[:length]] == known[-length:]:
            return "\n".join(lines[length:])
    return body


def nested(code: str, name: str, call: str) -> str:
    """A text as the body of a function with this name. What defines that function again goes in whole and is called."""
    parts = PythonReader().parts(code)
    if defines(parts, name):
        code = f"{_text(_undriven(parts, name))}return {call}\n"
    return _indented(dedent(code), "    ")


def _indented(code: str, space: str) -> str:
    tree = PythonReader().parsed(code) or ast.Module([], [])
    texts = [each for each in ast.walk(tree) if isinstance(each, (ast.Constant, ast.JoinedStr))]
    within = {line for each in texts for line in range(each.lineno, each.end_lineno or 0)}
    lines = enumerate(code.split("\n"))
    return "\n".join(line if number in within or not line.strip() else f"{space}{line}" for number, line in lines)


def beyond(code: str, given: str) -> str:
    """A text without its leading statements that repeat given code; imports and functions may stand between them."""
    reader = PythonReader()
    known = [_same(part) for part in reader.parts(given)]
    kept, repeats = list[CodePart](), True
    for part in reader.parts(code):
        if repeats and (same := _same(part)) in known:
            known = known[known.index(same) + 1 :]
        else:
            kept.append(part)
            repeats = repeats and part.only(*IMPORTS, *DEFINITIONS)
    return _text(kept)


def _same(part: CodePart) -> list[str]:
    try:
        return [ast.dump(node) for node in part.nodes]
    except RecursionError:
        return [part.text]
