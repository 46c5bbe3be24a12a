"""Recall and precision of language detection: by extension, and of headers by their content.

    python benchmarks/languages.py                                     # headers of this machine
    python benchmarks/languages.py --c ~/src/linux/include --cpp ~/src/qt/src --each 5000
    python benchmarks/languages.py --quick                             # few headers, to see that it works

Extensions: a file of each extension that belongs to one language, without content. Real headers: `.h` files of
directories (`PLACES`) with code in one language, C or C++, at most `--each` of a directory; the directory is the truth.
Planted headers: one of `C_PIECES` or `CPP_PIECES` in a real C header without `__cplusplus`, outside of comments, in the
bytes that detection reads. A C piece has words of C++ in comments, strings, guards and names; a C++ piece is a
declaration that only C++ allows. Headers called neither count as missed.
"""

from __future__ import annotations

import random
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from common import ROOT, options, print_header, share

from ms_codegeex.base.shipped import shipped_table
from ms_codegeex.extras.corpus.detection import HEAD_BYTES, detect

_PATHS = sysconfig.get_paths()
_PACKAGES = _PATHS["purelib"]
PLACES: tuple[tuple[str, str, str], ...] = (
    # language, directory, pattern of the headers in it
    ("C", "/usr/include/linux", "**/*.h"),
    ("C", "/usr/include/asm-generic", "**/*.h"),
    ("C", "/usr/include/openssl", "**/*.h"),
    ("C", "/usr/include/X11", "**/*.h"),
    ("C", "/usr/include/node/openssl", "**/*.h"),
    ("C", "/usr/include/node/uv", "**/*.h"),
    ("C", _PATHS["include"], "**/*.h"),
    ("C", f"{_PACKAGES}/numpy/core/include", "**/*.h"),
    ("C", f"{_PACKAGES}/numpy/_core/include", "**/*.h"),
    ("C", f"{_PACKAGES}/ziglang/lib/libc/musl", "**/*.h"),
    ("C++", "/usr/include/c++", "**/*.h"),
    ("C++", "/usr/include/node", "v8*.h"),
    ("C++", "/usr/include/node/cppgc", "**/*.h"),
    ("C++", f"{_PACKAGES}/pyarrow/include/arrow", "**/*.h"),
    ("C++", f"{_PACKAGES}/torch/include/c10", "**/*.h"),
    ("C++", f"{_PACKAGES}/torch/include/ATen", "**/*.h"),
    ("C++", f"{_PACKAGES}/torch/include/torch/csrc/api", "**/*.h"),
    ("C++", f"{_PACKAGES}/torch/include/torch/csrc/autograd", "**/*.h"),
    ("C++", f"{_PACKAGES}/torch/include/torch/csrc/jit", "**/*.h"),
    ("C++", f"{_PACKAGES}/mindspore/include/mindspore/core", "**/*.h"),
    ("C++", f"{_PACKAGES}/mindspore/include/third_party/pybind11", "**/*.h"),
)

C_PIECES = (
    "/* Devices of one\n   class, see bus::probe. They have a\n   namespace and a\n   template;\n   public: all */",
    "// template <typename T> class A : public std::vector<T>, nullptr",
    '#define USAGE "class A: public: namespace b { using std::max; }"',
    '#define TEXT "a \\"quoted\\" word, \\\nclass and \\\nnamespace of std::string"',
    '#ifdef __cplusplus\nextern "C" {\n#endif\nint planted(void);\n#ifdef __cplusplus\n}\n#endif',
    '#if defined(__cplusplus)\nextern "C" {\n#endif\nint planted(void);\n#if defined(__cplusplus)\n}\n#endif',
    "#ifdef __cplusplus\n#define PLANTED nullptr\n#else\n#define PLANTED NULL\n#endif",
    "#ifdef __cplusplus\ntemplate <typename T> T *planted(T *p) { return p; }\n#endif",
    "struct planted {\n\tint class;\n\tvoid *private, *public;\n\tint namespace, template, using, virtual;\n};",
    "static inline int planted(int new, int delete)\n{\n\tint class = new, this = delete;\n\treturn class + this;\n}",
    "static inline int planted(int x)\n{\n\tint class;\n\tclass = x;\n\treturn class;\n}",
    "static inline int planted(int x)\n{\n\tint operator = x;\n\treturn operator + 1;\n}",
    "struct planted {\n\tunsigned int a:1,\n\tprivate:1,\n\tpublic: 2;\n};",
    "#include <sys/types.h>\n#include <stddef.h>",
    "char planted_colon[] = { ':', ':', '\"', 'a' }; // class: 'x'",
)

CPP_PIECES = (
    "class Planted;",
    "namespace planted {\n}",
    "template <typename T> T planted(T x);",
    "template<>\nstruct Planted<int>;",
    "using Planted = int;",
    "using namespace planted;",
    "constexpr int planted = 1;",
    "#include <vector>",
    "#include <string_view>\nint planted(int x);",
    "void planted(std::string x);",
    "void planted(const Other& x);",
    "int planted(int &x);",
    "struct Planted : Other {\n  int x;\n};",
    "struct Planted final : public Other {\n  int x;\n};",
    "enum class Planted { a, b };",
    "struct Planted {\n  Planted();\n  ~Planted();\n};",
    "struct Planted {\n  virtual void f() = 0;\n};",
    "struct Planted {\n  Planted(const Planted *) = delete;\n};",
    "struct Planted {\n  Planted() = default;\n};",
    "struct Planted {\n  explicit Planted(int x);\n};",
    "struct Planted {\n  int size() const { return 1; }\n};",
    "bool planted() noexcept;",
    "Planted operator+(Planted a, Planted b);",
    "static int planted(double x) { return static_cast<int>(x); }",
    "static int *planted() { return new int[3]; }",
    "static int *planted() { return nullptr; }",
    "auto planted(int x) -> decltype(x);",
    "void planted(int x, int y = 0);",
    "struct Planted {\n  friend struct Other;\n};",
    'extern "C" int planted(int);',
)


def texts(
    places: Iterable[tuple[str, str, str]], maximum: int, generator: random.Random
) -> list[tuple[str, str, bytes]]:
    """Language, path and first bytes of the headers of each place, every text once."""
    found, seen = [], set[bytes]()
    for language, directory, pattern in places:
        paths = sorted(Path(directory).glob(pattern))
        for path in sorted(generator.sample(paths, min(maximum, len(paths)))):
            try:
                with open(path, "rb") as stream:
                    head = stream.read(HEAD_BYTES)
            except OSError:
                continue
            if head not in seen:
                seen.add(head)
                found.append((language, str(path), head))
    return found


def _places(text: str) -> list[int]:
    """Numbers of lines before which something can be inserted: not in a comment, a macro or a string."""
    places, size, inside = [], 0, False
    for number, line in enumerate(text.split("\n")):
        if not inside and size < HEAD_BYTES // 2:
            places.append(number)
        size += len(line) + 1
        code = re.sub(r"//.*|/\*.*?\*/", "", line)
        inside = (inside and "*/" not in code) or code.rfind("/*") > code.rfind("*/") or line.endswith("\\")
    return places


def planted(header: bytes, piece: str, generator: random.Random) -> bytes:
    """`header` with `piece` as lines of its own."""
    text = header.decode("utf-8", "replace")
    lines = text.split("\n")
    place = generator.choice(_places(text))
    return "\n".join([*lines[:place], piece, *lines[place:]]).encode()[:HEAD_BYTES]


def report(title: str, judged: Sequence[tuple[str, str, str]], listed: int) -> None:
    """Print precision and recall of `(language, called, name)`, and the first misjudged ones."""
    print(f"{title}, {len(judged)} headers")
    for language in ("C", "C++"):
        right = sum(truth == called == language for truth, called, _ in judged)
        precision = share(right, sum(called == language for _, called, _ in judged))
        print(
            f"  {language:<3} precision {precision}, recall {share(right, sum(row[0] == language for row in judged))}"
        )
    wrong = [row for row in judged if row[0] != row[1]]
    for (truth, called, name), count in Counter(wrong).most_common(listed):
        print(f"  {truth} called {called}: {name}" + (f", {count}" if count > 1 else ""))


def _called(head: bytes) -> str:
    language = detect("planted.h", head)
    return language.name if language is not None else "nothing"


def by_extension() -> None:
    """Print how many suffixes and whole names give their language."""
    table = shipped_table(ROOT / "ms_codegeex/extras/corpus/endings.yaml")["ours"]
    words = [(name, word) for name, listed in table.items() for word in listed.split() if word[0] in "./"]
    names = [(name, f"planted{word}" if word[0] == "." else word[1:]) for name, word in words]
    right = sum((found := detect(name)) is not None and found.name == language for language, name in names)
    print(f"suffixes and file names: {share(right, len(names))} of {len(table)} languages")


def main() -> int:
    parser = options(__doc__, seed=True)
    parser.add_argument("--c", nargs="+", default=[], metavar="DIR", help="directories with headers in C")
    parser.add_argument("--cpp", nargs="+", default=[], metavar="DIR", help="directories with headers in C++")
    parser.add_argument("--each", type=int, default=1000, help="headers of a directory, and planted ones (1000)")
    parser.add_argument("--list", type=int, default=20, metavar="N", help="misjudged headers to print (20)")
    parser.add_argument("--quick", action="store_true", help="20 headers of a directory")
    arguments = parser.parse_args()
    each, generator = 20 if arguments.quick else arguments.each, random.Random(arguments.seed)
    given = [*(("C", place, "**/*.h") for place in arguments.c), *(("C++", place, "**/*.h") for place in arguments.cpp)]
    places = given or [place for place in PLACES if Path(place[1]).is_dir()]
    print_header()
    by_extension()
    headers = texts(places, each, generator)
    judged = [(language, _called(head), path) for language, path, head in headers]
    report("real headers", judged, arguments.list)
    for language, directory, pattern in places:
        own = [row for row in judged if row[0] == language and Path(directory) in Path(row[2]).parents]
        wrong = sum(truth != called for truth, called, _ in own)
        print(f"  {wrong:>4} of {len(own):>4} misjudged: {language}, {directory}/{pattern}")
    bases = [head for language, _, head in headers if language == "C" and b"__cplusplus" not in head and b";" in head]
    rows = []
    for language, pieces in (("C", C_PIECES), ("C++", CPP_PIECES)):
        for number in range(each if bases else 0):
            piece = pieces[number % len(pieces)]
            head = planted(generator.choice(bases), piece, generator)
            rows.append((language, _called(head), repr(piece)))
    report("planted headers", rows, arguments.list)
    return 0


if __name__ == "__main__":
    sys.exit(main())
