"""The 73 further languages that CodeGeeX2 has tags for, as data: see `ms_codegeex.data.languages`.

Tags are exact and irregular: `swift` in lower case, three kinds of spacing in comments that are closed.
"""

from __future__ import annotations

Row = tuple[str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]

# Name, tag, extensions, aliases, interpreters, file names (in lower case).
FURTHER: tuple[Row, ...] = (
    ("Dart", "// language: Dart", (".dart",), (), (), ()),
    ("Lua", "// language: Lua", (".lua",), (), ("lua", "luajit"), ()),
    ("Swift", "// language: swift", (".swift",), (), (), ()),
    ("Groovy", "// language: Groovy", (".groovy", ".gvy", ".gradle"), (), ("groovy",), ("jenkinsfile",)),
    ("ActionScript", "// language: ActionScript", (".as",), ("as3",), (), ()),
    ("Solidity", "// language: Solidity", (".sol",), (), (), ()),
    ("Cobol", "// language: Cobol", (".cob", ".cbl", ".cobol", ".cpy"), (), (), ()),
    ("AWK", "// language: AWK", (".awk",), (), ("awk", "gawk", "mawk"), ()),
    ("Augeas", "// language: Augeas", (".aug",), (), (), ()),
    ("F#", "// language: F#", (".fsx", ".fsi"), ("fsharp", "f-sharp"), (), ()),
    ("Stan", "// language: Stan", (".stan",), (), (), ()),
    ("GLSL", "// language: GLSL", (".glsl", ".vert", ".frag", ".geom", ".comp", ".tesc", ".tese"), (), (), ()),
    ("ANTLR", "// language: ANTLR", (".g4",), (), (), ()),
    ("Verilog", "// language: Verilog", (".vh",), (), (), ()),
    ("Protocol Buffer", "// language: Protocol Buffer", (".proto",), ("protocol buffers", "protobuf"), (), ()),
    ("Bluespec", "// language: Bluespec", (".bsv",), (), (), ()),
    ("SystemVerilog", "// language: SystemVerilog", (".sv", ".svh"), (), (), ()),
    ("Java Server Pages", "// language: Java Server Pages", (".jsp", ".jspx"), ("jsp",), (), ()),
    ("Mathematica", "// language: Mathematica", (".wl", ".wls"), ("wolfram language",), ("wolframscript",), ()),
    ("Zig", "// language: Zig", (".zig",), (), (), ()),
    ("Perl", "# language: Perl", (".pm",), (), ("perl",), ()),
    ("Ruby", "# language: Ruby", (".rb", ".rake", ".gemspec"), ("rb",), ("ruby",), ("rakefile", "gemfile")),
    ("GDScript", "# language: GDScript", (), (), (), ()),
    ("Julia", "# language: Julia", (".jl",), (), ("julia",), ()),
    ("Elixir", "# language: Elixir", (".ex", ".exs"), (), ("elixir",), ()),
    ("PowerShell", "# language: PowerShell", (".ps1", ".psm1", ".psd1"), (), ("pwsh",), ()),
    ("SPARQL", "# language: SPARQL", (".sparql", ".rq"), (), (), ()),
    ("CMake", "# language: CMake", (".cmake",), (), (), ("cmakelists.txt",)),
    ("Dockerfile", "# language: Dockerfile", (".dockerfile",), ("docker",), (), ("dockerfile", "containerfile")),
    ("RMarkdown", "# language: RMarkdown", (".rmd",), (), (), ()),
    ("YAML", "# language: YAML", (".yaml", ".yml"), ("yml",), (), ()),
    ("Makefile", "# language: Makefile", (".mk", ".mak"), ("make",), ("make",), ("makefile", "gnumakefile")),
    ("TCSH", "# language: TCSH", (".tcsh", ".csh"), ("csh",), ("tcsh", "csh"), ()),
    ("Maple", "# language: Maple", (".mpl",), (), (), ()),
    ("Literate CoffeeScript", "# language: Literate CoffeeScript", (".litcoffee",), (), (), ()),
    ("CoffeeScript", "# language: CoffeeScript", (".coffee",), (), ("coffee",), ()),
    ("Lean", "-- language: Lean", (".lean",), (), (), ()),
    ("Haskell", "-- language: Haskell", (".hs",), (), ("runhaskell", "runghc"), ()),
    ("Literate Agda", "-- language: Literate Agda", (".lagda",), (), (), ()),
    ("Elm", "-- language: Elm", (".elm",), (), (), ()),
    ("Idris", "-- language: Idris", (".idr",), (), (), ()),
    ("AppleScript", "-- language: AppleScript", (".applescript",), (), ("osascript",), ()),
    ("VHDL", "-- language: VHDL", (".vhd", ".vhdl"), (), (), ()),
    ("Agda", "-- language: Agda", (".agda",), (), (), ()),
    ("Ada", "-- language: Ada", (".adb", ".ads"), (), (), ()),
    ("Lisp", "; language: Lisp", (".lsp",), (), (), ()),
    ("Scheme", "; language: Scheme", (".scm", ".ss", ".sld"), (), ("guile",), ()),
    ("Assembly", "; language: Assembly", (".asm", ".nasm", ".s"), ("asm",), (), ()),
    ("Clojure", "; language: Clojure", (".clj", ".cljs", ".cljc"), (), (), ()),
    ("Racket", "; language: Racket", (".rkt",), (), ("racket",), ()),
    ("Emacs Lisp", "; language: Emacs Lisp", (".el",), ("elisp",), (), ()),
    ("Common Lisp", "; language: Common Lisp", (".lisp",), (), ("sbcl",), ()),
    ("Prolog", "% language: Prolog", (".prolog",), (), ("swipl",), ()),
    ("Matlab", "% language: Matlab", (), (), (), ()),
    ("Erlang", "% language: Erlang", (".erl", ".hrl"), (), ("escript",), ()),
    ("Visual Basic", "' language: Visual Basic", (".vb", ".vbs"), ("vb", "vb.net", "visual basic .net"), (), ()),
    ("Basic", "' language: Basic", (".bas",), (), (), ()),
    ("Excel", "' language: Excel", (), (), (), ()),
    ("Abap", "* language: Abap", (".abap",), (), (), ()),
    ("SAS", "* language: SAS", (".sas",), (), (), ()),
    ("Stata", "* language: Stata", (".do", ".ado"), (), (), ()),
    ("Alloy", "/* language: Alloy */", (".als",), (), (), ()),
    ("Thrift", "/* language: Thrift */", (".thrift",), (), (), ()),
    ("Vue", "<!--language: Vue-->", (".vue",), (), (), ()),
    ("Markdown", "<!--language: Markdown-->", (".md", ".markdown"), ("md",), (), ()),
    ("XSLT", "<!--language: XSLT-->", (".xsl", ".xslt"), (), (), ()),
    ("Isabelle", "(*language: Isabelle*)", (".thy",), (), (), ()),
    ("OCaml", "(*language: OCaml*)", (".ml", ".mli"), (), ("ocaml",), ()),
    ("Standard ML", "(*language:Standard ML*)", (".sml",), ("sml",), (), ()),
    ("Delphi", "{language: Delphi}", (), (), (), ()),
    ("Smalltalk", "'' language: Smalltalk", (".st",), (), (), ()),
    ("reStructuredText", ".. language: reStructuredText", (".rst",), ("rst",), (), ()),
    ("Literate Haskell", "> language: Literate Haskell", (".lhs",), (), (), ()),
)

# As in `ms_codegeex.data.languages.AMBIGUOUS`: extension -> (pattern in the head, language or None).
AMBIGUOUS_FURTHER: dict[str, tuple[tuple[bytes, str | None], ...]] = {
    ".fs": (
        (rb"(?m)^\s*(?:#version|precision|uniform|varying|void\s+main)\b", "GLSL"),
        (rb"(?m)^\s*(?:: \S+|\\ )", None),  # Forth
        (b"", "F#"),
    ),
    ".gd": ((rb"(?m)^@?(?:extends|func|class_name|tool|var|signal|export|onready)\b", "GDScript"), (b"", None)),  # GAP
    ".pl": ((rb"(?m)^\s*:-|^[a-z]\w*\([^\n]*\)\s*(?::-|\.\s*$)", "Prolog"), (b"", "Perl")),
    ".v": ((rb"(?m)^\s*(?:module|primitive|`\w+)\b|\bendmodule\b", "Verilog"), (b"", None)),  # otherwise Coq, V
}
