"""Licence headers: what goes, what stays, judged by Python's own parser and by pygments' lexers."""

import ast
import random

import pytest
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, String, Text, Whitespace

from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.data.languages import languages
from ms_codegeex.extras.corpus import licences
from ms_codegeex.extras.corpus.licence_texts import Found, licences_of
from ms_codegeex.extras.corpus.licences import RULES, strip_licence

NOTICE = ("Copyright 2020 Some Person", "", "Licensed under the Apache License, Version 2.0", "WITHOUT WARRANTIES.")
# Without comments, or with comments that no header is in.
WITHOUT = {"reStructuredText", "Literate CoffeeScript", "Literate Agda", "Literate Haskell"}
MIT_TERMS = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    'documentation files (the "Software"), to deal in the Software without restriction, including without limitation '
    "the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and "
    "to permit persons to whom the Software is furnished to do so, subject to the following conditions: The above "
    "copyright notice and this permission notice shall be included in all copies or substantial portions of the "
    "Software."
)
BSD_TERMS = (
    "Redistribution and use in source and binary forms, with or without modification, are permitted provided that the "
    "following conditions are met: 1. Redistributions of source code must retain the above copyright notice, this list "
    "of conditions and the following disclaimer. (b) Redistributions in binary form must reproduce the above copyright "
    "notice, this list of conditions and the following disclaimer in the documentation and/or other materials provided "
    "with the distribution. Neither the name of X nor the names of its contributors may be used to endorse or promote "
    "products derived from this software without specific prior written permission."
)
DESIGN = "The queue keeps tasks that wait, in the order of their time."
STYLES = [language for style in shipped_table(RULES)["styles"] for language in style["languages"]]
# Language -> how a comment of several lines begins, goes on and ends, and a line of code.
COMMENTS = {
    "Python": ("", "# ", "", "name = 'Copyright 2020 Nobody'"),
    "Shell": ("", "# ", "", "echo done"),
    "R": ("", "# ", "", "x <- 1"),
    "Perl": ("", "# ", "", "print 1;"),
    "Makefile": ("", "# ", "", "all: it"),
    "YAML": ("", "# ", "", "key: value"),
    "Dockerfile": ("", "# ", "", "FROM scratch"),
    "C": ("/*\n", " * ", " */\n", "int value;"),
    "C++": ("", "// ", "", "#include <vector>"),
    "Java": ("/**\n", " * ", " */\n", "package one.two;"),
    "JavaScript": ("/*!\n", "", "*/\n", "var one = 1;"),
    "Go": ("", "// ", "", "package main"),
    "Rust": ("", "// ", "", "//! Documentation.\nfn main() {}"),
    "Kotlin": ("/* /* nested */\n", "", "*/\n", "val one = 1"),
    "CSS": ("/* ", "", "*/\n", "a { color: red }"),
    "PHP": ("<?php\n/* ", "", "*/\n", "echo 1;"),
    "HTML": ("<!DOCTYPE html>\n<!--\n", "", "-->\n", "<p>text</p>"),
    "XSLT": ('<?xml version="1.0"?>\n<!--\n', "", "-->\n", "<a/>"),
    "SQL": ("", "-- ", "", "SELECT 1;"),
    "Lua": ("--[[\n", "", "]]\n", "local x = 1"),
    "Haskell": ("{- {- nested -}\n", "", "-}\n", "module Main where"),
    "Ada": ("", "-- ", "", "procedure Main is"),
    "TeX": ("", "% ", "", "\\documentclass{article}"),
    "Erlang": ("", "%% ", "", "-module(one)."),
    "Prolog": ("", "% ", "", "a(b)."),
    "Fortran": ("", "! ", "", "program one"),
    "Pascal": ("{ ", "", "}\n", "{$mode objfpc}\nunit one;"),
    "Emacs Lisp": ("", ";; ", "", "(setq a 1)"),
    "Common Lisp": ("#| #| nested |#\n", "", "|#\n", "(setq a 1)"),
    "Visual Basic": ("", "' ", "", "Dim a"),
    "OCaml": ("(* ", "", "*)\n", "let a = 1"),
    "F#": ("", "// ", "", "let a = 1"),
    "Ruby": ("=begin\n", "", "=end\n", "puts 1"),
    "Julia": ("#=\n", "", "=#\n", "x = 1"),
    "PowerShell": ("<#\n", "", "#>\n", "Get-Item"),
    "CMake": ("#[[\n", "", "]]\n", "project(one)"),
    "CoffeeScript": ("###\n", "", "###\n", "x = 1"),
    "Lean": ("/-\n", "", "-/\n", "/-! Documentation. -/\nimport One"),
    "Matlab": ("%{\n", "", "%}\n", "x = 1;"),
    "Smalltalk": ('"', "", '"\n', "Object subclass: #One"),
    "Stata": ("", "* ", "", "gen x = 1"),
    "Alloy": ("", "-- ", "", "sig One {}"),
    "AppleScript": ("(*\n", "", "*)\n", 'display dialog "one"'),
    "Abap": ("", "* ", "", "REPORT one."),
    "Cobol": ("", "*> ", "", "IDENTIFICATION DIVISION."),
    "Java Server Pages": ("<%--\n", "", "--%>\n", "<%@ page %>"),
}
OPENINGS = ("<?php\n", "<!DOCTYPE html>\n", '<?xml version="1.0"?>\n')


def header(language, words=NOTICE):
    """The header of `words`, what of it stays, and the code below it."""
    begin, line, end, code = COMMENTS[language]
    stays = next((opening for opening in OPENINGS if begin.startswith(opening)), "")
    return begin + "".join(f"{line}{word}".rstrip() + "\n" for word in words) + end, stays, code + "\n"


def stripped(text, language):
    return strip_licence(text.encode(), language).decode()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("language", COMMENTS)
def test_the_header_goes_and_the_code_stays(language, end):
    text, stays, code = header(language)
    for gap in ("", "\n", "\n\n"):
        assert stripped((text + gap + code).replace("\n", end), language) == (stays + code).replace("\n", end)
    assert stripped(text, language) == stays  # a file of nothing else


@pytest.mark.parametrize("language", COMMENTS)
def test_other_comments_stay(language):
    words = "Check the copyright line of every file, one by one;", "see how licence files are read."
    text, stays, code = header(language, words)
    assert stripped(text + "\n" + code, language) == text + "\n" + code
    licence = header(language)[0].removeprefix(stays)
    first = text + "\n" + licence + "\n" + code  # below another comment
    assert stripped(first, language) == text + "\n" + code
    twice = stays + licence + "\n" + licence + "\n" + text.removeprefix(stays) + code
    assert stripped(twice, language) == text + code
    below = stays + code + licence  # below the first line of code it is none
    assert stripped(below, language) == below


def test_every_language_has_a_style():
    names = {language.name for language in languages()}
    assert {*STYLES} | WITHOUT == names and not {*STYLES} & WITHOUT and len({*STYLES}) == len(STYLES)
    assert all(any(name in COMMENTS for name in style["languages"]) for style in shipped_table(RULES)["styles"])


def test_texts_of_no_known_language_stay():
    assert stripped(header("Python")[0], "") == header("Python")[0]


@pytest.mark.parametrize(
    "language, before, gone, after",
    [
        ("Python", "#!/usr/bin/env python\n", "# Copyright 2020 X\n", "x = 1\n"),
        ("Python", "# -*- coding: utf-8 -*-\n", "# Copyright 2020 X\n\n", "x = 1\n"),
        ("Python", "", "# Copyright 2020 X\n", "# pylint: disable=all\nx = 1\n"),
        ("Python", '"""Copyright 2020 X"""\nx = 1\n', "", ""),
        ("Python", "\ufeff", "# (c) 2020 X\n", "x = 1\n"),
        ("Python", "", "# Licensed under MIT, see LICENSE\n", ""),
        ("Python", "# Copyright 2020 X\rx = 1\n", "", ""),  # a line end to Python
        ("Python", "\n\n", "# SPDX-License-Identifier: MIT\n", "x = 1"),
        ("Go", "", "// Copyright 2020 X\n\n", "//go:build linux\n\npackage a\n"),
        ("Go", "", "// Copyright 2020 X\n", "//go:build linux\n\npackage a\n"),
        ("C", "/* Copyright 2020 X */ int a;\n", "", ""),
        ("C", "/* Copyright 2020 X\nint a;\n", "", ""),  # never closed
        ("C", "// Copyright 2020 X \\\nint a;\n", "", ""),  # goes on
        ("C", "", "/****/\n/* Copyright 2020 X */\n/****/\n", "int a;\n"),
        ("OCaml", "", "(*****)\n(* Copyright 2020 X  *)\n(* of Y         *)\n(*****)\n\n", "let a = 1\n"),
        ("JavaScript", "/* eslint-disable copyright-2020-by-X */\nf()\n", "", ""),
        ("JavaScript", "// Copyright 2020 X\u2028f()\n", "", ""),
        ("PHP", "<?php // Copyright 2020 X ?>\n<p>\n", "", ""),
        ("PHP", "<?php\n#[Copyright(by: 2020)]\n", "", ""),
        ("Rust", "//! Licensed under MIT\nfn a() {}\n", "", ""),
        ("Pascal", "{$COPYRIGHT (c) 2020}\nunit a;\n", "", ""),
        ("PowerShell", "", "<# -*- x -*-\n# Copyright 2020 X #>\n", "Get-Item\n"),
        ("Fortran", "!$omp copyright 2020 by X\nend\n", "", ""),
        ("Haskell", "{-# LANGUAGE CPP, Copyright2020 (c) #-}\n", "", ""),
        ("SQL", "/*! copyright 2020 by X */\nSELECT 1;\n", "", ""),
        ("HTML", "<!--[if IE]> Copyright 2020 <![endif]-->\n<p>\n", "", ""),
        ("TeX", "% \\iffalse Copyright 2020 X\n", "", ""),
        ("Ruby", "# encoding: utf-8\n", "# Copyright 2010 X\n", "puts 1\n"),
        ("Python", "", "# copyrighted by X\n# see the file LICENSE.txt\n", "x = 1\n"),
        ("Shell", "#!/bin/sh\n\n", "# Copyright 2020 X\n\n", "echo\n"),
        ("C", "#ifndef A_H\n#define A_H\n", "/* Copyright 2020 X */\n\n", "int a;\n"),
        ("C++", "#pragma once\n\n", "// SPDX-License-Identifier: MIT\n", "int a;\n"),
        ("JavaScript", "'use strict';\n", "/*\n * Copyright 2020 X\n */\n", "f();\n"),
        ("JavaScript", "use('strict');\n// Copyright 2020 X\nf();\n", "", ""),
        ("C", f"/* {DESIGN}\n", " *\n * Copyright 2020 X\n *\n * Licensed under MIT", " */\n"),
        ("C", "/*", " (c) 2020 X\n * All rights reserved.", f"\n * {DESIGN} */\nint a;\n"),
        ("Python", "", "# Copyright 2020 X\n#\n", f"# {DESIGN}\n\nx = 1\n"),
        ("Python", "", "# a.py\n# Copyright 2020 X\n# Author: Y\n", "x = 1\n"),
        ("C++", "#if !defined(A_H)\n#define A_H\n", "// Copyright 2020 X\n", "int a;\n"),
        ("C#", "#nullable enable\n", "// Copyright 2020 X\n", "using A;\n"),
        ("PHP", "<?php\ndeclare(strict_types=1);\n\n", "/* (c) 2020 X */\n", "$a;\n"),
        ("PHP", "<?php\n", "/**\n * Part of A.\n *\n * For the full copyright and license, view X.\n */\n", ""),
        ("Haskell", "{-# LANGUAGE CPP #-}\n", "{- Copyright 2020 X -}\n", "module A\n"),
        ("TypeScript", '/// <reference types="a" />\n', "// Copyright 2020 X\n", "f()\n"),
        ("JavaScript", "", "/**\n * @license MIT\n */\n", "f();\n"),
        ("CSS", "", "/*! a v8.0 | MIT License | a.org */\n", "a {}\n"),
        ("Julia", "", "# Part of A. License is MIT: https://a.org/license\n", "x = 1\n"),
        ("Swift", "", "//\n//  A.swift\n//\n//  Created by X on 3/4/20.\n//  Copyright © 2020 X.\n//\n", "import A\n"),
        ("C", "/*\n", " * (c) 2020 X\n *\n", " * 本文件实现一个堆。最小的键在根。\n */\nint a;\n"),
        ("Python", "# Notes on the MIT license scanner,\n# which compares words, not bytes.\nx = 1\n", "", ""),
        ("Python", '# TODO: the "All rights reserved" line of the footer\nx = 1\n', "", ""),
        ("C", "", "/*==== A ====*\\\n|* Licensed under MIT *|\n\\*==========*/\n", "int a;\n"),
    ],
)
def test_particular_texts(language, before, gone, after):
    assert stripped(before + gone + after, language) == before + after


def test_headers_around_a_declaration():
    text = '<!-- (c) 2020 -->\n<?xml version="1.0"?>\n<!-- (c) 2021 -->\n<a/>\n'
    assert stripped(text, "XSLT") == '<?xml version="1.0"?>\n<a/>\n'


PIECES = (
    *("Copyright 2020 X", "licensed under MIT", "words", "2020", "(c) 2020", "é", "\u2028", "'", '"', "\\"),
    *("#", "# ", "//", "/*", "*/", "--", "{-", "-}", "(*", "*)", "<!--", "-->", "%", ";", "{", "}", "<?php", "?>"),
    *("\n", "\n", "\n", "\n\n", "\r\n", "\r", " ", "\t", "x = 1", "int a;", "#!/bin/sh", "# -*- x -*-"),
    *("=begin", "=end"),
)
ORACLES = {"C": "c", "C++": "cpp", "Java": "java", "Go": "go", "Rust": "rust", "Haskell": "haskell", "Lua": "lua"}
COMMENT_TOKENS = (Comment, Text, Whitespace, String.Doc)


def code_of(lexer, text):
    """All that the lexer takes for no comment, without white space."""
    tokens = lexer.get_tokens(text)
    kept = [v for t, v in tokens if not any(t in c for c in COMMENT_TOKENS) or t in Comment.Preproc]
    return "".join("".join(kept).split())


@pytest.mark.parametrize("language", STYLES)
def test_random_texts(language):
    """Stripped twice is stripped once; nothing is added or put elsewhere."""
    generator = random.Random(language)
    for _ in range(300):
        text = "".join(generator.choices(PIECES, k=generator.randint(1, 14))).encode()
        once = strip_licence(text, language)
        assert strip_licence(once, language) == once
        rest = iter(text)
        assert all(byte in rest for byte in once)
        if b"opyright" not in text and b"licensed" not in text and b"(c)" not in text:
            assert once == text


@pytest.mark.parametrize("language", ORACLES)
def test_a_lexer_finds_the_same_code(language):
    generator, lexer = random.Random(language), get_lexer_by_name(ORACLES[language], ensurenl=False, stripnl=False)
    pieces = [*[header(language)[0]] * 2, header(language, ("An ordinary comment.",))[0], header(language)[2]]
    pieces += ["\n", "\n\n"]
    pieces += ["// a\n", "-- b\n", "/* c */\n", "/* Copyright 2020 X */ ", "int f(void);\n", "x = 1\n"]
    count = 0
    for _ in range(200):
        text = "".join(generator.choices(pieces, k=generator.randint(1, 7)))
        result = stripped(text, language)
        assert code_of(lexer, result) == code_of(lexer, text), text
        count += result != text
    assert count > 30


def test_python_parses_to_the_same_tree():
    generator, count = random.Random(0), 0
    pieces = [*[header("Python")[0]] * 2, "\n", "\n\n", "# ordinary\n", "x = 1\n", "def f(): pass\n", "# type: int\n"]
    pieces += ["#!/bin/python\n", "# -*- coding: utf-8 -*-\n", '"""Copyright 2020 by X"""\n', "\x0c\n", "# licence\n"]
    for _ in range(500):
        text = "".join(generator.choices(pieces, k=generator.randint(1, 8)))
        result = stripped(text, "Python")
        assert ast.dump(ast.parse(result)) == ast.dump(ast.parse(text)), text
        count += result != text
    assert count > 100


REST = (b"", b" Copyright 2020 A\n", b"\n# Copyright 2020 A\n", b'"" Copyright 2020 A """\n', b"\n// (c) 2020 A\n")


@pytest.mark.parametrize("language", STYLES)
def test_a_file_that_begins_with_code_has_no_header(language):
    """What is decided by the first byte, all patterns decide alike."""
    patterns = licences._patterns(language)
    assert set(b"aZ_0") <= patterns.code
    for byte in patterns.code:
        for rest in REST:
            assert list(licences._headers(bytes([byte]) + rest, patterns)) == [], (byte, rest)


class Sliced(bytes):
    """Bytes that count those that their slices, and the slices of what is joined to them, copy."""

    copied = 0

    def __getitem__(self, place):
        found = super().__getitem__(place)
        if not isinstance(place, slice):
            return found
        Sliced.copied += len(found)
        return Sliced(found)

    def __add__(self, other):
        return Sliced(bytes(self) + other)


def test_many_headers_are_left_out_in_one_pass(monkeypatch):
    """Each copy of the text would take as long as the text is, and there is one header for each line."""
    monkeypatch.setattr(Sliced, "copied", 0)
    text = Sliced(b"// SPDX-License-Identifier: MIT\n\n" * 1_000 + b"int x;\n")
    assert strip_licence(text, "C++") == b"int x;\n"
    assert Sliced.copied < 4 * len(text)


class Searched(bytes):
    """Bytes that count the searches in them."""

    searches = 0

    def find(self, *given):
        self.searches += 1
        return super().find(*given)


@pytest.mark.parametrize("language, opening, closing", [("Kotlin", "/*", "*/"), ("Haskell", "{-", "-}")])
def test_a_far_end_is_looked_for_once(language, opening, closing):
    text = Searched(f"{opening} {f'{opening} ' * 300}{closing} Copyright 2020 A {closing * 300}\nx\n".encode())
    assert strip_licence(text, language) == b"x\n" and text.searches <= 302
    text = Searched(f"{opening} {f'{opening} ' * 300}Copyright 2020 A {closing}\nx\n".encode())
    assert strip_licence(text, language) == text and text.searches <= 2


@pytest.mark.parametrize(
    "names, expected",
    [
        ("MIT|Expat|The MIT License (MIT)|MIT/X11|License :: OSI Approved :: MIT License", ("MIT", True)),
        ("apache-2.0|Apache License, Version 2.0|ASL 2.0", ("Apache-2.0", True)),
        ("http://www.apache.org/licenses/LICENSE-2.0", ("Apache-2.0", True)),
        ("MIT/Apache-2.0|MIT OR Apache-2.0|(mit or Apache 2.0)", ("MIT OR Apache-2.0", True)),
        ("GPL-3.0-only OR (Apache-2.0 AND MIT)", ("GPL-3.0-only OR (Apache-2.0 AND MIT)", True)),
        ("MIT AND GPL-3.0-only", ("MIT AND GPL-3.0-only", False)),
        ("Apache-2.0 WITH LLVM-exception", ("Apache-2.0 WITH LLVM-exception", True)),
        ("GPL-2.0-or-later|GPL v2 or later|GPL-2+|GPLv2+", ("GPL-2.0-or-later", False)),
        ("UNLICENSED|proprietary", ("LicenseRef-other", False)),
        ("BSD-4-Clause|4-clause BSD", ("BSD-4-Clause", False)),
        ("BSD|SEE LICENSE IN LICENSE.md|MIT-style|MIT (non-commercial)|no MIT|MIT AND", ("unknown", None)),
        ("(" * 9999, ("unknown", None)),
        ("MIT AND something", ("MIT AND unknown", None)),
        ("MIT + file LICENSE|The MIT License: http://mit.example.org", ("MIT", True)),
        ("https://choosealicense.com/licenses/mit/", ("MIT", True)),
        ("apache_2_0|Apache-2.0.|https://example.org/x Apache 2.0", ("Apache-2.0", True)),
        ("MIT No Attribution|License :: OSI Approved :: MIT No Attribution License (MIT-0)", ("MIT-0", False)),
        ('BSD 2-Clause "Simplified" License|Simplified BSD', ("BSD-2-Clause", False)),
        ("GPL (>= 2)|GNU General Public License (>= 2)", ("GPL-2.0-or-later", False)),
        ("lgpl_2_1|https://www.gnu.org/licenses/lgpl-2.1.en.html", ("LGPL-2.1-only", False)),
        ("CC0 1.0 Universal (CC0 1.0) Public Domain Dedication", ("CC0-1.0", False)),
        ("Creative Commons Attribution 4.0 International|CC BY 4.0", ("CC-BY-4.0", False)),
        ("Creative Commons Attribution-NonCommercial 4.0 International Public License", ("CC-BY-NC-4.0", False)),
        ("SIL Open Font License 1.1", ("OFL-1.1", False)),
    ],
)
def test_names_and_expressions(names, expected):
    for name in names.split("|"):
        assert licences.judge((name,), ("mit", "apache 2.0")) == expected, name


def test_a_title_above_a_text_adds_nothing():
    assert licences_of(f"The MIT License\n\n{MIT_TERMS} THE SOFTWARE IS PROVIDED AS IS") == Found(["MIT"], [])


def test_all_licences_of_a_list_have_to_be_allowed():
    assert licences.judge(("MIT", "Apache-2.0"), ("mit", "apache-2.0")) == ("MIT AND Apache-2.0", True)
    assert licences.judge(("MIT", "GPL-3.0-only"), ("mit", "apache-2.0"))[1] is False
    assert licences.judge(("MIT", "nobody knows"), ("mit", "apache-2.0"))[1] is None


def test_later_versions():
    assert licences.judge(("GPL-2.0-or-later",), ("gpl-3.0",))[1] and licences.judge(("GPLv3",), ("gpl-3.0",))[1]
    for name in ("GPL-3.0-only", "LGPL-2.1-or-later", "AGPL-3.0-or-later"):
        assert licences.judge((name,), ("gpl-3.0-or-later",))[1] is False


@pytest.mark.parametrize(
    "comment, expected",
    [
        ("Licensed under the MIT license, see LICENSE.", "MIT"),
        ("Released under the\n# BSD 3-Clause License", "BSD-3-Clause"),
        ("@license https://opensource.org/licenses/MIT MIT", "MIT"),
        ("A 1.0\n# License: ISC", "ISC"),
        ("Licensed under the Apache License, Version 2.0 <A> or the MIT license <M>", "Apache-2.0 OR MIT"),
        ("under the terms of the Eclipse Public License v1.0", "EPL-1.0"),
        ("Copyright 2020 X.\n# Proprietary and confidential.", "LicenseRef-other"),
        ("Portions of this are licensed under the MIT license.", None),
        ("Licensed under the MIT license and the GPL", None),
        ("Licensed under the GPL license", "GPL-1.0-or-later"),
        ("This program is licensed under the GPLv2", "GPL-2.0-only"),
        ("the ASF licenses this file\n# to you under the Apache License, Version 2.0 (the", "Apache-2.0"),
        ("GNU General Public License, either version 3, or\n# (at your option) any later version", "GPL-3.0-or-later"),
        ("modify it under the terms of the MIT license. See LICENSE.", "MIT"),
        (f"{MIT_TERMS} THE SOFTWARE IS PROVIDED AS IS", "MIT"),
        (f"{MIT_TERMS} The Software may not be sold. THE SOFTWARE IS PROVIDED AS IS", None),
        (f"{BSD_TERMS} THIS SOFTWARE IS PROVIDED AS IS", "BSD-3-Clause"),
        (f"{BSD_TERMS} Products derived from this software may not be called X. THIS SOFTWARE IS PROVIDED", None),
        (f"{MIT_TERMS.replace('and/or sell', 'but not to sell')} THE SOFTWARE IS PROVIDED AS IS", None),
        (f"{BSD_TERMS.replace('name of X', 'name of X, who must consent,')} THIS SOFTWARE IS PROVIDED AS IS", None),
        ("Licensed under the MIT license until 2024.", None),
        ("This is no longer licensed under the MIT license.", None),
        ("Licensed under the Apache License, Version 2.0, if you have less than 1,000,000 in revenue.", None),
        ("Released under the MIT license for academic use", None),
        ("License: see LICENSE", None),
    ],
)
def test_licences_that_comments_name(comment, expected):
    found = licences.licences_in_comments(f"# {comment}\nx = 1\n".encode(), "Python")
    known = [name for it in found if (name := licences.judge((it,), ())[0]) != licences.UNKNOWN]
    assert known == ([expected] if expected else [])


@pytest.mark.parametrize(
    "path, text",
    [
        ("setup.py", 'setup(name="a", license="MIT", packages=["a"])\n'),
        ("a.gemspec", 'Gem.new do |s|\n  s.licenses = ["MIT".freeze]\n  s.name = "a"\nend\n'),
        ("A.podspec", "s.license = { :type => 'MIT', :file => 'LICENSE' }\n"),
        ("a-1.rockspec", 'description = {\n  license = "MIT"\n}\n'),
        ("pom.xml", "<license>\n<url>http://x</url>\n<name>MIT License</name>\n</license>"),
        ("build.gradle", "licenses { license {\n name = 'MIT License'\n} }\n"),
        ("build.gradle.kts", 'licenses { license { name.set("MIT License") } }\n'),
        ("build.sbt", 'licenses := Seq("MIT" -> url("http://x"))\n'),
        ("project.clj", '(defproject a "1" :license {:name "MIT License"})'),
        ("mix.exs", 'package: [licenses: ["MIT"]]\n'),
        ("elm.json", '{"license": "MIT", "version": "1", "version": "2"}'),
        ("package.yaml", "name: a\nlicense: MIT\n"),
        ("galaxy.yml", "license:\n  - MIT\n"),
        ("package.xml", "<package><license>MIT</license></package>"),
        ("a.spec", "Name: a\nLicense: MIT\n"),
        ("a.nuspec", "<licenseUrl>http://opensource.org/licenses/MIT</licenseUrl>"),
        ("meson.build", "project('a', 'c', license : 'MIT', version : '1')\n"),
        ("CITATION.cff", "license: MIT\n"),
        ("conanfile.py", '    license = "MIT"\n'),
        ("DESCRIPTION", "License: MIT + file LICENSE\nURL: x\n"),
        ("PKG-INFO", "Classifier: License :: OSI Approved\nClassifier: License :: OSI Approved :: MIT License\n"),
    ],
)
def test_licences_that_metadata_state(path, text):
    number = licences.metadata_rule("a", path)
    assert number is not None
    assert licences.nearest_licence(licences.stated_licences(number, text.encode()), "a.c").startswith("MIT")
