"""Programs in a chat model's reply in other languages than Python, read by tree-sitter's grammars.

A text is read as its top-level items. A program is the item that defines the entry point, what that mentions, what this
mentions, and so on. Main functions, tests, drivers and examples are mentioned by nothing, so they drop out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from importlib import import_module
from time import monotonic
from typing import Any

from ms_codegeex.evaluation.replies.blocks import Asked, ReplyCode

LARGEST = 40_000  # characters of a text
DEEPEST = 300  # brackets that are open; `<` counts as one
LONGEST, CHUNK = 2.0, 512  # seconds of reading a text, and the bytes after which they are looked at
TRIES = 6  # places at which code without a fence may begin
# C++: `using A = B;`, `typedef B A;`, `#define A B`, and declarations that say nothing else than types and names
ALIAS = re.compile(
    r"using\s+(\w+)\s*=([^;]*);|typedef\b([^;]*?)\b(\w+)\s*;|#\s*define\s+(\w+)[ \t]+([^\n]*)", re.DOTALL
)
PLAIN = re.compile(r"[\w\s:<>,&*()\[\]]+")
WORD = re.compile(r"\w+")
NOISE = re.compile(r"\b(?:console|print|printf|process\.std\w+|io\.(?:read|write)|echo|read|exit|assert)\b")
BRACKETS = re.compile(r"<[<=\-/]|->|=>|[][(){}<>]")
SKIPPED = frozenset(
    [
        "body",
        "value",
        "type",
        "parameters",
        "result",
        "return_type",
        "right",
        "arguments",
        "trait",
        "type_parameters",
        "bounds",
        "receiver",
        "superclass",
        "interfaces",
        "permits",
        "source",
        "path",
        "condition",
        "consequence",
        "alternative",
        "default_value",
        "kind",
        "operator",
    ]
)  # the fields of a definition that do not name what it defines
PARTS = frozenset(("base_class_clause", "class_heritage", "expression_list", "modifiers", "attribute_specifier"))
SPECIFIERS = ("struct_specifier", "class_specifier", "enum_specifier", "union_specifier")
FUNCTIONS = ("arrow_function", "function_expression", "function", "generator_function", "class")


@dataclass(frozen=True)
class Grammar:
    """A language: its package, and what the types of top-level nodes are to a program.

    Attributes:
        imports: they go in front. `by_name`: only if the name that they define is mentioned.
        dropped: package lines, returns, attributes of the file.
        members: functions and variables that stand in a class in this language.
        attached: to a type; kept with it.
        scripts: other nodes are statements, which are kept if they prepare what is mentioned.
        closing: what ends an open function.
        forward: a function that calls a method; with `signature`, `owner`, `name` and `names`.
    """

    package: str
    imports: frozenset[str]
    dropped: frozenset[str] = frozenset()
    members: frozenset[str] = frozenset()
    attached: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    by_name: bool = False
    scripts: bool = False
    closing: str = "}"
    forward: str = ""
    function: str = "language"


def _types(text: str) -> frozenset[str]:
    return frozenset(text.split())


JAVASCRIPT = Grammar(
    "tree_sitter_javascript",
    _types("import_statement"),
    _types("return_statement"),
    scripts=True,
    forward="const {name} = (...given) => {owner}.{name} ? {owner}.{name}(...given) : new {owner}().{name}(...given);",
)
LANGUAGES = {
    "cpp": Grammar(
        "tree_sitter_cpp",
        _types("preproc_include using_declaration namespace_alias_definition"),
        forward="{signature} {{ return {owner}().{name}({names}); }}",
    ),
    "java": Grammar(
        "tree_sitter_java",
        _types("import_declaration"),
        _types("package_declaration"),
        _types("method_declaration local_variable_declaration field_declaration"),
    ),
    "js": JAVASCRIPT,
    "ts": replace(
        JAVASCRIPT,
        package="tree_sitter_typescript",
        function="language_typescript",
        forward="const {name}: any = (...given: any[]) => "
        "({owner} as any).{name} ? ({owner} as any).{name}(...given) : (new {owner}() as any).{name}(...given);",
    ),
    "go": Grammar(
        "tree_sitter_go",
        _types("import_declaration"),
        _types("package_clause"),
        attached={"method_declaration": ("receiver",)},
        by_name=True,
        forward="{signature} {{ return (&{owner}{{}}).{name}({names}) }}",
    ),
    "rust": Grammar(
        "tree_sitter_rust",
        _types("use_declaration extern_crate_declaration"),
        _types("inner_attribute_item"),
        attached={"impl_item": ("type", "trait")},
        forward="{signature} {{ {owner}::{name}({names}) }}",
    ),
    "bash": Grammar("tree_sitter_bash", frozenset(), scripts=True),
    "lua": Grammar("tree_sitter_lua", frozenset(), _types("return_statement"), scripts=True, closing="end"),
}


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


class Unread(Exception):
    """A text that is not read, and why."""


def _text(node: Any) -> str:
    return str(node.text, "utf-8", "replace")


def parsed(code: str, language: str) -> Any:
    """The root of a text's tree; `Unread` if that would need minutes or gigabytes, as a hostile text can."""
    import tree_sitter

    if len(code) > LARGEST:
        raise Unread(f"{len(code)} characters of code; at most {LARGEST} are read")
    depth = angles = 0
    for bracket in BRACKETS.finditer(code):
        angles += {"<": 1, ">": -1}.get(bracket[0], 0)
        depth = max(0, depth + {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(bracket[0], 0))
        if max(depth, angles) > DEEPEST:
            raise Unread(f"more than {DEEPEST} brackets are open in its code")
    grammar, source, begun = LANGUAGES[language], code.encode("utf-8", "replace"), monotonic()
    known = tree_sitter.Language(getattr(import_module(grammar.package), grammar.function)())
    tree = tree_sitter.Parser(known).parse(
        lambda place, _: source[place : place + CHUNK] if monotonic() - begun < LONGEST else b""
    )
    if monotonic() - begun > LONGEST:
        raise Unread(f"reading its code takes more than {LONGEST:g} s")
    return tree.root_node


def outline(code: str, language: str, name: str = "") -> list[Item]:
    """The top-level items of a text, without comments. `name`: of a function that is exported without one."""
    grammar, items, prefix = LANGUAGES[language], list[Item](), ""
    for node in parsed(code, language).children:
        text = _text(node).strip("\n")
        if node.type.endswith("comment") or node.type in grammar.dropped or node.type == "hash_bang_line":
            continue
        if node.type == "attribute_item":
            prefix += f"{text}\n"
        elif node.type == ";":
            items[-1:] = [replace(each, text=f"{each.text};") for each in items[-1:]]
        elif re.search(r"\bcfg\(test\)|^#\[test\]", prefix, re.MULTILINE):
            prefix = ""
        else:
            items += _items(node, f"{prefix}{text}", grammar, name)
            prefix = ""
    return items


def _items(node: Any, text: str, grammar: Grammar, name: str) -> Iterator[Item]:
    if node.type in grammar.imports and not re.match(r"using\s+(?!namespace\s+std\b|std\b)", text):
        yield from _imports(node, text, grammar)
    elif node.type == "ERROR":
        yield Item("error", frozenset(), text, node)
    elif node.type == "export_statement":
        yield from _exported(node, grammar, name)
    elif node.type in grammar.attached:
        parts = [node.child_by_field_name(each) for each in grammar.attached[node.type]]
        hosts = frozenset(word for part in parts if part for word in WORD.findall(_text(part)))
        members = _members(node) or dict.fromkeys(names(node), node)
        yield Item("definition", frozenset(), text, node, hosts, members)
    elif assigned := _assigned(node):
        left, right = assigned
        path = _text(left)
        given = re.fullmatch(r"(?:module\.)?exports(?:\.(\w+))?", path)
        if given and right.type in FUNCTIONS:
            name = given[1] or next(iter(names(right)), name)
            yield Item("definition", frozenset((name,)), f"const {name} = {_text(right)};", right)
        elif not given:
            yield Item("definition", frozenset(WORD.findall(path)), text, node)
    elif node.type in grammar.members:
        yield Item("member", names(node), text, node)
    else:
        found = names(node)
        if grammar.by_name and found == {"init"}:  # Go calls it
            yield Item("statement", frozenset(), text, node)
            return
        loose = grammar.scripts and not re.search(r"declaration|definition|assignment$|signature|module", node.type)
        if loose or (found and node.type == "command"):
            directive = re.match(r"['\"]use strict|(?:set|shopt|unset)\b", text)
            yield Item("kept" if directive else "statement", frozenset(), text, node)
        else:
            public = re.sub(r"^((?:@\w+\s+)*)public\s+", r"\1", text) if grammar.members else text
            role = "definition" if found and "std" not in found else "kept"  # a specialisation of the library's
            yield Item(role, found if role == "definition" else frozenset(), public, node, members=_members(node))


def names(node: Any) -> frozenset[str]:
    """The names that a node defines."""
    found, waiting = set(), [node]
    while waiting:
        node = waiting.pop()
        leaf = node.type.endswith("identifier") or node.type in ("word", "variable_name")
        found |= {_text(node)} if leaf and not node.named_child_count else set()
        for number, child in enumerate(node.children):
            key = node.field_name_for_child(number)
            if key == "type" and child.type in SPECIFIERS and child.child_by_field_name("body"):
                waiting.append(child)
            elif child.type in ("enumerator_list", "token_tree"):
                found.update(WORD.findall(_text(child)))
            elif key not in SKIPPED and child.type not in PARTS and not child.type.endswith("statement_block"):
                waiting.append(child)
            elif node.type == "trait_item" and key == "body":
                found.update(name for each in child.named_children for name in names(each))
    return frozenset(found)


def _members(node: Any) -> dict[str, Any]:
    body = node.child_by_field_name("body")
    if body is None or not re.search(r"class|struct|impl|record|interface|enum", node.type):
        return {}
    kinds = ("method", "function")
    return {name: each for each in body.named_children if each.type.startswith(kinds) for name in names(each)}


def _assigned(node: Any) -> tuple[Any, Any] | None:
    """Both sides of an assignment."""
    inner = node.named_children[0] if node.type == "expression_statement" and node.named_children else node
    if inner.type == "assignment_expression":
        return inner.child_by_field_name("left"), inner.child_by_field_name("right")
    if inner.type == "assignment_statement" and inner.named_child_count > 1:
        return inner.named_children[0], inner.named_children[1]
    return None


def _exported(node: Any, grammar: Grammar, name: str) -> Iterator[Item]:
    """What an export declares, without the export."""
    declared, value = (node.child_by_field_name(each) for each in ("declaration", "value"))
    if declared is not None:
        yield from _items(declared, _text(declared), grammar, name)
    elif value is not None and value.type in FUNCTIONS:
        name = next(iter(names(value)), name)
        yield Item("definition", frozenset((name,)), f"const {name} = {_text(value)};", value)


def _imports(node: Any, text: str, grammar: Grammar) -> Iterator[Item]:
    """An import, or each one of a list; JavaScript's as calls of `require`, which stand in any file."""
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
            words = _text(spec)
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


def uses(tree: str, base: str = "") -> Iterator[tuple[str, str]]:
    """Rust's `a::{b, c::{self, d as e}}` as pairs of a path and a name: a::b and b, a::c and c, a::c::d and e."""
    head, brace, rest = tree.strip().partition("{")
    if brace:
        depth, start, inside = 0, 0, rest.rpartition("}")[0] + ","
        for place, character in enumerate(inside):
            depth += {"{": 1, "}": -1}.get(character, 0)
            if character == "," and depth == 0:
                if part := inside[start:place].strip():
                    yield from uses(part, base + head.strip())
                start = place + 1
        return
    path, _, name = re.sub(r"\s+", " ", base + head).strip().partition(" as ")
    path = path.removesuffix("::self")
    yield path, name or path.rpartition("::")[2]


def entry_point(asked: Asked) -> str:
    """The function that the prompt leaves open; empty if there is none."""
    if asked.entry_point or asked.language not in LANGUAGES:
        return asked.entry_point
    items = [each for each in outline(closed(asked.prompt, asked.language), asked.language) if each.names]
    if not items:
        return ""
    return list(items[-1].members or sorted(items[-1].names))[-1]


def closed(code: str, language: str) -> str:
    """The text with what ends the functions and classes that are open at its end."""
    if LANGUAGES[language].closing != "}":
        return f"{code}\nend" if parsed(code, language).has_error else code
    opened, waiting = 0, [parsed(code, language)]
    while waiting:
        node = waiting.pop()
        opened += {"{": 1, "}": -1}.get("" if node.is_missing else node.type, 0)
        waiting += node.children
    return code + "\n}" * max(0, opened)


def is_whole(code: str, asked: Asked) -> bool:
    """Whether a text defines the entry point; without one, whether it is a program."""
    if asked.language not in LANGUAGES:
        lines = asked.prompt.rstrip().splitlines()
        return bool(lines) and " ".join(lines[-1].split()) in " ".join(code.split())
    name, items = entry_point(asked), outline(code, asked.language)
    return any(each.defines(name) if name else each.role == "definition" for each in items)


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
        """The program."""
        head = "\n".join(dict.fromkeys(each.text for each in self.imports))
        return f"{head}\n\n{self.code}" if head else self.code

    @property
    def code(self) -> str:
        """The program without its imports."""
        return "\n\n".join(each.text for each in self.items) + "\n"

    def leading(self, pattern: re.Pattern[str]) -> str:
        """The imports of this form, one a line."""
        lines = dict.fromkeys(f"{each.text.strip()}\n" for each in self.imports)
        return "".join(line for line in lines if pattern.fullmatch(line.rstrip("\n") + "\n"))

    def declaration(self) -> str:
        """C++'s declaration of the entry point, without names that only the program knows; empty if it has others, or
        is a template or a method."""
        meanings, text = dict[str, str](), signature(self.entry.node) if not self.owner else ""
        for each in self.items:
            if found := ALIAS.fullmatch(each.text.strip()):
                meanings[found[1] or found[4] or found[5]] = (found[2] or found[3] or found[6]).strip()
        for _ in range(3):
            text = WORD.sub(lambda word: meanings.get(word[0], word[0]), text)
        plain = PLAIN.fullmatch(text) and not re.search(r"\b(?:decltype|auto|struct|class)\b", text)
        return text if plain and self.entry.node.type == "function_definition" else ""

    def called(self, owner: str) -> str:
        """Java's static method that calls the entry point in a class of another name."""
        method = self.prompted.members[self.name] if self.prompted else None
        text = _text(self.entry.members.get(self.name, self.entry.node)).partition("{")[0]
        place = owner if re.search(r"\bstatic\b", text) else f"new {owner}()"
        values = ", ".join(names_of_parameters(method))
        return f"{signature(method)} {{ return {place}.{self.name}({values}); }}"


def signature(node: Any) -> str:
    """A function's, without its body."""
    while node.type == "template_declaration":
        node = node.named_children[-1]
    body = node.child_by_field_name("body")
    return _text(node)[: len(_text(node)) - len(_text(body))].strip() if body else ""


def program(codes: Sequence[str], asked: Asked) -> ReplyCode | None:
    """The program of a reply's codes: the last that defines the entry point, with what it needs from the others and
    from the prompt; else what continues the prompt; None without either."""
    if asked.language not in LANGUAGES:
        whole = [code for code in codes if is_whole(code, asked)]
        return ReplyCode((whole or list(codes))[-1], bool(whole))
    try:
        found = parts(codes, asked)
        return ReplyCode(found.text, True) if found else _continuation(codes, asked)
    except Unread as error:
        return ReplyCode("", False, str(error))


def parts(codes: Sequence[str], asked: Asked, fixed: bool = False) -> ReplyProgram | None:
    """The parts of the program; None if no code defines the entry point. `fixed`: the prompt's imports and definitions
    are there already, and are not replaced."""
    language, name = asked.language, entry_point(asked)
    text = closed(asked.prompt, language)
    prompt = outline(text, language)
    # the function that the prompt leaves open; the entry point may be one that calls it
    opened = prompt[-1].names if prompt and text != asked.prompt else frozenset()
    outlines = [outline(code, language, name) for code in codes]
    for number, items in enumerate(outlines):
        if any(each.role == "error" for each in items):
            outlines[number] = outline(_without_prose(codes[number], asked, name), language, name)
    whole = [items for items in outlines if any(each.defines(name) for each in items)]
    if not name or not whole:
        return None
    chosen = (
        [items for items in whole if not any(each.node.has_error for each in items if each.defines(name))] or whole
    )[-1]
    entry = [each for each in chosen if each.defines(name)][-1]
    given = [each for each in prompt if each.role != "error" and not each.defines(name)]
    given = [each for each in given if not each.names or each.names != opened]
    known = {word for each in given if each.role == "definition" for word in each.names} if fixed else set()
    others = [
        each
        for items in outlines
        if items is not chosen
        for each in items
        if each.role in ("import", "definition", "member")
    ]
    defined = {word for each in chosen for word in each.names}
    spare = [each for each in others if each.role == "import" or (each.names and not each.names & defined)]
    items = [each for each in (*spare, *chosen) if each is entry or not each.names & known]
    kept = reached(items, entry, {name, *opened})
    theirs = {word for each in kept for word in each.names}
    if not fixed:
        kept = [*(each for each in given if not each.names & theirs and each.role != "member"), *kept]
        entry, kept = _completed(entry, kept, prompt, name)
    imports = tuple(each for each in kept if each.role == "import")
    rest = tuple(each for each in kept if each.role != "import")
    if LANGUAGES[language].by_name:
        words = {word for each in rest for word in WORD.findall(each.text)}
        imports = tuple(
            {each.names or each.text: each for each in imports if not each.names or each.names & words}.values()
        )
    theirs = next((each for each in prompt if each.defines(name)), None)
    return _adapted(ReplyProgram(name, imports, rest, entry, theirs), asked)


def new_imports(code: str, made: ReplyProgram) -> list[Item]:
    """Go's imports of a program that a text does not have."""
    known = {name for each in outline(code, "go") if each.role == "import" for name in each.names}
    return [each for each in made.imports if not each.names & known]


def reached(items: Sequence[Item], entry: Item, wanted: Set[str]) -> list[Item]:
    """What defines the `wanted` names, with the items that it mentions, with what these mention, in their order; and
    statements that prepare something of these."""
    by_word: dict[str, list[int]] = {}
    for number, each in enumerate(items):
        for word in {*each.names} if not each.hosts else {*each.hosts}:
            by_word.setdefault(word, []).append(number)
    kept, seen = set[int](), set[str]()
    waiting = [
        n for n, each in enumerate(items) if each is entry or wanted & each.names or each.role in ("kept", "import")
    ]

    def follow() -> None:
        while waiting:
            number = waiting.pop()
            if number in kept:
                continue
            kept.add(number)
            each = items[number]
            words = {*WORD.findall(each.text)}
            for word in words - seen:
                waiting.extend(by_word.get(word, ()))
            seen.update(words)

    follow()
    prepared = {word for n in kept for word in items[n].names} - wanted
    for number, each in enumerate(items):
        words = {*WORD.findall(each.text)} if each.role == "statement" else set()
        if words & prepared and not wanted & words and not NOISE.search(each.text):
            waiting.append(number)
    follow()
    return [items[n] for n in sorted(kept)]


def _completed(entry: Item, kept: list[Item], prompt: Sequence[Item], name: str) -> tuple[Item, list[Item]]:
    """The entry point's class with the methods that only the prompt has."""
    (theirs,) = [each for each in prompt if each.defines(name) and each.members] or [entry]
    lacking = [_text(node) for key, node in theirs.members.items() if key not in entry.members and key != name]
    body = entry.node.child_by_field_name("body")
    if not lacking or not entry.members or body is None or body.type != "class_body":
        return entry, kept
    place = len(entry.text) - len(_text(body)) + 1
    fuller = replace(entry, text="\n    ".join([entry.text[:place], *lacking]) + entry.text[place:])
    return fuller, [fuller if each is entry else each for each in kept]


def _adapted(made: ReplyProgram, asked: Asked) -> ReplyProgram:
    """The program with the entry point where the prompt has it: a function of this name, or a method of this class."""
    entry, name, grammar = made.entry, made.name, LANGUAGES[asked.language]
    theirs, owner = made.prompted, next(iter(entry.names), "")
    if theirs is not None and theirs.members and grammar.members:
        return _in_class(made, asked.language, theirs)
    path = re.search(rf"([\w.]+)\.{name}\b", entry.text.partition("(")[0])
    text = ""
    if asked.language == "lua" and path:
        text = f"local {name} = {path[1]}.{name}"
    elif theirs and asked.language == "cpp" and entry.node.type == "template_declaration" and name in entry.names:
        text = f"{signature(theirs.node)} {{ return {name}<>({', '.join(names_of_parameters(theirs.node))}); }}"
    elif name not in entry.names and grammar.forward and (theirs or "{signature}" not in grammar.forward):
        values = ", ".join(names_of_parameters(theirs.node)) if theirs else ""
        types = [name for each in made.items for name in each.names]
        owner = owner or next((each for each in types if each in entry.hosts), next(iter(entry.hosts), ""))
        head = signature(theirs.node) if theirs else ""
        text = grammar.forward.format(signature=head, owner=owner, name=name, names=values)
        if asked.language == "rust" and not any(owner in each.names for each in made.items):
            text = f"struct {owner};\n{text}"
    else:
        return made
    added = replace(entry, role="kept", names=frozenset((name,)), text=text)
    return replace(made, items=(*made.items, added), owner=owner)


def _in_class(made: ReplyProgram, language: str, theirs: Item) -> ReplyProgram:
    """Java's program with the entry point in the prompt's class."""
    (wanted,), bare = theirs.names, [each for each in made.items if each.role == "member"]
    if made.entry.role == "member":
        known = {name for each in bare for name in each.names}
        lacking = [_text(node) for key, node in theirs.members.items() if key not in known]
        body = "\n\n".join([*lacking, *(each.text for each in bare)])
        rest = [each for each in made.items if each.role != "member"]
        entry = replace(
            made.entry, role="definition", names=frozenset((wanted,)), text=f"class {wanted} {{\n{body}\n}}"
        )
        return replace(made, items=(*rest, entry), entry=entry, owner=wanted)
    (owner,) = made.entry.names
    body = made.entry.text.rpartition("}")[0] + "".join(f"\n{each.text}\n" for each in bare) + "}"  # of other blocks
    items = [replace(each, text=body) if each is made.entry else each for each in made.items if each.role != "member"]
    if owner != wanted:
        items = [each for each in items if wanted not in each.names]
        items = [replace(each, text=renamed(each.text, language, owner, wanted)) for each in items]
    return replace(made, items=tuple(items), owner=wanted)


def names_of_parameters(node: Any) -> list[str]:
    """The names of a function's parameters."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if (found := node.child_by_field_name("parameters")) and node.type != "template_declaration":
            return [name for each in found.named_children for name in sorted(names(each))]
        waiting += node.named_children
    return []


def renamed(code: str, language: str, old: str, new: str) -> str:
    """The text with another name for a class or function, not in texts and comments."""
    places, waiting, source = [], [parsed(code, language)], code.encode("utf-8", "replace")
    while waiting:
        node = waiting.pop()
        if node.type.endswith("identifier") and node.text == old.encode():
            places.append((node.start_byte, node.end_byte))
        waiting += node.children
    for start, end in sorted(places, reverse=True):
        source = source[:start] + new.encode() + source[end:]
    return source.decode("utf-8", "replace")


def _is_prose(text: str) -> bool:
    """Whether a text's first line is a sentence."""
    line = text.strip().partition("\n")[0].rstrip()
    return len(line.split()) > 2 and bool(
        re.search(r"[.:!?]$", line) or (re.search(r"\w,?$", line) and not re.search(r"[(){}=;<>]", line))
    )


def _without_prose(code: str, asked: Asked, name: str) -> str:
    """The code without sentences before and after it; all of it if that has no function."""
    lines = code.split("\n")
    while lines and (not lines[-1].strip() or _is_prose(lines[-1])):  # operators such as `-` would join it to the code
        lines.pop()
    named = re.compile(rf"\b{re.escape(name)}\b")
    places = [
        n
        for n, line in enumerate(lines)
        if not n or not lines[n - 1].strip() or lines[n - 1].rstrip().endswith(":") or named.search(line)
    ]
    for place in places[:TRIES]:
        text, kept = "\n".join(lines[place:]), []
        for node in parsed(text, asked.language).children:
            if not (node.has_error and _is_prose(_text(node))):
                kept.append(_text(node))
            elif not named.search("\n".join(kept)):
                break
        else:
            if any(each.defines(name) for each in outline("\n".join(kept), asked.language, name)):
                return "\n".join(kept)
    return code


def _continuation(codes: Sequence[str], asked: Asked) -> ReplyCode | None:
    """The last code that continues the prompt, with the braces that it leaves open."""
    last = None
    for code in reversed(codes):
        text = code if asked.prompt.endswith("\n") or code.startswith("\n") else f"\n{code}"
        whole = closed(f"{asked.prompt}{text.rstrip()}", asked.language)
        found = ReplyCode(whole[len(asked.prompt) :] + "\n", False)
        if not parsed(whole, asked.language).has_error:
            return found
        if last is None and not _is_prose(code):
            last = found
    return last
