"""Programs that try to escape: none succeeds, whether root or an ordinary user starts it."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from sandbox_attacks import Attack
from sandbox_suite import ATTACKS, attempt_all, lacking, outside, with_room

from ms_codegeex.extras.evaluation.sandbox import open_sandbox

pytestmark = pytest.mark.strict_sandbox
NOBODY = 65534
IDENTITY = {"user": NOBODY, "group": NOBODY, "extra_groups": ()}


def interpreter() -> str:
    """A Python that `nobody` can run and that finds our package; the test is skipped without one."""
    source = "import sys, ms_codegeex.extras.evaluation.sandbox; sys.exit(sys.version_info < (3, 10))"
    for python in (sys.executable, "/usr/bin/python3"):
        with suppress(OSError):
            if not subprocess.run([python, "-c", source], cwd=ROOT, capture_output=True, **IDENTITY).returncode:
                return python
    return pytest.skip("no Python that nobody may run and that finds this repository")


@pytest.fixture(scope="module")
def achieved() -> dict[str, list[str]]:
    return attempt_all(open_sandbox())


@pytest.fixture(scope="module")
def achieved_without_root() -> dict[str, list[str]]:
    """The same for a user without rights, if we are root."""
    if os.geteuid() != 0:
        pytest.skip("we are not root: the other test is this one")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOME": "/nonexistent"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    words = [interpreter(), str(Path(__file__).with_name("sandbox_suite.py"))]
    done = subprocess.run(words, cwd="/", env=environment, capture_output=True, text=True, timeout=600, **IDENTITY)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["user"] == NOBODY
    return report["achieved"]


@pytest.fixture
def attack(request: pytest.FixtureRequest) -> Attack:
    """One of the attacks, where the machine has what it needs."""
    if program := lacking(ATTACKS[request.param]):
        pytest.skip(f"no {program} on this machine")
    return ATTACKS[request.param]


@pytest.mark.parametrize("attack", ATTACKS, indirect=True)
def test_no_attack_succeeds(attack: Attack, achieved: dict[str, list[str]]) -> None:
    assert achieved[attack.name] == []


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS, indirect=True)
def test_no_attack_succeeds_without_root(attack: Attack, achieved_without_root: dict[str, list[str]]) -> None:
    assert achieved_without_root[attack.name] == []


@pytest.mark.parametrize("attack", [name for name, attack in ATTACKS.items() if attack.control], indirect=True)
def test_the_attack_is_noticed_where_it_succeeds(attack: Attack) -> None:
    assert outside(attack), "without a sandbox this is harmless: nothing is tested"


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
