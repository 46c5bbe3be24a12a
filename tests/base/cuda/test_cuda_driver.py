"""What the driver says of its GPUs, and what MindSpore's kernels are on them."""

from __future__ import annotations

import sys

import pytest
from fake_cuda import fake_driver

from ms_codegeex.base.cuda import driver
from ms_codegeex.base.cuda.driver import Driver, Gpu, query_driver_in_subprocess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fake_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def faked(folder, monkeypatch):
    """The fake driver is the one that a new process finds."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(folder))
    return monkeypatch


def test_the_devices_of_a_driver(faked):
    faked.setenv("FAKE_GPUS", "2")
    faked.setenv("FAKE_FREE", "12000000000")
    gpu = Gpu("Fake GPU", (9, 0), 80_000_000_000, 12_000_000_000)
    assert query_driver_in_subprocess() == Driver("12.2", (gpu, gpu))


def test_a_driver_without_a_device(faked):
    assert query_driver_in_subprocess() == Driver("12.2", problem="no device")


def test_a_library_that_is_not_a_driver(tmp_path, monkeypatch):
    (tmp_path / driver.DRIVER).write_text("")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    found = query_driver_in_subprocess()
    assert found.problem.startswith("no driver (") and not found.gpus and not found.cuda


@pytest.mark.parametrize(
    ("said", "problem"), [("echo 'Xid 79' >&2", "Xid 79"), ("", "the driver query exited with status 3")]
)
def test_a_process_that_breaks_is_a_problem(monkeypatch, tmp_path, said, problem):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{said}\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    assert query_driver_in_subprocess() == Driver(problem=problem)


@pytest.mark.parametrize(
    "capability,kernels",
    [
        ((5, 2), "none"),
        ((6, 1), "machine code"),
        ((8, 9), "machine code"),  # machine code runs on later chips of its generation
        ((9, 0), "PTX"),
        ((12, 0), "PTX"),
    ],
    ids=lambda value: value if isinstance(value, str) else ".".join(map(str, value)),
)
def test_where_kernels_come_from(capability, kernels):
    assert Gpu("", capability, 0, None).kernels == kernels
