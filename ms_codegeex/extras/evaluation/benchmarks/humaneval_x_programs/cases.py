"""From a benchmark's tests to a text that only says values, and the checks of these values.

Each assertion that compares a call of the answer with literals becomes a statement that writes the call's value (see
`judging.values`); what the value must be stays in this process. An assertion of any other form stays in the text, and
then the program needs its witness, too. The tests are the benchmark's, so their text may be parsed.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs import inputs
from ms_codegeex.extras.evaluation.benchmarks.humaneval_x_programs.literals import NotALiteral, value_in, value_of
from ms_codegeex.extras.evaluation.judging.values import Check

SAY = "ms_codegeex_say"
PIECES = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\\n])*\'|`[^`]*`|[()\[\]{}]', re.DOTALL)
NESTING = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
RULES = {"python": "equal", "cpp": "equal", "js": "json", "java": "typed", "go": "typed", "rust": "equal"}
ASSERTS = {
    "cpp": re.compile(r"\bassert\s*\("),
    "js": re.compile(r"\bconsole\.assert\("),
    "java": re.compile(r"\bList<Boolean> correct = Arrays\.asList\("),
    "go": re.compile(r"\bassert\.(Equal|True|False|Nil)\("),
    "rust": re.compile(r"\b(assert|assert_eq)!\("),
}
SAY_VALUE = {
    "python": "ms_codegeex_say({})",
    "cpp": "ms_codegeex::say({})",
    "js": "ms_codegeex_say({})",
    "java": "ms_codegeex.Values.say({});",
    "go": "ms_codegeex_values.Say({})",
    "rust": "::ms_codegeex_tests_ended::say(&({}))",
}
JSON_SAY = "ms_codegeex_say(JSON, {})"
COMPARED = re.compile(r"===?|<=?|>=?|!==?|&&|\|\|")
TEMPLATE = re.compile(r"<[\w<>, :]*>(?=\s*[({])")
MINUS = re.compile(r"(?<=[\w)\]\s])(?<!\de)[-+]")
ABSOLUTE = re.compile(r"(?:std::)?f?abs|Math\.abs|math\.Abs|f(?:32|64)::abs")
CALL = re.compile(r"([\w.:]+)\s*\(")
RUST_LET = re.compile(r"^[ \t]*let (\w+)\s*(?::[^=;]+)?=\s*([^;]+);[ \t]*\n?", re.MULTILINE)
JAVA_MAP = re.compile(r"^[ \t]*Map<[^>]*> (\w+) = new HashMap<>\(\);[ \t]*\n?", re.MULTILINE)
JAVA_PUT = r"^[ \t]*{}\.put\((.*)\);[ \t]*\n?"
JAVA_FAILED = re.compile(r"if \(correct\.contains\(false\)\) \{\s*throw new AssertionError\(\);\s*\}")
GO_ASSERT = re.compile(r"^\s*assert := assert\.New\(t\)\n", re.MULTILINE)
ANY_CAST = re.compile(r"boost::any_cast<\w+>\((.*)\)", re.DOTALL)
TOLERANCE = re.compile(r"\bissame\s*\(.*?>\s*1e-4.*?\n\}", re.DOTALL)
BODY = re.compile(r"(?:\b(?:for|while|if)\s*\([^\n]*\)|\belse)\s*\Z")  # without braces
CASTS = re.compile(r"\((?:int|double|String)\)\s*")


@dataclass(frozen=True)
class Cases:
    """Tests that were translated. `complete`: no assertion is left in the text. `statements`: those that say values."""

    text: str
    checks: tuple[Check, ...]
    complete: bool
    statements: tuple[str, ...] = ()


def translated(test: str, language: str, number: int | None = None) -> Cases:
    """The tests, unchanged if there are no checks. `number`: of a problem that may take the inputs of `inputs`."""
    cases = python(test) if language == "python" else Translation(test, language).cases()
    partly = not (cases.complete and cases.checks)
    if partly and number is not None and (found := inputs.calls(number, language, test)):
        name, calls = found
        statements = [*cases.statements, *(said(actual, language) for actual, _ in calls)]
        checks = (*cases.checks, *(check for _, check in calls))
        return Cases(inputs.tests(language, name, statements), checks, True, tuple(statements))
    return cases if cases.checks else Cases(test, (), False)


def said(actual: str, language: str) -> str:
    """The statement that says the value of an expression."""
    if language == "js" and actual.startswith("JSON.stringify("):
        return JSON_SAY.format(actual[len("JSON.stringify(") : -1])
    return SAY_VALUE[language].format(actual)


def pieces(text: str) -> Iterator[tuple[int, int]]:
    """The position of each character that is in no string, comment or bracket, with the next one."""
    depth, at = 0, 0
    for piece in PIECES.finditer(text):
        if depth == 0:
            yield at, piece.start()
        depth += NESTING.get(piece.group(), 0)
        at = piece.end()
    yield at, len(text)


def split(text: str) -> list[str]:
    """The parts of a text between commas that are in no string, comment or bracket."""
    ends = [end for end, _ in places(text, re.compile(","))]
    parts = [text[begin:end] for begin, end in zip([0, *(end + 1 for end in ends)], [*ends, len(text)], strict=True)]
    return [part.strip() for part in parts if part.strip()]


def places(text: str, pattern: re.Pattern[str] = COMPARED) -> list[tuple[int, int]]:
    plain = TEMPLATE.sub(lambda found: " " * len(found.group()), text)
    return [found.span() for begin, end in pieces(plain) for found in pattern.finditer(plain, begin, end)]


def closing(text: str, start: int) -> int:
    """Where the bracket that was opened before `start` is closed."""
    depth = 1
    for piece in PIECES.finditer(text, start):
        depth += NESTING.get(piece.group(), 0)
        if depth == 0:
            return piece.start()
    raise NotALiteral("a bracket is not closed")


def unwrapped(text: str) -> str:
    """The text without white space and brackets around it."""
    text = text.strip()
    while text.startswith("(") and closing(text, 1) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def call(text: str) -> tuple[str, str] | None:
    found = CALL.match(text)
    return (found[1], text[found.end() : -1]) if found and closing(text, found.end()) == len(text) - 1 else None


class Translation:
    """The tests of one problem in a language with C's syntax."""

    def __init__(self, test: str, language: str) -> None:
        self.language = language
        # comments may mention expected values
        self.text = PIECES.sub(lambda found: "" if found.group().startswith(("//", "/*")) else found.group(), test)
        self.names, self.checks, self.statements = dict[str, Any](), list[Check](), list[str]()
        self.tolerance = 1e-4 if language == "cpp" and TOLERANCE.search(test) else None

    def cases(self) -> Cases:
        """The text with values instead of assertions."""
        variables = self.variables()
        text, at, complete = "", 0, True
        while found := ASSERTS[self.language].search(self.text, at):
            end, statement = closing(self.text, found.end()), None
            braces = [piece.group() for piece in PIECES.finditer(self.text, 0, found.start())]
            once = braces.count("{") - braces.count("}") == DEPTHS[self.language]
            if once and not BODY.search(self.text, 0, found.start()):
                statement = self.statement(found, self.text[found.end() : end])
            complete &= statement is not None
            text += self.text[at : found.start()] + (statement or self.text[found.start() : end + 1])
            at = end + 1
        text += self.text[at:]
        if self.language == "java" and self.checks:
            text = JAVA_FAILED.sub("", text, count=1)
            complete &= "AssertionError" not in text and "assert " not in text
        if self.language == "go" and complete:
            text = GO_ASSERT.sub("", text)
        for name, statements in variables.items():
            rest = text
            for statement in statements:
                rest = rest.replace(statement, "")
            if not re.search(rf"\b{name}\b", rest):
                text = rest
        if self.language == "cpp" and not re.search(r"\bissame\s*\([^{]*\)\s*[;,)&|]", text.partition("int main")[2]):
            text = re.sub(r"^bool issame.*?^\}\n?", "", text, flags=re.MULTILINE | re.DOTALL)
        return Cases(text, tuple(self.checks), complete, tuple(self.statements))

    def variables(self) -> Mapping[str, list[str]]:
        """Variables that are literals -> their statements. Fills `names`."""
        found: dict[str, list[str]] = {}
        if self.language == "rust":
            for let in RUST_LET.finditer(self.text):
                if "f32" in let.group() or let[1] in found:
                    self.names.pop(let[1], None)  # the variable has several values
                elif (value := self.literal(let[2])) is not None:
                    self.names[let[1]], found[let[1]] = value[0], [let.group()]
        if self.language == "java":
            for declared in JAVA_MAP.finditer(self.text):
                puts = list(re.finditer(JAVA_PUT.format(declared[1]), self.text, re.MULTILINE))
                pairs = [[self.literal(part) for part in split(put[1])] for put in puts]
                if all(len(pair) == 2 and all(pair) for pair in pairs):
                    self.names[declared[1]] = {pair[0][0]: pair[1][0] for pair in pairs}  # type: ignore[index]
                    found[declared[1]] = [declared.group(), *(put.group() for put in puts)]
        return found

    def statement(self, found: re.Match[str], inside: str) -> str | None:
        """What replaces an assertion; None if it stays."""
        parts = split(inside)
        kind = found[1] if found.re.groups else ""
        if self.language == "java":
            translations = [self.relation(part) for part in parts]
        elif kind in ("True", "False"):
            translations = [self.truth(parts[0], kind == "True")]
        elif kind in ("Equal", "assert_eq"):
            translations = [self.equal(*(parts[1::-1] if kind == "Equal" else parts[:2])) if len(parts) > 1 else None]
        else:
            translations = [self.relation(inside.strip().rstrip(","))]
        made = [each for each in translations if each]
        if len(made) < len(translations):
            return None
        statements = [said(actual, self.language) for actual, _ in made]
        self.checks += [check for _, check in made]
        self.statements += statements
        return "\n".join(statements) + ("\n" if self.language == "java" else "")

    def literal(self, text: str) -> list[Any] | None:
        """The value in a list, None if the text is not a literal."""
        text = text.strip()
        if self.language == "js" and (inner := call(text)) and inner[0] == "JSON.stringify":
            text = inner[1]
        try:
            return [value_of(text, self.language, self.names)]
        except NotALiteral:
            return None

    def relation(self, text: str) -> tuple[str, Check] | None:
        """The expression of the answer's value in a condition, and what it must be."""
        text = unwrapped(text)
        signs = places(text)
        if not signs:
            return self.truth(text[1:], False) if text.startswith("!") else self.truth(text, True)
        if len(signs) > 1:
            return None
        ((begin, end),) = signs
        left, sign, right = text[:begin].strip(), text[begin:end], text[end:].strip()
        if sign in ("==", "==="):
            equal = self.equal(left, right)
            loose = equal and self.language == "js" and sign == "==" and not left.startswith("JSON")
            return (equal[0], replace(equal[1], rule="loose")) if equal and loose else equal
        return self.near(left, right, sign) if sign in ("<", "<=") else None

    def equal(self, left: str, right: str) -> tuple[str, Check] | None:
        """Of two sides, one is a literal."""
        for actual, other in ((left, right), (right, left)):
            literal = self.literal(other)
            if self.language == "rust" and (shown := self.shown(other)):  # an enumeration: what `{:?}` shows of it
                return f'format!("{{:?}}", {actual})', Check(shown)
            if literal is None:
                continue
            if self.literal(actual) is not None:
                return None
            go_truth = literal[0] is True and self.language == "go"
            return self.truth(actual, True) if go_truth else self.wrapped(actual, literal[0])
        return (left, Check(None, "any")) if left == right else None

    def shown(self, text: str) -> str | None:
        """The text of a value of Rust/137's enumeration, such as `RtnType::Int(2)`."""
        found = re.fullmatch(r"RtnType::(\w+)(?:\((.*)\))?", text, re.DOTALL)
        inner = self.literal(found[2]) if found and found[2] else []
        return found[1] + "".join(f"({json.dumps(each)})" for each in inner) if found and inner is not None else None

    def wrapped(self, actual: str, expected: Any) -> tuple[str, Check]:
        """Without casts, and without what a container is opened with."""
        rule = RULES[self.language]
        if self.language == "java":
            actual = CASTS.sub("", actual, count=1) if CASTS.match(actual) else actual
            if actual.endswith(".get()"):
                actual, expected = actual[: -len(".get()")], (expected,)
            elif isinstance(expected, int | float) and not isinstance(expected, bool):
                rule = "equal"
        if self.language == "cpp" and (cast := ANY_CAST.fullmatch(actual)):
            actual, rule = cast[1], "typed"
        if self.language == "cpp" and "issame(map<" in self.text and isinstance(expected, list):
            expected = dict(expected)
        return actual, Check(expected, rule)

    def truth(self, text: str, expected: bool) -> tuple[str, Check] | None:
        """A condition without a comparison: what it must be."""
        text = unwrapped(text)
        found = call(text)
        if found and expected and found[0] in ("issame", "Objects.equals", "same"):
            parts = split(found[1])
            equal = self.equal(*parts) if len(parts) == 2 else None
            if equal is None or self.tolerance is None:
                return equal
            return equal[0], Check(equal[1].expected, "close", self.tolerance, inclusive=True)
        if self.language == "java" and expected:
            if text.endswith(".isEmpty()"):
                return text[: -len(".isEmpty()")], Check(None, "empty")
            if text.endswith(")") and (place := text.rfind(".equals(")) > 0:
                literal = self.literal(text[place + len(".equals(") : -1])
                if literal is not None and closing(text, place + len(".equals(")) == len(text) - 1:
                    return self.wrapped(text[:place], literal[0])
        if found and found[0] == "Math.abs" and places(found[1]):  # JavaScript/2 takes that of a condition
            return self.relation(found[1]) if expected else None
        if places(text):
            return self.relation(text) if expected else None
        if self.literal(text) is not None or ".equals(" in text or not CALL.search(text):
            return None
        return text, Check(expected, RULES[self.language])

    def near(self, left: str, right: str, sign: str) -> tuple[str, Check] | None:
        """A difference, or its absolute value, smaller than a literal."""
        tolerance, found, rule = self.literal(right), call(left), "less"
        if not tolerance:
            return None
        if found and ABSOLUTE.fullmatch(found[0]):
            left, rule = found[1], "close"
        actual, expected = left, 0.0
        if signs := places(left, MINUS):
            actual, term = left[: signs[0][0]].strip(), self.literal(left[signs[0][1] :])
            if not term:
                return None
            expected = term[0] if left[signs[0][0]] == "-" else -term[0]
        if self.literal(actual) is not None or not CALL.search(actual):
            return None
        return actual, Check(expected, rule, tolerance[0], sign == "<=")


DEPTHS = {"cpp": 1, "js": 1, "java": 2, "go": 1, "rust": 2}  # open braces around an assertion that runs once


def python(test: str) -> Cases:
    """Python's, by its own parser."""
    tree, complete = ast.parse(test), True
    checks, statements = list[Check](), list[ast.stmt]()
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "check"):
        body: list[ast.stmt] = []
        for node in function.body:
            translation = python_relation(node.test) if isinstance(node, ast.Assert) else None
            if translation:
                body.append(ast.Expr(ast.Call(ast.Name(SAY, ast.Load()), [translation[0]], [])))
                statements.append(body[-1])
                checks.append(translation[1])
            elif not (isinstance(node, ast.Assert) and isinstance(node.test, ast.Constant)):
                complete &= not any(isinstance(each, ast.Assert) for each in ast.walk(node))
                body.append(node)
        function.body = body or [ast.Pass()]
    text = ast.unparse(ast.fix_missing_locations(tree))
    return Cases(text, tuple(checks), complete, tuple(map(ast.unparse, statements)))


def python_relation(test: ast.expr) -> tuple[ast.expr, Check] | None:
    """See `Translation.relation`."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) and isinstance(test.operand, ast.Call):
        return ast.Call(ast.Name("bool", ast.Load()), [test.operand], []), Check(False)
    if isinstance(test, ast.Call):
        return ast.Call(ast.Name("bool", ast.Load()), [test], []), Check(True)
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    (sign,), left, (right,) = test.ops, test.left, test.comparators
    if isinstance(sign, ast.Lt) and isinstance(left, ast.Call) and len(left.args) == 1:
        difference, tolerance = left.args[0], python_value(right)
        if ast.unparse(left.func) in ("abs", "math.fabs") and isinstance(difference, ast.BinOp) and tolerance:
            term = python_value(difference.right)
            if term and isinstance(difference.op, ast.Sub | ast.Add) and python_value(difference.left) is None:
                expected = term[0] if isinstance(difference.op, ast.Sub) else -term[0]
                return difference.left, Check(expected, "close", tolerance[0])
        return None
    if not isinstance(sign, ast.Eq | ast.Is):
        return None
    for actual, other in ((left, right), (right, left)):
        literal = python_value(other)
        if literal is not None and python_value(actual) is None:
            return actual, Check(literal[0], "typed" if isinstance(sign, ast.Is) else "equal")
    return (left, Check(None, "any")) if ast.dump(left) == ast.dump(right) else None


def python_value(node: ast.expr) -> list[Any] | None:
    """The value of a literal in a list, None if it is none."""
    try:
        return [value_in(node, "python", {})]
    except NotALiteral:
        return None
