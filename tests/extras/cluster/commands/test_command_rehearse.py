"""`ms-codegeex rehearse` as a user runs it; what it executes and judges is tested in tests/rehearsal."""

import json
from dataclasses import replace

import pytest
from conftest import ROOT, command, small_run, write_config

from ms_codegeex import cli
from ms_codegeex.base.mesh import Mesh
from ms_codegeex.base.shipped import find_config
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.extras.cluster.rehearsal import execute, first_contact
from ms_codegeex.extras.cluster.rehearsal.compare import Comparison, ParameterError
from ms_codegeex.extras.cluster.rehearsal.coverage import not_executed
from ms_codegeex.extras.cluster.rehearsal.shrink import on_devices

TINY = ROOT / "configs" / "codegeex_tiny_release.yaml"
PAPER = ROOT / "configs" / "codegeex_13b.yaml"
PROMISED = {"verdict", "ranks", "steps", "loss_relative_error", "parameter_relative_error", "replicas_equal"}
PROMISED |= {"compile_seconds", "peak_memory_bytes"}


@pytest.fixture
def small(tmp_path):
    """A configuration file that trains on two devices."""
    return write_config(tmp_path / "small.yaml", {**small_run(tmp_path, tmp_path / "run"), "devices": 2})


def test_help_explains_with_examples():
    result = command("rehearse", "--help")
    assert result.returncode == 0 and result.stderr == ""
    examples = [line.split() for line in result.stdout.splitlines() if line.startswith("  ms-codegeex rehearse")]
    assert len(examples) >= 4
    for words in examples:
        arguments = cli.parse(words[1:])
        assert find_config(arguments.config).is_file()
    for flag in ("--execute", "--compile", "--ranks", "--mesh", "--steps", "--json"):
        assert flag in result.stdout


def refused(words, capsys):
    assert cli.main(["rehearse", "--config", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return printed.err.removeprefix("ms-codegeex rehearse: ")


ALONE = "devices: 1 device has nothing to share; give --devices N or a parallel.* key above 1, or --compile"
PHASE = "but only --{} was requested; leave one of the two out"


@pytest.mark.parametrize(
    "words,message",
    [  # tests/extras/cluster/plans/test_misconfigurations.py has the mistakes of a mesh and of a configuration
        ("--execute --steps 2", "--steps: 2 steps are too few to show an error that builds up; give 4 or more"),
        ("--execute --mesh nonsense", "--mesh: found 'nonsense', expected axis=size like data=2,tensor=2,pipeline=1"),
        ("--execute --mesh data=2,optimizer_shard=4", "parallel.optimizer_shard: 4 does not divide the 2"),
        ("--execute --compile --ranks 99", "--ranks: found '99', expected distinct, all, or numbers from 0 to 1"),
        ("--execute --compile --ranks first", "--ranks: found 'first'"),
        ("--execute --compile --ranks=", "--ranks: found ''"),
        pytest.param(f"--execute --compile --ranks {'9' * 5000}", f"--ranks: found '{'9' * 60}', ", id="long ranks"),
        ("--execute --devices 3 training.global_batch=9", "devices: MindSpore cannot partition for 3 devices"),
        ("--execute devices=1", ALONE),
        ("--execute parallel.tensr=2", "parallel.tensr: unknown key; did you mean 'tensor'?"),
        ("--compile --mesh data=2", f"--mesh: is for --execute, {PHASE.format('compile')}"),
        ("--compile --steps 8", f"--steps: is for --execute, {PHASE.format('compile')}"),
        ("--execute --ranks 0", f"--ranks: is for --compile, {PHASE.format('execute')}"),
        ("--execute --target ascend", f"--target: is for --compile, {PHASE.format('execute')}"),
        ("--streams", "--streams: the streams of Ascend's back end need a compilation with --target ascend"),
        ("--streams --target gpu --compile", "--streams: the streams of Ascend's back end need"),
    ],
)
def test_mistakes_end_with_one_line_and_2(small, capsys, words, message):
    assert refused([str(small), *words.split()], capsys).startswith(message)


def test_fusions_chosen_for_a_cpu_are_not_held_against_the_device_that_stands_in(small):
    off = [f"parallel.fusion.{name}=false" for name in ("dropout", "attention", "graph_kernel")]
    config = on_devices(load_config(small, ["training.dropout=0.1", "parallel.fusion.norm=false", *off]))
    fusion = config.parallel.fusion
    assert config.device == "ascend" and config.training.dropout == 0.1
    assert (fusion.dropout, fusion.attention, fusion.graph_kernel) == (None, None, None) and fusion.norm is False


def test_mistakes_in_a_process_of_its_own(small):
    result = command("rehearse", "--config", small, "--execute", "--steps", "2")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("ms-codegeex rehearse: --steps: 2 steps") and result.stderr.count("\n") == 1


@pytest.mark.parametrize("phases", [[], ["--execute"]], ids=["before it compiles", "executed"])
def test_a_mesh_too_large_for_the_machine_is_refused_with_the_memory_it_needs(small, capsys, phases):
    found = refused([str(small), "--mesh", "data=4096", *phases], capsys)
    assert found.startswith("--mesh: the 4096 ranks of data 4096 x tensor 1 x pipeline 1 need about 2252.8 GB")
    assert "GB are free; choose a smaller mesh" in found


@pytest.mark.slow
def test_one_device_is_compiled(small):
    result = command("rehearse", "--config", small, "devices=1", "--compile", "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout)
    checks = {check["name"]: check for check in report["compile"]["checks"]}
    assert report["verdict"] == "pass" and "rank 0, FLOPs of matrix products" in checks


@pytest.mark.slow
def test_executed_on_two_processes(small):
    result = command("rehearse", "--config", small, "--devices", "2", "--execute", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1 and found.keys() >= PROMISED
    assert (found["verdict"], found["ranks"], found["steps"]) == ("pass", 2, 5)
    assert 0 <= found["loss_relative_error"] <= 1e-5 and 0 <= found["parameter_relative_error"] <= 1e-4
    assert found["replicas_equal"] is True and found["problems"] == []
    assert found["compile_seconds"] > 0 and 2e8 < found["peak_memory_bytes"] < 8e9
    assert found["collectives"]["AllReduce"] > 10 and found["compile"] is None
    assert any("query and key swapped" in line for line in found["not_executed"]) and found["warnings"] == []


# --- verdicts, without their minutes of work ---


def finished(config, problems):
    """An execution of `config` on two processes that ended with these problems."""
    errors = (ParameterError("blocks.0.attention.query.weight", 1, 0.5 if problems else 1e-7),)
    found = Comparison(5, 0, 3, 2, 1e-6, 0.9, 0.05, 1e-7, None, errors, not problems, problems)
    ran = replace(config, devices=2)
    return execute.ExecutionReport(config.mesh, ran, found, 3.0, 1_000_000_000, {"AllReduce": 40})


PROBLEM = "blocks.0.attention.query.weight: rank 1 differs from one device by 5.0e-01 of its movement (limit 1e-04)"


@pytest.mark.parametrize("problems,status", [((), 0), ((PROBLEM,), 1)], ids=["right", "wrong"])
def test_the_verdict_is_a_table_and_the_exit_status(small, monkeypatch, capsys, problems, status):
    asked = []

    def stand_in(config, mesh, steps, progress):
        asked.append((config.device, mesh, steps))
        return finished(config, problems)

    monkeypatch.setattr(execute, "execute", stand_in)
    words = ["rehearse", "--config", str(small), "--execute", "--mesh", "data=2", "--steps", "6"]
    assert cli.main(words) == status
    assert asked == [("ascend", Mesh(data=2), 6)]  # rehearsed as the engine would partition it
    table = capsys.readouterr().out
    assert ("PASS: it trains as one device does" if not problems else "FAIL") in table.splitlines()[0]
    assert "data 2 x tensor 1 x pipeline 1  ->  data 2" in table and "40 AllReduce" in table
    assert (f"  problem: {PROBLEM}" in table) == bool(problems)
    assert cli.main([*words, "--json"]) == status
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == ("fail" if problems else "pass") and answer["problems"] == list(problems)
    assert answer["replicas_equal"] is not bool(problems)


WARNING = "warning: the plan needs 262.7 GiB on a device of stage 0, a run on ascend910 may use 30.0"


@pytest.mark.parametrize("words,warned", [(["training.recompute=none"], True), ([], False)], ids=["too large", "fits"])
def test_a_plan_that_does_not_fit_is_warned_of_before_it_is_executed(monkeypatch, capsys, words, warned):
    monkeypatch.setattr(execute, "execute", lambda config, mesh, steps, progress: finished(config, ()))
    monkeypatch.setattr(execute, "check_memory", lambda mesh: None)
    assert cli.main(["rehearse", "--config", str(PAPER), *words, "--execute", "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith(f"ms-codegeex rehearse: {WARNING}") == warned == bool(printed.err)
    assert len(json.loads(printed.out)["warnings"]) == warned


def test_what_is_not_executed_is_printed_beside_the_verdict(small, capsys, monkeypatch):
    config = load_config(ROOT / "configs" / "codegeex_13b_planned.yaml")
    lines = not_executed(config, execute.shrunk(config, execute.small_mesh(config.mesh)))
    for words in ("query and key swapped", "lazy inlining", "fused kernels (graph_kernel, norm)", "the mesh data 192"):
        assert sum(words in line for line in lines) == 1

    def stand_in(config, mesh, steps, progress):
        return replace(finished(config, ()), left_out=tuple(lines))

    monkeypatch.setattr(execute, "execute", stand_in)
    assert cli.main(["rehearse", "--config", str(small), "--execute"]) == 0
    table = capsys.readouterr().out
    assert all(f"  not executed: {line}" in table for line in lines)
    assert cli.main(["rehearse", "--config", str(small), "--execute", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_executed"] == lines


def test_lazy_inlining_is_executed_without_a_pipeline_and_with_virtual_stages():
    for stages, without, missing in ((1, False, True), (2, False, False), (1, True, False)):
        config = load_config(ROOT / "configs" / "codegeex_13b_pipeline.yaml", [f"parallel.virtual_stages={stages}"])
        mesh = Mesh(data=2) if without else execute.small_mesh(config.mesh)
        lines = not_executed(config, execute.shrunk(config, mesh))
        assert any("lazy inlining" in line for line in lines) == missing


def test_the_default_mesh_keeps_every_axis_and_says_so(monkeypatch, capsys):
    def stand_in(config, mesh, steps, progress):
        assert mesh is None and steps is None
        return replace(finished(config, ()), config=execute.shrunk(config, execute.small_mesh(config.mesh)))

    monkeypatch.setattr(execute, "execute", stand_in)
    monkeypatch.setattr(execute, "check_memory", lambda mesh: None)
    assert cli.main(["rehearse", "--config", str(PAPER), "--execute"]) == 0
    first = "data 192 x tensor 8 x pipeline 1, optimizer shards 16  ->  data 4 x tensor 2 x pipeline 1, optimizer shar"
    assert first in capsys.readouterr().out


def test_a_shrunk_run_keeps_what_can_be_wrong():
    training = {"steps": 900, "global_batch": 64, "precision": "fp16", "recompute": "full"}
    parallel = {"tensor": 4, "pipeline": 4, "optimizer_shard": 2, "sequence": True, "micro_batches": 4}
    values = {"device": "ascend", "devices": 64, "training": training, "parallel": parallel}
    config = build_run_config({**values, "profile": {"steps": "100..110"}})
    small = execute.shrunk(config, execute.small_mesh(config.mesh))
    assert small.mesh == Mesh(4, 2, 2, 2) and small.devices == 16
    assert (small.parallel.sequence, small.parallel.vocabulary) == (True, True)
    assert (small.training.recompute, small.training.precision) == ("full", "fp16")
    assert small.accumulation == 2 and small.training.clip_norm > 0 and small.training.dropout == 0.25
    assert small.model.sizes.parameter_count() < 200_000


@pytest.mark.parametrize("problem,status", [(None, 0), ("stages differ", 1)], ids=["met", "refused"])
def test_the_verdict_of_a_first_contact(monkeypatch, capsys, problem, status):
    """Of a rank that would train; `tests/extras/cluster/rehearsal/test_first_contact.py` meets the plugin."""
    figures = {"groups": 1, "planned_groups": 1, "memory_bytes": 2**30, "planned_bytes": 2**30}
    figures |= {"saved_bytes": 5, "planned_saved_bytes": 5, "seconds": 9.0, "problem": problem}
    contact = first_contact.RankContact(rank=0, stage=0, driver="Ascend910A", **figures)
    monkeypatch.setattr(first_contact, "first_contact", lambda *_: [contact])
    words = ["rehearse", "--config", "codegeex_base_8", "--first-contact", "parallel.hardware=ascend910"]
    assert cli.main(words) == status
    assert "first contact with Ascend910A" in capsys.readouterr().out
    assert cli.main([*words, "--json"]) == status
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == ("fail" if problem else "pass") and len(answer["first_contact"]) == 1
