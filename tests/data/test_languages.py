import pytest

from ms_codegeex.data.languages import LANGUAGES, detect, find_language
from ms_codegeex.errors import UserError

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
    ],
)
def test_names_and_aliases(alias, name):
    assert find_language(alias).name == name


def test_unknown_name_suggests():
    with pytest.raises(UserError, match=r"unknown language 'pyhton': did you mean Python\?"):
        find_language("pyhton")
    with pytest.raises(UserError, match="known are C\\+\\+, Python"):
        find_language("qqqqqq")


def test_no_extension_belongs_to_two_languages():
    extensions = [extension for language in LANGUAGES for extension in language.extensions]
    assert len(extensions) == len(set(extensions))


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
        ("a.pl", b"#!/usr/bin/perl\n", None),
        ("a.txt", b"class A {};", None),
        ("README", b"words", None),
        ("a.h", b"#ifndef A\n#include <stdio.h>\nint f(void);\n#endif\n", "C"),
        ("a.h", b"#include <stdio.h>\nstruct a { int x; };\n", "C"),
        ("a.h", b"#include <vector>\nint f(int);\n", "C++"),
        ("a.h", b"/* x */\nnamespace at {\n}\n", "C++"),
        ("a.h", b"inline int f() { return std::max(1, 2); }\n", "C++"),
        ("a.h", b"class A {\n public:\n  A();\n};\n", "C++"),
        ("a.h", b"#import <Foundation/Foundation.h>\n@interface A : NSObject\n@end\n", "Objective-C"),
        ("a.h", b"__global__ void k(float *x);\n", "Cuda"),
        ("a.m", b'#import "A.h"\n@implementation A\n@end\n', "Objective-C"),
        ("a.m", b"function y = f(x)\n% matlab\n  y = x';\nend\n", None),
        ("a.mm", b"#include <string>\n@implementation A\n@end\n", "Objective-C++"),
        ("a.mm", b'<map version="1">', None),
        ("a.inc", b"<?php echo 1;", "PHP"),
        ("a.inc", b"{$mode objfpc}\n", "Pascal"),
        ("a.inc", b"#define A 1\n", "C"),
        ("a.inc", b"just text", None),
        ("a.ts", b"const x: number = 1;\n", "TypeScript"),
        ("a.ts", b"<?xml version='1.0'?><TS>", None),
        ("a.cls", b"\\ProvidesClass{x}", "TeX"),
        ("a.cls", b"VERSION 1.0 CLASS", None),
        ("run", b"#!/bin/sh\nls\n", "Shell"),
        ("run", b"#!/usr/bin/env bash\n", "Shell"),
        ("run", b"#!/usr/bin/env -S python3 -u\n", "Python"),
        ("run", b"#!/usr/bin/python3.11\n", "Python"),
        ("run", b"#!/usr/bin/env perl\n", None),
    ],
)
def test_detect(path, head, name):
    found = detect(path, head)
    assert (found and found.name) == name
