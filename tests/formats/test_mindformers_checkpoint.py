"""Checkpoints in mindformers' newer layout: files of ranks, joined as `metadata.json` says."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor, save_checkpoint
from safetensors.numpy import load_file, save_file
from small_models import FAMILIES, FIELDS, parameters, two_ranks

from ms_codegeex.base.errors import UserError
from ms_codegeex.formats.sources import open_source


def opened(path: Path, fields: dict) -> tuple[str, dict[str, np.ndarray], str]:
    said: list[str] = []
    source = open_source(path, fields, say=said.append)
    return source.family.name, {name: tensor.array() for name, tensor in source.tensors.items()}, "\n".join(said)


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return found.keys() == expected.keys() and all(np.array_equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_parts_of_two_ranks_are_joined_and_the_optimizers_files_are_named(tmp_path, name):
    fields, tensors = FIELDS[name], parameters(name)
    described = two_ranks(tmp_path / "iteration_00000012", tensors)
    (tmp_path / "iteration_00000012/metadata.json").write_text(json.dumps(described))
    two_ranks(tmp_path / "iteration_00000007", tensors)
    for tracked in (False, True):  # without the small file, the newest
        if tracked:
            (tmp_path / "latest_checkpointed_iteration.txt").write_text("12")
        found, read, said = opened(tmp_path, fields)
        assert found == name and same(read, tensors)
        files = "opt-0000000-0000002.safetensors, opt-0000001-0000002.safetensors"
        assert f"left out, state of a training run (2): {files}; training from here begins with a new optimizer" in said
        assert "passed over: iteration_00000007" in said


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_older_layout_has_our_names_and_the_optimizers_moments(tmp_path, name, suffix, ranks):
    """`rank_R/NAME_rank_R-EPOCH_STEP`, which MindSpore writes; each rank of a data-parallel run has the whole model."""
    tensors = parameters(name)
    stored = {**tensors, **{f"adam_m.{key}": value for key, value in tensors.items()}, "global_step": np.int32([7])}
    stored |= {f"exp_avg_sq_row_{key}": value[0] for key, value in tensors.items() if value.ndim > 1}  # of AdaFactor
    for rank in range(ranks):
        path = tmp_path / f"rank_{rank}/mine_rank_{rank}-1_10{suffix}"
        path.parent.mkdir()
        save(path, stored)
    found, read, said = opened(tmp_path, FIELDS[name])
    assert found == name and same(read, tensors)
    assert ("2 files of ranks, each with the whole model" in said) == (ranks == 2)
    if ranks == 2:
        save(path, {**stored, [*tensors][-1]: [*tensors.values()][-1] + 1})
        with pytest.raises(UserError, match=r"differs from that in .*rank_0"):
            opened(tmp_path, FIELDS[name])


RANK_1 = "model-0000001-0000002.safetensors"
NAME = "blocks.1.feed_forward.up.weight"
PLACE = str((NAME, (0, 0)))
WRONG = {  # a change of the description of one tensor, of all, or of the folder
    "a part is missing": (lambda tensor, *_: tensor["chunk"].pop(), "is held 0 times, not once"),
    "a part twice": (lambda tensor, *_: tensor["chunk"].append(tensor["chunk"][0]), "is held 2 times"),
    "another shape": (lambda tensor, *_: tensor["chunk"][1]["local_shape"].append(1), "metadata.json says"),
    "too many": (lambda tensor, *_: tensor.update(chunk=tensor["chunk"] * 3000), "at most 4096 are joined"),
    "texts": (lambda tensor, *_: tensor.update(chunk="abc"), "not mindformers' description"),
    "not named": (lambda _, all_, *__: all_["state_dict_metadata"].pop(NAME), "which metadata.json does not name"),
    "no place": (lambda _, all_, *__: all_["storage_data"].clear(), "not mindformers' description"),
    "no places": (lambda _, all_, *__: all_.pop("storage_data"), "not mindformers' description"),
    "elsewhere": (lambda _, all_, *__: all_["storage_data"].update({PLACE: [{"file_name": "../x"}]}), "has no part of"),
    "one part for two": (
        lambda _, all_, __: all_["storage_data"].update({str((NAME, (20, 0))): all_["storage_data"][PLACE]}),
        "model-0000000-0000002.safetensors: has no part of .*20, 0",
    ),
    "no file": (lambda _, __, folder: (folder / "model-0000001-0000002.safetensors").unlink(), "has no part of"),
    "nothing": (lambda _, all_, *__: all_.clear(), "metadata.json: no such file"),
}


@pytest.mark.parametrize("change, text", WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_named(tmp_path, change, text):
    fields, tensors = FIELDS["codegen"], parameters("codegen")
    described = two_ranks(tmp_path / "iteration_00000012", tensors)
    change(described["state_dict_metadata"][NAME], described, tmp_path / "iteration_00000012")
    if described:
        (tmp_path / "iteration_00000012/metadata.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=text):
        opened(tmp_path, fields)


def test_a_part_with_another_checksum_is_damaged(tmp_path):
    described, path = two_ranks(tmp_path / "saved", parameters("codegen")), tmp_path / "saved" / RANK_1
    (tmp_path / "saved/metadata.json").write_text(json.dumps(described))
    save(path, load_file(path), crc_check=True)
    opened(tmp_path, FIELDS["codegen"])
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=f"{RANK_1}: damaged, or edited in place"):
        opened(tmp_path, FIELDS["codegen"])


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_what_mindformers_writes(tmp_path, ranks):
    pytest.importorskip("mindformers")
    fields, tensors = FIELDS["codegeex"], parameters("codegeex")
    save_file(tensors, tmp_path / "tensors.safetensors")
    script = Path(__file__).with_name("mindformers_checkpoint.py")
    words = [sys.executable, script, tmp_path / "tensors.safetensors", tmp_path / "saved", str(ranks)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, read, _ = opened(tmp_path / "saved", fields)
    assert found == "codegeex" and same(read, tensors)


LAYER = "blocks.1.attention.query"


def with_adapters(folder: Path, suffix: str = ".ckpt", rank: int = 3, alpha: float = 6) -> tuple[Path, dict, dict]:
    """A checkpoint of a run of mindformers with mindpet's adapter on a layer; its tensors, and what they are merged."""
    tensors, random = parameters("codegen"), np.random.default_rng(5)
    weight = tensors[f"{LAYER}.weight"]
    a, b = random.standard_normal((rank, weight.shape[1])), random.standard_normal((weight.shape[0], rank))
    kinds = "ab" if suffix == ".ckpt" else "AB"  # mindpet's attributes and its parameters differ
    named = zip(kinds, (a.astype("f4"), b.astype("f4")), strict=True)
    factors = {f"{LAYER}.mindpet_delta_lora_{kind}": each for kind, each in named}
    (folder / "checkpoint/rank_0").mkdir(parents=True)
    path = folder / f"checkpoint/rank_0/mine_rank_0-1_10{suffix}"
    save(path, {**tensors, **factors, **{f"adam_m.{name}": value for name, value in factors.items()}})
    return path, {**tensors, **factors}, {**tensors, f"{LAYER}.weight": weight + alpha / rank * b @ a}


def save(path: Path, tensors: dict[str, np.ndarray], **options: bool) -> None:
    entries = [{"name": name, "data": Tensor(value)} for name, value in tensors.items()]
    save_checkpoint(entries, str(path), format=path.suffix[1:], **options)


RUN_YAML = "model:\n  model_config:\n    pet_config: {pet_type: lora, lora_rank: 3, lora_alpha: 6}\n"
RECORDS = {  # where alpha is: a file of the run's folder, or `--set`
    "mindformers' own": {"adapter_config.json": '{"peft_type": "LORA", "r": 3, "lora_alpha": 6}'},
    "a YAML file": {"run_common.yaml": RUN_YAML, "other.yaml": "model: 3", "not.yaml": "{"},
    "beside": {"checkpoint/rank_0/finetune.yml": RUN_YAML, "run.yaml": RUN_YAML.replace("6", "7")},
    "given": {},
}


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("records", RECORDS.values(), ids=RECORDS)
def test_adapters_of_mindformers_are_merged_with_the_alpha_of_their_run(tmp_path, records, suffix):
    path, _, expected = with_adapters(tmp_path, suffix)
    for name, text in records.items():
        (tmp_path / name).write_text(text)
    given = {} if records else {"lora_alpha": 6}
    for place in (path, tmp_path):
        found, read, said = opened(place, {**FIELDS["codegen"], **given})
        assert found == "codegen" and read.keys() == expected.keys()
        assert "adapters of rank 3 and alpha 6 are merged" in said
        for name, value in expected.items():
            np.testing.assert_allclose(read[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


UNMERGED = {  # changes of the stored tensors, of the run's folder and of what is given, and the error
    "no alpha": ({}, {}, {}, r"alpha is in no file near it; .*--set lora_alpha=N --tokenizer"),
    "two": ({}, {"a.yaml": RUN_YAML, "b.yaml": RUN_YAML.replace("6", "7")}, {}, "in no file near it"),
    "a word": ({}, {"a.yaml": RUN_YAML.replace("6", "six")}, {}, "their alpha is six"),
    "another rank": ({}, {"a.yaml": RUN_YAML.replace("3", "4")}, {}, "records adapters of rank 4, .* has rank 3"),
    "no scale": ({}, {}, {"lora_alpha": 0}, "alpha / rank is 0"),
    "no rows": ({"a": np.zeros((0, 64), "f4")}, {}, {"lora_alpha": 6}, "of ranks"),
    "half": ({"b": None}, {}, {"lora_alpha": 6}, "does not fit"),
    "another shape": ({"b": np.zeros((5, 3), "f4")}, {}, {"lora_alpha": 6}, "does not fit"),
}


@pytest.mark.parametrize("changes, records, given, message", UNMERGED.values(), ids=UNMERGED)
def test_adapters_that_cannot_be_merged_are_named(tmp_path, changes, records, given, message):
    path, tensors, _ = with_adapters(tmp_path)
    for name, text in records.items():
        (tmp_path / name).write_text(text)
    tensors |= {f"{LAYER}.mindpet_delta_lora_{kind}": value for kind, value in changes.items()}
    save(path, {name: value for name, value in tensors.items() if value is not None})
    with pytest.raises(UserError, match=message):
        opened(path, {**FIELDS["codegen"], **given})


def test_what_is_no_record_of_adapters_is_passed_over(tmp_path):
    """Files of other programs, and hostile ones, beside the one that counts."""
    path, _, expected = with_adapters(tmp_path)
    (tmp_path / "a.yaml").symlink_to("/etc/hostname")
    (tmp_path / "b.yaml").mkdir()
    others = ("x" * (2 << 20), "- 1", "a: &a [1]\nb: &b [*a, *a]\n" * 9, RUN_YAML.replace("6", "[6]"))
    for number, text in enumerate((*others, "model: {model_config: {pet_config: lora}}", RUN_YAML)):
        (tmp_path / f"{number}.yaml").write_text(text)
    _, read, _ = opened(path, FIELDS["codegen"])
    np.testing.assert_allclose(read[f"{LAYER}.weight"], expected[f"{LAYER}.weight"], rtol=1e-5, atol=1e-5)


def test_adapters_alone_and_an_alpha_without_adapters(tmp_path):
    path, tensors, _ = with_adapters(tmp_path)
    save(path, {name: value for name, value in tensors.items() if "mindpet" in name})
    with pytest.raises(UserError, match="holds adapters of mindformers twice, or without their model; give a"):
        opened(path, {**FIELDS["codegen"], "lora_alpha": 6})
    save(path, parameters("codegen"))
    with pytest.raises(UserError, match=r"--set lora_alpha: .* holds no adapters of mindformers; leave it out"):
        opened(path, {**FIELDS["codegen"], "lora_alpha": 6})
