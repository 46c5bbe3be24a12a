"""Names that users type for modules that lie elsewhere: `python -m`, imports of the bridge and of the libraries."""

import subprocess
import sys

import pytest
from conftest import ROOT

SAME = """
import ms_codegeex.mindformers_bridge as bridge
from ms_codegeex.mindformers_bridge import register, settings
import ms_codegeex.extras.exchange.mindformers_bridge.settings as real
from ms_codegeex.extras.exchange import mindformers_bridge
assert settings is real and bridge.settings is real and register is mindformers_bridge.register
assert real.__name__ == real.__spec__.name == "ms_codegeex.extras.exchange.mindformers_bridge.settings"
from ms_codegeex.cuda.libraries import prepare
assert callable(prepare)
try:
    import ms_codegeex.mindformers_bridge.no_such_module
except ModuleNotFoundError as error:
    print(error)
"""


def run(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_module_of_the_bridge_is_the_same_under_both_names():
    done = run("-c", SAME)
    assert done.returncode == 0 and "no_such_module" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["ms_codegeex.mindformers_bridge"], 2, "usage: python -m ms_codegeex.mindformers_bridge"),
        (["ms_codegeex.cuda"], 1, "usage: python -m ms_codegeex.cuda MODULE"),
        (["ms_codegeex.evaluation.sandbox"], None, ""),
    ],
)
def test_programs_start_by_their_names(words, status, text):
    done = run("-m", *words)
    assert status in (None, done.returncode) and text in done.stderr
    assert "Traceback" not in done.stderr and "No module" not in done.stderr
