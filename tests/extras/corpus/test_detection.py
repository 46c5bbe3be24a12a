"""The language of a file, by its name and its first bytes."""

import re

import pytest

from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.data.languages import languages
from ms_codegeex.extras.corpus import detection
from ms_codegeex.extras.corpus.detection import as_utf8, detect, needs_head

BY_NAME = (
    "a.py:Python a.PY:Python a.c:C a.C:C++ a.cuh:Cuda a.R:R a.r:R a.F90:Fortran a.rs:Rust a.zig:Zig "
    "a.S:Assembly a.yml:YAML x/Makefile:Makefile Dockerfile:Dockerfile CMakeLists.txt:CMake a.psgi:Perl "
    "a.spec.ts:TypeScript Dockerfile.dev:Dockerfile makefile.gcc:Makefile"
)


@pytest.mark.parametrize(
    "path, head, name",
    [
        *((path, b"", name) for path, _, name in (words.partition(":") for words in BY_NAME.split())),
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
        ("a.mm", b'<map version="1">', "another"),
        ("a.inc", b"<?php echo 1;", "PHP"),
        ("a.inc", b"{$mode objfpc}\n", "Pascal"),
        ("a.inc", b"just text", None),
        ("a.ts", b"const x: number = 1;\n", "TypeScript"),
        ("a.ts", b"<?xml version='1.0'?><TS>", "another"),
        ("a.cls", b"\\ProvidesClass{x}", "TeX"),
        ("a.cls", b"VERSION 1.0 CLASS", "Visual Basic"),
        ("a.m", b"(* mathematica *)\nf[x_] := x\n", "Mathematica"),
        ("a.m", b":- module m.\n", "another"),
        ("a.cls", b"class A", None),
        ("a.pl", b":- use_module(library(lists)).\n", "Prolog"),
        ("a.pl", b"parent(tom, bob).\n", "Prolog"),
        ("a.pl", b"use strict;\nmy $x = 1;\n", "Perl"),
        ("a.v", b"`timescale 1ns\n", "Verilog"),
        ("a.v", b"Theorem x : True.\n", "another"),
        ("a.fs", b"#version 330\nvoid main() {}\n", "GLSL"),
        ("a.fs", b": square dup * ;\n", "another"),
        ("a.fs", b"module A\nlet x = 1\n", "F#"),
        ("a.gd", b"extends Node\n", "GDScript"),
        ("a.gd", b'DeclareGlobalFunction("x");\n', "another"),
        ("a.f", b": square dup * ;\n", "another"),
        ("a.pp", b"class apache {}\n", "another"),
        ("", b"#!/usr/bin/ruby\n", "Ruby"),
        ("run", b"#!/bin/sh\nls\n", "Shell"),
        ("run", b"#!/usr/bin/env bash\n", "Shell"),
        ("run", b"#!/usr/bin/env -S python3 -u\n", "Python"),
        ("run", b"#!/usr/bin/python3.11\n", "Python"),
        ("run", b"#!/usr/bin/env perl\n", "Perl"),
        ("run", b"#!/usr/bin/env FOO=1 ruby -w\n", "Ruby"),
        ("run", b"#!/usr/bin/env tclsh\n", "another"),
        ("run", b'#!/bin/sh\n# next line for the shell \\\nexec tclsh "$0" ${1+"$@"}\n', "another"),
        ("run", b"#!/bin/sh\n# -*- perl -*-\n", "Perl"),
        ("vector", b"// <vector> -*- C++ -*-\n", "C++"),
        ("run.in", b"# -*- mode: python; coding: utf-8 -*-\n", "Python"),
        ("notes", b"one\ntwo\n# vim: set ts=4 ft=sh:\n", "Shell"),
        ("_tool", b"#compdef tool\n_arguments\n", "Shell"),
        ("tool", b"_tool()\n{\n    COMPREPLY=()\n} &&\ncomplete -F _tool tool\n", "Shell"),
        ("a.t", b"use strict;\nuse Test::More;\n", "Perl"),
        ("a.t", b"use v6;\nuse Test;\n", "another"),
        ("a.t", b"List:\n\n  $ ls\n  a\n", None),
        ("a.cgi", b"#!/usr/bin/python\n", "Python"),
        ("a.pro", b"TEMPLATE = app\nSOURCES += a.cpp\n", "another"),
        ("a.pro", b":- module(a, []).\n", "Prolog"),
        ("a.pl", b"% f = g\n:- dynamic f/1.\n", "Prolog"),
        ("a.s", b"f <- function(x) x + 1\n", "R"),
        ("a.st", b"group a;\nb(c) ::= <<\n<c>\n>>\n", "another"),
        ("a.st", b"Object subclass: #A\n  instanceVariableNames: ''\n", "Smalltalk"),
        ("a.inc", b"{ Functions of the unit }\nconst\n  A = 1;\n", "Pascal"),
        ("a.inc", b"%define A 1\n", "Assembly"),
        ("a.l", b"%{\n/* -*- C -*- */\n%}\n%%\n", "another"),
        ("a.l", b"(defun a (b) b)\n", "Common Lisp"),
        ("a.d", b"a.o: a.c \\\n  a.h\n", "Makefile"),
        ("a.d", b"module a;\nimport std.stdio;\n", "another"),
        ("update-rc.d", b"_update_rc_d()\n{\n    COMPREPLY=()\n}\ncomplete -F _update_rc_d update-rc.d\n", "Shell"),
        ("a.ml", b"structure A = struct\n  val x = 1\nend;\n", "Standard ML"),
        ("a.ml", b"let rec f x = match x with _ -> f x\n", "OCaml"),
        ("a.m", b"## Copyright\nx = [1, 2];\nendfunction\n", "Matlab"),
        ("a.md", b'(define_insn "a"\n', "another"),
        ("a.as", b"  mov eax, 1\n", "Assembly"),
        ("a.rs", b"<?xml version='1.0'?>\n", "another"),
        ("a.ts", b"#!/usr/bin/env node\nlet x = 1;\n", "TypeScript"),
        ("go.mod", b"module a\n", "another"),
        ("a.t", b"use Test;\nplan 1;\nis-deeply Kiln.new, 1;\n", "another"),
        ("a.inc", b"CFLAGS ?= -O2\n\n%.o: %.c\n\tcc -c $<\n", "Makefile"),
        ("a.inc", b'{ "add", 1 },\n{ "sub", 2 },\n', "C"),
        ("a.inc", b"export A=1\n\nheat() {\n  echo $1\n}\n", "Shell"),
        ("a.h", b"typedef NS_ENUM(NSInteger, A) { B };\nextern NSString *C;\n", "Objective-C"),
        ("a.h", b"#ifdef __OBJC__\n@class A;\n#else\ntypedef void A;\n#endif\nint f(A *a);\n", "C"),
        ("a.h", b"struct A {\n  A(int x, int y) : x(x), y(y) {}\n  int x, y;\n};\n", "C++"),
        ("a.h", b"void f(int a, bool b = false);\n", "C++"),
        ("a.h", b"int f(int a) { for (int i = 0; i; i--); return a ? (a) : abs(a); }\n", "C"),
        ("a.m", b"1;\n\nfunction r = f (x)\nendfunction\n", "Matlab"),
        ("a.m", b"clc;\nx = 3;\n", "Matlab"),
        ("a.m", b"addpath('lib');\n", "Matlab"),
        ("a.m", b"A ;heats\n S X=1\n", "another"),
        ("a.m", b'BeginPackage["A`"]\nf[x_] := x\n', "Mathematica"),
        ("a.m", b"unwind_protect\n  f;\n", "Matlab"),
        ("a.mt", b'Test[1 + 1, 2, TestID -> "sum"]\n', "Mathematica"),
        ("a.ml", b"let rec f x = match x with\n  | 0 -> begin () end;\n", "OCaml"),
        ("a.ml", b"val x = 1\nfun f 0 = 1\n  | f n = n\n", "Standard ML"),
        ("a.inc", b'SUMMARY = "a"\nSRC_URI = "file://a.tar"\n', "another"),
        ("a.x", b"#include <a.h>\nint f()\n{\n}\n%ctor {}\n", "another"),
        ("a.trigger", b"public class A extends TriggerHandler {\n}\n", "another"),
        ("a.pm", b"my class A is B {\n}\n", "another"),
        ("a.st", b"dependencies\njson: spec\n\tspec configuration: 'A'\n", "Smalltalk"),
        ("Makefile.wat", b"all: a\n", "Makefile"),
        (".cshrc", b"set path = (~/bin $path)\n", "TCSH"),
        ("a.cls", b"Option Explicit\nPrivate a As Long\n", "Visual Basic"),
        ("a.bas", b"Sub A()\n  Dim b As Worksheet\nEnd Sub\n", "Visual Basic"),
        ("a.v", b"module main\n\nfn main() {\n}\n", "another"),
        ("a.v", b"module top();\nendmodule\n", "Verilog"),
        ("a.l", b";;; -*- Mode: LISP -*-\n(x)\n", "Common Lisp"),
        ("a.p", b"program a;\nbegin\nend.\n", "Pascal"),
        ("a.p", b"for each a no-lock:\n", "another"),
        ("a.ts", b"page = PAGE\npage.10 = TEXT\n", None),
        ("a.gd", b"static func f(x):\n\tpass\n", "GDScript"),
        ("a.gs", b"package a\n\nclass B {\n  var c : int\n}\n", "another"),
        ("a.sol", b"error A(uint256 b);\n", "Solidity"),
        ("run", b"#!/usr/bin/env nix-shell\n#! nix-shell -i python3 -p python3\n", "Python"),
        ("run", b"#!/bin/busybox sh\n", "Shell"),
        ("run", b"#!@PYTHON@\n", "Python"),
        ("run", b"#!/bin/sh\n'''exec' /long/python3 \"$0\" \"$@\"\n' '''\n", "Python"),
        ("run", b"#!/bin/sh\neval 'exec perl -wS $0 ${1+\"$@\"}'\n  if 0;\n", "Perl"),
        ("run", b'#!/bin/bash\nexec sudo "$0" "$@"\n', "Shell"),
        ("run", b'#!/bin/sh\nexec python3 "$(dirname "$0")/a.py" "$@"\n', "Shell"),
        ("tool", b"[[ $x ]] && complete -o default -F _tool tool\n", "Shell"),
        ("run", b"#!/usr/bin/osascript -l JavaScript\n", "JavaScript"),
        ("notes", b"(* -*- mode: tuareg -*- *)\n", "OCaml"),
        ("notes", b"# -*- mode: python-ts -*-\n", "Python"),
        ("a.h", b"\xef\xbb\xbf#include <vector>\n", "C++"),
        ("a.h", "#include <vector>\nint f(int);\n".encode("utf-16"), "C++"),
    ],
)
def test_detect(path, head, name):
    found = detect(path, head)
    assert (found and (found.name if found.tag else "another")) == name


def test_a_head_is_asked_for_where_it_decides():
    paths = ("a.py", "a.h", "a.C", "a.c", "a.pl", "a.txt", "a.unlisted", "run", ".bashrc", "Makefile", "a.rs")
    assert [path for path in paths if needs_head(path)] == ["a.h", "a.pl", "a.unlisted", "run", "a.rs"]


def test_the_table_gives_each_suffix_and_name_once_and_every_rule_compiles():
    table = shipped_table(detection._FILE)
    words = [word for kind in ("ours", "others") for listed in table[kind].values() for word in listed.split()]
    words += [suffix for suffix in table["rules"] if suffix != "none"]
    words += [f".{name.lower()}" for name in table["alike"].split()]
    assert len(words) == len(set(words))
    known = {*table["others"], *table["alike"].split(), *table["ruled"], *(language.name for language in languages())}
    assert known.issuperset(table["ours"])
    for suffix, rules in table["rules"].items():
        assert len(detection._rules(suffix)) == len(rules)
        assert {name for rule in rules for name in rule if name is not None} <= known


def test_only_headers_need_patterns_whose_time_is_not_bounded_by_re2():
    by_python = {
        suffix
        for suffix in shipped_table(detection._FILE)["rules"]
        if any(isinstance(each, re.Pattern) for patterns, _ in detection._rules(suffix) for each in patterns)
    }
    assert by_python == {".h", ".inc"}


@pytest.mark.parametrize(
    "piece", [b"-*- mode:", b"vim: ", b"#!/bin/sh\nexec a $0 ", b"coding: \xe9", b"\n", b"caf\xe9 "]
)
def test_a_hostile_head_takes_no_time(piece):
    """A search that starts again at each of them would take minutes."""
    for suffix in shipped_table(detection._FILE)["rules"]:
        detect("run" if suffix == "none" else f"a{suffix}", b"-*-" + b" " * 8000 + piece * 1000)


GERMAN = 'print("Größe: 5 µm, «schön»")  # © René, 20 °C\n'
DECLARED = [
    ("iso8859-2", "iso8859-2", "# -*- coding: iso-latin-2-unix -*-\n# Jiří Šťastný, žluťoučký kůň\n"),
    ("koi8-r", "koi8-r", "# vim: set fileencoding=koi8-r :\nщит, щит\n"),
    ("cp1251", "cp1251", "# vim: set fenc=cp1251 :\nщит\n"),
    ("cp932", "cp932", "# encoding: Windows-31J\n週報\n"),
    ("shift-jis", "shift_jis", '<meta charset="x-sjis">週報\n'),
    ("koi8-r", "koi8-r", "\\usepackage[koi8-r]{inputenc}\nщит\n"),
    ("utf-16-le", "utf-16-le", "# Печь нагрета, подождите\ndef heat(x):\n    return x\n"),
    ("shift-jis", "shift_jis", '<?xml version="1.0" encoding="Shift_JIS"?>\n<a>週報</a>\n'),
    ("cp1251", "cp1251", '<meta charset="windows-1251">щит\n'),
    ("cp1252", "cp1252", "\\usepackage[ansinew]{inputenc}\n…ž…\n"),
]
QUOTES = "# it\u2019s \u201cso\u201d \u2013 a naïve way\n"
CZECH = "# Jiří Šťastný, žluťoučký kůň\n"


@pytest.mark.parametrize(
    "data, text, encoding",
    [
        (GERMAN.encode(), GERMAN, ""),
        (GERMAN.encode("utf-8-sig"), GERMAN, "utf-8"),
        (GERMAN.encode("utf-16"), GERMAN, "utf-16"),
        (GERMAN.encode("utf-32"), GERMAN, "utf-32"),
        (GERMAN.encode("utf-16-be"), GERMAN, "utf-16-be"),
        (GERMAN.encode("latin-1"), GERMAN, "iso8859-1"),
        ("// x is NaN or ±1, ½\n".encode("latin-1"), "// x is NaN or ±1, ½\n", "iso8859-1"),
        (QUOTES.encode("cp1252"), QUOTES, "cp1252"),
        *((text.encode(encoding), text, name) for encoding, name, text in DECLARED),
    ],
)
def test_a_clear_encoding_is_converted(data, text, encoding):
    assert as_utf8(data) == (text.encode(), encoding)


COMMENTS = {  # of code, without a declaration
    "gb18030": "设置文件的读取方式。返回是否成功",
    "cp950": "設定檔案的讀取方式。傳回是否成功",
    "cp949": "파일을 읽는 방식을 설정하고 성공 여부를 반환합니다",
    "cp932": "ファイルの読み込み方法を設定し、成功したかどうかを返す",
    "euc_jp": "ファイルの読み込み方法を設定し、成功したかどうかを返す",
    "cp1251": "Задать способ чтения файла и вернуть, удалось ли это",
}


@pytest.mark.parametrize("encoding", COMMENTS)
def test_the_letters_of_a_text_show_its_encoding(encoding):
    text = f"int set_mode(int mode); // {COMMENTS[encoding]}\n"
    assert as_utf8(text.encode(encoding)) == (text.encode(), encoding)
    few = f"int set_mode(int mode); // {COMMENTS[encoding][:5]}\n"
    assert as_utf8(few.encode(encoding)) == (few.encode(encoding), "")
    assert as_utf8(text.encode(encoding), "ignore") == (text.encode(encoding), "")  # the beginning of a file


@pytest.mark.parametrize(
    "data",
    [
        CZECH.encode("iso8859-2"),  # not declared
        COMMENTS["cp1251"].encode("koi8-r"),
        COMMENTS["cp1251"].encode("cp866"),
        ("測試" + "中文" * 6).encode("big5"),  # in EUC-JP mostly hiragana
        COMMENTS["gb18030"].encode("gb18030") + COMMENTS["cp1251"].encode("cp1251"),
        "הגדרת אופן הקריאה של הקובץ והחזרת ההצלחה\n".encode("cp1255"),
        "Ορισμός του τρόπου ανάγνωσης του αρχείου\n".encode("cp1253"),
        *(f'puts("{word} " + n);\n'.encode("cp1250") for word in ("zpět", "soubor není důležitý", "fűz", "być")),
        "щит\n".encode("koi8-r"),
        "週報\n".encode("euc-jp"),
        *(f'puts("{word}" + n);\n'.encode("gbk") for word in ("第", "N人", "啊x")),
        *(f'puts("{word}" + n);\n'.encode("cp1251") for word in ("да", "и", "ч")),
        'puts("개" + n);\n'.encode("euc_kr"),
        "r = 9; /* ROMﾍﾑ */ r = 8; // 8ﾍﾑ\n".encode("cp932"),
        *(f'puts("{word}" + n);\n'.encode("big5") for word in ("世", "功", "你")),
        "Größe schön\n".encode("cp437"),
        "voilà très déjà\n".encode("mac-roman"),
        "Größe\n".encode() + b"caf\xe9\n",  # two encodings
        "# coding: ascii\nщит".encode("cp1251"),
        b"# coding: rot13\n\xff\xfe\xfd",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"\xff\xfe\0\xd8a\0",  # half of a surrogate pair
        b"\x00\x01" * 40,
    ],
)
def test_an_encoding_that_is_not_clear_stays(data):
    assert as_utf8(data) == (data, "")
