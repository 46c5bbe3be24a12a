"""Programs that try to escape: none succeeds, whether root or an ordinary user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from sandbox_suite import ATTACKS, attempt_all, lacking, outside, with_room

from ms_codegeex.extras.evaluation.sandbox import open_sandbox

pytestmark = pytest.mark.strict_sandbox
NOBODY = 65534


def interpreter() -> str | None:
    """A Python that `nobody` can run and that finds our package."""
    for python in (sys.executable, "/usr/bin/python3"):
        words = [
            python,
            "-c",
            "import sys, ms_codegeex.extras.evaluation.sandbox; sys.exit(sys.version_info < (3, 10))",
        ]
        try:
            done = subprocess.run(words, cwd=ROOT, capture_output=True, user=NOBODY, group=NOBODY, extra_groups=())
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return None


def as_nobody() -> dict[str, list[str]]:
    """What the attacks achieve if a user without rights starts them."""
    python = interpreter()
    if python is None:
        pytest.skip("no Python that nobody may run and that finds this repository")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
    }
    words = [python, str(Path(__file__).with_name("sandbox_suite.py"))]
    identity = {"user": NOBODY, "group": NOBODY, "extra_groups": ()}
    done = subprocess.run(words, cwd="/", env=environment, capture_output=True, text=True, timeout=600, **identity)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["user"] == NOBODY
    return report["achieved"]


@pytest.fixture(scope="module")
def achieved() -> dict[str, list[str]]:
    """What each attack achieves when we start it."""
    return attempt_all(open_sandbox())


@pytest.fixture(scope="module")
def achieved_without_root() -> dict[str, list[str]]:
    """The same for a user without rights, if we are root."""
    if os.geteuid() != 0:
        pytest.skip("we are not root: the other test is this one")
    return as_nobody()


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_succeeds(name: str, achieved: dict[str, list[str]]) -> None:
    if lacking(ATTACKS[name]):
        pytest.skip(f"no {lacking(ATTACKS[name])} on this machine")
    assert achieved[name] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_succeeds_without_root(name: str, achieved_without_root: dict[str, list[str]]) -> None:
    if lacking(ATTACKS[name]):
        pytest.skip(f"no {lacking(ATTACKS[name])} on this machine")
    assert achieved_without_root[name] == []


@pytest.mark.parametrize("name", [name for name, attack in ATTACKS.items() if attack.control])
def test_the_attack_is_noticed_where_it_succeeds(name: str) -> None:
    if lacking(ATTACKS[name]):
        pytest.skip(f"no {lacking(ATTACKS[name])} on this machine")
    assert outside(ATTACKS[name]), "without a sandbox this is harmless: nothing is tested"


BOMBS = (
    "processes: fork bomb",
    "processes: threads",
    "processes: zombies",
    "memory: one process",
    "memory: many processes",
    "disk: working directory",
    "disk: one big file",
)


@pytest.mark.parametrize("name", BOMBS)
def test_the_bomb_is_noticed_where_there_is_room_for_it(name: str) -> None:
    attack = ATTACKS[name]
    if name == "memory: one process":  # it takes 8 GB
        attack = replace(attack, programs=(attack.programs[0].replace("range(1000)", "range(100)"),))
    assert with_room(attack)


def test_there_are_enough_of_them() -> None:
    assert len(ATTACKS) >= 80
    assert len({attack.family for attack in ATTACKS.values()}) >= 10
