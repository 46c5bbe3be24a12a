import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import canonical_languages, find_language, languages, lookup, tag_text

TRAINED = "C++ Python Java JavaScript C Go HTML Shell PHP CSS TypeScript SQL TeX Rust Objective-C Scala Kotlin Pascal "
TRAINED += "Fortran R Cuda C# Objective-C++"
# All languages by what is put around `language: NAME`; a bar separates the names.
AROUND = {
    "// {}": "C++|Java|JavaScript|C|Go|PHP|TypeScript|Rust|Objective-C|Scala|Kotlin|Pascal|Cuda|C#|Objective-C++"
    "|Dart|Lua|swift|Groovy|ActionScript|Solidity|Cobol|AWK|Augeas|F#|Stan|GLSL|ANTLR|Verilog|Protocol Buffer|Bluespec"
    "|SystemVerilog|Java Server Pages|Mathematica|Zig",
    "# {}": "Python|Shell|R|Perl|Ruby|GDScript|Julia|Elixir|PowerShell|SPARQL|CMake|Dockerfile|RMarkdown|YAML"
    "|Makefile|TCSH|Maple|Literate CoffeeScript|CoffeeScript",
    "-- {}": "SQL|Lean|Haskell|Literate Agda|Elm|Idris|AppleScript|VHDL|Agda|Ada",
    "; {}": "Lisp|Scheme|Assembly|Clojure|Racket|Emacs Lisp|Common Lisp",
    "% {}": "TeX|Prolog|Matlab|Erlang",
    "' {}": "Visual Basic|Basic|Excel",
    "* {}": "Abap|SAS|Stata",
    "/* {} */": "CSS|Alloy|Thrift",
    "<!--{}-->": "HTML|Vue|Markdown|XSLT",
    "(*{}*)": "Isabelle|OCaml",
    "!{}": "Fortran",
    "{{{}}}": "Delphi",
    "'' {}": "Smalltalk",
    ".. {}": "reStructuredText",
    "> {}": "Literate Haskell",
}


def test_exactly_the_96_tags():
    tags = {it: around.format(f"language: {it}") for around, names in AROUND.items() for it in names.split("|")}
    tags |= {"Standard ML": "(*language:Standard ML*)", "Swift": tags.pop("swift")}
    assert {language.name: language.tag for language in languages()} == tags
    assert len(set(tags.values())) == len(languages()) == 96
    assert [language.name for language in languages("codegeex")] == TRAINED.split()
    assert languages()[:23] == languages("codegeex")


def test_tags_of_a_scheme():
    schemes, tag = ("codegeex", "codegeex2", "none"), "# language: Python"
    assert [tag_text("Python", scheme) for scheme in schemes] == [tag, tag, ""]
    assert [tag_text("Zig", scheme) for scheme in schemes] == ["", "// language: Zig", ""]
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
    assert canonical_languages([]) == tuple(TRAINED.split())
    with pytest.raises(UserError, match="unknown language 'klingon'"):
        canonical_languages(["klingon"])


ALIASES = {
    "C++": "c++|CPP",
    "C#": "c#|csharp|c-sharp",
    "Objective-C": "objective-c|ObjectiveC|objectivec",
    "Objective-C++": "objective-c++|objectivec++|objectivecpp",
    "JavaScript": "js|javascript",
    "Python": " python ",
    "TypeScript": "typescript",
    "R": "r",
    "Common Lisp": "common-lisp",
    "Protocol Buffer": "Protocol_Buffers",
    "Visual Basic": "visual basic|vb",
    "Swift": "swift",
    "Cuda": "CUDA",
    "Java Server Pages": "java-server-pages",
    "reStructuredText": "rst",
}


@pytest.mark.parametrize("name", ALIASES)
def test_names_and_aliases(name):
    assert [find_language(alias).name for alias in ALIASES[name].split("|")] == [name] * len(ALIASES[name].split("|"))


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
