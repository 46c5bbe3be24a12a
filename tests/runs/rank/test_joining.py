"""How ranks meet, with stand-ins for MindSpore's calls; `tests/commands/test_command_train_faults.py` meets the real
ones."""

import ctypes
import signal
from unittest.mock import create_autospec

import mindspore
import pytest
from conftest import small_run
from mindspore import communication

from ms_codegeex.config.rules import build_run_config
from ms_codegeex.runs.rank import joining


@pytest.mark.parametrize("role", ["MS_WORKER", "MS_SCHED"])
def test_a_rank_does_not_sleep_until_the_others_have_left_their_addresses(dataset, tmp_path, monkeypatch, role):
    """MindSpore's sleep is the C library's, which says how many seconds it has left out."""
    config = build_run_config({**small_run(dataset, tmp_path / "run"), "devices": 2})
    sleeps, left = role == "MS_WORKER", []
    slept = create_autospec(communication.init, side_effect=lambda: left.append(ctypes.CDLL(None).sleep(2 * sleeps)))
    monkeypatch.setattr(communication, "init", slept)
    monkeypatch.setattr(mindspore, "set_device", create_autospec(mindspore.set_device))  # refuses after other tests
    monkeypatch.setattr(communication, "get_group_size", create_autospec(communication.get_group_size, return_value=2))
    monkeypatch.setattr(communication, "get_rank", create_autospec(communication.get_rank, return_value=1))
    monkeypatch.setattr(joining, "WAKE_SECONDS", 0.01)
    monkeypatch.setenv("MS_ROLE", role)
    monkeypatch.setattr(signal, "setitimer", create_autospec(signal.setitimer, side_effect=signal.setitimer))
    before = signal.getsignal(signal.SIGALRM)
    assert joining.join(config) == (config, 1, None)
    assert left == [1 if sleeps else 0]  # of two; the scheduler stays in the call, and is not woken
    assert signal.setitimer.called == sleeps
    assert signal.getsignal(signal.SIGALRM) == before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
