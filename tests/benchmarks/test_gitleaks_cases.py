"""The cases of gitleaks' rules that the benchmark of redaction reads, and the program that writes them down."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
RULES = BENCHMARKS.parent / "ms_codegeex/extras/corpus/rules/gitleaks.json"

ASSEMBLE = """
import sys
from pathlib import Path
import gitleaks_cases
gitleaks_cases.program(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_nearly_every_rule_has_cases():
    cases = [
        json.loads(line)
        for line in gzip.decompress((BENCHMARKS / "gitleaks_cases/cases.jsonl.gz").read_bytes()).splitlines()
    ]
    found = {case["rule"] for case in cases if case["secrets"]}
    data = json.loads(RULES.read_text())
    rules = {rule["id"] for part in ("tokens", "assigned") for rule in data[part]}
    assert len(rules) > 200 and len(rules - found) <= 5, sorted(rules - found)
    assert data["version"] == "v8.30.1" and data["licence"].startswith("MIT License")
    assert all(secret in case["text"] for case in cases for secret in case["secrets"])


def test_the_program_lists_the_rules_of_a_clone(tmp_path):
    generate = tmp_path / "clone/cmd/generate/config"
    for folder in (generate / "rules", generate / "utils", tmp_path / "clone/regexp"):
        folder.mkdir(parents=True)
    (generate / "rules/one.go").write_text("package rules")
    (generate / "rules/one_test.go").write_text("package rules")
    for name in ("utils/generate.go", "utils/patterns.go"):
        (generate / name).write_text("package utils")
    (tmp_path / "clone/regexp/stdlib_regex.go").write_text("package regexp")
    (generate / "main.go").write_text("func main() {\n\tconfigRules := []*config.Rule{\n\t\trules.One(),\n\t}\n}\n")
    made = tmp_path / "made"
    made.mkdir()
    command = [sys.executable, "-c", ASSEMBLE, str(tmp_path / "clone"), str(made)]
    subprocess.run(command, cwd=BENCHMARKS, check=True, timeout=60)
    assert "rules.One()," in (made / "cmd/generate/config/main.go").read_text()
    assert (made / "cmd/generate/secrets/secrets.go").is_file() and (made / "config/config.go").is_file()
    assert not (made / "cmd/generate/config/rules/one_test.go").exists()
