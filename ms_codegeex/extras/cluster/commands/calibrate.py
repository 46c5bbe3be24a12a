"""`ms-codegeex calibrate`: from the profile of a run to a hardware file that plans are made with."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.options import REQUIRED, option
from ms_codegeex.base.printing import print_result, table

if TYPE_CHECKING:
    from ms_codegeex.extras.cluster.calibrating.refitting import ProfiledRun
    from ms_codegeex.planning.hardware_files import HardwareFile

SUMMARY = "fit the figures of a device to the profile of a run, for `plan`, its search and the timeline"
EXAMPLES = """  ms-codegeex calibrate runs/mine --output mycluster.yaml
  ms-codegeex calibrate runs/mine --from /copied/profile --output mycluster.yaml
  ms-codegeex calibrate runs/small runs/large --output mycluster.yaml
  ms-codegeex plan --config codegeex_13b_64 --device mycluster.yaml"""


@dataclass(frozen=True)
class Arguments:
    """Which runs, and where the file goes."""

    runs: tuple[str, ...] = option(
        "run directories, trained with profile.steps on Ascend", "RUN", REQUIRED, positional=True
    )
    source: Path | None = option(
        "folder of MindSpore Profiler's results (default: RUN/profile)", "PROFILE", flag="from"
    )
    output: Path = option("the hardware file", "FILE.yaml", Path("hardware.yaml"))
    json: bool = option("print one JSON object on standard output", default=False)


def run(arguments: Arguments) -> None:
    """Read the profiles, fit, write the file and print how well it fits."""
    from ms_codegeex.extras.cluster.calibrating.refitting import calibrate
    from ms_codegeex.planning.hardware_files import write_hardware_file

    if arguments.source and len(arguments.runs) > 1:
        raise UserError("--from: is for one run; leave it out, or name one run")
    if arguments.output.suffix not in (".yaml", ".yml"):
        raise UserError(f"--output: {arguments.output} does not end in .yaml; parallel.hardware needs that")
    if not arguments.output.absolute().parent.is_dir():
        raise UserError(f"--output: {arguments.output.parent} is not a folder; make it first")
    found = calibrate([_profiled(Path(name), arguments.source) for name in arguments.runs])
    write_hardware_file(arguments.output, found)
    print_result({**asdict(found), "file": str(arguments.output)}, _text(found, arguments.output), arguments.json)


def _profiled(path: Path, source: Path | None) -> ProfiledRun:
    """A run with its profiles; of its steps those that were recorded count only if there are no others."""
    from ms_codegeex.extras.cluster.calibrating.profile_files import profiles_below
    from ms_codegeex.extras.cluster.calibrating.refitting import ProfiledRun
    from ms_codegeex.runs.history import read_history
    from ms_codegeex.runs.run_directory import RunDirectory

    history = read_history(path)
    lines = [x for x in history.log if not x["compiling"] and x["step_seconds"]]
    plain = [x for x in lines if x["step"] not in history.config.profile.window]
    seconds = tuple(x["step_seconds"] for x in plain or lines)
    return ProfiledRun(str(path), history.config, seconds, tuple(profiles_below(source or RunDirectory(path).profile)))


def _text(found: HardwareFile, file: Path) -> str:
    from ms_codegeex.base.hardware import chip_named
    from ms_codegeex.planning.operators import K_START, MATMUL_PEAK

    chip, rates = chip_named(found.base), asdict(found.rates)
    published = {name: chip.latency if "latency" in name else getattr(chip, name) for name in rates}
    rows = [
        (name.replace("_", " "), f"{value:.4g}", f"{published[name]:.4g}", _origin(found, name))
        for name, value in rates.items()
    ]
    rows += [
        ("products: share of the peak", f"{found.products.share:.4g}", f"{MATMUL_PEAK}", _origin(found, "products")),
        ("products: starting length", f"{found.products.start:.4g}", f"{K_START}", _origin(found, "products")),
        ("collectives under computation", f"{found.overlap:.1%}", "", _origin(found, "overlap")),
        ("standing still, of computing", f"{found.gaps:.1%}", "", _origin(found, "gaps")),
    ]
    factor, steps = found.factor, found.residuals["steps"]
    shown = [(x["run"], f"{x['seconds']:.4g}", f"{x['counted']:.4g}", f"{x['error']:+.1%}") for x in steps]
    return "\n\n".join(
        (
            table((f"{found.base} by {found.source}", "measured", "published", ""), rows, 1),
            table(("step", "measured, s", "counted, s", "error"), shown, 1),
            f"a step takes {factor.value:.3f} ({factor.low:.3f} to {factor.high:.3f}) times what is counted\n"
            f"written: {file}; plan with it: parallel.hardware={file}",
        )
    )


def _origin(found: HardwareFile, name: str) -> str:
    return "no profile shows it" if name in found.assumed else "fitted"
