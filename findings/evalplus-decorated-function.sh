#!/usr/bin/env bash
# EvalPlus: `sanitize` takes a decorated function out of an answer.
#
# `evalplus.sanitize` keeps what the entry point needs: imports, functions, classes and assignments at the top level. A
# function with a decorator, such as `functools.lru_cache`, is a node of another kind in tree-sitter's grammar, which it
# does not look at. So the function itself is missing from the sanitized program, which then fails every test. Nothing is
# said. Expected: the answer with its function, which runs as it stands.
#
# Usage: bash findings/evalplus-decorated-function.sh  # installs into a temporary folder; exit 1 if the behaviour changed
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf -- "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet tree-sitter==0.26.1 tree-sitter-python==0.25.0 tqdm==4.67.1 wget==3.2 tempdir==0.7.1 \
    appdirs==1.4.4 multipledispatch==1.0.0 numpy==2.2.6 fire==0.7.0 termcolor==2.5.0 datasets==3.6.0 psutil==6.1.0
"$place/venv/bin/pip" install --quiet --no-deps evalplus==0.3.1 # it names vllm and more, which `sanitize` does not need
cd -- "$place"
"$place/venv/bin/python" -W ignore - <<'PY'
import sys
from importlib.metadata import version

from evalplus.sanitize import sanitize

PLAIN = "from functools import lru_cache\n\ndef fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
kept = {}
for name, code in {"plain": PLAIN, "decorated": PLAIN.replace("def fib", "@lru_cache(maxsize=None)\ndef fib")}.items():
    program = sanitize(f"```python\n{code}```\n", "fib")
    space = {}
    exec(program, space)
    kept[name] = "fib" in space
    print(f"{name}: the sanitized program is {program!r}")
print(f"evalplus {version('evalplus')}, tree-sitter {version('tree-sitter')}")
print(f"defines fib: {kept}")
sys.exit(kept != {"plain": True, "decorated": False})
PY
