"""Tests marked `gpu` run where an NVIDIA GPU, its driver and the CUDA libraries are, and are skipped with the reason
elsewhere. `--gpu-device cpu` runs them with the CPU in the GPU's place, which finds mistakes in the tests."""

from __future__ import annotations

import functools

import pytest

MARK = "gpu"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu-device", choices=("gpu", "cpu"), default="gpu", help="what tests marked gpu compute on")


@functools.cache
def missing() -> str:
    """Why this machine cannot compute on a GPU; "" if it can."""
    from ms_codegeex.base.cuda.libraries import DRIVER, load
    from ms_codegeex.base.cuda.probe import probe_gpu_backend
    from ms_codegeex.base.errors import RunFailure, UserError

    if problem := load(DRIVER):  # the quickest look, and the usual answer
        return f"no driver ({problem})"
    try:
        found = probe_gpu_backend()
    except (UserError, RunFailure) as error:
        return str(error)
    wrong = [f"{one.library.soname}: {one.problem}" for one in found.libraries if one.problem]
    return "; ".join(filter(None, [*wrong, found.driver.problem, found.plugin]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip before any fixture is set up."""
    if item.get_closest_marker(MARK) and item.config.option.gpu_device == "gpu" and missing():
        pytest.skip(f"no GPU to compute on: {missing()}; see docs/hardware.md")


@pytest.fixture(scope="session")
def gpu_device(request: pytest.FixtureRequest) -> str:
    """`device` of a run: gpu, or what stands in for it."""
    return request.config.option.gpu_device
