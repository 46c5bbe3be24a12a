"""The README.md of exported directories: what the run recorded, and nothing that a name can smuggle in."""

import json
import math

import numpy as np
import pytest
import small_models
import yaml

from ms_codegeex.base.files import write_json
from ms_codegeex.data.datasets.opening import content_hash
from ms_codegeex.formats.checkpoint import fingerprint
from ms_codegeex.formats.checkpoint_writing import Slice, write_checkpoint
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.peft_writing import write_peft
from ms_codegeex.formats.sources import open_source

pytestmark = pytest.mark.usefixtures("weights_only")

HOSTILE = "a|b <script>alert(1)</script> `x` [y](z)\n---\nlicense: mit"
SUMMARY = {"validation_loss": 1.23456, "unigram_entropy": 6.5, "shuffled_context_loss": None}


def write_dataset(path, languages):
    path.mkdir()
    for name in ("train.bin", "train.idx"):
        (path / name).write_bytes(bytes(64))
    counts = {name: {"documents": 1, "tokens": tokens} for name, tokens in languages.items()}
    splits = {"train": {"tokens": sum(languages.values()), "languages": counts}}
    write_json(path / "dataset.json", {"vocab_size": 12, "eos_id": 10, "splits": splits, "settings": {}})
    return path


def write_run(root, family="codegeex", datasets=(), weights=None, arrays=None, **state):
    arrays = small_models.parameters(family) if arrays is None else arrays
    slices = {name: Slice(array.shape, (0,) * array.ndim, array) for name, array in arrays.items()}
    config = {
        "model": {"family": family, "preset": None, "weights": weights, **small_models.FIELDS[family]},
        "data": {"seq_length": 8},
        "training": {"global_batch": 4, "schedule": {"learning_rate": 3e-4}},
        "lora": {"rank": 0},
        "seed": 12345,
    } | state.pop("config", {})
    hashes = {str(path): content_hash(path) for path in datasets}
    state = {"tokens": 98765, "datasets": hashes, "config": config, **state}
    path = write_checkpoint(root / "checkpoints", 7, slices, state)
    write_json(root / "summary.json", {**SUMMARY, "checkpoint": str(path)})
    (root / "loss.png").write_bytes(b"a plot")
    return root


def card(source, output):
    """The front matter and the rest of the card of a converted model."""
    convert(source, "hf", output, progress=False)
    text = (output / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_a_runs_card_has_its_figures(tmp_path):
    dataset = write_dataset(tmp_path / "my data", {"Python": 1234567, "C++": 7654321, "": 3})
    front, body = card(write_run(tmp_path / "run", datasets=[dataset]), tmp_path / "hf")
    kind = {"library_name": "transformers", "pipeline_tag": "text-generation", "language": ["code"]}
    tags = ["code", "ms-codegeex", "codegeex"]
    assert front == kind | {"tags": tags, "programming_language": ["C++", "Python"]}
    size = sum(array.size for array in small_models.parameters("codegeex").values())
    assert "# run\n" in body and f"{size:,} parameters, trained with ms-codegeex." in body
    for row in (
        "steps | 7",
        "tokens trained on | 98,765",
        "learning rate, highest | 0.0003",
        "seed | 12345",
        "loss, nats per token | 1.2346",
        f"perplexity | {math.exp(1.23456):.2f}",
        "C\\+\\+ | 7,654,321",
        "other | 3",
    ):
        assert f"| {row} |\n" in body
    assert body.index("7,654,321") < body.index("1,234,567")
    assert f"**my data**, content hash {content_hash(dataset)}." in body
    assert "shuffled" not in body and "LoRA" not in body and str(tmp_path) not in body
    assert "![loss curve](loss.png)" in body and (tmp_path / "hf" / "loss.png").read_bytes() == b"a plot"
    assert 'from_pretrained("DIR", trust_remote_code=True)' in body
    assert "at most 8 tokens" in body and f"{98765 / size:.2g} tokens for each parameter" in body


def test_a_warm_up_that_follows_from_the_length_is_named(tmp_path):
    _, body = card(write_run(tmp_path / "run", schedule={"steps": 60, "transition": None}), tmp_path / "hf")
    assert "| warm-up steps | 6 |" in body


def test_the_same_run_gives_the_same_card(tmp_path):
    run = write_run(tmp_path / "run", datasets=[write_dataset(tmp_path / "data", {"Go": 1})])
    assert card(run, tmp_path / "a") == card(run, tmp_path / "b")


def test_data_that_changed_since_and_figures_of_another_checkpoint_are_left_out(tmp_path):
    dataset = write_dataset(tmp_path / "data", {"Python": 1234567})
    run = write_run(tmp_path / "run", datasets=[dataset])
    (dataset / "train.bin").write_bytes(b"other")
    write_json(run / "summary.json", {**SUMMARY, "checkpoint": "step-00000099"})
    front, body = card(run, tmp_path / "hf")
    assert "programming_language" not in front and "1,234,567" not in body and "**data**, content hash" in body
    assert "## Evaluation" not in body


def test_names_cannot_change_the_card(tmp_path):
    hostile = HOSTILE.replace("/", ":")  # a file name may hold all of it
    dataset = write_dataset(tmp_path / hostile, {HOSTILE: 5})
    run = write_run(tmp_path / f"{hostile}!", datasets=[dataset], weights=str(tmp_path / hostile))
    front, body = card(run, tmp_path / "hf")
    assert front["programming_language"] == [HOSTILE.replace("\n", "\\n")]
    assert not {"license", "base_model"} & front.keys()
    assert body.count("a\\|b \\<script\\>") == 5  # title, first sentence, start, data, language
    assert "\nlicense" not in body and "<script" not in body.replace("\\<script", "") and "[y]" not in body


def test_settings_of_another_kind_are_shown_or_left_out(tmp_path):
    dataset = write_dataset(tmp_path / "data", {})
    described = json.loads((dataset / "dataset.json").read_text())
    write_json(dataset / "dataset.json", described | {"splits": [3], "settings": 4, "files": None})
    run = write_run(tmp_path / "run", datasets=[dataset], tokenizer=[5], tokens="many", config={"seed": None})
    _, body = card(run, tmp_path / "hf")
    assert "**data**" in body and "seed" not in body and "many" not in body


def test_adapters_and_merged_models_name_their_base(tmp_path):
    base = small_models.save_run(tmp_path / "my-base", "codegen", small_models.parameters("codegen"))
    source = open_source(base)
    shapes = source.config.adapter_shapes(["attention"], 2)
    run = write_run(
        tmp_path / "tuned",
        "codegen",
        weights=str(source.path),
        arrays={name: np.ones(shape, np.float32) for name, shape in shapes.items()},
        base=fingerprint(source.tensors),
        config={"lora": {"rank": 2, "alpha": 6.0, "targets": ["attention"]}},
    )
    front, body = card(run, tmp_path / "merged")
    assert front["base_model"] == "my-base" and front["library_name"] == "transformers"
    assert "from the weights of my-base." in body
    assert "| LoRA rank | 2 |" in body and "trust_remote_code" not in body and "for each parameter" not in body
    write_peft(open_source(run), tmp_path / "adapter")
    _, front, body = (tmp_path / "adapter" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "peft" and yaml.safe_load(front)["base_model"] == "my-base"
    assert 'PeftModel.from_pretrained(base, "DIR")' in body and "| steps | 7 |" in body


def test_a_conversion_without_a_run_has_a_short_card_and_the_users_card_stays(tmp_path):
    run = small_models.save_run(tmp_path / "run", "codegeex2", small_models.parameters("codegeex2"))
    convert(run, "megatron", tmp_path / "released.pt", progress=False)
    front, body = card(open_source(tmp_path / "released.pt", small_models.FIELDS["codegeex2"]), tmp_path / "hf")
    assert front["tags"] == ["code", "ms-codegeex", "codegeex2"] and "# released\n" in body
    assert "converted with ms-codegeex. How it was trained is not recorded." in body and "## Training" not in body
    assert "Copy configuration_chatglm.py and modeling_chatglm.py of the release into it first." in body
    (tmp_path / "hf" / "README.md").write_text("my card")
    convert(tmp_path / "hf", "hf", tmp_path / "again", progress=False)
    assert (tmp_path / "again" / "README.md").read_text() == "my card"
