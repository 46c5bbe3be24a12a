"""Shared by all tests: a tiny synthetic dataset, the configuration that trains on it, and the command line as users run
it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from hypothesis import settings

# Tiny kernels on several threads mostly wait for each other. Set before anything imports MindSpore; workers inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A compilation allocates millions of small objects, and takes 7 % less time if glibc keeps more of the freed ones.
# This is for processes that the tests start; tests/run.sh sets it for this one.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.tcache_count=60000")
# MindSpore needs protobuf in Python, and asks for it when it is imported. A test may import transformers, and with it
# protobuf, before. The processes that tests start choose for themselves.
with pytest.MonkeyPatch.context() as patch:
    patch.setenv("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
    import google.protobuf.internal.api_implementation  # noqa: F401
# Without bytecode each of hundreds of processes would compile our modules again, 0.1 s a process.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from ms_codegeex.base.files import write_json
from ms_codegeex.data.datasets.indexed import IndexedWriter

settings.register_profile("suite", deadline=None)  # a busy machine is not a failure
settings.load_profile("suite")

pytest_plugins = [
    "not_run",  # before durations, which imports it and the next one
    "work_units",
    "durations",
    "frozen_heap",
    "gpu_tests",
    "installed_wheel",
    "memory_disk",
    "process_guard",
    "skipped_before",
    "stand_ins",
    "strict_sandbox",
]
ROOT = Path(__file__).resolve().parents[1]
VOCABULARY, EOS = 96, 0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine in a loop of its own; it may take a minute."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    values = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**values), 60))
    return True


@contextlib.contextmanager
def engine_mode(name: str) -> Iterator[None]:
    """MindSpore's mode `graph`, in which the commands run, or `pynative`, which compiles nothing; then that of before.
    A test that sets none has the one that an earlier test of the same process left."""
    import mindspore as ms

    before = ms.get_context("mode")
    ms.set_context(mode={"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}[name])
    try:
        yield
    finally:
        ms.set_context(mode=before)


@pytest.fixture
def graph_mode() -> Iterator[None]:
    """One test in graph mode."""
    with engine_mode("graph"):
        yield


@pytest.fixture(scope="module")
def graph_mode_throughout() -> Iterator[None]:
    """A module and its fixtures in graph mode."""
    with engine_mode("graph"):
        yield


@pytest.fixture(scope="module")
def pynative_mode_throughout() -> Iterator[None]:
    """A module in PyNative mode, but for what asks for `graph_mode`."""
    with engine_mode("pynative"):
        yield


def write_dataset(directory: Path, documents: int = 400, seed: int = 0, vocabulary: int = VOCABULARY) -> Path:
    """A dataset directory of a language with strong bigrams, documents of unequal length, eos = 0."""
    generator = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    follow = generator.integers(1, vocabulary, (vocabulary, 3))
    for split, count in (("train", documents), ("validation", documents // 4)):
        with IndexedWriter(directory / split, np.uint16) as writer:
            for _ in range(count):
                token, ids = int(generator.integers(1, vocabulary)), []
                for _ in range(int(generator.integers(2, 60))):
                    ids.append(token)
                    token = int(follow[token, generator.choice(3, p=(0.8, 0.15, 0.05))])
                writer.add([*ids, EOS])
    write_json(directory / "dataset.json", {"vocab_size": vocabulary, "eos_id": EOS})
    return directory


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic dataset directory, made once."""
    return write_dataset(tmp_path_factory.mktemp("dataset"))


def small_run(dataset: Path, output: Path) -> dict:
    """Nested values of a run that compiles in a few seconds."""
    return {
        "output": str(output),
        "devices": 1,
        "seed": 7,
        "model": {
            "family": "codegeex",
            "preset": "tiny",
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "num_layers": 1,
            "num_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 32,
            "eos_token_id": EOS,
            "init_std": 0.1,
        },
        "data": {"train": str(dataset), "seq_length": 32},
        "training": {
            "steps": 10,
            "global_batch": 4,
            "dropout": 0.0,
            "evaluate_samples": 10,
            "loss_chunk": 0,
            "optimizer": {"bias_correction": True},
            "schedule": {"learning_rate": 1e-2, "end_learning_rate": 1e-3, "warmup_steps": 2, "decay_steps": 50},
        },
        "checkpoint": {"export": False},
        "logging": {"tensorboard": False, "plots": False},
    }


@pytest.fixture
def run_values(dataset: Path, tmp_path: Path) -> dict:
    """`small_run` with its output in this test's directory."""
    return small_run(dataset, tmp_path / "run")


def command(*arguments: str, status: int | None = None, **options) -> subprocess.CompletedProcess[str]:
    """Run `ms-codegeex ARGUMENTS…` as a user does, in a separate process. `status`: what it has to end with."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, **options.pop("environment", {})}
    words = [sys.executable, "-m", "ms_codegeex.cli", *map(str, arguments)]
    result = subprocess.run(words, text=True, capture_output=True, env=environment, timeout=600, **options)
    assert status in (None, result.returncode), f"{words}\n{result.stderr}"
    return result


def command_here(*arguments: str, status: int | None = None) -> subprocess.CompletedProcess[str]:
    """The same in this process, for commands that a process of their own would only make slower."""
    from ms_codegeex import cli

    words, out, err = [str(word) for word in arguments], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            found = cli.main(words)
        except SystemExit as end:
            found = end.code
    assert status in (None, found), f"{words}\n{err.getvalue()}"
    return subprocess.CompletedProcess(words, found, out.getvalue(), err.getvalue())


def load_script(name: str) -> ModuleType:
    """A Python file of the checkout that lies outside the package, as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{Path(name).stem}", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def flip_bit(path: Path, place: int = -1) -> None:
    """Damage one byte of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def write_config(path: Path, values: dict) -> Path:
    """The values as a YAML file."""
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture
def weights_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversions look for no tokenizer."""
    from ms_codegeex.formats import sources

    monkeypatch.setattr(sources, "_tokenizer_saver", lambda *_: None)
