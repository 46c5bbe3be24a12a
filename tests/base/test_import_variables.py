"""What a new Python process of ours imports."""

import sys

import pytest

from ms_codegeex.extras.evaluation.reproduction.evaluations import evaluated


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 looks for modules where it starts")
def test_files_where_a_command_is_run_are_not_imported(tmp_path, monkeypatch, capfd):
    for name in ("json", "argparse", "dataclasses", "yaml", "platform"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')\n")
    monkeypatch.chdir(tmp_path)
    found = evaluated(tmp_path / "out", ["evaluate", "humaneval", "--data", "nothing", "--output", "out", "--url", "x"])
    assert found[0] is None and "taken over" not in found[1] + capfd.readouterr().err
    assert found[1].startswith("--")  # one line says why
