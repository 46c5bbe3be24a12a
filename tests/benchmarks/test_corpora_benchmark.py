"""The benchmark of corpora runs on a small package: it checks what it downloads, finds cases and counts verdicts."""

import hashlib
import re
import sys
import tarfile
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SOURCES = {
    "LICENSE": "MIT License\n",
    "setup.py": 'from setuptools import setup\n\nsetup(\n    name="kiln",\n    license="MIT",\n)\n',
    "src/settings.py": 'password = "q7RvX2mLp9Zt4KwB8nYc"\nAUTHOR = "ann@kiln.org"\n',
    "src/parsetab.py": "_tabversion = 1\n",
    "src/sum.py": "".join(
        f"a = b {'+-*/%'[n % 5]} c[{n}] {'&|^'[n // 5 % 3]} d({n // 7 * 'x, '}a)\n" for n in range(60)
    ),
    "src/copy.py": "".join(
        f"k = l {'+-*/%'[n % 5]} m[{n}] {'&|^'[n // 5 % 3]} o({n // 7 * 'y, '}k)\n" for n in range(60)
    ),
}


@pytest.fixture
def corpora(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import corpora

    return corpora


def printed(corpora, monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["corpora.py", *map(str, words)])
    assert corpora.main() == 0
    return capsys.readouterr().out


def test_cases_and_verdicts(tmp_path, corpora, monkeypatch, capsys):
    for name, text in SOURCES.items():
        (tmp_path / "corpus/kiln_1.0" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus/kiln_1.0" / name).write_text(text)
    verdicts = tmp_path / "verdicts.yaml"
    verdicts.write_text("{}")
    words = (tmp_path / "corpus", "--local", "--each", 6, "--verdicts", verdicts)
    text = printed(corpora, monkeypatch, capsys, *words, "--cases", "all")
    assert "5 files, 0 MB, 1 packages" in text and "files whose licence is known: 1.000" in text
    for rule in ("assigned passwords", "e-mail addresses", "generated", "near duplicates by tokens"):
        assert f"{rule}: 1 cases, right not judged" in text
    key = re.search(r"=== (\w+) \S+\npassword: [^=]*= \"\[\[q7Rv", text)[1]
    verdicts.write_text(f"assigned passwords: {{right: [{key}]}}")
    text = printed(corpora, monkeypatch, capsys, *words)
    assert "assigned passwords: 1 cases, right 1.000 (1 of 1)" in text
    assert "  PLY: 1.000 (1 of 1)" in text and "near misses that are changed: 0 of" in text


def test_downloads_are_checked(tmp_path, corpora):
    (tmp_path / "a.py").write_text("a = 1\n")
    with tarfile.open(tmp_path / "kiln-1.0.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "a.py", "kiln/a.py")
        archive.add(tmp_path / "a.py", "../outside.py")
    url, data = (tmp_path / "kiln-1.0.tar.gz").as_uri(), (tmp_path / "kiln-1.0.tar.gz").read_bytes()
    (tmp_path / "corpus").mkdir()
    with pytest.raises(SystemExit, match="its SHA-256 is not"):
        corpora.download(tmp_path / "corpus", [f"{url} {'0' * 64}"])
    corpora.download(tmp_path / "corpus", [f"{url} {hashlib.sha256(data).hexdigest()}"])
    assert [path.name for path in (tmp_path / "corpus").rglob("*.py")] == ["a.py"]
