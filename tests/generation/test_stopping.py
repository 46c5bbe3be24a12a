"""Rules that end a text read each character once, and say what they say of the whole text."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import find_language
from ms_codegeex.extras.evaluation import stop_rules
from ms_codegeex.extras.evaluation.benchmarks import ds1000 as answers
from ms_codegeex.generation import stopping
from ms_codegeex.generation.blocks import block, quotes

RULES = {
    "words": stop_rules.words(["\ndef", "aba", "{"]),
    "no words": stop_rules.words([]),
    "closed": stop_rules.closed,
    "python": stop_rules.codegeex_stop("python", "codegeex"),
    "go": stop_rules.codegeex_stop("go", "codegeex2"),
    "codegen": stop_rules.codegen_stop(),
    "codegen, two": stop_rules.codegen_stop(2),
    "ds1000": answers.ended,
    "both": stop_rules.first_of(stop_rules.closed, stop_rules.unindented),
}
SIGNS_OF_RULES = [
    *("{", "}", "\n", " ", "\t", "\r", "a", "ab", "def", "print", "pri", "nt", "#", "'", "''", '"""', "\nfunc main("),
    *("`", "``", "```python\n", "</co", "de>", "# SOLUTION END", "<|endof", "text|>", "\x0b", "    ", "class", "if"),
    "\n\n",
]
PIECES = st.lists(st.sampled_from(SIGNS_OF_RULES), max_size=14)


@pytest.mark.parametrize("name", RULES)
@given(pieces=PIECES)
def test_a_scan_ends_where_the_whole_text_is_over_for_the_first_time(name: str, pieces: list[str]):
    """However the text is split into pieces."""
    rule, text = RULES[name], "".join(pieces)
    expected = next((size for size in range(1, len(text) + 1) if rule(text[:size])), None)
    for cut in (pieces, list(text), [text]):
        scan, length, found = rule.scan(), 0, None
        for piece in cut:
            place = scan(piece)
            if place is not None:
                found = length + place
                break
            length += len(piece)
        assert found == expected


def test_every_rule_of_a_task_can_scan():
    """So no rule reads an answer of 64 KB 64 thousand times."""
    found = [
        stop_rules.codegeex_stop(language, name)
        for name in stop_rules.CLEAN_UPS
        for language in ("python", "cpp", "go", "js", "rust")
    ]
    assert all(isinstance(rule, stopping.Rule) for rule in found if rule is not None)
    assert isinstance(stop_rules.codegen_stop(), stopping.Rule) and isinstance(answers.ended, stopping.Rule)


WORDS = st.lists(st.sampled_from(["ab", "abab", "b", "aab", "\n\n", "é", "ba{"]), max_size=3, unique=True)


def before_a_word(text, known):
    """The text before the words that are complete first, None if none is."""
    for size in range(1, len(text) + 1):
        if found := [len(word) for word in known if text[:size].endswith(word)]:
            return text[: size - max(found)]
    return None


@example(pieces=["x#", "#", "#"], known=["###"])  # the longest beginning is held back, not the last character
@given(pieces=st.lists(st.text("ab\né{", max_size=4), max_size=12), known=WORDS)
def test_text_comes_out_up_to_a_word_and_no_part_of_the_word_does(pieces, known):
    text, said, ending = "".join(pieces), "", stopping.Ending(known)
    expected = before_a_word(text, known)
    for number, piece in enumerate(pieces):
        said += ending.feed(piece)
        left = "".join(pieces[: number + 1])[len(said) :]
        assert ending.ended or not left or any(word.startswith(left) for word in known)  # nothing waits for no reason
    assert ending.ended is (expected is not None)
    assert said + ending.rest() == (text if expected is None else expected)


@given(pieces=PIECES)
def test_a_word_or_a_rule_ends_the_text(pieces):
    text = "".join(pieces)
    places = {
        rule: next((size for size in range(1, len(text) + 1) if rule(text[:size])), None)
        for rule in (stop_rules.words(["print"]), stop_rules.unindented)
    }
    end = min((place for place in places.values() if place is not None), default=None)
    dropped = [5 if rule is not stop_rules.unindented else 1 for rule, place in places.items() if place == end]
    expected = text if end is None else text[: end - max(dropped)]
    assert "".join(stopping.until(pieces, stopping.Ending(["print"], stop_rules.unindented))) == expected


@given(pieces=st.lists(st.text("ab", max_size=4), max_size=12), word=st.text("ab", max_size=8))
@example(pieces=["aab", "aab", "aaa"], word="aabaaa")
def test_the_longest_beginning_of_a_word_at_the_end_of_a_text_is_known(pieces, word):
    text, partial, found = "", stopping.PartialWord(word), None
    for piece in pieces:
        place = partial.feed(piece)
        if found is None and place is not None:
            found = len(text) + place
        text += piece
        known = [length for length in range(len(word), -1, -1) if text.endswith(word[:length])]
        chain = [partial.length]
        while chain[-1]:
            chain.append(partial.shorter[chain[-1]])
        assert chain == known
    assert found == (None if not pieces or word not in text else text.index(word) + len(word))


class Counted(str):
    """A word that counts its characters that are compared."""

    compared = 0

    def __getitem__(self, place):
        self.compared += 1
        return super().__getitem__(place)

    def startswith(self, prefix):
        self.compared += len(prefix)
        return super().startswith(prefix)


@pytest.mark.parametrize("text", ["a" * 2000 + "b", ("a" * 40 + "b") * 50])
def test_a_long_word_that_never_comes_costs_as_much_as_the_text_is_long(text):
    word = Counted("a" * 3000)
    ending = stopping.Ending([word])
    pieces = [text[place : place + 4] for place in range(0, len(text), 4)]
    assert "".join([*map(ending.feed, pieces), ending.rest()]) == text
    assert word.compared < 6 * len(text)


def test_pieces_after_the_end_are_not_asked_for():
    asked = []
    pieces = (asked.append(piece) or piece for piece in ["a", "b\n", "\nc", "d"])
    assert list(stopping.until(pieces, stopping.Ending(["\n\n"]))) == ["a", "b"] and asked == ["a", "b\n", "\nc"]


@pytest.mark.parametrize(
    "language,prompt,text",  # which ends at the mark
    [
        ("Python", "def f(x):\n", "    return x\n\n\n⏹def g():"),
        ("py", "def f(x):\n    return", " x + (\n 1)\n⏹print"),
        ("C++", "int f(int x) {", " if (x) { x++; }\n return x;\n}⏹\nint g"),
        ("Rust", "fn f(x: i32) -> i32", " {\n { x }\n}⏹\nfn"),
        ("Java", "class A {\n int f() {", "\n return 1; }⏹\n int g() {"),
        ("Python", "def f():\n", '    x = """\nfoo\nbar"""\n    return x\n\n⏹def g'),
        ("Python", 'def f():\n    """', 'Doc\nstring.\n"""\n    return 1\n⏹x'),
        ("Python", "def f(", "\n    a,\nb\n):\n    return a\n⏹print"),
        ("Python", "def f():\n", "    s = 'it\\'s (' # don't (\n    return 1\n⏹x"),
        ("Python", "def f():\n", "    s = \"a\" \"b\" + ''\n    return ''\n⏹x"),
        ("Python", "def f():\n", "    return 1 + \\\n2\n\n⏹x"),
        ("Python", "def f():\n", "    # it's\n    x = f'{y}' + r'\\'\n    return 1\n⏹x"),
        (
            "JavaScript",
            "function f() {\n",
            "  return `}${a + `}` + {b: '}'}.b}}` + '}' + /[/}]\\/}/.test(x) // }\n}⏹\nfoo",
        ),
        ("JavaScript", "function f() {\n", '  return a / b / "}"; /* } */\n}⏹\nfoo'),
        ("TypeScript", "function f() {\n  const s = `a\n", "}${x}\n`;\n}⏹\nz"),
        ("C++", "int f() {\n", "auto s = R\"x(})\" })x\"; char c = '}'; int n = 1'000; }⏹\nint"),
        ("C", "int f() {\n", 'puts("}\\"}"); if (1) { } // }\n }⏹\nint'),
        (
            "Rust",
            "fn f<'a>() {\n",
            "let x: &'a str = \"}\n}\"; let c = '}'; let d = '\\''; let e = 'x'; r#\"}\"}\"# ; /* /* } */ } */ }⏹\nz",
        ),
        ("Go", "func f() {\n", "s := `}\n}` + \"}\"; r := '}'\n}⏹\nfunc"),
        ("Java", "class A { void f() {", '\nString s = """\n } \\""" }""" + "}";\n}⏹\nint'),
        ("Kotlin", "fun f() {", '\nval s = "}${g { "}" }}}" + """}\\"""\n}⏹\nfun'),
        ("C#", "void F() {", '\nvar s = @"}\\" + $"{x}}" + @"a""}" + """}"}""" + \'}\';\n}⏹\nint'),
        ("PHP", "function f() {", "\n$s = <<<EOT\n}\n  $x EOTX }\n  EOT;\n# }\n$t = '}\n}';\n}⏹\nx"),
        ("Perl", "sub f {", "\nmy $n = $#{$x}; # }\nif ($s =~ /\\}/) { return '}'; }\n}⏹\nx"),
        ("R", "f <- function() {", "\nx <- r\"(})\" # }\ny <- '}\n'\n}⏹\nz"),
        ("Scala", "def f = {", '\nval s = s"}${x}" + """}"}""" + \'}\' ; val t = \'sym\n}⏹\nz'),
        ("Swift", "func f() {", '\nlet s = "}\\(x)" + #"}"}"# + """\n}\n"""\n}⏹\nz'),
        ("Dart", "f() {", "\nvar s = '}${x}' + '''\n}''';\n}⏹\nz"),
        ("Groovy", "def f() {", "\ndef s = \"}${x}\" + '''}\n'''\n}⏹\nz"),
        ("CSS", "a {", '\ncontent: "}"; /* } */\n}⏹\nb'),
        ("Solidity", "function f() {", '\nstring s = "}"; // }\n}⏹\nb'),
        ("Objective-C", "int f() {", '\nNSString *s = @"}"; // it\'s }\n}⏹\nb'),
        ("Cuda", "int f() {\n  // say {\n", 'puts("}"); }⏹\nint'),
        ("JavaScript", "const x = `a ${f({ a: 1", " }⏹)} }`; y = () => { '}' }\nz"),
        ("JavaScript", "x = `a ${f(", "1)} }`; y = () => { '}' }⏹\nz"),
        ("C++", "int f() /", "/ }\n{ }⏹\nx"),
    ],
)
def test_a_block_ends_where_its_language_says(language, prompt, text):
    rule, (expected, rest) = block(language, prompt), text.split("⏹")
    for one in (rule, block(*rule.of_block)):
        for pieces in ([expected + rest], list(expected + rest)):
            assert "".join(stopping.until(pieces, stopping.Ending(rule=one))) == expected


SIGNS = [*"{}()[]\"'`/*\\\n#$ a=@1\t", 'R"x(', ')x"', 'r#"', "<<<E\n", "\nE", '"""', "'''", "${", "return", "?>", "<?"]
CODE = st.lists(st.sampled_from(SIGNS), max_size=16).map("".join)


@settings(max_examples=300)
@given(language=st.sampled_from(sorted(quotes())), prompt=CODE, text=CODE)
@example("Perl", "1", "'}'")
@example("JavaScript", "x", "/}/")
def test_a_block_ends_at_the_same_place_in_pieces_and_in_another_process(language, prompt, text):
    rule = block(language, prompt)
    again = block(*rule.of_block)
    expected = next((size for size in range(1, len(text) + 1) if rule(text[:size])), None)
    for one in (rule, again):
        assert one.scan()(text) == expected and one.dropped == rule.dropped
        scan = one.scan()
        assert next((place for place, sign in enumerate(text, 1) if scan(sign)), None) == expected


def test_a_long_prompt_is_read_from_near_its_end():
    assert len(block("Go", "func f() {\n" + "s := `a`\n" * 200_000).of_block[1]) < 12


def test_languages_without_known_blocks_are_refused():
    with pytest.raises(UserError, match="HTML"):
        block("html", "<p>")
    assert all(find_language(name).name == name for name in quotes())


def test_a_text_is_cut_at_the_first_of_some_words():
    assert stop_rules.cut("one two three", ["three", " t", "two"]) == "one"
    assert stop_rules.cut("one", ["two"]) == stop_rules.cut("one", []) == "one"
    assert stop_rules.cut("two", ["two"]) == ""
