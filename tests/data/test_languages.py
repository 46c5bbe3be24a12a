import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import (
    canonical_languages,
    find_language,
    languages,
    lookup,
    tag_text,
)

TAGS = {
    "C++": "// language: C++",
    "Python": "# language: Python",
    "Java": "// language: Java",
    "JavaScript": "// language: JavaScript",
    "C": "// language: C",
    "Go": "// language: Go",
    "HTML": "<!--language: HTML-->",
    "Shell": "# language: Shell",
    "PHP": "// language: PHP",
    "CSS": "/* language: CSS */",
    "TypeScript": "// language: TypeScript",
    "SQL": "-- language: SQL",
    "TeX": "% language: TeX",
    "Rust": "// language: Rust",
    "Objective-C": "// language: Objective-C",
    "Scala": "// language: Scala",
    "Kotlin": "// language: Kotlin",
    "Pascal": "// language: Pascal",
    "Fortran": "!language: Fortran",
    "R": "# language: R",
    "Cuda": "// language: Cuda",
    "C#": "// language: C#",
    "Objective-C++": "// language: Objective-C++",
}


# The 73 others of CodeGeeX2, by what is put around `language: NAME`; a bar separates the names.
AROUND = {
    (
        "// ",
        "",
    ): "Dart|Lua|swift|Groovy|ActionScript|Solidity|Cobol|AWK|Augeas|F#|Stan|GLSL|ANTLR|Verilog|Protocol Buffer"
    "|Bluespec|SystemVerilog|Java Server Pages|Mathematica|Zig",
    ("# ", ""): "Perl|Ruby|GDScript|Julia|Elixir|PowerShell|SPARQL|CMake|Dockerfile|RMarkdown|YAML|Makefile|TCSH|Maple"
    "|Literate CoffeeScript|CoffeeScript",
    ("-- ", ""): "Lean|Haskell|Literate Agda|Elm|Idris|AppleScript|VHDL|Agda|Ada",
    ("; ", ""): "Lisp|Scheme|Assembly|Clojure|Racket|Emacs Lisp|Common Lisp",
    ("% ", ""): "Prolog|Matlab|Erlang",
    ("' ", ""): "Visual Basic|Basic|Excel",
    ("* ", ""): "Abap|SAS|Stata",
    ("/* ", " */"): "Alloy|Thrift",
    ("<!--", "-->"): "Vue|Markdown|XSLT",
    ("(*", "*)"): "Isabelle|OCaml",
    ("{", "}"): "Delphi",
    ("'' ", ""): "Smalltalk",
    (".. ", ""): "reStructuredText",
    ("> ", ""): "Literate Haskell",
}
FURTHER_TAGS = {
    name: f"{before}language: {name}{after}" for (before, after), names in AROUND.items() for name in names.split("|")
} | {"Standard ML": "(*language:Standard ML*)"}


def test_exactly_the_96_tags():
    tags = {language.name: language.tag for language in languages()}
    further = {"Swift" if name == "swift" else name: tag for name, tag in FURTHER_TAGS.items()}
    assert tags == TAGS | further and len(set(tags.values())) == len(languages()) == 96
    assert languages()[:23] == languages("codegeex")


def test_tags_of_a_scheme():
    assert [tag_text("Python", scheme) for scheme in ("codegeex", "codegeex2", "none")] == [
        "# language: Python"
    ] * 2 + [""]
    assert [tag_text("Zig", scheme) for scheme in ("codegeex", "codegeex2", "none")] == ["", "// language: Zig", ""]
    assert tag_text("", "codegeex") == tag_text("", "codegeex2") == ""
    for scheme, count in (("codegeex", 23), ("codegeex2", 96)):
        assert sum(bool(tag_text(language.name, scheme)) for language in languages()) == count
    with pytest.raises(UserError, match="tags 'codegen': expected one of codegeex, codegeex2, none"):
        tag_text("Python", "codegen")


def test_a_custom_tag_line_contains_the_language_name():
    assert [tag_text(name, "{language}") for name in ("C++", "Zig", "")] == ["C++", "Zig", ""]
    assert tag_text("Python", "# a {language} file") == "# a Python file"
    with pytest.raises(UserError, match=r"codegeex2, none, or one line with \{language\} in it"):
        tag_text("Python", "{language}\n")


def test_canonical_languages():
    assert canonical_languages(["zig", "py", "c++", "PYTHON"]) == ("C++", "Python", "Zig")
    assert canonical_languages([]) == tuple(TAGS)
    with pytest.raises(UserError, match="unknown language 'klingon'"):
        canonical_languages(["klingon"])


def test_exactly_the_23_tags():
    assert {language.name: language.tag for language in languages("codegeex")} == TAGS


@pytest.mark.parametrize(
    "alias, name",
    [
        ("c++", "C++"),
        ("CPP", "C++"),
        ("c#", "C#"),
        ("csharp", "C#"),
        ("objective-c", "Objective-C"),
        ("ObjectiveC", "Objective-C"),
        ("js", "JavaScript"),
        ("javascript", "JavaScript"),
        (" python ", "Python"),
        ("objective-c++", "Objective-C++"),
        ("typescript", "TypeScript"),
        ("r", "R"),
        ("c-sharp", "C#"),
        ("objectivec", "Objective-C"),
        ("objectivec++", "Objective-C++"),
        ("objectivecpp", "Objective-C++"),
        ("common-lisp", "Common Lisp"),
        ("Protocol_Buffers", "Protocol Buffer"),
        ("visual basic", "Visual Basic"),
        ("vb", "Visual Basic"),
        ("swift", "Swift"),
        ("CUDA", "Cuda"),
        ("java-server-pages", "Java Server Pages"),
        ("rst", "reStructuredText"),
    ],
)
def test_names_and_aliases(alias, name):
    assert find_language(alias).name == name


def test_lookup():
    assert lookup("golang").name == "Go"
    assert [lookup(name) for name in ("", " ", "c--", "tcl", "Jupyter Notebook", "c++ ++")] == [None] * 6


def test_no_name_means_two_languages():
    for language in languages():
        assert lookup(language.name) is language
        assert all(lookup(alias) is language for alias in language.aliases)


def test_unknown_name_suggests():
    with pytest.raises(UserError, match=r"unknown language 'pyhton': did you mean Python\?"):
        find_language("pyhton")
    with pytest.raises(UserError, match="known are C\\+\\+, Python"):
        find_language("qqqqqq")
