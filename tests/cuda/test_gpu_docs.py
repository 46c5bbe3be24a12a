"""Commands of docs/gpu.md are understood."""

import re
import shlex

from conftest import ROOT

from ms_codegeex.cli import parse


def test_commands_are_understood():
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(ms-codegeex [^\n#]+)", text, re.MULTILINE)
    assert len(lines) >= 7
    for line in lines:
        parse(shlex.split(line)[1:])
