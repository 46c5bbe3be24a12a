"""The wheel in an environment of its own, away from the checkout.

In the quick tests, the packages it depends on come from the tests' environment, whose directory is last on the path:
everything is in the wheel, and mindformers is not needed. The slow test lets pip choose all dependencies, as a user of
`[all]` would, with each Python that the wheel is for; with the oldest Python, the oldest ones allowed, which pip
leaves as they are where they are installed already.
"""

import json
import os
import re
import shutil
import subprocess
import urllib.request
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, load_script
from declared import extras, normalised, oldest, requirements
from installed_wheel import environment_with
from own_environment import VARIABLES, pip_of_index
from small_benchmarks import humaneval_x

release = load_script("ascend_scripts/release.py")
SMALLER = (
    "training.global_batch=4 training.evaluate_samples=4 data.seq_length=32 model.hidden_size=16 model.num_layers=1 "
    "model.num_heads=2 model.intermediate_size=32 model.max_position_embeddings=512"
)


@pytest.fixture(scope="module")
def bin_directory(wheel, tmp_path_factory):
    return environment_with(wheel, tmp_path_factory.mktemp("installed") / "venv")


@pytest.fixture(scope="module")
def installed(bin_directory, tmp_path_factory):
    """Runs the installed program; returns its standard output."""
    return program_in(bin_directory, tmp_path_factory.mktemp("work"))


def program_in(bin_directory, work):
    """A function that runs a program of an environment in the folder `work` and returns its standard output, or what
    it says on standard error if it is to fail; status None: either will do."""

    def run(*words, program="ms-codegeex", status=0):
        line = [bin_directory / program, *map(str, words)]
        result = subprocess.run(line, cwd=work, env=VARIABLES, capture_output=True, text=True)
        assert status in (None, result.returncode), f"{words}\n{result.stdout}\n{result.stderr}"
        return result.stderr if status else result.stdout

    return run


def test_the_wheel_has_every_file_of_the_package_and_of_configs(wheel):
    expected = {
        *(str(path.relative_to(ROOT)) for path in (ROOT / "ms_codegeex").rglob("*") if path.is_file()),
        *(f"ms_codegeex/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*") if path.is_file()),
    }
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {name for name in expected if "__pycache__" not in name}
    assert "ms_codegeex/configs/evaluation/codegeex_humaneval_x.yaml" in names


def test_help_and_plan_by_name(installed, bin_directory):
    assert "VERB" in installed("--help")
    where = installed("-c", "import ms_codegeex; print(ms_codegeex.__file__)", program="python")
    assert Path(where.strip()).is_relative_to(bin_directory.parent)
    assert json.loads(installed("plan", "--config", "codegeex_13b", "--json"))["mesh"]["tensor"] == 8
    assert "did you mean 'codegeex_tiny'?" in installed("plan", "--config", "codegex_tiny", status=2)


def test_a_job_of_the_wheel_starts_on_every_server(installed, bin_directory, tmp_path):
    """In an empty folder. The stand-in for srun starts each server's `train`, which lists its processes."""
    words = ("train", "--config", "codegeex_base_8", "devices=16", "--job")
    (tmp_path / "job.sh").write_text(installed(*words, "slurm"))
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho head\necho second\n")
    (tmp_path / "srun").write_text(
        "#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\n"
        'SLURM_NODEID=0 "$@" --dry-run && SLURM_NODEID=1 "$@" --dry-run\n'
    )
    for name in ("job.sh", "srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{bin_directory}:{VARIABLES['PATH']}"
    variables = {**VARIABLES, "PATH": path, "SLURM_JOB_NODELIST": "head,second"}
    done = subprocess.run([tmp_path / "job.sh"], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = [line for line in done.stdout.splitlines() if line.startswith("  ranks ")]
    assert [line.split()[1:4] for line in listed] == [["0", "to", "7"], ["8", "to", "15"]], done.stdout
    assert "image: IMAGE" in installed(*words, "volcano")


def test_only_the_bridge_asks_for_mindformers(installed):
    asking = re.compile(r"^\s*(import|from) mindformers\b", re.MULTILINE)
    files = [path for path in (ROOT / "ms_codegeex").rglob("*.py") if asking.search(path.read_text())]
    assert {path.parent.name for path in files} == {"mindformers_bridge"}
    bridge = ("-m", "ms_codegeex.extras.exchange.mindformers_bridge", "--config", "codegeex_tiny")
    assert "run `pip install 'ms-codegeex[mindformers]'`" in installed(*bridge, program="python", status=2)


# --- with the dependencies that pip chooses ---


def interpreter(version):
    """A Python of this version. Skips the test if there is none."""
    python = release.interpreter(version)
    if python is None:
        pytest.skip(f"needs Python {version} with venv and pip")
    return python


@pytest.mark.newest
@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12"])
@pytest.mark.parametrize("mindformers", [True, False], ids=["mindformers", "the_others"])
def test_every_extra_resolves(wheel, tmp_path, mindformers, version):
    """In an empty environment, whatever is on this machine. Extras that resolve together resolve alone, too."""
    chosen = [extra for extra in extras() if (extra == "mindformers") == mindformers]
    pip, report = pip_of_index(interpreter(version), tmp_path), tmp_path / "report.json"
    words = ["install", "-q", "--dry-run", "--ignore-installed", "--report", report, f"{wheel}[{','.join(chosen)}]"]
    done = subprocess.run([*pip, *words], env=VARIABLES, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    packages = (one["metadata"] for one in json.loads(report.read_text())["install"])
    versions = {normalised(one["name"]): one["version"] for one in packages}
    assert versions["mindspore"].startswith("2.9." if mindformers else "2.10.") and versions["numpy"].startswith("1.")
    assert versions.keys() >= {name for extra in chosen for name in needed(extra)}


def needed(extra):
    """The names of what an extra asks for on this machine."""
    return [name for name, one in requirements(extra).items() if one.marker is None or one.marker.evaluate()]


@pytest.fixture(params=["3.10-oldest", "3.11", "3.12"])
def resolved(request, wheel, tmp_path):
    """`bin` of an environment into which pip installs the wheel with all extras of its own and the newest dependencies
    that they allow, or the oldest."""
    version, _, old = request.param.partition("-")
    python = interpreter(version)
    every = (requirements() | requirements("all")).values()
    lines = [f"{one.name}=={oldest(one)}\n" for one in every] if old else []
    (tmp_path / "oldest.txt").write_text("".join(lines))
    place = tmp_path / "venv"
    subprocess.run([python, "-I", "-m", "venv", place], check=True)
    pip = pip_of_index(place / "bin" / "python", tmp_path)
    # Few modules are imported, so none is compiled.
    words = ["install", "-q", "--no-compile", "-c", tmp_path / "oldest.txt", f"{wheel}[all]"]
    done = subprocess.run([*pip, *words], env=VARIABLES, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield place / "bin"
    shutil.rmtree(place)  # 2 GB


@pytest.mark.slow
def test_the_whole_way(resolved, tmp_path):
    """From source code to answers over HTTP, with shipped files by their names."""
    work = tmp_path / "work"
    for package in ("json", "email"):
        source = Path(os.__file__).parent / package
        shutil.copytree(source, work / "src" / package, ignore=shutil.ignore_patterns("__pycache__"))
    run = program_in(resolved, work)
    assert "No broken requirements" in run("-m", "pip", "check", program="python")
    checks = {(one["area"], one["name"]): one for one in json.loads(run("doctor", "--json", status=None))["checks"]}
    assert checks["packages", "requirements"]["found"].endswith("in versions that fit, and work")
    assert checks["packages", "[mindformers]"]["state"] == "optional" and checks["engine", "MindSpore"]["state"] == "ok"
    run("prepare", "--input", "src", "--output", "corpus", "--redact", "email", "secrets", "--near-duplicates", "0.85")
    assert json.loads(run("inspect", "corpus", "--json"))["kind"] == "dataset"
    words = ("train", "--config", "codegeex_tiny_release", "training.steps=3", *SMALLER.split(), "output=run")
    summary = json.loads(run(*words, "--json", "data.train=corpus"))
    assert summary["steps"] == 3 and summary["validation_loss"] > 0
    assert (work / "run" / "loss.png").is_file()
    assert json.loads(run("inspect", "run", "--json"))["kind"] == "run"
    run("convert", "--model", "run", "--to", "hf", "--output", "model")
    assert (work / "model" / "config.json").is_file()
    run("generate", "--model", "model", "--prompt", "import", "--max-new-tokens", "2")
    task = ("evaluate", "humaneval-x", "--data", humaneval_x(work / "hx"), "--output", "eval", "--model", "model")
    less = ("--n", "1", "--limit", "1", "--language", "python", "--max-new-tokens", "2", "--generate-only")
    run(*task, "--recipe", "codegeex_humaneval_x", *less)
    assert json.loads((work / "eval" / "evaluation.json").read_text())["recipe"]["top_p"] == 0.95
    assert health_of_server(resolved, work) == {"status": "ok"}


def health_of_server(bin_directory, work):
    """What `/health` of `serve` answers for the model in `work`."""
    words = [bin_directory / "ms-codegeex", "serve", "--model", "model", "--port", "0"]
    with subprocess.Popen(words, cwd=work, env=VARIABLES, text=True, stdout=subprocess.PIPE) as server:
        try:
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://[\w.:]+", line)))
            with urllib.request.urlopen(f"{address}/health") as answer:
                return json.load(answer)
        finally:
            server.terminate()
