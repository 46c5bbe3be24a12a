"""`ms-codegeex doctor`: show what this machine can do, and how to close each gap."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ms_codegeex.base import host
from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.extras import PACKAGE, extra, install_line, registered
from ms_codegeex.base.json_reading import parse_json
from ms_codegeex.base.options import option
from ms_codegeex.base.printing import print_progress, print_result

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from ms_codegeex.base.cuda.driver import Gpu

SUMMARY = "show what this machine can do: packages, devices, sandbox, tool chains, disk; and how to close each gap"
EXAMPLES = """  ms-codegeex doctor
  ms-codegeex doctor --json
  ms-codegeex doctor --device ascend --config codegeex_base_8 training.dropout=0.1"""
MEMORY, DISK = 4 * host.GB, 2 * host.GB  # what a run of codegeex_tiny needs, with a margin
WIDEST = 120  # characters per line
ABSENT = " is not installed"
MAX_NAMED_PACKAGES = 4  # in an install command; for more, the remedy is set-up
SET_UP = "in a checkout: bash ascend_scripts/setup.sh; elsewhere: pip install the wheel again"
PROBE_SECONDS = 300
USES = "ms_codegeex.commands.package_uses"
LIST_NPUS = ("npu-smi", "info", "-l")  # prints one device per line
CHIP_LIST = ("npu-smi", "info", "-m")  # prints card number, chip number, device number ("-": none), and name
NPU_DRIVER = Path("/usr/local/Ascend/driver/version.info")  # exists where the driver is installed
CACHE_FIX = "set XDG_CACHE_HOME to a directory that can be written"
DRIVER_FIX = "install NVIDIA's driver, 520 or newer; in a container: docker run --gpus all"


@dataclass(frozen=True)
class Finding:
    """A check of this machine: its heading in the report, its name, and what was found, in a few words. `state`:
    "missing" if a run on a CPU needs it, "optional" if only the feature named in `fix` or `found` does. `fix`: how to
    close the gap; empty if there is none."""

    area: str
    name: str
    state: Literal["ok", "missing", "optional"]
    found: str
    fix: str = ""


class Row(NamedTuple):
    """A probe's answer: name, what was found, problem (empty: none), its fix, and whether a run on a CPU needs it."""

    name: str
    found: str
    problem: str = ""
    fix: str = ""
    needed: bool = False

    def finding(self, area: str) -> Finding:
        """Return the row as a finding below the heading `area`."""
        if not self.problem:
            return Finding(area, self.name, "ok", self.found)
        return Finding(area, self.name, "missing" if self.needed else "optional", self.problem, self.fix)


@dataclass(frozen=True)
class Arguments:
    """What to check."""

    device: Literal["ascend", "cpu"] | None = option(
        "instead, compute every kind of kernel of a run's graph once on this device, forward and backward, and compare "
        "it with NumPy; without an Ascend, on the CPU"
    )
    config: str | None = option(
        "with --device: the run whose kernels are tried, as a rehearsal lists them (default: all that are known, for "
        "codegeex_base_8)",
        "FILE",
    )
    overrides: tuple[str, ...] = option(
        "with --device: overrides, such as training.dropout=0", "key=value", (), positional=True
    )
    json: bool = option("print one JSON object on standard output", default=False)


Rows = Iterator[Row]
Areas = Mapping[str, Callable[[], Iterable[tuple[Any, ...]]]]


def run(arguments: Arguments) -> int:
    """Print the report. Return 0 if a run on a CPU has everything that it needs, or with `--device` if every kernel
    computes correctly, otherwise 1."""
    areas, ready = AREAS, "everything that a run on a CPU needs is here"
    if arguments.device:
        rows = extra("doctor --device", "kernels")
        areas = {"kernels": lambda: rows(arguments.device, arguments.config, arguments.overrides)}
        ready = "every kernel that was tried computes correctly"
    elif arguments.config or arguments.overrides:
        raise UserError("--config: is for --device; add --device ascend, or leave it and all overrides out")
    checks: list[Finding] = []
    for area in areas:
        print_progress(f"looking at: {area}")
        checks += findings(area, areas)
    print_progress("")
    missing = [check for check in checks if check.state == "missing"]
    result = {"ready": not missing, "checks": [asdict(check) for check in checks]}
    print_result(result, "\n".join(report_lines(checks, ready)), arguments.json)
    return 1 if missing else 0


def findings(area: str, areas: Areas | None = None) -> list[Finding]:
    """Return the checks of an area. If it cannot import a package, the result is a single finding that says so."""
    try:
        return [Row(*row).finding(area) for row in (areas or AREAS)[area]()]
    except ImportError as error:
        return [Finding(area, area, "missing", f"cannot be checked ({error})", SET_UP)]


def report_lines(checks: list[Finding], ready: str) -> Iterator[str]:
    """Yield the report for people: areas, their checks, and a verdict."""
    width, area = max(len(check.name) for check in checks), ""
    marks = {"ok": "ok ", "missing": "NO ", "optional": "-  "}
    for check in checks:
        if check.area != area:
            area = check.area
            yield area
        yield from _wrapped(f"  {marks[check.state]} {check.name:<{width}}  ", check.found)
        if check.fix:
            yield f"      {'':<{width}}  fix: {check.fix}"
    missing = [check.name for check in checks if check.state == "missing"]
    optional = [check.name for check in checks if check.state == "optional"]
    yield f"not ready: {', '.join(missing)}" if missing else f"ready: {ready}"
    if optional:
        yield from _wrapped("optional gaps: ", ", ".join(optional))


def _wrapped(start: str, text: str) -> list[str]:
    columns = min(shutil.get_terminal_size((WIDEST, 24)).columns, WIDEST)
    indent = " " * min(len(start), columns // 2)
    options = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.wrap(text, columns, initial_indent=start, subsequent_indent=indent, **options) or [start.rstrip()]


def _needed(name: str, found: str, problem: str | None) -> Row:
    what, _, fix = (problem or "").partition(": ")
    return Row(name, found, what, fix, needed=True)


def machine_rows() -> Rows:
    """Check operating system, libraries, processor, memory and accelerators."""
    yield _needed("system", f"{platform.system()} {platform.machine()}", host.check_this_platform())
    if platform.system() == "Linux":
        yield _needed("libraries", ", ".join(host.LIBRARIES), "; ".join(host.check_libraries()))
    yield Row("cores", f"{host.available_cores()}, {host.instruction_set() or 'instruction set unknown'}")
    available = host.available_memory()
    amount = "unknown" if available is None else f"{available / host.GB:.1f} GB available"
    yield _needed("memory", amount, host.check_memory(available, MEMORY))
    yield _npus()
    yield from _chip()


def _npus() -> Row:
    name = "Ascend NPU"
    listed = _output(*LIST_NPUS) if shutil.which(LIST_NPUS[0]) else None
    if listed:
        return Row(name, "; ".join(line.strip() for line in listed.splitlines() if line.strip()))
    if NPU_DRIVER.exists():
        fix = f"make `{' '.join(LIST_NPUS)}` work: add it to PATH, give the container the devices"
        return Row(name, "", f"{NPU_DRIVER} exists, but no device is listed", fix)
    return Row(name, "", "none; only `device: ascend` needs one")


def _chip() -> Rows:
    from ms_codegeex.config.chips import ascend_chip
    from ms_codegeex.config.software import installed_mindspore, software_note

    first = re.search(r"^\s*([0-9]+)\s+([0-9]+)\s+[0-9]+\s", _output(*CHIP_LIST) or "", re.MULTILINE)
    board = _output(LIST_NPUS[0], "info", "-t", "board", "-i", first[1], "-c", first[2]) if first else None
    says = dict(re.findall(r"^\s*(Chip Type|Chip Name|NPU Name)\s*:\s*(\S+)\s*$", board or "", re.MULTILINE))
    name = says.get("Chip Name", "")
    name = says.get("Chip Type", "") + name if "NPU Name" not in says else f"{name}_{says['NPU Name']}"
    if chip := ascend_chip(name):
        note, known = f"{name}, {software_note(name)}", chip.mindspore == installed_mindspore()
        yield Row("Ascend chip", note, "" if known else note)
    elif name:
        yield Row("Ascend chip", "", f"{name}: not in the table of docs/hardware.md")


def _output(*words: str) -> str | None:
    how = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 60, "check": True}
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(words, **how).stdout
    return None


def package_rows() -> Rows:
    """Check Python, and every requirement of this package against the installed versions."""
    yield _needed("Python", f"{platform.python_version()} ({sys.executable})", host.check_python())
    if numpy := host.check_numpy():
        yield _needed("NumPy", "", numpy)
    try:
        from packaging.requirements import Requirement

        requirements = [Requirement(line) for line in importlib.metadata.requires(PACKAGE) or ()]
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        yield Row("ms-codegeex", "", f"not installed as a package ({error})", SET_UP, needed=True)
        return
    yield _requirements("requirements", [one for one in requirements if _applies(one, "")])
    ours = {name for one in requirements if one.name == PACKAGE and _applies(one, "all") for name in one.extras}
    for name in importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or ():
        added = [one for one in requirements if _applies(one, name) and not _applies(one, "") and one.name != PACKAGE]
        if added:
            yield _requirements(f"[{name}]", added, name, name in ours)


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _requirements(name: str, requirements: list[Requirement], extra: str = "", tried: bool = True) -> Row:
    wrong = {one: problem for one in requirements if (problem := _wrong(one))}
    if extra and wrong:
        absent = len(wrong) == len(requirements) and all(problem.endswith(ABSENT) for problem in wrong.values())
        return Row(name, "", "not installed" if absent else _together(wrong.values()), install_line(extra))
    if tried:
        wrong = wrong or _broken(requirements)
    fit = f"all {len(requirements)} are installed in versions that fit{', and work' if tried else ''}"
    again = "--force-reinstall " if any(_wrong(one) is None for one in wrong) else ""  # pip would keep the broken one
    fix = f"pip install {again}{' '.join(shlex.quote(f'{one.name}{one.specifier}') for one in wrong)}"
    fix = fix if len(wrong) <= MAX_NAMED_PACKAGES else SET_UP
    return Row(name, fit, _together(wrong.values()), fix, needed=not extra)


def _together(problems: Collection[str]) -> str:
    absent = [problem.removesuffix(ABSENT) for problem in problems if problem.endswith(ABSENT)]
    others = [problem for problem in problems if not problem.endswith(ABSENT)]
    if absent[1:]:
        others.insert(0, f"{', '.join(absent[:-1])} and {absent[-1]} are not installed")
    elif absent:
        others.insert(0, f"{absent[0]}{ABSENT}")
    return "; ".join(others)


def _wrong(requirement: Requirement) -> str | None:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name}{ABSENT}"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} {version} is not {requirement.specifier}"


def _broken(requirements: list[Requirement]) -> dict[Requirement, str]:
    named = {re.sub(r"[-_.]+", "-", one.name).lower(): one for one in requirements if one.name != "mindspore"}
    lines, ended, _ = _tried(*named)
    problems = dict(lines)
    if untried := [name for name in named if name not in problems]:  # the first one ended the process
        problems[untried[0]] = f"its use {ended}"
    wrong = {one: problem for name, one in named.items() if (problem := problems.get(name))}
    version = importlib.metadata.version
    return {one: f"{one.name} {version(one.name)} does not work: {problem}" for one, problem in wrong.items()}


def _tried(*packages: str) -> tuple[list[Any], str, str]:
    """Run `package_uses` in its own process. Return the values it prints, how it ended, and its last error line."""
    from ms_codegeex.base.processes import import_variables

    variables = {**os.environ, **import_variables(), "GLOG_v": "3"}
    how = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": PROBE_SECONDS}
    try:
        done = subprocess.run([sys.executable, "-m", USES, *packages], env=variables, **how)
        output, ended = done.stdout, f"ended with status {done.returncode}"
        words = done.stderr.strip().splitlines() or [""]
    except subprocess.TimeoutExpired as error:
        output, ended, words = (error.stdout or b"").decode(), f"takes longer than {PROBE_SECONDS} s", [""]
    lines = [parse_json(line) for line in output.splitlines() if line.startswith(('["', '{"'))]
    return lines, ended, words[-1]


def engine_rows() -> Rows:
    """Check whether MindSpore can be imported, which device plugins load, and what `rehearse` compiles with."""
    from ms_codegeex.config.software import pairs_note

    lines, ended, words = _tried()
    if not lines:
        yield Row("MindSpore", "", words or f"its import {ended}", SET_UP, needed=True)
        return
    yield Row("MindSpore", f"{lines[-1]['version']}, CPU back end")
    yield Row("CANN", pairs_note())
    yield _ascend_plugin(lines[-1]["plugins"])
    yield _compiled_operators()
    if "engine" in ADDED:
        yield from extra("doctor", "engine")()


def _compiled_operators() -> Row:
    from ms_codegeex.kernels.levels import possible_levels
    from ms_codegeex.kernels.prebuilding import built_libraries, shipped_library

    name, (level, *others) = "compiled operators", possible_levels()
    if others:
        level += f" (or --cpu-level {', '.join(others)})"
    slow = "no C++ compiler"
    fix = "in a checkout: bash ascend_scripts/setup.sh; elsewhere: pip install ziglang, or install g++"
    try:
        known = {} if shipped_library() else built_libraries()
    except UserError as error:
        known, slow, fix = {}, f"cannot be kept ({error})", CACHE_FIX
    built = next((f"built by {compiler}" for compiler, library in known.items() if library), "")
    if known and not built:
        built = f"{next(iter(known))} builds them when a model is first used"
    if state := "came with the package" if shipped_library() else built:
        return Row(name, f"{level}; {state}")
    cost = "MindSpore's own decode and train instead, slower, and hold quantised weights in FP32"
    return Row(name, "", f"{level}; {slow}: {cost}", fix)


def _ascend_plugin(plugins: dict[str, str]) -> Row:
    name, loaded = "ascend back end", [plugin for plugin, problem in plugins.items() if not problem]
    if loaded:
        return Row(name, f"{loaded[-1]} loads")
    problem = list(plugins.values())[-1] if plugins else "not in this build of MindSpore"
    fix = "install CANN and source its set_env.sh" if plugins else ""
    return Row(name, "", f"{problem}; only `device: ascend` needs it", fix)


def gpu_rows() -> Rows:
    """Check NVIDIA GPUs: libraries, MindSpore's plugin, driver, devices, and the form of their kernels."""
    from ms_codegeex.base.cuda import probe
    from ms_codegeex.base.cuda.libraries import INSTALL, KERNEL_CACHE_BYTES, kernel_cache

    try:
        backend = probe.probe_gpu_backend()
    except (UserError, RunFailure) as error:
        yield Row("back end", "", f"{error}; only `device: gpu` needs it")
        return
    if any(one.path for one in backend.libraries):
        yield from (Row(one.library.soname, str(one.path), one.problem, INSTALL) for one in backend.libraries)
    else:
        words = f"none of {len(backend.libraries)} found; only `device: gpu` needs them"
        yield Row("CUDA libraries", "", words, INSTALL)
    driver = backend.driver
    unknown = "" if driver.cuda else driver.problem or "does not give its version"
    yield Row("driver", f"supports CUDA {driver.cuda}", driver.too_old or unknown, DRIVER_FIX)
    yield Row("back end", "MindSpore's GPU plugin loads", backend.plugin, "close the gaps above")
    cache = f"{kernel_cache()}, up to {os.environ.get('CUDA_CACHE_MAXSIZE', KERNEL_CACHE_BYTES)} bytes"
    for number, gpu in enumerate(driver.gpus):
        yield _gpu(number, gpu, cache)
    if not driver.gpus:
        fix = "make `nvidia-smi` list it; give a container the devices (docker run --gpus all)" if driver.cuda else ""
        yield Row("device", "", "no device; only `device: gpu` needs one", fix)


def _gpu(number: int, gpu: Gpu, cache: str) -> Row:
    from ms_codegeex.base.cuda.translation import is_translated

    kernels = {
        "machine code": "kernels in machine code",
        "PTX": f"kernels in PTX, which the first start translates, in several minutes, and keeps in {cache}",
        "translated": "kernels in machine code that set-up has translated",
        "none": "no kernels: too old for MindSpore's",
    }["translated" if is_translated(gpu) else gpu.kernels]
    free = "free memory unknown" if gpu.free is None else f"{gpu.free / host.GB:.1f} GB free"
    capability = ".".join(map(str, gpu.capability))
    description = f"{gpu.name}, compute capability {capability}, {gpu.memory / host.GB:.1f} GB, {free}; {kernels}"
    fix = "use a GPU of compute capability 6.0 or more"
    return Row(f"device {number}", description, description if gpu.kernels == "none" else "", fix)


def disk_rows() -> Rows:
    """Check the free space for runs, caches and temporary files."""
    from ms_codegeex.base.cache import user_cache

    free_some = "free some"
    try:
        yield _disk("cache", str(user_cache()), f"{free_some}, or set XDG_CACHE_HOME to another directory")
    except UserError as error:
        yield Row("cache", "", str(error), CACHE_FIX, needed=True)
    yield _disk("temporary", tempfile.gettempdir(), f"{free_some}, or set TMPDIR to another directory")
    yield _disk("here", os.getcwd(), f"{free_some}, or set output= to a directory on another disk")


def _disk(name: str, directory: str, remedy: str) -> Row:
    free = shutil.disk_usage(host.existing_parent(directory)).free
    found = f"{free / host.GB:.1f} GB free in {directory}"
    return _needed(name, found, host.check_disk(directory, DISK, remedy))


# Checks that extras add, below their own headings or below `engine`.
ADDED = registered("doctor")
AREAS: Areas = {  # heading -> its checks, in the order of the report
    "machine": machine_rows,
    "packages": package_rows,
    "engine": engine_rows,
    "NVIDIA GPU": gpu_rows,
    **{area: lambda area=area: extra("doctor", area)() for area in ADDED if area != "engine"},
    "disk": disk_rows,
}
