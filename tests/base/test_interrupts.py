"""Ctrl-C while modules are imported."""

import importlib
import os
import signal
import sys
import threading
from unittest.mock import create_autospec

import pytest

from ms_codegeex import cli
from ms_codegeex.base.interrupts import after_imports

ONE = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(20):\n    time.sleep(0.01)\n"
TWO = ONE + "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A function that imports a module of this text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(text):
        (tmp_path / "slow_module.py").write_text(text + "DONE = True\n")
        importlib.invalidate_caches()
        importlib.import_module("slow_module")

    yield load
    sys.modules.pop("slow_module", None)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_the_first_one_waits_until_the_import_has_ended(slow):
    with pytest.raises(KeyboardInterrupt), after_imports():
        slow(ONE)
        threading.Event().wait(60)
    assert sys.modules["slow_module"].DONE


def test_it_is_not_forgotten_at_the_end(slow):
    with pytest.raises(KeyboardInterrupt), after_imports():
        slow(ONE)
    assert sys.modules["slow_module"].DONE


def test_the_second_one_does_not_wait(slow):
    with pytest.raises(KeyboardInterrupt), after_imports():
        slow(TWO)
    assert "slow_module" not in sys.modules


def test_outside_of_imports_nothing_waits(slow):
    with pytest.raises(KeyboardInterrupt), after_imports():
        os.kill(os.getpid(), signal.SIGINT)
        threading.Event().wait(60)


def test_an_ignored_signal_stays_ignored(slow):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with after_imports():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_the_command_ends_with_130_before_the_verb_is_known(monkeypatch, capsys):
    monkeypatch.setattr(cli, "parse", create_autospec(cli.parse, side_effect=KeyboardInterrupt))
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "ms-codegeex: interrupted\n"
