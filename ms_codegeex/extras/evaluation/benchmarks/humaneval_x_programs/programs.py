"""From an answer to a program: imports, prompt, answer and tests in one text.

Tests that compare calls with literals become a text that only reports values (see `cases`). After the last of any other
tests, our own code adds a call that prints the witness (see `toolchains`). The tests are the benchmark's, not
a model's, so their text may be parsed and split. The answer's text may not, and is not.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.evaluation.benchmarks import blocks
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs import cases, inputs
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs.cases import Cases
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs.problems import HumanEvalXProblem, tests_of
from ms_codegeex.extras.evaluation.replies import trees
from ms_codegeex.extras.evaluation.replies.blocks import CodeRequest
from ms_codegeex.extras.evaluation.stop_rules import first_unindented
from ms_codegeex.extras.evaluation.toolchains import Program

CPP_OPENSSL = 162  # the problem that needs OpenSSL
STRINGS = re.compile(r'"(?:\\.|[^"\\\n])*"')
CPP_SIGNATURE = re.compile(r"^[A-Za-z_][\w<>:,&* ]*[ &*>]\w+ ?\([^\n]*\) ?\{", re.MULTILINE)
CPP_ASSERT = re.compile(r"#\s*include\s*<(?:assert\.h|cassert)>")
CPP_ASSERTS = re.compile(r"<(?:assert\.h|cassert)>")
# C++: `using A = B;`, `typedef B A;`, `#define A B`, and declarations that only name types and names
CPP_ALIAS = re.compile(
    r"using\s+(\w+)\s*=([^;]*);|typedef\b([^;]*?)\b(\w+)\s*;|#\s*define\s+(\w+)[ \t]+([^\n]*)", re.DOTALL
)
CPP_PLAIN = re.compile(r"[\w\s:<>,&*()\[\]]+")
CPP_BOOST = "boost/any.hpp"
# includes of a program that come before the tests; none is a file of ours
CPP_LEADING = re.compile(r"(?:\s*#\s*include\s*<[a-z][\w+]*(?:/[\w+]+)*(?:\.h)?>[ \t]*(?=\n))+")
JS_NAMES = re.compile(r"^(?:const|let|var|function|class)\s+(\w+)", re.MULTILINE)
GO_SAY = 'import ms_codegeex_values "ms_codegeex/witness"\n'
GO_TESTIFY = re.compile(r'^\s*"github\.com/stretchr/testify/assert"\n', re.MULTILINE)
GO_CLOSURE = re.compile(r"^\s*(\w+) := func\(", re.MULTILINE)
RUST_USE = re.compile(r"^use .*;", re.MULTILINE)
RUST_FUNCTION = re.compile(r"^\s*(?:pub )?fn\s+(\w+)\s*(<[^(>]*>)?\s*\(([^{]*)\{", re.MULTILINE)
RUST_TYPE = re.compile(r"^\s*(?:pub )?(?:enum|struct|type)\s+(\w+)", re.MULTILINE)
RUST_RETURNED = re.compile(
    r"(?:[\s&<>(),;\[\]\d]|'\w+|\b(?:[iu](?:8|16|32|64|128|size)|f32|f64|bool|char|str|String|Vec|Option|Result|Box"
    r"|HashMap|HashSet)\b)*"
)  # types of the standard library
RUST_MUT = re.compile(r"\bmut\s+(?=\w+\s*:)")


def code_request(row: HumanEvalXProblem) -> CodeRequest:
    late = row.language == "rust" and row.number in inputs.DRAWN
    return CodeRequest(row.language, known(row), inputs.DRAWN[row.number][0] if late else "")


def known(row: HumanEvalXProblem) -> str:
    complete = row.language != "rust" or row.declaration.strip() in row.prompt
    return row.prompt if complete else row.declaration + row.prompt


def assemble(row: HumanEvalXProblem, answer: str, translate: bool = True, whole: bool = False) -> Program:
    """The program that judges an answer. `translate`: its tests report values where they can. `whole`: the answer is a
    program, which takes the prompt's place.

    A translation is placed after the prompt too, not after the declaration that its model saw: Go's declarations
    lack functions that some tests call.
    """
    published, untested = tests_of(row)
    tests = Cases(published, (), False)
    if translate:
        tests = cases.translated(published, row.language, row.number)
    program = ASSEMBLERS[row.language](row, answer, tests, whole)
    return replace(program, checks=tests.checks, witnessed=not tests.complete, only_compiles=untested)


def python(row: HumanEvalXProblem, answer: str, tests: Cases, whole: bool) -> Program:
    """The program has 16 imports. NumPy's are added only if NumPy may be used, because they cost more than
    everything else. The tests are a separate file."""
    program = f"{answer if whole else row.prompt + answer[: first_unindented(answer)]}\n"
    named = any(word in text for word in ("np", "numpy") for text in (program, row.test))
    imports = "\n".join(line for line in inputs.table("python imports") if named or "numpy" not in line)
    call = "" if tests.complete else f'{blocks.CALL}("%s")'
    return Program(f"{tests.text}\n", call, "\n", others={"program.py": f"{imports}\n{program}"})


def cpp(row: HumanEvalXProblem, answer: str, tests: Cases, whole: bool) -> Program:
    """The order is: missing includes, the function's declaration, the tests, the answer. So the answer's macros and
    operators are unknown to the tests. The witness ends main. A whole program's function is declared as the program
    has it, and what the prompt defines stays the prompt's."""
    known, signature = before_signature(row)
    made = trees.parts([answer], code_request(row), fixed=True) if whole else None
    led = dict.fromkeys(f"{each.text.strip()}\n" for each in made.imports) if made else ()
    leading, answer = "".join(filter(CPP_LEADING.fullmatch, led)), made.text if made else answer
    published = (line for line in inputs.table("cpp includes") if line not in row.prompt)
    includes = "\n".join([leading, *published]).lstrip()
    text = CPP_ASSERT.sub("" if tests.complete else blocks.OUR_ASSERT, tests.text, count=1)
    head, tail = blocks.at_end_of_block(text, blocks.CPP_MAIN, row.id)
    libraries = ("-lcrypto", "-lssl") if row.number == CPP_OPENSSL else ()
    call = "" if tests.complete else f';\nvoid {blocks.CALL}(const char *);\n{blocks.CALL}("%s");\n'
    again = "#include<assert.h>\n" if CPP_ASSERTS.search(known + leading) else ""
    declared = (made and declaration(made)) or signature[: signature.index("{")]
    tail += f"\n#undef assert\n{again}{'' if whole else signature}{answer}\n"
    boost = inputs.table("cpp any") if CPP_BOOST in known else ""
    before = f"{includes}\n{known}{boost}{declared};\n{head}"
    return Program(before, call, tail, libraries)


def java(row: HumanEvalXProblem, answer: str, tests: Cases, whole: bool) -> Program:
    """Tests and answer are two files, so that an answer's class named `Arrays` hides the library's only in its own
    file. One of our classes calls main and sees it return."""
    imports = "\n".join(re.findall(r"^import .*;", row.prompt, re.MULTILINE))
    code = STRINGS.sub('""', tests.text)
    known = inputs.table("java classes")
    names = [name for name in known if re.search(rf"\b{name.rpartition('.')[2]}\b", code)]
    mine = "".join(f"import {name};\n" for name in names)
    given = [name for name in names if re.search(rf"\b{name.rpartition('.')[2]}\b", row.declaration)]
    theirs = "".join(f"import {name};\n" for name in given)
    others = {"Solution.java": f"{theirs}{'' if whole else row.prompt}{answer}\n"}
    return Program(f"{imports}\n{mine}{tests.text}", "", "", others=others)


def js(row: HumanEvalXProblem, answer: str, tests: Cases, whole: bool) -> Program:
    """The tests are a function that our own code calls with its own `JSON` and `Math`. If they need the witness, it
    also gets a `console` that counts failed assertions, which JavaScript only logs. The tests' names are declared after
    the answer, so the answer cannot use them."""
    names = "".join(f"let {name}\n" for name in JS_NAMES.findall(row.test))
    head = f"{'' if whole else row.prompt}{answer}\n;{names}"
    if tests.complete:
        text = f"ms_codegeex_values((JSON, Math, ms_codegeex_say) => {{\n{tests.text}\n}})\n"
        return Program(f"{head}{text}", "", "")
    text = f"(console, JSON, Math) => {{\n{tests.text}\n}}"
    return Program(f"{head}ms_codegeex_tests(", '"%s"', f", {text})\n")


def go(row: HumanEvalXProblem, answer: str, tests: Cases, whole: bool) -> Program:
    """The prompt comes without its imports; packages are imported if the answer uses them. A second file imports
    something under each predeclared name that the tests use, so that the answer cannot redeclare these."""
    text, given, others, call = tests.text, row.test_setup, {}, ""
    body, lines = row.prompt.replace(row.imports, "", 1) if row.imports else row.prompt, list[str]()
    if whole and (made := trees.parts([answer], code_request(row))):
        body, answer = "", made.code
        lines = [each.text for each in trees.new_imports(given, made)]
    known = (*given.splitlines(), *lines)
    code = blocks.TOKENS.sub(lambda token: token[0] if token[0] in "{}" else "", answer)  # without comments and texts
    used = [name for name in inputs.table("go packages") if re.search(rf"\b{name.split('/')[-1]}\s*\.", code)]
    used = [name for name in used if not any(line.endswith(f'"{name}"') for line in known)]
    block = "".join(f'    "{name}"\n' for name in used)
    imports = "".join(f"{line}\n" for line in lines) + (f"import (\n{block})\n" if used else "")
    if tests.complete:  # without the library of assertions, which takes long to link
        given = GO_TESTIFY.sub("", given)
        text += "".join(f"\nvar _ = {use}" for name, use in inputs.table("go uses").items() if f'"{name}"' in given)
    else:
        code = STRINGS.sub('""', row.test)
        named = [name for name in inputs.table("go names") if re.search(rf"\b{name}\b", code)]
        guard = "".join(f'import {name} "ms_codegeex/witness"\n' for name in named)
        guard += "".join(f"var _ = {name}.Ours\n" for name in named)
        others, call = {"names_test.go": f"package main\n\n{guard}"}, blocks.GO_CALL
    head, tail = blocks.at_end_of_block(text, blocks.GO_TEST, row.id)
    head += "".join(f"\n_ = {name}\n" for name in GO_CLOSURE.findall(text)) if tests.checks else ""
    setup = f"{given}\n{blocks.GO_IMPORT if call else ''}{GO_SAY if tests.checks else ''}{imports}"
    return Program(f"{setup}\n{body}{answer}\n{head}", call, tail, others=others)


def rust(row: HumanEvalXProblem, answer: str, tests: Cases, whole: bool) -> Program:
    """The tests come first, where the answer's macros and types are unknown, and import only its functions, whose types
    they check: the prompt's, or of a whole program its own. Main is empty."""
    text, given = tests.text, known(row)
    imports = "\n".join(dict.fromkeys(RUST_USE.findall(given)))
    functions = dict.fromkeys(RUST_FUNCTION.findall(given))
    solved = f"{given}{row.solution}"  # some tests call functions that only the answer defines
    defined = (*(name for name, *_ in RUST_FUNCTION.findall(solved)), *RUST_TYPE.findall(solved))
    needed = text + "".join(rest for name, _, rest in functions if re.search(rf"\b{name}\b", text))
    named = [name for name in dict.fromkeys(defined) if re.search(rf"\b{name}\b", needed)]
    types = {
        name: f"{generic and f'for{generic} '}fn({RUST_MUT.sub('', rest)}"
        for name, generic, rest in functions
        if name in named
    }
    if whole and (made := trees.parts([answer], code_request(row))) and made.name in types:
        types[made.name] = pointer(made) or types[made.name]
    checks = "\n".join(f"const _: {text} = {name};" for name, text in types.items())
    text = text.replace("use super::*;", f"use super::{{{', '.join(named)}}};\n{imports}\n{checks}", 1)
    head, tail = blocks.at_end_of_block(text, r"#\[test\][^{]*?\bfn\s+\w+\s*\(\s*\)\s*\{", row.id)
    check = re.search(r"\bcfg\b", answer) is not None
    rest = f"{tail}\n{'' if whole else given}{answer}\n"
    call = "" if tests.complete else blocks.RUST_CALL
    return Program(f"fn main() {{}}\n{head}", call, rest, check=check)


ASSEMBLERS = {each.__name__: each for each in (python, cpp, java, js, go, rust)}


def before_signature(row: HumanEvalXProblem) -> tuple[str, str]:
    """C++'s prompt, split before the function that the answer completes."""
    signatures = list(CPP_SIGNATURE.finditer(row.prompt))
    if not signatures:
        expected = "expected one as in the published files; fetch the file again"
        raise UserError(f"{row.id}: no function in `prompt`, {expected}")
    return row.prompt[: signatures[-1].start()], row.prompt[signatures[-1].start() :]


def declaration(made: trees.ReplyProgram) -> str:
    """C++'s declaration of the entry point, without names that only the program knows; empty if it has others, or
    is a template or a method."""
    meanings, text = dict[str, str](), trees.signature(made.entry.node) if not made.owner else ""
    for each in made.items:
        if found := CPP_ALIAS.fullmatch(each.text.strip()):
            meanings[found[1] or found[4] or found[5]] = (found[2] or found[3] or found[6]).strip()
    for _ in range(3):
        text = trees.WORD.sub(lambda word: meanings.get(word[0], word[0]), text)
    text = re.sub(r"\bauto\b(.*)->(.*)", r"\2 \1", text, flags=re.DOTALL)
    plain = CPP_PLAIN.fullmatch(text) and not re.search(r"\b(?:decltype|auto|struct|class)\b", text)
    return text if plain and made.entry.node.type == "function_definition" else ""


def pointer(made: trees.ReplyProgram) -> str:
    """Rust's type of the entry point, with the prompt's types for generic ones; "" if it returns a type not in std."""

    def types_of(function: Any) -> list[str]:
        parameters = function.child_by_field_name("parameters").named_children
        types = (each.child_by_field_name("type") for each in parameters)
        return [trees.text_of(each) for each in types if each]

    node, theirs = made.entry.node, made.prompted and made.prompted.node
    if made.owner or node.type != "function_item" or not theirs or theirs.type != node.type:
        return ""
    returned, generic = (node.child_by_field_name(key) for key in ("return_type", "type_parameters"))
    known = trees.WORD.findall(trees.text_of(generic)) if generic else []
    types = types_of(node)
    for number, (own, given) in enumerate(zip(types, types_of(theirs), strict=False)):
        types[number] = given if {"impl", *known} & {*re.findall(r"(?<!')\b\w+", own)} else own
    lifetimes = dict.fromkeys(re.findall(r"'\w+", trees.text_of(generic))) if generic else ()
    text = f" -> {trees.text_of(returned)}" if returned else ""
    bound = f"for<{', '.join(lifetimes)}> " if lifetimes else ""
    plain = returned is None or RUST_RETURNED.fullmatch(trees.text_of(returned))
    return f"{bound}fn({', '.join(types)}){text}" if plain else ""
