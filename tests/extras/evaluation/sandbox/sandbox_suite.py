"""Runs all attacks as the current user: `python sandbox_suite.py` prints what each one achieved as JSON."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import sandbox_attacks_bombs
import sandbox_attacks_judges
import sandbox_attacks_kernel
import sandbox_attacks_reach
from sandbox_attacks import MIB, Attack
from sandbox_world import World

from ms_codegeex.extras.evaluation.sandbox import End, Execution, Sandbox, open_sandbox

MODULES = (sandbox_attacks_reach, sandbox_attacks_kernel, sandbox_attacks_bombs, sandbox_attacks_judges)
ATTACKS: dict[str, Attack] = {attack.name: attack for module in MODULES for attack in module.ATTACKS}
THREADS = 4
NEEDS = {"c": "gcc", "bash": "bash"}


def lacking(attack: Attack) -> str:
    """A program that the attack needs and that this machine lacks."""
    needed = NEEDS.get(attack.language, "")
    return needed if needed and shutil.which(needed) is None else ""


def attempt(attack: Attack, world: World, sandbox: Sandbox) -> list[str]:
    with world:
        executions = sandbox.run(attack.commands(), attack.content(world.words()))
        found = world.successes(attack, executions)
        if attack.tried and not all(b"TRIED" in execution.stdout[:100] for execution in executions):
            found.append(f"never began: {executions[-1]}")
    return found


def outside(attack: Attack) -> list[str]:
    """What it achieves without a sandbox; only for harmless attacks."""
    with World() as world, tempfile.TemporaryDirectory() as directory:
        for name, content in attack.content(world.words()).items():
            (Path(directory) / name).write_bytes(content)
        environment = {**os.environ, f"SECRET_{world.marker}": world.secret}
        executions = []
        for command in attack.commands():
            with tempfile.TemporaryFile() as out:  # no pipe: survivors would keep it open
                code = subprocess.run(
                    command.words, cwd=directory, env=environment, stdout=out, stderr=out, timeout=60
                ).returncode
                out.seek(0)
                executions.append(Execution(End.EXITED, code, 0.0, out.read(), b""))
        return world.successes(attack, executions)


def with_room(attack: Attack) -> list[str]:
    """What it achieves in a sandbox that allows ten times as much."""
    small = attack.limits
    wide = replace(
        small,
        wall=20,
        cpu=20,
        memory=2048 * MIB,
        disk=10 * small.disk,
        file_size=10 * small.file_size + (64 * MIB),
        processes=500,
    )
    with World() as world:
        programs = tuple(program.replace("time.sleep(10)", "time.sleep(0.2)") for program in attack.programs)
        attack = replace(attack, limits=wide, ends=(), programs=programs)
        return world.successes(attack, open_sandbox().run(attack.commands(), attack.content(world.words())))


def attempt_all(sandbox: Sandbox) -> dict[str, list[str]]:
    possible = [attack for attack in ATTACKS.values() if not lacking(attack)]
    worlds = [World() for _ in possible]
    # Set before any thread begins: a child that another thread is starting reads the environment while it changes.
    secrets = {f"SECRET_{world.marker}": world.secret for world in worlds}
    os.environ.update(secrets)
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            achieved = pool.map(attempt, possible, worlds, [sandbox] * len(possible))
            return dict(zip((attack.name for attack in possible), achieved, strict=True))
    finally:
        for name in secrets:
            del os.environ[name]


if __name__ == "__main__":
    json.dump({"user": os.getuid(), "achieved": attempt_all(open_sandbox())}, sys.stdout)
