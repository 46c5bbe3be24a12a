"""docs/fidelity.md: complete in its form, and its numbers are those of the code and of the configurations."""

import math
import re

import pytest
from conftest import ROOT

from ms_codegeex.cli import build_parser
from ms_codegeex.config.loading import load_config
from ms_codegeex.data.datasets.batches import PackedSequences
from ms_codegeex.data.tokenizer.gpt2 import CodeGeeXTokenizer
from ms_codegeex.extras.cluster.plans.published import published_run
from ms_codegeex.extras.corpus import filters
from ms_codegeex.extras.corpus.options import DEFAULT_NEAR_DUPLICATES
from ms_codegeex.extras.evaluation.benchmarks import humaneval
from ms_codegeex.extras.evaluation.sampling import recipes
from ms_codegeex.extras.evaluation.toolchains.base import ToolChain
from ms_codegeex.extras.evaluation.toolchains.rust import Rust
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.models.codegeex2.config import CodeGeeX2Config
from ms_codegeex.models.codegen.config import CodeGenConfig

PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
MODELS = ("CodeGeeX-13B", "CodeGen", "CodeGeeX2-6B")


def rows(section):
    """{topic: [original, here, reason]} of a section; topics of one name in several groups get the group's name."""
    text, found, group = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0], {}, ""
    for line in text.splitlines():
        if not line.startswith("| ") or line.startswith("| | original"):
            continue
        topic, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        group = topic.strip("*") if topic.startswith("**") else group
        if not topic.startswith("**"):
            assert f"{group}: {topic}" not in found, topic
            found[f"{group}: {topic}"] = cells
    return found


def run(name, *overrides):
    return load_config(ROOT / "configs" / f"{name}.yaml", list(overrides))


@pytest.mark.parametrize("section", [*MODELS, "Evaluation"])
def test_every_difference_has_its_original_its_own_and_its_reason(section):
    found = rows(section)
    assert len(found) > 12
    for topic, cells in found.items():
        assert len(cells) == 3 and all(cells), topic
        assert cells[0] != cells[1], topic


@pytest.mark.parametrize("model", MODELS)
def test_every_model_has_every_kind_of_difference(model):
    groups = {topic.partition(":")[0] for topic in rows(model)}
    assert groups >= {"Architecture", "Tokens and recipe", "Precision", "Data", "Generation"}


def test_the_recipe_of_the_13b():
    found, config, literal = rows("CodeGeeX-13B"), run("codegeex_13b"), run("codegeex_13b_published_steps")
    published, schedule = published_run(config), config.training.schedule
    original, here, reason = found["Tokens and recipe: steps"]
    assert original == f"{published.steps:,}" == f"{literal.steps:,}"
    assert here.startswith(f"{config.steps:,} ") and f"{literal.steps:,}" in here
    assert f"{config.steps * published.step_slots / 1e9:.0f} G tokens" in reason
    assert f"{published.slots / 1e12:.2f} T" in reason and f"{published.slots / published.tokens:.2f} times" in reason
    original, here, reason = found["Tokens and recipe: decay of the rate"]
    assert (original, here) == (f"{literal.training.schedule.decay_steps:,} steps", f"{schedule.decay_steps:,}")
    assert reason.startswith(f"200,000 · {config.steps:,} / 213,000")
    assert schedule.warmup_steps == literal.training.schedule.warmup_steps == 2000
    for cell, steps in zip(found["Tokens and recipe: warm-up"], (published.steps, config.steps), strict=False):
        assert cell == f"{schedule.warmup_steps:,} steps, {100 * schedule.warmup_steps / steps:.1f} % of the run"
    assert f"about {1 - published.filled:.0%} padding".replace("%", " %") in found["Tokens and recipe: packing"][0]
    here = found["Tokens and recipe: tokens of an update"][1]
    assert here == f"{config.training.global_batch:,} sequences, {published.step_slots / 1e6:.2f} M tokens"


def test_what_no_row_names_of_the_13b_is_the_releases():
    """Betas, decay, rate, clip, loss scale, dropout: equal, so the page must not name another number."""
    training = run("codegeex_13b").training
    optimizer, scale = training.optimizer, training.loss_scale
    assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon, optimizer.weight_decay) == (0.9, 0.95, 1e-8, 0.1)
    assert not optimizer.bias_correction and training.clip_norm == 1.0 and training.dropout == 0.1
    assert (scale.initial, scale.window, scale.factor) == (2.0**32, 1000, 2.0)
    assert (training.schedule.learning_rate, training.schedule.end_learning_rate) == (1e-4, 1e-6)
    assert (training.recompute, training.precision, training.global_batch) == ("full", "fp16", 3072)
    assert "dropout 0.1" in PAGE


def test_other_numbers_of_the_13b():
    found, config = rows("CodeGeeX-13B"), run("codegeex_13b")
    assert config.model.sizes.softmax_fp32
    assert found["Tokens and recipe: checkpoints kept"][1] == str(config.checkpoint.keep)
    assert found["Tokens and recipe: sample order"][1].endswith(str(config.seed))
    mesh = f"data {config.mesh.data} x tensor {config.mesh.tensor}, optimizer shards {config.mesh.optimizer_shard}"
    assert found["Tokens and recipe: mesh"][0] == mesh
    assert f"{config.logging.every}" in found["Tokens and recipe: steps per host call"][1]
    tokenizer = CodeGeeXTokenizer()
    here = found["Architecture: dead rows of the table"][1]
    assert f"from {tokenizer.vocab_size:,} to {config.model.sizes.vocab_size - 1:,}" in here
    assert f"2 to {tokenizer.max_len} (`max_len`)" in found["Data: white space tokens"][1]
    rules = filters.preset("codegeex")
    lengths = (rules.min_bytes, rules.max_file_bytes, rules.max_mean_line)
    assert lengths == (1024, 102_400, 100) and rules.min_alphabetic == 0.4
    default = filters.preset("default")
    assert (default.min_bytes, default.max_file_bytes) == (1, 1_000_000) and not default.generated
    assert "1 byte to 1 MB" in found["Data: filters"][1]
    assert f"default corpus {DEFAULT_NEAR_DUPLICATES}" in found["Data: duplicates"][1]
    assert f"{-math.log(1.2e-38):.1f}" in found["Tokens and recipe: cross entropy"][1]


@pytest.mark.parametrize("model", MODELS)
def test_defaults_of_generate(model):
    arguments = build_parser().parse_args(["generate", "--model", "m", "--prompt", "p"])
    assert arguments.temperature == SamplingSettings.temperature
    assert arguments.top_p == SamplingSettings.top_p and arguments.max_new_tokens == SamplingSettings.max_new_tokens
    expected = f"temperature {arguments.temperature}, top-p {arguments.top_p}, {arguments.max_new_tokens} tokens"
    assert rows(model)["Generation: defaults of the command"][1] == expected


def test_the_recipes_of_codegen():
    found, nl = rows("CodeGen"), run("codegen_350m_nl")
    assert (nl.steps, nl.training.global_batch * 2048) == (350_000, 524_288)
    schedule, optimizer = nl.training.schedule, nl.training.optimizer
    assert (schedule.warmup_steps, schedule.decay_steps, schedule.cosine_after_warmup) == (3000, 300_000, True)
    assert (optimizer.beta1, optimizer.beta2, optimizer.bias_correction) == (0.9, 0.999, True)
    assert str(optimizer.weight_decay) in "".join(topic for topic in found if "weight decay" in topic)
    assert not nl.data.reset_at_eos and nl.training.precision == "fp16"
    batch = run("codegen_6b_nl").training.global_batch * 2048
    assert found["Tokens and recipe: batch of 6B"][1] == f"{batch:,} tokens"
    large, mono = run("codegen_16b_nl"), run("codegen_350m_mono").training.schedule
    here = found["Tokens and recipe: 16B NL, and the rate of Mono"][1]
    assert f"{large.training.global_batch * 2048:,} tokens" in here
    assert f"{large.training.schedule.learning_rate}" in here and f"Mono {mono.learning_rate}" in here
    model = CodeGenConfig()
    assert f"other matrices {model.init_std}" in found["Architecture: first values"][1]
    assert model.initial_std("blocks.0.attention.output.weight") == 2 / (20 * math.sqrt(1024))
    assert model.scores_fp32
    rules = filters.preset("codegen")
    assert (rules.max_line, rules.max_digits) == (1000, 0.9)


def test_the_recipe_of_codegeex2():
    found, config = rows("CodeGeeX2-6B"), run("codegeex2_6b")
    here = found["Tokens and recipe: optimizer, rates"][1]
    optimizer = config.training.optimizer
    assert f"{config.training.schedule.learning_rate:.0e}".replace("e-06", "e-6") in here
    assert f"betas {optimizer.beta1} and {optimizer.beta2}, decay {optimizer.weight_decay}" in here
    assert optimizer.bias_correction and f"batch {config.training.global_batch} " in here
    assert found["Tokens and recipe: sequence"][1].startswith(f"{config.seq_length:,} ")
    model = CodeGeeX2Config()
    assert f"{model.max_position_embeddings:,}" == found["Tokens and recipe: sequence"][0]
    assert model.rotary_dtype == "fp32" and str(model.init_std) in found["Tokens and recipe: first values"][1]


def test_loss_behind_end_of_text_does_not_count(tmp_path):
    import numpy as np
    from conftest import EOS, write_dataset

    batch = PackedSequences(write_dataset(tmp_path / "data"), "train", 64, 0).training_batch(0, 8)
    assert ((batch.inputs == EOS) == (batch.loss_mask == 0)).all() and (np.asarray(batch.loss_mask) == 0).any()


def test_the_evaluation_settings():
    found = rows("Evaluation")
    codegeex, codegeex2 = recipes.load("codegeex_humaneval_x"), recipes.load("codegeex2_humaneval_x")
    here = found["HumanEval-X: samples of CodeGeeX-13B"][1]
    assert here == f"n {codegeex.n}, temperature {codegeex.temperature}, top-p {codegeex.top_p}"
    assert codegeex.max_length is None and codegeex.max_new_tokens == 1024
    assert found["HumanEval-X: length of CodeGeeX-13B"][1] == f"{codegeex.max_new_tokens:,} after the prompt"
    original, here, _ = found["HumanEval-X: samples of CodeGeeX2-6B"]
    assert f"n {codegeex2.n}, temperature {codegeex2.temperature}, top-p {codegeex2.top_p}" in original
    assert f"{codegeex2.max_length:,} with the prompt" in original and f"seed {codegeex2.seed} used" in here
    limits = f"{ToolChain.compile_seconds:.0f} s, Rust {Rust.compile_seconds:.0f} s"
    assert found["HumanEval-X: compile limit"][1] == limits
    here = found["HumanEval of CodeGen: run limit"][1]
    assert here.startswith(f"{humaneval.SECONDS:.0f} s, and {humaneval.GRACE:.0f} s more")
    assert found["HumanEval of CodeGen: length"][1] == str(recipes.load("codegen_humaneval_t02").max_new_tokens)
    temperatures = [recipes.load(f"codegen_humaneval_t{x}").temperature for x in ("02", "06", "08")]
    assert ", ".join(map(str, temperatures)) in found["HumanEval of CodeGen: settings"][0]
    ds1000 = recipes.load("codegeex2_ds1000")
    assert found["DS-1000: length"][1] == f"{ds1000.max_length:,} with the prompt"


def test_the_page_is_linked_and_its_links_exist():
    for page in ("README.md", "docs/configuration.md", "docs/evaluation.md", "docs/plan.md"):
        assert "fidelity.md)" in (ROOT / page).read_text(), page
    for name in re.findall(r"`(code\w+\.yaml)`", PAGE):
        assert (ROOT / "configs" / name).exists(), name
