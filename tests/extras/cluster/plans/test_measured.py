"""`plan --measured`: the factor between what a plan counts and the steps that runs have taken."""

import json
import math

import pytest
from conftest import ROOT, command_here

from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.plans.measured import MeasuredRun, between, measured_hardware
from ms_codegeex.extras.cluster.plans.planner import Plan, change, make_plan
from ms_codegeex.planning.hardware_files import hardware_of, read_hardware_file
from ms_codegeex.runs.files.resolved_config import write_config
from ms_codegeex.runs.files.run_directory import RunDirectory

CONFIG = ROOT / "configs" / "codegeex_13b_64.yaml"  # for the 910B
KEYS = ("profile.steps=5..6", "model.num_layers=3")
KERNELS = (
    "Step ID,Type,Duration(us),Accelerator Core\n5,MatMulV3,600,AI_CORE\n5,Mul,100.5,AI_VECTOR_CORE\n5,Mul,299.5,x\n"
)


@pytest.fixture
def config():
    return load_config(CONFIG, KEYS)


@pytest.fixture
def counted(config):
    return Plan(config, hardware_of(config)).counted_seconds


@pytest.fixture
def run(tmp_path, config, counted):
    """Step 1 compiles, steps 5 and 6 are recorded and slower; the others take 1.5 times what is counted."""
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    write_config(run, config)
    factors = {1: 60.0, 2: 1.485, 3: 1.5, 4: 1.515, 5: 4.5, 6: 4.5}
    lines = [{"step": n, "step_seconds": x * counted, "compiling": n == 1} for n, x in factors.items()]
    run.log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    output = run.profile / "rank_0" / "vm_ascend_ms" / "ASCEND_PROFILER_OUTPUT"
    output.mkdir(parents=True)
    (output / "kernel_details.csv").write_text(KERNELS)
    return run


def planned(*words):
    done = command_here("plan", "--config", CONFIG, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_plan_of_the_run_takes_the_measured_step_and_so_does_the_written_file(run, counted, tmp_path):
    file = tmp_path / "mine.yaml"
    found = planned(*KEYS, "--measured", run.path, "--write-hardware", file)
    assert found["step_seconds"] == pytest.approx(1.5 * counted)
    assert found["step_seconds_low"] < 1.485 * counted < 1.515 * counted < found["step_seconds_high"]
    assert found["range_from"] == f"3 steps of {run.path}" and found["hardware"] == "ascend910b"
    (shown,) = found["measured"]["runs"]
    assert (shown["steps"], shown["step_seconds"]) == (3, pytest.approx(1.5 * counted))
    assert shown["kernel_seconds"] == pytest.approx({"MatMulV3": 6e-4, "Mul": 4e-4})
    again = planned(*KEYS, "--device", file)
    assert again["step_seconds"] == pytest.approx(found["step_seconds"]) and again["hardware"] == "mine"
    assert read_hardware_file(file).rates is None and "rates" not in file.read_text()
    other = planned(*KEYS, "--device", file, "parallel.tensor=4")
    assert other["outside_roofline"] == pytest.approx(1.5)


def test_the_text_has_the_factor_and_the_shares_of_kernels(run):
    shown = command_here("plan", "--config", CONFIG, *KEYS, "--measured", run.path, "--explain").stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    for words in ("MatMulV3 60.0%", "Mul 40.0%", f"ascend910b: measured, 3 steps of {run.path}"):
        assert words in lines, words
    assert "a step takes 1.500 (" in shown and "times what the plan counts" in shown


def test_a_search_takes_the_measured_factor(run):
    words = ("devices=8", "training.global_batch=16", *KEYS)
    plain, measured = (planned(*words, "--search", *more) for more in ((), ("--measured", run.path)))
    ours, theirs = (found["search"]["ranked"] for found in (measured, plain))
    assert [x["overrides"] for x in ours] == [x["overrides"] for x in theirs]
    assert ours[0]["step_seconds"] == pytest.approx(1.5 * measured["roofline_seconds"])


def of_factor(config, factor, *, scatter=(1.0,), name="a"):
    step = factor * Plan(config, hardware_of(config)).counted_seconds
    return MeasuredRun(name, config, tuple(step * x for x in scatter), {})


def test_several_runs_and_what_the_roofline_leaves_unexplained_widen_the_range(config):
    other = change(config, training__micro_batch=8, parallel__micro_batches=None)
    runs = [of_factor(config, 1.0), of_factor(other, 1.1, name="b")]
    both = measured_hardware(runs, config).factor
    assert both.value == pytest.approx(math.sqrt(1.1)) and both.high / both.value > 1.15
    exact, slow = (measured_hardware([of_factor(config, x)], config).factor for x in (1.0, 1.5))
    assert exact.high / exact.value == pytest.approx(1.01, abs=1e-3) and slow.high / slow.value > 1.2
    noisy = measured_hardware([of_factor(config, 1.0, scatter=(0.9, 1.0, 1.1))], config).factor
    assert noisy.low < 0.91 and noisy.high > 1.09


def test_three_factors_differ_by_students_t():
    width = 1.886 * math.log(1.1) * math.sqrt(1 + 1 / 3)  # for two degrees of freedom
    assert between([1.2 / 1.1, 1.2, 1.2 * 1.1]) == pytest.approx(width)
    assert between([1.2]) == 0


def test_mistakes_are_one_line_and_2(run, tmp_path):
    cpu = RunDirectory(tmp_path / "cpu")
    cpu.path.mkdir()
    write_config(cpu, load_config("codegeex_tiny", ["devices=1"]))
    broken = next(run.profile.rglob("*.csv"))
    for words, message in (
        (("--measured", tmp_path), "not a run directory"),
        (("--measured", cpu.path), "ran on a CPU; name a run on the accelerator"),
        (("--measured", run.path, "--device", "ascend910"), "has parallel.hardware=ascend910b, the plan ascend910;"),
        (("--measured", run.path, "training.precision=bf16"), "has training.precision=fp16, the plan bf16;"),
        (("--measured", run.path, "--write-hardware", tmp_path / "a.txt"), "is not a name that ends in .yaml"),
        (("--write-hardware", tmp_path / "a.yaml"), "--write-hardware: writes what --measured finds; add it"),
    ):
        done = command_here("plan", "--config", CONFIG, *words)
        assert (done.returncode, done.stdout) == (2, "") and message in done.stderr and done.stderr.count("\n") == 1
    broken.write_text("Type,Duration(us)\nMatMul,fast\n")
    assert "not a table of kernels" in command_here("plan", "--config", CONFIG, "--measured", run.path).stderr
    run.log.write_text("")
    broken.unlink()
    done = command_here("plan", "--config", CONFIG, "--measured", run.path)
    assert "has no step that did not compile; train a few more steps" in done.stderr


def test_a_hardware_file_and_measured_steps_are_too_much(run, tmp_path):
    file = tmp_path / "mine.yaml"
    planned(*KEYS, "--measured", run.path, "--write-hardware", file)
    done = command_here("plan", "--config", CONFIG, "--device", file, "--measured", run.path)
    assert done.returncode == 2 and "has a factor already; set parallel.hardware to a chip" in done.stderr


def test_the_factor_alone_changes_nothing_but_the_time(run, config, tmp_path):
    file = tmp_path / "mine.yaml"
    planned(*KEYS, "--measured", run.path, "--write-hardware", file)
    with_file, plain = (make_plan(load_config(CONFIG, [*KEYS, *x])) for x in ((f"parallel.hardware={file}",), ()))
    assert with_file.time == plain.time and with_file.memory == plain.memory
