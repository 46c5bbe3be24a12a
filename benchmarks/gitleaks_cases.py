"""Make `gitleaks_cases/cases.jsonl.gz`: the cases with which gitleaks checks its own rules.

    git -C CLONE checkout v8.30.1 && python benchmarks/gitleaks_cases.py CLONE     # needs Go

Each of gitleaks' rule files (MIT) has texts that its rule must find and texts that it must not find; secrets in them
are drawn at random or written by its authors. The rule files are compiled as they are, with three small packages in
place of gitleaks' own: one writes the cases down instead of checking them. The file is compressed so that no scanner
takes this repository for a leak.

A line: `rule`, `text`, `secrets` (what the rule finds in it) and, if it must find nothing, `false`.
"""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent / "gitleaks_cases"
CASES = HERE / "cases.jsonl.gz"
_MODULE = "github.com/zricethezav/gitleaks/v8"


def program(clone: Path, folder: Path) -> None:
    """Write the Go program that prints the cases of the rules in `clone`."""
    generate = "cmd/generate/config"
    for part in (f"{generate}/rules", f"{generate}/utils", "cmd/generate/secrets", "config", "regexp"):
        (folder / part).mkdir(parents=True)
    for source in (clone / generate / "rules").glob("*.go"):
        if not source.name.endswith("_test.go"):
            shutil.copy(source, folder / generate / "rules")
    for name in ("generate.go", "patterns.go"):
        shutil.copy(clone / generate / "utils" / name, folder / generate / "utils")
    shutil.copy(clone / "regexp/stdlib_regex.go", folder / "regexp")
    for name, place in (("config", "config"), ("secrets", "cmd/generate/secrets"), ("validate", f"{generate}/utils")):
        shutil.copy(HERE / f"{name}.go", folder / place)
    rules = re.search(
        r"configRules := (\[\]\*config\.Rule\{.*?\n\t\})", (clone / generate / "main.go").read_text(), re.S
    )
    assert rules is not None, f"{generate}/main.go lists its rules in another way now"
    imports = "".join(f'\t"{_MODULE}/{part}"\n' for part in (f"{generate}/rules", "config"))
    (folder / generate / "main.go").write_text(
        f"package main\n\nimport (\n{imports})\n\nfunc main() {{\n\t_ = {rules[1]}\n}}\n"
    )
    (folder / "go.mod").write_text(f"module {_MODULE}\n\ngo 1.24\n")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        program(Path(sys.argv[1]), Path(folder))
        done = subprocess.run(["go", "run", "./cmd/generate/config"], cwd=folder, check=True, stdout=subprocess.PIPE)
    lines = sorted(set(done.stdout.splitlines(keepends=True)))  # Go does not keep the order of a map
    CASES.write_bytes(gzip.compress(b"".join(lines), mtime=0))
    print(f"{CASES.name}: {len(lines)} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
