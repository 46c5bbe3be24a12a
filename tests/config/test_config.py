from functools import reduce

import pytest
from conftest import ROOT, write_config
from remedies_in_code import settings_in

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.host import available_cores
from ms_codegeex.config import RunConfig
from ms_codegeex.config.loading import load_config
from ms_codegeex.config.model import model_config
from ms_codegeex.config.rules import build_run_config
from ms_codegeex.config.values import flattened, parse_overrides
from ms_codegeex.models.codegen.config import CodeGenConfig

TINY = ROOT / "configs" / "codegeex_tiny_release.yaml"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_configuration_loads(path):
    values = load_config(path).to_dict()
    assert build_run_config(values).to_dict() == values
    assert build_run_config({**values, "stage": None}).to_dict() == values  # as runs of earlier versions have it


def test_resolved_configuration_builds_itself_again(tmp_path):
    config = load_config(TINY, ["training.steps=7", "model.hidden_size=64"])
    again = load_config(write_config(tmp_path / "resolved.yaml", config.to_dict()))
    assert again.to_dict() == config.to_dict()
    assert again.model.sizes == config.model.sizes


def test_the_model_is_resolved_once_to_the_sizes_of_its_family():
    config = load_config(None, ["training.steps=1", "model.family=codegen", "model.preset=2b-nl", "model.num_layers=3"])
    assert config.model == model_config({"family": "codegen", "preset": "2b-nl", "num_layers": 3})
    assert (config.family, config.model.preset) == ("codegen", "2b-nl")
    sizes = CodeGenConfig(hidden_size=2560, num_layers=3, num_heads=32, intermediate_size=10240, rotary_dim=64)
    assert config.model.sizes == sizes
    assert RunConfig().model.sizes == model_config({"family": "codegeex", "preset": "13b"}).sizes


def test_base_is_merged_below_and_relative_to_its_file(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "base.yaml").write_text("training: {steps: 5, global_batch: 8}\nmodel: {preset: tiny}\n")
    path = tmp_path / "run.yaml"
    path.write_text("base: parts/base.yaml\ntraining: {steps: 9}\n")
    config = load_config(path, ["training.schedule.learning_rate=1e-3"])
    assert (config.training.steps, config.training.global_batch) == (9, 8)
    assert config.training.schedule.learning_rate == 1e-3  # YAML reads 1e-3 as text; the type decides


def test_the_home_directory_in_files_and_overrides(tmp_path, monkeypatch):
    """No shell sees the `~` of a file, or the one behind `data.train=`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "base.yaml").write_text("output: ~/runs\nmodel: {preset: tiny}\ntraining: {steps: 5}\n")
    path = tmp_path / "run.yaml"
    path.write_text("base: ~/base.yaml\ndata: {tokenizer: ~, blend: [{from_step: 0, weights: {~/a: 1, ~b/c: 1}}]}\n")
    config = load_config(path, ["data.held_out={C: ~/c}", "checkpoint.resume=~/x/~/y"])
    found = (config.output, *config.data.directories, config.data.held_out["C"], config.checkpoint.resume)
    assert found == (f"{tmp_path}/runs", f"{tmp_path}/a", "~b/c", f"{tmp_path}/c", f"{tmp_path}/x/~/y")
    assert config.data.tokenizer is None


def test_overrides_are_yaml_values():
    found = parse_overrides(["a.b=1", "a.c=null", "d=[1, 2]", "e=x=y"])
    assert found == {"a": {"b": 1, "c": None}, "d": [1, 2], "e": "x=y"}


def test_flattened_values_have_dotted_keys_and_a_blend_is_one_of_them():
    tree = {"seed": 1, "data": {"blend": {"a": 1}, "workers": 2}, "model": {}}
    assert flattened(tree) == {"seed": 1, "data.blend": {"a": 1}, "data.workers": 2, "model": {}}


def test_steps_follow_from_tokens():
    config = load_config(TINY, ["training.steps=null", "training.tokens=10000", "training.global_batch=4", "devices=1"])
    assert config.steps == 10  # 10000 / (4 · 256), rounded up


def test_default_devices_use_two_cores_if_the_batch_can_be_shared():
    two = 2 if available_cores() >= 2 else 1
    assert load_config(TINY).devices == two
    assert load_config(TINY, ["training.global_batch=3"]).devices == 1
    assert load_config(TINY, ["devices=4"]).devices == 4


SILENT = ["cluster.silent_check=true", "device=ascend"]
BAD = [
    (["trainin.steps=4"], "trainin: unknown key; did you mean 'training'?"),
    (["training.step=4"], "training.step: unknown key; did you mean 'steps'?"),
    (["training.optimizer.beta3=0.9"], "training.optimizer.beta3: unknown key; did you mean 'beta"),
    (["model.hidden_sise=4"], "model.hidden_sise: unknown key; did you mean 'hidden_size'?"),
    (["training.steps=many"], "training.steps: found 'many'"),
    (["training.steps=1.5"], "training.steps: found 1.5"),
    (["training.steps=true"], "training.steps: found True"),
    (["seed=99999999999999999999"], "seed: found 99999999999999999999"),
    (["training.tokens=1000"], "training.tokens: training.steps is given too"),
    (["training.steps=0"], "training.steps: found 0"),
    (["training.steps=null"], "training.steps: missing"),
    (["model.hidden_size=wide"], "model.hidden_size: found 'wide'"),
    (["model.num_heads=3"], "model.num_heads: 3 does not divide model.hidden_size 128"),
    (["devices=3"], "training.global_batch: 16 does not divide by the 3"),
    (["devices=2", "parallel.data=1"], "parallel.data: 1 replicas"),
    (["training.micro_batch=3", "devices=1"], "training.micro_batch: 3 does not divide"),
    (["data.seq_length=512"], "data.seq_length: 512 is longer"),
    (["training.precision=fp8"], "training.precision: found 'fp8'"),
    (["training.precision=fp16", "training.loss_chunk=8"], "training.loss_chunk"),
    (["training..steps=4"], "'training..steps=4': not an override"),
    (["training.schedule={warmup_steps: 900, decay_steps: 9}"], "training.schedule.warmup_steps: 900"),
    (["training=3"], "training: found 3, expected a section"),
    (["model=3"], "model: found 3; expected a section with keys family, preset and sizes of the family"),
    (["model.preset=huge"], "model.preset: 'huge' is unknown"),
    (["model.family=gpt"], "model.family: 'gpt' is unknown"),
    (["device=tpu"], "device: found 'tpu'"),
    (["training.dropout=1.0"], "training.dropout: found 1.0"),
    (["profile.steps=3"], "profile.steps: found 3"),
    (["profile.steps=0..3"], "profile.steps: found '0..3'"),
    (["profile.steps=4..3"], "profile.steps: 4..3 ends before it begins"),
    (["training.steps=9", "profile.steps=8..10"], "profile.steps: 8..10 goes beyond training.steps 9"),
    (["profile.steps=1..2", "profile.ranks=[0,2]", "devices=2"], "profile.ranks: 2, but devices: 2; give 0 to 1"),
    (["profile.level=3"], "profile.level: found 3"),
    ([*SILENT, "devices=1"], "cluster.silent_check: looks at gradients before they are added up"),
    ([*SILENT, "devices=2", "training.precision=fp16"], "cluster.silent_check: counts infinite gradients"),
    ([*SILENT, "devices=2", "parallel.optimizer_shard=2"], "cluster.silent_check: MindSpore 2.9 does not compile it"),
    (["cluster.stress_check=true"], "cluster.stress_check: found True"),
    (["training.z_loss=true"], "training.z_loss: found True; input should be a valid number"),
    (["training.schedule.learning_rate=false"], "training.schedule.learning_rate: found False"),
    (["lora.alpha=true"], "lora.alpha: found True"),
    (["lora.rank=4", "lora.targets=[]"], "lora.targets: none; name layers that get adapters"),
    (["stages=[{name: nl}]"], "stages: no longer a key; train one file after the other, each with --from RUN of the"),
    (["stages.nl.seed=3"], "stages: no longer a key; train one file after the other"),
    (["stage=mono"], "stage: no longer a key; delete it; give the file of that stage as --config"),
    (["steps"], "'steps': not an override"),
    (["training.seed=2"], "training.seed: unknown key; did you mean 'seed'?"),
    (["steps=3"], "steps: unknown key; did you mean 'training.steps' or 'profile.steps'?"),
    (["training.Global-Batch=3"], "unknown key; did you mean 'global_batch'?"),
    (["base=codegen_tiny"], "base: is a key of files; give its file as --config"),
    (["training.steps=012"], "training.steps: found '012'; input should be a valid integer"),
    (["training.steps=1:30"], "training.steps: found '1:30'; input should be a valid integer"),
    (["training.steps=2.5e0"], "training.steps: found 2.5; input should be a valid integer"),
    (["output=true"], "output: found True; input should be a valid string; put it in quotes"),
    (["output=runs/a #b"], """where YAML takes # for a comment; quote it as '"runs/a #b"'"""),
    (["output=@a"], """quote it as '"@a"'"""),
    (["lora.targets=attention,query"], "input should be a valid list; write [attention,query]"),
    (["parallel.stage_layers=3"], "input should be a valid list; write [3]"),
    (["profile.steps=6-8"], "profile.steps: found '6-8'; expected the first and the last step, as in 6..8"),
    (["cluster.interface=eth 0"], "cluster.interface: found 'eth 0'; expected a name such as eth0"),
    (["seed=[1"], "seed: found '[1'"),
]


@pytest.mark.parametrize("overrides,message", BAD, ids=[" ".join(o) for o, _ in BAD])
def test_mistakes_name_the_key_in_one_line(overrides, message):
    with pytest.raises(UserError) as error:
        load_config(TINY, overrides)
    assert message in str(error.value) and "\n" not in str(error.value)
    if "for example" not in message and "not an override" not in message:
        for settings in settings_in(str(error.value)):
            load_config(TINY, [*overrides, *settings])


@pytest.mark.parametrize(
    "text,message",
    [
        ("training: [", "not valid YAML at line"),
        ("- a\n", "found a list"),
        ("# training:\n", "found nothing, expected sections"),
        ("base: missing.yaml\n", "no such configuration file"),
        ("base: self.yaml\n", "comes back to itself"),
        ("base: 3\n", "base: found 3"),
        ("\x00", "not valid YAML"),
    ],
)
def test_bad_files_are_named(tmp_path, text, message):
    path = tmp_path / "self.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    assert str(tmp_path) in str(error.value)


WRITTEN = {  # what people write, the key that has it then, and its value
    "training.tokens=1e6": ("training", "tokens", 1_000_000),
    "training.steps=2_000": ("training", "steps", 2000),
    "training.global_batch=16.0": ("training", "global_batch", 16),
    "seed=0x10": ("seed", 16),
    "training.schedule.learning_rate=1e-4": ("training", "schedule", "learning_rate", 1e-4),
    "training.schedule.cosine_after_warmup=yes": ("training", "schedule", "cosine_after_warmup", True),
    "output=2026-11-29": ("output", "2026-11-29"),
    "output=12:30": ("output", "12:30"),
    "output=007": ("output", "007"),
    "output=1": ("output", "1"),
    "output=on": ("output", "on"),
    "output=a#b": ("output", "a#b"),
    "output='a #b'": ("output", "a #b"),
    "data.held_out={2024: 2025}": ("data", "held_out", {"2024": "2025"}),
    "training=": ("training", "global_batch", 8),
    "training.schedule=null": ("training", "schedule", "decay", "linear"),
    "model=": ("model", "family", "codegeex"),
}


@pytest.mark.parametrize("word", WRITTEN)
def test_values_as_people_write_them(tmp_path, word):
    *path, value = WRITTEN[word]
    key, _, text = word.partition("=")
    lines = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(key.split(".")))
    (tmp_path / "run.yaml").write_text(f"base: codegeex_tiny\n{lines[:-1]} {text}\n")
    others = ["training.steps=null"] if "tokens" in path else []
    for file, words in (("codegeex_tiny", [word]), (tmp_path / "run.yaml", [])):
        assert reduce(getattr, path, load_config(file, [*words, *others])) == value


def test_a_dotted_key_in_a_file_is_explained(tmp_path):
    (tmp_path / "run.yaml").write_text("training.steps: 3\n")
    with pytest.raises(UserError, match=r"training\.steps: unknown key; in a file, write steps below training"):
        load_config(tmp_path / "run.yaml")


@pytest.mark.parametrize("name", ["codegeex_13b", "codegeex_base_8"])
def test_a_recipe_of_fp16_runs_in_bf16(name):
    """What it says of its loss scale is not refused."""
    words = ["training.precision=bf16", "parallel.hardware=ascend910b"]
    assert load_config(name, words).training.precision == "bf16"
