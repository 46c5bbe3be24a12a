"""What a new Python process of ours imports."""

import os
import subprocess
import sys

import pytest

from ms_codegeex.base.processes import import_variables


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 looks for modules where it starts")
def test_files_where_a_command_is_run_are_not_imported(tmp_path):
    for name in ("json", "argparse", "dataclasses", "yaml", "platform"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken over')\n")
    words, variables = [sys.executable, "-m", "ms_codegeex.cli", "--version"], {**os.environ, **import_variables()}
    done = subprocess.run(words, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("ms-codegeex "), done.stderr
