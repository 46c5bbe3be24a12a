"""Programs in a chat model's reply in other languages than Python, read by tree-sitter's grammars.

A text is read as its top-level items. A program is the item that defines the entry point, what that mentions, what this
mentions, and so on. Main functions, tests, drivers and examples are mentioned by nothing, so they drop out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from time import thread_time
from typing import Any

from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest, ReplyCode

FILE = Path(__file__).with_name("languages.yaml")
MAX_CHARACTERS = 40_000
MAX_OPEN_BRACKETS = 300  # `<` counts as one
MAX_SECONDS = 1.5  # of computing, for all texts of a reply
CHUNK_BYTES = 4096
MAX_BEGINNINGS = 6  # places at which code without a fence may begin
WORD = re.compile(r"\w+")
SUFFIX = re.compile(r"\b\d\w*?(_\w+)")  # of a literal, which C++'s operators name
MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)(?:\(|[ \t].*[{}()])", re.MULTILINE)  # with arguments or brackets
NOISE = re.compile(r"\b(?:console|print|printf|process\.std\w+|io\.(?:read|write)|echo|read|exit|assert)\b")
TESTING = re.compile(
    r"\b(?:junit|testng|mockito|hamcrest|assertj|gtest|gmock|catch2?|doctest|proptest|quickcheck|rstest|jest|vitest"
    r"|mocha|chai|testify)\b"
)  # libraries whose imports go unless the function needs them
METHOD = re.compile(r"[^({=;]*?\b(\w+)::~?\w+\s*\(")  # C++'s outside of its class
USED = re.compile(r"([^{},]*)\{([^{}]*)\}")
CODE = re.compile(r"[{}#]|\w\(|<%")  # in what no sentence is
BRACKETS = re.compile(r"<[<=\-/]|->|=>|[][(){}<>]")


SPECIFIERS = ("struct_specifier", "class_specifier", "enum_specifier", "union_specifier")
FUNCTIONS = ("arrow_function", "function_expression", "function", "generator_function", "class")
EXPORTED = "their_exports"  # our name for an object of functions that JavaScript exports


@dataclass(frozen=True)
class Grammar:
    """A language's entry in `languages.yaml`, which explains its fields."""

    package: str
    imports: frozenset[str]
    dropped: frozenset[str]
    members: frozenset[str]
    attached: Mapping[str, Sequence[str]] = field(default_factory=dict)
    by_name: bool = False
    scripts: bool = False
    closing: str = "}"
    forward: str = ""
    function: str = "language"


def grammar_of(language: str) -> Grammar:
    """The grammar of a language that has one."""
    row = shipped_table(FILE)["grammars"][language]
    sets = {key: frozenset(row.get(key, "").split()) for key in ("imports", "dropped", "members")}
    return Grammar(**{**row, **sets})


@cache
def _nodes(key: str) -> frozenset[str]:
    return frozenset(shipped_table(FILE)["nodes"][key].split())


@dataclass(frozen=True)
class Item:
    """A top-level part of a program. `role`: "import", "definition", "member", "statement", "error" or "kept". `hosts`:
    the types to which it is attached. `members`: the functions of a class, by name."""

    role: str
    names: frozenset[str]
    text: str
    node: Any
    hosts: frozenset[str] = frozenset()
    members: Mapping[str, Any] = field(default_factory=dict)

    def defines(self, name: str) -> bool:
        """Whether it defines this function, or a method of this name; a declaration does not."""
        bare = self.node.type == "function_signature" or (self.node.type == "declaration" and "=" not in self.text)
        known = name in self.names or name in self.members
        return known and not bare and self.role in ("definition", "member")

    def words(self, left_out: str = r"comment$") -> set[str]:
        """The words of its code, without nodes of these types."""
        code, start = bytearray(self.node.text), self.node.start_byte
        for each in _walked(self.node):
            if re.search(left_out, each.type):
                first, end = each.start_byte - start, each.end_byte - start
                code[first:end] = b" " * (end - first)
        text = code.decode("utf-8", "replace")
        return {*WORD.findall(text), *SUFFIX.findall(text)}


class UnreadCode(Exception):
    """Why a text is not parsed."""


def text_of(node: Any) -> str:
    return str(node.text, "utf-8", "replace")


class TreeReader:
    """Parses texts of a language, each once, for `MAX_SECONDS` seconds of computing in all."""

    def __init__(self, language: str) -> None:
        self.language, self.grammar = language, grammar_of(language)
        self._left = MAX_SECONDS
        self._trees: dict[str, Any] = {}

    def parsed(self, code: str) -> Any:
        """The root of a text's tree; `UnreadCode` if that would need minutes or gigabytes, as a hostile text can."""
        if code not in self._trees:
            self._trees[code] = self._parsed(code)
        return self._trees[code].root_node

    def _parsed(self, code: str) -> Any:
        import tree_sitter

        if len(code) > MAX_CHARACTERS:
            raise UnreadCode(f"{len(code)} characters of code; at most {MAX_CHARACTERS} are read")
        depth = angles = 0
        for bracket in BRACKETS.finditer(code):
            angles += {"<": 1, ">": -1}.get(bracket[0], 0)
            depth = max(0, depth + {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(bracket[0], 0))
            if max(depth, angles) > MAX_OPEN_BRACKETS:
                raise UnreadCode(f"more than {MAX_OPEN_BRACKETS} brackets are open in its code")
        known = tree_sitter.Language(getattr(import_module(self.grammar.package), self.grammar.function)())
        source, begun = code.encode("utf-8", "replace"), thread_time()
        try:
            return tree_sitter.Parser(known).parse(
                lambda place, _: source[place : place + CHUNK_BYTES],
                progress_callback=lambda *_: thread_time() - begun > self._left,
            )
        except ValueError:
            raise UnreadCode(f"reading its code takes more than {MAX_SECONDS:g} s") from None
        finally:
            self._left -= thread_time() - begun

    def outline(self, code: str, name: str = "") -> list[Item]:
        """The top-level items of a text, without comments. `name`: of a function that is exported without one."""
        items, prefix = list[Item](), ""
        for node in self.parsed(code).children:
            text = text_of(node).strip("\n")
            if node.type.endswith("comment") or node.type in self.grammar.dropped or node.type == "hash_bang_line":
                continue
            if node.type == "attribute_item":
                prefix += f"{text}\n"
                continue
            if node.type == ";":
                items[-1:] = [replace(each, text=f"{each.text};") for each in items[-1:]]
            elif not re.search(r"\bcfg\(test\)|^#\[test\]", prefix, re.MULTILINE):
                items += _items(node, f"{prefix}{text}", self.grammar, name)
            prefix = ""
        return items

    def closed(self, code: str) -> str:
        """The text with its open functions and classes closed at its end."""
        root = self.parsed(code)
        if self.grammar.closing != "}":
            return f"{code}\nend" if root.has_error else code
        opened = sum({"{": 1, "}": -1}.get("" if node.is_missing else node.type, 0) for node in _walked(root))
        return code + "\n}" * max(0, opened)

    def renamed(self, code: str, old: str, new: str) -> str:
        """The text with another name for a class or function, not in texts and comments."""
        source, word = code.encode("utf-8", "replace"), old.encode()
        nodes = (node for node in _walked(self.parsed(code)) if node.type.endswith("identifier"))
        for start in sorted((node.start_byte for node in nodes if node.text == word), reverse=True):
            source = source[:start] + new.encode() + source[start + len(word) :]
        return source.decode("utf-8", "replace")


def _items(node: Any, text: str, grammar: Grammar, name: str) -> Iterator[Item]:
    declared = node.child_by_field_name("declaration") if node.type == "export_statement" else None
    path, value = _assigned(node)
    if node.type in grammar.imports and not re.match(r"using\s+(?!namespace\s+std\b|std\b)", text):
        yield from _imports(node, text, grammar)
    elif node.type == "ERROR":
        yield Item("error", frozenset(), text, node)
    elif declared is not None:
        yield from _items(declared, text_of(declared), grammar, name)
    elif exported := re.fullmatch(r"(?:module\.)?exports(?:\.(\w+))?|export", path):
        if value is not None and value.type in FUNCTIONS:
            name = exported[1] or next(iter(names(value)), name)
            yield Item("definition", frozenset((name,)), f"const {name} = {text_of(value)};", value)
        elif value is not None and (members := _members(value)):
            text = f"const {EXPORTED} = {text_of(value)};"
            yield Item("definition", frozenset((EXPORTED,)), text, value, members=members)
    elif path:
        yield Item("definition", frozenset(WORD.findall(path)), text, node)
    elif node.type in grammar.attached:
        hosts = [node.child_by_field_name(each) for each in grammar.attached[node.type]]
        known = frozenset(word for part in hosts if part for word in WORD.findall(text_of(part)))
        members = _members(node) or dict.fromkeys(names(node), node)
        yield Item("definition", frozenset(), text, node, known, members)
    elif node.type == "function_definition" and (outside := METHOD.match(text)):
        members = dict.fromkeys(names(node) - {outside[1]}, node)
        yield Item("definition", frozenset(), text, node, frozenset((outside[1],)), members)
    elif node.type in grammar.members:
        yield Item("member", names(node), text, node)
    else:
        found = names(node)
        loose = grammar.scripts and not re.search(r"declaration|definition|assignment$|signature|module", node.type)
        if loose or (found and node.type == "command") or (grammar.by_name and found == {"init"}):  # Go calls it
            directive = re.match(r"['\"]use strict|(?:set|shopt|unset)\b", text)
            yield Item("kept" if directive else "statement", frozenset(), text, node)
            return
        public = re.sub(r"^((?:@\w+\s+)*)public\s+", r"\1", text) if grammar.members else text
        role = "definition" if found and "std" not in found else "kept"  # a specialisation of the library's
        yield Item(role, found if role == "definition" else frozenset(), public, node, members=_members(node))


def names(node: Any) -> frozenset[str]:
    """The names that a node defines."""
    found, waiting = set(), [node]
    skipped, parts = _nodes("skipped"), _nodes("parts")
    while waiting:
        node = waiting.pop()
        leaf = node.type.endswith(("identifier", "identifier_pattern")) or node.type in ("word", "variable_name")
        found |= {text_of(node).removeprefix("r#")} if leaf and not node.named_child_count else set()
        for number, child in enumerate(node.children):
            key = node.field_name_for_child(number)
            if key == "type" and child.type in SPECIFIERS and child.child_by_field_name("body"):
                waiting.append(child)
            elif child.type in ("enumerator_list", "token_tree"):
                found.update(WORD.findall(text_of(child)))
            elif not (key in skipped or child.type in parts or child.type.endswith("statement_block")):
                waiting.append(child)
            elif node.type == "trait_item" and key == "body":
                found.update(name for each in child.named_children for name in names(each))
    return frozenset(found)


def _members(node: Any) -> dict[str, Any]:
    values = [node, *(part.child_by_field_name("value") for part in node.named_children)]
    body = next((each for each in values if each and each.type == "object"), node.child_by_field_name("body"))
    kinds = r"class|struct|impl|record|interface|enum|namespace|\bobject$"
    if body is None or not re.search(kinds, f"{node.type} {body.type}"):
        return {}
    functions = re.compile(f"method|function|pair (?:{'|'.join(FUNCTIONS)})$")
    typed = [(each, getattr(each.child_by_field_name("value"), "type", "")) for each in body.named_children]
    return {name: each for each, kind in typed if functions.match(f"{each.type} {kind}") for name in names(each)}


def _assigned(node: Any) -> tuple[str, Any]:
    inner = node.named_children[0] if node.type == "expression_statement" and node.named_children else node
    if inner.type == "export_statement":
        return "export", inner.child_by_field_name("value")
    if inner.type == "assignment_expression":
        return text_of(inner.child_by_field_name("left")), inner.child_by_field_name("right")
    if inner.type == "assignment_statement" and inner.named_child_count > 1:
        return text_of(inner.named_children[0]), inner.named_children[1]
    return "", None


def _imports(node: Any, text: str, grammar: Grammar) -> Iterator[Item]:
    if node.type == "import_statement":
        source = re.search(r"""from\s*(['"].*?['"])|^import\s*(['"].*?['"])|require\((.*?)\)""", text, re.DOTALL)
        if source is None or text.startswith("import type"):
            return
        call = f"require({source[1] or source[2] or source[3]})"
        clause = re.sub(r"\btype\s+(?=\w)", "", re.split(r"\bfrom\b|=\s*require", text.removeprefix("import"))[0])
        listed = re.search(r"\{.*?\}", clause, re.DOTALL)
        single = re.findall(r"\w+", re.sub(r"\{.*?\}|\*\s*as\b", "", clause, flags=re.DOTALL)) if not source[2] else []
        lines = [f"const {name} = {call};" for name in single]
        renamed = re.sub(r"\bas\b", ":", listed[0]) if listed else ""
        lines += [f"const {renamed} = {call};"] if listed else []
        found = frozenset([*single, *WORD.findall(listed[0] if listed else "")])
        yield Item("import", found, "\n".join(lines) or f"{call};", node)
    elif grammar.by_name:
        specs = [each for part in node.named_children for each in (part, *part.named_children)]
        for spec in (each for each in specs if each.type == "import_spec"):
            words = text_of(spec)
            path = words.rpartition('"')[0].rpartition('"')[2]
            alias = words.partition('"')[0].strip()
            found = frozenset((alias or re.sub(r"/v\d+$", "", path).rpartition("/")[2],))
            yield Item("import", frozenset() if alias in ("_", ".") else found, f"import {words}", node)
    elif node.type == "use_declaration":
        for path, name in uses(text.strip().removeprefix("pub ").removeprefix("use").rstrip(";").strip()):
            renamed = f" as {name}" if name not in (path.rpartition("::")[2], "*") else ""
            yield Item("import", frozenset() if name == "*" else frozenset((name,)), f"use {path}{renamed};", node)
    else:
        yield Item("import", frozenset(), " ".join(text.split()) if node.type != "preproc_include" else text, node)


def uses(tree: str) -> Iterator[tuple[str, str]]:
    """Rust's `a::{b, c::{self, d as e}}` as pairs of a path and a name: a::b and b, a::c and c, a::c::d and e."""
    groups = tree.count("{")
    for _ in range(min(groups, MAX_OPEN_BRACKETS)):  # the innermost ones first
        tree = USED.sub(lambda group: ",".join(group[1].strip() + each.strip() for each in group[2].split(",")), tree)
    for each in tree.split(","):
        path, _, name = re.sub(r"\s+", " ", each).strip().partition(" as ")
        if path and not path.endswith("::"):  # after a comma at the end of a group
            path = path.removesuffix("::self")
            yield path, name or path.rpartition("::")[2]


def _walked(node: Any) -> Iterator[Any]:
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children


@dataclass(frozen=True)
class ReplyProgram:
    """The parts of a program: what it imports, its other items, and the item with the entry point."""

    name: str
    imports: tuple[Item, ...]
    items: tuple[Item, ...]
    entry: Item
    prompted: Item | None = None  # the prompt's item with the entry point
    owner: str = ""  # the class whose method the entry point is

    @property
    def text(self) -> str:
        head = "\n".join(dict.fromkeys(each.text for each in self.imports))
        return f"{head}\n\n{self.code}" if head else self.code

    def with_entry(self, entry: Item) -> ReplyProgram:
        return replace(self, entry=entry, items=tuple(entry if each is self.entry else each for each in self.items))

    @property
    def code(self) -> str:
        return "\n\n".join(each.text for each in self.items) + "\n"

    def called(self, owner: str) -> str:
        """Java's static method that calls the entry point in a class of another name."""
        method = self.prompted.members[self.name] if self.prompted else None
        text = text_of(self.entry.members.get(self.name, self.entry.node)).partition("{")[0]
        place = owner if re.search(r"\bstatic\b", text) else f"new {owner}()"
        values = ", ".join(names_of_parameters(method))
        return f"{signature(method)} {{ return {place}.{self.name}({values}); }}"


def signature(node: Any) -> str:
    """A function's text without its body."""
    while node.type == "template_declaration":
        node = node.named_children[-1]
    body = node.child_by_field_name("body")
    return text_of(node)[: len(text_of(node)) - len(text_of(body))].strip() if body else ""


def program(codes: Sequence[str], request: CodeRequest) -> ReplyCode | None:
    """The program of a reply's codes: the last that defines the entry point, with what it needs from the others and
    from the prompt; else what continues the prompt; None without either."""
    if request.language not in shipped_table(FILE)["grammars"]:  # whole if it repeats the prompt's last line
        line = " ".join((request.prompt.rstrip().splitlines() or ["\0"])[-1].split())
        whole = [code for code in codes if line in " ".join(code.split())]
        return ReplyCode((whole or list(codes))[-1], bool(whole))
    try:
        reader = TreeReader(request.language)
        found = _parts(codes, request, False, reader)
        return ReplyCode(found.text, True) if found else _continuation(codes, request.prompt, reader)
    except UnreadCode as error:
        return ReplyCode("", False, str(error))


def parts(codes: Sequence[str], request: CodeRequest, fixed: bool = False) -> ReplyProgram | None:
    """The parts of the program; None if no code defines the entry point, or is too long to be read. `fixed`: the
    prompt's imports and definitions are there already, and are not replaced."""
    with suppress(UnreadCode):
        return _parts(codes, request, fixed, TreeReader(request.language))
    return None


def _parts(codes: Sequence[str], request: CodeRequest, fixed: bool, reader: TreeReader) -> ReplyProgram | None:
    text = reader.closed(request.prompt)
    prompt = reader.outline(text)
    # the function that the prompt leaves open; the entry point may be one that calls it
    opened = prompt[-1].names if prompt and text != request.prompt else frozenset()
    named = next((each for each in reversed(prompt) if each.names), None)
    name = request.entry_point or ([*sorted(named.names), *named.members][-1] if named else "")
    outlines = [_readable(code, reader, name) for code in codes]
    theirs = next((each for each in prompt if each.defines(name)), None)
    given = [each for each in prompt if each.role != "error" and not each.defines(name)]
    given = [each for each in given if not each.names or each.names != opened]
    for code, items in zip(reversed(codes), reversed(outlines), strict=True):
        if text := _unread(code, reader, name):
            entry, defined = Item("definition", frozenset((name,)), text, reader.parsed(code)), {*WORD.findall(text)}
            rest = [] if fixed else [each for each in given if not each.names & defined]
            imports = tuple(each for each in rest if each.role == "import")
            return ReplyProgram(name, imports, (*(each for each in rest if each not in imports), entry), entry, theirs)
        if any(each.defines(name) for each in items):
            break
    whole = [items for items in outlines if any(each.defines(name) for each in items)]
    if not name or not whole:
        return None
    sound = [items for items in whole if not any(each.node.has_error for each in items if each.defines(name))]
    chosen = (sound or whole)[-1]
    entry = max((each for each in reversed(chosen) if each.defines(name)), key=lambda each: name in each.names)
    known = {word for each in given if each.role == "definition" for word in each.names} if fixed else set()
    defined = {word for each in chosen for word in each.names}
    others = [each for items in outlines if items is not chosen for each in items if each.role not in ("error", "kept")]
    spare = [each for each in others if each.role == "import" or (each.names and not each.names & defined)]
    items = [each for each in (*spare, *chosen) if each is entry or not each.names & known]
    kept = reached(items, entry, {name, *opened})
    if not fixed:
        defined = {word for each in kept for word in each.names}
        kept = [*(each for each in given if not each.names & defined and each.role != "member"), *kept]
    rest = tuple(each for each in kept if each.role != "import")
    words = {word for each in rest for word in each.words(r"comment$|string_literal$")}
    imports = {
        each.names or each.text: each
        for each in kept
        if each.role == "import"
        and (each.names & words or not ((reader.grammar.by_name and each.names) or TESTING.search(each.text)))
    }
    return _adapted(ReplyProgram(name, tuple(imports.values()), rest, entry, theirs), reader)


def _unread(code: str, reader: TreeReader, name: str) -> str:
    """A text that defines the entry point without its main function, if the grammar fails on code in it, or macros
    declare what is in it: a compiler may read it. Empty if the grammar reads all of it, or fails on sentences, or if
    its items could not stay as they are."""
    grammar, nodes = reader.grammar, reader.parsed(code).children
    head = rf"^[ \t]*(?!return\b|else\b)[\w:<>,&*\[\] \t]*[ \t&*]{re.escape(name)}\s*\([^;{{}}]*\)[^;{{}}]*(?:\{{|<%)"
    declares = name in WORD.findall(code) and _macros_declare(code, reader)
    others = grammar.members or grammar.by_name or grammar.scripts
    if others or not (declares or re.search(head, code, re.MULTILINE)):
        return ""
    functions = (
        each for each in _walked(reader.parsed(code)) if re.search(r"function_(?:definition|item)$", each.type)
    )
    main = sorted((each for each in functions if "main" in names(each)), key=lambda each: each.start_byte)
    failed = [text_of(each) for each in nodes if each.has_error and each not in main]
    lines = [line for text in failed for line in text.splitlines() if not re.match(r"\s*(?://|\*|/\*)", line)]
    if any(map(_is_prose, lines)) or not (declares or any(CODE.search(text) for text in failed)):
        return ""
    source = code.encode("utf-8", "replace")
    for each in reversed(main):
        source = source[: each.start_byte] + source[each.end_byte :]
    return source.decode("utf-8", "replace").strip("\n")


def _macros_declare(code: str, reader: TreeReader) -> bool:
    text = bytearray(code.encode("utf-8", "replace"))
    for each in _walked(reader.parsed(code)) if (macros := {*MACRO.findall(code)}) else ():
        if re.search(r"^compound_statement|^preproc_(?:function_)?def$|comment|string", each.type):
            text[each.start_byte : each.end_byte] = b" " * (each.end_byte - each.start_byte)
    return not macros.isdisjoint(WORD.findall(text.decode("utf-8", "replace")))


def leaves_open(code: str, language: str) -> bool:
    """Whether a text ends in a function or class; False if it is too long to be read. A brace at the start of the last
    line closes it, although the preprocessor may open others twice."""
    with suppress(UnreadCode):
        reader = TreeReader(language)
        return reader.closed(code) != code and not (reader.grammar.closing == "}" and code.rstrip().endswith("\n}"))
    return False


def new_imports(code: str, made: ReplyProgram) -> list[Item]:
    known = {name for each in TreeReader("go").outline(code) if each.role == "import" for name in each.names}
    return [each for each in made.imports if not each.names & known]


def reached(items: Sequence[Item], entry: Item, wanted: Set[str]) -> list[Item]:
    """The entry point, the imports, the items that define the `wanted` names, everything that these mention directly or
    indirectly, and statements that prepare any of it, in the order of the text."""
    by_word: dict[str, list[int]] = {}
    for number, each in enumerate(items):
        for word in each.hosts or each.names:
            by_word.setdefault(word, []).append(number)
    kept, seen = set[int](), set[str]()
    always = [each is entry or each.role in ("kept", "import") or bool(wanted & each.names) for each in items]
    waiting = [number for number, each in enumerate(always) if each]
    for statements in (False, True):
        prepared = {word for n in kept for word in items[n].names} - wanted
        for number, each in enumerate(items if statements else ()):
            words = each.words() if each.role == "statement" else set()
            if words & prepared and not wanted & words and not NOISE.search(each.text):
                waiting.append(number)
        while waiting:
            number = waiting.pop()
            if number not in kept:
                kept.add(number)
                words = items[number].words() - seen
                waiting += [n for word in words for n in by_word.get(word, ())]
                seen |= words
    return [items[n] for n in sorted(kept)]


def _adapted(made: ReplyProgram, reader: TreeReader) -> ReplyProgram:
    entry, name, grammar, theirs = made.entry, made.name, reader.grammar, made.prompted
    language = reader.language
    if theirs and theirs.members and grammar.members:
        return _in_class(made, reader, theirs)
    path = re.search(rf"([\w.]+)\.{name}\b", entry.text.partition("(")[0])
    head, types = signature(theirs.node) if theirs else "", [word for each in made.items for word in each.names]
    owner = next(iter(entry.names - {name}), "") or next((each for each in types if each in entry.hosts), "")
    call, text = f"{owner}().{name}", ""
    own = signature(entry.node)
    if head and language == "cpp" and re.match(r"(?:\w+\s+)*auto\b", own) and "->" not in own:
        given = head[: head.index(name)].strip()  # a deduced type, which nothing can be called by before it
        entry = replace(entry, text=re.sub(r"\bauto\b", given, entry.text, count=1))
        return replace(made.with_entry(entry), owner=name)
    if language == "lua" and path:
        text = f"local {name} = {path[1]}.{name}"
    elif entry.node.type == "template_declaration" and name in entry.names:
        call = f"{name}<>"
    elif head and language == "cpp" and entry.node.type == "declaration":  # a lambda
        call = f"their_{name}"
        made = made.with_entry(replace(entry, text=reader.renamed(entry.text, name, call)))
    elif entry.node.type == "namespace_definition":
        call = f"{owner}::{name}"
    elif name in entry.names:
        return made
    if not text and grammar.forward and (head or "{signature}" not in grammar.forward):
        values = ", ".join(names_of_parameters(theirs.node)) if theirs else ""
        owner = owner or next(iter(entry.hosts), "")
        text = grammar.forward.format(signature=head, owner=owner, name=name, names=values, call=call)
        if language == "rust" and owner not in types:
            text = f"struct {owner};\n{text}"
    added = replace(entry, role="kept", names=frozenset((name,)), text=text)
    return replace(made, items=(*made.items, added), owner=owner or name) if text else made


def _in_class(made: ReplyProgram, reader: TreeReader, theirs: Item) -> ReplyProgram:
    (wanted,), entry = theirs.names, made.entry
    bare, rest = ([each for each in made.items if (each.role == "member") is member] for member in (True, False))
    known = {made.name, *entry.members, *(name for each in bare for name in each.names)}
    lacking = [text_of(node) for key, node in theirs.members.items() if key not in known]
    body = "\n\n".join([*lacking, *(each.text for each in bare)])
    if entry.role == "member":
        text = f"class {wanted} {{\n{body}\n}}"
        rest.append(entry)
    else:
        text = entry.text.rpartition("}")[0] + f"\n{body}\n}}"
    text = re.sub(rf"\b(?:private|protected)\s+(?=[^;=(){{}}]*\b{made.name}\s*\()", "", text)
    within = replace(entry, role="definition", names=entry.names, text=text)
    items = [within if each is entry else each for each in rest]
    owner = next(iter(entry.names), wanted) if entry.role != "member" else wanted
    if owner != wanted:
        items = [each for each in items if wanted not in each.names]
        items = [replace(each, text=reader.renamed(each.text, owner, wanted)) for each in items]
    return replace(made, items=tuple(items), entry=within, owner=wanted)


def names_of_parameters(node: Any) -> list[str]:
    """The names of a function's parameters."""
    for each in _walked(node):
        if (found := each.child_by_field_name("parameters")) and each.type != "template_declaration":
            return [name for part in found.named_children for name in sorted(names(part))]
    return []


def _is_prose(text: str) -> bool:
    line = text.strip().partition("\n")[0].rstrip()
    return len(line.split()) > 2 and bool(
        re.search(r"[.:!?]$", line) or (re.search(r"\w,?$", line) and not re.search(r"[(){}=;<>]", line))
    )


def _readable(code: str, reader: TreeReader, name: str) -> list[Item]:
    items = reader.outline(code, name)
    if not any(each.role == "error" for each in items):
        return items
    lines = code.split("\n")
    while lines and (not lines[-1].strip() or _is_prose(lines[-1])):  # operators such as `-` would join it to the code
        lines.pop()
    named = re.compile(rf"\b{re.escape(name)}\b")
    places = [
        n
        for n, line in enumerate(lines)
        if not n or not lines[n - 1].strip() or lines[n - 1].rstrip().endswith(":") or named.search(line)
    ]
    for place in places[:MAX_BEGINNINGS]:
        kept = list[str]()
        for node in reader.parsed("\n".join(lines[place:])).children:
            if not (node.has_error and _is_prose(text_of(node))):
                kept.append(text_of(node))
            elif not named.search("\n".join(kept)):
                break
        else:
            shorter = reader.outline("\n".join(kept), name)
            if any(each.defines(name) for each in shorter):
                return shorter
    return items


def _continuation(codes: Sequence[str], prompt: str, reader: TreeReader) -> ReplyCode | None:
    last = None
    for code in reversed(codes):
        text = code if prompt.endswith("\n") or code.startswith("\n") else f"\n{code}"
        whole = reader.closed(f"{prompt}{text.rstrip()}")
        found = ReplyCode(whole[len(prompt) :] + "\n", False)
        if not reader.parsed(whole).has_error:
            return found
        if last is None and not _is_prose(code):
            last = found
    return last
