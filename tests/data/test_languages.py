import pytest

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import (
    ALL_LANGUAGES,
    LANGUAGES,
    canonical_languages,
    detect,
    find_language,
    lookup,
    needs_head,
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
    tags = {language.name: language.tag for language in ALL_LANGUAGES}
    further = {"Swift" if name == "swift" else name: tag for name, tag in FURTHER_TAGS.items()}
    assert tags == TAGS | further and len(set(tags.values())) == len(ALL_LANGUAGES) == 96
    assert ALL_LANGUAGES[:23] == LANGUAGES


def test_tags_of_a_scheme():
    assert [tag_text("Python", scheme) for scheme in ("codegeex", "codegeex2", "none")] == [
        "# language: Python"
    ] * 2 + [""]
    assert [tag_text("Zig", scheme) for scheme in ("codegeex", "codegeex2", "none")] == ["", "// language: Zig", ""]
    assert tag_text("", "codegeex") == tag_text("", "codegeex2") == ""
    for scheme, count in (("codegeex", 23), ("codegeex2", 96)):
        assert sum(bool(tag_text(language.name, scheme)) for language in ALL_LANGUAGES) == count
    with pytest.raises(UserError, match="tags 'codegen': expected one of codegeex, codegeex2, none"):
        tag_text("Python", "codegen")


def test_a_custom_tag_line_contains_the_language_name():
    assert [tag_text(name, "{language}") for name in ("C++", "Zig", "")] == ["C++", "Zig", ""]
    assert tag_text("Python", "# a {language} file") == "# a Python file"
    with pytest.raises(UserError, match=r"codegeex2, none, or one line with \{language\} in it"):
        tag_text("Python", "{language}\n")


def test_canonical_languages():
    assert canonical_languages(["zig", "py", "c++", "PYTHON"]) == ("C++", "Python", "Zig")
    assert canonical_languages([]) == tuple(TAGS) and len(canonical_languages([], "codegeex2")) == 96
    with pytest.raises(UserError, match="unknown language 'klingon'"):
        canonical_languages(["klingon"])


def test_exactly_the_23_tags():
    assert {language.name: language.tag for language in LANGUAGES} == TAGS


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
    for language in ALL_LANGUAGES:
        assert lookup(language.name) is language
        assert all(lookup(alias) is language for alias in language.aliases)


def test_unknown_name_suggests():
    with pytest.raises(UserError, match=r"unknown language 'pyhton': did you mean Python\?"):
        find_language("pyhton")
    with pytest.raises(UserError, match="known are C\\+\\+, Python"):
        find_language("qqqqqq")


def test_nothing_belongs_to_two_languages():
    for kind in ("extensions", "interpreters", "filenames"):
        values = [value for language in ALL_LANGUAGES for value in getattr(language, kind)]
        assert len(values) == len(set(values)), kind


@pytest.mark.parametrize(
    "path, head, name",
    [
        ("a.py", b"", "Python"),
        ("a.PY", b"", "Python"),
        ("a.c", b"", "C"),
        ("a.C", b"", "C++"),
        ("a.cu", b"", "Cuda"),
        ("a.cuh", b"", "Cuda"),
        ("a.R", b"", "R"),
        ("a.r", b"", "R"),
        ("a.f90", b"", "Fortran"),
        ("a.F90", b"", "Fortran"),
        ("a.pl", b"#!/usr/bin/perl\n", "Perl"),
        ("a.txt", b"class A {};", None),
        ("README", b"words", None),
        ("a.h", b"#ifndef A\n#include <stdio.h>\nint f(void);\n#endif\n", "C"),
        ("a.h", b"#include <stdio.h>\nstruct a { int x; };\n", "C"),
        ("a.h", b"/* Devices of one\n   class: see bus::probe.\n   public: all */\nint f(void);\n", "C"),
        ("a.h", b'// namespace\n// template of std::max\nint f(void); // nullptr\n#define S "a::b"\n', "C"),
        ("a.h", b"/* unfinished\n class A", "C"),
        ("a.inc", b"/* std::max */\n#define A 1\n", "C"),
        ("a.h", b"#include <vector>\nint f(int);\n", "C++"),
        ("a.h", b"/* x */\nnamespace at {\n}\n", "C++"),
        ("a.h", b"inline int f() { return std::max(1, 2); }\n", "C++"),
        ("a.h", b"class A {\n public:\n  A();\n};\n", "C++"),
        ("a.h", b"#ifdef __cplusplus\ntemplate <typename T> T f(T x);\n#endif\nint f(int);\n", "C"),
        ("a.h", b"#if defined(__cplusplus)\n#define N nullptr\n#else\n#define N 0\n#endif\nint f(int);\n", "C"),
        ("a.h", b"#if __cplusplus >= 201103L\n#define NULL nullptr\n#endif\nint f(int);\n", "C"),
        ("a.h", b"#if defined(__cplusplus) && __cplusplus >= 201103\n#define N nullptr\n#endif\nint f(int);\n", "C"),
        ("a.h", b"#if defined(__cplusplus) && !defined(X)\nclass A;\n#else\nstruct A;\n#endif\n", "C"),
        ("a.h", b"#if defined(__cplusplus) || defined(X)\nclass A;\n#endif\nint f(int);\n", "C++"),
        ("a.h", b"#ifdef __cplusplus\nnamespace a {\nint f();\n}\n#endif\n", "C++"),
        ("a.h", b"#ifdef __cplusplus\n#include <vector>\n#endif\nclass A;\n", "C++"),
        ("a.h", b"static int f(int x)\n{\n\tint class;\n\tclass = x;\n\treturn class;\n}\n", "C"),
        ("a.h", b"static int f(int operator) { operator = 1; return operator + 1; }\n", "C"),
        ("a.h", b"struct a {\n\tunsigned b:1,\n\tprivate:1;\n\tint (*new)(int), delete;\n};\n", "C"),
        ("a.h", b"#define F(a, b) ((a) & b)\n#define G(x) sizeof(const int) & x, (int) & x\n", "C"),
        ("a.h", b"void f(const A& x);\n", "C++"),
        ("a.h", b"void f(int &x);\n", "C++"),
        ("a.h", b"struct A : B {\n  int x;\n};\n", "C++"),
        ("a.h", b"enum class A { a };\n", "C++"),
        ("a.h", b"struct A {\n  A();\n  ~A();\n};\n", "C++"),
        ("a.h", b"struct A {\n  A(const A *) = delete;\n};\n", "C++"),
        ("a.h", b"struct A {\n  int f() const { return 1; }\n};\n", "C++"),
        ("a.h", b"struct A {\n  explicit A(int x);\n};\n", "C++"),
        ("a.h", b"struct A {\n  friend struct B;\n};\n", "C++"),
        ("a.h", b"bool f() noexcept;\n", "C++"),
        ("a.h", b"int *f() { return new int[3]; }\n", "C++"),
        ("a.h", b"int f(double x) { return static_cast<int>(x); }\n", "C++"),
        ("a.h", b"A operator+(A a, A b);\n", "C++"),
        ("a.h", b"#import <Foundation/Foundation.h>\n@interface A : NSObject\n@end\n", "Objective-C"),
        ("a.h", b"__global__ void k(float *x);\n", "Cuda"),
        ("a.m", b'#import "A.h"\n@implementation A\n@end\n', "Objective-C"),
        ("a.m", b"function y = f(x)\n% matlab\n  y = x';\nend\n", "Matlab"),
        ("a.mm", b"#include <string>\n@implementation A\n@end\n", "Objective-C++"),
        ("a.mm", b'<map version="1">', None),
        ("a.inc", b"<?php echo 1;", "PHP"),
        ("a.inc", b"{$mode objfpc}\n", "Pascal"),
        ("a.inc", b"#define A 1\n", "C"),
        ("a.inc", b"just text", None),
        ("a.ts", b"const x: number = 1;\n", "TypeScript"),
        ("a.ts", b"<?xml version='1.0'?><TS>", None),
        ("a.cls", b"\\ProvidesClass{x}", "TeX"),
        ("a.cls", b"VERSION 1.0 CLASS", "Visual Basic"),
        ("a.m", b"(* mathematica *)\nf[x_] := x\n", "Mathematica"),
        ("a.m", b":- module m.\n", None),
        ("a.cls", b"class A", None),
        ("a.pl", b":- use_module(library(lists)).\n", "Prolog"),
        ("a.pl", b"parent(tom, bob).\n", "Prolog"),
        ("a.pl", b"use strict;\nmy $x = 1;\n", "Perl"),
        ("a.v", b"`timescale 1ns\n", "Verilog"),
        ("a.v", b"Theorem x : True.\n", None),
        ("a.fs", b"#version 330\nvoid main() {}\n", "GLSL"),
        ("a.fs", b": square dup * ;\n", None),
        ("a.fs", b"module A\nlet x = 1\n", "F#"),
        ("a.gd", b"extends Node\n", "GDScript"),
        ("a.gd", b'DeclareGlobalFunction("x");\n', None),
        ("a.f", b": square dup * ;\n", None),
        ("a.pp", b"class apache {}\n", None),
        ("a.rs", b"", "Rust"),
        ("a.zig", b"", "Zig"),
        ("a.S", b"", "Assembly"),
        ("a.yml", b"", "YAML"),
        ("x/Makefile", b"", "Makefile"),
        ("Dockerfile", b"", "Dockerfile"),
        ("CMakeLists.txt", b"", "CMake"),
        ("", b"#!/usr/bin/ruby\n", "Ruby"),
        ("run", b"#!/bin/sh\nls\n", "Shell"),
        ("run", b"#!/usr/bin/env bash\n", "Shell"),
        ("run", b"#!/usr/bin/env -S python3 -u\n", "Python"),
        ("run", b"#!/usr/bin/python3.11\n", "Python"),
        ("run", b"#!/usr/bin/env perl\n", "Perl"),
    ],
)
def test_detect(path, head, name):
    found = detect(path, head)
    assert (found and found.name) == name


def test_a_head_is_asked_for_where_it_decides():
    asked = [path for path in ("a.py", "a.h", "a.C", "a.c", "a.pl", "a.txt", "run", "Makefile") if needs_head(path)]
    assert asked == ["a.h", "a.pl", "run"]
