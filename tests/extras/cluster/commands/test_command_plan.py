"""`ms-codegeex plan` as a user runs it."""

import json

import pytest
import yaml
from conftest import ROOT, command, command_here

from ms_codegeex import cli
from ms_codegeex.base.options import given
from ms_codegeex.config.loading import load_config
from ms_codegeex.extras.cluster.commands.plan import Arguments, _overrides
from ms_codegeex.extras.cluster.plans.search import config_to_plan, search
from ms_codegeex.extras.cluster.plans.search import to_dict as search_to_dict

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PAPER = ROOT / "configs" / "codegeex_13b.yaml"
BASE = ROOT / "configs" / "codegeex_base_8.yaml"


def as_json(*words):
    result = command_here("plan", "--json", *words)
    return result, json.loads(result.stdout)


def test_the_papers_recipe_in_tables():
    result = command_here("plan", "--config", PAPER)
    assert result.returncode == 0 and result.stderr == ""
    for words in (
        "codegeex 13b on 1,536 x ascend910: data 192 x tensor 8 x pipeline 1, optimizer shards 16",
        "12,873,943,040 parameters; 516.75 PFLOP a step, 632.86 PFLOP executed (+22.5%)",
        "GiB, of 30.0 a run may use: fits",
        "a step takes 9.36 (8.19 to 11.34) s, MFU 11 % (9 to 13); range: one published run, ",
        "this configuration, packed data     135,100     849.98 G           849.98 G            1.00 x",
        "packed data, the published steps    213,000       1.34 T             1.34 T            1.58 x",
        "published: padded data, 63% filled  213,000       1.34 T           850.00 G            1.00 x",
        "58.08 G token slots a day",
        "fused attention",
        "\n\nAscend 910: the newest MindSpore that a published page names for it is 2.2.14 ",
    ):
        assert words in result.stdout
    assert all(len(line) < 240 and line == line.rstrip() for line in result.stdout.splitlines())


def test_json_has_the_promised_keys():
    result, plan = as_json("--config", PAPER, "--tokens", "850e9")
    assert result.returncode == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("ms-codegeex plan: Ascend 910: the newest MindSpore")
    assert not as_json("--config", BASE, "--device", "a100")[0].stderr
    promised = {"parameters", "model_flops", "executed_flops", "devices", "memory_bytes", "communication"}
    assert promised | {"step_seconds", "mfu", "fits", "problems"} <= plan.keys()
    assert plan["parameters"] == 12_873_943_040 and plan["devices"] == 1536
    assert plan["fits"] is True and plan["problems"] == []
    stage = plan["memory_bytes"]["0"]
    categories = "weights gradients optimizer_state gathered_weights activations workspace communication"
    assert sum(stage[name] for name in categories.split()) == stage["total"] < stage["capacity"]
    assert 0 < plan["spare"] == pytest.approx(1 - stage["total"] / stage["capacity"])
    (listed,) = plan["communicators"].values()
    assert [x["groups"] for x in listed][:2] == [["tensor"], ["data"]] and listed[1]["devices"] == 192
    assert sum(x["bytes"] for x in listed) == stage["communication"]
    assert plan["communication"]["optimizer"]["link"] == "cluster"
    assert plan["days"] == pytest.approx(850 / 58.08, rel=0.01)
    assert plan["device_hours"] == pytest.approx(plan["days"] * 24 * 1536)


@pytest.mark.parametrize(
    "name,steps,tokens,decay",
    [("codegeex_13b", 135_100, 850e9, 126_850), ("codegeex_13b_published_steps", 213_000, 1.34e12, 200_000)],
)
def test_both_recipes_of_the_13b_beside_the_published_figures(name, steps, tokens, decay):
    path = ROOT / "configs" / f"{name}.yaml"
    _, plan = as_json("--config", path)
    assert plan["steps"] == steps and plan["tokens"] == pytest.approx(tokens, rel=1e-3)
    published = plan["published"]
    assert published == {"steps": 213_000, "slots": 213_000 * 3072 * 2048, "tokens": 850e9, "packed_steps": 135_104}
    assert (published["packed_steps"] - 1) * 3072 * 2048 < 850e9 <= published["packed_steps"] * 3072 * 2048
    schedule = load_config(path).training.schedule
    assert schedule.decay_steps == decay
    assert schedule.decay_steps / steps == pytest.approx(200_000 / 213_000, rel=1e-4)
    assert schedule.warmup_steps == 2000 and schedule.learning_rate == 1e-4 and schedule.end_learning_rate == 1e-6


def test_models_without_a_published_run_print_none():
    assert as_json("--config", BASE)[1]["published"] is None
    assert "with the published run" not in command_here("plan", "--config", BASE).stdout


def test_a_step_is_one_figure_with_a_range_that_says_where_it_comes_from():
    words = ["--config", ROOT / "configs" / "codegeex_13b_64.yaml"]
    _, found = as_json(*words)
    assert found["outside_roofline_measured_on"] == "ascend910b"
    assert found["range_from"] == "62 published runs on ascend910b"
    assert found["step_seconds_low"] < found["step_seconds"] < found["step_seconds_high"]
    assert found["mfu_low"] < found["mfu"] < found["mfu_high"]
    limits = [found[name] for name in ("step_seconds", "step_seconds_low", "step_seconds_high")]
    shown = "a step takes {:.1f} ({:.1f} to {:.1f}) s, MFU ".format(*limits)
    plain, explained = (command_here("plan", *words, *more).stdout for more in ((), ("--explain",)))
    assert plain.count(shown) == explained.count(shown) == 1
    parts = ("  roofline  ", "with the overlap of compiled graphs", "best: x ", "MindFormers' pages", "five tuned")
    assert [part in explained for part in parts] == [True] * 5 and not any(part in plain for part in parts)


def test_devices_hardware_and_overrides_change_the_plan():
    words = ["--config", PAPER, "--devices", "64", "--device", "ascend910b"]
    _, plan = as_json(*words, "parallel.optimizer_shard=8", "training.micro_batch=16")
    assert (plan["devices"], plan["hardware"], plan["mesh"]["data"]) == (64, "ascend910b", 8)
    assert plan["memory_bytes"]["0"]["capacity"] == 58 * 2**30


def test_what_does_not_fit_exits_with_1_and_says_how_it_would():
    result, plan = as_json("--config", PAPER, "training.recompute=none")
    assert result.returncode == 1
    assert plan["fits"] is False and "training.recompute=full" in plan["problems"][0]
    assert result.stderr.splitlines()[0] == f"ms-codegeex plan: {plan['problems'][0]}"


@pytest.mark.parametrize(
    "words,message",
    [
        (["--config", "missing.yaml"], "--config: missing.yaml is neither a file nor a shipped name"),
        (["--config", PAPER, "--device", "ascend911"], "parallel.hardware: 'ascend911' is unknown; did you mean"),
        (["--config", PAPER, "--devices", "1000"], "training.global_batch: 3072 does not divide by the 125"),
        (["--config", PAPER, "--tokens", "-1"], "--tokens: -1.0 is out of range; give above 0"),
        (["--config", PAPER, "--tokens", "nan"], "--tokens: nan is out of range"),
        (["--config", PAPER, "parallel.tensr=8"], "parallel.tensr: unknown key"),
        (["--config", BASE, "--plot", "/nowhere/memory.png"], "--plot: /nowhere/memory.png cannot be written"),
    ],
    ids=lambda value: " ".join(str(getattr(word, "name", word)) for word in value) if isinstance(value, list) else "",
)
def test_mistakes_end_with_one_line_and_2(words, message):
    result = command_here("plan", *words)
    assert result.returncode == 2 and result.stdout == ""
    assert message in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize("word", ["search", "overlap", "explain", "sources", "write=a", "tokens=9", "plot=a"])
def test_options_of_training_are_refused_with_inference(word):
    result = command_here("plan", "--config", BASE, "--inference", f"--{word}")
    message = f"--{word.partition('=')[0]}: is for plans of training; leave it out, or --inference"
    assert (result.returncode, result.stdout, result.stderr) == (2, "", f"ms-codegeex plan: {message}\n")


def test_the_picture_is_a_png(tmp_path):
    path = tmp_path / "memory.png"
    assert command_here("plan", "--config", BASE, "--plot", path).returncode == 0
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def test_search_ranks_what_fits_and_counts_what_does_not():
    result, plan = as_json("--config", BASE, "--search")
    assert result.returncode == 0
    found = plan["search"]
    seconds = [row["step_seconds"] for row in found["ranked"]]
    assert seconds == sorted(seconds) and len(seconds) > 10
    assert found["feasible"] + sum(found["infeasible"].values()) == found["tried"]
    assert found["infeasible"].keys() == {"memory", "parallel.micro_batches", "parallel.tensor"}
    assert plan["step_seconds"] == seconds[0]  # the plan shown is the best one
    assert all(row["memory_bytes"] <= plan["memory_bytes"]["0"]["capacity"] for row in found["ranked"])
    again = as_json("--config", BASE, *found["ranked"][3]["overrides"].split())[1]
    assert again["step_seconds"] == seconds[3] and again["fits"]


BARE = {"device": "ascend", "model": {"preset": "base"}, "parallel": {"optimizer_shard": 2, "tensor": 2}}


@pytest.mark.parametrize(
    "words",
    [
        [BASE, "parallel.micro_batches=8"],
        [BASE, "parallel.data=8"],
        [BASE, "parallel.tensor=2", "parallel.optimizer_shard=1", "parallel.sequence=true"],
        # meshes that do not suit the devices
        [BASE, "--devices", "24", "training.global_batch=192", "parallel.tensor=4", "parallel.sequence=true"],
        [BASE, "--devices", "24", "training.global_batch=192", "parallel.pipeline=5", "parallel.micro_batches=8"],
        [ROOT / "configs" / "codegeex_tiny_release.yaml", "device=ascend", "devices=8", "parallel.data=8"],
        [None, "training.steps=1", "training.global_batch=64"],
    ],
    ids=lambda words: " ".join(getattr(word, "stem", str(word)) for word in words),
)
def test_what_search_prints_gives_the_plan_on_the_same_command_line(tmp_path, words):
    path, *words = words
    if path is None:  # the number of devices is that of the axes
        path = tmp_path / "bare.yaml"
        path.write_text(yaml.safe_dump(BARE))
    config, aside = planned(path, words, "--search")
    found = search(config, aside=aside)
    assert len(found.ranked) > 10
    for plan, row in list(zip(found.ranked, search_to_dict(found)["ranked"], strict=False))[::6]:
        again, _ = planned(path, [*words, *row["overrides"].split()])
        assert (again.devices, again.mesh) == (plan.config.devices, plan.config.mesh), row
        assert (again.micro_batch, again.accumulation) == (plan.config.micro_batch, plan.config.accumulation), row
        assert again.training.recompute == plan.config.training.recompute


def planned(path, words, *more):
    arguments = given(Arguments, cli.parse(["plan", "--config", str(path), *words, *more]))
    return config_to_plan(path, _overrides(arguments), arguments.search)


def test_what_no_mesh_allows_is_refused_with_and_without_a_search():
    words = ("device=ascend", "model.family=qwen2", "model.preset=7b", "parallel.hardware=ascend910b")
    words = ("--config", "finetune_lora", *words, "devices=8", "training.precision=bf16", "lora.frozen=bf16")
    (text,) = {command_here("plan", *words, *more).stderr for more in ((), ("--search",))}
    assert text.endswith("; set devices=1, or lora.frozen=fp32\n")


def test_a_search_starts_from_a_file_that_it_wrote_on_any_number_of_devices(tmp_path):
    """A server is lost: 24 devices instead of 32."""
    mine, smaller = tmp_path / "mine.yaml", tmp_path / "smaller.yaml"
    words = ("training.global_batch=192", "parallel.hardware=ascend910", "model.num_layers=15")
    first = command_here("plan", "--config", BASE, "--devices", "32", "--search", "--write", mine, *words)
    assert first.returncode == 0, first.stderr
    rows = [line for line in first.stdout.partition("\n\n")[0].splitlines() if "%" in line]
    plans = [row.split(None, 1)[1].rsplit(None, 4)[0] for row in rows]
    assert len(set(plans)) == len(plans) == 12 and max(map(len, rows)) <= 100
    assert "\nthe first one, whose costs are below: parallel.tensor=" in first.stdout
    values = yaml.safe_load(mine.read_text())
    values["training"]["recompute_blocks"] = [1, 0, 0, 0]  # as of a pipeline
    values["parallel"].update(pipeline=4, tensor=2, data=4, optimizer_shard=4)
    values["training"]["recompute"] = "full"
    mine.write_text(yaml.safe_dump(values))
    refused = command_here("plan", "--config", mine, "--devices", "24")
    assert refused.returncode == 2
    assert refused.stderr.endswith("; or add --search, which chooses the mesh for 24 devices\n")
    found = command_here("plan", "--config", mine, "--devices", "24", "--search", "--write", smaller)
    assert found.returncode == 0, found.stderr
    assert found.stderr.startswith("ms-codegeex plan: set aside, because the search chooses them: parallel.tensor=2 ")
    assert "training.recompute_blocks=[1,0,0,0]" in found.stderr and "on 24 x ascend910" in found.stdout
    assert load_config(smaller).devices == 24 and command_here("plan", "--config", smaller).returncode == 0
    again = command_here("plan", "--config", smaller, "devices=32", "parallel.data=null", "--search")  # in another way
    assert again.returncode == 0 and "on 32 x ascend910" in again.stdout


def test_a_batch_that_suits_no_mesh_is_one_line():
    result = command_here("plan", "--config", "finetune_lora_13b", "--devices", "24", "--search")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.splitlines()[-1].startswith("ms-codegeex plan: training.global_batch: 16 does not divide by")


def test_a_mistake_that_no_mesh_solves_does_not_lead_to_a_search():
    for words in (("--devices", "24", "training.stepz=3"), ("--devices", "24", "model.num_heads=41", "--search")):
        result = command_here("plan", "--config", PAPER, *words)
        assert result.returncode == 2 and "--search" not in result.stderr and result.stderr.count("\n") == 1


def test_search_without_any_plan_fails(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text(yaml.safe_dump({"base": str(PAPER), "model": {"preset": "200b"}}))
    result, plan = as_json("--config", path, "--devices", "8", "--search", "--write", tmp_path / "best.yaml")
    assert result.returncode == 1 and not (tmp_path / "best.yaml").exists()
    assert plan["search"]["ranked"] == [] and plan["fits"] is False
    _, problem, nothing, *_ = result.stderr.splitlines()
    assert problem == f"ms-codegeex plan: {plan['problems'][0]}"
    assert problem.endswith("; no single change fits; try more devices")
    assert nothing == "ms-codegeex plan: --write: nothing was written, since no plan fits"


def test_sources_are_printed_on_request():
    result = command_here("plan", "--config", BASE, "--sources", "parallel.hardware=ascend910")
    assert "? peak_fp16 = 3.146e+14: 32 cores" in result.stdout and "usable_memory" in result.stdout


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_fits(path):
    tiny = path.name in ("finetune_full.yaml", "finetune_lora.yaml")  # the command names their model
    words = ["model.preset=tiny"] if tiny else []
    assert command_here("plan", "--config", path, *words).returncode == 0


def test_planning_loads_no_engine(tmp_path):
    (tmp_path / "mindspore.py").write_text("raise SystemExit('the engine was imported')")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    assert command("plan", "--config", PAPER, "--json", environment=environment).returncode == 0
